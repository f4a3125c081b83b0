#include "tulle/gpu/isolated/executor_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <map>
#include <memory_resource>
#include <new>
#include <unordered_map>

#include "tulle/base/seqpacket.h"
#include "tulle/gpu/api/outcome.h"
#include "tulle/gpu/isolated/captured_output.h"
#include "tulle/gpu/isolated/protocol.h"
#include "tulle/gpu/isolated/ready_deadline.h"
#include "tulle/gpu/isolated/ring.h"
#include "tulle/gpu/isolated/spinner.h"
#include "tulle/wire/frame.h"

namespace tulle::gpu::isolated {

namespace {

constexpr std::uint64_t kPageBytes = 4096;
constexpr std::size_t kReasonOutputBytes = 1024;

// What an executor may say about a command, from the tables.
struct CommandTraits {
  bool known = false;
  bool has_reply = false;
  bool brings_payload = false;
};

CommandTraits TraitsOf(std::uint16_t opcode) {
  CommandTraits traits;
  WithDeviceRow(opcode, [&](const auto& row) {
    traits = {.known = row.mode != wire::Mode::kNotice,
              .has_reply = row.mode == wire::Mode::kReply,
              .brings_payload = BringsPayload<typename std::remove_cvref_t<decltype(row)>::Command>()};
  });
  return traits;
}

bool IsReply(std::uint16_t opcode, ByteView body, std::uint64_t payload_bytes, wire::Arena& arena) {
  bool good = false;
  WithDeviceRow(opcode, [&](const auto& row) {
    typename std::remove_cvref_t<decltype(row)>::Reply reply;
    good = wire::Decode(body, payload_bytes, arena, &reply) == wire::WireResult::kOk;
  });
  return good;
}

// Whether the body is one of these messages, by its opcode.
template <wire::Message... M>
bool IsNotice(std::uint16_t opcode, ByteView body, wire::Arena& arena) {
  const auto is = [&]<typename T>(T message) {
    return opcode == wire::kOpcodeOf<T> && wire::Decode(body, 0, arena, &message) == wire::WireResult::kOk;
  };
  return (is(M{}) || ...);
}

std::uint64_t RoundedUp(std::uint64_t bytes) {
  return (bytes + vm::kSharedStepBytes - 1) / vm::kSharedStepBytes * vm::kSharedStepBytes;
}

// The executor as the program of a machine.
Result<vm::Program> ProgramOf(const ExecutorOptions& options, const std::vector<std::string>& environment) {
  std::error_code error;
  const auto path = std::filesystem::canonical(options.binary, error);  // it may be named as this one
  if (error) return Error{Code::kNotFound, options.binary + ": " + error.message()};
  if (path.string().starts_with("/tmp/")) {
    return Error{
        Code::kFailedPrecondition,
        path.string() + " cannot be run in a virtual machine, which has a /tmp of its own: put it elsewhere"};
  }
  return vm::Program{.file = path.string(),
                     .arguments = options.argv,
                     .environment = environment,
                     .folders = {path.parent_path().string()}};
}

}  // namespace

class ExecutorProcess::Impl {
 public:
  Impl(SharedMemory rings, RingBytes command_bytes, RingBytes reply_bytes, SharedMemory arena,
       Staging staging, CapturedOutput output, UniqueFd doorbell)
      : rings_(std::move(rings)),
        command_bytes_(std::move(command_bytes)),
        reply_bytes_(std::move(reply_bytes)),
        arena_(std::move(arena)),
        arena_ranges_(arena_.size_bytes(), kPageBytes),
        staging_(std::move(staging)),
        output_(std::move(output)),
        doorbell_(std::move(doorbell)),
        head_(*new (rings_.bytes().data()) RingsHead),
        commands_(&head_.commands, &command_bytes_),
        replies_(&head_.replies, &reply_bytes_) {}
  ~Impl() {
    deadline_.reset();
    child_.reset();
    for (const auto& [place, file] : borrowed_) host_memory_->Return(file);
    // Whoever else has it mapped keeps no memory by that.
    arena_.Scrub(0, arena_.size_bytes());
  }

  // --- what the executor says ---

