// Replays one list of the openb trace with departures and prints one JSON object: of each policy, for each
// seed, the allocated share, the mean wait, the part that waits, and the moves for each arrival.
//
//   tulle_bench_departures FOLDER LIST LOAD_PERCENT FIRST_SEED SEEDS
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <vector>

#include "bench/placement/departures.h"
#include "tulle/control/placement/outlook.h"
#include "tulle/control/placement/policy.h"
#include "tulle/control/placement/rehearsal.h"

using namespace tulle::bench;
using namespace tulle::control;

int main(int argc, char** argv) {
  if (argc != 6) {
    std::fprintf(stderr, "usage: %s FOLDER LIST LOAD_PERCENT FIRST_SEED SEEDS\n", argv[0]);
    return 2;
  }
  const Openb openb = LoadOpenb(argv[1], argv[2]);
  const DeparturesOptions options{.load = std::atof(argv[3]) / 100};
  const auto first = std::strtoull(argv[4], nullptr, 10);
  const auto seeds = std::strtoull(argv[5], nullptr, 10);
  const Openb elsewhere = WithProcessorsElsewhere(openb);
  const std::vector<WeightedDemand> demands = WorkloadOf(openb), light = WorkloadOf(elsewhere);
  const auto workload = std::make_shared<const Workload>(demands);
  std::vector<NodeRoom> rooms;
  for (const OpenbNode& node : openb.nodes) rooms.push_back(node.room);
  const auto outlook = std::make_shared<const Outlook>(Rehearse(rooms, demands));
  const auto light_outlook = std::make_shared<const Outlook>(Rehearse(rooms, light));

  struct Competitor {
    const char* name;
    const Openb* openb;
    std::function<std::unique_ptr<Policy>()> make;
    MeshAbilities abilities;
  };
  const auto predictive = [&] { return MakePredictive(outlook); };
  const auto light_predictive = [&] { return MakePredictive(light_outlook); };
  const std::vector<Competitor> competitors = {
      {"best-fit", &openb, [] { return MakeBestFit(); }, {}},
      {"fgd", &openb, [&] { return MakeFgd(workload); }, {}},
      {"predictive", &openb, predictive, {}},
      {"mesh, processors elsewhere", &elsewhere, light_predictive, {}},
      {"mesh, slices shrink to 80%, and all move",
       &elsewhere,
       light_predictive,
       {.least_part = 0.8, .move = true}},
      {"mesh, slices shrink to 50%, and all move",
       &elsewhere,
       light_predictive,
       {.least_part = 0.5, .move = true}},
  };
  std::printf("{");
  for (const Competitor& one : competitors) {
    std::vector<Departures> runs;
    for (std::uint64_t seed = first; seed != first + seeds; ++seed)
      runs.push_back(ReplayDepartures(*one.openb, one.make(), seed, one.abilities, options));
    const auto print = [&](const char* what, double Departures::*value, const char* end) {
      std::printf("\"%s\": [", what);
      for (std::size_t i = 0; i < runs.size(); ++i) std::printf("%s%.4f", i == 0 ? "" : ", ", runs[i].*value);
      std::printf("]%s", end);
    };
    std::printf("%s\"%s\": {", &one == &competitors.front() ? "" : ", ", one.name);
    print("allocated", &Departures::allocated, ", ");
    print("wait_s", &Departures::mean_wait_s, ", ");
    print("waited", &Departures::waited, ", ");
    print("waiting", &Departures::mean_waiting, ", ");
    print("moves", &Departures::moves_per_arrival, "}");
  }
  std::printf("}\n");
  return 0;
}
