#include "tulle/session/server_session.h"

#include <poll.h>

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "tulle/base/log.h"
#include "tulle/net/wait.h"
#include "tulle/session/delayed_output.h"
#include "tulle/session/frame_io.h"
#include "tulle/session/ledger.h"
#include "tulle/session/link.h"
#include "tulle/session/output_queue.h"
#include "tulle/session/secure.h"

namespace tulle::session {
namespace {

// Taken in by one Pump, so that replies are not starved.
constexpr std::size_t kPumpBytes = 256u << 10;
// An Ack is due at the latest after so many commands, or bytes.
constexpr std::uint64_t kAckCommands = 64;
constexpr std::uint64_t kAckBytes = 256u << 10;
// Written by one Flush, so that commands are not starved.
constexpr std::uint64_t kFlushBytes = 1u << 20;
// A worker that ignores pending_bytes() cannot queue more.
constexpr std::size_t kMaxQueuedBytes = 64u << 20;
// What End() gives the client.
constexpr Duration kFarewell = std::chrono::seconds(1);
constexpr std::size_t kLoggedTextBytes = 256;
constexpr std::size_t kPiecesPerWrite = 4;
// How often the client's host is looked at while it owes an answer.
constexpr Duration kLookInterval = std::chrono::seconds(2);
// How often the process of a client that was lost is looked at.
constexpr Duration kProcessInterval = std::chrono::milliseconds(50);
constexpr std::uint64_t kMaxFrameBytes =
    wire::kFrameHeaderBytes + wire::kMaxBodyBytes + wire::kMaxPayloadBytes;

// A client's words, fit for a line of a log.
std::string Printable(std::string_view text) {
  std::string out(text.substr(0, kLoggedTextBytes));
  std::replace_if(
      out.begin(), out.end(), [](unsigned char c) { return c < 0x20 || c >= 0x7f; }, '?');
  return out;
}

// Takes the client's Hello.
class HelloSink final : public FrameSink {
 public:
  bool WantsMore() const override { return !got_; }
  Status OnHeader(const wire::FrameHeader& header) override {
    if (header.opcode != wire::kOpcodeOf<wire::Hello> || header.sequence != 1 || header.answers != 0) {
      return Breach(wire::WireResult::kBadSequence);
    }
    if (header.flags != 0) return Breach(wire::WireResult::kBadEnum);
    if (header.payload_bytes != 0) return Breach(wire::WireResult::kBadPayload);
    return OkStatus();
  }
  Result<MutableByteView> OnPayload(const wire::FrameHeader&, ByteView) override { return MutableByteView(); }
  Status OnFrame(const wire::FrameHeader&, ByteView body, MutableByteView) override {
    wire::Arena arena;
    TULLE_RETURN_IF_ERROR(CheckedOrBreach(wire::Decode(body, 0, arena, &hello)));
    program = hello.program.text;
    got_ = true;
    return OkStatus();
  }

  wire::Hello hello;  // but for the text, whose memory is gone
  std::string program;

 private:
  bool got_ = false;
};

class Session final : public ServerSession, private FrameSink {
 public:
  Session(std::unique_ptr<Link> link, const PskIdentity& identity, Channel channel,
          const ServerLimits& limits)
      : link_(std::move(link)), limits_(limits), identity_(identity) {
    if (channel == Channel::kLocal) {
      if (auto local = net::PeerOf(link_->fd()); local.ok()) peer_.local = *local;
      process_ = net::ProcessOf(link_->fd());
    }
    peer_.channel = channel;
    peer_.vgpu = identity.vgpu;
    peer_.grant = identity.grant;
    peer_.session_id = identity.session_id;
  }

  ~Session() override {
    if (!logged_) LogEnd("dropped", "");
  }

