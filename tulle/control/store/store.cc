#include "tulle/control/store/store.h"

namespace tulle::control {

Status CheckWrites(std::span<const Store::Write> writes) {
  const auto invalid = [](std::string message) {
    return Error{.code = Code::kInvalidArgument, .message = std::move(message)};
  };
  for (const Store::Write& write : writes) {
    if (write.key.empty() || write.key.size() > kMaxStoreKeyBytes) {
      return invalid("a store key of " + std::to_string(write.key.size()) + " bytes; 1 to " +
                     std::to_string(kMaxStoreKeyBytes));
    }
    if (write.value && write.value->size() > kMaxStoreValueBytes) {
      return invalid(write.key + ": a store value of " + std::to_string(write.value->size()) +
                     " bytes; at most " + std::to_string(kMaxStoreValueBytes));
    }
  }
  return OkStatus();
}

}  // namespace tulle::control
