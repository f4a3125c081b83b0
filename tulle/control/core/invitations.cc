// How hosts and users come into the mesh, with one-time invitations, and how they are shut out again.
#include "tulle/base/secret.h"
#include "tulle/control/core/core.h"
#include "tulle/control/core/internal.h"
#include "tulle/control/model/rules.h"

namespace tulle::control {

void Core::ForgetExpiredInvitations() {
  for (auto it = invitations_.begin(); it != invitations_.end();) {
    if (it->second.expire_time_us > now_.wall_us) {
      ++it;
      continue;
    }
    actions_.writes.push_back({Kind::kInvitation, it->first, std::nullopt});
    it = invitations_.erase(it);
  }
}

// Its name is taken from now on, for as long as that of a node that is lost.
void Core::ExpectNode(const std::string& name) {
  NodeRecord& node =
      nodes_.Insert({.node = {.metadata = {.name = name, .uid = NewUid(), .create_time_us = now_.wall_us}}});
  node.node.status.message = "has joined and has not come yet";
  node.forget_at = now_.mono + options_.node_forget_after;
  UpdateFleet(node);
  Touch(Kind::kNode, node.metadata().uid, true);
  CheckTimers(node);
}

void Core::On(const CreateInvitation& event) {
  Invitation invitation = event.invitation;
  const auto check = [&]() -> Status {
    TULLE_RETURN_IF_ERROR(Authorize(
        event.caller, invitation.role == JoinRole::kNode ? Permission::kOperate : Permission::kAdminister));
    if (invitation.role != JoinRole::kNode && invitation.role != JoinRole::kUser) {
      return Refusal(Code::kInvalidArgument, "role: must be NODE or USER");
    }
    if (invitation.role == JoinRole::kUser || !invitation.name.empty()) {
      TULLE_RETURN_IF_ERROR(CheckName(invitation.name, "name"));
    }
    const WallMicros lifetime_us =
        std::chrono::duration_cast<std::chrono::microseconds>(event.lifetime).count();
    if (lifetime_us <= 0 || lifetime_us > kMaxInvitationMicros) {
      return Refusal(Code::kInvalidArgument,
                     "lifetime: " + Seconds(event.lifetime) + " is not above 0 and at most 30 days");
    }
    invitation.expire_time_us = now_.wall_us + lifetime_us;
    ForgetExpiredInvitations();
    if (invitations_.size() >= options_.max_invitations) {
      return Refusal(Code::kResourceExhausted,
                     "there are " + std::to_string(invitations_.size()) +
                         " tokens that nobody has used, at most so many are allowed; "
                         "wait until some expire");
    }
    if (invitations_.contains(invitation.id)) return Refusal(Code::kAborted, "try again");
    return OkStatus();
  };
  if (Status status = check(); !status.ok()) return Answer(event.call, std::move(status).error());
  actions_.writes.push_back({Kind::kInvitation, invitation.id, invitation});
  invitations_.emplace(invitation.id, invitation);
  Answer(event.call, ReplyBody(std::move(invitation)));
}

void Core::On(const RedeemInvitation& event) {
  ForgetExpiredInvitations();
  const auto it = invitations_.find(event.id);
  // One answer for all of these: who guesses learns nothing.
  if (it == invitations_.end() ||
      !ConstantTimeEqual(AsBytes(it->second.secret_digest), AsBytes(event.secret_digest))) {
    return Answer(event.call,
                  Refusal(Code::kUnauthenticated,
                          "the token is unknown, has been used, or has expired; have a new one made "
                          "with `tulle token create`"));
  }
  Invitation invitation = it->second;
  if (event.role != invitation.role) {
    return Answer(event.call,
                  Refusal(Code::kPermissionDenied, invitation.role == JoinRole::kNode
                                                       ? "the token is for a node: use `tulle node join`"
                                                       : "the token is for a user: use `tulle login`"));
  }
  if (!event.name.empty() && !event.name_is_default && !invitation.name.empty() &&
      event.name != invitation.name) {
    return Answer(event.call,
                  Refusal(Code::kPermissionDenied, "the token is for " + invitation.name + ", not for " +
                                                       Cut(event.name, kMaxNameBytes)));
  }
  if (invitation.name.empty()) {
    if (Status status = CheckName(event.name, "name"); !status.ok()) {
      return Answer(event.call, std::move(status).error());
    }
    // Else whoever has a token could become any node, and get the keys of its vGPUs.
    if (nodes_.HasName("", event.name)) {
      return Answer(event.call, Refusal(Code::kAlreadyExists,
                                        "there is a node " + event.name +
                                            " already; choose another name with --name, or have a token "
                                            "made for it with `tulle token create --node " +
                                            event.name + "`"));
    }
    invitation.name = event.name;
  }
  if (invitation.role == JoinRole::kNode && !nodes_.HasName("", invitation.name)) {
    if (Status status = CheckNodeLimit(); !status.ok()) return Answer(event.call, std::move(status).error());
    ExpectNode(invitation.name);
  }
  actions_.writes.push_back({Kind::kInvitation, invitation.id, std::nullopt});
  invitations_.erase(it);
  Answer(event.call, ReplyBody(std::move(invitation)));
}

void Core::On(const RevokeCertificates& event) {
  const bool is_node = event.role == JoinRole::kNode;
  const std::string identity = std::string("tulle://") + (is_node ? "node/" : "user/") + event.name;
  const auto check = [&]() -> Status {
    TULLE_RETURN_IF_ERROR(Authorize(event.caller, Permission::kAdminister));
    if (!is_node && event.role != JoinRole::kUser) {
      return Refusal(Code::kInvalidArgument, "role: must be NODE or USER");
    }
    TULLE_RETURN_IF_ERROR(CheckName(event.name, "name"));
    if (!is_node && options_.admins.contains(event.name)) {
      return Refusal(Code::kFailedPrecondition,
                     event.name + " is an administrator by the controller's --user; take that away first");
    }
    if (!revocations_.contains(identity) && revocations_.size() >= options_.max_revocations) {
      return Refusal(Code::kResourceExhausted, "certificates of " + std::to_string(revocations_.size()) +
                                                   " nodes and users have been revoked, the mesh's limit");
    }
    return OkStatus();
  };
  if (Status status = check(); !status.ok()) return Answer(event.call, std::move(status).error());
  // Certificates tell the second in which they were issued; one of this second is void.
  constexpr WallMicros kSecond = 1'000'000;
  const Revocation revocation{identity, (now_.wall_us / kSecond + 1) * kSecond};
  revocations_.insert_or_assign(identity, revocation);
  actions_.writes.push_back({Kind::kRevocation, identity, revocation});
  const Error ended = Refusal(Code::kUnauthenticated, "the certificate has been revoked");
  if (is_node) {
    NodeRecord* node = nodes_.Find("", event.name);
    if (node != nullptr && node->link) {
      actions_.effects.push_back(CloseLink{*node->link, ended});
      OutOfTouch(*node, "its certificate has been revoked");
    }
  } else {
    ForgetAllApiTokens(event.name);
    EndHoldsOf(event.name, "", ended);
  }
  Answer(event.call, ReplyBody());
}

}  // namespace tulle::control
