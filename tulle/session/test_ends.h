// For tests only: both ends of a session over real sockets in one process. A worker that echoes, a client
// that waits for its answers, a fixture of the two over each kind of connection, and an end that says what it
// likes. Nothing of it is built into a program. Seeded; waits for conditions, never for time.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "tulle/net/local/local.h"
#include "tulle/net/tcp/socket.h"
#include "tulle/net/wait.h"
#include "tulle/session/frame_io.h"
#include "tulle/session/link.h"
#include "tulle/session/secure.h"
#include "tulle/session/test_pair.h"

namespace tulle::session {

using wire::opencl::EnqueueRead;
using wire::opencl::EnqueueReadReply;
using wire::opencl::EnqueueWrite;
using wire::opencl::Finish;

inline Instant Soon() { return net::Now() + std::chrono::seconds(30); }

// The payload of a command or reply, told by its number and size.
inline void FillPattern(std::uint64_t seed, MutableByteView out) { SeededRandom(seed).Fill(out); }
inline bool HasPattern(std::uint64_t seed, ByteView bytes) {
  ByteVector expected(bytes.size());
  FillPattern(seed, expected);
  return std::equal(bytes.begin(), bytes.end(), expected.begin());
}

template <wire::Message M>
M WithHandles() {
  M message;
  M::ForEachField(message, [](std::string_view, auto& field) {
    if constexpr (wire::internal::IsHandle<std::remove_cvref_t<decltype(field)>>::value)
      field.handle = {1, 1};
  });
  return message;
}
inline EnqueueWrite WriteOf(std::uint64_t seed, std::size_t size) {
  auto message = WithHandles<EnqueueWrite>();
  message.offset_bytes = seed;
  message.data.size_bytes = size;
  return message;
}
inline EnqueueRead ReadOf(std::uint64_t seed, std::size_t size) {
  auto message = WithHandles<EnqueueRead>();
  message.offset_bytes = seed;
  message.data.size_bytes = size;
  return message;
}

// A worker's loop, with a device that echoes: writes are compared with the pattern of their offset, reads
// answered with it, statuses are the low bits of the sequence number.
class EchoWorker final : public FrameHandler {
 public:
  explicit EchoWorker(std::uint64_t seed = 1) : random_(seed) {}

  void Start(std::unique_ptr<ServerSession> session) {
    session_ = std::move(session);
    int fds[2];
    TULLE_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    wake_ = UniqueFd(fds[0]);
    woken_ = UniqueFd(fds[1]);
    thread_ = std::thread([this] { Run(); });
  }
  ~EchoWorker() override { Join(); }
  void Join() {
    if (thread_.joinable()) thread_.join();
  }
  // From another thread: ends the session, as a revoked grant does.
  void End(wire::EndReason reason, std::string message) {
    {
      const std::lock_guard lock(mutex_);
      end_ = reason;
      end_message_ = std::move(message);
    }
    Wake();
  }
  // Stops reading, and goes on.
  void Hold(bool hold) {
    hold_ = hold;
    Wake();
  }
  // From here on every Ack may wait for an answer.
  void MoreFollows() { more_follows_ = true; }
  void HoldAcks(bool hold) {
    hold_acks_ = hold;
    Wake();
  }

