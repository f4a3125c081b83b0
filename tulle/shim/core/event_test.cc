#include "tulle/shim/core/event.h"

#include <gtest/gtest.h>

#include <condition_variable>
#include <set>
#include <thread>
#include <vector>

namespace tulle::shim {
namespace {

class EventPoolTest : public testing::Test {
 protected:
  // Notes who dies, and gives the slot back at once.
  static void Retire(void* self, wire::Handle handle) {
    auto* test = static_cast<EventPoolTest*>(self);
    test->retired_.fetch_add(1);
    test->pool_.Recycle(handle);
  }
  Ref<Event> Create() { return Ref<Event>::Adopt(pool_.Create(nullptr, owner_, 7)); }

  HandleSpace handles_;
  std::atomic<int> retired_{0};
  std::atomic<std::uint32_t> pending_{0};
  EventOwner owner_{nullptr, nullptr, &pending_};
  EventPool pool_{handles_, &Retire, this};
  CallbackThread callbacks_;
};

TEST_F(EventPoolTest, IsPendingUntilAllPartsArrived) {
  Ref<Event> event = Create();
  event->ExpectPart();
  EXPECT_EQ(event->status(), Event::kPending);
  EXPECT_EQ(pending_, 1u);
  const EventTimes times{1, 2, 3, 4};
  event->Arrive(0, &times);
  EXPECT_FALSE(event->final());
  event->Arrive(0);
  EXPECT_EQ(event->status(), 0);
  EXPECT_EQ(event->times().ended_ns, 4u);
  EXPECT_EQ(pending_, 0u);
  EXPECT_FALSE(event->Finalize(-5));
  EXPECT_EQ(event->status(), 0);
}

TEST_F(EventPoolTest, TheFirstErrorIsTheEvents) {
  Ref<Event> event = Create();
  event->ExpectPart();
  event->Arrive(-5);
  event->Arrive(-9);
  EXPECT_EQ(event->status(), -5);
}

TEST_F(EventPoolTest, SlotsAreUsedAgainWithNewGenerations) {
  Ref<Event> event = Create();
  const wire::Handle first = event->handle();
  EXPECT_NE(first.generation, 0u);
  EXPECT_TRUE(pool_.Find(first));
  event = {};
  EXPECT_EQ(retired_, 1);
  EXPECT_EQ(pending_, 0u);
  EXPECT_FALSE(pool_.Find(first));
  event = Create();
  EXPECT_EQ(event->handle().slot, first.slot);
  EXPECT_GT(event->handle().generation, first.generation);
  EXPECT_FALSE(pool_.Find(first));  // a late notice of the event before
  EXPECT_FALSE(pool_.Find({wire::kMaxObjects + 5, 1}));
  EXPECT_FALSE(pool_.Find({}));
}

TEST_F(EventPoolTest, NamesNeverMeet) {
  std::set<std::uint32_t> slots;
  std::vector<Ref<Event>> events;
  for (int i = 0; i < 1000; ++i) {
    events.push_back(Create());
    EXPECT_TRUE(slots.insert(events.back()->handle().slot).second);
    EXPECT_TRUE(slots.insert(handles_.New().slot).second);
  }
  EXPECT_FALSE(slots.contains(0));
}

TEST_F(EventPoolTest, ObserversRunInOrderOnTheirThread) {
  ASSERT_TRUE(callbacks_.Start().ok());
  Ref<Event> event = Create();
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<int> order;
  const auto observe = [&](int number) {
    event->Observe(callbacks_, MakeTask([&, number] {
                     const std::lock_guard lock(mutex);
                     EXPECT_NE(std::this_thread::get_id(), std::thread::id());
                     order.push_back(number);
                     changed.notify_all();
                   }));
  };
  observe(1);
  observe(2);
  event->Arrive(0);
  observe(3);  // final already
  std::unique_lock lock(mutex);
  EXPECT_TRUE(changed.wait_for(lock, std::chrono::seconds(10), [&] { return order.size() == 3; }));
  EXPECT_EQ(order, (std::vector<int>{1, 2, 3}));
}

// Threads make and drop events while another finds them by name, as the reader of a connection does.
TEST_F(EventPoolTest, ThreadsCreateFindAndDrop) {
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> named{0};
  std::thread reader([&] {
    while (!stop) {
      const std::uint64_t name = named.load();
      const wire::Handle handle{static_cast<std::uint32_t>(name), static_cast<std::uint32_t>(name >> 32)};
      if (const Ref<Event> event = pool_.Find(handle)) {
        EXPECT_EQ(event->handle(), handle);
        event->Arrive(0);
      }
      pool_.ForEach([](Event& event) { EXPECT_FALSE(event.handle().null()); });
    }
  });
  std::vector<std::thread> writers;
  for (int t = 0; t < 3; ++t) {
    writers.emplace_back([&] {
      for (int i = 0; i < 3000; ++i) {
        const Ref<Event> event = Create();
        named = (std::uint64_t{event->handle().generation} << 32) | event->handle().slot;
      }
    });
  }
  for (std::thread& writer : writers) writer.join();
  stop = true;
  reader.join();
  EXPECT_EQ(retired_, 9000);
  EXPECT_EQ(pending_, 0u);
}

}  // namespace
}  // namespace tulle::shim
