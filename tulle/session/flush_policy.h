// Should a command that finds the connection idle leave at once, or wait for the flush that will follow? At
// once, the worker begins while the program goes on; together with what follows, each end saves a system
// call, a record and a wake-up. Decided from what followed before. Of one session; no lock, no system call.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>

#include "tulle/base/clock.h"

namespace tulle::session {

class FlushPolicy {
 public:
  // A command was queued at `now` on an idle connection; true: it leaves at once.
  bool OnFirst(Instant now) {
    if (first_) Missed();
    first_ = now;
    alone_ = true;
    return hits_ < wanted_hits_;
  }
  // Another was queued behind it, or behind others.
  void OnNext() { alone_ = false; }

  // The program waits for an answer: everything leaves now.
  void OnWait(Instant now) {
    Judge(now);
    written_ = now;
  }
  // The program has asked for a flush, and goes on: how long it waits for company; zero: it leaves now.
  Duration OnFlush(Instant now) {
    const bool was_idle = first_.has_value();
    Judge(now);
    const Duration since = now - written_;
    if (!was_idle && since < kShare) return kShare - since;
    written_ = now;
    return {};
  }

 private:
  void Judge(Instant now) {
    if (!first_) return;
    if (now - *first_ > kSoon) return Missed();
    first_.reset();
    if (alone_) return;  // nothing to leave together with
    if (hits_ < wanted_hits_) {
      ++hits_;
    } else if (++surplus_ >= wanted_hits_) {
      surplus_ = 0;
      wanted_hits_ = std::max(wanted_hits_ / 2, kFewestHits);
    }
  }
  void Missed() {
    // A wrong guess has cost the command a delay: the next one needs more evidence.
    if (hits_ >= wanted_hits_) wanted_hits_ = std::min(2 * wanted_hits_, kMostHits);
    hits_ = surplus_ = 0;
    first_.reset();
  }

  static constexpr Duration kSoon = std::chrono::microseconds(10);
  static constexpr Duration kShare = std::chrono::microseconds(50);
  static constexpr std::uint32_t kFewestHits = 16;
  static constexpr std::uint32_t kMostHits = 4096;

  Instant written_{-kShare.count()};  // the last flush
  std::optional<Instant> first_;      // its flush has not come
  bool alone_ = false;
  std::uint32_t wanted_hits_ = kFewestHits;
  std::uint32_t hits_ = 0;     // flushes in a row that came soon, up to wanted_hits_
  std::uint32_t surplus_ = 0;  // those beyond
};

}  // namespace tulle::session