  Result<MutableByteView> OnPayload(const wire::FrameHeader& header, ByteView) override {
    room_.resize(header.payload_bytes);
    return MutableByteView(room_);
  }
  Result<MutableByteView> OnParts(std::uint64_t answers, std::uint64_t total_bytes) override {
    EXPECT_EQ(answers, 0u);
    ++parted_;
    parts_.resize(total_bytes);
    return MutableByteView(parts_);
  }
  Status OnFrame(const wire::FrameHeader& header, ByteView body, MutableByteView payload) override {
    ++frames_;
    last_ = header.sequence;
    sequences_ok_ = sequences_ok_ && header.sequence > last_seen_;
    last_seen_ = header.sequence;
    arena_.Reset();
    if (header.opcode == wire::kOpcodeOf<EnqueueWrite>) {
      EnqueueWrite message;
      TULLE_RETURN_IF_ERROR(CheckedOrBreach(wire::Decode(body, header.payload_bytes, arena_, &message)));
      if (!HasPattern(message.offset_bytes, payload)) patterns_ok_ = false;
    }
    if (header.opcode == wire::kOpcodeOf<EnqueueRead>) {
      EnqueueRead message;
      TULLE_RETURN_IF_ERROR(CheckedOrBreach(wire::Decode(body, header.payload_bytes, arena_, &message)));
      later_.push_back({header.opcode, header.sequence, message.offset_bytes, message.data.size_bytes});
    } else if (header.opcode == wire::kOpcodeOf<Finish> || (header.flags & wire::kWantStatus) != 0) {
      later_.push_back({header.opcode, header.sequence, 0, 0});
    }
    if (later_.size() >= 1 + random_.Below(8)) Answer();
    return OkStatus();
  }

  std::uint64_t frames() const { return frames_; }
  std::uint64_t parted() const { return parted_; }  // payloads that came in parts
  bool patterns_ok() const { return patterns_ok_; }
  bool sequences_ok() const { return sequences_ok_; }
  // From OnFrame of the worker's thread: goes to the client with its next answer.
  std::function<void(ServerSession&)> before_answer;
  const Error& end_error() const { return *end_error_; }
  std::size_t most_pending() const { return most_pending_; }

 private:
  struct Later {
    std::uint16_t opcode;
    std::uint64_t sequence, seed, size;
  };

  void Wake() {
    const char byte = 0;
    TULLE_CHECK(send(wake_.get(), &byte, 1, MSG_NOSIGNAL) == 1);
  }

  // Out of order: replies may be.
  void Answer() {
    if (before_answer && !later_.empty()) before_answer(*session_);
    while (!later_.empty()) {
      const std::size_t i = random_.Below(later_.size());
      const Later one = later_[i];
      later_.erase(later_.begin() + static_cast<std::ptrdiff_t>(i));
      if (one.opcode == wire::kOpcodeOf<EnqueueRead>) {
        ByteVector bytes(one.size);
        FillPattern(one.seed, bytes);
        EnqueueReadReply reply;
        reply.data.size_bytes = one.size;
        EXPECT_TRUE(session_->SendReply(one.opcode, one.sequence, reply, bytes).ok());
      } else {
        EXPECT_TRUE(session_
                        ->SendReply(one.opcode, one.sequence,
                                    wire::StatusReply{static_cast<std::int32_t>(one.sequence & 0xff)})
                        .ok());
      }
      most_pending_ = std::max(most_pending_.load(), session_->pending_bytes());
    }
  }

  void Run() {
    for (;;) {
      {
        const std::lock_guard lock(mutex_);
        if (end_) return session_->End(*end_, end_message_);
      }
      session_->Pause(hold_ || session_->pending_bytes() > (8u << 20));
      const auto pumped = session_->Pump(*this);
      if (!pumped.ok()) {
        end_error_ = pumped.error();
        return session_->End(wire::EndReason::kGoodbye, "");
      }
      if (!*pumped) Answer();
      if (!hold_acks_) session_->Acknowledge(last_, more_follows_);
      const auto flushed = session_->Flush();
      if (!flushed.ok()) {
        end_error_ = flushed.error();
        return session_->End(wire::EndReason::kGoodbye, "");
      }
      if (*pumped || session_->has_buffered_input()) continue;
      pollfd fds[] = {{session_->fd(), session_->events(), 0},
                      {woken_.get(), POLLIN, 0},
                      {session_->wake_fd(), POLLIN, 0}};
      int timeout_ms = -1;
      if (const auto look = session_->next_look()) {
        timeout_ms =
            static_cast<int>(std::max<std::int64_t>(0, (*look - net::Now()).count() / 1'000'000 + 1));
      }
      poll(fds, 3, timeout_ms);
      char bytes[64];
      if ((fds[1].revents & POLLIN) != 0) {
        [[maybe_unused]] const ssize_t got = recv(woken_.get(), bytes, sizeof bytes, MSG_DONTWAIT);
      }
    }
  }

