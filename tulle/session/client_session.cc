#include "tulle/session/client_session.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <mutex>
#include <new>
#include <optional>
#include <utility>

#include "tulle/base/log.h"
#include "tulle/net/wait.h"
#include "tulle/session/client_hello.h"
#include "tulle/session/dial.h"
#include "tulle/session/flush_policy.h"
#include "tulle/session/frame_io.h"
#include "tulle/session/ledger.h"
#include "tulle/session/link.h"
#include "tulle/session/payload_parts.h"
#include "tulle/session/spin.h"
#include "tulle/session/trace.h"

namespace tulle::session {
namespace {

// Gathered bytes that are sent without a further reason: a TLS record.
constexpr std::size_t kFlushBytes = 16u << 10;
// Queued behind a thread that writes, before senders wait for it too.
constexpr std::size_t kMaxQueuedBytes = 256u << 10;
// The longest that a queued byte waits for company.
constexpr Duration kFlushDelay = std::chrono::milliseconds(1);
// What Close() gives the worker.
constexpr Duration kFarewell = std::chrono::seconds(1);
// How often a blocked writer looks whether it should read.
constexpr Duration kBlockedPoll = std::chrono::milliseconds(5);
// How long a large payload holds back for others at most.
constexpr Duration kCourtesy = std::chrono::microseconds(200);
constexpr std::size_t kPiecesPerWrite = 64;
// How often the worker's host is looked at while it owes an answer.
constexpr Duration kLookInterval = std::chrono::seconds(2);
// Of a lost connection: between two attempts at another, and for one of them.
constexpr Duration kFirstPause = std::chrono::milliseconds(5);
constexpr Duration kLongestPause = std::chrono::seconds(1);
constexpr Duration kFirstPatience = std::chrono::seconds(2);
constexpr Duration kLongestPatience = std::chrono::seconds(10);

class Session final : public ClientSession, private FrameSink {
 public:
  // `dialer`: null when a lost connection cannot be replaced.
  Session(std::unique_ptr<Link> link, std::shared_ptr<const Dialer> dialer, ClientHandler* handler)
      : link_(std::move(link)),
        dialer_(std::move(dialer)),
        handler_(handler),
        carries_descriptors_(link_->carries_descriptors()) {}

  ~Session() override { Close(); }

  Status Start(const Options& options, Instant deadline) {
    TULLE_ASSIGN_OR_RETURN(welcome_,
                           SayHello(*link_, reader_, options.program, options.capabilities, deadline));
    if (!options.trace_path.empty()) StartTrace(options);
    link_->AllowResume(dialer_ != nullptr && welcome_.resume_window > Duration::zero());
    if (wire::Has(welcome_.limits.capabilities, wire::Capability::kCompression) && !carries_descriptors_)
      link_->AllowCompression();
    sends_parts_ = wire::Has(welcome_.limits.capabilities, wire::Capability::kParts);
    if (sends_parts_) link_->AllowAsking();
    epoll_.reset(epoll_create1(EPOLL_CLOEXEC));
    timer_.reset(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
    epoll_event socket_event{EPOLLIN | EPOLLONESHOT, {.fd = link_->fd()}};
    epoll_event timer_event{EPOLLIN, {.fd = timer_.get()}};
    if (!epoll_.valid() || !timer_.valid() ||
        epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, link_->fd(), &socket_event) != 0 ||
        epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, timer_.get(), &timer_event) != 0) {
      return ErrnoError("prepare the session's I/O thread", errno);
    }
    return StartIoThread();
  }

  const SessionLimits& limits() const override { return welcome_.limits; }
  bool lost() const override { return lost_.load(std::memory_order_acquire); }

  // --- sending ---

  Result<std::uint64_t> SendFrame(const Outgoing& frame) override {
    if (InHandler()) return CalledFromHandler();
    std::uint64_t payload_bytes = 0;
    for (const ByteView piece : frame.payload) payload_bytes += piece.size();
    if (payload_bytes != frame.announced_bytes || payload_bytes > wire::kMaxPayloadBytes ||
        frame.body_bytes > wire::kMaxBodyBytes ||
        ((frame.flags & wire::kWantStatus) != 0 && frame.mode != wire::Mode::kOneWay)) {
      return Error{Code::kInvalidArgument, "not a frame: body " + std::to_string(frame.body_bytes) +
                                               " bytes, payload " + std::to_string(payload_bytes) + " of " +
                                               std::to_string(frame.announced_bytes) + " announced"};
    }
    try {
      if (sends_parts_ && payload_bytes >= kPartedPayloadBytes && frame.place == wire::Place::kDevice)
        return SendLarge(frame, payload_bytes);
      return SendChecked(frame, payload_bytes);
    } catch (const std::bad_alloc&) {
      return Error{Code::kResourceExhausted, "out of memory for the outgoing frame"};
    }
  }

  void Settle() override {
    Poll();  // acknowledgements spare copies
    link_->Settle();
  }

  Status Flush() override {
    if (InHandler()) return CalledFromHandler();
    if (lost()) return AwaitLoss();
    {
      const std::lock_guard send(send_mutex_);
      if (!out_.empty() && out_.size() < kFlushBytes) {
        const Duration patience = flush_policy_.OnFlush(net::Now());
        if (patience > Duration::zero()) {
          ArmTimer(patience);
          return OkStatus();
        }
      }
    }
    return FlushUntil(std::nullopt);
  }

  // --- waiting ---

  Status WaitUntil(const std::function<bool()>& done) override {
    if (InHandler()) return CalledFromHandler();
    TULLE_RETURN_IF_ERROR(FlushUntil(std::nullopt));
    return ReadUntil(done, std::nullopt);
  }

