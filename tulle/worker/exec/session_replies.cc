// What comes back: from the executor, whose word is not trusted, and from builders.
#include <algorithm>

#include "tulle/gpu/api/opencl_status.h"
#include "tulle/worker/exec/session.h"

namespace tulle::worker::exec {

namespace cl_status = gpu::cl_status;

namespace {
// From this size on a payload stays in its room until the client has taken it; smaller ones are copied.
constexpr std::size_t kKeptPayloadBytes = 64u << 10;
}  // namespace

bool Session::TakeReplies() {
  unsigned taken = 0;
  Received received;
  while (!over() && taken < limits_.replies_per_turn && !TakesNoAnswers()) {
    switch (executor_->TryReceive(&received)) {
      case Receive::kNothing: return taken != 0;
      case Receive::kDead:
        End(wire::EndReason::kDeviceLost, executor_->EndText());
        ending_->executor_crashed = true;
        return true;
      case Receive::kGot:
        ++taken;
        if (received.kind == Received::Kind::kReply) OnReply(received);
        if (received.kind == Received::Kind::kNotice) OnNotice(received);
        // The executor has given the room back.
        if (received.kind == Received::Kind::kPayloadDone && residency_.has_value())
          residency_->Answered(received.sequence);
        break;
    }
  }
  return taken != 0;
}

void Session::OnReply(Received& received) {
  const auto found = under_way_.find(received.sequence);
  if (found == under_way_.end() || (found->second.opcode != received.opcode)) {
    return Distrust("an answer to nothing (sequence " + std::to_string(received.sequence) + ")");
  }
  const UnderWay under_way = found->second;
  under_way_.erase(found);
  if (residency_.has_value()) {
    residency_->Answered(received.sequence);
    OnArgumentSet(received);
    if (over()) return;
  }
  if (shared_.turn != nullptr) {
    launches_.Answered(received.sequence, shared_.clock->Now());
    LookAtTurn();
  }
  if (under_way.tell_client && under_way.then != UnderWay::Then::kFinishBuild) {
    counters_.by_command.Took(received.opcode, shared_.clock->Now() - under_way.since);
  }
  switch (under_way.then) {
    case UnderWay::Then::kTellClient: break;
    case UnderWay::Then::kMapped: --maps_under_way_; break;
    case UnderWay::Then::kQuestion: break;
    case UnderWay::Then::kModuleMeasured: return OnModuleMeasured(under_way.module, received);
    case UnderWay::Then::kModuleLoaded:
      OnModuleLoaded(under_way, received);
      if (over()) return;
      break;
    case UnderWay::Then::kFreeBuffer:
      if (residency_.has_value()) {
        residency_->Remove(under_way.buffer.piece);
        svm_.erase(under_way.buffer.piece);
      }
      if (!under_way.buffer.own) executor_->FreeMemory(under_way.buffer.range);
      lease_.Reclaim(under_way.buffer.charged_bytes);
      LetGo(under_way.buffer);
      break;
    case UnderWay::Then::kFinishBuild: return OnLoaded(received);
    case UnderWay::Then::kShareMemory:
      if (under_way.tell_client) OnMemoryShared(received);
      return;
  }
  if (residency_.has_value() && (received.opcode == wire::kOpcodeOf<wire::opencl::DescribeDevice> ||
                                 received.opcode == wire::kOpcodeOf<wire::opencl::DescribeSubDevice>)) {
    return OnDescribed(under_way, received);
  }
  if (under_way.tell_client) {
    const MutableByteView payload = received.payload.bytes();
    std::shared_ptr<Room> owner;
    if (payload.size() >= kKeptPayloadBytes) owner = std::make_shared<Room>(std::move(received.payload));
    Told(client_.SendRaw(received.opcode, received.sequence, received.body, payload, std::move(owner),
                         under_way.after));
  }
  received.payload.Release();
}

// It is the program's own memory: what it could do to it, its kernels can.
void Session::OnMemoryShared(const Received& received) {
  wire::StatusReply reply;
  reply_arena_.Reset();
  if (wire::Decode(received.body, 0, reply_arena_, &reply) != wire::WireResult::kOk) {
    return Distrust("an answer to ShareMemory that is not one");
  }
  if (reply.status == cl_status::kSuccess && !client_.PassDescriptor(executor_->memory_fd())) {
    reply.status = cl_status::kInvalidOperation;
  }
  Told(client_.SendReply(received.opcode, received.sequence, reply, {}, 0));
}

void Session::OnNotice(const Received& received) {
  if (received.opcode == wire::kOpcodeOf<wire::opencl::EventsCompleted>) {
    return OnEventsCompleted(received.body);
  }
  if (received.opcode == wire::kOpcodeOf<wire::CommandFailed>) {
    wire::CommandFailed failed;
    reply_arena_.Reset();
    if (wire::Decode(received.body, 0, reply_arena_, &failed) != wire::WireResult::kOk ||
        failed.sequence == 0 || failed.sequence > submitted_sequence_) {
      return Distrust("failure of a command that was not sent");
    }
  } else if (received.opcode != wire::kOpcodeOf<wire::opencl::KernelOutput>) {
    return Distrust("a notice of another kind");
  }
  // They hurry: what comes of them is asked for by later answers.
  Told(client_.SendRaw(received.opcode, 0, received.body, {}, nullptr, 0));
}

void Session::OnEventsCompleted(ByteView body) {
  wire::opencl::EventsCompleted completed;
  reply_arena_.Reset();
  if (wire::Decode(body, 0, reply_arena_, &completed) != wire::WireResult::kOk ||
      !EventsAreOurs(completed.events.items)) {
    return Distrust("completion of an event that is not under way");
  }
  // Those that depend on a large answer which is still here would hold up the others.
  const std::uint64_t first_delayed = client_.first_delayed();
  std::vector<wire::opencl::EventCompletion> later;
  if (first_delayed != session::ServerSession::kEverything) {
    std::vector<wire::opencl::EventCompletion> now;
    for (const wire::opencl::EventCompletion& completion : completed.events.items)
      (events_[completion.event.slot].after < first_delayed ? now : later).push_back(completion);
    if (!later.empty() && !now.empty()) {
      Told(client_.SendNotice(wire::opencl::EventsCompleted{{now}}, 0));
      return Told(client_.SendNotice(wire::opencl::EventsCompleted{{later}}));
    }
  }
  Told(client_.SendRaw(wire::kOpcodeOf<wire::opencl::EventsCompleted>, 0, body, {}, nullptr,
                       later.empty() ? 0 : session::ServerSession::kEverything));
}

// Each event completes once. One whose slot has a newer event by now was destroyed by the client before it
// completed: nobody waits for it, so it can do no harm.
bool Session::EventsAreOurs(std::span<const wire::opencl::EventCompletion> completions) {
  for (const wire::opencl::EventCompletion& completion : completions) {
    const wire::Handle event = completion.event;
    if (event.slot >= events_.size()) return false;
    EventSlot& known = events_[event.slot];
    if (event.generation > known.generation) return false;
    if (event.generation < known.generation) continue;
    if (!std::exchange(known.pending, false)) return false;
    --awaited_events_;
  }
  return true;
}

// --- builds ---

bool Session::AdvanceBuilds() {
  bool progress = false;
  wants_slot_ = false;
  for (BuildJob& job : builds_) {
    while (Advance(job)) progress = true;
  }
  std::erase_if(builds_, [](const BuildJob& job) { return job.stage == BuildJob::Stage::kDone; });
  return progress;
}

bool Session::Advance(BuildJob& job) {
  switch (job.stage) {
    case BuildJob::Stage::kWaiting: {
      job.slot = shared_.build_slots->TryTake();
      wants_slot_ = !job.slot;
      if (wants_slot_) return false;
      const Program& program = programs_.at(job.program.slot);
      auto build = shared_.builder->Start(program.kind, program.text, job.options);
      if (build.ok()) {
        job.build = std::move(*build);
        job.stage = BuildJob::Stage::kCompiling;
      } else {
        job.slot = {};
        FinishBuild(job, cl_status::kOutOfResources,
                    "the compiler could not be started: " + build.error().message, {});
      }
      return true;
    }
    case BuildJob::Stage::kCompiling: {
      auto output = job.build->TryFinish();
      if (!output.has_value()) return false;
      job.build.reset();
      job.slot = {};
      job.log = std::move(output->log);
      if (output->status != cl_status::kSuccess ||
          programs_.at(job.program.slot).kind == wire::opencl::ProgramKind::kObject) {
        FinishBuild(job, output->status, "", {});
      } else if (TakeProgramBytes(output->binary.size())) {
        Program& program = programs_.at(job.program.slot);
        program_bytes_ -= program.binary.size();
        program.binary = std::move(output->binary);
        job.stage = BuildJob::Stage::kCompiled;
      }
      return !over();
    }
    case BuildJob::Stage::kCompiled: return Load(job);
    case BuildJob::Stage::kLoading:
    case BuildJob::Stage::kDone: return false;
  }
  return false;
}

// Gives the binary to the executor, which runs it and never compiles.
bool Session::Load(BuildJob& job) {
  if (unsent_.has_value()) return false;
  Program& program = programs_.at(job.program.slot);
  Room room;
  if (!program.binary.empty()) {
    auto allocated = executor_->AllocateRoom(program.binary.size());
    if (!allocated.has_value()) return false;
    room = std::move(*allocated);
    std::copy(program.binary.begin(), program.binary.end(), room.bytes().begin());
  }
  program.on_device = true;
  job.stage = BuildJob::Stage::kLoading;
  const wire::exec::LoadProgram message{program.context, job.program, {program.binary.size()}};
  ByteVector body(wire::EncodedSize(message));
  wire::Encode(message, body);
  constexpr std::uint16_t kOpcode = wire::OpcodeIn<wire::exec::LoadProgram>(wire::exec::kExecCommands);
  under_way_.emplace(job.sequence, UnderWay{kOpcode, UnderWay::Then::kFinishBuild});
  Submit(Submission{kOpcode, false, job.sequence, body, std::move(room), std::nullopt});
  return true;
}

void Session::OnLoaded(const Received& received) {
  const auto job = std::find_if(builds_.begin(), builds_.end(),
                                [&](const BuildJob& b) { return b.sequence == received.sequence; });
  TULLE_CHECK(job != builds_.end());
  wire::exec::LoadProgramReply reply;
  reply_arena_.Reset();
  if (wire::Decode(received.body, 0, reply_arena_, &reply) != wire::WireResult::kOk) {
    return Distrust("an answer to LoadProgram that is not one");
  }
  FinishBuild(*job, reply.status, reply.log.text, reply.kernels.items);
}

void Session::FinishBuild(BuildJob& job, std::int32_t status, std::string_view more_log,
                          std::span<const wire::opencl::KernelInfo> kernels) {
  Program& program = programs_.at(job.program.slot);
  program.building = false;
  job.stage = BuildJob::Stage::kDone;
  counters_.by_command.Took(wire::kOpcodeOf<wire::opencl::BuildProgram>, shared_.clock->Now() - job.since);
  job.log += more_log;
  if (job.log.size() > wire::kMaxBuildLogBytes) {
    constexpr std::string_view kCutMark = "\n[the log was cut here]\n";
    job.log.resize(wire::kMaxBuildLogBytes - kCutMark.size());
    job.log += kCutMark;
  }
  wire::opencl::BuildProgramReply reply{status, {job.log}, program.binary.size(), {kernels}};
  if (wire::EncodedSize(reply) > wire::kMaxBodyBytes) {
    reply = {
        cl_status::kOutOfResources, {"the program has too many kernels and arguments to describe"}, 0, {}};
  }
  Told(client_.SendReply(wire::kOpcodeOf<wire::opencl::BuildProgram>, job.sequence, reply, {}, 0));
}

}  // namespace tulle::worker::exec