  Receive TryReceive(Received* received) {
    received->payload.Release();
    while (true) {
      RecordHeader header;
      ByteView body;
      switch (fault_.empty() ? replies_.Peek(&header, &body) : RingResult::kBroken) {
        case RingResult::kBroken: Fault("it damaged the reply ring"); return End();
        case RingResult::kNotNow: WakeWriterIfWaiting(); return hung_up_ ? End() : Receive::kNothing;
        case RingResult::kOk: break;
      }
      const bool whole = Assemble(header, body);
      popped_bytes_ += header.size_bytes;
      replies_.Pop();
      if (popped_bytes_ > kWakeWriterEveryBytes) WakeWriterIfWaiting();
      if (!whole) continue;
      if (Accept(header, received)) {
        spinner_.Came();
        return Receive::kGot;
      }
    }
  }

  bool SpinForReplies() {
    // Without an answer due, the next thing to happen is the client's, and is not seen here.
    if (!fault_.empty() || answers_due_ == 0) return replies_.HasRecord();
    return spinner_.Spin([this] { return replies_.HasRecord(); });
  }

  bool PrepareToSleep() {
    if (!fault_.empty() || !replies_.AnnounceSleep()) return false;
    if (refused_body_bytes_ == kNoneRefused) return true;  // room, if it was refused, comes with a reply
    const RingResult room = commands_.AnnounceWait(refused_body_bytes_);
    if (room == RingResult::kNotNow) return true;
    if (room == RingResult::kBroken) Fault("it damaged the command ring");
    refused_body_bytes_ = kNoneRefused;
    replies_.CancelSleep();
    return false;
  }

  void Awake() {
    replies_.CancelSleep();
    commands_.CancelWait();
    refused_body_bytes_ = kNoneRefused;
    char bytes[64];
    const ssize_t got = read(doorbell_.get(), bytes, sizeof bytes);
    if (got == 0) hung_up_ = true;  // it is gone: nobody else holds the other end
  }

  // --- what it is told ---

  bool Submit(Submission& submission) {
    const CommandTraits traits = TraitsOf(submission.opcode);
    TULLE_CHECK(traits.known && submission.body.size() <= kMaxRecordBodyBytes);
    if (!fault_.empty()) return false;
    const bool wants_status = (submission.flags & wire::kWantStatus) != 0;
    const bool awaits_reply = traits.has_reply || wants_status;
    const bool brings = traits.brings_payload && !submission.payload.empty();
    const bool tracked = awaits_reply || !submission.payload.empty();
    if (tracked && under_way_.size() >= kMaxInFlight) return false;

    RecordHeader header;
    header.opcode = submission.opcode;
    header.kind = static_cast<std::uint8_t>(RecordKind::kCommand);
    header.flags = static_cast<std::uint8_t>((wants_status ? kWantsStatus : 0) |
                                             (submission.lacks_memory ? kLacksMemory : 0));
    header.sequence = submission.sequence;
    if (!submission.payload.empty()) {
      header.payload_offset_bytes = submission.payload.offset_bytes();
      header.payload_bytes = submission.payload.size_bytes();
    }
    if (submission.memory.has_value()) {
      header.memory_offset_bytes = submission.memory->offset_bytes;
      header.memory_bytes = submission.memory->size_bytes;
    }
    switch (commands_.TryWrite(header, submission.body)) {
      case RingResult::kBroken: Fault("it damaged the command ring"); return false;
      case RingResult::kNotNow: refused_body_bytes_ = submission.body.size(); return false;
      case RingResult::kOk: break;
    }
    if (tracked) {
      const auto [entry, fresh] = under_way_.try_emplace(submission.sequence);
      TULLE_CHECK(fresh);
      entry->second = {std::move(submission.payload), submission.opcode, awaits_reply, brings};
      answers_due_ += awaits_reply ? 1 : 0;
    }
    return true;
  }

  void Flush() {
    SendUnmaps();
    if (commands_.MustWakeReader()) Wake(&head_.commands.reader_sleeps);
  }

