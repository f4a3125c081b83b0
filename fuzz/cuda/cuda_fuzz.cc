// The backend on the software device, given commands that a hostile program may send: their handles are live,
// as the worker sees to that, and everything else is anything. Whatever comes, it answers what asks for an
// answer just once, gives each payload back just once, and ends.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "fuzz/target.h"
#include "tests/wire/random_message.h"
#include "tulle/gpu/cuda/driver.h"
#include "tulle/gpu/softcuda/memory.h"
#include "tulle/gpu/softcuda/soft_device.h"
#include "tulle/shim/cuda/driver.h"
#include "tulle/wire/handle_table.h"

namespace {

using namespace tulle;

constexpr std::uint64_t kGranule = gpu::softcuda::DeviceMemory::kGranule;
constexpr std::uint64_t kMemoryBytes = 8 * kGranule;
// Of threads and blocks of a launch, so that it ends: a real program's is stopped with its executor.
constexpr std::uint64_t kMostExtent = 8;
constexpr std::string_view kModule =
    ".version 6.4\n.target sm_50\n.address_size 64\n.global .u64 counter = 7;\n"
    ".visible .entry add(.param .u64 to, .param .u32 n) {\n"
    "  .reg .b64 %rd<2>; .reg .b32 %r<3>;\n"
    "  ld.param.u64 %rd1, [to]; mov.u32 %r1, %tid.x; atom.global.add.u32 %r2, [%rd1], %r1;\n  ret;\n}\n";

// What the input says, then anything.
class InputRandom final : public Random {
 public:
  explicit InputRandom(ByteView input) : input_(input) {}
  void Fill(MutableByteView out) override {
    const std::size_t taken = std::min(out.size(), input_.size());
    std::copy_n(input_.begin(), taken, out.begin());
    rest_.Fill(out.subspan(taken));
    input_ = input_.subspan(taken);
  }
  bool done() const { return input_.empty(); }

 private:
  ByteView input_;
  SeededRandom rest_{1};
};

class Answers final : public gpu::Completions {
 public:
  void Reply(std::uint16_t opcode, std::uint64_t sequence, ByteView body, std::uint64_t) override {
    const std::lock_guard lock(mutex_);
    // Else nothing of what follows would do anything.
    if (sequence == 1) fuzz::Require(body.size() > 4 && body[0] == std::byte{0}, "the device did not open");
    const auto it = awaited_.find(sequence);
    fuzz::Require(it != awaited_.end() && it->second == opcode, "an answer to nothing, or a second one");
    awaited_.erase(it);
  }
  void Notice(std::uint16_t, ByteView) override {}
  void PayloadDone(std::uint64_t sequence) override {
    const std::lock_guard lock(mutex_);
    fuzz::Require(payloads_.erase(sequence) == 1, "a payload was given back that was not there");
  }
  void Await(std::uint64_t sequence, std::uint16_t opcode, bool answer, bool payload) {
    const std::lock_guard lock(mutex_);
    if (answer) awaited_[sequence] = opcode;
    if (payload) payloads_.insert(sequence);
  }
  // Whether nothing is missing; says what, if not.
  bool Complete() const {
    for (const auto& [sequence, opcode] : awaited_)
      std::fprintf(stderr, "%s was not answered\n", std::string(wire::FindRow(opcode)->name).c_str());
    for (const std::uint64_t sequence : payloads_)
      std::fprintf(stderr, "the payload of command %d was not given back\n", static_cast<int>(sequence));
    return awaited_.empty() && payloads_.empty();
  }

 private:
  std::mutex mutex_;
  std::map<std::uint64_t, std::uint16_t> awaited_;
  std::set<std::uint64_t> payloads_;
};

class Program {
 public:
  explicit Program(ByteView input)
      : random_(input),
        maker_(random_),
        backend_(*gpu::cuda::OpenBackend(*gpu::cuda::LinkedLibrary(), "", &answers_)) {}

  void Run() {
    Send(wire::cuda::DescribeDevice{kArena, 2 * kMemoryBytes});
    Send(wire::cuda::CreateContext{{New(wire::ObjectKind::kContext)}, {New(wire::ObjectKind::kQueue)}});
    Send(wire::cuda::CreateModule{{Pick(wire::ObjectKind::kContext)}, {New(wire::ObjectKind::kProgram)}});
    Send(wire::cuda::ModuleImage{{Pick(wire::ObjectKind::kProgram)}, {kModule.size()}}, AsBytes(kModule));
    Send(wire::cuda::LoadModule{{Pick(wire::ObjectKind::kProgram)}});
    Send(wire::cuda::GetFunction{
        {Pick(wire::ObjectKind::kProgram)}, {New(wire::ObjectKind::kKernel)}, {"add"}});
    Send(wire::cuda::AllocateMemory{{New(wire::ObjectKind::kMemory)}, kArena, kGranule});
    for (int i = 0; i < 64 && !random_.done(); ++i) {
      const auto& row = wire::kRowInfos[random_.Below(wire::kRowInfos.size())];
      if (row.place != wire::Place::kDevice || row.mode == wire::Mode::kNotice ||
          !wire::Has(wire::CudaCapabilities(), row.needs)) {
        if (row.name != wire::DestroyObject::kMessageName) continue;
      }
      wire::WithRow(wire::kCommands, row.opcode, [&](const auto& typed) {
        using M = typename std::remove_cvref_t<decltype(typed)>::Command;
        M message = maker_.Make<M>();
        bool possible = true;
        M::ForEachField(message, [&](std::string_view name, auto& field) { possible &= Tame(name, field); });
        if (!possible) return;
        if constexpr (std::same_as<M, wire::DestroyObject>) ReturnFromHost();
        Send(message);
        if constexpr (std::same_as<M, wire::cuda::CallHost>) on_host_.push_back(message.returned.handle);
      });
    }
    backend_.reset();
    fuzz::Require(answers_.Complete(), "something was not answered, or not given back");
  }

