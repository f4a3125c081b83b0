#include "tulle/shim/core/connection.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <condition_variable>
#include <system_error>
#include <thread>

#include "tulle/base/check.h"
#include "tulle/base/log.h"

namespace tulle::shim {
namespace {

thread_local bool t_handling = false;

class Handling {
 public:
  Handling() : before_(std::exchange(t_handling, true)) {}
  ~Handling() { t_handling = before_; }

 private:
  const bool before_;
};

// One for each process and vGPU.
std::string TracePath(const Connection::Options& options) {
  std::string program = options.program.substr(0, 64);
  std::replace_if(
      program.begin(), program.end(), [](unsigned char c) { return c <= ' ' || c == '/' || c >= 0x7f; }, '_');
  return options.trace_directory + "/" + program + "-" + std::to_string(getpid()) + "-" +
         options.target.vgpu + ".trace";
}

}  // namespace

bool HandlingFrame() { return t_handling; }

// Takes what comes with the answer.
class Connection::SharedMemoryWait final : public Wait {
 public:
  explicit SharedMemoryWait(session::ClientSession* session) : session_(*session) {}
  UniqueFd descriptor;

 private:
  Status Answered(ByteView body, ByteView payload) override {
    wire::Arena arena;
    wire::StatusReply reply;
    TULLE_RETURN_IF_ERROR(DecodeReply(body, payload.size(), arena, &reply));
    if (reply.status == 0) descriptor = session_.TakeDescriptor();
    return OkStatus();
  }
  session::ClientSession& session_;
};

Connection::Connection(const Options& options)
    : options_(options),
      events_(
          handles_,
          [](void* self, wire::Handle handle) {
            static_cast<Connection*>(self)->Retire(wire::ObjectKind::kEvent, handle);
          },
          this) {}

Connection::~Connection() {
  if (session_ != nullptr) session_->Close();
}

// Memory that nobody has asked for yet. Deletes itself.
class Connection::FirstLease final : public Reply {
 public:
  explicit FirstLease(Connection& connection) : connection_(connection) {}
  Status OnReply(ByteView body, ByteView payload) override {
    const std::unique_ptr<FirstLease> self(this);
    wire::Arena arena;
    wire::AcquireMemoryReply granted;
    TULLE_RETURN_IF_ERROR(DecodeReply(body, payload.size(), arena, &granted));
    const std::lock_guard lock(connection_.lease_mutex_);
    connection_.lease_->Grant(granted.granted_bytes);
    return OkStatus();
  }
  void OnLost() override { delete this; }

