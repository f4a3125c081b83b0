// Where the controller keeps what must outlive it: keys and values of bytes, changed in atomic batches. One
// owner, one thread at a time.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "tulle/base/result.h"

namespace tulle::control {

inline constexpr std::size_t kMaxStoreKeyBytes = 256;
inline constexpr std::size_t kMaxStoreValueBytes = std::size_t{1} << 20;

class Store {
 public:
  struct Write {
    std::string key;                   // 1 to kMaxStoreKeyBytes
    std::optional<std::string> value;  // nothing: remove the key, which need not be there
  };
  using Entry = std::pair<std::string, std::string>;

  virtual ~Store() = default;

  // All of it or nothing, in order, and durable when this returns OK. kInvalidArgument for a key or value out
  // of bounds (nothing happens). After any other error it is unknown whether the batch took effect: use the
  // store no more, open it anew and read.
  virtual Status Commit(std::span<const Write> writes) = 0;

  virtual Result<std::optional<std::string>> Get(const std::string& key) = 0;

  // Every entry whose key starts with `prefix`, in the order of keys.
  virtual Result<std::vector<Entry>> Scan(const std::string& prefix) = 0;
};

// What every implementation's Commit checks first.
Status CheckWrites(std::span<const Store::Write> writes);

}  // namespace tulle::control
