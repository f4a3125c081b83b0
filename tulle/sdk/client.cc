#include "tulle/sdk/client.h"

#include <google/protobuf/util/time_util.h>
#include <grpcpp/client_context.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <utility>

#include "tulle/base/paths.h"
#include "tulle/base/random.h"
#include "tulle/control/api/channel.h"
#include "tulle/control/api/map.h"
#include "tulle/control/model/rules.h"
#include "tulle/security/identity.h"
#include "tulle/v1/mesh.grpc.pb.h"

namespace tulle::sdk {
namespace {

namespace v1 = tulle::v1;
using std::chrono::system_clock;

constexpr std::uint32_t kPageSize = 1000;
// Between tries to reach a controller that is away; gRPC's own backoff is below it.
constexpr auto kRetryEvery = std::chrono::milliseconds(200);

Error Unreachable(const Config& config) {
  return Error{.code = Code::kUnavailable,
               .message = "the controller at " + config.endpoint +
                          " cannot be reached; is it running? Start one with `tulle up`, "
                          "or point TULLE_CONFIG to another's client.conf",
               .retry = Retry::kSame};
}

// Whether opening the stream anew can help.
bool IsTransient(Code code) {
  return code == Code::kUnavailable || code == Code::kUnknown || code == Code::kInternal ||
         code == Code::kAborted || code == Code::kCancelled || code == Code::kDeadlineExceeded ||
         code == Code::kResourceExhausted;
}

std::string HostName() {
  char name[256] = "";
  gethostname(name, sizeof name - 1);
  return security::MakeName(name);
}

class HoldImpl final : public ClaimHold {
 public:
  HoldImpl(v1::Mesh::Stub& stub, std::string claim, const HoldOptions& options) : stub_(stub) {
    request_.set_claim(std::move(claim));
    request_.set_instance(options.instance.empty() ? HostName() : options.instance);
    request_.set_program(options.program.substr(0, control::kMaxProgramBytes));
    thread_ = std::thread([this] { Run(); });
  }

  ~HoldImpl() override {
    {
      const std::lock_guard lock(mutex_);
      stopped_ = true;
      if (context_ != nullptr) context_->TryCancel();
    }
    changed_.notify_all();
    thread_.join();
  }

  std::optional<Claim> Latest() const override {
    const std::lock_guard lock(mutex_);
    return latest_;
  }

  Result<Claim> WaitChange(std::uint64_t after_version, Duration timeout) override {
    std::unique_lock lock(mutex_);
    const auto is_newer = [&] { return latest_ && latest_->metadata.resource_version > after_version; };
    changed_.wait_for(lock, timeout, [&] { return is_newer() || failure_ || ended_; });
    if (is_newer()) return *latest_;
    if (failure_) return *failure_;
    if (ended_)
      return Error{.code = Code::kFailedPrecondition, .message = "the claim has ended and changes no more"};
    return Error{.code = Code::kDeadlineExceeded, .message = "no change of the claim in time"};
  }

  Result<Claim> WaitBound(Duration timeout) override {
    const auto deadline = std::chrono::steady_clock::now() + timeout;
    std::optional<Claim> claim;
    for (;;) {
      const Duration left = std::max<Duration>(deadline - std::chrono::steady_clock::now(), Duration(0));
      Result<Claim> changed = WaitChange(claim ? claim->metadata.resource_version : 0, left);
      if (!changed.ok()) {
        if (changed.error().code != Code::kDeadlineExceeded || !claim) return changed;
        return Error{.code = Code::kDeadlineExceeded,
                     .message = "the claim is still PENDING: " + Why(*claim)};
      }
      claim = *std::move(changed);
      if (claim->status.phase == control::ClaimPhase::kBound) return *std::move(claim);
      if (control::IsFinal(claim->status.phase)) {
        return Error{.code = Code::kFailedPrecondition,
                     .message = std::string("the claim is ") + control::Name(claim->status.phase) + ": " +
                                Why(*claim)};
      }
    }
  }

