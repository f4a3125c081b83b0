#include "tulle/shim/core/event.h"

namespace tulle::shim {
namespace {

class Sentinel final : public CallbackThread::Task {
  void Run() override {}
};
Sentinel g_closed;

}  // namespace

CallbackThread::Task* Event::Closed() { return &g_closed; }

void Event::Arrive(std::int32_t status, const EventTimes* times) {
  if (times != nullptr) times_ = *times;
  if (status < 0) {
    std::int32_t none = 0;
    first_error_.compare_exchange_strong(none, status, std::memory_order_relaxed);
  }
  if (parts_.fetch_sub(1, std::memory_order_acq_rel) == 1)
    Settle(first_error_.load(std::memory_order_relaxed));
}

bool Event::Finalize(std::int32_t status) { return Settle(status); }

bool Event::Settle(std::int32_t status) {
  std::int32_t pending = kPending;
  if (!status_.compare_exchange_strong(pending, status, std::memory_order_acq_rel)) return false;
  if (owner_.pending != nullptr) owner_.pending->fetch_sub(1, std::memory_order_release);
  CallbackThread::Task* newest = observers_.exchange(Closed(), std::memory_order_acq_rel);
  CallbackThread::Task* oldest = nullptr;
  while (newest != nullptr) {
    CallbackThread::Task* task = newest;
    newest = task->next_;
    task->next_ = oldest;
    oldest = task;
  }
  while (oldest != nullptr) {
    std::unique_ptr<CallbackThread::Task> task(oldest);
    oldest = task->next_;
    thread_->Post(std::move(task));
  }
  return true;
}

void Event::Observe(CallbackThread& thread, std::unique_ptr<CallbackThread::Task> task) {
  thread_ = &thread;  // the same for all events of a process
  CallbackThread::Task* head = observers_.load(std::memory_order_acquire);
  do {
    if (head == Closed()) {
      thread.Post(std::move(task));
      return;
    }
    task->next_ = head;
  } while (!observers_.compare_exchange_weak(head, task.get(), std::memory_order_acq_rel));
  task.release();  // NOLINT: the stack owns it now
}

void Event::Dispose(Event* event) {
  event->MarkDead();
  const EventOwner owner = event->owner_;
  EventPool* pool = event->pool_;
  if (event->status() == kPending && owner.pending != nullptr)
    owner.pending->fetch_sub(1, std::memory_order_release);
  pool->retire_(pool->retire_argument_, event->handle_);
  if (owner.object != nullptr && owner.object->DropRef()) owner.dispose(owner.object);
}

EventPool::~EventPool() {
  for (std::atomic<Event*>& block : blocks_) delete[] block.load();
}

Event* EventPool::At(std::uint32_t slot) {
  if (slot >= wire::kMaxObjects) return nullptr;
  Event* block = blocks_[slot / kSlotsPerBlock].load(std::memory_order_acquire);
  return block == nullptr ? nullptr : &block[slot % kSlotsPerBlock];
}

Event* EventPool::Create(const void* dispatch, const EventOwner& owner, std::uint32_t command) {
  std::uint64_t free = free_.load(std::memory_order_acquire);
  Event* event = nullptr;
  for (;;) {
    const auto slot = static_cast<std::uint32_t>(free);
    if (slot == 0) {
      if (!Grow()) return nullptr;
      free = free_.load(std::memory_order_acquire);
      continue;
    }
    event = At(slot);
    const std::uint32_t next = std::atomic_ref(event->next_free_).load(std::memory_order_relaxed);
    const std::uint64_t wanted = (((free >> 32) + 1) << 32) | next;
    if (free_.compare_exchange_weak(free, wanted, std::memory_order_acq_rel)) break;
  }
  ++event->handle_.generation;
  event->owner_ = owner;
  event->command_ = command;
  event->set_sequence(0);
  event->status_.store(Event::kPending, std::memory_order_relaxed);
  event->parts_.store(1, std::memory_order_relaxed);
  event->first_error_.store(0, std::memory_order_relaxed);
  event->times_ = {};
  event->observers_.store(nullptr, std::memory_order_relaxed);
  if (owner.object != nullptr) owner.object->AddRef();
  if (owner.pending != nullptr) owner.pending->fetch_add(1, std::memory_order_relaxed);
  event->Revive(dispatch, ObjectType::kEvent);
  return event;
}

void EventPool::Recycle(wire::Handle handle) {
  if (handle.generation == UINT32_MAX) return;
  Event* event = At(handle.slot);
  std::uint64_t free = free_.load(std::memory_order_relaxed);
  std::uint64_t wanted = 0;
  do {
    std::atomic_ref(event->next_free_).store(static_cast<std::uint32_t>(free), std::memory_order_relaxed);
    wanted = (((free >> 32) + 1) << 32) | handle.slot;
  } while (!free_.compare_exchange_weak(free, wanted, std::memory_order_acq_rel));
}

Ref<Event> EventPool::Find(wire::Handle handle) {
  Event* event = At(handle.slot);
  if (event == nullptr || !event->TryAddRef()) return {};
  Ref<Event> found = Ref<Event>::Adopt(event);
  return event->handle_ == handle ? std::move(found) : Ref<Event>();
}

bool EventPool::Grow() {
  const std::lock_guard lock(growing_);
  if (static_cast<std::uint32_t>(free_.load(std::memory_order_acquire)) != 0) return true;
  const std::uint32_t first = handles_.NewBlock();
  if (first == 0) return false;
  Event* events = new Event[kSlotsPerBlock];
  for (std::uint32_t i = 0; i < kSlotsPerBlock; ++i) {
    events[i].pool_ = this;
    events[i].handle_ = {first + i, 0};
  }
  blocks_[first / kSlotsPerBlock].store(events, std::memory_order_release);
  for (std::uint32_t i = kSlotsPerBlock; i-- > 0;) Recycle({first + i, 0});
  return true;
}

}  // namespace tulle::shim
