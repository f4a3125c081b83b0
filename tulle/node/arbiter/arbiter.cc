#include "tulle/node/arbiter/arbiter.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include "tulle/base/check.h"

namespace tulle::node::arbiter {
namespace {

constexpr Duration kTick = std::chrono::milliseconds(10);
constexpr Duration kIdleTick = std::chrono::milliseconds(100);
// What was used before counts for less with time: half of it after some 20 ms.
constexpr double kForgetPerTick = 0.7;
constexpr double kForgetWaitsPerTick = 0.9;  // of those, which come in larger pieces
constexpr double kNanosecond = 1e-9;         // in seconds

std::uint32_t InMillionths(double share) {
  return static_cast<std::uint32_t>(std::lround(std::clamp(share, 0.0, 1.0) * wire::kWholeShare));
}

// Lost only where the other end has not heard the ones before yet.
void Ring(const UniqueFd& socket) {
  const char byte = 0;
  (void)send(socket.get(), &byte, 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

}  // namespace

Arbiter::Arbiter(double lanes, std::uint64_t network_bytes_per_s, Duration longest_turn, const Clock* clock)
    : lanes_(lanes),
      network_bytes_per_s_(network_bytes_per_s),
      longest_turn_(longest_turn),
      clock_(*clock),
      wake_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  TULLE_CHECK(wake_.valid());
  state_.lock()->measured_at = clock_.Now();
  thread_ = std::thread([this] { Run(); });
}

Arbiter::~Arbiter() {
  state_.lock()->stopping = true;
  Wake();
  thread_.join();
}

void Arbiter::Wake() { (void)eventfd_write(wake_.get(), 1); }

Result<WorkerEnds> Arbiter::Start(const std::string& uid, std::uint32_t gpu, Sharing sharing,
                                  const Promise& promise) {
  TULLE_ASSIGN_OR_RETURN(auto memory, SharedMemory::Create("tulle share", wire::kSharePageBytes));
  int sockets[2] = {-1, -1};
  if (sharing == Sharing::kTurns &&
      socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sockets) != 0) {
    return ErrnoError("socketpair", errno);
  }
  const WorkerEnds ends{memory.fd(), sockets[1]};
  auto state = state_.lock();
  VGpu& vgpu = state->vgpus[uid];
  std::uint64_t past_ns = vgpu.compute.past_throttled_ns, past_network_ns = vgpu.network.past_throttled_ns;
  if (vgpu.memory.has_value()) {
    past_ns += vgpu.page().throttled_ns;
    past_network_ns += vgpu.page().network_throttled_ns;
    vgpu.past_network_bytes += vgpu.page().network_bytes;
  }
  vgpu.compute = {.past_throttled_ns = past_ns};
  vgpu.network = {.past_throttled_ns = past_network_ns};
  vgpu.gpu = gpu;
  vgpu.memory.emplace(std::move(memory));
  vgpu.turns.reset(sockets[0]);
  vgpu.workers_turns.reset(sockets[1]);
  vgpu.asked = 0;
  vgpu.lanes = sharing == Sharing::kTurns ? 1 : lanes_;
  vgpu.unheld = sharing == Sharing::kControlGroups;
  vgpu.page().by_turns = sharing == Sharing::kTurns ? 1 : 0;
  vgpu.page().longest_turn_ms = static_cast<std::uint32_t>(longest_turn_ / std::chrono::milliseconds(1));
  SetTerms(vgpu, promise);
  Share(*state);
  Wake();
  return ends;
}

void Arbiter::SetTerms(VGpu& vgpu, const Promise& promise) {
  vgpu.promise = promise;
  vgpu.compute.slice.terms = TermsOf(promise.level, promise.compute_percent);
  if (network_bytes_per_s_ != 0) {
    vgpu.network.slice.terms =
        NetworkTermsOf(promise.level, promise.network_bytes_per_s, network_bytes_per_s_);
  }
}

void Arbiter::Change(const std::string& uid, const Promise& promise) {
  auto state = state_.lock();
  const auto it = state->vgpus.find(uid);
  if (it == state->vgpus.end()) return;
  SetTerms(it->second, promise);
  Share(*state);
}

void Arbiter::Stopped(const std::string& uid) {
  auto state = state_.lock();
  const auto found = state->vgpus.find(uid);
  if (found == state->vgpus.end()) return;
  wire::SharePage& page = found->second.page();
  page.turns_ended = page.turns_given.load();
  page.wants_turn = 0;
  Wake();
}

void Arbiter::Remove(const std::string& uid) {
  auto state = state_.lock();
  state->vgpus.erase(uid);
  Share(*state);
  Wake();  // it may have had its turn
}

Delivered Arbiter::Get(const std::string& uid) const {
  auto state = state_.lock();
  const auto it = state->vgpus.find(uid);
  if (it == state->vgpus.end()) return {};
  const VGpu& vgpu = it->second;
  return {.share = vgpu.unheld ? vgpu.compute.slice.terms.most
                               : vgpu.page().share.load() / double{wire::kWholeShare},
          .throttled_ns = vgpu.compute.past_throttled_ns + vgpu.page().throttled_ns.load(),
          .network_bytes_per_s = vgpu.page().network_bytes_per_s.load(),
          .network_bytes = vgpu.past_network_bytes + vgpu.page().network_bytes.load(),
          .network_throttled_ns = vgpu.network.past_throttled_ns + vgpu.page().network_throttled_ns.load()};
}

template <typename F>
void Arbiter::ForEachGpu(State& state, F&& f) {
  std::map<std::uint32_t, std::vector<VGpu*>> by_gpu;
  for (auto& [uid, vgpu] : state.vgpus) by_gpu[vgpu.gpu].push_back(&vgpu);
  for (const auto& [gpu, vgpus] : by_gpu) f(vgpus);
}

std::vector<Slice> Arbiter::SlicesOf(const std::vector<VGpu*>& vgpus, Part VGpu::*part) {
  std::vector<Slice> slices;
  for (const VGpu* vgpu : vgpus) slices.push_back((vgpu->*part).slice);
  return slices;
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
  // In parts of the time.
  const auto rate = [&](const std::atomic<std::uint64_t>& total, std::uint64_t* before) {
    const std::uint64_t is = total.load(std::memory_order_relaxed);
    return static_cast<double>(is - std::exchange(*before, is)) / static_cast<double>(time.count());
  };
  bool any = false;
  for (auto& [uid, vgpu] : state.vgpus) {
    Part& compute = vgpu.compute;
    const double used = rate(vgpu.page().used_ns, &compute.used) / vgpu.lanes;
    const double throttled = rate(vgpu.page().throttled_ns, &compute.throttled_ns);
    follow(&compute.slice.used, used, kept);
    follow(&compute.slice.throttled, throttled, kept);
    follow(&compute.slice.waited, rate(vgpu.page().waited_ns, &compute.waited_ns) / vgpu.lanes,
           kept_of_waits);
    any |= used > 0.001 || throttled > 0;
    if (network_bytes_per_s_ == 0) continue;
    Part& network = vgpu.network;
    const double moved = rate(vgpu.page().network_bytes, &network.used) /
                         (static_cast<double>(network_bytes_per_s_) * kNanosecond);
    const double held = rate(vgpu.page().network_throttled_ns, &network.throttled_ns);
    follow(&network.slice.used, moved, kept);
    follow(&network.slice.throttled, held, kept);
    any |= moved > 0.001 || held > 0;
  }
  ForEachGpu(state, [&](const std::vector<VGpu*>& vgpus) {
    const std::vector<Slice> slices = SlicesOf(vgpus, &VGpu::compute);
    for (std::size_t i = 0; i < slices.size(); ++i)
      follow(&vgpus[i]->compute.slice.satisfied, Satisfied(slices, i), kept_of_waits);
  });
  return any;
}

void Arbiter::Share(State& state) {
  ForEachGpu(state, [](const std::vector<VGpu*>& vgpus) {
    const std::vector<double> shares = Divide(SlicesOf(vgpus, &VGpu::compute));
    for (std::size_t i = 0; i < shares.size(); ++i) {
      VGpu& vgpu = *vgpus[i];
      vgpu.page().share.store(vgpu.unheld ? wire::kWholeShare : InMillionths(shares[i]),
                              std::memory_order_relaxed);
    }
  });
  // The network is the node's.
  std::vector<VGpu*> all;
  for (auto& [uid, vgpu] : state.vgpus) all.push_back(&vgpu);
  const std::vector<double> parts =
      network_bytes_per_s_ == 0 ? std::vector<double>() : Divide(SlicesOf(all, &VGpu::network));
  for (std::size_t i = 0; i < all.size(); ++i) {
    const Promise& promise = all[i]->promise;
    const bool is_most = promise.level == Level::kGuaranteed || promise.level == Level::kDedicated;
    const std::uint64_t rate =
        parts.empty()
            ? (is_most ? promise.network_bytes_per_s : 0)
            : std::max<std::uint64_t>(
                  1, static_cast<std::uint64_t>(parts[i] * static_cast<double>(network_bytes_per_s_)));
    all[i]->page().network_bytes_per_s.store(rate, std::memory_order_relaxed);
  }
}

void Arbiter::GiveTurns(State& state) {
  for (auto& [uid, vgpu] : state.vgpus) {
    char bytes[64];
    while (vgpu.turns.valid() && recv(vgpu.turns.get(), bytes, sizeof bytes, MSG_DONTWAIT) > 0) {
    }
  }
  ForEachGpu(state, [&state](const std::vector<VGpu*>& vgpus) {
    VGpu *has = nullptr, *first = nullptr;
    for (VGpu* const vgpu : vgpus) {
      if (!vgpu->turns.valid()) continue;
      const bool has_turn = vgpu->page().turns_given != vgpu->page().turns_ended;
      if (has_turn) has = vgpu;
      if (has_turn || vgpu->page().wants_turn == 0) {
        vgpu->asked = 0;
        continue;
      }
      if (vgpu->asked == 0) vgpu->asked = ++state.asked;
      if (first == nullptr || vgpu->asked < first->asked) first = vgpu;
    }
    const bool gives = has == nullptr && first != nullptr;
    if (gives) {
      has = first;
      has->asked = 0;
      ++has->page().turns_given;
    }
    if (has == nullptr) return;
    const bool others_wait = std::ranges::any_of(vgpus, [](const VGpu* vgpu) { return vgpu->asked != 0; });
    if (has->page().others_wait.exchange(others_wait ? 1 : 0) != (others_wait ? 1u : 0u) || gives)
      Ring(has->turns);
  });
}

void Arbiter::Run() {
  std::vector<pollfd> fds;
  for (Duration wait{};;) {
    {
      auto state = state_.lock();
      if (state->stopping) return;
      const bool any = Measure(*state, clock_.Now());
      Share(*state);
      GiveTurns(*state);
      wait = state->vgpus.empty() ? Duration::max() : any ? kTick : kIdleTick;
      fds.assign(1, {wake_.get(), POLLIN, 0});
      for (const auto& [uid, vgpu] : state->vgpus) {
        if (vgpu.turns.valid()) fds.push_back({vgpu.turns.get(), POLLIN, 0});
      }
    }
    const timespec limit{0, wait.count()};
    (void)ppoll(fds.data(), fds.size(), wait == Duration::max() ? nullptr : &limit, nullptr);
    eventfd_t value = 0;
    (void)eventfd_read(wake_.get(), &value);
  }
}

}  // namespace tulle::node::arbiter