  bool connected() const override {
    const std::lock_guard lock(mutex_);
    return connected_;
  }

 private:
  static std::string Why(const Claim& claim) {
    for (const char* type : {"Placed", "Ready"}) {
      const control::Condition* condition = control::FindCondition(claim.status.conditions, type);
      if (condition != nullptr && !condition->status && !condition->message.empty())
        return condition->message;
    }
    return "no reason is known";
  }

  void Run() {
    for (;;) {
      grpc::ClientContext context;
      context.set_wait_for_ready(true);
      {
        const std::lock_guard lock(mutex_);
        if (stopped_) return;
        context_ = &context;
      }
      const auto reader = stub_.Hold(&context, request_);
      v1::HoldResponse response;
      while (reader->Read(&response)) {
        const std::lock_guard lock(mutex_);
        latest_ = control::FromProto(response.claim());
        connected_ = true;
        changed_.notify_all();
      }
      const grpc::Status status = reader->Finish();
      std::unique_lock lock(mutex_);
      context_ = nullptr;
      connected_ = false;
      if (status.ok()) ended_ = true;
      if (!status.ok() && !IsTransient(static_cast<Code>(status.error_code())))
        failure_ = control::ToError(status);
      changed_.notify_all();
      if (ended_ || failure_) return;
      if (changed_.wait_for(lock, kRetryEvery, [this] { return stopped_; })) return;
    }
  }

  v1::Mesh::Stub& stub_;
  v1::HoldRequest request_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<Claim> latest_;
  std::optional<Error> failure_;
  bool ended_ = false;
  bool connected_ = false;
  bool stopped_ = false;
  grpc::ClientContext* context_ = nullptr;  // of the stream that is open
  std::thread thread_;
};

class WatchImpl final : public Watch {
 public:
  WatchImpl(v1::Mesh::Stub& stub, const std::vector<Kind>& kinds, std::uint64_t resource_version,
            bool live_only, const std::string& tenant) {
    v1::WatchRequest request;
    request.set_tenant(tenant);
    for (const Kind kind : kinds) request.add_kinds(static_cast<v1::Kind>(kind));
    request.set_resource_version(resource_version);
    request.set_live_only(live_only);
    reader_ = stub.Watch(&context_, request);
  }
  ~WatchImpl() override {
    context_.TryCancel();
    if (!finished_) reader_->Finish();
  }

  Result<Event> Next() override {
    v1::WatchEvent from;
    if (finished_ || !reader_->Read(&from)) {
      if (!std::exchange(finished_, true)) end_ = control::ToError(reader_->Finish());
      // A server that ends with calls open cancels them: to the caller that is a break like any other.
      if (end_.code == Code::kCancelled && !cancelled_) end_.code = Code::kUnavailable;
      if (end_.message.empty()) end_.message = "the watch has ended";
      return end_;
    }
    Event event{.type = static_cast<EventType>(from.type()), .resource_version = from.resource_version()};
    switch (from.resource_case()) {
      case v1::WatchEvent::kClaim: event.resource = control::FromProto(from.claim()); break;
      case v1::WatchEvent::kVgpu: event.resource = control::FromProto(from.vgpu()); break;
      case v1::WatchEvent::kGpu: event.resource = control::FromProto(from.gpu()); break;
      case v1::WatchEvent::kNode: event.resource = control::FromProto(from.node()); break;
      case v1::WatchEvent::kSession: event.resource = control::FromProto(from.session()); break;
      case v1::WatchEvent::kInstance: event.resource = control::FromProto(from.instance()); break;
      case v1::WatchEvent::kTenant: event.resource = control::FromProto(from.tenant()); break;
      case v1::WatchEvent::RESOURCE_NOT_SET: break;
    }
    return event;
  }

  void Cancel() override {
    cancelled_ = true;
    context_.TryCancel();
  }

