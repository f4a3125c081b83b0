#include "tulle/control/serve/grpc_server.h"

#include <google/protobuf/util/time_util.h>
#include <grpc/grpc_security_constants.h>
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <atomic>
#include <deque>
#include <mutex>
#include <optional>

#include "tulle/base/log.h"
#include "tulle/control/api/channel.h"
#include "tulle/control/api/map.h"
#include "tulle/control/model/rules.h"
#include "tulle/v1/mesh.pb.h"
#include "tulle/v1/node_link.pb.h"

namespace tulle::control {
namespace {

constexpr char kLinkPath[] = "/tulle.v1.NodeLink/Link";
constexpr char kEnrollPath[] = "/tulle.v1.Enrollment/Enroll";
constexpr char kRenewPath[] = "/tulle.v1.Enrollment/Renew";
constexpr char kFindBuildPath[] = "/tulle.v1.Builds/FindBuild";
constexpr char kKeepBuildPath[] = "/tulle.v1.Builds/KeepBuild";
constexpr int kMaxMessageBytes = 4 << 20;
constexpr std::size_t kBuildKeyBytes = 32;
// Streams of all clients together; each costs about 50 KiB.
constexpr int kMaxGrpcStreams = 20'000;
// Commands that a node has not taken. More means that it hangs: it is cut off and registers anew.
constexpr std::size_t kMaxQueuedCommands = 10'000;

grpc::Status ToGrpc(const Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return {static_cast<grpc::StatusCode>(status.error().code), status.error().message};
}

grpc::ByteBuffer Serialize(const google::protobuf::Message& message) {
  const grpc::Slice slice(message.SerializeAsString());
  return grpc::ByteBuffer(&slice, 1);
}

bool Parse(const grpc::ByteBuffer& buffer, google::protobuf::Message* message) {
  std::vector<grpc::Slice> slices;
  if (!buffer.Dump(&slices).ok()) return false;
  std::string bytes;
  for (const grpc::Slice& slice : slices)
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  return message->ParseFromString(bytes);
}

Credential CredentialOf(const grpc::GenericCallbackServerContext& context) {
  Credential shown{.address = context.peer()};
  const auto property = [&context](const char* name) -> std::string {
    const auto values = context.auth_context()->FindPropertyValues(name);
    return values.size() != 1 ? "" : std::string(values[0].data(), values[0].size());
  };
  shown.certificate_uri = property(GRPC_PEER_URI_PROPERTY_NAME);
  shown.certificate_pem = [property] { return property(GRPC_X509_PEM_CERT_PROPERTY_NAME); };
  const auto [first, last] = context.client_metadata().equal_range("authorization");
  if (first != last) shown.authorization = {first->second.data(), first->second.size()};
  return shown;
}

// One call. It owns itself until gRPC is done with it; listeners that outlive that hold it by shared_ptr.
// Messages are written one at a time: whenever the wire is free, Next says what comes.
class CallReactor : public grpc::ServerGenericBidiReactor, public std::enable_shared_from_this<CallReactor> {
 public:
  void Own() { self_ = shared_from_this(); }

 protected:
  // The next message to write, or nothing now. Called under the lock.
  virtual std::optional<grpc::ByteBuffer> Next() = 0;
  // The client went away, or the call is over: whatever still feeds it shall stop.
  virtual void OnGone() {}

  // There may be something to write.
  void Kick() {
    const std::lock_guard lock(mutex_);
    Pump();
  }
  // Finishes once everything is written. The first call counts.
  void End(const grpc::Status& status) {
    const std::lock_guard lock(mutex_);
    if (!end_) end_ = status;
    Pump();
  }
  void End(const Status& status) { End(ToGrpc(status)); }
  bool Ended() {
    const std::lock_guard lock(mutex_);
    return end_.has_value();
  }
  // For Next: nothing comes after what has been written.
  void EndHere(const grpc::Status& status) {
    if (!end_) end_ = status;
  }
  bool Ending() const { return end_.has_value(); }

  std::mutex mutex_;