  void Poll() override {
    if (InHandler() || lost()) return;
    {
      const std::lock_guard lock(receive_mutex_);
      if (role_taken_ || loss_ || link_->down()) return;
      role_taken_ = true;
    }
    while (PumpOnce(Reader::kProgram)) {
    }
    std::unique_lock lock(receive_mutex_);
    LeaveRole();
  }

  bool carries_descriptors() const override { return carries_descriptors_; }
  UniqueFd TakeDescriptor() override { return link_->TakeDescriptor(); }

  // --- ending ---

  void Close() override {
    if (std::exchange(closed_, true) || !has_io_thread_) return;
    const Instant deadline = net::Now() + kFarewell;
    close_deadline_ns_.store(deadline.ns, std::memory_order_relaxed);
    if (!lost()) {
      link_->SayFarewell();
      if (Send(wire::Goodbye{}).ok() && FlushUntil(deadline).ok()) {
        // The worker's last word, or its end of the connection, says that all of ours arrived.
        [[maybe_unused]] const Status farewell = ReadUntil([] { return false; }, deadline);
      }
    }
    GiveUpLink();
    {
      std::unique_lock lock(receive_mutex_);
      role_free_.wait(lock, [&] { return !role_taken_; });
      Lose(SessionError(Code::kCancelled, "the session was closed"));
    }
    stop_.store(true, std::memory_order_release);
    SetTimer(std::chrono::nanoseconds(1));
    pthread_join(io_thread_, nullptr);
    if (standby_.load(std::memory_order_acquire) == Standby::kRuns) pthread_join(standby_thread_, nullptr);
    if (trace_ != nullptr) trace_->End(loss_->message);
  }

  void AbandonAfterFork() override {
    link_->AbandonAfterFork();
    if (trace_ != nullptr) trace_->AbandonAfterFork();
    ::close(epoll_.release());
    ::close(timer_.release());
  }

 private:
  // Who has the role: a thread of the program's, the same within a write, or one of the session's own.
  enum class Reader { kProgram, kWriter, kSession };

  // One thread that waits in ReadUntil() while another reads.
  struct Waiter {
    explicit Waiter(const std::function<bool()>& d) : done(d) {}
    const std::function<bool()>& done;
    enum class State { kWaiting, kReader, kFinished } state = State::kWaiting;
    std::condition_variable wake;
    Waiter* next = nullptr;
  };

  // Without one the session goes on.
  void StartTrace(const Options& options) {
    const SystemClock clock;
    auto trace = TraceWriter::Create(options.trace_path,
                                     {.wire_version = welcome_.limits.version,
                                      .capabilities = welcome_.limits.capabilities,
                                      .wall_us = clock.WallMicros(),
                                      .process_id = static_cast<std::uint32_t>(getpid()),
                                      .program = options.program,
                                      .vgpu = options.target.vgpu},
                                     options.trace_payloads);
    if (trace.ok()) {
      trace_ = std::move(*trace);
    } else {
      Log(LogLevel::kError, "session", "no trace is written", {{"why", trace.error().message}});
    }
  }

  bool InHandler() const { return handler_thread_.load(std::memory_order_relaxed) == pthread_self(); }
  static Error CalledFromHandler() {
    return {Code::kFailedPrecondition, "a session's handler may neither send nor wait"};
  }

  // --- sending ---

  Result<std::uint64_t> SendChecked(const Outgoing& frame, std::uint64_t payload_bytes) {
    const bool direct = payload_bytes >= kDirectPayloadBytes;
    const bool farewell = frame.opcode == wire::kOpcodeOf<wire::Goodbye>;
    const std::uint64_t frame_bytes = wire::kFrameHeaderBytes + frame.body_bytes + payload_bytes;
    const auto has_credit = [&] { return farewell || HasCredit(frame_bytes); };
    for (;;) {
      std::unique_lock write(write_mutex_, std::defer_lock);
      if (direct) {
        LetOthersWrite();
        write.lock();
        const Status written = WriteBlocking({}, false);  // what is there already, so that wire_ is free
        if (!written.ok()) {
          write.unlock();
          return AwaitLoss(written.error());
        }
      }
      std::unique_lock send(send_mutex_);
      if (lost()) break;
      if (!has_credit()) {
        send.unlock();
        if (direct) write.unlock();
        TULLE_RETURN_IF_ERROR(FlushUntil(CloseDeadline()));
        TULLE_RETURN_IF_ERROR(ReadUntil(
            [&] {
              const std::lock_guard lock(send_mutex_);
              return has_credit();
            },
            CloseDeadline()));
        continue;
      }
      const bool was_idle = ledger_.idle() && out_.empty();
      const std::uint64_t sequence = Enqueue(frame, payload_bytes, direct ? 0 : payload_bytes);
      if (direct) {
        // Under the same lock as the header was queued: no other frame may come between it and the payload.
        wire_.swap(out_);
        send.unlock();
        const Status written = WriteBlocking(frame.payload, frame.lent);
        write.unlock();
        if (!written.ok()) return AwaitLoss(written.error());
        return sequence;
      }
      const std::size_t queued = out_.size();
      if (!was_idle) flush_policy_.OnNext();
      const bool flush = (was_idle && flush_policy_.OnFirst(net::Now())) || queued >= kFlushBytes;
      if (!flush) ArmTimer();
      send.unlock();
      if (flush) TULLE_RETURN_IF_ERROR(FlushForSender(queued));
      return sequence;
    }
    return AwaitLoss();
  }