  SeededRandom random_;
  std::unique_ptr<ServerSession> session_;
  std::thread thread_;
  UniqueFd wake_, woken_;
  std::mutex mutex_;
  std::optional<wire::EndReason> end_;
  std::string end_message_;
  std::atomic<bool> hold_{false}, hold_acks_{false}, more_follows_{false};
  ByteVector room_, parts_;
  wire::Arena arena_;
  std::vector<Later> later_;
  std::uint64_t last_ = 0, last_seen_ = 0;
  std::atomic<std::uint64_t> frames_{0}, parted_{0};
  std::atomic<bool> patterns_ok_{true}, sequences_ok_{true};
  std::optional<Error> end_error_;
  std::atomic<std::size_t> most_pending_{0};
};

// Notes what arrives. `Wait` is the usual way to a result.
class Client final : public ClientHandler {
 public:
  std::unique_ptr<ClientSession> session;

  // Sends, and returns the status in the reply; nothing when the session was lost.
  template <wire::Message M>
  std::optional<std::int32_t> Call(const M& message, std::span<const ByteView> payload = {},
                                   std::uint16_t flags = 0, MutableByteView room = {}) {
    Expected expected;
    expected.room = room;
    Register registering{this, &expected};
    const auto sequence = session->Send(message, payload, flags, &Register::Run, &registering);
    if (!sequence.ok()) return std::nullopt;
    EXPECT_EQ(*sequence, registering.sequence);
    if (!session->WaitUntil([&] { return expected.done; }).ok()) return std::nullopt;
    return expected.status;
  }
  bool Ping() { return Call(wire::Ping{5}) == 0; }

  Result<MutableByteView> OnPayload(const wire::FrameHeader& header, ByteView) override {
    return RoomOf(header.answers);
  }
  Result<MutableByteView> OnParts(std::uint64_t answers, std::uint64_t) override {
    ++parted;
    return RoomOf(answers);
  }
  MutableByteView RoomOf(std::uint64_t answers) {
    const std::lock_guard lock(mutex_);
    const auto found = expected_.find(answers);
    return found == expected_.end() ? MutableByteView() : found->second->room;
  }
  Status OnFrame(const wire::FrameHeader& header, ByteView body, MutableByteView payload) override {
    ++frames;
    if (in_handler != nullptr) in_handler();
    const std::lock_guard lock(mutex_);
    if (header.answers == 0) {
      ++notices;
      return OkStatus();
    }
    const auto found = expected_.find(header.answers);
    if (found == expected_.end()) return OkStatus();
    wire::Arena arena;
    if (header.opcode == wire::kOpcodeOf<EnqueueRead>) {
      EnqueueReadReply reply;
      TULLE_RETURN_IF_ERROR(CheckedOrBreach(wire::Decode(body, header.payload_bytes, arena, &reply)));
      found->second->status = reply.status;
      found->second->got = payload.size();
    } else {
      wire::StatusReply reply;
      TULLE_RETURN_IF_ERROR(CheckedOrBreach(wire::Decode(body, header.payload_bytes, arena, &reply)));
      found->second->status = reply.status;
    }
    found->second->done = true;
    expected_.erase(found);
    return OkStatus();
  }
  void OnLost(const Error& error) override {
    const std::lock_guard lock(mutex_);
    ++lost_times;
    lost_error = error;
    lost.notify_all();
  }
  bool HasWork() const override { return has_work; }
  void Work(Who who) override {
    if (has_work.exchange(false)) work(who);
  }
  Error AwaitLost() {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(lost.wait_for(lock, std::chrono::seconds(30), [&] { return lost_times != 0; }));
    return lost_error;
  }