 private:
  void Pump() {
    if (writing_ || finished_) return;
    if (!broken_) {
      if (auto message = Next()) {
        buffer_ = std::move(*message);
        writing_ = true;
        return StartWrite(&buffer_);
      }
    }
    if (end_) {
      finished_ = true;
      Finish(*end_);
    }
  }
  void OnWriteDone(bool ok) final {
    const std::lock_guard lock(mutex_);
    writing_ = false;
    if (!ok) {
      broken_ = true;
      if (!end_) end_ = grpc::Status::CANCELLED;
    }
    Pump();
  }
  void OnCancel() final {
    OnGone();
    const std::lock_guard lock(mutex_);
    broken_ = true;
    end_ = grpc::Status::CANCELLED;
    Pump();
  }
  void OnDone() final {
    OnGone();
    self_.reset();
  }

  std::shared_ptr<CallReactor> self_;
  grpc::ByteBuffer buffer_;
  std::optional<grpc::Status> end_;
  bool writing_ = false;
  bool broken_ = false;
  bool finished_ = false;
};

// A call that is over before it began.
class RefusedCall final : public CallReactor {
 public:
  explicit RefusedCall(Error error) { End(Status(std::move(error))); }

 private:
  std::optional<grpc::ByteBuffer> Next() override { return std::nullopt; }
};

// A call whose client sends one message first.
class RequestReactor : public CallReactor {
 public:
  void Begin() { StartRead(&request_buffer_); }

 protected:
  virtual void OnRequest(const grpc::ByteBuffer& buffer) = 0;

 private:
  void OnReadDone(bool ok) final {
    if (ok) return OnRequest(request_buffer_);
    End(grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "the call has no request"));
  }
  grpc::ByteBuffer request_buffer_;
};

class UnaryCall final : public RequestReactor {
 public:
  UnaryCall(MeshService& service, std::string path, Caller caller)
      : service_(service), path_(std::move(path)), caller_(std::move(caller)) {}

 private:
  void OnRequest(const grpc::ByteBuffer& buffer) override {
    const MeshService::MessagePtr request = service_.NewRequest(path_);
    if (!Parse(buffer, request.get())) {
      return End(
          grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "the request is not a " + request->GetTypeName()));
    }
    const auto self = std::static_pointer_cast<UnaryCall>(shared_from_this());
    service_.Run(path_, caller_, *request, [self](Result<MeshService::MessagePtr> response) {
      if (!response.ok()) return self->End(Status(std::move(response).error()));
      {
        const std::lock_guard lock(self->mutex_);
        self->response_ = Serialize(**response);
      }
      self->End(OkStatus());
    });
  }
  std::optional<grpc::ByteBuffer> Next() override { return std::exchange(response_, std::nullopt); }

  MeshService& service_;
  const std::string path_;
  const Caller caller_;
  std::optional<grpc::ByteBuffer> response_;
};

// Both methods of Enrollment; without a caller it is Enroll.
class EnrollCall final : public RequestReactor {
 public:
  EnrollCall(MeshService& service, std::string address, std::optional<Caller> caller)
      : service_(service), address_(std::move(address)), caller_(std::move(caller)) {}

 private:
  void OnRequest(const grpc::ByteBuffer& buffer) override {
    if (caller_) {
      v1::RenewRequest request;
      if (!Parse(buffer, &request)) return Malformed(request);
      return Done(service_.enrollment().Renew(caller_->identity, caller_->address, request.public_key_pem()));
    }
    v1::EnrollRequest request;
    if (!Parse(buffer, &request)) return Malformed(request);
    service_.enrollment().Enroll(
        {.token_id = request.token_id(),
         .token_secret = Secret(AsBytes(request.token_secret())),
         .name = request.name(),
         .name_is_default = request.name_is_default(),
         .role = static_cast<JoinRole>(request.role()),
         .public_key_pem = request.public_key_pem(),
         .address = address_},
        [self = std::static_pointer_cast<EnrollCall>(shared_from_this())](
            Result<Enrollment::Enrolled> enrolled) { self->Done(std::move(enrolled)); });
  }
  void Malformed(const google::protobuf::Message& request) {
    End(grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "the request is not a " + request.GetTypeName()));
  }
  void Done(Result<Enrollment::Enrolled> enrolled) {
    service_.counts().Count(caller_ ? "Renew" : "Enroll",
                            enrolled.ok() ? std::nullopt : std::optional(enrolled.error().code));
    if (!enrolled.ok()) return End(Status(std::move(enrolled).error()));
    v1::EnrollResponse response;
    response.set_identity(enrolled->identity);
    response.set_certificate_pem(enrolled->certificate_pem);
    {
      const std::lock_guard lock(mutex_);
      response_ = Serialize(response);
    }
    End(OkStatus());
  }
  std::optional<grpc::ByteBuffer> Next() override { return std::exchange(response_, std::nullopt); }

  MeshService& service_;
  const std::string address_;
  const std::optional<Caller> caller_;
  std::optional<grpc::ByteBuffer> response_;
};

