#include "tulle/control/serve/records.h"

#include <cstdio>
#include <cstdlib>

#include "tulle/control/api/map.h"
#include "tulle/control/model/rules.h"
#include "tulle/v1/stored.pb.h"

namespace tulle::control {
namespace {

constexpr char kMeshKey[] = "mesh";
constexpr char kAuditPrefix[] = "audit/";
constexpr std::size_t kAuditPrefixSize = sizeof kAuditPrefix - 1;
constexpr std::uint32_t kFormat = 1;
constexpr std::size_t kShownDigits = 12;  // of a fingerprint

const char* PrefixOf(Kind kind) {
  switch (kind) {
    case Kind::kClaim: return "claim/";
    case Kind::kVGpu: return "vgpu/";
    case Kind::kGpu: return "gpu/";
    case Kind::kNode: return "node/";
    case Kind::kInvitation: return "invitation/";
    case Kind::kTenant: return "tenant/";
    case Kind::kUsage: return "usage/";
    case Kind::kRevocation: return "revocation/";
    case Kind::kApiToken: return "api-token/";
    case Kind::kInstance:  // not kept, nor are sessions
    case Kind::kSession:
    case Kind::kUnspecified: break;
  }
  TULLE_CHECK(false);
}

std::string Encode(const ClaimRecord& record) {
  v1::StoredClaim stored;
  *stored.mutable_claim() = ToProto(record.claim);
  stored.set_request_id(record.request_id);
  stored.set_attempts(record.attempts);
  return stored.SerializeAsString();
}
std::string Encode(const VGpuRecord& record, const security::Sealer* sealer) {
  v1::StoredVGpu stored;
  *stored.mutable_vgpu() = ToProto(record.vgpu);
  stored.set_claim_uid(record.claim_uid);
  stored.set_gpu_uid(record.gpu_uid);
  for (const Grant& grant : record.grants) {
    v1::GrantKey& key = *stored.add_grants();
    key.set_id(grant.id);
    if (sealer == nullptr) {
      key.set_key(std::string(AsText(grant.key.Expose())));
    } else {
      stored.add_sealed_keys(sealer->Seal(grant.key.Expose(), grant.id));
    }
  }
  return stored.SerializeAsString();
}
std::string Encode(const Gpu& gpu) { return ToProto(gpu).SerializeAsString(); }
std::string Encode(const Node& node) { return ToProto(node).SerializeAsString(); }

std::string Encode(const Tenant& tenant) { return ToProto(tenant).SerializeAsString(); }

std::string Encode(const UsageRecord& record) {
  v1::StoredUsage stored;
  stored.set_tenant(record.tenant);
  stored.set_hour_us(record.hour_us);
  stored.set_until_us(record.until_us);
  stored.set_gpu_seconds(record.usage.gpu_seconds);
  stored.set_memory_gib_seconds(record.usage.memory_gib_seconds);
  stored.set_vgpu_seconds(record.usage.vgpu_seconds);
  return stored.SerializeAsString();
}

std::string Encode(const Revocation& revocation) {
  v1::StoredRevocation stored;
  stored.set_identity(revocation.identity);
  stored.set_before_us(revocation.before_us);
  return stored.SerializeAsString();
}

std::string Encode(const ApiToken& token) {
  v1::StoredApiToken stored;
  *stored.mutable_api_token() = ToProto(token);
  stored.set_secret_digest(token.secret_digest);
  return stored.SerializeAsString();
}

std::string Encode(const Invitation& invitation) {
  v1::StoredInvitation stored;
  stored.set_id(invitation.id);
  stored.set_role(static_cast<std::uint32_t>(invitation.role));
  stored.set_name(invitation.name);
  stored.set_secret_digest(invitation.secret_digest);
  stored.set_expire_time_us(invitation.expire_time_us);
  return stored.SerializeAsString();
}

// The record of one entry; nothing when its bytes are not one.
std::optional<Record> Decode(const std::string& key, const std::string& value,
                             const security::Sealer* sealer) {
  if (key.starts_with("claim/")) {
    v1::StoredClaim stored;
    if (!stored.ParseFromString(value)) return std::nullopt;
    return ClaimRecord{
        .claim = FromProto(stored.claim()), .request_id = stored.request_id(), .attempts = stored.attempts()};
  }
  if (key.starts_with("vgpu/")) {
    v1::StoredVGpu stored;
    if (!stored.ParseFromString(value)) return std::nullopt;
    VGpuRecord record{
        .vgpu = FromProto(stored.vgpu()), .claim_uid = stored.claim_uid(), .gpu_uid = stored.gpu_uid()};
    for (int i = 0; i < stored.grants_size(); ++i) {
      const v1::GrantKey& grant = stored.grants(i);
      if (stored.sealed_keys_size() == 0) {  // of an older store
        record.grants.push_back({grant.id(), Secret(AsBytes(grant.key()))});
        continue;
      }
      if (sealer == nullptr || i >= stored.sealed_keys_size()) return std::nullopt;
      auto unsealed = sealer->Unseal(stored.sealed_keys(i), grant.id());
      if (!unsealed.ok()) return std::nullopt;
      record.grants.push_back({grant.id(), *std::move(unsealed)});
    }
    return record;
  }
  if (key.starts_with("gpu/")) {
    v1::Gpu gpu;
    if (!gpu.ParseFromString(value)) return std::nullopt;
    return FromProto(gpu);
  }
  if (key.starts_with("node/")) {
    v1::Node node;
    if (!node.ParseFromString(value)) return std::nullopt;
    return FromProto(node);
  }
  if (key.starts_with("tenant/")) {
    v1::Tenant tenant;
    if (!tenant.ParseFromString(value)) return std::nullopt;
    return FromProto(tenant);
  }
  if (key.starts_with("usage/")) {
    v1::StoredUsage stored;
    if (!stored.ParseFromString(value)) return std::nullopt;
    return UsageRecord{.tenant = stored.tenant(),
                       .hour_us = stored.hour_us(),
                       .until_us = stored.until_us(),
                       .usage = {.gpu_seconds = stored.gpu_seconds(),
                                 .memory_gib_seconds = stored.memory_gib_seconds(),
                                 .vgpu_seconds = stored.vgpu_seconds()}};
  }
  if (key.starts_with("revocation/")) {
    v1::StoredRevocation stored;
    if (!stored.ParseFromString(value)) return std::nullopt;
    return Revocation{stored.identity(), stored.before_us()};
  }
  if (key.starts_with("api-token/")) {
    v1::StoredApiToken stored;
    if (!stored.ParseFromString(value)) return std::nullopt;
    ApiToken token = FromProto(stored.api_token());
    token.secret_digest = stored.secret_digest();
    return token;
  }
  if (key.starts_with("invitation/")) {
    v1::StoredInvitation stored;
    if (!stored.ParseFromString(value)) return std::nullopt;
    return Invitation{.id = stored.id(),
                      .role = static_cast<JoinRole>(stored.role()),
                      .name = stored.name(),
                      .secret_digest = stored.secret_digest(),
                      .expire_time_us = stored.expire_time_us()};
  }
  return std::nullopt;
}

}  // namespace

Store::Write AuditWrite(std::uint64_t number, const AuditEntry* entry) {
  char key[32];
  std::snprintf(key, sizeof key, "%s%020llu", kAuditPrefix, static_cast<unsigned long long>(number));
  Store::Write write{.key = key};
  if (entry != nullptr) write.value = ToProto(*entry).SerializeAsString();
  return write;
}

Store::Write ToStoreWrite(const Write& write, const security::Sealer* sealer) {
  Store::Write out{.key = PrefixOf(write.kind) + write.uid};
  if (write.record)
    out.value = std::visit(
        [sealer](const auto& record) {
          if constexpr (std::is_same_v<std::decay_t<decltype(record)>, VGpuRecord>) {
            return Encode(record, sealer);
          } else {
            return Encode(record);
          }
        },
        *write.record);
  return out;
}

Result<StoredState> LoadState(Store& store, const std::string& ca_fingerprint,
                              const security::Sealer* sealer) {
  const auto unreadable = [](const std::string& what) {
    return Error{.code = Code::kDataLoss, .message = "the store cannot be read: " + what};
  };
  StoredState state;
  TULLE_ASSIGN_OR_RETURN(const std::vector<Store::Entry> entries, store.Scan(""));
  v1::StoredMesh mesh;
  for (const auto& [key, value] : entries) {
    if (key == kMeshKey) {
      if (!mesh.ParseFromString(value)) return unreadable(key);
      if (mesh.format() > kFormat) {
        return unreadable("it has format " + std::to_string(mesh.format()) + ", this version knows up to " +
                          std::to_string(kFormat));
      }
    } else if (key.starts_with(kAuditPrefix)) {
      v1::AuditEntry entry;
      if (!entry.ParseFromString(value)) return unreadable(key);
      if (state.audit.empty())
        state.first_audit_number = std::strtoull(key.c_str() + kAuditPrefixSize, nullptr, 10);
      state.audit.push_back(FromProto(entry));
    } else if (auto record = Decode(key, value, sealer)) {
      state.records.push_back(std::move(*record));
    } else {
      return unreadable(key + " (with another seal.key than the one beside the CA?)");
    }
  }
  if (!mesh.ca_fingerprint().empty() && mesh.ca_fingerprint() != ca_fingerprint) {
    return Error{
        .code = Code::kFailedPrecondition,
        .message = "the store is that of a mesh with another certificate authority (" +
                   mesh.ca_fingerprint().substr(0, kShownDigits) + "..., this controller's is " +
                   ca_fingerprint.substr(0, kShownDigits) +
                   "...): copy the folder ca/ of a controller of that mesh into this one's state directory, "
                   "or use another --store"};
  }
  mesh.set_ca_fingerprint(ca_fingerprint);
  state.epoch = mesh.epoch() + 1;
  mesh.set_format(kFormat);
  mesh.set_epoch(state.epoch);
  const Store::Write write{.key = kMeshKey, .value = mesh.SerializeAsString()};
  TULLE_RETURN_IF_ERROR(store.Commit({&write, 1}));
  return state;
}

}  // namespace tulle::control
