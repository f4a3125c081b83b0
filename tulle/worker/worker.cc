#include "tulle/worker/worker.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <system_error>

#include "tulle/base/log.h"
#include "tulle/base/random.h"
#include "tulle/base/seqpacket.h"

namespace tulle::worker {
namespace {

// Packets read in a row before ended sessions are looked after.
constexpr int kPacketsPerTurn = 64;
// For a session that was told to end, because its client is away, to be over.
constexpr Duration kEndOfAbsent = std::chrono::seconds(2);
// How often it is looked at, and those that have not been away for long enough.
constexpr Duration kEndInterval = std::chrono::milliseconds(10);
constexpr Duration kAbsenceInterval = std::chrono::milliseconds(100);

LogLevel LevelOf(wire::EndReason reason) {
  switch (reason) {
    case wire::EndReason::kDeviceLost:
    case wire::EndReason::kProtocol:
    case wire::EndReason::kResource: return LogLevel::kWarn;
    default: return LogLevel::kInfo;
  }
}

}  // namespace

Worker::Worker(UniqueFd control, const Options& options, OpenDevice open_device, const Clock* clock,
               UniqueFd share, UniqueFd turns, UniqueFd spill_file)
    : control_(std::move(control)),
      options_(options),
      open_device_(std::move(open_device)),
      clock_(*clock),
      share_(std::move(share)),
      turns_(std::move(turns)),
      spill_file_(std::move(spill_file)),
      wake_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)),
      build_slots_(options.concurrent_builds) {
  TULLE_CHECK(wake_.valid());
}

Worker::~Worker() {
  if (turn_.has_value()) pacer_->Remove(&*turn_);
}

void Worker::Wake() { (void)eventfd_write(wake_.get(), 1); }

void Worker::RequestShutdown() {
  shutdown_.store(true);
  Wake();
}

Worker::End Worker::Run() {
  while (!shutdown_.load()) {
    pollfd fds[] = {{control_.get(), POLLIN, 0}, {wake_.get(), POLLIN, 0}};
    // Sessions' counters move without telling; without sessions all that changes wakes this thread.
    const bool tick = sessions_.load() != 0 || stats_wait_;
    const int timeout_ms =
        tick ? static_cast<int>(options_.stats_interval / std::chrono::milliseconds(1)) : -1;
    (void)poll(fds, 2, timeout_ms);
    if (fds[0].revents != 0) ReadControl();
    if (fds[1].revents != 0) {
      eventfd_t count = 0;
      (void)eventfd_read(wake_.get(), &count);
    }
    Reap();
    ReportStats();
  }

  EndAll(wire::EndReason::kShuttingDown, "the vGPU is shutting down");
  const Instant deadline = clock_.Now() + options_.shutdown_timeout;
  for (;;) {
    Reap();
    const std::size_t left = state_.lock()->connections.size();
    if (left == 0) return no_device_ ? End::kNoDevice : End::kDone;
    const Duration wait = deadline - clock_.Now();
    if (wait <= Duration::zero()) {
      Log(LogLevel::kWarn, "worker", "sessions did not end in time", {{"vgpu", vgpu_}, {"sessions", left}});
      return End::kStuck;
    }
    pollfd fd{wake_.get(), POLLIN, 0};
    (void)poll(&fd, 1, static_cast<int>(wait / std::chrono::milliseconds(1)) + 1);
    eventfd_t count = 0;
    (void)eventfd_read(wake_.get(), &count);
  }
}

