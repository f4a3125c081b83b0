// For tests only: a session against a scripted client, over the null device or over an executor and a builder
// that the test plays itself. Nothing of it is built into a program.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tulle/gpu/api/opencl_status.h"
#include "tulle/gpu/null/driver.h"
#include "tulle/worker/exec/session.h"
#include "tulle/worker/exports/local_exports.h"
#include "tulle/worker/local/local.h"

namespace tulle::worker::exec {

namespace opencl = wire::opencl;
namespace cl_status = gpu::cl_status;
using wire::EndReason;
using wire::Handle;
using wire::ObjectKind;

inline constexpr std::uint64_t kMiB = 1u << 20;

// --- the client ---

struct Sent {
  std::uint16_t opcode = 0;
  std::uint64_t answers = 0;
  ByteVector body;
  ByteVector payload;
  std::uint64_t after = 0;
};

// Delivers a script of frames, one a Pump; a step with a condition waits for it. After the last: goodbye.
class ScriptedClient final : public session::ServerSession {
 public:
  template <wire::Message M>
  std::uint64_t Send(const M& message, ByteView payload = {}, std::uint16_t flags = 0) {
    Step step;
    step.header.opcode = wire::kOpcodeOf<M>;
    step.header.flags = flags;
    step.header.sequence = ++sequence_;
    step.header.payload_bytes = payload.size();
    step.body.resize(wire::EncodedSize(message));
    wire::Encode(message, step.body);
    step.header.body_bytes = static_cast<std::uint32_t>(step.body.size());
    step.payload.assign(payload.begin(), payload.end());
    steps_.push_back(std::move(step));
    return sequence_;
  }
  // Nothing more until `condition`.
  void When(std::function<bool()> condition) {
    Step step;
    step.condition = std::move(condition);
    steps_.push_back(std::move(step));
  }
  void WhenAnswered(std::uint64_t sequence) {
    When([this, sequence] { return Find(sequence) != nullptr; });
  }
  // At this point of the script; the session is not doing anything else.
  void Do(std::function<void()> action) {
    When([action = std::move(action)] {
      action();
      return true;
    });
  }

  const Sent* Find(std::uint64_t answers) const {
    for (const Sent& sent : sent_) {
      if (sent.answers == answers) return &sent;
    }
    return nullptr;
  }
  template <wire::Message M>
  M Reply(std::uint64_t sequence) {
    M message;
    const Sent* sent = Find(sequence);
    EXPECT_NE(sent, nullptr) << "no answer to " << sequence;
    if (sent != nullptr) {
      EXPECT_EQ(wire::Decode(sent->body, sent->payload.size(), arena_, &message), wire::WireResult::kOk);
    }
    return message;
  }
  std::int32_t StatusOf(std::uint64_t sequence) { return Reply<wire::StatusReply>(sequence).status; }
  const std::vector<Sent>& sent() const { return sent_; }
  std::size_t steps_left() const { return steps_.size(); }
  std::uint64_t acknowledged() const { return acknowledged_; }
  void set_pending_bytes(std::size_t bytes) { pending_bytes_ = bytes; }
  void set_first_delayed(std::uint64_t command) { first_delayed_ = command; }
  bool says_goodbye = true;
  bool gone = false;  // as LookAfter will find

  // session::ServerSession
  std::uint64_t capabilities() const override { return wire::OpenClCapabilities(); }
  const session::Peer& peer() const override { return peer_; }
  int fd() const override { return always_readable_.get(); }
  short events() const override { return POLLIN; }
  bool has_buffered_input() const override { return false; }
  int wake_fd() const override { return -1; }
  std::optional<Instant> next_look() const override { return gone ? std::optional(Instant{}) : std::nullopt; }
  std::optional<Instant> absent_since() const override { return std::nullopt; }
  Status LookAfter() override {
    if (gone) return Error{Code::kUnavailable, "the client did not come back"};
    return OkStatus();
  }
  Result<bool> Pump(session::FrameHandler& handler) override {
    EXPECT_FALSE(paused_);
    while (!steps_.empty() && steps_.front().condition) {
      if (!steps_.front().condition()) return false;
      steps_.pop_front();
    }
    if (steps_.empty()) {
      if (!says_goodbye) return false;
      return Error{Code::kCancelled, "goodbye"};
    }
    Step step = std::move(steps_.front());
    steps_.pop_front();
    MutableByteView room;
    if (!step.payload.empty()) {
      auto view = handler.OnPayload(step.header, step.body);
      if (!view.ok()) return view.error();
      room = *view;
      EXPECT_EQ(room.size(), step.payload.size());
      std::copy(step.payload.begin(), step.payload.end(), room.begin());
    }
    TULLE_RETURN_IF_ERROR(handler.OnFrame(step.header, step.body, room));
    return true;
  }
  void Pause(bool paused) override { paused_ = paused; }
  Status SendRaw(std::uint16_t opcode, std::uint64_t answers, ByteView body, ByteView payload,
                 std::shared_ptr<void>, std::uint64_t after) override {
    sent_.push_back({opcode, answers, ByteVector(body.begin(), body.end()),
                     ByteVector(payload.begin(), payload.end()), after});
    return OkStatus();
  }
  bool PassDescriptor(int fd) override {
    if (carries_descriptors) passed_fd = fd;
    return carries_descriptors;
  }
  void Acknowledge(std::uint64_t sequence, bool) override { acknowledged_ = sequence; }
  Result<bool> Flush() override { return true; }
  std::size_t pending_bytes() const override { return pending_bytes_; }
  bool has_output() const override { return false; }
  std::uint64_t first_delayed() const override { return first_delayed_; }
  void End(EndReason reason, const std::string& message) override { end = {reason, message, "", false}; }
  Counters counters() const override { return {.bytes_received = moved_bytes}; }

