#include "tulle/node/arbiter/shares.h"

#include <algorithm>
#include <limits>

namespace tulle::node::arbiter {
namespace {

// How much more than lately a slice may want until the next time: a part of what it used, and something.
constexpr double kGrowth = 1.25, kStart = 0.02;
// Who was promised nothing is heard all the same, and is let in for so much.
constexpr double kLeast = 0.01;
constexpr double kLeastPart = 0.5;

// Of the time, and of the device: less is chance.
constexpr double kSome = 0.02;

bool IsHeldUp(const Slice& slice) { return slice.throttled > kSome; }

double Wants(const Slice& slice) {
  if (IsHeldUp(slice)) return slice.terms.most;
  return std::min(slice.terms.most, (slice.used + slice.waited) * kGrowth + kStart);
}

double WeightOf(const Slice& slice) { return std::max(slice.terms.guaranteed, kLeast); }

}  // namespace

Terms TermsOf(Level level, std::uint32_t compute_percent) {
  const double share = std::min(compute_percent, 100u) / 100.0;
  switch (level) {
    case Level::kGuaranteed: return {.guaranteed = share, .most = share, .order = 0};
    case Level::kDedicated: return {.guaranteed = 1, .most = 1, .order = 0};
    case Level::kBurst: return {.guaranteed = share, .most = 1, .order = 1};
    case Level::kBestEffort: break;
  }
  return {.guaranteed = 0, .most = 1, .order = 2};
}

Terms NetworkTermsOf(Level level, std::uint64_t promised, std::uint64_t capacity) {
  const double share = std::min(1.0, static_cast<double>(promised) / static_cast<double>(capacity));
  const bool is_most = promised != 0 && (level == Level::kGuaranteed || level == Level::kDedicated);
  return {.guaranteed = share, .most = is_most ? share : 1, .order = promised != 0 ? 1 : 2};
}

double Satisfied(std::span<const Slice> slices, std::size_t which) {
  const Slice& slice = slices[which];
  if (IsHeldUp(slice) || slice.waited <= kSome) return 1;
  double others = 0;
  for (const Slice& other : slices) others += other.used;
  others -= slice.used;
  const double due = std::min(slice.terms.guaranteed, slice.used + std::min(slice.waited, others));
  return due > slice.used ? slice.used / due : 1;
}

std::vector<double> Divide(std::span<const Slice> promised) {
  std::vector<Slice> slices(promised.begin(), promised.end());
  double least = 1;
  for (const Slice& slice : slices) least = std::min(least, std::max(slice.satisfied, kLeastPart));
  for (Slice& slice : slices) {
    const double part = least / std::max(slice.satisfied, kLeastPart);
    slice.terms.guaranteed *= part;
    if (slice.terms.most < 1) slice.terms.most *= part;
  }
  std::vector<double> shares;
  double left = 1;
  for (const Slice& slice : slices) {
    shares.push_back(std::min(Wants(slice), std::max(slice.terms.guaranteed, kLeast)));
    left -= shares.back();
  }
  left = std::max(left, 0.0);
  // In each round who wants least for its weight gets it, so that there are no more rounds than slices.
  for (int order = std::numeric_limits<int>::min(); left > 1e-9;) {
    double weights = 0, least = std::numeric_limits<double>::max();
    int next = std::numeric_limits<int>::max();
    const auto is_open = [&](std::size_t i) { return Wants(slices[i]) - shares[i] > 1e-9; };
    for (std::size_t i = 0; i < slices.size(); ++i) {
      if (!is_open(i)) continue;
      const int its = slices[i].terms.order;
      if (its > order) next = std::min(next, its);
      if (its != order) continue;
      weights += WeightOf(slices[i]);
      least = std::min(least, (Wants(slices[i]) - shares[i]) / WeightOf(slices[i]));
    }
    if (weights == 0) {
      if (next == std::numeric_limits<int>::max()) break;
      order = next;
      continue;
    }
    const double each = std::min(least, left / weights);
    for (std::size_t i = 0; i < slices.size(); ++i) {
      if (!is_open(i) || slices[i].terms.order != order) continue;
      shares[i] += each * WeightOf(slices[i]);
      left -= each * WeightOf(slices[i]);
    }
  }
  for (std::size_t i = 0; i < slices.size(); ++i) {
    const Terms& terms = slices[i].terms;
    shares[i] = std::min(terms.most, std::max(terms.guaranteed, shares[i] + std::max(left, 0.0)));
  }
  return shares;
}

}  // namespace tulle::node::arbiter