void Worker::ReadControl() {
  std::array<std::byte, wire::kMaxPacketBytes> room;
  wire::Arena arena;
  for (int i = 0; i < kPacketsPerTurn && !shutdown_.load(); ++i) {
    auto received = ReceivePacket(control_.get(), room);
    if (!received.ok() && received.error().code == Code::kInvalidArgument) {
      // This process may have no descriptor for what came with it.
      Log(LogLevel::kError, "worker", "a packet of the node was lost",
          {{"vgpu", vgpu_}, {"error", ToString(received.error())}});
      continue;
    }
    if (!received.ok()) {
      Log(LogLevel::kInfo, "worker", "the node is gone",
          {{"vgpu", vgpu_}, {"error", ToString(received.error())}});
      shutdown_.store(true);
      return;
    }
    if (received->none) return;
    received_fds_ = std::move(received->fds);
    const auto result = wire::DispatchPacket(wire::node::kNodeCommands,
                                             ByteView(room).first(received->size_bytes), arena, *this);
    received_fds_.clear();
    explicit_bzero(room.data(), received->size_bytes);  // it may have held a key
    if (result != wire::WireResult::kOk) {
      Log(LogLevel::kError, "worker", "a packet of the node was not understood",
          {{"vgpu", vgpu_}, {"problem", wire::WireResultName(result)}});
    }
  }
}

template <wire::Message M>
Status Worker::Tell(const M& message) {
  return SendPacket(control_.get(), wire::EncodePacket(wire::node::kNodeCommands, message));
}

// --- the node's messages ---

void Worker::On(const wire::node::AssignVGpu& message) {
  if (quota_.has_value()) {
    Log(LogLevel::kError, "worker", "assigned twice", {{"vgpu", vgpu_}});
    return;
  }
  auto device = open_device_(message);
  if (!device.ok()) {
    std::string reason = ToString(device.error());
    Log(LogLevel::kError, "worker", "cannot open the device",
        {{"vgpu", message.vgpu.text}, {"error", reason}});
    reason.resize(std::min<std::size_t>(reason.size(), wire::kMaxReasonBytes));
    (void)Tell(wire::node::WorkerReady{1, {reason}});
    no_device_ = true;
    shutdown_.store(true);
    return;
  }
  vgpu_ = message.vgpu.text;
  device_ = std::move(*device);
  spill_bytes_ = message.spill_bytes;
  quota_.emplace(message.memory_bytes + spill_bytes_);
  if (spill_bytes_ != 0) {
    SecureRandom random;
    spill_.emplace(message.memory_bytes, message.spill_memory_bytes, std::move(spill_file_),
                   message.spill_file_bytes, random);
    device_.cuda_executors.reset();  // their memory cannot be anywhere but on the device
  }
  exports_.emplace(control_.get(), vgpu_, std::string(message.tenant.text));
  if (Status paced = HoldToShare(); !paced.ok()) {
    Log(LogLevel::kError, "worker", "the vGPU is not held to its share of compute",
        {{"vgpu", vgpu_}, {"error", ToString(paced.error())}});
  }
  if (device_.executors != nullptr)
    spares_.emplace(device_.executors.get(), options_.spare_executors, &clock_);
  Log(LogLevel::kInfo, "worker", "ready",
      {{"vgpu", vgpu_},
       {"tenant", message.tenant.text},
       {"device", message.device_index},
       {"memory", FormatSize(message.memory_bytes)},
       {"spill", FormatSize(spill_bytes_)}});
  if (auto told = Tell(wire::node::WorkerReady{0, {""}}); !told.ok()) {
    Log(LogLevel::kError, "worker", "cannot tell the node", {{"error", ToString(told.error())}});
  }
}

Status Worker::HoldToShare() {
  if (!share_.valid()) return OkStatus();
  TULLE_ASSIGN_OR_RETURN(auto memory, SharedMemory::Adopt(std::move(share_)));
  if (memory.size_bytes() < sizeof(wire::SharePage))
    return Error{Code::kInvalidArgument, "the memory for the share is too small"};
  share_memory_.emplace(std::move(memory));
  auto* const page = reinterpret_cast<wire::SharePage*>(share_memory_->bytes().data());
  network_.emplace(page, &clock_);
  if (page->by_turns != 0) {
    if (!turns_.valid()) return Error{Code::kInvalidArgument, "the socket for turns is missing"};
    turn_.emplace(page, std::move(turns_), &clock_);
    pacer_.emplace(page, 1, &clock_);
    pacer_->Add(&*turn_);
  } else if (device_.lanes != 0) {
    pacer_.emplace(page, device_.lanes, &clock_);
  }
  return OkStatus();
}

