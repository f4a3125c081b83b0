// A session's two byte streams over connections that may be lost: what was written and has not arrived is
// kept, and is sent again over the next connection from the byte on that the peer lacks (wire/link.h). To the
// frames above it is one Transport. While the connection is down it takes and gives nothing, and its fd() is
// never ready; whoever owns the session finds another connection and calls Adopt().
//
// Threads: as of a Transport, one thread reads while another writes, at a time. "The reader's" calls belong
// to the first. Bounds: ByteLog::kCapacityBytes of what was sent; ReadAhead() up to the window.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <optional>

#include "tulle/base/clock.h"
#include "tulle/base/unique_fd.h"
#include "tulle/net/transport.h"
#include "tulle/session/compression.h"
#include "tulle/session/flight_limit.h"
#include "tulle/session/frame_io.h"
#include "tulle/session/sent_log.h"
#include "tulle/wire/link.h"

namespace tulle::session {

class Link final : public net::Transport {
 public:
  // A new session's, over its first connection, on which nothing of the link has been read or written.
  // `from_client`: the peer is one.
  static Result<std::unique_ptr<Link>> Make(std::unique_ptr<net::Transport> connection, bool from_client);

  // Whether a lost connection is a pause rather than an error; at first it is not. The reader's.
  void AllowResume(bool allow) { resumable_ = allow; }
  // The peer understands compressed parts: they are sent where it pays, or wherever they are smaller.
  enum class Compress : std::uint8_t { kNever, kWhereItPays, kAlways };
  void AllowCompression(Compress where = Compress::kWhereItPays) { compress_ = where; }

  // The peer tells what has arrived when it is asked to (Capability::kParts).
  void AllowAsking() { asks_ = true; }

  // A header that somebody else has read from the first connection. The reader's.
  Status Begin(const wire::LinkHeader& header) { return OnHeader(header); }

  // net::Transport. Errors are final: the peer broke the protocol, has said that this was its last
  // connection, or no resumption is allowed. A Write may leave part of it in the connection's hands, as TLS
  // does: what it did not take must come first, unchanged, in the next one, over whichever connection.
  // Write({}) sends what the link itself has to say.
  Result<std::size_t> Read(MutableByteView out) override;
  Result<std::size_t> Write(std::span<const iovec> pieces) override { return WriteKept(pieces, {}); }
  // The same, without copies of pieces that stay where they are until they have arrived. owners[i] says who
  // keeps pieces[i]; beyond its end they are copied.
  struct Owner {
    bool keeps = false;           // else the piece is copied
    std::shared_ptr<void> until;  // null: the caller, until Settle()
  };
  Result<std::size_t> WriteKept(std::span<const iovec> pieces, std::span<const Owner> owners);
  // Copies what only the callers of WriteKept keep. Any thread.
  void Settle();
  int fd() const override { return poll_fd_.get(); }
  short read_events() const override;
  short write_events() const override;
  bool has_buffered_input() const override;
  void Shutdown() override;
  // Of the connection: what has not arrived when it is lost is not passed again.
  bool PassDescriptor(int fd) override;
  UniqueFd TakeDescriptor() override { return connection_->TakeDescriptor(); }
  bool carries_descriptors() const override { return connection_->carries_descriptors(); }

  // The connection is gone and another is needed. Set by Read; any thread may ask.
  bool down() const { return down_.load(std::memory_order_acquire); }
  // Gives the connection up, as if it had been lost. The reader's.
  void Drop();
  // Goes on over another connection whose peer has `peer_received` bytes. `answer`: tell it first that the
  // session is resumed. An error: the peer claims to have what was never sent. The reader's.
  Status Adopt(std::unique_ptr<net::Transport> connection, std::uint64_t peer_received, bool answer);
  // Bytes of the peer's stream that Read has given out, or that are put by for it. Any thread.
  std::uint64_t received_bytes() const { return received_.load(std::memory_order_relaxed); }

  // Write({}) would have something to say: an acknowledgement that the peer may be waiting for, or bytes to
  // be sent again. Any thread.
  bool wants_to_write() const;
  // Write({}) would go on with what earlier ones have taken and not given to the connection. Any thread.
  bool unfinished() const { return !down() && unfinished_.load(std::memory_order_relaxed); }
  // The last Write stopped because the peer must first acknowledge something. Any thread.
  bool blocked_on_peer() const { return blocked_.load(std::memory_order_relaxed); }
  // Of a large payload so much may be written now: it is what gets through in a few round trips, so that what
  // is written behind it does not wait for long. Any thread.
  bool has_room_for(std::size_t size) const {
    return !asks_.load(std::memory_order_relaxed) || flight_.room() >= size || flight_.under_way_bytes() == 0;
  }
  // The peer was not asked about all that is under way, so it might never say that there is room. Any thread.
  bool must_ask() const { return asks_ && unasked_bytes_.load(std::memory_order_relaxed) != 0; }
  // Write({}) has the peer asked, if that must be. Any thread.
  void Ask() { ask_now_.store(must_ask(), std::memory_order_relaxed); }
  // A good size for parts of a large payload: neither does one fill the connection for long, nor does it run
  // dry between two. Any thread.
  std::size_t part_bytes() const;
  // Of this end's stream, as the peer has said. Any thread.
  std::uint64_t acknowledged_bytes() const { return acked_.load(std::memory_order_relaxed); }
  // Puts by what has arrived, for later Reads, to see acknowledgements behind it. The reader's.
  Result<std::size_t> ReadAhead();

