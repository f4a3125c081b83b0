// Groups as this host gives them: where it gives none, these tests say so and are skipped.
#include "tulle/sandbox/control_group.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <functional>
#include <set>
#include <thread>

#include "tulle/base/unique_fd.h"

namespace tulle::sandbox {
namespace {

constexpr std::size_t kMiB = 1u << 20;

// A copy of this process that does something once it is told to.
class Copy {
 public:
  explicit Copy(const std::function<void()>& work) {
    int fds[2];
    if (pipe(fds) != 0) abort();
    pid_ = fork();
    if (pid_ == 0) {
      char byte;
      close(fds[1]);
      if (read(fds[0], &byte, 1) == 1) work();
      _exit(0);
    }
    close(fds[0]);
    go_.reset(fds[1]);
  }
  ~Copy() {
    kill(pid_, SIGKILL);
    if (!waited_) waitpid(pid_, nullptr, 0);
  }
  pid_t pid() const { return pid_; }
  void Go() { EXPECT_EQ(write(go_.get(), "x", 1), 1); }
  int Wait() {
    int status = 0;
    waitpid(pid_, &status, 0);
    waited_ = true;
    return status;
  }
  double CpuSeconds() const {
    clockid_t clock;
    timespec time = {};
    if (clock_getcpuclockid(pid_, &clock) != 0 || clock_gettime(clock, &time) != 0) return 0;
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
  }

 private:
  pid_t pid_;
  UniqueFd go_;
  bool waited_ = false;
};

void Touch(void* memory, std::size_t bytes) {
  auto* const at = static_cast<volatile char*>(memory);
  for (std::size_t i = 0; i < bytes; i += 4096) at[i] = 1;
}

void Take(std::size_t bytes) {
  Touch(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), bytes);
}

[[noreturn]] void Spin() {
  for (volatile unsigned i = 0;;) i = i + 1;
}

std::set<std::string> FoldersOf(const std::string& path) {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(path))
    if (entry.is_directory()) names.insert(entry.path().filename().string());
  return names;
}

class ControlGroups : public testing::Test {
 protected:
  // Of tests that run at once, none removes what is another's.
  static std::string Name() {
    return std::string("tulle-test-") + testing::UnitTest::GetInstance()->current_test_info()->name();
  }
  void Make(bool memory, bool cpu) {
    auto base = ControlGroup::MakeBase({.name = Name(), .parent = "", .memory = memory, .cpu = cpu});
    if (!base.ok()) GTEST_SKIP() << base.error().message;
    base_ = std::move(*base);
  }
  ControlGroup base_;
};

TEST_F(ControlGroups, WhoTakesMoreMemoryThanThereIsIsEnded) {
  Make(true, false);
  if (!base_.exists()) return;
  const auto greedy = base_.Make("greedy"), modest = base_.Make("modest");
  ASSERT_TRUE(greedy.ok() && modest.ok());
  ASSERT_TRUE(greedy->LimitMemory(32 * kMiB).ok());
  ASSERT_TRUE(modest->LimitMemory(32 * kMiB).ok());
  int has_taken[2];
  ASSERT_EQ(pipe(has_taken), 0);
  Copy takes([] { Take(256 * kMiB); }), takes_little([&] {
    Take(8 * kMiB);
    if (write(has_taken[1], "x", 1) != 1) abort();
    pause();
  });
  ASSERT_TRUE(greedy->Enter(takes.pid()).ok());
  ASSERT_TRUE(modest->Enter(takes_little.pid()).ok());
  takes_little.Go();
  takes.Go();
  const int status = takes.Wait();
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << status;
  EXPECT_EQ(greedy->Usage().memory_kills, 1u);
  char byte;
  EXPECT_EQ(read(has_taken[0], &byte, 1), 1);
  EXPECT_EQ(modest->Usage().memory_kills, 0u);
  EXPECT_GE(modest->Usage().memory_bytes, 8 * kMiB);
  EXPECT_LE(modest->Usage().memory_bytes, 32 * kMiB);
  EXPECT_EQ(waitpid(takes_little.pid(), nullptr, WNOHANG), 0);
  close(has_taken[0]);
  close(has_taken[1]);
}