// A method that answers with a stream.
class StreamCall final : public RequestReactor {
 public:
  StreamCall(MeshService& service, std::string path, Caller caller)
      : service_(service), path_(std::move(path)), caller_(std::move(caller)) {}

 private:
  void OnRequest(const grpc::ByteBuffer& buffer) override {
    const MeshService::MessagePtr request = service_.NewStreamRequest(path_);
    if (!Parse(buffer, request.get())) {
      return End(
          grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "the request is not a " + request->GetTypeName()));
    }
    const auto self = std::static_pointer_cast<StreamCall>(shared_from_this());
    const std::shared_ptr<Stream> stream = service_.Open(path_, caller_, *request, [self] { self->Kick(); });
    bool gone = false;
    {
      const std::lock_guard lock(mutex_);
      stream_ = stream;
      gone = gone_;
    }
    gone ? stream->Close() : Kick();
  }
  void OnGone() override {
    std::shared_ptr<Stream> stream;
    {
      const std::lock_guard lock(mutex_);
      gone_ = true;
      stream = stream_;
    }
    if (stream != nullptr) stream->Close();
  }
  std::optional<grpc::ByteBuffer> Next() override {
    if (stream_ == nullptr || Ending()) return std::nullopt;
    Stream::Next next = stream_->Take();
    if (auto* message = std::get_if<MeshService::MessagePtr>(&next)) return Serialize(**message);
    if (auto* end = std::get_if<Status>(&next)) EndHere(ToGrpc(*end));
    return std::nullopt;
  }

  MeshService& service_;
  const std::string path_;
  const Caller caller_;
  std::shared_ptr<Stream> stream_;
  bool gone_ = false;
};

// ---- nodes

VGpuReport FromProto(const v1::VGpuReport& from) {
  VGpuReport to{.uid = from.uid(),
                .state = static_cast<ReportedState>(from.state()),
                .message = from.message(),
                .grant_ids = {from.grant_ids().begin(), from.grant_ids().end()},
                .sessions = from.sessions(),
                .compute_percent = from.compute_percent(),
                .network_bytes_per_s = from.network_bytes_per_s(),
                .memory_bytes = from.memory_bytes()};
  for (const v1::SessionReport& session : from.attached())
    to.attached.push_back({session.id(), session.program(), session.process_id(), session.channel()});
  return to;
}

RegisterNode FromProto(const v1::Register& from, LinkId link) {
  RegisterNode to{.link = link,
                  .name = from.name(),
                  .endpoint = from.data_endpoint(),
                  .local_endpoint = from.local_endpoint(),
                  .version = from.version(),
                  .labels = {from.labels().begin(), from.labels().end()},
                  .telemetry = control::FromProto(from.telemetry())};
  for (const v1::InventoryGpu& gpu : from.gpus()) {
    to.gpus.push_back({.index = gpu.index(),
                       .description = control::FromProto(gpu.description()),
                       .allocatable_memory_bytes = gpu.allocatable_memory_bytes(),
                       .allocatable_compute_percent =
                           gpu.allocatable_compute_percent() == 0 ? 100 : gpu.allocatable_compute_percent(),
                       .allocatable_network_bytes_per_s = gpu.allocatable_network_bytes_per_s(),
                       .allocatable_spill_bytes = gpu.allocatable_spill_bytes()});
  }
  for (const v1::VGpuReport& vgpu : from.vgpus()) to.vgpus.push_back(FromProto(vgpu));
  return to;
}

