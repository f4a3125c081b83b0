#include "tulle/session/link.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "tulle/net/tcp/peer.h"
#include "tulle/net/wait.h"

namespace tulle::session {
namespace {

// So much is taken in before the peer is told, if nothing else is sent: a few messages to a full log.
constexpr std::uint64_t kTellBytes = 1u << 20;
// Put by at most: a client may have this much under way, and its farewell.
constexpr std::size_t kMaxAheadBytes = wire::kMaxWindowBytes + 64u * 1024;
// A part of a large payload, with what is in front of it, fills records of TLS, and at most one header of the
// link.
constexpr std::uint64_t kRecordBytes = 16u << 10;
constexpr std::uint64_t kMostPartBytes = wire::kMaxLinkDataBytes + wire::kLinkHeaderBytes;
constexpr std::uint64_t kBeforePartBytes = wire::kLinkHeaderBytes + wire::kFrameHeaderBytes + 16;
// Of the pieces of one Write; more are left for the next round.
constexpr std::size_t kPieces = 64;

Error LinkError(Code code, std::string message) { return {code, std::move(message), Scope::kSession}; }

}  // namespace

struct Link::Feed {
  std::span<const iovec> pieces;
  std::span<const Owner> owners;
  std::size_t offset = 0;  // in the first
  std::size_t left = 0;
  std::size_t taken = 0;

