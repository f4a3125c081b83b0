// What tenants have had: added up by the hour whenever what they have changes, so that nothing is lost in
// between.
#include "tulle/control/core/core.h"

#include <algorithm>
#include <utility>

#include "tulle/control/core/internal.h"

namespace tulle::control {
namespace {

constexpr WallMicros kHourMicros = WallMicros{3600} * 1'000'000;
constexpr double kGiB = 1 << 30;

WallMicros HourOf(WallMicros at) { return at / kHourMicros * kHourMicros; }

Usage operator+(const Usage& a, const Usage& b) {
  return {.gpu_seconds = a.gpu_seconds + b.gpu_seconds,
          .memory_gib_seconds = a.memory_gib_seconds + b.memory_gib_seconds,
          .vgpu_seconds = a.vgpu_seconds + b.vgpu_seconds};
}

Usage Over(const TenantStatus& has, WallMicros duration_us) {
  const double seconds = static_cast<double>(duration_us) / 1e6;
  return {.gpu_seconds = seconds * has.compute_percent / 100,
          .memory_gib_seconds = seconds * static_cast<double>(has.memory_bytes) / kGiB,
          .vgpu_seconds = seconds * has.vgpus};
}

// When what has not been added up yet began. How long it took is told by the clock that does not jump.
WallMicros Begin(Instant accrued, const Now& now) {
  const Duration passed = std::max(now.mono - accrued, Duration::zero());
  return now.wall_us - std::chrono::duration_cast<std::chrono::microseconds>(passed).count();
}

}  // namespace

std::string UsageKey(const std::string& tenant, WallMicros hour) {
  return tenant + "/" + std::to_string(hour);
}

void Core::Accrue(TenantState& tenant) {
  const TenantStatus& has = tenant.tenant.status;
  WallMicros from = Begin(std::exchange(tenant.accrued, now_.mono), now_);
  // A tenant that has nothing gets a record all the same: it says until when that is known.
  do {
    const WallMicros hour = HourOf(from);
    const WallMicros until = std::min(hour + kHourMicros, now_.wall_us);
    const auto [it, is_new] =
        tenant.usage.try_emplace(hour, UsageRecord{.tenant = tenant.metadata().name, .hour_us = hour});
    it->second.usage = it->second.usage + Over(has, until - from);
    it->second.until_us = until;
    touched_usage_.emplace(tenant.metadata().uid, hour);
    from = until;
  } while (from < now_.wall_us);
  const WallMicros oldest =
      now_.wall_us - std::chrono::duration_cast<std::chrono::microseconds>(options_.usage_retention).count();
  while (tenant.usage.begin()->first + kHourMicros < oldest) {
    const WallMicros hour = tenant.usage.begin()->first;
    actions_.writes.push_back({Kind::kUsage, UsageKey(tenant.metadata().name, hour), std::nullopt});
    touched_usage_.erase({tenant.metadata().uid, hour});
    tenant.usage.erase(tenant.usage.begin());
  }
}

std::vector<TenantUsage> Core::UsageSince(const std::optional<std::string>& tenant, WallMicros since_us,
                                          const Now& now) const {
  std::vector<TenantUsage> all;
  tenants_.ForEach([&](const TenantState& state) {
    if (tenant && *tenant != state.metadata().name) return;
    TenantUsage of{.tenant = state.metadata().name};
    for (auto it = state.usage.lower_bound(HourOf(since_us)); it != state.usage.end(); ++it) {
      of.usage = of.usage + it->second.usage;
    }
    const WallMicros from = std::max(Begin(state.accrued, now), HourOf(since_us));
    of.usage = of.usage + Over(state.tenant.status, std::max(now.wall_us - from, WallMicros{0}));
    if (of.usage != Usage{}) all.push_back(std::move(of));
  });
  return all;
}

}  // namespace tulle::control