void Worker::On(const wire::node::AddGrant& message) {
  auto state = state_.lock();
  if (message.key.bytes.size() != wire::node::kKeyBytes || state->grants.size() >= kMaxGrants) {
    Log(LogLevel::kError, "worker", "a grant was not added: its key is too short, or there are too many",
        {{"vgpu", vgpu_}, {"grant", message.grant.text}, {"grants", state->grants.size()}});
    return;
  }
  state->grants.insert_or_assign(std::string(message.grant.text), Secret(message.key.bytes));
}

void Worker::On(const wire::node::RevokeGrant& message) {
  auto state = state_.lock();
  const auto found = state->grants.find(message.grant.text);
  if (found != state->grants.end()) state->grants.erase(found);
  for (Connection& connection : state->connections) {
    if (connection.grant == message.grant.text) {
      connection.end.Set(wire::EndReason::kGrantRevoked, "the claim that this program was using has ended");
    }
  }
}

void Worker::On(const wire::node::AdoptConnection&) {
  if (received_fds_.size() != 1) {
    Log(LogLevel::kError, "worker", "a connection came without its socket", {{"vgpu", vgpu_}});
    return;
  }
  UniqueFd socket = std::move(received_fds_.front());
  const std::size_t sessions = sessions_.load();
  auto state = state_.lock();
  const std::size_t greeting = state->connections.size() - std::min(state->connections.size(), sessions);
  if (greeting >= options_.max_handshakes) {
    // The oldest has had its chance: strangers who say nothing must not shut out who has a grant.
    const auto oldest = std::find_if(state->connections.begin(), state->connections.end(),
                                     [](const Connection& connection) { return connection.socket.valid(); });
    if (oldest != state->connections.end()) {
      shutdown(oldest->socket.get(), SHUT_RDWR);
      oldest->socket.reset();
    }
  }
  // Those that were told to go still have their threads for a moment.
  if (!quota_.has_value() || greeting >= 2 * options_.max_handshakes) {
    ++refused_;
    Log(LogLevel::kWarn, "worker", "connection refused",
        {{"vgpu", vgpu_},
         {"reason", quota_.has_value() ? "too many handshakes under way" : "no vGPU assigned"}});
    return;
  }
  Connection& connection = state->connections.emplace_back();
  connection.socket = UniqueFd(fcntl(socket.get(), F_DUPFD_CLOEXEC, 0));
  try {
    connection.thread = std::thread([this, &connection, fd = socket.get()] {
      Serve(connection, UniqueFd(fd));
      connection.finished.store(true);
      Wake();
    });
    (void)socket.release();  // the thread's now
  } catch (const std::system_error& error) {
    ++refused_;
    Log(LogLevel::kError, "worker", "no thread for a connection", {{"vgpu", vgpu_}, {"error", error.what()}});
    state->connections.pop_back();
  }
}

void Worker::On(const wire::node::Shutdown&) { shutdown_.store(true); }

void Worker::On(const wire::node::ExportWithdrawn& message) {
  if (exports_.has_value()) exports_->On(message);
}

void Worker::On(const wire::node::ExportUnused& message) {
  if (exports_.has_value()) exports_->On(message);
}

void Worker::On(const wire::node::ResizeMemory& message) {
  if (!quota_.has_value()) return;
  Log(LogLevel::kInfo, "worker", "another quota of memory",
      {{"vgpu", vgpu_},
       {"memory", FormatSize(message.memory_bytes)},
       {"before", FormatSize(quota_->limit_bytes() - spill_bytes_)},
       {"used", FormatSize(quota_->used_bytes())}});
  // Before programs may use it.
  for (exec::ExecutorFactory* executors : {device_.executors.get(), device_.cuda_executors.get()}) {
    if (executors != nullptr) executors->SetMemory(message.memory_bytes + spill_bytes_);
  }
  quota_->SetLimit(message.memory_bytes + spill_bytes_);
  if (spill_.has_value()) spill_->room.SetLimit(message.memory_bytes);
}

