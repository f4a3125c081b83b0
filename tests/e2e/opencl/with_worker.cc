// with_worker --icd LIBRARY|--cuda FOLDER [options] -- COMMAND...
//
// Runs a command whose OpenCL, or CUDA, is one vGPU of a worker in this process, reached through the shim,
// TLS and all of the session; without node, controller, executor process or sandbox. Its exit status is the
// command's. For tests and for work on the shims.
//
//   --icd LIBRARY           the shim of OpenCL
//   --cuda FOLDER           where the libcuda.so.1 is that is the shim; the device is the software one
//   --backend opencl|null   of OpenCL: the native device (default) or the device that is only memory
//   --memory BYTES          of the vGPU (default 1GiB)
//   --spill BYTES           that programs may have beyond it; another takes all of the vGPU's memory again
//   and
//                           again, so that what is not in use is soon elsewhere
//   --devices N             that many vGPUs, of the same device
//   --plain                 plain TCP instead of TLS
//   --local                 the socket and the memory of this host instead of TCP
//   --delay US              what crosses the network takes so many microseconds longer, each way
//   --rate MBIT             the network carries so many megabits a second, each way
//   --kill-after N          ends each session as if the device were lost, once it has had N commands
//   --cut-within BYTES      cuts each connection after its handshake and up to so many bytes
//   --cuts N                fails unless connections were cut N times in all
//   --seed N                of the cuts (default: drawn, and told)
#include <poll.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <list>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "tulle/base/random.h"
#include "tulle/gpu/cuda/driver.h"
#include "tulle/gpu/null/driver.h"
#include "tulle/gpu/opencl/driver.h"
#include "tulle/gpu/softcuda/soft_device.h"
#include "tulle/net/local/local.h"
#include "tulle/net/tcp/socket.h"
#include "tulle/net/testing/relay.h"
#include "tulle/session/attach.h"
#include "tulle/shim/cuda/driver.h"
#include "tulle/worker/exec/session.h"
#include "tulle/worker/exports/local_exports.h"
#include "tulle/worker/local/local.h"

extern char** environ;

