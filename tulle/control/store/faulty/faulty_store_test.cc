#include "tulle/control/store/faulty/faulty_store.h"

#include "tulle/control/store/conformance.h"
#include "tulle/control/store/memory/memory_store.h"

namespace tulle::control {
namespace {

// Without a fault it is the store that it decorates.
struct Fixture {
  MemoryStore memory;
  std::unique_ptr<Store> Open() { return std::make_unique<FaultyStore>(memory); }
};
INSTANTIATE_TYPED_TEST_SUITE_P(Faulty, StoreConformance, Fixture);

TEST(FaultyStore, FailsBeforeOrAfterTheCommitAndThenForGood) {
  for (const auto fault : {FaultyStore::Fault::kBeforeCommit, FaultyStore::Fault::kAfterCommit}) {
    MemoryStore memory;
    FaultyStore faulty(memory);
    faulty.FailAfter(1, fault);
    EXPECT_TRUE(faulty.Commit(std::vector<Store::Write>{{"a", "1"}}).ok());
    EXPECT_FALSE(faulty.Commit(std::vector<Store::Write>{{"b", "1"}}).ok());
    EXPECT_FALSE(faulty.Commit(std::vector<Store::Write>{{"c", "1"}}).ok());
    EXPECT_FALSE(faulty.Get("a").ok());
    EXPECT_EQ(memory.Scan("")->size(), fault == FaultyStore::Fault::kAfterCommit ? 2u : 1u);
  }
}

}  // namespace
}  // namespace tulle::control
