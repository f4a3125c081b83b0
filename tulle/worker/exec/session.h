// One session at work: its client's commands are decoded, checked against the session's own tables, held to
// limits and quota, and carried out here or passed to the executor as the same bytes; what the executor
// answers goes back.
//
// One thread owns a Session and calls Run(), which returns when it is over; only EndRequest and
// SessionCounters are touched by others. A command that cannot go on yet (no room in ring or staging, memory
// still in use, its program being built) is held, and with it the client's stream, never the replies.
// Bounds: SessionLimits, wire/limits.h, the executor's staging and rings.
#pragma once

#include <poll.h>

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "tulle/base/clock.h"
#include "tulle/base/guarded.h"
#include "tulle/session/server_session.h"
#include "tulle/session/spin.h"
#include "tulle/wire/handle_table.h"
#include "tulle/wire/schema/exec.h"
#include "tulle/worker/build/builder.h"
#include "tulle/worker/build/slots.h"
#include "tulle/worker/exec/command_counters.h"
#include "tulle/worker/exec/end_request.h"
#include "tulle/worker/exec/executor.h"
#include "tulle/worker/exec/launches.h"
#include "tulle/worker/exec/limits.h"
#include "tulle/worker/exports/exports.h"
#include "tulle/worker/pace/network.h"
#include "tulle/worker/pace/turn.h"
#include "tulle/worker/quota/memory.h"
#include "tulle/worker/spill/residency.h"

namespace tulle::worker::exec {

// What a session has done so far; written by its thread, read by any.
class SessionCounters {
 public:
  std::atomic<std::uint64_t> commands{0};
  std::atomic<std::uint64_t> received_bytes{0};
  std::atomic<std::uint64_t> sent_bytes{0};
  std::atomic<std::uint64_t> held_bytes{0};      // of the vGPU's memory
  std::atomic<std::int64_t> absent_since_ns{0};  // its client is away since then; 0: it is there
  CommandCounters by_command;

  // The executor's, as of now; what it was at the end once the session is over.
  std::uint64_t DeviceTimeNs() {
    auto device = device_.lock();
    if (device->executor != nullptr) device->time_ns = device->executor->DeviceTimeNs();
    return device->time_ns;
  }
  // Null: the executor is about to go.
  void SetExecutor(const Executor* executor) {
    DeviceTimeNs();
    device_.lock()->executor = executor;
  }

 private:
  struct Device {
    const Executor* executor = nullptr;
    std::uint64_t time_ns = 0;
  };
  Guarded<Device> device_;
};

// What the sessions of a vGPU share. All must outlive the session.
struct Shared {
  quota::MemoryQuota* quota = nullptr;
  build::Builder* builder = nullptr;
  build::Slots* build_slots = nullptr;
  const Clock* clock = nullptr;
  pace::Pacer* pacer = nullptr;         // null: it may use all of the device
  pace::Turn* turn = nullptr;           // null: others may use the device at the same time
  pace::Network* network = nullptr;     // null: its client may move as much as it likes
  exports::Exports* exports = nullptr;  // null: sessions without Capability::kExports
  // Null: programs may allocate no more than the device's memory that the vGPU has. Else sessions of OpenCL
  // without Capability::kSharedMemory and kExports, on a device whose memory executors have Pages of.
  spill::Pool* spill = nullptr;
  // A session lacks so much memory. Ends one whose client has been away for a while, if that can help, and
  // returns when it has; false: none will. Null: nobody is away.
  std::function<bool(std::uint64_t missing_bytes)> end_absent;
};

// How a session ended.
struct Ending {
  wire::EndReason reason = wire::EndReason::kGoodbye;
  std::string message;  // told to the client
  std::string detail;   // for the worker's log only
  bool executor_crashed = false;
};

class Session final : public session::FrameHandler, private exports::Exports::Holder {
 public:
  // `client`, `end` and `counters` are borrowed.
  Session(session::ServerSession* client, std::unique_ptr<Executor> executor, const Shared& shared,
          const SessionLimits& limits, EndRequest* end, SessionCounters* counters);
  ~Session() override;

  // Serves the client until it leaves, breaks the protocol, is told to go, or loses its device. The client
  // has been told why when this returns.
  Ending Run();

