// Names of remote objects. The client chooses a handle {slot, generation} and may use it at once; a slot is
// used again only with a higher generation, so a stale handle is always noticed. Slot 0 is the null handle.
#pragma once

#include <compare>
#include <cstdint>
#include <string_view>

namespace tulle::wire {

enum class ObjectKind : std::uint8_t {
  kNone = 0,
  kContext = 1,
  kQueue = 2,
  kMemory = 3,  // buffers and images: what OpenCL calls cl_mem
  kProgram = 4,
  kKernel = 5,
  kEvent = 6,
  kSampler = 7,
  kDevice = 8,  // a part of the vGPU's device; that itself has no name
};
constexpr bool IsKnown(ObjectKind kind) {
  return kind >= ObjectKind::kContext && kind <= ObjectKind::kDevice;
}

constexpr std::string_view KindName(ObjectKind kind) {
  switch (kind) {
    case ObjectKind::kNone: return "none";
    case ObjectKind::kContext: return "context";
    case ObjectKind::kQueue: return "queue";
    case ObjectKind::kMemory: return "memory";
    case ObjectKind::kProgram: return "program";
    case ObjectKind::kKernel: return "kernel";
    case ObjectKind::kEvent: return "event";
    case ObjectKind::kSampler: return "sampler";
    case ObjectKind::kDevice: return "device";
  }
  return "unknown";
}

struct Handle {
  std::uint32_t slot = 0;
  std::uint32_t generation = 0;
  constexpr bool null() const { return slot == 0; }
  friend constexpr auto operator<=>(const Handle&, const Handle&) = default;
};

// What a message does with a handle, as a type.
enum class Use { kRef, kOptRef, kNew, kOptNew };

template <ObjectKind K, Use U>
struct TypedHandle {
  Handle handle;
  static constexpr ObjectKind kKind = K;
  static constexpr Use kUse = U;
};

template <ObjectKind K>
using Ref = TypedHandle<K, Use::kRef>;  // a live object, required
template <ObjectKind K>
using OptRef = TypedHandle<K, Use::kOptRef>;  // a live object or null
template <ObjectKind K>
using New = TypedHandle<K, Use::kNew>;  // named by this message from now on
template <ObjectKind K>
using OptNew = TypedHandle<K, Use::kOptNew>;  // the same, or null: the program asked for none

// Ends the object's life; any kind.
struct Drop {
  ObjectKind kind = ObjectKind::kNone;
  Handle handle;
};

}  // namespace tulle::wire
