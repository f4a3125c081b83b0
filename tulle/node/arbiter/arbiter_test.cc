#include "tulle/node/arbiter/arbiter.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <thread>

namespace tulle::node::arbiter {
namespace {

// A worker that uses, or would like to use, a part of the device all the time.
class FakeWorker {
 public:
  explicit FakeWorker(int fd) : memory_(SharedMemory::Adopt(UniqueFd(dup(fd))).value()) {}
  ~FakeWorker() { Stop(); }
  double share() { return page().share / double{wire::kWholeShare}; }
  // From now on; as far as it has a share.
  void Use(double part) {
    Stop();
    stop_ = false;
    thread_ = std::thread([this, part] {
      const SystemClock clock;
      for (Instant then = clock.Now(); !stop_; std::this_thread::yield()) {
        const Instant now = clock.Now();
        const auto time_ns = static_cast<double>((now - then).count());
        then = now;
        page().used_ns += static_cast<std::uint64_t>(time_ns * std::min(part, share()));
        if (part > share()) page().throttled_ns += static_cast<std::uint64_t>(time_ns);
      }
    });
  }
  void Stop() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
  }
  template <typename F>
  void Await(F&& has) {
    while (!has(share())) std::this_thread::yield();
  }

 private:
  wire::SharePage& page() { return *reinterpret_cast<wire::SharePage*>(memory_.bytes().data()); }
  SharedMemory memory_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

class ArbiterTest : public ::testing::Test {
 protected:
  int Start(const std::string& uid, Level level, std::uint32_t percent, std::uint32_t gpu = 0) {
    return arbiter_.Start(uid, gpu, Sharing::kMeasured, {.level = level, .compute_percent = percent})
        .value()
        .share_fd;
  }
  SystemClock clock_;
  Arbiter arbiter_{1, 0, std::chrono::seconds(10), &clock_};
};

TEST_F(ArbiterTest, WhoBurstsHasWhatOthersLeave) {
  FakeWorker capped(Start("capped", Level::kGuaranteed, 30)), bursts(Start("bursts", Level::kBurst, 20));
  EXPECT_EQ(capped.share(), 0.3);
  bursts.Await([](double share) { return share > 0.95; });
  bursts.Use(1);
  capped.Use(1);
  bursts.Await([](double share) { return share > 0.69 && share < 0.71; });
  EXPECT_EQ(capped.share(), 0.3);
  capped.Stop();
  bursts.Await([](double share) { return share > 0.95; });
  EXPECT_EQ(arbiter_.Get("bursts").share, bursts.share());
  EXPECT_GT(arbiter_.Get("capped").throttled_ns, 0u);
}

TEST_F(ArbiterTest, AChangeCountsAtOnce) {
  FakeWorker worker(Start("a", Level::kGuaranteed, 30)), elsewhere(Start("b", Level::kBurst, 10, 1));
  arbiter_.Change("a", {.level = Level::kGuaranteed, .compute_percent = 60});
  EXPECT_EQ(worker.share(), 0.6);
  worker.Use(1);
  elsewhere.Use(1);
  elsewhere.Await([](double share) { return share > 0.99; });  // on a GPU of its own
  arbiter_.Change("a", {.level = Level::kGuaranteed, .compute_percent = 5});
  EXPECT_EQ(worker.share(), 0.05);
  arbiter_.Change("nobody", {});
  EXPECT_EQ(arbiter_.Get("nobody").share, 0);
}

TEST_F(ArbiterTest, AWorkerThatIsStartedAgainGoesOnCounting) {
  std::uint64_t before = 0;
  {
    FakeWorker worker(Start("a", Level::kGuaranteed, 10));
    worker.Use(1);
    while ((before = arbiter_.Get("a").throttled_ns) == 0) std::this_thread::yield();
  }
  const FakeWorker again(Start("a", Level::kGuaranteed, 10));
  EXPECT_GE(arbiter_.Get("a").throttled_ns, before);
  arbiter_.Remove("a");
  EXPECT_EQ(arbiter_.Get("a").throttled_ns, 0u);
}

TEST_F(ArbiterTest, WhomTheKernelHoldsIsNotHeldHere) {
  const auto start = [&](const std::string& uid, Level level, std::uint32_t percent) {
    return arbiter_.Start(uid, 0, Sharing::kControlGroups, {.level = level, .compute_percent = percent})
        .value()
        .share_fd;
  };
  FakeWorker capped(start("capped", Level::kGuaranteed, 30)), bursts(start("bursts", Level::kBurst, 20));
  for (FakeWorker* const worker : {&capped, &bursts}) EXPECT_EQ(worker->share(), 1);
  EXPECT_EQ(arbiter_.Get("capped").share, 0.3);
  EXPECT_EQ(arbiter_.Get("bursts").share, 1);
  arbiter_.Change("capped", {.level = Level::kGuaranteed, .compute_percent = 40});
  EXPECT_EQ(capped.share(), 1);
  EXPECT_EQ(arbiter_.Get("capped").share, 0.4);
}

// A worker of a GPU that is used by turns.
class TurnWorker {
 public:
  explicit TurnWorker(const WorkerEnds& ends)
      : memory_(SharedMemory::Adopt(UniqueFd(dup(ends.share_fd))).value()), socket_(dup(ends.turn_fd)) {}
  void Want() {
    page().wants_turn = 1;
    Tell();
  }
  bool HasTurn() { return page().turns_given != page().turns_ended; }
  void AwaitTurn() {
    while (!HasTurn()) std::this_thread::yield();
  }
  void AwaitOthers(bool wait) {
    while ((page().others_wait != 0) != wait) std::this_thread::yield();
  }
  void EndTurn() {
    page().wants_turn = 0;
    page().turns_ended = page().turns_given.load();
    Tell();
  }
  wire::SharePage& page() { return *reinterpret_cast<wire::SharePage*>(memory_.bytes().data()); }

