#include "apps/tulle/tenants.h"

#include <charconv>
#include <cstdio>
#include <limits>
#include <memory>

#include "apps/tulle/join.h"
#include "apps/tulle/resources.h"
#include "apps/tulle/text.h"
#include "tulle/base/clock.h"
#include "tulle/control/model/rules.h"

namespace tulle::cli {
namespace {

constexpr char kNoLimit[] = "none";
constexpr char kAllTenants[] = "-";

Result<std::uint32_t> ParseNumber(const std::string& flag, const std::string& text, const char* unit) {
  std::uint32_t number = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  const std::string_view left(rest, static_cast<std::size_t>(end - rest));
  if (error == std::errc() && (left.empty() || left == unit)) return number;
  return Error{.code = Code::kInvalidArgument,
               .message = flag + " " + text + ": not a number from 0 to " +
                          std::to_string(std::numeric_limits<std::uint32_t>::max()) + ", or " + kNoLimit};
}

Status SetLimit(const char* flag, const std::string& text, const char* unit,
                std::optional<std::uint32_t>* limit) {
  if (text == kNoLimit) {
    limit->reset();
  } else if (!text.empty()) {
    TULLE_ASSIGN_OR_RETURN(*limit, ParseNumber(flag, text, unit));
  }
  return OkStatus();
}

// The wall clock so long ago; 0 for no text.
Result<std::int64_t> Since(const std::string& text) {
  if (text.empty()) return std::int64_t{0};
  TULLE_ASSIGN_OR_RETURN(const Duration duration, ParseLifetime("--since", text));
  return SystemClock().WallMicros() - std::chrono::duration_cast<std::chrono::microseconds>(duration).count();
}

std::string Number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, value < 10 ? "%.3f" : "%.1f", value);
  return text;
}

Status SetTenant(sdk::Client& client, const std::string& name, const TenantChange& change) {
  // What is not said stays: the resource version keeps two administrators from undoing each other.
  auto tenant = client.GetTenant(name);
  if (!tenant.ok() && tenant.error().code != Code::kNotFound) return std::move(tenant).error();
  sdk::Tenant changed = tenant.ok() ? *std::move(tenant) : sdk::Tenant{.metadata = {.name = name}};
  TULLE_RETURN_IF_ERROR(Apply(change, &changed.spec));
  TULLE_ASSIGN_OR_RETURN(const sdk::Tenant set, client.UpdateTenant(changed));
  std::fputs(TableOf(std::vector{set}, SystemClock().WallMicros()).c_str(), stdout);
  return OkStatus();
}

// How far it is; the same words as of now.
Status SayDrained(const sdk::Node& node) {
  const std::string until = control::FormatUtc(node.spec.drain_time_us);
  if (node.status.vgpus == 0) {
    std::printf("node %s is drained\n", node.metadata.name.c_str());
  } else {
    std::printf("node %s takes no new vGPUs; the %u that it has end at %s\n", node.metadata.name.c_str(),
                node.status.vgpus, until.c_str());
  }
  std::fflush(stdout);
  return OkStatus();
}

// Tells of each change until it is empty. Whoever interrupts this changes nothing about the node.
Status WaitDrained(sdk::Client& client, const sdk::Node& node) {
  TULLE_RETURN_IF_ERROR(SayDrained(node));
  std::uint32_t vgpus = node.status.vgpus;
  const auto watch = client.WatchChanges({sdk::Kind::kNode});
  while (vgpus != 0) {
    TULLE_ASSIGN_OR_RETURN(const sdk::Event event, watch->Next());
    const auto* now = std::get_if<sdk::Node>(&event.resource);
    if (now == nullptr || now->metadata.uid != node.metadata.uid) continue;
    if (now->spec.drain_time_us == 0) {
      return Error{
          .code = Code::kAborted,
          .message = "node " + node.metadata.name + " has been uncordoned, and is not drained any more"};
    }
    if (event.type == sdk::EventType::kDeleted) return OkStatus();
    if (std::exchange(vgpus, now->status.vgpus) != vgpus) TULLE_RETURN_IF_ERROR(SayDrained(*now));
  }
  return OkStatus();
}

}  // namespace

