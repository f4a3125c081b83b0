// All that the node tells about itself at one moment, taken on the loop's thread: for the controller, for
// /metrics.
#pragma once

#include <string>
#include <vector>

#include "tulle/node/build_exchange.h"
#include "tulle/node/data_port.h"
#include "tulle/node/host_load.h"
#include "tulle/node/inventory.h"
#include "tulle/node/supervisor.h"

namespace tulle::node {

struct Snapshot {
  std::string name;
  std::string version;
  std::vector<InventoryGpu> gpus;
  std::vector<VGpuStatus> vgpus;
  VGpuUsage total;  // of all vGPUs since the start, those that are gone included
  DataPort::Counters data_port;
  BuildExchange::Counters builds;
  HostLoad load;
  bool registered = false;  // the controller knows the node now
};

// In the Prometheus text format, version 0.0.4.
std::string FormatMetrics(const Snapshot& snapshot);

}  // namespace tulle::node
