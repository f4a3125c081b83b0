// An OpenCL program against a worker that knows the protocol and means harm: it accepts the session, then
// answers commands rightly, wrongly, twice, late or not at all, says things unasked, and hangs up. Whatever
// it does, the program must come to its end: no crash, no hang, no write where the program did not ask for
// one.
//
// Every input is a process (the shim lives as long as its process does), so the input is only the seed of
// what the worker does; libFuzzer's coverage does not see into the children.
#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "fuzz/client/program.h"
#include "fuzz/target.h"
#include "tests/wire/random_message.h"
#include "tulle/gpu/null/null_device.h"
#include "tulle/net/tcp/socket.h"
#include "tulle/net/wait.h"
#include "tulle/session/attach.h"
#include "tulle/session/frame_io.h"
#include "tulle/session/link.h"
#include "tulle/session/secure.h"
#include "tulle/shim/opencl/api.h"
#include "tulle/wire/command_table.h"

// There where coverage is measured, which _exit would lose.
extern "C" [[gnu::weak]] void __gcov_dump();

namespace {

using namespace tulle;

constexpr Duration kHandshakeLimit = std::chrono::seconds(60);
constexpr Duration kWorkerLife =
    std::chrono::milliseconds(100);  // then it hangs up: a program may be waiting for ever
// No program of this size sleeps, or computes, for so long. On a busy machine it may wait for a processor for
// longer.
constexpr Duration kSleepLimit = std::chrono::seconds(20);
constexpr Duration kComputeLimit = std::chrono::seconds(20);

// --- the worker ---

class HostileWorker final : public session::FrameSink {
 public:
  HostileWorker(net::Transport& transport, Random& random)
      : transport_(transport), random_(random), maker_(random), malice_(random.Below(24)) {}

  void Run() {
    const Instant deadline = net::Now() + kWorkerLife;
    (void)session::ReadUntilSatisfied(transport_, reader_, *this, deadline);
    transport_.Shutdown();
  }

  bool WantsMore() const override { return !done_; }
  Status OnHeader(const wire::FrameHeader&) override { return OkStatus(); }
  Result<MutableByteView> OnPayload(const wire::FrameHeader&, ByteView) override { return MutableByteView(); }

  Status OnFrame(const wire::FrameHeader& header, ByteView body, MutableByteView) override {
    wire::WithRow(wire::kCommands, header.opcode, [&](const auto& row) { Answer(row, header, body); });
    Acknowledge(header.sequence);
    if (Evil(20)) {
      const auto& info = wire::kRowInfos[random_.Below(wire::kRowInfos.size())];
      wire::WithRow(wire::kCommands, info.opcode, [&](const auto& row) {
        using M = typename std::remove_cvref_t<decltype(row)>::Command;
        Send(info.opcode, random_.Below(4) == 0 ? header.sequence : 0, maker_.Make<M>());
      });
    }
    if (Evil(60)) {
      ByteVector garbage(random_.Below(400));
      random_.Fill(garbage);
      output_.Append(garbage);
    }
    if (Evil(60)) done_ = true;
    (void)session::WriteAll(transport_, output_.data(), net::Now() + kHandshakeLimit);
    output_.Consume(output_.size());
    return OkStatus();
  }

 private:
  // True once in about `rarity` times in the worst of workers, never in the best.
  bool Evil(std::uint64_t rarity) { return malice_ != 0 && random_.Below(rarity * 24) < malice_; }

  template <typename Row>
  void Answer(const Row& row, const wire::FrameHeader& header, ByteView body) {
    using M = typename Row::Command;
    using R = typename Row::Reply;
    if constexpr (std::same_as<M, wire::Goodbye>) done_ = true;
    if constexpr (std::same_as<M, wire::Hello>) {
      wire::HelloReply reply{{wire::HelloStatus::kAccepted}, wire::kWireVersion, wire::OpenClCapabilities(),
                             wire::kMaxWindowBytes,          1u << 30,           {}};
      if (Evil(4)) reply = maker_.Make<wire::HelloReply>();
      reply.resume_ms %= 100;  // for which the program looks for another connection
      return Send(header.opcode, header.sequence, reply);
    }
    if constexpr (std::same_as<M, wire::opencl::DescribeDevice>) {
      // What the program then uses is what the device says that it has.
      if (!Evil(6)) return Send(header.opcode, header.sequence, DescribeNullDevice());
    }
    wire::Arena arena;
    M command{};
    if (wire::Decode(body, header.payload_bytes, arena, &command) != wire::WireResult::kOk) return;
    CompleteEvents(command);
    if (row.mode == wire::Mode::kReply || (header.flags & wire::kWantStatus) != 0) {
      if (Evil(10)) return;  // never answered
      R reply = maker_.Make<R>();
      if (!Evil(3)) Tame(reply, wire::WantedPayload(command));
      Send(header.opcode, Evil(10) ? random_.Below(100) : header.sequence, reply);
      if (Evil(10)) Send(header.opcode, header.sequence, reply);
    }
  }

