// Boxes in the program's memory: rows of bytes, in slices of rows. What transfers move, packed, in pieces.
#pragma once

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <vector>

#include "tulle/base/bytes.h"
#include "tulle/wire/fields.h"
#include "tulle/wire/limits.h"

namespace tulle::shim::opencl {

// Borrows the program's memory. Extents are {bytes of a row, rows, slices}, none of them 0.
struct HostBox {
  std::byte* bytes = nullptr;
  wire::Vec3 region{};
  std::size_t row_pitch = 0;
  std::size_t slice_pitch = 0;

  std::size_t packed_size() const { return region[0] * region[1] * region[2]; }
  // From its first byte to its last.
  std::size_t span_size() const {
    return (region[2] - 1) * slice_pitch + (region[1] - 1) * row_pitch + region[0];
  }
  // Its bytes follow each other, so that they are packed where they lie.
  bool packed() const {
    return (region[1] == 1 || row_pitch == region[0]) &&
           (region[2] == 1 || slice_pitch == region[0] * region[1]);
  }
  void CopyTo(std::byte* out) const;             // packs
  void CopyFrom(const std::byte* packed) const;  // unpacks
};

// Which bytes of the program's memory some boxes span. Thread-safe.
class HostSpans {
 public:
  void Add(const HostBox& box);
  void Remove(const HostBox& box);  // one that was added
  // Whether a byte from the box's first to its last is in one of them.
  bool Touches(const HostBox& box);

 private:
  std::atomic<std::size_t> count_{0};
  std::mutex mutex_;
  std::multimap<std::uintptr_t, std::uintptr_t> spans_;  // guarded by mutex_; begin -> end
};

// A piece of a box: where it begins in it, and its extents.
struct BoxPiece {
  wire::Vec3 origin{};
  wire::Vec3 region{};
};

// Cuts a box into pieces of at most wire::kMaxPayloadBytes each: whole slices where one fits, else whole
// rows, else parts of a row that are multiples of `unit` bytes.
std::vector<BoxPiece> CutBox(const wire::Vec3& region, std::size_t unit = 1);

}  // namespace tulle::shim::opencl