  // send_mutex_ is held.
  bool HasCredit(std::uint64_t frame_bytes) const {
    return ledger_.Allows(frame_bytes, welcome_.limits.window_bytes) &&
           pending_count_.load(std::memory_order_relaxed) < kMaxPendingReplies;
  }

  // In parts, between which others may send. Commands that are sent meanwhile come before this one: its place
  // in the stream is that of its last part.
  Result<std::uint64_t> SendLarge(const Outgoing& frame, std::uint64_t payload_bytes) {
    const std::lock_guard large(large_mutex_);
    for (std::uint64_t sent = 0;;) {
      const std::uint64_t size = std::min<std::uint64_t>(payload_bytes - sent, link_->part_bytes());
      const bool last = sent + size == payload_bytes;
      const wire::PayloadPart part{payload_bytes, {size}};
      const std::uint64_t frame_bytes =
          wire::kFrameHeaderBytes + (last ? frame.body_bytes : wire::EncodedSize(part)) + size;
      LetOthersWrite();
      std::unique_lock write(write_mutex_);
      Status written = WriteBlocking({}, false);  // what is there already, so that wire_ is free
      if (written.ok() && !lost()) {
        std::unique_lock send(send_mutex_);
        if (!HasCredit(frame_bytes) || !link_->has_room_for(size)) {
          send.unlock();
          write.unlock();
          TULLE_RETURN_IF_ERROR(AwaitRoomForPart(frame_bytes, size));
          continue;
        }
        const std::uint64_t sequence =
            last ? Enqueue(frame, payload_bytes, 0, size) : EnqueuePart(part, frame_bytes);
        // Under the same lock as the header was queued: no other frame may come between it and the part.
        wire_.swap(out_);
        send.unlock();
        written = WriteBlocking(Slice(frame.payload, sent, size), frame.lent);
        if (written.ok() && last) return sequence;
        sent += size;
      }
      write.unlock();
      if (!written.ok()) return AwaitLoss(written.error());
      if (lost()) return AwaitLoss();
    }
  }

  // No lock but large_mutex_ is held.
  Status AwaitRoomForPart(std::uint64_t frame_bytes, std::size_t size) {
    link_->Ask();
    TULLE_RETURN_IF_ERROR(FlushUntil(CloseDeadline()));
    return ReadUntil(
        [&] {
          if (!link_->has_room_for(std::min(size, link_->part_bytes()))) return link_->must_ask();
          const std::lock_guard lock(send_mutex_);
          return HasCredit(frame_bytes);
        },
        CloseDeadline());
  }

  // Of pieces that follow each other; valid until the next call. large_mutex_ is held.
  std::span<const ByteView> Slice(std::span<const ByteView> pieces, std::uint64_t offset,
                                  std::uint64_t size) {
    slice_.clear();
    for (const ByteView piece : pieces) {
      if (offset >= piece.size()) {
        offset -= piece.size();
        continue;
      }
      const std::uint64_t step = std::min<std::uint64_t>(size, piece.size() - offset);
      if (step == 0) break;
      slice_.push_back(piece.subspan(std::exchange(offset, 0), step));
      size -= step;
    }
    return slice_;
  }

  // Appends the header and body of a part to out_. send_mutex_ is held.
  std::uint64_t EnqueuePart(const wire::PayloadPart& part, std::uint64_t frame_bytes) {
    ledger_.Reserve();
    wire::FrameHeader header;
    header.body_bytes = static_cast<std::uint32_t>(wire::EncodedSize(part));
    header.opcode = wire::kOpcodeOf<wire::PayloadPart>;
    header.sequence = next_sequence_;
    header.payload_bytes = part.data.size_bytes;
    wire::Encode(part, AppendFrame(out_, header));
    ledger_.Add(static_cast<std::uint32_t>(frame_bytes));
    return next_sequence_++;
  }

  // Appends the frame to out_. Of its payload `copied_bytes` too, or `after_parts` bytes will follow as the
  // last of several parts. send_mutex_ is held.
  std::uint64_t Enqueue(const Outgoing& frame, std::uint64_t payload_bytes, std::uint64_t copied_bytes,
                        std::uint64_t after_parts = 0) {
    ledger_.Reserve();
    out_.Reserve(wire::kFrameHeaderBytes + frame.body_bytes + copied_bytes);
    const std::uint64_t sequence = next_sequence_;
    if (frame.mode == wire::Mode::kReply || (frame.flags & wire::kWantStatus) != 0) {
      const std::lock_guard lock(pending_mutex_);
      pending_.Add(sequence, frame.opcode);
      pending_count_.store(pending_.size(), std::memory_order_relaxed);
    }
    // Nothing below can fail.
    ++next_sequence_;
    wire::FrameHeader header;
    header.body_bytes = static_cast<std::uint32_t>(frame.body_bytes);
    header.opcode = frame.opcode;
    header.flags = frame.flags;
    header.sequence = sequence;
    header.payload_bytes = payload_bytes;
    const wire::FrameHeader whole = header;
    if (after_parts != 0 && after_parts != payload_bytes) {
      header.flags |= wire::kAfterParts;
      header.payload_bytes = after_parts;
    }
    MutableByteView room = AppendFrame(out_, header, copied_bytes);
    const MutableByteView body = room.first(frame.body_bytes);
    frame.encode(body, frame.message);
    room = room.subspan(frame.body_bytes);
    if (copied_bytes != 0) {
      for (const ByteView piece : frame.payload) {
        std::copy(piece.begin(), piece.end(), room.begin());
        room = room.subspan(piece.size());
      }
    }
    if (trace_ != nullptr) trace_->Sent(whole, body, frame.payload);
    ledger_.Add(
        static_cast<std::uint32_t>(wire::kFrameHeaderBytes + frame.body_bytes + header.payload_bytes));
    if (frame.before_send != nullptr) frame.before_send(frame.argument, sequence);
    return sequence;
  }