// --- sessions ---

Result<session::GrantKey> Worker::KeyOf(Connection& connection, const std::string& vgpu,
                                        const std::string& grant) {
  if (vgpu != vgpu_) return Error{Code::kNotFound, "vGPU " + vgpu + " is not here"};
  auto state = state_.lock();
  const auto found = state->grants.find(grant);
  if (found == state->grants.end()) {
    return Error{Code::kPermissionDenied, "grant " + grant + " is not known here, or was revoked"};
  }
  // From now on a revocation finds this connection, even before its handshake is done.
  connection.grant = grant;
  Result<session::GrantKey> key(session::GrantKey{});  // filled in place, so that no copy is left behind
  const ByteView bytes = found->second.Expose();
  std::copy(bytes.begin(), bytes.end(), key->begin());
  return key;
}

// On the connection's own thread.
void Worker::Serve(Connection& connection, UniqueFd socket) {
  session::ServerLimits limits;
  limits.memory_limit_bytes = quota_->limit_bytes();
  limits.allow_plain_tcp = options_.allow_plain_tcp;
  if (!options_.compression) {
    limits.capabilities &= ~static_cast<std::uint64_t>(wire::Capability::kCompression);
  }
  if (device_.cuda_executors == nullptr)
    limits.capabilities &= ~static_cast<std::uint64_t>(wire::Capability::kCuda);
  if (spill_.has_value()) {  // others would have memory that is not there
    limits.capabilities &= ~static_cast<std::uint64_t>(wire::Capability::kSharedMemory) &
                           ~static_cast<std::uint64_t>(wire::Capability::kExports);
  }
  if (!device_.maps_memory) limits.capabilities &= ~static_cast<std::uint64_t>(wire::Capability::kExports);
  limits.handshake_timeout = options_.handshake_timeout;
  limits.resume_window = options_.resume_window;
  limits.resume_table = &resume_table_;
  const std::string busy_text = "the vGPU serves " + std::to_string(options_.max_sessions) +
                                " programs already, as many as it may; wait for one to end";
  limits.busy = [&]() -> std::string {
    while (sessions_.load() >= options_.max_sessions) {
      if (!EndAbsent(connection, 0)) return busy_text;
    }
    return "";
  };
  auto accepted = session::ServerSession::Accept(
      std::move(socket), limits,
      [&](const std::string& vgpu, const std::string& grant) { return KeyOf(connection, vgpu, grant); });
  std::string grant;
  {
    auto state = state_.lock();
    connection.socket.reset();
    grant = connection.grant;
  }
  if (!accepted.ok()) {
    ++refused_;
    Log(LogLevel::kWarn, "worker", "session refused",
        {{"vgpu", vgpu_}, {"grant", grant}, {"error", ToString(accepted.error())}});
    return;
  }
  if (*accepted == nullptr) return;  // the connection of a session that is served already
  session::ServerSession& client = **accepted;
  const Instant started = clock_.Now();
  const bool over_limit = sessions_.fetch_add(1) >= options_.max_sessions;
  if (!over_limit) {
    auto state = state_.lock();
    connection.peer = client.peer();
  }
  Wake();  // the count has changed

  const bool for_cuda = wire::Has(client.capabilities(), wire::Capability::kCuda);
  exec::Ending ending;
  if (over_limit) {
    // Another one was faster: at the handshake there was still room.
    ++refused_;
    ending = {wire::EndReason::kResource, busy_text, "", false};
    client.End(ending.reason, ending.message);
  } else if (!for_cuda && device_.executors == nullptr) {
    ending = {wire::EndReason::kDeviceLost, "the vGPU's GPU has no driver of OpenCL, only one of CUDA", "",
              false};
    client.End(ending.reason, ending.message);
  } else if (auto executor = for_cuda ? device_.cuda_executors->Start() : spares_->Take(); !executor.ok()) {
    ending = {wire::EndReason::kDeviceLost, "the device could not be opened on its node",
              ToString(executor.error()), false};
    client.End(ending.reason, ending.message);
  } else {
    const exec::Shared shared{
        &*quota_, device_.builder.get(), &build_slots_, &clock_, pacer_.has_value() ? &*pacer_ : nullptr,
        turn_.has_value() ? &*turn_ : nullptr,
        // What stays on this host is no load for the network.
        network_.has_value() && client.peer().channel != session::Channel::kLocal ? &*network_ : nullptr,
        &*exports_, spill_.has_value() ? &*spill_ : nullptr,
        [&](std::uint64_t missing_bytes) { return EndAbsent(connection, missing_bytes); }};
    exec::Session session(&client, std::move(*executor), shared, options_.session_limits, &connection.end,
                          &connection.counters);
    ending = session.Run();
  }
  if (ending.executor_crashed) ++crashes_;

  const Totals totals = CountersOf(connection);
  const session::Peer& peer = client.peer();
  Log(LevelOf(ending.reason), "worker", "session ended",
      {{"vgpu", vgpu_},
       {"grant", grant},
       {"session", peer.session_id.substr(0, 8)},
       {"program", peer.program},
       {"pid", peer.process_id},
       {"channel", session::ChannelName(peer.channel)},
       {"peer", peer.local
                    ? "uid " + std::to_string(peer.local->uid) + " pid " + std::to_string(peer.local->pid)
                    : ""},
       {"reason", wire::EndReasonName(ending.reason)},
       {"told", ending.message},
       {"detail", ending.detail},
       {"seconds", static_cast<double>((clock_.Now() - started).count()) / 1e9},
       {"commands", totals.commands},
       {"received_bytes", totals.received_bytes},
       {"sent_bytes", totals.sent_bytes},
       {"resumed", client.counters().resumed}});
  sessions_.fetch_sub(1);
}

