#include "tulle/shim/cuda/remote/behind_functions.h"

#include <gtest/gtest.h>

#include <atomic>
#include <semaphore>
#include <thread>

namespace tulle::shim::cuda {
namespace {

constexpr std::uint64_t kLegacy = 1, kStream = 2, kOther = 3;
constexpr std::uint32_t kAll = BehindFunctions::kMostPlaces;

// Whether `pass` waits for `end`.
template <typename Pass, typename End>
bool Waits(const Pass& pass, const End& end) {
  std::atomic<bool> ending = false;
  bool waited = false;
  std::binary_semaphore begun(0);
  std::thread thread([&] {
    begun.release();
    pass();
    waited = ending;
  });
  begun.acquire();
  for (int i = 0; i < 2000; ++i) std::this_thread::yield();  // who does not wait is through by then
  ending = true;
  end();
  thread.join();
  return waited;
}

TEST(BehindFunctions, OnlyWhoIsBehindOneWaits) {
  BehindFunctions behind;
  behind.Pass(kStream, kLegacy, 2 * kAll);  // there is none
  const std::uint64_t function = behind.Begin(kStream);
  EXPECT_EQ(behind.count(), 1u);
  behind.Pass(kOther, kLegacy, 2 * kAll);
  behind.Pass(kStream, kLegacy, kAll);
  EXPECT_TRUE(Waits([&] { behind.Pass(kStream, kLegacy, 1); }, [&] { behind.End(function); }));
  EXPECT_EQ(behind.count(), 0u);
  behind.Pass(kStream, kLegacy, 2 * kAll);
}

TEST(BehindFunctions, AFunctionThatBeginsLaterIsNotWaitedFor) {
  BehindFunctions behind;
  const std::uint64_t first = behind.Begin(kStream), second = behind.Begin(kOther);
  behind.Pass(kStream, kLegacy, kAll);
  std::uint64_t later = 0;
  EXPECT_TRUE(Waits([&] { behind.Pass(kStream, kLegacy, 7); },
                    [&] {
                      later = behind.Begin(kOther);
                      behind.End(second);
                      behind.End(first);
                    }));
  // It counts from there on.
  behind.Pass(kStream, kLegacy, kAll - 7);
  EXPECT_TRUE(Waits([&] { behind.Pass(kStream, kLegacy, 1); }, [&] { behind.End(later); }));
}

TEST(BehindFunctions, WhoWaitsForAnotherIsBehindIt) {
  BehindFunctions behind;
  behind.WaitsForAnother(kOther);  // for nothing that matters
  const std::uint64_t function = behind.Begin(kStream);
  behind.Pass(kOther, kLegacy, 2 * kAll);
  behind.WaitsForAnother(kOther);
  EXPECT_TRUE(Waits([&] { behind.Pass(kOther, kLegacy, kAll + 1); }, [&] { behind.End(function); }));
}

TEST(BehindFunctions, TheLegacyStreamIsBehindAllAndAllBehindIt) {
  BehindFunctions behind;
  std::uint64_t function = behind.Begin(kStream);
  EXPECT_TRUE(Waits([&] { behind.Pass(kLegacy, kLegacy, kAll + 1); }, [&] { behind.End(function); }));
  function = behind.Begin(kLegacy);
  EXPECT_TRUE(Waits([&] { behind.Pass(kOther, kLegacy, kAll + 1); }, [&] { behind.End(function); }));
}

TEST(BehindFunctions, WhatOthersWaitForNeverWaits) {
  BehindFunctions behind;
  behind.Exempt(kOther);
  const std::uint64_t function = behind.Begin(kOther);
  behind.Pass(kOther, kLegacy, 2 * kAll);
  behind.End(function);
}

}  // namespace
}  // namespace tulle::shim::cuda
