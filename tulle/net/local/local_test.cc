#include "tulle/net/local/local.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <filesystem>

#include "tulle/net/wait.h"

namespace tulle::net {
namespace {

class LocalTest : public testing::Test {
 protected:
  LocalTest() {
    folder_ = testing::TempDir() + "tulle-local-XXXXXX";
    EXPECT_NE(mkdtemp(folder_.data()), nullptr);
    endpoint_ = {BootId(), geteuid(), folder_ + "/data.sock"};
  }
  ~LocalTest() override { std::filesystem::remove_all(folder_); }

  std::string folder_;
  LocalEndpoint endpoint_;
};

TEST_F(LocalTest, EndpointsAsText) {
  ASSERT_EQ(BootId().size(), 36u);
  const auto parsed = ParseLocalEndpoint(FormatLocalEndpoint(endpoint_));
  ASSERT_TRUE(parsed.ok()) << ToString(parsed.error());
  EXPECT_EQ(parsed->boot_id, endpoint_.boot_id);
  EXPECT_EQ(parsed->uid, endpoint_.uid);
  EXPECT_EQ(parsed->path, endpoint_.path);
  EXPECT_TRUE(ParseLocalEndpoint("local:" + BootId() + ":0:/a:b c").ok());
  const std::string id = BootId();
  for (const std::string& bad :
       {std::string("127.0.0.1:80"), std::string("local:"), "local:" + id, "local:" + id + ":",
        "local:" + id + ":0", "local:" + id + ":0:", "local:" + id + ":0:relative", "local:" + id + ":-1:/a",
        "local:" + id + ":x:/a", "local:" + id + ":99999999999:/a", "local:" + id.substr(1) + ":0:/a",
        "local:" + id + ":0:/a\n", "local:" + id + ":0:/" + std::string(kMaxLocalPathBytes, 'a')}) {
    EXPECT_FALSE(ParseLocalEndpoint(bad).ok()) << bad;
  }
}

TEST_F(LocalTest, OnlyTheRightHostAndUserAreConnectedTo) {
  EXPECT_EQ(ConnectLocal(endpoint_).error().code, Code::kUnavailable);
  const auto listener = ListenLocal(endpoint_.path);
  ASSERT_TRUE(listener.ok()) << ToString(listener.error());
  struct stat info {};
  ASSERT_EQ(stat(endpoint_.path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777u, 0666u);
  EXPECT_TRUE(ConnectLocal(endpoint_).ok());

  LocalEndpoint elsewhere = endpoint_;
  elsewhere.boot_id.front() = elsewhere.boot_id.front() == '0' ? '1' : '0';
  EXPECT_EQ(ConnectLocal(elsewhere).error().code, Code::kUnavailable);
  LocalEndpoint of_another = endpoint_;
  ++of_another.uid;
  const auto refused = ConnectLocal(of_another);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, Code::kUnavailable);
  EXPECT_NE(refused.error().message.find("served by user " + std::to_string(geteuid())), std::string::npos);
}

TEST_F(LocalTest, ASocketThatWasLeftBehindIsReplaced) {
  ASSERT_TRUE(ListenLocal(endpoint_.path).ok());  // and closed
  const auto listener = ListenLocal(endpoint_.path);
  ASSERT_TRUE(listener.ok()) << ToString(listener.error());
  EXPECT_EQ(ListenLocal(endpoint_.path).error().code, Code::kAlreadyExists);
  EXPECT_EQ(ListenLocal("relative").error().code, Code::kInvalidArgument);
  EXPECT_EQ(ListenLocal("/" + std::string(kMaxLocalPathBytes, 'a')).error().code, Code::kInvalidArgument);
}

struct Pair {
  std::unique_ptr<Transport> client, server;
};

class LocalTransportTest : public LocalTest {
 protected:
  Pair Connect(bool takes_descriptors) {
    const auto listener = ListenLocal(endpoint_.path);
    UniqueFd client = *ConnectLocal(endpoint_);
    UniqueFd server(accept4(listener->get(), nullptr, nullptr, SOCK_CLOEXEC));
    EXPECT_TRUE(IsLocalSocket(server.get()));
    EXPECT_EQ(PeerOf(server.get())->pid, getpid());
    EXPECT_EQ(PeerOf(server.get())->uid, geteuid());
    return {MakeLocalTransport(std::move(client), takes_descriptors),
            MakeLocalTransport(std::move(server), false)};
  }
};

TEST_F(LocalTransportTest, ADescriptorGoesWithTheNextByte) {
  const Pair pair = Connect(/*takes_descriptors=*/true);
  const UniqueFd memory(memfd_create("test", MFD_CLOEXEC));
  ASSERT_EQ(write(memory.get(), "hello", 5), 5);
  ASSERT_TRUE(pair.server->PassDescriptor(memory.get()));
  EXPECT_EQ(*pair.server->Write({}), 0u);  // nothing to go with

  char text[] = "ab";
  const iovec piece{text, 2};
  ASSERT_EQ(*pair.server->Write({&piece, 1}), 2u);
  ASSERT_EQ(*pair.server->Write({&piece, 1}), 2u);
  EXPECT_FALSE(pair.client->TakeDescriptor().valid());
  std::array<std::byte, 16> got;
  std::size_t total = 0;
  while (total < 4) {
    ASSERT_NE(WaitFor(pair.client->fd(), pair.client->read_events(), Now() + std::chrono::seconds(5)), 0);
    total += *pair.client->Read(got);
  }
  const UniqueFd taken = pair.client->TakeDescriptor();
  ASSERT_TRUE(taken.valid());
  EXPECT_FALSE(pair.client->TakeDescriptor().valid());
  char content[6] = {};
  EXPECT_EQ(pread(taken.get(), content, 5, 0), 5);
  EXPECT_STREQ(content, "hello");
}

// A worker keeps nothing that a client sends it.
TEST_F(LocalTransportTest, WhoTakesNoneDropsThem) {
  const Pair pair = Connect(/*takes_descriptors=*/false);
  ASSERT_TRUE(pair.server->PassDescriptor(0));
  char text = 'a';
  const iovec piece{&text, 1};
  ASSERT_EQ(*pair.server->Write({&piece, 1}), 1u);
  std::array<std::byte, 16> got;
  EXPECT_EQ(*pair.client->Read(got), 1u);
  EXPECT_FALSE(pair.client->TakeDescriptor().valid());
}

TEST(IsLocalSocketTest, PairsAndOthersAreNot) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  const UniqueFd a(ends[0]), b(ends[1]);
  EXPECT_FALSE(IsLocalSocket(a.get()));
  const UniqueFd tcp(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_FALSE(IsLocalSocket(tcp.get()));
}

}  // namespace
}  // namespace tulle::net
