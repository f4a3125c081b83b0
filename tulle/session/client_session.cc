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

#include "tulle/net/tcp/socket.h"
#include "tulle/net/wait.h"
#include "tulle/session/frame_io.h"
#include "tulle/session/ledger.h"
#include "tulle/session/secure.h"
#include "tulle/session/spin.h"

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
constexpr std::size_t kPiecesPerWrite = 64;
constexpr std::size_t kIoStackBytes = 512u << 10;

Error SessionError(Code code, std::string message, Retry retry = Retry::kNo) {
  return {code, std::move(message), Scope::kSession, retry};
}

Error EndedError(const wire::SessionEnded& ended) {
  const auto error = [&](Code code, std::string what, Retry retry = Retry::kNo) {
    what = "the worker ended the session: " + what;
    if (!ended.message.text.empty()) what += ": " + std::string(ended.message.text);
    return SessionError(code, std::move(what), retry);
  };
  switch (ended.reason.value) {
    case wire::EndReason::kGoodbye: return error(Code::kCancelled, "goodbye");
    case wire::EndReason::kGrantRevoked: return error(Code::kPermissionDenied, "the grant was revoked");
    case wire::EndReason::kDeviceLost:
      return error(Code::kAborted, "the device was lost", Retry::kUnknownOutcome);
    case wire::EndReason::kProtocol:
      return error(Code::kInternal, "this program's session broke the protocol");
    case wire::EndReason::kShuttingDown:
      return error(Code::kUnavailable, "the worker stops", Retry::kElsewhere);
    case wire::EndReason::kResource: return error(Code::kResourceExhausted, "over a limit of the worker");
  }
  return error(Code::kUnknown, "no reason given");
}

// The worker's half of what FrameReader cannot know: direction and order.
wire::WireResult CheckFromWorker(const wire::FrameHeader& header, std::uint64_t expected_sequence) {
  const wire::RowInfo* row = wire::FindRow(header.opcode);
  if (row == nullptr) return wire::WireResult::kUnknownOpcode;
  if (header.flags != 0) return wire::WireResult::kBadEnum;
  if (header.sequence != expected_sequence) return wire::WireResult::kBadSequence;
  if ((row->mode == wire::Mode::kNotice) != (header.answers == 0)) return wire::WireResult::kWrongDirection;
  return wire::WireResult::kOk;
}

// Takes the answer to Hello.
class HelloSink final : public FrameSink {
 public:
  explicit HelloSink(std::uint64_t offered) : offered_(offered) {}
  bool WantsMore() const override { return !limits_ && !refusal_; }
  Status OnHeader(const wire::FrameHeader& header) override {
    TULLE_RETURN_IF_ERROR(CheckedOrBreach(CheckFromWorker(header, 1)));
    if (header.payload_bytes != 0) return Breach(wire::WireResult::kBadPayload);
    if (header.opcode == wire::kOpcodeOf<wire::SessionEnded>) return OkStatus();
    if (header.opcode != wire::kOpcodeOf<wire::Hello> || header.answers != 1) {
      return Breach(wire::WireResult::kBadSequence);
    }
    return OkStatus();
  }
  Result<MutableByteView> OnPayload(const wire::FrameHeader&, ByteView) override { return MutableByteView(); }
  Status OnFrame(const wire::FrameHeader& header, ByteView body, MutableByteView) override {
    wire::Arena arena;
    if (header.opcode == wire::kOpcodeOf<wire::SessionEnded>) {
      wire::SessionEnded ended;
      TULLE_RETURN_IF_ERROR(CheckedOrBreach(wire::Decode(body, 0, arena, &ended)));
      refusal_ = EndedError(ended);
      return OkStatus();
    }
    wire::HelloReply reply;
    TULLE_RETURN_IF_ERROR(CheckedOrBreach(wire::Decode(body, 0, arena, &reply)));
    const std::string reason = reply.reason.text.empty() ? "" : ": " + std::string(reply.reason.text);
    switch (reply.status.value) {
      case wire::HelloStatus::kAccepted: break;
      case wire::HelloStatus::kNoCommonVersion:
      case wire::HelloStatus::kNoCommonCapability:
        refusal_ = SessionError(Code::kFailedPrecondition, "the worker refused the session" + reason,
                                Retry::kElsewhere);
        return OkStatus();
      case wire::HelloStatus::kBusy:
        refusal_ = SessionError(Code::kResourceExhausted, "the worker is busy" + reason, Retry::kElsewhere);
        return OkStatus();
    }
    if (reply.version < wire::kWireVersionMin || reply.version > wire::kWireVersion ||
        (reply.capabilities & ~offered_) != 0) {
      return Breach(wire::WireResult::kNotNegotiated);
    }
    limits_ = SessionLimits{reply.version, reply.capabilities,
                            std::min(reply.window_bytes, wire::kMaxWindowBytes), reply.memory_limit_bytes};
    return OkStatus();
  }