namespace tulle {
namespace {

struct Arguments {
  std::string icd;
  std::string cuda;
  std::string backend = "opencl";
  std::uint64_t memory_bytes = 1u << 30;
  std::uint64_t spill_bytes = 0;
  std::uint64_t devices = 1;
  std::uint64_t kill_after = 0;
  std::uint64_t cut_within_bytes = 0;
  std::uint64_t least_cuts = 0;
  std::uint64_t delay_us = 0;
  std::uint64_t rate_mbit = 0;
  std::uint64_t seed = SecureRandom().Below(1'000'000'000);
  bool plain = false;
  bool local = false;
  std::vector<char*> command;
};

// More than a handshake takes: a program is told when its first connection is lost before it was attached.
constexpr std::uint64_t kHandshakeBytes = 4096;

[[noreturn]] void Usage(const char* why) {
  std::fprintf(stderr,
               "with_worker: %s\nusage: with_worker --icd LIBRARY|--cuda FOLDER [--backend opencl|null] "
               "[--memory BYTES] [--spill BYTES] "
               "[--devices N] [--plain|--local] [--delay US] [--rate MBIT] [--kill-after N] [--cut-within "
               "BYTES [--cuts N] "
               "[--seed N]] "
               "-- COMMAND...\n",
               why);
  std::exit(2);
}

Arguments Parse(int argc, char** argv) {
  Arguments arguments;
  for (int i = 1; i < argc; ++i) {
    const std::string_view name = argv[i];
    if (name == "--") {
      arguments.command.assign(argv + i + 1, argv + argc);
      break;
    }
    if (name == "--plain") {
      arguments.plain = true;
      continue;
    }
    if (name == "--local") {
      arguments.local = true;
      continue;
    }
    if (++i == argc) Usage("a value is missing");
    const std::string value = argv[i];
    if (name == "--icd")
      arguments.icd = value;
    else if (name == "--cuda")
      arguments.cuda = value;
    else if (name == "--backend")
      arguments.backend = value;
    else if (name == "--memory") {
      if (!ParseSize(value, &arguments.memory_bytes)) Usage("not a size");
    } else if (name == "--spill") {
      if (!ParseSize(value, &arguments.spill_bytes)) Usage("not a size");
    } else if (name == "--devices")
      arguments.devices = std::stoull(value);
    else if (name == "--kill-after")
      arguments.kill_after = std::stoull(value);
    else if (name == "--cut-within")
      arguments.cut_within_bytes = std::stoull(value);
    else if (name == "--cuts")
      arguments.least_cuts = std::stoull(value);
    else if (name == "--delay")
      arguments.delay_us = std::stoull(value);
    else if (name == "--rate")
      arguments.rate_mbit = std::stoull(value);
    else if (name == "--seed")
      arguments.seed = std::stoull(value);
    else
      Usage("unknown option");
  }
  if (arguments.icd.empty() == arguments.cuda.empty() || arguments.command.empty())
    Usage("--icd or --cuda, and a command are needed");
  arguments.command.push_back(nullptr);
  return arguments;
}

template <typename T>
T Must(Result<T> result) {
  if (!result.ok()) {
    std::fprintf(stderr, "with_worker: %s\n", ToString(result.error()).c_str());
    std::exit(2);
  }
  return std::move(result).value();
}

// The software device, of which each session has contexts of its own.
class CudaDriver final : public gpu::Driver {
 public:
  Result<std::vector<gpu::DeviceInfo>> Probe(bool) override { return std::vector<gpu::DeviceInfo>(); }
  Result<std::unique_ptr<gpu::Backend>> OpenDevice(std::uint32_t, gpu::Completions* completions) override {
    TULLE_ASSIGN_OR_RETURN(const gpu::cuda::Library library, gpu::cuda::LinkedLibrary());
    return gpu::cuda::OpenBackend(library, "", completions);
  }
  Result<std::unique_ptr<gpu::Compiler>> OpenCompiler(std::uint32_t) override {
    return Error{Code::kUnimplemented, "CUDA's programs come compiled"};
  }
};

// One vGPU: every connection is a session of its own on a thread of its own.
class VGpu {
 public:
  VGpu(gpu::Driver* driver, const Arguments& arguments, session::Target target, const std::string& folder)
      : arguments_(arguments),
        target_(std::move(target)),
        quota_(arguments.memory_bytes + arguments.spill_bytes),
        slots_(2) {
    worker::local::Options options;
    options.memory_bytes =
        2 * (arguments.memory_bytes + arguments.spill_bytes);  // holes between buffers cost nothing
    if (arguments.spill_bytes != 0) {
      SecureRandom random;
      spill_.emplace(arguments.memory_bytes, arguments.spill_bytes / 4,
                     UniqueFd(memfd_create("spill", MFD_CLOEXEC)), arguments.spill_bytes, random);
      std::thread([this] { Squeeze(); }).detach();
    }
    executors_ = worker::local::MakeExecutors(driver, options);
    builder_ = worker::local::MakeBuilder(driver, 0);
    if (arguments.local) {
      const net::LocalEndpoint endpoint{net::BootId(), geteuid(), folder + "/" + target_.vgpu};
      listener_.socket = Must(net::ListenLocal(endpoint.path));
      target_.endpoints = {net::FormatLocalEndpoint(endpoint)};
      std::thread([this] { Listen(); }).detach();
      return;
    }
    listener_ = Must(net::ListenTcp("127.0.0.1", 0));
    std::uint16_t port = listener_.port;
    if (arguments.cut_within_bytes != 0 || arguments.delay_us != 0 || arguments.rate_mbit != 0) {
      relay_ = Must(net::Relay::Start({.target = {"127.0.0.1", port},
                                       .seed = arguments.seed,
                                       .cut_within_bytes = arguments.cut_within_bytes,
                                       .spared_bytes = kHandshakeBytes,
                                       .delay = std::chrono::microseconds(arguments.delay_us),
                                       .bytes_per_s = arguments.rate_mbit * 1'000'000 / 8}));
      port = relay_->port();
    }
    target_.endpoints = {"127.0.0.1:" + std::to_string(port)};
    std::thread([this] { Listen(); }).detach();
  }
  std::uint64_t brought_back_bytes() const { return spill_.has_value() ? spill_->restored_bytes.load() : 0; }
  std::uint64_t cuts() const { return relay_ == nullptr ? 0 : relay_->cuts(); }
  const session::Target& target() const { return target_; }

