#include "tulle/control/serve/mesh_service.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/util/json_util.h>
#include <google/protobuf/util/time_util.h>

#include "tulle/base/bytes.h"
#include "tulle/base/secret.h"
#include "tulle/control/api/map.h"
#include "tulle/control/model/rules.h"
#include "tulle/security/api_token.h"
#include "tulle/security/ca.h"
#include "tulle/security/join_token.h"
#include "tulle/v1/mesh.pb.h"

namespace tulle::control {
namespace {

constexpr std::uint32_t kDefaultPage = 100;
constexpr std::uint32_t kMaxPage = 1000;
constexpr Duration kDefaultTokenLifetime = std::chrono::hours(1);
constexpr std::uint32_t kDefaultVerdicts = 20;
constexpr std::size_t kMaxReferenceBytes = 128;  // of a name or uid in a request

using google::protobuf::Message;

Error Invalid(const std::string& what) { return Error{.code = Code::kInvalidArgument, .message = what}; }

Status CheckReference(const std::string& name) {
  if (!name.empty() && name.size() <= kMaxReferenceBytes) return OkStatus();
  return Invalid("name: must have 1 to " + std::to_string(kMaxReferenceBytes) + " bytes");
}

Error ControllerGone() {
  return Error{.code = Code::kUnavailable,
               .message = "the controller is stopping or overloaded; try again",
               .retry = Retry::kSame};
}

const google::protobuf::ServiceDescriptor& MeshDescriptor() {
  return *v1::Claim::descriptor()->file()->FindServiceByName("Mesh");
}

constexpr Duration kDefaultGrace = std::chrono::minutes(10);
constexpr Duration kDefaultApiTokenLifetime = std::chrono::hours(24 * 30);
constexpr char kHoldPath[] = "/tulle.v1.Mesh/Hold";
constexpr char kWatchPath[] = "/tulle.v1.Mesh/Watch";
constexpr std::size_t kMaxAuditedBytes = 1024;  // of a request
constexpr std::uint32_t kDefaultEntries = 100;
constexpr std::uint32_t kMaxEntries = 1000;

// Claims, vGPUs, sessions and instances are tenants'; the rest is the mesh's.
template <typename Resource>
constexpr bool kIsTenants =
    !std::is_same_v<Resource, Gpu> && !std::is_same_v<Resource, Node> && !std::is_same_v<Resource, Tenant>;

// Whose resources a request is about: `tenant` as it says it.
template <typename Resource>
std::string TenantFor(const Caller& caller, const std::string& tenant) {
  if (!kIsTenants<Resource>) return "";
  return tenant.empty() ? caller.identity.name : tenant;
}

template <typename Request>
std::string TenantIn(const Request& request) {
  if constexpr (requires { request.tenant(); }) return request.tenant();
  return "";
}

AuditEntry AuditOf(const Caller& caller, const std::string& method, const Message& request) {
  std::string json;
  (void)google::protobuf::util::MessageToJsonString(request, &json);
  return {.caller = caller.identity.Uri(),
          .address = caller.address + (caller.api_token.empty() ? "" : ", API token " + caller.api_token),
          .method = method,
          .request = CutText(json, kMaxAuditedBytes)};
}

Duration LifetimeIn(const auto& request, Duration by_default) {
  if (!request.has_lifetime()) return by_default;
  return Duration(google::protobuf::util::TimeUtil::DurationToNanoseconds(request.lifetime()));
}

class EndedStream final : public Stream {
 public:
  explicit EndedStream(Status status) : status_(std::move(status)) {}
  Next Take() override { return status_; }
  void Close() override {}

