#include "tulle/base/subprocess.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>

#include <chrono>

namespace tulle {
namespace {

using std::chrono::seconds;

// Everything the child writes until it closes the pipe.
std::string ReadAll(int fd) {
  std::string text;
  char buffer[256];
  for (ssize_t got; (got = read(fd, buffer, sizeof buffer)) > 0;)
    text.append(buffer, static_cast<std::size_t>(got));
  return text;
}

struct Pipe {
  Pipe() {
    int ends[2];
    EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
    read.reset(ends[0]);
    write.reset(ends[1]);
  }
  UniqueFd read, write;
};

TEST(Subprocess, GetsArgumentsEnvironmentAndExactlyItsDescriptors) {
  Pipe out, extra;
  auto child =
      Subprocess::Start({.argv = {"sh", "-c", "echo $1 $NAME; ls /proc/self/fd | tr '\\n' ' '", "sh", "one"},
                         .environment = {{"NAME=two", "PATH=/usr/bin:/bin"}},
                         .fds = {{-1, 0}, {out.write.get(), 1}, {extra.write.get(), 9}}});
  ASSERT_TRUE(child.ok()) << child.error().message;
  out.write.reset();
  EXPECT_EQ(ReadAll(out.read.get()), "one two\n0 1 2 3 9 ");  // 3 is ls's own
  EXPECT_TRUE(child->Wait(seconds(10))->ok());
}

TEST(Subprocess, KeepsOtherDescriptorsWhenAsked) {
  Pipe out, meant, ours;
  fcntl(meant.write.get(), F_SETFD, 0);  // as a shell does for 3>file
  auto child = Subprocess::Start(
      {.argv = {"ls", "/proc/self/fd"}, .fds = {{out.write.get(), 1}}, .keep_other_fds = true});
  ASSERT_TRUE(child.ok()) << child.error().message;
  out.write.reset();
  const std::string listed = "\n" + ReadAll(out.read.get());
  const auto has = [&](const UniqueFd& fd) {
    return listed.find("\n" + std::to_string(fd.get()) + "\n") != listed.npos;
  };
  EXPECT_TRUE(has(meant.write));
  EXPECT_FALSE(has(ours.write)) << listed;
  EXPECT_TRUE(child->Wait(seconds(10))->ok());
}

TEST(Subprocess, DescriptorsMaySwapPlaces) {
  Pipe a, b;
  const int x = a.write.get(), y = b.write.get();
  auto child = Subprocess::Start(
      {.argv = {"sh", "-c", "echo at x >&" + std::to_string(x) + "; echo at y >&" + std::to_string(y)},
       .fds = {{x, y}, {y, x}}});
  ASSERT_TRUE(child.ok()) << child.error().message;
  a.write.reset();
  b.write.reset();
  EXPECT_EQ(ReadAll(a.read.get()), "at y\n");
  EXPECT_EQ(ReadAll(b.read.get()), "at x\n");
  ASSERT_TRUE(child->Wait(seconds(10)).has_value());
}

TEST(Subprocess, SaysHowTheChildEnded) {
  auto child = Subprocess::Start({.argv = {"sh", "-c", "exit 7"}});
  ASSERT_TRUE(child.ok());
  auto exit = child->Wait(seconds(10));
  ASSERT_TRUE(exit.has_value());
  EXPECT_EQ(exit->ShellCode(), 7);
  EXPECT_EQ(exit->Text(), "exited with code 7");
  child->Signal(SIGKILL);  // reaped: nobody is hit

  child = Subprocess::Start({.argv = {"sleep", "1000"}, .own_group = true});
  ASSERT_TRUE(child.ok());
  EXPECT_FALSE(child->TryWait().has_value());
  EXPECT_EQ(getpgid(child->pid()), child->pid());
  child->Signal(SIGTERM);
  exit = child->Wait(seconds(10));
  ASSERT_TRUE(exit.has_value());
  EXPECT_EQ(exit->ShellCode(), 128 + SIGTERM);
}

TEST(Subprocess, MayHaveAnotherName) {
  auto child =
      Subprocess::Start({.argv = {"another name", "-c", "test \"$0\" = 'another name'"}, .program = "sh"});
  ASSERT_TRUE(child.ok()) << ToString(child.error());
  const auto exit = child->Wait(seconds(10));
  EXPECT_TRUE(exit.has_value() && exit->ok());
}

TEST(Subprocess, AProgramThatIsNotThereIsAnError) {
  const auto missing = Subprocess::Start({.argv = {"no-such-program-anywhere"}});
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.error().code, Code::kNotFound);
  const auto not_executable = Subprocess::Start({.argv = {"/etc/passwd"}});
  ASSERT_FALSE(not_executable.ok());
  EXPECT_EQ(not_executable.error().code, Code::kPermissionDenied);
}

TEST(Subprocess, StartsWithAnUnblockedAndDefaultSignalState) {
  sigset_t blocked, before;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &blocked, &before);
  signal(SIGPIPE, SIG_IGN);
  Pipe out;
  auto child = Subprocess::Start({.argv = {"sh", "-c", "grep -E 'SigBlk|SigIgn' /proc/self/status | cut -f2"},
                                  .fds = {{out.write.get(), 1}}});
  out.write.reset();
  signal(SIGPIPE, SIG_DFL);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  ASSERT_TRUE(child.ok());
  EXPECT_EQ(ReadAll(out.read.get()), "0000000000000000\n0000000000000000\n");
  child->Wait(seconds(10));
}

TEST(Subprocess, DiesWithItsParent) {
  Pipe out;
  // The grandchild holds the pipe's write end: end of file means that it is gone.
  const pid_t parent = fork();
  if (parent == 0) {
    auto child = Subprocess::Start(
        {.argv = {"sleep", "1000"}, .fds = {{out.write.get(), 9}}, .death_signal = SIGKILL});
    _exit(child.ok() ? 0 : 1);
  }
  out.write.reset();
  pollfd waiting{out.read.get(), POLLIN, 0};
  ASSERT_EQ(poll(&waiting, 1, 10'000), 1);
  EXPECT_EQ(ReadAll(out.read.get()), "");
}

}  // namespace
}  // namespace tulle
