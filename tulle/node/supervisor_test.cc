#include "tulle/node/supervisor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>

#include <fstream>
#include <map>
#include <memory>
#include <thread>

#include "tulle/base/paths.h"
#include "tulle/node/testing/steps.h"

namespace tulle::node {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::ElementsAre;
using testing::HasSubstr;

Grant GrantOf(const std::string& id, std::int64_t expire_us = 0) {
  return {.id = id, .key = Secret::OfSize(wire::node::kKeyBytes), .expire_us = expire_us};
}

// Remembers one build.
class OneBuild final : public BuildKeeper {
 public:
  void Find(const std::string& vgpu_uid, ByteView key, UniqueFd answer) override {
    asked.push_back(vgpu_uid + " " + std::string(AsText(key)));
    (void)!write(answer.get(), content.data(), content.size());
  }
  void Keep(const std::string&, ByteView, UniqueFd file) override {
    char buffer[256];
    const ssize_t got = pread(file.get(), buffer, sizeof buffer, 0);
    content.assign(buffer, static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
  }
  std::string content;
  std::vector<std::string> asked;
};

class SupervisorTest : public testing::Test {
 protected:
  void Make(const std::string& mode, std::shared_ptr<const sandbox::ControlGroup> group = nullptr) {
    supervisor_ = std::make_unique<Supervisor>(
        loop_,
        Supervisor::Options{.worker_binary = FindProgram("tulle_fake_worker"),
                            .worker_arguments = {mode},
                            .control_group = std::move(group),
                            .ready_timeout = milliseconds(300),
                            .shutdown_timeout = milliseconds(200)},
        [this](const VGpuStatus& status) { reports_.push_back(status); }, &builds_);
  }
  const VGpuStatus& last() const { return reports_.back(); }
  bool Is(VGpuState state) const { return !reports_.empty() && last().state == state; }

