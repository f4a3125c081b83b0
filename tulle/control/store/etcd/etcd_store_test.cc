#include "tulle/control/store/etcd/etcd_store.h"

#include <future>

#include "tulle/control/store/conformance.h"
#include "tulle/control/store/etcd/test_etcd.h"

namespace tulle::control {
namespace {

using namespace std::chrono_literals;

const SystemClock kClock;

std::unique_ptr<EtcdStore> Lead(const TestEtcd& etcd, EtcdLeadership leadership = {.name = "a"},
                                const std::string& prefix = "tulle/") {
  auto store = EtcdStore::Lead({.endpoints = {etcd.endpoint()}, .prefix = prefix}, std::move(leadership),
                               kClock, std::stop_token());
  EXPECT_TRUE(store.ok()) << store.error().message;
  return store.ok() ? std::move(*store) : nullptr;
}

// One etcd for all of the battery: each test has a mesh of its own in it.
struct Fixture {
  static TestEtcd& Etcd() {
    static TestEtcd etcd;
    return etcd;
  }
  std::unique_ptr<Store> Open() { return Lead(Etcd(), {.name = "a"}, prefix); }
  const std::string prefix = [] {
    static int meshes = 0;
    return "mesh-" + std::to_string(++meshes) + "/";
  }();
};
INSTANTIATE_TYPED_TEST_SUITE_P(Etcd, StoreConformance, Fixture);

TEST(EtcdStore, ALargeBatchIsWholeOrNotThere) {
  TestEtcd etcd;
  auto store = Lead(etcd);
  ASSERT_NE(store, nullptr);
  std::vector<Store::Write> writes;
  for (int i = 0; i < 3'000; ++i) writes.push_back({"k" + std::to_string(i), std::string(1'000, 'v')});
  for (int i = 0; i < 3; ++i)
    writes.push_back({"large" + std::to_string(i), std::string(kMaxStoreValueBytes, 'l')});
  ASSERT_TRUE(store->Commit(writes).ok());
  EXPECT_EQ(store->Scan("")->size(), 3'003u);
  EXPECT_EQ(store->Get("large2")->value_or("").size(), kMaxStoreValueBytes);
}

// etcd is killed while large batches are written: whatever the next leader finds is whole batches, and all
// that were acknowledged.
TEST(EtcdStore, LargeBatchesSurviveKill) {
  TestEtcd etcd;
  int acknowledged = -1;
  for (int kills = 0; kills < 2; ++kills) {
    auto store = Lead(etcd, {.name = "a", .lease = 2s});
    ASSERT_NE(store, nullptr);
    const auto entries = store->Scan("");
    ASSERT_TRUE(entries.ok());
    std::set<std::string> values;
    for (const auto& [key, value] : *entries) values.insert(value);
    ASSERT_LE(values.size(), 1u) << "half a batch";
    if (acknowledged >= 0) {
      ASSERT_EQ(entries->size(), 1'000u);
      ASSERT_GE(std::stoi(*values.begin()), acknowledged);
      acknowledged = std::stoi(*values.begin());
    }
    std::promise<void> some;
    std::thread killer([&] {
      some.get_future().wait();
      etcd.Kill();
    });
    for (int batch = acknowledged + 1, done = 0;; ++batch, ++done) {
      std::vector<Store::Write> writes;
      for (int i = 0; i < 1'000; ++i) writes.push_back({"k" + std::to_string(i), std::to_string(batch)});
      if (!store->Commit(writes).ok()) break;
      acknowledged = batch;
      if (done == 5 + kills) some.set_value();
    }
    killer.join();
    store.reset();
    etcd.Start();
  }
}

TEST(EtcdStore, OneLeadsAndTheNextOneFindsItsState) {
  TestEtcd etcd;
  auto first = Lead(etcd, {.name = "first:7400"});
  ASSERT_NE(first, nullptr);
  ASSERT_TRUE(first->Commit(std::vector<Store::Write>{{"k", "v"}}).ok());
  std::promise<std::string> stands_by;
  auto second = std::async(std::launch::async, [&] {
    return Lead(etcd,
                {.name = "second:7400", .on_standby = [&, told = false](const std::string& leader) mutable {
                   if (!std::exchange(told, true)) stands_by.set_value(leader);
                 }});
  });
  EXPECT_EQ(stands_by.get_future().get(), "first:7400");
  EXPECT_EQ(second.wait_for(0s), std::future_status::timeout);
  first.reset();
  const auto leader = second.get();
  ASSERT_NE(leader, nullptr);
  EXPECT_EQ(leader->Get("k")->value_or(""), "v");
}

TEST(EtcdStore, WaitingCanBeStopped) {
  TestEtcd etcd;
  const auto first = Lead(etcd);
  std::stop_source stop;
  std::promise<void> stands_by;
  auto second = std::async(std::launch::async, [&] {
    return EtcdStore::Lead({.endpoints = {etcd.endpoint()}},
                           {.name = "b",
                            .on_standby =
                                [&, told = false](const std::string&) mutable {
                                  if (!std::exchange(told, true)) stands_by.set_value();
                                }},
                           kClock, stop.get_token());
  });
  stands_by.get_future().wait();
  stop.request_stop();
  const auto result = second.get();
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().code, Code::kCancelled);
}

// A leader that has slept through its lease changes nothing any more, although it has not noticed.
TEST(EtcdStore, WhoHasLostTheLeadCommitsNothing) {
  TestEtcd etcd;
  std::promise<void> lost;
  auto first = Lead(etcd, {.name = "a", .on_lost = [&] { lost.set_value(); }});
  ASSERT_NE(first, nullptr);
  ASSERT_TRUE(first->Commit(std::vector<Store::Write>{{"k", "first"}}).ok());
  {
    // What takes the lead away, as the end of a lease does.
    const auto client = EtcdClient::Open({.endpoints = {etcd.endpoint()}}, kClock);
    ASSERT_TRUE(client.ok());
    (*client)->Revoke(first->lease_id(), kClock.Now() + 10s);
  }
  const auto second = Lead(etcd, {.name = "b"});
  ASSERT_NE(second, nullptr);
  const Status status = first->Commit(std::vector<Store::Write>{{"k", "too late"}});
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, Code::kAborted);
  EXPECT_EQ(second->Get("k")->value_or(""), "first");
  lost.get_future().wait();
}

TEST(EtcdStore, ALeaderOutlivesAShortAbsenceOfEtcd) {
  TestEtcd etcd;
  std::atomic<bool> lost = false;
  const auto store = Lead(etcd, {.name = "a", .lease = 20s, .on_lost = [&] { lost = true; }});
  ASSERT_NE(store, nullptr);
  etcd.Kill();
  auto commit = std::async(std::launch::async, [&] {
    return store->Commit(std::vector<Store::Write>{{"k", "v"}});
  });
  etcd.Start();
  const Status status = commit.get();
  EXPECT_TRUE(status.ok()) << status.error().message;
  EXPECT_EQ(store->Get("k")->value_or(""), "v");
  EXPECT_FALSE(lost);
}

TEST(EtcdStore, RefusesWhatIsNotAnEndpointOrNotPrivate) {
  const auto error = [](std::vector<std::string> endpoints) {
    const auto client = EtcdClient::Open({.endpoints = std::move(endpoints)}, kClock);
    return client.ok() ? "" : client.error().message;
  };
  EXPECT_EQ(error({}), "etcd: no member is named");
  EXPECT_EQ(
      error({"localhost:2379"}),
      "etcd: \"localhost:2379\" is not http://HOST:PORT or https://HOST:PORT, the same for all members");
  EXPECT_NE(error({"https://a:2379", "http://localhost:2379"}), "");
  EXPECT_NE(error({"http://localhost"}), "");
  EXPECT_EQ(
      error({"http://10.0.0.1:2379"}),
      "etcd: http://10.0.0.1:2379 would be spoken to in the clear, keys of vGPUs included; use https, with "
      "certificates for etcd");
  EXPECT_EQ(error({"https://a:2379", "https://b:2379/"}), "");
  EXPECT_EQ(error({"http://[::1]:2379"}), "");
}

}  // namespace
}  // namespace tulle::control