  // session::FrameHandler: called by `client` within Run().
  Result<MutableByteView> OnPayload(const wire::FrameHeader& header, ByteView body) override;
  Result<MutableByteView> OnParts(std::uint64_t answers, std::uint64_t total_bytes) override;
  Status OnFrame(const wire::FrameHeader& header, ByteView body, MutableByteView payload) override;

 private:
  // Why a command is held.
  enum class Wait { kNone, kRoom, kMemory, kBuild, kCompute, kResidency };
  // A command on its way through the handlers. Everything is valid during the call only.
  struct Frame {
    const wire::FrameHeader& header;
    ByteView body;
    Room& payload;              // what it brought, or the room that Ready took for what it wants
    Instant since;              // it came
    bool lacks_memory = false;  // gpu::Command
    bool wants_status() const { return (header.flags & wire::kWantStatus) != 0; }
  };
  // One that is held before anything of it has happened.
  struct HeldFrame {
    wire::FrameHeader header;
    ByteVector body;
    Room payload;
    Instant since;
  };
  struct Lent {
    std::shared_ptr<exports::ExportableMemory> memory;
    std::vector<std::string> tokens;
  };
  struct Buffer {
    std::uint64_t charged_bytes = 0;  // 0: its creation failed, the device has never heard of it
    Range range;
    bool part = false;  // of another: it has no memory of its own, but is on the device
    bool own = false;   // the device's: it is not in the executor's shared memory
    bool imported = false;
    spill::Residency::Id piece = spill::Residency::kNone;  // of a part: what it is a part of
    std::shared_ptr<Lent> lent = nullptr;                  // of memory that can be
    // It has memory, though maybe of others.
    bool exists() const { return charged_bytes != 0 || imported; }
  };
  struct Program {
    wire::Handle context;
    wire::opencl::ProgramKind kind{};
    ByteVector text;
    ByteVector binary;
    bool sealed = false;  // a build was asked for: the text stays as it is
    bool building = false;
    bool on_device = false;  // the executor has heard of it
  };
  // One of CUDA's.
  struct Module {
    enum class Measured : std::uint8_t { kNo, kAsked, kYes };
    wire::Handle handle;  // known from its loading on
    std::uint64_t image_bytes = 0;
    Measured measured = Measured::kNo;
    std::uint64_t variable_bytes = 0;
    std::uint64_t charged_bytes = 0;        // while it is loaded, or is being
    std::uint64_t newly_charged_bytes = 0;  // of these, by the command at hand
  };
  struct BuildJob {
    enum class Stage { kWaiting, kCompiling, kCompiled, kLoading, kDone };
    Stage stage = Stage::kWaiting;
    std::uint64_t sequence = 0;  // of the BuildProgram; LoadProgram goes under it too
    Instant since;               // it came
    wire::Handle program;
    std::string options;
    std::string log;
    build::Slots::Slot slot;
    std::unique_ptr<build::Build> build;
  };
  // A command that the executor will answer.
  struct UnderWay {
    enum class Then : std::uint8_t {
      kTellClient,
      kFreeBuffer,
      kFinishBuild,
      kShareMemory,
      kMapped,
      kQuestion,
      kModuleMeasured,
      kModuleLoaded
    };
    std::uint16_t opcode = 0;
    Then then = Then::kTellClient;
    bool tell_client = true;
    Buffer buffer;            // kFreeBuffer; kModuleLoaded: what was charged for it
    wire::Handle module;      // kModuleMeasured, kModuleLoaded
    Instant since;            // the command came
    std::uint64_t after = 0;  // the last command with a large answer that it may depend on
  };
  struct EventSlot {
    std::uint32_t generation = 0;
    bool pending = false;
    std::uint64_t after = 0;  // as of UnderWay
  };

  // --- the client's side ---
  void Process(const wire::FrameHeader& header, ByteView body, Room& payload, Instant since);
  template <typename Row>
  void ProcessRow(const Row& row, Frame& frame);
  bool Retry();
  // Remembers the events that the message creates, for EventsAreOurs, and what it depends on, for `after`.
  template <wire::Message M>
  void NoteOrder(const M& message, std::uint64_t sequence);
  Room RoomForPayload(std::uint64_t size_bytes);
  Result<MutableByteView> RoomForText(const wire::FrameHeader& header, wire::Handle program);

