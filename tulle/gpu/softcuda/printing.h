// What kernels print: printf's format, with arguments as CUDA's vprintf has them in memory.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace tulle::gpu::softcuda {

// Copies bytes of a thread's generic addresses; false: they are not there.
using ReadMemory = std::function<bool(std::uint64_t address, void* to, std::size_t bytes)>;

// At most so much of a text is read.
inline constexpr std::size_t kMaxPrintedBytes = 64u << 10;

// The text, and how many arguments it took. False: memory that is named is not there. Arguments lie one
// behind the other, each as aligned as it is large: numbers of 4 or 8 bytes, floats as doubles, pointers.
// What is no conversion is printed as it stands. Follows the CUDA C++ Programming Guide, "Formatted Output".
bool FormatPrinted(const ReadMemory& read, std::uint64_t format, std::uint64_t arguments, std::string* text,
                   int* count);

// A text that ends with a zero byte, or after kMaxPrintedBytes.
bool ReadText(const ReadMemory& read, std::uint64_t address, std::string* text);

}  // namespace tulle::gpu::softcuda