  // A sender whose bytes should leave now. When another thread writes, they may wait for the timer, unless
  // there are so many that the sender must wait too.
  Status FlushForSender(std::size_t queued) {
    if (queued < kMaxQueuedBytes) {
      std::unique_lock write(write_mutex_, std::try_to_lock);
      if (write.owns_lock()) return WriteQueuedAndUnlock(write);
      const std::lock_guard send(send_mutex_);
      ArmTimer();
      return OkStatus();
    }
    return FlushUntil(CloseDeadline());
  }

  Status FlushUntil(std::optional<Instant> deadline) {
    if (lost()) return AwaitLoss();
    {
      const std::lock_guard send(send_mutex_);
      flush_policy_.OnWait(net::Now());
    }
    writers_waiting_.fetch_add(1, std::memory_order_relaxed);
    std::unique_lock write(write_mutex_);
    writers_waiting_.fetch_sub(1, std::memory_order_relaxed);
    if (deadline && net::Now() >= *deadline) return FarewellTimeout();
    return WriteQueuedAndUnlock(write);
  }

  Status WriteQueuedAndUnlock(std::unique_lock<std::mutex>& write) {
    const Status status = WriteQueued();
    write.unlock();
    if (status.ok()) return status;
    return AwaitLoss(status.error());
  }

  // Between two large payloads of a thread, others that wait for the right to write come first: a mutex alone
  // would give it to who runs.
  void LetOthersWrite() const {
    const Instant give_up = net::Now() + kCourtesy;
    while (writers_waiting_.load(std::memory_order_relaxed) != 0 && net::Now() < give_up) sched_yield();
  }

  // Writes everything that is queued now. write_mutex_ is held.
  Status WriteQueued() {
    TULLE_RETURN_IF_ERROR(WriteBlocking({}, false));
    TakeQueued();
    return WriteBlocking({}, false);
  }

  void TakeQueued() {
    const std::lock_guard send(send_mutex_);
    if (wire_.empty()) wire_.swap(out_);
  }

  // Pieces of wire_ and payload that are not written yet, for one Write.
  struct Gather {
    std::array<iovec, kPiecesPerWrite> pieces;
    std::array<Link::Owner, kPiecesPerWrite> owners;
    std::size_t count = 0;
    void Add(ByteView bytes, bool lent) {
      if (bytes.empty() || count == pieces.size()) return;
      pieces[count] = {const_cast<std::byte*>(bytes.data()), bytes.size()};
      owners[count++].keeps = lent;
    }
    Result<std::size_t> WriteTo(Link& link) const {
      return link.WriteKept({pieces.data(), count}, {owners.data(), count});
    }
  };

  // Writes wire_ and behind it the payload, waiting for room as long as it takes. write_mutex_ is held.
  Status WriteBlocking(std::span<const ByteView> payload, bool lent) {
    if (write_error_) return *write_error_;
    std::size_t offset = 0;  // in payload.front()
    for (;;) {
      while (!payload.empty() && offset == payload.front().size()) {
        payload = payload.subspan(1);
        offset = 0;
      }
      if (wire_.empty() && payload.empty() && !link_->wants_to_write()) return OkStatus();
      Gather gather;
      gather.Add(wire_.data(), false);
      for (std::size_t i = 0; i < payload.size() && gather.count < kPiecesPerWrite; ++i) {
        gather.Add(i == 0 ? payload[0].subspan(offset) : payload[i], lent);
      }
      Result<std::size_t> taken = gather.WriteTo(*link_);
      if (!taken.ok()) return WriteFailed(taken.error());
      std::size_t left = *taken;
      const std::size_t from_queue = std::min(left, wire_.size());
      wire_.Consume(from_queue);
      left -= from_queue;
      while (left != 0) {
        const std::size_t step = std::min(left, payload.front().size() - offset);
        offset += step;
        left -= step;
        if (offset == payload.front().size()) {
          payload = payload.subspan(1);
          offset = 0;
        }
      }
      if (*taken == 0 || link_->unfinished()) TULLE_RETURN_IF_ERROR(AwaitRoom());
    }
  }

  // The socket is full. Whoever waits for room reads too, if nobody else does: the worker may itself be
  // waiting until we take what it has sent. write_mutex_ is held.
  Status AwaitRoom() {
    if (lost()) return WriteFailed(SessionError(Code::kUnavailable, "the session is lost"));
    if (const auto deadline = CloseDeadline(); deadline && net::Now() >= *deadline) {
      return WriteFailed(FarewellTimeout());
    }
    LookAtPeer(net::Now());
    if (TryTakeRole()) {
      if (!PumpOnce(Reader::kWriter) && !link_->down()) {
        net::WaitFor(link_->fd(), link_->write_events() | link_->read_events(), net::Now() + kBlockedPoll);
        PumpOnce(Reader::kWriter);
      }
      std::unique_lock lock(receive_mutex_);
      LeaveRole();
    } else {
      net::WaitFor(link_->fd(), link_->write_events(), net::Now() + kBlockedPoll);
    }
    return OkStatus();
  }