  // Takes what the command needs, or says what it must wait for. The default: room for the payload it wants.
  template <wire::Message M>
  Wait Ready(const M& message, Frame& frame);
  Wait ReadyToCreate(std::uint64_t size_bytes, Frame& frame);
  // Memory for its variables, once the executor has said how much.
  Wait ReadyToLoad(const wire::cuda::LoadModule& message);
  // A launch, on a device that its vGPU must hold its share of.
  Wait ReadyToBegin();
  Wait ReadyToGoOn();  // what the program lets go on by it may be such
  Wait AwaitTurn();
  // Brings what the command uses onto the device, where programs may have more than fits there.
  template <wire::Message M>
  Wait ReadyOnDevice(const M& message, Frame& frame);
  // What later commands will use by it.
  template <wire::Message M>
  void NoteMemory(const M& message, const wire::FrameHeader& header);
  void SetArgument(std::uint32_t kernel, std::uint32_t index, spill::Residency::Id piece,
                   const wire::FrameHeader& header);
  void OnArgumentSet(const Received& received);
  void ForgetArguments(std::uint32_t kernel);
  Wait Bring(std::span<const spill::Residency::Id> pieces, wire::Handle queue, Frame& frame);
  spill::Residency::Id PieceOf(wire::Handle memory) const;
  bool IsBuilding(wire::Handle program) const;

  // What is done here rather than by the executor alone; session.cc has the list.
  void Run(const wire::Checked<wire::AcquireMemory>& message, Frame& frame);
  void Run(const wire::Checked<wire::ReleaseMemory>& message, Frame& frame);
  void Run(const wire::Checked<wire::DestroyObject>& message, Frame& frame);
  void Run(const wire::Checked<wire::ShareMemory>& message, Frame& frame);
  void Run(const wire::Checked<wire::LocateMemory>& message, Frame& frame);
  void Run(const wire::Checked<wire::ExportMemory>& message, Frame& frame);
  void Run(const wire::Checked<wire::OpenExport>& message, Frame& frame);
  void Run(const wire::Checked<wire::RevokeExport>& message, Frame& frame);
  void Run(const wire::Checked<wire::opencl::ImportBuffer>& message, Frame& frame);
  void Run(const wire::Checked<wire::cuda::AllocateExportable>& message, Frame& frame);
  void Run(const wire::Checked<wire::cuda::ImportMemory>& message, Frame& frame);
  void Run(const wire::Checked<wire::opencl::CreateBuffer>& message, Frame& frame);
  void Run(const wire::Checked<wire::opencl::CreateSubBuffer>& message, Frame& frame);
  void Run(const wire::Checked<wire::opencl::CreateImage>& message, Frame& frame);
  void Run(const wire::Checked<wire::opencl::CreateSvm>& message, Frame& frame);
  void Run(const wire::Checked<wire::opencl::CreateProgram>& message, Frame& frame);
  void Run(const wire::Checked<wire::opencl::ProgramText>& message, Frame& frame);
  void Run(const wire::Checked<wire::opencl::BuildProgram>& message, Frame& frame);
  void Run(const wire::Checked<wire::opencl::GetProgramBinary>& message, Frame& frame);
  void Run(const wire::Checked<wire::opencl::CreateUserEvent>& message, Frame& frame);
  void Run(const wire::Checked<wire::opencl::SetUserEventStatus>& message, Frame& frame);
  void Run(const wire::Checked<wire::cuda::GetMemoryInfo>& message, Frame& frame);
  void Run(const wire::Checked<wire::cuda::AllocateMemory>& message, Frame& frame);
  void Run(const wire::Checked<wire::cuda::ModuleImage>& message, Frame& frame);
  void Run(const wire::Checked<wire::cuda::LoadModule>& message, Frame& frame);
  void Run(const wire::Checked<wire::cuda::CallHost>& message, Frame& frame);
  void Run(const wire::Checked<wire::cuda::EndHostCall>& message, Frame& frame);

