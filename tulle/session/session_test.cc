// A session at work, over each kind of connection: calls and their answers, payloads, many threads, and the
// window that holds senders. Its end is in session_end_test.cc, what precedes it in handshake_test.cc.
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <thread>
#include <utility>

#include "tulle/session/test_ends.h"

namespace tulle::session {
namespace {

TEST_P(SessionTest, HandshakeTellsTheLimits) {
  ServerLimits limits;
  limits.window_bytes = 12345;
  limits.memory_limit_bytes = 1u << 30;
  Start(limits);
  EXPECT_EQ(session().limits().version, wire::kWireVersion);
  EXPECT_EQ(session().limits().capabilities, wire::OpenClCapabilities());
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

TEST_P(SessionTest, FlushesInABurstAllArrive) {
  Start();
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(session().Send(wire::DestroyObject{{wire::ObjectKind::kEvent, {1, 1}}}).ok());
    ASSERT_TRUE(session().Flush().ok());
  }
  while (worker_.frames() < 100) std::this_thread::yield();
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

TEST_P(SessionTest, LargePayloadsComeInParts) {
  Start();
  MoveBothWays(3u << 20);
  EXPECT_EQ(worker_.parted(), 1u);
  EXPECT_EQ(client_.parted, 1);
  // A payload of several pieces, and one that no part divides.
  ByteVector bytes(1'234'567);
  FillPattern(5, bytes);
  const ByteView pieces[] = {ByteView(bytes).first(7), ByteView(bytes).subspan(7, 0),
                             ByteView(bytes).subspan(7, 700'000), ByteView(bytes).subspan(700'007)};
  ASSERT_TRUE(session().Send(WriteOf(5, bytes.size()), pieces).ok());
  ASSERT_TRUE(client_.Call(WithHandles<Finish>()).has_value());
  EXPECT_EQ(worker_.parted(), 2u);
}

TEST_P(SessionTest, AnEndThatKnowsNoPartsGetsNone) {
  ServerLimits limits;
  limits.capabilities &= ~static_cast<std::uint64_t>(wire::Capability::kParts);
  Start(limits);
  MoveBothWays(3u << 20);
  EXPECT_EQ(worker_.parted(), 0u);
  EXPECT_EQ(client_.parted, 0);
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

// A client that will be sent something anyway is not woken for an Ack alone.
TEST_P(SessionTest, AnAckGoesWithWhatFollows) {
  std::vector<std::uint64_t> sent_bytes;
  worker_.before_answer = [&](ServerSession& session) {
    sent_bytes.push_back(session.counters().bytes_sent);
  };
  worker_.MoreFollows();
  Start();
  for (const int before : {0, 0, 10}) {
    for (int i = 0; i < before; ++i) {
      const std::uint64_t frames = worker_.frames();
      ASSERT_TRUE(session().Send(wire::DestroyObject{{wire::ObjectKind::kEvent, {1, 1}}}).ok());
      ASSERT_TRUE(session().Flush().ok());
      while (worker_.frames() == frames) std::this_thread::yield();
    }
    ASSERT_TRUE(client_.Call(WithHandles<Finish>()).has_value());
  }
  ASSERT_EQ(sent_bytes.size(), 3u);
  EXPECT_EQ(sent_bytes[2] - sent_bytes[1], sent_bytes[1] - sent_bytes[0]);
}

// What a frame leaves to do is done by the session's own thread, which nobody waits for while others read.
TEST_P(SessionTest, WorkAfterAFrameHoldsUpNobody) {
  Start();
  std::promise<void> begun, done;
  client_.in_handler = [&, first = true]() mutable { client_.has_work = std::exchange(first, false); };
  client_.work = [&](ClientHandler::Who who) {
    EXPECT_EQ(who, ClientHandler::Who::kCaller);
    begun.set_value();
    while (client_.frames < 2) std::this_thread::yield();  // read by another thread
    EXPECT_TRUE(client_.Ping());
    done.set_value();
  };
  ASSERT_TRUE(session().Send(WithHandles<Finish>()).ok());
  begun.get_future().wait();
  ASSERT_TRUE(session().Send(WithHandles<Finish>()).ok());
  done.get_future().wait();
}

TEST_P(SessionTest, AThreadThatWaitsLeavesTheWorkToAnother) {
  Start();
  std::atomic<ClientHandler::Who> who = ClientHandler::Who::kCaller;
  client_.in_handler = [&] { client_.has_work = true; };
  client_.work = [&](ClientHandler::Who w) { who = w; };
  // Once in a while the I/O thread is faster.
  while (who == ClientHandler::Who::kCaller) ASSERT_TRUE(client_.Ping());
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

INSTANTIATE_TEST_SUITE_P(All, SessionTest,
                         testing::Values(Kind{"TlsOverTcp", true, true}, Kind{"PlainTcp", false, true},
                                         Kind{"TlsOverSocketPair", true, false},
                                         Kind{"Local", false, false, true}),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace tulle::session
