#include "tulle/gpu/softcuda/printing.h"

#include <gtest/gtest.h>

#include <cstring>

namespace tulle::gpu::softcuda {
namespace {

// Memory of a thread: addresses are those of this array.
class PrintingTest : public ::testing::Test {
 protected:
  std::uint64_t Text(const char* text) {
    const std::uint64_t at = used_;
    std::strcpy(memory_ + used_, text);
    used_ += std::strlen(text) + 1;
    return at;
  }
  template <typename T>
  void Argument(T value) {
    arguments_ = (arguments_ + sizeof value - 1) / sizeof value * sizeof value;
    std::memcpy(memory_ + arguments_, &value, sizeof value);
    arguments_ += sizeof value;
  }
  // What is printed, or "?" when memory is not there.
  std::string Print(const char* format) {
    std::string text;
    count_ = -1;
    const bool there = FormatPrinted(
        [this](std::uint64_t address, void* to, std::size_t bytes) {
          if (address >= sizeof memory_ || bytes > sizeof memory_ - address) return false;
          std::memcpy(to, memory_ + address, bytes);
          return true;
        },
        Text(format), kArguments, &text, &count_);
    arguments_ = kArguments;
    return there ? text : "?";
  }

  static constexpr std::uint64_t kArguments = 2048;
  char memory_[4096] = {};
  std::uint64_t used_ = 0, arguments_ = kArguments;
  int count_ = 0;
};

TEST_F(PrintingTest, ConvertsAsCDoes) {
  EXPECT_EQ(Print("no arguments, 100%%\n"), "no arguments, 100%\n");
  EXPECT_EQ(count_, 0);
  Argument<std::int32_t>(-5);
  Argument<std::int64_t>(-6);
  Argument<std::uint32_t>(0xfffffff0);
  Argument<double>(1.5);
  Argument<std::int32_t>('y');
  Argument<std::uint64_t>(Text("text"));
  EXPECT_EQ(Print("%d %lld %#x [%+8.3f] %c %-6s|"), "-5 -6 0xfffffff0 [  +1.500] y text  |");
  EXPECT_EQ(count_, 6);
  Argument<std::int32_t>(7);
  Argument<std::int32_t>(2);
  Argument<double>(3.14159);
  EXPECT_EQ(Print("%*.*f"), "   3.14");
  Argument<std::uint64_t>(0x1000);
  EXPECT_EQ(Print("%p"), "0x1000");
  Argument<std::int32_t>(300);
  EXPECT_EQ(Print("%hhd"), "300") << "arguments are promoted, and stay so";
}

TEST_F(PrintingTest, WhatIsNoConversionStaysAsItIs) {
  EXPECT_EQ(Print("%y %"), "%y %");
  EXPECT_EQ(Print(""), "");
}

TEST_F(PrintingTest, NothingIsReadThatIsNotThere) {
  Argument<std::uint64_t>(1u << 20);
  EXPECT_EQ(Print("%s"), "?");
  Argument<std::int32_t>(2'000'000'000);
  Argument<std::int32_t>(1);
  EXPECT_EQ(Print("%*d"), "1") << "a field of any width is none";
}

}  // namespace
}  // namespace tulle::gpu::softcuda
