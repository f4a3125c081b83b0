// Events: the state of one enqueued command as the program sees it, and the pool that they live in.
//
// An event is pending until the worker's notice of it has come and every part that this process does itself
// (data received for a read) is done; then it is final for ever. Its observers run on the callback thread.
// Events live in a pool of blocks that are never freed, each at the slot that its handle names, so that a
// notice finds its event without a lock, and a late one finds a newer generation and is dropped. Bounded by
// wire::kMaxObjects.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>

#include "tulle/shim/core/callbacks.h"
#include "tulle/shim/core/handles.h"
#include "tulle/shim/core/object.h"
#include "tulle/wire/handle.h"

namespace tulle::shim {

class EventPool;

// What an event belongs to; the event holds a reference to it.
struct EventOwner {
  Object* object = nullptr;
  void (*dispose)(Object*) = nullptr;             // ends the object with its last reference
  std::atomic<std::uint32_t>* pending = nullptr;  // counts its pending events; may be null
};

struct EventTimes {
  std::uint64_t queued_ns = 0, submitted_ns = 0, started_ns = 0, ended_ns = 0;
};

// Every method is thread-safe.
class Event final : public Object {
 public:
  static constexpr std::int32_t kPending = 1;

  Event() = default;

  wire::Handle handle() const { return handle_; }
  wire::Ref<wire::ObjectKind::kEvent> wire() const { return {handle_}; }
  // The command's number among those that its API has; fixed.
  std::uint32_t command() const { return command_; }
  Object* owner() const { return owner_.object; }
  // Position of the command in the session; 0 until it was sent.
  std::uint64_t sequence() const { return sequence_.load(std::memory_order_relaxed); }
  void set_sequence(std::uint64_t sequence) { sequence_.store(sequence, std::memory_order_relaxed); }

  // kPending, 0 (complete), or a negative error of the API.
  std::int32_t status() const { return status_.load(std::memory_order_acquire); }
  bool final() const { return status() != kPending; }
  // Precondition: final().
  const EventTimes& times() const { return times_; }

  // Finality takes one more Arrive. Before the command is sent only.
  void ExpectPart() { parts_.fetch_add(1, std::memory_order_relaxed); }
  // One of the parts is done; the first error of any part is the event's.
  void Arrive(std::int32_t status, const EventTimes* times = nullptr);
  // Final at once, unless it already is. False: it already was.
  bool Finalize(std::int32_t status);

  // Posts the task when the event is final; at once if it is. Whoever asks keeps the event alive until then.
  void Observe(CallbackThread& thread, std::unique_ptr<CallbackThread::Task> task);

  static void Dispose(Event* event);

 private:
  friend class EventPool;
  bool Settle(std::int32_t status);
  static CallbackThread::Task* Closed();

  wire::Handle handle_;
  EventPool* pool_ = nullptr;
  EventOwner owner_;
  std::uint32_t command_ = 0;
  std::uint32_t next_free_ = 0;
  std::atomic<std::uint64_t> sequence_{0};
  std::atomic<std::int32_t> status_{kPending};
  std::atomic<std::int32_t> parts_{1};
  std::atomic<std::int32_t> first_error_{0};
  EventTimes times_;
  CallbackThread* thread_ = nullptr;
  std::atomic<CallbackThread::Task*> observers_{nullptr};  // a stack; Closed() once the event is final
};

// Thread-safe.
class EventPool {
 public:
  // `retire` is called for each event that dies: tells the worker, then gives the slot back by Recycle().
  EventPool(HandleSpace& handles, void (*retire)(void* argument, wire::Handle handle), void* argument)
      : handles_(handles), retire_(retire), retire_argument_(argument) {}
  ~EventPool();

  // A pending event with one handle and one reference; null when there are too many. Lock-free unless the
  // pool has to grow.
  Event* Create(const void* dispatch, const EventOwner& owner, std::uint32_t command);
  void Recycle(wire::Handle handle);

  // The live event of that name, or null.
  Ref<Event> Find(wire::Handle handle);

  // Calls f(Event&) for each live event.
  template <typename F>
  void ForEach(F&& f) {
    for (const std::atomic<Event*>& block : blocks_) {
      Event* events = block.load(std::memory_order_acquire);
      if (events == nullptr) continue;
      for (std::uint32_t i = 0; i < kSlotsPerBlock; ++i) {
        if (!events[i].TryAddRef()) continue;
        const Ref<Event> event = Ref<Event>::Adopt(&events[i]);
        f(*event);
      }
    }
  }

 private:
  friend class Event;
  Event* At(std::uint32_t slot);
  bool Grow();

  HandleSpace& handles_;
  void (*const retire_)(void*, wire::Handle);
  void* const retire_argument_;
  std::mutex growing_;
  std::array<std::atomic<Event*>, kMaxBlocks> blocks_{};
  // The top of the stack of free slots, and above it a count of changes that defeats ABA.
  std::atomic<std::uint64_t> free_{0};
};

}  // namespace tulle::shim
