// On devices that vGPUs use by turns: what waits for a turn, and how its end is known.
#include "tulle/worker/exec/session.h"

namespace tulle::worker::exec {
namespace {

constexpr Duration kLookAgain = std::chrono::milliseconds(20);

}  // namespace

Session::Wait Session::ReadyToBegin() {
  waits_for_turn_ = false;
  if (shared_.pacer != nullptr && !shared_.pacer->MayBegin(executor_.get(), &compute_wait_)) {
    if (shared_.turn != nullptr) shared_.turn->Rest(&turn_user_);
    return Wait::kCompute;
  }
  if (shared_.turn == nullptr) return Wait::kNone;
  // What has begun may wait for the program, and that for what it launches now.
  if (open_user_events_.empty() && !launches_.has_room(shared_.clock->Now())) {
    compute_wait_ = kLookAgain;
    return Wait::kCompute;
  }
  return AwaitTurn();
}

Session::Wait Session::ReadyToGoOn() {
  // What goes on has begun in a turn that may be ending, and cannot end without.
  if (shared_.turn == nullptr || shared_.turn->MayGoOn(&turn_user_)) return Wait::kNone;
  return AwaitTurn();
}

Session::Wait Session::AwaitTurn() {
  waits_for_turn_ = !shared_.turn->MayBegin(&turn_user_);
  uses_turn_ |= !waits_for_turn_;
  if (!waits_for_turn_) return Wait::kNone;
  compute_wait_ = kLookAgain;
  return Wait::kCompute;
}

bool Session::Ask(wire::Handle queue) {
  const auto ask = [&](const auto& question) {
    using M = std::remove_cvref_t<decltype(question)>;
    ByteVector body(wire::EncodedSize(question));
    wire::Encode(question, body);
    const auto sequence = SubmitOwn(wire::kOpcodeOf<M>, body, {.then = UnderWay::Then::kQuestion});
    if (!sequence.has_value()) return false;
    launches_.Asked(queue, *sequence);
    if (residency_.has_value()) residency_->Asked(queue, *sequence);
    return true;
  };
  return wire::Has(client_.capabilities(), wire::Capability::kCuda)
             ? ask(wire::cuda::SynchronizeStream{{queue}})
             : ask(wire::opencl::Finish{{queue}});
}

void Session::AskAll(bool idle) {
  while (residency_.has_value()) {
    const auto queue = residency_->WantsQuestion();
    if (!queue.has_value() || !Ask(*queue)) break;
  }
  if (shared_.turn == nullptr) return;
  while (const auto queue = launches_.WantsQuestion(idle, !open_user_events_.empty())) {
    if (!Ask(*queue)) break;
  }
  LookAtTurn();
}

void Session::LookAtTurn() {
  const bool stuck = !open_user_events_.empty();
  if (stuck != is_stuck_) shared_.turn->SetStuck(&turn_user_, is_stuck_ = stuck);
  if (uses_turn_ && !launches_.any()) {
    uses_turn_ = false;
    shared_.turn->SetIdle(&turn_user_);
  }
}

}  // namespace tulle::worker::exec
