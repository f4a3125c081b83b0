#include "tulle/control/store/etcd/etcd_client.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include <algorithm>
#include <utility>

#include "tulle/control/store/etcd/etcd.grpc.pb.h"

namespace tulle::control {
namespace {

namespace pb = etcdserverpb;

// A member that has lost touch with the others answers nothing: another one is asked then.
constexpr Duration kTryFor = std::chrono::seconds(2);
constexpr Duration kPause = std::chrono::milliseconds(100);  // between tries

// HOST:PORT of "scheme://HOST:PORT".
Result<std::string> ParseEndpoint(const std::string& endpoint, const std::string& scheme) {
  const std::string start = scheme + "://";
  std::string address = endpoint.starts_with(start) ? endpoint.substr(start.size()) : "";
  if (address.ends_with('/')) address.pop_back();
  const auto colon = address.rfind(':');
  const std::string port = colon == std::string::npos ? "" : address.substr(colon + 1);
  if (colon == 0 || port.empty() || !std::all_of(port.begin(), port.end(), ::isdigit)) {
    return Error{.code = Code::kInvalidArgument,
                 .message = "etcd: \"" + endpoint +
                            "\" is not http://HOST:PORT or https://HOST:PORT, the same for all members"};
  }
  return address;
}

bool IsThisHost(const std::string& address) {
  return address.starts_with("localhost:") || address.starts_with("[::1]:") || address.starts_with("127.");
}

std::chrono::system_clock::time_point DeadlineIn(Duration duration) {
  return std::chrono::system_clock::now() +
         std::chrono::duration_cast<std::chrono::system_clock::duration>(duration);
}

}  // namespace

struct EtcdClient::Member {
  explicit Member(std::shared_ptr<grpc::Channel> to)
      : channel(std::move(to)), kv(channel), watch(channel), lease(channel) {}
  const std::shared_ptr<grpc::Channel> channel;
  pb::KV::Stub kv;
  pb::Watch::Stub watch;
  pb::Lease::Stub lease;
};

Result<std::unique_ptr<EtcdClient>> EtcdClient::Open(const EtcdOptions& options, const Clock& clock) {
  if (options.endpoints.empty()) {
    return Error{.code = Code::kInvalidArgument, .message = "etcd: no member is named"};
  }
  const bool tls = options.endpoints.front().starts_with("https");
  std::unique_ptr<EtcdClient> client(new EtcdClient(clock));
  for (const std::string& endpoint : options.endpoints) {
    TULLE_ASSIGN_OR_RETURN(const std::string address, ParseEndpoint(endpoint, tls ? "https" : "http"));
    if (!tls && !IsThisHost(address)) {
      return Error{.code = Code::kInvalidArgument,
                   .message = "etcd: " + endpoint +
                              " would be spoken to in the clear, keys of vGPUs included; use https, with "
                              "certificates for etcd"};
    }
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(-1);
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 10'000);
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 5'000);
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
    arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 1'000);
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1'000);
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    const auto credentials = tls ? grpc::SslCredentials({.pem_root_certs = options.ca_pem,
                                                         .pem_private_key = options.key_pem,
                                                         .pem_cert_chain = options.certificate_pem})
                                 : grpc::InsecureChannelCredentials();
    client->members_.push_back(
        std::make_unique<Member>(grpc::CreateCustomChannel(address, credentials, arguments)));
  }
  return client;
}

EtcdClient::EtcdClient(const Clock& clock) : clock_(clock) {}
EtcdClient::~EtcdClient() = default;

Status EtcdClient::Try(Instant until, const std::stop_token& stop,
                       const std::function<grpc::Status(Member&, grpc::ClientContext*)>& call) {
  grpc::Status last(grpc::StatusCode::DEADLINE_EXCEEDED, "no member has answered in time");
  for (;;) {
    const Duration left = until - clock_.Now();
    if (left <= Duration::zero() || stop.stop_requested()) break;
    grpc::ClientContext context;
    context.set_deadline(DeadlineIn(std::min(left, kTryFor)));
    const std::stop_callback cancel(stop, [&context] { context.TryCancel(); });
    const std::size_t asked = current_;
    last = call(*members_[asked], &context);
    switch (last.error_code()) {
      case grpc::StatusCode::OK: return OkStatus();
      case grpc::StatusCode::UNAVAILABLE:
      case grpc::StatusCode::DEADLINE_EXCEEDED:
      case grpc::StatusCode::CANCELLED: break;
      default:
        return Error{.code = static_cast<Code>(last.error_code()),
                     .message = "etcd: " + last.error_message()};
    }
    current_ = (asked + 1) % members_.size();
    Pause();
  }
  return Error{.code = Code::kUnavailable,
               .message = "etcd: " + last.error_message(),
               .retry = Retry::kUnknownOutcome};
}

// gRPC connects only while somebody waits for it, so this is how to wait.
void EtcdClient::Pause() {
  grpc::Channel& channel = *members_[current_]->channel;
  channel.WaitForStateChange(channel.GetState(/*try_to_connect=*/true), DeadlineIn(kPause));
}

Result<pb::RangeResponse> EtcdClient::Range(const pb::RangeRequest& request, Instant until,
                                            const std::stop_token& stop) {
  pb::RangeResponse response;
  TULLE_RETURN_IF_ERROR(Try(until, stop, [&](Member& member, grpc::ClientContext* context) {
    response.Clear();
    return member.kv.Range(context, request, &response);
  }));
  return response;
}

Result<pb::TxnResponse> EtcdClient::Txn(const pb::TxnRequest& request, Instant until,
                                        const std::stop_token& stop) {
  pb::TxnResponse response;
  TULLE_RETURN_IF_ERROR(Try(until, stop, [&](Member& member, grpc::ClientContext* context) {
    response.Clear();
    return member.kv.Txn(context, request, &response);
  }));
  return response;
}

Result<EtcdClient::Lease> EtcdClient::Grant(Duration time_to_live, Instant until,
                                            const std::stop_token& stop) {
  pb::LeaseGrantRequest request;
  request.set_ttl(std::chrono::ceil<std::chrono::seconds>(time_to_live).count());
  pb::LeaseGrantResponse response;
  TULLE_RETURN_IF_ERROR(Try(until, stop, [&](Member& member, grpc::ClientContext* context) {
    response.Clear();
    return member.lease.LeaseGrant(context, request, &response);
  }));
  if (!response.error().empty()) {
    return Error{.code = Code::kUnavailable, .message = "etcd: " + response.error()};
  }
  return Lease{response.id(), std::chrono::seconds(response.ttl())};
}

Result<bool> EtcdClient::KeepAlive(std::int64_t lease, Instant until, const std::stop_token& stop) {
  pb::LeaseKeepAliveRequest request;
  request.set_id(lease);
  pb::LeaseKeepAliveResponse response;
  TULLE_RETURN_IF_ERROR(Try(until, stop, [&](Member& member, grpc::ClientContext* context) {
    response.Clear();
    const auto stream = member.lease.LeaseKeepAlive(context);
    const bool answered = stream->Write(request) && stream->Read(&response);
    if (answered) {
      context->TryCancel();
      stream->Finish();
      return grpc::Status::OK;
    }
    const grpc::Status status = stream->Finish();
    return status.ok() ? grpc::Status(grpc::StatusCode::UNAVAILABLE, "the stream ended") : status;
  }));
  return response.ttl() > 0;
}

void EtcdClient::Revoke(std::int64_t lease, Instant until) {
  pb::LeaseRevokeRequest request;
  request.set_id(lease);
  // If nobody hears it, the lease ends by itself.
  (void)Try(until, {}, [&](Member& member, grpc::ClientContext* context) {
    pb::LeaseRevokeResponse response;
    return member.lease.LeaseRevoke(context, request, &response);
  });
}

void EtcdClient::WaitForChange(const std::string& key, std::int64_t revision, Duration at_most,
                               const std::stop_token& stop) {
  grpc::ClientContext context;
  context.set_deadline(DeadlineIn(at_most));
  const std::stop_callback cancel(stop, [&context] { context.TryCancel(); });
  const auto stream = members_[current_]->watch.Watch(&context);
  pb::WatchRequest request;
  request.mutable_create_request()->set_key(key);
  request.mutable_create_request()->set_start_revision(revision + 1);
  bool changed = false;
  if (stream->Write(request)) {
    pb::WatchResponse response;
    while (!changed && stream->Read(&response)) changed = response.canceled() || response.events_size() > 0;
  }
  context.TryCancel();
  stream->Finish();
  if (!changed) Pause();  // a member that is gone must not be asked without end
}

}  // namespace tulle::control
