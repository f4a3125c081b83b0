// Where a vGPU's programs may have more memory than it has on its device.
#include <algorithm>
#include <cstring>

#include "tulle/worker/exec/session.h"

namespace tulle::worker::exec {

using spill::Residency;

Residency::Id Session::PieceOf(wire::Handle memory) const {
  const auto found = buffers_.find(memory.slot);
  return found == buffers_.end() ? Residency::kNone : found->second.piece;
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