  // A buffer or image of so many bytes, for which ReadyToCreate has been; 0: of an impossible size, which is
  // what `invalid_size` says.
  void DestroyMemory(wire::Handle handle, Frame& frame);
  void DestroyModule(wire::Handle handle, Frame& frame);
  void CreateMemory(wire::Handle handle, std::uint64_t size_bytes, std::int32_t invalid_size, Frame& frame);

  // The same of memory that can be lent.
  void CreateExportable(wire::Handle handle, std::uint64_t size_bytes, std::int32_t no_memory, Frame& frame);
  void Import(wire::Handle handle, std::string_view token, Frame& frame);
  // The buffer is no more, and nothing of it is in use.
  void LetGo(const Buffer& buffer);
  void OnWithdrawn(const std::string& token) override;

  static constexpr bool RunsEveryWorkerCommand();

  // Passes the command on, as the bytes that came.
  void Forward(Frame& frame, bool has_reply);
  // The same; `then`: what to do with the answer, null when there will be none.
  void Forward(Frame& frame, bool wants_status, std::optional<Range> memory, const UnderWay* then);
  void Submit(Submission submission);
  // A command of our own: its sequence, or nothing where the executor has no room for it.
  std::optional<std::uint64_t> SubmitOwn(std::uint16_t opcode, ByteView body, UnderWay under_way);
  // What became of an attempt to tell the client something.
  void Told(const Status& status);
  // Answers, if the client wants a status.
  void SendStatus(const Frame& frame, std::int32_t status);
  // Of the vGPU's memory; sessions whose clients are away are given up for it.
  bool AcquireForGood(std::uint64_t size_bytes);
  // Counts program memory; false: over the limit, the session is ending.
  bool TakeProgramBytes(std::uint64_t size_bytes);

  // --- turns on the device, where it is used so ---
  // A command that is answered when what the queue was given so far has ended; false: no room for it.
  bool Ask(wire::Handle queue);
  void AskAll(bool idle);
  // What has begun and has not ended has changed.
  void LookAtTurn();
  // Gives up some of what is on the device, where others need it; whether there may be more to give.
  bool GiveMemory();

  // --- the executor's side ---
  bool TakeReplies();
  void OnReply(Received& received);
  void OnNotice(const Received& received);
  void OnLoaded(const Received& received);
  void OnMemoryShared(const Received& received);
  void OnDescribed(const UnderWay& question, const Received& received);
  void OnModuleMeasured(wire::Handle handle, const Received& received);
  void OnModuleLoaded(const UnderWay& load, const Received& received);
  void OnEventsCompleted(ByteView body);
  bool EventsAreOurs(std::span<const wire::opencl::EventCompletion> completions);

  // --- builds ---
  bool AdvanceBuilds();
  bool Advance(BuildJob& job);  // to its next stage; false: not yet
  bool Load(BuildJob& job);
  void FinishBuild(BuildJob& job, std::int32_t status, std::string_view more_log,
                   std::span<const wire::opencl::KernelInfo> kernels);

  // --- the loop ---
  bool TakeCommands();
  bool CanTakeCommands();
  // The client takes nothing for now, or has moved more than it may: neither commands nor answers are taken.
  // But who has the device for its own takes its answers, as others wait for it to end; it makes up for them.
  bool Clogged() const { return has_moved_enough_ || TakesNoAnswers(); }
  bool TakesNoAnswers() const {
    // Those that say that commands have ended, whose memory others wait for, are among them.
    if (residency_.has_value() && residency_->HoldsOthersUp()) return false;
    return (has_moved_enough_ && !uses_turn_) || client_.pending_bytes() > limits_.pending_output_bytes;
  }
  void LookAtNetwork();
  void Pause(bool paused);
  void FlushClient();
  bool Spin();
  void OnClientError(const Error& error);
  void Sleep();
  void Publish();
  void End(wire::EndReason reason, std::string message, std::string detail = {});
  void Breach(const wire::FrameHeader& header, const std::string& what);
  void Distrust(const std::string& what);  // the executor lies: it is killed, the device is lost
  bool over() const { return ending_.has_value(); }

