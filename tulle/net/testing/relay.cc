#include "tulle/net/testing/relay.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <deque>
#include <list>
#include <vector>

#include "tulle/base/bytes.h"
#include "tulle/base/check.h"
#include "tulle/base/random.h"
#include "tulle/net/wait.h"

namespace tulle::net {
namespace {

constexpr std::size_t kChunkBytes = 64u << 10;
constexpr std::size_t kMostHeldBytes = 8u << 20;  // one way of one connection

// What is on a line of that speed and length, and a switch's buffer.
std::size_t MostHeld(const Relay::Options& options) {
  if (options.bytes_per_s == 0) return kMostHeldBytes;
  const double seconds = std::chrono::duration<double>(options.delay).count() + 0.002;
  return std::min(kMostHeldBytes,
                  kChunkBytes + static_cast<std::size_t>(seconds * static_cast<double>(options.bytes_per_s)));
}

}  // namespace

struct Relay::Connection {
  struct Piece {
    Instant due;
    ByteVector bytes;
    std::size_t sent = 0;
  };
  struct Way {
    std::deque<Piece> pieces;
    std::size_t held_bytes = 0;
    Instant free{};      // when the line has carried all that it was given
    bool ended = false;  // the sender has; its end is passed on behind the last piece
    bool shut = false;
  };
  UniqueFd sockets[2];  // the program's, the target's
  Way ways[2];          // from each of them
  std::uint64_t left_bytes = ~0ull;

  // False: the connection is over.
  bool Receive(int from, const Options& options) {
    Way& way = ways[from];
    if (way.ended || way.held_bytes >= MostHeld(options)) return true;
    ByteVector bytes(kChunkBytes);
    const ssize_t got = recv(sockets[from].get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
    if (got < 0) return errno == EAGAIN || errno == EINTR;
    if (got == 0) {
      way.ended = true;
      return true;
    }
    bytes.resize(static_cast<std::size_t>(got));
    way.held_bytes += bytes.size();
    way.free = std::max(way.free, Now());
    if (options.bytes_per_s != 0) {
      way.free = way.free + std::chrono::nanoseconds(bytes.size() * 1'000'000'000 / options.bytes_per_s);
    }
    way.pieces.push_back({way.free + options.delay, std::move(bytes)});
    return true;
  }
  bool Send(int from) {
    Way& way = ways[from];
    const int to = sockets[1 - from].get();
    while (!way.pieces.empty() && way.pieces.front().due <= Now() && left_bytes != 0) {
      Piece& piece = way.pieces.front();
      const std::size_t size = std::min<std::uint64_t>(piece.bytes.size() - piece.sent, left_bytes);
      const ssize_t sent = send(to, piece.bytes.data() + piece.sent, size, MSG_DONTWAIT | MSG_NOSIGNAL);
      if (sent < 0) return errno == EAGAIN || errno == EINTR;
      piece.sent += static_cast<std::size_t>(sent);
      way.held_bytes -= static_cast<std::size_t>(sent);
      if (left_bytes != ~0ull) left_bytes -= static_cast<std::uint64_t>(sent);
      if (piece.sent == piece.bytes.size()) way.pieces.pop_front();
    }
    if (way.ended && way.pieces.empty() && !way.shut) {
      way.shut = true;
      shutdown(to, SHUT_WR);
    }
    return true;
  }
  bool over() const { return ways[0].shut && ways[1].shut; }

  // By a reset, which may overtake what was sent, or in good order.
  void Cut(bool reset) {
    const linger now{1, 0};
    for (UniqueFd& socket : sockets) {
      if (reset) setsockopt(socket.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
      socket.reset();
    }
  }
};

Result<std::unique_ptr<Relay>> Relay::Start(const Options& options) {
  TULLE_ASSIGN_OR_RETURN(Listener listener, ListenTcp("127.0.0.1", 0));
  std::unique_ptr<Relay> relay(new Relay(options, std::move(listener)));
  relay->thread_ = std::thread([self = relay.get()] { self->Run(); });
  return relay;
}

Relay::Relay(const Options& options, Listener listener)
    : options_(options),
      listener_(std::move(listener.socket)),
      port_(listener.port),
      wake_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  TULLE_CHECK(wake_.valid());
}

Relay::~Relay() {
  stop_ = true;
  Wake();
  thread_.join();
}

void Relay::Wake() { (void)eventfd_write(wake_.get(), 1); }

void Relay::CutAll(bool refuse) {
  refuse_ = refuse;
  cut_all_ = true;
  Wake();
  cut_all_.wait(true);
}

void Relay::Run() {
  prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);  // delays are as long as asked for, not 50 us longer
  SeededRandom random(options_.seed);
  std::list<Connection> connections;
  std::vector<pollfd> fds;
  while (!stop_) {
    fds.assign({{listener_.get(), POLLIN, 0}, {wake_.get(), POLLIN, 0}});
    Duration wait = std::chrono::hours(1);
    for (const Connection& connection : connections) {
      for (int from = 0; from < 2; ++from) {
        const Connection::Way& in = connection.ways[from];
        const Connection::Way& out = connection.ways[1 - from];
        short events = !in.ended && in.held_bytes < MostHeld(options_) ? POLLIN : 0;
        if (!out.pieces.empty()) {
          const Duration until_due = out.pieces.front().due - Now();
          if (until_due <= Duration::zero()) {
            events |= POLLOUT;
          } else {
            wait = std::min(wait, until_due);
          }
        }
        fds.push_back({events == 0 ? -1 : connection.sockets[from].get(), events, 0});
      }
    }
    const timespec timeout{wait / std::chrono::seconds(1), (wait % std::chrono::seconds(1)).count()};
    (void)ppoll(fds.data(), fds.size(), &timeout, nullptr);
    eventfd_t count = 0;
    (void)eventfd_read(wake_.get(), &count);
    const bool cut_all = cut_all_;
    for (auto it = connections.begin(); it != connections.end();) {
      bool lives = true;
      for (int from = 0; from < 2 && lives; ++from) {
        lives = it->Receive(from, options_) && it->Send(from);
      }
      const bool cut = cut_all || (it->left_bytes == 0 && cuts_ < options_.most_cuts);
      if (it->left_bytes == 0 && !cut) it->left_bytes = ~0ull;
      if (cut || !lives) {
        if (cut) ++cuts_;
        it->Cut(random.Below(2) == 0);
      }
      it = cut || !lives || it->over() ? connections.erase(it) : std::next(it);
    }
    if (cut_all) {
      cut_all_ = false;
      cut_all_.notify_all();
    }
    if ((fds[0].revents & POLLIN) == 0) continue;
    UniqueFd socket(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket.valid() || refuse_) continue;
    auto target = ConnectTcp(options_.target, Now() + std::chrono::seconds(10));
    if (!target.ok()) continue;
    ++connections_;
    Connection& connection = connections.emplace_back();
    connection.sockets[0] = std::move(socket);
    connection.sockets[1] = std::move(*target);
    const int on = 1;
    for (UniqueFd& one : connection.sockets) setsockopt(one.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (options_.cut_within_bytes != 0 && connections_ > options_.spared && cuts_ < options_.most_cuts) {
      connection.left_bytes = options_.spared_bytes + 1 + random.Below(options_.cut_within_bytes);
    }
  }
}

}  // namespace tulle::net
