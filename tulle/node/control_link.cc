#include "tulle/node/control_link.h"

#include <grpcpp/client_context.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "tulle/base/log.h"
#include "tulle/base/random.h"
#include "tulle/control/api/channel.h"
#include "tulle/v1/node_link.grpc.pb.h"

namespace tulle::node {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Stream = grpc::ClientReaderWriter<v1::NodeMessage, v1::ControllerMessage>;

constexpr Duration kFirstRetry = milliseconds(100);
constexpr Duration kLongestRetry = seconds(5);
constexpr int kConnectTries = 25;
constexpr auto kConnectTry = milliseconds(200);     // each, so that a stop is noticed in time
constexpr Duration kDefaultHeartbeat = seconds(5);  // until the controller says otherwise
constexpr std::size_t kMaxMessageBytes = 512;
constexpr std::size_t kMaxProgramBytes = 256;

v1::VGpuReport ToProto(const VGpuStatus& status) {
  static constexpr v1::VGpuReport::State kStates[] = {v1::VGpuReport::CREATING, v1::VGpuReport::READY,
                                                      v1::VGpuReport::FAILED, v1::VGpuReport::DELETED};
  v1::VGpuReport report;
  report.set_uid(status.spec.uid);
  report.set_state(kStates[static_cast<int>(status.state)]);
  report.set_message(status.message.substr(0, kMaxMessageBytes));
  for (const std::string& id : status.grant_ids) report.add_grant_ids(id);
  report.set_sessions(status.usage.sessions);
  report.set_compute_percent(status.spec.compute_percent);
  report.set_network_bytes_per_s(status.spec.network_bytes_per_s);
  report.set_memory_bytes(std::max(status.spec.memory_bytes, status.usage.memory_used_bytes));
  for (const SessionInfo& session : status.sessions) {
    v1::SessionReport& attached = *report.add_attached();
    attached.set_id(session.id);
    attached.set_program(CutText(session.program, kMaxProgramBytes));
    attached.set_process_id(session.process_id);
    attached.set_channel(session.channel);
  }
  return report;
}

void FillTelemetry(const Snapshot& snapshot, v1::NodeTelemetry* telemetry) {
  telemetry->set_cpus(snapshot.load.cpus);
  telemetry->set_cpu_percent(snapshot.load.cpu_percent);
  telemetry->set_memory_total_bytes(snapshot.load.memory_total_bytes);
  telemetry->set_memory_available_bytes(snapshot.load.memory_available_bytes);
  telemetry->set_network_received_bytes(snapshot.total.received_bytes);
  telemetry->set_network_sent_bytes(snapshot.total.sent_bytes);
  telemetry->set_sessions(snapshot.total.sessions);
}

arbiter::Level LevelOf(v1::PerformanceLevel level) {
  switch (level) {
    case v1::BEST_EFFORT: return arbiter::Level::kBestEffort;
    case v1::GUARANTEED: return arbiter::Level::kGuaranteed;
    case v1::DEDICATED: return arbiter::Level::kDedicated;
    default: return arbiter::Level::kBurst;
  }
}

void FillGpu(const InventoryGpu& gpu, v1::InventoryGpu* out) {
  out->set_index(gpu.index);
  out->set_allocatable_memory_bytes(gpu.allocatable_memory_bytes);
  out->set_allocatable_compute_percent(gpu.allocatable_compute_percent);
  out->set_allocatable_network_bytes_per_s(gpu.allocatable_network_bytes_per_s);
  out->set_allocatable_spill_bytes(gpu.allocatable_spill_bytes);
  v1::GpuDescription& description = *out->mutable_description();
  description.set_type(gpu.name);
  description.set_vendor(gpu.vendor);
  if (gpu.api == "OPENCL") description.add_apis(v1::OPENCL);
  if (!gpu.cuda_device.empty()) description.add_apis(v1::CUDA);
  description.set_memory_bytes(gpu.memory_bytes);
  description.set_compute_units(gpu.compute_units);
  description.set_clock_mhz(gpu.clock_mhz);
  description.set_bandwidth_bytes_per_s(gpu.bandwidth_bytes_per_s);
  description.set_fp32_flops(gpu.fp32_flops);
  description.set_driver(gpu.driver);
  description.set_compute_sharing(gpu.sharing == arbiter::Sharing::kTurns ? v1::BY_TURNS : v1::AT_ONCE);
  description.add_isolations(v1::PROCESS);
  if (gpu.machines) description.add_isolations(v1::VM);
}

Grant FromProto(const v1::GrantKey& grant) {
  return {.id = grant.id(), .key = Secret(AsBytes(grant.key())), .expire_us = grant.expire_unix_micros()};
}

// What a worker can be told: ids fit its messages, keys have their one size.
bool Acceptable(const v1::GrantKey& grant) {
  return !grant.id().empty() && grant.id().size() <= wire::node::kMaxIdBytes &&
         grant.key().size() == wire::node::kKeyBytes;
}

bool AcceptableId(const std::string& id) { return !id.empty() && id.size() <= wire::node::kMaxIdBytes; }

}  // namespace