  // Writes what the socket takes now. What it does not take, the timer tries again.
  void FlushWithoutBlocking() {
    std::unique_lock write(write_mutex_, std::try_to_lock);
    if (write.owns_lock()) {
      if (write_error_) return;
      for (int round = 0; round < 2; ++round) {
        TakeQueued();
        while (!wire_.empty()) {
          const iovec piece{const_cast<std::byte*>(wire_.data().data()), wire_.size()};
          const Result<std::size_t> taken = link_->Write({&piece, 1});
          if (!taken.ok()) {
            [[maybe_unused]] const Error error = WriteFailed(taken.error());
            return;
          }
          if (*taken == 0) break;
          wire_.Consume(*taken);
        }
        if (!wire_.empty()) break;
      }
      if (wire_.empty() && link_->wants_to_write()) {
        [[maybe_unused]] const Result<std::size_t> nothing = link_->Write({});
      }
    }
    if (link_->down()) return;  // with the next connection
    const bool leftover = !write.owns_lock() || !wire_.empty() || link_->wants_to_write();
    const std::lock_guard send(send_mutex_);
    if (leftover || !out_.empty()) ArmTimer();
  }

  // A frame is cut off: nothing may be written behind it. The reading side finds out what happened, since it
  // may still hold the worker's last word. write_mutex_ is held.
  Error WriteFailed(const Error& error) {
    write_error_ = error;
    link_->Shutdown();
    return error;
  }

  // From here on no other connection is looked for.
  void GiveUpLink() {
    link_->Shutdown();
    const std::lock_guard lock(receive_mutex_);
    abandon_ = true;
    abandoned_.notify_all();
  }

  // The session's one reason. No lock is held.
  Error AwaitLoss(const Error& fallback = SessionError(Code::kUnavailable, "the session is lost")) {
    GiveUpLink();
    const Status status = ReadUntil([] { return false; }, std::nullopt);
    return status.ok() ? fallback : status.error();
  }

  static Error FarewellTimeout() {
    return SessionError(Code::kDeadlineExceeded, "the worker takes nothing any more");
  }
  // None while the session is not being closed.
  std::optional<Instant> CloseDeadline() const {
    const std::int64_t ns = close_deadline_ns_.load(std::memory_order_relaxed);
    return ns == 0 ? std::nullopt : std::optional(Instant{ns});
  }

  // What is queued leaves after `delay` at the latest. send_mutex_ is held.
  void ArmTimer(Duration delay = kFlushDelay) {
    if (timer_due_ && delay == kFlushDelay) return;
    const Instant due = net::Now() + delay;
    if (timer_due_ && *timer_due_ <= due) return;
    timer_due_ = due;
    SetTimer(delay);
  }
  void SetTimer(Duration delay) {
    itimerspec spec{};
    spec.it_value.tv_nsec = delay.count();
    timerfd_settime(timer_.get(), 0, &spec, nullptr);
  }

  // --- receiving: the role of reader belongs to one thread at a time ---

  bool TryTakeRole() {
    const std::lock_guard lock(receive_mutex_);
    if (role_taken_ || loss_ || link_->down()) return false;
    TakeRole();
    return true;
  }

  // receive_mutex_ is held. Disarms the I/O thread, so that an arriving reply wakes the reader alone.
  void TakeRole() {
    role_taken_ = true;
    if (std::exchange(armed_, false)) ArmSocket(0);
  }

  // receive_mutex_ is held. Passes the role on: to a waiting thread, else to the I/O thread. Without a
  // connection there is nothing to read: the I/O thread then looks for another.
  void LeaveRole() {
    if (loss_) {
      while (waiters_ != nullptr) FinishFirstWaiter(Waiter::State::kFinished);
    }
    if (waiters_ != nullptr && !link_->down()) {
      FinishFirstWaiter(Waiter::State::kReader);
      return;
    }
    role_taken_ = false;
    if (link_->down()) {
      if (!loss_) SetTimer(std::chrono::nanoseconds(1));
    } else if (!loss_) {
      armed_ = true;
      ArmSocket(EPOLLIN);
    }
    role_free_.notify_all();
  }

  void FinishFirstWaiter(Waiter::State state) {
    Waiter* waiter = waiters_;
    waiters_ = waiter->next;
    waiter->state = state;
    waiter->wake.notify_one();
  }

