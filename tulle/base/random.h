// Randomness is an argument. SecureRandom for keys and ids; SeededRandom for tests and simulation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "tulle/base/bytes.h"

namespace tulle {

class Random {
 public:
  virtual ~Random() = default;
  virtual void Fill(MutableByteView out) = 0;
  std::uint64_t Next();
  // Uniform in [0, bound). Precondition: bound > 0.
  std::uint64_t Below(std::uint64_t bound);
};

// Into any order with the same likelihood (Fisher and Yates, as Durstenfeld has it).
template <typename T>
void Shuffle(std::vector<T>* items, Random& random) {
  for (std::size_t i = items->size(); i > 1; --i) std::swap((*items)[i - 1], (*items)[random.Below(i)]);
}

// From the kernel (getrandom). Thread-safe. Aborts the process when the kernel has none to give.
class SecureRandom final : public Random {
 public:
  void Fill(MutableByteView out) override;
};

// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014). Not for secrets;
// not thread-safe. The same seed gives the same bytes everywhere.
class SeededRandom final : public Random {
 public:
  explicit SeededRandom(std::uint64_t seed) : state_(seed) {}
  void Fill(MutableByteView out) override;

 private:
  std::uint64_t state_;
};

}  // namespace tulle
