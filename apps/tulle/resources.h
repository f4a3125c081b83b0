// `tulle get`, `describe`, `explain`, `delete`, `watch`: the resources of the mesh as tables, details and
// JSON.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "tulle/base/result.h"
#include "tulle/sdk/client.h"

namespace tulle::cli {

// "nodes", "node": either form. kInvalidArgument names the kinds.
Result<sdk::Kind> ParseKind(const std::string& text);

enum class Output { kTable, kWide, kJson };  // kWide: a table of all columns

// Of the resources of a kind, which.
struct Selection {
  sdk::Kind kind = sdk::Kind::kClaim;
  std::string tenant;  // whose; empty: the caller's own; "-": all tenants'
  bool all = false;    // claims that have ended too; those asked for by name are shown in any case
};

// All print on standard output. `now_us`: wall clock, for ages.
Status Get(sdk::Client& client, const Selection& selection, const std::vector<std::string>& names,
           Output output, std::int64_t now_us);
Status Describe(sdk::Client& client, const Selection& selection, const std::string& name,
                std::int64_t now_us);
// Why the claim is where it is. `most_nodes`: how many are shown; 0: some.
Status Explain(sdk::Client& client, const std::string& claim, const std::string& tenant,
               std::uint32_t most_nodes, Output output);
// What has happened lately. Without a kind: to all.
Status Events(sdk::Client& client, std::optional<sdk::Kind> kind, const std::string& name,
              const std::string& tenant, std::uint32_t most, Output output, std::int64_t now_us);
// Claims or tenants.
Status Delete(sdk::Client& client, const Selection& selection, const std::vector<std::string>& names);
// `compute`, `memory`, `network`: as the flags say it; empty: as it is.
Status Resize(sdk::Client& client, const std::string& claim, const std::string& compute,
              const std::string& memory, const std::string& network, const std::string& tenant);
// Until the watch fails; what happened since is not lost when the controller restarts.
Status WatchKind(sdk::Client& client, const Selection& selection, Output output);

// The mesh's load, node by node and tenant by tenant, anew every `interval` until interrupted; where standard
// output is no terminal, once.
Status Top(sdk::Client& client, Duration interval);

// One screen: is the mesh there, what does it have, what is in use.
Status PrintStatus(sdk::Client& client);

// --- parts of the above, for tests

template <typename T>
std::string TableOf(const std::vector<T>& resources, std::int64_t now_us, bool wide = false);
std::string EventTable(const std::vector<sdk::ResourceEvent>& events, std::int64_t now_us);
std::string TopScreen(std::vector<sdk::Node> nodes, const std::vector<sdk::Gpu>& gpus,
                      std::vector<sdk::Tenant> tenants);
std::string ExplanationOf(const sdk::ClaimExplanation& explanation);
template <typename T>
std::string Details(const T& resource, std::int64_t now_us);

}  // namespace tulle::cli
