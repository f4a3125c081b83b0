// What everything begins with that a program holds a pointer to, and how it lives.
//
// An object has two counts. *Handles* are the program's own (retain and release calls; what it sees as the
// reference count). *References* are ours: all handles together hold one, and each object or operation that
// needs this one holds one more. The object dies with its last reference; it is no longer accepted from the
// program when it is dead, when it is of another kind, or when it was inherited through fork().
#pragma once

#include <atomic>
#include <cstdint>
#include <utility>

namespace tulle::shim {

enum class ObjectType : std::uint32_t {
  kPlatform,
  kDevice,
  kContext,
  kQueue,
  kMemory,
  kProgram,
  kKernel,
  kEvent,
  kSampler
};

// Counts the fork() calls between the first process that loaded this library and this one.
std::uint32_t ForkEpoch();
// Makes ForkEpoch() count, and calls `in_child` (if any) in each new child. Call once.
void WatchForks(void (*in_child)());

// Has no virtual function: `dispatch` must come first. Counts are thread-safe.
class Object {
 public:
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;

  // True for a live object of this type, made by this process. Cheap, and safe for whatever aligned address
  // can be read: it protects from mix-ups, not from an adversary (who is in the process anyway).
  static bool IsLive(const void* address, ObjectType type) {
    if (address == nullptr || (reinterpret_cast<std::uintptr_t>(address) & 7u) != 0) return false;
    const Object* object = static_cast<const Object*>(address);
    return object->magic_ == (kMagic ^ static_cast<std::uint32_t>(type)) && object->epoch_ == ForkEpoch();
  }

  void AddHandle() {
    if (handles_.fetch_add(1, std::memory_order_relaxed) == 0) AddRef();
  }
  enum class Dropped { kNone, kSome, kLast };
  // kLast: the reference that the handles held is the caller's now, to drop. kNone: there was no handle.
  Dropped DropHandle() {
    std::uint32_t handles = handles_.load(std::memory_order_relaxed);
    do {
      if (handles == 0) return Dropped::kNone;
    } while (!handles_.compare_exchange_weak(handles, handles - 1, std::memory_order_acq_rel));
    return handles == 1 ? Dropped::kLast : Dropped::kSome;
  }
  std::uint32_t handles() const { return handles_.load(std::memory_order_relaxed); }

  void AddRef() { references_.fetch_add(1, std::memory_order_relaxed); }
  // Unless the object is already dead. Only where its memory cannot go away meanwhile (pools, and lists that
  // an object leaves, under their lock, before it goes).
  bool TryAddRef() {
    std::uint32_t references = references_.load(std::memory_order_relaxed);
    do {
      if (references == 0) return false;
    } while (!references_.compare_exchange_weak(references, references + 1, std::memory_order_acquire));
    return true;
  }
  // True: that was the last one.
  bool DropRef() { return references_.fetch_sub(1, std::memory_order_acq_rel) == 1; }

 protected:
  Object() = default;  // dead
  // One handle, one reference.
  Object(const void* dispatch, ObjectType type) { Revive(dispatch, type); }
  ~Object() { MarkDead(); }

  void Revive(const void* dispatch, ObjectType type) {
    dispatch_ = dispatch;
    magic_ = kMagic ^ static_cast<std::uint32_t>(type);
    epoch_ = ForkEpoch();
    handles_.store(1, std::memory_order_relaxed);
    references_.store(1, std::memory_order_release);
  }
  void MarkDead() { *const_cast<volatile std::uint32_t*>(&magic_) = 0; }

 private:
  static constexpr std::uint32_t kMagic = 0x74756c00;
  const void* dispatch_ = nullptr;  // the API's entry points, where its loader looks for them: at offset 0
  std::uint32_t magic_ = 0;
  std::uint32_t epoch_ = 0;
  std::atomic<std::uint32_t> handles_{0};
  std::atomic<std::uint32_t> references_{0};
};

// A counted reference; T::Dispose(T*) ends the object with its last one.
template <typename T>
class Ref {
 public:
  Ref() = default;
  explicit Ref(T* object) : object_(object) {
    if (object_ != nullptr) object_->AddRef();
  }
  // Takes over a reference that the caller holds.
  static Ref Adopt(T* object) {
    Ref ref;
    ref.object_ = object;
    return ref;
  }
  Ref(const Ref& other) : Ref(other.object_) {}
  Ref(Ref&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  Ref& operator=(Ref other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  ~Ref() {
    if (object_ != nullptr && object_->DropRef()) T::Dispose(object_);
  }

  T* get() const { return object_; }
  T* operator->() const { return object_; }
  T& operator*() const { return *object_; }
  explicit operator bool() const { return object_ != nullptr; }
  // Gives the reference to the caller.
  T* release() { return std::exchange(object_, nullptr); }

 private:
  T* object_ = nullptr;
};

}  // namespace tulle::shim
