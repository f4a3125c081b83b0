#include "tulle/control/api/map.h"

#include <gtest/gtest.h>

#include <cmath>
#include <utility>

namespace tulle::control {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

// Gives each field of a message, at every depth, a value that is not its default.
void Fill(Message* message, int* next) {
  const auto* reflection = message->GetReflection();
  const auto* descriptor = message->GetDescriptor();
  for (int i = 0; i < descriptor->field_count(); ++i) {
    const FieldDescriptor* field = descriptor->field(i);
    const int n = ++*next;
    if (field->is_map()) {
      Message* entry = reflection->AddMessage(message, field);
      entry->GetReflection()->SetString(entry, entry->GetDescriptor()->field(0), "k" + std::to_string(n));
      entry->GetReflection()->SetString(entry, entry->GetDescriptor()->field(1), "v" + std::to_string(n));
      continue;
    }
    const bool repeated = field->is_repeated();
    switch (field->cpp_type()) {
      case FieldDescriptor::CPPTYPE_MESSAGE: {
        Message* child =
            repeated ? reflection->AddMessage(message, field) : reflection->MutableMessage(message, field);
        if (child->GetTypeName() == "google.protobuf.Timestamp" ||
            child->GetTypeName() == "google.protobuf.Duration") {
          child->GetReflection()->SetInt64(child, child->GetDescriptor()->field(0), 1'700'000'000 + n);
        } else {
          Fill(child, next);
        }
        break;
      }
      case FieldDescriptor::CPPTYPE_STRING:
        repeated ? reflection->AddString(message, field, "s" + std::to_string(n))
                 : reflection->SetString(message, field, "s" + std::to_string(n));
        break;
      case FieldDescriptor::CPPTYPE_ENUM: {
        const int last = field->enum_type()->value(field->enum_type()->value_count() - 1)->number();
        repeated ? reflection->AddEnumValue(message, field, last)
                 : reflection->SetEnumValue(message, field, last);
        break;
      }
      case FieldDescriptor::CPPTYPE_UINT64:
        reflection->SetUInt64(message, field, static_cast<std::uint64_t>(n) << 33);
        break;
      case FieldDescriptor::CPPTYPE_UINT32:
        reflection->SetUInt32(message, field, static_cast<std::uint32_t>(n));
        break;
      case FieldDescriptor::CPPTYPE_INT32: reflection->SetInt32(message, field, -n); break;
      case FieldDescriptor::CPPTYPE_DOUBLE: reflection->SetDouble(message, field, n); break;
      case FieldDescriptor::CPPTYPE_FLOAT: reflection->SetFloat(message, field, static_cast<float>(n)); break;
      case FieldDescriptor::CPPTYPE_BOOL: reflection->SetBool(message, field, true); break;
      default: FAIL() << "teach Fill about " << field->full_name();
    }
  }
}

// A field that the mapping forgets is missing from the copy.
template <typename Proto>
void GoesBothWays() {
  Proto original;
  int next = 0;
  Fill(&original, &next);
  const Proto copy = ToProto(FromProto(original));
  EXPECT_EQ(ToJson(original), ToJson(copy));
}

TEST(Map, EveryFieldGoesBothWays) {
  GoesBothWays<v1::Claim>();
  GoesBothWays<v1::ExplainClaimResponse>();
  GoesBothWays<v1::VGpu>();
  GoesBothWays<v1::Gpu>();
  GoesBothWays<v1::Node>();
  GoesBothWays<v1::Instance>();
  GoesBothWays<v1::Tenant>();
  GoesBothWays<v1::TenantUsage>();
  GoesBothWays<v1::AuditEntry>();
  GoesBothWays<v1::Event>();
  GoesBothWays<v1::AttachedVGpu>();
}

TEST(Map, EnumeratorsHaveTheSameNumbers) {
  EXPECT_EQ(v1::ClaimStatus::Phase_Name(static_cast<int>(ClaimPhase::kReleased)),
            Name(ClaimPhase::kReleased));
  for (const auto phase :
       {ClaimPhase::kPending, ClaimPhase::kBound, ClaimPhase::kReleased, ClaimPhase::kFailed}) {
    EXPECT_EQ(v1::ClaimStatus::Phase_Name(static_cast<int>(phase)), Name(phase));
  }
  for (const auto phase :
       {VGpuPhase::kCreating, VGpuPhase::kReady, VGpuPhase::kFailed, VGpuPhase::kDeleting}) {
    EXPECT_EQ(v1::VGpuStatus::Phase_Name(static_cast<int>(phase)), Name(phase));
  }
  for (const auto state : {NodeState::kReady, NodeState::kNotReady, NodeState::kLeft}) {
    EXPECT_EQ(v1::NodeStatus::State_Name(static_cast<int>(state)), Name(state));
  }
  for (const auto level : {PerformanceLevel::kBestEffort, PerformanceLevel::kBurst,
                           PerformanceLevel::kGuaranteed, PerformanceLevel::kDedicated}) {
    EXPECT_EQ(v1::PerformanceLevel_Name(static_cast<int>(level)), Name(level));
  }
  for (const auto role :
       {TenantRole::kAdmin, TenantRole::kOperator, TenantRole::kMember, TenantRole::kViewer}) {
    EXPECT_EQ(v1::TenantRole_Name(static_cast<int>(role)), Name(role));
  }
  for (const auto topology : {Topology::kSameGpu, Topology::kSameNode, Topology::kDistinctNodes}) {
    EXPECT_EQ(v1::Topology_Name(static_cast<int>(topology)), Name(topology));
  }
  for (const auto sharing : {ComputeSharing::kAtOnce, ComputeSharing::kByTurns})
    EXPECT_EQ(v1::ComputeSharing_Name(static_cast<int>(sharing)), Name(sharing));
  for (const auto api : {DeviceApi::kOpenCl, DeviceApi::kCuda})
    EXPECT_EQ(v1::DeviceApi_Name(static_cast<int>(api)), Name(api));
}

// A node's numbers are a peer's.
TEST(Map, ShareIsBetweenNothingAndAll) {
  const std::pair<float, float> kTold[] = {{std::nanf(""), 0.0f}, {-std::nanf(""), 0.0f}, {-1.0f, 0.0f},
                                           {INFINITY, 100.0f},    {101.0f, 100.0f},       {42.5f, 42.5f}};
  for (const auto& [told, taken] : kTold) {
    v1::VGpuUsage usage;
    usage.set_compute_used_percent(told);
    usage.set_compute_share_percent(told);
    usage.set_compute_throttled_percent(told);
    usage.set_network_throttled_percent(told);
    const VGpuUsage is = FromProto(usage);
    for (const float percent : {is.compute_used_percent, is.compute_share_percent,
                                is.compute_throttled_percent, is.network_throttled_percent}) {
      EXPECT_EQ(percent, taken) << told;
    }
  }
}

}  // namespace
}  // namespace tulle::control
