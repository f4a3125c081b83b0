// Prints what tulle/control/api/api.lock ("lock") or docs/API_REFERENCE.md ("reference") should hold:
// `tools/dev api` writes both.
#include <cstdio>
#include <cstring>

#include "tests/api/api_text.h"

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "lock") == 0) {
    for (const std::string& line : tulle::api::LockLines(TULLE_API_DESCRIPTORS))
      std::printf("%s\n", line.c_str());
    return 0;
  }
  if (argc == 2 && std::strcmp(argv[1], "reference") == 0) {
    std::fputs(tulle::api::Reference(TULLE_API_DESCRIPTORS).c_str(), stdout);
    return 0;
  }
  std::fprintf(stderr, "usage: tulle-api lock|reference\n");
  return 2;
}
