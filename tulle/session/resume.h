// Where a worker's sessions wait for clients whose connection was lost: a connection that asks to go on with
// one is left here by the thread that has proved its key, and taken by the session's own.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "tulle/base/bytes.h"
#include "tulle/base/result.h"
#include "tulle/base/unique_fd.h"
#include "tulle/net/transport.h"
#include "tulle/session/psk_identity.h"
#include "tulle/wire/link.h"

namespace tulle::session {

// Thread-safe. Bound: as many entries as there are sessions.
class ResumeTable {
 public:
  using Token = std::array<std::byte, wire::kResumeTokenBytes>;

  struct Offer {
    std::unique_ptr<net::Transport> connection;
    std::uint64_t received_bytes = 0;  // by the client, of the worker's stream
  };

  // A session's place; it ends with this object, which the table must outlive.
  class Place {
   public:
    ~Place();
    Place(const Place&) = delete;
    Place& operator=(const Place&) = delete;

    const Token& token() const { return token_; }
    // Readable while an offer waits.
    int fd() const { return event_.get(); }
    // The newest offer, if there is one.
    std::optional<Offer> Take();

   private:
    friend class ResumeTable;
    Place(ResumeTable* table, const PskIdentity& identity, UniqueFd event);
    ResumeTable& table_;
    const PskIdentity identity_;
    Token token_;
    const UniqueFd event_;
    bool listed_ = false;  // guarded by the table's mutex, as what follows
    std::uint64_t last_attempt_ = 0;
    std::optional<Offer> offer_;
  };

  // An error: a session of this name is here already, or there are no descriptors left.
  Result<std::unique_ptr<Place>> Add(const PskIdentity& identity);

  // Leaves the connection with its session. kNotFound: there is none, or the request is not its client's, or
  // is late; the connection is the caller's still.
  Status Hand(const PskIdentity& identity, const wire::LinkResume& request, Offer& offer);

 private:
  std::mutex mutex_;
  std::map<std::string, Place*, std::less<>> places_;  // by session id
};

}  // namespace tulle::session