Status Apply(const TenantChange& change, control::TenantSpec* spec) {
  if (!change.role.empty() && !control::ParseTenantRole(change.role, &spec->role)) {
    return Error{
        .code = Code::kInvalidArgument,
        .message = "--role " + change.role + ": not a role; write admin, operator, member or viewer"};
  }
  if (change.memory == kNoLimit) {
    spec->quota.memory_bytes.reset();
  } else if (change.memory == "0") {
    spec->quota.memory_bytes = 0;
  } else if (!change.memory.empty()) {
    TULLE_ASSIGN_OR_RETURN(spec->quota.memory_bytes, ParseMemory("--memory", change.memory));
  }
  TULLE_RETURN_IF_ERROR(SetLimit("--compute", change.compute, "%", &spec->quota.compute_percent));
  TULLE_RETURN_IF_ERROR(SetLimit("--vgpus", change.vgpus, "", &spec->quota.vgpus));
  TULLE_RETURN_IF_ERROR(SetLimit("--claims", change.claims, "", &spec->quota.claims));
  if (!change.weight.empty()) {
    TULLE_ASSIGN_OR_RETURN(spec->weight, ParseNumber("--weight", change.weight, ""));
    if (spec->weight == 0) {
      return Error{.code = Code::kInvalidArgument, .message = "--weight 0: not a number from 1 to 1000"};
    }
  }
  if (change.suspend) spec->suspended = true;
  if (change.resume) spec->suspended = false;
  return OkStatus();
}

std::string UsageTable(const std::vector<sdk::TenantUsage>& usage) {
  Table table({"TENANT", "GPU-HOURS", "MEMORY-GIB-HOURS", "VGPU-HOURS"});
  for (const sdk::TenantUsage& of : usage) {
    table.Add({of.tenant, Number(of.usage.gpu_seconds / 3600), Number(of.usage.memory_gib_seconds / 3600),
               Number(of.usage.vgpu_seconds / 3600)});
  }
  return table.TakeText();
}

std::string AuditTable(const std::vector<sdk::AuditEntry>& entries) {
  Table table({"TIME", "CALLER", "ADDRESS", "METHOD", "OUTCOME", "REQUEST"});
  for (const sdk::AuditEntry& entry : entries) {
    table.Add({control::FormatUtc(entry.time_us), entry.caller, entry.address, entry.method,
               entry.code + (entry.message.empty() ? "" : ": " + entry.message), entry.request});
  }
  return table.TakeText();
}