  std::function<void()> in_handler;
  std::atomic<int> frames = 0;
  std::atomic<bool> has_work = false;  // for once
  std::function<void(Who)> work;
  std::atomic<int> notices = 0;
  std::atomic<int> parted = 0;  // answers whose payload came in parts
  std::atomic<int> lost_times = 0;
  Error lost_error;
  std::condition_variable lost;

 private:
  struct Expected {
    MutableByteView room;
    std::int32_t status = 0;
    std::size_t got = 0;
    bool done = false;
  };
  struct Register {
    Client* client;
    Expected* expected;
    std::uint64_t sequence = 0;
    static void Run(void* argument, std::uint64_t sequence) {
      auto* self = static_cast<Register*>(argument);
      self->sequence = sequence;
      const std::lock_guard lock(self->client->mutex_);
      self->client->expected_[sequence] = self->expected;
    }
  };
  std::mutex mutex_;
  std::map<std::uint64_t, Expected*> expected_;
};

inline SocketPair TcpPair() {
  auto listener = net::ListenTcp("127.0.0.1", 0);
  TULLE_CHECK(listener.ok());
  auto client = net::ConnectTcp({"127.0.0.1", listener->port}, Soon());
  TULLE_CHECK(client.ok());
  net::WaitFor(listener->socket.get(), POLLIN, Soon());
  return {std::move(*client), UniqueFd(accept4(listener->socket.get(), nullptr, nullptr, SOCK_CLOEXEC))};
}

// How the two ends are connected.
struct Kind {
  const char* name;
  bool tls;
  bool tcp;
  bool local = false;  // a socket of the host; neither of the others then
};

inline ClientSession::Options ClientOptions(bool tls) {
  static SecureRandom random;
  ClientSession::Options options;
  options.target = TestTarget();
  options.target.tls = tls;
  options.program = "session_test\n";
  options.random = &random;
  return options;
}

struct Ends {
  Result<std::unique_ptr<ServerSession>> server = Error{};
  Result<std::unique_ptr<ClientSession>> client = Error{};
};
inline Ends Connect(SocketPair sockets, ClientHandler* handler, const ClientSession::Options& options,
                    ServerLimits limits, const ServerSession::KeyLookup& keys = TestKeys) {
  Ends ends;
  std::thread accepting(
      [&] { ends.server = ServerSession::Accept(std::move(sockets.server), limits, keys); });
  ends.client = ClientSession::ConnectOver(std::move(sockets.client), options, handler);
  accepting.join();
  return ends;
}

// The same through a socket of the host, whose path is the client's only endpoint.
inline Ends ConnectLocally(ClientHandler* handler, ClientSession::Options options,
                           const ServerLimits& limits) {
  std::string folder = testing::TempDir() + "tulle-session-XXXXXX";
  TULLE_CHECK(mkdtemp(folder.data()) != nullptr);
  const net::LocalEndpoint endpoint{net::BootId(), geteuid(), folder + "/data.sock"};
  const auto listener = net::ListenLocal(endpoint.path);
  TULLE_CHECK(listener.ok());
  options.target.endpoints = {net::FormatLocalEndpoint(endpoint)};
  Ends ends;
  std::thread accepting([&] {
    net::WaitFor(listener->get(), POLLIN, Soon());
    ends.server = ServerSession::Accept(UniqueFd(accept4(listener->get(), nullptr, nullptr, SOCK_CLOEXEC)),
                                        limits, TestKeys);
  });
  ends.client = ClientSession::Connect(options, handler);
  accepting.join();
  std::filesystem::remove_all(folder);
  return ends;
}

class SessionTest : public testing::TestWithParam<Kind> {
 protected:
  void Start(ServerLimits limits = {}) {
    limits.allow_plain_tcp = !GetParam().local;
    const auto options = ClientOptions(GetParam().tls);
    Ends ends = GetParam().local
                    ? ConnectLocally(&client_, options, limits)
                    : Connect(GetParam().tcp ? TcpPair() : MakeSocketPair(), &client_, options, limits);
    ASSERT_TRUE(ends.client.ok()) << ToString(ends.client.error());
    ASSERT_TRUE(ends.server.ok()) << ToString(ends.server.error());
    client_.session = std::move(*ends.client);
    EXPECT_EQ((*ends.server)->peer().vgpu, TestTarget().vgpu);
    EXPECT_EQ((*ends.server)->peer().grant, TestTarget().grant);
    EXPECT_EQ((*ends.server)->peer().program, "session_test?") << "unprintable bytes do not reach a log";
    EXPECT_EQ((*ends.server)->peer().process_id, static_cast<std::uint32_t>(getpid()));
    worker_.Start(std::move(*ends.server));
  }
  void TearDown() override {
    if (client_.session != nullptr) client_.session->Close();
    worker_.Join();
    EXPECT_TRUE(worker_.patterns_ok());
    EXPECT_TRUE(worker_.sequences_ok());
    EXPECT_LE(client_.lost_times, 1);
  }
  ClientSession& session() { return *client_.session; }
  // A write and a read of so many bytes.
  void MoveBothWays(std::size_t size) {
    ByteVector bytes(size), back(size);
    FillPattern(4, bytes);
    const ByteView view(bytes);
    ASSERT_TRUE(session().Send(WriteOf(4, size), {&view, 1}).ok());
    EXPECT_EQ(client_.Call(ReadOf(4, size), {}, 0, back), 0);
    EXPECT_TRUE(HasPattern(4, back));
  }

