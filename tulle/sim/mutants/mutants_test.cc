// The simulation finds each bug of mutants.toml within 500 seeds. TULLE_MUTANT=<number> tries one.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "tulle/sim/control_sim.h"
#include "tulle/sim/mutants/switch.h"

namespace tulle::sim {

int mutant = 0;

namespace {

constexpr std::uint64_t kSeeds = 500;
constexpr double kMostNodes = 60;          // bugs need no large mesh, and time is better spent on more seeds
constexpr unsigned kSecondsPerSeed = 120;  // a bug may be that something never ends

// What one seed says with that bug: its breach, or how the process ended; nothing when all seems well.
std::string Try(int number, std::uint64_t seed) {
  int ends[2];
  if (pipe(ends) != 0) std::abort();
  const pid_t child = fork();
  if (child == 0) {
    close(ends[0]);
    std::freopen("/dev/null", "w", stderr);
    alarm(kSecondsPerSeed);
    mutant = number;
    const std::optional<std::string> breach = ControlSim(seed, kMostNodes).Run();
    if (breach && write(ends[1], breach->data(), breach->size()) < 0) _exit(1);
    _exit(0);
  }
  close(ends[1]);
  std::string text;
  char buffer[512];
  for (ssize_t got; (got = read(ends[0], buffer, sizeof buffer)) > 0;)
    text.append(buffer, static_cast<std::size_t>(got));
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  if (text.empty() && WIFSIGNALED(status)) {
    return "seed " + std::to_string(seed) + ": " +
           (WTERMSIG(status) == SIGALRM ? "it hangs" : "a check of the core's own ended it");
  }
  return text;
}

TEST(Mutants, AreAllFound) {
  const char* one = std::getenv("TULLE_MUTANT");
  const int count = static_cast<int>(mutants.size());
  ASSERT_GE(count, 20);
  for (int number = one != nullptr ? std::atoi(one) : 1; number <= count; ++number) {
    std::string found;
    for (std::uint64_t seed = 1; seed <= kSeeds && found.empty(); ++seed) found = Try(number, seed);
    std::printf("%2d  %-62s  %s\n", number, mutants[static_cast<std::size_t>(number) - 1],
                found.empty() ? "NOT FOUND" : found.c_str());
    std::fflush(stdout);
    EXPECT_FALSE(found.empty()) << mutants[static_cast<std::size_t>(number) - 1];
    if (one != nullptr) break;
  }
}

}  // namespace
}  // namespace tulle::sim