  // Takes Hello and answers it. On an error the client has been told why, as far as it followed the protocol.
  Status Greet(const wire::LinkHeader& first, Instant deadline) {
    HelloSink sink;
    Status status = link_->Begin(first);
    if (status.ok()) status = ReadUntilSatisfied(*link_, reader_, sink, deadline);
    if (!status.ok()) {
      detail_ = status.error().message;
      failed_ = status.error().code == Code::kUnavailable;
      End(wire::EndReason::kProtocol, "");
      return status;
    }
    peer_.program = Printable(sink.program);
    peer_.process_id = sink.hello.process_id;

    wire::HelloReply reply;
    std::string reason;
    const auto refuse = [&](wire::HelloStatus why, std::string text) {
      reply.status = {why};
      reason = std::move(text);
    };
    const wire::Hello& hello = sink.hello;
    reply.version = std::min(hello.version_max, wire::kWireVersion);
    reply.capabilities =
        wire::OfOneApi(hello.capabilities & limits_.capabilities & wire::KnownCapabilities());
    if (hello.version_min > hello.version_max || reply.version < hello.version_min ||
        reply.version < wire::kWireVersionMin) {
      refuse(wire::HelloStatus::kNoCommonVersion,
             "the program's tulle speaks wire versions " + std::to_string(hello.version_min) + " to " +
                 std::to_string(hello.version_max) + ", this worker " +
                 std::to_string(wire::kWireVersionMin) + " to " + std::to_string(wire::kWireVersion) +
                 "; install the same release on both");
      reply.version = 0;
    } else if (reply.capabilities == 0) {
      refuse(wire::HelloStatus::kNoCommonCapability,
             "the worker offers nothing that the program's tulle can use; install the same release on both");
    } else if (std::string busy = limits_.busy ? limits_.busy() : ""; !busy.empty()) {
      refuse(wire::HelloStatus::kBusy, std::move(busy));
    } else if (const Status place = TakePlace(); !place.ok()) {
      refuse(wire::HelloStatus::kBusy, place.error().message);
    }
    if (reply.status.value == wire::HelloStatus::kAccepted) {
      if (place_ != nullptr) {
        reply.resume_ms = static_cast<std::uint32_t>(limits_.resume_window / std::chrono::milliseconds(1));
        reply.resume_token = {place_->token()};
      }
      reply.window_bytes = std::min(limits_.window_bytes, wire::kMaxWindowBytes);
      reply.memory_limit_bytes = limits_.memory_limit_bytes;
    }
    reply.reason = {std::string_view(reason).substr(0, wire::kMaxReasonBytes)};
    capabilities_ = reply.capabilities;
    version_ = reply.version;
    AppendMessage(output_.tail(), wire::kOpcodeOf<wire::Hello>, ++sent_sequence_, 1, reply);
    const std::size_t reply_bytes = output_.size();
    TULLE_RETURN_IF_ERROR(WriteAll(*link_, output_.tail().data(), deadline));
    bytes_sent_ += reply_bytes;
    output_.Consume(reply_bytes);
    if (reply.status.value == wire::HelloStatus::kAccepted) {
      link_->AllowResume(place_ != nullptr);
      if (wire::Has(capabilities_, wire::Capability::kCompression) && peer_.channel != Channel::kLocal)
        link_->AllowCompression();
      sends_parts_ = wire::Has(capabilities_, wire::Capability::kParts);
      if (sends_parts_) link_->AllowAsking();
      return OkStatus();
    }
    ended_ = true;
    AwaitClose(net::Now() + kFarewell);
    LogEnd("refused", reason);
    return SessionError(Code::kFailedPrecondition, reason);
  }

  const Peer& peer() const override { return peer_; }
  std::uint64_t capabilities() const override { return capabilities_; }
  int fd() const override { return link_->fd(); }
  short events() const override {
    if (link_->down()) return 0;
    short events = 0;
    if (!paused_ && !ended_) events |= link_->read_events();
    if (!output_.empty()) {
      events |= link_->write_events();
    } else if (!delayed_.empty()) {
      events |= delayed_by_client() ? POLLIN : POLLOUT;
    }
    if (link_->wants_to_write()) events |= POLLOUT;
    return events;
  }
  bool has_buffered_input() const override {
    return !paused_ && !ended_ && (stopped_early_ || link_->has_buffered_input());
  }
  int wake_fd() const override { return place_ == nullptr ? -1 : place_->fd(); }
  std::optional<Instant> next_look() const override {
    if (link_->down()) {
      if (!lost_at_) return net::Now();
      const Instant end = *lost_at_ + limits_.resume_window;
      return process_.valid() ? std::min(end, net::Now() + kProcessInterval) : end;
    }
    if (link_->awaits_peer()) return looked_at_ + kLookInterval;
    return std::nullopt;
  }

  std::optional<Instant> absent_since() const override { return lost_at_; }

