// A session against a scripted client, over the null device or over an executor that the test plays itself.
#include "tulle/worker/exec/session.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <thread>

#include "tulle/gpu/api/opencl_status.h"
#include "tulle/gpu/null/driver.h"
#include "tulle/worker/local/local.h"

namespace tulle::worker::exec {
namespace {

namespace opencl = wire::opencl;
namespace cl_status = gpu::cl_status;
using wire::EndReason;
using wire::Handle;
using wire::ObjectKind;

constexpr std::uint64_t kMiB = 1u << 20;

// --- the client ---

struct Sent {
  std::uint16_t opcode = 0;
  std::uint64_t answers = 0;
  ByteVector body;
  ByteVector payload;
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
  bool says_goodbye = true;

  // session::ServerSession
  const session::Peer& peer() const override { return peer_; }
  int fd() const override { return always_readable_.get(); }
  short events() const override { return POLLIN; }
  bool has_buffered_input() const override { return false; }
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
  Status SendRaw(std::uint16_t opcode, std::uint64_t answers, ByteView body, ByteView payload) override {
    sent_.push_back(
        {opcode, answers, ByteVector(body.begin(), body.end()), ByteVector(payload.begin(), payload.end())});
    return OkStatus();
  }
  void Acknowledge(std::uint64_t sequence) override { acknowledged_ = sequence; }
  Result<bool> Flush() override { return true; }
  std::size_t pending_bytes() const override { return pending_bytes_; }
  void End(EndReason reason, const std::string& message) override { end = {reason, message, "", false}; }
  Counters counters() const override { return {}; }