NodeHeartbeat FromProto(const v1::Heartbeat& from, LinkId link) {
  NodeHeartbeat to{.link = link, .telemetry = control::FromProto(from.telemetry())};
  for (const auto& [uid, usage] : from.vgpus()) to.vgpus.emplace(uid, control::FromProto(usage));
  if (from.has_done()) to.done = from.done();
  return to;
}

v1::GrantKey ToProto(const Grant& from) {
  v1::GrantKey to;
  to.set_id(from.id);
  to.set_key(std::string(AsText(from.key.Expose())));
  return to;
}

struct CommandToProto {
  v1::ControllerMessage* to;
  void operator()(const NodeRegistered& from) const {
    v1::Registered& registered = *to->mutable_registered();
    registered.set_node_uid(from.node_uid);
    *registered.mutable_heartbeat_interval() =
        google::protobuf::util::TimeUtil::NanosecondsToDuration(from.heartbeat_interval.count());
  }
  void operator()(const CreateVGpu& from) const {
    v1::CreateVGpu& create = *to->mutable_create_vgpu();
    create.set_uid(from.uid);
    create.set_name(from.name);
    create.set_tenant(from.tenant);
    create.set_gpu_index(from.gpu_index);
    create.set_memory_bytes(from.memory_bytes);
    create.set_compute_percent(from.compute_percent);
    create.set_performance_level(static_cast<v1::PerformanceLevel>(from.performance_level));
    create.set_network_bytes_per_s(from.network_bytes_per_s);
    create.set_spill_bytes(from.spill_bytes);
    create.set_isolation(static_cast<v1::Isolation>(from.isolation));
    for (const Grant& grant : from.grants) *create.add_grants() = ToProto(grant);
  }
  void operator()(const ResizeVGpu& from) const {
    to->mutable_resize_vgpu()->set_uid(from.uid);
    to->mutable_resize_vgpu()->set_compute_percent(from.compute_percent);
    to->mutable_resize_vgpu()->set_network_bytes_per_s(from.network_bytes_per_s);
    to->mutable_resize_vgpu()->set_memory_bytes(from.memory_bytes);
  }
  void operator()(const DeleteVGpu& from) const { to->mutable_delete_vgpu()->set_uid(from.uid); }
  void operator()(const AddGrant& from) const {
    to->mutable_add_grant()->set_vgpu_uid(from.vgpu_uid);
    *to->mutable_add_grant()->mutable_grant() = ToProto(from.grant);
  }
  void operator()(const RevokeGrant& from) const {
    to->mutable_revoke_grant()->set_vgpu_uid(from.vgpu_uid);
    to->mutable_revoke_grant()->set_grant_id(from.grant_id);
  }
};

class LinkCall final : public CallReactor, public LinkListener {
 public:
  LinkCall(Controller& controller, Caller caller) : controller_(controller), caller_(std::move(caller)) {}

  void Begin() {
    link_ = controller_.OpenLink(std::static_pointer_cast<LinkCall>(shared_from_this()));
    if (!Ended()) StartRead(&incoming_);
  }

