// The client's end of a session: one process attached to one vGPU.
//
// Any thread may send. Frames gather in an outgoing buffer; they leave when the link is idle (unless a flush
// usually follows at once: flush_policy.h), when enough have gathered, when an acknowledgement arrives, when
// a caller waits, on Flush(), and at the latest a millisecond after they were queued. Whoever waits for an
// answer reads the socket itself (leader/follower); when nobody waits, the session's I/O thread does. Sends
// beyond the worker's window, or into a full socket, block; who is blocked reads meanwhile.
//
// A lost connection is not the end: the I/O thread looks for another for as long as the worker waits, and
// until then sends and waits just take longer. When none is found, or the worker does not have the session
// any more, that is final: every wait returns, every later send fails, OnLost is called once.
//
// The handler's calls are made by whichever thread reads, one at a time, with the receive lock held. Inside
// them no call of the session is allowed but limits() and lost(): what an arriving frame causes to be sent
// is noted down and sent by another thread. (Send and the waits answer kFailedPrecondition there.) The two
// about work are not among them.
#pragma once

#include <functional>
#include <memory>

#include "tulle/base/clock.h"
#include "tulle/base/random.h"
#include "tulle/base/unique_fd.h"
#include "tulle/session/attach.h"
#include "tulle/session/frame_handler.h"
#include "tulle/wire/command_table.h"

namespace tulle::session {

class ClientHandler : public FrameHandler {
 public:
  // The session is over: `error` is the worker's last word (SessionEnded) or what happened to the
  // connection. Called at most once, like OnFrame; no frame follows. Not called for Close().
  virtual void OnLost(const Error& error) = 0;

  // Whether frames have left work that was not to be done while they were handled: the program's callbacks.
  // Asked after frames have been handled, by any thread, without a lock of the session.
  virtual bool HasWork() const { return false; }
  // It is to be done: by the caller, before it returns, which may take as long as it likes and use the
  // session (another thread of the session's reads meanwhile); or by a thread of the handler's own.
  enum class Who { kCaller, kAnother };
  virtual void Work(Who) {}
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
    std::string trace_path;                               // of a file to write (trace.h); empty: none
    bool trace_payloads = false;
    std::uint64_t capabilities = wire::OpenClCapabilities();  // that are offered
  };

  // Tries the endpoints in order. `handler` must outlive the session. The error says for each endpoint what
  // went wrong; kPermissionDenied and kUnauthenticated: a worker answered, and refused the grant.
  static Result<std::unique_ptr<ClientSession>> Connect(const Options& options, ClientHandler* handler);
  // The same over a connected stream socket of which nothing was read; the target's endpoints are not used,
  // and the loss of this connection is final.
  static Result<std::unique_ptr<ClientSession>> ConnectOver(UniqueFd socket, const Options& options,
                                                            ClientHandler* handler);
  virtual ~ClientSession() = default;

  virtual const SessionLimits& limits() const = 0;

  // Queues one command and returns its sequence number. `payload` is gathered from the pieces and must
  // total what the message announces; it is copied or written out before the call returns, except that a
  // `lent` one must stay as it is until the next Settle(): that spares the copy that is kept in case the
  // connection is lost.
  // `before_send(argument, sequence)` runs under the send lock, before the frame can be answered: the place
  // to register who waits for the sequence number.
  using BeforeSend = void (*)(void* argument, std::uint64_t sequence);
  template <wire::Message M>
  Result<std::uint64_t> Send(const M& message, std::span<const ByteView> payload = {},
                             std::uint16_t flags = 0, BeforeSend before_send = nullptr,
                             void* argument = nullptr, bool lent = false) {
    constexpr std::uint16_t kOpcode = wire::kOpcodeOf<M>;
    wire::Mode mode{};
    wire::Place place{};
    wire::WithRow(wire::kCommands, kOpcode, [&](const auto& row) {
      mode = row.mode;
      place = row.place;
    });
    return SendFrame(
        {kOpcode, flags, mode, place, wire::EncodedSize(message), wire::AnnouncedPayload(message), payload,
         [](MutableByteView out, const void* m) { wire::Encode(*static_cast<const M*>(m), out); }, &message,
         before_send, argument, lent});
  }
  // The program may have back all that was lent: what may still have to be sent again is copied.
  virtual void Settle() = 0;

  // Puts everything queued on the wire.
  virtual Status Flush() = 0;

  // Flushes, then reads until `done()` is true or the session is lost (then its error). `done` is called
  // with the receive lock held and must be cheap. Spins briefly before it sleeps.
  virtual Status WaitUntil(const std::function<bool()>& done) = 0;

  // Reads what has arrived, without waiting.
  virtual void Poll() = 0;

  virtual bool lost() const = 0;

  // Whether the worker can pass descriptors: it is on this host.
  virtual bool carries_descriptors() const = 0;
  // Within OnFrame: the descriptor that came with the frame or before it; invalid: none.
  virtual UniqueFd TakeDescriptor() = 0;

  // Sends Goodbye, flushes, waits until the worker has taken it (both for at most a second), closes, ends the
  // I/O thread. Threads that wait are woken with an error. No call may follow; not from the handler.
  virtual void Close() = 0;

  // In the child of a fork, before anything else touches this session there: gives the connection up without
  // a byte written, so that the parent's goes on. Takes no lock and frees nothing, because the parent's other
  // threads may have held either; the object may then only be leaked (unique_ptr::release).
  virtual void AbandonAfterFork() = 0;

 protected:
  struct Outgoing {
    std::uint16_t opcode;
    std::uint16_t flags;
    wire::Mode mode;
    wire::Place place;
    std::size_t body_bytes;
    std::uint64_t announced_bytes;  // of payload, by the message
    std::span<const ByteView> payload;
    void (*encode)(MutableByteView out, const void* message);
    const void* message;
    BeforeSend before_send;
    void* argument;
    bool lent;
  };
  virtual Result<std::uint64_t> SendFrame(const Outgoing& frame) = 0;
};

}  // namespace tulle::session
