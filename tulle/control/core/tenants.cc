// Tenants: roles, quotas, fair shares.
#include "tulle/control/core/core.h"

#include <algorithm>
#include <utility>

#include "tulle/base/bytes.h"
#include "tulle/control/core/internal.h"
#include "tulle/control/model/rules.h"

namespace tulle::control {
namespace {

// What to say who lacks a permission.
const char* Needs(Permission permission) {
  switch (permission) {
    case Permission::kUse: return "use vGPUs; ask an administrator of the mesh for the role of a member";
    case Permission::kReadAll:
      return "see what other tenants have; ask an administrator of the mesh for the role of a viewer";
    case Permission::kOperate: return "do that: it is for operators and administrators of the mesh";
    case Permission::kAdminister: return "do that: it is for administrators of the mesh";
  }
  return "do that";
}

}  // namespace

TenantRole Core::RoleOf(const std::string& tenant) const {
  if (options_.admins.contains(tenant)) return TenantRole::kAdmin;
  const TenantState* state = tenants_.Find("", tenant);
  return state == nullptr ? TenantRole::kMember : state->tenant.spec.role;
}

Status Core::Authorize(const std::string& caller, Permission permission) const {
  const TenantState* state = tenants_.Find("", caller);
  if (state != nullptr && state->tenant.spec.suspended && !options_.admins.contains(caller)) {
    return Refusal(Code::kPermissionDenied,
                   "tenant " + caller + " is suspended; ask an administrator of the mesh");
  }
  const TenantRole role = RoleOf(caller);
  if (MayDo(role, permission)) return OkStatus();
  return Refusal(Code::kPermissionDenied,
                 "tenant " + caller + ", " + Name(role) + ", may not " + Needs(permission));
}

Status Core::CheckRead(const std::string& caller, const std::string& tenant) const {
  if (caller == tenant) {
    const TenantState* state = tenants_.Find("", caller);
    if (state == nullptr || !state->tenant.spec.suspended) return OkStatus();
  }
  return Authorize(caller, Permission::kReadAll);
}

Result<Core::TenantState*> Core::TenantNamed(const std::string& name) {
  if (TenantState* state = tenants_.Find("", name)) return state;
  if (tenants_.size() >= options_.max_tenants) {
    return Refusal(
        Code::kResourceExhausted,
        "the mesh has " + std::to_string(tenants_.size()) +
            " tenants, its limit; an administrator can forget some with `tulle delete tenant NAME`");
  }
  TenantSpec spec = WithDefaults(TenantSpec{});
  if (options_.admins.contains(name)) spec.role = TenantRole::kAdmin;
  TenantState& state = tenants_.Insert(
      {.tenant = {.metadata = {.name = name, .uid = NewUid(), .create_time_us = now_.wall_us}, .spec = spec},
       .accrued = now_.mono});
  Touch(Kind::kTenant, state.metadata().uid, true);
  return &state;
}

double Core::DominantShare(const TenantStatus& has) const {
  const auto part = [](std::uint64_t of, std::uint64_t all) {
    return all == 0 ? 0.0 : static_cast<double>(of) / static_cast<double>(all);
  };
  return std::max(part(has.memory_bytes, capacity_memory_bytes_),
                  part(has.compute_percent, capacity_compute_percent_));
}

std::optional<NoFit> Core::OverQuota(const TenantState& tenant, const TenantStatus& has,
                                     const ClaimSpec& spec) const {
  return OverQuota(
      tenant, has, spec, spec.count * spec.memory_bytes,
      std::uint64_t{spec.count} * ReservedComputePercent(spec.performance_level, spec.compute_percent));
}

std::optional<NoFit> Core::OverQuota(const TenantState& tenant, const TenantStatus& has,
                                     const ClaimSpec& spec, std::uint64_t memory_bytes,
                                     std::uint64_t compute) const {
  const Quota& quota = tenant.tenant.spec.quota;
  const auto refuse = [](const std::string& what, const std::string& asked, const std::string& had,
                         const std::string& limit) {
    return NoFit{
        .reason = kQuotaExceeded,
        .message = "it asks for " + asked + what + ", you have " + had + ", and your quota is " + limit};
  };
  if (quota.memory_bytes && has.memory_bytes + memory_bytes > *quota.memory_bytes) {
    return refuse(" of memory", FormatSize(memory_bytes), FormatSize(has.memory_bytes),
                  FormatSize(*quota.memory_bytes));
  }
  if (quota.compute_percent && has.compute_percent + compute > *quota.compute_percent) {
    return refuse("% of a GPU", std::to_string(compute), std::to_string(has.compute_percent) + "%",
                  std::to_string(*quota.compute_percent) + "%");
  }
  if (quota.vgpus && has.vgpus + spec.count > *quota.vgpus) {
    return refuse(" vGPUs", std::to_string(spec.count), std::to_string(has.vgpus),
                  std::to_string(*quota.vgpus));
  }
  return std::nullopt;
}

void Core::Charge(const VGpu& vgpu, int sign) {
  TenantState& tenant = TenantOf(vgpu.metadata);
  Accrue(tenant);
  TenantStatus& status = tenant.tenant.status;
  const std::uint32_t compute =
      ReservedComputePercent(vgpu.spec.performance_level, vgpu.spec.compute_percent);
  if (sign > 0) {
    status.memory_bytes += vgpu.spec.memory_bytes;
    status.compute_percent += compute;
    ++status.vgpus;
  } else {
    status.memory_bytes -= vgpu.spec.memory_bytes;
    status.compute_percent -= compute;
    --status.vgpus;
    room_changed_ = true;  // its quota has some
  }
  Touch(Kind::kTenant, tenant.metadata().uid, false);
}

void Core::On(const UpdateTenant& event) {
  const auto check = [&]() -> Status {
    TULLE_RETURN_IF_ERROR(Authorize(event.caller, Permission::kAdminister));
    TULLE_RETURN_IF_ERROR(CheckName(event.name, "metadata.name"));
    TULLE_RETURN_IF_ERROR(CheckLabels(event.labels, "metadata.labels"));
    TULLE_RETURN_IF_ERROR(CheckTenantSpec(event.spec));
    const TenantState* state = tenants_.Find("", event.name);
    if (event.resource_version != 0 &&
        (state == nullptr || state->metadata().resource_version != event.resource_version)) {
      return Refusal(Code::kAborted,
                     "metadata.resource_version: tenant " + event.name +
                         (state == nullptr ? " is not there any more" : " has changed since you read it") +
                         "; read it again");
    }
    if (options_.admins.contains(event.name) &&
        (event.spec.suspended || WithDefaults(event.spec).role != TenantRole::kAdmin)) {
      return Refusal(
          Code::kFailedPrecondition,
          "tenant " + event.name + " is an administrator by the controller's --user, and stays one");
    }
    return OkStatus();
  };
  if (Status status = check(); !status.ok()) return Answer(event.call, std::move(status).error());
  auto found = TenantNamed(event.name);
  if (!found.ok()) return Answer(event.call, std::move(found).error());
  TenantState& tenant = **found;
  tenant.tenant.metadata.labels = event.labels;
  tenant.tenant.spec = WithDefaults(event.spec);
  if (tenant.tenant.spec.suspended) {
    std::vector<std::string> live;
    claims_.Visit(event.name, "", [&](const ClaimState& claim) {
      if (!IsFinal(claim.model().status.phase)) live.push_back(claim.metadata().uid);
      return true;
    });
    for (const std::string& uid : live) {
      End(*claims_.Find(uid), ClaimPhase::kReleased, "Suspended", "its tenant has been suspended");
    }
  }
  room_changed_ = true;  // the quota may allow for more, or the order be another
  vgpus_.Visit(event.name, "", [&](const VGpuState& vgpu) {
    if (vgpu.model().spec.compute_percent < vgpu.model().spec.wanted_compute_percent)
      may_grow_on_.insert(vgpu.record.gpu_uid);
    return true;
  });
  Touch(Kind::kTenant, tenant.metadata().uid, true);
  AnswerWith(event.call, Kind::kTenant, tenant.metadata().uid);
}

void Core::On(const DeleteTenant& event) {
  if (Status status = Authorize(event.caller, Permission::kAdminister); !status.ok()) {
    return Answer(event.call, std::move(status).error());
  }
  TenantState* tenant = tenants_.Find("", event.name);
  if (tenant == nullptr) {
    return Answer(event.call,
                  Refusal(Code::kNotFound, "there is no tenant \"" + Cut(event.name, kMaxNameBytes) +
                                               "\"; see `tulle get tenants`"));
  }
  const std::string name = tenant->metadata().name;
  // vGPUs that are going are its own until they are gone.
  bool has_vgpus = false;
  vgpus_.Visit(name, "", [&](const VGpuState&) {
    has_vgpus = true;
    return false;
  });
  if (tenant->records > tenant->ended.size() || has_vgpus) {
    return Answer(
        event.call,
        Refusal(Code::kFailedPrecondition,
                "tenant " + name + " has " + std::to_string(tenant->records - tenant->ended.size()) +
                    " claims that have not ended" + (has_vgpus ? ", and vGPUs that are not gone yet" : "") +
                    "; delete them first, or suspend it with `tulle tenant set " + name + " --suspend`"));
  }
  while (!tenant->ended.empty()) {
    Remove(claims_, Kind::kClaim, std::string(std::get<std::string>(*tenant->ended.begin())));
  }
  for (const auto& [hour, record] : tenant->usage) {
    actions_.writes.push_back({Kind::kUsage, UsageKey(name, hour), std::nullopt});
  }
  ForgetAllApiTokens(name);
  Answer(event.call, ReplyBody(tenant->tenant));
  Remove(tenants_, Kind::kTenant, std::string(tenant->metadata().uid));
}

}  // namespace tulle::control
