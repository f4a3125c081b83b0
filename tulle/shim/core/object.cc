#include "tulle/shim/core/object.h"

#include <pthread.h>

namespace tulle::shim {
namespace {

// Process-wide because fork() is.
std::atomic<std::uint32_t> g_fork_epoch{1};
void (*g_in_child)() = nullptr;

void InChild() {
  g_fork_epoch.fetch_add(1, std::memory_order_relaxed);
  if (g_in_child != nullptr) g_in_child();
}

}  // namespace

std::uint32_t ForkEpoch() { return g_fork_epoch.load(std::memory_order_relaxed); }

void WatchForks(void (*in_child)()) {
  g_in_child = in_child;
  pthread_atfork(nullptr, nullptr, &InChild);
}

}  // namespace tulle::shim
