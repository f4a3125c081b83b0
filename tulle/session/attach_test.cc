#include "tulle/session/attach.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tulle/session/test_pair.h"

namespace tulle::session {
namespace {

std::vector<Target> TwoTargets() {
  Target first = TestTarget();
  first.endpoints = {"127.0.0.1:7000", "[::1]:7001"};
  Target second = first;
  second.vgpu = "other_vgpu-2";
  second.tls = false;
  second.endpoints = {"gpu.example.org:1"};
  return {first, second};
}

std::string Replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

TEST(AttachTest, WhatIsWrittenIsRead) {
  std::vector<Target> written = TwoTargets();
  written[1].endpoints.emplace_back("local:01234567-89ab-cdef-0123-456789abcdef:1000:/run/tulle data.sock");
  const auto targets = ParseAttach(FormatAttach(written));
  ASSERT_TRUE(targets.ok()) << ToString(targets.error());
  ASSERT_EQ(targets->size(), 2u);
  EXPECT_EQ(FormatAttach(*targets), FormatAttach(written));
  EXPECT_EQ((*targets)[1].endpoints, written[1].endpoints);
  EXPECT_EQ((*targets)[0].key, TestTarget().key);
  EXPECT_TRUE((*targets)[0].tls);
  EXPECT_FALSE((*targets)[1].tls);
}

TEST(AttachTest, EachMistakeNamesItsLine) {
  const std::string good = FormatAttach(TwoTargets());
  const std::string key = ToHex(TestTarget().key);
  const struct {
    std::string text;
    const char* line;
  } cases[] = {
      {"", "line 1"},
      {"tulle-attach 2\n", "line 1"},
      {"tulle-attach 1\n", "line 1"},
      {Replaced(good, "vgpu vgpu-1", "vgpu v.1"), "line 2"},
      {Replaced(good, "vgpu vgpu-1", "vgpu " + std::string(65, 'a')), "line 2"},
      {Replaced(good, "vgpu vgpu-1\n", ""), "line 2"},
      {Replaced(good, key, key.substr(1)), "line 3"},
      {Replaced(good, key, key + "0"), "line 3"},
      {Replaced(good, key, "g" + key.substr(1)), "line 3"},
      {Replaced(good, "grant grant-1", "grant"), "line 3"},
      {Replaced(good, "127.0.0.1:7000", "127.0.0.1"), "line 4"},
      {Replaced(good, "endpoint [::1]:7001", "grant g " + key), "line 5"},
      {Replaced(good, "transport tls", "transport udp"), "line 6"},
      {Replaced(good, "[::1]:7001", "local:1:/a"), "line 5"},
      {Replaced(good, "transport tls\n", ""), "line 6"},
      {Replaced(good, "transport tls", "transport tls\ntransport tls"), "line 7"},
      {Replaced(good, "transport tls", "transport tls\n"), "line 7"},
      {Replaced(good, "endpoint gpu.example.org:1\n", ""), "line 9"},
      {Replaced(good, "transport tls", "colour blue"), "line 6"},
  };
  for (const auto& c : cases) {
    const auto targets = ParseAttach(c.text);
    ASSERT_FALSE(targets.ok()) << c.text;
    EXPECT_NE(targets.error().message.find(c.line), std::string::npos) << targets.error().message;
    EXPECT_EQ(targets.error().message.find(key.substr(0, 16)), std::string::npos)
        << "the key is in the message";
  }
}

TEST(AttachTest, LimitsHold) {
  Target target = TestTarget();
  for (std::size_t i = 0; i < kMaxEndpoints; ++i) target.endpoints.push_back("h:1");
  EXPECT_TRUE(ParseAttach(FormatAttach({target})).ok());
  EXPECT_TRUE(ParseAttach(FormatAttach(std::vector<Target>(kMaxTargets, target))).ok());
  EXPECT_FALSE(ParseAttach(FormatAttach(std::vector<Target>(kMaxTargets + 1, target))).ok());
  target.endpoints.push_back("h:1");
  EXPECT_FALSE(ParseAttach(FormatAttach({target})).ok());
  EXPECT_FALSE(ParseAttach(std::string(kMaxAttachBytes + 1, 'x')).ok());
}

TEST(AttachTest, TruncationNeverPassesForTheWhole) {
  const std::string good = FormatAttach(TwoTargets());
  for (std::size_t size = 0; size < good.size(); ++size) {
    const auto targets = ParseAttach(good.substr(0, size));
    if (!targets.ok()) continue;
    // Cut between two targets, or only the last line feed is missing.
    EXPECT_TRUE(good.substr(size).starts_with("vgpu ") || good.substr(size).starts_with("\nvgpu ") ||
                good.substr(size) == "\n")
        << size;
  }
}

TEST(AttachTest, TheFileIsPrivate) {
  char folder[] = "/tmp/tulle-attach-XXXXXX";
  ASSERT_NE(mkdtemp(folder), nullptr);
  const std::string path = std::string(folder) + "/attach";
  ASSERT_TRUE(WriteAttachFile(path, TwoTargets()).ok());
  struct stat info {};
  ASSERT_EQ(stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  EXPECT_FALSE(WriteAttachFile(path, TwoTargets()).ok()) << "it must not exist";
  EXPECT_TRUE(ReadAttachFile(path).ok());
  ASSERT_EQ(chmod(path.c_str(), 0640), 0);
  const auto shared = ReadAttachFile(path);
  ASSERT_FALSE(shared.ok());
  EXPECT_EQ(shared.error().code, Code::kPermissionDenied);
  EXPECT_FALSE(ReadAttachFile(folder).ok());
  unlink(path.c_str());
  rmdir(folder);
}

}  // namespace
}  // namespace tulle::session
