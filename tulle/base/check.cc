#include "tulle/base/check.h"

#include <cstdio>
#include <cstdlib>

namespace tulle {

void CheckFailed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "tulle: internal check failed: %s (%s:%d)\n", condition, file, line);
  std::abort();
}

}  // namespace tulle
