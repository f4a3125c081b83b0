// How many bytes of a large payload may be under way, so that what is sent behind them arrives soon and the
// connection is never idle: what it delivers in two of its shortest round trips. More would only wait in
// queues on the way. After BBR (Cardwell et al., "BBR: Congestion-Based Congestion Control", ACM Queue 14(5),
// 2016), without its pacing, which is TCP's part.
//
// Of one direction of a connection. The peer acknowledges positions of the stream; what is limited is what
// they take on the wire. Thread-safe; no system call.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <mutex>

#include "tulle/base/clock.h"

namespace tulle::session {

class FlightLimit {
 public:
  // The least that may be under way, and what may be before anything is known.
  static constexpr std::uint64_t kLeastBytes = 256u << 10;
  static constexpr std::uint64_t kFirstBytes = 256u << 10;
  // A round trip is taken to last this long at least: less is what a busy processor makes of it.
  static constexpr Duration kLeastRoundTrip = std::chrono::microseconds(200);

  // The connection is about to be given everything up to `position` of the stream, `wire_bytes` more than
  // before; `asked`: and the peer is asked to say when it has it.
  void OnSent(std::uint64_t position, std::uint64_t wire_bytes, bool asked, Instant now);
  // The peer has everything up to `position`.
  void OnAcknowledged(std::uint64_t position, Instant now);
  // Another connection: of it nothing is known.
  void Reset();

  std::uint64_t limit_bytes() const { return limit_.load(std::memory_order_relaxed); }
  std::uint64_t under_way_bytes() const {
    return sent_.load(std::memory_order_relaxed) - delivered_.load(std::memory_order_relaxed);
  }
  // How much more may be sent now.
  std::uint64_t room() const {
    const std::uint64_t limit = limit_bytes(), under_way = under_way_bytes();
    return under_way < limit ? limit - under_way : 0;
  }

 private:
  struct Sample {
    std::uint64_t position;    // in the stream
    std::uint64_t sent_bytes;  // on the wire, up to there
    Instant sent_at;
    std::uint64_t delivered_bytes;  // on the wire, as known then, ...
    Instant delivered_at;           // ... since then
  };
  // The best of a while, over two halves of it.
  struct Best {
    double now = 0, before = 0;
    Instant since;
    void Turn(Instant at, Duration half) {
      if (at - since < half) return;
      before = at - since < 2 * half ? now : 0;
      now = 0;
      since = at;
    }
  };

  std::mutex mutex_;  // guards everything down to inverse_round_trip_
  std::deque<Sample> samples_;
  std::uint64_t unsampled_ = 0;
  std::uint64_t acknowledged_ = 0;
  Instant delivered_at_;
  Best rate_;                // bytes for each ns
  Best inverse_round_trip_;  // for each ns, so that the best is the largest
  std::atomic<std::uint64_t> sent_{0};
  std::atomic<std::uint64_t> delivered_{0};
  std::atomic<std::uint64_t> limit_{kFirstBytes};
};

}  // namespace tulle::session
