// The client's end of a session: one process attached to one vGPU.
//
// Any thread may send. Frames gather in an outgoing buffer; they leave when the link is idle, when enough
// have gathered, when a caller waits, or on Flush(). Whoever waits for an answer reads the socket itself
// (leader/follower); when nobody waits, the session's I/O thread does. The handler's calls are made by
// whichever thread reads, one at a time, with the receive lock held: they must not wait for an answer.
// Sends beyond the worker's window block until it acknowledges. Loss of the connection is final in this
// version: every wait returns, every later send fails, OnLost is called once.
#pragma once

#include <functional>
#include <memory>

#include "tulle/base/clock.h"
#include "tulle/base/random.h"
#include "tulle/session/attach.h"
#include "tulle/session/frame_handler.h"
#include "tulle/wire/command_table.h"

namespace tulle::session {

class ClientHandler : public FrameHandler {
 public:
  // The session is over: `error` is the worker's last word (SessionEnded) or what happened to the
  // connection. Called once, from the reading or the sending thread; no frame follows.
  virtual void OnLost(const Error& error) = 0;
};

// What the worker told at the handshake.
struct SessionLimits {
  std::uint16_t version = 0;
  std::uint64_t capabilities = 0;
  std::uint64_t window_bytes = 0;
  std::uint64_t memory_limit_bytes = 0;
};

class ClientSession {
 public:
  struct Options {
    Target target;
    std::string program;                                  // for the worker's log
    Duration connect_timeout = std::chrono::seconds(10);  // for all endpoints together, handshake included
    Random* random = nullptr;                             // for session ids; must outlive the session
  };

  // Tries the endpoints in order. `handler` must outlive the session.
  static Result<std::unique_ptr<ClientSession>> Connect(const Options& options, ClientHandler* handler);
  virtual ~ClientSession() = default;

  virtual const SessionLimits& limits() const = 0;

  // Queues one command and returns its sequence number. `payload` is gathered from the pieces and must
  // total what the message announces; it is copied or written out before the call returns.
  template <wire::Message M>
  Result<std::uint64_t> Send(const M& message, std::span<const ByteView> payload = {}, std::uint16_t flags = 0) {
    return SendWith(wire::kOpcodeOf<M>, flags, wire::EncodedSize(message), payload,
                    [](MutableByteView out, const void* m) { wire::Encode(*static_cast<const M*>(m), out); }, &message,
                    nullptr, nullptr);
  }
  // The same; `before_send(argument, sequence)` runs under the send lock, before the frame can be answered:
  // the place to register who waits for the sequence number.
  template <wire::Message M>
  Result<std::uint64_t> Send(const M& message, std::span<const ByteView> payload, std::uint16_t flags,
                             void (*before_send)(void* argument, std::uint64_t sequence), void* argument) {
    return SendWith(wire::kOpcodeOf<M>, flags, wire::EncodedSize(message), payload,
                    [](MutableByteView out, const void* m) { wire::Encode(*static_cast<const M*>(m), out); }, &message,
                    before_send, argument);
  }

  // Puts everything queued on the wire.
  virtual Status Flush() = 0;

  // Flushes, then reads until `done()` is true or the session is lost (then its error). `done` is called
  // with the receive lock held and must be cheap. Spins briefly before it sleeps.
  virtual Status WaitUntil(const std::function<bool()>& done) = 0;

  // Reads what has arrived, without waiting.
  virtual void Poll() = 0;

  virtual bool lost() const = 0;

  // Sends Goodbye, flushes, closes, ends the I/O thread. No call may follow.
  virtual void Close() = 0;

 protected:
  using EncodeFn = void (*)(MutableByteView out, const void* message);
  virtual Result<std::uint64_t> SendWith(std::uint16_t opcode, std::uint16_t flags, std::size_t body_bytes,
                                         std::span<const ByteView> payload, EncodeFn encode, const void* message,
                                         void (*before_send)(void*, std::uint64_t), void* argument) = 0;
};

}  // namespace tulle::session
