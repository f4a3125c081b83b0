// The control groups of one vGPU: one for its executors, in which its worker makes one for each, and one for
// its builders. Beside each other, so that the kernel, where it holds vGPUs to their shares of the
// processors, divides those among executors of vGPUs, and charges no vGPU for what is compiled.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tulle/base/result.h"
#include "tulle/node/arbiter/arbiter.h"
#include "tulle/sandbox/control_group.h"

namespace tulle::node {

class VGpuGroups {
 public:
  VGpuGroups() = default;  // none
  // In `base`. `name` is no other's.
  static Result<VGpuGroups> Make(const sandbox::ControlGroup& base, const std::string& name);

  bool exists() const { return executors_.exists(); }
  // From now on the kernel holds it to what it was promised.
  Status Share(const arbiter::Promise& promise) const;
  // What its worker is told of them.
  std::vector<std::string> WorkerArguments() const;
  // Of executors and builders.
  std::uint64_t memory_bytes() const;
  // In which executors waited for the share that Share() gave them; of all processors the mean.
  std::uint64_t throttled_ns() const;
  // False: processes are left.
  bool Remove();

 private:
  sandbox::ControlGroup executors_, builders_;
};

}  // namespace tulle::node