  Status LookAfter() override {
    if (ended_ || place_ == nullptr) return OkStatus();
    const Instant now = net::Now();
    while (auto offer = place_->Take()) {
      link_->Drop();
      const Status adopted =
          link_->Adopt(std::move(offer->connection), offer->received_bytes, /*answer=*/true);
      if (!adopted.ok()) {
        failed_ = true;
        return adopted;
      }
      lost_at_.reset();
      ++resumed_;
      Log(LogLevel::kDebug, "session", "the client is back",
          {{"vgpu", peer_.vgpu}, {"session", peer_.session_id}, {"resumed", resumed_}});
    }
    if (!link_->down()) {
      if (!link_->awaits_peer()) {
        looked_at_ = now;
      } else if (now - looked_at_ >= kLookInterval) {
        looked_at_ = now;
        link_->CheckPeer();
      }
      // While nothing is read the end of the connection would not be noticed, nor a farewell before it.
      if (paused_ && net::WaitFor(link_->fd(), POLLRDHUP, now) != 0) TULLE_RETURN_IF_ERROR(ReadAhead());
    }
    if (!link_->down()) return OkStatus();
    if (!lost_at_) {
      lost_at_ = now;
      Log(LogLevel::kDebug, "session", "the client's connection was lost",
          {{"vgpu", peer_.vgpu}, {"session", peer_.session_id}});
    }
    // A process closes its connections shortly before it has ended.
    if (process_.valid() && net::WaitFor(process_.get(), POLLIN, now) != 0) {
      failed_ = true;
      return SessionError(Code::kUnavailable, "the connection was lost, and the client's process has ended");
    }
    if (now - *lost_at_ < limits_.resume_window) return OkStatus();
    failed_ = true;
    return SessionError(Code::kUnavailable, "the connection was lost, and the client did not come back");
  }
  std::size_t pending_bytes() const override { return output_.size() + delayed_.copied_bytes(); }
  bool has_output() const override { return !output_.empty() || !delayed_.empty(); }
  std::uint64_t first_delayed() const override { return delayed_.first_answered(); }
  void Pause(bool paused) override { paused_ = paused; }
  Counters counters() const override { return {received_sequence_, bytes_received_, bytes_sent_, resumed_}; }

  Result<bool> Pump(FrameHandler& handler) override {
    if (ended_) return SessionError(Code::kCancelled, "the session has ended");
    TULLE_RETURN_IF_ERROR(LookAfter());
    handler_ = &handler;
    const std::uint64_t first = received_sequence_;
    std::size_t budget = kPumpBytes;
    idle_ = false;
    // Frames that a pause had held back come before new bytes.
    Status status = stopped_early_ ? Drain() : OkStatus();
    while (status.ok() && WantsMore() && budget != 0) {
      const Result<std::size_t> got = reader_.Fill(*link_);
      if (!got.ok()) {
        failed_ = true;
        status = got.error();
        break;
      }
      if (*got == 0) {
        idle_ = true;
        break;
      }
      budget -= std::min(budget, *got);
      bytes_received_ += *got;
      status = Drain();
    }
    if (status.ok()) return received_sequence_ != first || budget != kPumpBytes;
    detail_ = status.error().message;
    if (!failed_ && !handler_failed_) {
      QueueEnd(goodbye_ ? wire::EndReason::kGoodbye : wire::EndReason::kProtocol, "");
    }
    return status.error();
  }

  Status SendRaw(std::uint16_t opcode, std::uint64_t answers, ByteView body, ByteView payload,
                 std::shared_ptr<void> owner, std::uint64_t after) override {
    if (ended_) return SessionError(Code::kCancelled, "the session has ended");
    TULLE_CHECK(body.size() <= wire::kMaxBodyBytes && payload.size() <= wire::kMaxPayloadBytes);
    const std::size_t copied = body.size() + (owner == nullptr ? payload.size() : 0);
    if (pending_bytes() + copied > kMaxQueuedBytes) {
      return SessionError(Code::kResourceExhausted,
                          "the client does not take its replies: " + FormatSize(pending_bytes()) +
                              " wait, the limit is " + FormatSize(kMaxQueuedBytes));
    }
    if (answers != 0 && !pending_.Take(answers, opcode)) {
      return Error{Code::kInvalidArgument,
                   "command " + std::to_string(answers) + " of the session awaits no such answer"};
    }
    wire::FrameHeader header;
    header.body_bytes = static_cast<std::uint32_t>(body.size());
    header.opcode = opcode;
    header.answers = answers;
    header.payload_bytes = payload.size();
    const bool large = sends_parts_ && payload.size() >= kPartedPayloadBytes;
    if (large || (!delayed_.empty() && after >= delayed_.first_answered())) {
      delayed_.Add(header, body, payload, std::move(owner));
      return OkStatus();
    }
    header.sequence = ++sent_sequence_;
    const bool direct = payload.size() >= kDirectPayloadBytes;
    MutableByteView room = AppendFrame(output_.tail(), header, direct ? 0 : payload.size());
    std::copy(body.begin(), body.end(), room.begin());
    if (!direct) {
      std::copy(payload.begin(), payload.end(), room.begin() + static_cast<std::ptrdiff_t>(body.size()));
      return OkStatus();
    }
    const bool owned = owner != nullptr;
    output_.Hold(payload, std::move(owner));
    Status written = WriteQueued();
    if (!owned) output_.CopyLastHeld();
    return written;
  }

