#include "tulle/shim/opencl/box.h"

#include <cstring>

namespace tulle::shim::opencl {

void HostBox::CopyTo(std::byte* out) const {
  for (std::size_t slice = 0; slice < region[2]; ++slice) {
    for (std::size_t row = 0; row < region[1]; ++row, out += region[0])
      std::memcpy(out, bytes + slice * slice_pitch + row * row_pitch, region[0]);
  }
}

void HostBox::CopyFrom(const std::byte* packed) const {
  for (std::size_t slice = 0; slice < region[2]; ++slice) {
    for (std::size_t row = 0; row < region[1]; ++row, packed += region[0])
      std::memcpy(bytes + slice * slice_pitch + row * row_pitch, packed, region[0]);
  }
}

std::vector<BoxPiece> CutBox(const wire::Vec3& region, std::size_t unit) {
  // Of each extent, what one piece takes: all of it, as long as the extents before it are taken whole.
  wire::Vec3 step{};
  std::size_t room = wire::kMaxPayloadBytes;
  for (std::size_t i = 0; i < 3; ++i) {
    step[i] = std::min<std::size_t>(region[i], std::max<std::size_t>(room, 1));
    if (i == 0 && step[i] < region[i]) step[i] -= step[i] % unit;
    room = step[i] < region[i] ? 1 : room / region[i];
  }
  std::vector<BoxPiece> pieces;
  wire::Vec3 at{};
  for (at[2] = 0; at[2] < region[2]; at[2] += step[2]) {
    for (at[1] = 0; at[1] < region[1]; at[1] += step[1]) {
      for (at[0] = 0; at[0] < region[0]; at[0] += step[0]) {
        BoxPiece& piece = pieces.emplace_back(BoxPiece{at, {}});
        for (std::size_t i = 0; i < 3; ++i) piece.region[i] = std::min(step[i], region[i] - at[i]);
      }
    }
  }
  return pieces;
}

void HostSpans::Add(const HostBox& box) {
  const auto begin = reinterpret_cast<std::uintptr_t>(box.bytes);
  const std::lock_guard lock(mutex_);
  spans_.emplace(begin, begin + box.span_size());
  count_.store(spans_.size(), std::memory_order_release);
}

void HostSpans::Remove(const HostBox& box) {
  const auto begin = reinterpret_cast<std::uintptr_t>(box.bytes);
  const std::lock_guard lock(mutex_);
  for (auto [it, end] = spans_.equal_range(begin); it != end; ++it) {
    if (it->second != begin + box.span_size()) continue;
    spans_.erase(it);
    break;
  }
  count_.store(spans_.size(), std::memory_order_release);
}

bool HostSpans::Touches(const HostBox& box) {
  if (count_.load(std::memory_order_acquire) == 0) return false;
  const auto begin = reinterpret_cast<std::uintptr_t>(box.bytes);
  const std::uintptr_t end = begin + box.span_size();
  const std::lock_guard lock(mutex_);
  return std::any_of(spans_.begin(), spans_.lower_bound(end),
                     [begin](const auto& span) { return span.second > begin; });
}

}  // namespace tulle::shim::opencl
