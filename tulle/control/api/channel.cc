#include "tulle/control/api/channel.h"

#include <grpc/support/log.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include "tulle/base/log.h"

namespace tulle::control {

void RouteGrpcLog() {
  gpr_set_log_function([](gpr_log_func_args* line) {
    Log(line->severity == GPR_LOG_SEVERITY_ERROR ? LogLevel::kWarn : LogLevel::kDebug, "grpc", line->message);
  });
}

Result<std::shared_ptr<grpc::Channel>> OpenChannel(const security::Credentials& credentials) {
  TULLE_ASSIGN_OR_RETURN(security::PemBundle pem, security::LoadPemBundle(credentials));
  return OpenChannel(credentials.endpoint, std::move(pem));
}

std::shared_ptr<grpc::Channel> OpenChannel(const std::string& endpoint, security::PemBundle pem) {
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
  return grpc::CreateCustomChannel(endpoint, grpc::SslCredentials(tls), arguments);
}

Error ToError(const grpc::Status& status) {
  Error error{.code = static_cast<Code>(status.error_code()), .message = status.error_message()};
  if (error.code == Code::kUnavailable || error.code == Code::kDeadlineExceeded)
    error.retry = Retry::kUnknownOutcome;
  return error;
}

}  // namespace tulle::control