  // A connection to vGPU `uid`; what it is answered goes to answer_ when it is complete.
  void Connect(const std::string& uid) {
    int ends[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
    client_.reset(ends[0]);
    const UniqueFd server(ends[1]);
    adopted_ = supervisor_->Adopt({.vgpu = uid, .grant = "g"}, server.get());
    answer_.clear();
  }
  bool Answered() {
    char buffer[256];
    const ssize_t got = read(client_.get(), buffer, sizeof buffer);
    if (got > 0) answer_.append(buffer, static_cast<std::size_t>(got));
    return answer_.ends_with('\n');
  }

  const SystemClock clock_;
  Loop loop_{clock_};
  std::unique_ptr<Supervisor> supervisor_;
  std::vector<VGpuStatus> reports_;
  OneBuild builds_;
  const VGpuSpec spec_{.uid = "v1", .name = "one", .tenant = "t", .memory_bytes = 42, .compute_percent = 50};
  UniqueFd client_;
  Status adopted_;
  std::string answer_;
};

TEST_F(SupervisorTest, AVGpuIsCreatedServesAndIsDeleted) {
  Make("ready");
  Steps steps(loop_);
  steps.Then([&] { supervisor_->Create(spec_, {GrantOf("g1")}); }, [&] { return Is(VGpuState::kReady); })
      .Then([&] { Connect("v1"); }, [&] { return Answered(); })
      .Then([&] {}, [&] { return last().usage.sessions == 1; })
      .Then([&] {}, [&] { return last().sessions.size() == 1 && last().sessions[0].id == "s2"; })
      .Then(
          [&] {
            EXPECT_EQ(last().sessions[0].program, "another");
            EXPECT_EQ(last().sessions[0].process_id, 78u);
            EXPECT_EQ(last().sessions[0].channel, "local");
          },
          [] { return true; })
      .Then([&] {},
            [&] {
              const auto& commands = supervisor_->Total().by_command;
              return commands.size() == 1 && commands.contains(0x0411) && commands.at(0x0411).count == 7;
            })
      .Then([&] { supervisor_->Delete("v1"); }, [&] { return Is(VGpuState::kDeleted); });
  EXPECT_EQ(steps.Run(), steps.size());
  EXPECT_TRUE(adopted_.ok());
  EXPECT_EQ(answer_, "v1 42 g1\n");
  EXPECT_EQ(reports_.front().state, VGpuState::kCreating);
  EXPECT_THAT(reports_.front().grant_ids, ElementsAre("g1"));
  EXPECT_EQ(supervisor_->Total().commands, 7u);  // also of what is gone
  EXPECT_TRUE(supervisor_->List().empty());
}

// A group's weight and its part of the processors as the kernel says them, in either version.
std::string SharesOf(const sandbox::ControlGroup& group) {
  const std::string text = group.Text(), folder = text.substr(text.rfind(':') + 1);
  std::string shares;
  for (const char* file : {"/cpu.shares", "/cpu.cfs_quota_us", "/cpu.weight", "/cpu.max"}) {
    std::string line;
    if (std::getline(std::ifstream(folder + file), line)) shares += line.substr(0, line.find(' ')) + " ";
  }
  return shares;
}

TEST_F(SupervisorTest, AVGpuHasControlGroupsWithItsShare) {
  auto made = sandbox::ControlGroup::MakeBase({.name = "tulle-test-vgpus", .parent = "", .cpu = true});
  if (!made.ok()) GTEST_SKIP() << made.error().message;
  const bool version1 = made->Text().find(';') != std::string::npos;
  const auto base = std::make_shared<sandbox::ControlGroup>(std::move(*made));
  Make("crash", base);
  VGpuSpec capped = spec_, plain = spec_;
  capped.sharing = arbiter::Sharing::kControlGroups;
  capped.level = arbiter::Level::kGuaranteed;
  plain.uid = "v2";
  // By the names of those beside each other, among which the kernel divides.
  const auto shares = [&] {
    std::map<std::string, std::string> all;
    for (const auto& group : base->Below()) {
      const std::string text = group.Text();
      all[text.substr(text.rfind('/') + 1)] = SharesOf(group);
    }
    return all;
  };
  const std::string unshared = version1 ? "1024 -1 " : "100 max ";
  const auto with = [&](int percent) {
    const unsigned processors = std::max(std::thread::hardware_concurrency(), 1u);
    const std::string quota = std::to_string(static_cast<unsigned>(percent) * 100 * processors);
    return (version1 ? std::to_string(percent * 1024) : std::to_string(percent * 100)) + " " + quota + " ";
  };
  using Shares = std::map<std::string, std::string>;
  Shares at_first, again, resized;
  Steps steps(loop_);
  steps.Then([&] { supervisor_->Create(capped, {}); }, [&] { return Is(VGpuState::kReady); })
      .Then([&] { supervisor_->Create(plain, {}); },
            [&] { return Is(VGpuState::kReady) && last().spec.uid == "v2"; })
      .Then(
          [&] {
            at_first = shares();
            supervisor_->Delete("v2");
          },
          [&] { return Is(VGpuState::kDeleted) && base->Below().size() == 2; })
      // Its worker dies, and comes back.
      .Then([&] { Connect("v1"); },
            [&] { return supervisor_->Total().worker_restarts == 1 && Is(VGpuState::kReady); })
      .Then(
          [&] {
            again = shares();
            supervisor_->Resize("v1", {.compute_percent = 10});
            resized = shares();
            supervisor_->Delete("v1");
          },
          [&] { return base->Below().empty(); });
  EXPECT_EQ(steps.Run(), steps.size());
  EXPECT_EQ(
      at_first,
      (Shares{
          {"v1-1", with(50)}, {"v1-1.builders", unshared}, {"v2-2", unshared}, {"v2-2.builders", unshared}}));
  EXPECT_EQ(again, (Shares{{"v1-3", with(50)}, {"v1-3.builders", unshared}}));
  EXPECT_EQ(resized, (Shares{{"v1-3", with(10)}, {"v1-3.builders", unshared}}));
}

TEST_F(SupervisorTest, WorkersKeepAndFindBuilds) {
  Make("builds");
  Steps steps(loop_);
  steps.Then([&] { supervisor_->Create(spec_, {}); }, [&] { return Is(VGpuState::kReady); })
      .Then([&] { Connect("v1"); }, [&] { return Answered(); });
  EXPECT_EQ(steps.Run(), steps.size());
  EXPECT_EQ(answer_, "built by v1\n");
  // What is no question, or brings no pipe, is passed over.
  EXPECT_THAT(builds_.asked, ElementsAre("v1 " + std::string(wire::node::kBuildKeyBytes, 'k')));
}

TEST_F(SupervisorTest, CommandsMayBeRepeated) {
  Make("ready");
  Steps steps(loop_);
  steps
      .Then(
          [&] {
            supervisor_->Create(spec_, {GrantOf("g1"), GrantOf("g2")});
          },
          [&] { return Is(VGpuState::kReady); })
      .Then(
          [&] {
            supervisor_->Create(spec_, {GrantOf("g2"), GrantOf("g3")});  // exactly these from now on
            supervisor_->AddGrant("v1", GrantOf("g4"));
            supervisor_->AddGrant("v1", GrantOf("g4"));
            supervisor_->RevokeGrant("v1", "g3");
            supervisor_->RevokeGrant("v1", "g3");
            supervisor_->Resize("v1", {.compute_percent = 40, .network_bytes_per_s = 7});
            supervisor_->Resize("v1", {.compute_percent = 40, .network_bytes_per_s = 7});
            Connect("v1");
          },
          [&] { return Answered(); });
  EXPECT_EQ(steps.Run(), steps.size());
  EXPECT_EQ(reports_.back().spec.compute_percent, 40u);
  EXPECT_EQ(reports_.back().spec.network_bytes_per_s, 7u);
  EXPECT_EQ(answer_, "v1 42 g2 g4\n");
  for (const VGpuStatus& report : reports_) EXPECT_EQ(report.usage.worker_restarts, 0u);
}

TEST_F(SupervisorTest, WhatIsNotThereIsReportedAsDeleted) {
  Make("ready");
  Steps steps(loop_);
  steps.Then(
      [&] {
        supervisor_->Delete("v9");
        supervisor_->AddGrant("v9", GrantOf("g"));
        supervisor_->RevokeGrant("v9", "g");
        supervisor_->Resize("v9", {.compute_percent = 50});
        Connect("v9");
      },
      [] { return true; });
  EXPECT_EQ(steps.Run(), steps.size());
  ASSERT_EQ(reports_.size(), 4u);
  for (const VGpuStatus& report : reports_) EXPECT_EQ(report.state, VGpuState::kDeleted);
  EXPECT_EQ(adopted_.error().code, Code::kNotFound);
}

TEST_F(SupervisorTest, AWorkerThatCannotServeFailsForGood) {
  Make("refuse");
  Steps steps(loop_);
  steps.Then([&] { supervisor_->Create(spec_, {}); }, [&] { return Is(VGpuState::kFailed); })
      .Then([&] { supervisor_->Delete("v1"); }, [&] { return Is(VGpuState::kDeleted); });
  EXPECT_EQ(steps.Run(), steps.size());
  EXPECT_EQ(reports_[1].message, "the device is on fire");
}

TEST_F(SupervisorTest, ASilentWorkerIsKilledAndTriedAgain) {
  Make("silent");
  Steps steps(loop_);
  steps.Then([&] { supervisor_->Create(spec_, {}); }, [&] { return last().usage.worker_restarts == 1; });
  EXPECT_EQ(steps.Run(), steps.size());
  EXPECT_THAT(last().message, HasSubstr("it was not ready in time"));
  EXPECT_EQ(last().state, VGpuState::kCreating);
}

TEST_F(SupervisorTest, ACrashedWorkerComesBackWithItsGrants) {
  Make("crash");
  Steps steps(loop_);
  steps.Then([&] { supervisor_->Create(spec_, {GrantOf("g1")}); }, [&] { return Is(VGpuState::kReady); })
      .Then([&] { Connect("v1"); }, [&] { return Is(VGpuState::kCreating); })
      .Then([] {}, [&] { return Is(VGpuState::kReady); });
  EXPECT_EQ(steps.Run(), steps.size());
  EXPECT_EQ(last().usage.worker_restarts, 1u);
  EXPECT_THAT(last().grant_ids, ElementsAre("g1"));
  EXPECT_TRUE(std::any_of(reports_.begin(), reports_.end(), [](const VGpuStatus& report) {
    return report.message.find("was killed by signal 9") != std::string::npos;
  }));
}

TEST_F(SupervisorTest, AWorkerThatSpeaksNonsenseIsKilled) {
  Make("garbage");
  Steps steps(loop_);
  steps.Then([&] { supervisor_->Create(spec_, {}); }, [&] { return last().usage.worker_restarts == 1; });
  EXPECT_EQ(steps.Run(), steps.size());
}

TEST_F(SupervisorTest, AStubbornWorkerIsKilledAtTheDeadline) {
  Make("stubborn");
  bool done = false;
  Steps steps(loop_);
  steps.Then([&] { supervisor_->Create(spec_, {}); }, [&] { return Is(VGpuState::kReady); })
      .Then([&] { supervisor_->Shutdown([&] { done = true; }); }, [&] { return done; })
      .Then([&] { supervisor_->Create(spec_, {}); }, [&] { return Is(VGpuState::kFailed); });
  EXPECT_EQ(steps.Run(), steps.size());
  EXPECT_EQ(last().message, "the node is stopping");
}

// As where the node was started again and keeps less.
TEST_F(SupervisorTest, NoMoreSpillsThanTheNodeKeeps) {
  supervisor_ =
      std::make_unique<Supervisor>(loop_,
                                   Supervisor::Options{.worker_binary = FindProgram("tulle_fake_worker"),
                                                       .spill = {.memory_bytes = 3u << 20}},
                                   [this](const VGpuStatus& status) { reports_.push_back(status); });
  VGpuSpec first = spec_;
  first.spill_bytes = 2u << 20;
  VGpuSpec second = first;
  second.uid = "v2";
  Steps steps(loop_);
  steps.Then([&] { supervisor_->Create(first, {}); }, [&] { return Is(VGpuState::kReady); })
      .Then([&] { supervisor_->Create(second, {}); }, [&] { return Is(VGpuState::kFailed); });
  EXPECT_EQ(steps.Run(), steps.size());
  EXPECT_EQ(last().spec.uid, "v2");
  EXPECT_NE(last().message.find("this node keeps 3MiB of such for all vGPUs (--spill-memory, --spill-disk)"),
            std::string::npos)
      << last().message;
}

TEST_F(SupervisorTest, AMissingWorkerProgramIsAFailure) {
  supervisor_ =
      std::make_unique<Supervisor>(loop_, Supervisor::Options{.worker_binary = "/no/such/worker"},
                                   [this](const VGpuStatus& status) { reports_.push_back(status); });
  supervisor_->Create(spec_, {});
  EXPECT_EQ(last().state, VGpuState::kFailed);
  EXPECT_THAT(last().message, HasSubstr("/no/such/worker"));
}

TEST_F(SupervisorTest, GrantsExpire) {
  Make("ready");
  Steps steps(loop_);
  steps.Then(
      [&] {
        supervisor_->Create(spec_, {GrantOf("old", 1), GrantOf("new")});
      },
      [&] { return last().grant_ids == std::vector<std::string>{"new"}; });
  EXPECT_EQ(steps.Run(), steps.size());
}

TEST(RestartBackoff, GrowsGivesUpAndForgives) {
  RestartBackoff backoff;
  Instant now{};
  EXPECT_EQ(backoff.OnEnd(now, {}), milliseconds(100));
  EXPECT_EQ(backoff.OnEnd(now, now), milliseconds(200));
  now = now + seconds(100);
  EXPECT_EQ(backoff.OnEnd(now, now - seconds(60)), milliseconds(100)) << "it ran well for a while";
  Duration last{};
  int tries = 1;
  while (const auto delay = backoff.OnEnd(now, {})) {
    EXPECT_GE(*delay, last);
    last = *delay;
    ++tries;
  }
  EXPECT_EQ(tries, RestartBackoff::kMaxInARow);
  EXPECT_EQ(last, RestartBackoff::kLongest);
}

}  // namespace
}  // namespace tulle::node