  bool PassDescriptor(int fd) override { return !ended_ && link_->PassDescriptor(fd); }

  void Acknowledge(std::uint64_t sequence, bool more_follows) override {
    more_follows_ = more_follows;
    TULLE_CHECK(sequence <= received_sequence_);
    // What came behind the last command for the handler was for the session itself, and is done.
    executed_ = std::max(executed_, sequence >= handed_sequence_ ? received_sequence_ : sequence);
    if (executed_ - acked_ >= kAckCommands ||
        (executed_ > acked_ && ledger_.unacked_bytes() >= std::min(kAckBytes, limits_.window_bytes / 4))) {
      QueueAck();
    }
  }

  Result<bool> Flush() override {
    // An Ack goes along with whatever is sent, or when there is nothing else to do; then rather with what
    // will be sent anyway, so that a client in step with us is not woken twice, unless the client might need
    // it to send its next frame.
    if (executed_ > acked_ && !ended_) {
      const bool resting = idle_ || paused_;
      const bool urgent = (pending_.size() == 0 && !more_follows_) ||
                          ledger_.unacked_bytes() + kMaxFrameBytes > limits_.window_bytes;
      if (has_output() || (resting && urgent)) QueueAck();
    }
    for (const std::uint64_t end = bytes_sent_ + kFlushBytes; bytes_sent_ < end;) {
      TULLE_RETURN_IF_ERROR(WriteQueued());
      if (output_.empty() && MoveDelayed()) continue;
      if (link_->wants_to_write()) TULLE_RETURN_IF_ERROR(Write({}));
      if (!has_output()) return !link_->unfinished();
      const bool on_client = output_.empty() ? delayed_by_client() : link_->blocked_on_peer();
      if (!paused_ || !on_client) return false;
      TULLE_ASSIGN_OR_RETURN(const bool progress, ReadAhead());
      if (!progress) return false;
    }
    return false;
  }

  void End(wire::EndReason reason, const std::string& message) override {
    if (logged_) return;
    link_->AllowResume(false);
    if (!failed_ && !link_->down()) {
      QueueEnd(reason, message);
      paused_ = true;
      const Instant deadline = net::Now() + kFarewell;
      for (;;) {
        const Result<bool> flushed = Flush();
        if (!flushed.ok() || net::Now() >= deadline) break;
        if (*flushed) {
          AwaitClose(deadline);
          break;
        }
        net::WaitFor(link_->fd(), events(), deadline);
      }
    }
    ended_ = true;
    output_.Clear();
    delayed_.Clear();
    place_.reset();
    link_->Shutdown();
    LogEnd(failed_ ? "connection lost" : wire::EndReasonName(end_reason_.value_or(reason)), message);
  }

 private:
  Result<std::size_t> Write(std::span<const iovec> pieces, std::span<const Link::Owner> owners = {}) {
    Result<std::size_t> taken = link_->WriteKept(pieces, owners);
    if (taken.ok()) {
      bytes_sent_ += *taken;
    } else {
      failed_ = true;
    }
    return taken;
  }

  // As much as the connection takes.
  Status WriteQueued() {
    while (!output_.empty()) {
      std::array<iovec, kPiecesPerWrite> pieces;
      std::array<Link::Owner, kPiecesPerWrite> owners;
      const std::size_t count = output_.Gather(pieces, owners);
      TULLE_ASSIGN_OR_RETURN(const std::size_t taken, Write({pieces.data(), count}, {owners.data(), count}));
      if (taken == 0) break;
      output_.Consume(taken);
    }
    return OkStatus();
  }

