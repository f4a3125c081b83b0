// Who may use how much of a GPU now. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace tulle::node::arbiter {

// What a slice was promised, in parts of its GPU's compute.
struct Terms {
  double guaranteed = 0;  // it has so much whenever it wants it
  double most = 1;        // it never has more
  // Of what others leave, who has a lower number is served first; within a number by what is guaranteed.
  int order = 0;
  friend bool operator==(const Terms&, const Terms&) = default;
};

// How a share was asked for (as PerformanceLevel of the API).
enum class Level { kBestEffort, kBurst, kGuaranteed, kDedicated };
Terms TermsOf(Level level, std::uint32_t compute_percent);

// The same of the network, of which a node moves `capacity_bytes_per_s`. Precondition: capacity != 0.
Terms NetworkTermsOf(Level level, std::uint64_t promised_bytes_per_s, std::uint64_t capacity_bytes_per_s);

struct Slice {
  Terms terms;
  double used = 0;       // lately
  double waited = 0;     // what it would have used besides, had the device not been busy with others' work
  double throttled = 0;  // part of the time in which it would have used more, were it not for its share
  double satisfied = 1;  // Satisfied, lately
};

// How much of what it was promised, could use, and others have taken, slice `which` gets, 0 to 1.
double Satisfied(std::span<const Slice> slices, std::size_t which);

// For each slice its share until the next time. Together they may be more than there is: who uses little has
// not to ask before it uses what it was promised, and what nobody wants all may have. Those that want more
// than there is get no more than there is: each what it was promised, then equal parts (by what was promised)
// of the rest, up to what it wants and may have (max-min fairness). Where a slice does not get what it was
// promised, as others use a part of the device, too (on a CPU: workers, network, programs), all have as much
// less, but no less than half.
std::vector<double> Divide(std::span<const Slice> slices);

}  // namespace tulle::node::arbiter
