#include "tulle/node/node.h"

#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

#include "tulle/base/log.h"
#include "tulle/control/api/channel.h"
#include "tulle/control/api/renewal.h"
#include "tulle/net/local/local.h"
#include "tulle/security/credentials.h"

namespace tulle::node {
namespace {

constexpr auto kSampleInterval = std::chrono::seconds(2);
constexpr auto kLeaveTimeout = std::chrono::seconds(2);
constexpr auto kLookAtCertificate = std::chrono::hours(1);

// The address that programs shall use: as told, or this machine's on the way to the controller.
Result<std::string> EndpointFor(const NodeOptions& options, const HostPort& listening) {
  if (!options.advertise.empty()) {
    if (const auto whole = ParseHostPort(options.advertise); whole.ok()) return options.advertise;
    return HostPort{options.advertise, listening.port}.Text();
  }
  if (!listening.host.empty()) return listening.Text();
  TULLE_ASSIGN_OR_RETURN(const security::Credentials credentials,
                         security::LoadCredentials(options.credentials_path));
  const std::vector<std::string> controllers = control::EndpointsOf(credentials.endpoint);
  const std::string local = controllers.empty() ? "" : LocalAddressTowards(controllers.front());
  if (local.empty()) {
    return Error{
        .code = Code::kFailedPrecondition,
        .message = "cannot tell by which address programs reach this node (no way to the controller at " +
                   credentials.endpoint + "); say it with --advertise HOST"};
  }
  return HostPort{local, listening.port}.Text();
}

}  // namespace

Result<std::unique_ptr<Node>> Node::Open(const Clock& clock, const NodeOptions& options) {
  std::unique_ptr<Node> node(new Node(clock, options));
  TULLE_RETURN_IF_ERROR(node->OpenPorts());
  return node;
}

Node::Node(const Clock& clock, NodeOptions options)
    : options_(std::move(options)),
      loop_(clock),
      load_(sampler_.Sample()),
      builds_(options_.credentials_path, clock),
      // Of the CPU device, the only one whose workers measure its time.
      arbiter_(std::max(std::thread::hardware_concurrency(), 1u), options_.network_bytes_per_s,
               options_.longest_turn, &clock),
      supervisor_(
          loop_, options_.supervisor,
          [this](const VGpuStatus& status) {
            if (link_) link_->Report(status);
          },
          &builds_, &arbiter_) {}

Status Node::OpenPorts() {
  TULLE_ASSIGN_OR_RETURN(
      data_port_, DataPort::Open(loop_, {.listen = options_.data_listen, .socket = options_.data_socket},
                                 [this](const session::PskIdentity& identity, int socket) {
                                   return supervisor_.Adopt(identity, socket);
                                 }));
  TULLE_ASSIGN_OR_RETURN(data_endpoint_, EndpointFor(options_, data_port_->address()));
  if (data_port_->has_socket()) {
    local_endpoint_ = net::FormatLocalEndpoint({net::BootId(), geteuid(), options_.data_socket});
  }
  TULLE_ASSIGN_OR_RETURN(http_port_,
                         HttpPort::Open(options_.http_listen, [this]() -> std::optional<Snapshot> {
                           std::optional<Snapshot> snapshot;
                           loop_.Call([&] { snapshot = TakeSnapshot(); });
                           return snapshot;
                         }));
  return OkStatus();
}

void Node::Run(std::function<void()> on_ready) {
  on_ready_ = std::move(on_ready);
  SampleLoad();
  // Only now: its threads wait for the loop to run.
  link_ = std::make_unique<ControlLink>(loop_, supervisor_,
                                        ControlLink::Options{.credentials_path = options_.credentials_path,
                                                             .name = options_.name,
                                                             .data_endpoint = data_endpoint_,
                                                             .local_endpoint = local_endpoint_,
                                                             .labels = options_.labels},
                                        ControlLink::Callbacks{.snapshot = [this] { return TakeSnapshot(); },
                                                               .on_registered =
                                                                   [this](bool registered) {
                                                                     registered_ = registered;
                                                                     if (registered && on_ready_) {
                                                                       std::exchange(on_ready_, nullptr)();
                                                                     }
                                                                   }});
  KeepCertificate();
  loop_.Run();
  renewal_ = {};
  link_->WaitLeft(kLeaveTimeout);
  link_.reset();
  http_port_.reset();
}

void Node::KeepCertificate() {
  renewal_ = std::jthread([path = options_.credentials_path](const std::stop_token& stop) {
    const SystemClock clock;
    std::mutex mutex;
    std::condition_variable_any wakeup;
    std::unique_lock lock(mutex);
    do {
      const Result<bool> renewed = control::RenewIfDue(path, clock);
      if (!renewed.ok()) {
        Log(LogLevel::kWarn, "node", "the certificate was not renewed; tried again in an hour",
            {{"why", renewed.error().message}});
      } else if (*renewed) {
        Log(LogLevel::kInfo, "node", "the certificate was renewed", {});
      }
    } while (!wakeup.wait_for(lock, stop, kLookAtCertificate, [&stop] { return stop.stop_requested(); }));
  });
}

void Node::Stop(const std::string& reason) {
  if (std::exchange(stopping_, true)) return;
  Log(LogLevel::kInfo, "node", "stopping", {{"why", reason}});
  if (data_port_) last_data_port_ = data_port_->counters();
  data_port_.reset();
  if (link_) link_->Leave(reason);
  supervisor_.Shutdown([this] { loop_.Stop(); });
}

Snapshot Node::TakeSnapshot() const {
  return {.name = options_.name,
          .version = options_.version,
          .gpus = options_.gpus,
          .vgpus = supervisor_.List(),
          .total = supervisor_.Total(),
          .data_port = data_port_ ? data_port_->counters() : last_data_port_,
          .builds = builds_.counters(),
          .load = load_,
          .registered = registered_};
}

void Node::SampleLoad() {
  load_ = sampler_.Sample();
  loop_.After(kSampleInterval, [this] { SampleLoad(); });
}

}  // namespace tulle::node