  std::optional<Range> MapMemory(int fd, std::uint64_t size_bytes, bool writable) {
    if (in_machine_) return std::nullopt;
    const MappedMemory memory{next_place_, size_bytes, writable ? 1u : 0u};
    if (!SendPacket(memories_.get(), std::as_bytes(std::span(&memory, 1)), std::array{fd}).ok())
      return std::nullopt;
    // Before any command uses it.
    if (host_memory_ != nullptr) borrowed_.emplace(memory.place, host_memory_->Borrow(fd, size_bytes));
    ++next_place_;
    return Range{memory.place, size_bytes};
  }
  // A hint: where the ring has no room it is done without.
  void Populate(const Range& range) {
    RecordHeader header;
    header.kind = static_cast<std::uint8_t>(RecordKind::kPopulate);
    header.memory_offset_bytes = range.offset_bytes;
    header.memory_bytes = range.size_bytes;
    if (fault_.empty()) (void)commands_.TryWrite(header, {});
  }
  void UnmapMemory(const Range& range) {
    if (const auto file = borrowed_.extract(range.offset_bytes)) host_memory_->Return(file.mapped());
    unmaps_.push_back(range.offset_bytes);
    Flush();
  }

  // --- its end ---

  void Kill() {
    Fault("it was told to end");
    child_->Kill();
  }

  SharedMemory rings_;
  RingBytes command_bytes_, reply_bytes_;
  SharedMemory arena_;
  RangeAllocator arena_ranges_;
  Staging staging_;
  CapturedOutput output_;
  UniqueFd doorbell_;
  RingsHead& head_;
  RingWriter commands_;
  RingReader replies_;
  UniqueFd memories_;
  bool in_machine_ = false;
  std::shared_ptr<HostMemory> host_memory_;
  sandbox::ControlGroup control_group_;    // before who is in it
  std::unique_ptr<sandbox::Child> child_;  // before the blocks in under_way_: those refer to staging_ only
  std::optional<ReadyDeadline> deadline_;  // behind the child
  std::string end_reason_;

 private:
  // A command that the executor still owes something.
  struct UnderWay {
    StagingBlock payload;
    std::uint16_t opcode = 0;
    bool awaits_reply = false;
    bool brings_payload = false;  // the block goes back at PayloadDone; else it is the reply's
  };

  static constexpr std::uint64_t kNoneRefused = ~std::uint64_t{0};

