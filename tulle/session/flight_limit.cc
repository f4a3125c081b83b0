#include "tulle/session/flight_limit.h"

#include <algorithm>

namespace tulle::session {
namespace {

// As often a moment is remembered.
constexpr std::uint64_t kSampleBytes = 16u << 10;
// How long the best is believed: a rate goes up and down with what else is sent, a path rarely changes.
constexpr Duration kRateHalf = std::chrono::milliseconds(500);
constexpr Duration kRoundTripHalf = std::chrono::seconds(5);

}  // namespace

void FlightLimit::OnSent(std::uint64_t position, std::uint64_t wire_bytes, bool asked, Instant now) {
  const std::uint64_t sent = sent_.load(std::memory_order_relaxed) + wire_bytes;
  sent_.store(sent, std::memory_order_relaxed);
  unsampled_ += wire_bytes;
  if (!asked && unsampled_ < kSampleBytes) return;
  unsampled_ = 0;
  const std::lock_guard lock(mutex_);
  // Nothing of the stream, but a question: the peer has said all that it could.
  if (position <= acknowledged_) {
    samples_.clear();
    delivered_.store(sent, std::memory_order_relaxed);
    return;
  }
  // What nobody was waiting for took no time.
  if (samples_.empty()) {
    delivered_.store(sent - wire_bytes, std::memory_order_relaxed);
    delivered_at_ = now;
  }
  samples_.push_back({position, sent, now, delivered_.load(std::memory_order_relaxed), delivered_at_});
}

void FlightLimit::OnAcknowledged(std::uint64_t position, Instant now) {
  const std::lock_guard lock(mutex_);
  acknowledged_ = position;
  if (samples_.empty() || position < samples_.front().position) return;
  Sample last{};
  while (!samples_.empty() && samples_.front().position <= position) {
    last = samples_.front();
    samples_.pop_front();
  }
  delivered_.store(last.sent_bytes, std::memory_order_relaxed);
  delivered_at_ = now;
  const auto took = static_cast<double>(std::max<std::int64_t>(1, (now - last.sent_at).count()));
  const auto since = static_cast<double>(std::max<std::int64_t>(1, (now - last.delivered_at).count()));
  inverse_round_trip_.Turn(now, kRoundTripHalf);
  inverse_round_trip_.now = std::max(inverse_round_trip_.now, 1 / took);
  const double round_trip = std::max(1 / std::max(inverse_round_trip_.now, inverse_round_trip_.before),
                                     static_cast<double>(kLeastRoundTrip.count()));
  rate_.Turn(now, std::max(kRateHalf, Duration(static_cast<std::int64_t>(8 * round_trip))));
  rate_.now = std::max(rate_.now, static_cast<double>(last.sent_bytes - last.delivered_bytes) / since);
  const double limit = 2 * std::max(rate_.now, rate_.before) * round_trip;
  limit_.store(std::max(kLeastBytes, static_cast<std::uint64_t>(limit)), std::memory_order_relaxed);
}

void FlightLimit::Reset() {
  const std::lock_guard lock(mutex_);
  samples_.clear();
  unsampled_ = 0;
  rate_ = {};
  inverse_round_trip_ = {};
  delivered_.store(sent_.load(std::memory_order_relaxed), std::memory_order_relaxed);
  limit_.store(kFirstBytes, std::memory_order_relaxed);
}

}  // namespace tulle::session
