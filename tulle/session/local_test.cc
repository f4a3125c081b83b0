// Sessions within one host: what they may do that others may not, and what they may not either.
#include <gtest/gtest.h>
#include <sys/mman.h>

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