  session::ServerSession& client_;
  std::unique_ptr<Executor> executor_;  // before everything that holds rooms
  const Shared shared_;
  const SessionLimits limits_;
  EndRequest& end_;
  SessionCounters& counters_;

  wire::HandleTable objects_;
  quota::Lease lease_;
  bool asked_for_memory_ = false;
  std::unordered_map<std::uint32_t, Buffer> buffers_;  // by slot, as the next two
  std::unordered_map<std::uint32_t, Program> programs_;
  std::map<std::string, exports::Opened, std::less<>> opened_;  // of others, by token
  // Descriptors that the executor may not have taken yet: those of all of a user's processes are limited.
  std::size_t maps_under_way_ = 0;
  std::size_t failed_opens_ = 0;
  std::unordered_map<std::uint32_t, Module> modules_;   // by slot
  std::unordered_set<std::uint32_t> open_user_events_;  // the program has still to set them
  std::vector<EventSlot> events_;                       // by slot
  // By slot of the queue: of its commands so far. No object has the slot kNoQueue; kTogether is for all of
  // together_.
  static constexpr std::uint32_t kNoQueue = 0, kTogether = ~0u;
  std::unordered_map<std::uint32_t, std::uint64_t> queues_after_;
  std::unordered_set<std::uint32_t> together_;  // slots of queues that wait for each other
  std::uint64_t after_ = 0;                     // of the command at hand
  std::size_t awaited_events_ = 0;              // of them, pending
  std::uint64_t program_bytes_ = 0;
  std::unordered_map<std::uint64_t, UnderWay> under_way_;  // by sequence; bounded by the executor's own limit
  std::vector<BuildJob> builds_;

  std::optional<spill::Residency> residency_;
  // Memory that a kernel's arguments are, by its slot and their index; what kernels can reach without.
  std::unordered_map<std::uint32_t, std::map<std::uint32_t, spill::Residency::Id>> kernel_memory_;
  struct NewArgument {  // that the executor may refuse, so that it still is what it was
    std::uint32_t kernel = 0, index = 0;
    spill::Residency::Id before = spill::Residency::kNone;
  };
  std::unordered_map<std::uint64_t, NewArgument> new_arguments_;  // by the command's sequence
  std::size_t arguments_ = 0;                                     // in kernel_memory_
  std::unordered_set<spill::Residency::Id> svm_;
  std::vector<spill::Residency::Id> used_;  // by the command at hand
  bool moves_memory_ = false;               // for the command that is held

  Launches launches_;  // only where turns are given, as the next
  pace::Turn::User turn_user_;
  bool uses_turn_ = false;  // something has begun in it
  bool waits_for_turn_ = false;
  bool is_stuck_ = false;           // what has begun may wait for the program
  std::uint64_t own_commands_ = 0;  // to the executor, so far

  wire::Arena arena_;  // of the command at hand
  wire::Arena reply_arena_;
  Room landing_;   // kept for the next payload, so that there is always room for it
  Room incoming_;  // between OnPayload and OnFrame
  Room parts_;     // between OnParts and OnFrame
  std::optional<HeldFrame> held_;
  Wait held_for_ = Wait::kNone;
  Duration compute_wait_{};  // kCompute: when to ask again
  bool has_moved_enough_ = false;
  Duration network_wait_{};             // then: when to ask again
  std::uint64_t moved_bytes_ = 0;       // that the network has been told of
  std::optional<Instant> stuck_since_;  // commands lack memory that perhaps only the program can free
  std::optional<Submission> unsent_;    // the executor's ring was full: everything else of it has happened
  ByteVector unsent_body_;
  quota::Lease::Take taken_{};       // by ReadyToCreate, for the buffer or image at hand
  std::uint64_t done_sequence_ = 0;  // last command that has reached the executor, or was done here
  std::uint64_t submitted_sequence_ = 0;
  std::uint64_t commands_ = 0;
  bool answered_later_ = false;  // the command at hand
  bool flush_executor_ = false;
  bool wants_slot_ = false;
  bool paused_ = false;
  session::SpinPolicy spin_;  // for the client's next command
  std::vector<pollfd> fds_;   // kept for its memory
  std::optional<Ending> ending_;
};

}  // namespace tulle::worker::exec