  void OnCommand(NodeCommand command) override {
    v1::ControllerMessage message;
    std::visit(CommandToProto{&message}, command);
    bool hangs = false;
    {
      const std::lock_guard lock(mutex_);
      hangs = commands_.size() >= kMaxQueuedCommands;
      if (!hangs) commands_.push_back(Serialize(message));
    }
    if (!hangs) return Kick();
    {
      const std::lock_guard lock(mutex_);
      commands_.clear();
    }
    End(grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "the node does not take its commands"));
    OnGone();
  }
  void OnClose(const Status& status) override { End(status); }

 private:
  void OnReadDone(bool ok) override {
    if (!ok) {  // half-closed, or broken
      OnGone();
      return End(grpc::Status::OK);
    }
    v1::NodeMessage message;
    if (!Parse(incoming_, &message)) return Refuse("not a NodeMessage");
    using Case = v1::NodeMessage::MessageCase;
    if (message.message_case() == Case::kRegister) {
      if (message.register_().name() != caller_.identity.name) {
        return Refuse("name: \"" + message.register_().name() + "\" is not that of the certificate, " +
                      caller_.identity.Uri());
      }
      registered_ = true;
      controller_.FromNode(FromProto(message.register_(), link_));
    } else if (!registered_) {
      return Refuse("the first message must be Register");
    } else if (message.message_case() == Case::kHeartbeat) {
      controller_.FromNode(FromProto(message.heartbeat(), link_));
    } else if (message.message_case() == Case::kVgpu) {
      if (message.vgpu().state() < v1::VGpuReport::CREATING ||
          message.vgpu().state() > v1::VGpuReport::DELETED) {
        return Refuse("vgpu.state: unknown");
      }
      controller_.FromNode(ReportVGpu{link_, FromProto(message.vgpu())});
    } else if (message.message_case() == Case::kLeaving) {
      controller_.FromNode(NodeLeaving{link_, message.leaving().reason()});
    }  // anything else is of a later version and may be passed over
    StartRead(&incoming_);
  }
  void Refuse(const std::string& what) {
    Log(LogLevel::kWarn, "node_link", "refused", {{"node", caller_.identity.name}, {"why", what}});
    OnGone();
    End(grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, what));
  }
  void OnGone() override {
    if (!gone_.exchange(true)) controller_.FromNode(LinkClosed{link_});
  }
  std::optional<grpc::ByteBuffer> Next() override {
    if (commands_.empty()) return std::nullopt;
    grpc::ByteBuffer buffer = std::move(commands_.front());
    commands_.pop_front();
    return buffer;
  }

  Controller& controller_;
  const Caller caller_;
  LinkId link_{};
  bool registered_ = false;
  std::atomic<bool> gone_{false};
  grpc::ByteBuffer incoming_;
  std::deque<grpc::ByteBuffer> commands_;
};

// A node asks for a build, or gives one, for the tenant of one of its vGPUs.
template <typename Request>
class BuildCall final : public RequestReactor {
 public:
  BuildCall(Controller& controller, BuildStore& builds, Caller caller)
      : controller_(controller), builds_(builds), caller_(std::move(caller)) {}

 private:
  void OnRequest(const grpc::ByteBuffer& buffer) override {
    if (!Parse(buffer, &request_) || request_.key().size() != kBuildKeyBytes) {
      return Refuse(Code::kInvalidArgument, "the request is none, or its key has not 32 bytes");
    }
    const auto self = std::static_pointer_cast<BuildCall>(shared_from_this());
    controller_.Read([self](const Core* core) {
      if (core == nullptr) return self->Refuse(Code::kUnavailable, "the controller is stopping");
      const auto vgpu = core->FindVGpu(self->request_.vgpu_uid());
      if (!vgpu || vgpu->status.node != self->caller_.identity.name) {
        return self->Refuse(Code::kPermissionDenied, "vGPU " + self->request_.vgpu_uid() +
                                                         " is not on node " + self->caller_.identity.name);
      }
      self->Serve(vgpu->metadata.tenant);
    });
  }

  void Serve(const std::string& tenant) {
    if constexpr (std::is_same_v<Request, v1::FindBuildRequest>) {
      auto content = builds_.Find(tenant, request_.key());
      if (!content) return Refuse(Code::kNotFound, "not built before");
      v1::FindBuildResponse response;
      response.set_content(*std::move(content));
      Answer(response);
    } else {
      if (request_.content().empty()) return Refuse(Code::kInvalidArgument, "content: empty");
      builds_.Keep(tenant, request_.key(), std::move(*request_.mutable_content()));
      Answer(v1::KeepBuildResponse());
    }
  }

  void Answer(const google::protobuf::Message& response) {
    {
      const std::lock_guard lock(mutex_);
      response_ = Serialize(response);
    }
    End(OkStatus());
  }
  void Refuse(Code code, const std::string& why) { End(Status(Error{.code = code, .message = why})); }
  std::optional<grpc::ByteBuffer> Next() override { return std::exchange(response_, std::nullopt); }

  Controller& controller_;
  BuildStore& builds_;
  const Caller caller_;
  Request request_;
  std::optional<grpc::ByteBuffer> response_;
};

class Services final : public grpc::CallbackGenericService {
 public:
  Services(MeshService& service, BuildStore& builds) : service_(service), builds_(builds) {}

