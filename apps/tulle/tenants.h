// `tulle tenant`, `usage`, `audit`, `drain`, `cordon`, `uncordon`, `taint`: running a mesh that several
// share.
#pragma once

#include <string>
#include <vector>

#include "apps/tulle/commands.h"

namespace tulle::cli {

// `run` must be callable for as long as the app is.
void AddTenantCommands(CLI::App& app, const Runner& run);

// --- parts of the above, for tests

// What `tulle tenant set` says; empty: as it is. "none" for no limit.
struct TenantChange {
  std::string role, memory, compute, vgpus, claims, weight;
  bool suspend = false, resume = false;
};
Status Apply(const TenantChange& change, control::TenantSpec* spec);
std::string UsageTable(const std::vector<sdk::TenantUsage>& usage);
std::string AuditTable(const std::vector<sdk::AuditEntry>& entries);

}  // namespace tulle::cli
