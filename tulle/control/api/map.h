// Between the API's messages and the plain structs of control/model. Nothing is checked here: what comes from
// a peer is validated by the core, and an enumerator that this version does not know passes as its number.
#pragma once

#include "tulle/control/model/resources.h"
#include "tulle/v1/mesh.pb.h"

namespace tulle::control {

v1::Claim ToProto(const Claim& from);
v1::ExplainClaimResponse ToProto(const ClaimExplanation& from);
v1::VGpuUsage ToProto(const VGpuUsage& from);
VGpuUsage FromProto(const v1::VGpuUsage& from);
v1::VGpu ToProto(const VGpu& from);
v1::Gpu ToProto(const Gpu& from);
v1::Node ToProto(const Node& from);
v1::Instance ToProto(const Instance& from);
v1::Session ToProto(const Session& from);
v1::Tenant ToProto(const Tenant& from);
v1::TenantUsage ToProto(const TenantUsage& from);
v1::AuditEntry ToProto(const AuditEntry& from);
v1::ApiToken ToProto(const ApiToken& from);  // without the secret's digest, which is nobody's
v1::Event ToProto(const ResourceEvent& from);
v1::AttachedVGpu ToProto(const AttachedVGpu& from);
v1::ClaimSpec ToProto(const ClaimSpec& from);
v1::TenantSpec ToProto(const TenantSpec& from);
v1::NodeTelemetry ToProto(const NodeTelemetry& from);
v1::GpuDescription ToProto(const GpuDescription& from);

Claim FromProto(const v1::Claim& from);
ClaimExplanation FromProto(const v1::ExplainClaimResponse& from);
VGpu FromProto(const v1::VGpu& from);
Gpu FromProto(const v1::Gpu& from);
Node FromProto(const v1::Node& from);
Instance FromProto(const v1::Instance& from);
Session FromProto(const v1::Session& from);
Tenant FromProto(const v1::Tenant& from);
TenantUsage FromProto(const v1::TenantUsage& from);
AuditEntry FromProto(const v1::AuditEntry& from);
ApiToken FromProto(const v1::ApiToken& from);
ResourceEvent FromProto(const v1::Event& from);
AttachedVGpu FromProto(const v1::AttachedVGpu& from);
ClaimSpec FromProto(const v1::ClaimSpec& from);
TenantSpec FromProto(const v1::TenantSpec& from);
NodeTelemetry FromProto(const v1::NodeTelemetry& from);
GpuDescription FromProto(const v1::GpuDescription& from);

// The API's JSON, indented by two spaces.
std::string ToJson(const google::protobuf::Message& message);

}  // namespace tulle::control