  // Of the payload that comes next of what was delayed.
  std::size_t NextPartBytes() const {
    const std::size_t left = delayed_.payload_left();
    return sends_parts_ ? std::min(left, link_->part_bytes()) : left;
  }
  // The client must first have taken what is under way. Precondition: something was delayed.
  bool delayed_by_client() const { return !link_->has_room_for(NextPartBytes()); }
  // What may go out now of what was delayed becomes the output; false: nothing.
  bool MoveDelayed() {
    if (delayed_.empty()) return false;
    if (delayed_by_client()) {
      link_->Ask();
      return false;
    }
    delayed_.Move(NextPartBytes(), &sent_sequence_, output_);
    return true;
  }

  // True: something had arrived.
  Result<bool> ReadAhead() {
    const std::uint64_t acknowledged = link_->acknowledged_bytes();
    const Result<std::size_t> got = link_->ReadAhead();
    if (got.ok()) return *got != 0 || link_->acknowledged_bytes() != acknowledged;
    failed_ = true;
    return got.error();
  }

  Status TakePlace() {
    if (limits_.resume_table == nullptr || limits_.resume_window <= Duration::zero()) return OkStatus();
    TULLE_ASSIGN_OR_RETURN(place_, limits_.resume_table->Add(identity_));
    return OkStatus();
  }

  Status Drain() {
    stopped_early_ = false;
    Status status = reader_.Drain(*this);
    stopped_early_ = status.ok() && reader_.has_undrained() && !WantsMore();
    return status;
  }

  // The session's last frame.
  void QueueEnd(wire::EndReason reason, const std::string& message) {
    if (std::exchange(ended_, true)) return;
    end_reason_ = reason;
    // Who leaves waits for nothing.
    if (reason == wire::EndReason::kGoodbye) delayed_.Clear();
    const wire::SessionEnded ended{{reason}, {std::string_view(message).substr(0, wire::kMaxReasonBytes)}};
    constexpr std::uint16_t kOpcode = wire::kOpcodeOf<wire::SessionEnded>;
    if (delayed_.empty()) return AppendMessage(output_.tail(), kOpcode, ++sent_sequence_, 0, ended);
    ByteVector body(wire::EncodedSize(ended));
    wire::Encode(ended, body);
    wire::FrameHeader header;
    header.body_bytes = static_cast<std::uint32_t>(body.size());
    header.opcode = kOpcode;
    delayed_.Add(header, body, {}, nullptr);
  }

  void QueueAck() {
    TULLE_CHECK(ledger_.Acknowledge(executed_));
    acked_ = executed_;
    // Without protection there is no other copy to wait for.
    AppendMessage(output_.tail(), wire::kOpcodeOf<wire::Ack>, ++sent_sequence_, 0,
                  wire::Ack{executed_, executed_});
  }

  // Closing a socket with unread input makes TCP throw away what it has not delivered: the client's bytes are
  // read, and dropped, until it closes.
  void AwaitClose(Instant deadline) {
    std::array<std::byte, 4096> dropped;
    while (net::Now() < deadline) {
      const Result<std::size_t> got = link_->Read(dropped);
      if (!got.ok()) return;
      if (*got == 0) net::WaitFor(link_->fd(), link_->read_events(), deadline);
    }
  }

  // FrameSink.
  bool WantsMore() const override { return !paused_ && !ended_ && !goodbye_; }

  Status OnHeader(const wire::FrameHeader& header) override {
    return CheckedOrBreach(CheckFromClient(header));
  }

