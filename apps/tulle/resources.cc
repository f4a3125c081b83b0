#include "apps/tulle/resources.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iterator>
#include <map>
#include <string_view>
#include <variant>

#include "apps/tulle/text.h"
#include "tulle/base/bytes.h"
#include "tulle/base/clock.h"
#include "tulle/control/model/rules.h"

namespace tulle::cli {
namespace {

using control::Condition;

constexpr int kRetryMs = 200;
constexpr char kAllTenants[] = "-";

void Print(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

std::string Percent(std::uint64_t percent) { return std::to_string(percent) + "%"; }
std::string Count(std::uint64_t count) { return std::to_string(count); }

template <typename T, typename F>
std::optional<std::string> Mapped(const std::optional<T>& value, F text) {
  return value ? std::optional<std::string>(text(*value)) : std::nullopt;
}

std::string Join(const std::vector<std::string>& texts, const char* separator = ",") {
  std::string joined;
  for (const std::string& text : texts) joined += (joined.empty() ? "" : separator) + text;
  return joined;
}

std::string Join(const control::Labels& labels) {
  std::string joined;
  for (const auto& [key, value] : labels) joined += (joined.empty() ? "" : ",") + key + "=" + value;
  return joined;
}

std::string Age(const control::Metadata& metadata, std::int64_t now_us) {
  return metadata.create_time_us == 0 ? "" : FormatAge(now_us - metadata.create_time_us);
}

std::string Bandwidth(std::uint64_t bytes_per_s) {
  return bytes_per_s == 0 ? "" : FormatSize(bytes_per_s) + "/s";
}

// Why a claim is not (or no longer) bound.
// "ready,cordoned"
std::string StateOf(const sdk::Node& node) {
  const std::string scheduling = control::SchedulingOf(node);
  return Word(control::Name(node.status.state)) + (scheduling.empty() ? "" : "," + scheduling);
}

std::string Why(const sdk::Claim& claim) {
  if (claim.status.phase == control::ClaimPhase::kBound) {
    const Condition* draining = control::FindCondition(claim.status.conditions, "Draining");
    return draining != nullptr && draining->status ? draining->message : "";
  }
  for (const Condition& condition : claim.status.conditions) {
    if (!condition.status && !condition.message.empty()) return condition.message;
  }
  return "";
}

std::string Rounded(float percent) {
  return Percent(static_cast<std::uint64_t>(std::lround(std::max(percent, 0.0f))));
}

// "12 units", "1.5 TFLOPS, 200GiB/s"
std::string NeedsOf(const sdk::ClaimSpec& spec) {
  std::vector<std::string> needs;
  if (spec.compute_units != 0) needs.push_back(std::to_string(spec.compute_units) + " units");
  if (spec.fp32_flops != 0) needs.push_back(control::FormatFlops(spec.fp32_flops));
  if (spec.memory_bandwidth != 0) needs.push_back(Bandwidth(spec.memory_bandwidth));
  return Join(needs, ", ");
}

// The columns of each kind, head and row from one place.
template <typename T>
struct Column {
  const char* head;
  std::string (*cell)(const T& resource, std::int64_t now_us);
  bool wide = false;  // shown on request only
};

template <typename T>
const std::vector<Column<T>>& Columns();

template <>
const std::vector<Column<sdk::Node>>& Columns() {
  using T = sdk::Node;
  static const std::vector<Column<T>> columns = {
      {"NAME", [](const T& n, std::int64_t) { return n.metadata.name; }},
      {"STATE", [](const T& n, std::int64_t) { return StateOf(n); }},
      {"GPUS", [](const T& n, std::int64_t) { return std::to_string(n.status.gpus); }},
      {"VGPUS", [](const T& n, std::int64_t) { return std::to_string(n.status.vgpus); }},
      {"SESSIONS", [](const T& n, std::int64_t) { return std::to_string(n.status.telemetry.sessions); }},
      {"CPU",
       [](const T& n, std::int64_t) {
         return Percent(static_cast<std::uint64_t>(n.status.telemetry.cpu_percent));
       }},
      {"HOST-MEMORY-FREE",
       [](const T& n, std::int64_t) { return FormatSize(n.status.telemetry.memory_available_bytes); }},
      {"ENDPOINT", [](const T& n, std::int64_t) { return n.status.endpoint; }},
      {"VERSION", [](const T& n, std::int64_t) { return n.status.version; }},
      {"AGE", [](const T& n, std::int64_t now) { return Age(n.metadata, now); }},
      {"MESSAGE", [](const T& n, std::int64_t) { return n.status.message; }},
  };
  return columns;
}

template <>
const std::vector<Column<sdk::Gpu>>& Columns() {
  using T = sdk::Gpu;
  static const std::vector<Column<T>> columns = {
      {"NAME", [](const T& g, std::int64_t) { return g.metadata.name; }},
      {"NODE", [](const T& g, std::int64_t) { return g.spec.node; }},
      {"MEMORY", [](const T& g, std::int64_t) { return FormatSize(g.status.allocatable_memory_bytes); }},
      {"MEMORY-FREE",
       [](const T& g, std::int64_t) {
         return FormatSize(g.status.allocatable_memory_bytes -
                           std::min(g.status.allocatable_memory_bytes, g.status.allocated_memory_bytes));
       }},
      {"COMPUTE", [](const T& g, std::int64_t) { return Percent(g.status.allocatable_compute_percent); }},
      {"COMPUTE-FREE",
       [](const T& g, std::int64_t) {
         return Percent(g.status.allocatable_compute_percent -
                        std::min(g.status.allocatable_compute_percent, g.status.allocated_compute_percent));
       }},
      {"NETWORK",
       [](const T& g, std::int64_t) { return Bandwidth(g.status.allocatable_network_bytes_per_s); }},
      {"NETWORK-FREE",
       [](const T& g, std::int64_t) {
         const std::uint64_t all = g.status.allocatable_network_bytes_per_s;
         return all == 0 ? ""
                         : FormatSize(all - std::min(all, g.status.allocated_network_bytes_per_s)) + "/s";
       }},
      {"SPILL-FREE",
       [](const T& g, std::int64_t) -> std::string {
         const std::uint64_t all = g.status.allocatable_spill_bytes;
         return all == 0 ? "" : FormatSize(all - std::min(all, g.status.allocated_spill_bytes));
       },
       true},
      {"VGPUS", [](const T& g, std::int64_t) { return std::to_string(g.status.vgpus); }},
      {"UNITS", [](const T& g, std::int64_t) { return std::to_string(g.spec.description.compute_units); }},
      {"BANDWIDTH",
       [](const T& g, std::int64_t) { return Bandwidth(g.spec.description.bandwidth_bytes_per_s); }},
      {"FP32",
       [](const T& g, std::int64_t) {
         const std::uint64_t flops = g.spec.description.fp32_flops;
         return flops == 0 ? "" : control::FormatFlops(flops);
       }},
      {"SCHEDULABLE",
       [](const T& g, std::int64_t) -> std::string {
         return g.spec.cordoned ? "cordoned" : g.status.schedulable ? "yes" : "no";
       }},
      {"SHARED",
       [](const T& g, std::int64_t) -> std::string {
         const control::ComputeSharing sharing = g.spec.description.compute_sharing;
         return sharing == control::ComputeSharing::kUnspecified ? "" : Word(control::Name(sharing));
       },
       true},
      {"ISOLATION",
       [](const T& g, std::int64_t) {
         std::string words;
         for (const control::Isolation isolation : g.spec.description.isolations)
           words += (words.empty() ? "" : ",") + Word(control::Name(isolation));
         return words;
       },
       true},
      {"TYPE", [](const T& g, std::int64_t) { return g.spec.description.type; }},
  };
  return columns;
}

template <>
const std::vector<Column<sdk::VGpu>>& Columns() {
  using T = sdk::VGpu;
  static const std::vector<Column<T>> columns = {
      {"NAME", [](const T& v, std::int64_t) { return v.metadata.name; }},
      {"PHASE", [](const T& v, std::int64_t) { return Word(control::Name(v.status.phase)); }},
      {"CLAIM", [](const T& v, std::int64_t) { return v.spec.claim; }},
      {"GPU", [](const T& v, std::int64_t) { return v.spec.gpu; }},
      {"MEMORY", [](const T& v, std::int64_t) { return FormatSize(v.spec.memory_bytes); }},
      {"COMPUTE",
       [](const T& v, std::int64_t) {
         return v.spec.compute_percent == v.spec.wanted_compute_percent
                    ? Percent(v.spec.compute_percent)
                    : Percent(v.spec.compute_percent) + " of " + Percent(v.spec.wanted_compute_percent);
       }},
      {"NETWORK", [](const T& v, std::int64_t) { return Bandwidth(v.spec.network_bytes_per_s); }},
      {"LEVEL", [](const T& v, std::int64_t) { return Word(control::Name(v.spec.performance_level)); }},
      {"MEMORY-USED", [](const T& v, std::int64_t) { return FormatSize(v.status.usage.memory_used_bytes); },
       true},
      {"COMPUTE-USED", [](const T& v, std::int64_t) { return Rounded(v.status.usage.compute_used_percent); },
       true},
      {"COMPUTE-NOW", [](const T& v, std::int64_t) { return Rounded(v.status.usage.compute_share_percent); },
       true},
      {"COMPUTE-WAITS",
       [](const T& v, std::int64_t) { return Rounded(v.status.usage.compute_throttled_percent); }, true},
      {"NETWORK-USED",
       [](const T& v, std::int64_t) { return FormatSize(v.status.usage.network_used_bytes_per_s) + "/s"; },
       true},
      {"NETWORK-NOW",
       [](const T& v, std::int64_t) -> std::string {
         const std::uint64_t share = v.status.usage.network_share_bytes_per_s;
         return share == 0 ? "any" : Bandwidth(share);
       },
       true},
      {"NETWORK-WAITS",
       [](const T& v, std::int64_t) { return Rounded(v.status.usage.network_throttled_percent); }, true},
      {"ISOLATION", [](const T& v, std::int64_t) { return Word(control::Name(v.spec.isolation)); }, true},
      {"SPILL",
       [](const T& v, std::int64_t) -> std::string {
         return v.spec.spill_bytes == 0 ? "" : FormatSize(v.spec.spill_bytes);
       },
       true},
      {"SPILLED", [](const T& v, std::int64_t) { return FormatSize(v.status.usage.spilled_bytes); }, true},
      {"SPILL-RATE",
       [](const T& v, std::int64_t) { return FormatSize(v.status.usage.spill_bytes_per_s) + "/s"; }, true},
      {"SPILL-WAITS", [](const T& v, std::int64_t) { return Rounded(v.status.usage.spill_wait_percent); },
       true},
      {"SESSIONS", [](const T& v, std::int64_t) { return std::to_string(v.status.sessions); }},
      {"AGE", [](const T& v, std::int64_t now) { return Age(v.metadata, now); }},
      {"MESSAGE", [](const T& v, std::int64_t) { return v.status.message; }},
  };
  return columns;
}

template <>
const std::vector<Column<sdk::Claim>>& Columns() {
  using T = sdk::Claim;
  static const std::vector<Column<T>> columns = {
      {"NAME", [](const T& c, std::int64_t) { return c.metadata.name; }},
      {"PHASE", [](const T& c, std::int64_t) { return Word(control::Name(c.status.phase)); }},
      {"VGPUS",
       [](const T& c, std::int64_t) {
         return std::to_string(c.status.vgpus.size()) + "/" + std::to_string(c.spec.count);
       }},
      {"MEMORY", [](const T& c, std::int64_t) { return FormatSize(c.spec.memory_bytes); }},
      {"COMPUTE",
       [](const T& c, std::int64_t) {
         if (control::NeedsByGpu(c.spec)) return NeedsOf(c.spec);
         return control::IsElastic(c.spec)
                    ? std::to_string(c.spec.min_compute_percent) + ".." + Percent(c.spec.compute_percent)
                    : Percent(c.spec.compute_percent);
       }},
      {"LEVEL", [](const T& c, std::int64_t) { return Word(control::Name(c.spec.performance_level)); }},
      {"HOLDERS", [](const T& c, std::int64_t) { return std::to_string(c.status.holders); }},
      {"AGE", [](const T& c, std::int64_t now) { return Age(c.metadata, now); }},
      {"WHY", [](const T& c, std::int64_t) { return Why(c); }},
  };
  return columns;
}

template <>
const std::vector<Column<sdk::Instance>>& Columns() {
  using T = sdk::Instance;
  static const std::vector<Column<T>> columns = {
      {"NAME", [](const T& i, std::int64_t) { return i.metadata.name; }},
      {"ADDRESS", [](const T& i, std::int64_t) { return i.status.address; }},
      {"CLAIMS", [](const T& i, std::int64_t) { return Join(i.status.claims); }},
      {"LAST-SEEN",
       [](const T& i, std::int64_t now) {
         return i.status.last_seen_us == 0 ? "" : FormatAge(now - i.status.last_seen_us) + " ago";
       }},
  };
  return columns;
}

template <>
const std::vector<Column<sdk::Session>>& Columns() {
  using T = sdk::Session;
  static const std::vector<Column<T>> columns = {
      {"NAME", [](const T& s, std::int64_t) { return s.metadata.name; }},
      {"PROGRAM", [](const T& s, std::int64_t) { return s.status.program; }},
      {"PID", [](const T& s, std::int64_t) { return std::to_string(s.status.process_id); }},
      {"VGPU", [](const T& s, std::int64_t) { return s.spec.vgpu; }},
      {"CLAIM", [](const T& s, std::int64_t) { return s.spec.claim; }},
      {"NODE", [](const T& s, std::int64_t) { return s.status.node; }},
      {"CHANNEL", [](const T& s, std::int64_t) { return s.status.channel; }},
      {"AGE", [](const T& s, std::int64_t now) { return Age(s.metadata, now); }},
  };
  return columns;
}

// "4GiB of 10GiB", "4GiB".
std::string OfLimit(const std::string& used, const std::optional<std::string>& limit) {
  return limit ? used + " of " + *limit : used;
}

template <>
const std::vector<Column<sdk::Tenant>>& Columns() {
  using T = sdk::Tenant;
  static const std::vector<Column<T>> columns = {
      {"NAME", [](const T& t, std::int64_t) { return t.metadata.name; }},
      {"ROLE",
       [](const T& t, std::int64_t) {
         return Word(control::Name(t.spec.role)) + (t.spec.suspended ? ",suspended" : "");
       }},
      {"CLAIMS",
       [](const T& t, std::int64_t) {
         return OfLimit(std::to_string(t.status.claims), Mapped(t.spec.quota.claims, Count));
       }},
      {"WAITING", [](const T& t, std::int64_t) { return std::to_string(t.status.waiting_claims); }},
      {"VGPUS",
       [](const T& t, std::int64_t) {
         return OfLimit(std::to_string(t.status.vgpus), Mapped(t.spec.quota.vgpus, Count));
       }},
      {"MEMORY",
       [](const T& t, std::int64_t) {
         return OfLimit(FormatSize(t.status.memory_bytes), Mapped(t.spec.quota.memory_bytes, FormatSize));
       }},
      {"COMPUTE",
       [](const T& t, std::int64_t) {
         return OfLimit(Percent(t.status.compute_percent), Mapped(t.spec.quota.compute_percent, Percent));
       }},
      {"SHARE",
       [](const T& t, std::int64_t) {
         return Percent(static_cast<std::uint64_t>(100 * t.status.dominant_share + 0.5F));
       }},
      {"WEIGHT", [](const T& t, std::int64_t) { return std::to_string(t.spec.weight); }},
      {"AGE", [](const T& t, std::int64_t now) { return Age(t.metadata, now); }},
  };
  return columns;
}

template <typename T>
std::vector<std::string> Heads(bool wide) {
  std::vector<std::string> heads;
  for (const Column<T>& column : Columns<T>()) {
    if (wide || !column.wide) heads.push_back(column.head);
  }
  return heads;
}

template <typename T>
std::vector<std::string> Row(const T& resource, std::int64_t now_us, bool wide) {
  std::vector<std::string> row;
  for (const Column<T>& column : Columns<T>()) {
    if (wide || !column.wide) row.push_back(column.cell(resource, now_us));
  }
  return row;
}

// What the columns do not show, for Describe.
using Facts = std::vector<std::pair<std::string, std::string>>;

Facts MoreFacts(const sdk::Node& n) {
  return {{"Taints", Join(n.spec.taints)},
          {"Host CPUs", std::to_string(n.status.telemetry.cpus)},
          {"Host memory", FormatSize(n.status.telemetry.memory_total_bytes)},
          {"Received", FormatSize(n.status.telemetry.network_received_bytes)},
          {"Sent", FormatSize(n.status.telemetry.network_sent_bytes)}};
}
Facts MoreFacts(const sdk::Gpu& g) {
  std::vector<std::string> apis;
  for (const control::DeviceApi api : g.spec.description.apis) apis.push_back(control::Name(api));
  return {{"Message", g.status.message},
          {"Vendor", g.spec.description.vendor},
          {"Driver", g.spec.description.driver},
          {"APIs", Join(apis)},
          {"Device memory", FormatSize(g.spec.description.memory_bytes)},
          {"Clock", std::to_string(g.spec.description.clock_mhz) + " MHz"},
          {"Allocated",
           FormatSize(g.status.allocated_memory_bytes) + ", " + Percent(g.status.allocated_compute_percent)}};
}
Facts MoreFacts(const sdk::VGpu& v) { return {{"Node", v.status.node}, {"Endpoint", v.status.endpoint}}; }
Facts MoreFacts(const sdk::Claim& c) {
  Facts facts = {
      {"vGPU names", Join(c.status.vgpus)},
      {"GPU types", Join(c.spec.gpu_types)},
      {"Vendors", Join(c.spec.vendors)},
      {"API", control::Name(c.spec.api)},
      {"Node selector", Join(c.spec.node_selector)},
      {"Tolerates", Join(c.spec.tolerations)},
      {"Topology",
       c.spec.topology == control::Topology::kUnspecified ? "" : Word(control::Name(c.spec.topology))},
      {"Duration", c.spec.duration_us == 0 ? "" : FormatAge(c.spec.duration_us)},
      {"Priority", std::to_string(c.spec.priority)},
      {"Waits for room", c.spec.no_wait ? "no" : "yes"},
      {"Ends when unheld", c.spec.release_when_unheld ? "yes" : "no"}};
  for (const Condition& condition : c.status.conditions) {
    facts.emplace_back("Condition " + condition.type,
                       std::string(condition.status ? "yes" : "no") +
                           (condition.reason.empty() ? "" : " (" + condition.reason + ")") +
                           (condition.message.empty() ? "" : ": " + condition.message));
  }
  return facts;
}
Facts MoreFacts(const sdk::Instance&) { return {}; }
Facts MoreFacts(const sdk::Session&) { return {}; }
Facts MoreFacts(const sdk::Tenant&) { return {}; }

// The calls of each kind.
template <typename T>
struct Calls {
  Result<T> (sdk::Client::*get)(const std::string&, const sdk::CallOptions&);
  Result<std::vector<T>> (sdk::Client::*list)(const sdk::CallOptions&);
};

// Calls f(Calls<T>) for the kind's resource type. `all`: the list has claims that have ended too.
template <typename F>
auto WithKind(sdk::Kind kind, bool all, F&& f) {
  using C = sdk::Client;
  switch (kind) {
    case sdk::Kind::kNode: return f(Calls<sdk::Node>{&C::GetNode, &C::ListNodes});
    case sdk::Kind::kGpu: return f(Calls<sdk::Gpu>{&C::GetGpu, &C::ListGpus});
    case sdk::Kind::kVGpu: return f(Calls<sdk::VGpu>{&C::GetVGpu, &C::ListVGpus});
    case sdk::Kind::kInstance: return f(Calls<sdk::Instance>{&C::GetInstance, &C::ListInstances});
    case sdk::Kind::kSession: return f(Calls<sdk::Session>{&C::GetSession, &C::ListSessions});
    case sdk::Kind::kTenant: return f(Calls<sdk::Tenant>{&C::GetTenant, &C::ListTenants});
    case sdk::Kind::kClaim: break;
  }
  return f(Calls<sdk::Claim>{&C::GetClaim, all ? &C::ListClaims : &C::ListLiveClaims});
}

// With whose they are, where they are of several tenants.
template <typename T>
std::string TableOfTenants(const std::vector<T>& resources, std::int64_t now_us, bool wide) {
  std::vector<std::string> heads = Heads<T>(wide);
  heads.insert(heads.begin(), "TENANT");
  Table table(heads);
  for (const T& resource : resources) {
    std::vector<std::string> row = Row(resource, now_us, wide);
    row.insert(row.begin(), resource.metadata.tenant);
    table.Add(std::move(row));
  }
  return table.TakeText();
}

template <typename T>
std::string JsonList(const std::vector<T>& resources) {
  std::string text = "[";
  for (const T& resource : resources)
    text += (text.size() > 1 ? ",\n" : "\n") + sdk::Client::ToJson(resource);
  return text + "\n]\n";
}

}  // namespace

template <typename T>
std::string TableOf(const std::vector<T>& resources, std::int64_t now_us, bool wide) {
  Table table(Heads<T>(wide));
  for (const T& resource : resources) table.Add(Row(resource, now_us, wide));
  return table.TakeText();
}

template <typename T>
std::string Details(const T& resource, std::int64_t now_us) {
  Facts facts;
  const std::vector<std::string> row = Row(resource, now_us, true);
  const std::vector<std::string> heads = Heads<T>(true);
  for (std::size_t i = 0; i < heads.size(); ++i) {
    std::string name = Word(heads[i].c_str());
    name[0] = static_cast<char>(name[0] - 'a' + 'A');
    for (char& c : name) c = c == '-' ? ' ' : c;
    facts.emplace_back(name, row[i]);
  }
  for (auto& fact : MoreFacts(resource)) facts.push_back(std::move(fact));
  facts.emplace_back("Labels", Join(resource.metadata.labels));
  facts.emplace_back("Tenant", resource.metadata.tenant);
  facts.emplace_back("Uid", resource.metadata.uid);
  facts.emplace_back("Resource version", std::to_string(resource.metadata.resource_version));
  std::size_t width = 0;
  for (const auto& [name, value] : facts) width = std::max(width, name.size());
  std::string text;
  for (const auto& [name, value] : facts) {
    if (value.empty()) continue;
    text += name + ":" + std::string(width - name.size() + 2, ' ') + value + "\n";
  }
  return text;
}

template std::string TableOf(const std::vector<sdk::Claim>&, std::int64_t, bool);
template std::string TableOf(const std::vector<sdk::Gpu>&, std::int64_t, bool);
template std::string TableOf(const std::vector<sdk::VGpu>&, std::int64_t, bool);
template std::string TableOf(const std::vector<sdk::Tenant>&, std::int64_t, bool);
template std::string Details(const sdk::Claim&, std::int64_t);

Result<sdk::Kind> ParseKind(const std::string& text) {
  static const std::map<std::string_view, sdk::Kind> kinds = {
      {"claim", sdk::Kind::kClaim},    {"vgpu", sdk::Kind::kVGpu},         {"gpu", sdk::Kind::kGpu},
      {"node", sdk::Kind::kNode},      {"instance", sdk::Kind::kInstance}, {"tenant", sdk::Kind::kTenant},
      {"session", sdk::Kind::kSession}};
  std::string_view singular = text;
  if (singular.ends_with('s')) singular.remove_suffix(1);
  const auto it = kinds.find(singular);
  if (it != kinds.end()) return it->second;
  return Error{.code = Code::kInvalidArgument,
               .message = "there is no kind " + text +
                          "; the kinds are nodes, gpus, vgpus, claims, sessions, instances and tenants"};
}

Status Get(sdk::Client& client, const Selection& selection, const std::vector<std::string>& names,
           Output output, std::int64_t now_us) {
  const sdk::CallOptions options{.tenant = selection.tenant};
  return WithKind(selection.kind, selection.all, [&]<typename T>(Calls<T> calls) -> Status {
    std::vector<T> resources;
    if (names.empty()) {
      TULLE_ASSIGN_OR_RETURN(resources, (client.*calls.list)(options));
    }
    for (const std::string& name : names) {
      TULLE_ASSIGN_OR_RETURN(T resource, (client.*calls.get)(name, options));
      resources.push_back(std::move(resource));
    }
    if (output == Output::kJson) {
      Print(names.size() == 1 ? sdk::Client::ToJson(resources[0]) + "\n" : JsonList(resources));
    } else if (resources.empty()) {
      std::fputs(selection.kind == sdk::Kind::kClaim && !selection.all
                     ? "none; --all shows those that have ended\n"
                     : "none\n",
                 stderr);
    } else {
      const bool wide = output == Output::kWide;
      Print(selection.tenant == kAllTenants ? TableOfTenants(resources, now_us, wide)
                                            : TableOf(resources, now_us, wide));
    }
    return OkStatus();
  });
}

std::string EventTable(const std::vector<sdk::ResourceEvent>& events, std::int64_t now_us) {
  constexpr const char* kKinds[] = {"", "claim", "vgpu", "gpu", "node", "instance", "tenant"};
  Table table({"AGE", "RESOURCE", "EVENT", "MESSAGE"});
  for (const sdk::ResourceEvent& event : events) {
    const auto kind = static_cast<std::size_t>(event.kind);
    table.Add({FormatAge(now_us - event.time_us),
               std::string(kind < std::size(kKinds) ? kKinds[kind] : "?") + "/" + event.name, event.reason,
               event.message});
  }
  return table.TakeText();
}

Status Events(sdk::Client& client, std::optional<sdk::Kind> kind, const std::string& name,
              const std::string& tenant, std::uint32_t most, Output output, std::int64_t now_us) {
  TULLE_ASSIGN_OR_RETURN(const std::vector<sdk::ResourceEvent> events,
                         client.ListEvents(kind, name, most, {.tenant = tenant}));
  if (output == Output::kJson) {
    Print(JsonList(events));
  } else if (events.empty()) {
    std::fputs("none\n", stderr);
  } else {
    Print(EventTable(events, now_us));
  }
  return OkStatus();
}

Status Describe(sdk::Client& client, const Selection& selection, const std::string& name,
                std::int64_t now_us) {
  constexpr std::uint32_t kShown = 20;
  return WithKind(selection.kind, true, [&]<typename T>(Calls<T> calls) -> Status {
    TULLE_ASSIGN_OR_RETURN(const T resource, (client.*calls.get)(name, {.tenant = selection.tenant}));
    Print(Details(resource, now_us));
    const auto events = client.ListEvents(selection.kind, resource.metadata.uid, kShown,
                                          {.tenant = resource.metadata.tenant});
    if (events.ok() && !events->empty()) Print("\n" + EventTable(*events, now_us));
    return OkStatus();
  });
}

namespace {

// "####....", of 20.
std::string Bar(double part) {
  constexpr int kWidth = 20;
  const int full = std::clamp(static_cast<int>(part * kWidth + 0.5), 0, kWidth);
  return std::string(static_cast<std::size_t>(full), '#') +
         std::string(static_cast<std::size_t>(kWidth - full), '.');
}

// What GPUs have, and what of it is allocated.
struct Load {
  std::uint64_t memory = 0, memory_used = 0, compute = 0, compute_used = 0;
  double Part() const {
    const auto part = [](std::uint64_t of, std::uint64_t all) {
      return all == 0 ? 0.0 : static_cast<double>(of) / static_cast<double>(all);
    };
    return std::max(part(memory_used, memory), part(compute_used, compute));
  }
  std::vector<std::string> Row(const std::string& name) const {
    return {name, Bar(Part()), FormatSize(memory_used) + " of " + FormatSize(memory),
            Percent(compute_used) + " of " + Percent(compute)};
  }
};

}  // namespace

std::string TopScreen(std::vector<sdk::Node> nodes, const std::vector<sdk::Gpu>& gpus,
                      std::vector<sdk::Tenant> tenants) {
  std::map<std::string, Load> loads;
  for (const sdk::Gpu& gpu : gpus) {
    for (Load* load : {&loads[gpu.spec.node], &loads[""]}) {
      load->memory += gpu.status.allocatable_memory_bytes;
      load->memory_used += gpu.status.allocated_memory_bytes;
      load->compute += gpu.status.allocatable_compute_percent;
      load->compute_used += gpu.status.allocated_compute_percent;
    }
  }
  std::uint64_t vgpus = 0, sessions = 0;
  for (const sdk::Node& node : nodes) vgpus += node.status.vgpus, sessions += node.status.telemetry.sessions;
  Table mesh({"NODE", "ALLOCATED", "MEMORY", "COMPUTE", "VGPUS", "SESSIONS", "HOST-CPU", "STATE"});
  std::vector<std::string> all = loads[""].Row("all");
  all.insert(all.end(), {Count(vgpus), Count(sessions), "", std::to_string(nodes.size()) + " nodes"});
  mesh.Add(all);
  // The busiest first.
  std::stable_sort(nodes.begin(), nodes.end(), [&](const sdk::Node& a, const sdk::Node& b) {
    return loads[a.metadata.name].Part() > loads[b.metadata.name].Part();
  });
  for (const sdk::Node& node : nodes) {
    std::vector<std::string> cells = loads[node.metadata.name].Row(node.metadata.name);
    cells.insert(cells.end(),
                 {Count(node.status.vgpus), Count(node.status.telemetry.sessions),
                  Percent(static_cast<std::uint64_t>(node.status.telemetry.cpu_percent)), StateOf(node)});
    mesh.Add(cells);
  }
  std::string text = mesh.TakeText();
  if (tenants.empty()) return text;
  std::stable_sort(tenants.begin(), tenants.end(), [](const sdk::Tenant& a, const sdk::Tenant& b) {
    return a.status.dominant_share > b.status.dominant_share;
  });
  Table shares({"TENANT", "SHARE", "MEMORY", "COMPUTE", "VGPUS", "CLAIMS", "WAITING"});
  for (const sdk::Tenant& tenant : tenants) {
    const control::TenantStatus& has = tenant.status;
    shares.Add({tenant.metadata.name, Bar(static_cast<double>(has.dominant_share)),
                FormatSize(has.memory_bytes), Percent(has.compute_percent), Count(has.vgpus),
                Count(has.claims), Count(has.waiting_claims)});
  }
  return text + "\n" + shares.TakeText();
}

Status Top(sdk::Client& client, Duration interval) {
  const bool live = isatty(STDOUT_FILENO) != 0;
  for (;;) {
    TULLE_ASSIGN_OR_RETURN(std::vector<sdk::Node> nodes, client.ListNodes());
    TULLE_ASSIGN_OR_RETURN(const std::vector<sdk::Gpu> gpus, client.ListGpus());
    TULLE_ASSIGN_OR_RETURN(std::vector<sdk::Tenant> tenants, client.ListTenants());
    const std::string screen = TopScreen(std::move(nodes), gpus, std::move(tenants));
    if (!live) {
      Print(screen);
      return OkStatus();
    }
    // From the top left; what was there is cleared line by line, so that nothing flickers.
    std::string text = "\x1b[H";
    for (const char c : screen) text += c == '\n' ? "\x1b[K\n" : std::string(1, c);
    Print(text + "\x1b[J");
    poll(nullptr, 0,
         static_cast<int>(std::chrono::duration_cast<std::chrono::milliseconds>(interval).count()));
  }
}

std::string ExplanationOf(const sdk::ClaimExplanation& explanation) {
  const sdk::Claim& claim = explanation.claim;
  std::string text = "Claim " + claim.metadata.name + " is " + Word(control::Name(claim.status.phase));
  if (const std::string why = Why(claim); !why.empty()) text += ": " + why;
  text += "\n";
  if (explanation.waiting_position != 0) {
    text += "It is number " + std::to_string(explanation.waiting_position) + " of " +
            std::to_string(explanation.waiting_claims) +
            " waiting claims; those of the tenant with the least share are tried first, and a smaller one "
            "may pass "
            "it\n";
    if (explanation.expected_wait_us) {
      text += "By how long claims have lasted so far, it has its vGPUs in about " +
              FormatAge(*explanation.expected_wait_us) + "\n";
    }
  } else if (!claim.status.vgpus.empty()) {
    const bool shrunk = claim.status.branch == control::AllocationBranch::kShrinkNeighbours;
    text += "Its vGPUs (" + Join(claim.status.vgpus, ", ") + ") are new slices of GPUs " +
            (shrunk ? "on which others now have less compute" : "that had room") + " (" +
            Word(control::Name(claim.status.branch)) + ")";
    if (!claim.status.placed_by.empty()) text += ", chosen by " + claim.status.placed_by;
    text += "\n";
  }
  if (explanation.nodes.empty()) return text + "The mesh has no GPU\n";
  text += "\nWhat the nodes have for one like it, by " + explanation.policy + ":\n";
  Table table({"NODE", "SCORE", "ROOM", "GPU", "WHY"});
  for (const control::NodeVerdict& verdict : explanation.nodes) {
    char score[32] = "";
    if (!verdict.gpu.empty()) std::snprintf(score, sizeof score, "%.3g", static_cast<double>(verdict.score));
    table.Add({verdict.node, score, std::to_string(verdict.room), verdict.gpu, verdict.message});
  }
  text += table.TakeText();
  if (explanation.more_nodes != 0) text += "and " + std::to_string(explanation.more_nodes) + " more nodes\n";
  return text;
}

Status Explain(sdk::Client& client, const std::string& claim, const std::string& tenant,
               std::uint32_t most_nodes, Output output) {
  TULLE_ASSIGN_OR_RETURN(const sdk::ClaimExplanation explanation,
                         client.ExplainClaim(claim, most_nodes, {.tenant = tenant}));
  Print(output == Output::kJson ? sdk::Client::ToJson(explanation) + "\n" : ExplanationOf(explanation));
  return OkStatus();
}

Status Delete(sdk::Client& client, const Selection& selection, const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    if (selection.kind == sdk::Kind::kTenant) {
      TULLE_ASSIGN_OR_RETURN(const sdk::Tenant tenant, client.DeleteTenant(name));
      Print("tenant " + tenant.metadata.name + " forgotten\n");
    } else if (selection.kind == sdk::Kind::kClaim) {
      TULLE_ASSIGN_OR_RETURN(const sdk::Claim claim, client.DeleteClaim(name, {.tenant = selection.tenant}));
      Print("claim " + claim.metadata.name + " released\n");
    } else {
      return Error{
          .code = Code::kInvalidArgument,
          .message =
              "only claims and tenants can be deleted; vGPUs go with their claim, nodes and GPUs with "
              "their daemon"};
    }
  }
  return OkStatus();
}

Status Resize(sdk::Client& client, const std::string& name, const std::string& compute,
              const std::string& memory, const std::string& network, const std::string& tenant) {
  if (compute.empty() && memory.empty() && network.empty()) {
    return Error{.code = Code::kInvalidArgument,
                 .message = "say what it shall have: --compute, --memory or --network"};
  }
  sdk::ClaimSize size;
  std::vector<std::string> has;
  if (!memory.empty()) {
    TULLE_ASSIGN_OR_RETURN(size.memory_bytes, ParseMemory("--memory", memory));
    has.push_back(FormatSize(size.memory_bytes));
  }
  if (!compute.empty()) {
    TULLE_RETURN_IF_ERROR(
        ParseCompute("--compute", compute, &size.min_compute_percent, &size.compute_percent));
    has.push_back(compute + " of a GPU");
  }
  if (!network.empty()) {
    TULLE_ASSIGN_OR_RETURN(size.network_bytes_per_s, ParseMemory("--network", network));
    has.push_back(Bandwidth(size.network_bytes_per_s) + " of the network");
  }
  TULLE_ASSIGN_OR_RETURN(const sdk::Claim claim, client.ResizeClaim(name, size, {.tenant = tenant}));
  Print("claim " + claim.metadata.name + ": " + Join(has, " and ") + " for each of its vGPUs\n");
  return OkStatus();
}

Status WatchKind(sdk::Client& client, const Selection& selection, Output output) {
  return WithKind(selection.kind, selection.all, [&]<typename T>(Calls<T>) -> Status {
    constexpr const char* kEvents[] = {"", "added", "modified", "deleted"};
    const bool wide = output == Output::kWide;
    std::vector<std::string> heads = Heads<T>(wide);
    heads.insert(heads.begin(), "EVENT");
    Table table(heads);
    bool synced = false;  // what exists is one table; changes then come row by row
    std::uint64_t version = 0;
    for (;;) {
      const std::unique_ptr<sdk::Watch> watch =
          client.WatchChanges({selection.kind}, version, !selection.all, selection.tenant);
      for (;;) {
        const auto event = watch->Next();
        if (!event.ok()) {
          if (event.error().code == Code::kOutOfRange) {
            version = 0;
          } else if (event.error().code == Code::kUnavailable) {
            poll(nullptr, 0, kRetryMs);  // then from where it was
          } else {
            return event.error();
          }
          break;
        }
        version = event->resource_version;
        synced |= event->type == sdk::EventType::kSynced;
        if (const T* resource = std::get_if<T>(&event->resource)) {
          if (output == Output::kJson) {
            Print(sdk::Client::ToJson(*resource) + "\n");
            continue;
          }
          std::vector<std::string> row = Row(*resource, SystemClock().WallMicros(), wide);
          row.insert(row.begin(), kEvents[static_cast<int>(event->type)]);
          table.Add(std::move(row));
        }
        if (synced && output != Output::kJson) Print(table.TakeText());
      }
    }
  });
}

Status PrintStatus(sdk::Client& client) {
  const sdk::CallOptions at_once{.timeout = std::chrono::seconds(5), .fail_fast = true};
  TULLE_ASSIGN_OR_RETURN(const sdk::MeshInfo mesh, client.GetMesh(at_once));
  TULLE_ASSIGN_OR_RETURN(const std::vector<sdk::Node> nodes, client.ListNodes(at_once));
  TULLE_ASSIGN_OR_RETURN(const std::vector<sdk::Gpu> gpus, client.ListGpus(at_once));
  TULLE_ASSIGN_OR_RETURN(const std::vector<sdk::Claim> claims, client.ListLiveClaims(at_once));
  std::uint64_t memory = 0, memory_used = 0, compute = 0, compute_used = 0, vgpus = 0, sessions = 0;
  for (const sdk::Gpu& gpu : gpus) {
    if (!gpu.status.schedulable) continue;
    memory += gpu.status.allocatable_memory_bytes;
    memory_used += gpu.status.allocated_memory_bytes;
    compute += gpu.status.allocatable_compute_percent;
    compute_used += gpu.status.allocated_compute_percent;
    vgpus += gpu.status.vgpus;
  }
  for (const sdk::Node& node : nodes) sessions += node.status.telemetry.sessions;
  std::size_t bound = 0, waiting = 0;
  for (const sdk::Claim& claim : claims) {
    bound += claim.status.phase == control::ClaimPhase::kBound;
    waiting += claim.status.phase == control::ClaimPhase::kPending;
  }
  const auto line = [](const char* name, const std::string& value) {
    return std::string(name) + std::string(12 - std::string_view(name).size(), ' ') + value + "\n";
  };
  std::string text =
      line("Controller", client.config().endpoint + ", version " + mesh.version + ", you are " + mesh.caller);
  text += line("Nodes", std::to_string(mesh.nodes_ready) + " ready of " + std::to_string(nodes.size()));
  text += line("GPUs", std::to_string(gpus.size()) + "; in use " + FormatSize(memory_used) + " of " +
                           FormatSize(memory) + ", " + Percent(compute_used) + " of " + Percent(compute) +
                           " compute");
  text += line("vGPUs", std::to_string(vgpus) + ", " + std::to_string(sessions) + " programs attached");
  text += line("Claims", std::to_string(bound) + " bound, " + std::to_string(waiting) + " waiting");
  for (const sdk::Node& node : nodes) {
    if (node.status.state == control::NodeState::kNotReady) {
      text += line("", "node " + node.metadata.name + " is not ready: " + node.status.message);
    }
  }
  Print(text);
  return mesh.nodes_ready != 0
             ? OkStatus()
             : Status(Error{.code = Code::kUnavailable,
                            .message = "no node is ready, so nothing can run; see `tulle get nodes`"});
}

}  // namespace tulle::cli
