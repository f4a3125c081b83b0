// What the core wants kept, as entries of a Store and back: one entry per resource, protobuf bytes, so that
// an older store stays readable.
#pragma once

#include <string>
#include <vector>

#include "tulle/base/result.h"
#include "tulle/control/core/events.h"
#include "tulle/control/store/store.h"
#include "tulle/security/sealer.h"

namespace tulle::control {

// Secrets are sealed, if there is a sealer.
Store::Write ToStoreWrite(const Write& write, const security::Sealer* sealer);
// The audit log's entry of that number, or, without one, that it goes.
Store::Write AuditWrite(std::uint64_t number, const AuditEntry* entry);

struct StoredState {
  std::vector<Record> records;
  std::vector<AuditEntry> audit;         // of consecutive numbers, the oldest first
  std::uint64_t first_audit_number = 0;  // of the first one
  std::uint64_t epoch = 0;  // of the controller that starts now; one more than that of the last one
};

// Everything in the store, and a new epoch, which is committed. kDataLoss for what cannot be read;
// kFailedPrecondition when the store is that of a mesh with another CA than the one of this fingerprint.
Result<StoredState> LoadState(Store& store, const std::string& ca_fingerprint,
                              const security::Sealer* sealer);

}  // namespace tulle::control