 private:
  grpc::ClientContext context_;
  std::atomic<bool> cancelled_ = false;
  std::unique_ptr<grpc::ClientReader<v1::WatchEvent>> reader_;
  bool finished_ = false;
  Error end_;
};

class ClientImpl final : public Client {
 public:
  ClientImpl(Config config, std::shared_ptr<grpc::Channel> channel)
      : config_(std::move(config)), channel_(std::move(channel)), stub_(channel_) {}

  Result<MeshInfo> GetMesh(const CallOptions& options) override {
    TULLE_ASSIGN_OR_RETURN(const auto response,
                           Call(&v1::Mesh::Stub::GetMesh, v1::GetMeshRequest(), options));
    return MeshInfo{.version = response.version(),
                    .caller = response.caller(),
                    .hold_grace = Duration(
                        google::protobuf::util::TimeUtil::DurationToNanoseconds(response.hold_grace())),
                    .nodes_ready = response.nodes_ready(),
                    .gpus = response.gpus()};
  }

  Result<Claim> CreateClaim(const NewClaim& claim, const CallOptions& options) override {
    v1::CreateClaimRequest request;
    request.mutable_claim()->mutable_metadata()->set_name(claim.name);
    request.mutable_claim()->mutable_metadata()->mutable_labels()->insert(claim.labels.begin(),
                                                                          claim.labels.end());
    *request.mutable_claim()->mutable_spec() = control::ToProto(claim.spec);
    request.set_request_id(claim.request_id);
    if (claim.request_id.empty()) {
      std::byte id[16];
      SecureRandom().Fill(id);
      request.set_request_id(ToHex(id));
    }
    return Converted(Call(&v1::Mesh::Stub::CreateClaim, request, options));
  }
  Result<Claim> DeleteClaim(const std::string& name, const CallOptions& options) override {
    return Get(&v1::Mesh::Stub::DeleteClaim, v1::DeleteClaimRequest(), name, options);
  }
  Result<Claim> ResizeClaim(const std::string& name, const ClaimSize& size,
                            const CallOptions& options) override {
    v1::ResizeClaimRequest request;
    request.set_compute_percent(size.compute_percent);
    request.set_min_compute_percent(size.min_compute_percent);
    request.set_network_bytes_per_s(size.network_bytes_per_s);
    request.set_memory_bytes(size.memory_bytes);
    return Get(&v1::Mesh::Stub::ResizeClaim, std::move(request), name, options);
  }
  Result<std::vector<AttachedVGpu>> Attach(const std::string& claim, const CallOptions& options) override {
    v1::AttachRequest request;
    request.set_claim(claim);
    TULLE_ASSIGN_OR_RETURN(const auto response, Call(&v1::Mesh::Stub::Attach, request, options));
    std::vector<AttachedVGpu> vgpus;
    for (const v1::AttachedVGpu& vgpu : response.vgpus()) vgpus.push_back(control::FromProto(vgpu));
    return vgpus;
  }
  Status Detach(const std::string& claim, const CallOptions& options) override {
    v1::DetachRequest request;
    request.set_claim(claim);
    TULLE_RETURN_IF_ERROR(Call(&v1::Mesh::Stub::Detach, request, options));
    return OkStatus();
  }
  Result<NewToken> CreateToken(control::JoinRole role, const std::string& name, Duration lifetime,
                               const CallOptions& options) override {
    v1::CreateTokenRequest request;
    request.set_role(static_cast<v1::JoinRole>(role));
    request.set_name(name);
    *request.mutable_lifetime() = google::protobuf::util::TimeUtil::NanosecondsToDuration(lifetime.count());
    TULLE_ASSIGN_OR_RETURN(const v1::CreateTokenResponse response,
                           Call(&v1::Mesh::Stub::CreateToken, request, options));
    return NewToken{
        .text = response.token(),
        .expire_time_us = google::protobuf::util::TimeUtil::TimestampToMicroseconds(response.expire_time())};
  }
  Status RevokeCertificates(control::JoinRole role, const std::string& name,
                            const CallOptions& options) override {
    v1::RevokeCertificatesRequest request;
    request.set_role(static_cast<v1::JoinRole>(role));
    request.set_name(name);
    TULLE_RETURN_IF_ERROR(Call(&v1::Mesh::Stub::RevokeCertificates, request, options));
    return OkStatus();
  }
  Result<NewApiToken> CreateApiToken(const std::string& description, Duration lifetime,
                                     const CallOptions& options) override {
    v1::CreateApiTokenRequest request;
    request.set_description(description);
    if (lifetime != Duration(0)) {
      *request.mutable_lifetime() = google::protobuf::util::TimeUtil::NanosecondsToDuration(lifetime.count());
    }
    TULLE_ASSIGN_OR_RETURN(const v1::CreateApiTokenResponse response,
                           Call(&v1::Mesh::Stub::CreateApiToken, request, options));
    return NewApiToken{.token = control::FromProto(response.api_token()), .secret = response.secret()};
  }
  Result<std::vector<ApiToken>> ListApiTokens(const CallOptions& options) override {
    v1::ListApiTokensRequest request;
    request.set_tenant(options.tenant);
    TULLE_ASSIGN_OR_RETURN(const v1::ListApiTokensResponse response,
                           Call(&v1::Mesh::Stub::ListApiTokens, request, options));
    std::vector<ApiToken> tokens;
    for (const v1::ApiToken& token : response.api_tokens()) tokens.push_back(control::FromProto(token));
    return tokens;
  }
  Result<ApiToken> DeleteApiToken(const std::string& id, const CallOptions& options) override {
    v1::DeleteApiTokenRequest request;
    request.set_id(id);
    request.set_tenant(options.tenant);
    return Converted(Call(&v1::Mesh::Stub::DeleteApiToken, request, options));
  }
  Result<Node> DrainNode(const std::string& name, Duration grace, const CallOptions& options) override {
    v1::DrainNodeRequest request;
    request.set_name(name);
    *request.mutable_grace() = google::protobuf::util::TimeUtil::NanosecondsToDuration(grace.count());
    return Converted(Call(&v1::Mesh::Stub::DrainNode, request, options));
  }
  Result<Node> CordonNode(const std::string& name, bool cordoned, const CallOptions& options) override {
    v1::CordonNodeRequest request;
    request.set_name(name);
    request.set_cordoned(cordoned);
    return Converted(Call(&v1::Mesh::Stub::CordonNode, request, options));
  }
  Result<Gpu> CordonGpu(const std::string& name, bool cordoned, const CallOptions& options) override {
    v1::CordonGpuRequest request;
    request.set_name(name);
    request.set_cordoned(cordoned);
    return Converted(Call(&v1::Mesh::Stub::CordonGpu, request, options));
  }
  Result<Node> TaintNode(const std::string& name, const Labels& taints, const CallOptions& options) override {
    v1::TaintNodeRequest request;
    request.set_name(name);
    request.mutable_taints()->insert(taints.begin(), taints.end());
    return Converted(Call(&v1::Mesh::Stub::TaintNode, request, options));
  }
  std::unique_ptr<ClaimHold> Hold(const std::string& claim, const HoldOptions& options) override {
    return std::make_unique<HoldImpl>(stub_, claim, options);
  }