  template <wire::Message M>
  void CompleteEvents(const M& command) {
    M::ForEachField(command, [&](std::string_view, const auto& field) {
      if constexpr (std::same_as<std::remove_cvref_t<decltype(field)>, wire::NewEvent>) {
        if (field.handle.null() || Evil(10)) return;
        std::vector<wire::opencl::EventCompletion> events(1 + random_.Below(2));
        for (auto& event : events)
          event = {field.handle, Evil(4) ? -static_cast<wire::I32>(random_.Below(100)) : 0, 1, 2, 3, 4};
        if (Evil(4)) events[0].event.slot = static_cast<wire::U32>(random_.Next());
        if (!Evil(4)) events.resize(1);
        Send(wire::kOpcodeOf<wire::opencl::EventsCompleted>, 0, wire::opencl::EventsCompleted{{events}});
      }
    });
  }

  static const wire::opencl::DescribeDeviceReply& DescribeNullDevice() {
    static const ByteVector body = gpu::null::EncodeDeviceInfos({});
    static wire::Arena arena;
    static const auto reply = [] {
      wire::opencl::DescribeDeviceReply decoded;
      fuzz::Require(wire::Decode(body, 0, arena, &decoded) == wire::WireResult::kOk,
                    "the infos do not decode");
      return decoded;
    }();
    return reply;
  }

  // What lets the program go on.
  template <wire::Message M>
  void Tame(M& reply, std::uint64_t wanted) {
    M::ForEachField(reply, [&](std::string_view name, auto& field) {
      using T = std::remove_cvref_t<decltype(field)>;
      if constexpr (std::same_as<T, wire::I32>) field = 0;
      if constexpr (wire::internal::IsPayload<T>::value) field.size_bytes = wanted;
      if constexpr (std::same_as<T, wire::U64>) {
        if (name == "granted_bytes") field = 64u << 20;
        if (name == "binary_bytes") field %= 1u << 16;
      }
      if constexpr (wire::internal::IsList<T>::value) {
        if constexpr (std::same_as<typename T::Element, wire::opencl::ImageFormat>) {
          static constexpr std::array kFormats = {
              wire::opencl::ImageFormat{wire::opencl::kOrderRgba, wire::opencl::kUnsignedInt8}};
          field.items = kFormats;
        }
        if constexpr (std::same_as<typename T::Element, wire::opencl::KernelInfo>) {
          kernel_ = {};
          kernel_.name = {"k"};
          kernel_.arg_count = 2;
          kernel_.work_group_size = 64;
          for (auto& arg : args_) {
            arg = {.address_qualifier =
                       static_cast<wire::U32>(0x119b + random_.Below(4))};  // CL_KERNEL_ARG_ADDRESS_...
            arg.type_name = {random_.Below(4) == 0 ? "sampler_t" : "int"};
          }
          if (random_.Below(2) == 0) kernel_.args.items = args_;
          if (random_.Below(4) != 0) field.items = {&kernel_, 1};
        }
      }
    });
  }

  template <wire::Message M>
  void Send(std::uint16_t opcode, std::uint64_t answers, const M& message) {
    wire::FrameHeader header;
    header.opcode = opcode;
    header.answers = answers;
    header.sequence = Evil(40) ? random_.Below(100) : ++sequence_;
    header.body_bytes = static_cast<std::uint32_t>(wire::EncodedSize(message));
    header.payload_bytes = std::min<std::uint64_t>(wire::AnnouncedPayload(message), wire::kMaxPayloadBytes);
    const std::uint64_t sent_payload = header.payload_bytes;
    if (Evil(10)) header.payload_bytes = random_.Below(8192);
    wire::Encode(message, session::AppendFrame(output_, header));
    output_.Append(static_cast<std::size_t>(Evil(10) ? sent_payload / 2 : sent_payload));
  }

  void Acknowledge(std::uint64_t sequence) {
    Send(wire::kOpcodeOf<wire::Ack>, 0,
         Evil(10) ? wire::Ack{random_.Next(), random_.Next()} : wire::Ack{sequence, sequence});
  }

