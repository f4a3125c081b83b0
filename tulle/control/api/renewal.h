// Keeps a node's or a user's certificate valid: a new one, for a new key, once two thirds of its time are
// over.
#pragma once

#include <string>

#include "tulle/base/clock.h"
#include "tulle/base/result.h"

namespace tulle::control {

// Looks at the certificate that the credentials file at `path` names. If it is due, asks its controller for
// another, writes that and its key beside the old ones, and has the file name them; the old ones go. Whoever
// reads the file at any time finds a certificate and the key that belongs to it. Returns whether there is a
// new one. Blocks for up to 20 s when it is due. Two at once for one file leave a pair that nobody uses.
Result<bool> RenewIfDue(const std::string& path, const Clock& clock);

}  // namespace tulle::control