  std::optional<Ending> end;
  std::uint64_t moved_bytes = 0;
  bool carries_descriptors = true;
  int passed_fd = -1;

 private:
  struct Step {
    wire::FrameHeader header;
    ByteVector body;
    ByteVector payload;
    std::function<bool()> condition;
  };
  session::Peer peer_;
  UniqueFd always_readable_{eventfd(1, EFD_CLOEXEC)};
  std::deque<Step> steps_;
  std::vector<Sent> sent_;
  wire::Arena arena_;
  std::uint64_t sequence_ = 1;  // the Hello was frame 1
  std::uint64_t acknowledged_ = 0;
  std::size_t pending_bytes_ = 0;
  std::uint64_t first_delayed_ = kEverything;
  bool paused_ = false;
};

// --- an executor that the test plays ---

class PlayedExecutor final : public Executor {
 public:
  struct Seen {
    std::uint16_t opcode = 0;
    bool wants_status = false;
    std::uint64_t sequence = 0;
    std::optional<Range> memory;
    bool lacks_memory = false;
  };
  struct State {
    std::vector<Seen> seen;
    std::deque<std::pair<Received, ByteVector>> answers;
    std::vector<Range> freed;
    std::size_t room_for = ~std::size_t{0};  // commands that still fit
    std::uint64_t staging_bytes = 64 * kMiB;
    std::uint64_t next_offset = 0;
    bool fragmented = false;
    int memory_fd = -1;
    ByteVector pages;
    std::optional<bool> mapped_writable;  // of the last
    std::atomic<std::uint64_t> device_time_ns{0};
    bool dead = false;
    bool killed = false;
    std::function<void()> on_look;  // each time the session looks for answers: the executor's chance to act

    template <wire::Message M>
    void Answer(std::uint16_t opcode, std::uint64_t sequence, const M& message,
                Received::Kind kind = Received::Kind::kReply) {
      Received received;
      received.kind = kind;
      received.opcode = opcode;
      received.sequence = sequence;
      ByteVector body(wire::EncodedSize(message));
      wire::Encode(message, body);
      answers.emplace_back(std::move(received), std::move(body));
    }
    template <wire::Message M>
    void Notice(const M& message) {
      Answer(wire::kOpcodeOf<M>, 0, message, Received::Kind::kNotice);
    }
    bool Saw(std::uint16_t opcode) const {
      return std::any_of(seen.begin(), seen.end(), [&](const Seen& s) { return s.opcode == opcode; });
    }
  };

  explicit PlayedExecutor(State* state) : state_(*state) {}
  std::optional<Range> AllocateMemory(std::uint64_t size_bytes) override {
    if (state_.fragmented) return std::nullopt;
    return Range{std::exchange(state_.next_offset, state_.next_offset + size_bytes), size_bytes};
  }
  void FreeMemory(const Range& range) override { state_.freed.push_back(range); }
  std::optional<Range> MapMemory(int, std::uint64_t size_bytes, bool writable) override {
    state_.mapped_writable = writable;
    return AllocateMemory(size_bytes);
  }
  int memory_fd() const override { return state_.memory_fd; }
  void ReadPages(const Range& range, MutableByteView bytes) override {
    std::ranges::copy(PageBytes(range), bytes.begin());
  }
  void WritePages(const Range& range, ByteView bytes) override {
    std::ranges::copy(bytes, PageBytes(range).begin());
  }
  MutableByteView PageBytes(const Range& range) {
    if (state_.pages.size() < range.offset_bytes + range.size_bytes)
      state_.pages.resize(range.offset_bytes + range.size_bytes);
    return MutableByteView(state_.pages).subspan(range.offset_bytes, range.size_bytes);
  }
  void DropPages(const Range& range) override { std::ranges::fill(PageBytes(range), std::byte{0}); }
  std::optional<Room> AllocateRoom(std::uint64_t size_bytes) override {
    if (size_bytes > state_.staging_bytes) return std::nullopt;
    state_.staging_bytes -= size_bytes;
    rooms_.emplace_back(size_bytes);
    return Room(this, static_cast<std::uint32_t>(rooms_.size() - 1), rooms_.back());
  }
  void FreeRoom(std::uint32_t id) override {
    state_.staging_bytes += rooms_[id].size();
    rooms_[id] = {};
  }
  bool Submit(Submission& submission) override {
    if (state_.room_for == 0) return false;
    --state_.room_for;
    state_.seen.push_back({submission.opcode, submission.wants_status, submission.sequence, submission.memory,
                           submission.lacks_memory});
    held_.push_back(std::move(submission.payload));  // until the session ends
    return true;
  }
  void Flush() override {}
  Receive TryReceive(Received* received) override {
    if (state_.on_look) state_.on_look();
    if (state_.answers.empty()) return state_.dead ? Receive::kDead : Receive::kNothing;
    *received = std::move(state_.answers.front().first);
    body_ = std::move(state_.answers.front().second);
    state_.answers.pop_front();
    received->body = body_;
    return Receive::kGot;
  }
  bool Spin() override { return state_.on_look != nullptr; }
  bool PrepareToSleep() override { return true; }
  void Awake() override {}
  int wake_fd() const override { return -1; }
  int death_fd() const override { return -1; }
  void Kill() override { state_.killed = true; }
  std::string EndText() const override { return "the executor was killed by signal 11"; }
  std::uint64_t DeviceTimeNs() const override { return state_.device_time_ns; }