  std::optional<SessionLimits> limits_;
  std::optional<Error> refusal_;

 private:
  const std::uint64_t offered_;
};

class Session final : public ClientSession, private FrameSink {
 public:
  Session(std::unique_ptr<net::Transport> transport, ClientHandler* handler)
      : transport_(std::move(transport)), handler_(handler) {}

  ~Session() override { Close(); }

  Status Start(const Options& options, Instant deadline) {
    TULLE_RETURN_IF_ERROR(SayHello(options, deadline));
    epoll_.reset(epoll_create1(EPOLL_CLOEXEC));
    timer_.reset(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
    epoll_event socket_event{EPOLLIN | EPOLLONESHOT, {.fd = transport_->fd()}};
    epoll_event timer_event{EPOLLIN, {.fd = timer_.get()}};
    if (!epoll_.valid() || !timer_.valid() ||
        epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, transport_->fd(), &socket_event) != 0 ||
        epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, timer_.get(), &timer_event) != 0) {
      return ErrnoError("prepare the session's I/O thread", errno);
    }
    return StartIoThread();
  }

  const SessionLimits& limits() const override { return limits_; }
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
      return SendChecked(frame, payload_bytes);
    } catch (const std::bad_alloc&) {
      return Error{Code::kResourceExhausted, "out of memory for the outgoing frame"};
    }
  }

  Status Flush() override {
    if (InHandler()) return CalledFromHandler();
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
      if (role_taken_ || loss_) return;
      role_taken_ = true;
    }
    while (PumpOnce(/*holds_write=*/false)) {
    }
    std::unique_lock lock(receive_mutex_);
    LeaveRole();
  }

  // --- ending ---

  void Close() override {
    if (std::exchange(closed_, true) || !has_io_thread_) return;
    const Instant deadline = net::Now() + kFarewell;
    close_deadline_ns_.store(deadline.ns, std::memory_order_relaxed);
    if (!lost()) {
      if (Send(wire::Goodbye{}).ok() && FlushUntil(deadline).ok()) {
        // The worker's last word, or its end of the connection, says that all of ours arrived.
        [[maybe_unused]] const Status farewell = ReadUntil([] { return false; }, deadline);
      }
    }
    transport_->Shutdown();
    {
      std::unique_lock lock(receive_mutex_);
      role_free_.wait(lock, [&] { return !role_taken_; });
      Lose(SessionError(Code::kCancelled, "the session was closed"));
    }
    stop_.store(true, std::memory_order_release);
    SetTimer(std::chrono::nanoseconds(1));
    pthread_join(io_thread_, nullptr);
  }

  void AbandonAfterFork() override {
    ::close(transport_->fd());
    ::close(epoll_.release());
    ::close(timer_.release());
  }

 private:
  // One thread that waits in ReadUntil() while another reads.
  struct Waiter {
    explicit Waiter(const std::function<bool()>& d) : done(d) {}
    const std::function<bool()>& done;
    enum class State { kWaiting, kReader, kFinished } state = State::kWaiting;
    std::condition_variable wake;
    Waiter* next = nullptr;
  };

  bool InHandler() const { return handler_thread_.load(std::memory_order_relaxed) == pthread_self(); }
  static Error CalledFromHandler() {
    return {Code::kFailedPrecondition, "a session's handler may neither send nor wait"};
  }

  Status SayHello(const Options& options, Instant deadline) {
    ByteQueue hello;
    const std::uint64_t offered = wire::KnownCapabilities();
    const std::string_view program = std::string_view(options.program).substr(0, wire::kMaxNameBytes);
    AppendMessage(hello, wire::kOpcodeOf<wire::Hello>, 1, 0,
                  wire::Hello{wire::kWireVersionMin,
                              wire::kWireVersion,
                              offered,
                              {program},
                              static_cast<std::uint32_t>(getpid())});
    TULLE_RETURN_IF_ERROR(WriteAll(*transport_, hello.data(), deadline));
    HelloSink sink(offered);
    TULLE_RETURN_IF_ERROR(ReadUntilSatisfied(*transport_, reader_, sink, deadline));
    if (sink.refusal_) return *sink.refusal_;
    limits_ = *sink.limits_;
    return OkStatus();
  }

  // --- sending ---

  Result<std::uint64_t> SendChecked(const Outgoing& frame, std::uint64_t payload_bytes) {
    const bool direct = payload_bytes >= kDirectPayloadBytes;
    const bool farewell = frame.opcode == wire::kOpcodeOf<wire::Goodbye>;
    const std::uint64_t frame_bytes = wire::kFrameHeaderBytes + frame.body_bytes + payload_bytes;
    const auto has_credit = [&] {
      return farewell || (ledger_.Allows(frame_bytes, limits_.window_bytes) &&
                          pending_count_.load(std::memory_order_relaxed) < kMaxPendingReplies);
    };
    for (;;) {
      std::unique_lock write(write_mutex_, std::defer_lock);
      if (direct) {
        write.lock();
        const Status written = WriteBlocking({});  // what is there already, so that wire_ is free
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
        const Status written = WriteBlocking(frame.payload);
        write.unlock();
        if (!written.ok()) return AwaitLoss(written.error());
        return sequence;
      }
      const std::size_t queued = out_.size();
      const bool flush = was_idle || queued >= kFlushBytes;
      if (!flush) ArmTimer();
      send.unlock();
      if (flush) TULLE_RETURN_IF_ERROR(FlushForSender(queued));
      return sequence;
    }
    return AwaitLoss();
  }

  // Appends the frame to out_. send_mutex_ is held.
  std::uint64_t Enqueue(const Outgoing& frame, std::uint64_t payload_bytes, std::uint64_t copied_bytes) {
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
    MutableByteView room = AppendFrame(out_, header, copied_bytes);
    frame.encode(room.first(frame.body_bytes), frame.message);
    room = room.subspan(frame.body_bytes);
    if (copied_bytes != 0) {
      for (const ByteView piece : frame.payload) {
        std::copy(piece.begin(), piece.end(), room.begin());
        room = room.subspan(piece.size());
      }
    }
    ledger_.Add(static_cast<std::uint32_t>(wire::kFrameHeaderBytes + frame.body_bytes + payload_bytes));
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
    std::unique_lock write(write_mutex_);
    if (deadline && net::Now() >= *deadline) return FarewellTimeout();
    return WriteQueuedAndUnlock(write);
  }

  Status WriteQueuedAndUnlock(std::unique_lock<std::mutex>& write) {
    const Status status = WriteQueued();
    write.unlock();
    if (status.ok()) return status;
    return AwaitLoss(status.error());
  }

  // Writes everything that is queued now. write_mutex_ is held.
  Status WriteQueued() {
    TULLE_RETURN_IF_ERROR(WriteBlocking({}));
    TakeQueued();
    return WriteBlocking({});
  }

  void TakeQueued() {
    const std::lock_guard send(send_mutex_);
    if (wire_.empty()) wire_.swap(out_);
  }

  // Pieces of wire_ and payload that are not written yet, for one Write.
  struct Gather {
    std::array<iovec, kPiecesPerWrite> pieces;
    std::size_t count = 0;
    void Add(ByteView bytes) {
      if (!bytes.empty() && count < pieces.size()) {
        pieces[count++] = {const_cast<std::byte*>(bytes.data()), bytes.size()};
      }
    }
    std::span<const iovec> get() const { return {pieces.data(), count}; }
  };

  // Writes wire_ and behind it the payload, waiting for room as long as it takes. write_mutex_ is held.
  Status WriteBlocking(std::span<const ByteView> payload) {
    if (write_error_) return *write_error_;
    std::size_t offset = 0;  // in payload.front()
    for (;;) {
      while (!payload.empty() && offset == payload.front().size()) {
        payload = payload.subspan(1);
        offset = 0;
      }
      if (wire_.empty() && payload.empty()) return OkStatus();
      Gather gather;
      gather.Add(wire_.data());
      for (std::size_t i = 0; i < payload.size() && gather.count < kPiecesPerWrite; ++i) {
        gather.Add(i == 0 ? payload[0].subspan(offset) : payload[i]);
      }
      Result<std::size_t> taken = transport_->Write(gather.get());
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
      if (*taken == 0) TULLE_RETURN_IF_ERROR(AwaitRoom());
    }
  }

  // The socket is full. Whoever waits for room reads too, if nobody else does: the worker may itself be
  // waiting until we take what it has sent. write_mutex_ is held.
  Status AwaitRoom() {
    if (lost()) return WriteFailed(SessionError(Code::kUnavailable, "the session is lost"));
    if (const auto deadline = CloseDeadline(); deadline && net::Now() >= *deadline) {
      return WriteFailed(FarewellTimeout());
    }
    if (TryTakeRole()) {
      if (!PumpOnce(/*holds_write=*/true)) {
        net::WaitFor(transport_->fd(), transport_->write_events() | transport_->read_events(),
                     net::Now() + kBlockedPoll);
        PumpOnce(/*holds_write=*/true);
      }
      std::unique_lock lock(receive_mutex_);
      LeaveRole();
    } else {
      net::WaitFor(transport_->fd(), transport_->write_events(), net::Now() + kBlockedPoll);
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
          Gather gather;
          gather.Add(wire_.data());
          const Result<std::size_t> taken = transport_->Write(gather.get());
          if (!taken.ok()) {
            [[maybe_unused]] const Error error = WriteFailed(taken.error());
            return;
          }
          if (*taken == 0) break;
          wire_.Consume(*taken);
        }
        if (!wire_.empty()) break;
      }
    }
    const bool leftover = !write.owns_lock() || !wire_.empty();
    const std::lock_guard send(send_mutex_);
    if (leftover || !out_.empty()) ArmTimer();
  }

  // A frame is cut off: nothing may be written behind it. The reading side finds out what happened, since it
  // may still hold the worker's last word. write_mutex_ is held.
  Error WriteFailed(const Error& error) {
    write_error_ = error;
    transport_->Shutdown();
    return error;
  }

  // The session's one reason. No lock is held.
  Error AwaitLoss(const Error& fallback = SessionError(Code::kUnavailable, "the session is lost")) {
    transport_->Shutdown();
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

  // send_mutex_ is held.
  void ArmTimer() {
    if (std::exchange(timer_armed_, true)) return;
    SetTimer(kFlushDelay);
  }
  void SetTimer(Duration delay) {
    itimerspec spec{};
    spec.it_value.tv_nsec = delay.count();
    timerfd_settime(timer_.get(), 0, &spec, nullptr);
  }

  // --- receiving: the role of reader belongs to one thread at a time ---

  bool TryTakeRole() {
    const std::lock_guard lock(receive_mutex_);
    if (role_taken_ || loss_) return false;
    TakeRole();
    return true;
  }

  // receive_mutex_ is held. Disarms the I/O thread, so that an arriving reply wakes the reader alone.
  void TakeRole() {
    role_taken_ = true;
    if (std::exchange(armed_, false)) ArmSocket(0);
  }

  // receive_mutex_ is held. Passes the role on: to a waiting thread, else to the I/O thread.
  void LeaveRole() {
    if (loss_) {
      while (waiters_ != nullptr) FinishFirstWaiter(Waiter::State::kFinished);
    }
    if (waiters_ != nullptr) {
      FinishFirstWaiter(Waiter::State::kReader);
      return;
    }
    role_taken_ = false;
    if (!loss_) {
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
    epoll_event event{events | EPOLLONESHOT, {.fd = transport_->fd()}};
    epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, transport_->fd(), &event);
  }

  Status ReadUntil(const std::function<bool()>& done, std::optional<Instant> deadline) {
    std::unique_lock lock(receive_mutex_);
    for (;;) {
      if (done()) return OkStatus();
      if (loss_) return *loss_;
      if (!role_taken_) {
        TakeRole();
        break;
      }
      Waiter self(done);
      self.next = std::exchange(waiters_, &self);
      if (!Sleep(self, lock, deadline)) return FarewellTimeout();
      if (self.state == Waiter::State::kReader) break;
    }
    // This thread reads, until it has what it waits for.
    bool timed_out = false;
    Instant started = net::Now();
    bool spinning = spin_.Begin(started);
    while (!loss_ && !done()) {
      lock.unlock();
      bool progress = PumpOnce(/*holds_write=*/false);
      if (!progress) {
        const Instant now = net::Now();
        if (spinning) {
          spinning = spin_.Continue(now);
          if (spinning) sched_yield();
        } else {
          timed_out = deadline && now >= *deadline;
          const Instant until = deadline.value_or(now + std::chrono::hours(1));
          if (!timed_out) net::WaitFor(transport_->fd(), transport_->read_events(), until);
        }
      }
      lock.lock();
      if (timed_out) break;
    }
    spin_.End(net::Now());
    while (!loss_ && transport_->has_buffered_input()) {
      lock.unlock();
      PumpOnce(/*holds_write=*/false);
      lock.lock();
    }
    const bool satisfied = done();
    LeaveRole();
    if (satisfied) return OkStatus();
    if (loss_) return *loss_;
    return FarewellTimeout();
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
  bool PumpOnce(bool holds_write) {
    const Result<std::size_t> got = reader_.Fill(*transport_);
    if (got.ok() && *got == 0) return false;
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
      flush = std::exchange(acknowledged_, false) && !loss_;
    }
    if (flush && !holds_write) {
      bool queued = false;
      {
        const std::lock_guard send(send_mutex_);
        queued = !out_.empty();
      }
      if (queued) FlushWithoutBlocking();
    }
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

  // receive_mutex_ is held, and nobody else has the role of reader.
  void Lose(Error error) {
    if (loss_) return;
    error.scope = Scope::kSession;
    loss_ = std::move(error);
    lost_.store(true, std::memory_order_release);
    transport_->Shutdown();
    if (close_deadline_ns_.load(std::memory_order_relaxed) != 0) return;
    handler_thread_.store(pthread_self(), std::memory_order_relaxed);
    handler_->OnLost(*loss_);
    handler_thread_.store(kNoThread, std::memory_order_relaxed);
  }

  // FrameSink; receive_mutex_ is held.
  Status OnHeader(const wire::FrameHeader& header) override {
    TULLE_RETURN_IF_ERROR(CheckedOrBreach(CheckFromWorker(header, received_sequence_ + 1)));
    if (header.answers != 0) {
      const std::lock_guard lock(pending_mutex_);
      if (!pending_.Take(header.answers, header.opcode)) return Breach(wire::WireResult::kBadSequence);
      pending_count_.store(pending_.size(), std::memory_order_relaxed);
    }
    ++received_sequence_;
    return OkStatus();
  }

  Result<MutableByteView> OnPayload(const wire::FrameHeader& header, ByteView body) override {
    return handler_->OnPayload(header, body);
  }

  Status OnFrame(const wire::FrameHeader& header, ByteView body, MutableByteView payload) override {
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

  // --- the I/O thread: reads when nobody waits, and sends what has lingered ---

  Status StartIoThread() {
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, kIoStackBytes);
    // The thread lives in a program that is not ours: none of its signals may land on it.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int error = pthread_create(
        &io_thread_, &attributes,
        [](void* self) -> void* {
          static_cast<Session*>(self)->RunIo();
          return nullptr;
        },
        this);
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    pthread_attr_destroy(&attributes);
    if (error != 0) return ErrnoError("start the session's I/O thread", error);
    has_io_thread_ = true;
    pthread_setname_np(io_thread_, "tulle-io");
    return OkStatus();
  }

  void RunIo() {
    // What came along with the answer to Hello is not announced by the socket any more.
    bool readable = true;
    for (;;) {
      if (readable) ReadAsIoThread();
      std::array<epoll_event, 2> events;
      const int count = epoll_wait(epoll_.get(), events.data(), events.size(), -1);
      if (stop_.load(std::memory_order_acquire)) return;
      readable = false;
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
      armed_ = false;
      // Whoever reads now arms the socket again when it leaves.
      if (role_taken_ || loss_) return;
      role_taken_ = true;
    }
    while (PumpOnce(/*holds_write=*/false)) {
    }
    const std::lock_guard lock(receive_mutex_);
    LeaveRole();
  }

  void OnTimer() {
    std::uint64_t expirations = 0;
    [[maybe_unused]] const ssize_t got = read(timer_.get(), &expirations, sizeof expirations);
    {
      const std::lock_guard lock(send_mutex_);
      timer_armed_ = false;
    }
    if (!lost()) FlushWithoutBlocking();
  }

  const std::unique_ptr<net::Transport> transport_;
  ClientHandler* const handler_;
  SessionLimits limits_;  // set before the I/O thread starts

  // Locks are taken in this order: write, receive, send, pending.
  std::mutex write_mutex_;            // the right to write to the transport
  ByteQueue wire_;                    // guarded by write_mutex_: taken from out_, being written
  std::optional<Error> write_error_;  // guarded by write_mutex_

  std::mutex receive_mutex_;
  bool role_taken_ = false;    // guarded by receive_mutex_, as everything down to arena_
  bool armed_ = true;          // the I/O thread waits for the socket
  Waiter* waiters_ = nullptr;  // threads that wait while another reads
  std::condition_variable role_free_;
  std::optional<Error> loss_;
  bool acknowledged_ = false;            // an Ack has arrived since the last flush
  std::uint64_t received_sequence_ = 1;  // the answer to Hello was the first
  std::uint64_t durable_ = 0;
  wire::Arena arena_;
  std::atomic<bool> lost_{false};
  // On which the handler runs; no thread's id is 0.
  static constexpr pthread_t kNoThread = 0;
  std::atomic<pthread_t> handler_thread_{kNoThread};

  FrameReader reader_;  // the reader's
  SpinPolicy spin_;     // the reader's

  std::mutex send_mutex_;
  ByteQueue out_;                    // guarded by send_mutex_, as everything down to timer_armed_
  std::uint64_t next_sequence_ = 2;  // Hello was the first
  CreditLedger ledger_{1};
  bool timer_armed_ = false;

  std::mutex pending_mutex_;
  PendingReplies pending_;  // guarded by pending_mutex_
  std::atomic<std::size_t> pending_count_{0};

  UniqueFd epoll_;
  UniqueFd timer_;
  pthread_t io_thread_{};
  bool has_io_thread_ = false;  // the session was established
  std::atomic<bool> stop_{false};
  bool closed_ = false;
  std::atomic<std::int64_t> close_deadline_ns_{0};  // 0: not being closed
};

