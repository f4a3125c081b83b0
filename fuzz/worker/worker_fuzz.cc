// Any frames as a client's session, on the null device: the worker carries out or refuses each, answers what
// it accepted at most once and with messages that decode, and has all memory back when the session is over.
//
// Input: frames of {u16 opcode, u8 flags, u16 body bytes, u16 payload bytes, body, payload}. Sizes beyond
// what is left of the input are cut, so that most inputs are whole. The framing itself has its own target.
// A frame of kLieOpcode is not the client's: from there on the executor lies, with the body as seed.
#include <sys/eventfd.h>

#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "fuzz/target.h"
#include "fuzz/worker/lying_executor.h"
#include "fuzz/worker/made_up_program.h"
#include "tulle/gpu/null/driver.h"
#include "tulle/worker/exec/session.h"
#include "tulle/worker/exports/local_exports.h"
#include "tulle/worker/local/local.h"

namespace {

using namespace tulle;

constexpr std::uint64_t kQuotaBytes = 1u << 20;

class FuzzClient final : public session::ServerSession {
 public:
  FuzzClient(ByteView input, fuzz::LyingExecutor& executor) : input_(input), executor_(executor) {}

  template <typename... Capability>
  void Without(Capability... capability) {
    capabilities_ &= ~(static_cast<std::uint64_t>(capability) | ...);
  }
  std::uint64_t capabilities() const override { return capabilities_; }
  const session::Peer& peer() const override { return peer_; }
  int fd() const override { return always_readable_.get(); }
  short events() const override { return POLLIN; }
  bool has_buffered_input() const override { return !paused_; }
  int wake_fd() const override { return -1; }
  std::optional<Instant> next_look() const override { return std::nullopt; }
  std::optional<Instant> absent_since() const override { return std::nullopt; }
  Status LookAfter() override { return OkStatus(); }
  std::size_t pending_bytes() const override { return 0; }
  bool has_output() const override { return false; }
  std::uint64_t first_delayed() const override { return kEverything; }
  void Pause(bool paused) override { paused_ = paused; }
  bool PassDescriptor(int) override { return true; }
  void Acknowledge(std::uint64_t sequence, bool) override {
    fuzz::Require(sequence <= sequence_, "a command was acknowledged before it came");
  }
  Result<bool> Flush() override { return true; }
  void End(wire::EndReason, const std::string&) override {}
  Counters counters() const override { return {}; }

  Result<bool> Pump(session::FrameHandler& handler) override {
    fuzz::Require(!paused_, "read while paused");
    if (input_.size() < fuzz::kHeadBytes) return Error{Code::kCancelled, "goodbye"};
    wire::FrameHeader header;
    std::uint16_t body_bytes = 0, payload_bytes = 0;
    std::memcpy(&header.opcode, input_.data(), 2);
    header.flags = static_cast<std::uint16_t>(std::to_integer<unsigned>(input_[2]) & wire::kKnownFrameFlags);
    std::memcpy(&body_bytes, input_.data() + 3, 2);
    std::memcpy(&payload_bytes, input_.data() + 5, 2);
    input_ = input_.subspan(fuzz::kHeadBytes);
    // A private copy of exactly this size, as the session makes one.
    const ByteVector body = Take(body_bytes);
    const ByteVector payload = Take(payload_bytes);
    if (header.opcode == fuzz::kLieOpcode) {
      std::uint64_t seed = 0;
      std::copy_n(body.begin(), std::min(body.size(), sizeof seed), reinterpret_cast<std::byte*>(&seed));
      executor_.LieFrom(seed);
    }
    header.body_bytes = static_cast<std::uint32_t>(body.size());
    header.payload_bytes = payload.size();

    // What the real session checks before its handler sees a frame.
    const wire::RowInfo* row = wire::FindRow(header.opcode);
    if (row == nullptr || row->mode == wire::Mode::kNotice || row->place == wire::Place::kSession)
      return true;
    // The first command says of which API the session is.
    if (sequence_ == 0 && row->needs == wire::Capability::kCuda) capabilities_ = wire::CudaCapabilities();
    if (row->needs != wire::Capability::kNone && !wire::Has(capabilities_, row->needs)) return true;
    if (row->mode == wire::Mode::kReply) header.flags = 0;
    header.sequence = ++sequence_;
    if (row->mode == wire::Mode::kReply || (header.flags & wire::kWantStatus) != 0)
      awaited_[sequence_] = header.opcode;

    MutableByteView room;
    if (!payload.empty()) {
      auto view = handler.OnPayload(header, body);
      if (!view.ok()) return view.error();
      fuzz::Require(view->empty() || view->size() == payload.size(), "room of another size than the payload");
      room = *view;
      std::copy_n(payload.begin(), room.size(), room.begin());
    }
    if (auto status = handler.OnFrame(header, body, room); !status.ok()) return status.error();
    return true;
  }