  net::Transport& transport_;
  Random& random_;
  session::FrameReader reader_;
  session::ByteQueue output_;
  wire::testing::MessageMaker maker_;
  const std::uint64_t malice_;
  std::uint64_t sequence_ = 0;
  wire::opencl::KernelInfo kernel_;
  std::array<wire::opencl::KernelArgInfo, 2> args_;
  bool done_ = false;
};

struct Listening {
  UniqueFd socket;
  std::string attach_path;
};

// One listener and one attach file serve all inputs of this process.
const Listening& Listener() {
  static const Listening listening = [] {
    Listening made;
    auto listener = net::ListenTcp("127.0.0.1", 0);
    fuzz::Require(listener.ok(), "cannot listen on 127.0.0.1");
    session::Target target{.vgpu = "vgpu-1",
                           .grant = "grant-1",
                           .endpoints = {"127.0.0.1:" + std::to_string(listener->port)},
                           .tls = false};
    made.attach_path =
        std::filesystem::temp_directory_path() / ("tulle-fuzz-client-" + std::to_string(getpid()));
    std::filesystem::remove(made.attach_path);
    fuzz::Require(session::WriteAttachFile(made.attach_path, {target}).ok(), "cannot write the attach file");
    static std::string to_remove = made.attach_path;
    std::atexit([] { std::filesystem::remove(to_remove); });
    made.socket = std::move(listener->socket);
    return made;
  }();
  return listening;
}

Duration ProcessorTime(pid_t process) {
  clockid_t clock{};
  timespec used{};
  fuzz::Require(clock_getcpuclockid(process, &clock) == 0 && clock_gettime(clock, &used) == 0,
                "cannot ask for a processor time");
  return std::chrono::seconds(used.tv_sec) + std::chrono::nanoseconds(used.tv_nsec);
}

// Whether the program comes to its end.
bool Ends(pid_t program) {
  UniqueFd ended(static_cast<int>(syscall(SYS_pidfd_open, program, 0)));
  Duration used{-1};
  while (net::WaitFor(ended.get(), POLLIN, net::Now() + kSleepLimit) == 0) {
    const Duration before = std::exchange(used, ProcessorTime(program));
    if (used == before || used > kComputeLimit) return false;
  }
  return true;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::uint64_t seed = 0;
  if (size < sizeof seed) return 0;
  std::memcpy(&seed, data, sizeof seed);
  const Listening& listening = Listener();
  // What the program before has left: attempts at another connection.
  while (UniqueFd(accept4(listening.socket.get(), nullptr, nullptr, SOCK_CLOEXEC)).valid()) {
  }

  const pid_t program = fork();
  fuzz::Require(program >= 0, "cannot fork");
  if (program == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setenv(session::kAttachEnv, listening.attach_path.c_str(), 1);
    SeededRandom random(seed ^ 1);
    fuzz::RunProgram(random);
    if (__gcov_dump != nullptr) __gcov_dump();
    _exit(0);
  }
  if (net::WaitFor(listening.socket.get(), POLLIN, net::Now() + kHandshakeLimit) != 0) {
    UniqueFd socket(accept4(listening.socket.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    const auto key = [](const std::string&, const std::string&) -> Result<session::GrantKey> {
      return session::GrantKey{};
    };
    auto peer = session::SecureServer(std::move(socket), true, key, net::Now() + kHandshakeLimit);
    // A program that gets no processor for long gives up; the others do not.
    static bool has_succeeded = false;
    has_succeeded = has_succeeded || peer.ok();
    fuzz::Require(has_succeeded, "the program did not finish the handshake");
    SeededRandom random(seed);
    if (peer.ok()) {
      const auto link = session::Link::Make(std::move(peer->transport), /*from_client=*/true);
      if (link.ok()) HostileWorker(**link, random).Run();
    }
  }
  const bool hangs = !Ends(program);
  if (hangs) kill(program, SIGABRT);
  int result = 0;
  waitpid(program, &result, 0);
  if (hangs || result != 0)
    std::fprintf(stderr, "worker's seed: %llu\n", static_cast<unsigned long long>(seed));
  fuzz::Require(!hangs, "the program hangs");
  fuzz::Require(result == 0, "the program crashed");
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t, std::size_t max_size,
                                               unsigned seed) {
  SeededRandom random(seed);
  const std::uint64_t value = random.Next();
  if (max_size < sizeof value) return 0;
  std::memcpy(data, &value, sizeof value);
  return sizeof value;
}
