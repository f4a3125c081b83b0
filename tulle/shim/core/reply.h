// Who waits for the answer to a command: a Reply is registered under the command's sequence number before
// the command can be answered, and is told exactly once, by the answer or by the loss of the session.
#pragma once

#include <array>
#include <atomic>
#include <mutex>

#include "tulle/base/bytes.h"
#include "tulle/base/result.h"
#include "tulle/wire/codec.h"
#include "tulle/wire/frame.h"
#include "tulle/wire/schema/session.h"

namespace tulle::shim {

// The methods are called by whichever thread reads the connection, with its receive lock held: no waiting,
// no call of the program.
class Reply {
 public:
  virtual ~Reply() = default;

  // Where the answer's payload shall lie; valid until one of the next two is called. An empty view discards
  // the payload.
  virtual MutableByteView Room(std::uint64_t /*payload_bytes*/) { return {}; }
  // The answer. Returns an error only for a breach of protocol. The reply may delete itself.
  virtual Status OnReply(ByteView body, ByteView payload) = 0;
  // There will be no answer. The reply may delete itself.
  virtual void OnLost() = 0;

  // Of the command that it answers; 0 until that was sent.
  std::uint64_t sequence() const { return sequence_; }

 private:
  friend class ReplyTable;
  std::uint64_t sequence_ = 0;
  Reply* next_ = nullptr;
};

// Decodes the body of a reply (payload of `payload_bytes` behind it) or says that the worker broke the
// protocol.
template <wire::Message M>
Status DecodeReply(ByteView body, std::uint64_t payload_bytes, wire::Arena& arena, M* message) {
  const wire::WireResult result = wire::Decode(body, payload_bytes, arena, message);
  if (result == wire::WireResult::kOk) return OkStatus();
  return Error{Code::kInternal,
               "worker sent a malformed " + std::string(M::kMessageName) + " (" +
                   std::string(wire::WireResultName(result)) + ")",
               Scope::kSession};
}

// A reply that one thread waits for, on that thread's stack.
class Wait : public Reply {
 public:
  bool done() const { return state_.load(std::memory_order_acquire) != kOpen; }
  // Precondition: done().
  bool lost() const { return state_.load(std::memory_order_acquire) == kLost; }

  Status OnReply(ByteView body, ByteView payload) final {
    Status status = Answered(body, payload);
    state_.store(status.ok() ? kDone : kLost, std::memory_order_release);
    return status;
  }
  void OnLost() final { state_.store(kLost, std::memory_order_release); }

 protected:
  virtual Status Answered(ByteView body, ByteView payload) = 0;

 private:
  enum State { kOpen, kDone, kLost };
  std::atomic<State> state_{kOpen};
};

// Waits for an M and hands the decoded message to `take` (a copy of what it needs: views die with the call).
template <wire::Message M, typename F>
class WaitFor final : public Wait {
 public:
  explicit WaitFor(F take) : take_(std::move(take)) {}

 private:
  Status Answered(ByteView body, ByteView payload) override {
    wire::Arena arena;
    M message;
    TULLE_RETURN_IF_ERROR(DecodeReply(body, payload.size(), arena, &message));
    take_(message);
    return OkStatus();
  }
  F take_;
};

class StatusWait final : public Wait {
 public:
  std::int32_t status = 0;

 private:
  Status Answered(ByteView body, ByteView payload) override;
};

// The status of a command that nobody waits for, asked for so that its failure is not told as the queue's.
// Deletes itself.
class Unheeded final : public Reply {
 public:
  Status OnReply(ByteView, ByteView) override {
    delete this;
    return OkStatus();
  }
  void OnLost() override { delete this; }
};

// Thread-safe.
class ReplyTable {
 public:
  // False after Close(): nobody will answer.
  bool Add(std::uint64_t sequence, Reply* reply);
  // Null when nobody waits.
  Reply* Find(std::uint64_t sequence);
  // Find, and remove.
  Reply* Take(std::uint64_t sequence);
  // Tells every reply OnLost, and refuses new ones.
  void Close();

 private:
  static constexpr std::size_t kBuckets = 256;  // sequence numbers are dense, so chains stay short
  Reply** Slot(std::uint64_t sequence);
  std::mutex mutex_;
  bool closed_ = false;
  std::array<Reply*, kBuckets> buckets_{};
};

}  // namespace tulle::shim