bool Worker::EndAbsent(const Connection& for_whom, std::uint64_t missing_bytes) {
  const Instant deadline = clock_.Now() + options_.absence_patience + kEndOfAbsent;
  bool one_ends = false;
  for (;;) {
    const std::uint64_t returns = quota_->returns();
    const Instant now = clock_.Now();
    Duration wait = kEndInterval;
    bool ending = false;
    {
      auto state = state_.lock();
      Connection* longest = nullptr;
      std::int64_t since_ns = 0;
      std::uint64_t could_have_bytes = quota_->available_bytes();
      for (Connection& connection : state->connections) {
        const std::int64_t absent_ns = connection.counters.absent_since_ns.load();
        if (absent_ns == 0 || connection.finished.load()) continue;
        could_have_bytes += connection.counters.held_bytes.load();
        ending |= connection.end.requested();
        if (longest == nullptr || absent_ns < since_ns) {
          longest = &connection;
          since_ns = absent_ns;
        }
      }
      if (one_ends && !ending) return true;
      if (longest == nullptr || could_have_bytes < missing_bytes || now >= deadline || shutdown_.load() ||
          for_whom.end.requested()) {
        return false;
      }
      const Duration left = Instant{since_ns} + options_.absence_patience - now;
      if (!ending && left <= Duration::zero()) {
        longest->end.Set(wire::EndReason::kResource,
                         "the program's connection was lost, and another program needs what it had");
        ending = true;
      } else if (!ending) {
        wait = std::min(left, kAbsenceInterval);
      }
    }
    one_ends |= ending;
    quota_->AwaitReturn(returns, wait);
  }
}

Worker::Totals Worker::CountersOf(Connection& connection) const {
  exec::SessionCounters& counters = connection.counters;
  return {counters.commands.load(), counters.received_bytes.load(), counters.sent_bytes.load(),
          counters.DeviceTimeNs()};
}