Result<std::unique_ptr<ClientSession>> StartOver(UniqueFd socket, const ClientSession::Options& options,
                                                 ClientHandler* handler, Instant deadline) {
  std::array<std::byte, kSessionIdBytes> id;
  options.random->Fill(id);
  const PskIdentity identity{options.target.vgpu, options.target.grant, ToHex(id), 0};
  TULLE_ASSIGN_OR_RETURN(auto transport, SecureClient(std::move(socket), options.target.key, identity,
                                                      options.target.tls, deadline));
  auto session = std::make_unique<Session>(std::move(transport), handler);
  TULLE_RETURN_IF_ERROR(session->Start(options, deadline));
  return std::unique_ptr<ClientSession>(std::move(session));
}

// What a refusal means to the person who started the program.
Error Explained(Error error, const Target& target) {
  if (error.code == Code::kPermissionDenied) {
    error.message = "the worker refused grant " + target.grant + " for vGPU " + target.vgpu +
                    " (revoked, ended with its claim, or of another vGPU): " + error.message;
  } else if (error.code == Code::kUnauthenticated) {
    error.message = "the worker has another key for grant " + target.grant + ": " + error.message;
  }
  return error;
}

}  // namespace

Result<std::unique_ptr<ClientSession>> ClientSession::ConnectOver(UniqueFd socket, const Options& options,
                                                                  ClientHandler* handler) {
  auto session = StartOver(std::move(socket), options, handler, net::Now() + options.connect_timeout);
  if (!session.ok()) return Explained(session.error(), options.target);
  return session;
}