  Status SendRaw(std::uint16_t opcode, std::uint64_t answers, ByteView body, ByteView payload,
                 std::shared_ptr<void>, std::uint64_t) override {
    bool known = false;
    if (answers != 0) {
      const auto awaited = awaited_.find(answers);
      fuzz::Require(awaited != awaited_.end() && awaited->second == opcode,
                    "an answer to nothing, or a second one");
      awaited_.erase(awaited);
      known = wire::WithRow(wire::kCommands, opcode, [&](const auto& row) {
        using R = std::remove_cvref_t<decltype(row)>;
        RequireDecodes<typename R::Reply>(body, payload.size());
      });
    } else {
      known = wire::WithRow(wire::kCommands, opcode, [&](const auto& row) {
        using R = std::remove_cvref_t<decltype(row)>;
        fuzz::Require(row.mode == wire::Mode::kNotice, "a command from the worker");
        RequireDecodes<typename R::Command>(body, payload.size());
      });
    }
    fuzz::Require(known, "an unknown opcode from the worker");
    return OkStatus();
  }

 private:
  template <wire::Message M>
  void RequireDecodes(ByteView body, std::size_t payload_bytes) {
    arena_.Reset();
    M message{};
    fuzz::Require(wire::Decode(body, payload_bytes, arena_, &message) == wire::WireResult::kOk,
                  "the worker sent what does not decode");
  }
  ByteVector Take(std::size_t size) {
    const ByteView taken = input_.first(std::min(size, input_.size()));
    input_ = input_.subspan(taken.size());
    return {taken.begin(), taken.end()};
  }

  std::uint64_t capabilities_ = wire::OpenClCapabilities();
  ByteView input_;
  fuzz::LyingExecutor& executor_;
  session::Peer peer_;
  UniqueFd always_readable_{eventfd(1, EFD_CLOEXEC)};
  std::unordered_map<std::uint64_t, std::uint16_t> awaited_;
  std::uint64_t sequence_ = 1;
  bool paused_ = false;
  wire::Arena arena_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace worker;
  const auto driver =
      gpu::null::OpenDriver({.memory_bytes = 4 * kQuotaBytes, .max_allocation_bytes = kQuotaBytes});
  const auto executors = local::MakeExecutors(
      driver.get(), {.memory_bytes = kQuotaBytes, .staging_bytes = 16u << 20, .in_flight = 64});
  const auto builder = local::MakeBuilder(driver.get(), 0);
  quota::MemoryQuota quota(kQuotaBytes);
  build::Slots slots(1);
  const SystemClock clock;
  exports::LocalExports exports;
  // Every other program has more memory than fits on the device.
  SecureRandom random;
  spill::Pool spill(kQuotaBytes / 4, 2 * kQuotaBytes, UniqueFd(), 0, random);
  const bool spills = size % 2 == 1;
  const exec::Shared shared{.quota = &quota,
                            .builder = builder.get(),
                            .build_slots = &slots,
                            .clock = &clock,
                            .exports = &exports,
                            .spill = spills ? &spill : nullptr};
  exec::SessionLimits limits;
  limits.wait_on_user_event = std::chrono::milliseconds(1);  // nothing here sets an event from another thread
  exec::EndRequest end;
  exec::SessionCounters counters;
  {
    auto honest = executors->Start();
    fuzz::Require(honest.ok(), "the null device did not open");
    auto executor = std::make_unique<fuzz::LyingExecutor>(*std::move(honest));
    FuzzClient client(std::as_bytes(std::span(data, size)), *executor);
    if (spills) client.Without(wire::Capability::kSharedMemory, wire::Capability::kExports);
    exec::Session session(&client, std::move(executor), shared, limits, &end, &counters);
    session.Run();
  }
  fuzz::Require(quota.used_bytes() == 0, "memory was not given back");
  fuzz::Require(spill.room.held_bytes() == 0 && spill.store.memory_bytes() == 0, "nor what was elsewhere");
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
  SeededRandom random(seed);
  if (size != 0 && random.Below(3) == 0) return LLVMFuzzerMutate(data, size, max_size);
  fuzz::MadeUpProgram program(data, max_size, random, random.Below(2) * random.Below(4));
  program.Begin(kQuotaBytes / 2);
  const std::uint64_t lies_from = random.Below(240);
  for (std::uint64_t i = random.Below(60); i > 0; --i) {
    if (i == lies_from) program.AddLies();
    program.AddAny();
  }
  return program.size();
}
