// Both ends of a session over real sockets in one process. Seeded; waits for conditions, never for time.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include "tulle/base/log.h"
#include "tulle/net/tcp/socket.h"
#include "tulle/net/wait.h"
#include "tulle/session/frame_io.h"
#include "tulle/session/secure.h"
#include "tulle/session/test_pair.h"

namespace tulle::session {
namespace {

using wire::opencl::EnqueueRead;
using wire::opencl::EnqueueReadReply;
using wire::opencl::EnqueueWrite;
using wire::opencl::Finish;

Instant Soon() { return net::Now() + std::chrono::seconds(30); }

// The payload of a command or reply, told by its number and size.
void FillPattern(std::uint64_t seed, MutableByteView out) { SeededRandom(seed).Fill(out); }
bool HasPattern(std::uint64_t seed, ByteView bytes) {
  ByteVector expected(bytes.size());
  FillPattern(seed, expected);
  return std::equal(bytes.begin(), bytes.end(), expected.begin());
}

template <wire::Message M>
M WithHandles() {
  M message;
  M::ForEachField(message, [](std::string_view, auto& field) {
    if constexpr (wire::internal::IsHandle<std::remove_cvref_t<decltype(field)>>::value)
      field.handle = {1, 1};
  });
  return message;
}
EnqueueWrite WriteOf(std::uint64_t seed, std::size_t size) {
  auto message = WithHandles<EnqueueWrite>();
  message.offset_bytes = seed;
  message.data.size_bytes = size;
  return message;
}
EnqueueRead ReadOf(std::uint64_t seed, std::size_t size) {
  auto message = WithHandles<EnqueueRead>();
  message.offset_bytes = seed;
  message.data.size_bytes = size;
  return message;
}

// A worker's loop, with a device that echoes: writes are compared with the pattern of their offset, reads
// answered with it, statuses are the low bits of the sequence number.
class EchoWorker final : public FrameHandler {
 public:
  explicit EchoWorker(std::uint64_t seed = 1) : random_(seed) {}

  void Start(std::unique_ptr<ServerSession> session) {
    session_ = std::move(session);
    int fds[2];
    TULLE_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    wake_ = UniqueFd(fds[0]);
    woken_ = UniqueFd(fds[1]);
    thread_ = std::thread([this] { Run(); });
  }
  ~EchoWorker() override { Join(); }
  void Join() {
    if (thread_.joinable()) thread_.join();
  }
  // From another thread: ends the session, as a revoked grant does.
  void End(wire::EndReason reason, std::string message) {
    {
      const std::lock_guard lock(mutex_);
      end_ = reason;
      end_message_ = std::move(message);
    }
    Wake();
  }
  // Stops reading, and goes on.
  void Hold(bool hold) {
    hold_ = hold;
    Wake();
  }
  void HoldAcks(bool hold) {
    hold_acks_ = hold;
    Wake();
  }

  Result<MutableByteView> OnPayload(const wire::FrameHeader& header, ByteView) override {
    room_.resize(header.payload_bytes);
    return MutableByteView(room_);
  }
  Status OnFrame(const wire::FrameHeader& header, ByteView body, MutableByteView payload) override {
    ++frames_;
    last_ = header.sequence;
    sequences_ok_ = sequences_ok_ && header.sequence > last_seen_;
    last_seen_ = header.sequence;
    arena_.Reset();
    if (header.opcode == wire::kOpcodeOf<EnqueueWrite>) {
      EnqueueWrite message;
      TULLE_RETURN_IF_ERROR(CheckedOrBreach(wire::Decode(body, header.payload_bytes, arena_, &message)));
      if (!HasPattern(message.offset_bytes, payload)) patterns_ok_ = false;
    }
    if (header.opcode == wire::kOpcodeOf<EnqueueRead>) {
      EnqueueRead message;
      TULLE_RETURN_IF_ERROR(CheckedOrBreach(wire::Decode(body, header.payload_bytes, arena_, &message)));
      later_.push_back({header.opcode, header.sequence, message.offset_bytes, message.data.size_bytes});
    } else if (header.opcode == wire::kOpcodeOf<Finish> || (header.flags & wire::kWantStatus) != 0) {
      later_.push_back({header.opcode, header.sequence, 0, 0});
    }
    if (later_.size() >= 1 + random_.Below(8)) Answer();
    return OkStatus();
  }

  std::uint64_t frames() const { return frames_; }
  bool patterns_ok() const { return patterns_ok_; }
  bool sequences_ok() const { return sequences_ok_; }
  const Error& end_error() const { return *end_error_; }
  std::size_t most_pending() const { return most_pending_; }

 private:
  struct Later {
    std::uint16_t opcode;
    std::uint64_t sequence, seed, size;
  };

  void Wake() {
    const char byte = 0;
    TULLE_CHECK(send(wake_.get(), &byte, 1, MSG_NOSIGNAL) == 1);
  }

  // Out of order: replies may be.
  void Answer() {
    while (!later_.empty()) {
      const std::size_t i = random_.Below(later_.size());
      const Later one = later_[i];
      later_.erase(later_.begin() + static_cast<std::ptrdiff_t>(i));
      if (one.opcode == wire::kOpcodeOf<EnqueueRead>) {
        ByteVector bytes(one.size);
        FillPattern(one.seed, bytes);
        EnqueueReadReply reply;
        reply.data.size_bytes = one.size;
        EXPECT_TRUE(session_->SendReply(one.opcode, one.sequence, reply, bytes).ok());
      } else {
        EXPECT_TRUE(session_
                        ->SendReply(one.opcode, one.sequence,
                                    wire::StatusReply{static_cast<std::int32_t>(one.sequence & 0xff)})
                        .ok());
      }
      most_pending_ = std::max(most_pending_.load(), session_->pending_bytes());
    }
  }

  void Run() {
    for (;;) {
      {
        const std::lock_guard lock(mutex_);
        if (end_) return session_->End(*end_, end_message_);
      }
      session_->Pause(hold_ || session_->pending_bytes() > (8u << 20));
      const auto pumped = session_->Pump(*this);
      if (!pumped.ok()) {
        end_error_ = pumped.error();
        return session_->End(wire::EndReason::kGoodbye, "");
      }
      if (!*pumped) Answer();
      if (!hold_acks_) session_->Acknowledge(last_);
      const auto flushed = session_->Flush();
      if (!flushed.ok()) {
        end_error_ = flushed.error();
        return session_->End(wire::EndReason::kGoodbye, "");
      }
      if (*pumped || session_->has_buffered_input()) continue;
      pollfd fds[] = {{session_->fd(), session_->events(), 0}, {woken_.get(), POLLIN, 0}};
      poll(fds, 2, -1);
      char bytes[64];
      if ((fds[1].revents & POLLIN) != 0) {
        [[maybe_unused]] const ssize_t got = recv(woken_.get(), bytes, sizeof bytes, MSG_DONTWAIT);
      }
    }
  }