  wire::WireResult CheckFromClient(const wire::FrameHeader& header) {
    const wire::RowInfo* row = wire::FindRow(header.opcode);
    if (row == nullptr) return wire::WireResult::kUnknownOpcode;
    if (row->mode == wire::Mode::kNotice || header.answers != 0) return wire::WireResult::kWrongDirection;
    const auto needs = static_cast<std::uint64_t>(row->needs);
    if ((needs & ~capabilities_) != 0 || row->since > version_) return wire::WireResult::kNotNegotiated;
    if (header.sequence != received_sequence_ + 1 || header.opcode == wire::kOpcodeOf<wire::Hello>) {
      return wire::WireResult::kBadSequence;
    }
    // Where others are put is known only with the whole command.
    if (IsAfterParts(header) && row->place != wire::Place::kDevice) return wire::WireResult::kBadEnum;
    if (const auto result = parts_.Check(header); result != wire::WireResult::kOk) return result;
    const bool wants_status = (header.flags & wire::kWantStatus) != 0;
    if (wants_status && row->mode != wire::Mode::kOneWay) return wire::WireResult::kBadEnum;
    if (wants_status && row->place == wire::Place::kSession) return wire::WireResult::kBadEnum;
    const std::uint64_t size = wire::kFrameHeaderBytes + header.body_bytes + header.payload_bytes;
    const bool farewell = header.opcode == wire::kOpcodeOf<wire::Goodbye>;
    if (!farewell && !ledger_.Allows(size, limits_.window_bytes)) return wire::WireResult::kLimit;
    if (row->mode == wire::Mode::kReply || wants_status) {
      if (pending_.size() == kMaxPendingReplies) return wire::WireResult::kLimit;
      pending_.Add(header.sequence, header.opcode);
    }
    ledger_.Add(static_cast<std::uint32_t>(size));
    received_sequence_ = header.sequence;
    session_frame_ = row->place == wire::Place::kSession;
    if (!session_frame_) handed_sequence_ = header.sequence;
    return wire::WireResult::kOk;
  }

  Result<MutableByteView> OnPayload(const wire::FrameHeader& header, ByteView body) override {
    if (IsPart(header)) {
      return parts_.Take(header, body, [&](std::uint64_t total_bytes) {
        Result<MutableByteView> room = handler_->OnParts(0, total_bytes);
        handler_failed_ = !room.ok();
        return room;
      });
    }
    // None of the session's other messages carries one; OnFrame will say so.
    if (session_frame_) return MutableByteView();
    if (IsAfterParts(header)) return parts_.Next(header.payload_bytes);
    Result<MutableByteView> room = handler_->OnPayload(header, body);
    handler_failed_ = !room.ok();
    return room;
  }

  Status OnFrame(const wire::FrameHeader& header, ByteView body, MutableByteView payload) override {
    if (!session_frame_) {
      wire::FrameHeader whole = header;
      if (IsAfterParts(header)) payload = parts_.Finish(&whole);
      Status status = handler_->OnFrame(whole, body, payload);
      handler_failed_ = !status.ok();
      return status;
    }
    TULLE_RETURN_IF_ERROR(CheckedOrBreach(RunOwn(header, body)));
    if (goodbye_) return SessionError(Code::kCancelled, "the client said goodbye");
    return OkStatus();
  }

  wire::WireResult RunOwn(const wire::FrameHeader& header, ByteView body) {
    arena_.Reset();
    wire::WireResult result = wire::WireResult::kWrongDirection;
    if (header.opcode == wire::kOpcodeOf<wire::Ping>) {
      wire::Ping ping;
      result = wire::Decode(body, header.payload_bytes, arena_, &ping);
      if (result == wire::WireResult::kOk &&
          !SendReply(header.opcode, header.sequence, wire::StatusReply{}).ok()) {
        result = wire::WireResult::kLimit;
      }
    } else if (IsPart(header)) {
      result = wire::WireResult::kOk;
    } else if (header.opcode == wire::kOpcodeOf<wire::Goodbye>) {
      wire::Goodbye goodbye;
      result = wire::Decode(body, header.payload_bytes, arena_, &goodbye);
      goodbye_ = result == wire::WireResult::kOk;
    }
    if (result == wire::WireResult::kOk && executed_ >= handed_sequence_) executed_ = header.sequence;
    return result;
  }

  void LogEnd(std::string_view how, const std::string& message) {
    logged_ = true;
    Log(LogLevel::kDebug, "session", "session ended",
        {{"how", how},
         {"message", Printable(message)},
         {"detail", Printable(detail_)},
         {"vgpu", peer_.vgpu},
         {"grant", peer_.grant},
         {"session", peer_.session_id},
         {"program", peer_.program},
         {"pid", peer_.process_id},
         {"frames", received_sequence_},
         {"bytes_received", bytes_received_},
         {"bytes_sent", bytes_sent_},
         {"resumed", resumed_}});
  }