 private:
  void Tell() { ASSERT_EQ(send(socket_.get(), "", 1, 0), 1); }
  SharedMemory memory_;
  UniqueFd socket_;
};

TEST_F(ArbiterTest, TurnsAreGivenOneAtATimeInTheOrderInWhichTheyWereAskedFor) {
  const auto start = [&](const std::string& uid, std::uint32_t gpu) {
    return arbiter_.Start(uid, gpu, Sharing::kTurns, {.level = Level::kBurst}).value();
  };
  EXPECT_EQ(arbiter_.Start("measured", 0, Sharing::kMeasured, {}).value().turn_fd, -1);
  TurnWorker a(start("a", 0)), b(start("b", 0)), c(start("c", 0)), elsewhere(start("d", 1));
  EXPECT_EQ(a.page().by_turns, 1u);
  EXPECT_EQ(a.page().longest_turn_ms, 10'000u);
  b.Want();
  b.AwaitTurn();
  b.AwaitOthers(false);
  c.Want();
  b.AwaitOthers(true);
  a.Want();
  elsewhere.Want();
  elsewhere.AwaitTurn();
  EXPECT_FALSE(a.HasTurn());
  EXPECT_FALSE(c.HasTurn());
  b.EndTurn();
  c.AwaitTurn();
  b.Want();
  c.AwaitOthers(true);
  EXPECT_FALSE(a.HasTurn());
  c.EndTurn();
  a.AwaitTurn();
  EXPECT_FALSE(b.HasTurn());
  arbiter_.Remove("a");  // with its turn
  b.AwaitTurn();
  b.AwaitOthers(false);
  // A worker that has crashed, started again.
  c.Want();
  b.AwaitOthers(true);
  TurnWorker again(start("b", 0));
  c.AwaitTurn();
  EXPECT_FALSE(again.HasTurn());
  // One that has crashed in its turn, and is not started again soon.
  again.Want();
  c.AwaitOthers(true);
  arbiter_.Stopped("c");
  again.AwaitTurn();
  again.AwaitOthers(false);
}

// A worker whose programs move, or would like to move, so many bytes a second.
class FakeMover {
 public:
  explicit FakeMover(int fd) : memory_(SharedMemory::Adopt(UniqueFd(dup(fd))).value()) {}
  ~FakeMover() { Stop(); }
  std::uint64_t rate() { return page().network_bytes_per_s; }
  void Move(std::uint64_t bytes_per_s) {
    Stop();
    stop_ = false;
    thread_ = std::thread([this, bytes_per_s] {
      const SystemClock clock;
      double moved = 0;
      for (Instant then = clock.Now(); !stop_; std::this_thread::yield()) {
        const Instant now = clock.Now();
        const auto time_ns = static_cast<double>((now - then).count());
        then = now;
        const std::uint64_t its = rate() == 0 ? bytes_per_s : std::min(bytes_per_s, rate());
        moved += time_ns * 1e-9 * static_cast<double>(its);
        page().network_bytes = static_cast<std::uint64_t>(moved);
        if (its < bytes_per_s) page().network_throttled_ns += static_cast<std::uint64_t>(time_ns);
      }
    });
  }
  void Stop() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
  }
  template <typename F>
  void Await(F&& has) {
    while (!has(rate())) std::this_thread::yield();
  }

 private:
  wire::SharePage& page() { return *reinterpret_cast<wire::SharePage*>(memory_.bytes().data()); }
  SharedMemory memory_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

TEST(ArbiterNetwork, WhoBurstsHasWhatOthersLeave) {
  const SystemClock clock;
  Arbiter arbiter(1, 1'000'000, {}, &clock);
  FakeMover capped(arbiter
                       .Start("capped", 0, Sharing::kMeasured,
                              {.level = Level::kGuaranteed, .network_bytes_per_s = 300'000})
                       .value()
                       .share_fd);
  FakeMover bursts(
      arbiter.Start("bursts", 1, Sharing::kMeasured, {.level = Level::kBurst, .network_bytes_per_s = 200'000})
          .value()
          .share_fd);
  FakeMover nothing(
      arbiter.Start("nothing", 2, Sharing::kMeasured, {.level = Level::kBurst}).value().share_fd);
  EXPECT_EQ(capped.rate(), 300'000u);
  bursts.Await([](std::uint64_t rate) { return rate > 900'000; });
  nothing.Await([](std::uint64_t rate) { return rate > 900'000; });
  for (FakeMover* mover : {&capped, &bursts, &nothing}) mover->Move(2'000'000);
  bursts.Await([](std::uint64_t rate) { return rate > 650'000 && rate < 710'000; });
  nothing.Await([](std::uint64_t rate) { return rate < 20'000; });
  EXPECT_EQ(capped.rate(), 300'000u);
  arbiter.Change("capped", {.level = Level::kGuaranteed, .network_bytes_per_s = 500'000});
  EXPECT_EQ(capped.rate(), 500'000u);
  bursts.Await([](std::uint64_t rate) { return rate < 510'000; });
  capped.Stop();
  bursts.Stop();
  nothing.Await([](std::uint64_t rate) { return rate > 900'000; });
  EXPECT_EQ(arbiter.Get("capped").network_bytes_per_s, 500'000u);
  EXPECT_GT(arbiter.Get("capped").network_bytes, 0u);
  EXPECT_GT(arbiter.Get("capped").network_throttled_ns, 0u);
}

TEST(ArbiterNetwork, WhereItIsNotKnownOnlyThoseAreHeldThatMayHaveNoMore) {
  const SystemClock clock;
  Arbiter arbiter(1, 0, {}, &clock);
  FakeMover capped(arbiter
                       .Start("capped", 0, Sharing::kMeasured,
                              {.level = Level::kGuaranteed, .network_bytes_per_s = 300'000})
                       .value()
                       .share_fd);
  FakeMover bursts(
      arbiter.Start("bursts", 0, Sharing::kMeasured, {.level = Level::kBurst, .network_bytes_per_s = 200'000})
          .value()
          .share_fd);
  EXPECT_EQ(capped.rate(), 300'000u);
  EXPECT_EQ(bursts.rate(), 0u);
}

}  // namespace
}  // namespace tulle::node::arbiter