 private:
  const Status status_;
};

// Answers with the `Body` of the core's reply, as a message.
template <typename Body>
Controller::OnReply Converted(MeshService::OnDone done) {
  return [done = std::move(done)](Result<ReplyBody> reply) {
    if (!reply.ok()) return done(std::move(reply).error());
    auto message = ToProto(std::get<Body>(*reply));
    done(MeshService::MessagePtr(std::make_unique<decltype(message)>(std::move(message))));
  };
}

}  // namespace

void CallCounts::Count(const std::string& method, std::optional<Code> failure) {
  ++(*counts_.lock())[{method, failure ? CodeName(*failure) : "ok"}];
}

std::string CallCounts::Render() {
  std::string text =
      "# HELP tulle_api_calls_total Calls answered, by method and outcome.\n# TYPE tulle_api_calls_total "
      "counter\n";
  auto counts = counts_.lock();
  for (const auto& [key, count] : *counts) {
    text += "tulle_api_calls_total{method=\"" + key.first + "\",code=\"" + key.second + "\"} " +
            std::to_string(count) + "\n";
  }
  return text;
}

template <typename Request, typename F>
void MeshService::Add(const std::string& name, F run) {
  const auto* method = MeshDescriptor().FindMethodByName(name);
  TULLE_CHECK(method != nullptr && method->input_type() == Request::descriptor());
  methods_["/tulle.v1.Mesh/" + name] = {
      .request = &Request::default_instance(),
      .run = [run](const Caller& caller, const Message& request, OnDone done) {
        run(caller, static_cast<const Request&>(request), std::move(done));
      }};
}

template <typename Body, typename Event>
void MeshService::Change(const std::string& method, const Caller& caller, const Message& request, Event event,
                         OnDone done) {
  controller_.Call(std::move(event), Converted<Body>(std::move(done)), AuditOf(caller, method, request));
}

template <typename Resource, typename GetRequest, typename ListRequest, typename ListResponse, typename F>
void MeshService::AddReads(const std::string& singular, const std::string& plural, F repeated) {
  Add<GetRequest>(
      "Get" + singular, [this, singular](const Caller& caller, const GetRequest& request, OnDone done) {
        if (Status status = CheckReference(request.name()); !status.ok()) return done(status.error());
        const std::string tenant = TenantFor<Resource>(caller, TenantIn(request));
        controller_.Read([=, who = caller.identity.name, name = request.name()](const Core* core) {
          if (core == nullptr) return done(ControllerGone());
          const bool reads_tenant = kIsTenants<Resource> || std::is_same_v<Resource, Tenant>;
          if (Status status = core->CheckRead(who, !reads_tenant          ? who
                                                   : kIsTenants<Resource> ? tenant
                                                                          : name);
              !status.ok()) {
            return done(status.error());
          }
          const std::optional<Resource> resource = core->Get<Resource>(tenant, name);
          if (!resource) {
            return done(
                Error{.code = Code::kNotFound, .message = "there is no " + singular + " \"" + name + "\""});
          }
          auto message = ToProto(*resource);
          done(MessagePtr(std::make_unique<decltype(message)>(std::move(message))));
        });
      });
  Add<ListRequest>("List" + plural, [this, repeated](const Caller& caller, const ListRequest& request,
                                                     OnDone done) {
    // "name", or "tenant/name" where the list is of all tenants.
    const std::string& token = request.page_token();
    const std::string tenant = TenantFor<Resource>(caller, TenantIn(request));
    const bool all = tenant == kAllTenants;
    const std::size_t slash = all ? token.find('/') : std::string::npos;
    const std::pair<std::string, std::string> after(
        all ? token.substr(0, slash) : "", all && slash == std::string::npos ? "" : token.substr(slash + 1));
    if (!token.empty() && (!IsResourceName(after.second) || (all && !IsResourceName(after.first)))) {
      return done(Invalid("page_token: is not one that a List has returned"));
    }
    const std::uint32_t limit =
        std::min(request.page_size() == 0 ? kDefaultPage : request.page_size(), kMaxPage);
    bool live_only = false;
    if constexpr (requires { request.live_only(); }) live_only = request.live_only();
    controller_.Read([=, who = caller.identity.name](const Core* core) {
      if (core == nullptr) return done(ControllerGone());
      Page<Resource> page;
      if constexpr (kIsTenants<Resource>) {
        if (Status status = core->CheckRead(who, tenant); !status.ok()) return done(status.error());
        page = all ? core->ListAll<Resource>(after, limit, live_only)
                   : core->List<Resource>(tenant, after.second, limit, live_only);
      } else {
        if (Status status = core->CheckRead(who, who); !status.ok()) return done(status.error());
        page = core->List<Resource>("", after.second, limit, live_only);
      }
      if constexpr (std::is_same_v<Resource, Tenant>) {
        if (!core->Authorize(who, Permission::kReadAll).ok()) {
          page = {};
          if (auto own = core->Get<Tenant>("", who)) page.resources.push_back(*std::move(own));
        }
      }
      auto response = std::make_unique<ListResponse>();
      for (const Resource& resource : page.resources) *repeated(response.get())->Add() = ToProto(resource);
      if (page.more) {
        const Metadata& last = page.resources.back().metadata;
        response->set_next_page_token(all ? last.tenant + "/" + last.name : last.name);
      }
      response->set_resource_version(core->resource_version());
      done(MessagePtr(std::move(response)));
    });
  });
}

MeshService::MeshService(Controller& controller, BuildStore& builds, Enrollment& enrollment,
                         std::string version)
    : controller_(controller), builds_(builds), enrollment_(enrollment), version_(std::move(version)) {
  AddReads<Claim, v1::GetClaimRequest, v1::ListClaimsRequest, v1::ListClaimsResponse>(
      "Claim", "Claims", [](auto* response) { return response->mutable_claims(); });
  AddReads<VGpu, v1::GetVGpuRequest, v1::ListVGpusRequest, v1::ListVGpusResponse>(
      "VGpu", "VGpus", [](auto* response) { return response->mutable_vgpus(); });
  AddReads<Gpu, v1::GetGpuRequest, v1::ListGpusRequest, v1::ListGpusResponse>(
      "Gpu", "Gpus", [](auto* response) { return response->mutable_gpus(); });
  AddReads<Node, v1::GetNodeRequest, v1::ListNodesRequest, v1::ListNodesResponse>(
      "Node", "Nodes", [](auto* response) { return response->mutable_nodes(); });
  AddReads<Session, v1::GetSessionRequest, v1::ListSessionsRequest, v1::ListSessionsResponse>(
      "Session", "Sessions", [](auto* response) { return response->mutable_sessions(); });
  AddReads<Instance, v1::GetInstanceRequest, v1::ListInstancesRequest, v1::ListInstancesResponse>(
      "Instance", "Instances", [](auto* response) { return response->mutable_instances(); });
  AddReads<Tenant, v1::GetTenantRequest, v1::ListTenantsRequest, v1::ListTenantsResponse>(
      "Tenant", "Tenants", [](auto* response) { return response->mutable_tenants(); });

  Add<v1::CreateClaimRequest>(
      "CreateClaim", [this](const Caller& caller, const v1::CreateClaimRequest& request, OnDone done) {
        const v1::Metadata& metadata = request.claim().metadata();
        Change<Claim>("CreateClaim", caller, request,
                      CreateClaim{.tenant = caller.identity.name,
                                  .name = metadata.name(),
                                  .labels = {metadata.labels().begin(), metadata.labels().end()},
                                  .spec = FromProto(request.claim().spec()),
                                  .request_id = request.request_id()},
                      std::move(done));
      });
  Add<v1::DeleteClaimRequest>(
      "DeleteClaim", [this](const Caller& caller, const v1::DeleteClaimRequest& request, OnDone done) {
        Change<Claim>("DeleteClaim", caller, request,
                      DeleteClaim{.caller = caller.identity.name,
                                  .tenant = TenantFor<Claim>(caller, request.tenant()),
                                  .name = request.name()},
                      std::move(done));
      });
  Add<v1::ResizeClaimRequest>(
      "ResizeClaim", [this](const Caller& caller, const v1::ResizeClaimRequest& request, OnDone done) {
        Change<Claim>("ResizeClaim", caller, request,
                      ResizeClaim{.caller = caller.identity.name,
                                  .tenant = TenantFor<Claim>(caller, request.tenant()),
                                  .name = request.name(),
                                  .compute_percent = request.compute_percent(),
                                  .min_compute_percent = request.min_compute_percent(),
                                  .network_bytes_per_s = request.network_bytes_per_s(),
                                  .memory_bytes = request.memory_bytes()},
                      std::move(done));
      });
  Add<v1::AttachRequest>("Attach",
                         [this](const Caller& caller, const v1::AttachRequest& request, OnDone done) {
                           controller_.Call(
                               AttachClaim{.tenant = caller.identity.name, .name = request.claim()},
                               [done](Result<ReplyBody> reply) {
                                 if (!reply.ok()) return done(std::move(reply).error());
                                 auto response = std::make_unique<v1::AttachResponse>();
                                 for (const AttachedVGpu& vgpu : std::get<std::vector<AttachedVGpu>>(*reply))
                                   *response->add_vgpus() = ToProto(vgpu);
                                 done(MessagePtr(std::move(response)));
                               },
                               AuditOf(caller, "Attach", request));
                         });
  Add<v1::DetachRequest>("Detach",
                         [this](const Caller& caller, const v1::DetachRequest& request, OnDone done) {
                           controller_.Call(
                               DetachClaim{.tenant = caller.identity.name, .name = request.claim()},
                               [done](Result<ReplyBody> reply) {
                                 if (!reply.ok()) return done(std::move(reply).error());
                                 done(MessagePtr(std::make_unique<v1::DetachResponse>()));
                               },
                               AuditOf(caller, "Detach", request));
                         });
  Add<v1::UpdateTenantRequest>(
      "UpdateTenant", [this](const Caller& caller, const v1::UpdateTenantRequest& request, OnDone done) {
        const v1::Metadata& metadata = request.tenant().metadata();
        Change<Tenant>("UpdateTenant", caller, request,
                       UpdateTenant{.caller = caller.identity.name,
                                    .name = metadata.name(),
                                    .labels = {metadata.labels().begin(), metadata.labels().end()},
                                    .spec = FromProto(request.tenant().spec()),
                                    .resource_version = metadata.resource_version()},
                       std::move(done));
      });
  Add<v1::DeleteTenantRequest>(
      "DeleteTenant", [this](const Caller& caller, const v1::DeleteTenantRequest& request, OnDone done) {
        Change<Tenant>("DeleteTenant", caller, request,
                       DeleteTenant{.caller = caller.identity.name, .name = request.name()}, std::move(done));
      });
  Add<v1::GetUsageRequest>(
      "GetUsage", [this](const Caller& caller, const v1::GetUsageRequest& request, OnDone done) {
        const std::string tenant = request.tenant().empty() ? caller.identity.name : request.tenant();
        const WallMicros since_us =
            google::protobuf::util::TimeUtil::TimestampToMicroseconds(request.since_time());
        controller_.Read([=, this, who = caller.identity.name](const Core* core) {
          if (core == nullptr) return done(ControllerGone());
          if (Status status = core->CheckRead(who, tenant); !status.ok()) return done(status.error());
          auto response = std::make_unique<v1::GetUsageResponse>();
          for (const TenantUsage& usage :
               core->UsageSince(tenant == kAllTenants ? std::nullopt : std::optional(tenant), since_us,
                                controller_.ReadClock())) {
            *response->add_tenants() = ToProto(usage);
          }
          done(MessagePtr(std::move(response)));
        });
      });
  Add<v1::ListEventsRequest>("ListEvents", [this](const Caller& caller, const v1::ListEventsRequest& request,
                                                  OnDone done) {
    if (request.most() > kMaxEntries) {
      return done(Invalid("most: " + std::to_string(request.most()) + " is more than " +
                          std::to_string(kMaxEntries)));
    }
    const std::string tenant = request.tenant().empty() ? caller.identity.name : request.tenant();
    controller_.Read([=, this, who = caller.identity.name](const Core* core) {
      if (core == nullptr) return done(ControllerGone());
      if (Status status = core->CheckRead(who, tenant); !status.ok()) return done(status.error());
      const bool reads_all = core->Authorize(who, Permission::kReadAll).ok();
      const auto wanted = [&](const ResourceEvent& event) {
        const bool visible = event.kind == Kind::kTenant
                                 ? reads_all || event.name == who
                                 : event.tenant.empty() || tenant == kAllTenants || event.tenant == tenant;
        return visible &&
               (request.kind() == v1::KIND_UNSPECIFIED || static_cast<int>(event.kind) == request.kind()) &&
               (request.name().empty() || request.name() == event.name || request.name() == event.uid);
      };
      auto response = std::make_unique<v1::ListEventsResponse>();
      for (const ResourceEvent& event :
           controller_.history().Read(request.most() == 0 ? kDefaultEntries : request.most(), wanted)) {
        *response->add_events() = ToProto(event);
      }
      done(MessagePtr(std::move(response)));
    });
  });
  Add<v1::ListAuditRequest>(
      "ListAudit", [this](const Caller& caller, const v1::ListAuditRequest& request, OnDone done) {
        if (request.most() > kMaxEntries) {
          return done(Invalid("most: " + std::to_string(request.most()) + " is more than " +
                              std::to_string(kMaxEntries)));
        }
        controller_.Read([=, this, who = caller.identity.name](const Core* core) {
          if (core == nullptr) return done(ControllerGone());
          if (Status status = core->Authorize(who, Permission::kOperate); !status.ok())
            return done(status.error());
          auto response = std::make_unique<v1::ListAuditResponse>();
          for (const AuditEntry& entry : controller_.audit_log().Read(
                   google::protobuf::util::TimeUtil::TimestampToMicroseconds(request.since_time()),
                   request.caller(), request.most() == 0 ? kDefaultEntries : request.most())) {
            *response->add_entries() = ToProto(entry);
          }
          done(MessagePtr(std::move(response)));
        });
      });
  Add<v1::ExplainClaimRequest>(
      "ExplainClaim", [this](const Caller& caller, const v1::ExplainClaimRequest& request, OnDone done) {
        if (Status status = CheckReference(request.name()); !status.ok()) return done(status.error());
        if (request.most_nodes() > kMaxPage) {
          return done(Invalid("most_nodes: " + std::to_string(request.most_nodes()) + " is more than " +
                              std::to_string(kMaxPage)));
        }
        const std::uint32_t most = request.most_nodes() == 0 ? kDefaultVerdicts : request.most_nodes();
        const std::string tenant = TenantFor<Claim>(caller, request.tenant());
        controller_.Read([=, this, who = caller.identity.name, name = request.name()](const Core* core) {
          if (core == nullptr) return done(ControllerGone());
          if (Status status = core->CheckRead(who, tenant); !status.ok()) return done(status.error());
          const std::optional<ClaimExplanation> explanation =
              core->Explain(tenant, name, most, controller_.ReadClock());
          if (!explanation) {
            return done(Error{.code = Code::kNotFound, .message = "there is no Claim \"" + name + "\""});
          }
          done(MessagePtr(std::make_unique<v1::ExplainClaimResponse>(ToProto(*explanation))));
        });
      });
  Add<v1::DrainNodeRequest>(
      "DrainNode", [this](const Caller& caller, const v1::DrainNodeRequest& request, OnDone done) {
        const Duration grace =
            request.has_grace()
                ? Duration(google::protobuf::util::TimeUtil::DurationToNanoseconds(request.grace()))
                : kDefaultGrace;
        Change<Node>("DrainNode", caller, request,
                     DrainNode{.caller = caller.identity.name, .name = request.name(), .grace = grace},
                     std::move(done));
      });
  Add<v1::CordonNodeRequest>("CordonNode", [this](const Caller& caller, const v1::CordonNodeRequest& request,
                                                  OnDone done) {
    Change<Node>(
        "CordonNode", caller, request,
        CordonNode{.caller = caller.identity.name, .name = request.name(), .cordoned = request.cordoned()},
        std::move(done));
  });
  Add<v1::CordonGpuRequest>(
      "CordonGpu", [this](const Caller& caller, const v1::CordonGpuRequest& request, OnDone done) {
        Change<Gpu>(
            "CordonGpu", caller, request,
            CordonGpu{.caller = caller.identity.name, .name = request.name(), .cordoned = request.cordoned()},
            std::move(done));
      });
  Add<v1::TaintNodeRequest>(
      "TaintNode", [this](const Caller& caller, const v1::TaintNodeRequest& request, OnDone done) {
        Change<Node>("TaintNode", caller, request,
                     TaintNode{.caller = caller.identity.name,
                               .name = request.name(),
                               .taints = {request.taints().begin(), request.taints().end()}},
                     std::move(done));
      });
  Add<v1::CreateTokenRequest>(
      "CreateToken", [this](const Caller& caller, const v1::CreateTokenRequest& request, OnDone done) {
        if (Status status = CheckShowsCertificate(caller); !status.ok()) return done(status.error());
        enrollment_.CreateToken(
            caller.identity.name, static_cast<JoinRole>(request.role()), request.name(),
            LifetimeIn(request, kDefaultTokenLifetime), AuditOf(caller, "CreateToken", request),
            [done](Result<Enrollment::NewToken> token) {
              if (!token.ok()) return done(std::move(token).error());
              auto response = std::make_unique<v1::CreateTokenResponse>();
              response->set_token(token->text);
              *response->mutable_expire_time() =
                  google::protobuf::util::TimeUtil::MicrosecondsToTimestamp(token->expire_time_us);
              done(MessagePtr(std::move(response)));
            });
      });
  Add<v1::RevokeCertificatesRequest>(
      "RevokeCertificates",
      [this](const Caller& caller, const v1::RevokeCertificatesRequest& request, OnDone done) {
        if (Status status = CheckShowsCertificate(caller); !status.ok()) return done(status.error());
        controller_.Call(
            RevokeCertificates{.caller = caller.identity.name,
                               .role = static_cast<JoinRole>(request.role()),
                               .name = request.name()},
            [done](Result<ReplyBody> reply) {
              if (!reply.ok()) return done(std::move(reply).error());
              done(MessagePtr(std::make_unique<v1::RevokeCertificatesResponse>()));
            },
            AuditOf(caller, "RevokeCertificates", request));
      });
  Add<v1::CreateApiTokenRequest>(
      "CreateApiToken", [this](const Caller& caller, const v1::CreateApiTokenRequest& request, OnDone done) {
        if (Status status = CheckShowsCertificate(caller); !status.ok()) return done(status.error());
        enrollment_.CreateApiToken(
            caller.identity.name, request.description(), LifetimeIn(request, kDefaultApiTokenLifetime),
            AuditOf(caller, "CreateApiToken", request), [done](Result<Enrollment::NewApiToken> made) {
              if (!made.ok()) return done(std::move(made).error());
              auto response = std::make_unique<v1::CreateApiTokenResponse>();
              *response->mutable_api_token() = ToProto(made->token);
              response->set_secret(made->text);
              done(MessagePtr(std::move(response)));
            });
      });
  Add<v1::ListApiTokensRequest>(
      "ListApiTokens", [this](const Caller& caller, const v1::ListApiTokensRequest& request, OnDone done) {
        const std::string tenant = request.tenant().empty() ? caller.identity.name : request.tenant();
        controller_.Read([this, who = caller.identity.name, tenant, done](const Core* core) {
          if (core == nullptr) return done(ControllerGone());
          if (Status status = core->CheckRead(who, tenant); !status.ok()) return done(status.error());
          auto response = std::make_unique<v1::ListApiTokensResponse>();
          for (const ApiToken& token : core->ApiTokensOf(tenant, controller_.ReadClock()))
            *response->add_api_tokens() = ToProto(token);
          done(MessagePtr(std::move(response)));
        });
      });
  Add<v1::DeleteApiTokenRequest>(
      "DeleteApiToken", [this](const Caller& caller, const v1::DeleteApiTokenRequest& request, OnDone done) {
        Change<ApiToken>(
            "DeleteApiToken", caller, request,
            DeleteApiToken{.caller = caller.identity.name,
                           .tenant = request.tenant().empty() ? caller.identity.name : request.tenant(),
                           .id = request.id()},
            std::move(done));
      });
  Add<v1::GetMeshRequest>("GetMesh", [this](const Caller& caller, const v1::GetMeshRequest&, OnDone done) {
    controller_.Read([this, uri = caller.identity.Uri(), done](const Core* core) {
      if (core == nullptr) return done(ControllerGone());
      CoreStats stats = core->Stats();
      auto response = std::make_unique<v1::GetMeshResponse>();
      response->set_version(version_);
      response->set_caller(uri);
      *response->mutable_hold_grace() = google::protobuf::util::TimeUtil::NanosecondsToDuration(
          controller_.core_options().hold_grace.count());
      response->set_nodes_ready(static_cast<std::uint32_t>(stats.nodes[NodeState::kReady]));
      response->set_gpus(static_cast<std::uint32_t>(stats.gpus));
      response->set_resource_version(core->resource_version());
      done(MessagePtr(std::move(response)));
    });
  });

  for (int i = 0; i < MeshDescriptor().method_count(); ++i) {
    const auto* method = MeshDescriptor().method(i);
    const std::string path = "/tulle.v1.Mesh/" + method->name();
    TULLE_CHECK(method->server_streaming() ? NewStreamRequest(path) != nullptr : methods_.contains(path));
  }
}

Status MeshService::CheckCaller(const Caller& caller) {
  if (caller.identity.role == security::Role::kUser) return OkStatus();
  return Error{
      .code = Code::kPermissionDenied,
      .message = caller.identity.Uri() + " is not a user; this API is for users, see the certificate in use"};
}

Status MeshService::CheckShowsCertificate(const Caller& caller) {
  if (caller.api_token.empty()) return OkStatus();
  return Error{.code = Code::kPermissionDenied,
               .message = "the bearer of an API token may not do that; show a client certificate"};
}

Result<Caller> MeshService::Authenticate(const Credential& shown) const {
  if (!shown.certificate_uri.empty()) {
    TULLE_ASSIGN_OR_RETURN(security::Identity identity, security::ParseIdentity(shown.certificate_uri));
    Caller caller{.identity = std::move(identity), .address = shown.address};
    const WallMicros before_us = controller_.RevokedBefore(shown.certificate_uri);
    if (before_us == 0) return caller;
    const Result<std::int64_t> issued_us = security::IssuedAt(shown.certificate_pem());
    if (issued_us.ok() && *issued_us >= before_us) return caller;
    return Error{.code = Code::kUnauthenticated,
                 .message = "the certificate of " + shown.certificate_uri +
                            " has been revoked; join again with a token (`tulle token create`)"};
  }
  if (shown.authorization.empty()) {
    return Error{.code = Code::kUnauthenticated,
                 .message =
                     "neither a client certificate of this mesh was shown nor \"authorization: Bearer "
                     "TOKEN\" with one of `tulle token create --api`"};
  }
  const std::size_t space = shown.authorization.find(' ');
  std::string scheme = shown.authorization.substr(0, space);
  std::transform(scheme.begin(), scheme.end(), scheme.begin(), ::tolower);
  if (scheme != "bearer" || space == std::string::npos) {
    return Error{.code = Code::kUnauthenticated,
                 .message = "authorization: must be \"Bearer\" and an API token"};
  }
  TULLE_ASSIGN_OR_RETURN(const auto secret,
                         security::ApiTokenSecret::Parse(shown.authorization.substr(space + 1)));
  const std::optional<ApiToken> token = controller_.FindApiToken(secret.id);
  const std::string digest = security::DigestOf(secret.secret);
  if (!token || !ConstantTimeEqual(AsBytes(token->secret_digest), AsBytes(digest))) {
    return Error{.code = Code::kUnauthenticated,
                 .message = "the API token is unknown, has been deleted, or has expired"};
  }
  return Caller{.identity = {.role = security::Role::kUser, .name = token->tenant},
                .address = shown.address,
                .api_token = token->id};
}

MeshService::MessagePtr MeshService::NewRequest(std::string_view path) const {
  const auto it = methods_.find(path);
  return it == methods_.end() ? nullptr : MessagePtr(it->second.request->New());
}

void MeshService::Run(std::string_view path, const Caller& caller, const Message& request, OnDone done) {
  const auto it = methods_.find(path);
  TULLE_CHECK(it != methods_.end());
  done = [this, name = it->first.substr(it->first.rfind('/') + 1),
          done = std::move(done)](Result<MessagePtr> result) {
    counts_.Count(name, result.ok() ? std::nullopt : std::optional(result.error().code));
    done(std::move(result));
  };
  if (Status status = CheckCaller(caller); !status.ok()) {
    AuditEntry entry = AuditOf(caller, it->first.substr(it->first.rfind('/') + 1), request);
    entry.code = CodeName(status.error().code);
    entry.message = status.error().message;
    controller_.Audit(std::move(entry));
    return done(std::move(status).error());
  }
  it->second.run(caller, request, std::move(done));
}

MeshService::MessagePtr MeshService::NewStreamRequest(std::string_view path) const {
  if (path == kWatchPath) return std::make_unique<v1::WatchRequest>();
  if (path == kHoldPath) return std::make_unique<v1::HoldRequest>();
  return nullptr;
}

std::shared_ptr<Stream> MeshService::Open(std::string_view path, const Caller& caller, const Message& request,
                                          Wakeup on_more) {
  if (Status status = CheckCaller(caller); !status.ok())
    return std::make_shared<EndedStream>(std::move(status));
  if (path == kHoldPath) {
    return OpenHoldStream(controller_, caller, static_cast<const v1::HoldRequest&>(request),
                          std::move(on_more));
  }
  TULLE_CHECK(path == kWatchPath);
  const auto still_good = [this, uri = caller.identity.Uri(), token = caller.api_token,
                           began_us = controller_.ReadClock().wall_us]() -> Status {
    if (controller_.RevokedBefore(uri) > began_us)
      return Error{.code = Code::kUnauthenticated, .message = "the certificate has been revoked"};
    if (!token.empty() && !controller_.FindApiToken(token)) {
      return Error{.code = Code::kUnauthenticated,
                   .message = "the API token has been deleted, or has expired"};
    }
    return OkStatus();
  };
  return OpenWatch(controller_, caller, static_cast<const v1::WatchRequest&>(request), std::move(on_more),
                   still_good);
}

void MeshService::RenderMetrics(std::function<void(std::string)> done) {
  controller_.Read([this, done = std::move(done)](const Core* core) {
    std::string text = counts_.Render();
    const auto gauge = [&text](const std::string& name, const std::string& help) {
      text += "# HELP tulle_" + name + " " + help + "\n# TYPE tulle_" + name + " gauge\n";
    };
    const auto sample = [&text](const std::string& name, const std::string& labels, std::uint64_t value) {
      text += "tulle_" + name + labels + " " + std::to_string(value) + "\n";
    };
    if (core != nullptr) {
      CoreStats stats = core->Stats();
      const auto by_state = [&](const std::string& name, const std::string& help, auto& counts, auto states) {
        gauge(name, help);
        for (const auto state : states)
          sample(name, std::string("{state=\"") + Name(state) + "\"}", counts[state]);
      };
      by_state("claims", "Claims, by phase.", stats.claims,
               std::initializer_list<ClaimPhase>{ClaimPhase::kPending, ClaimPhase::kBound,
                                                 ClaimPhase::kReleased, ClaimPhase::kFailed});
      by_state(
          "vgpus", "vGPUs, by phase.", stats.vgpus,
          std::initializer_list<VGpuPhase>{VGpuPhase::kCreating, VGpuPhase::kReady, VGpuPhase::kDeleting});
      by_state("nodes", "Nodes, by state.", stats.nodes,
               std::initializer_list<NodeState>{NodeState::kReady, NodeState::kNotReady, NodeState::kLeft});
      gauge("gpus", "GPUs of the mesh.");
      sample("gpus", "", stats.gpus);
      gauge("sessions", "Programs attached to vGPUs.");
      sample("sessions", "", stats.sessions);
      gauge("gpu_memory_allocatable_bytes", "Device memory that vGPUs may have.");
      sample("gpu_memory_allocatable_bytes", "", stats.allocatable_memory_bytes);
      gauge("gpu_memory_allocated_bytes", "Device memory that vGPUs have.");
      sample("gpu_memory_allocated_bytes", "", stats.allocated_memory_bytes);
      gauge("placement_rehearsals",
            "Rehearsals of what is asked for, by the last of which vGPUs are placed.");
      sample("placement_rehearsals", "", stats.rehearsals);
      gauge("placement_learnt",
            "1 where that fills the mesh better than fragmentation gradient descent alone.");
      sample("placement_learnt", "", stats.placement_learnt ? 1 : 0);
    }
    const BuildStore::Counters builds = builds_.counters();
    gauge("mesh_builds", "Builds of programs that the mesh remembers.");
    sample("mesh_builds", "", builds.entries);
    gauge("mesh_builds_bytes", "Memory that they take.");
    sample("mesh_builds_bytes", "", builds.bytes);
    text +=
        "# HELP tulle_mesh_builds_total Builds that nodes have asked for, brought, or that made room.\n"
        "# TYPE tulle_mesh_builds_total counter\n";
    sample("mesh_builds_total", "{outcome=\"found\"}", builds.found);
    sample("mesh_builds_total", "{outcome=\"not_found\"}", builds.not_found);
    sample("mesh_builds_total", "{outcome=\"kept\"}", builds.kept);
    sample("mesh_builds_total", "{outcome=\"evicted\"}", builds.evicted);
    done(std::move(text));
  });
}

}  // namespace tulle::control
