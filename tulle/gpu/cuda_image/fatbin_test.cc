#include "tulle/gpu/cuda_image/fatbin.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "tulle/base/random.h"
#include "tulle/gpu/cuda_image/test_fatbin.h"

namespace tulle::gpu::cuda_image {
namespace {

using ::testing::HasSubstr;

std::string TextIn(const ByteVector& fatbin) {
  const auto text = PtxIn(fatbin, 70);
  return text.ok() ? text->c_str() : ToString(text.error());  // as it is read: up to the padding
}

const std::string kText = "\n\n\n\n.version 6.0\n.target sm_60\n.address_size 64\n\n\n\n\n\n\n";

TEST(Fatbin, TheNewestThatTheDeviceCanCompile) {
  for (const Packing packing : {Packing::kNone, Packing::kLz4, Packing::kZstd}) {
    EXPECT_EQ(TextIn(Fatbin({Entry(2, 60, "machine code"), Entry(1, 50, "older"),
                             Entry(1, 60, kText, packing), Entry(1, 52, "older"), Entry(1, 80, "newer")})),
              kText);
  }
}

TEST(Fatbin, WhatIsThereInsteadIsSaid) {
  EXPECT_THAT(TextIn(Fatbin({Entry(2, 60, "code"), Entry(2, 90, "code"), Entry(1, 80, "newer")})),
              HasSubstr("PTX for sm_80, machine code for sm_60, sm_90"));
  EXPECT_THAT(TextIn(Fatbin({})), HasSubstr("PTX for nothing, machine code for nothing"));
}

TEST(Fatbin, DamageIsNoticed) {
  for (const Packing packing : {Packing::kNone, Packing::kLz4, Packing::kZstd}) {
    const ByteVector good = Fatbin({Entry(1, 50, "older"), Entry(1, 60, kText, packing)});
    for (std::size_t size = 0; size < good.size(); ++size) {
      const auto text = PtxIn(ByteView(good).first(size), 70);
      ASSERT_FALSE(text.ok()) << size;
      EXPECT_EQ(text.error().code, Code::kInvalidArgument);
    }
    // Whatever is in it, it is read or refused.
    SeededRandom random(3);
    for (int i = 0; i < 5000; ++i) {
      ByteVector bad = good;
      for (std::uint64_t n = 1 + random.Below(3); n > 0; --n)
        bad[random.Below(bad.size())] = static_cast<std::byte>(random.Below(256));
      (void)PtxIn(bad, 70);
    }
  }
  ByteVector large = Fatbin({Entry(1, 60, kText, Packing::kLz4)});
  const std::uint64_t absurd = std::uint64_t{1} << 40;
  std::memcpy(&large[16 + 56], &absurd, sizeof absurd);
  EXPECT_EQ(PtxIn(large, 70).error().code, Code::kResourceExhausted);
}

}  // namespace
}  // namespace tulle::gpu::cuda_image