  Client client_;
  EchoWorker worker_;
};

// One end that is proved by its key and then says what it likes.
struct RawEnd {
  std::unique_ptr<net::Transport> transport;
  FrameReader reader;
  std::uint64_t sequence = 0;

  void Over(std::unique_ptr<net::Transport> connection, bool from_client) {
    transport = *Link::Make(std::move(connection), from_client);
  }
  template <wire::Message M>
  void Send(std::uint16_t opcode, std::uint64_t answers, const M& message) {
    ByteQueue out;
    AppendMessage(out, opcode, ++sequence, answers, message);
    Raw(out.data());
  }
  template <wire::Message M>
  void SendWithPayload(std::uint16_t opcode, std::uint64_t answers, const M& message, std::uint16_t flags,
                       ByteView payload) {
    wire::FrameHeader header;
    header.body_bytes = static_cast<std::uint32_t>(wire::EncodedSize(message));
    header.opcode = opcode;
    header.flags = flags;
    header.sequence = ++sequence;
    header.answers = answers;
    header.payload_bytes = payload.size();
    ByteQueue out;
    wire::Encode(message, AppendFrame(out, header));
    out.Append(payload);
    Raw(out.data());
  }
  void Raw(ByteView bytes) { [[maybe_unused]] const Status status = WriteAll(*transport, bytes, Soon()); }
  void Header(const wire::FrameHeader& header) { Raw(std::as_bytes(std::span(&header, 1))); }
};

// Takes one frame.
struct OneFrame final : FrameSink {
  Status OnHeader(const wire::FrameHeader&) override { return OkStatus(); }
  Result<MutableByteView> OnPayload(const wire::FrameHeader&, ByteView) override { return MutableByteView(); }
  Status OnFrame(const wire::FrameHeader& h, ByteView b, MutableByteView) override {
    header = h;
    body.assign(b.begin(), b.end());
    got = true;
    return OkStatus();
  }
  bool WantsMore() const override { return !got; }
  wire::FrameHeader header;
  ByteVector body;
  bool got = false;
};

}  // namespace tulle::session
