// What the files of the core share and nobody else needs: words and small helpers. core.cc is the frame
// (events in, actions out, timers, reading); load.cc, claims.cc, reconcile.cc, holds.cc, vgpus.cc, nodes.cc,
// tenants.cc, usage.cc, expected_wait.cc, invitations.cc, api_tokens.cc, elastic.cc and sessions.cc each hold
// the member functions of one concern.
#pragma once

#include <chrono>
#include <cstddef>
#include <optional>
#include <string>
#include <utility>

#include "tulle/base/bytes.h"
#include "tulle/base/clock.h"
#include "tulle/base/result.h"
#include "tulle/control/model/resources.h"

namespace tulle::control {

// Types of a claim's conditions.
inline constexpr char kPlaced[] = "Placed";
inline constexpr char kReady[] = "Ready";
inline constexpr char kHeld[] = "Held";
inline constexpr char kDraining[] = "Draining";
// Why a claim waits.
inline constexpr char kQuotaExceeded[] = "QuotaExceeded";

// By which a tenant's hour is kept.
std::string UsageKey(const std::string& tenant, WallMicros hour);

// When it was placed last.
inline WallMicros PlacedAt(const Claim& claim) {
  const Condition* placed = FindCondition(claim.status.conditions, kPlaced);
  return placed == nullptr ? claim.metadata.create_time_us : placed->last_transition_us;
}

inline Error Refusal(Code code, std::string message) {
  return Error{.code = code, .message = std::move(message)};
}

inline std::string Cut(const std::string& text, std::size_t bytes) { return CutText(text, bytes); }

inline std::string Seconds(Duration duration) {
  return std::to_string(std::chrono::duration_cast<std::chrono::seconds>(duration).count()) + " s";
}

// How the message of a vGPU begins whose programs use more memory at a time than it has.
inline constexpr char kThrashes[] = "thrashes: ";

inline void KeepEarliest(std::optional<Instant>* earliest, const std::optional<Instant>& other) {
  if (other && (!*earliest || *other < **earliest)) *earliest = other;
}

inline bool IsDue(const std::optional<Instant>& at, Instant now) { return at && *at <= now; }

}  // namespace tulle::control
