#include "tulle/node/supervisor.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <utility>

#include "tulle/base/log.h"
#include "tulle/base/seqpacket.h"
#include "tulle/wire/command_table.h"

namespace tulle::node {
namespace {

constexpr int kControlFd = 3;
constexpr int kShareFd = 4;
constexpr int kTurnFd = 5;
constexpr int kSpillFd = 6;
// While memory is on its way from the device and to it there is more than in the end.
constexpr std::uint64_t kSpillUnderWayBytes = 16u << 20;
constexpr auto kGrace = std::chrono::seconds(1);  // for a worker that has closed its control socket to end
constexpr std::size_t kMaxOutbox = 4 * kMaxGrants;
constexpr auto kExpiryCheck = std::chrono::seconds(1);
constexpr int kPacketsPerTurn = 64;
// A worker's executors end just after it.
constexpr Duration kGroupsEmpty = std::chrono::milliseconds(100);
constexpr int kGroupsTries = 100;

// Where the file system has no files without a name, one whose name is taken away at once.
Result<UniqueFd> MakeSpillFile(const std::string& directory) {
  UniqueFd file(open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (file.valid()) return file;
  std::string path = directory + "/spill-XXXXXX";
  file = UniqueFd(mkostemp(path.data(), O_CLOEXEC));
  if (!file.valid()) return ErrnoError("a file for memory in " + directory, errno);
  unlink(path.c_str());
  return file;
}

// To a worker that waits for it; one that does not any more has closed its end.
void Answer(int socket, const wire::node::ExportAnswer& answer, int memory = -1) {
  ByteVector packet(wire::EncodedSize(answer));
  wire::Encode(answer, packet);
  const std::array fds = {memory};
  (void)SendPacket(socket, packet, std::span(fds).first(memory >= 0 ? 1 : 0));
}

}  // namespace

void CommandUsage::Add(const CommandUsage& other) {
  count += other.count;
  bytes += other.bytes;
  latency_ns += other.latency_ns;
  for (std::size_t i = 0; i < latencies.size(); ++i) latencies[i] += other.latencies[i];
}

void VGpuUsage::Add(const VGpuUsage& other) {
  sessions += other.sessions;
  memory_used_bytes += other.memory_used_bytes;
  commands += other.commands;
  received_bytes += other.received_bytes;
  sent_bytes += other.sent_bytes;
  device_time_ns += other.device_time_ns;
  executor_crashes += other.executor_crashes;
  refused_sessions += other.refused_sessions;
  worker_restarts += other.worker_restarts;
  spilled_memory_bytes += other.spilled_memory_bytes;
  spilled_file_bytes += other.spilled_file_bytes;
  spill_out_bytes += other.spill_out_bytes;
  spill_in_bytes += other.spill_in_bytes;
  spill_wait_ns += other.spill_wait_ns;
  for (const auto& [opcode, command] : other.by_command) by_command[opcode].Add(command);
}

VGpuUsage Supervisor::VGpu::usage() const {
  VGpuUsage sum = past;
  sum.Add(current);
  return sum;
}

Supervisor::Supervisor(Loop& loop, Options options, OnChange on_change, BuildKeeper* builds,
                       arbiter::Arbiter* arbiter)
    : loop_(loop),
      options_(std::move(options)),
      on_change_(std::move(on_change)),
      builds_(builds),
      arbiter_(arbiter),
      exports_({[this](const std::string& vgpu, const std::string& token) {
                  if (VGpu* has = Find(vgpu)) Send(*has, wire::node::ExportWithdrawn{{token}});
                },
                [this](const std::string& vgpu, const std::string& token) {
                  if (VGpu* owner = Find(vgpu)) Send(*owner, wire::node::ExportUnused{{token}});
                }}) {}

Supervisor::~Supervisor() {
  loop_.Cancel(expiry_timer_);
  for (auto& [uid, vgpu] : vgpus_) {
    loop_.Cancel(vgpu.timer);
    loop_.Cancel(vgpu.control_timer);
    if (vgpu.control.valid()) loop_.Unwatch(vgpu.control.get());
    if (!vgpu.process) continue;
    loop_.Unwatch(vgpu.process->pidfd());
    vgpu.process->Signal(SIGKILL);
    vgpu.process->Wait(std::chrono::seconds(10));
  }
}

Supervisor::VGpu* Supervisor::Find(const std::string& uid) {
  const auto it = vgpus_.find(uid);
  return it == vgpus_.end() ? nullptr : &it->second;
}

void Supervisor::Create(const VGpuSpec& spec, const std::vector<Grant>& grants) {
  VGpu* vgpu = Find(spec.uid);
  if (vgpu == nullptr) {
    if (on_empty_) return Refuse(spec, "the node is stopping");
    if (vgpus_.size() >= kMaxVGpus) {
      return Refuse(spec, "this node runs " + std::to_string(kMaxVGpus) + " vGPUs, which is its limit");
    }
    vgpu = &vgpus_[spec.uid];
    vgpu->spec = spec;
    for (const Grant& grant : grants) {
      if (vgpu->grants.size() < kMaxGrants) vgpu->grants[grant.id] = grant;
    }
    StartWorker(*vgpu);
  } else {
    if (!(vgpu->spec == spec)) {
      Log(LogLevel::kError, "node", "a vGPU cannot be changed in this version; it stays as it is",
          {{"vgpu", spec.uid}});
    }
    std::set<std::string> wanted;
    for (const Grant& grant : grants) wanted.insert(grant.id);
    std::vector<std::string> unwanted;
    for (const auto& [id, grant] : vgpu->grants) {
      if (!wanted.contains(id)) unwanted.push_back(id);
    }
    for (const std::string& id : unwanted) {
      vgpu->grants.erase(id);
      Send(*vgpu, wire::node::RevokeGrant{{id}});
    }
    for (const Grant& grant : grants) {
      if (!vgpu->grants.contains(grant.id) && vgpu->grants.size() < kMaxGrants) SendGrant(*vgpu, grant);
    }
  }
  ArmExpiry();
  Report(*vgpu);
}

void Supervisor::Refuse(const VGpuSpec& spec, const std::string& why) {
  Log(LogLevel::kError, "node", "cannot make a vGPU", {{"vgpu", spec.uid}, {"why", why}});
  if (vgpus_.size() >= 2 * kMaxVGpus) {  // not even to be remembered
    return on_change_({.spec = spec, .state = VGpuState::kFailed, .message = why});
  }
  VGpu& vgpu = vgpus_[spec.uid];
  vgpu.spec = spec;
  vgpu.state = VGpuState::kFailed;
  vgpu.message = why;
  Report(vgpu);
}

void Supervisor::Delete(const std::string& uid) {
  VGpu* vgpu = Find(uid);
  if (vgpu == nullptr) return ReportAbsent(uid);
  if (vgpu->deleting) return;
  vgpu->deleting = true;
  loop_.Cancel(vgpu->timer);
  if (!vgpu->process) return Remove(uid);
  Send(*vgpu, wire::node::Shutdown{});
  KillAfter(*vgpu, options_.shutdown_timeout, "it did not end in time");
}

void Supervisor::Resize(const std::string& uid, const Size& size) {
  VGpu* vgpu = Find(uid);
  if (vgpu == nullptr) return ReportAbsent(uid);
  vgpu->spec.compute_percent = size.compute_percent;
  vgpu->spec.network_bytes_per_s = size.network_bytes_per_s;
  if (size.memory_bytes != 0 &&
      std::exchange(vgpu->spec.memory_bytes, size.memory_bytes) != size.memory_bytes)
    Send(*vgpu, wire::node::ResizeMemory{size.memory_bytes});
  if (arbiter_ != nullptr) arbiter_->Change(uid, vgpu->spec.promise());
  if (vgpu->groups.exists() && vgpu->spec.sharing == arbiter::Sharing::kControlGroups) {
    if (const Status shared = vgpu->groups.Share(vgpu->spec.promise()); !shared.ok()) {
      Log(LogLevel::kError, "node", "a vGPU keeps its former share of compute",
          {{"vgpu", uid}, {"error", ToString(shared.error())}});
    }
  }
  Report(*vgpu);
}

void Supervisor::AddGrant(const std::string& uid, const Grant& grant) {
  VGpu* vgpu = Find(uid);
  if (vgpu == nullptr) return ReportAbsent(uid);
  if (!vgpu->grants.contains(grant.id)) {
    if (vgpu->grants.size() < kMaxGrants) {
      SendGrant(*vgpu, grant);
      ArmExpiry();
    } else {
      Log(LogLevel::kError, "node", "too many grants of one vGPU", {{"vgpu", uid}, {"limit", kMaxGrants}});
    }
  }
  Report(*vgpu);
}

void Supervisor::RevokeGrant(const std::string& uid, const std::string& grant_id) {
  VGpu* vgpu = Find(uid);
  if (vgpu == nullptr) return ReportAbsent(uid);
  if (vgpu->grants.erase(grant_id) != 0) Send(*vgpu, wire::node::RevokeGrant{{grant_id}});
  Report(*vgpu);
}

Status Supervisor::Adopt(const session::PskIdentity& identity, int socket) {
  VGpu* vgpu = Find(identity.vgpu);
  if (vgpu == nullptr) return Error{.code = Code::kNotFound, .message = "no vGPU " + identity.vgpu + " here"};
  if (vgpu->deleting || vgpu->state == VGpuState::kFailed) {
    return Error{.code = Code::kFailedPrecondition, .message = "vGPU " + identity.vgpu + " is no more"};
  }
  if (!vgpu->control.valid() || vgpu->state != VGpuState::kReady) {
    return Error{.code = Code::kUnavailable, .message = "vGPU " + identity.vgpu + " is being started"};
  }
  // Packets that wait must not be overtaken: the grant that this connection proves may be among them.
  if (!vgpu->outbox.empty()) {
    return Error{.code = Code::kResourceExhausted,
                 .message = "the worker of vGPU " + identity.vgpu + " is behind"};
  }
  return SendPacket(vgpu->control.get(),
                    wire::EncodePacket(wire::node::kNodeCommands, wire::node::AdoptConnection{}),
                    std::array{socket});
}

std::vector<VGpuStatus> Supervisor::List() const {
  std::vector<VGpuStatus> all;
  for (const auto& [uid, vgpu] : vgpus_) all.push_back(StatusOf(vgpu));
  return all;
}

VGpuUsage Supervisor::Total() const {
  VGpuUsage total = gone_;
  for (const auto& [uid, vgpu] : vgpus_) total.Add(vgpu.usage());
  return total;
}

void Supervisor::Shutdown(std::function<void()> done) {
  on_empty_ = std::move(done);
  std::vector<std::string> uids;
  for (const auto& [uid, vgpu] : vgpus_) uids.push_back(uid);
  for (const std::string& uid : uids) Delete(uid);
  if (uids.empty()) on_empty_();
}

Status Supervisor::MakeGroups(VGpu& vgpu) {
  if (options_.control_group == nullptr) return OkStatus();
  // What its last worker's executors touched may be charged to the old ones for as long as others have it.
  vgpu.past_throttled_ns += vgpu.groups.throttled_ns();
  RemoveGroups(std::make_shared<VGpuGroups>(std::exchange(vgpu.groups, VGpuGroups())), kGroupsTries);
  const bool share = vgpu.spec.sharing == arbiter::Sharing::kControlGroups;
  auto made = VGpuGroups::Make(*options_.control_group, vgpu.spec.uid + "-" + std::to_string(++groups_made_));
  if (made.ok() && share) TULLE_RETURN_IF_ERROR(made->Share(vgpu.spec.promise()));
  if (made.ok()) {
    vgpu.groups = std::move(*made);
  } else if (share) {
    return made.error();
  } else {
    Log(LogLevel::kError, "node", "a vGPU's part of the host's memory is not limited",
        {{"vgpu", vgpu.spec.uid}, {"error", ToString(made.error())}});
  }
  return OkStatus();
}

void Supervisor::RemoveGroups(std::shared_ptr<VGpuGroups> groups, int tries) {
  if (groups->Remove() || tries == 0) return;
  loop_.After(kGroupsEmpty, [this, groups, tries] { RemoveGroups(groups, tries - 1); });
}

void Supervisor::StartWorker(VGpu& vgpu) {
  const std::string uid = vgpu.spec.uid;
  vgpu.ready_since.reset();
  vgpu.last_words.clear();
  vgpu.outbox.clear();
  auto pair = MakeSeqPacketPair();
  std::vector<std::string> argv = {options_.worker_binary, "--control-fd", std::to_string(kControlFd)};
  Result<arbiter::WorkerEnds> share(arbiter::WorkerEnds{});
  if (arbiter_ != nullptr) {
    share = arbiter_->Start(uid, vgpu.spec.gpu_index, vgpu.spec.sharing, vgpu.spec.promise());
    argv.insert(argv.end(), {"--share-fd", std::to_string(kShareFd)});
    if (share.ok() && share->turn_fd >= 0) argv.insert(argv.end(), {"--turn-fd", std::to_string(kTurnFd)});
  }
  const std::uint64_t spill_bytes = vgpu.spec.spill_bytes;
  std::uint64_t spill_memory_bytes = 0, spill_file_bytes = 0;
  Result<UniqueFd> spill_file(UniqueFd{});
  if (spill_bytes != 0) {
    const SpillRoom& room = options_.spill;
    // The node may have been told of less than what its vGPUs were promised.
    std::uint64_t all_bytes = 0;
    for (const auto& [other, its] : vgpus_)
      all_bytes += its.process || other == uid ? its.spec.spill_bytes : 0;
    if (all_bytes > room.all_bytes()) {
      spill_file =
          Error{.code = Code::kResourceExhausted,
                .message = "its programs may have " + FormatSize(spill_bytes) +
                           " beyond its memory, and this node keeps " + FormatSize(room.all_bytes()) +
                           " of such for all vGPUs (--spill-memory, --spill-disk)"};
    }
    const double in_memory = room.all_bytes() == 0 ? 0
                                                   : static_cast<double>(room.memory_bytes) /
                                                         static_cast<double>(room.all_bytes());
    spill_memory_bytes = static_cast<std::uint64_t>(static_cast<double>(spill_bytes) * in_memory);
    if (room.disk_bytes == 0) {
      spill_memory_bytes = spill_bytes + kSpillUnderWayBytes;
    } else if (spill_file.ok()) {
      spill_file_bytes = spill_bytes - spill_memory_bytes + kSpillUnderWayBytes;
      spill_file = MakeSpillFile(room.directory);
      argv.insert(argv.end(), {"--spill-fd", std::to_string(kSpillFd)});
    }
  }
  const Status grouped = MakeGroups(vgpu);
  for (std::string& argument : vgpu.groups.WorkerArguments()) argv.push_back(std::move(argument));
  argv.insert(argv.end(), options_.worker_arguments.begin(), options_.worker_arguments.end());
  const auto start = [&]() -> Result<Subprocess> {
    if (!pair.ok()) return pair.error();
    if (!share.ok()) return share.error();
    if (!grouped.ok()) return grouped.error();
    if (!spill_file.ok()) return spill_file.error();
    SubprocessSpec process{.argv = argv,
                           .fds = {{-1, 0}, {STDERR_FILENO, 1}, {pair->child.get(), kControlFd}},
                           .death_signal = SIGKILL,
                           .own_group = true};
    if (share->share_fd >= 0) process.fds.push_back({share->share_fd, kShareFd});
    if (share->turn_fd >= 0) process.fds.push_back({share->turn_fd, kTurnFd});
    if (spill_file->valid()) process.fds.push_back({spill_file->get(), kSpillFd});
    return Subprocess::Start(process);
  };
  auto process = start();
  if (!process.ok()) {
    vgpu.state = VGpuState::kFailed;
    vgpu.message = "cannot start its worker: " + process.error().message;
    if (arbiter_ != nullptr) arbiter_->Stopped(uid);
    Log(LogLevel::kError, "node", vgpu.message, {{"vgpu", uid}});
    return;
  }
  vgpu.process = std::move(*process);
  vgpu.control = std::move(pair->parent);
  // Edge-triggered, so that one watch serves for both directions.
  loop_.Watch(vgpu.control.get(), EPOLLIN | EPOLLOUT | EPOLLET,
              [this, uid](std::uint32_t) { OnControl(uid); });
  loop_.Watch(vgpu.process->pidfd(), EPOLLIN, [this, uid](std::uint32_t) { OnEnded(uid); });
  vgpu.state = VGpuState::kCreating;
  Log(LogLevel::kInfo, "node", "worker started",
      {{"vgpu", uid}, {"name", vgpu.spec.name}, {"pid", vgpu.process->pid()}, {"gpu", vgpu.spec.gpu_index}});
  Send(vgpu, wire::node::AssignVGpu{.vgpu = {uid},
                                    .tenant = {vgpu.spec.tenant},
                                    .device_index = vgpu.spec.device_index,
                                    .memory_bytes = vgpu.spec.memory_bytes,
                                    .compute_percent = vgpu.spec.compute_percent,
                                    .compiler = {vgpu.spec.compiler.size() <= wire::node::kMaxCompilerBytes
                                                     ? std::string_view(vgpu.spec.compiler)
                                                     : std::string_view()},
                                    .has_opencl = vgpu.spec.has_opencl ? wire::U8{1} : wire::U8{0},
                                    .cuda_device = {vgpu.spec.cuda_device},
                                    .pci_address = {vgpu.spec.pci_address},
                                    .device_memory_bytes = vgpu.spec.device_memory_bytes,
                                    .spill_bytes = spill_bytes,
                                    .spill_memory_bytes = spill_memory_bytes,
                                    .spill_file_bytes = spill_file_bytes,
                                    .in_machine = vgpu.spec.in_machine ? wire::U8{1} : wire::U8{0}});
  for (const auto& [id, grant] : vgpu.grants) Send(vgpu, wire::node::AddGrant{{id}, {grant.key.Expose()}});
  KillAfter(vgpu, options_.ready_timeout, "it was not ready in time");
}

template <typename M>
void Supervisor::Send(VGpu& vgpu, const M& message) {
  if (!vgpu.control.valid()) return;
  if (vgpu.outbox.size() >= kMaxOutbox) return KillAfter(vgpu, Duration(0), "it does not take its messages");
  vgpu.outbox.push_back(wire::EncodePacket(wire::node::kNodeCommands, message));
  FlushOutbox(vgpu);
}

void Supervisor::FlushOutbox(VGpu& vgpu) {
  while (!vgpu.outbox.empty()) {
    // No room: the next EPOLLOUT goes on. Gone: its end is noticed by its pidfd.
    if (!SendPacket(vgpu.control.get(), vgpu.outbox.front()).ok()) return;
    explicit_bzero(vgpu.outbox.front().data(), vgpu.outbox.front().size());  // it may hold a key
    vgpu.outbox.pop_front();
  }
}

void Supervisor::SendGrant(VGpu& vgpu, const Grant& grant) {
  vgpu.grants[grant.id] = grant;
  Send(vgpu, wire::node::AddGrant{{grant.id}, {grant.key.Expose()}});
}

void Supervisor::KillAfter(VGpu& vgpu, Duration delay, const std::string& why) {
  loop_.Cancel(vgpu.timer);
  vgpu.timer = loop_.After(delay, [this, uid = vgpu.spec.uid, why] {
    VGpu* late = Find(uid);
    if (late == nullptr || !late->process) return;
    Log(LogLevel::kError, "node", "worker killed", {{"vgpu", uid}, {"why", why}});
    if (late->last_words.empty()) late->last_words = why;
    late->process->Signal(SIGKILL);
  });
}

void Supervisor::OnControl(const std::string& uid) {
  VGpu* vgpu = Find(uid);
  if (vgpu == nullptr) return;
  FromWorker handler{*this, *vgpu, {}};
  for (int packets = 0; vgpu->control.valid(); ++packets) {
    if (packets == kPacketsPerTurn) {
      // Others have their turn; what is here is not told of again.
      loop_.Cancel(vgpu->control_timer);
      vgpu->control_timer = loop_.After(Duration(0), [this, uid] { OnControl(uid); });
      break;
    }
    std::byte buffer[wire::kMaxPacketBytes];
    auto packet = ReceivePacket(vgpu->control.get(), buffer);
    if (packet.ok() && packet->none) break;
    if (!packet.ok() && packet.error().code == Code::kInvalidArgument) {
      // This process may have no descriptor for what came with it.
      Log(LogLevel::kError, "node", "a packet of a worker was lost",
          {{"vgpu", uid}, {"error", ToString(packet.error())}});
      continue;
    }
    wire::WireResult result = wire::WireResult::kOk;
    if (packet.ok()) {
      handler.fds = std::move(packet->fds);
      result = wire::DispatchPacket(wire::node::kNodeCommands, ByteView(buffer).first(packet->size_bytes),
                                    arena_, handler);
      if (result == wire::WireResult::kOk) continue;
      Log(LogLevel::kError, "node", "a worker broke the protocol",
          {{"vgpu", uid}, {"why", wire::WireResultName(result)}});
    }
    loop_.Unwatch(vgpu->control.get());
    vgpu->control.reset();
    KillAfter(*vgpu, packet.ok() ? Duration(0) : Duration(kGrace), "it closed or misused its control socket");
  }
  if (vgpu->control.valid()) FlushOutbox(*vgpu);
}

void Supervisor::FromWorker::On(const wire::node::WorkerReady& message) {
  if (vgpu.state != VGpuState::kCreating || vgpu.ready_since) return;
  if (message.status != 0) {
    // It has decided that it cannot serve; it ends now, and would decide the same next time.
    vgpu.state = VGpuState::kFailed;
    vgpu.message = std::string(message.message.text);
    vgpu.last_words = vgpu.message;
    Log(LogLevel::kError, "node", "worker cannot serve", {{"vgpu", vgpu.spec.uid}, {"why", vgpu.message}});
    if (!vgpu.deleting) supervisor.KillAfter(vgpu, kGrace, "it could not serve");
  } else {
    vgpu.state = VGpuState::kReady;
    vgpu.message.clear();
    vgpu.ready_since = supervisor.loop_.clock().Now();
    if (!vgpu.deleting) supervisor.loop_.Cancel(vgpu.timer);
    Log(LogLevel::kInfo, "node", "vGPU is ready", {{"vgpu", vgpu.spec.uid}, {"name", vgpu.spec.name}});
  }
  supervisor.Report(vgpu);
}

void Supervisor::FromWorker::On(const wire::node::WorkerStats& message) {
  const bool tell = vgpu.current.sessions != message.sessions;
  vgpu.current = {.sessions = message.sessions,
                  .memory_used_bytes = message.memory_used_bytes,
                  .commands = message.commands_total,
                  .received_bytes = message.received_bytes_total,
                  .sent_bytes = message.sent_bytes_total,
                  .device_time_ns = message.device_time_ns_total,
                  .executor_crashes = message.executor_crashes_total,
                  .refused_sessions = message.refused_sessions_total,
                  .spilled_memory_bytes = message.spilled_memory_bytes,
                  .spilled_file_bytes = message.spilled_file_bytes,
                  .spill_out_bytes = message.spill_out_bytes_total,
                  .spill_in_bytes = message.spill_in_bytes_total,
                  .spill_wait_ns = message.spill_wait_ns_total,
                  .by_command = std::move(vgpu.current.by_command)};
  if (tell) supervisor.Report(vgpu);
}

void Supervisor::FromWorker::On(const wire::node::CommandStats& message) {
  const auto opcode = static_cast<std::uint16_t>(message.opcode);
  if (wire::FindRow(opcode) == nullptr || message.latencies.items.size() != wire::node::kLatencyCounts)
    return;
  CommandUsage& command = vgpu.current.by_command[opcode];
  command = {.count = message.count, .bytes = message.bytes, .latency_ns = message.latency_ns_total};
  std::copy(message.latencies.items.begin(), message.latencies.items.end(), command.latencies.begin());
}

void Supervisor::FromWorker::On(const wire::node::SessionOpened& message) {
  if (vgpu.sessions.size() >= kMaxListedSessions) return;
  const std::string id(message.session.text);
  vgpu.sessions[id] = {.id = id,
                       .program = std::string(message.program.text),
                       .process_id = message.process_id,
                       .channel = std::string(message.channel.text)};
  supervisor.Report(vgpu);
}

void Supervisor::FromWorker::On(const wire::node::SessionEnded& message) {
  if (vgpu.sessions.erase(std::string(message.session.text)) != 0) supervisor.Report(vgpu);
}

void Supervisor::FromWorker::On(const wire::node::FindBuild& message) {
  if (supervisor.builds_ == nullptr || fds.size() != 1 ||
      message.key.bytes.size() != wire::node::kBuildKeyBytes) {
    return;
  }
  supervisor.builds_->Find(vgpu.spec.uid, message.key.bytes, std::move(fds.front()));
}

void Supervisor::FromWorker::On(const wire::node::KeepBuild& message) {
  if (supervisor.builds_ == nullptr || fds.size() != 1 ||
      message.key.bytes.size() != wire::node::kBuildKeyBytes) {
    return;
  }
  supervisor.builds_->Keep(vgpu.spec.uid, message.key.bytes, std::move(fds.front()));
}

void Supervisor::FromWorker::On(const wire::node::OfferExport& message) {
  if (fds.size() != 2) return;
  const wire::ExportStatus status = supervisor.exports_.Offer(
      vgpu.spec.uid, std::string(message.token.text), std::string(message.tenant.text), message.size_bytes,
      message.writable != 0, std::move(fds[0]));
  Answer(fds[1].get(), {{status}});
}

void Supervisor::FromWorker::On(const wire::node::TakeExport& message) {
  if (fds.size() != 1) return;
  const ExportBoard::Taken* const taken = supervisor.exports_.Take(
      vgpu.spec.uid, vgpu.spec.tenant, std::string(message.token.text), message.session);
  if (taken == nullptr) return Answer(fds.front().get(), {{wire::ExportStatus::kNoSuchExport}});
  Answer(fds.front().get(),
         {{wire::ExportStatus::kOk}, taken->size_bytes, taken->writable ? wire::U8{1} : wire::U8{0}},
         taken->memory);
}

void Supervisor::FromWorker::On(const wire::node::CloseExport& message) {
  supervisor.exports_.Close(vgpu.spec.uid, std::string(message.token.text), message.session);
}

void Supervisor::FromWorker::On(const wire::node::ReleaseExport& message) {
  supervisor.exports_.Release(vgpu.spec.uid, std::string(message.token.text));
}

void Supervisor::FromWorker::On(const wire::node::WithdrawExport& message) {
  const auto answer = std::make_shared<UniqueFd>(fds.size() == 1 ? std::move(fds.front()) : UniqueFd());
  supervisor.exports_.Withdraw(vgpu.spec.uid, std::string(message.token.text),
                               [answer](wire::ExportStatus status) {
                                 if (answer->valid()) Answer(answer->get(), {{status}});
                               });
}

void Supervisor::OnEnded(const std::string& uid) {
  VGpu* vgpu = Find(uid);
  if (vgpu == nullptr || !vgpu->process) return;
  OnControl(uid);  // what it said before it ended
  const std::optional<ExitState> exit = vgpu->process->TryWait();
  if (!exit) return;
  loop_.Unwatch(vgpu->process->pidfd());
  vgpu->process.reset();
  if (vgpu->control.valid()) loop_.Unwatch(vgpu->control.get());
  vgpu->control.reset();
  loop_.Cancel(vgpu->timer);
  exports_.OnWorkerEnded(uid);
  if (arbiter_ != nullptr) arbiter_->Stopped(uid);
  const std::uint32_t lost_sessions = std::exchange(vgpu->current.sessions, 0);
  vgpu->current.memory_used_bytes = 0;
  vgpu->current.spilled_memory_bytes = vgpu->current.spilled_file_bytes = 0;
  vgpu->past = vgpu->usage();
  vgpu->current = {};
  vgpu->sessions.clear();
  if (vgpu->deleting) {
    Log(LogLevel::kInfo, "node", "worker ended", {{"vgpu", uid}, {"how", exit->Text()}});
    return Remove(uid);
  }
  const std::string how =
      "its worker " + exit->Text() + (vgpu->last_words.empty() ? "" : " (" + vgpu->last_words + ")");
  if (vgpu->state != VGpuState::kFailed) {
    const std::optional<Duration> delay = vgpu->backoff.OnEnd(loop_.clock().Now(), vgpu->ready_since);
    vgpu->state = delay ? VGpuState::kCreating : VGpuState::kFailed;
    vgpu->message = how + "; " + std::to_string(lost_sessions) + " sessions were lost; " +
                    (delay ? "it is being started again" : "it ended too often to be started again");
    Log(LogLevel::kError, "node", "worker ended by itself",
        {{"vgpu", uid},
         {"name", vgpu->spec.name},
         {"how", exit->Text()},
         {"sessions_lost", lost_sessions},
         {"restart_ms", delay ? delay->count() / 1'000'000 : -1}});
    if (delay) {
      vgpu->timer = loop_.After(*delay, [this, uid] {
        VGpu* waiting = Find(uid);
        if (waiting == nullptr || waiting->deleting || waiting->process) return;
        ++waiting->past.worker_restarts;
        StartWorker(*waiting);
        Report(*waiting);
      });
    }
  }
  Report(*vgpu);
}

void Supervisor::Remove(const std::string& uid) {
  loop_.Cancel(vgpus_.at(uid).control_timer);
  gone_.Add(vgpus_.at(uid).usage());
  RemoveGroups(std::make_shared<VGpuGroups>(std::move(vgpus_.at(uid).groups)), kGroupsTries);
  vgpus_.erase(uid);
  if (arbiter_ != nullptr) arbiter_->Remove(uid);
  ReportAbsent(uid);
  if (vgpus_.empty() && on_empty_) on_empty_();
}

VGpuStatus Supervisor::StatusOf(const VGpu& vgpu) const {
  VGpuStatus status{.spec = vgpu.spec, .state = vgpu.state, .message = vgpu.message, .usage = vgpu.usage()};
  for (const auto& [id, grant] : vgpu.grants) status.grant_ids.push_back(id);
  for (const auto& [id, session] : vgpu.sessions) status.sessions.push_back(session);
  if (arbiter_ != nullptr) status.delivered = arbiter_->Get(vgpu.spec.uid);
  status.host_memory_bytes = vgpu.groups.memory_bytes();
  status.delivered.throttled_ns += vgpu.past_throttled_ns + vgpu.groups.throttled_ns();
  return status;
}

void Supervisor::Report(const VGpu& vgpu) { on_change_(StatusOf(vgpu)); }

void Supervisor::ReportAbsent(const std::string& uid) {
  on_change_({.spec = {.uid = uid}, .state = VGpuState::kDeleted});
}

void Supervisor::ArmExpiry() {
  loop_.Cancel(expiry_timer_);
  bool any = false;
  for (const auto& [uid, vgpu] : vgpus_) {
    for (const auto& [id, grant] : vgpu.grants) any |= grant.expire_us != 0;
  }
  if (!any) return;
  // Looked at once a second rather than at the time itself: the wall clock may jump.
  expiry_timer_ = loop_.After(kExpiryCheck, [this] {
    const std::int64_t now_us = loop_.clock().WallMicros();
    std::vector<std::pair<std::string, std::string>> expired;
    for (const auto& [uid, vgpu] : vgpus_) {
      for (const auto& [id, grant] : vgpu.grants) {
        if (grant.expire_us != 0 && grant.expire_us <= now_us) expired.emplace_back(uid, id);
      }
    }
    for (const auto& [uid, id] : expired) RevokeGrant(uid, id);
    ArmExpiry();
  });
}

}  // namespace tulle::node
