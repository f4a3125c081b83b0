// The tests of control groups, as the first program in a virtual machine: there version 2 is what the kernel
// has, whatever this host has. Fails (the machine's end says so) where one of them does, or is skipped.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/io.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include <cstdio>

#include "tulle/vm/guest_abi.h"

int main(int argc, char** argv) {
  for (const char* folder : {"/proc", "/sys", "/dev"}) mkdir(folder, 0755);
  (void)mount("devtmpfs", "/dev", "devtmpfs", 0, "");
  const int console = open("/dev/ttyS0", O_RDWR | O_NOCTTY);
  for (int fd = 0; fd < 3; ++fd) dup2(console, fd);
  bool passed = mount("proc", "/proc", "proc", 0, "") == 0 && mount("sysfs", "/sys", "sysfs", 0, "") == 0 &&
                mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, "") == 0;
  if (!passed) perror("mounting the control groups");
  testing::InitGoogleTest(&argc, argv);
  passed = passed && RUN_ALL_TESTS() == 0;
  const testing::UnitTest& tests = *testing::UnitTest::GetInstance();
  passed = passed && tests.skipped_test_count() == 0 && tests.successful_test_count() >= 7;
  fflush(stdout);
  tcdrain(STDOUT_FILENO);
  if (ioperm(tulle::vm::kExitPort, 1, 1) == 0) {
    asm volatile("outb %0, %1" ::"a"(static_cast<unsigned char>(tulle::vm::kExited + (passed ? 0 : 1))),
                 "Nd"(tulle::vm::kExitPort));
  }
  reboot(RB_POWER_OFF);
  for (;;) pause();
}
