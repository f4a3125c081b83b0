// The battery on the null device, and what only the null device has: stepping, injected failures, random
// commands of any kind.
#include "tests/conformance/backend/battery.h"
#include "tests/conformance/backend/direct_subject.h"
#include "tests/wire/random_message.h"
#include "tulle/gpu/api/outcome.h"
#include "tulle/gpu/null/driver.h"

namespace tulle::gpu::conformance {
namespace {

SubjectFactory NullFactory(bool lend_memory) {
  SubjectFactory factory =
      DirectFactory(lend_memory ? "null_lent" : "null_own", null::OpenDriver(), 0, lend_memory);
  factory.checks_programs = false;
  return factory;
}

INSTANTIATE_TEST_SUITE_P(Null, BackendBattery, testing::Values(NullFactory(false), NullFactory(true)), SubjectName);

}  // namespace
}  // namespace tulle::gpu::conformance