 private:
  State& state_;
  std::deque<ByteVector> rooms_;
  std::vector<Room> held_;
  ByteVector body_;
};

// Builds that finish when the test says so.
class PlayedBuilder final : public build::Builder {
 public:
  class PlayedBuild final : public build::Build {
   public:
    explicit PlayedBuild(PlayedBuilder* builder) : builder_(*builder) { ++builder_.running; }
    ~PlayedBuild() override { --builder_.running; }
    int fd() const override { return builder_.event_.get(); }
    std::optional<gpu::CompileOutput> TryFinish() override {
      return std::exchange(builder_.output, std::nullopt);
    }

   private:
    PlayedBuilder& builder_;
  };
  Result<std::unique_ptr<build::Build>> Start(opencl::ProgramKind, ByteView text,
                                              std::string_view options) override {
    if (fails) return Error{Code::kResourceExhausted, "no process"};
    texts.emplace_back(AsText(text));
    option_texts.emplace_back(options);
    return std::unique_ptr<build::Build>(std::make_unique<PlayedBuild>(this));
  }
  std::vector<std::string> texts, option_texts;
  std::optional<gpu::CompileOutput> output;
  bool fails = false;
  int running = 0;

 private:
  UniqueFd event_{eventfd(1, EFD_CLOEXEC)};
};

// --- both at work ---

inline constexpr Handle kContext{1, 1}, kQueue{2, 1}, kBuffer{3, 1}, kProgram{4, 1}, kKernel{5, 1},
    kEvent{6, 1};

class SessionTest : public ::testing::Test {
 protected:
  Ending RunWith(std::unique_ptr<Executor> executor) {
    const Shared shared{&quota_, builder_, &slots_, &clock_, pacer_, turn_, network_, &exports_, spill_};
    Session session(&client_, std::move(executor), shared, limits_, &end_, &counters_);
    return session.Run();
  }
  Ending RunOnNull(const local::Options& options = {}) {
    auto executor = local::MakeExecutors(null_.get(), options)->Start();
    EXPECT_TRUE(executor.ok());
    return RunWith(std::move(*executor));
  }
  Ending RunPlayed() { return RunWith(std::make_unique<PlayedExecutor>(&played_)); }

  void CreateContextAndQueue() {
    client_.Send(opencl::CreateContext{{kContext}});
    client_.Send(opencl::CreateQueue{{kContext}, {kQueue}, {}});
  }
  std::uint64_t CreateBuffer(Handle handle, std::uint64_t size_bytes, std::uint16_t flags = 0) {
    return client_.Send(opencl::CreateBuffer{{kContext}, {handle}, {}, size_bytes}, {}, flags);
  }
  std::uint64_t Destroy(ObjectKind kind, Handle handle, std::uint16_t flags = 0) {
    return client_.Send(wire::DestroyObject{{kind, handle}}, {}, flags);
  }
  std::uint64_t CreateAndBuild(std::string_view text) {
    client_.Send(opencl::CreateProgram{{kContext}, {kProgram}, {opencl::ProgramKind::kSource}});
    client_.Send(opencl::ProgramText{{kProgram}, {text.size()}}, AsBytes(text));
    return client_.Send(opencl::BuildProgram{{kProgram}, {"-DX=1"}});
  }

  SystemClock clock_;
  quota::MemoryQuota quota_{64 * kMiB};
  exports::LocalExports exports_;
  pace::Pacer* pacer_ = nullptr;
  pace::Turn* turn_ = nullptr;
  pace::Network* network_ = nullptr;
  spill::Pool* spill_ = nullptr;
  build::Slots slots_{2};
  std::unique_ptr<gpu::Driver> null_ = gpu::null::OpenDriver();
  std::unique_ptr<build::Builder> null_builder_ = local::MakeBuilder(null_.get(), 0);
  PlayedBuilder played_builder_;
  build::Builder* builder_ = null_builder_.get();
  PlayedExecutor::State played_;
  SessionLimits limits_;
  EndRequest end_;
  SessionCounters counters_;
  ScriptedClient client_;
};

}  // namespace tulle::worker::exec
