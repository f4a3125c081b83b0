#include "tulle/shim/opencl/box.h"

#include <gtest/gtest.h>

namespace tulle::shim::opencl {
namespace {

constexpr std::size_t kMost = wire::kMaxPayloadBytes;

// Each byte of the box is in exactly one piece, and no piece is too large.
void ExpectWhole(const wire::Vec3& region, std::size_t unit, std::size_t count) {
  SCOPED_TRACE(testing::Message() << region[0] << " x " << region[1] << " x " << region[2]);
  const auto pieces = CutBox(region, unit);
  EXPECT_EQ(pieces.size(), count);
  std::size_t bytes = 0;
  for (const BoxPiece& piece : pieces) {
    const std::size_t size = piece.region[0] * piece.region[1] * piece.region[2];
    EXPECT_GT(size, 0u);
    EXPECT_LE(size, kMost);
    for (int i = 0; i < 3; ++i) EXPECT_LE(piece.origin[i] + piece.region[i], region[i]);
    EXPECT_EQ(piece.region[0] % unit, 0u);
    EXPECT_EQ(piece.origin[0] % unit, 0u);
    bytes += size;
  }
  EXPECT_EQ(bytes, region[0] * region[1] * region[2]);
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    for (std::size_t j = i + 1; j < pieces.size(); ++j) {
      bool apart = false;
      for (int k = 0; k < 3; ++k) {
        apart = apart || pieces[i].origin[k] >= pieces[j].origin[k] + pieces[j].region[k] ||
                pieces[j].origin[k] >= pieces[i].origin[k] + pieces[i].region[k];
      }
      EXPECT_TRUE(apart) << i << ", " << j;
    }
  }
}

TEST(HostSpans, KnowWhatTheyTouch) {
  std::byte memory[100] = {};
  HostSpans spans;
  const HostBox strided{memory + 10, {2, 3, 2}, 4, 20};  // bytes 10 to 39, with gaps
  const HostBox same{memory + 10, {2, 1, 1}, 2, 2};
  EXPECT_FALSE(spans.Touches(strided));
  spans.Add(strided);
  spans.Add(same);
  EXPECT_EQ(strided.span_size(), 30u);
  EXPECT_FALSE(spans.Touches({memory, {10, 1, 1}, 10, 10}));
  EXPECT_TRUE(spans.Touches({memory, {11, 1, 1}, 11, 11}));
  EXPECT_TRUE(spans.Touches({memory + 39, {1, 1, 1}, 1, 1}));
  EXPECT_FALSE(spans.Touches({memory + 40, {1, 1, 1}, 1, 1}));
  spans.Remove(strided);
  EXPECT_FALSE(spans.Touches({memory + 39, {1, 1, 1}, 1, 1}));
  EXPECT_TRUE(spans.Touches({memory + 11, {1, 1, 1}, 1, 1}));
  spans.Remove(same);
  EXPECT_FALSE(spans.Touches(strided));
}

TEST(Box, IsCutAtSlicesThenRowsThenBytes) {
  ExpectWhole({1, 1, 1}, 1, 1);
  ExpectWhole({kMost, 1, 1}, 1, 1);
  ExpectWhole({kMost + 1, 1, 1}, 1, 2);
  ExpectWhole({kMost / 2, 2, 1}, 1, 1);
  ExpectWhole({kMost / 2, 1, 3}, 1, 2);
  ExpectWhole({kMost / 2, 3, 2}, 1, 4);          // each slice is more than fits
  ExpectWhole({kMost + 4, 2, 2}, 4, 8);          // each row is
  ExpectWhole({12 * (kMost / 8), 1, 1}, 12, 2);  // a unit that does not divide the limit
  ExpectWhole({1000, 1000, 10}, 8, 3);
  ExpectWhole({3, 5, 7}, 3, 1);
}

TEST(Box, PacksAndUnpacks) {
  std::vector<std::byte> table(1000);
  for (std::size_t i = 0; i < table.size(); ++i) table[i] = static_cast<std::byte>(i * 7);
  const HostBox box{table.data() + 5, {4, 3, 2}, 10, 100};
  EXPECT_EQ(box.packed_size(), 24u);
  EXPECT_FALSE(box.packed());
  std::vector<std::byte> packed(24);
  box.CopyTo(packed.data());
  for (std::size_t i = 0; i < 24; ++i)
    EXPECT_EQ(packed[i], table[5 + i % 4 + i / 4 % 3 * 10 + i / 12 * 100]) << i;

  std::vector<std::byte> copy(1000);
  HostBox{copy.data() + 5, {4, 3, 2}, 10, 100}.CopyFrom(packed.data());
  for (std::size_t i = 0; i < 1000; ++i) {
    const std::size_t at = i - 5;
    const bool inside = i >= 5 && at / 100 < 2 && at % 100 / 10 < 3 && at % 10 < 4;
    EXPECT_EQ(copy[i], inside ? table[i] : std::byte{0}) << i;
  }
}

TEST(Box, OfOneRowIsPackedWhateverItsPitch) {
  std::byte byte{};
  EXPECT_TRUE((HostBox{&byte, {4, 1, 1}, 10, 10}).packed());
  EXPECT_TRUE((HostBox{&byte, {4, 3, 2}, 4, 12}).packed());
  EXPECT_TRUE((HostBox{&byte, {4, 3, 1}, 4, 100}).packed());
  EXPECT_FALSE((HostBox{&byte, {4, 3, 2}, 4, 100}).packed());
  EXPECT_FALSE((HostBox{&byte, {4, 1, 2}, 10, 10}).packed());
}

}  // namespace
}  // namespace tulle::shim::opencl