  Result<ClaimExplanation> ExplainClaim(const std::string& name, std::uint32_t most_nodes,
                                        const CallOptions& options) override {
    v1::ExplainClaimRequest request;
    request.set_most_nodes(most_nodes);
    return Get(&v1::Mesh::Stub::ExplainClaim, std::move(request), name, options);
  }
  Result<Claim> GetClaim(const std::string& name, const CallOptions& options) override {
    return Get(&v1::Mesh::Stub::GetClaim, v1::GetClaimRequest(), name, options);
  }
  Result<VGpu> GetVGpu(const std::string& name, const CallOptions& options) override {
    return Get(&v1::Mesh::Stub::GetVGpu, v1::GetVGpuRequest(), name, options);
  }
  Result<Gpu> GetGpu(const std::string& name, const CallOptions& options) override {
    return Get(&v1::Mesh::Stub::GetGpu, v1::GetGpuRequest(), name, options);
  }
  Result<Node> GetNode(const std::string& name, const CallOptions& options) override {
    return Get(&v1::Mesh::Stub::GetNode, v1::GetNodeRequest(), name, options);
  }
  Result<Instance> GetInstance(const std::string& name, const CallOptions& options) override {
    return Get(&v1::Mesh::Stub::GetInstance, v1::GetInstanceRequest(), name, options);
  }
  Result<Session> GetSession(const std::string& name, const CallOptions& options) override {
    return Get(&v1::Mesh::Stub::GetSession, v1::GetSessionRequest(), name, options);
  }

