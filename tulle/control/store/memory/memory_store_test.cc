#include "tulle/control/store/memory/memory_store.h"

#include "tulle/control/store/conformance.h"

namespace tulle::control {
namespace {

struct Fixture {
  std::shared_ptr<MemoryStore::Contents> contents = std::make_shared<MemoryStore::Contents>();
  std::unique_ptr<Store> Open() { return std::make_unique<MemoryStore>(contents); }
};
INSTANTIATE_TYPED_TEST_SUITE_P(Memory, StoreConformance, Fixture);

}  // namespace
}  // namespace tulle::control
