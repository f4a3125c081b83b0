// Which mappings of a buffer have begun and not ended.
#pragma once

#include <cstdint>
#include <map>

#include "tulle/wire/limits.h"

namespace tulle::gpu {

class Mappings {
 public:
  // False: there are as many as there may be.
  bool Add(std::uint64_t offset_bytes, std::uint64_t size_bytes) {
    if (count_ >= wire::kMaxMappings) return false;
    ++count_;
    ++mappings_[{offset_bytes, size_bytes}];
    return true;
  }
  // Ends one. False: there is none.
  bool Take(std::uint64_t offset_bytes, std::uint64_t size_bytes) {
    const auto found = mappings_.find({offset_bytes, size_bytes});
    if (found == mappings_.end()) return false;
    if (--found->second == 0) mappings_.erase(found);
    --count_;
    return true;
  }

 private:
  std::uint64_t count_ = 0;
  std::map<std::pair<std::uint64_t, std::uint64_t>, std::uint64_t> mappings_;  // how many of each
};

}  // namespace tulle::gpu