  Result<Tenant> GetTenant(const std::string& name, const CallOptions& options) override {
    return Get(&v1::Mesh::Stub::GetTenant, v1::GetTenantRequest(), name, options);
  }
  Result<Tenant> UpdateTenant(const Tenant& tenant, const CallOptions& options) override {
    v1::UpdateTenantRequest request;
    *request.mutable_tenant() = control::ToProto(tenant);
    return Converted(Call(&v1::Mesh::Stub::UpdateTenant, request, options));
  }
  Result<Tenant> DeleteTenant(const std::string& name, const CallOptions& options) override {
    return Get(&v1::Mesh::Stub::DeleteTenant, v1::DeleteTenantRequest(), name, options);
  }
  Result<std::vector<TenantUsage>> GetUsage(control::WallMicros since_us,
                                            const CallOptions& options) override {
    v1::GetUsageRequest request;
    request.set_tenant(options.tenant);
    *request.mutable_since_time() = google::protobuf::util::TimeUtil::MicrosecondsToTimestamp(since_us);
    TULLE_ASSIGN_OR_RETURN(const auto response, Call(&v1::Mesh::Stub::GetUsage, request, options));
    std::vector<TenantUsage> usage;
    for (const v1::TenantUsage& of : response.tenants()) usage.push_back(control::FromProto(of));
    return usage;
  }
  Result<std::vector<ResourceEvent>> ListEvents(std::optional<Kind> kind, const std::string& name,
                                                std::uint32_t most, const CallOptions& options) override {
    v1::ListEventsRequest request;
    request.set_tenant(options.tenant);
    if (kind) request.set_kind(static_cast<v1::Kind>(*kind));
    request.set_name(name);
    request.set_most(most);
    TULLE_ASSIGN_OR_RETURN(const auto response, Call(&v1::Mesh::Stub::ListEvents, request, options));
    std::vector<ResourceEvent> events;
    for (const v1::Event& event : response.events()) events.push_back(control::FromProto(event));
    return events;
  }
  Result<std::vector<AuditEntry>> ListAudit(control::WallMicros since_us, const std::string& caller,
                                            std::uint32_t most, const CallOptions& options) override {
    v1::ListAuditRequest request;
    *request.mutable_since_time() = google::protobuf::util::TimeUtil::MicrosecondsToTimestamp(since_us);
    request.set_caller(caller);
    request.set_most(most);
    TULLE_ASSIGN_OR_RETURN(const auto response, Call(&v1::Mesh::Stub::ListAudit, request, options));
    std::vector<AuditEntry> entries;
    for (const v1::AuditEntry& entry : response.entries()) entries.push_back(control::FromProto(entry));
    return entries;
  }

