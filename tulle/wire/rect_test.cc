#include "tulle/wire/schema/opencl/rect.h"

#include <gtest/gtest.h>

#include <set>

#include "tulle/base/random.h"

namespace tulle::wire::opencl {
namespace {

constexpr U64 kMost = ~U64{0};

TEST(Rect, SpansFromItsFirstByteToItsLast) {
  EXPECT_EQ(SpanOf({0, 4, 4}, {4, 1, 1}), 4u);
  EXPECT_EQ(SpanOf({0, 10, 30}, {4, 3, 1}), 24u);
  EXPECT_EQ(SpanOf({7, 10, 40}, {4, 3, 2}), 64u);
}

TEST(Rect, ThatCannotBeHasNoSpan) {
  EXPECT_FALSE(SpanOf({0, 4, 4}, {0, 1, 1}));
  EXPECT_FALSE(SpanOf({0, 4, 4}, {4, 0, 1}));
  EXPECT_FALSE(SpanOf({0, 4, 4}, {4, 1, 0}));
  EXPECT_FALSE(SpanOf({0, 3, 3}, {4, 1, 1}));          // rows run into each other
  EXPECT_FALSE(SpanOf({0, 4, 7}, {4, 2, 1}));          // slices do
  EXPECT_FALSE(SpanOf({0, 4, 10}, {4, 2, 2}));         // a slice begins within a row
  EXPECT_FALSE(SpanOf({0, kMost, kMost}, {1, 2, 1}));  // beyond 64 bits, in each step of the sum
  EXPECT_FALSE(SpanOf({0, 1, kMost}, {1, 1, 3}));
  EXPECT_FALSE(SpanOf({0, 2, kMost - 1}, {2, 1, 2}));
}

// Bytes of the box, one by one.
std::set<U64> BytesOf(const Rect& rect, const Vec3& region) {
  std::set<U64> bytes;
  for (U64 z = 0; z < region[2]; ++z) {
    for (U64 y = 0; y < region[1]; ++y) {
      for (U64 x = 0; x < region[0]; ++x)
        bytes.insert(rect.offset_bytes + x + y * rect.row_pitch_bytes + z * rect.slice_pitch_bytes);
    }
  }
  return bytes;
}

TEST(Rect, OverlapNeverMissesASharedByte) {
  SeededRandom random(1);
  int shared_count = 0;
  int apart_in_gaps = 0;
  for (int i = 0; i < 20'000; ++i) {
    const Vec3 region = {1 + random.Below(4), 1 + random.Below(3), 1 + random.Below(3)};
    const auto any = [&] {
      const U64 row_pitch = region[0] + random.Below(6);
      return Rect{random.Below(80), row_pitch, row_pitch * (region[1] + random.Below(4))};
    };
    const Rect a = any();
    Rect b = any();
    const bool alike = random.Below(4) != 0;
    if (alike) b = {b.offset_bytes, a.row_pitch_bytes, a.slice_pitch_bytes};
    const std::set<U64> bytes = BytesOf(a, region);
    bool shared = false;
    for (const U64 byte : BytesOf(b, region)) shared = shared || bytes.contains(byte);
    SCOPED_TRACE(testing::Message() << "round " << i);
    EXPECT_EQ(Overlap(a, b, region), Overlap(b, a, region));
    if (shared) {
      ++shared_count;
      ASSERT_TRUE(Overlap(a, b, region));
    } else if (alike && !Overlap(a, b, region)) {
      ++apart_in_gaps;
    }
  }
  EXPECT_GT(shared_count, 1000);
  EXPECT_GT(apart_in_gaps, 1000);
}

TEST(Rect, ColumnsOfOneTableDoNotOverlap) {
  // Two columns of 4 bytes, 10 rows of 16; then two tables on top of each other.
  EXPECT_FALSE(Overlap({0, 16, 160}, {4, 16, 160}, {4, 10, 1}));
  EXPECT_FALSE(Overlap({12, 16, 160}, {4, 16, 160}, {4, 10, 1}));
  EXPECT_TRUE(Overlap({0, 16, 160}, {3, 16, 160}, {4, 10, 1}));
  EXPECT_FALSE(Overlap({0, 16, 64}, {32, 16, 64}, {16, 2, 5}));
  EXPECT_TRUE(Overlap({0, 16, 64}, {16, 16, 64}, {16, 2, 5}));
}

}  // namespace
}  // namespace tulle::wire::opencl
