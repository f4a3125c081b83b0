#include "tulle/session/resume.h"

#include <sys/eventfd.h>

#include <cerrno>
#include <utility>

#include "tulle/base/random.h"
#include "tulle/net/tls/crypto.h"

namespace tulle::session {

ResumeTable::Place::Place(ResumeTable* table, const PskIdentity& identity, UniqueFd event)
    : table_(*table), identity_(identity), event_(std::move(event)) {
  SecureRandom().Fill(token_);
}

ResumeTable::Place::~Place() {
  const std::lock_guard lock(table_.mutex_);
  if (listed_) table_.places_.erase(identity_.session_id);
}

std::optional<ResumeTable::Offer> ResumeTable::Place::Take() {
  const std::lock_guard lock(table_.mutex_);
  if (!offer_) return std::nullopt;
  eventfd_t count = 0;
  (void)eventfd_read(event_.get(), &count);
  return std::exchange(offer_, std::nullopt);
}

Result<std::unique_ptr<ResumeTable::Place>> ResumeTable::Add(const PskIdentity& identity) {
  UniqueFd event(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  if (!event.valid()) return ErrnoError("prepare a session", errno);
  std::unique_ptr<Place> place(new Place(this, identity, std::move(event)));
  {
    const std::lock_guard lock(mutex_);
    place->listed_ = places_.emplace(identity.session_id, place.get()).second;
    if (place->listed_) return place;
  }
  return Error{Code::kAlreadyExists, "a session of this name is under way", Scope::kSession};
}

Status ResumeTable::Hand(const PskIdentity& identity, const wire::LinkResume& request, Offer& offer) {
  std::optional<Offer> older;  // closed after the lock
  const std::lock_guard lock(mutex_);
  const auto found = places_.find(identity.session_id);
  if (found == places_.end()) {
    return Error{Code::kNotFound, "there is no such session, or no more", Scope::kSession};
  }
  Place& place = *found->second;
  if (place.identity_.vgpu != identity.vgpu || place.identity_.grant != identity.grant ||
      !net::SecretsEqual(place.token_, request.token)) {
    return Error{Code::kNotFound, "the session is another client's", Scope::kSession};
  }
  if (request.attempt <= place.last_attempt_) {
    return Error{Code::kNotFound, "a later attempt came first", Scope::kSession};
  }
  place.last_attempt_ = request.attempt;
  older = std::exchange(place.offer_, std::move(offer));
  (void)eventfd_write(place.event_.get(), 1);
  return OkStatus();
}

}  // namespace tulle::session
