// Commands of CUDA that need more than being passed on.
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
  module_bytes_[message->module.handle.slot] += message->data.size_bytes;
  Forward(frame, false);
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