  const std::unique_ptr<Link> link_;
  const ServerLimits limits_;
  const PskIdentity identity_;
  UniqueFd process_;                           // the client's, where it is known: a pidfd
  std::unique_ptr<ResumeTable::Place> place_;  // null: a lost client does not come back
  std::optional<Instant> lost_at_;             // there is no connection since then
  Instant looked_at_ = net::Now();
  Peer peer_;
  std::uint16_t version_ = 0;
  std::uint64_t capabilities_ = 0;

  FrameReader reader_;
  FrameHandler* handler_ = nullptr;      // during Pump
  std::uint64_t received_sequence_ = 1;  // Hello was the first
  std::uint64_t handed_sequence_ = 1;    // the last that went to the handler
  std::uint64_t executed_ = 1;
  std::uint64_t acked_ = 1;    // told to the client
  bool more_follows_ = false;  // without a command of the client's
  CreditLedger ledger_{1};
  PendingReplies pending_;
  PayloadParts parts_;
  wire::Arena arena_;
  bool session_frame_ = false;  // the frame at hand is for the session itself
  bool paused_ = false;
  bool stopped_early_ = false;  // whole frames may be here that were not handed over
  bool idle_ = false;           // the last Pump took everything that had arrived

  OutputQueue output_;
  DelayedOutput delayed_;  // comes behind it
  bool sends_parts_ = false;
  std::uint64_t sent_sequence_ = 0;
  std::uint64_t bytes_received_ = 0;
  std::uint64_t bytes_sent_ = 0;
  std::uint64_t resumed_ = 0;

  bool handler_failed_ = false;
  bool goodbye_ = false;
  bool failed_ = false;  // the connection is gone
  bool ended_ = false;   // nothing more is taken from either side
  bool logged_ = false;
  std::optional<wire::EndReason> end_reason_;
  std::string detail_;  // what made Pump fail: for the log, never for the client
};

// Gives the connection of a client that is back to its session.
Status Resume(std::unique_ptr<net::Transport>& connection, const PskIdentity& identity,
              const wire::LinkHeader& header, const ServerLimits& limits, Instant deadline) {
  wire::LinkResume request;
  TULLE_RETURN_IF_ERROR(ReadAll(*connection, std::as_writable_bytes(std::span(&request, 1)), deadline));
  ResumeTable::Offer offer{std::move(connection), header.received_bytes};
  Status handed = Error{Code::kNotFound, "no session here is resumed", Scope::kSession};
  if (limits.resume_table != nullptr) handed = limits.resume_table->Hand(identity, request, offer);
  if (handed.ok()) return handed;
  const wire::LinkHeader answer{0, wire::kLinkUnknown, 0};
  TULLE_RETURN_IF_ERROR(WriteAll(*offer.connection, std::as_bytes(std::span(&answer, 1)), deadline));
  return handed;
}

}  // namespace

Result<std::unique_ptr<ServerSession>> ServerSession::Accept(UniqueFd socket, const ServerLimits& limits,
                                                             const KeyLookup& keys) {
  const Instant deadline = net::Now() + limits.handshake_timeout;
  Result<SecuredPeer> secured = SecureServer(std::move(socket), limits.allow_plain_tcp, keys, deadline);
  if (!secured.ok()) {
    Log(LogLevel::kDebug, "session", "connection refused", {{"why", Printable(secured.error().message)}});
    return secured.error();
  }
  std::unique_ptr<net::Transport>& connection = secured->transport;
  const PskIdentity& identity = secured->identity;
  const auto refused = [&](Error error) {
    Log(LogLevel::kDebug, "session", "connection refused",
        {{"why", Printable(error.message)}, {"vgpu", identity.vgpu}, {"grant", identity.grant}});
    return error;
  };
  const Result<wire::LinkHeader> first = ReadLinkHeader(*connection, /*from_client=*/true, deadline);
  if (!first.ok()) return refused(first.error());
  if ((first->flags & wire::kLinkResume) != 0) {
    const Status resumed = Resume(connection, identity, *first, limits, deadline);
    if (!resumed.ok()) return refused(resumed.error());
    return std::unique_ptr<ServerSession>();
  }
  auto link = Link::Make(std::move(connection), /*from_client=*/true);
  if (!link.ok()) return refused(link.error());
  auto session = std::make_unique<Session>(*std::move(link), identity, secured->channel, limits);
  TULLE_RETURN_IF_ERROR(session->Greet(*first, deadline));
  return std::unique_ptr<ServerSession>(std::move(session));
}

}  // namespace tulle::session
