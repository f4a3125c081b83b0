// Checks that are always on: a false condition is a bug in tulle itself, never bad input.
#pragma once

namespace tulle {

// Prints `condition` with its place to standard error and aborts. Never returns.
[[noreturn]] void CheckFailed(const char* condition, const char* file, int line);

}  // namespace tulle

#define TULLE_CHECK(condition) \
  (static_cast<bool>(condition) ? static_cast<void>(0) : ::tulle::CheckFailed(#condition, __FILE__, __LINE__))
