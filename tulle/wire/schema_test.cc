// What the schema's enums say beyond their numbers.
#include <gtest/gtest.h>

#include <set>
#include <string_view>

#include "tulle/wire/schema/session.h"

namespace tulle::wire {
namespace {

TEST(Capabilities, ASessionIsOfOneApi) {
  EXPECT_EQ(OfOneApi(KnownCapabilities()), CudaCapabilities());
  EXPECT_EQ(OfOneApi(OpenClCapabilities()), OpenClCapabilities());
  EXPECT_EQ(OfOneApi(CommonCapabilities()), CommonCapabilities());
  EXPECT_FALSE(Has(OpenClCapabilities(), Capability::kCuda));
  EXPECT_FALSE(Has(CudaCapabilities(), Capability::kOpenCl));
}

TEST(EndReasonName, IsThereForEachReasonAndForNoOther) {
  std::set<std::string_view> names;
  int known = 0;
  for (int number = 0; number < 256; ++number) {
    const auto reason = static_cast<EndReason>(number);
    if (IsKnown(reason)) {
      ++known;
      EXPECT_NE(EndReasonName(reason), "unknown") << number;
      EXPECT_TRUE(names.insert(EndReasonName(reason)).second) << EndReasonName(reason);
    } else {
      EXPECT_EQ(EndReasonName(reason), "unknown") << number;
    }
  }
  EXPECT_EQ(known, 6);
}

}  // namespace
}  // namespace tulle::wire
