// The commands that need more than being passed on.
#include "tulle/gpu/api/opencl_status.h"
#include "tulle/worker/exec/session.h"

namespace tulle::worker::exec {

namespace cl_status = gpu::cl_status;

void Session::Told(const Status& status) {
  if (!status.ok()) OnClientError(status.error());
}

void Session::SendStatus(const Frame& frame, std::int32_t status) {
  if (!frame.wants_status()) return;
  Told(client_.SendReply(frame.header.opcode, frame.header.sequence, wire::StatusReply{status}, {}, after_));
}

// --- memory ---

void Session::Run(const wire::Checked<wire::AcquireMemory>& message, Frame& frame) {
  const std::uint64_t size_bytes = message->size_bytes;
  // A client asks once before it needs any: for that nobody is given up.
  const bool needs_it = std::exchange(asked_for_memory_, true);
  const bool granted = needs_it ? AcquireForGood(size_bytes) : lease_.Acquire(size_bytes);
  Told(client_.SendReply(frame.header.opcode, frame.header.sequence,
                         wire::AcquireMemoryReply{granted ? size_bytes : 0, shared_.quota->available_bytes()},
                         {}, after_));
}

// Only what the others can give back at all is waited for.
bool Session::AcquireForGood(std::uint64_t size_bytes) {
  const std::uint64_t limit_bytes = shared_.quota->limit_bytes();
  bool granted = lease_.Acquire(size_bytes);
  while (!granted && shared_.end_absent &&
         size_bytes <= limit_bytes - std::min(limit_bytes, lease_.held_bytes()) &&
         shared_.end_absent(size_bytes)) {
    granted = lease_.Acquire(size_bytes);
  }
  return granted;
}

void Session::Run(const wire::Checked<wire::ReleaseMemory>& message, Frame& frame) {
  if (!lease_.Release(message->size_bytes)) return Breach(frame.header, "objects use what is given back");
  SendStatus(frame, cl_status::kSuccess);
}

Session::Wait Session::ReadyToCreate(std::uint64_t size_bytes, Frame& frame) {
  taken_ = quota::Lease::Take::kTaken;
  if (size_bytes == 0) return Wait::kNone;
  taken_ = lease_.TakeForObject(wire::opencl::ChargedBytes(size_bytes), frame.wants_status());
  return taken_ == quota::Lease::Take::kNotYet ? Wait::kMemory : Wait::kNone;
}

void Session::Run(const wire::Checked<wire::opencl::CreateBuffer>& message, Frame& frame) {
  if (message->flags.has(wire::opencl::MemFlag::kExportable)) {
    return CreateExportable(message->buffer.handle, message->size_bytes,
                            cl_status::kMemObjectAllocationFailure, frame);
  }
  CreateMemory(message->buffer.handle, message->size_bytes, cl_status::kInvalidBufferSize, frame);
}

void Session::Run(const wire::Checked<wire::opencl::CreateImage>& message, Frame& frame) {
  if (message->buffer.handle.null()) {
    return CreateMemory(message->image.handle, wire::opencl::OwnBytes(*message), cl_status::kInvalidImageSize,
                        frame);
  }
  buffers_[message->image.handle.slot] = {.part = true, .piece = PieceOf(message->buffer.handle)};
  Forward(frame, false);
}

void Session::Run(const wire::Checked<wire::opencl::CreateSvm>& message, Frame& frame) {
  if (!wire::opencl::IsSvmRange(message->address, message->size_bytes))
    return Breach(frame.header, "an address that is not for shared virtual memory");
  CreateMemory(message->memory.handle, message->size_bytes, cl_status::kInvalidBufferSize, frame);
  // Kernels can reach it by any pointer.
  if (const auto piece = PieceOf(message->memory.handle)) svm_.insert(piece);
}

void Session::CreateMemory(wire::Handle handle, std::uint64_t size_bytes, std::int32_t invalid_size,
                           Frame& frame) {
  Buffer& buffer = buffers_[handle.slot] = {};
  if (size_bytes == 0) {
    // The client knows that without asking.
    if (!frame.wants_status()) return Breach(frame.header, "memory of no bytes");
    return SendStatus(frame, invalid_size);
  }
  if (taken_ != quota::Lease::Take::kTaken) {
    if (!frame.wants_status()) return Breach(frame.header, "beyond the lease");
    return SendStatus(frame, cl_status::kMemObjectAllocationFailure);
  }
  const std::uint64_t charged_bytes = wire::opencl::ChargedBytes(size_bytes);
  auto range = executor_->AllocateMemory(charged_bytes);
  if (!range.has_value()) {
    lease_.Destroyed(charged_bytes);
    lease_.Reclaim(charged_bytes);
    if (frame.wants_status()) return SendStatus(frame, cl_status::kMemObjectAllocationFailure);
    // Within its lease the client was promised the memory, and has gone on.
    return End(wire::EndReason::kResource, "the vGPU's memory is too fragmented for a buffer of " +
                                               FormatSize(size_bytes) + "; use fewer, larger buffers");
  }
  buffer = {charged_bytes, *range};
  if (residency_.has_value()) buffer.piece = residency_->Add(*range);
  range->size_bytes = size_bytes;
  const UnderWay then{frame.header.opcode};
  Forward(frame, frame.wants_status(), range, frame.wants_status() ? &then : nullptr);
}

void Session::Run(const wire::Checked<wire::opencl::CreateSubBuffer>& message, Frame& frame) {
  buffers_[message->buffer.handle.slot] = {.part = true, .piece = PieceOf(message->parent.handle)};
  Forward(frame, false);
}

void Session::DestroyMemory(wire::Handle handle, Frame& frame) {
  const auto found = buffers_.find(handle.slot);
  TULLE_CHECK(found != buffers_.end());
  const Buffer buffer = found->second;
  buffers_.erase(found);
  // The memory is its parent's, which the device keeps for as long as it has parts.
  if (buffer.part) return Forward(frame, false);
  if (!buffer.exists()) return SendStatus(frame, cl_status::kSuccess);
  lease_.Destroyed(buffer.charged_bytes);
  // Commands may still use it: its memory is free when the executor says so.
  const UnderWay then{frame.header.opcode, UnderWay::Then::kFreeBuffer, frame.wants_status(), buffer};
  return Forward(frame, true, std::nullopt, &then);
}

void Session::Run(const wire::Checked<wire::DestroyObject>& message, Frame& frame) {
  const wire::Handle handle = message->object.handle;
  switch (message->object.kind) {
    case wire::ObjectKind::kMemory: return DestroyMemory(handle, frame);
    case wire::ObjectKind::kProgram: {
      const auto found = programs_.find(handle.slot);
      if (found == programs_.end()) return DestroyModule(handle, frame);
      const bool on_device = found->second.on_device;
      program_bytes_ -= found->second.text.size() + found->second.binary.size();
      programs_.erase(found);
      return on_device ? Forward(frame, false) : SendStatus(frame, cl_status::kSuccess);
    }
    case wire::ObjectKind::kEvent: open_user_events_.erase(handle.slot); return Forward(frame, false);
    default: return Forward(frame, false);
  }
}

// The device says whether its buffers lie there.
void Session::Run(const wire::Checked<wire::ShareMemory>&, Frame& frame) {
  const UnderWay then{frame.header.opcode, UnderWay::Then::kShareMemory, frame.wants_status()};
  Forward(frame, true, std::nullopt, &then);
}

void Session::Run(const wire::Checked<wire::LocateMemory>& message, Frame& frame) {
  const Buffer& buffer = buffers_.at(message->memory.handle.slot);
  const bool located = buffer.charged_bytes != 0 && !buffer.part && !buffer.own && buffer.lent == nullptr;
  const wire::LocateMemoryReply reply{located ? cl_status::kSuccess : cl_status::kInvalidMemObject,
                                      located ? buffer.range.offset_bytes : 0};
  Told(client_.SendReply(frame.header.opcode, frame.header.sequence, reply, {}, after_));
}

// --- events that the program completes ---

void Session::Run(const wire::Checked<wire::opencl::CreateUserEvent>& message, Frame& frame) {
  open_user_events_.insert(message->event.handle.slot);
  Forward(frame, false);
}

void Session::Run(const wire::Checked<wire::opencl::SetUserEventStatus>& message, Frame& frame) {
  open_user_events_.erase(message->event.handle.slot);
  Forward(frame, false);
}

// --- programs ---

bool Session::IsBuilding(wire::Handle program) const {
  const auto found = programs_.find(program.slot);
  return found != programs_.end() && found->second.building;
}

bool Session::TakeProgramBytes(std::uint64_t size_bytes) {
  program_bytes_ += size_bytes;
  if (program_bytes_ <= limits_.program_bytes) return true;
  End(wire::EndReason::kResource, "the programs of one session may take " +
                                      FormatSize(limits_.program_bytes) +
                                      " of source and binary; release programs that are not needed");
  return false;
}

void Session::Run(const wire::Checked<wire::opencl::CreateProgram>& message, Frame& frame) {
  Program& program = programs_[message->program.handle.slot] = {};
  program.context = message->context.handle;
  program.kind = message->kind.value;
  SendStatus(frame, cl_status::kSuccess);
}

// The text is received right behind what the program has already.
Result<MutableByteView> Session::RoomForText(const wire::FrameHeader& header, wire::Handle handle) {
  const auto found = programs_.find(handle.slot);
  TULLE_CHECK(found != programs_.end());
  Program& program = found->second;
  if (program.sealed) {
    Breach(header, "text after the build");
  } else if (header.payload_bytes > wire::kMaxProgramBytes - program.text.size()) {
    Breach(header, "a program over the limit");
  } else if (TakeProgramBytes(header.payload_bytes)) {
    program.text.resize(program.text.size() + header.payload_bytes);
    return MutableByteView(program.text).last(header.payload_bytes);
  }
  return Error{Code::kCancelled, "the session is over", Scope::kSession};
}

void Session::Run(const wire::Checked<wire::opencl::ProgramText>&, Frame& frame) {
  SendStatus(frame, cl_status::kSuccess);
}

void Session::Run(const wire::Checked<wire::opencl::BuildProgram>& message, Frame& frame) {
  Program& program = programs_.at(message->program.handle.slot);
  program.sealed = true;
  program.building = true;
  BuildJob& job = builds_.emplace_back();
  job.sequence = frame.header.sequence;
  job.since = frame.since;
  answered_later_ = true;
  job.program = message->program.handle;
  job.options = message->options.text;
}

void Session::Run(const wire::Checked<wire::opencl::GetProgramBinary>& message, Frame& frame) {
  const Program& program = programs_.at(message->program.handle.slot);
  wire::opencl::GetProgramBinaryReply reply;
  ByteView piece;
  if (program.binary.empty()) {
    reply.status = cl_status::kInvalidProgramExecutable;
  } else if (message->offset_bytes > program.binary.size() ||
             message->data.size_bytes > program.binary.size() - message->offset_bytes) {
    reply.status = cl_status::kInvalidValue;
  } else {
    piece = ByteView(program.binary).subspan(message->offset_bytes, message->data.size_bytes);
  }
  reply.data.size_bytes = piece.size();
  Told(client_.SendReply(frame.header.opcode, frame.header.sequence, reply, piece));
}

}  // namespace tulle::worker::exec