  Result<std::vector<Claim>> ListClaims(const CallOptions& options) override {
    return ListClaims(v1::ListClaimsRequest(), options);
  }
  Result<std::vector<Claim>> ListLiveClaims(const CallOptions& options) override {
    v1::ListClaimsRequest request;
    request.set_live_only(true);
    return ListClaims(std::move(request), options);
  }
  Result<std::vector<VGpu>> ListVGpus(const CallOptions& options) override {
    return List<VGpu>(
        &v1::Mesh::Stub::ListVGpus, v1::ListVGpusRequest(), [](const auto& r) { return r.vgpus(); }, options);
  }
  Result<std::vector<Gpu>> ListGpus(const CallOptions& options) override {
    return List<Gpu>(
        &v1::Mesh::Stub::ListGpus, v1::ListGpusRequest(), [](const auto& r) { return r.gpus(); }, options);
  }
  Result<std::vector<Node>> ListNodes(const CallOptions& options) override {
    return List<Node>(
        &v1::Mesh::Stub::ListNodes, v1::ListNodesRequest(), [](const auto& r) { return r.nodes(); }, options);
  }
  Result<std::vector<Instance>> ListInstances(const CallOptions& options) override {
    return List<Instance>(
        &v1::Mesh::Stub::ListInstances, v1::ListInstancesRequest(),
        [](const auto& r) { return r.instances(); }, options);
  }
  Result<std::vector<Session>> ListSessions(const CallOptions& options) override {
    return List<Session>(
        &v1::Mesh::Stub::ListSessions, v1::ListSessionsRequest(), [](const auto& r) { return r.sessions(); },
        options);
  }
  Result<std::vector<Tenant>> ListTenants(const CallOptions& options) override {
    return List<Tenant>(
        &v1::Mesh::Stub::ListTenants, v1::ListTenantsRequest(), [](const auto& r) { return r.tenants(); },
        options);
  }

  std::unique_ptr<Watch> WatchChanges(const std::vector<Kind>& kinds, std::uint64_t resource_version,
                                      bool live_only, const std::string& tenant) override {
    return std::make_unique<WatchImpl>(stub_, kinds, resource_version, live_only, tenant);
  }

  const Config& config() const override { return config_; }

 private:
  // Runs the method, again while the controller is away and time is left: every method may be repeated.
  template <typename Request, typename Response>
  Result<Response> Call(grpc::Status (v1::Mesh::Stub::*method)(grpc::ClientContext*, const Request&,
                                                               Response*),
                        const Request& request, const CallOptions& options) {
    const auto deadline =
        system_clock::now() + std::chrono::duration_cast<system_clock::duration>(options.timeout);
    for (;;) {
      grpc::ClientContext context;
      context.set_deadline(deadline);
      context.set_wait_for_ready(!options.fail_fast);
      Response response;
      const grpc::Status status = (stub_.*method)(&context, request, &response);
      if (status.ok()) return response;
      const bool reached = channel_->GetState(false) == GRPC_CHANNEL_READY;
      if (status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED && !reached) return Unreachable(config_);
      if (status.error_code() != grpc::StatusCode::UNAVAILABLE) return control::ToError(status);
      if (options.fail_fast) return reached ? control::ToError(status) : Unreachable(config_);
      if (system_clock::now() + kRetryEvery >= deadline) return control::ToError(status);
      std::this_thread::sleep_for(kRetryEvery);
    }
  }

  template <typename Response>
  static auto Converted(const Result<Response>& response) -> Result<decltype(control::FromProto(*response))> {
    if (!response.ok()) return response.error();
    return control::FromProto(*response);
  }

  template <typename Request, typename Response>
  auto Get(grpc::Status (v1::Mesh::Stub::*method)(grpc::ClientContext*, const Request&, Response*),
           Request request, const std::string& name, const CallOptions& options)
      -> Result<decltype(control::FromProto(std::declval<Response>()))> {
    request.set_name(name);
    if constexpr (requires { request.set_tenant(options.tenant); }) request.set_tenant(options.tenant);
    return Converted(Call(method, request, options));
  }

  Result<std::vector<Claim>> ListClaims(v1::ListClaimsRequest request, const CallOptions& options) {
    return List<Claim>(
        &v1::Mesh::Stub::ListClaims, std::move(request), [](const auto& r) { return r.claims(); }, options);
  }

