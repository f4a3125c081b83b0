// Files that hold secrets: read with a bound, written whole or not at all, never readable by others.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "tulle/base/result.h"

namespace tulle::security {

// The whole file. kNotFound, kPermissionDenied, or kInvalidArgument when it is longer than `max_bytes`.
Result<std::string> ReadFile(const std::string& path, std::size_t max_bytes);

// Mode 0600, durable: a temporary file in the same folder, fsync, rename, fsync of the folder.
Status WritePrivateFile(const std::string& path, std::string_view text);

// Makes the folder (and its parents) with mode 0700 when it is not there. kPermissionDenied when it is
// another user's or others may enter it; the message says how to mend that.
Status MakePrivateDirectory(const std::string& path);

}  // namespace tulle::security
