// What the null device keeps for each handle of a session, and the commands that wait in its queues. Owned by
// the backend's object table, used by its one thread.
#pragma once

#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "tulle/gpu/api/image_checks.h"
#include "tulle/gpu/api/mappings.h"
#include "tulle/gpu/api/outcome.h"
#include "tulle/gpu/null/null_program.h"

namespace tulle::gpu::null {

using wire::Handle;
using wire::ObjectKind;
using wire::opencl::ArgKind;
using wire::opencl::EventCompletion;
namespace status = cl_status;

inline constexpr std::int32_t kRunning = 1;  // of an event; OpenCL's final states are 0 and below

// Outlives the handle of its buffer or image while commands use it.
struct Memory : BufferShape {
  std::optional<ImageShape> image;
  std::shared_ptr<Memory> parent;  // of a sub-buffer, or an image in a buffer
  Completions* completions = nullptr;
  std::uint64_t* used_bytes = nullptr;  // of the device
  std::unique_ptr<std::byte, decltype(&std::free)> own{nullptr, &std::free};
  std::byte* bytes = nullptr;
  std::uint64_t destroy_sequence = 0;  // the DestroyObject to answer; 0: none
  Mappings mappings;

  bool in_place() const { return parent != nullptr ? parent->in_place() : own == nullptr; }

  ~Memory() {
    if (parent == nullptr) *used_bytes -= size_bytes;
    if (destroy_sequence != 0)
      SendStatus(*completions, wire::kOpcodeOf<wire::DestroyObject>, destroy_sequence, 0);
  }
};

struct EventState {
  std::int32_t status = kRunning;
};
using EventPointer = std::shared_ptr<EventState>;

struct Object {
  virtual ~Object() = default;
};
struct Context final : Object {
  static constexpr ObjectKind kKind = ObjectKind::kContext;
};
struct Buffer final : Object {
  static constexpr ObjectKind kKind = ObjectKind::kMemory;
  std::shared_ptr<Memory> memory;
};
struct Sampler final : Object {
  static constexpr ObjectKind kKind = ObjectKind::kSampler;
};
struct Program final : Object {
  static constexpr ObjectKind kKind = ObjectKind::kProgram;
  NullProgram loaded;
};
struct Kernel final : Object {
  static constexpr ObjectKind kKind = ObjectKind::kKernel;
  struct Arg {
    Handle memory;
    std::uint64_t offset_bytes = 0;  // where in it the kernel begins
    Handle sampler;
    ByteVector value;
  };
  std::shared_ptr<const NullKernel> kernel;
  std::map<std::uint32_t, Arg> args;
};
struct Event final : Object {
  static constexpr ObjectKind kKind = ObjectKind::kEvent;
  EventPointer state = std::make_shared<EventState>();
  bool user = false;
  bool placeholder = false;  // its enqueue failed: waiting for it fails
};

// A transfer sent in pieces. Each piece waits for the one before.
struct Transfer {
  EventPointer last;           // of the newest piece
  std::int32_t failed = 0;     // a piece was refused: so is the rest
  EventCompletion completion;  // what its event will say
};

struct Waiting {
  std::vector<EventPointer> waits;
  std::function<std::int32_t()> run;
  std::function<void(std::int32_t)> answer;  // the reply or release that is due; may be empty
  EventPointer state = std::make_shared<EventState>();
  Handle event;  // null: nobody asked
  std::shared_ptr<Transfer> transfer;
  bool barrier = false;    // later commands wait for it
  bool after_all = false;  // it waits for all earlier ones
  std::uint64_t queued_ns = 0;
};

struct Queue final : Object {
  static constexpr ObjectKind kKind = ObjectKind::kQueue;
  bool in_order = true;
  bool profiles = false;
  std::deque<Waiting> waiting;
  std::map<std::uint64_t, std::shared_ptr<Transfer>> transfers;
};

}  // namespace tulle::gpu::null
