// Workers with the right key that break the protocol: the client gives the session up and says why.
#include <gtest/gtest.h>

#include <functional>
#include <thread>

#include "tulle/session/test_ends.h"

namespace tulle::session {
namespace {

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
      worker.Over(std::move(secured->transport), /*from_client=*/true);
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
                                 wire::OpenClCapabilities(),
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
  // Payloads in parts. Command 2 is the client's Ping; what a part of it would be put into is nobody's.
  const std::uint16_t part = wire::kOpcodeOf<wire::PayloadPart>;
  const auto send_part = [&](RawEnd& w, std::uint64_t answers, std::uint64_t total, std::uint64_t size) {
    w.SendWithPayload(part, answers, wire::PayloadPart{total, {size}}, 0, ByteVector(size));
  };
  breach([&](RawEnd& w) { send_part(w, 0, 100, 10); });  // a command's
  breach([&](RawEnd& w) { send_part(w, 2, 10, 10); });   // nothing left for the frame
  breach([&](RawEnd& w) {
    send_part(w, 2, 100, 10);
    w.Send(ping, 2, wire::StatusReply{});  // answered while its payload is under way
  });
  breach([&](RawEnd& w) {
    send_part(w, 2, 100, 10);
    send_part(w, 3, 100, 10);
  });
  breach([&](RawEnd& w) {
    w.SendWithPayload(ping, 2, wire::StatusReply{}, wire::kAfterParts, ByteVector(10));  // after no part
  });
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
