#include "apps/tulle-controller/serving.h"

#include <unistd.h>

#include <condition_variable>
#include <memory>
#include <mutex>
#include <set>

#include "tulle/base/log.h"
#include "tulle/control/serve/build_store.h"
#include "tulle/control/serve/controller.h"
#include "tulle/control/serve/grpc_server.h"
#include "tulle/control/serve/http_server.h"
#include "tulle/control/serve/mesh_service.h"
#include "tulle/security/files.h"
#include "tulle/security/join_token.h"

namespace tulle {
namespace {

// "HOST:PORT,...", each with `port` where it says none.
std::string EndpointsFor(const ServingOptions& options, int port) {
  std::string endpoints;
  for (const std::string& host : options.advertise) {
    const bool has_port = host.rfind(':') != std::string::npos && !host.ends_with(']');
    endpoints += (endpoints.empty() ? "" : ",") + host + (has_port ? "" : ":" + std::to_string(port));
  }
  return endpoints;
}

// Certificates and <role>-<name>.conf for each user and node; client.conf is the first user's.
Status WriteCredentials(const ServingOptions& options, security::CertificateAuthority& authority,
                        const Clock& clock, const std::string& endpoint, const std::string& http_endpoint) {
  const auto write = [&](security::Role role, const std::string& name, const std::string& file) -> Status {
    TULLE_ASSIGN_OR_RETURN(
        security::Credentials credentials,
        security::EnsureCredentials(authority, options.state_dir + "/credentials", {role, name}, clock));
    credentials.endpoint = endpoint;
    credentials.http_endpoint = http_endpoint;
    // Relative, so that the state directory may be moved.
    for (std::string* path : {&credentials.ca_file, &credentials.certificate_file, &credentials.key_file}) {
      path->erase(0, options.state_dir.size() + 1);
    }
    return security::SaveCredentials(credentials, options.state_dir + "/" + file);
  };
  for (const std::string& node : options.nodes)
    TULLE_RETURN_IF_ERROR(write(security::Role::kNode, node, "node-" + node + ".conf"));
  for (const std::string& user : options.users)
    TULLE_RETURN_IF_ERROR(write(security::Role::kUser, user, "user-" + user + ".conf"));
  return write(security::Role::kUser, options.users.front(), "client.conf");
}

}  // namespace

std::string HostName() {
  char name[256] = "localhost";
  gethostname(name, sizeof name - 1);
  return name;
}

std::string HostOf(const std::string& address) {
  const auto colon = address.rfind(':');
  return colon == std::string::npos || address.ends_with(']') ? address : address.substr(0, colon);
}

Result<security::PemBundle> ControllerCertificate(const ServingOptions& options,
                                                  security::CertificateAuthority& authority) {
  std::set<std::string> hosts = {"localhost", "127.0.0.1", "::1", HostName()};
  for (const std::string& host : options.advertise) hosts.insert(HostOf(host));
  hosts.erase("[::1]");  // an address in a certificate has no brackets
  return authority.Issue({security::Role::kController, security::MakeName(HostName())},
                         {.hosts = {hosts.begin(), hosts.end()}});
}

Status Serve(const ServingOptions& options, control::Store& store, security::CertificateAuthority& authority,
             const Clock& clock, Random& random, const std::stop_token& stop) {
  std::stop_source failed;
  control::CoreOptions core = options.core;
  core.admins = {options.users.front()};

  control::Controller controller({.core = std::move(core),
                                  .ca_fingerprint = security::FingerprintOf(authority.certificate_pem()),
                                  .sealer = options.sealer,
                                  .on_fatal = [&failed](const Error&) { failed.request_stop(); }},
                                 store, clock, random);
  TULLE_RETURN_IF_ERROR(controller.Start());
  control::BuildStore builds(options.build_cache_mib << 20);
  control::Enrollment enrollment(controller, authority, random,
                                 std::chrono::hours(24 * options.certificate_days));
  control::MeshService service(controller, builds, enrollment, TULLE_VERSION);
  TULLE_ASSIGN_OR_RETURN(const security::PemBundle pem, ControllerCertificate(options, authority));
  TULLE_ASSIGN_OR_RETURN(std::unique_ptr<control::GrpcServer> grpc,
                         control::GrpcServer::Start(options.listen, pem, service, builds));
  TULLE_ASSIGN_OR_RETURN(std::unique_ptr<control::HttpServer> http,
                         control::HttpServer::Start(options.http_listen, pem, service));
  TULLE_RETURN_IF_ERROR(
      WriteCredentials(options, authority, clock, EndpointsFor(options, grpc->port()),
                       HostOf(options.advertise.front()) + ":" + std::to_string(http->port())));

  const std::string grpc_address = HostOf(options.listen) + ":" + std::to_string(grpc->port());
  const std::string http_address = HostOf(options.http_listen) + ":" + std::to_string(http->port());
  Log(LogLevel::kInfo, "controller", "listening",
      {{"grpc", grpc_address}, {"http", http_address}, {"state", options.state_dir}});
  if (options.ready_fd >= 0) {
    const std::string text = "grpc " + grpc_address + "\nhttp " + http_address + "\n";
    [[maybe_unused]] const ssize_t written = write(options.ready_fd, text.data(), text.size());
    close(options.ready_fd);
  }

  std::mutex mutex;
  std::condition_variable ended;
  const auto wake = [&] {
    const std::lock_guard lock(mutex);
    ended.notify_one();
  };
  const std::stop_callback on_stop(stop, wake);
  const std::stop_callback on_failure(failed.get_token(), wake);
  {
    std::unique_lock lock(mutex);
    ended.wait(lock, [&] { return stop.stop_requested() || failed.stop_requested(); });
  }
  controller.Stop();  // ends all streams, so that the servers have nothing to wait for
  http.reset();
  grpc.reset();
  if (!stop.stop_requested()) {
    return Error{.code = Code::kAborted,
                 .message = "the store failed; see the log. Start again to go on from it"};
  }
  return OkStatus();
}

}  // namespace tulle
