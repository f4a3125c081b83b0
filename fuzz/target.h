// What every fuzz target is made of. The same three functions serve libFuzzer and seeded_main.cc.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed);
// libFuzzer's own byte mutator; seeded_main.cc brings a simple one.
extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max_size);

namespace tulle::fuzz {

// Reports a violated invariant and ends the process: what a crash is to libFuzzer.
[[noreturn]] void Finding(const char* what);

inline void Require(bool condition, const char* what) {
  if (!condition) Finding(what);
}

}  // namespace tulle::fuzz