 private:
  Connection& connection_;
};

Result<std::unique_ptr<Connection>> Connection::Open(const Options& options) {
  std::unique_ptr<Connection> connection(new Connection(options));
  session::ClientSession::Options session_options;
  session_options.target = options.target;
  session_options.program = options.program;
  session_options.random = options.random;
  if (!options.trace_directory.empty()) session_options.trace_path = TracePath(options);
  session_options.trace_payloads = options.trace_payloads;
  session_options.capabilities = options.capabilities;
  TULLE_ASSIGN_OR_RETURN(connection->session_,
                         session::ClientSession::Connect(session_options, connection.get()));
  const std::uint64_t limit_bytes = connection->limits().memory_limit_bytes;
  connection->lease_ = std::make_unique<MemoryLease>(limit_bytes);
  if (const std::uint64_t first = MemoryLease::WantedAtFirst(limit_bytes); first != 0) {
    auto reply = std::make_unique<FirstLease>(*connection);
    Attached attached;
    attached.reply = reply.get();
    if (connection->Submit(wire::AcquireMemory{first}, attached)) reply.release();
  }
  return connection;
}

void Connection::BeforeSend(void* argument, std::uint64_t sequence) {
  Hook& hook = *static_cast<Hook*>(argument);
  const Attached& attached = *hook.attached;
  if (attached.event != nullptr) attached.event->set_sequence(sequence);
  if (!attached.queue.null()) {
    Blame& blame = hook.connection->blames_[sequence % kBlames];
    blame.sequence.store(0, std::memory_order_relaxed);
    blame.queue.store(std::bit_cast<std::uint64_t>(attached.queue), std::memory_order_release);
    blame.sequence.store(sequence, std::memory_order_release);
  }
  if (attached.reply != nullptr) {
    hook.reply_sequence = sequence;
    hook.refused = !hook.connection->replies_.Add(sequence, attached.reply);
  }
}

bool Connection::Submitted(bool sent, const Hook& hook) {
  if (!sent) {
    // The reply is the caller's again, unless the loss has already been told to it.
    if (hook.reply_sequence == 0 || hook.refused) return false;
    return replies_.Take(hook.reply_sequence) == nullptr;
  }
  // The session may have been lost after the command was queued, and the sweep over the events may have
  // come before this one was among them.
  if (hook.attached->event != nullptr && lost()) hook.attached->event->Finalize(options_.lost_status);
  return !hook.refused;
}

void Connection::Recycle(const Retired& object) {
  if (object.kind == wire::ObjectKind::kEvent) {
    events_.Recycle(object.handle);
  } else {
    handles_.Recycle(object.handle);
  }
  if (object.memory_bytes != 0) GiveMemory(object.memory_bytes);
}

void Connection::GiveMemory(std::uint64_t size) {
  std::uint64_t unused = 0;
  {
    const std::lock_guard lock(lease_mutex_);
    lease_->Give(size);
    unused = lease_->Trim();
  }
  if (unused != 0) Submit(wire::ReleaseMemory{unused});
}

bool Connection::ReturnUnusedMemory() {
  SendRetired();
  std::uint64_t unused = 0;
  {
    const std::lock_guard lock(lease_mutex_);
    unused = lease_->TakeUnused();
  }
  return unused != 0 && Submit(wire::ReleaseMemory{unused});
}

void Connection::Retire(wire::ObjectKind kind, wire::Handle handle, std::uint64_t memory_bytes,
                        Reply* unused) {
  const Retired object{kind, handle, memory_bytes};
  if (!t_handling) {
    Attached attached;
    attached.reply = unused;
    attached.wants_status = unused != nullptr;
    // The name is given back only after the worker has been told: whoever uses it next comes after.
    const bool sent = Submit(wire::DestroyObject{{kind, handle}}, attached);
    Recycle(object);
    if (unused == nullptr) return;
    if (sent) {
      Flush();
    } else {
      unused->OnLost();
    }
    return;
  }
  TULLE_CHECK(unused == nullptr);
  if (lost()) return;  // names no longer matter
  const std::lock_guard lock(retired_mutex_);
  retired_.push_back(object);
  has_retired_ = true;
}

void Connection::SendRetiredNow() {
  std::vector<Retired> retired;
  {
    const std::lock_guard lock(retired_mutex_);
    has_retired_ = false;
    retired.swap(retired_);
  }
  for (const Retired& object : retired) Retire(object.kind, object.handle, object.memory_bytes);
}

Connection::Memory Connection::TakeMemory(std::uint64_t size) {
  SendRetired();
  // Other threads may take what this one was granted, so it is the worker's word alone that there is no more:
  // for whole chunks at first, then for what is missing.
  for (bool exact = false;;) {
    std::uint64_t wanted = 0;
    {
      const std::lock_guard lock(lease_mutex_);
      if (lease_->Take(size)) return Memory::kTaken;
      wanted = lease_->WantedFor(size, exact);
    }
    std::uint64_t granted = 0;
    auto take = [&](const wire::AcquireMemoryReply& reply) { granted = reply.granted_bytes; };
    WaitFor<wire::AcquireMemoryReply, decltype(take)> wait(take);
    if (!Call(wire::AcquireMemory{wanted}, wait)) return Memory::kLost;
    const std::lock_guard lock(lease_mutex_);
    lease_->Grant(granted);
    if (lease_->Take(size)) return Memory::kTaken;
    if (granted >= wanted) continue;
    if (exact) return Memory::kFull;
    exact = true;
  }
}

std::int32_t Connection::TakeFailure(wire::Handle queue) {
  if (!has_failures_.load(std::memory_order_acquire)) return 0;
  const std::lock_guard lock(failures_mutex_);
  std::int32_t status = 0;
  for (const std::uint32_t slot : {queue.slot, 0u}) {
    const auto found = failures_.find(slot);
    if (found == failures_.end()) continue;
    if (status == 0 && (slot == 0 || found->second.first == queue)) status = found->second.second;
    failures_.erase(found);
  }
  has_failures_ = !failures_.empty();
  return status;
}

void Connection::ForgetFailure(wire::Handle queue) {
  if (!has_failures_.load(std::memory_order_acquire)) return;
  const std::lock_guard lock(failures_mutex_);
  const auto found = failures_.find(queue.slot);
  if (found != failures_.end() && found->second.first == queue) failures_.erase(found);
  has_failures_ = !failures_.empty();
}

// Lives until it is answered, and as long as somebody wants to know.
class Connection::Place final : public Reply {
 public:
  Status OnReply(ByteView body, ByteView payload) override {
    const std::shared_ptr<Place> self = std::move(self_);
    wire::Arena arena;
    wire::LocateMemoryReply reply;
    const Status status = DecodeReply(body, payload.size(), arena, &reply);
    if (status.ok() && reply.status == 0) offset_bytes_ = reply.offset_bytes;
    answered_.store(true, std::memory_order_release);
    return status;
  }
  void OnLost() override {
    const std::shared_ptr<Place> self = std::move(self_);
    answered_.store(true, std::memory_order_release);
  }
  bool answered() const { return answered_.load(std::memory_order_acquire); }
  // Precondition: answered(). Nothing: it lies elsewhere, or the session is lost.
  std::optional<std::uint64_t> offset_bytes() const { return offset_bytes_; }

