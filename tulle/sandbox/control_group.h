// Control groups (cgroups(7)): what processes together may have of this host's memory and processors, set
// from outside of them. They count what a process touches, whatever it did to get it, and cannot be left by
// it.
//
// Of the kernel's interface there are two versions. In version 2 a group is one folder; in version 1 each
// controller has a tree of its own, and a group of ours is a folder in each. Whether groups can be made is
// the host's to say. They are an addition, which no vGPU may depend on.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tulle/base/result.h"

namespace tulle::sandbox {

// Of a group and those below it. What no controller counts is 0.
struct ControlGroupUsage {
  std::uint64_t memory_bytes = 0;
  std::uint64_t memory_kills = 0;  // processes that the kernel ended because there was no memory for them
  std::uint64_t throttled_ns = 0;  // time in which they were held up because they had used their processors
};

// Thread-safe, but for moving it.
class ControlGroup {
 public:
  struct BaseOptions {
    std::string
        name;  // of the group, before this process's number; what processes that are gone left is removed
    // The group in which it is made, as /proc/PID/cgroup writes it: "/machine.slice". Empty: this process's
    // own. In version 2 only groups without processes can have others in them, so then this process is moved
    // to another group in its own, where it must be alone.
    std::string parent;
    bool memory = true, cpu = false;  // the controllers that are wanted
  };
  // A group that others can be made in, and children be moved to; both are tried. kFailedPrecondition says
  // what this host does not give.
  static Result<ControlGroup> MakeBase(const BaseOptions& options);
  // The one that Text() named, in another process.
  static Result<ControlGroup> Open(std::string_view text);

  ControlGroup() = default;  // none
  ControlGroup(ControlGroup&& other) noexcept;
  ControlGroup& operator=(ControlGroup&& other) noexcept;
  // Removes what Make or MakeBase has made and was not there, as far as Remove() can.
  ~ControlGroup();

  bool exists() const { return !folders_.empty(); }
  // "memory:/sys/fs/cgroup/memory/a;cpu:/sys/fs/cgroup/cpu/a", for Open() and for logs.
  std::string Text() const;

  // A group in this one; there may be one of the name already, which then stays when the object goes.
  Result<ControlGroup> Make(const std::string& name) const;
  // The groups in this one.
  std::vector<ControlGroup> Below() const;
  // Moves a process here, with what it will start.
  Status Enter(pid_t pid) const;

  // All that its processes use of memory, page cache and swap included; where the kernel can be told so,
  // nothing of it is swapped out. Where the kernel cannot take back enough it ends processes (SIGKILL). A
  // limit that is lower than what is used may do that at once, or be refused.
  Status LimitMemory(std::uint64_t bytes) const;
  // Its part of the processors where its siblings want more than there is, by their weights (1 to 10,000);
  // and how many of them it may use in any case; 0: all.
  Status ShareCpus(unsigned weight, double most) const;
  ControlGroupUsage Usage() const;

  // Together with all groups in it. False: processes are left in one of them.
  bool Remove();

 private:
  struct Folder {
    std::string path;
    bool version2 = false;
    bool memory = false, cpu = false;
    bool ours = false;  // goes with this object
  };
  static Result<std::vector<Folder>> Parents(const BaseOptions& options);
  void RemoveOurs();
  // Null: no folder has that controller.
  const Folder* With(bool Folder::*controller) const;

  std::vector<Folder> folders_;
};

}  // namespace tulle::sandbox