void AddTenantCommands(CLI::App& app, const Runner& run) {
  // Shared by the callbacks, which outlive this call.
  struct Flags {
    std::string name, role, tenant, since, caller, output = "table";
    std::vector<std::string> taints;
    std::string grace = "10m";
    bool all_tenants = false, no_wait = false;
    std::uint32_t most = 100;
    TenantChange change;
  };
  const auto flags = std::make_shared<Flags>();

  CLI::App* tenant = app.add_subcommand("tenant", "What a user of the mesh may do and have");
  tenant->require_subcommand(1);
  CLI::App* set = tenant->add_subcommand(
      "set", "Change a tenant's role, quota or share; what is not named stays. For administrators");
  set->footer(
      "Examples:\n  tulle tenant set bob --memory 40GiB --compute 400% --vgpus 10\n"
      "  tulle tenant set carol --role viewer\n  tulle tenant set batch --weight 3 --claims none\n"
      "  tulle tenant set mallory --suspend\n\n"
      "A claim above the quota waits until its tenant has given something back. `tulle get tenants` shows "
      "all.");
  set->add_option("NAME", flags->name, "The tenant, which is a user of that name")->required();
  set->add_option("--role", flags->change.role,
                  "admin: everything; operator: runs the mesh; member: has claims [member]; viewer: sees "
                  "everything, changes nothing");
  set->add_option("--memory", flags->change.memory,
                  "Device memory that it may have at once, or none: no limit");
  set->add_option("--compute", flags->change.compute,
                  "Compute that it may have reserved at once, 100% being one GPU, or none: no limit");
  set->add_option("--vgpus", flags->change.vgpus, "vGPUs that it may have at once, or none: no limit");
  set->add_option("--claims", flags->change.claims, "Claims that it may have at once, or none: no limit");
  set->add_option("--weight", flags->change.weight,
                  "Its part of the mesh, relative to others', when claims have to wait: 1 to 1000 [1]");
  CLI::Option* suspend =
      set->add_flag("--suspend", flags->change.suspend, "Release its claims and refuse all of its calls");
  set->add_flag("--resume", flags->change.resume, "No longer suspended")->excludes(suspend);
  set->callback([flags, run] {
    run([&](sdk::Client& client) { return SetTenant(client, flags->name, flags->change); });
  });

  CLI::App* usage = app.add_subcommand("usage", "What a tenant has had of the mesh");
  usage->footer(
      "Examples:\n  tulle usage --since 7d\n  tulle usage --all-tenants\n\n"
      "Reserved compute (an hour of half a GPU is 0.5), device memory and vGPUs, over time; whole hours are "
      "counted, "
      "those\nof the last 90 days are known.");
  CLI::Option* whose = usage->add_option("--tenant", flags->tenant, "Whose [your own]");
  usage->add_flag("-A,--all-tenants", flags->all_tenants, "Of each tenant")->excludes(whose);
  usage->add_option("--since", flags->since, "From so long ago on, such as 12h or 7d [all]");
  AddOutput(usage, &flags->output);
  usage->callback([flags, run] {
    run([&](sdk::Client& client) -> Status {
      TULLE_ASSIGN_OR_RETURN(const std::int64_t since_us, Since(flags->since));
      TULLE_ASSIGN_OR_RETURN(
          const auto used,
          client.GetUsage(since_us, {.tenant = flags->all_tenants ? kAllTenants : flags->tenant}));
      PrintAll(used, flags->output, UsageTable(used));
      return OkStatus();
    });
  });

  CLI::App* audit = app.add_subcommand(
      "audit", "Calls that changed something, or were to; for operators and administrators");
  audit->footer(
      "Examples:\n  tulle audit --since 1h\n  tulle audit --caller tulle://user/bob --most 1000 -o json");
  audit->add_option("--since", flags->since, "From so long ago on, such as 30m or 7d [all]");
  audit->add_option("--caller", flags->caller, "Of this one only, such as tulle://user/bob");
  audit->add_option("--most", flags->most, "The latest so many")
      ->check(CLI::Range(1u, 1000u))
      ->capture_default_str();
  AddOutput(audit, &flags->output);
  audit->callback([flags, run] {
    run([&](sdk::Client& client) -> Status {
      TULLE_ASSIGN_OR_RETURN(const std::int64_t since_us, Since(flags->since));
      TULLE_ASSIGN_OR_RETURN(const auto entries, client.ListAudit(since_us, flags->caller, flags->most));
      PrintAll(entries, flags->output, AuditTable(entries));
      return OkStatus();
    });
  });

  CLI::App* taint = app.add_subcommand(
      "taint", "Let only those claims onto a node that tolerate it. For operators and administrators");
  taint->footer(
      "Examples:\n  tulle taint gpu-1 reserved=lab     then: tulle run --tolerate reserved=lab -- ./train\n"
      "  tulle taint gpu-1 reserved-        takes it away\n\nvGPUs that the node has stay.");
  taint->add_option("NODE", flags->name, "Which")->required();
  taint->add_option("TAINT", flags->taints, "KEY=VALUE, or KEY- to take one away")->required();
  taint->callback([flags, run] {
    run([&](sdk::Client& client) -> Status {
      TULLE_ASSIGN_OR_RETURN(const sdk::Node before, client.GetNode(flags->name));
      sdk::Labels taints = before.spec.taints;
      for (const std::string& text : flags->taints) {
        if (text.size() > 1 && text.ends_with('-') && text.find('=') == std::string::npos) {
          taints.erase(text.substr(0, text.size() - 1));
          continue;
        }
        TULLE_ASSIGN_OR_RETURN(const auto parsed, ParseLabel("TAINT", text));
        taints[parsed.first] = parsed.second;
      }
      TULLE_ASSIGN_OR_RETURN(const sdk::Node node, client.TaintNode(flags->name, taints));
      std::string list;
      for (const auto& [key, value] : node.spec.taints)
        list += (list.empty() ? "" : ", ") + key + "=" + value;
      std::printf("node %s: %s\n", node.metadata.name.c_str(), list.empty() ? "no taints" : list.c_str());
      return OkStatus();
    });
  });

  CLI::App* revoke = app.add_subcommand(
      "revoke", "Make all certificates void that a node or user has so far. For administrators");
  revoke->footer(
      "Examples:\n  tulle revoke user bob\n  tulle revoke node gpu-1\n\nIts calls are refused from then on; "
      "`tulle token "
      "create` lets it in again. What a user's\nprograms have goes as if they had ended; `tulle tenant set "
      "NAME --suspend` "
      "releases all of its claims.");
  revoke->add_option("ROLE", flags->role, "node or user")->required()->check(CLI::IsMember({"node", "user"}));
  revoke->add_option("NAME", flags->name, "Which")->required();
  revoke->callback([flags, run] {
    run([&](sdk::Client& client) -> Status {
      const auto role = flags->role == "node" ? control::JoinRole::kNode : control::JoinRole::kUser;
      TULLE_RETURN_IF_ERROR(client.RevokeCertificates(role, flags->name));
      std::printf("the certificates of %s %s are void\n", flags->role.c_str(), flags->name.c_str());
      return OkStatus();
    });
  });

  CLI::App* drain = app.add_subcommand(
      "drain", "Empty a node for maintenance: no new vGPUs, and those that it has end after a while");
  drain->footer(
      "Examples:\n  tulle drain gpu-1                   within 10 minutes\n"
      "  tulle drain gpu-1 --grace 0s        at once\n  tulle drain gpu-1 --grace 12h --no-wait\n\n"
      "Claims with vGPUs there are told in `tulle get claims`, and `tulle run` says so; when the grace is "
      "over they "
      "fail.\n`tulle uncordon NODE` ends it at any time. For operators and administrators.");
  drain->add_option("NODE", flags->name, "Which")->required();
  drain
      ->add_option("--grace", flags->grace,
                   "How long what is there may go on, such as 30m or 12h; at most 30d")
      ->capture_default_str();
  drain->add_flag("--no-wait", flags->no_wait, "Do not wait until the node is empty");
  drain->callback([flags, run] {
    run([&](sdk::Client& client) -> Status {
      Duration grace(0);
      if (flags->grace != "0s") {
        TULLE_ASSIGN_OR_RETURN(grace, ParseLifetime("--grace", flags->grace));
      }
      TULLE_ASSIGN_OR_RETURN(const sdk::Node node, client.DrainNode(flags->name, grace));
      return flags->no_wait ? SayDrained(node) : WaitDrained(client, node);
    });
  });

  for (const bool cordoned : {true, false}) {
    CLI::App* cordon = app.add_subcommand(
        cordoned ? "cordon" : "uncordon",
        cordoned
            ? "Put no new vGPUs on a node or a GPU; those that it has stay. For operators and administrators"
            : "Put vGPUs on a node or a GPU again");
    cordon->footer(cordoned ? "Example: tulle cordon gpu-1" : "Example: tulle uncordon gpu-1");
    cordon->add_option("NAME", flags->name, "Of the node or GPU")->required();
    cordon->callback([flags, run, cordoned] {
      run([&](sdk::Client& client) -> Status {
        const auto node = client.CordonNode(flags->name, cordoned);
        if (node.ok()) {
          std::printf("node %s is %s\n", node->metadata.name.c_str(),
                      node->spec.cordoned ? "cordoned" : "open");
          return OkStatus();
        }
        if (node.error().code != Code::kNotFound) return node.error();
        const auto gpu = client.CordonGpu(flags->name, cordoned);
        if (!gpu.ok() && gpu.error().code == Code::kNotFound) {
          return Error{.code = Code::kNotFound,
                       .message = "there is no node and no GPU \"" + flags->name +
                                  "\"; see `tulle get nodes` and `tulle get gpus`"};
        }
        TULLE_RETURN_IF_ERROR(gpu);
        std::printf("GPU %s is %s\n", gpu->metadata.name.c_str(), gpu->spec.cordoned ? "cordoned" : "open");
        return OkStatus();
      });
    });
  }
}

}  // namespace tulle::cli