void Worker::Reap() {
  auto state = state_.lock();
  for (auto it = state->connections.begin(); it != state->connections.end();) {
    if (!it->finished.load()) {
      ++it;
      continue;
    }
    it->thread.join();  // it has nothing left to do
    ended_ += CountersOf(*it);
    if (it->peer_told) sessions_gone_.push_back(it->peer->session_id);
    it->counters.by_command.AddTo(&ended_commands_);
    it = state->connections.erase(it);
  }
}

void Worker::EndAll(wire::EndReason reason, const std::string& message) {
  auto state = state_.lock();
  state->grants.clear();
  for (Connection& connection : state->connections) {
    connection.end.Set(reason, message);
    if (connection.socket.valid()) ::shutdown(connection.socket.get(), SHUT_RDWR);
  }
}

void Worker::ReportStats() {
  if (!quota_.has_value()) return;
  const Instant now = clock_.Now();
  stats_wait_ = told_stats_.has_value() && now - stats_told_at_ < options_.stats_interval;
  if (stats_wait_) return;
  Totals totals = ended_;
  {
    auto state = state_.lock();
    for (Connection& connection : state->connections) totals += CountersOf(connection);
  }
  if (turn_.has_value()) totals.device_time_ns = turn_->DeviceTimeNs();
  wire::node::WorkerStats stats{static_cast<std::uint32_t>(sessions_.load()),
                                quota_->used_bytes(),
                                totals.commands,
                                totals.received_bytes,
                                totals.sent_bytes,
                                totals.device_time_ns,
                                crashes_.load(),
                                refused_.load()};
  if (spill_.has_value()) {
    stats.memory_used_bytes = spill_->room.held_bytes();
    stats.spilled_memory_bytes = spill_->store.memory_bytes();
    stats.spilled_file_bytes = spill_->store.file_bytes();
    stats.spill_out_bytes_total = spill_->saved_bytes;
    stats.spill_in_bytes_total = spill_->restored_bytes;
    stats.spill_wait_ns_total = spill_->WaitedNs(now);
  }
  // A node that does not read for a while misses some; the next ones hold the totals again.
  ByteVector packet = wire::EncodePacket(wire::node::kNodeCommands, stats);
  if (told_stats_ != packet) {
    if (!SendPacket(control_.get(), packet).ok()) return;
    told_stats_ = std::move(packet);
    stats_told_at_ = now;
  }
  if (!ReportSessions()) return;
  if (ReportCommands()) stats_told_at_ = now;
}

bool Worker::ReportSessions() {
  for (; !sessions_gone_.empty(); sessions_gone_.pop_front()) {
    if (!Tell(wire::node::SessionEnded{{sessions_gone_.front()}}).ok()) return false;
  }
  auto state = state_.lock();
  for (Connection& connection : state->connections) {
    if (!connection.peer || connection.peer_told) continue;
    const session::Peer& peer = *connection.peer;
    const wire::node::SessionOpened opened{
        {peer.session_id}, {peer.program}, peer.process_id, {session::ChannelName(peer.channel)}};
    if (!Tell(opened).ok()) return false;
    connection.peer_told = true;
  }
  return true;
}

bool Worker::ReportCommands() {
  exec::CommandTotals totals = ended_commands_;
  {
    auto state = state_.lock();
    for (Connection& connection : state->connections) connection.counters.by_command.AddTo(&totals);
  }
  bool told = false;
  for (std::size_t i = 0; i < totals.kinds.size(); ++i) {
    const exec::CommandTotals::Kind& kind = totals.kinds[i];
    if (kind == told_commands_.kinds[i]) continue;
    const wire::node::CommandStats stats{
        wire::kRowInfos[i].opcode, kind.count, kind.bytes, kind.latency_ns, {kind.latencies}};
    if (!Tell(stats).ok()) return told;
    told_commands_.kinds[i] = kind;
    told = true;
  }
  return told;
}

}  // namespace tulle::worker
