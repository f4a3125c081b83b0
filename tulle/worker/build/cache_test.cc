#include "tulle/worker/build/cache.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>

#include <string>

#include "tulle/base/unique_fd.h"

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

}  // namespace
}  // namespace tulle::worker::build
