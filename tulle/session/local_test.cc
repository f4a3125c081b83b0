// Sessions within one host: what they may do that others may not, and what they may not either.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "tulle/base/shared_memory.h"
#include "tulle/session/test_ends.h"

namespace tulle::session {
namespace {

TEST(LocalSessionTest, IsNamedAndProvesTheKey) {
  Client client;
  auto options = ClientOptions(/*tls=*/true);  // which is for other hosts
  {
    const Ends ends = ConnectLocally(&client, options, {});
    ASSERT_TRUE(ends.client.ok()) << ToString(ends.client.error());
    EXPECT_EQ((*ends.server)->peer().channel, Channel::kLocal);
  }
  options.target.key[5] ^= std::byte{1};
  const Ends wrong_key = ConnectLocally(&client, options, {});
  ASSERT_FALSE(wrong_key.client.ok());
  EXPECT_EQ(wrong_key.client.error().code, Code::kUnauthenticated) << ToString(wrong_key.client.error());
  EXPECT_EQ(wrong_key.server.error().code, Code::kUnauthenticated);
  options.target.grant = "other";
  const Ends unknown = ConnectLocally(&client, options, {});
  ASSERT_FALSE(unknown.client.ok());
  EXPECT_EQ(unknown.client.error().code, Code::kPermissionDenied) << ToString(unknown.client.error());
}

TEST(LocalSessionTest, MemoryOfTheWorkerReachesTheClient) {
  Client client;
  EchoWorker worker;
  Ends ends = ConnectLocally(&client, ClientOptions(true), {});
  ASSERT_TRUE(ends.client.ok()) << ToString(ends.client.error());
  client.session = std::move(*ends.client);
  auto memory = SharedMemory::Create("test", 1 << 20);
  ASSERT_TRUE(memory.ok());
  bool passed = false;
  worker.before_answer = [&](ServerSession& session) { passed = session.PassDescriptor(memory->fd()); };
  worker.Start(std::move(*ends.server));
  UniqueFd taken;
  client.in_handler = [&] {
    if (!taken.valid()) taken = client.session->TakeDescriptor();
  };
  ASSERT_TRUE(client.Call(WithHandles<Finish>()).has_value());
  EXPECT_TRUE(passed);
  ASSERT_TRUE(taken.valid());
  const auto mapped = SharedMemory::Adopt(std::move(taken));
  ASSERT_TRUE(mapped.ok()) << ToString(mapped.error());
  memory->bytes()[4711] = std::byte{42};
  EXPECT_EQ(mapped->bytes()[4711], std::byte{42});
  client.session->Close();
}

TEST(LocalSessionTest, AProcessThatHasEndedDoesNotComeBack) {
  std::string folder = testing::TempDir() + "tulle-session-XXXXXX";
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  const net::LocalEndpoint endpoint{net::BootId(), geteuid(), folder + "/data.sock"};
  const auto listener = net::ListenLocal(endpoint.path);
  ASSERT_TRUE(listener.ok());
  int pipe_ends[2];
  ASSERT_EQ(pipe2(pipe_ends, O_CLOEXEC), 0);
  const pid_t child = fork();
  if (child == 0) {
    Client client;
    auto options = ClientOptions(true);
    options.target.endpoints = {net::FormatLocalEndpoint(endpoint)};
    const auto session = ClientSession::Connect(options, &client);
    char byte;
    [[maybe_unused]] const ssize_t got = read(pipe_ends[0], &byte, 1);
    _exit(session.ok() ? 0 : 1);  // without a farewell
  }
  ResumeTable table;
  ServerLimits limits;
  limits.resume_window = std::chrono::hours(1);
  limits.resume_table = &table;
  net::WaitFor(listener->get(), POLLIN, Soon());
  auto server = ServerSession::Accept(UniqueFd(accept4(listener->get(), nullptr, nullptr, SOCK_CLOEXEC)),
                                      limits, TestKeys);
  ASSERT_TRUE(server.ok()) << ToString(server.error());
  ASSERT_TRUE((*server)->peer().local.has_value());
  EXPECT_EQ((*server)->peer().local->pid, child);
  EXPECT_EQ((*server)->peer().local->uid, getuid());
  EXPECT_FALSE((*server)->absent_since().has_value());

  ASSERT_EQ(write(pipe_ends[1], "x", 1), 1);
  Status status;
  Client nobody;
  while (status.ok()) {
    pollfd waiting{(*server)->fd(), (*server)->events(), 0};
    const auto look = (*server)->next_look();
    poll(&waiting, 1, look ? static_cast<int>((*look - net::Now()).count() / 1'000'000 + 1) : 1000);
    const auto pumped = (*server)->Pump(nobody);
    if (!pumped.ok()) status = pumped.error();
  }
  EXPECT_NE(status.error().message.find("process has ended"), std::string::npos) << ToString(status.error());
  int state = -1;
  waitpid(child, &state, 0);
  EXPECT_EQ(state, 0);
  (*server)->End(wire::EndReason::kGoodbye, "");
  std::filesystem::remove_all(folder);
}

TEST(LocalSessionTest, OtherConnectionsCarryNoDescriptors) {
  Client client;
  EchoWorker worker;
  Ends ends = Connect(MakeSocketPair(), &client, ClientOptions(true), {});
  ASSERT_TRUE(ends.client.ok()) << ToString(ends.client.error());
  EXPECT_FALSE((*ends.server)->PassDescriptor(0));
  client.session = std::move(*ends.client);
  worker.Start(std::move(*ends.server));
  client.in_handler = [&] { EXPECT_FALSE(client.session->TakeDescriptor().valid()); };
  ASSERT_TRUE(client.Call(WithHandles<Finish>()).has_value());
  client.session->Close();
}

}  // namespace
}  // namespace tulle::session
