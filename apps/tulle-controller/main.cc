// tulle-controller: the mesh's controller. Flags in, servers over one Controller out, signals to stop.

#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "tulle/base/clock.h"
#include "tulle/base/log.h"
#include "tulle/base/paths.h"
#include "tulle/base/random.h"
#include "tulle/control/serve/build_store.h"
#include "tulle/control/serve/controller.h"
#include "tulle/control/serve/grpc_server.h"
#include "tulle/control/serve/http_server.h"
#include "tulle/control/serve/mesh_service.h"
#include "tulle/control/store/memory/memory_store.h"
#include "tulle/control/store/sqlite/sqlite_store.h"
#include "tulle/security/ca.h"
#include "tulle/security/files.h"

namespace tulle {
namespace {

struct Flags {
  std::string listen = "127.0.0.1:7400";
  std::string http_listen = "127.0.0.1:7401";
  std::string advertise;
  std::string state_dir = DefaultStateDir();
  std::string store = "sqlite";
  std::vector<std::string> nodes;
  std::vector<std::string> users;
  double hold_grace_s = 10;
  double node_lost_after_s = 300;
  std::size_t max_claims_per_tenant = control::CoreOptions().max_claims_per_tenant;
  std::size_t build_cache_mib = 256;
  int certificate_days = 90;
  std::string log_level = "info";
  std::string log_format = "text";
  int ready_fd = -1;
};

std::string HostName() {
  char name[256] = "localhost";
  gethostname(name, sizeof name - 1);
  return name;
}

std::string HostOf(const std::string& address) { return address.substr(0, address.rfind(':')); }

bool IsEveryAddress(const std::string& host) { return host.empty() || host == "0.0.0.0" || host == "[::]"; }

Duration Seconds(double seconds) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
}

Result<std::unique_ptr<control::Store>> OpenStore(const Flags& flags) {
  if (flags.store == "memory")
    return std::unique_ptr<control::Store>(std::make_unique<control::MemoryStore>());
  TULLE_ASSIGN_OR_RETURN(auto store, control::SqliteStore::Open(flags.state_dir + "/mesh.db"));
  return std::unique_ptr<control::Store>(std::move(store));
}

// Certificates and <role>-<name>.conf for each user and node; client.conf is the first user's.
Status WriteCredentials(const Flags& flags, security::CertificateAuthority& authority, const Clock& clock,
                        const std::string& endpoint, const std::string& http_endpoint) {
  const auto write = [&](security::Role role, const std::string& name, const std::string& file) -> Status {
    TULLE_ASSIGN_OR_RETURN(
        security::Credentials credentials,
        security::EnsureCredentials(authority, flags.state_dir + "/credentials", {role, name}, clock));
    credentials.endpoint = endpoint;
    credentials.http_endpoint = http_endpoint;
    // Relative, so that the state directory may be moved.
    for (std::string* path : {&credentials.ca_file, &credentials.certificate_file, &credentials.key_file}) {
      path->erase(0, flags.state_dir.size() + 1);
    }
    return security::SaveCredentials(credentials, flags.state_dir + "/" + file);
  };
  for (const std::string& node : flags.nodes)
    TULLE_RETURN_IF_ERROR(write(security::Role::kNode, node, "node-" + node + ".conf"));
  for (const std::string& user : flags.users)
    TULLE_RETURN_IF_ERROR(write(security::Role::kUser, user, "user-" + user + ".conf"));
  return write(security::Role::kUser, flags.users.front(), "client.conf");
}

Status Run(Flags flags) {
  // Before any thread is made, so that all of them leave these signals to the wait below.
  sigset_t signals;
  sigemptyset(&signals);
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&signals, number);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);

  const SystemClock clock;
  SecureRandom random;
  TULLE_RETURN_IF_ERROR(security::MakePrivateDirectory(flags.state_dir));
  TULLE_ASSIGN_OR_RETURN(const std::unique_ptr<control::Store> store, OpenStore(flags));
  TULLE_ASSIGN_OR_RETURN(
      security::CertificateAuthority authority,
      security::CertificateAuthority::OpenOrCreate(flags.state_dir + "/ca", clock, random));

  std::atomic<bool> failed = false;
  control::ControllerOptions options;
  options.core.hold_grace = Seconds(flags.hold_grace_s);
  options.core.node_lost_after = Seconds(flags.node_lost_after_s);
  options.core.max_claims_per_tenant = flags.max_claims_per_tenant;
  options.on_fatal = [&failed](const Error&) {
    failed = true;
    kill(getpid(), SIGTERM);
  };
  control::Controller controller(options, *store, clock, random);
  TULLE_RETURN_IF_ERROR(controller.Start());
  control::BuildStore builds(flags.build_cache_mib << 20);
  control::Enrollment enrollment(controller, authority, random,
                                 std::chrono::hours(24 * flags.certificate_days));
  control::MeshService service(controller, builds, enrollment, {flags.users.front()}, TULLE_VERSION);

  if (flags.advertise.empty()) {
    flags.advertise = IsEveryAddress(HostOf(flags.listen)) ? HostName() : HostOf(flags.listen);
  }
  std::set<std::string> hosts = {"localhost", "127.0.0.1", "::1", HostName(), flags.advertise};
  hosts.erase("[::1]");  // an address in a certificate has no brackets
  TULLE_ASSIGN_OR_RETURN(const security::PemBundle pem,
                         authority.Issue({security::Role::kController, security::MakeName(HostName())},
                                         {.hosts = {hosts.begin(), hosts.end()}}));
  TULLE_ASSIGN_OR_RETURN(std::unique_ptr<control::GrpcServer> grpc,
                         control::GrpcServer::Start(flags.listen, pem, service, builds));
  TULLE_ASSIGN_OR_RETURN(std::unique_ptr<control::HttpServer> http,
                         control::HttpServer::Start(flags.http_listen, pem, service));
  const std::string grpc_port = ":" + std::to_string(grpc->port());
  const std::string http_port = ":" + std::to_string(http->port());
  TULLE_RETURN_IF_ERROR(
      WriteCredentials(flags, authority, clock, flags.advertise + grpc_port, flags.advertise + http_port));

  const std::string grpc_address = HostOf(flags.listen) + grpc_port;
  const std::string http_address = HostOf(flags.http_listen) + http_port;
  Log(LogLevel::kInfo, "controller", "listening",
      {{"grpc", grpc_address}, {"http", http_address}, {"state", flags.state_dir}});
  if (flags.ready_fd >= 0) {
    const std::string text = "grpc " + grpc_address + "\nhttp " + http_address + "\n";
    [[maybe_unused]] const ssize_t written = write(flags.ready_fd, text.data(), text.size());
    close(flags.ready_fd);
  }

  int signal_number = 0;
  sigwait(&signals, &signal_number);
  Log(LogLevel::kInfo, "controller", "stopping", {{"signal", strsignal(signal_number)}});
  controller.Stop();  // ends all streams, so that the servers have nothing to wait for
  http.reset();
  grpc.reset();
  if (failed)
    return Error{.code = Code::kInternal,
                 .message = "the store failed; see the log. Start again to go on from it"};
  return OkStatus();
}

