// Clients with the right key that break the protocol: each breach ends the session, is told to the client and
// makes one line in the log, which holds no key.
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <atomic>
#include <functional>
#include <thread>

#include "tulle/base/log.h"
#include "tulle/session/test_ends.h"

namespace tulle::session {
namespace {

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
    auto transport =
        SecureClient(std::move(sockets.client), TestTarget().key, identity, Channel::kTls, Soon());
    EXPECT_TRUE(transport.ok());
    client_.Over(std::move(*transport), /*from_client=*/false);
    if (hello) {
      client_.Send(
          wire::kOpcodeOf<wire::Hello>, 0,
          wire::Hello{wire::kWireVersionMin, wire::kWireVersion, wire::OpenClCapabilities(), {"raw"}, 1});
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
  // Payloads in parts.
  const auto part = [&](std::uint64_t total, std::uint64_t size) {
    client_.SendWithPayload(wire::kOpcodeOf<wire::PayloadPart>, 0, wire::PayloadPart{total, {size}}, 0,
                            ByteVector(size));
  };
  ExpectBreach([&] { part(10, 10); });  // nothing left for the frame
  ExpectBreach([&] { part(wire::kMaxPayloadBytes + 1, 10); });
  ExpectBreach([&] {
    part(100, 10);
    part(99, 10);
  });
  const auto write = [&](std::uint64_t announced, std::uint64_t size) {
    client_.SendWithPayload(wire::kOpcodeOf<EnqueueWrite>, 0, WriteOf(1, announced), wire::kAfterParts,
                            ByteVector(size));
  };
  ExpectBreach([&] { write(10, 10); });  // after no part
  ExpectBreach([&] {
    part(100, 10);
    write(100, 89);
  });
  ExpectBreach([&] {
    part(100, 10);
    client_.SendWithPayload(wire::kOpcodeOf<wire::opencl::ProgramText>, 0,
                            wire::opencl::ProgramText{{{1, 1}}, {100}}, wire::kAfterParts, ByteVector(90));
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
  auto transport = SecureClient(std::move(sockets.client), TestTarget().key, identity, Channel::kTls, Soon());
  ASSERT_TRUE(transport.ok());
  client_.Over(std::move(*transport), /*from_client=*/false);
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

}  // namespace
}  // namespace tulle::session