 private:
  friend class Connection;
  std::shared_ptr<Place> self_;
  std::optional<std::uint64_t> offset_bytes_;
  std::atomic<bool> answered_{false};
};

std::shared_ptr<Connection::Place> Connection::AskForPlace(wire::Ref<wire::ObjectKind::kMemory> buffer) {
  if (!session_->carries_descriptors() ||
      !wire::Has(limits().capabilities, wire::Capability::kSharedMemory)) {
    return nullptr;
  }
  std::call_once(memory_asked_for_, [this] {
    auto wait = std::make_unique<SharedMemoryWait>(session_.get());
    Attached attached;
    attached.reply = wait.get();
    attached.wants_status = true;
    if (Submit(wire::ShareMemory{}, attached)) shared_memory_wait_ = std::move(wait);
  });
  const auto place = std::make_shared<Place>();
  place->self_ = place;
  Attached attached;
  attached.reply = place.get();
  if (Submit(wire::LocateMemory{buffer}, attached)) return place;
  place->self_.reset();
  return nullptr;
}

MutableByteView Connection::SharedMemory() {
  std::call_once(memory_mapped_, [this] {
    SharedMemoryWait* const wait = shared_memory_wait_.get();
    if (wait == nullptr || !Await(*wait) || !wait->descriptor.valid()) return;
    auto memory = tulle::SharedMemory::Adopt(std::move(wait->descriptor));
    if (memory.ok()) {
      shared_memory_.emplace(*std::move(memory));
    } else {
      Log(LogLevel::kWarn, "shim",
          "cannot map the vGPU's memory; it is reached through the connection instead",
          {{"vgpu", options_.target.vgpu}, {"error", ToString(memory.error())}});
    }
  });
  return shared_memory_ ? shared_memory_->bytes() : MutableByteView();
}

std::byte* Connection::Locate(const Place& place, std::uint64_t size) {
  if (!place.answered() && !AwaitUntil([&] { return place.answered(); })) return nullptr;
  const MutableByteView memory = SharedMemory();
  const std::optional<std::uint64_t> offset = place.offset_bytes();
  if (!offset || *offset > memory.size() || size > memory.size() - *offset) return nullptr;
  return memory.data() + *offset;
}

void Connection::Leave(Duration limit) {
  if (lost()) return;
  leaving_ = true;
  // Another thread of the program may hold the session for as long as it likes, so a helper waits for it.
  struct Farewell {
    std::mutex mutex;
    std::condition_variable said;
    bool done = false;
  };
  const auto farewell = std::make_shared<Farewell>();
  try {
    std::thread([this, farewell] {
      if (session_->Send(wire::Goodbye{}).ok()) Flush();
      const std::lock_guard lock(farewell->mutex);
      farewell->done = true;
      farewell->said.notify_one();
    }).detach();
  } catch (const std::system_error&) {
    return;  // no thread to be had: the worker sees the connection close
  }
  std::unique_lock lock(farewell->mutex);
  farewell->said.wait_for(lock, limit, [&] { return farewell->done; });
}

Result<MutableByteView> Connection::OnPayload(const wire::FrameHeader& header, ByteView) {
  return OnParts(header.answers, header.payload_bytes);
}

Result<MutableByteView> Connection::OnParts(std::uint64_t answers, std::uint64_t total_bytes) {
  Reply* reply = answers == 0 ? nullptr : replies_.Find(answers);
  return reply == nullptr ? MutableByteView{} : reply->Room(total_bytes);
}

Status Connection::OnFrame(const wire::FrameHeader& header, ByteView body, MutableByteView payload) {
  const Handling handling;
  const CallbackThread::Held held;  // until Work()
  if (header.answers != 0) {
    Reply* reply = replies_.Take(header.answers);
    if (reply != nullptr) return reply->OnReply(body, payload);
    return Error{Code::kInternal, "worker answered a command that waits for no answer", Scope::kSession};
  }
  switch (header.opcode) {
    case wire::kOpcodeOf<wire::opencl::EventsCompleted>: return OnEventsCompleted(body);
    case wire::kOpcodeOf<wire::opencl::KernelOutput>: return OnKernelOutput(body);
    case wire::kOpcodeOf<wire::CommandFailed>: return OnCommandFailed(body);
    default: return OkStatus();
  }
}

void Connection::Work(Who who) {
  if (who == Who::kCaller) {
    options_.callbacks->RunDue();
  } else {
    options_.callbacks->Wake();
  }
}

Status Connection::OnEventsCompleted(ByteView body) {
  wire::Arena arena;
  wire::opencl::EventsCompleted notice;
  TULLE_RETURN_IF_ERROR(DecodeReply(body, 0, arena, &notice));
  for (const wire::opencl::EventCompletion& done : notice.events.items) {
    // An event that the program has let go of is not found, or found with a newer generation.
    const Ref<Event> event = events_.Find(done.event);
    if (!event) continue;
    const EventTimes times{done.queued_ns, done.submitted_ns, done.started_ns, done.ended_ns};
    event->Arrive(done.status < 0 ? done.status : 0, &times);
  }
  return OkStatus();
}

// As a local driver does: straight to the descriptor, past the program's own buffers. It is lost where that
// takes nothing.
Status Connection::OnKernelOutput(ByteView body) {
  wire::Arena arena;
  wire::opencl::KernelOutput output;
  TULLE_RETURN_IF_ERROR(DecodeReply(body, 0, arena, &output));
  for (ByteView rest = output.text.bytes; !rest.empty();) {
    const ssize_t written = write(STDOUT_FILENO, rest.data(), rest.size());
    if (written > 0) {
      rest = rest.subspan(static_cast<std::size_t>(written));
    } else if (written == 0 || errno != EINTR) {
      break;
    }
  }
  return OkStatus();
}

Status Connection::OnCommandFailed(ByteView body) {
  wire::Arena arena;
  wire::CommandFailed notice;
  TULLE_RETURN_IF_ERROR(DecodeReply(body, 0, arena, &notice));
  if (notice.status == options_.waits_failed_status) return OkStatus();
  const Blame& blame = blames_[notice.sequence % kBlames];
  wire::Handle queue;
  if (blame.sequence.load(std::memory_order_acquire) == notice.sequence) {
    queue = std::bit_cast<wire::Handle>(blame.queue.load(std::memory_order_acquire));
    if (blame.sequence.load(std::memory_order_acquire) != notice.sequence) queue = {};
  }
  Log(LogLevel::kError, "shim", "a command that had been accepted failed on the device",
      {{"vgpu", options_.target.vgpu},
       {"status", notice.status},
       {"sequence", notice.sequence},
       {"queue", queue.slot}});
  const std::lock_guard lock(failures_mutex_);
  // At most one entry for each queue: slots are bounded, and a newer queue's failure replaces an older one's.
  auto [entry, inserted] = failures_.try_emplace(queue.slot, queue, notice.status);
  if (!inserted && entry->second.first != queue) entry->second = {queue, notice.status};
  has_failures_ = true;
  return OkStatus();
}

void Connection::OnLost(const Error& error) {
  const Handling handling;
  lost_ = true;
  if (!leaving_) {
    Log(LogLevel::kError, "shim", "lost the vGPU",
        {{"vgpu", options_.target.vgpu}, {"error", ToString(error)}});
  }
  replies_.Close();
  events_.ForEach([&](Event& event) { event.Finalize(options_.lost_status); });
  if (options_.on_lost != nullptr && !leaving_) options_.on_lost(options_.on_lost_argument, error);
}

}  // namespace tulle::shim