int Main(int argc, char** argv) {
  Flags flags;
  const char* login = std::getenv("USER");
  flags.users = {security::MakeName(login == nullptr ? "admin" : login)};
  CLI::App app(
      "The controller of a mesh: takes claims for vGPUs, places them on its nodes, and keeps the mesh's "
      "keys.\n\n"
      "Its state directory gets client.conf (for `tulle` and the client library), node-NAME.conf for each "
      "--node, the\n"
      "mesh's CA and its store. Example: tulle-controller --listen 0.0.0.0:7400 --node gpu-1 --node gpu-2",
      "tulle-controller");
  app.set_version_flag("--version", TULLE_VERSION);
  app.option_defaults()->always_capture_default();
  app.add_option("--listen", flags.listen,
                 "HOST:PORT of the gRPC API, for users and nodes; port 0: any free one");
  app.add_option("--http-listen", flags.http_listen,
                 "HOST:PORT of the JSON API, /healthz and /metrics; port 0: any free one");
  app.add_option("--advertise", flags.advertise,
                 "Host name or address that is written into client.conf and node-NAME.conf [the host of "
                 "--listen, or this "
                 "host's name when that is every address]")
      ->default_str("");
  app.add_option("--state-dir", flags.state_dir, "Where store, keys and credentials are kept");
  app.add_option("--store", flags.store,
                 "sqlite: a file in the state directory; memory: everything is forgotten at the end")
      ->check(CLI::IsMember({"sqlite", "memory"}));
  app.add_option("--node", flags.nodes,
                 "Name of a node that gets credentials, node-NAME.conf; may be repeated")
      ->take_all()
      ->default_str("");
  app.add_option("--user", flags.users,
                 "Name of a user (a tenant) that gets credentials, user-NAME.conf; may be repeated, the "
                 "first one is the "
                 "administrator and the one of client.conf")
      ->take_all()
      ->default_str(flags.users.front());
  app.add_option("--hold-grace", flags.hold_grace_s,
                 "Seconds that a claim outlives the program that holds it")
      ->check(CLI::Range(0.1, 86400.0));
  app.add_option("--node-lost-after", flags.node_lost_after_s,
                 "Seconds out of touch after which a node's vGPUs are given up")
      ->check(CLI::Range(1.0, 86400.0));
  app.add_option("--max-claims-per-tenant", flags.max_claims_per_tenant,
                 "Claims that a tenant may have at once; those that have ended do not count")
      ->check(CLI::Range(std::size_t{1}, control::CoreOptions().max_claims));
  app.add_option(
         "--build-cache", flags.build_cache_mib,
         "MiB of memory for builds of programs, which need not be built again on other nodes; 0: none")
      ->check(CLI::Range(std::size_t{0}, std::size_t{1} << 20));
  app.add_option(
         "--certificate-days", flags.certificate_days,
         "How long the certificates are valid that nodes and users get with tokens; they renew them by "
         "themselves when two thirds of that are over")
      ->check(CLI::Range(1, 3650));
  app.add_option("--log-level", flags.log_level, "Least level that is logged")
      ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error", "off"}));
  app.add_option("--log-format", flags.log_format, "Lines for people or for machines, on standard error")
      ->check(CLI::IsMember({"text", "json"}));
  app.add_option("--ready-fd", flags.ready_fd,
                 "Descriptor that gets \"grpc HOST:PORT\" and \"http HOST:PORT\", a line each, and is closed "
                 "when both listen "
                 "and all credentials are written")
      ->check(CLI::NonNegativeNumber)
      ->default_str("");
  CLI11_PARSE(app, argc, argv);

  LogLevel level = LogLevel::kInfo;
  ParseLogLevel(flags.log_level, &level);
  SetLogSink(flags.log_format == "json" ? JsonLogSink : StderrLogSink, level);
  if (const Status status = Run(std::move(flags)); !status.ok()) {
    Log(LogLevel::kError, "controller", status.error().message);
    if (!LogEnabled(LogLevel::kError))
      std::fprintf(stderr, "tulle-controller: %s\n", status.error().message.c_str());
    return EXIT_FAILURE;
  }
  return EXIT_SUCCESS;
}

}  // namespace
}  // namespace tulle

int main(int argc, char** argv) { return tulle::Main(argc, argv); }