class ControlLink::Impl {
 public:
  Impl(Loop& loop, Supervisor& supervisor, Options options, Callbacks callbacks)
      : loop_(loop),
        supervisor_(supervisor),
        options_(std::move(options)),
        callbacks_(std::move(callbacks)),
        reader_([this] { Run(); }) {}

  ~Impl() {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
      if (context_ != nullptr) context_->TryCancel();
      changed_.notify_all();
    }
    reader_.join();
  }

  void Report(const VGpuStatus& status) {
    std::lock_guard lock(mutex_);
    if (!streaming_ || leaving_) return;  // without a stream: the next registration tells
    reports_[status.spec.uid] = ToProto(status);
    changed_.notify_all();
  }

  void Leave(const std::string& reason) {
    std::lock_guard lock(mutex_);
    leaving_ = reason;
    changed_.notify_all();
  }

  void WaitLeft(Duration timeout) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, timeout, [this] { return !streaming_; });
  }

 private:
  void Run() {
    Duration retry = kFirstRetry;
    SecureRandom random;
    for (;;) {
      const Status ended = OneStream();
      std::unique_lock lock(mutex_);
      if (stopping_ || leaving_) return;
      if (was_registered_) {
        Log(LogLevel::kWarn, "node", "lost the controller; what runs goes on",
            {{"why", ended.error().message}});
        retry = kFirstRetry;
      } else if (!told_absent_) {
        Log(LogLevel::kWarn, "node", "no controller yet; trying on", {{"why", ended.error().message}});
      }
      told_absent_ = true;
      // Jitter, so that a thousand nodes do not return in one moment.
      const Duration delay = retry / 2 + Duration(random.Below(static_cast<std::uint64_t>(retry.count())));
      changed_.wait_for(lock, delay, [this] { return stopping_ || leaving_.has_value(); });
      if (stopping_ || leaving_) return;
      retry = std::min(retry * 2, kLongestRetry);
    }
  }

  // One connection from beginning to end. The error says why it ended.
  Status OneStream() {
    was_registered_ = false;
    TULLE_ASSIGN_OR_RETURN(const security::Credentials credentials,
                           security::LoadCredentials(options_.credentials_path));
    TULLE_ASSIGN_OR_RETURN(const std::shared_ptr<grpc::Channel> channel, control::OpenChannel(credentials));
    for (int i = 1; !channel->WaitForConnected(std::chrono::system_clock::now() + kConnectTry); ++i) {
      std::lock_guard lock(mutex_);
      if (stopping_ || leaving_ || i == kConnectTries) {
        return Error{.code = Code::kUnavailable, .message = "cannot reach " + credentials.endpoint};
      }
    }
    const auto stub = v1::NodeLink::NewStub(channel);
    grpc::ClientContext context;
    {
      std::lock_guard lock(mutex_);
      if (stopping_) return Error{.code = Code::kCancelled, .message = "stopping"};
      context_ = &context;
    }
    const std::unique_ptr<Stream> stream = stub->Link(&context);
    // The state and the start of reporting in one step: no change falls in between.
    v1::NodeMessage first;
    const bool running = loop_.Call([&] {
      FillRegister(callbacks_.snapshot(), first.mutable_register_());
      std::lock_guard lock(mutex_);
      reports_.clear();
      streaming_ = true;
      done_ = 0;
      heartbeat_ = kDefaultHeartbeat;
    });
    std::thread writer;
    if (running && stream->Write(first)) {
      writer = std::thread([this, &stream] { Write(*stream); });
      v1::ControllerMessage message;
      while (stream->Read(&message)) {
        Handle(message);
        ++done_;
      }
    }
    {
      std::lock_guard lock(mutex_);
      streaming_ = false;
      changed_.notify_all();
    }
    if (writer.joinable()) writer.join();
    const grpc::Status status = stream->Finish();
    {
      std::lock_guard lock(mutex_);
      context_ = nullptr;
    }
    if (was_registered_) loop_.Call([this] { callbacks_.on_registered(false); });
    if (!status.ok()) return control::ToError(status);
    return Error{.code = Code::kUnavailable, .message = "the controller ended the stream"};
  }

  void Write(Stream& stream) {
    Instant next_heartbeat = loop_.clock().Now() + kDefaultHeartbeat;
    std::unique_lock lock(mutex_);
    while (streaming_) {
      v1::NodeMessage message;
      if (leaving_) {
        message.mutable_leaving()->set_reason(*leaving_);
        lock.unlock();
        stream.Write(message);
        stream.WritesDone();
        return;
      }
      const Duration until_heartbeat = next_heartbeat - loop_.clock().Now();
      if (!reports_.empty()) {
        *message.mutable_vgpu() = std::move(reports_.begin()->second);
        reports_.erase(reports_.begin());
        lock.unlock();
      } else if (until_heartbeat <= Duration(0)) {
        next_heartbeat = loop_.clock().Now() + heartbeat_;
        lock.unlock();
        message.mutable_heartbeat()->set_done(done_);  // before it is looked at what came of them
        if (!loop_.Call([&] {
              const Snapshot snapshot = callbacks_.snapshot();
              FillTelemetry(snapshot, message.mutable_heartbeat()->mutable_telemetry());
              FillUsage(snapshot, message.mutable_heartbeat());
            })) {
          return;
        }
      } else {
        const Duration before = heartbeat_;
        changed_.wait_for(lock, until_heartbeat);
        if (heartbeat_ < before) next_heartbeat = std::min(next_heartbeat, loop_.clock().Now() + heartbeat_);
        continue;
      }
      if (!stream.Write(message)) return;  // the reader notices too
      lock.lock();
    }
  }

  // On the loop's thread.
  void FillUsage(const Snapshot& snapshot, v1::Heartbeat* out) {
    const Instant now = loop_.clock().Now();
    const Duration time = now - std::exchange(usage_told_at_, now);
    std::map<std::string, Told> told;
    for (const VGpuStatus& vgpu : snapshot.vgpus) {
      Told& is = told[vgpu.spec.uid];
      is = {vgpu.usage.device_time_ns,
            vgpu.delivered.throttled_ns,
            vgpu.delivered.network_bytes,
            vgpu.delivered.network_throttled_ns,
            vgpu.usage.spill_out_bytes + vgpu.usage.spill_in_bytes,
            vgpu.usage.spill_wait_ns};
      v1::VGpuUsage& usage = (*out->mutable_vgpus())[vgpu.spec.uid];
      usage.set_memory_used_bytes(vgpu.usage.memory_used_bytes);
      usage.set_compute_share_percent(static_cast<float>(100 * vgpu.delivered.share));
      usage.set_network_share_bytes_per_s(vgpu.delivered.network_bytes_per_s);
      usage.set_spilled_bytes(vgpu.usage.spilled_memory_bytes + vgpu.usage.spilled_file_bytes);
      const auto before = told_.find(vgpu.spec.uid);
      if (before == told_.end() || time <= Duration::zero()) continue;
      const auto part = [&](std::uint64_t has, std::uint64_t had) {
        return has < had ? 0.0 : static_cast<double>(has - had) / static_cast<double>(time.count());
      };
      const Told& was = before->second;
      const bool by_turns = vgpu.spec.sharing == arbiter::Sharing::kTurns;
      usage.set_compute_used_percent(static_cast<float>(100 * part(is.device_time_ns, was.device_time_ns) /
                                                        (by_turns ? 1 : std::max(snapshot.load.cpus, 1u))));
      usage.set_compute_throttled_percent(static_cast<float>(100 * part(is.throttled_ns, was.throttled_ns)));
      usage.set_network_used_bytes_per_s(
          static_cast<std::uint64_t>(1e9 * part(is.network_bytes, was.network_bytes)));
      usage.set_network_throttled_percent(
          static_cast<float>(100 * part(is.network_throttled_ns, was.network_throttled_ns)));
      usage.set_spill_bytes_per_s(
          static_cast<std::uint64_t>(1e9 * part(is.spill_moved_bytes, was.spill_moved_bytes)));
      usage.set_spill_wait_percent(static_cast<float>(100 * part(is.spill_wait_ns, was.spill_wait_ns) /
                                                      std::max(vgpu.usage.sessions, 1u)));
    }
    told_ = std::move(told);
  }

  void FillRegister(const Snapshot& snapshot, v1::Register* out) {
    out->set_name(options_.name);
    out->set_data_endpoint(options_.data_endpoint);
    out->set_local_endpoint(options_.local_endpoint);
    out->set_version(snapshot.version);
    for (const auto& [key, value] : options_.labels) (*out->mutable_labels())[key] = value;
    for (const InventoryGpu& gpu : snapshot.gpus) FillGpu(gpu, out->add_gpus());
    for (const VGpuStatus& vgpu : snapshot.vgpus) *out->add_vgpus() = ToProto(vgpu);
    FillTelemetry(snapshot, out->mutable_telemetry());
  }

  void Handle(const v1::ControllerMessage& message) {
    switch (message.message_case()) {
      case v1::ControllerMessage::kRegistered: {
        const auto& interval = message.registered().heartbeat_interval();
        {
          std::lock_guard lock(mutex_);
          heartbeat_ =
              std::clamp<Duration>(seconds(interval.seconds()) + std::chrono::nanoseconds(interval.nanos()),
                                   milliseconds(50), seconds(60));
          changed_.notify_all();
        }
        was_registered_ = true;
        told_absent_ = false;
        Log(LogLevel::kInfo, "node", "registered with the controller",
            {{"node_uid", message.registered().node_uid()}});
        loop_.Call([this] { callbacks_.on_registered(true); });
        return;
      }
      case v1::ControllerMessage::kCreateVgpu: loop_.Call([&] { Create(message.create_vgpu()); }); return;
      case v1::ControllerMessage::kResizeVgpu:
        loop_.Call([&] {
          const v1::ResizeVGpu& resize = message.resize_vgpu();
          supervisor_.Resize(resize.uid(), {.compute_percent = resize.compute_percent(),
                                            .network_bytes_per_s = resize.network_bytes_per_s(),
                                            .memory_bytes = resize.memory_bytes()});
        });
        return;
      case v1::ControllerMessage::kDeleteVgpu:
        loop_.Call([&] { supervisor_.Delete(message.delete_vgpu().uid()); });
        return;
      case v1::ControllerMessage::kAddGrant:
        if (!Acceptable(message.add_grant().grant())) return Nonsense("a grant");
        loop_.Call([&] {
          supervisor_.AddGrant(message.add_grant().vgpu_uid(), FromProto(message.add_grant().grant()));
        });
        return;
      case v1::ControllerMessage::kRevokeGrant:
        loop_.Call([&] {
          supervisor_.RevokeGrant(message.revoke_grant().vgpu_uid(), message.revoke_grant().grant_id());
        });
        return;
      case v1::ControllerMessage::MESSAGE_NOT_SET:
        return Nonsense("a message that this version does not know");
    }
  }

  void Create(const v1::CreateVGpu& command) {
    if (!AcceptableId(command.uid()) || command.tenant().size() > wire::node::kMaxIdBytes) {
      return Nonsense("a vGPU without a proper id");
    }
    VGpuSpec spec{.uid = command.uid(),
                  .name = command.name(),
                  .tenant = command.tenant(),
                  .gpu_index = command.gpu_index(),
                  .memory_bytes = command.memory_bytes(),
                  .compute_percent = command.compute_percent(),
                  .level = LevelOf(command.performance_level()),
                  .network_bytes_per_s = command.network_bytes_per_s(),
                  .spill_bytes = command.spill_bytes(),
                  .in_machine = command.isolation() == v1::VM};
    std::vector<Grant> grants;
    for (const v1::GrantKey& grant : command.grants()) {
      if (!Acceptable(grant)) return Nonsense("a grant");
      grants.push_back(FromProto(grant));
    }
    for (const InventoryGpu& gpu : callbacks_.snapshot().gpus) {
      if (gpu.index != spec.gpu_index) continue;
      spec.device_index = gpu.device_index;
      spec.device_memory_bytes = gpu.allocatable_memory_bytes;
      spec.compiler = gpu.compiler;
      spec.has_opencl = gpu.api == "OPENCL";
      spec.cuda_device = gpu.cuda_device;
      spec.pci_address = gpu.pci_address;
      if (command.isolation() > v1::VM || (spec.in_machine && !gpu.machines)) {
        return supervisor_.Refuse(
            spec, "GPU " + std::to_string(spec.gpu_index) + " of this node offers no such isolation (" +
                      std::to_string(command.isolation()) + "); start it with --vm=kvm");
      }
      spec.sharing = gpu.sharing;
      return supervisor_.Create(spec, grants);
    }
    supervisor_.Refuse(spec, "this node has no GPU with index " + std::to_string(spec.gpu_index));
  }

  void Nonsense(const char* what) {
    Log(LogLevel::kError, "node", "the controller sent something that makes no sense", {{"what", what}});
  }

  Loop& loop_;
  Supervisor& supervisor_;
  const Options options_;
  const Callbacks callbacks_;

  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::map<std::string, v1::VGpuReport> reports_;  // by uid: the newest each
  // Totals of a vGPU at the last heartbeat.
  struct Told {
    std::uint64_t device_time_ns = 0, throttled_ns = 0, network_bytes = 0, network_throttled_ns = 0;
    std::uint64_t spill_moved_bytes = 0, spill_wait_ns = 0;
  };
  std::map<std::string, Told> told_;  // by uid; the loop's, as the next
  Instant usage_told_at_{};
  std::optional<std::string> leaving_;
  grpc::ClientContext* context_ = nullptr;  // of the stream under way
  Duration heartbeat_ = kDefaultHeartbeat;
  std::atomic<std::uint64_t> done_{0};  // messages of this stream that were carried out
  bool streaming_ = false;
  bool stopping_ = false;

  bool was_registered_ = false;  // the reader's
  bool told_absent_ = false;     // the reader's
  std::thread reader_;
};

ControlLink::ControlLink(Loop& loop, Supervisor& supervisor, Options options, Callbacks callbacks)
    : impl_(std::make_unique<Impl>(loop, supervisor, std::move(options), std::move(callbacks))) {}
ControlLink::~ControlLink() = default;
void ControlLink::Report(const VGpuStatus& status) { impl_->Report(status); }
void ControlLink::Leave(const std::string& reason) { impl_->Leave(reason); }
void ControlLink::WaitLeft(Duration timeout) { impl_->WaitLeft(timeout); }

}  // namespace tulle::node
