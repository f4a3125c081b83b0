// Build servers and their builders as real processes, the builders in the real sandbox.
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <thread>

#include "tulle/gpu/api/opencl_status.h"
#include "tulle/gpu/isolated/build_server.h"
#include "tulle/gpu/isolated/test_program.h"

namespace tulle::gpu::isolated {
namespace {

using namespace std::chrono_literals;

// The parameter: whether the compiler survives copies of its process.
class Builder : public testing::TestWithParam<bool> {
 protected:
  BuildOptions Options() {
    BuildOptions options;
    options.argv = {"isolated_test", "--role=build-server", GetParam() ? "survives" : "does not"};
    options.environment = kSanitizers;
    return options;
  }
  CompileOutput Build(std::string_view text) { return Build(text, Options()); }
  CompileOutput Build(std::string_view text, const BuildOptions& options) {
    BuildServer server(options);
    return Build(server, text);
  }
  CompileOutput Build(BuildServer& server, std::string_view text) {
    auto build = server.Start({.text = AsBytes(text), .options = "-cl-fast"});
    if (!build.ok()) return {-999, build.error().message, {}};
    const auto end = std::chrono::steady_clock::now() + 30s;
    while (std::chrono::steady_clock::now() < end) {
      if (auto output = (*build)->TryFinish(); output.has_value()) {
        EXPECT_FALSE((*build)->TryFinish().has_value());
        return *output;
      }
      pollfd ready = {(*build)->fd(), POLLIN, 0};
      EXPECT_EQ(poll(&ready, 1, 30'000), 1);
    }
    return {-999, "nothing came", {}};
  }
};

TEST_P(Builder, Builds) {
  const CompileOutput output = Build("source\n of a program");
  EXPECT_EQ(output.status, 0);
  EXPECT_EQ(output.log, "built with -cl-fast");
  EXPECT_EQ(AsText(output.binary), "source\n of a program");
}

TEST_P(Builder, TakesTheLargestProgram) {
  const std::string text = "large\n" + std::string(wire::kMaxProgramBytes - 6, 'y');
  EXPECT_TRUE(AsText(Build(text).binary) == text);
}

TEST_P(Builder, MayStartTools) {
  EXPECT_EQ(Build("tool").status, 0);
  const CompileOutput output = Build("tool fails");
  EXPECT_EQ(output.status, cl_status::kBuildProgramFailure);
  EXPECT_EQ(output.log, "the linker failed\na tool's words");
}

TEST_P(Builder, CrashesAreFailedBuilds) {
  for (const std::string_view order : {"crash", "abort", "exit"}) {
    const CompileOutput output = Build(order);
    EXPECT_EQ(output.status, cl_status::kBuildProgramFailure);
    EXPECT_NE(output.log.find("the compiler crashed"), std::string::npos) << output.log;
    EXPECT_EQ(output.log.find("giving up") != std::string::npos, order == "abort") << output.log;
  }
}

TEST_P(Builder, LateIsAFailedBuild) {
  auto options = Options();
  options.deadline = 1s;
  const CompileOutput output = Build("hang", options);
  EXPECT_EQ(output.status, cl_status::kBuildProgramFailure);
  EXPECT_NE(output.log.find("longer than 1 s"), std::string::npos) << output.log;
}

TEST_P(Builder, LimitsHold) {
  auto options = Options();
  options.cpu_seconds = 1;
  EXPECT_NE(Build("hang", options).log.find("the compiler crashed"), std::string::npos);
  const CompileOutput output = Build("log");
  EXPECT_EQ(output.log.size(), wire::kMaxBuildLogBytes);
  options.device_index = 5;
  EXPECT_EQ(Build("x", options).log, "there is no device 5");
}

TEST_P(Builder, MayTakeSoMuchOfTheHostsMemory) {
  auto base = sandbox::ControlGroup::MakeBase({.name = "tulle-test-builder", .parent = ""});
  if (!base.ok()) GTEST_SKIP() << base.error().message;
  ASSERT_TRUE(base->LimitMemory(384u << 20).ok());
  auto options = Options();
  options.control_group = std::make_shared<sandbox::ControlGroup>(std::move(*base));
  options.address_space_bytes = 0;
  BuildServer server(options);
  const CompileOutput output = Build(server, "hoard");
  EXPECT_EQ(output.status, cl_status::kBuildProgramFailure);
  EXPECT_NE(output.log.find("no more of the host's memory"), std::string::npos) << output.log;
  // Who is ended is the builder.
  EXPECT_EQ(Build(server, "source").status, 0);
  EXPECT_NE(Build(server, "crash").log.find("the compiler crashed"), std::string::npos);
}

TEST_P(Builder, OneThatIsNoLongerWantedDies) {
  BuildServer server(Options());
  auto build = server.Start({.text = AsBytes("hang")});
  ASSERT_TRUE(build.ok());
  EXPECT_EQ(Build(server, "x").status, 0);  // orders are taken in turn: the first one runs by now
  pid_t pid = 0;
  std::ifstream("/proc/thread-self/children") >> pid;
  ASSERT_GT(pid, 0);
  const auto builders = [&] {
    std::size_t count = 0;
    for (const auto& task : std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/task")) {
      std::ifstream list(task.path() / "children");
      for (pid_t child = 0; list >> child;) ++count;
    }
    return count;
  };
  EXPECT_EQ(builders(), 1u);
  EXPECT_FALSE((*build)->TryFinish().has_value());
  build->reset();
  const auto end = std::chrono::steady_clock::now() + 30s;
  while (builders() != 0 && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  EXPECT_EQ(builders(), 0u);
}

// Of each other they see nothing: neither what was compiled, nor what was written.
TEST_P(Builder, BuildersOfOneServerAreStrangers) {
  BuildServer server(Options());
  std::vector<std::unique_ptr<BuildProcess>> hanging;
  for (int i = 0; i < 3; ++i) {
    auto build = server.Start({.text = AsBytes("hang")});
    ASSERT_TRUE(build.ok());
    hanging.push_back(std::move(*build));
    EXPECT_EQ(Build(server, "crash").status, cl_status::kBuildProgramFailure);
    const CompileOutput output = Build(server, "leave a trace");
    EXPECT_EQ(output.status, 0) << output.log;
    EXPECT_EQ(output.log, GetParam() ? "the second program here" : "the first program here");
  }
  for (const auto& build : hanging) EXPECT_FALSE(build->TryFinish().has_value());
}

TEST_P(Builder, AnIdleServerBeginsAnew) {
  auto options = Options();
  options.idle = 0s;
  BuildServer server(options);
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(Build(server, "x").status, 0);
    // Anew it has not even the thread that starts builders.
    pid_t pid = 0;
    std::ifstream("/proc/thread-self/children") >> pid;
    ASSERT_GT(pid, 0);
    const auto threads = [&] {
      const std::filesystem::directory_iterator tasks("/proc/" + std::to_string(pid) + "/task");
      return std::distance(begin(tasks), end(tasks));
    };
    const auto limit = std::chrono::steady_clock::now() + 30s;
    while (threads() != 1 && std::chrono::steady_clock::now() < limit) std::this_thread::yield();
    EXPECT_EQ(threads(), 1);
  }
}

TEST_P(Builder, EndWithTheirServer) {
  std::optional<BuildServer> server(Options());
  auto build = server->Start({.text = AsBytes("hang")});
  ASSERT_TRUE(build.ok());
  server.reset();
  pollfd ready = {(*build)->fd(), POLLIN, 0};
  EXPECT_EQ(poll(&ready, 1, 30'000), 1);
  std::optional<CompileOutput> output;
  while (!(output = (*build)->TryFinish()).has_value()) {
  }
  EXPECT_EQ(output->status, cl_status::kBuildProgramFailure);
  EXPECT_NE(output->log.find("the build server ended"), std::string::npos) << output->log;
}

std::string SurvivesText(const testing::TestParamInfo<bool>& survives) {
  return survives.param ? "Copied" : "Anew";
}
INSTANTIATE_TEST_SUITE_P(Compiler, Builder, testing::Bool(), SurvivesText);

// What drivers write outside of builders goes with the server, also when that was killed.
TEST_P(Builder, LeaveNoFolderBehind) {
  for (const bool killed : {false, true}) {
    std::optional<BuildServer> server(Options());
    const std::string folder = Build(*server, "folder").log;
    EXPECT_TRUE(folder.starts_with("/tmp/tulle-builds-") && std::filesystem::is_directory(folder)) << folder;
    pid_t pid = 0;
    std::ifstream("/proc/thread-self/children") >> pid;
    ASSERT_GT(pid, 0);
    if (killed) kill(pid, SIGKILL);
    server.reset();
    EXPECT_FALSE(std::filesystem::exists(folder));
  }
}

// A driver that crashes as soon as it is used: each build fails and says so, and another server is tried.
TEST(BuildServer, MayCrash) {
  BuildOptions options;
  options.argv = {"isolated_test", "--role=build-server", "crashes"};
  options.environment = kSanitizers;
  BuildServer server(options);
  for (int i = 0; i < 3; ++i) {
    auto build = server.Start({.text = AsBytes("x")});
    ASSERT_TRUE(build.ok());
    std::optional<CompileOutput> output;
    while (!(output = (*build)->TryFinish()).has_value()) {
      pollfd ready = {(*build)->fd(), POLLIN, 0};
      EXPECT_EQ(poll(&ready, 1, 30'000), 1);
    }
    EXPECT_NE(output->log.find("the build server ended"), std::string::npos) << output->log;
  }
}

TEST(BuildServer, ThatIsNoProgramIsAnError) {
  BuildOptions options;
  options.argv = {"isolated_test"};
  options.binary = "/nonexistent";
  auto build = BuildServer(options).Start({.text = AsBytes("x")});
  ASSERT_FALSE(build.ok());
  EXPECT_NE(build.error().message.find("/nonexistent"), std::string::npos) << build.error().message;
}

}  // namespace
}  // namespace tulle::gpu::isolated
