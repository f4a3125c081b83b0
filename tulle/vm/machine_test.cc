#include "tulle/vm/machine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <utility>
#include <vector>

#include "tulle/vm/guest_abi.h"

namespace tulle::vm {
namespace {

std::string Variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// A folder for one test, with a made-up kernel's files.
class Files : public testing::Test {
 protected:
  Files() {
    folder_ = testing::TempDir() + "tulle-vm-XXXXXX";
    if (mkdtemp(folder_.data()) == nullptr) std::abort();
    settings_ = {.accelerator = Accelerator::kEmulated,
                 .qemu = "/bin/true",
                 .kernel = Write("vmlinuz", "a kernel"),
                 .modules = folder_ + "/modules",
                 .init = Write("tulle-guest", "the first program")};
    std::filesystem::create_directories(folder_ + "/modules/deep/down");
    Write("modules/deep/virtio.ko", "virtio");
    Write("modules/deep/down/virtio_ring.ko", "its ring");
    Write("modules/9p.ko", "files");
    Write("modules/other.ko", "not needed");
    Write("modules/modules.builtin",
          "kernel/drivers/virtio/virtio_pci.ko\nkernel/drivers/char/virtio_console.ko\n"
          "kernel/net/9p/9pnet_virtio.ko\n");
  }
  ~Files() override { std::filesystem::remove_all(folder_); }
  std::string Write(const std::string& name, const std::string& content) {
    std::ofstream(folder_ + "/" + name) << content;
    return folder_ + "/" + name;
  }

