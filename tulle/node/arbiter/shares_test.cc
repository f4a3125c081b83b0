#include "tulle/node/arbiter/shares.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <random>

namespace tulle::node::arbiter {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;

Slice Capped(double share, double used, bool held_up) {
  return {{share, share, 0}, used, 0, held_up ? 0.5 : 0};
}
Slice Bursting(double share, double used, bool held_up) {
  return {{share, 1, 1}, used, 0, held_up ? 0.5 : 0};
}
Slice BestEffort(double used, bool held_up) { return {{0, 1, 2}, used, 0, held_up ? 0.5 : 0}; }
auto Near(double value) { return DoubleNear(value, 1e-6); }

TEST(Divide, WhoIsCappedHasItsShareWhateverOthersDo) {
  EXPECT_THAT(Divide(std::vector{Capped(0.3, 0.3, true)}), ElementsAre(Near(0.3)));
  EXPECT_THAT(Divide(std::vector{Capped(0.3, 0, false), Bursting(0.7, 1, true)}),
              ElementsAre(Near(0.3), Near(0.98)));
  EXPECT_THAT(Divide(std::vector{Capped(0.3, 0.3, true), Bursting(0.7, 0.7, true)}),
              ElementsAre(Near(0.3), Near(0.7)));
}

TEST(Divide, WhatNobodyWantsAllMayHave) {
  EXPECT_THAT(Divide(std::vector{Bursting(0.25, 0.1, false)}), ElementsAre(Near(1)));
  EXPECT_THAT(Divide(std::vector{Bursting(0.25, 0, false), Bursting(0.25, 0, false)}),
              ElementsAre(Near(0.98), Near(0.98)));
  EXPECT_THAT(Divide(std::vector{BestEffort(0, false)}), ElementsAre(Near(1)));
}

TEST(Divide, TheRestGoesByWhatWasPromised) {
  EXPECT_THAT(Divide(std::vector{Bursting(0.1, 0.1, true), Bursting(0.3, 0.3, true)}),
              ElementsAre(Near(0.25), Near(0.75)));
  // Who wants little of it leaves the others more.
  EXPECT_THAT(
      Divide(std::vector{Bursting(0.2, 0.24, false), Bursting(0.2, 0.2, true), Bursting(0.2, 0.2, true)}),
      ElementsAre(Near(0.32), Near(0.34), Near(0.34)));
}

TEST(Divide, WhoWasPromisedNothingComesLast) {
  EXPECT_THAT(Divide(std::vector{Bursting(0.5, 0.5, true), BestEffort(0.5, true)}),
              ElementsAre(Near(0.99), Near(0.01)));
  EXPECT_THAT(Divide(std::vector{Capped(0.5, 0.5, true), BestEffort(0.5, true)}),
              ElementsAre(Near(0.5), Near(0.5)));
}

TEST(Satisfied, IsWhatASliceGetsOfWhatIsDueToIt) {
  Slice lacks = Capped(0.7, 0.5, false);
  const auto of = [&](double others) { return Satisfied(std::vector{Capped(0.3, others, true), lacks}, 1); };
  EXPECT_EQ(of(0.3), 1) << "it wants no more";
  lacks.waited = 0.4;
  EXPECT_THAT(of(0.3), Near(0.5 / 0.7));
  lacks.waited = 0.1;  // it wants less than it was promised
  EXPECT_THAT(of(0.3), Near(0.5 / 0.6));
  EXPECT_THAT(of(0.05), Near(0.5 / 0.55)) << "they have no more to give";
  lacks.throttled = 0.1;  // by its own share
  EXPECT_EQ(of(0.3), 1);
}

TEST(Divide, WhatIsMissingAllMiss) {
  Slice lacks = Capped(0.7, 0.6, false);
  lacks.satisfied = 0.9;
  EXPECT_THAT(Divide(std::vector{Capped(0.3, 0.3, true), lacks}), ElementsAre(Near(0.27), Near(0.7)));
  lacks.satisfied = 0.1;
  EXPECT_THAT(Divide(std::vector{Capped(0.3, 0.3, true), lacks}), ElementsAre(Near(0.15), Near(0.7)))
      << "no less than half";
  // Nor is there anything left for who bursts.
  lacks.satisfied = 0.9;
  lacks.waited = 0.4;
  lacks.terms = {0.7, 1, 1};
  EXPECT_THAT(Divide(std::vector{Bursting(0.3, 0.3, true), lacks})[0], ::testing::Lt(0.31));
}

TEST(Divide, KeepsItsPromisesWhateverIsAsked) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> real(0, 1);
  for (int i = 0; i < 20'000; ++i) {
    std::vector<Slice> slices;
    double promised = 0, wanted = 0;
    for (std::size_t n = random() % 8 + 1; n != 0; --n) {
      const double share = std::min(real(random) / 2, 1 - promised);
      const double used = real(random);
      const bool held_up = random() % 2 == 0;
      slices.push_back(random() % 3 == 0   ? Capped(share, std::min(used, share), held_up)
                       : random() % 2 == 0 ? Bursting(share, used, held_up)
                                           : BestEffort(used, held_up));
      promised += slices.back().terms.guaranteed;
    }
    const std::vector<double> shares = Divide(slices);
    double given = 0;
    bool all_want = true;
    for (std::size_t s = 0; s < slices.size(); ++s) {
      EXPECT_GE(shares[s], slices[s].terms.guaranteed - 1e-9);
      EXPECT_LE(shares[s], slices[s].terms.most + 1e-9);
      given += shares[s];
      const bool held_up = slices[s].throttled != 0;
      wanted += held_up ? slices[s].terms.most : slices[s].used;
      all_want = all_want && held_up;
    }
    // Beside what each may have anyhow, who is promised nothing.
    if (all_want) {
      EXPECT_LE(given, 1.0 + 0.01 * static_cast<double>(slices.size()));
    }
    if (wanted >= 1) {
      EXPECT_GE(given, 1.0 - 1e-6) << "nothing is left lying while somebody wants it";
    }
  }
}

}  // namespace
}  // namespace tulle::node::arbiter