  std::optional<Ending> end;

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
  };
  struct State {
    std::vector<Seen> seen;
    std::deque<std::pair<Received, ByteVector>> answers;
    std::vector<Range> freed;
    std::size_t room_for = ~std::size_t{0};  // commands that still fit
    std::uint64_t staging_bytes = 64 * kMiB;
    std::uint64_t next_offset = 0;
    bool fragmented = false;
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
    state_.seen.push_back(
        {submission.opcode, submission.wants_status, submission.sequence, submission.memory});
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
  std::uint64_t DeviceTimeNs() const override { return 0; }

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

// --- the tests ---

constexpr Handle kContext{1, 1}, kQueue{2, 1}, kBuffer{3, 1}, kProgram{4, 1}, kKernel{5, 1}, kEvent{6, 1};

class SessionTest : public ::testing::Test {
 protected:
  Ending RunWith(std::unique_ptr<Executor> executor) {
    const Shared shared{&quota_, builder_, &slots_, &clock_};
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

TEST_F(SessionTest, AProgramIsBuiltRunAndReadBack) {
  CreateContextAndQueue();
  const auto acquired = client_.Send(wire::AcquireMemory{kMiB});
  CreateBuffer(kBuffer, 64);
  ByteVector data(64, std::byte{1});
  client_.Send(opencl::EnqueueWrite{{kQueue}, {kBuffer}, 0, {64}, 0, 0, {}, {}}, data);
  const auto built = CreateAndBuild(
      "kernel void null_add(global uint* data, uint value) { data[get_global_id(0)] += value; }");
  client_.WhenAnswered(built);
  client_.Send(opencl::CreateKernel{{kProgram}, {kKernel}, {"null_add"}});
  client_.Send(opencl::SetKernelArg{{kKernel}, 0, {opencl::ArgKind::kMemory}, {kBuffer}, 0, {}});
  const std::uint32_t value = 0x01010101;
  client_.Send(opencl::SetKernelArg{
      {kKernel}, 1, {opencl::ArgKind::kValue}, {}, 0, {std::as_bytes(std::span(&value, 1))}});
  client_.Send(opencl::EnqueueKernel{{kQueue}, {kKernel}, 1, {}, {8, 1, 1}, {}, {}, {kEvent}});
  const auto read = client_.Send(opencl::EnqueueRead{{kQueue}, {kBuffer}, 0, {64}, 0, 0, {}, {}});
  client_.WhenAnswered(read);
  const auto binary = client_.Send(opencl::GetProgramBinary{{kProgram}, 0, {4}});
  client_.WhenAnswered(binary);

  EXPECT_EQ(RunOnNull().reason, EndReason::kGoodbye);
  EXPECT_EQ(client_.Reply<wire::AcquireMemoryReply>(acquired).granted_bytes, kMiB);
  const auto reply = client_.Reply<opencl::BuildProgramReply>(built);
  EXPECT_EQ(reply.status, 0);
  ASSERT_EQ(reply.kernels.items.size(), 1u);
  EXPECT_EQ(reply.kernels.items[0].name.text, "null_add");
  EXPECT_GT(reply.binary_bytes, 4u);
  EXPECT_EQ(client_.Reply<opencl::EnqueueReadReply>(read).status, 0);
  ByteVector expected(64, std::byte{1});
  std::fill_n(expected.begin(), 32, std::byte{2});
  EXPECT_EQ(client_.Find(read)->payload, expected);
  EXPECT_EQ(client_.Find(binary)->payload.size(), 4u);
  const bool completed = std::any_of(client_.sent().begin(), client_.sent().end(), [](const Sent& sent) {
    return sent.opcode == wire::kOpcodeOf<opencl::EventsCompleted>;
  });
  EXPECT_TRUE(completed);
  EXPECT_EQ(quota_.used_bytes(), 0u);
  EXPECT_EQ(client_.acknowledged(), binary);
}

// --- memory ---

TEST_F(SessionTest, ABufferBeyondTheLeaseMustAskForItsStatus) {
  CreateContextAndQueue();
  CreateBuffer(kBuffer, 4096);
  const Ending ending = RunOnNull();
  EXPECT_EQ(ending.reason, EndReason::kProtocol);
  EXPECT_NE(ending.detail.find("CreateBuffer"), std::string::npos) << ending.detail;
  EXPECT_EQ(client_.end->message, "");
}

TEST_F(SessionTest, TheLeaseIsCountedInWholePages) {
  CreateContextAndQueue();
  client_.Send(wire::AcquireMemory{4096});
  CreateBuffer(kBuffer, 1);
  CreateBuffer({7, 1}, 1);
  EXPECT_EQ(RunOnNull().reason, EndReason::kProtocol);
}

TEST_F(SessionTest, ABufferThatAsksGrowsTheLeaseOrFails) {
  CreateContextAndQueue();
  const auto fits = CreateBuffer(kBuffer, 48 * kMiB, wire::kWantStatus);
  const auto too_large = CreateBuffer({7, 1}, 32 * kMiB, wire::kWantStatus);
  const auto absurd = CreateBuffer({8, 1}, ~std::uint64_t{0}, wire::kWantStatus);
  const auto empty = CreateBuffer({9, 1}, 0, wire::kWantStatus);
  client_.WhenAnswered(fits);
  client_.Do([&] { EXPECT_EQ(quota_.used_bytes(), 48 * kMiB); });
  // A handle is taken although the creation failed, and can be destroyed.
  const auto destroyed = Destroy(ObjectKind::kMemory, {7, 1}, wire::kWantStatus);
  const auto again = CreateBuffer({7, 2}, 16 * kMiB, wire::kWantStatus);
  client_.WhenAnswered(again);
  EXPECT_EQ(RunOnNull().reason, EndReason::kGoodbye);
  EXPECT_EQ(client_.StatusOf(fits), 0);
  EXPECT_EQ(client_.StatusOf(too_large), cl_status::kMemObjectAllocationFailure);
  EXPECT_EQ(client_.StatusOf(absurd), cl_status::kMemObjectAllocationFailure);
  EXPECT_EQ(client_.StatusOf(empty), cl_status::kInvalidBufferSize);
  EXPECT_EQ(client_.StatusOf(destroyed), 0);
  EXPECT_EQ(client_.StatusOf(again), 0);
  EXPECT_EQ(quota_.used_bytes(), 0u);
}

TEST_F(SessionTest, LeasesOfSeveralSessionsShareTheQuota) {
  ASSERT_TRUE(quota_.TryTake(60 * kMiB));  // another session's
  const auto refused = client_.Send(wire::AcquireMemory{8 * kMiB});
  const auto granted = client_.Send(wire::AcquireMemory{4 * kMiB});
  client_.Send(wire::ReleaseMemory{kMiB});
  client_.Do([&] { EXPECT_EQ(quota_.available_bytes(), kMiB); });
  EXPECT_EQ(RunOnNull().reason, EndReason::kGoodbye);
  EXPECT_EQ(client_.Reply<wire::AcquireMemoryReply>(refused).granted_bytes, 0u);
  EXPECT_EQ(client_.Reply<wire::AcquireMemoryReply>(refused).available_bytes, 4 * kMiB);
  EXPECT_EQ(client_.Reply<wire::AcquireMemoryReply>(granted).granted_bytes, 4 * kMiB);
  EXPECT_EQ(quota_.used_bytes(), 60 * kMiB);
}

TEST_F(SessionTest, GivingBackMoreThanThereIsEndsTheSession) {
  client_.Send(wire::AcquireMemory{kMiB});
  client_.Send(wire::ReleaseMemory{kMiB + 1});
  EXPECT_EQ(RunOnNull().reason, EndReason::kProtocol);
}

TEST_F(SessionTest, ANewBufferWaitsForTheMemoryOfADestroyedOne) {
  CreateContextAndQueue();
  client_.Send(wire::AcquireMemory{64 * kMiB});
  CreateBuffer(kBuffer, 64 * kMiB);
  const auto destroyed = Destroy(ObjectKind::kMemory, kBuffer);
  const auto second = CreateBuffer({7, 1}, 32 * kMiB);
  int looks = 0;
  played_.on_look = [&] {
    if (played_.seen.empty() || played_.seen.back().sequence != destroyed || ++looks != 5) return;
    EXPECT_TRUE(played_.freed.empty());
    EXPECT_EQ(quota_.used_bytes(), 64 * kMiB);
    played_.Answer(wire::kOpcodeOf<wire::DestroyObject>, destroyed, wire::StatusReply{0});
  };
  EXPECT_EQ(RunPlayed().reason, EndReason::kGoodbye);
  ASSERT_EQ(played_.freed.size(), 1u);
  EXPECT_EQ(played_.freed[0].size_bytes, 64 * kMiB);
  EXPECT_EQ(played_.seen.back().sequence, second);
  // The client did not ask for the outcome of the destruction, and is not told.
  EXPECT_EQ(client_.Find(destroyed), nullptr);
}

TEST_F(SessionTest, WaitingForMemoryThatOnlyTheProgramCanFreeEnds) {
  limits_.wait_on_user_event = std::chrono::milliseconds(20);
  CreateContextAndQueue();
  client_.Send(opencl::CreateUserEvent{{kContext}, {kEvent}});
  client_.Send(wire::AcquireMemory{64 * kMiB});
  CreateBuffer(kBuffer, 64 * kMiB);
  Destroy(ObjectKind::kMemory, kBuffer);  // never confirmed: a command that waits for the event uses it
  CreateBuffer({7, 1}, 32 * kMiB);
  const Ending ending = RunPlayed();
  EXPECT_EQ(ending.reason, EndReason::kResource);
  EXPECT_NE(ending.message.find("user event"), std::string::npos) << ending.message;
}

TEST_F(SessionTest, FragmentationIsAnErrorOrEndsTheSession) {
  CreateContextAndQueue();
  played_.fragmented = true;
  client_.Send(wire::AcquireMemory{kMiB});
  const auto asked = CreateBuffer(kBuffer, 4096, wire::kWantStatus);
  CreateBuffer({7, 1}, 4096);
  EXPECT_EQ(RunPlayed().reason, EndReason::kResource);
  EXPECT_EQ(client_.StatusOf(asked), cl_status::kMemObjectAllocationFailure);
  EXPECT_EQ(quota_.used_bytes(), 0u);
}

// --- handles ---

// Every reference of the message names `handle`, every new object is slot 50.
template <wire::Message M>
M Naming(Handle handle, bool* has_reference) {
  M message;
  M::ForEachField(message, [&](std::string_view, auto& field) {
    using T = std::remove_cvref_t<decltype(field)>;
    if constexpr (wire::internal::IsHandle<T>::value) {
      if constexpr (T::kUse == wire::Use::kRef || T::kUse == wire::Use::kOptRef) {
        field.handle = handle;
        *has_reference = true;
      } else {
        field.handle = {50, 1};
      }
    } else if constexpr (std::same_as<T, wire::Drop>) {
      field = {ObjectKind::kKernel, handle};
      *has_reference = true;
    }
  });
  return message;
}

class BadHandles : public ::testing::TestWithParam<Handle> {};

TEST_P(BadHandles, EndTheSessionAtEveryCommandAndReachNothing) {
  int commands = 0;
  wire::ForEachRow(wire::kCommands, [&](const auto& row) {
    using M = typename std::remove_cvref_t<decltype(row)>::Command;
    if (row.place == wire::Place::kSession || row.mode == wire::Mode::kNotice) return;
    bool has_reference = false;
    const M message = Naming<M>(GetParam(), &has_reference);
    if (!has_reference) return;
    ++commands;
    SCOPED_TRACE(M::kMessageName);
    ScriptedClient client;
    PlayedExecutor::State played;
    quota::MemoryQuota quota(kMiB);
    PlayedBuilder builder;
    build::Slots slots(1);
    SystemClock clock;
    EndRequest end;
    SessionCounters counters;
    // Slot 1: an event that lives, slot 2: one that lived. (No message takes a single event and is harmless.)
    client.Send(opencl::CreateContext{{Handle{9, 1}}});
    client.Send(opencl::CreateUserEvent{{Handle{9, 1}}, {Handle{1, 1}}});
    client.Send(opencl::CreateUserEvent{{Handle{9, 1}}, {Handle{2, 1}}});
    client.Send(wire::DestroyObject{{ObjectKind::kEvent, Handle{2, 1}}});
    client.Send(message);
    Session session(&client, std::make_unique<PlayedExecutor>(&played), {&quota, &builder, &slots, &clock},
                    {}, &end, &counters);
    if (std::same_as<M, opencl::SetUserEventStatus> && GetParam() == Handle{1, 1})
      return;  // that one is right
    EXPECT_EQ(session.Run().reason, EndReason::kProtocol);
    EXPECT_EQ(played.seen.size(), 4u);
    EXPECT_TRUE(client.sent().empty());
  });
  EXPECT_GE(commands, 20);
}

INSTANTIATE_TEST_SUITE_P(Session, BadHandles,
                         ::testing::Values(Handle{1, 1},   // another kind
                                           Handle{2, 1},   // dead
                                           Handle{1, 2},   // not born yet
                                           Handle{40, 1},  // never used
                                           Handle{wire::kMaxObjects, 1}, Handle{wire::kMaxObjects + 1, 1}));

TEST_F(SessionTest, ATakenHandleCannotBeCreatedAgain) {
  CreateContextAndQueue();
  client_.Send(opencl::CreateQueue{{kContext}, {kQueue}, {}});
  EXPECT_EQ(RunPlayed().reason, EndReason::kProtocol);
}

TEST_F(SessionTest, BrokenBodiesAndPayloadsEndTheSession) {
  CreateContextAndQueue();
  const ByteVector data(8);
  // Announces 4, brings 8.
  client_.Send(opencl::EnqueueWrite{{kQueue}, {kBuffer}, 0, {4}, 0, 0, {}, {}}, data);
  EXPECT_EQ(RunPlayed().reason, EndReason::kProtocol);
}

TEST_F(SessionTest, APayloadOnAMessageThatHasNoneEndsTheSession) {
  client_.Send(wire::AcquireMemory{1}, AsBytes("x"));
  EXPECT_EQ(RunPlayed().reason, EndReason::kProtocol);
}

// --- back-pressure ---

TEST_F(SessionTest, AFullRingHoldsTheStreamAndLosesNothing) {
  played_.room_for = 1;
  int looks = 0;
  played_.on_look = [&] {
    if (++looks % 3 == 0) played_.room_for = 1;
  };
  CreateContextAndQueue();
  for (std::uint32_t slot = 10; slot < 20; ++slot) {
    client_.Send(opencl::CreateQueue{{kContext}, {Handle{slot, 1}}, {}});
  }
  EXPECT_EQ(RunPlayed().reason, EndReason::kGoodbye);
  ASSERT_EQ(played_.seen.size(), 12u);
  for (std::size_t i = 0; i < played_.seen.size(); ++i) EXPECT_EQ(played_.seen[i].sequence, i + 2);
}

TEST_F(SessionTest, NothingIsTakenWithoutRoomForTheLargestPayload) {
  played_.staging_bytes = wire::kMaxPayloadBytes - 1;
  CreateContextAndQueue();
  int looks = 0;
  played_.on_look = [&] {
    if (++looks == 5) {
      EXPECT_TRUE(played_.seen.empty());
      played_.staging_bytes += kMiB;
    }
  };
  EXPECT_EQ(RunPlayed().reason, EndReason::kGoodbye);
  EXPECT_EQ(played_.seen.size(), 2u);
}

TEST_F(SessionTest, ManyTransfersGoThroughTinyStaging) {
  local::Options tiny;
  tiny.staging_bytes = 2 * wire::kMaxPayloadBytes;
  CreateContextAndQueue();
  client_.Send(wire::AcquireMemory{32 * kMiB});
  CreateBuffer(kBuffer, 32 * kMiB);
  std::vector<std::uint64_t> reads;
  for (int round = 0; round < 8; ++round) {
    const std::uint64_t offset = static_cast<std::uint64_t>(round) * wire::kMaxPayloadBytes;
    const ByteVector data(wire::kMaxPayloadBytes, std::byte(round + 1));
    client_.Send(opencl::EnqueueWrite{{kQueue}, {kBuffer}, offset, {data.size()}, 0, 0, {}, {}}, data);
    reads.push_back(
        client_.Send(opencl::EnqueueRead{{kQueue}, {kBuffer}, offset, {data.size()}, 0, 0, {}, {}}));
  }
  client_.WhenAnswered(reads.back());
  EXPECT_EQ(RunOnNull(tiny).reason, EndReason::kGoodbye);
  for (int round = 0; round < 8; ++round) {
    const Sent* sent = client_.Find(reads[static_cast<std::size_t>(round)]);
    ASSERT_NE(sent, nullptr);
    EXPECT_EQ(sent->payload, ByteVector(wire::kMaxPayloadBytes, std::byte(round + 1)));
  }
}

TEST_F(SessionTest, TransfersThatFillStagingBehindAUserEventEnd) {
  limits_.wait_on_user_event = std::chrono::milliseconds(20);
  local::Options tiny;
  tiny.staging_bytes = 2 * wire::kMaxPayloadBytes;
  CreateContextAndQueue();
  client_.Send(wire::AcquireMemory{kMiB});
  CreateBuffer(kBuffer, 4096);
  client_.Send(opencl::CreateUserEvent{{kContext}, {kEvent}});
  const wire::Ref<ObjectKind::kEvent> waits[] = {{kEvent}};
  const ByteVector data(4096);
  for (int i = 0; i < 3000; ++i) {
    client_.Send(opencl::EnqueueWrite{{kQueue}, {kBuffer}, 0, {data.size()}, 0, 0, {waits}, {}}, data);
  }
  EXPECT_EQ(RunOnNull(tiny).reason, EndReason::kResource);
  EXPECT_GT(client_.steps_left(), 0u);
}

TEST_F(SessionTest, AClientThatDoesNotReadIsNotServed) {
  client_.set_pending_bytes(limits_.pending_output_bytes + 1);
  CreateContextAndQueue();
  client_.says_goodbye = false;
  int looks = 0;
  std::thread reader([&] {
    // Ends the session once it sleeps: nothing else would wake it.
    end_.Set(EndReason::kGrantRevoked, "revoked");
  });
  played_.on_look = [&] { ++looks; };
  EXPECT_EQ(RunPlayed().reason, EndReason::kGrantRevoked);
  reader.join();
  EXPECT_TRUE(played_.seen.empty());
  EXPECT_EQ(looks, 0);
}

// --- programs ---

TEST_F(SessionTest, ABuildRunsBesideTheSessionAndHoldsWhatNeedsIt) {
  builder_ = &played_builder_;
  CreateContextAndQueue();
  const auto built = CreateAndBuild("the source");
  client_.Send(opencl::CreateQueue{{kContext}, {Handle{10, 1}}, {}});  // goes on
  const auto kernel = client_.Send(opencl::CreateKernel{{kProgram}, {kKernel}, {"k"}});
  bool loaded = false;
  played_.on_look = [&] {
    const auto& last = played_.seen.empty() ? PlayedExecutor::Seen{} : played_.seen.back();
    if (last.opcode == wire::kOpcodeOf<opencl::CreateQueue> && played_.seen.size() == 3 &&
        !played_builder_.output) {
      EXPECT_EQ(played_builder_.running, 1);
      played_builder_.output = gpu::CompileOutput{0, "a warning\n", ByteVector(10)};
    }
    if (last.opcode == 0x9001 && !loaded) {
      loaded = true;
      EXPECT_EQ(last.sequence, built);
      const opencl::KernelInfo kernels[] = {{.name = {"k"}}};
      played_.Answer(0x9001, built, wire::exec::LoadProgramReply{0, {"loaded\n"}, {kernels}});
    }
  };
  EXPECT_EQ(RunPlayed().reason, EndReason::kGoodbye);
  EXPECT_EQ(played_builder_.texts, std::vector<std::string>{"the source"});
  EXPECT_EQ(played_builder_.option_texts, std::vector<std::string>{"-DX=1"});
  const auto reply = client_.Reply<opencl::BuildProgramReply>(built);
  EXPECT_EQ(reply.status, 0);
  EXPECT_EQ(reply.log.text, "a warning\nloaded\n");
  EXPECT_EQ(reply.binary_bytes, 10u);
  EXPECT_EQ(reply.kernels.items.size(), 1u);
  ASSERT_EQ(played_.seen.size(), 5u);
  EXPECT_EQ(played_.seen[4].sequence, kernel);  // after LoadProgram
  EXPECT_EQ(played_builder_.running, 0);
}

TEST_F(SessionTest, AFailedBuildIsAReplyWithItsLog) {
  client_.Send(opencl::CreateContext{{kContext}});
  const auto built = CreateAndBuild("#error no");
  client_.WhenAnswered(built);
  const auto binary = client_.Send(opencl::GetProgramBinary{{kProgram}, 0, {1}});
  Destroy(ObjectKind::kProgram, kProgram);
  EXPECT_EQ(RunOnNull().reason, EndReason::kGoodbye);
  EXPECT_EQ(client_.Reply<opencl::BuildProgramReply>(built).status, cl_status::kBuildProgramFailure);
  EXPECT_NE(client_.Reply<opencl::BuildProgramReply>(built).log.text, "");
  EXPECT_EQ(client_.Reply<opencl::GetProgramBinaryReply>(binary).status,
            cl_status::kInvalidProgramExecutable);
}

TEST_F(SessionTest, ABuilderThatCannotBeStartedFailsTheBuildOnly) {
  builder_ = &played_builder_;
  played_builder_.fails = true;
  client_.Send(opencl::CreateContext{{kContext}});
  const auto built = CreateAndBuild("x");
  client_.WhenAnswered(built);
  EXPECT_EQ(RunPlayed().reason, EndReason::kGoodbye);
  EXPECT_EQ(client_.Reply<opencl::BuildProgramReply>(built).status, cl_status::kOutOfResources);
}

TEST_F(SessionTest, BuildsWaitForASlotOfTheVGpu) {
  const build::Slots::Slot first = slots_.TryTake();
  build::Slots::Slot second = slots_.TryTake();
  client_.Send(opencl::CreateContext{{kContext}});
  const auto built = CreateAndBuild("x");
  client_.When([&] {
    if (second) {
      EXPECT_EQ(client_.Find(built), nullptr);
      second = {};  // another session's build has ended
    }
    return client_.Find(built) != nullptr;
  });
  EXPECT_EQ(RunOnNull().reason, EndReason::kGoodbye);
}

TEST_F(SessionTest, ProgramsAreBounded) {
  limits_.program_bytes = 10;
  client_.Send(opencl::CreateContext{{kContext}});
  client_.Send(opencl::CreateProgram{{kContext}, {kProgram}, {opencl::ProgramKind::kSource}});
  client_.Send(opencl::ProgramText{{kProgram}, {8}}, AsBytes("12345678"));
  client_.Send(opencl::ProgramText{{kProgram}, {8}}, AsBytes("12345678"));
  const Ending ending = RunPlayed();
  EXPECT_EQ(ending.reason, EndReason::kResource);
  EXPECT_NE(ending.message.find("10B"), std::string::npos) << ending.message;
}

TEST_F(SessionTest, TextAfterTheBuildIsABreach) {
  client_.Send(opencl::CreateContext{{kContext}});
  const auto built = CreateAndBuild("x");
  client_.WhenAnswered(built);
  client_.Send(opencl::ProgramText{{kProgram}, {1}}, AsBytes("y"));
  EXPECT_EQ(RunOnNull().reason, EndReason::kProtocol);
}

TEST_F(SessionTest, BinaryPiecesOutsideTheBinaryAreRefused) {
  client_.Send(opencl::CreateContext{{kContext}});
  const auto built = CreateAndBuild("kernel void k(global uint* a) {}");
  client_.WhenAnswered(built);
  const auto past = client_.Send(opencl::GetProgramBinary{{kProgram}, 1u << 20, {1}});
  const auto wraps = client_.Send(opencl::GetProgramBinary{{kProgram}, ~std::uint64_t{0}, {2}});
  client_.WhenAnswered(wraps);
  EXPECT_EQ(RunOnNull().reason, EndReason::kGoodbye);
  EXPECT_EQ(client_.Reply<opencl::GetProgramBinaryReply>(past).status, cl_status::kInvalidValue);
  EXPECT_EQ(client_.Reply<opencl::GetProgramBinaryReply>(wraps).status, cl_status::kInvalidValue);
}

// --- the executor's word ---

class LyingExecutor : public SessionTest {
 protected:
  // What the executor does once it has seen the client's last command, an EnqueueKernel with an event.
  void ExpectDistrust(std::function<void(std::uint64_t kernel)> lie) {
    CreateContextAndQueue();
    client_.Send(wire::AcquireMemory{kMiB});
    CreateBuffer(kBuffer, 4096);
    const std::uint64_t last = client_.Send(opencl::EnqueueSync{{kQueue}, {}, {}, {kEvent}});
    client_.says_goodbye = false;
    bool lied = false;
    played_.on_look = [&, lie = std::move(lie)] {
      if (played_.seen.size() != 4 || std::exchange(lied, true)) return;
      lie(last);
    };
    const Ending ending = RunPlayed();
    EXPECT_EQ(ending.reason, EndReason::kDeviceLost);
    EXPECT_TRUE(ending.executor_crashed);
    EXPECT_NE(ending.detail, "");
    EXPECT_TRUE(played_.killed);
  }
  void Complete(Handle event) {
    const opencl::EventCompletion events[] = {{.event = event}};
    played_.Notice(opencl::EventsCompleted{{events}});
  }
};

TEST_F(LyingExecutor, AnswersToNothing) {
  ExpectDistrust([&](std::uint64_t last) {
    played_.Answer(wire::kOpcodeOf<opencl::EnqueueSync>, last,
                   wire::StatusReply{0});  // a status nobody asked for
  });
}
TEST_F(LyingExecutor, AnswersToTheFuture) {
  ExpectDistrust([&](std::uint64_t last) {
    played_.Answer(wire::kOpcodeOf<opencl::Finish>, last + 1, wire::StatusReply{0});
  });
}
TEST_F(LyingExecutor, CompletesAnEventThatNobodyMade) {
  ExpectDistrust([&](std::uint64_t) { Complete({7, 1}); });
}
TEST_F(LyingExecutor, CompletesAnEventOfTheFuture) {
  ExpectDistrust([&](std::uint64_t) { Complete({6, 2}); });
}
TEST_F(LyingExecutor, CompletesAnEventTwice) {
  ExpectDistrust([&](std::uint64_t) {
    Complete(kEvent);
    Complete(kEvent);
  });
}
TEST_F(LyingExecutor, CompletesAnEventBeyondAllSlots) {
  ExpectDistrust([&](std::uint64_t) { Complete({~0u, 1}); });
}
TEST_F(LyingExecutor, FailsACommandThatWasNotSent) {
  ExpectDistrust([&](std::uint64_t last) { played_.Notice(wire::CommandFailed{last + 1, -5}); });
}
TEST_F(LyingExecutor, SendsWhatOnlyAWorkerSays) {
  ExpectDistrust([&](std::uint64_t) { played_.Notice(wire::SessionEnded{}); });
}

TEST_F(SessionTest, AnswersOfTheWrongKindAreNotPassedOn) {
  CreateContextAndQueue();
  const auto finish = client_.Send(opencl::Finish{{kQueue}});
  client_.says_goodbye = false;
  bool lied = false;
  played_.on_look = [&] {
    if (played_.seen.size() == 3 && !std::exchange(lied, true)) {
      played_.Answer(wire::kOpcodeOf<wire::Ping>, finish, wire::StatusReply{0});
    }
  };
  EXPECT_EQ(RunPlayed().reason, EndReason::kDeviceLost);
  EXPECT_TRUE(client_.sent().empty());
}

TEST_F(SessionTest, ADeadExecutorIsALostDevice) {
  CreateContextAndQueue();
  const auto finish = client_.Send(opencl::Finish{{kQueue}});
  client_.says_goodbye = false;
  played_.on_look = [&] {
    if (played_.seen.size() != 3 || played_.dead) return;
    played_.Answer(wire::kOpcodeOf<opencl::Finish>, finish, wire::StatusReply{0});  // its last words count
    played_.dead = true;
  };
  const Ending ending = RunPlayed();
  EXPECT_EQ(ending.reason, EndReason::kDeviceLost);
  EXPECT_EQ(ending.message, "the executor was killed by signal 11");
  EXPECT_TRUE(ending.executor_crashed);
  EXPECT_EQ(client_.StatusOf(finish), 0);
  ASSERT_TRUE(client_.end.has_value());
  EXPECT_EQ(client_.end->reason, EndReason::kDeviceLost);
}

TEST_F(SessionTest, EndsWhenItIsToldTo) {
  client_.says_goodbye = false;
  end_.Set(EndReason::kGrantRevoked, "the claim has ended");
  end_.Set(EndReason::kShuttingDown, "too late");
  const Ending ending = RunPlayed();
  EXPECT_EQ(ending.reason, EndReason::kGrantRevoked);
  EXPECT_EQ(client_.end->message, "the claim has ended");
}

TEST_F(SessionTest, LateCompletionsOfDestroyedEventsAreFine) {
  CreateContextAndQueue();
  client_.Send(opencl::EnqueueSync{{kQueue}, {}, {}, {kEvent}});
  Destroy(ObjectKind::kEvent, kEvent);
  client_.Send(opencl::EnqueueSync{{kQueue}, {}, {}, {Handle{6, 2}}});
  bool completed = false;
  played_.on_look = [&] {
    if (played_.seen.size() != 5 || std::exchange(completed, true)) return;
    const opencl::EventCompletion events[] = {{.event = kEvent}, {.event = {6, 2}}};
    played_.Notice(opencl::EventsCompleted{{events}});
  };
  client_.When([&] { return !client_.sent().empty(); });
  EXPECT_EQ(RunPlayed().reason, EndReason::kGoodbye);
}

}  // namespace
}  // namespace tulle::worker::exec