 private:
  // Where the program wants the device's memory.
  static constexpr std::uint64_t kArena = 0x3100'0000'0000;

  // What waits for the device is asked for only by who has seen it idle; one that has not holds up itself.
  void ReturnFromHost() {
    for (const wire::Handle returned : std::exchange(on_host_, {})) {
      if (std::ranges::count(live_[wire::ObjectKind::kEvent], returned) != 0)
        Send(wire::cuda::EndHostCall{{returned}});
    }
  }

  wire::Handle New(wire::ObjectKind kind) {
    const wire::Handle handle{next_slot_++, 1};
    live_[kind].push_back(handle);
    return handle;
  }
  wire::Handle Pick(wire::ObjectKind kind) {
    const auto& list = live_[kind];
    return list.empty() ? wire::Handle{} : list[random_.Below(list.size())];
  }

  // False: there is nothing that it could be about.
  template <typename T>
  bool Tame(std::string_view name, T& field) {
    using namespace wire::internal;
    if constexpr (IsHandle<T>::value) {
      constexpr bool makes = T::kUse == wire::Use::kNew || T::kUse == wire::Use::kOptNew;
      field.handle = makes ? New(T::kKind) : Pick(T::kKind);
      return !field.handle.null();
    } else if constexpr (std::same_as<T, wire::Drop>) {
      field.handle = Pick(field.kind);
      if (field.handle.null()) return false;
      std::erase(live_[field.kind], field.handle);
    } else if constexpr (IsPayload<T>::value || IsWanted<T>::value) {
      field.size_bytes %= 5000;
    } else if constexpr (std::same_as<T, wire::cuda::Rows>) {
      if (random_.Below(8) != 0)
        field = {kArena + random_.Below(8192), random_.Below(64), random_.Below(512)};
    } else if constexpr (std::same_as<T, wire::Vec3>) {
      const bool launch = name == "grid" || name == "block";
      for (auto& extent : field) {
        if (launch || random_.Below(8) != 0) extent = random_.Below(kMostExtent + 1);
      }
    } else if constexpr (std::same_as<T, wire::U64>) {
      if (random_.Below(8) == 0) return true;
      if (name == "size_bytes") field = random_.Below(3) * kGranule;
      if (name == "address") field = kArena + random_.Below(2 * kMemoryBytes / kGranule) * kGranule;
    } else if constexpr (IsStr<T>::value) {
      if (random_.Below(4) != 0) field.text = random_.Below(2) == 0 ? "add" : "counter";
    } else if constexpr (IsBytes<T>::value) {
      if (random_.Below(4) == 0) return true;
      const std::uint64_t at = kArena + random_.Below(8192);
      std::memcpy(parameters_, &at, sizeof at);
      field.bytes = parameters_;
    }
    return true;
  }

  template <wire::Message M>
  void Send(const M& message, ByteView payload = {}) {
    // Rooms stay where they are until the end.
    ByteVector& room = rooms_.emplace_back(wire::AnnouncedPayload(message) + wire::WantedPayload(message));
    std::copy_n(payload.begin(), std::min(payload.size(), room.size()), room.begin());
    ByteVector body(wire::EncodedSize(message));
    wire::Encode(message, body);
    const bool wants_status = random_.Below(2) == 0 && wire::kModeOf<M> == wire::Mode::kOneWay;
    gpu::Command command{.opcode = wire::kOpcodeOf<M>, .wants_status = wants_status, .sequence = ++sequence_};
    command.body = body;
    command.payload = room;
    answers_.Await(sequence_, command.opcode, wants_status || wire::kModeOf<M> == wire::Mode::kReply,
                   wire::AnnouncedPayload(message) != 0);
    backend_->Submit(command);
  }

  InputRandom random_;
  wire::testing::MessageMaker maker_;
  Answers answers_;
  std::map<wire::ObjectKind, std::vector<wire::Handle>> live_;
  std::vector<wire::Handle> on_host_;  // CallHost's, that have not returned
  std::deque<ByteVector> rooms_;
  std::byte parameters_[12] = {};
  std::uint32_t next_slot_ = 1;
  std::uint64_t sequence_ = 0;
  std::unique_ptr<gpu::Backend> backend_;
};

}  // namespace

namespace tulle::shim::cuda {

Result<std::vector<std::unique_ptr<Device>>> OpenDevices() {
  TULLE_ASSIGN_OR_RETURN(auto device,
                         gpu::softcuda::MakeSoftDevice({.memory_bytes = kMemoryBytes, .threads = 1}));
  std::vector<std::unique_ptr<Device>> devices;
  devices.push_back(std::move(device));
  return devices;
}

}  // namespace tulle::shim::cuda

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Program(std::as_bytes(std::span(data, size))).Run();
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
  SeededRandom random(seed);
  if (size != 0 && random.Below(4) != 0) return LLVMFuzzerMutate(data, size, max_size);
  const std::size_t whole = std::min<std::size_t>(max_size, 64 + random.Below(4000));
  random.Fill(std::as_writable_bytes(std::span(data, whole)));
  return whole;
}
