#include "tulle/node/arbiter/arbiter.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <optional>
#include <utility>
#include <vector>

namespace tulle::node::arbiter {
namespace {

constexpr Duration kTick = std::chrono::milliseconds(10);
constexpr Duration kIdleTick = std::chrono::milliseconds(100);
// What was used before counts for less with time: half of it after some 20 ms.
constexpr double kForgetPerTick = 0.7;
constexpr double kForgetWaitsPerTick = 0.9;  // of those, which come in larger pieces

std::uint32_t InMillionths(double share) {
  return static_cast<std::uint32_t>(std::lround(std::clamp(share, 0.0, 1.0) * wire::kWholeShare));
}

}  // namespace

Arbiter::Arbiter(double lanes, const Clock* clock) : lanes_(lanes), clock_(*clock) {
  state_.lock()->measured_at = clock_.Now();
  thread_ = std::thread([this] { Run(); });
}

Arbiter::~Arbiter() {
  state_.lock()->stopping = true;
  changed_.notify_all();
  thread_.join();
}

Result<int> Arbiter::Start(const std::string& uid, std::uint32_t gpu, const Terms& terms) {
  TULLE_ASSIGN_OR_RETURN(auto memory, SharedMemory::Create("tulle share", wire::kSharePageBytes));
  const int fd = memory.fd();
  auto state = state_.lock();
  VGpu& vgpu = state->vgpus[uid];
  if (vgpu.memory.has_value()) vgpu.past_throttled_ns += vgpu.page().throttled_ns;
  vgpu.used_ns = vgpu.waited_ns = vgpu.throttled_ns = 0;
  vgpu.gpu = gpu;
  vgpu.terms = terms;
  vgpu.memory.emplace(std::move(memory));
  vgpu.page().share = InMillionths(terms.guaranteed);
  Share(*state);
  changed_.notify_all();
  return fd;
}

void Arbiter::Change(const std::string& uid, const Terms& terms) {
  auto state = state_.lock();
  const auto it = state->vgpus.find(uid);
  if (it == state->vgpus.end()) return;
  it->second.terms = terms;
  Share(*state);
}

void Arbiter::Remove(const std::string& uid) {
  auto state = state_.lock();
  state->vgpus.erase(uid);
  Share(*state);
}

Delivered Arbiter::Get(const std::string& uid) const {
  auto state = state_.lock();
  const auto it = state->vgpus.find(uid);
  if (it == state->vgpus.end()) return {};
  return {it->second.page().share.load() / double{wire::kWholeShare},
          it->second.past_throttled_ns + it->second.page().throttled_ns.load()};
}

template <typename F>
void Arbiter::ForEachGpu(State& state, F&& f) {
  std::map<std::uint32_t, std::vector<VGpu*>> by_gpu;
  for (auto& [uid, vgpu] : state.vgpus) by_gpu[vgpu.gpu].push_back(&vgpu);
  for (const auto& [gpu, vgpus] : by_gpu) {
    std::vector<Slice> slices;
    for (const VGpu* vgpu : vgpus) slices.push_back(vgpu->slice());
    f(vgpus, slices);
  }
}

// What each has used since the last time, if that is long enough to say anything. Whether any has.
bool Arbiter::Measure(State& state, Instant now) {
  const Duration time = now - state.measured_at;
  if (time < kTick / 2) return true;
  state.measured_at = now;
  const double ticks = static_cast<double>(time.count()) / static_cast<double>(kTick.count());
  const double kept = std::pow(kForgetPerTick, ticks), kept_of_waits = std::pow(kForgetWaitsPerTick, ticks);
  const auto follow = [](double* lately, double now_is, double keep) {
    *lately = keep * *lately + (1 - keep) * now_is;
  };
  bool any = false;
  for (auto& [uid, vgpu] : state.vgpus) {
    const auto rate = [&](const std::atomic<std::uint64_t>& total_ns, std::uint64_t* before_ns) {
      const std::uint64_t now_ns = total_ns.load(std::memory_order_relaxed);
      const std::uint64_t more_ns = now_ns - std::exchange(*before_ns, now_ns);
      return static_cast<double>(more_ns) / static_cast<double>(time.count());
    };
    const double used = rate(vgpu.page().used_ns, &vgpu.used_ns) / lanes_;
    const double throttled = rate(vgpu.page().throttled_ns, &vgpu.throttled_ns);
    follow(&vgpu.used, used, kept);
    follow(&vgpu.throttled, throttled, kept);
    follow(&vgpu.waited, rate(vgpu.page().waited_ns, &vgpu.waited_ns) / lanes_, kept_of_waits);
    any |= used > 0.001 || throttled > 0;
  }
  ForEachGpu(state, [&](const std::vector<VGpu*>& vgpus, const std::vector<Slice>& slices) {
    for (std::size_t i = 0; i < slices.size(); ++i)
      follow(&vgpus[i]->satisfied, Satisfied(slices, i), kept_of_waits);
  });
  return any;
}

void Arbiter::Share(State& state) {
  ForEachGpu(state, [](const std::vector<VGpu*>& vgpus, const std::vector<Slice>& slices) {
    const std::vector<double> shares = Divide(slices);
    for (std::size_t i = 0; i < shares.size(); ++i)
      vgpus[i]->page().share.store(InMillionths(shares[i]), std::memory_order_relaxed);
  });
}

void Arbiter::Run() {
  auto state = state_.lock();
  while (!state->stopping) {
    if (state->vgpus.empty()) {
      changed_.wait(state.native());
      continue;
    }
    const bool any = Measure(*state, clock_.Now());
    Share(*state);
    changed_.wait_for(state.native(), any ? kTick : kIdleTick);
  }
}

}  // namespace tulle::node::arbiter
