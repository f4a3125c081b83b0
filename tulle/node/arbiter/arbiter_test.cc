#include "tulle/node/arbiter/arbiter.h"

#include <gtest/gtest.h>

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
    return arbiter_.Start(uid, gpu, TermsOf(level, percent)).value();
  }
  SystemClock clock_;
  Arbiter arbiter_{1, &clock_};
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
  arbiter_.Change("a", TermsOf(Level::kGuaranteed, 60));
  EXPECT_EQ(worker.share(), 0.6);
  worker.Use(1);
  elsewhere.Use(1);
  elsewhere.Await([](double share) { return share > 0.99; });  // on a GPU of its own
  arbiter_.Change("a", TermsOf(Level::kGuaranteed, 5));
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

}  // namespace
}  // namespace tulle::node::arbiter