  SeededRandom random_;
  std::unique_ptr<ServerSession> session_;
  std::thread thread_;
  UniqueFd wake_, woken_;
  std::mutex mutex_;
  std::optional<wire::EndReason> end_;
  std::string end_message_;
  std::atomic<bool> hold_{false}, hold_acks_{false};
  ByteVector room_;
  wire::Arena arena_;
  std::vector<Later> later_;
  std::uint64_t last_ = 0, last_seen_ = 0;
  std::atomic<std::uint64_t> frames_{0};
  std::atomic<bool> patterns_ok_{true}, sequences_ok_{true};
  std::optional<Error> end_error_;
  std::atomic<std::size_t> most_pending_{0};
};

// Notes what arrives. `Wait` is the usual way to a result.
class Client final : public ClientHandler {
 public:
  std::unique_ptr<ClientSession> session;

  // Sends, and returns the status in the reply; nothing when the session was lost.
  template <wire::Message M>
  std::optional<std::int32_t> Call(const M& message, std::span<const ByteView> payload = {},
                                   std::uint16_t flags = 0, MutableByteView room = {}) {
    Expected expected;
    expected.room = room;
    Register registering{this, &expected};
    const auto sequence = session->Send(message, payload, flags, &Register::Run, &registering);
    if (!sequence.ok()) return std::nullopt;
    EXPECT_EQ(*sequence, registering.sequence);
    if (!session->WaitUntil([&] { return expected.done; }).ok()) return std::nullopt;
    return expected.status;
  }
  bool Ping() { return Call(wire::Ping{5}) == 0; }

  Result<MutableByteView> OnPayload(const wire::FrameHeader& header, ByteView) override {
    const std::lock_guard lock(mutex_);
    const auto found = expected_.find(header.answers);
    return found == expected_.end() ? MutableByteView() : found->second->room;
  }
  Status OnFrame(const wire::FrameHeader& header, ByteView body, MutableByteView payload) override {
    if (in_handler != nullptr) in_handler();
    const std::lock_guard lock(mutex_);
    if (header.answers == 0) {
      ++notices;
      return OkStatus();
    }
    const auto found = expected_.find(header.answers);
    if (found == expected_.end()) return OkStatus();
    wire::Arena arena;
    if (header.opcode == wire::kOpcodeOf<EnqueueRead>) {
      EnqueueReadReply reply;
      TULLE_RETURN_IF_ERROR(CheckedOrBreach(wire::Decode(body, header.payload_bytes, arena, &reply)));
      found->second->status = reply.status;
      found->second->got = payload.size();
    } else {
      wire::StatusReply reply;
      TULLE_RETURN_IF_ERROR(CheckedOrBreach(wire::Decode(body, header.payload_bytes, arena, &reply)));
      found->second->status = reply.status;
    }
    found->second->done = true;
    expected_.erase(found);
    return OkStatus();
  }
  void OnLost(const Error& error) override {
    const std::lock_guard lock(mutex_);
    ++lost_times;
    lost_error = error;
    lost.notify_all();
  }
  Error AwaitLost() {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(lost.wait_for(lock, std::chrono::seconds(30), [&] { return lost_times != 0; }));
    return lost_error;
  }

  std::function<void()> in_handler;
  std::atomic<int> notices = 0;
  std::atomic<int> lost_times = 0;
  Error lost_error;
  std::condition_variable lost;

 private:
  struct Expected {
    MutableByteView room;
    std::int32_t status = 0;
    std::size_t got = 0;
    bool done = false;
  };
  struct Register {
    Client* client;
    Expected* expected;
    std::uint64_t sequence = 0;
    static void Run(void* argument, std::uint64_t sequence) {
      auto* self = static_cast<Register*>(argument);
      self->sequence = sequence;
      const std::lock_guard lock(self->client->mutex_);
      self->client->expected_[sequence] = self->expected;
    }
  };
  std::mutex mutex_;
  std::map<std::uint64_t, Expected*> expected_;
};

SocketPair TcpPair() {
  auto listener = net::ListenTcp("127.0.0.1", 0);
  TULLE_CHECK(listener.ok());
  auto client = net::ConnectTcp({"127.0.0.1", listener->port}, Soon());
  TULLE_CHECK(client.ok());
  net::WaitFor(listener->socket.get(), POLLIN, Soon());
  return {std::move(*client), UniqueFd(accept4(listener->socket.get(), nullptr, nullptr, SOCK_CLOEXEC))};
}

struct Kind {
  const char* name;
  bool tls;
  bool tcp;
};

ClientSession::Options ClientOptions(bool tls) {
  static SecureRandom random;
  ClientSession::Options options;
  options.target = TestTarget();
  options.target.tls = tls;
  options.program = "session_test\n";
  options.random = &random;
  return options;
}

struct Ends {
  Result<std::unique_ptr<ServerSession>> server = Error{};
  Result<std::unique_ptr<ClientSession>> client = Error{};
};
Ends Connect(SocketPair sockets, ClientHandler* handler, const ClientSession::Options& options,
             ServerLimits limits, const ServerSession::KeyLookup& keys = TestKeys) {
  Ends ends;
  std::thread accepting(
      [&] { ends.server = ServerSession::Accept(std::move(sockets.server), limits, keys); });
  ends.client = ClientSession::ConnectOver(std::move(sockets.client), options, handler);
  accepting.join();
  return ends;
}

class SessionTest : public testing::TestWithParam<Kind> {
 protected:
  void Start(ServerLimits limits = {}) {
    limits.allow_plain_tcp = true;
    Ends ends = Connect(GetParam().tcp ? TcpPair() : MakeSocketPair(), &client_,
                        ClientOptions(GetParam().tls), limits);
    ASSERT_TRUE(ends.client.ok()) << ToString(ends.client.error());
    ASSERT_TRUE(ends.server.ok()) << ToString(ends.server.error());
    client_.session = std::move(*ends.client);
    EXPECT_EQ((*ends.server)->peer().vgpu, TestTarget().vgpu);
    EXPECT_EQ((*ends.server)->peer().grant, TestTarget().grant);
    EXPECT_EQ((*ends.server)->peer().program, "session_test?") << "unprintable bytes do not reach a log";
    EXPECT_EQ((*ends.server)->peer().process_id, static_cast<std::uint32_t>(getpid()));
    worker_.Start(std::move(*ends.server));
  }
  void TearDown() override {
    if (client_.session != nullptr) client_.session->Close();
    worker_.Join();
    EXPECT_TRUE(worker_.patterns_ok());
    EXPECT_TRUE(worker_.sequences_ok());
    EXPECT_LE(client_.lost_times, 1);
  }
  ClientSession& session() { return *client_.session; }

