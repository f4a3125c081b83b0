// tulle-controller: the mesh's controller. Flags in, servers over one store out, signals to stop. With a
// store that several controllers share it serves while it leads, and stands by while another one does.

#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "apps/tulle-controller/serving.h"
#include "tulle/base/clock.h"
#include "tulle/base/guarded.h"
#include "tulle/base/log.h"
#include "tulle/base/paths.h"
#include "tulle/base/random.h"
#include "tulle/control/serve/http_server.h"
#include "tulle/control/store/etcd/etcd_store.h"
#include "tulle/control/store/memory/memory_store.h"
#include "tulle/control/store/sqlite/sqlite_store.h"
#include "tulle/security/ca.h"
#include "tulle/security/files.h"

namespace tulle {
namespace {

constexpr std::size_t kMaxPemBytes = 1 << 20;

struct Flags {
  std::string listen = "127.0.0.1:7400";
  std::string http_listen = "127.0.0.1:7401";
  std::vector<std::string> advertise;
  std::string state_dir = DefaultStateDir();
  std::string store = "sqlite";
  std::vector<std::string> etcd_endpoints = {"http://127.0.0.1:2379"};
  std::string etcd_prefix = control::EtcdOptions().prefix;
  std::string etcd_ca, etcd_certificate, etcd_key;
  double lease_s = 5;
  std::vector<std::string> nodes;
  std::vector<std::string> users;
  double hold_grace_s = 10;
  double node_lost_after_s = 300;
  double calm_s = 60;
  std::size_t max_claims_per_tenant = control::CoreOptions().max_claims_per_tenant;
  std::size_t build_cache_mib = 256;
  int certificate_days = 90;
  std::string log_level = "info";
  std::string log_format = "text";
  int ready_fd = -1;
};

bool IsEveryAddress(const std::string& host) { return host.empty() || host == "0.0.0.0" || host == "[::]"; }

Duration Seconds(double seconds) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
}

ServingOptions ToOptions(const Flags& flags) {
  ServingOptions options{.listen = flags.listen,
                         .http_listen = flags.http_listen,
                         .advertise = flags.advertise,
                         .state_dir = flags.state_dir,
                         .nodes = flags.nodes,
                         .users = flags.users,
                         .build_cache_mib = flags.build_cache_mib,
                         .certificate_days = flags.certificate_days,
                         .ready_fd = flags.ready_fd};
  options.core.hold_grace = Seconds(flags.hold_grace_s);
  options.core.node_lost_after = Seconds(flags.node_lost_after_s);
  options.core.calm = Seconds(flags.calm_s);
  options.core.max_claims_per_tenant = flags.max_claims_per_tenant;
  if (options.advertise.empty()) {
    const std::string host = HostOf(flags.listen);
    options.advertise = {IsEveryAddress(host) ? HostName() : host};
  }
  return options;
}

Result<control::EtcdOptions> ToEtcdOptions(const Flags& flags) {
  control::EtcdOptions options{.endpoints = flags.etcd_endpoints, .prefix = flags.etcd_prefix};
  const auto read = [](const std::string& path, std::string* pem) -> Status {
    if (path.empty()) return OkStatus();
    TULLE_ASSIGN_OR_RETURN(*pem, security::ReadFile(path, kMaxPemBytes));
    return OkStatus();
  };
  TULLE_RETURN_IF_ERROR(read(flags.etcd_ca, &options.ca_pem));
  TULLE_RETURN_IF_ERROR(read(flags.etcd_certificate, &options.certificate_pem));
  TULLE_RETURN_IF_ERROR(read(flags.etcd_key, &options.key_pem));
  return options;
}

// One of several controllers: leads, stands by, and leads again, until `stop`.
Status TakeTurns(const Flags& flags, ServingOptions options, security::CertificateAuthority& authority,
                 const Clock& clock, Random& random, const std::stop_token& stop) {
  TULLE_ASSIGN_OR_RETURN(const control::EtcdOptions etcd, ToEtcdOptions(flags));
  TULLE_ASSIGN_OR_RETURN(const security::PemBundle pem, ControllerCertificate(options, authority));
  const std::string port = flags.listen.substr(flags.listen.rfind(':'));
  const std::string host = HostOf(flags.listen);
  const std::string name = (IsEveryAddress(host) ? HostName() : host) + port;
  while (!stop.stop_requested()) {
    // Of one turn: it ends with `stop`, or when the lead is lost.
    std::stop_source turn;
    const std::stop_callback stopped(stop, [&turn] { turn.request_stop(); });
    Guarded<std::string> leader;
    std::unique_ptr<control::HttpServer> standby;
    control::EtcdLeadership leadership{
        .name = name, .lease = Seconds(flags.lease_s), .on_lost = [&turn] { turn.request_stop(); }};
    leadership.on_standby = [&](const std::string& other) {
      if (std::exchange(*leader.lock(), other) != other) {
        Log(LogLevel::kInfo, "controller", "stands by", {{"leader", other}});
      }
      if (standby != nullptr) return;
      auto started =
          control::HttpServer::StartStandby(flags.http_listen, pem, [&leader] { return *leader.lock(); });
      if (started.ok()) {
        standby = std::move(*started);
      } else {
        Log(LogLevel::kWarn, "controller", started.error().message);
      }
    };
    auto store = control::EtcdStore::Lead(etcd, std::move(leadership), clock, stop);
    if (!store.ok()) {
      return store.error().code == Code::kCancelled ? OkStatus() : Status(std::move(store).error());
    }
    standby.reset();  // its port is needed
    Log(LogLevel::kInfo, "controller", "leads", {{"as", name}});
    const Status status = Serve(options, **store, authority, clock, random, turn.get_token());
    options.ready_fd = -1;
    if (!status.ok() && status.error().code != Code::kAborted) return status;
    if (!status.ok()) Log(LogLevel::kWarn, "controller", status.error().message);
  }
  return OkStatus();
}

Status ServeAlone(const Flags& flags, const ServingOptions& options,
                  security::CertificateAuthority& authority, const Clock& clock, Random& random,
                  const std::stop_token& stop) {
  if (flags.store == "memory") {
    control::MemoryStore store;
    return Serve(options, store, authority, clock, random, stop);
  }
  TULLE_ASSIGN_OR_RETURN(const auto store, control::SqliteStore::Open(flags.state_dir + "/mesh.db"));
  return Serve(options, *store, authority, clock, random, stop);
}

Status Run(const Flags& flags) {
  // Before any thread is made, so that all of them leave these signals to the wait below.
  sigset_t signals;
  sigemptyset(&signals);
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&signals, number);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);

  const SystemClock clock;
  SecureRandom random;
  TULLE_RETURN_IF_ERROR(security::MakePrivateDirectory(flags.state_dir));
  ServingOptions options = ToOptions(flags);
  TULLE_ASSIGN_OR_RETURN(
      security::CertificateAuthority authority,
      security::CertificateAuthority::OpenOrCreate(flags.state_dir + "/ca", clock, random));

  // Beside the CA, with which it is copied to other controllers.
  TULLE_ASSIGN_OR_RETURN(security::Sealer sealer,
                         security::Sealer::OpenOrCreate(flags.state_dir + "/ca/seal.key", random));
  options.sealer = std::make_shared<security::Sealer>(std::move(sealer));

  Status status;
  std::jthread work([&](const std::stop_token& stop) {
    status = flags.store == "etcd" ? TakeTurns(flags, options, authority, clock, random, stop)
                                   : ServeAlone(flags, options, authority, clock, random, stop);
    kill(getpid(), SIGTERM);  // if it has ended by itself, this ends the wait
  });
  int signal_number = 0;
  sigwait(&signals, &signal_number);
  Log(LogLevel::kInfo, "controller", "stopping", {{"signal", strsignal(signal_number)}});
  work.request_stop();
  work.join();
  return status;
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
                 "Host name or address, or HOST:PORT, that is written into client.conf and node-NAME.conf; "
                 "of several "
                 "controllers: each, as all of them are tried [the host of --listen, or this host's name "
                 "when that is "
                 "every address]")
      ->take_all()
      ->delimiter(',')
      ->default_str("");
  app.add_option("--state-dir", flags.state_dir, "Where store, keys and credentials are kept");
  app.add_option(
         "--store", flags.store,
         "sqlite: a file in the state directory; etcd: for several controllers, one of which leads; memory: "
         "everything is forgotten at the end")
      ->check(CLI::IsMember({"sqlite", "etcd", "memory"}));
  app.add_option("--etcd", flags.etcd_endpoints,
                 "Each member of etcd, https://HOST:PORT; http only where it is on this host")
      ->take_all()
      ->delimiter(',')
      ->default_str(flags.etcd_endpoints.front());
  app.add_option("--etcd-prefix", flags.etcd_prefix, "What the mesh's keys in etcd begin with; a mesh each");
  app.add_option("--etcd-ca", flags.etcd_ca, "PEM file with the CA of etcd's certificates [the system's]")
      ->default_str("");
  app.add_option("--etcd-cert", flags.etcd_certificate, "PEM file with this one's certificate for etcd")
      ->default_str("");
  app.add_option("--etcd-key", flags.etcd_key, "PEM file with the key of --etcd-cert")->default_str("");
  app.add_option("--lease", flags.lease_s,
                 "Seconds without a sign of life after which another controller leads (with --store etcd)")
      ->check(CLI::Range(2.0, 600.0));
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
  app.add_option("--calm", flags.calm_s,
                 "Seconds for which a vGPU with a range of compute must have needed less before it has less")
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
