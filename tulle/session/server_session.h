// The worker's end of a session. One thread owns it and drives it: poll fd() and wake_fd(), Pump(), Flush().
//
// A client whose connection was lost may come back within ServerLimits::resume_window: until then nothing
// arrives, fd() is never ready, and what is sent waits.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "tulle/base/clock.h"
#include "tulle/base/unique_fd.h"
#include "tulle/net/local/local.h"
#include "tulle/session/attach.h"
#include "tulle/session/channel.h"
#include "tulle/session/frame_handler.h"
#include "tulle/session/resume.h"
#include "tulle/wire/command_table.h"

namespace tulle::session {

struct ServerLimits {
  std::uint64_t capabilities = wire::KnownCapabilities();
  std::uint64_t window_bytes = wire::kMaxWindowBytes;
  std::uint64_t memory_limit_bytes = 0;
  bool allow_plain_tcp = false;  // no TLS: only where the operator says so
  Duration handshake_timeout = std::chrono::seconds(10);
  // How long a session waits for a client whose connection was lost, and where; zero or null: not at all.
  Duration resume_window{};
  ResumeTable* resume_table = nullptr;  // must outlive the session
  // Asked once the client has proved its key; unless it answers with an empty text, the handshake ends in
  // HelloStatus::kBusy with this reason, and Accept in an error. Null: never busy.
  std::function<std::string()> busy;
};

// Who attached, as proved by the handshake.
struct Peer {
  std::string vgpu;
  std::string grant;
  std::string session_id;  // 32 hex digits, chosen by the client
  std::string program;     // what the client says of itself; only for logs
  std::uint32_t process_id = 0;
  Channel channel = Channel::kTls;      // of its first connection
  std::optional<net::LocalPeer> local;  // the process at the other end, of a connection within the host
};

class ServerSession {
 public:
  // The grant's key, or an error (unknown, revoked, another vGPU). Called during the handshake.
  using KeyLookup = std::function<Result<GrantKey>(const std::string& vgpu, const std::string& grant)>;

  // TLS (or, if allowed, plain) handshake and Hello on a connected socket of which nothing was read.
  // Blocks up to the timeout. A refusal has been told to the client as far as it proved its key. Null: it
  // was a client that came back, and its connection is its session's now.
  static Result<std::unique_ptr<ServerSession>> Accept(UniqueFd socket, const ServerLimits& limits,
                                                       const KeyLookup& keys);
  virtual ~ServerSession() = default;

  virtual const Peer& peer() const = 0;
  virtual std::uint64_t capabilities() const = 0;  // that both ends have
  virtual int fd() const = 0;
  // poll() events that can make progress now (reading, and writing while output is pending).
  virtual short events() const = 0;
  virtual bool has_buffered_input() const = 0;
  // Readable when a client that was lost is back: Pump, even while paused. -1: none comes back.
  virtual int wake_fd() const = 0;
  // When to call LookAfter() at the latest; none: nothing to look after.
  virtual std::optional<Instant> next_look() const = 0;

  // Since when the client has been away; none: it is there.
  virtual std::optional<Instant> absent_since() const = 0;

  // Takes a client that is back, notices one that has gone or whose host is silent; while paused, too. An
  // error as of Pump: it did not come back in time, or never will, as its process has ended.
  virtual Status LookAfter() = 0;

  // Reads what has arrived and hands over each whole frame; at most ~256 KiB of bodies a call, so that
  // replies are not starved. False: nothing had arrived. An error ends the session: kCancelled when the
  // client said goodbye, kUnavailable when it is gone, the handler's own, or the client's breach of protocol
  // (SessionEnded{kProtocol} has been queued). What is left to do is End().
  virtual Result<bool> Pump(FrameHandler& handler) = 0;
  // While paused, Pump reads nothing: back-pressure when the worker's staging is full. May be called from
  // OnFrame: then Pump hands over no further frame, not even one that has arrived, until the pause ends.
  virtual void Pause(bool paused) = 0;

  // Queue frames to the client. `owner`, if there is one, keeps the payload until it is written, or the
  // session has ended; without one it is copied before the call returns. A reply to a command that awaits
  // none is refused (kInvalidArgument), and nothing is sent.
  //
  // Large payloads may take a while. A frame that tells of nothing but commands which do not depend on others
  // later than `after` overtakes those that answer later ones; everything else stays in order.
  static constexpr std::uint64_t kEverything = UINT64_MAX;
  virtual Status SendRaw(std::uint16_t opcode, std::uint64_t answers, ByteView body, ByteView payload,
                         std::shared_ptr<void> owner = nullptr, std::uint64_t after = kEverything) = 0;
  template <wire::Message M>
  Status SendNotice(const M& message, std::uint64_t after = kEverything) {
    return SendMessage(wire::kOpcodeOf<M>, 0, message, {}, after);
  }
  // `opcode` is the command's.
  template <wire::Message M>
  Status SendReply(std::uint16_t opcode, std::uint64_t answers, const M& message, ByteView payload = {},
                   std::uint64_t after = kEverything) {
    return SendMessage(opcode, answers, message, payload, after);
  }
  virtual bool has_output() const = 0;  // that Flush has not written
  // The first command whose answer has a large payload that is not on its way yet; kEverything: there is
  // none.
  virtual std::uint64_t first_delayed() const = 0;

  // The client gets a descriptor for what `fd` is of, no later than the next frame that is sent. False: its
  // connection carries none. It is lost when the connection is.
  virtual bool PassDescriptor(int fd) = 0;

  // All commands up to `sequence` have reached the driver. Acks are sent as needed (by Flush, which the loop
  // calls before it sleeps), not each time. `more_follows`: something will be sent anyway when a command that
  // is under way ends.
  virtual void Acknowledge(std::uint64_t sequence, bool more_follows) = 0;

  // Writes what it can; true when nothing is left. Blocks never. While paused it also reads what is needed to
  // learn that the client has taken something, without handing it over.
  virtual Result<bool> Flush() = 0;
  // Bytes queued and not yet written, but for payloads that have an owner: the worker takes no more commands
  // and replies while there are many, so that a client which does not read cannot fill its memory.
  virtual std::size_t pending_bytes() const = 0;

  // Tells the client why, unless it has been told; flushes, and waits until it has closed, both for at most a
  // second; closes. The worker, which knows more of why, logs the session's one line.
  virtual void End(wire::EndReason reason, const std::string& message) = 0;

  struct Counters {
    std::uint64_t frames_received = 0, bytes_received = 0, bytes_sent = 0;
    std::uint64_t resumed = 0;  // how often the client came back
  };
  virtual Counters counters() const = 0;

 private:
  template <wire::Message M>
  Status SendMessage(std::uint16_t opcode, std::uint64_t answers, const M& message, ByteView payload,
                     std::uint64_t after) {
    ByteVector body(wire::EncodedSize(message));
    wire::Encode(message, body);
    return SendRaw(opcode, answers, body, payload, nullptr, after);
  }
};

}  // namespace tulle::session
