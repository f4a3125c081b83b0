// The loop, and a command's way from bytes to a handler.
#include "tulle/worker/exec/session.h"

#include <poll.h>
#include <sched.h>

#include <algorithm>
#include <cstdio>

#include "tulle/session/payload_parts.h"

namespace tulle::worker::exec {
namespace {

// A sentence for a person within what the message may hold.
std::string Cut(std::string text) {
  if (text.size() > wire::kMaxReasonBytes) text.resize(wire::kMaxReasonBytes);
  return text;
}

std::string CommandText(const wire::FrameHeader& header) {
  const wire::RowInfo* row = wire::FindRow(header.opcode);
  char number[8];
  std::snprintf(number, sizeof number, "0x%04x", header.opcode);
  return std::string(row != nullptr ? row->name : std::string_view("command")) + " (" + number +
         ", sequence " + std::to_string(header.sequence) + ")";
}

// Memory of its own, which comes with a descriptor.
template <wire::Message M>
bool IsExportable(const M& message) {
  if constexpr (std::same_as<M, wire::opencl::CreateBuffer>)
    return message.flags.has(wire::opencl::MemFlag::kExportable);
  return std::same_as<M, wire::cuda::AllocateExportable>;
}

// Brings the first bytes of a buffer or image.
template <wire::Message M>
constexpr bool IsInit = std::same_as<M, wire::opencl::InitBuffer> || std::same_as<M, wire::opencl::InitImage>;

constexpr std::size_t kMaxMapsUnderWay = 8;

// Of the sequences of the session's own commands to the executor; a client's are far from it.
constexpr std::uint64_t kOwnSequence = std::uint64_t{1} << 63;

// What OnFrame and OnPayload return to stop the client's stream; the reason stands in ending_.
Error Over() { return Error{Code::kCancelled, "the session is over", Scope::kSession}; }

}  // namespace

Session::Session(session::ServerSession* client, std::unique_ptr<Executor> executor, const Shared& shared,
                 const SessionLimits& limits, EndRequest* end, SessionCounters* counters)
    : client_(*client),
      executor_(std::move(executor)),
      shared_(shared),
      limits_(limits),
      end_(*end),
      counters_(*counters),
      lease_(shared.quota),
      turn_user_([this](Duration longest) {
        end_.Set(wire::EndReason::kResource,
                 "a kernel ran for more than " + std::to_string(longest / std::chrono::seconds(1)) +
                     " s while other vGPUs waited for the GPU; divide it into shorter ones");
      }) {
  counters_.SetExecutor(executor_.get());
  if (shared_.spill != nullptr) residency_.emplace(shared_.spill, executor_.get(), shared_.clock);
  if (shared_.turn != nullptr) {
    shared_.turn->Enter(&turn_user_);
  } else if (shared_.pacer != nullptr) {
    shared_.pacer->Add(executor_.get());
  }
}

Session::~Session() {
  Publish();
  if (shared_.pacer != nullptr && shared_.turn == nullptr) shared_.pacer->Remove(executor_.get());
  counters_.SetExecutor(nullptr);
  // Rooms go back to the executor, which goes before the lease: memory is free when the quota says so.
  // And before others are told that nothing here has theirs any more.
  builds_.clear();
  incoming_.Release();
  parts_.Release();
  landing_.Release();
  held_.reset();
  unsent_.reset();
  executor_.reset();
  residency_.reset();
  if (shared_.turn != nullptr) shared_.turn->Leave(&turn_user_);
  lease_.Close();  // what stays lent counts as the vGPU's itself
  for (const auto& [slot, buffer] : buffers_) LetGo(buffer);
  for (const auto& [sequence, under_way] : under_way_) LetGo(under_way.buffer);
  for (const auto& [token, opened] : opened_) shared_.exports->Close(token, this);
}

Ending Session::Run() {
  while (!over()) {
    if (end_.requested()) {
      const auto why = end_.Get();
      End(why->reason, why->message);
      break;
    }
    LookAtNetwork();
    bool progress = TakeReplies();
    if (progress && !over())
      FlushClient();  // a program waits for them; looking for commands takes a system call
    if (!over()) progress |= AdvanceBuilds();
    if (!over()) progress |= Retry();
    if (!over()) progress |= TakeCommands();
    if (over()) break;
    AskAll(false);
    progress |= GiveMemory();
    if (over()) break;
    if (std::exchange(flush_executor_, false)) executor_->Flush();
    FlushClient();
    Publish();
    if (over() || progress || Spin()) continue;
    Sleep();
  }
  // The program's kernels stop now; to tell it why may take a moment.
  executor_->Kill();
  client_.End(ending_->reason, ending_->message);
  return *ending_;
}

bool Session::CanTakeCommands() {
  if (held_.has_value() || unsent_.has_value() || Clogged()) return false;
  // The next frame may bring the largest payload, and must find room for it.
  if (landing_.empty()) {
    auto room = executor_->AllocateRoom(wire::kMaxPayloadBytes);
    if (!room.has_value()) return false;
    landing_ = std::move(*room);
  }
  return true;
}

void Session::Pause(bool paused) {
  paused_ = paused;
  client_.Pause(paused);
}

bool Session::TakeCommands() {
  Pause(!CanTakeCommands());
  if (paused_) return false;
  auto pumped = client_.Pump(*this);
  client_.Acknowledge(done_sequence_, awaited_events_ > open_user_events_.size());
  if (pumped.ok()) return *pumped;
  if (!over()) OnClientError(pumped.error());
  return true;
}

void Session::LookAtNetwork() {
  if (shared_.network == nullptr) return;
  const auto counters = client_.counters();
  const std::uint64_t moved_bytes = counters.bytes_received + counters.bytes_sent;
  shared_.network->Note(moved_bytes - std::exchange(moved_bytes_, moved_bytes));
  has_moved_enough_ = !shared_.network->MayPass(&network_wait_);
}

void Session::FlushClient() {
  if (auto flushed = client_.Flush(); !flushed.ok()) OnClientError(flushed.error());
}

// Looks where the next thing will come from, for as long as it has paid off lately: at the executor when it
// owes an answer, else at the client.
bool Session::Spin() {
  // Answers may be there, but would not be taken, or what could be written would wait.
  if (TakesNoAnswers() || client_.has_output()) return false;
  if (!under_way_.empty() || awaited_events_ != 0) return executor_->Spin();
  if (paused_ || !builds_.empty()) return false;
  Instant now = shared_.clock->Now();
  if (!spin_.Begin(now)) return false;
  pollfd fd{client_.fd(), client_.events(), 0};
  do {
    if (poll(&fd, 1, 0) > 0) {
      spin_.End(now);
      return true;
    }
    sched_yield();
    now = shared_.clock->Now();
  } while (spin_.Continue(now));
  return false;
}

void Session::OnClientError(const Error& error) {
  switch (error.code) {
    case Code::kCancelled:    // it said goodbye
    case Code::kUnavailable:  // it is gone without a word: its process ended
      return End(wire::EndReason::kGoodbye, "", error.message);
    case Code::kResourceExhausted: return End(wire::EndReason::kResource, error.message);
    default: return End(wire::EndReason::kProtocol, "", error.message);
  }
}

void Session::Sleep() {
  // What held the stream may have gone since, with the output that was flushed, say.
  if (paused_ ? CanTakeCommands() : client_.has_buffered_input()) return;
  AskAll(true);
  if (std::exchange(flush_executor_, false)) executor_->Flush();
  const bool clogged = TakesNoAnswers();
  if (!clogged && !executor_->PrepareToSleep()) return;

  fds_.clear();
  // While paused, Pump reads nothing and would not notice that the client has gone.
  constexpr short kGone = POLLRDHUP | POLLHUP | POLLERR;
  fds_.push_back({client_.fd(), static_cast<short>(client_.events() | (paused_ ? POLLRDHUP : 0)), 0});
  fds_.push_back({end_.fd(), POLLIN, 0});
  fds_.push_back({client_.wake_fd(), POLLIN, 0});  // poll passes over -1
  if (!clogged) {  // else nothing would be taken from it, and poll would not wait
    fds_.push_back({executor_->wake_fd(), POLLIN, 0});
    if (executor_->death_fd() >= 0) fds_.push_back({executor_->death_fd(), POLLIN, 0});
  }
  if (held_for_ == Wait::kCompute && waits_for_turn_) fds_.push_back({shared_.turn->fd(), POLLIN, 0});
  if (residency_.has_value()) fds_.push_back({residency_->room_fd(), POLLIN, 0});
  if (wants_slot_) fds_.push_back({shared_.build_slots->fd(), POLLIN, 0});
  for (const BuildJob& job : builds_) {
    if (job.build != nullptr) fds_.push_back({job.build->fd(), POLLIN, 0});
  }

  Duration timeout = Duration::max();
  if (held_for_ == Wait::kCompute) timeout = compute_wait_;
  if (has_moved_enough_) timeout = std::min(timeout, network_wait_);
  const bool lacks_memory = landing_.empty() || held_for_ == Wait::kRoom || held_for_ == Wait::kMemory ||
                            (held_for_ == Wait::kResidency && residency_->WaitsForItself());
  if (!lacks_memory || open_user_events_.empty()) {
    stuck_since_.reset();
  } else {
    if (!stuck_since_.has_value()) stuck_since_ = shared_.clock->Now();
    timeout = std::min(timeout, limits_.wait_on_user_event - (shared_.clock->Now() - *stuck_since_));
  }
  const auto look_at = client_.next_look();
  if (look_at.has_value()) timeout = std::min(timeout, *look_at - shared_.clock->Now());
  const std::int64_t timeout_ns = std::max<std::int64_t>(timeout.count(), 0);
  const timespec limit{timeout_ns / 1'000'000'000, timeout_ns % 1'000'000'000};
  const int ready = ppoll(fds_.data(), fds_.size(), timeout == Duration::max() ? nullptr : &limit, nullptr);
  if (!clogged) executor_->Awake();
  if (residency_.has_value()) residency_->Awake();
  if (ready > 0 && fds_[0].revents != 0) spin_.End(shared_.clock->Now());

  const bool gone = ready > 0 && paused_ && (fds_[0].revents & kGone) != 0;
  const bool back = ready > 0 && fds_[2].revents != 0;
  if (gone || back || (look_at.has_value() && shared_.clock->Now() >= *look_at)) {
    if (const Status status = client_.LookAfter(); !status.ok()) return OnClientError(status.error());
  }
  if (stuck_since_.has_value() && shared_.clock->Now() - *stuck_since_ >= limits_.wait_on_user_event) {
    End(wire::EndReason::kResource,
        "commands that wait for a user event hold all the memory that the next command needs (" +
            std::to_string(limits_.wait_on_user_event / std::chrono::seconds(1)) +
            " s); set the event before more is enqueued");
  }
}

void Session::Publish() {
  const auto counters = client_.counters();
  counters_.commands.store(commands_, std::memory_order_relaxed);
  counters_.received_bytes.store(counters.bytes_received, std::memory_order_relaxed);
  counters_.sent_bytes.store(counters.bytes_sent, std::memory_order_relaxed);
  counters_.held_bytes.store(lease_.held_bytes(), std::memory_order_relaxed);
  counters_.absent_since_ns.store(client_.absent_since().value_or(Instant{}).ns, std::memory_order_relaxed);
}

void Session::End(wire::EndReason reason, std::string message, std::string detail) {
  if (over()) return;
  ending_ = Ending{reason, Cut(std::move(message)), std::move(detail), false};
}

void Session::Breach(const wire::FrameHeader& header, const std::string& what) {
  End(wire::EndReason::kProtocol, "", CommandText(header) + ": " + what);
}

void Session::Distrust(const std::string& what) {
  executor_->Kill();
  End(wire::EndReason::kDeviceLost, "the device's process broke its protocol and was ended", what);
  ending_->executor_crashed = true;
}

// --- a command's way ---

Result<MutableByteView> Session::OnPayload(const wire::FrameHeader& header, ByteView body) {
  wire::WireResult result = wire::WireResult::kUnknownOpcode;
  wire::Handle program;
  arena_.Reset();
  wire::WithRow(wire::kCommands, header.opcode, [&](const auto& row) {
    using M = typename std::remove_cvref_t<decltype(row)>::Command;
    M message;
    // Says whether a payload of this size is announced, before room is made for it.
    result = wire::Decode(body, header.payload_bytes, arena_, &message);
    if constexpr (std::same_as<M, wire::opencl::ProgramText>) {
      if (result == wire::WireResult::kOk) result = wire::CheckHandles(message, objects_);
      program = message.program.handle;
    }
  });
  if (result != wire::WireResult::kOk) {
    Breach(header, std::string(wire::WireResultName(result)));
    return Over();
  }
  if (!program.null()) return RoomForText(header, program);

  incoming_ = RoomForPayload(header.payload_bytes);
  return incoming_.bytes();
}

Result<MutableByteView> Session::OnParts(std::uint64_t, std::uint64_t total_bytes) {
  parts_ = RoomForPayload(total_bytes);
  if (!CanTakeCommands()) Pause(true);
  return parts_.bytes();
}

Room Session::RoomForPayload(std::uint64_t size_bytes) {
  auto room = executor_->AllocateRoom(size_bytes);
  if (!room.has_value()) {
    landing_.Release();  // kept for this case
    room = executor_->AllocateRoom(size_bytes);
  }
  TULLE_CHECK(room.has_value());
  return std::move(*room);
}

Status Session::OnFrame(const wire::FrameHeader& header, ByteView body, MutableByteView) {
  // Many may have come at once, and each may take a while.
  if (end_.requested()) {
    const auto why = end_.Get();
    End(why->reason, why->message);
    return Over();
  }
  ++commands_;
  counters_.by_command.Came(header.opcode, wire::kFrameHeaderBytes + body.size() + header.payload_bytes);
  Room payload = std::move((header.flags & wire::kAfterParts) != 0 ? parts_ : incoming_);
  Process(header, body, payload, shared_.clock->Now());
  if (over()) return Over();
  if (!CanTakeCommands()) Pause(true);
  return OkStatus();
}

void Session::Process(const wire::FrameHeader& header, ByteView body, Room& payload, Instant since) {
  Frame frame{header, body, payload, since};
  held_for_ = Wait::kNone;
  answered_later_ = false;
  if (!wire::WithRow(wire::kCommands, header.opcode, [&](const auto& row) { ProcessRow(row, frame); })) {
    return Breach(header, std::string(wire::WireResultName(wire::WireResult::kUnknownOpcode)));
  }
  if (over()) return;
  if (held_for_ == Wait::kNone) {
    stuck_since_.reset();
    if (!answered_later_) counters_.by_command.Took(header.opcode, shared_.clock->Now() - since);
    if (!unsent_.has_value()) done_sequence_ = header.sequence;
    return;
  }
  held_ = HeldFrame{header, ByteVector(body.begin(), body.end()), std::move(payload), since};
}

constexpr bool Session::RunsEveryWorkerCommand() {
  bool all = true;
  wire::ForEachRow(wire::kCommands, [&](const auto& row) {
    using M = typename std::remove_cvref_t<decltype(row)>::Command;
    constexpr bool runs = requires(Session & s, const wire::Checked<M>& m, Frame& f) { s.Run(m, f); };
    if (row.place == wire::Place::kWorker && !runs) all = false;
  });
  return all;
}

template <typename Row>
void Session::ProcessRow(const Row& row, Frame& frame) {
  using M = typename Row::Command;
  static_assert(RunsEveryWorkerCommand(), "a row of Place::kWorker has no Run");
  if (row.place == wire::Place::kSession || row.mode == wire::Mode::kNotice) {
    return Breach(frame.header, std::string(wire::WireResultName(wire::WireResult::kWrongDirection)));
  }
  M message;
  arena_.Reset();
  wire::WireResult result = wire::Decode(frame.body, frame.header.payload_bytes, arena_, &message);
  if (result != wire::WireResult::kOk) return Breach(frame.header, std::string(wire::WireResultName(result)));

  held_for_ = ReadyOnDevice(message, frame);
  if (held_for_ == Wait::kNone) held_for_ = Ready(message, frame);
  if (held_for_ != Wait::kNone || over()) return;

  wire::Checked<M> checked;
  result = wire::Checked<M>::Make(message, objects_, &checked);
  if (result != wire::WireResult::kOk) return Breach(frame.header, std::string(wire::WireResultName(result)));
  NoteOrder(message, frame.header.sequence);
  if (residency_.has_value()) NoteMemory(message, frame.header);
  if (shared_.turn != nullptr) {
    if constexpr (std::same_as<M, wire::opencl::EnqueueKernel>) {
      launches_.Began(message.queue.handle, shared_.clock->Now());
    } else if constexpr (std::same_as<M, wire::cuda::LaunchKernel>) {
      launches_.Began(message.stream.handle, shared_.clock->Now());
    } else if constexpr (std::same_as<M, wire::opencl::Finish>) {  // as good as a question of ours
      launches_.Asked(message.queue.handle, frame.header.sequence);
    } else if constexpr (std::same_as<M, wire::cuda::SynchronizeStream>) {
      launches_.Asked(message.stream.handle, frame.header.sequence);
    }
  }
  if constexpr (requires { Run(checked, frame); }) {
    Run(checked, frame);
  } else {
    Forward(frame, row.mode == wire::Mode::kReply);
  }
}

// What a command depends on is what came before in its queue, be that in order or not, and before the events
// that it waits for. An object is destroyed when nothing uses it any more: after everything. CUDA's streams
// wait for the legacy stream, and that one for them, unless they were made not to: those that do are one
// queue here.
template <wire::Message M>
void Session::NoteOrder(const M& message, std::uint64_t sequence) {
  after_ = std::same_as<M, wire::DestroyObject> ? session::ServerSession::kEverything : 0;
  if constexpr (std::same_as<M, wire::cuda::SynchronizeContext>) {
    for (const auto& [queue, after] : queues_after_) after_ = std::max(after_, after);
  } else if constexpr (std::same_as<M, wire::cuda::CreateContext>) {
    together_.insert(message.legacy.handle.slot);
  } else if constexpr (std::same_as<M, wire::cuda::CreateStream>) {
    if (message.flags.has(wire::cuda::StreamFlag::kNonBlocking)) {
      together_.erase(message.stream.handle.slot);
    } else {
      together_.insert(message.stream.handle.slot);
    }
  }
  std::uint32_t queue = kNoQueue;
  const auto waits_for = [&](wire::Handle event) {
    if (event.slot >= events_.size() || events_[event.slot].generation != event.generation) return;
    after_ = std::max(after_, events_[event.slot].after);
  };
  M::ForEachField(message, [&](std::string_view, const auto& field) {
    using T = std::remove_cvref_t<decltype(field)>;
    if constexpr (std::same_as<T, wire::WaitList>) {
      for (const auto& event : field.items) waits_for(event.handle);
    } else if constexpr (wire::internal::IsHandle<T>::value) {
      if constexpr (T::kKind == wire::ObjectKind::kQueue && T::kUse == wire::Use::kRef) {
        queue = together_.contains(field.handle.slot) ? kTogether : field.handle.slot;
        const auto found = queues_after_.find(queue);
        if (found != queues_after_.end()) after_ = std::max(after_, found->second);
      } else if constexpr (T::kKind == wire::ObjectKind::kEvent && T::kUse == wire::Use::kRef) {
        waits_for(field.handle);
      }
    }
  });
  if (wire::WantedPayload(message) >= session::kPartedPayloadBytes) after_ = std::max(after_, sequence);
  if (queue != kNoQueue && after_ != 0) queues_after_[queue] = after_;
  M::ForEachField(message, [&](std::string_view, const auto& field) {
    using T = std::remove_cvref_t<decltype(field)>;
    if constexpr (wire::internal::IsHandle<T>::value) {
      if constexpr (T::kKind == wire::ObjectKind::kEvent &&
                    (T::kUse == wire::Use::kNew || T::kUse == wire::Use::kOptNew)) {
        if (field.handle.null()) return;
        if (events_.size() <= field.handle.slot) events_.resize(field.handle.slot + 1);
        EventSlot& slot = events_[field.handle.slot];
        if (!slot.pending) ++awaited_events_;
        slot = {field.handle.generation, true, after_};
      }
    }
  });
}

template <wire::Message M>
Session::Wait Session::Ready(const M& message, Frame& frame) {
  if (IsExportable(message) && maps_under_way_ >= kMaxMapsUnderWay) return Wait::kRoom;
  if constexpr (std::same_as<M, wire::opencl::CreateBuffer> || std::same_as<M, wire::opencl::CreateSvm> ||
                std::same_as<M, wire::cuda::AllocateMemory> ||
                std::same_as<M, wire::cuda::AllocateExportable>) {
    return ReadyToCreate(message.size_bytes, frame);
  } else if constexpr (std::same_as<M, wire::opencl::ImportBuffer> ||
                       std::same_as<M, wire::cuda::ImportMemory>) {
    return maps_under_way_ < kMaxMapsUnderWay ? Wait::kNone : Wait::kRoom;
  } else if constexpr (std::same_as<M, wire::cuda::LoadModule>) {
    return ReadyToLoad(message);
  } else if constexpr (std::same_as<M, wire::opencl::EnqueueKernel> ||
                       std::same_as<M, wire::cuda::LaunchKernel>) {
    return ReadyToBegin();
  } else if constexpr (std::same_as<M, wire::opencl::SetUserEventStatus> ||
                       std::same_as<M, wire::cuda::EndHostCall>) {
    return ReadyToGoOn();
  } else if constexpr (std::same_as<M, wire::opencl::CreateImage>) {
    return message.buffer.handle.null() ? ReadyToCreate(wire::opencl::OwnBytes(message), frame) : Wait::kNone;
  } else if constexpr (std::same_as<M, wire::opencl::BuildProgram>) {
    const bool full = builds_.size() >= limits_.builds;
    return full || IsBuilding(message.program.handle) ? Wait::kBuild : Wait::kNone;
  } else if constexpr (std::same_as<M, wire::opencl::CreateKernel> ||
                       std::same_as<M, wire::opencl::ProgramText> ||
                       std::same_as<M, wire::opencl::GetProgramBinary>) {
    return IsBuilding(message.program.handle) ? Wait::kBuild : Wait::kNone;
  } else if constexpr (std::same_as<M, wire::DestroyObject>) {
    const bool program = message.object.kind == wire::ObjectKind::kProgram;
    // What waits for it goes on.
    if (message.object.kind == wire::ObjectKind::kEvent &&
        open_user_events_.contains(message.object.handle.slot)) {
      return ReadyToGoOn();
    }
    if (message.object.kind == wire::ObjectKind::kContext) {
      while (const auto queue = launches_.WantsQuestion(true, false)) {
        if (!Ask(*queue)) return Wait::kRoom;
      }
    } else if (message.object.kind == wire::ObjectKind::kQueue &&
               (launches_.IsUnasked(message.object.handle) ||
                (residency_.has_value() && residency_->IsUnasked(message.object.handle))) &&
               !Ask(message.object.handle)) {
      return Wait::kRoom;
    }
    return program && IsBuilding(message.object.handle) ? Wait::kBuild : Wait::kNone;
  } else {
    const std::uint64_t wanted = wire::WantedPayload(message);
    if (wanted == 0) return Wait::kNone;
    auto room = executor_->AllocateRoom(wanted);
    if (!room.has_value()) return Wait::kRoom;
    frame.payload = std::move(*room);
    return Wait::kNone;
  }
}

// A queue's commands use the memory that they name, kernels what their arguments are. What brings the first
// bytes of a buffer or image is in no queue: it has ended when its payload is not needed any more.
template <wire::Message M>
Session::Wait Session::ReadyOnDevice(const M& message, Frame& frame) {
  if (!residency_.has_value()) return Wait::kNone;
  wire::Handle queue;
  bool is_command = IsInit<M> && frame.header.payload_bytes != 0;
  used_.clear();
  M::ForEachField(message, [&](std::string_view, const auto& field) {
    using T = std::remove_cvref_t<decltype(field)>;
    if constexpr (wire::internal::IsHandle<T>::value) {
      if constexpr (T::kUse == wire::Use::kRef && T::kKind == wire::ObjectKind::kQueue) {
        queue = field.handle;
        is_command = true;
      } else if constexpr (T::kUse == wire::Use::kRef && T::kKind == wire::ObjectKind::kMemory) {
        used_.push_back(PieceOf(field.handle));
      }
    }
  });
  if constexpr (std::same_as<M, wire::opencl::EnqueueKernel>) {
    const std::uint32_t kernel = message.kernel.handle.slot;
    const auto arguments = kernel_memory_.find(kernel);
    if (arguments != kernel_memory_.end()) {
      for (const auto& [index, piece] : arguments->second) used_.push_back(piece);
    }
    for (const auto& [sequence, argument] : new_arguments_) {
      if (argument.kernel == kernel) used_.push_back(argument.before);
    }
    used_.insert(used_.end(), svm_.begin(), svm_.end());
  }
  return is_command && !used_.empty() ? Bring(used_, queue, frame) : Wait::kNone;
}

template <wire::Message M>
void Session::NoteMemory(const M& message, const wire::FrameHeader& header) {
  if constexpr (std::same_as<M, wire::opencl::SetKernelArg>) {
    SetArgument(message.kernel.handle.slot, message.index, PieceOf(message.memory.handle), header);
  } else if constexpr (std::same_as<M, wire::opencl::SetSvmArg>) {
    SetArgument(message.kernel.handle.slot, message.index, spill::Residency::kNone, header);
  } else if constexpr (std::same_as<M, wire::opencl::CreateKernel>) {
    ForgetArguments(message.kernel.handle.slot);
  } else if constexpr (std::same_as<M, wire::DestroyObject>) {
    if (message.object.kind == wire::ObjectKind::kKernel) ForgetArguments(message.object.handle.slot);
  } else if constexpr (std::same_as<M, wire::opencl::Finish>) {  // as good as a question of ours
    residency_->Asked(message.queue.handle, header.sequence);
  } else if constexpr (IsInit<M>) {
    residency_->Asked(wire::Handle{}, header.sequence);
  }
}

bool Session::Retry() {
  if (unsent_.has_value()) {
    if (!executor_->Submit(*unsent_)) return false;
    done_sequence_ = std::max(done_sequence_, unsent_->sequence);
    unsent_.reset();
    flush_executor_ = true;
    return true;
  }
  if (!held_.has_value()) return false;
  HeldFrame frame = std::move(*held_);
  held_.reset();
  Process(frame.header, frame.body, frame.payload, frame.since);
  return !held_.has_value() || std::exchange(moves_memory_, false);
}

void Session::Forward(Frame& frame, bool has_reply) {
  if (has_reply || frame.wants_status()) {
    const UnderWay then{frame.header.opcode};
    return Forward(frame, frame.wants_status(), std::nullopt, &then);
  }
  Forward(frame, false, std::nullopt, nullptr);
}

void Session::Forward(Frame& frame, bool wants_status, std::optional<Range> memory, const UnderWay* then) {
  if (then != nullptr) {
    answered_later_ = then->tell_client;
    UnderWay& under_way = under_way_.emplace(frame.header.sequence, *then).first->second;
    under_way.since = frame.since;
    under_way.after = after_;
  }
  Submit(Submission{frame.header.opcode, wants_status, frame.header.sequence, frame.body,
                    std::move(frame.payload), memory, frame.lacks_memory});
}

void Session::Submit(Submission submission) {
  TULLE_CHECK(!unsent_.has_value());
  flush_executor_ = true;
  submitted_sequence_ = std::max(submitted_sequence_, submission.sequence);
  if (executor_->Submit(submission)) return;
  unsent_body_.assign(submission.body.begin(), submission.body.end());
  submission.body = unsent_body_;
  unsent_ = std::move(submission);
}

std::optional<std::uint64_t> Session::SubmitOwn(std::uint16_t opcode, ByteView body, UnderWay under_way) {
  Submission submission{opcode, false, kOwnSequence + own_commands_, body, {}, std::nullopt};
  if (unsent_.has_value() || !executor_->Submit(submission)) return std::nullopt;
  under_way.opcode = opcode;
  under_way.tell_client = false;
  under_way_.emplace(submission.sequence, std::move(under_way));
  ++own_commands_;
  flush_executor_ = true;
  return submission.sequence;
}

}  // namespace tulle::worker::exec