  Client client_;
  EchoWorker worker_;
};

TEST_P(SessionTest, HandshakeTellsTheLimits) {
  ServerLimits limits;
  limits.window_bytes = 12345;
  limits.memory_limit_bytes = 1u << 30;
  Start(limits);
  EXPECT_EQ(session().limits().version, wire::kWireVersion);
  EXPECT_EQ(session().limits().capabilities, wire::KnownCapabilities());
  EXPECT_EQ(session().limits().window_bytes, 12345u);
  EXPECT_EQ(session().limits().memory_limit_bytes, 1u << 30);
}

TEST_P(SessionTest, CallsAreAnswered) {
  Start();
  EXPECT_TRUE(client_.Ping());
  for (int i = 0; i < 300; ++i) {
    const auto status = client_.Call(WithHandles<Finish>());
    ASSERT_TRUE(status.has_value());
    ASSERT_EQ(*status, (3 + i) & 0xff) << "of the command's sequence number";
  }
  EXPECT_TRUE(client_.Call(wire::DestroyObject{{wire::ObjectKind::kEvent, {1, 1}}}, {}, wire::kWantStatus)
                  .has_value());
}

TEST_P(SessionTest, CommandsWithoutAnswerArriveInOrder) {
  Start();
  constexpr int kCommands = 30'000;
  for (int i = 0; i < kCommands; ++i) {
    ASSERT_TRUE(session().Send(wire::DestroyObject{{wire::ObjectKind::kEvent, {1, 1}}}).ok());
  }
  ASSERT_TRUE(client_.Call(WithHandles<Finish>()).has_value());
  EXPECT_EQ(worker_.frames(), kCommands + 1u);
}

TEST_P(SessionTest, NothingLingersWithoutAFlush) {
  Start();
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(session().Send(wire::DestroyObject{{wire::ObjectKind::kEvent, {1, 1}}}).ok());
  }
  // No call of the session from here on: it is the I/O thread that sends.
  while (worker_.frames() < 3) std::this_thread::yield();
  ASSERT_TRUE(session().Send(WithHandles<Finish>()).ok());
  while (worker_.frames() < 4) std::this_thread::yield();
}

TEST_P(SessionTest, PayloadsOfAllSizesBothWays) {
  Start();
  SeededRandom random(4);
  for (const std::size_t size : {1u, 100u, 16383u, 16384u, 16385u, 100'000u, 1u << 20, 4u << 20}) {
    for (int round = 0; round < 2; ++round) {
      const std::uint64_t seed = random.Next();
      ByteVector bytes(size);
      FillPattern(seed, bytes);
      // Cut into many pieces, as a strided write is.
      std::vector<ByteView> pieces;
      for (ByteView rest(bytes); !rest.empty();) {
        const std::size_t piece =
            round == 0 ? rest.size() : std::min<std::size_t>(rest.size(), random.Below(20'000));
        pieces.push_back(rest.first(piece));
        rest = rest.subspan(piece);
      }
      ASSERT_TRUE(session().Send(WriteOf(seed, size), pieces).ok());
      std::fill(bytes.begin(), bytes.end(), std::byte{});  // it was copied or written
      ByteVector back(size);
      ASSERT_EQ(client_.Call(ReadOf(seed, size), {}, 0, back), 0);
      ASSERT_TRUE(HasPattern(seed, back));
    }
  }
}

TEST_P(SessionTest, APayloadWithoutRoomIsDropped) {
  Start();
  ASSERT_EQ(client_.Call(ReadOf(1, 1u << 20), {}, 0, {}), 0);
  EXPECT_TRUE(client_.Ping());
}

TEST_P(SessionTest, SixteenThreadsAtOnce) {
  Start();
  std::vector<std::thread> threads;
  std::atomic<int> failures = 0;
  for (std::uint64_t t = 0; t < 16; ++t) {
    threads.emplace_back([&, t] {
      SeededRandom random(t);
      for (int i = 0; i < 60; ++i) {
        switch (random.Below(5)) {
          case 0: {
            if (!client_.Call(WithHandles<Finish>())) ++failures;
            break;
          }
          case 1: {
            const std::size_t size = 1 + random.Below(60'000);
            ByteVector back(size);
            if (client_.Call(ReadOf(t, size), {}, 0, back) != 0 || !HasPattern(t, back)) ++failures;
            break;
          }
          case 2: {
            ByteVector bytes(1 + random.Below(60'000));
            FillPattern(t, bytes);
            const ByteView view(bytes);
            if (!session().Send(WriteOf(t, bytes.size()), {&view, 1}).ok()) ++failures;
            break;
          }
          case 3: session().Poll(); break;
          default:
            if (!session().Send(wire::DestroyObject{{wire::ObjectKind::kEvent, {1, 1}}}).ok()) ++failures;
            if (random.Below(3) == 0 && !session().Flush().ok()) ++failures;
        }
      }
      if (!client_.Ping()) ++failures;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failures, 0);
}

TEST_P(SessionTest, TheWindowHoldsSendersUntilTheWorkerAcknowledges) {
  ServerLimits limits;
  limits.window_bytes = 4000;
  Start(limits);
  ASSERT_TRUE(client_.Ping());
  worker_.HoldAcks(true);
  std::atomic<int> sent = 0;
  std::thread sender([&] {
    for (int i = 0; i < 300; ++i) {
      EXPECT_TRUE(session().Send(wire::DestroyObject{{wire::ObjectKind::kEvent, {1, 1}}}).ok());
      ++sent;
    }
  });
  const int fits =
      static_cast<int>(4000 / (wire::kFrameHeaderBytes + wire::EncodedSize(wire::DestroyObject{})));
  while (sent < fits) std::this_thread::yield();
  while (worker_.frames() < static_cast<std::uint64_t>(fits)) std::this_thread::yield();
  EXPECT_EQ(sent, fits);
  worker_.HoldAcks(false);
  sender.join();
  // A frame larger than the whole window goes alone.
  ByteVector bytes(100'000);
  FillPattern(9, bytes);
  const ByteView view(bytes);
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(session().Send(WriteOf(9, bytes.size()), {&view, 1}).ok());
  ASSERT_TRUE(client_.Call(WithHandles<Finish>()).has_value());
}

TEST_P(SessionTest, FullSocketsBothWaysDoNotLock) {
  Start();
  // The worker answers while it reads, far more than the sockets hold; so does this end send.
  std::vector<std::thread> threads;
  std::atomic<int> failures = 0;
  for (std::uint64_t t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      ByteVector bytes(2u << 20), back(2u << 20);
      FillPattern(t, bytes);
      const ByteView view(bytes);
      for (int i = 0; i < 3; ++i) {
        for (int k = 0; k < 4; ++k) {
          if (!session().Send(ReadOf(t, 1u << 20)).ok()) ++failures;  // its payload is dropped
          if (!session().Send(WriteOf(t, bytes.size()), {&view, 1}).ok()) ++failures;
        }
      }
      if (client_.Call(ReadOf(t, back.size()), {}, 0, back) != 0 || !HasPattern(t, back)) ++failures;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failures, 0);
  // The loop stops taking commands beyond 8 MiB; one batch of replies may come on top.
  EXPECT_LE(worker_.most_pending(), 24u << 20);
}

TEST_P(SessionTest, NeverMoreUnderWayThanTheWindow) {
  ServerLimits limits;
  limits.window_bytes = 8u << 20;
  Start(limits);
  ByteVector bytes(1u << 20);
  FillPattern(3, bytes);
  const ByteView view(bytes);
  for (std::uint64_t sent = 1; sent <= 40; ++sent) {
    ASSERT_TRUE(session().Send(WriteOf(3, bytes.size()), {&view, 1}).ok());
    EXPECT_LE(sent - worker_.frames(), 8u);
  }
  ASSERT_TRUE(client_.Call(WithHandles<Finish>()).has_value());
}

TEST_P(SessionTest, ALostConnectionWakesEverybodyOnce) {
  Start();
  worker_.Hold(true);
  std::vector<std::thread> threads;
  std::atomic<int> waiting = 0, woken = 0;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      if (t % 2 == 0) {
        ++waiting;
        if (!client_.Call(WithHandles<Finish>())) ++woken;
      } else {
        ByteVector bytes(1u << 20);
        FillPattern(3, bytes);
        const ByteView view(bytes);
        Status status;
        ++waiting;
        while (status.ok()) {
          const auto sent = session().Send(WriteOf(3, bytes.size()), {&view, 1});
          if (!sent.ok()) status = sent.error();
        }
        ++woken;
      }
    });
  }
  while (waiting < 8) std::this_thread::yield();
  worker_.End(wire::EndReason::kDeviceLost, "the device went away");
  const Error error = client_.AwaitLost();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(woken, 8);
  EXPECT_EQ(client_.lost_times, 1);
  EXPECT_EQ(error.code, Code::kAborted) << ToString(error);
  EXPECT_NE(error.message.find("the device went away"), std::string::npos);
  EXPECT_TRUE(session().lost());
  const auto sent = session().Send(WithHandles<Finish>());
  ASSERT_FALSE(sent.ok());
  EXPECT_EQ(sent.error().message, error.message) << "every later call gives the same reason";
  EXPECT_FALSE(session().Flush().ok());
  session().Poll();
}

TEST_P(SessionTest, ARevokedGrantEndsTheSessionWithItsReason) {
  Start();
  ASSERT_TRUE(client_.Ping());
  worker_.End(wire::EndReason::kGrantRevoked, "the claim was deleted");
  const Error error = client_.AwaitLost();  // nobody waits in the session: the I/O thread finds out
  EXPECT_EQ(error.code, Code::kPermissionDenied);
  EXPECT_NE(error.message.find("the claim was deleted"), std::string::npos);
}

TEST_P(SessionTest, CloseSaysGoodbyeAndIsNotALoss) {
  Start();
  ASSERT_TRUE(client_.Ping());
  for (int i = 0; i < 10; ++i) {
    ASSERT_TRUE(session().Send(wire::DestroyObject{{wire::ObjectKind::kEvent, {1, 1}}}).ok());
  }
  session().Close();
  worker_.Join();
  EXPECT_EQ(worker_.frames(), 10u) << "what was queued has arrived";
  EXPECT_EQ(worker_.end_error().code, Code::kCancelled);
  EXPECT_EQ(client_.lost_times, 0);
  EXPECT_FALSE(session().Send(wire::Ping{}).ok());
  session().Close();
}

TEST_P(SessionTest, CloseDoesNotHangOnAWorkerThatTakesNothing) {
  Start();
  worker_.Hold(true);
  ByteVector bytes(20'000);  // of which the first fits into the socket
  const ByteView view(bytes);
  std::atomic<int> sent = 0;
  std::thread sender([&] {
    while (session().Send(WriteOf(3, bytes.size()), {&view, 1}).ok()) ++sent;
  });
  // More than a socket holds is on its way; no word of it is read.
  while (sent == 0 && !session().lost()) std::this_thread::yield();
  const Instant before = net::Now();
  session().Close();
  EXPECT_LT(net::Now() - before, std::chrono::seconds(10));
  sender.join();
  worker_.End(wire::EndReason::kGoodbye, "");
}

TEST_P(SessionTest, TheHandlerMayNotSendOrWait) {
  Start();
  std::atomic<int> refused = 0;
  client_.in_handler = [&] {
    if (session().Send(wire::Ping{}).ok() || session().Flush().ok()) return;
    if (session().WaitUntil([] { return true; }).ok()) return;
    session().Poll();
    ++refused;
  };
  EXPECT_TRUE(client_.Ping());
  EXPECT_EQ(refused, 1);
}

TEST_P(SessionTest, WhatIsNotAFrameIsRefusedBeforeItIsSent) {
  Start();
  ByteVector bytes(10);
  const ByteView view(bytes);
  EXPECT_EQ(session().Send(WriteOf(1, 11), {&view, 1}).error().code, Code::kInvalidArgument);
  EXPECT_EQ(session().Send(WithHandles<Finish>(), {&view, 1}).error().code, Code::kInvalidArgument);
  EXPECT_EQ(session().Send(WithHandles<Finish>(), {}, wire::kWantStatus).error().code,
            Code::kInvalidArgument);
  EXPECT_TRUE(client_.Ping());
}

TEST_P(SessionTest, TheChildOfAForkGivesUpWithoutTouchingTheParents) {
  Start();
  ASSERT_TRUE(client_.Ping());
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(session().Send(wire::DestroyObject{{wire::ObjectKind::kEvent, {1, 1}}}).ok());
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      client_.session->AbandonAfterFork();
      _exit(0);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
    ASSERT_TRUE(client_.Ping());
  }
  EXPECT_EQ(worker_.frames(), 5u);
}

INSTANTIATE_TEST_SUITE_P(All, SessionTest,
                         testing::Values(Kind{"TlsOverTcp", true, true}, Kind{"PlainTcp", false, true},
                                         Kind{"TlsOverSocketPair", true, false}),
                         [](const auto& info) { return std::string(info.param.name); });

// --- handshakes that fail ---

TEST(HandshakeTest, AnotherKey) {
  for (const bool tls : {true, false}) {
    Client client;
    auto options = ClientOptions(tls);
    options.target.key[5] ^= std::byte{1};
    ServerLimits limits;
    limits.allow_plain_tcp = true;
    const Ends ends = Connect(MakeSocketPair(), &client, options, limits);
    ASSERT_FALSE(ends.server.ok());
    ASSERT_FALSE(ends.client.ok());
    EXPECT_EQ(ends.client.error().code, Code::kUnauthenticated) << ToString(ends.client.error());
    EXPECT_EQ(ends.server.error().code, Code::kUnauthenticated) << ToString(ends.server.error());
    EXPECT_EQ(client.lost_times, 0);
  }
}

TEST(HandshakeTest, AnUnknownRevokedOrForeignGrant) {
  for (const bool tls : {true, false}) {
    for (const bool vgpu : {true, false}) {
      Client client;
      auto options = ClientOptions(tls);
      (vgpu ? options.target.vgpu : options.target.grant) = "other";
      ServerLimits limits;
      limits.allow_plain_tcp = true;
      const Ends ends = Connect(MakeSocketPair(), &client, options, limits);
      ASSERT_FALSE(ends.server.ok());
      ASSERT_FALSE(ends.client.ok());
      EXPECT_EQ(ends.client.error().code, Code::kPermissionDenied) << ToString(ends.client.error());
      EXPECT_NE(ends.client.error().message.find("other"), std::string::npos);
      EXPECT_EQ(ends.server.error().message, "unknown grant");
    }
  }
}

TEST(HandshakeTest, PlainOnlyWhereItIsAllowed) {
  Client client;
  const Ends ends = Connect(MakeSocketPair(), &client, ClientOptions(false), {});
  ASSERT_FALSE(ends.server.ok());
  ASSERT_FALSE(ends.client.ok());
  EXPECT_NE(ends.client.error().message.find("without TLS"), std::string::npos)
      << ToString(ends.client.error());
}

TEST(HandshakeTest, ABusyWorkerSaysSo) {
  Client client;
  ServerLimits limits;
  limits.busy = "8 sessions of 8 are in use";
  const Ends ends = Connect(MakeSocketPair(), &client, ClientOptions(true), limits);
  ASSERT_FALSE(ends.server.ok());
  ASSERT_FALSE(ends.client.ok());
  EXPECT_EQ(ends.client.error().code, Code::kResourceExhausted);
  EXPECT_NE(ends.client.error().message.find(limits.busy), std::string::npos);
}

TEST(HandshakeTest, NoCommonCapability) {
  Client client;
  ServerLimits limits;
  limits.capabilities = 0;
  const Ends ends = Connect(MakeSocketPair(), &client, ClientOptions(true), limits);
  ASSERT_FALSE(ends.client.ok());
  EXPECT_EQ(ends.client.error().code, Code::kFailedPrecondition) << ToString(ends.client.error());
}

TEST(HandshakeTest, ASilentClientRunsIntoTheDeadline) {
  SocketPair sockets = MakeSocketPair();
  ServerLimits limits;
  limits.handshake_timeout = std::chrono::milliseconds(1);
  const auto server = ServerSession::Accept(std::move(sockets.server), limits, TestKeys);
  ASSERT_FALSE(server.ok());
  EXPECT_EQ(server.error().code, Code::kDeadlineExceeded);
}

TEST(HandshakeTest, EndpointsAreTriedInOrderAndEachFailureIsTold) {
  std::uint16_t closed = 0;
  {
    const auto gone = net::ListenTcp("127.0.0.1", 0);
    closed = gone->port;
  }
  auto listener = net::ListenTcp("127.0.0.1", 0);
  ASSERT_TRUE(listener.ok());
  Client client;
  auto options = ClientOptions(true);
  const std::string bad = "127.0.0.1:" + std::to_string(closed);
  options.target.endpoints = {bad, "nonsense"};
  const auto failed = ClientSession::Connect(options, &client);
  ASSERT_FALSE(failed.ok());
  EXPECT_NE(failed.error().message.find(bad), std::string::npos);
  EXPECT_NE(failed.error().message.find("nonsense"), std::string::npos);

  options.target.endpoints = {bad, "127.0.0.1:" + std::to_string(listener->port)};
  EchoWorker worker;
  std::thread accepting([&] {
    net::WaitFor(listener->socket.get(), POLLIN, Soon());
    auto server = ServerSession::Accept(
        UniqueFd(accept4(listener->socket.get(), nullptr, nullptr, SOCK_CLOEXEC)), {}, TestKeys);
    ASSERT_TRUE(server.ok());
    worker.Start(std::move(*server));
  });
  auto session = ClientSession::Connect(options, &client);
  accepting.join();
  ASSERT_TRUE(session.ok()) << ToString(session.error());
  client.session = std::move(*session);
  EXPECT_TRUE(client.Ping());
  client.session->Close();
}

// --- peers that break the protocol ---

// One end that is proved by its key and then says what it likes.
struct RawEnd {
  std::unique_ptr<net::Transport> transport;
  FrameReader reader;
  std::uint64_t sequence = 0;

  template <wire::Message M>
  void Send(std::uint16_t opcode, std::uint64_t answers, const M& message) {
    ByteQueue out;
    AppendMessage(out, opcode, ++sequence, answers, message);
    Raw(out.data());
  }
  void Raw(ByteView bytes) { [[maybe_unused]] const Status status = WriteAll(*transport, bytes, Soon()); }
  void Header(const wire::FrameHeader& header) { Raw(std::as_bytes(std::span(&header, 1))); }
};

// Takes one frame.
struct OneFrame final : FrameSink {
  Status OnHeader(const wire::FrameHeader&) override { return OkStatus(); }
  Result<MutableByteView> OnPayload(const wire::FrameHeader&, ByteView) override { return MutableByteView(); }
  Status OnFrame(const wire::FrameHeader& h, ByteView b, MutableByteView) override {
    header = h;
    body.assign(b.begin(), b.end());
    got = true;
    return OkStatus();
  }
  bool WantsMore() const override { return !got; }
  wire::FrameHeader header;
  ByteVector body;
  bool got = false;
};

std::atomic<int> g_log_lines = 0;
void CountingSink(LogLevel, std::string_view component, std::string_view,
                  std::initializer_list<LogField> fields) {
  if (component != "session") return;
  ++g_log_lines;
  for (const LogField& field : fields) {
    EXPECT_EQ(field.value.find(ToHex(TestTarget().key)), std::string::npos);
  }
}

class HostileClientTest : public testing::Test {
 protected:
  void SetUp() override {
    g_log_lines = 0;
    SetLogSink(CountingSink, LogLevel::kTrace);
  }
  void TearDown() override { SetLogSink(nullptr, LogLevel::kOff); }

  // The worker's side of a session whose client is `client_`; nothing when the handshake failed.
  std::unique_ptr<ServerSession> Accept(bool hello, std::function<void()> instead = {}) {
    SocketPair sockets = MakeSocketPair();
    std::unique_ptr<ServerSession> session;
    std::thread accepting([&] {
      auto accepted = ServerSession::Accept(std::move(sockets.server), {}, TestKeys);
      if (accepted.ok()) session = std::move(*accepted);
    });
    const PskIdentity identity{TestTarget().vgpu, TestTarget().grant, std::string(32, 'a'), 0};
    auto transport = SecureClient(std::move(sockets.client), TestTarget().key, identity, true, Soon());
    EXPECT_TRUE(transport.ok());
    client_.transport = std::move(*transport);
    if (hello) {
      client_.Send(
          wire::kOpcodeOf<wire::Hello>, 0,
          wire::Hello{wire::kWireVersionMin, wire::kWireVersion, wire::KnownCapabilities(), {"raw"}, 1});
      OneFrame reply;
      EXPECT_TRUE(ReadUntilSatisfied(*client_.transport, client_.reader, reply, Soon()).ok());
    } else {
      instead();
      OneFrame reply;
      last_word_ = ReadUntilSatisfied(*client_.transport, client_.reader, reply, Soon()).ok()
                       ? reply.header.opcode
                       : 0;
      refusal_ = reply.body;
      client_.transport->Shutdown();
    }
    accepting.join();
    return session;
  }

  // After the handshake: the bytes must end the session, with one line and SessionEnded to the client.
  void ExpectBreach(const std::function<void()>& misbehave) {
    client_ = RawEnd();
    g_log_lines = 0;
    auto session = Accept(true);
    ASSERT_NE(session, nullptr);
    misbehave();
    EchoWorker handler;
    Result<bool> pumped = false;
    while (pumped.ok()) {
      pumped = session->Pump(handler);
      if (pumped.ok() && !*pumped) net::WaitFor(session->fd(), POLLIN, Soon());
    }
    EXPECT_EQ(pumped.error().code, Code::kDataLoss) << ToString(pumped.error());
    std::thread ending([&] { session->End(wire::EndReason::kProtocol, ""); });
    OneFrame last;
    while (ReadUntilSatisfied(*client_.transport, client_.reader, last, Soon()).ok() &&
           last.header.opcode == wire::kOpcodeOf<wire::Ack>) {
      last.got = false;
    }
    EXPECT_EQ(last.header.opcode, wire::kOpcodeOf<wire::SessionEnded>);
    client_.transport->Shutdown();
    ending.join();
    session.reset();
    EXPECT_EQ(g_log_lines, 1);
  }

  RawEnd client_;
  std::uint16_t last_word_ = 0;
  ByteVector refusal_;
};

TEST_F(HostileClientTest, ANewerClientIsToldWhichVersionsThereAre) {
  EXPECT_EQ(Accept(false,
                   [&] {
                     client_.Send(wire::kOpcodeOf<wire::Hello>, 0,
                                  wire::Hello{wire::kWireVersion + 1, wire::kWireVersion + 5, 1, {"new"}, 1});
                   }),
            nullptr);
  ASSERT_EQ(last_word_, wire::kOpcodeOf<wire::Hello>);
  wire::Arena arena;
  wire::HelloReply reply;
  ASSERT_EQ(wire::Decode(refusal_, 0, arena, &reply), wire::WireResult::kOk);
  EXPECT_EQ(reply.status.value, wire::HelloStatus::kNoCommonVersion);
  EXPECT_NE(reply.reason.text.find("versions"), std::string_view::npos);
  EXPECT_EQ(g_log_lines, 1);
}

TEST_F(HostileClientTest, InsteadOfHello) {
  const auto garbage = [&] {
    ByteVector bytes(500, std::byte{0xee});
    client_.Raw(bytes);
  };
  const auto another = [&] { client_.Send(wire::kOpcodeOf<wire::Ping>, 0, wire::Ping{1}); };
  const auto wrong_sequence = [&] {
    client_.sequence = 1;
    client_.Send(wire::kOpcodeOf<wire::Hello>, 0, wire::Hello{1, 1, 1, {"x"}, 1});
  };
  const auto backwards = [&] {
    client_.Send(wire::kOpcodeOf<wire::Hello>, 0, wire::Hello{2, 1, 1, {"x"}, 1});
  };
  const auto short_body = [&] {
    wire::FrameHeader header;
    header.opcode = wire::kOpcodeOf<wire::Hello>;
    header.sequence = 1;
    header.body_bytes = 3;
    client_.Header(header);
    client_.Raw(AsBytes("abc"));
  };
  for (const std::function<void()>& instead :
       {std::function<void()>(garbage), std::function<void()>(another), std::function<void()>(wrong_sequence),
        std::function<void()>(backwards), std::function<void()>(short_body)}) {
    client_ = RawEnd();
    g_log_lines = 0;
    EXPECT_EQ(Accept(false, instead), nullptr);
    EXPECT_EQ(g_log_lines, 1);
  }
}

TEST_F(HostileClientTest, GarbageInsteadOfAHandshake) {
  SeededRandom random(1);
  for (int i = 0; i < 30; ++i) {
    SocketPair sockets = MakeSocketPair();
    ByteVector bytes(1 + random.Below(300));
    random.Fill(bytes);
    if (i % 3 == 0) bytes[0] = std::byte{22};
    if (i % 3 == 1) bytes[0] = std::byte{'t'};
    ASSERT_GT(send(sockets.client.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL), 0);
    shutdown(sockets.client.get(), SHUT_WR);
    ServerLimits limits;
    limits.allow_plain_tcp = true;
    EXPECT_FALSE(ServerSession::Accept(std::move(sockets.server), limits, TestKeys).ok());
  }
  EXPECT_EQ(g_log_lines, 30);
}

TEST_F(HostileClientTest, EachBreachEndsTheSession) {
  wire::FrameHeader ping;
  ping.opcode = wire::kOpcodeOf<wire::Ping>;
  ping.body_bytes = 8;
  ping.sequence = 2;
  const auto with = [&](auto change) {
    wire::FrameHeader header = ping;
    change(header);
    ExpectBreach([&] { client_.Header(header); });
  };
  with([](wire::FrameHeader& h) { h.opcode = 0xffff; });
  with([](wire::FrameHeader& h) { h.opcode = 0; });
  with([](wire::FrameHeader& h) { h.opcode = wire::kOpcodeOf<wire::Ack>; });    // a worker's notice
  with([](wire::FrameHeader& h) { h.opcode = wire::kOpcodeOf<wire::Hello>; });  // again
  with([](wire::FrameHeader& h) { h.sequence = 3; });                           // a gap
  with([](wire::FrameHeader& h) { h.sequence = 1; });                           // a repeat
  with([](wire::FrameHeader& h) { h.sequence = 0; });
  with([](wire::FrameHeader& h) { h.answers = 1; });  // clients do not answer
  with([](wire::FrameHeader& h) { h.flags = 0x40; });
  with([](wire::FrameHeader& h) { h.flags = wire::kWantStatus; });  // has a reply already
  with([](wire::FrameHeader& h) { h.body_bytes = wire::kMaxBodyBytes + 1; });
  with([](wire::FrameHeader& h) { h.payload_bytes = wire::kMaxPayloadBytes + 1; });
  with([](wire::FrameHeader& h) { h.payload_bytes = ~0ull; });
  // Bodies: too long, and with a payload that Ping has not.
  ExpectBreach([&] {
    ping.body_bytes = 9;
    client_.Header(ping);
    client_.Raw(AsBytes("123456789"));
  });
  ExpectBreach([&] {
    ping.body_bytes = 8;
    ping.payload_bytes = 4;
    client_.Header(ping);
    client_.Raw(AsBytes("12345678abcd"));
  });
  SeededRandom random(7);
  for (int i = 0; i < 20; ++i) {
    ExpectBreach([&] {
      ByteVector bytes(40 + random.Below(2000));
      random.Fill(bytes);
      client_.Raw(bytes);
    });
  }
}

TEST_F(HostileClientTest, MoreThanTheWindowAllows) {
  // The limits of a session with a small window, which the client ignores.
  SocketPair sockets = MakeSocketPair();
  ServerLimits limits;
  limits.window_bytes = 100;
  std::unique_ptr<ServerSession> session;
  std::thread accepting([&] {
    auto accepted = ServerSession::Accept(std::move(sockets.server), limits, TestKeys);
    ASSERT_TRUE(accepted.ok());
    session = std::move(*accepted);
  });
  const PskIdentity identity{TestTarget().vgpu, TestTarget().grant, std::string(32, 'a'), 0};
  auto transport = SecureClient(std::move(sockets.client), TestTarget().key, identity, true, Soon());
  ASSERT_TRUE(transport.ok());
  client_.transport = std::move(*transport);
  client_.Send(wire::kOpcodeOf<wire::Hello>, 0, wire::Hello{1, 1, 1, {"raw"}, 1});
  accepting.join();
  for (int i = 0; i < 3; ++i) {
    client_.Send(wire::kOpcodeOf<wire::DestroyObject>, 0,
                 wire::DestroyObject{{wire::ObjectKind::kEvent, {1, 1}}});
  }
  EchoWorker handler;
  Result<bool> pumped = false;
  while (pumped.ok()) pumped = session->Pump(handler);
  EXPECT_EQ(handler.frames(), 2u);
  EXPECT_EQ(pumped.error().code, Code::kDataLoss);
  client_.transport->Shutdown();
}

TEST_F(HostileClientTest, CutOffAnywhereIsALostConnection) {
  ByteQueue stream;
  AppendMessage(stream, wire::kOpcodeOf<wire::Ping>, 2, 0, wire::Ping{1});
  for (std::size_t size = 0; size <= stream.size(); size += 3) {
    client_ = RawEnd();
    g_log_lines = 0;
    auto session = Accept(true);
    ASSERT_NE(session, nullptr);
    client_.Raw(stream.data().first(size));
    client_.transport.reset();
    EchoWorker handler;
    Result<bool> pumped = false;
    while (pumped.ok()) {
      pumped = session->Pump(handler);
      if (pumped.ok() && !*pumped) net::WaitFor(session->fd(), POLLIN, Soon());
    }
    EXPECT_EQ(pumped.error().code, Code::kUnavailable);
    session->End(wire::EndReason::kGoodbye, "");
    session.reset();
    EXPECT_EQ(g_log_lines, 1);
  }
}

TEST(ServerSessionTest, AnswersToNothingAreNotSent) {
  Client client;
  auto pair = MakeSessionPair(&client);
  ASSERT_TRUE(pair.ok());
  client.session = std::move(pair->client);
  EXPECT_EQ(pair->server->SendReply(wire::kOpcodeOf<Finish>, 2, wire::StatusReply{}).error().code,
            Code::kInvalidArgument);
  EchoWorker worker;
  worker.Start(std::move(pair->server));
  EXPECT_TRUE(client.Ping()) << "and the session goes on";
  client.session->Close();
}

// A worker with the right key that then says what it likes.
class HostileWorkerTest : public testing::Test {
 protected:
  // What the client makes of a worker that answers Hello with `answer`, then says `more`.
  Error Meet(const std::function<void(RawEnd&)>& answer, const std::function<void(RawEnd&)>& more = {}) {
    SocketPair sockets = MakeSocketPair();
    RawEnd worker;
    Client client;
    std::thread working([&] {
      auto secured = SecureServer(std::move(sockets.server), false, TestKeys, Soon());
      ASSERT_TRUE(secured.ok());
      worker.transport = std::move(secured->transport);
      OneFrame hello;
      ASSERT_TRUE(ReadUntilSatisfied(*worker.transport, worker.reader, hello, Soon()).ok());
      answer(worker);
    });
    auto session = ClientSession::ConnectOver(std::move(sockets.client), ClientOptions(true), &client);
    working.join();
    if (!session.ok()) return session.error();
    client.session = std::move(*session);
    if (!more) {
      worker.transport.reset();
      return client.AwaitLost();
    }
    EXPECT_TRUE(client.session->Send(wire::Ping{1}).ok());
    more(worker);
    const Error error = client.AwaitLost();
    EXPECT_EQ(client.lost_times, 1);
    worker.transport->Shutdown();
    return error;
  }

  static void Accept(RawEnd& worker) {
    worker.Send(wire::kOpcodeOf<wire::Hello>, 1,
                wire::HelloReply{{wire::HelloStatus::kAccepted},
                                 wire::kWireVersion,
                                 wire::KnownCapabilities(),
                                 wire::kMaxWindowBytes,
                                 1,
                                 {""}});
  }
};

TEST_F(HostileWorkerTest, InsteadOfAnAnswer) {
  const auto garbage = [](RawEnd& w) { w.Raw(ByteVector(300, std::byte{0x77})); };
  const auto notice = [](RawEnd& w) { w.Send(wire::kOpcodeOf<wire::Ack>, 0, wire::Ack{}); };
  const auto twice_numbered = [](RawEnd& w) {
    w.sequence = 1;
    Accept(w);
  };
  const auto version = [](RawEnd& w) {
    w.Send(wire::kOpcodeOf<wire::Hello>, 1,
           wire::HelloReply{{wire::HelloStatus::kAccepted}, 77, 1, 1, 1, {""}});
  };
  const auto capability = [](RawEnd& w) {
    w.Send(wire::kOpcodeOf<wire::Hello>, 1,
           wire::HelloReply{{wire::HelloStatus::kAccepted}, wire::kWireVersion, ~0ull, 1, 1, {""}});
  };
  for (const std::function<void(RawEnd&)>& answer :
       {std::function<void(RawEnd&)>(garbage), std::function<void(RawEnd&)>(notice),
        std::function<void(RawEnd&)>(twice_numbered), std::function<void(RawEnd&)>(version),
        std::function<void(RawEnd&)>(capability)}) {
    EXPECT_EQ(Meet(answer).code, Code::kDataLoss);
  }
}

TEST_F(HostileWorkerTest, AnOlderWorkersRefusalIsTold) {
  const Error error = Meet([](RawEnd& w) {
    w.Send(wire::kOpcodeOf<wire::Hello>, 1,
           wire::HelloReply{{wire::HelloStatus::kNoCommonVersion}, 0, 0, 0, 0, {"speaks 7 to 9"}});
  });
  EXPECT_EQ(error.code, Code::kFailedPrecondition);
  EXPECT_NE(error.message.find("speaks 7 to 9"), std::string::npos);
}

TEST_F(HostileWorkerTest, EachBreachEndsTheSession) {
  const auto breach = [&](const std::function<void(RawEnd&)>& more) {
    const Error error = Meet(Accept, more);
    EXPECT_EQ(error.code, Code::kDataLoss) << ToString(error);
  };
  const std::uint16_t ping = wire::kOpcodeOf<wire::Ping>;
  breach([&](RawEnd& w) { w.Send(ping, 3, wire::StatusReply{}); });                     // to nothing
  breach([&](RawEnd& w) { w.Send(wire::kOpcodeOf<Finish>, 2, wire::StatusReply{}); });  // another command's
  breach([&](RawEnd& w) { w.Send(ping, 0, wire::StatusReply{}); });                     // a command
  breach([&](RawEnd& w) { w.Send(wire::kOpcodeOf<wire::Ack>, 2, wire::Ack{}); });  // a notice answers nothing
  breach([&](RawEnd& w) {
    w.Send(wire::kOpcodeOf<wire::Ack>, 0, wire::Ack{99, 99});
  });  // of what was not sent
  breach([&](RawEnd& w) {
    w.Send(wire::kOpcodeOf<wire::Ack>, 0, wire::Ack{1, 2});
  });  // durable, not executed
  breach([&](RawEnd& w) {
    w.sequence++;
    w.Send(ping, 2, wire::StatusReply{});
  });  // a gap
  breach([&](RawEnd& w) {
    w.sequence--;
    w.Send(ping, 2, wire::StatusReply{});
  });                                                                  // a repeat
  breach([&](RawEnd& w) { w.Send(0x7fff, 0, wire::StatusReply{}); });  // unknown
  breach([&](RawEnd& w) {                                              // answered twice
    w.Send(ping, 2, wire::StatusReply{});
    w.Send(ping, 2, wire::StatusReply{});
  });
  wire::FrameHeader header;
  header.opcode = ping;
  header.answers = 2;
  header.sequence = 2;
  header.body_bytes = wire::kMaxBodyBytes + 1;
  breach([&](RawEnd& w) { w.Header(header); });
  header.body_bytes = 4;
  header.payload_bytes = wire::kMaxPayloadBytes + 1;
  breach([&](RawEnd& w) { w.Header(header); });
  header.payload_bytes = 0;
  header.flags = wire::kWantStatus;
  breach([&](RawEnd& w) { w.Header(header); });
  SeededRandom random(9);
  for (int i = 0; i < 20; ++i) {
    breach([&](RawEnd& w) {
      ByteVector bytes(32 + random.Below(500));
      random.Fill(bytes);
      w.Raw(bytes);
    });
  }
}

TEST_F(HostileWorkerTest, CutOffAnywhereIsALoss) {
  ByteQueue stream;
  AppendMessage(stream, wire::kOpcodeOf<wire::Ping>, 2, 2, wire::StatusReply{});
  for (std::size_t size = 0; size < stream.size(); size += 5) {
    const Error error = Meet(Accept, [&](RawEnd& w) {
      w.Raw(stream.data().first(size));
      w.transport->Shutdown();
    });
    EXPECT_EQ(error.code, Code::kUnavailable);
  }
}

}  // namespace
}  // namespace tulle::session
