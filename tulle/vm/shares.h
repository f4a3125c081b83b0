// What of the jail's files a machine sees. Not all of its root: the jail's /proc has QEMU's own memory.
// Internal to this folder.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "tulle/vm/machine.h"

namespace tulle::vm {

struct Shares {
  std::vector<std::string> folders;                        // each by a device of its own
  std::vector<std::pair<std::string, std::string>> links;  // paths and texts
};

Shares SharesOf(const Program& program);

}  // namespace tulle::vm
