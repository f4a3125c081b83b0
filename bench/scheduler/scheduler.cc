// What it takes the controller to place a claim. Prints one JSON object.
//
//   policy-decisions     how many placements a second the policy alone makes, on the nodes of the openb trace
//   N-gpus decision      of the core, in a mesh of N GPUs that is 95 % full: a claim that finds a place, from
//   the call to
//                        all that follows from it; median and 99th percentile
//   N-gpus refusal       a claim that finds none and does not wait
//   N-gpus claims        claims a second, each with its end and what its nodes report
//   rehearsal            of the largest mesh
//   durable-claims       claims a second that 100 callers make at once, each on the disk before it is
//   answered durable-commits      as many commits, one after the other, to such a store, by themselves
//
//   tulle_bench_scheduler FOLDER GPUS...
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <latch>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "bench/placement/openb.h"
#include "bench/placement/replay.h"
#include "tulle/base/check.h"
#include "tulle/base/clock.h"
#include "tulle/base/random.h"
#include "tulle/control/core/core.h"
#include "tulle/control/model/rules.h"
#include "tulle/control/placement/rehearsal.h"
#include "tulle/control/serve/controller.h"
#include "tulle/control/store/sqlite/sqlite_store.h"

using namespace tulle;
using namespace tulle::bench;
using namespace tulle::control;

