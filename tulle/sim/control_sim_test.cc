// Simulated meshes by seed. Reproduce a failure with TULLE_SIM_SEED=<seed>; TULLE_SIM_SEEDS=<count> runs
// more.
#include "tulle/sim/control_sim.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>

namespace tulle::sim {
namespace {

TEST(ControlSim, KeepsWhatItPromises) {
  const char* one = std::getenv("TULLE_SIM_SEED");
  const char* many = std::getenv("TULLE_SIM_SEEDS");
  const std::uint64_t first = one != nullptr ? std::strtoull(one, nullptr, 10) : 1;
  const std::uint64_t count = one != nullptr ? 1 : many != nullptr ? std::strtoull(many, nullptr, 10) : 40;
  Coverage coverage{};
  std::uint64_t faults = 0, nodes = 0;
  for (std::uint64_t seed = first; seed < first + count; ++seed) {
    ControlSim sim(seed);
    const std::optional<std::string> breach = sim.Run();
    ASSERT_FALSE(breach) << *breach << "\nreproduce with TULLE_SIM_SEED=" << seed;
    for (std::size_t fault = 0; fault < kFaults; ++fault) {
      for (std::size_t met = 0; met < kMets; ++met) coverage[fault][met] += sim.coverage()[fault][met];
    }
    faults += sim.faults();
    nodes += sim.nodes();
  }
  std::printf("%llu meshes, %llu nodes, %llu faults; how often each met claims and vGPUs that were\n%-20s",
              static_cast<unsigned long long>(count), static_cast<unsigned long long>(nodes),
              static_cast<unsigned long long>(faults), "");
  for (std::size_t met = 0; met < kMets; ++met) std::printf(" %9s", Name(static_cast<Met>(met)));
  std::printf("\n");
  for (std::size_t fault = 0; fault < kFaults; ++fault) {
    std::printf("%-20s", Name(static_cast<Fault>(fault)));
    for (std::size_t met = 0; met < kMets; ++met) {
      std::printf(" %9llu", static_cast<unsigned long long>(coverage[fault][met]));
      if (count >= 40) {
        EXPECT_GT(coverage[fault][met], 0u)
            << Name(static_cast<Fault>(fault)) << " met none that was " << Name(static_cast<Met>(met));
      }
    }
    std::printf("\n");
  }
}

}  // namespace
}  // namespace tulle::sim
