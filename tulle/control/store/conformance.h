// The battery that every Store must pass. An implementation's test instantiates it with a fixture that opens
// the same store again and again:
//
//   struct Fixture { std::unique_ptr<Store> Open(); };   // what earlier stores of this fixture committed is
//   there INSTANTIATE_TYPED_TEST_SUITE_P(Sqlite, StoreConformance, Fixture);
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tulle/base/random.h"
#include "tulle/control/store/store.h"

namespace tulle::control {

template <typename Fixture>
class StoreConformance : public ::testing::Test {
 protected:
  void SetUp() override { Reopen(); }
  void Reopen() {
    store_.reset();
    store_ = fixture_.Open();
    ASSERT_NE(store_, nullptr);
  }
  Status Commit(const std::vector<Store::Write>& writes) { return store_->Commit(writes); }
  std::string Value(const std::string& key) {
    auto value = store_->Get(key);
    return !value.ok() ? "error" : value->value_or("nothing");
  }
  std::map<std::string, std::string> All(const std::string& prefix = "") {
    auto entries = store_->Scan(prefix);
    EXPECT_TRUE(entries.ok());
    return entries.ok() ? std::map<std::string, std::string>(entries->begin(), entries->end())
                        : std::map<std::string, std::string>();
  }

  Fixture fixture_;
  std::unique_ptr<Store> store_;
};

TYPED_TEST_SUITE_P(StoreConformance);

TYPED_TEST_P(StoreConformance, WhatIsCommittedIsThereAlsoAfterOpeningAnew) {
  EXPECT_EQ(this->Value("a"), "nothing");
  ASSERT_TRUE(this->Commit({{"a", "1"}, {"b", "2"}, {"c", ""}}).ok());
  ASSERT_TRUE(this->Commit({{"a", "3"}, {"b", std::nullopt}, {"never", std::nullopt}}).ok());
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(this->All(), (std::map<std::string, std::string>{{"a", "3"}, {"c", ""}}));
    EXPECT_EQ(this->Value("a"), "3");
    EXPECT_EQ(this->Value("b"), "nothing");
    EXPECT_EQ(this->Value("c"), "");
    this->Reopen();
  }
}

TYPED_TEST_P(StoreConformance, WritesOfABatchAreInOrder) {
  ASSERT_TRUE(
      this->Commit({{"a", "1"}, {"a", std::nullopt}, {"a", "2"}, {"b", "1"}, {"b", std::nullopt}}).ok());
  EXPECT_EQ(this->All(), (std::map<std::string, std::string>{{"a", "2"}}));
  EXPECT_TRUE(this->Commit({}).ok());
}

TYPED_TEST_P(StoreConformance, BytesAreBytes) {
  std::string all;
  for (int i = 0; i < 256; ++i) all += static_cast<char>(i);
  ASSERT_TRUE(this->Commit({{"k" + all.substr(0, 200), all}, {"K", "upper"}}).ok());
  this->Reopen();
  EXPECT_EQ(this->Value("k" + all.substr(0, 200)), all);
  EXPECT_EQ(this->Value("K"), "upper");
}

TYPED_TEST_P(StoreConformance, ScanTakesThePrefixOnlyAndInOrder) {
  ASSERT_TRUE(this->Commit({{"b/2", "x"},
                            {"b/1", "x"},
                            {"b0", "x"},
                            {"b", "x"},
                            {"a/9", "x"},
                            {"b/\xff", "x"},
                            {"c", "x"}})
                  .ok());
  auto entries = this->store_->Scan("b/");
  ASSERT_TRUE(entries.ok());
  std::vector<std::string> keys;
  for (const auto& [key, value] : *entries) keys.push_back(key);
  EXPECT_EQ(keys, (std::vector<std::string>{"b/1", "b/2", "b/\xff"}));
  ASSERT_TRUE(this->Commit({{"\xff\xff", "x"}, {"\xff\xff\x01", "x"}}).ok());
  EXPECT_EQ(this->All("\xff\xff").size(), 2u);
}

TYPED_TEST_P(StoreConformance, ABatchOutOfBoundsDoesNothing) {
  const std::string long_key(kMaxStoreKeyBytes + 1, 'k');
  const std::string long_value(kMaxStoreValueBytes + 1, 'v');
  for (const Store::Write& bad :
       {Store::Write{"", "x"}, Store::Write{long_key, "x"}, Store::Write{"k", long_value}}) {
    const Status status = this->Commit({{"good", "x"}, bad});
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().code, Code::kInvalidArgument);
  }
  EXPECT_TRUE(this->All().empty());
  EXPECT_TRUE(this->Commit({{long_key.substr(1), long_value.substr(1)}}).ok());
  EXPECT_EQ(this->Value(long_key.substr(1)).size(), kMaxStoreValueBytes);
}

TYPED_TEST_P(StoreConformance, AgreesWithAMapOverRandomBatches) {
  SeededRandom random(42);
  std::map<std::string, std::string> model;
  for (int batch = 0; batch < 100; ++batch) {
    std::vector<Store::Write> writes;
    for (std::uint64_t i = 0, n = random.Below(20); i < n; ++i) {
      const std::string key = "key" + std::to_string(random.Below(50));
      if (random.Below(3) == 0) {
        writes.push_back({key, std::nullopt});
        model.erase(key);
      } else {
        writes.push_back({key, std::string(random.Below(100), 'x') + std::to_string(batch)});
        model[key] = *writes.back().value;
      }
    }
    ASSERT_TRUE(this->Commit(writes).ok());
    if (batch % 30 == 0) this->Reopen();
    ASSERT_EQ(this->All(), model) << batch;
  }
}

REGISTER_TYPED_TEST_SUITE_P(StoreConformance, WhatIsCommittedIsThereAlsoAfterOpeningAnew,
                            WritesOfABatchAreInOrder, BytesAreBytes, ScanTakesThePrefixOnlyAndInOrder,
                            ABatchOutOfBoundsDoesNothing, AgreesWithAMapOverRandomBatches);

}  // namespace tulle::control
