#include "tulle/worker/build/cache.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <csignal>
#include <set>
#include <string>

#include "tulle/base/seqpacket.h"
#include "tulle/base/unique_fd.h"
#include "tulle/wire/packet.h"

namespace tulle::worker::build {
namespace {

using wire::opencl::ProgramKind;

// Counts what it builds; text "bad" fails.
class CountingBuilder final : public Builder {
 public:
  explicit CountingBuilder(int* count) : count_(*count) {}
  Result<std::unique_ptr<Build>> Start(ProgramKind, ByteView text, std::string_view options) override {
    if (options == "refused") return Error{Code::kUnavailable, "no compiler"};
    gpu::CompileOutput output{AsText(text) == "bad" ? -11 : 0, "log " + std::to_string(++count_), {}};
    output.binary.assign(text.begin(), text.end());
    return std::unique_ptr<Build>(std::make_unique<Done>(std::move(output)));
  }

 private:
  class Done final : public Build {
   public:
    explicit Done(gpu::CompileOutput output) : output_(std::move(output)) {}
    int fd() const override { return readable_.get(); }
    std::optional<gpu::CompileOutput> TryFinish() override { return std::exchange(output_, std::nullopt); }

   private:
    std::optional<gpu::CompileOutput> output_;
    const UniqueFd readable_{eventfd(1, EFD_CLOEXEC)};
  };
  int& count_;
};

class Caching : public testing::Test {
 protected:
  gpu::CompileOutput Built(std::string_view text, std::string_view options = "",
                           ProgramKind kind = ProgramKind::kSource) {
    auto build = builder_.Start(kind, AsBytes(text), options);
    if (!build.ok()) return {-999, build.error().message, {}};
    pollfd entry{(*build)->fd(), POLLIN, 0};
    EXPECT_EQ(poll(&entry, 1, 0), 1);
    auto output = (*build)->TryFinish();
    EXPECT_FALSE((*build)->TryFinish().has_value());
    return output.value_or(gpu::CompileOutput{-998, "", {}});
  }

  int count_ = 0;
  CachingBuilder builder_{std::make_unique<CountingBuilder>(&count_), 1000};
};

TEST_F(Caching, BuildsTheSameOnce) {
  for (int i = 0; i < 3; ++i) {
    const gpu::CompileOutput output = Built("a", "-O");
    EXPECT_EQ(output.status, 0);
    EXPECT_EQ(output.log, "log 1");
    EXPECT_EQ(AsText(output.binary), "a");
  }
}

TEST_F(Caching, TellsRequestsApart) {
  Built("ab", "c");
  Built("b", "ca");
  Built("abc");
  Built("", "abc");
  Built("abc", "", ProgramKind::kIl);
  Built("1 b", "c 1");
  EXPECT_EQ(count_, 6);
}

TEST_F(Caching, FailuresAreTriedAgain) {
  EXPECT_EQ(Built("bad").log, "log 1");
  EXPECT_EQ(Built("bad").log, "log 2");
  EXPECT_EQ(Built("a", "refused").log, "no compiler");
}

TEST_F(Caching, ForgetsTheLeastRecentlyUsed) {
  const std::string large(100, 'x');  // twice that with its binary
  for (const char* options : {"1", "2", "3", "4"}) Built(large, options);
  EXPECT_EQ(Built(large, "1").log, "log 1");
  Built(large, "5");  // takes the place of 2
  EXPECT_EQ(Built(large, "1").log, "log 1");
  EXPECT_EQ(Built(large, "3").log, "log 3");
  EXPECT_EQ(Built(large, "2").log, "log 6");
}

TEST_F(Caching, KeepsNothingThatIsTooLarge) {
  const std::string large(130, 'x');
  Built(large);
  EXPECT_EQ(Built(large).log, "log 2");
}

TEST_F(Caching, BuildsMayEndAfterIt) {
  auto builder = std::make_unique<CachingBuilder>(std::make_unique<CountingBuilder>(&count_), 1000);
  auto build = builder->Start(ProgramKind::kSource, AsBytes(std::string_view("a")), "");
  builder.reset();
  ASSERT_TRUE(build.ok());
  EXPECT_TRUE((*build)->TryFinish().has_value());
}

// With a node at the other end of the control socket, which the test plays.
class CachingInAMesh : public testing::Test {
 protected:
  CachingInAMesh() : ends_(*MakeSeqPacketPair()) {}