Result<std::unique_ptr<ClientSession>> ClientSession::Connect(const Options& options,
                                                              ClientHandler* handler) {
  const Target& target = options.target;
  const Instant deadline = net::Now() + options.connect_timeout;
  Error failure = SessionError(Code::kUnavailable, target.endpoints.empty() ? "no endpoint is given" : "");
  for (std::size_t i = 0; i < target.endpoints.size(); ++i) {
    const auto one = [&]() -> Result<std::unique_ptr<ClientSession>> {
      TULLE_ASSIGN_OR_RETURN(const net::Endpoint endpoint, net::ParseEndpoint(target.endpoints[i]));
      // An endpoint that never answers must not use up the time of those behind it.
      const Instant now = net::Now();
      const Instant until = now + (deadline - now) / static_cast<std::int64_t>(target.endpoints.size() - i);
      TULLE_ASSIGN_OR_RETURN(UniqueFd socket, net::ConnectTcp(endpoint, until));
      return StartOver(std::move(socket), options, handler, until);
    };
    auto session = one();
    if (session.ok()) return session;
    const Error error = Explained(session.error(), target);
    if (!failure.message.empty()) failure.message += "; ";
    failure.message += target.endpoints[i] + ": " + error.message;
    // A worker's answer says more than that another endpoint is silent.
    if (error.code != Code::kUnavailable && error.code != Code::kDeadlineExceeded) {
      failure.code = error.code;
      failure.retry = error.retry;
    }
  }
  return failure.Within("vGPU " + target.vgpu + " cannot be reached");
}

}  // namespace tulle::session
