// What a session needs of the place where its driver runs. In production a sandboxed process (gpu/isolated,
// composed by the program); in tests a backend of this process.
//
// One thread (the session's) owns an Executor and calls everything on it; what is of Paced any may call. Of
// ranges that AllocateMemory has given it has the Pages.
// Nothing blocks. Replies are well-formed messages of their rows and answer a command under way; what they
// say is still not to be trusted. Rooms and ranges must be given back before the executor goes.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "tulle/base/bytes.h"
#include "tulle/base/range_allocator.h"
#include "tulle/base/result.h"
#include "tulle/worker/pace/pacer.h"
#include "tulle/worker/spill/residency.h"

namespace tulle::worker::exec {

class Executor;

// A piece of the memory in which payloads travel, with one owner; given back when destroyed. The executor may
// write to it at any time.
class Room {
 public:
  Room() = default;
  Room(Executor* executor, std::uint32_t id, MutableByteView bytes)
      : executor_(executor), id_(id), bytes_(bytes) {}
  Room(Room&& other) noexcept { *this = std::move(other); }
  Room& operator=(Room&& other) noexcept {
    Release();
    executor_ = std::exchange(other.executor_, nullptr);
    id_ = other.id_;
    bytes_ = std::exchange(other.bytes_, {});
    return *this;
  }
  ~Room() { Release(); }

  bool empty() const { return executor_ == nullptr; }
  std::uint32_t id() const { return id_; }
  MutableByteView bytes() const { return bytes_; }
  void Release();
  // The executor has taken it over: nothing to give back.
  void Forget() { executor_ = nullptr, bytes_ = {}; }

 private:
  Executor* executor_ = nullptr;
  std::uint32_t id_ = 0;
  MutableByteView bytes_;
};

struct Submission {
  std::uint16_t opcode = 0;   // of kCommands with Place::kDevice, or of kExecCommands
  bool wants_status = false;  // answer StatusReply though the row has no reply
  std::uint64_t sequence = 0;
  ByteView body;                // copied
  Room payload;                 // what the command brings, or room for what it wants; moved from on success
  std::optional<Range> memory;  // CreateBuffer: where in the session's device memory the buffer lies
  bool lacks_memory = false;    // gpu::Command
};

struct Received {
  enum class Kind { kReply, kNotice, kPayloadDone };
  Kind kind = Kind::kReply;
  std::uint16_t opcode = 0;
  std::uint64_t sequence = 0;  // the command's; 0 in a notice
  ByteView body;               // valid until the next TryReceive
  Room payload;                // a reply's bytes, exactly as many as its body announces
};

enum class Receive { kGot, kNothing, kDead };

class Executor : public pace::Paced, public spill::Pages {
 public:
  ~Executor() override = default;  // ends it; its memory is the host's again when this returns

  // Memory for a buffer, reads as zero; nullopt: no free range is large enough.
  virtual std::optional<Range> AllocateMemory(std::uint64_t size_bytes) = 0;
  // Only after the executor has answered the DestroyObject. The range reads as zero again.
  virtual void FreeMemory(const Range& range) = 0;
  // Memory that others have, too, as such a range; of all of the file, whose descriptor stays the caller's
  // and is read-only if not `writable`. Nullopt: the executor cannot take it now.
  virtual std::optional<Range> MapMemory(int fd, std::uint64_t size_bytes, bool writable) = 0;
  // The memory that ranges are of, for others to map; it stays the executor's.
  virtual int memory_fd() const = 0;
  // Nullopt: full until a reply or kPayloadDone gives some back.
  virtual std::optional<Room> AllocateRoom(std::uint64_t size_bytes) = 0;
  virtual void FreeRoom(std::uint32_t id) = 0;

  // False: no room for the command now, nothing has happened; try again after some replies.
  virtual bool Submit(Submission& submission) = 0;
  // What was submitted shall be seen: the end of a batch.
  virtual void Flush() = 0;

  // kDead: there will be nothing more; EndText() says why.
  virtual Receive TryReceive(Received* received) = 0;
  // Looks for replies for some microseconds, if that has paid off lately. True: TryReceive has something.
  virtual bool Spin() = 0;
  // True: nothing is there, and wake_fd() becomes readable when something is. False: take it now.
  virtual bool PrepareToSleep() = 0;
  virtual void Awake() = 0;  // after poll()
  virtual int wake_fd() const = 0;
  virtual int death_fd() const = 0;  // readable when the executor has ended; -1: it cannot

  virtual void Kill() = 0;
  virtual std::string EndText() const = 0;  // for a person
};

inline void Room::Release() {
  if (executor_ != nullptr) std::exchange(executor_, nullptr)->FreeRoom(id_);
  bytes_ = {};
}

// Starts executors for the vGPU's device. Thread-safe.
class ExecutorFactory {
 public:
  virtual ~ExecutorFactory() = default;
  // May return before the device is open: commands may be submitted at once.
  virtual Result<std::unique_ptr<Executor>> Start() = 0;
  // What the vGPU has, for those that are started from now on.
  virtual void SetMemory(std::uint64_t /*bytes*/) {}
};

}  // namespace tulle::worker::exec