  void ArmSocket(std::uint32_t events) {
    epoll_event event{events | EPOLLONESHOT, {.fd = link_->fd()}};
    // Another connection is another file, though its number is the same.
    if (epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, link_->fd(), &event) != 0) {
      epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, link_->fd(), &event);
    }
  }

  Status ReadUntil(const std::function<bool()>& done, std::optional<Instant> deadline) {
    std::unique_lock lock(receive_mutex_);
    std::optional<TraceWriter::Wait> traced;
    for (;;) {
      if (done()) return OkStatus();
      if (loss_) return *loss_;
      if (trace_ != nullptr && !traced) traced.emplace(*trace_);
      if (!role_taken_ && !link_->down()) {
        TakeRole();
      } else {
        Waiter self(done);
        self.next = std::exchange(waiters_, &self);
        if (!Sleep(self, lock, deadline)) return FarewellTimeout();
        if (self.state != Waiter::State::kReader) continue;
      }
      const bool timed_out = ReadAsWaiter(done, deadline, lock);
      LeaveRole();
      if (timed_out && !loss_ && !done()) return FarewellTimeout();
    }
  }

  // This thread, which has the role, reads until it has what it waits for, or there is no connection. True:
  // the deadline passed.
  bool ReadAsWaiter(const std::function<bool()>& done, std::optional<Instant> deadline,
                    std::unique_lock<std::mutex>& lock) {
    bool timed_out = false;
    const auto goes_on = [&] { return !loss_ && !link_->down(); };
    bool spinning = spin_.Begin(net::Now());
    while (goes_on() && !done() && !timed_out) {
      lock.unlock();
      if (!PumpOnce(Reader::kProgram) && !link_->down()) {
        const Instant now = net::Now();
        if (spinning) {
          spinning = spin_.Continue(now);
          if (spinning) sched_yield();
        } else if (deadline && now >= *deadline) {
          timed_out = true;
        } else {
          const Instant until = deadline.value_or(now + std::chrono::hours(1));
          net::WaitFor(link_->fd(), link_->read_events(), std::min(until, LookAtPeer(now)));
        }
      }
      lock.lock();
    }
    spin_.End(net::Now());
    while (goes_on() && link_->has_buffered_input()) {
      lock.unlock();
      PumpOnce(Reader::kProgram);
      lock.lock();
    }
    return timed_out;
  }

  // Waits as a follower. False: the deadline passed, and self is no longer listed.
  bool Sleep(Waiter& self, std::unique_lock<std::mutex>& lock, std::optional<Instant> deadline) {
    const auto woken = [&] { return self.state != Waiter::State::kWaiting; };
    if (!deadline) {
      self.wake.wait(lock, woken);
      return true;
    }
    const std::chrono::steady_clock::time_point until{Duration(deadline->ns)};
    if (self.wake.wait_until(lock, until, woken)) return true;
    Waiter** link = &waiters_;
    while (*link != &self) link = &(*link)->next;
    *link = self.next;
    return false;
  }

  // Reads once and hands over what is complete; false when nothing had arrived. This thread has the role.
  bool PumpOnce(Reader who) {
    const std::uint64_t acknowledged = link_->acknowledged_bytes();
    const Result<std::size_t> got = reader_.Fill(*link_);
    // An acknowledgement alone may be what a sender waits for, and a question what the worker waits for.
    if (got.ok() && *got == 0 && link_->acknowledged_bytes() == acknowledged) {
      if (who != Reader::kWriter && link_->wants_to_write()) FlushWithoutBlocking();
      return false;
    }
    bool flush = false;
    {
      const std::lock_guard lock(receive_mutex_);
      if (loss_) return false;
      if (got.ok()) {
        handler_thread_.store(pthread_self(), std::memory_order_relaxed);
        const Status status = reader_.Drain(*this);
        handler_thread_.store(kNoThread, std::memory_order_relaxed);
        if (!status.ok()) Lose(status.error());
      } else {
        Lose(got.error());
      }
      WakeSatisfied();
      flush = (std::exchange(acknowledged_, false) || link_->wants_to_write()) && !loss_;
    }
    if (flush && who != Reader::kWriter) {
      bool queued = link_->wants_to_write();
      if (!queued) {
        const std::lock_guard send(send_mutex_);
        queued = !out_.empty();
      }
      if (queued) FlushWithoutBlocking();
    }
    if (who != Reader::kSession && handler_->HasWork()) handler_->Work(ClientHandler::Who::kAnother);
    return true;
  }

  // receive_mutex_ is held. Each waiting thread is woken when its own wait is over, no other.
  void WakeSatisfied() {
    for (Waiter** link = &waiters_; *link != nullptr;) {
      Waiter* waiter = *link;
      if (!loss_ && !waiter->done()) {
        link = &waiter->next;
        continue;
      }
      *link = waiter->next;
      waiter->state = Waiter::State::kFinished;
      waiter->wake.notify_one();
    }
  }

  // Whoever waits calls it now and then: a worker whose host is gone says nothing. When to look again.
  Instant LookAtPeer(Instant now) {
    if (!link_->awaits_peer()) return now + std::chrono::hours(1);
    if (now.ns - looked_at_ns_.load(std::memory_order_relaxed) >= kLookInterval.count()) {
      looked_at_ns_.store(now.ns, std::memory_order_relaxed);
      link_->CheckPeer();
    }
    return now + kLookInterval;
  }

  // receive_mutex_ is held, and nobody else has the role of reader.
  void Lose(Error error) {
    if (loss_) return;
    error.scope = Scope::kSession;
    loss_ = std::move(error);
    lost_.store(true, std::memory_order_release);
    link_->Shutdown();
    if (close_deadline_ns_.load(std::memory_order_relaxed) != 0) return;
    handler_thread_.store(pthread_self(), std::memory_order_relaxed);
    handler_->OnLost(*loss_);
    handler_thread_.store(kNoThread, std::memory_order_relaxed);
  }

  // FrameSink; receive_mutex_ is held.
  Status OnHeader(const wire::FrameHeader& header) override {
    TULLE_RETURN_IF_ERROR(CheckedOrBreach(CheckFromWorker(header, received_sequence_ + 1)));
    TULLE_RETURN_IF_ERROR(CheckedOrBreach(parts_.Check(header)));
    if (header.answers != 0 && !IsPart(header)) {
      const std::lock_guard lock(pending_mutex_);
      if (!pending_.Take(header.answers, header.opcode)) return Breach(wire::WireResult::kBadSequence);
      pending_count_.store(pending_.size(), std::memory_order_relaxed);
    }
    ++received_sequence_;
    return OkStatus();
  }

  Result<MutableByteView> OnPayload(const wire::FrameHeader& header, ByteView body) override {
    if (IsPart(header)) {
      return parts_.Take(header, body, [&](std::uint64_t total_bytes) {
        return handler_->OnParts(header.answers, total_bytes);
      });
    }
    if (IsAfterParts(header)) return parts_.Next(header.payload_bytes);
    return handler_->OnPayload(header, body);
  }

  Status OnFrame(const wire::FrameHeader& header, ByteView body, MutableByteView payload) override {
    if (IsPart(header)) return OkStatus();
    if (IsAfterParts(header)) {
      wire::FrameHeader whole = header;
      const MutableByteView all = parts_.Finish(&whole);
      whole.flags = 0;
      return OnWholeFrame(whole, body, all);
    }
    return OnWholeFrame(header, body, payload);
  }

  Status OnWholeFrame(const wire::FrameHeader& header, ByteView body, MutableByteView payload) {
    if (trace_ != nullptr) trace_->Received(header, body, payload);
    if (header.opcode == wire::kOpcodeOf<wire::Ack>) {
      wire::Ack ack;
      arena_.Reset();
      TULLE_RETURN_IF_ERROR(CheckedOrBreach(wire::Decode(body, header.payload_bytes, arena_, &ack)));
      if (ack.durable < durable_ || ack.durable > ack.executed) return Breach(wire::WireResult::kBadSequence);
      durable_ = ack.durable;
      const std::lock_guard lock(send_mutex_);
      if (!ledger_.Acknowledge(ack.executed)) return Breach(wire::WireResult::kBadSequence);
      acknowledged_ = true;
      return OkStatus();
    }
    if (header.opcode == wire::kOpcodeOf<wire::SessionEnded>) {
      wire::SessionEnded ended;
      arena_.Reset();
      TULLE_RETURN_IF_ERROR(CheckedOrBreach(wire::Decode(body, header.payload_bytes, arena_, &ended)));
      return EndedError(ended);
    }
    return handler_->OnFrame(header, body, payload);
  }

  // --- the I/O threads: one reads when nobody waits, and sends what has lingered. A second one is there from
  // the first time that there is work which the first may do after it has read ---

  Status StartIoThread() {
    TULLE_RETURN_IF_ERROR(StartThread(&io_thread_));
    has_io_thread_ = true;
    return OkStatus();
  }

  // Of an I/O thread that has work. False: there is no second one.
  bool HasStandby() {
    Standby state = Standby::kNone;
    if (standby_.compare_exchange_strong(state, Standby::kStarting, std::memory_order_acq_rel)) {
      state = StartThread(&standby_thread_).ok() ? Standby::kRuns : Standby::kNone;
      standby_.store(state, std::memory_order_release);
    }
    return state != Standby::kNone;  // while it starts, only it can ask
  }

  // The thread lives in a program that is not ours: none of its signals may land on it. Callbacks of the
  // program run on it, so it has the stack of any other.
  Status StartThread(pthread_t* thread) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int error = pthread_create(
        thread, nullptr,
        [](void* self) -> void* {
          pthread_setname_np(pthread_self(), "tulle-io");
          static_cast<Session*>(self)->RunIo();
          return nullptr;
        },
        this);
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (error != 0) return ErrnoError("start the session's I/O thread", error);
    return OkStatus();
  }

  void RunIo() {
    // What came along with the answer to Hello is not announced by the socket any more.
    bool readable = true;
    for (;;) {
      if (link_->down()) {
        Reconnect();
      } else if (readable) {
        ReadAsIoThread();
      }
      std::array<epoll_event, 2> events;
      const int timeout_ms =
          link_->awaits_peer() ? static_cast<int>(kLookInterval / std::chrono::milliseconds(1)) : -1;
      const int count = epoll_wait(epoll_.get(), events.data(), events.size(), timeout_ms);
      if (stop_.load(std::memory_order_acquire)) return;
      readable = false;
      if (count == 0) LookAtPeer(net::Now());
      for (int i = 0; i < count; ++i) {
        if (events[i].data.fd == timer_.get()) {
          OnTimer();
        } else {
          readable = true;
        }
      }
    }
  }

  void ReadAsIoThread() {
    {
      const std::lock_guard lock(receive_mutex_);
      // Whoever reads now arms the socket again when it leaves.
      if (role_taken_ || loss_ || link_->down()) return;
      armed_ = false;
      role_taken_ = true;
    }
    while (PumpOnce(Reader::kSession)) {
    }
    {
      const std::lock_guard lock(receive_mutex_);
      LeaveRole();
    }
    if (handler_->HasWork()) {
      handler_->Work(HasStandby() ? ClientHandler::Who::kCaller : ClientHandler::Who::kAnother);
    }
  }

  // Finds another connection, which may take as long as the worker waits; nobody reads meanwhile, and what is
  // sent waits.
  void Reconnect() {
    {
      const std::lock_guard lock(receive_mutex_);
      if (role_taken_ || loss_ || !link_->down()) return;
      role_taken_ = true;
    }
    const Status resumed = Resume();
    {
      const std::lock_guard lock(receive_mutex_);
      if (!resumed.ok()) Lose(resumed.error());
      // Nothing is under way on the new connection, and the last word on what was may have been lost with the
      // old.
      WakeSatisfied();
      LeaveRole();
    }
    if (resumed.ok()) FlushWithoutBlocking();
  }

  Status Resume() {
    const Duration window = welcome_.resume_window;
    const Instant deadline = net::Now() + window;
    Duration pause = kFirstPause;
    Duration patience = kFirstPatience;
    for (;;) {
      const wire::LinkResume request{++attempts_, welcome_.resume_token};
      auto resumed =
          dialer_->Resume(request, link_->received_bytes(), std::min(deadline, net::Now() + patience));
      if (resumed.ok()) {
        return link_->Adopt(std::move(resumed->connection), resumed->received_bytes, /*answer=*/false);
      }
      Error error = resumed.error();
      if (Dialer::IsFinal(error)) return error.Within("the connection was lost");
      std::unique_lock lock(receive_mutex_);
      if (!abandon_ && net::Now() + pause >= deadline) {
        return SessionError(Code::kUnavailable,
                            "the connection was lost, and there was no other in " +
                                std::to_string(window / std::chrono::seconds(1)) + " s: " + error.message,
                            Retry::kUnknownOutcome);
      }
      if (abandoned_.wait_for(lock, pause, [&] { return abandon_; })) {
        return SessionError(Code::kCancelled, "the session was closed");
      }
      pause = std::min(2 * pause, kLongestPause);
      patience = std::min(2 * patience, kLongestPatience);
    }
  }

  void OnTimer() {
    std::uint64_t expirations = 0;
    [[maybe_unused]] const ssize_t got = read(timer_.get(), &expirations, sizeof expirations);
    {
      const std::lock_guard lock(send_mutex_);
      timer_due_.reset();
    }
    if (!lost()) FlushWithoutBlocking();
  }

  const std::unique_ptr<Link> link_;
  const std::shared_ptr<const Dialer> dialer_;
  ClientHandler* const handler_;
  const bool carries_descriptors_;
  Welcome welcome_;  // set before the I/O thread starts, as the next
  bool sends_parts_ = false;
  std::unique_ptr<TraceWriter> trace_;  // the same; null: none is written

  // Locks are taken in this order: large, write, receive, send, pending.
  std::mutex large_mutex_;       // the right to send a payload in parts
  std::vector<ByteView> slice_;  // guarded by large_mutex_
  std::mutex write_mutex_;       // the right to write to the transport
  std::atomic<int> writers_waiting_{0};
  ByteQueue wire_;                    // guarded by write_mutex_: taken from out_, being written
  std::optional<Error> write_error_;  // guarded by write_mutex_

  std::mutex receive_mutex_;
  bool role_taken_ = false;    // guarded by receive_mutex_, as everything down to arena_
  bool armed_ = true;          // the I/O thread waits for the socket
  Waiter* waiters_ = nullptr;  // threads that wait while another reads
  std::condition_variable role_free_;
  bool abandon_ = false;  // no other connection is wanted
  std::condition_variable abandoned_;
  std::optional<Error> loss_;
  bool acknowledged_ = false;            // an Ack has arrived since the last flush
  std::uint64_t received_sequence_ = 1;  // the answer to Hello was the first
  std::uint64_t durable_ = 0;
  wire::Arena arena_;
  PayloadParts parts_;
  std::atomic<bool> lost_{false};
  // On which the handler runs; no thread's id is 0.
  static constexpr pthread_t kNoThread = 0;
  std::atomic<pthread_t> handler_thread_{kNoThread};

  FrameReader reader_;  // the reader's, as the next two
  SpinPolicy spin_;
  std::uint64_t attempts_ = 0;  // at another connection
  std::atomic<std::int64_t> looked_at_ns_{0};

  std::mutex send_mutex_;
  ByteQueue out_;  // guarded by send_mutex_, as everything down to timer_due_
  FlushPolicy flush_policy_;
  std::uint64_t next_sequence_ = 2;  // Hello was the first
  CreditLedger ledger_{1};
  std::optional<Instant> timer_due_;

  std::mutex pending_mutex_;
  PendingReplies pending_;  // guarded by pending_mutex_
  std::atomic<std::size_t> pending_count_{0};

  UniqueFd epoll_;
  UniqueFd timer_;
  pthread_t io_thread_{};
  bool has_io_thread_ = false;  // the session was established
  enum class Standby { kNone, kStarting, kRuns };
  std::atomic<Standby> standby_{Standby::kNone};
  pthread_t standby_thread_{};
  std::atomic<bool> stop_{false};
  bool closed_ = false;
  std::atomic<std::int64_t> close_deadline_ns_{0};  // 0: not being closed
};

