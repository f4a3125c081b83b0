// A sender that sends whatever the limit allows, over a simulated line: it finds the line's rate and delay,
// and never stops for good.
#include "tulle/session/flight_limit.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>

#include "tulle/base/random.h"

namespace tulle::session {
namespace {

struct Line {
  double bytes_per_ns;
  Duration round_trip;
};

class Sender {
 public:
  // Sends parts for `time`; the peer says at most every `tells` bytes what it has. Returns the rate.
  double Run(const Line& line, Duration time, std::uint64_t tells = 64u << 10) {
    const Instant end = now_ + time;
    const std::uint64_t before = acknowledged_;
    const Instant began = now_;
    while (now_ < end) {
      const std::uint64_t part = std::min<std::uint64_t>(limit.limit_bytes() / 4, 256u << 10);
      if (limit.room() >= part) {
        position_ += part;
        unasked_ += part;
        const bool asks = 4 * unasked_ >= limit.limit_bytes() || unasked_ >= tells;
        if (asks) unasked_ = 0;
        limit.OnSent(position_, part + 16, asks, now_);
        free_at_ = std::max(free_at_, now_) +
                   Duration(static_cast<std::int64_t>(static_cast<double>(part) / line.bytes_per_ns));
        if (asks) told_.push_back({position_, free_at_ + line.round_trip});
        continue;
      }
      if (told_.empty()) {
        ADD_FAILURE() << "stopped for good at a limit of " << limit.limit_bytes();
        return 0;
      }
      now_ = std::max(now_, told_.front().at);
      acknowledged_ = told_.front().position;
      limit.OnAcknowledged(acknowledged_, now_);
      told_.pop_front();
    }
    return static_cast<double>(acknowledged_ - before) / static_cast<double>((now_ - began).count());
  }

  FlightLimit limit;

 private:
  struct Told {
    std::uint64_t position;
    Instant at;
  };
  Instant now_{1};
  Instant free_at_{1};  // the line
  std::uint64_t position_ = 0, unasked_ = 0, acknowledged_ = 0;
  std::deque<Told> told_;
};

constexpr Duration kSecond = std::chrono::seconds(1);

TEST(FlightLimitTest, FillsTheLineAndNoMore) {
  for (const double bytes_per_ns : {0.0125, 0.125, 1.25, 12.5}) {  // 100 Mbit/s to 100 Gbit/s
    for (const auto round_trip : {20, 500, 5'000, 30'000}) {       // us
      const Line line{bytes_per_ns, std::chrono::microseconds(round_trip)};
      Sender sender;
      sender.Run(line, kSecond);
      EXPECT_GT(sender.Run(line, kSecond), 0.9 * bytes_per_ns) << bytes_per_ns << ", " << round_trip;
      const double product = bytes_per_ns * 1e3 * std::max(200, round_trip);
      // A round trip also takes the time of what it asks about, a quarter of the limit.
      EXPECT_LE(static_cast<double>(sender.limit.limit_bytes()),
                std::max(1.2 * static_cast<double>(FlightLimit::kLeastBytes), 4.5 * product))
          << bytes_per_ns << ", " << round_trip;
    }
  }
}

TEST(FlightLimitTest, FollowsALineThatGetsSlowerOrFaster) {
  Sender sender;
  const Line fast{1.25, std::chrono::milliseconds(1)}, slow{0.0125, std::chrono::milliseconds(1)};
  sender.Run(fast, kSecond);
  const std::uint64_t of_fast = sender.limit.limit_bytes();
  sender.Run(slow, 3 * kSecond);
  EXPECT_LT(sender.limit.limit_bytes(), of_fast / 4);
  sender.Run(fast, kSecond);
  EXPECT_GT(sender.Run(fast, kSecond), 1.1);
}

TEST(FlightLimitTest, ALineOfChangingSpeedNeverStopsIt) {
  SeededRandom random(31);
  Sender sender;
  for (int i = 0; i < 200; ++i) {
    const Line line{0.001 * static_cast<double>(1 + random.Below(5000)),
                    std::chrono::microseconds(10 + random.Below(20'000))};
    sender.Run(line, std::chrono::milliseconds(1 + random.Below(50)), 16u << (10 + random.Below(6)));
  }
}

TEST(FlightLimitTest, OfAnotherConnectionNothingIsKnown) {
  Sender sender;
  sender.Run({1.25, std::chrono::milliseconds(5)}, kSecond);
  EXPECT_GT(sender.limit.limit_bytes(), FlightLimit::kFirstBytes);
  sender.limit.Reset();
  EXPECT_EQ(sender.limit.limit_bytes(), FlightLimit::kFirstBytes);
  EXPECT_EQ(sender.limit.under_way_bytes(), 0u);
}

TEST(FlightLimitTest, AQuestionBehindWhatIsAcknowledgedIsNothingUnderWay) {
  FlightLimit limit;
  limit.OnSent(100'000, 100'016, true, Instant{10});
  limit.OnAcknowledged(100'000, Instant{20});
  limit.OnSent(100'000, 16, true, Instant{30});
  EXPECT_EQ(limit.under_way_bytes(), 0u);
}

}  // namespace
}  // namespace tulle::session
