#include <cstdio>
#include <cstdlib>

#include "fuzz/target.h"

namespace tulle::fuzz {

void Finding(const char* what) {
  std::fprintf(stderr, "finding: %s\n", what);
  std::abort();
}

}  // namespace tulle::fuzz
