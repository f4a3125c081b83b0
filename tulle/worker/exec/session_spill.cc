// Where a vGPU's programs may have more memory than it has on its device.
#include <algorithm>
#include <cstring>

#include "tulle/gpu/api/opencl_status.h"
#include "tulle/worker/exec/session.h"

namespace tulle::worker::exec {

using spill::Residency;

Residency::Id Session::PieceOf(wire::Handle memory) const {
  const auto found = buffers_.find(memory.slot);
  return found == buffers_.end() ? Residency::kNone : found->second.piece;
}

void Session::SetArgument(std::uint32_t kernel, std::uint32_t index, Residency::Id piece,
                          const wire::FrameHeader& header) {
  if (index >= wire::kMaxKernelArgs) return;  // there is none
  auto& arguments = kernel_memory_[kernel];
  const auto found = arguments.find(index);
  const Residency::Id before = found == arguments.end() ? Residency::kNone : found->second;
  if ((header.flags & wire::kWantStatus) != 0) new_arguments_[header.sequence] = {kernel, index, before};
  if (found != arguments.end()) {
    arguments.erase(found);
    --arguments_;
  }
  if (piece == Residency::kNone) return;
  arguments[index] = piece;
  if (++arguments_ > limits_.kernel_arguments) {
    End(wire::EndReason::kResource, "the kernels of one session may have " +
                                        std::to_string(limits_.kernel_arguments) +
                                        " arguments that are memory; release kernels that are not needed");
  }
}

// What was refused has not become an argument: that is what it was before.
void Session::OnArgumentSet(const Received& received) {
  const auto found = new_arguments_.find(received.sequence);
  if (found == new_arguments_.end()) return;
  const NewArgument set = found->second;
  new_arguments_.erase(found);
  wire::StatusReply reply;
  reply_arena_.Reset();
  if (wire::Decode(received.body, 0, reply_arena_, &reply) != wire::WireResult::kOk)
    return Distrust("an answer to an argument that is not one");
  if (reply.status == gpu::cl_status::kSuccess) return;
  auto& arguments = kernel_memory_[set.kernel];
  arguments_ -= arguments.erase(set.index);
  if (set.before == Residency::kNone) return;
  arguments[set.index] = set.before;
  ++arguments_;
}

void Session::ForgetArguments(std::uint32_t kernel) {
  std::erase_if(new_arguments_, [&](const auto& entry) { return entry.second.kernel == kernel; });
  const auto found = kernel_memory_.find(kernel);
  if (found == kernel_memory_.end()) return;
  arguments_ -= found->second.size();
  kernel_memory_.erase(found);
}

Session::Wait Session::Bring(std::span<const Residency::Id> pieces, wire::Handle queue, Frame& frame) {
  // What has begun may wait for an event of the program's, which it sets after this.
  const auto use = residency_->TryUse(pieces, queue, !open_user_events_.empty());
  if (!use.ok()) {
    End(wire::EndReason::kDeviceLost,
        "memory of the program that was not in use could not be brought back: " + use.error().message);
    return Wait::kResidency;
  }
  moves_memory_ = *use == Residency::Use::kAgain;
  switch (*use) {
    case Residency::Use::kNever: frame.lacks_memory = true; [[fallthrough]];
    case Residency::Use::kNow: return Wait::kNone;
    case Residency::Use::kAgain:
    case Residency::Use::kLater: return Wait::kResidency;
  }
  return Wait::kNone;
}

// No buffer is of use that is larger than what a command may use.
void Session::OnDescribed(const UnderWay& question, const Received& received) {
  constexpr std::uint32_t kMaxMemAllocSize = 0x1010;  // CL_DEVICE_MAX_MEM_ALLOC_SIZE, a cl_ulong
  wire::opencl::DescribeDeviceReply reply;
  reply_arena_.Reset();
  if (wire::Decode(received.body, 0, reply_arena_, &reply) != wire::WireResult::kOk)
    return Distrust("an answer to DescribeDevice that is not one");
  std::vector<wire::opencl::InfoValue> infos(reply.infos.items.begin(), reply.infos.items.end());
  std::uint64_t most_bytes = 0;
  for (wire::opencl::InfoValue& info : infos) {
    if (info.name != kMaxMemAllocSize || info.value.bytes.size() != sizeof most_bytes) continue;
    std::memcpy(&most_bytes, info.value.bytes.data(), sizeof most_bytes);
    most_bytes = std::min(most_bytes, shared_.spill->room.limit_bytes() / 4 * 3);
    info.value.bytes = std::as_bytes(std::span(&most_bytes, 1));
  }
  reply.infos.items = infos;
  Told(client_.SendReply(received.opcode, received.sequence, reply, {}, question.after));
}

bool Session::GiveMemory() {
  if (!residency_.has_value()) return false;
  const auto gave = residency_->Give();
  if (gave.ok()) return *gave;
  // Else who waits for it would wait for ever.
  End(wire::EndReason::kResource,
      "memory that the program was not using could not be saved, and is needed: " + gave.error().message);
  return true;
}

}  // namespace tulle::worker::exec