  template <typename Resource, typename Request, typename Response, typename F>
  Result<std::vector<Resource>> List(grpc::Status (v1::Mesh::Stub::*method)(grpc::ClientContext*,
                                                                            const Request&, Response*),
                                     Request request, F items, const CallOptions& options) {
    std::vector<Resource> all;
    request.set_page_size(kPageSize);
    if constexpr (requires { request.set_tenant(options.tenant); }) request.set_tenant(options.tenant);
    do {
      TULLE_ASSIGN_OR_RETURN(const Response response, Call(method, request, options));
      for (const auto& item : items(response)) all.push_back(control::FromProto(item));
      request.set_page_token(response.next_page_token());
    } while (!request.page_token().empty());
    return all;
  }

  const Config config_;
  const std::shared_ptr<grpc::Channel> channel_;
  v1::Mesh::Stub stub_;
};

}  // namespace

std::string DefaultConfigPath() {
  const char* path = std::getenv("TULLE_CONFIG");
  return path != nullptr && *path != '\0' ? path : DefaultStateDir() + "/client.conf";
}

Result<std::unique_ptr<Client>> Client::Connect(const Config& config) {
  TULLE_ASSIGN_OR_RETURN(auto channel, control::OpenChannel(config));
  return std::unique_ptr<Client>(std::make_unique<ClientImpl>(config, std::move(channel)));
}

Result<std::unique_ptr<Client>> Client::Connect() {
  TULLE_ASSIGN_OR_RETURN(const Config config, DefaultConfig());
  return Connect(config);
}

Result<Config> DefaultConfig() {
  const std::string path = DefaultConfigPath();
  auto loaded = security::LoadCredentials(path);
  if (!loaded.ok() && loaded.error().code != Code::kNotFound) return loaded;
  Config config = loaded.ok() ? *loaded : Config{};
  const auto overrule = [](const char* name, std::string* value) {
    const char* text = std::getenv(name);
    if (text != nullptr && *text != '\0') *value = text;
  };
  overrule("TULLE_ENDPOINT", &config.endpoint);
  overrule("TULLE_CA_FILE", &config.ca_file);
  overrule("TULLE_API_TOKEN", &config.api_token);
  if (loaded.ok() || (!config.endpoint.empty() && !config.ca_file.empty() && !config.api_token.empty()))
    return config;
  return Error{.code = Code::kNotFound,
               .message = "no mesh is configured: there is no " + path +
                          "; start one with `tulle up`, point TULLE_CONFIG to another's client.conf, or set "
                          "TULLE_ENDPOINT, TULLE_CA_FILE and TULLE_API_TOKEN"};
}

std::string Client::ToJson(const Claim& claim) { return control::ToJson(control::ToProto(claim)); }
std::string Client::ToJson(const ClaimExplanation& explanation) {
  return control::ToJson(control::ToProto(explanation));
}
std::string Client::ToJson(const VGpu& vgpu) { return control::ToJson(control::ToProto(vgpu)); }
std::string Client::ToJson(const Gpu& gpu) { return control::ToJson(control::ToProto(gpu)); }
std::string Client::ToJson(const Node& node) { return control::ToJson(control::ToProto(node)); }
std::string Client::ToJson(const Session& session) { return control::ToJson(control::ToProto(session)); }
std::string Client::ToJson(const Instance& instance) { return control::ToJson(control::ToProto(instance)); }
std::string Client::ToJson(const Tenant& tenant) { return control::ToJson(control::ToProto(tenant)); }
std::string Client::ToJson(const TenantUsage& usage) { return control::ToJson(control::ToProto(usage)); }
std::string Client::ToJson(const AuditEntry& entry) { return control::ToJson(control::ToProto(entry)); }
std::string Client::ToJson(const ApiToken& token) { return control::ToJson(control::ToProto(token)); }
std::string Client::ToJson(const ResourceEvent& event) { return control::ToJson(control::ToProto(event)); }

}  // namespace tulle::sdk