 private:
  void Listen() {
    for (;;) {
      pollfd ready{listener_.socket.get(), POLLIN, 0};
      poll(&ready, 1, -1);
      UniqueFd socket(accept4(listener_.socket.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (socket.valid())
        std::thread([this, s = std::move(socket)]() mutable { Serve(std::move(s)); }).detach();
    }
  }

  // As a program that uses all of the memory now and then.
  void Squeeze() {
    worker::spill::Room& room = spill_->room;
    worker::spill::Room::User user;
    room.Enter(&user);
    for (;;) {
      while (!room.Join(&user, false) || !room.Take(&user, room.limit_bytes(), room.limit_bytes())) {
        pollfd woken{user.fd(), POLLIN, 0};
        poll(&woken, 1, -1);
        user.Awake();
      }
      room.LeaveLine(&user);
      room.Return(&user, room.limit_bytes());
      pollfd none{-1, 0, 0};
      poll(&none, 1, 1);
    }
  }

  void Serve(UniqueFd socket) {
    session::ServerLimits limits;
    limits.memory_limit_bytes = arguments_.memory_bytes + arguments_.spill_bytes;
    if (spill_.has_value()) {
      limits.capabilities &= ~static_cast<std::uint64_t>(wire::Capability::kSharedMemory) &
                             ~static_cast<std::uint64_t>(wire::Capability::kExports);
    }
    limits.allow_plain_tcp = arguments_.plain;
    limits.resume_window = std::chrono::seconds(60);
    limits.resume_table = &resume_table_;
    auto client = session::ServerSession::Accept(
        std::move(socket), limits,
        [this](const std::string& vgpu, const std::string& grant) -> Result<session::GrantKey> {
          if (vgpu == target_.vgpu && grant == target_.grant) return target_.key;
          return Error{Code::kNotFound, "unknown grant"};
        });
    if (!client.ok() || *client == nullptr) return;
    worker::exec::EndRequest end;
    worker::exec::SessionCounters counters;
    const SystemClock clock;
    const worker::exec::Shared shared{.quota = &quota_,
                                      .builder = builder_.get(),
                                      .build_slots = &slots_,
                                      .clock = &clock,
                                      .exports = &exports_,
                                      .spill = spill_.has_value() ? &*spill_ : nullptr};
    worker::exec::Session session(client->get(), Must(executors_->Start()), shared, {}, &end, &counters);
    std::atomic<bool> over{false};
    std::thread killer;
    if (arguments_.kill_after != 0) {
      killer = std::thread([&] {
        while (!over && counters.commands < arguments_.kill_after) std::this_thread::yield();
        end.Set(wire::EndReason::kDeviceLost, "as asked for by --kill-after");
      });
    }
    const worker::exec::Ending ending = session.Run();
    over = true;
    if (killer.joinable()) killer.join();
    if (ending.reason != wire::EndReason::kGoodbye && arguments_.kill_after == 0) {
      std::fprintf(stderr, "with_worker: session ended (%d): %s %s\n", static_cast<int>(ending.reason),
                   ending.message.c_str(), ending.detail.c_str());
    }
  }

  const Arguments& arguments_;
  session::Target target_;
  worker::quota::MemoryQuota quota_;
  std::optional<worker::spill::Pool> spill_;
  worker::exports::LocalExports exports_;
  worker::build::Slots slots_;
  session::ResumeTable resume_table_;
  std::unique_ptr<net::Relay> relay_;
  std::unique_ptr<worker::exec::ExecutorFactory> executors_;
  std::unique_ptr<worker::build::Builder> builder_;
  net::Listener listener_;
};

int Main(int argc, char** argv) {
  const Arguments arguments = Parse(argc, argv);
  const std::unique_ptr<gpu::Driver> driver = !arguments.cuda.empty()       ? std::make_unique<CudaDriver>()
                                              : arguments.backend == "null" ? gpu::null::OpenDriver()
                                                                            : gpu::opencl::OpenDriver();
  Must(driver->Probe(false));

  std::string folder = std::filesystem::temp_directory_path() / "tulle-with-worker-XXXXXX";
  if (mkdtemp(folder.data()) == nullptr) Usage("cannot make a temporary folder");
  if (!arguments.icd.empty())
    std::ofstream(folder + "/tulle.icd") << std::filesystem::absolute(arguments.icd).string() << '\n';
  if (!arguments.cuda.empty())
    setenv("LD_LIBRARY_PATH", std::filesystem::absolute(arguments.cuda).c_str(), 1);
  const std::string attach = folder + "/attach";
  // For the command, and before there are threads that read it.
  setenv(session::kAttachEnv, attach.c_str(), 1);
  setenv("OCL_ICD_VENDORS", folder.c_str(), 1);
  SecureRandom random;
  std::list<VGpu> vgpus;
  std::vector<session::Target> targets;
  for (std::uint64_t i = 0; i < arguments.devices; ++i) {
    session::Target target;
    target.vgpu = "vgpu-" + std::to_string(i);
    target.grant = "grant-" + std::to_string(i);
    random.Fill(target.key);
    target.tls = !arguments.plain;
    targets.push_back(vgpus.emplace_back(driver.get(), arguments, target, folder).target());
  }
  if (auto status = session::WriteAttachFile(attach, targets); !status.ok())
    Usage(status.error().message.c_str());

  pid_t child = 0;
  int status =
      posix_spawnp(&child, arguments.command[0], nullptr, nullptr, arguments.command.data(), environ);
  if (status != 0) Usage(std::strerror(status));
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  std::filesystem::remove_all(folder);
  if (arguments.cut_within_bytes != 0) {
    std::uint64_t cuts = 0;
    for (const VGpu& vgpu : vgpus) cuts += vgpu.cuts();
    std::fprintf(stderr, "with_worker: %llu cuts, seed %llu\n", static_cast<unsigned long long>(cuts),
                 static_cast<unsigned long long>(arguments.seed));
    if (cuts < arguments.least_cuts && status == 0) Usage("that is too few");
  }
  if (arguments.spill_bytes != 0) {
    std::uint64_t bytes = 0;
    for (const VGpu& vgpu : vgpus) bytes += vgpu.brought_back_bytes();
    std::fprintf(stderr, "with_worker: %s brought back\n", FormatSize(bytes).c_str());
    if (bytes == 0 && status == 0) Usage("nothing was elsewhere");
  }
  // Threads serve until the end; the process ends under them.
  std::fflush(nullptr);
  _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

}  // namespace
}  // namespace tulle

namespace tulle::shim::cuda {

Result<std::vector<std::unique_ptr<Device>>> OpenDevices() {
  TULLE_ASSIGN_OR_RETURN(auto device,
                         gpu::softcuda::MakeSoftDevice(
                             {.memory_bytes = std::uint64_t{4} << 30, .threads = 2, .stream_places = 1024}));
  std::vector<std::unique_ptr<Device>> devices;
  devices.push_back(std::move(device));
  return devices;
}

}  // namespace tulle::shim::cuda

int main(int argc, char** argv) { return tulle::Main(argc, argv); }
