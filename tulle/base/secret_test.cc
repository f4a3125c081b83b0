#include "tulle/base/secret.h"

#include <gtest/gtest.h>

#include <new>

namespace tulle {
namespace {

TEST(Secret, ComparesByContentAndLength) {
  EXPECT_TRUE(ConstantTimeEqual(AsBytes("abc"), AsBytes("abc")));
  EXPECT_FALSE(ConstantTimeEqual(AsBytes("abc"), AsBytes("abd")));
  EXPECT_FALSE(ConstantTimeEqual(AsBytes("abc"), AsBytes("ab")));
  EXPECT_EQ(Secret(AsBytes("key")), Secret(AsBytes("key")));
}

TEST(Secret, MovesLeaveNothingAndCopiesAreEqual) {
  Secret a(AsBytes("0123456789"));
  const Secret copy = a;
  const Secret moved = std::move(a);
  EXPECT_TRUE(a.empty());  // NOLINT: what a move leaves is the point
  EXPECT_EQ(copy, moved);
}

}  // namespace
}  // namespace tulle