  std::string folder_;
  Settings settings_;
};

// What an archive has, by the format's description: paths with their modes and contents, in their order.
std::vector<std::pair<std::string, std::string>> Unpack(std::string_view bytes) {
  std::vector<std::pair<std::string, std::string>> files;
  for (std::size_t at = 0;;) {
    EXPECT_EQ(bytes.substr(at, 6), "070701");
    const auto number = [&](int field) {
      return std::stoul(std::string(bytes.substr(at + 6 + static_cast<std::size_t>(field) * 8, 8)), nullptr,
                        16);
    };
    const std::size_t mode = number(1), size = number(6), name_size = number(11);
    const std::string name(bytes.substr(at + 110, name_size - 1));
    at = (at + 110 + name_size + 3) / 4 * 4;
    if (name == "TRAILER!!!") return files;
    files.emplace_back(name + (mode == 0040755 ? "/" : mode == 0100755 ? "*" : ""), bytes.substr(at, size));
    at = (at + size + 3) / 4 * 4;
  }
}

TEST_F(Files, TheArchiveHasTheProgramItsDriversInOrderAndTheCommand) {
  const auto settings = Complete(settings_);
  ASSERT_TRUE(settings.ok()) << settings.error().message;
  const auto archive = MakeInitramfs(*settings, {.file = "/a/program",
                                                 .arguments = {"program", "--flag"},
                                                 .environment = {"HOME=/tmp", "EMPTY="},
                                                 .folders = {"/a"}});
  ASSERT_TRUE(archive.ok()) << archive.error().message;
  using namespace std::string_literals;
  auto files = Unpack(AsText(archive->bytes()));
  ASSERT_FALSE(files.empty());
  const std::string command = files.back().second;
  files.pop_back();
  EXPECT_EQ(files,
            (std::vector<std::pair<std::string, std::string>>{{"init*", "the first program"},
                                                              {"modules/", ""},
                                                              {"modules/10-virtio_ring.ko", "its ring"},
                                                              {"modules/11-virtio.ko", "virtio"},
                                                              {"modules/12-9p.ko", "files"}}));
  EXPECT_TRUE(command.starts_with("/a/program\0\0program\0--flag\0\0HOME=/tmp\0EMPTY=\0\0/usr\0"s));
  EXPECT_NE(command.find("\0/etc\0/a\0\0"s), command.npos);
  EXPECT_EQ(command.find("/proc"), command.npos);

  const auto idle = MakeInitramfs(*settings, {});
  ASSERT_TRUE(idle.ok());
  EXPECT_EQ(Unpack(AsText(idle->bytes())).back(), std::pair("command"s, ""s));
  EXPECT_EQ(MakeInitramfs(*settings, {.file = "/a", .arguments = {""}}).error().message,
            "an empty argument or variable of /a");
  EXPECT_EQ(MakeInitramfs(*settings, {.file = "/a", .arguments = {std::string(70'000, 'a')}}).error().code,
            Code::kInvalidArgument);
}

TEST_F(Files, WhatIsMissingIsNamed) {
  EXPECT_TRUE(Complete(settings_).ok()) << Complete(settings_).error().message;
  const auto problem = [this](auto change) {
    Settings settings = settings_;
    change(settings);
    const auto complete = Complete(settings);
    EXPECT_FALSE(complete.ok());
    if (complete.ok()) return std::string();
    EXPECT_EQ(complete.error().code, Code::kFailedPrecondition);
    return complete.error().message;
  };
  EXPECT_EQ(problem([](Settings& s) { s.qemu = "/no/qemu"; }),
            "/no/qemu is not there; fix: apt-get install qemu-system-x86");
  EXPECT_EQ(problem([&](Settings& s) { s.kernel = folder_ + "/no"; }),
            folder_ + "/no: No such file or directory; fix: name one that can be read");
  EXPECT_EQ(problem([](Settings& s) { s.modules = ""; }),
            "no modules are named for " + settings_.kernel + "; fix: name their folder by --vm-modules");
  std::filesystem::remove(folder_ + "/modules/9p.ko");
  EXPECT_EQ(problem([](Settings&) {}),
            settings_.modules + " has no 9p; fix: use a kernel with it, as of linux-image-amd64");
  Write("modules/9p.ko.xz", "files");
  EXPECT_EQ(
      problem([](Settings&) {}),
      settings_.modules + "/9p.ko.xz is compressed; fix: use a kernel whose modules are not, as Debian 12's");
  EXPECT_EQ(problem([&](Settings& s) { s.modules = folder_ + "/none"; }),
            folder_ + "/none: No such file or directory; fix: name one that can be read");
  EXPECT_EQ(problem([&](Settings& s) { s.init = folder_ + "/no"; }),
            folder_ + "/no: No such file or directory; fix: name one that can be read");
}

TEST_F(Files, AMachineHasWhatWasSpecifiedAndNothingElse) {
  const MachineSpec machine = {.processors = 3,
                               .driver_bytes = 100ull << 20,
                               .first_shared_fd = 5,
                               .shared_bytes = {8192, 1 << 20},
                               .bell_fd = 7,
                               .kernel_fd = 8,
                               .initramfs_fd = 9};
  const auto specified = [&](const MachineSpec& spec, const Program& program) {
    sandbox::ChildSpec child;
    child.device_nodes = {"/dev/dri/card0"};
    Specify(settings_, spec, program, &child);
    EXPECT_EQ(child.binary, settings_.qemu);
    EXPECT_TRUE(child.device_nodes.empty());
    return child.argv;
  };
  const auto arguments = specified(machine, {.file = "/a/program", .folders = {"/a", "/usr/lib/tulle"}});
  const auto values = [&](const std::string& option) {
    std::vector<std::string> found;
    for (std::size_t i = 0; i + 1 < arguments.size(); ++i) {
      if (arguments[i] == option) found.push_back(arguments[i + 1]);
    }
    return found;
  };
  using Texts = std::vector<std::string>;
  EXPECT_EQ(values("-smp"), Texts{"3"});
  // Its own in whole GiB, and behind that, from 4 GiB on, what is shared.
  const std::uint64_t shared = (1 << 20) + 8192;
  EXPECT_EQ(values("-m"), Texts{std::to_string((2 << 20) + shared / 1024) + "K"});
  EXPECT_EQ(SharedAddress(machine), 4ull << 30);
  EXPECT_NE(values("-append").at(0).find(" memmap=" + std::to_string(shared) + "$4294967296"),
            std::string::npos);
  EXPECT_EQ(values("-kernel"), Texts{"/proc/self/fd/8"});
  EXPECT_EQ(values("-initrd"), Texts{"/proc/self/fd/9"});
  EXPECT_EQ(values("-object"),
            (Texts{"memory-backend-ram,id=own,size=2147483648",
                   "memory-backend-file,id=shared0,share=on,mem-path=/proc/self/fd/5,size=8192",
                   "memory-backend-file,id=shared1,share=on,mem-path=/proc/self/fd/6,size=1048576"}));
  EXPECT_EQ(values("-numa"), (Texts{"node,memdev=own", "node,memdev=shared0", "node,memdev=shared1"}));
  const Texts folders = values("-fsdev");
  EXPECT_EQ(folders.back(), "local,id=share" + std::to_string(folders.size() - 1) +
                                ",path=/a,security_model=none,readonly=on,multidevs=remap");
  for (const std::string& folder : folders) EXPECT_EQ(folder.find("path=/,"), folder.npos) << folder;
  EXPECT_TRUE(values("-drive").empty());
  EXPECT_TRUE(values("-netdev").empty());
  EXPECT_EQ(std::ranges::count(arguments, "-nodefaults"), 1);

  const auto bare = specified({.kernel_fd = 3, .initramfs_fd = 4}, {});
  EXPECT_EQ(std::ranges::count(bare, "-fsdev"), 0);
  EXPECT_EQ(std::ranges::count(bare, "-chardev"), 1);
}

TEST(SharedAddress, LiesBehindTheMachinesOwnMemory) {
  EXPECT_EQ(SharedAddress({}), 4ull << 30);
  EXPECT_EQ(SharedAddress({.driver_bytes = 5ull << 30}), 8ull << 30) << "2 of 6 GiB are below 4";
  // A page of 8 bytes for each page of what is shared.
  EXPECT_EQ(SharedAddress({.shared_bytes = {1ull << 40}}), 5ull << 30);
}

TEST(EndText, TellsTheProgramsEndByTheMachines) {
  const auto exited = [](unsigned how) { return EndText({.exit_code = static_cast<int>(2 * how + 1)}); };
  EXPECT_EQ(exited(kExited), " exited with code 0");
  EXPECT_EQ(exited(kExited + 42), " exited with code 42");
  EXPECT_EQ(exited(11), " was killed by signal 11 (Segmentation fault)");
  EXPECT_EQ(exited(0), "'s virtual machine could not start (QEMU exited with code 1)");
  EXPECT_EQ(EndText({.exit_code = 0}),
            "'s virtual machine ended without its program (QEMU exited with code 0)");
  EXPECT_EQ(EndText({.signal = 9}), "'s virtual machine was killed by signal 9 (Killed)");
}

TEST(TryMachine, StartsOneHere) {
  const auto settings = Complete(
      {.accelerator = Variable("TULLE_VM") == "kvm" ? Accelerator::kKvm : Accelerator::kEmulated,
       .kernel = Variable("TULLE_VM_KERNEL"),
       .modules = Variable("TULLE_VM_MODULES"),
       .init = (std::filesystem::read_symlink("/proc/self/exe").parent_path() / "tulle-guest").string()});
  if (!settings.ok()) GTEST_SKIP() << settings.error().message;
  const auto launcher = sandbox::Launcher::Create({});
  ASSERT_TRUE(launcher.ok()) << launcher.error().message;
  const Program program = {.file = "/usr/bin/true", .arguments = {"true"}};
  const auto started = TryMachine(**launcher, *settings, program, 2, std::chrono::minutes(2));
  ASSERT_TRUE(started.ok()) << started.error().message;
  EXPECT_GT(started->count(), 0);

  // One that cannot start says why.
  Settings wrong = *settings;
  wrong.kernel = wrong.init;
  const auto refused = TryMachine(**launcher, wrong, program, 2, std::chrono::minutes(2));
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, Code::kFailedPrecondition);
  EXPECT_GT(refused.error().message.size(), 40u) << refused.error().message;
  const auto late = TryMachine(**launcher, *settings, program, 2, std::chrono::milliseconds(10));
  ASSERT_FALSE(late.ok());
  EXPECT_TRUE(late.error().message.starts_with("a virtual machine did not start within 10 ms"))
      << late.error().message;
  const auto failed = TryMachine(**launcher, *settings, {.file = "/usr/bin/false", .arguments = {"false"}}, 2,
                                 std::chrono::minutes(2));
  ASSERT_FALSE(failed.ok());
  EXPECT_TRUE(failed.error().message.starts_with("the program exited with code 1")) << failed.error().message;
}

// What a host with version 1 cannot show: the tests of sandbox::ControlGroup, in a machine.
TEST(Machines, HaveControlGroupsOfVersion2) {
#ifndef TULLE_CONTROL_GROUPS_GUEST
  GTEST_SKIP() << "a sanitizer cannot be in a machine's first program";
#else
  if (Variable("TULLE_VM_KERNEL").empty()) GTEST_SKIP() << "TULLE_VM_KERNEL names no kernel";
  const auto settings = Complete({.accelerator = Accelerator::kEmulated,
                                  .kernel = Variable("TULLE_VM_KERNEL"),
                                  .modules = Variable("TULLE_VM_MODULES"),
                                  .init = TULLE_CONTROL_GROUPS_GUEST});
  ASSERT_TRUE(settings.ok()) << settings.error().message;
  const auto launcher = sandbox::Launcher::Create({});
  ASSERT_TRUE(launcher.ok()) << launcher.error().message;
  const auto passed = TryMachine(**launcher, *settings, {}, 2, std::chrono::minutes(4));
  EXPECT_TRUE(passed.ok()) << passed.error().message;
#endif
}

}  // namespace
}  // namespace tulle::vm