 private:
  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext* context) override {
    const std::string path = context->method();
    // The one method that anybody may call.
    if (path == kEnrollPath) {
      return Started(std::make_shared<EnrollCall>(service_, context->peer(), std::nullopt));
    }
    Result<Caller> caller = service_.Authenticate(CredentialOf(*context));
    if (!caller.ok()) return Refused(std::move(caller).error());
    if (path == kRenewPath && caller->identity.role != security::Role::kController) {
      if (Status status = MeshService::CheckShowsCertificate(*caller); !status.ok())
        return Refused(std::move(status).error());
      return Started(std::make_shared<EnrollCall>(service_, context->peer(), std::move(*caller)));
    }
    if (path == kLinkPath || path == kFindBuildPath || path == kKeepBuildPath) {
      if (caller->identity.role != security::Role::kNode) {
        return Refused(
            Error{.code = Code::kPermissionDenied, .message = caller->identity.Uri() + " is not a node"});
      }
      Controller& controller = service_.controller();
      if (path == kLinkPath) return Started(std::make_shared<LinkCall>(controller, std::move(*caller)));
      if (path == kFindBuildPath) {
        return Started(
            std::make_shared<BuildCall<v1::FindBuildRequest>>(controller, builds_, std::move(*caller)));
      }
      return Started(
          std::make_shared<BuildCall<v1::KeepBuildRequest>>(controller, builds_, std::move(*caller)));
    }
    if (service_.NewStreamRequest(path) != nullptr) {
      return Started(std::make_shared<StreamCall>(service_, path, std::move(*caller)));
    }
    if (service_.NewRequest(path) == nullptr) {
      return Refused(
          Error{.code = Code::kUnimplemented, .message = path + " is not a method of this controller"});
    }
    return Started(std::make_shared<UnaryCall>(service_, path, std::move(*caller)));
  }

  static grpc::ServerGenericBidiReactor* Refused(Error error) {
    const auto call = std::make_shared<RefusedCall>(std::move(error));
    call->Own();
    return call.get();
  }
  template <typename T>
  static grpc::ServerGenericBidiReactor* Started(const std::shared_ptr<T>& call) {
    call->Own();
    call->Begin();
    return call.get();
  }

  MeshService& service_;
  BuildStore& builds_;
};

class GrpcServerImpl final : public GrpcServer {
 public:
  GrpcServerImpl(MeshService& service, BuildStore& builds) : services_(service, builds) {}
  ~GrpcServerImpl() override {
    if (server_ == nullptr) return;
    server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(2));
    server_->Wait();
  }

  Status Listen(const std::string& address, const security::PemBundle& pem) {
    // A client without a certificate gets as far as CreateReactor, so that it can ask for one.
    grpc::SslServerCredentialsOptions tls(GRPC_SSL_REQUEST_CLIENT_CERTIFICATE_AND_VERIFY);
    tls.pem_root_certs = pem.ca;
    // With the CA's, which who enrolls knows by its fingerprint.
    tls.pem_key_cert_pairs.push_back({.private_key = pem.key, .cert_chain = pem.certificate + pem.ca});
    grpc::ServerBuilder builder;
    builder.AddListeningPort(address, grpc::SslServerCredentials(tls), &port_);
    builder.RegisterCallbackGenericService(&services_);
    builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxGrpcStreams);
    // A holder or node whose host is gone is noticed within 25 s.
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 5'000);
    // Of a host that is gone, that is: a process that ends closes its connection at once. A busy machine may
    // leave one without a CPU for seconds.
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);
    builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
    builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 4'000);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port_ == 0) {
      return Error{.code = Code::kUnavailable,
                   .message = "cannot listen on " + address +
                              "; is another program using it? Choose another with --listen"};
    }
    return OkStatus();
  }
  int port() const override { return port_; }

 private:
  Services services_;
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
};

}  // namespace

Result<std::unique_ptr<GrpcServer>> GrpcServer::Start(const std::string& address,
                                                      const security::PemBundle& pem, MeshService& service,
                                                      BuildStore& builds) {
  RouteGrpcLog();
  auto server = std::make_unique<GrpcServerImpl>(service, builds);
  TULLE_RETURN_IF_ERROR(server->Listen(address, pem));
  return std::unique_ptr<GrpcServer>(std::move(server));
}

}  // namespace tulle::control
