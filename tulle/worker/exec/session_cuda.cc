// Commands of CUDA that need more than being passed on.
#include <utility>

#include "tulle/base/check.h"
#include "tulle/cuda/types.h"
#include "tulle/worker/exec/session.h"

namespace tulle::worker::exec {

// What dies counts as free: it is, before the next allocation.
void Session::Run(const wire::Checked<wire::cuda::GetMemoryInfo>&, Frame& frame) {
  const wire::cuda::GetMemoryInfoReply reply{
      shared_.quota->available_bytes() + lease_.held_bytes() - lease_.live_bytes(),
      shared_.quota->limit_bytes()};
  Told(client_.SendReply(frame.header.opcode, frame.header.sequence, reply, {}, after_));
}

void Session::Run(const wire::Checked<wire::cuda::AllocateMemory>& message, Frame& frame) {
  Buffer& buffer = buffers_[message->memory.handle.slot] = {};
  if (message->size_bytes == 0) return Breach(frame.header, "memory of no bytes");
  if (taken_ != quota::Lease::Take::kTaken) {
    if (!frame.wants_status()) return Breach(frame.header, "beyond the lease");
    return SendStatus(frame, cuda::CUDA_ERROR_OUT_OF_MEMORY);
  }
  buffer = {.charged_bytes = wire::opencl::ChargedBytes(message->size_bytes), .own = true};
  Forward(frame, false);
}

void Session::Run(const wire::Checked<wire::cuda::ModuleImage>& message, Frame& frame) {
  if (!TakeProgramBytes(message->data.size_bytes)) return;
  Module& module = modules_[message->module.handle.slot];
  module.image_bytes += message->data.size_bytes;
  module.measured = Module::Measured::kNo;  // what it is from now on
  Forward(frame, false);
}

Session::Wait Session::ReadyToLoad(const wire::cuda::LoadModule& message) {
  taken_ = quota::Lease::Take::kTaken;
  if (wire::CheckHandles(message, objects_) != wire::WireResult::kOk) return Wait::kNone;  // it ends there
  Module& module = modules_[message.module.handle.slot];
  module.handle = message.module.handle;
  if (module.measured == Module::Measured::kNo) {
    const wire::exec::MeasureModule question{module.handle};
    ByteVector body(wire::EncodedSize(question));
    wire::Encode(question, body);
    constexpr std::uint16_t kOpcode = wire::OpcodeIn<wire::exec::MeasureModule>(wire::exec::kExecCommands);
    UnderWay then{.then = UnderWay::Then::kModuleMeasured};
    then.module = module.handle;
    if (!SubmitOwn(kOpcode, body, std::move(then)).has_value()) return Wait::kRoom;
    module.measured = Module::Measured::kAsked;
  }
  if (module.measured == Module::Measured::kAsked) return Wait::kBuild;
  // What is loaded, or is being, cannot be once more.
  if (module.variable_bytes == 0 || module.charged_bytes != 0) return Wait::kNone;
  // Beside what the client has leased, which it does not know of.
  const std::uint64_t charged_bytes = wire::opencl::ChargedBytes(module.variable_bytes);
  if (AcquireForGood(charged_bytes)) {
    taken_ = lease_.TakeForObject(charged_bytes, false);
    if (taken_ == quota::Lease::Take::kTaken) {
      module.charged_bytes = module.newly_charged_bytes = charged_bytes;
    } else {
      TULLE_CHECK(lease_.Release(charged_bytes));
    }
  } else {
    taken_ = lease_.dying_bytes() != 0 ? quota::Lease::Take::kNotYet : quota::Lease::Take::kNoMemory;
  }
  return taken_ == quota::Lease::Take::kNotYet ? Wait::kMemory : Wait::kNone;
}

void Session::Run(const wire::Checked<wire::cuda::LoadModule>& message, Frame& frame) {
  if (taken_ != quota::Lease::Take::kTaken) {
    const std::string log = "the module's variables take " +
                            FormatSize(modules_.at(message->module.handle.slot).variable_bytes) +
                            ", and the vGPU has " + FormatSize(shared_.quota->available_bytes()) +
                            " left of " + FormatSize(shared_.quota->limit_bytes());
    return Told(client_.SendReply(frame.header.opcode, frame.header.sequence,
                                  wire::cuda::LoadModuleReply{cuda::CUDA_ERROR_OUT_OF_MEMORY, {log}}, {},
                                  after_));
  }
  UnderWay then{frame.header.opcode, UnderWay::Then::kModuleLoaded};
  then.module = message->module.handle;
  then.buffer.charged_bytes = std::exchange(modules_.at(then.module.slot).newly_charged_bytes, 0);
  Forward(frame, frame.wants_status(), std::nullopt, &then);
}

void Session::OnModuleMeasured(wire::Handle handle, const Received& received) {
  wire::exec::MeasureModuleReply reply;
  reply_arena_.Reset();
  if (wire::Decode(received.body, 0, reply_arena_, &reply) != wire::WireResult::kOk || reply.status != 0)
    return Distrust("an answer to MeasureModule that is not one");
  Module& module = modules_.at(handle.slot);  // whose loading is held
  module.measured = Module::Measured::kYes;
  module.variable_bytes = reply.variable_bytes;
}

void Session::OnModuleLoaded(const UnderWay& load, const Received& received) {
  wire::cuda::LoadModuleReply reply;
  reply_arena_.Reset();
  if (wire::Decode(received.body, 0, reply_arena_, &reply) != wire::WireResult::kOk)
    return Distrust("an answer to LoadModule that is not one");
  const auto module = modules_.find(load.module.slot);
  const bool was_destroyed = module == modules_.end() || module->second.handle != load.module;
  const std::uint64_t charged_bytes = load.buffer.charged_bytes;
  if (reply.status == cuda::CUDA_SUCCESS || was_destroyed || charged_bytes == 0) return;
  module->second.charged_bytes = 0;
  lease_.Destroyed(charged_bytes);
  TULLE_CHECK(lease_.Release(charged_bytes));
  lease_.Reclaim(charged_bytes);
}

void Session::DestroyModule(wire::Handle handle, Frame& frame) {
  const Module module = std::exchange(modules_[handle.slot], {});
  modules_.erase(handle.slot);
  program_bytes_ -= module.image_bytes;
  if (module.charged_bytes == 0) return Forward(frame, false);
  lease_.Destroyed(module.charged_bytes);
  TULLE_CHECK(lease_.Release(module.charged_bytes));
  const UnderWay then{frame.header.opcode,
                      UnderWay::Then::kFreeBuffer,
                      frame.wants_status(),
                      {.charged_bytes = module.charged_bytes, .own = true}};
  Forward(frame, true, std::nullopt, &then);
}

void Session::Run(const wire::Checked<wire::cuda::CallHost>& message, Frame& frame) {
  open_user_events_.insert(message->returned.handle.slot);
  Forward(frame, false);
}

void Session::Run(const wire::Checked<wire::cuda::EndHostCall>& message, Frame& frame) {
  open_user_events_.erase(message->returned.handle.slot);
  Forward(frame, false);
}

}  // namespace tulle::worker::exec