  Feed(std::span<const iovec> all, std::span<const Owner> keepers) : pieces(all), owners(keepers) {
    for (const iovec& piece : pieces) left += piece.iov_len;
    SkipEmpty();
  }
  // What is left of the first piece; not empty unless nothing is left.
  ByteView front() const {
    return {static_cast<const std::byte*>(pieces.front().iov_base) + offset, pieces.front().iov_len - offset};
  }
  void Advance(std::size_t size) {
    left -= size;
    taken += size;
    while (size != 0) {
      const std::size_t step = std::min(size, front().size());
      offset += step;
      size -= step;
      SkipEmpty();
    }
  }
  void SkipEmpty() {
    while (!pieces.empty() && offset == pieces.front().iov_len) {
      pieces = pieces.subspan(1);
      if (!owners.empty()) owners = owners.subspan(1);
      offset = 0;
    }
  }
};

Result<std::unique_ptr<Link>> Link::Make(std::unique_ptr<net::Transport> connection, bool from_client) {
  UniqueFd poll_fd(fcntl(connection->fd(), F_DUPFD_CLOEXEC, 0));
  if (!poll_fd.valid()) return ErrnoError("duplicate a session's socket", errno);
  // A timer that is never set.
  UniqueFd idle_fd(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  if (!idle_fd.valid()) return ErrnoError("prepare a session", errno);
  return std::unique_ptr<Link>(
      new Link(std::move(connection), from_client, std::move(poll_fd), std::move(idle_fd)));
}

Link::Link(std::unique_ptr<net::Transport> connection, bool from_client, UniqueFd poll_fd, UniqueFd idle_fd)
    : from_client_(from_client),
      poll_fd_(std::move(poll_fd)),
      idle_fd_(std::move(idle_fd)),
      connection_(std::move(connection)) {}

// --- reading ---

Result<std::size_t> Link::Read(MutableByteView out) {
  if (ahead_.empty()) {
    TULLE_ASSIGN_OR_RETURN(const std::size_t got, ReadConnection(out));
    if (got != 0 || ahead_.empty()) return got;
  }
  const std::size_t size = std::min(out.size(), ahead_.size());
  std::memcpy(out.data(), ahead_.data().data(), size);
  ahead_.Consume(size);
  return size;
}

Result<std::size_t> Link::ReadAhead() {
  const std::size_t before = ahead_.size();
  for (;;) {
    std::array<std::byte, 16u << 10> piece;
    const std::size_t held = ahead_.size();
    TULLE_ASSIGN_OR_RETURN(const std::size_t got, ReadConnection(piece));
    ahead_.Append(ByteView(piece).first(got));
    if (ahead_.size() == held) return held - before;
    if (ahead_.size() > kMaxAheadBytes) return Breach(wire::WireResult::kLimit);
  }
}

// What comes next on the connection; what is short together with more, as what follows is mostly there too.
Result<std::size_t> Link::Pull(MutableByteView out) {
  if (in_begin_ == in_end_) {
    if (out.size() >= in_buffer_.size()) return connection_->Read(out);
    in_begin_ = in_end_ = 0;
    TULLE_ASSIGN_OR_RETURN(in_end_, connection_->Read(in_buffer_));
  }
  const std::size_t size = std::min(out.size(), in_end_ - in_begin_);
  std::memcpy(out.data(), in_buffer_.data() + in_begin_, size);
  in_begin_ += size;
  return size;
}

// Bytes of the stream: in `out`, or, of a block for which it has no room, in ahead_; then 0 are in `out`.
Result<std::size_t> Link::ReadConnection(MutableByteView out) {
  std::size_t total = 0;
  // More than one piece of the stream if they are here already.
  while (!breach_ && !out.empty() && !down() && (total == 0 || has_unread())) {
    const bool in_header = in_left_ == 0;
    if (!in_header && in_packed_) {
      if (total != 0) return total;
      const std::size_t held = ahead_.size();
      const Result<std::size_t> got = ReadBlock(out);
      if (!got.ok() || *got != 0 || ahead_.size() != held) return got;
      break;
    }
    const MutableByteView place =
        in_header ? std::span(in_header_).subspan(in_header_size_)
                  : MutableByteView(out.first(std::min<std::size_t>(out.size(), in_left_)));
    const Result<std::size_t> got = Pull(place);
    if (!got.ok()) {
      if (total != 0) return total;  // the error comes again
      return Lost(got.error());
    }
    if (*got == 0) break;
    if (!in_header) {
      in_left_ -= static_cast<std::uint32_t>(*got);
      received_.fetch_add(*got, std::memory_order_relaxed);
      out = out.subspan(*got);
      total += *got;
      continue;
    }
    in_header_size_ += *got;
    if (in_header_size_ != in_header_.size()) continue;
    in_header_size_ = 0;
    wire::LinkHeader header;
    std::memcpy(&header, in_header_.data(), sizeof header);
    if (const Status status = OnHeader(header); !status.ok()) breach_ = status.error();
  }
  if (breach_ && total == 0) return *breach_;
  return total;
}

// The block at hand, or more of it. 0, and nothing in ahead_: the rest has not arrived.
Result<std::size_t> Link::ReadBlock(MutableByteView out) {
  for (;;) {
    constexpr std::size_t kPrefix = sizeof(wire::LinkBlock);
    std::size_t wanted = kPrefix;
    if (in_block_size_ >= kPrefix) {
      wire::LinkBlock block;
      std::memcpy(&block, in_block_.data(), sizeof block);
      if (block.packed_bytes == 0 || block.packed_bytes >= in_left_) return Broken(wire::WireResult::kLimit);
      wanted += block.packed_bytes;
    }
    if (in_block_.size() < wanted) in_block_.resize(wanted);
    if (in_block_size_ < wanted) {
      const Result<std::size_t> got =
          Pull(std::span(in_block_).subspan(in_block_size_, wanted - in_block_size_));
      if (!got.ok()) return Lost(got.error());
      if (*got == 0) return std::size_t{0};
      in_block_size_ += *got;
      continue;
    }
    const std::size_t size = std::exchange(in_left_, 0);
    in_block_size_ = 0;
    const bool direct = out.size() >= size && ahead_.empty();
    const MutableByteView plain = direct ? out.first(size) : ahead_.Append(size);
    if (!UnpackBlock(ByteView(in_block_).subspan(kPrefix, wanted - kPrefix), plain)) {
      return Broken(wire::WireResult::kBadEnum);
    }
    received_.fetch_add(size, std::memory_order_relaxed);
    return direct ? size : 0;
  }
}

Status Link::OnHeader(const wire::LinkHeader& header) {
  TULLE_RETURN_IF_ERROR(CheckedOrBreach(wire::CheckLinkHeader(header, /*first=*/false, from_client_)));
  if (header.received_bytes < acked_.load(std::memory_order_relaxed) ||
      header.received_bytes > offered_.load(std::memory_order_acquire)) {
    return Breach(wire::WireResult::kBadSequence);
  }
  acked_.store(header.received_bytes, std::memory_order_release);
  flight_.OnAcknowledged(header.received_bytes, net::Now());
  if ((header.flags & wire::kLinkTell) != 0) {
    asked_at_.store(received_.load(std::memory_order_relaxed) + header.data_bytes, std::memory_order_relaxed);
  }
  farewell_in_ |= (header.flags & wire::kLinkFarewell) != 0;
  in_left_ = header.data_bytes;
  in_packed_ = (header.flags & wire::kLinkPacked) != 0;
  return OkStatus();
}

Error Link::Broken(wire::WireResult how) {
  breach_ = Breach(how);
  return *breach_;
}

Result<std::size_t> Link::Lost(const Error& error) {
  if (!resumable_ || farewell_in_ || closed_.load(std::memory_order_acquire)) return error;
  Drop();
  return std::size_t{0};
}

void Link::Drop() {
  if (down()) return;
  connection_->Shutdown();
  dup3(idle_fd_.get(), poll_fd_.get(), O_CLOEXEC);
  down_.store(true, std::memory_order_release);
}

// --- writing ---

bool Link::acknowledgement_due() const {
  const std::uint64_t received = received_.load(std::memory_order_relaxed);
  const std::uint64_t told = told_.load(std::memory_order_relaxed);
  const std::uint64_t asked_at = asked_at_.load(std::memory_order_relaxed);
  return received - told >= kTellBytes || (told < asked_at && asked_at <= received);
}

bool Link::wants_to_write() const {
  return !down() && (acknowledgement_due() || unfinished_.load(std::memory_order_relaxed) ||
                     ask_now_.load(std::memory_order_relaxed));
}

std::size_t Link::part_bytes() const {
  const std::uint64_t quarter = std::min(flight_.limit_bytes() / 4, kMostPartBytes);
  return quarter / kRecordBytes * kRecordBytes - kBeforePartBytes;
}

// What is being sent again is offered to the connection until it says that it has taken it, even if the peer
// has acknowledged it before.
void Link::ForgetAcknowledged() {
  log_.ForgetBefore(std::min(acked_.load(std::memory_order_acquire), resend_at_));
}

void Link::Settle() {
  const std::lock_guard lock(write_mutex_);
  ForgetAcknowledged();
  log_.Settle();
}

Result<std::size_t> Link::WriteKept(std::span<const iovec> pieces, std::span<const Owner> owners) {
  const std::lock_guard lock(write_mutex_);
  if (closed_.load(std::memory_order_relaxed)) {
    return LinkError(Code::kUnavailable, "the session is closed");
  }
  if (write_error_ && !resumable_.load(std::memory_order_relaxed)) return *write_error_;
  if (write_error_ || down()) return std::size_t{0};
  ForgetAcknowledged();
  Feed feed(pieces, owners);
  // What the peer had before it was taken from whoever writes.
  const auto skipped = static_cast<std::size_t>(std::min<std::uint64_t>(skip_bytes_, feed.left));
  feed.Advance(skipped);
  skip_bytes_ -= skipped;
  bool open = true;
  while (open) {
    const bool finished = out_header_left_ == 0 && out_left_ == 0;
    if (finished && !StartHeader(feed)) break;
    // The rest of what a header announced must be here, as the connection may have sealed it already.
    if (!out_of_log_ && !out_packed_ && feed.left < out_left_) break;
    open = Push(feed) && out_header_left_ == 0 && out_left_ == 0;
  }
  const bool busy = asks_ && 2 * flight_.under_way_bytes() >= flight_.limit_bytes();
  if (feed.left == 0 && out_left_ == 0 && !busy) compression_.OnDrained();
  const bool kept = out_of_log_ || out_packed_;  // what is being sent is the link's own
  const bool own = out_header_left_ != 0 || (kept && out_left_ != 0) || resend_at_ != log_.end();
  unfinished_.store(!write_error_ && own && (kept || out_left_ == 0), std::memory_order_relaxed);
  return feed.taken;
}

// False: there is nothing to say, or the peer must first acknowledge something.
bool Link::StartHeader(Feed& feed) {
  out_of_log_ = resend_at_ != log_.end();
  std::uint64_t size = out_of_log_ ? log_.end() - resend_at_ : std::min(feed.left, log_.room());
  size = std::min<std::uint64_t>(size, wire::kMaxLinkDataBytes);
  if (!out_of_log_ && !log_.Reserve(size)) size = 0;  // no memory: as if there were no room
  const bool blocked = !out_of_log_ && size == 0 && feed.left != 0;
  blocked_.store(blocked, std::memory_order_relaxed);
  if (blocked) Ask();  // nothing more will be sent that could
  if (size == 0 && answer_flags_ == 0 && !acknowledgement_due() && !ask_now_) return false;
  wire::LinkHeader header;
  header.data_bytes = static_cast<std::uint32_t>(size);
  header.flags = std::exchange(answer_flags_, 0);
  if (header.flags == 0 && farewell_out_.load(std::memory_order_relaxed)) header.flags = wire::kLinkFarewell;
  // An answer stands alone.
  const bool answers = (header.flags & wire::kLinkResumed) != 0;
  if (answers) header.data_bytes = 0;
  out_packed_ = !out_of_log_ && header.flags == 0 && Pack(feed, header.data_bytes);
  if (out_packed_) header.flags = wire::kLinkPacked;
  unasked_bytes_ += header.data_bytes;
  const bool asks = asks_ && !answers && (ask_now_ || 2 * unasked_bytes_ >= flight_.limit_bytes());
  if (asks) {
    header.flags |= wire::kLinkTell;
    unasked_bytes_ = 0;
    ask_now_ = false;
  }
  header.received_bytes = received_.load(std::memory_order_relaxed);
  told_.store(header.received_bytes, std::memory_order_relaxed);
  std::memcpy(out_header_.data(), &header, sizeof header);
  out_header_left_ = out_header_.size();
  out_left_ = out_packed_ ? static_cast<std::uint32_t>(out_block_size_) : header.data_bytes;
  offered_.store(log_.end() + (out_of_log_ || out_packed_ ? 0 : out_left_), std::memory_order_release);
  // Before anything of it can be acknowledged.
  if (asks_) {
    const std::uint64_t end = resend_at_ + (out_packed_ ? 0 : header.data_bytes);
    flight_.OnSent(end, out_header_left_ + out_left_, asks, net::Now());
  }
  awaits_peer_.store(true, std::memory_order_relaxed);
  return true;
}

bool Link::Pack(Feed& feed, std::size_t size) {
  const Compress where = compress_.load(std::memory_order_relaxed);
  if (size == 0 || where == Compress::kNever) return false;
  if (where == Compress::kWhereItPays && !compression_.Wants(size, net::Now())) return false;
  ByteView plain = feed.front();
  if (plain.size() >= size) {
    plain = plain.first(size);
  } else {
    out_plain_.clear();
    std::size_t offset = feed.offset;
    for (std::size_t i = 0; out_plain_.size() != size; ++i, offset = 0) {
      const auto* bytes = static_cast<const std::byte*>(feed.pieces[i].iov_base) + offset;
      const std::size_t step = std::min(size - out_plain_.size(), feed.pieces[i].iov_len - offset);
      out_plain_.insert(out_plain_.end(), bytes, bytes + step);
    }
    plain = out_plain_;
  }
  out_block_.resize(sizeof(wire::LinkBlock) + MostPackedBytes(size));
  const Instant began = net::Now();
  const std::size_t packed = PackBlock(plain, std::span(out_block_).subspan(sizeof(wire::LinkBlock)));
  const Instant now = net::Now();
  compression_.OnBlock(size, packed == 0 ? size : packed, now - began, now);
  if (packed == 0) return false;
  const wire::LinkBlock block{static_cast<std::uint32_t>(packed)};
  std::memcpy(out_block_.data(), &block, sizeof block);
  out_block_size_ = sizeof block + packed;
  // The connection will carry other bytes than these: here they are taken.
  Log(feed, size);
  return true;
}

// The feed's next bytes may have to be sent again.
void Link::Log(Feed& feed, std::size_t size) {
  while (size != 0) {
    const ByteView bytes = feed.front().first(std::min(size, feed.front().size()));
    if (!feed.owners.empty() && feed.owners.front().keeps) {
      log_.Refer(bytes, feed.owners.front().until);
    } else {
      log_.Append(bytes);
    }
    feed.Advance(bytes.size());
    size -= bytes.size();
  }
  resend_at_ = log_.end();
}

// Gives the connection the rest of the header and of what it announced. False: the connection failed.
bool Link::Push(Feed& feed) {
  std::array<iovec, kPieces + 1> pieces;
  std::size_t count = 0;
  const auto add = [&](const std::byte* bytes, std::size_t size) {
    if (size != 0) pieces[count++] = {const_cast<std::byte*>(bytes), size};
  };
  add(out_header_.data() + out_header_.size() - out_header_left_, out_header_left_);
  std::size_t left = out_left_;
  if (out_packed_) {
    add(out_block_.data() + out_block_size_ - left, left);
  } else if (out_of_log_) {
    for (std::uint64_t at = resend_at_; left != 0 && count <= kPieces;) {
      const ByteView bytes = log_.From(at);
      const std::size_t size = std::min(left, bytes.size());
      add(bytes.data(), size);
      at += size;
      left -= size;
    }
  } else {
    std::size_t offset = feed.offset;
    for (std::size_t i = 0; left != 0 && count <= kPieces; ++i, offset = 0) {
      const std::size_t size = std::min(left, feed.pieces[i].iov_len - offset);
      add(static_cast<const std::byte*>(feed.pieces[i].iov_base) + offset, size);
      left -= size;
    }
  }
  const Result<std::size_t> taken = connection_->Write({pieces.data(), count});
  if (!taken.ok()) {
    write_error_ = taken.error();
    connection_->Shutdown();
    return false;
  }
  std::size_t offered = 0;
  for (std::size_t i = 0; i < count; ++i) offered += pieces[i].iov_len;
  const std::size_t of_header = std::min(*taken, out_header_left_);
  std::size_t data = *taken - of_header;
  out_header_left_ -= of_header;
  out_left_ -= static_cast<std::uint32_t>(data);
  if (out_of_log_) {
    resend_at_ += data;
  } else if (!out_packed_) {
    Log(feed, data);
  }
  const bool full = *taken < offered || (asks_ && 4 * flight_.under_way_bytes() >= 3 * flight_.limit_bytes());
  compression_.OnWrite(*taken, full, net::Now());
  return true;
}

// --- connections ---

Status Link::Adopt(std::unique_ptr<net::Transport> connection, std::uint64_t peer_received, bool answer) {
  const std::lock_guard lock(write_mutex_);
  if (closed_.load(std::memory_order_relaxed)) {
    return LinkError(Code::kUnavailable, "the session is closed");
  }
  if (peer_received < acked_.load(std::memory_order_relaxed) ||
      peer_received > offered_.load(std::memory_order_relaxed)) {
    return Breach(wire::WireResult::kBadSequence);
  }
  // A connection may have carried more than it had reported as taken.
  if (peer_received > log_.end()) skip_bytes_ += peer_received - log_.end();
  log_.ForgetBefore(peer_received);
  resend_at_ = peer_received;
  acked_.store(peer_received, std::memory_order_relaxed);
  offered_.store(log_.end(), std::memory_order_relaxed);
  out_header_left_ = 0;
  out_left_ = 0;
  out_packed_ = false;
  answer_flags_ = answer ? std::uint32_t{wire::kLinkResumed} : 0;
  unasked_bytes_ = 0;
  ask_now_ = false;
  flight_.Reset();
  in_header_size_ = 0;
  in_left_ = 0;
  in_block_size_ = 0;
  in_begin_ = in_end_ = 0;
  write_error_.reset();
  blocked_.store(false, std::memory_order_relaxed);
  unfinished_.store(answer || resend_at_ != log_.end(), std::memory_order_relaxed);
  connection_ = std::move(connection);
  dup3(connection_->fd(), poll_fd_.get(), O_CLOEXEC);
  down_.store(false, std::memory_order_release);
  return OkStatus();
}

short Link::read_events() const { return POLLIN; }
// Room in the log comes with what is read.
short Link::write_events() const { return blocked_on_peer() ? POLLIN : POLLOUT; }

bool Link::has_buffered_input() const { return !ahead_.empty() || (!down() && has_unread()); }

void Link::Shutdown() {
  const std::lock_guard lock(write_mutex_);
  closed_.store(true, std::memory_order_release);
  connection_->Shutdown();
  log_.ForgetBefore(log_.end());  // who keeps it may go now
}

bool Link::PassDescriptor(int fd) {
  const std::lock_guard lock(write_mutex_);
  return !down() && connection_->PassDescriptor(fd);
}

void Link::CheckPeer() {
  const std::lock_guard lock(write_mutex_);
  if (down() || write_error_) return;
  switch (net::LookAtPeer(connection_->fd())) {
    case net::PeerState::kNothingUnderWay: awaits_peer_.store(false, std::memory_order_relaxed); break;
    case net::PeerState::kUnderWay: break;
    case net::PeerState::kSilent: connection_->Shutdown(); break;
  }
}

void Link::AbandonAfterFork() {
  ::close(poll_fd_.get());
  ::close(idle_fd_.get());
  ::close(connection_->fd());
}

Result<wire::LinkHeader> ReadLinkHeader(net::Transport& connection, bool from_client, Instant deadline) {
  wire::LinkHeader header;
  TULLE_RETURN_IF_ERROR(ReadAll(connection, std::as_writable_bytes(std::span(&header, 1)), deadline));
  TULLE_RETURN_IF_ERROR(CheckedOrBreach(wire::CheckLinkHeader(header, /*first=*/true, from_client)));
  return header;
}

}  // namespace tulle::session