namespace {

using std::chrono::steady_clock;

double Seconds(steady_clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;
constexpr std::uint32_t kGpusPerNode = 8;
constexpr std::uint64_t kGpuMemory = 80 * kGiB;

bool first_result = true;
void Print(const std::string& name, double value, double p99 = 0) {
  std::printf("%s\"%s\": {\"value\": %.6g", first_result ? "{" : ", ", name.c_str(), value);
  if (p99 > 0) std::printf(", \"p99\": %.6g", p99);
  std::printf("}");
  std::fflush(stdout);
  first_result = false;
}

double Percentile(std::vector<double>* values, double share) {
  if (values->empty()) return 0;
  std::sort(values->begin(), values->end());
  return (*values)[static_cast<std::size_t>(share * static_cast<double>(values->size() - 1))];
}

InventoryGpu PretendGpu(std::uint32_t index) {
  return {.index = index,
          .description = {.type = "pretend", .apis = {DeviceApi::kOpenCl}, .memory_bytes = kGpuMemory},
          .allocatable_memory_bytes = kGpuMemory};
}

// A mesh around a core: nodes that do at once what they are told.
class Mesh {
 public:
  Mesh(const Openb& openb, std::uint32_t gpus) : openb_(openb) {
    CoreOptions options;
    options.max_claims = options.max_claims_per_tenant = 2'000'000;
    options.claim_retention = std::chrono::nanoseconds(1);
    core_ = std::make_unique<Core>(options, random_, 1);
    TULLE_CHECK(core_->Load({}, now_).ok());
    for (std::uint32_t first = 0; first < gpus; first += kGpusPerNode) {
      RegisterNode node{.link = LinkId{first + 1}, .name = "n" + std::to_string(first), .endpoint = "n:1"};
      for (std::uint32_t i = 0; i < std::min(kGpusPerNode, gpus - first); ++i) {
        node.gpus.push_back(PretendGpu(i));
        capacity_ += 100;
      }
      Do(node);
    }
  }

  // Claims until nothing more than `percent` of all compute is taken.
  void Fill(std::uint64_t percent) {
    while (taken_ * 100 < percent * capacity_) Create();
    decisions_us.clear();
    refusals_us.clear();
  }
  // As many claims come, and as many go as keep the mesh as full.
  void Churn(std::uint64_t percent, int claims) {
    for (int i = 0; i < claims; ++i) {
      while (taken_ * 100 > percent * capacity_) End(random_.Below(live_.size()));
      Create();
    }
  }

  std::vector<double> decisions_us, refusals_us;
  double rehearsal_s = 0;

 private:
  struct Live {
    std::string name;
    std::uint64_t percent = 0;
  };

  ClaimSpec Draw() {
    for (;;) {
      const Demand& demand = openb_.pods[random_.Below(openb_.pods.size())].demand;
      if (demand.gpus == 0) continue;
      ClaimSpec spec{.compute_percent = static_cast<std::uint32_t>(std::max(1, demand.compute / 10)),
                     .count = static_cast<std::uint32_t>(demand.gpus),
                     .no_wait = true};
      // Of the memory that goes with the compute, half, all or, where there is so much, one and a half.
      const std::uint64_t all =
          std::max<std::uint64_t>(kGiB, kGpuMemory / kGiB * spec.compute_percent / 100 * kGiB);
      spec.memory_bytes = std::min(kGpuMemory, std::max(kGiB, all * (1 + random_.Below(3)) / 2));
      return spec;
    }
  }

  void Create() {
    const CreateClaim event{
        .call = CallId{++calls_}, .tenant = "t", .name = "c" + std::to_string(calls_), .spec = Draw()};
    const auto began = steady_clock::now();
    Actions actions = core_->Handle(event, now_);
    const double us = 1e6 * Seconds(steady_clock::now() - began);
    bool placed = false;
    for (const Effect& effect : actions.effects) {
      if (const auto* reply = std::get_if<Reply>(&effect)) placed = reply->body.ok();
    }
    (placed ? decisions_us : refusals_us).push_back(us);
    if (placed) {
      live_.push_back({event.name, std::uint64_t{event.spec.compute_percent} * event.spec.count});
      taken_ += live_.back().percent;
    }
    Carry(std::move(actions));
  }

  void End(std::size_t index) {
    std::swap(live_[index], live_.back());
    taken_ -= live_.back().percent;
    Do(DeleteClaim{.call = CallId{++calls_}, .caller = "t", .tenant = "t", .name = live_.back().name});
    live_.pop_back();
  }

  void Do(const Event& event) { Carry(core_->Handle(event, now_)); }

  void Carry(Actions actions) {
    now_.mono = now_.mono + std::chrono::microseconds(1);
    for (Effect& effect : actions.effects) {
      if (auto* send = std::get_if<SendToNode>(&effect)) {
        if (const auto* create = std::get_if<CreateVGpu>(&send->command)) {
          Do(ReportVGpu{send->link, {.uid = create->uid, .state = ReportedState::kReady}});
        } else if (const auto* gone = std::get_if<DeleteVGpu>(&send->command)) {
          Do(ReportVGpu{send->link, {.uid = gone->uid, .state = ReportedState::kDeleted}});
        }
      } else if (auto* rehearsal = std::get_if<StartRehearsal>(&effect)) {
        const auto began = steady_clock::now();
        auto outlook = std::make_shared<const Outlook>(Rehearse(rehearsal->nodes, rehearsal->demands));
        rehearsal_s = Seconds(steady_clock::now() - began);
        Do(Rehearsed{std::move(outlook)});
      }
    }
  }

  const Openb& openb_;
  SeededRandom random_{1};
  Now now_{.mono = {1'000'000'000}, .wall_us = 1};
  std::unique_ptr<Core> core_;
  std::vector<Live> live_;
  std::uint64_t taken_ = 0, capacity_ = 0;  // percent of a GPU
  std::uint64_t calls_ = 0;
};

// With `as_yardstick` its decisions only.
void MeasureMesh(const Openb& openb, std::uint32_t gpus, bool last, bool as_yardstick = false) {
  constexpr std::uint64_t kPercent = 95;
  constexpr int kClaims = 20'000;
  Mesh mesh(openb, gpus);
  mesh.Fill(kPercent);
  const auto began = steady_clock::now();
  mesh.Churn(kPercent, kClaims);
  const double seconds = Seconds(steady_clock::now() - began);
  if (as_yardstick)
    return Print(std::to_string(gpus) + "-gpus-decision", Percentile(&mesh.decisions_us, 0.5));
  const std::string name = std::to_string(gpus) + "-gpus ";
  Print(name + "decision", Percentile(&mesh.decisions_us, 0.5), Percentile(&mesh.decisions_us, 0.99));
  if (!mesh.refusals_us.empty()) {
    Print(name + "refusal", Percentile(&mesh.refusals_us, 0.5), Percentile(&mesh.refusals_us, 0.99));
  }
  Print(name + "claims", kClaims / seconds);
  if (last) Print("rehearsal", mesh.rehearsal_s);
}

std::string MakeFolder() {
  std::string folder = std::filesystem::temp_directory_path() / "tulle-scheduler-XXXXXX";
  TULLE_CHECK(mkdtemp(folder.data()) != nullptr);
  return folder;
}

// Nodes that take note of nothing: a claim is made when it has its place, on the disk.
class Silent final : public LinkListener {
 public:
  void OnCommand(NodeCommand) override {}
  void OnClose(const Status&) override {}
};

// The controller with its store on a disk, and callers that each make one claim after the other. There is
// room for all.
void MeasureDurable() {
  constexpr int kCallers = 100;
  constexpr int kClaims = 100;
  const std::string folder = MakeFolder();
  SystemClock clock;
  SecureRandom random;
  {
    auto store = SqliteStore::Open(folder + "/mesh.db");
    TULLE_CHECK(store.ok());
    ControllerOptions options;
    options.core.max_claims_per_tenant = 2 * kCallers * kClaims;
    Controller controller(options, **store, clock, random);
    TULLE_CHECK(controller.Start().ok());
    for (std::size_t i = 0; i < kCallers * kClaims / 4 / kMaxGpusPerNode + 1; ++i) {
      RegisterNode node{.link = controller.OpenLink(std::make_shared<Silent>()),
                        .name = "n" + std::to_string(i),
                        .endpoint = "n:1"};
      for (std::uint32_t k = 0; k < kMaxGpusPerNode; ++k) node.gpus.push_back(PretendGpu(k));
      controller.FromNode(std::move(node));
    }
    std::latch done(kCallers * kClaims);
    std::atomic<int> failed{0};
    // A caller calls again when it has its answer.
    std::function<void(int)> call = [&](int left) {
      controller.Call(CreateClaim{.tenant = "t"}, [&, left](Result<ReplyBody> reply) {
        failed += !reply.ok() || std::get<Claim>(*reply).status.branch != AllocationBranch::kCreateSlice;
        if (left > 1) call(left - 1);
        done.count_down();
      });
    };
    const auto began = steady_clock::now();
    for (int i = 0; i < kCallers; ++i) call(kClaims);
    done.wait();
    TULLE_CHECK(failed == 0);
    Print("durable-claims", kCallers * kClaims / Seconds(steady_clock::now() - began));
    controller.Stop();
  }
  std::filesystem::remove_all(folder);
}

// The store by itself.
void MeasureCommits() {
  const std::string folder = MakeFolder();
  {
    constexpr int kCommits = 200;
    auto store = SqliteStore::Open(folder + "/bare.db");
    TULLE_CHECK(store.ok());
    const auto began = steady_clock::now();
    for (int i = 0; i < kCommits; ++i) {
      const Store::Write write{.key = "key" + std::to_string(i), .value = std::string(300, 'x')};
      TULLE_CHECK((*store)->Commit({&write, 1}).ok());
    }
    Print("durable-commits", kCommits / Seconds(steady_clock::now() - began));
  }
  std::filesystem::remove_all(folder);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: %s FOLDER GPUS...|--yardsticks\n", argv[0]);
    return 2;
  }
  const Openb openb = LoadOpenb(argv[1], "default");
  if (std::string_view(argv[2]) == "--yardsticks") {
    MeasureMesh(openb, 6'212, false, /*as_yardstick=*/true);
    MeasureCommits();
    std::printf("}\n");
    return 0;
  }
  std::vector<NodeRoom> rooms;
  for (const OpenbNode& node : openb.nodes) rooms.push_back(node.room);
  const auto outlook = std::make_shared<const Outlook>(Rehearse(rooms, WorkloadOf(openb)));
  Print("policy-decisions", 1e6 / Replay(openb, MakePredictive(outlook), 42).decision_us);
  for (int i = 2; i < argc; ++i) {
    MeasureMesh(openb, static_cast<std::uint32_t>(std::strtoul(argv[i], nullptr, 10)), i + 1 == argc);
  }
  MeasureDurable();
  std::printf("}\n");
  return 0;
}
