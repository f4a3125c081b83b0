// The layers of protection around a jailed child, and which of them this host gives. Each is tried, not
// guessed: a kernel, a container runtime or an administrator may take any of them away.
#pragma once

#include <string>
#include <vector>

namespace tulle::sandbox {

struct Layer {
  std::string name;       // "user namespace"
  std::string purpose;    // what it keeps a tenant's code from
  bool required = false;  // no child is started without it, unless best effort is asked for
  bool available = false;
  std::string problem;  // when it is not available: what failed
  std::string fix;      // when it is not available: what to do about it
};

// Forks short-lived children (some milliseconds). Thread-safe.
std::vector<Layer> Probe();

}  // namespace tulle::sandbox
