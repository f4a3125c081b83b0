#include "tulle/node/vgpu_groups.h"

#include <algorithm>
#include <cmath>
#include <thread>

namespace tulle::node {
namespace {

constexpr double kWeightOfAll = 10'000;  // the kernel's largest

unsigned Processors() { return std::max(std::thread::hardware_concurrency(), 1u); }

}  // namespace

Result<VGpuGroups> VGpuGroups::Make(const sandbox::ControlGroup& base, const std::string& name) {
  VGpuGroups groups;
  TULLE_ASSIGN_OR_RETURN(groups.executors_, base.Make(name));
  TULLE_ASSIGN_OR_RETURN(groups.builders_, base.Make(name + ".builders"));
  return groups;
}

Status VGpuGroups::Share(const arbiter::Promise& promise) const {
  const arbiter::Terms terms = arbiter::TermsOf(promise.level, promise.compute_percent);
  return executors_.ShareCpus(static_cast<unsigned>(std::lround(terms.guaranteed * kWeightOfAll)),
                              terms.most < 1 ? terms.most * Processors() : 0);
}

std::vector<std::string> VGpuGroups::WorkerArguments() const {
  if (!exists()) return {};
  return {"--executors-group", executors_.Text(), "--builders-group", builders_.Text()};
}

std::uint64_t VGpuGroups::memory_bytes() const {
  return executors_.Usage().memory_bytes + builders_.Usage().memory_bytes;
}

std::uint64_t VGpuGroups::throttled_ns() const { return executors_.Usage().throttled_ns / Processors(); }

bool VGpuGroups::Remove() {
  const bool executors = executors_.Remove();
  return builders_.Remove() && executors;
}

}  // namespace tulle::node
