// Replays one list of the openb trace with each policy and prints one JSON object: of each policy, of each
// level of demand (percent of the cluster), the allocated share for each seed, and the microseconds of a
// decision.
//
//   tulle_bench_placement FOLDER LIST FIRST_SEED SEEDS
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bench/placement/mesh.h"
#include "bench/placement/openb.h"
#include "bench/placement/replay.h"
#include "tulle/base/random.h"
#include "tulle/control/placement/outlook.h"
#include "tulle/control/placement/policy.h"
#include "tulle/control/placement/rehearsal.h"

using namespace tulle;
using namespace tulle::bench;
using namespace tulle::control;

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: %s FOLDER LIST FIRST_SEED SEEDS\n", argv[0]);
    return 2;
  }
  const Openb openb = LoadOpenb(argv[1], argv[2]);
  const auto first = std::strtoull(argv[3], nullptr, 10);
  const auto seeds = std::strtoull(argv[4], nullptr, 10);
  const std::vector<WeightedDemand> demands = WorkloadOf(openb);
  const auto workload = std::make_shared<const Workload>(demands);
  std::vector<NodeRoom> rooms;
  for (const OpenbNode& node : openb.nodes) rooms.push_back(node.room);
  const auto outlook = std::make_shared<const Outlook>(Rehearse(rooms, demands));
  SeededRandom random(first);

  const std::vector<std::pair<const char*, std::function<std::unique_ptr<Policy>()>>> policies = {
      {"random", [&] { return MakeRandom(random); }},
      {"dot-product", [] { return MakeDotProduct(); }},
      {"gpu-packing", [] { return MakeGpuPacking(); }},
      {"best-fit", [] { return MakeBestFit(); }},
      {"fgd", [&] { return MakeFgd(workload); }},
      {"predictive", [&] { return MakePredictive(outlook); }},
  };
  std::printf("{");
  const char* separator = "";
  const auto print = [&](const char* name, const std::vector<Replayed>& replays) {
    std::printf("%s\"%s\": {", std::exchange(separator, ", "), name);
    for (const int level : {90, 100, 110, 120, 130}) {
      std::printf("\"%d\": [", level);
      for (std::size_t i = 0; i < replays.size(); ++i) {
        std::printf("%s%.4f", i == 0 ? "" : ", ", replays[i].allocated.at(level));
      }
      std::printf("], ");
    }
    double us = 0;
    for (const Replayed& replayed : replays) us += replayed.decision_us / static_cast<double>(replays.size());
    std::printf("\"us\": %.2f}", us);
  };
  for (const auto& [name, make] : policies) {
    std::vector<Replayed> replays;
    for (std::uint64_t seed = first; seed != first + seeds; ++seed)
      replays.push_back(Replay(openb, make(), seed));
    print(name, replays);
  }

  // What a mesh can do besides, each with what is above it.
  const Openb elsewhere = WithProcessorsElsewhere(openb);
  const std::vector<WeightedDemand> light = WorkloadOf(elsewhere);
  const auto light_outlook = std::make_shared<const Outlook>(Rehearse(rooms, light));
  for (const auto& [name, abilities] : std::initializer_list<std::pair<const char*, MeshAbilities>>{
           {"mesh, processors elsewhere", {}},
           {"mesh, slices shrink to 80%", {.least_part = 0.8}},
           {"mesh, slices shrink to 80%, and all move", {.least_part = 0.8, .move = true}},
           {"mesh, slices shrink to 50%, and all move", {.least_part = 0.5, .move = true}},
           {"mesh, all move, none shrinks", {.move = true}}}) {
    std::vector<Replayed> replays;
    double moves = 0, shrinks = 0;
    for (std::uint64_t seed = first; seed != first + seeds; ++seed) {
      const MeshReplayed replayed = ReplayOnMesh(elsewhere, MakePredictive(light_outlook), seed, abilities);
      replays.push_back(replayed.replayed);
      moves += replayed.moves_per_arrival / static_cast<double>(seeds);
      shrinks += replayed.shrinks_per_arrival / static_cast<double>(seeds);
    }
    print(name, replays);
    std::fprintf(stderr, "%s: %.3f moves and %.3f shrinks for each arrival\n", name, moves, shrinks);
  }
  std::printf("}\n");
  return 0;
}