  std::unique_ptr<CachingBuilder> BuilderOf(const std::string& compiler = "c 1") {
    return std::make_unique<CachingBuilder>(std::make_unique<CountingBuilder>(&count_), 1 << 20,
                                            std::make_unique<MeshBuilds>(ends_.child.get(), compiler));
  }
  static std::unique_ptr<Build> Start(CachingBuilder& builder, std::string_view text,
                                      std::string_view options = "",
                                      ProgramKind kind = ProgramKind::kSource) {
    auto build = builder.Start(kind, AsBytes(text), options);
    EXPECT_TRUE(build.ok());
    return std::move(*build);
  }
  static gpu::CompileOutput Finish(Build& build) {
    for (;;) {
      pollfd entry{build.fd(), POLLIN, 0};
      EXPECT_EQ(poll(&entry, 1, 20'000), 1);
      if (auto output = build.TryFinish()) return *output;
    }
  }

  // What the worker has said: the key and what came along, or an empty key.
  template <typename M>
  struct Said {
    void On(const M& message) { key = std::string(AsText(message.key.bytes)); }
    std::string key;
    UniqueFd fd;
  };
  template <typename M>
  Said<M> Hear() {
    std::byte buffer[wire::kMaxPacketBytes];
    auto packet = ReceivePacket(ends_.parent.get(), buffer);
    Said<M> said;
    if (!packet.ok() || packet->none) return said;
    wire::Arena arena;
    EXPECT_EQ(wire::DispatchPacket(wire::node::kNodeCommands, ByteView(buffer).first(packet->size_bytes),
                                   arena, said),
              wire::WireResult::kOk);
    EXPECT_EQ(packet->fds.size(), 1u);
    if (!packet->fds.empty()) said.fd = std::move(packet->fds.front());
    return said;
  }
  static ByteVector ContentOf(int file) {
    ByteVector content(wire::node::kMaxKeptBuildBytes);
    const ssize_t got = pread(file, content.data(), content.size(), 0);
    content.resize(static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
    return content;
  }

  int count_ = 0;
  SeqPacketPair ends_;
};

TEST_F(CachingInAMesh, WhatOneHasBuiltAnotherFinds) {
  const auto first = BuilderOf();
  const auto building = Start(*first, "a", "-O");
  EXPECT_FALSE(building->TryFinish().has_value()) << "the mesh is asked first";
  EXPECT_EQ(count_, 0);
  auto asked = Hear<wire::node::FindBuild>();
  asked.fd.reset();  // nobody has it
  EXPECT_EQ(Finish(*building).log, "log 1");
  const auto kept = Hear<wire::node::KeepBuild>();
  EXPECT_EQ(kept.key, asked.key);
  EXPECT_EQ(kept.key.size(), wire::node::kBuildKeyBytes);

  const auto second = BuilderOf();
  const auto found = Start(*second, "a", "-O");
  asked = Hear<wire::node::FindBuild>();
  EXPECT_EQ(asked.key, kept.key);
  const ByteVector content = ContentOf(kept.fd.get());
  EXPECT_EQ(write(asked.fd.get(), content.data(), content.size()), static_cast<ssize_t>(content.size()));
  EXPECT_FALSE(found->TryFinish().has_value()) << "not whole before the pipe is closed";
  asked.fd.reset();
  const gpu::CompileOutput output = Finish(*found);
  EXPECT_EQ(output.status, 0);
  EXPECT_EQ(output.log, "log 1");
  EXPECT_EQ(AsText(output.binary), "a");
  EXPECT_FALSE(found->TryFinish().has_value());
  EXPECT_EQ(count_, 1);
  EXPECT_EQ(Hear<wire::node::KeepBuild>().key, "") << "it is there already";
  EXPECT_EQ(Finish(*Start(*second, "a", "-O")).log, "log 1");
  EXPECT_EQ(Hear<wire::node::FindBuild>().key, "") << "and here too";
}

TEST_F(CachingInAMesh, KeysTellApartWhatBinariesDependOn) {
  std::set<std::string> keys;
  for (const char* compiler : {"c 1", "c 2", ""}) {
    const auto builder = BuilderOf(compiler);
    for (const char* text : {"ab", "b", "a"}) {
      for (const char* options : {"", "a", "b"}) {
        for (const ProgramKind kind : {ProgramKind::kSource, ProgramKind::kIl}) {
          const auto build = Start(*builder, text, options, kind);
          keys.insert(Hear<wire::node::FindBuild>().key);
        }
      }
    }
  }
  EXPECT_EQ(keys.size(), 3u * 3 * 3 * 2);
}

TEST_F(CachingInAMesh, WhatIsNoBuildIsBuiltHere) {
  const auto builder = BuilderOf();
  for (const std::string_view content : {"garbage", "\xff\xff\xff\xff", "\0\0\0\0"}) {
    const auto build = Start(*builder, content);
    auto asked = Hear<wire::node::FindBuild>();
    EXPECT_EQ(write(asked.fd.get(), content.data(), content.size()), static_cast<ssize_t>(content.size()));
    asked.fd.reset();
    EXPECT_EQ(AsText(Finish(*build).binary), content);
    EXPECT_NE(Hear<wire::node::KeepBuild>().key, "");
  }
  EXPECT_EQ(count_, 3);
}

TEST_F(CachingInAMesh, MoreThanABuildCanHaveIsNotTaken) {
  const auto builder = BuilderOf();
  const auto build = Start(*builder, "a");
  const auto asked = Hear<wire::node::FindBuild>();
  const ByteVector flood(4096);
  std::size_t sent = 0;
  std::optional<gpu::CompileOutput> output;
  signal(SIGPIPE, SIG_IGN);
  for (ssize_t written = 0; !output && written >= 0; sent += static_cast<std::size_t>(written)) {
    written = write(asked.fd.get(), flood.data(), flood.size());
    output = build->TryFinish();
  }
  EXPECT_TRUE(output.has_value());
  EXPECT_EQ(count_, 1);
  EXPECT_LE(sent, wire::node::kMaxKeptBuildBytes + (64u << 10) + flood.size());
}

TEST_F(CachingInAMesh, BinariesOfProgramsAndFailuresAreNobodysToKeep) {
  const auto builder = BuilderOf();
  Finish(*Start(*builder, "a", "", ProgramKind::kBinary));
  EXPECT_EQ(Hear<wire::node::FindBuild>().key, "");
  const auto bad = Start(*builder, "bad");
  Hear<wire::node::FindBuild>().fd.reset();
  EXPECT_EQ(Finish(*bad).status, -11);
  EXPECT_EQ(Hear<wire::node::KeepBuild>().key, "");
}

TEST_F(CachingInAMesh, WithoutANodeItBuilds) {
  const auto builder = BuilderOf();
  ends_.parent.reset();
  EXPECT_EQ(Finish(*Start(*builder, "a")).log, "log 1");
  // One that dies while it is asked.
  ends_ = *MakeSeqPacketPair();
  const auto other = BuilderOf();
  const auto build = Start(*other, "b");
  ends_.parent.reset();
  EXPECT_EQ(Finish(*build).log, "log 2");
  const auto refused = other->Start(ProgramKind::kSource, AsBytes(std::string_view("c")), "refused");
  EXPECT_FALSE(refused.ok());
}

}  // namespace
}  // namespace tulle::worker::build
