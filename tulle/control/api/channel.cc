#include "tulle/control/api/channel.h"

#include <arpa/inet.h>
#include <grpc/support/log.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>
#include <netdb.h>

#include <algorithm>
#include <utility>

#include "tulle/base/log.h"

namespace tulle::control {
namespace {

// What gRPC connects to. It looks one name up by itself; of several hosts it takes addresses, all of one
// family, so IPv4 ones are written as IPv6 where there are both. Those that have no address now are left out.
std::string TargetOf(const std::string& list) {
  const std::vector<std::string> endpoints = EndpointsOf(list);
  if (endpoints.size() < 2) return list;
  std::vector<std::pair<bool, std::string>> addresses;  // whether it is IPv4, "address:port"
  bool has_ipv6 = false;
  for (const std::string& endpoint : endpoints) {
    const auto colon = endpoint.rfind(':');
    if (colon == std::string::npos) continue;
    std::string host = endpoint.substr(0, colon);
    const std::string port = endpoint.substr(colon);
    if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
    addrinfo hints{}, *found = nullptr;
    hints.ai_socktype = SOCK_STREAM;
    if (getaddrinfo(host.c_str(), nullptr, &hints, &found) != 0) continue;
    for (const addrinfo* info = found; info != nullptr; info = info->ai_next) {
      char text[INET6_ADDRSTRLEN] = "";
      const bool is_ipv4 = info->ai_family == AF_INET;
      if (is_ipv4) {
        inet_ntop(AF_INET, &reinterpret_cast<sockaddr_in*>(info->ai_addr)->sin_addr, text, sizeof text);
      } else {
        inet_ntop(AF_INET6, &reinterpret_cast<sockaddr_in6*>(info->ai_addr)->sin6_addr, text, sizeof text);
        has_ipv6 = true;
      }
      addresses.emplace_back(is_ipv4, text + port);
    }
    freeaddrinfo(found);
  }
  if (addresses.empty()) return endpoints.front();  // whose connections fail, and say so
  std::string target = has_ipv6 ? "ipv6:" : "ipv4:";
  for (const auto& [is_ipv4, address] : addresses) {
    const auto colon = address.rfind(':');
    if (target.back() != ':') target += ',';
    target += !has_ipv6
                  ? address
                  : (is_ipv4 ? "[::ffff:" : "[") + address.substr(0, colon) + "]" + address.substr(colon);
  }
  return target;
}

}  // namespace

std::vector<std::string> EndpointsOf(const std::string& list) {
  std::vector<std::string> endpoints;
  for (std::size_t begin = 0; begin <= list.size();) {
    const std::size_t end = std::min(list.find(',', begin), list.size());
    if (end > begin) endpoints.push_back(list.substr(begin, end - begin));
    begin = end + 1;
  }
  return endpoints;
}

void RouteGrpcLog() {
  gpr_set_log_function([](gpr_log_func_args* line) {
    Log(line->severity == GPR_LOG_SEVERITY_ERROR ? LogLevel::kWarn : LogLevel::kDebug, "grpc", line->message);
  });
}

Result<std::shared_ptr<grpc::Channel>> OpenChannel(const security::Credentials& credentials) {
  TULLE_ASSIGN_OR_RETURN(security::PemBundle pem, security::LoadPemBundle(credentials));
  return OpenChannel(credentials.endpoint, std::move(pem), credentials.api_token);
}

std::shared_ptr<grpc::Channel> OpenChannel(const std::string& endpoint, security::PemBundle pem,
                                           const std::string& api_token) {
  RouteGrpcLog();
  grpc::SslCredentialsOptions tls;
  tls.pem_root_certs = std::move(pem.ca);
  tls.pem_cert_chain = std::move(pem.certificate);
  tls.pem_private_key = std::move(pem.key);
  grpc::ChannelArguments arguments;
  // The CA signs one name for all controllers and nobody else, so this checks more than an address would.
  arguments.SetSslTargetNameOverride(security::kControllerTlsName);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 10'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);     // as the controller's
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);  // no limit: a quiet stream is pinged too
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  // Also how long one attempt may take, handshake included; a busy machine needs its time.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 5'000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2'000);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);  // the mesh is reached directly or not at all
  // One connection per channel: gRPC otherwise shares it between equal channels of a process, and their ends.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  std::shared_ptr<grpc::ChannelCredentials> credentials = grpc::SslCredentials(tls);
  if (!api_token.empty())
    credentials = grpc::CompositeChannelCredentials(credentials, grpc::AccessTokenCredentials(api_token));
  return grpc::CreateCustomChannel(TargetOf(endpoint), credentials, arguments);
}

Error ToError(const grpc::Status& status) {
  Error error{.code = static_cast<Code>(status.error_code()), .message = status.error_message()};
  if (error.code == Code::kUnavailable || error.code == Code::kDeadlineExceeded)
    error.retry = Retry::kUnknownOutcome;
  return error;
}

}  // namespace tulle::control