// Makes the session over whatever connection the dialer finds. `again`: who finds the next one; null: nobody.
Dialer::Greet StartOver(const ClientSession::Options& options, ClientHandler* handler,
                        std::shared_ptr<const Dialer> again, std::unique_ptr<ClientSession>* started) {
  return [=, &options](std::unique_ptr<net::Transport> connection, Instant deadline) -> Status {
    TULLE_ASSIGN_OR_RETURN(auto link, Link::Make(std::move(connection), /*from_client=*/false));
    auto session = std::make_unique<Session>(std::move(link), again, handler);
    TULLE_RETURN_IF_ERROR(session->Start(options, deadline));
    *started = std::move(session);
    return OkStatus();
  };
}

}  // namespace

Result<std::unique_ptr<ClientSession>> ClientSession::ConnectOver(UniqueFd socket, const Options& options,
                                                                  ClientHandler* handler) {
  std::unique_ptr<ClientSession> session;
  const Instant deadline = net::Now() + options.connect_timeout;
  const Dialer dialer(options.target, options.random);
  TULLE_RETURN_IF_ERROR(
      dialer.DialOver(std::move(socket), deadline, StartOver(options, handler, nullptr, &session)));
  return session;
}

Result<std::unique_ptr<ClientSession>> ClientSession::Connect(const Options& options,
                                                              ClientHandler* handler) {
  std::unique_ptr<ClientSession> session;
  const Instant deadline = net::Now() + options.connect_timeout;
  const auto dialer = std::make_shared<const Dialer>(options.target, options.random);
  TULLE_RETURN_IF_ERROR(dialer->Dial(deadline, StartOver(options, handler, dialer, &session)));
  return session;
}

}  // namespace tulle::session
