// Runs a fuzz target without libFuzzer: every corpus file, then TULLE_FUZZ_RUNS inputs made by its own
// mutator from a seed (TULLE_TEST_SEED; printed). Not coverage-guided: it keeps targets alive under any
// compiler and gives continuous integration a short, repeatable run.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "fuzz/target.h"
#include "tulle/base/random.h"

namespace {

bool g_expect_finding = false;
tulle::SeededRandom* g_random = nullptr;
constexpr std::size_t kMaxInputBytes = 64 * 1024;

}  // namespace

namespace tulle::fuzz {

void Finding(const char* what) {
  std::fprintf(stderr, "finding: %s\n", what);
  if (g_expect_finding) {
    std::printf("the planted bug was found\n");
    std::fflush(stdout);
    std::_Exit(0);
  }
  std::abort();
}

}  // namespace tulle::fuzz

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max_size) {
  switch (g_random->Below(4)) {
    case 0:
      if (size > 0) data[g_random->Below(size)] = static_cast<std::uint8_t>(g_random->Next());
      return size;
    case 1:
      if (size > 0) data[g_random->Below(size)] ^= static_cast<std::uint8_t>(1u << g_random->Below(8));
      return size;
    case 2: return size > 0 ? g_random->Below(size) : 0;
    default: {
      const std::size_t more = std::min<std::size_t>(1 + g_random->Below(16), max_size - size);
      for (std::size_t i = 0; i < more; ++i) data[size + i] = static_cast<std::uint8_t>(g_random->Next());
      return size + more;
    }
  }
}

int main(int argc, char** argv) {
  std::string corpus;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--expect-finding") == 0) {
      g_expect_finding = true;
    } else if (std::strcmp(argv[i], "--corpus") == 0 && i + 1 < argc) {
      corpus = argv[++i];
    } else {
      std::fprintf(stderr, "usage: %s [--expect-finding] [--corpus DIR]\n", argv[0]);
      return 2;
    }
  }
  const char* seed_text = std::getenv("TULLE_TEST_SEED");
  const char* runs_text = std::getenv("TULLE_FUZZ_RUNS");
  const std::uint64_t seed =
      seed_text != nullptr ? std::strtoull(seed_text, nullptr, 0) : tulle::SecureRandom().Next();
  const long runs = runs_text != nullptr ? std::atol(runs_text) : 20000;
  std::printf("TULLE_TEST_SEED=%llu\n", static_cast<unsigned long long>(seed));
  std::fflush(stdout);
  tulle::SeededRandom random(seed);
  g_random = &random;

  std::size_t files = 0;
  std::error_code no_corpus;
  for (const auto& entry : std::filesystem::directory_iterator(corpus, no_corpus)) {
    std::ifstream file(entry.path(), std::ios::binary);
    const std::string input((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(input.data()), input.size());
    ++files;
  }
  std::vector<std::uint8_t> input(kMaxInputBytes);
  std::size_t size = 0;
  for (long run = 0; run < runs; ++run) {
    if (random.Below(8) == 0) size = 0;
    size = LLVMFuzzerCustomMutator(input.data(), size, input.size(), static_cast<unsigned>(random.Next()));
    // A copy of exactly this size, so that AddressSanitizer sees a read past it.
    const std::vector<std::uint8_t> exact(input.begin(), input.begin() + static_cast<std::ptrdiff_t>(size));
    LLVMFuzzerTestOneInput(exact.data(), exact.size());
  }
  std::printf("%zu corpus files and %ld inputs, no finding\n", files, runs);
  return g_expect_finding ? 1 : 0;
}