  // From here on this end says that it will not come back.
  void SayFarewell() { farewell_out_.store(true, std::memory_order_relaxed); }

  // Something was sent on this connection of which nothing is known yet: CheckPeer() is due a while later.
  // Any thread.
  bool awaits_peer() const { return awaits_peer_.load(std::memory_order_relaxed); }
  // Ends the connection if its peer's host has been silent although it should have answered. Any thread.
  void CheckPeer();

  // In the child of a fork: closes the descriptors without a byte written; takes no lock and frees nothing.
  void AbandonAfterFork();

 private:
  // What a Write was given, and how far it got.
  struct Feed;

  Link(std::unique_ptr<net::Transport> connection, bool from_client, UniqueFd poll_fd, UniqueFd idle_fd);

  Result<std::size_t> ReadConnection(MutableByteView out);
  Result<std::size_t> Pull(MutableByteView out);
  bool has_unread() const { return in_begin_ != in_end_ || connection_->has_buffered_input(); }
  Result<std::size_t> Lost(const Error& error);
  Status OnHeader(const wire::LinkHeader& header);
  void ForgetAcknowledged();
  bool StartHeader(Feed& feed);
  // The feed's next bytes as a block to be sent, if that pays.
  bool Pack(Feed& feed, std::size_t size);
  void Log(Feed& feed, std::size_t size);
  bool Push(Feed& feed);
  Result<std::size_t> ReadBlock(MutableByteView out);
  Error Broken(wire::WireResult how);
  bool acknowledgement_due() const;

  const bool from_client_;
  const UniqueFd poll_fd_;  // always the connection's, or idle_fd_'s, under one number
  const UniqueFd idle_fd_;  // never ready
  std::atomic<bool> resumable_{false};
  std::atomic<bool> closed_{false};
  std::atomic<bool> down_{false};
  std::atomic<bool> awaits_peer_{false};

  // The reader's; the connection is also the writer's, under write_mutex_.
  std::unique_ptr<net::Transport> connection_;
  std::array<std::byte, 4096> in_buffer_;
  std::size_t in_begin_ = 0, in_end_ = 0;
  std::array<std::byte, wire::kLinkHeaderBytes> in_header_;
  std::size_t in_header_size_ = 0;
  std::uint32_t in_left_ = 0;  // data behind the last header that has not been read
  bool in_packed_ = false;     // it is a block,
  ByteVector in_block_;        // of which this is here; its LinkBlock first
  std::size_t in_block_size_ = 0;
  bool farewell_in_ = false;
  std::optional<Error> breach_;  // of the protocol, by the peer
  ByteQueue ahead_;

  std::atomic<std::uint64_t> received_{0};  // of the peer's stream; written by the reader
  std::atomic<std::uint64_t> asked_at_{0};  // of that, what the peer wants to be told of; by the reader
  std::atomic<std::uint64_t> told_{0};      // of that, in a header of ours; written by the writer
  std::atomic<std::uint64_t> acked_{0};     // of our stream, by the peer; written by the reader
  std::atomic<std::uint64_t> offered_{0};   // the most of our stream that can have arrived
  std::atomic<bool> blocked_{false};
  std::atomic<bool> unfinished_{false};  // a header, or what it announced out of the log, is not written
  std::atomic<bool> farewell_out_{false};
  std::atomic<bool> asks_{false};
  FlightLimit flight_;

  std::mutex write_mutex_;  // guards everything below, and replaces connection_
  SentLog log_;
  std::uint64_t resend_at_ = 0;   // up to the log's end: to be sent again
  std::uint64_t skip_bytes_ = 0;  // had arrived before their Write had taken them
  std::array<std::byte, wire::kLinkHeaderBytes> out_header_;
  std::size_t out_header_left_ = 0;
  std::uint32_t out_left_ = 0;  // data behind the last header that has not been written
  bool out_of_log_ = false;     // it comes out of the log
  bool out_packed_ = false;     // it is out_block_, whose plain bytes are in the log
  ByteVector out_block_, out_plain_;
  std::size_t out_block_size_ = 0;
  CompressionPolicy compression_;
  std::atomic<Compress> compress_{Compress::kNever};
  std::uint32_t answer_flags_ = 0;
  std::atomic<std::uint64_t> unasked_bytes_{0};  // sent since the last header that asked
  std::atomic<bool> ask_now_{false};
  std::optional<Error> write_error_;  // the connection's; the reader will find out
};

// The first header of a connection, by a peer that is a client or a worker.
Result<wire::LinkHeader> ReadLinkHeader(net::Transport& connection, bool from_client, Instant deadline);

}  // namespace tulle::session