  // Who sleeps at a word of the rings. Nobody in a virtual machine can: it listens for the doorbell.
  void Wake(std::atomic<std::uint32_t>* word) {
    if (!in_machine_) return FutexWakeAll(word);
    const char byte = 1;
    // Full means that it will wake anyway.
    [[maybe_unused]] const ssize_t sent = send(doorbell_.get(), &byte, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
  }

  void WakeWriterIfWaiting() {
    popped_bytes_ = 0;
    if (replies_.MustWakeWriter()) Wake(&head_.replies.writer_waits);
  }

  // Nothing more is believed of this executor. The first fault counts.
  void Fault(const char* what) {
    if (!fault_.empty()) return;
    fault_ = what;
    child_->Kill();
  }

  // Copies the record's body behind what came before of it. True when the message is complete.
  bool Assemble(const RecordHeader& header, ByteView body) {
    if (in_pieces_ && (header.kind != first_.kind || header.opcode != first_.opcode ||
                       header.sequence != first_.sequence)) {
      Fault("it mixed up the pieces of its messages");
      return false;
    }
    if (!in_pieces_) body_.clear();
    if (body.size() > wire::kMaxBodyBytes - body_.size()) {
      Fault("it sent a message that is too long");
      return false;
    }
    body_.insert(body_.end(), body.begin(), body.end());
    first_ = header;
    in_pieces_ = (header.flags & kMoreFollows) != 0;
    // All pieces but the last are full: what never ends is soon too long, and cannot keep us here.
    if (in_pieces_ && body.size() != kMaxRecordBodyBytes) {
      Fault("it sent a message in smaller pieces than it may");
      return false;
    }
    return !in_pieces_;
  }

  // Judges one message, now private. True: *received holds it.
  bool Accept(const RecordHeader& header, Received* received) {
    received->opcode = header.opcode;
    received->sequence = header.sequence;
    received->body = body_;
    decoded_.Reset();
    switch (static_cast<RecordKind>(header.kind)) {
      case RecordKind::kReady:
        if (ready_) break;
        ready_ = true;
        if (deadline_.has_value()) deadline_->Met();
        received->kind = Received::Kind::kReady;
        return true;
      case RecordKind::kFailed:
        if (ready_) break;
        // For a person to read, and cut to what a person reads. It has nothing more to say.
        failure_ = Printable(AsText(received->body).substr(0, kReasonOutputBytes));
        Fault("it could not start");
        return false;
      case RecordKind::kReply: {
        const auto entry = under_way_.find(header.sequence);
        if (entry == under_way_.end() || !entry->second.awaits_reply || entry->second.opcode != header.opcode)
          break;
        UnderWay& command = entry->second;
        const std::uint64_t room = command.brings_payload ? 0 : command.payload.size_bytes();
        if (header.payload_bytes > room || !IsReply(header.opcode, body_, header.payload_bytes, decoded_))
          break;
        received->kind = Received::Kind::kReply;
        command.awaits_reply = false;
        --answers_due_;
        if (!command.brings_payload) {
          if (header.payload_bytes != 0) {
            received->payload = std::move(command.payload);
            received->payload.Shrink(header.payload_bytes);
          }
          under_way_.erase(entry);
        }
        return true;
      }
      case RecordKind::kNotice: {
        if (!IsNotice<wire::CommandFailed, wire::opencl::EventsCompleted, wire::opencl::KernelOutput>(
                header.opcode, body_, decoded_)) {
          break;
        }
        received->kind = Received::Kind::kNotice;
        received->sequence = 0;
        return true;
      }
      case RecordKind::kPayloadDone: {
        const auto entry = under_way_.find(header.sequence);
        if (entry == under_way_.end() || !entry->second.brings_payload) break;
        entry->second.payload.Release();
        entry->second.brings_payload = false;
        received->opcode = entry->second.opcode;
        if (!entry->second.awaits_reply) under_way_.erase(entry);
        received->kind = Received::Kind::kPayloadDone;
        return true;
      }
      case RecordKind::kCommand:
      case RecordKind::kUnmapMemory:
      case RecordKind::kPopulate: break;
    }
    Fault("it answered what was not asked, or not in the form of an answer");
    return false;
  }

  // The executor has ended, or was just killed, which takes instants: finds out how.
  Receive End() {
    if (!end_reason_.empty()) return Receive::kDead;
    child_->Kill();  // a process that let go of its doorbell is as good as dead
    pollfd ended = {child_->pidfd(), POLLIN, 0};
    std::optional<sandbox::ExitStatus> exit;
    while (!(exit = child_->TryWait()).has_value()) poll(&ended, 1, -1);
    output_.Drain();
    if (deadline_.has_value() && deadline_->missed()) {
      end_reason_ = "the executor's virtual machine was ended: it was not ready in time";
    } else if (!failure_.empty()) {
      end_reason_ = "the executor could not start: " + failure_;
    } else if (!fault_.empty()) {
      end_reason_ = "the executor was killed: " + fault_;
    } else if (exit->signal == SIGKILL && control_group_.Usage().memory_kills != 0) {
      end_reason_ =
          "the executor was ended by the host's kernel for want of memory: it may have " +
          FormatSize(host_memory_->each_bytes()) +
          " of the host's, with buffers, driver and what its kernels take (and all programs of the vGPU "
          "together some more); a vGPU with more memory may have more";
    } else {
      end_reason_ = "the executor" + (in_machine_ ? vm::EndText(*exit) : " " + exit->Text());
    }
    const std::string printed = output_.Tail(kReasonOutputBytes);
    if (!printed.empty()) end_reason_ += "; it last printed: " + printed;
    if (fault_.empty()) fault_ = "it has ended";
    return Receive::kDead;
  }

  // The ring may have no room for them now.
  void SendUnmaps() {
    while (!unmaps_.empty()) {
      RecordHeader header;
      header.kind = static_cast<std::uint8_t>(RecordKind::kUnmapMemory);
      header.memory_offset_bytes = unmaps_.back();
      if (!fault_.empty() || commands_.TryWrite(header, {}) != RingResult::kOk) return;
      unmaps_.pop_back();
    }
  }

  std::uint64_t next_place_ = kFirstPlace;
  std::map<std::uint64_t, HostMemory::FileId> borrowed_;  // by place
  std::vector<std::uint64_t> unmaps_;
  Spinner spinner_;
  std::pmr::unsynchronized_pool_resource pool_;  // entries are reused: no malloc in steady state
  std::pmr::unordered_map<std::uint64_t, UnderWay> under_way_{&pool_};
  std::uint64_t answers_due_ = 0;
  std::uint64_t popped_bytes_ = 0;
  std::uint64_t refused_body_bytes_ = kNoneRefused;
  ByteVector body_;
  RecordHeader first_;
  wire::Arena decoded_;
  std::string fault_;    // why it was killed; nothing is believed of it then
  std::string failure_;  // why it could not start, in its own words
  bool in_pieces_ = false;
  bool ready_ = false;
  bool hung_up_ = false;
};

ExecutorProcess::ExecutorProcess(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ExecutorProcess::~ExecutorProcess() = default;

Result<std::unique_ptr<ExecutorProcess>> ExecutorProcess::Start(sandbox::Launcher& launcher,
                                                                const ExecutorOptions& options) {
  TULLE_ASSIGN_OR_RETURN(auto rings, SharedMemory::Create("tulle rings", kRingsFileBytes));
  TULLE_ASSIGN_OR_RETURN(auto command_bytes, RingBytes::Map(rings.fd(), kCommandsOffset));
  TULLE_ASSIGN_OR_RETURN(auto reply_bytes, RingBytes::Map(rings.fd(), kRepliesOffset));
  TULLE_ASSIGN_OR_RETURN(auto arena, SharedMemory::Create("tulle arena", RoundedUp(options.arena_bytes)));
  TULLE_ASSIGN_OR_RETURN(auto staging, Staging::Create(RoundedUp(options.staging_bytes)));
  // Nobody reads it while the executor lives; it must not wait for that.
  TULLE_ASSIGN_OR_RETURN(auto output, CapturedOutput::Create(/*drop_when_full=*/true));
  int doorbell[2];
  if (options.machine.has_value()
          ? socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, doorbell) != 0
          : pipe2(doorbell, O_CLOEXEC | O_NONBLOCK) != 0) {
    return ErrnoError("a pipe to an executor", errno);
  }
  const UniqueFd doorbell_of_child(doorbell[1]);
  TULLE_ASSIGN_OR_RETURN(auto memories, MakeSeqPacketPair());

  auto impl =
      std::make_unique<Impl>(std::move(rings), std::move(command_bytes), std::move(reply_bytes),
                             std::move(arena), std::move(staging), std::move(output), UniqueFd(doorbell[0]));
  impl->memories_ = std::move(memories.parent);
  impl->head_.device_index = options.device_index;
  impl->head_.best_effort = launcher.best_effort() ? 1 : 0;
  impl->head_.drives_devices = options.device_nodes.empty() ? 0 : 1;
  impl->head_.arena_bytes = impl->arena_.size_bytes();
  impl->head_.staging_bytes = impl->staging_.size_bytes();
  impl->in_machine_ = options.machine.has_value();

  sandbox::ChildSpec spec;
  spec.binary = options.binary;
  spec.argv = options.argv;
  spec.environment = DriverEnvironment(options.environment);
  spec.fds = {-1,
              impl->output_.child_fd(),
              impl->output_.child_fd(),
              impl->rings_.fd(),
              impl->arena_.fd(),
              impl->staging_.fd(),
              doorbell_of_child.get(),
              memories.child.get()};
  static_assert(kRingsFd == 3 && kArenaFd == 4 && kStagingFd == 5 && kDoorbellFd == 6 && kMemoriesFd == 7);
  spec.read_only_paths = options.read_only_paths;
  spec.device_nodes = options.device_nodes;
  spec.tmp_bytes = options.tmp_bytes;
  // Until it has started.
  UniqueFd kernel;
  std::optional<SharedMemory> initramfs;
  if (options.machine.has_value()) {
    kernel = UniqueFd(open(options.machine->kernel.c_str(), O_RDONLY | O_CLOEXEC));
    if (!kernel.valid()) return ErrnoError(options.machine->kernel, errno);
    const int first = static_cast<int>(spec.fds.size());
    const vm::MachineSpec machine = {
        .processors = options.processors,
        .driver_bytes = options.driver_bytes,
        .first_shared_fd = kRingsFd,
        .shared_bytes = {kRingsFileBytes, impl->arena_.size_bytes(), impl->staging_.size_bytes()},
        .bell_fd = kDoorbellFd,
        .kernel_fd = first,
        .initramfs_fd = first + 1};
    TULLE_ASSIGN_OR_RETURN(vm::Program program, ProgramOf(options, spec.environment));
    program.arguments.push_back("--machine-address=" + std::to_string(vm::SharedAddress(machine)));
    TULLE_ASSIGN_OR_RETURN(auto files, vm::MakeInitramfs(*options.machine, program));
    initramfs.emplace(std::move(files));
    spec.fds.push_back(kernel.get());
    spec.fds.push_back(initramfs->fd());
    spec.fds[kMemoriesFd] = -1;
    spec.read_only_paths.push_back(program.file);
    vm::Specify(*options.machine, machine, program, &spec);
  }
  if (options.host_memory != nullptr) {
    TULLE_ASSIGN_OR_RETURN(impl->control_group_, options.host_memory->MakeGroup());
    impl->host_memory_ = options.host_memory;
    spec.control_group = &impl->control_group_;
  }
  TULLE_ASSIGN_OR_RETURN(impl->child_, launcher.Start(spec));
  if (options.machine.has_value()) impl->deadline_.emplace(impl->child_.get(), options.ready_within);
  impl->output_.CloseChildEnd();
  return std::unique_ptr<ExecutorProcess>(new ExecutorProcess(std::move(impl)));
}

std::optional<Range> ExecutorProcess::AllocateMemory(std::uint64_t size_bytes) {
  return impl_->arena_ranges_.Allocate(size_bytes);
}
std::optional<Range> ExecutorProcess::MapMemory(int fd, std::uint64_t size_bytes, bool writable) {
  return impl_->MapMemory(fd, size_bytes, writable);
}
void ExecutorProcess::FreeMemory(const Range& range) {
  if (range.offset_bytes >= kFirstPlace) return impl_->UnmapMemory(range);
  impl_->arena_ranges_.Free(range);
  impl_->arena_.Scrub(range.offset_bytes, range.size_bytes);
}
MutableByteView ExecutorProcess::memory(const Range& range) {
  return impl_->arena_.bytes().subspan(range.offset_bytes, range.size_bytes);
}
void ExecutorProcess::ReadMemory(const Range& range, MutableByteView bytes) {
  impl_->arena_.Read(range.offset_bytes, bytes);
}
void ExecutorProcess::WriteMemory(const Range& range, ByteView bytes) {
  impl_->arena_.Write(range.offset_bytes, bytes);
  impl_->Populate(range);
}
void ExecutorProcess::DropMemory(const Range& range) {
  impl_->arena_.Scrub(range.offset_bytes, range.size_bytes);
}
int ExecutorProcess::memory_fd() const { return impl_->arena_.fd(); }
std::optional<StagingBlock> ExecutorProcess::AllocateStaging(std::uint64_t size_bytes) {
  return impl_->staging_.Allocate(size_bytes);
}
bool ExecutorProcess::Submit(Submission& submission) { return impl_->Submit(submission); }
void ExecutorProcess::Flush() { impl_->Flush(); }
Receive ExecutorProcess::TryReceive(Received* received) { return impl_->TryReceive(received); }
bool ExecutorProcess::SpinForReplies() { return impl_->SpinForReplies(); }
bool ExecutorProcess::PrepareToSleep() { return impl_->PrepareToSleep(); }
void ExecutorProcess::Awake() { impl_->Awake(); }
int ExecutorProcess::wake_fd() const { return impl_->doorbell_.get(); }
int ExecutorProcess::death_fd() const { return impl_->child_->pidfd(); }
void ExecutorProcess::Kill() { impl_->Kill(); }
void ExecutorProcess::Freeze(bool frozen) { impl_->child_->Freeze(frozen); }
const std::string& ExecutorProcess::end_reason() const { return impl_->end_reason_; }
std::uint64_t ExecutorProcess::CpuTimeNs() const { return impl_->child_->CpuTimeNs(); }
std::uint64_t ExecutorProcess::CpuWaitNs() const { return impl_->child_->CpuWaitNs(); }
pid_t ExecutorProcess::pid() const { return impl_->child_->pid(); }

}  // namespace tulle::gpu::isolated
