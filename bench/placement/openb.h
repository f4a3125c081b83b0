// The openb trace (Alibaba cluster-trace-gpu-v2023) as its CSV files have it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tulle/control/placement/room.h"

namespace tulle::bench {

struct OpenbNode {
  std::string name;
  control::NodeRoom room;
};

struct OpenbPod {
  std::string name;
  control::Demand demand;
  std::int64_t created_s = 0, deleted_s = 0;  // 0 where the list has no times
};

struct Openb {
  std::vector<OpenbNode> nodes;
  std::vector<OpenbPod> pods;
  std::int64_t gpu_milli = 0;  // of all nodes
};

// `list` is "default", "cpu100", ... Ends the program with a message when a file is missing or malformed.
Openb LoadOpenb(const std::string& folder, const std::string& list);

}  // namespace tulle::bench
