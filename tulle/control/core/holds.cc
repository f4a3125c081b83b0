// Who uses a claim: holds, and the instances that they come from.
#include "tulle/control/core/core.h"

#include <utility>

#include "tulle/control/core/internal.h"
#include "tulle/control/model/rules.h"

namespace tulle::control {

void Core::On(const OpenHold& event) {
  const auto refuse = [&](Error error) { actions_.effects.push_back(EndHold{event.hold, std::move(error)}); };
  if (Status status = Authorize(event.tenant, Permission::kUse); !status.ok()) {
    return refuse(std::move(status).error());
  }
  if (!event.instance.empty()) {
    if (Status status = CheckName(event.instance, "instance"); !status.ok())
      return refuse(std::move(status).error());
  }
  if (event.program.size() > kMaxProgramBytes) {
    return refuse(Refusal(Code::kInvalidArgument, "program: " + std::to_string(event.program.size()) +
                                                      " bytes, at most " + std::to_string(kMaxProgramBytes)));
  }
  auto found = FindClaim(event.tenant, event.claim);
  if (!found.ok()) return refuse(std::move(found).error());
  ClaimState& claim = **found;
  Claim& model = claim.model();
  if (IsFinal(model.status.phase)) {
    actions_.effects.push_back(UpdateHold{event.hold, model});
    actions_.effects.push_back(EndHold{event.hold, OkStatus()});
    return;
  }
  InstanceState* instance = nullptr;
  if (!event.instance.empty()) {
    instance = instances_.Find(event.tenant, event.instance);
    if (instance == nullptr && instances_.size() < options_.max_instances) {
      instance = &instances_.Insert({.instance = {.metadata = {.name = event.instance,
                                                               .uid = NewUid(),
                                                               .create_time_us = now_.wall_us,
                                                               .tenant = event.tenant}}});
    }
  }
  claim.holds.insert(event.hold);
  claim.unheld_until.reset();
  holds_[event.hold] = {.claim_uid = model.metadata.uid,
                        .instance_uid = instance == nullptr ? "" : instance->metadata().uid,
                        .api_token = event.api_token};
  model.status.holders = static_cast<std::uint32_t>(claim.holds.size());
  SetCondition(&model.status.conditions, kHeld, true, "Held",
               event.program + (event.instance.empty() ? "" : " on " + event.instance), now_.wall_us);
  Touch(Kind::kClaim, model.metadata.uid, false);
  if (instance != nullptr) {
    instance->holds[event.hold] = model.metadata.name;
    instance->erase_at.reset();
    instance->instance.status.address = event.address;
    CheckTimers(*instance);
    Touch(Kind::kInstance, instance->metadata().uid, false);
  }
}

void Core::On(const CloseHold& event) {
  const auto it = holds_.find(event.hold);
  if (it == holds_.end()) return;
  const HoldState hold = std::move(it->second);
  holds_.erase(it);
  LeaveInstance(event.hold, hold.instance_uid);
  ClaimState* claim = claims_.Find(hold.claim_uid);
  if (claim == nullptr) return;
  Claim& model = claim->model();
  claim->holds.erase(event.hold);
  model.status.holders = static_cast<std::uint32_t>(claim->holds.size());
  if (claim->holds.empty()) {
    SetCondition(&model.status.conditions, kHeld, false, "Unheld",
                 model.spec.release_when_unheld
                     ? "released unless held again within " + Seconds(options_.hold_grace)
                     : "",
                 now_.wall_us);
    if (model.spec.release_when_unheld) claim->unheld_until = now_.mono + options_.hold_grace;
  }
  Touch(Kind::kClaim, model.metadata.uid, false);
  CheckTimers(*claim);
}

void Core::EndHoldsOf(const std::string& tenant, const std::string& api_token, const Error& why) {
  std::vector<HoldId> holds;
  claims_.Visit(tenant, "", [&](const ClaimState& claim) {
    for (const HoldId hold : claim.holds) {
      if (api_token.empty() || holds_[hold].api_token == api_token) holds.push_back(hold);
    }
    return true;
  });
  for (const HoldId hold : holds) {
    actions_.effects.push_back(EndHold{hold, why});
    On(CloseHold{hold});
  }
}

void Core::LeaveInstance(HoldId hold, const std::string& instance_uid) {
  InstanceState* instance = instances_.Find(instance_uid);
  if (instance == nullptr) return;
  instance->holds.erase(hold);
  if (instance->holds.empty()) instance->erase_at = now_.mono + options_.instance_retention;
  Touch(Kind::kInstance, instance_uid, false);
  CheckTimers(*instance);
}

void Core::CheckTimers(InstanceState& instance) {
  const std::string uid = instance.metadata().uid;
  if (IsDue(instance.erase_at, now_.mono)) return Remove(instances_, Kind::kInstance, uid);
  Arm(uid, instance.erase_at);
}

}  // namespace tulle::control