TEST_F(ControlGroups, SharedMemoryIsWhoTouchedItFirst) {
  Make(true, false);
  if (!base_.exists()) return;
  const auto group = base_.Make("shares");
  ASSERT_TRUE(group.ok() && group->LimitMemory(32 * kMiB).ok());
  const UniqueFd file(memfd_create("shared", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(file.get(), 256 * kMiB), 0);
  void* const memory = mmap(nullptr, 256 * kMiB, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
  ASSERT_NE(memory, MAP_FAILED);
  Copy writes([=] { Touch(memory, 256 * kMiB); });
  ASSERT_TRUE(group->Enter(writes.pid()).ok());
  writes.Go();
  EXPECT_TRUE(WIFSIGNALED(writes.Wait()));
  munmap(memory, 256 * kMiB);
}

TEST_F(ControlGroups, ALimitCanBeRaisedWhileItIsInUse) {
  Make(true, false);
  if (!base_.exists()) return;
  const auto group = base_.Make("grows");
  ASSERT_TRUE(group.ok());
  for (const std::size_t mebibytes : {16u, 128u, 64u, 4096u})
    ASSERT_TRUE(group->LimitMemory(mebibytes * kMiB).ok()) << mebibytes;
  Copy takes([] { Take(256 * kMiB); });
  // As another process knows it, and found by who made those around it.
  const auto named = ControlGroup::Open(group->Text());
  ASSERT_TRUE(named.ok()) << named.error().message;
  ASSERT_TRUE(named->Enter(takes.pid()).ok());
  ASSERT_EQ(base_.Below().size(), 1u);
  EXPECT_EQ(base_.Below().front().Text(), group->Text());
  takes.Go();
  EXPECT_EQ(takes.Wait(), 0);
}

TEST_F(ControlGroups, ProcessorsAreGivenByWeightAndHaveALimit) {
  Make(false, true);
  if (!base_.exists()) return;
  const auto heavy = base_.Make("heavy"), light = base_.Make("light"), capped = base_.Make("capped");
  ASSERT_TRUE(heavy.ok() && light.ok() && capped.ok());
  ASSERT_TRUE(heavy->ShareCpus(9'000, 0).ok());
  ASSERT_TRUE(light->ShareCpus(1'000, 0).ok());
  for (const double most : {0.001, 3.0, 0.25}) ASSERT_TRUE(capped->ShareCpus(1, most).ok()) << most;
  {
    // On one processor, which both want.
    cpu_set_t all, one;
    ASSERT_EQ(sched_getaffinity(0, sizeof all, &all), 0);
    CPU_ZERO(&one);
    for (int i = 0; i < CPU_SETSIZE && CPU_COUNT(&one) == 0; ++i)
      if (CPU_ISSET(i, &all)) CPU_SET(i, &one);
    ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
    Copy has_much(Spin), has_little(Spin);
    ASSERT_EQ(sched_setaffinity(0, sizeof all, &all), 0);
    ASSERT_TRUE(heavy->Enter(has_much.pid()).ok());
    ASSERT_TRUE(light->Enter(has_little.pid()).ok());
    has_much.Go();
    has_little.Go();
    while (has_much.CpuSeconds() + has_little.CpuSeconds() < 0.5) std::this_thread::yield();
    EXPECT_GT(has_much.CpuSeconds(), 3 * has_little.CpuSeconds());
    EXPECT_EQ(heavy->Usage().throttled_ns, 0u);
  }
  Copy is_held(Spin);
  ASSERT_TRUE(capped->Enter(is_held.pid()).ok());
  is_held.Go();
  while (capped->Usage().throttled_ns == 0) std::this_thread::yield();
  // It may go on as others do.
  ASSERT_TRUE(capped->ShareCpus(10'000, 0).ok());
  const double had = is_held.CpuSeconds();
  while (is_held.CpuSeconds() < had + 0.1) std::this_thread::yield();
}

TEST_F(ControlGroups, AreGoneWhenTheyAreEmpty) {
  Make(true, true);
  if (!base_.exists()) return;
  const std::string text = base_.Text();
  const std::string folder = text.substr(text.find(':') + 1, text.find(';') - text.find(':') - 1);
  auto group = base_.Make("vgpu");
  ASSERT_TRUE(group.ok());
  auto below = group->Make("executors");
  ASSERT_TRUE(below.ok());
  Copy waits([] { pause(); });
  ASSERT_TRUE(below->Enter(waits.pid()).ok());
  EXPECT_FALSE(group->Remove());
  kill(waits.pid(), SIGKILL);
  waits.Wait();
  EXPECT_TRUE(group->Remove());
  EXPECT_TRUE(below->Remove());  // it is gone already
  EXPECT_TRUE(FoldersOf(folder).empty());

  // What a process leaves that is killed is removed by the next one.
  const std::string parent = folder.substr(0, folder.rfind('/'));
  Copy leaves([] {
    auto base = ControlGroup::MakeBase({.name = Name(), .parent = ""});
    if (!base.ok() || !base->Make("vgpu").ok()) _exit(1);
    kill(getpid(), SIGKILL);
  });
  leaves.Go();
  ASSERT_TRUE(WIFSIGNALED(leaves.Wait()));
  const auto is_left = [&] {
    return std::ranges::any_of(FoldersOf(parent), [&](const std::string& name) {
      return name.starts_with(Name()) && name.ends_with("-" + std::to_string(leaves.pid()));
    });
  };
  EXPECT_TRUE(is_left());
  base_ = {};
  Make(true, true);
  EXPECT_FALSE(is_left());
}

// The kernel has it so in version 2 only.
TEST_F(ControlGroups, AreMadeWhereNobodyElseIs) {
  Make(true, true);
  if (!base_.exists()) return;
  auto service = base_.Make("service");
  ASSERT_TRUE(service.ok());
  const bool version2 = base_.Text().find(';') == std::string::npos;
  const auto makes = [&](int code_when_made) {
    return [=, path = service->Text()] {
      const auto base = ControlGroup::MakeBase({.name = Name(), .parent = "", .cpu = true});
      if (!base.ok() && base.error().message.find("other processes are in ") == std::string::npos) _exit(9);
      _exit(base.ok() ? code_when_made : 2);
    };
  };
  Copy alone(makes(1));
  ASSERT_TRUE(service->Enter(alone.pid()).ok());
  alone.Go();
  EXPECT_EQ(WEXITSTATUS(alone.Wait()), 1);
  EXPECT_TRUE(service->Remove());  // what it was moved to, too

  service = base_.Make("service");
  ASSERT_TRUE(service.ok());
  Copy beside([] { pause(); }), one_of_two(makes(1));
  ASSERT_TRUE(service->Enter(beside.pid()).ok());
  ASSERT_TRUE(service->Enter(one_of_two.pid()).ok());
  one_of_two.Go();
  EXPECT_EQ(WEXITSTATUS(one_of_two.Wait()), version2 ? 2 : 1);
}

TEST(ControlGroup, WhatIsNoneIsSaid) {
  EXPECT_EQ(ControlGroup::Open("memory:/tmp").error().message,
            "memory:/tmp is no control group; write CONTROLLERS:FOLDER, such as memory,cpu:/sys/fs/cgroup/a");
  EXPECT_NE(ControlGroup::MakeBase({.name = "tulle-test", .parent = "/no/such"})
                .error()
                .message.find("/no/such; fix: make it"),
            std::string::npos);
  for (const char* name : {"", ".", "..", "../up", "a/b", "a;b", "a\nb"})
    EXPECT_EQ(ControlGroup().Make(name).error().code, Code::kInvalidArgument) << name;
  for (const char* text : {"", ";", "memory", "/sys/fs/cgroup", ":/", "cpu:"})
    EXPECT_EQ(ControlGroup::Open(text).error().code, Code::kInvalidArgument) << text;
  const auto base = ControlGroup::MakeBase({.name = "tulle-test", .parent = "/there/is/no/such"});
  ASSERT_FALSE(base.ok());
  EXPECT_EQ(base.error().code, Code::kFailedPrecondition);
  const ControlGroup none;
  EXPECT_FALSE(none.exists());
  EXPECT_EQ(none.Usage().memory_bytes, 0u);
  EXPECT_FALSE(none.LimitMemory(1).ok());
  EXPECT_FALSE(none.ShareCpus(1, 1).ok());
  EXPECT_TRUE(none.Below().empty());
}

}  // namespace
}  // namespace tulle::sandbox
