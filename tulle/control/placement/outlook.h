// What placement expects of the future, and the policy that places by it.
#pragma once

#include <memory>
#include <optional>

#include "tulle/control/placement/leftover.h"
#include "tulle/control/placement/policy.h"
#include "tulle/control/placement/workload.h"

namespace tulle::control {

// Immutable, so threads may share it. Rehearse (rehearsal.h) makes one.
struct Outlook {
  Workload workload;
  std::optional<LeftoverTable> leftover;  // none: plain fragmentation gradient descent
  double gradient = 0;  // what a fragment counts for beside what is expected to be left over
};

// The least growth of what is expected to be left over, and of the node's fragment; or, without a table,
// MakeFgd.
std::unique_ptr<Policy> MakePredictive(std::shared_ptr<const Outlook> outlook);

}  // namespace tulle::control
