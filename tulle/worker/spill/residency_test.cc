#include "tulle/worker/spill/residency.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "tulle/base/random.h"

namespace tulle::worker::spill {
namespace {

constexpr std::uint64_t kMiB = 1u << 20;

class FakePages final : public Pages {
 public:
  explicit FakePages(std::uint64_t size_bytes) : bytes_(size_bytes) {}
  void ReadPages(const Range& range, MutableByteView bytes) override {
    std::ranges::copy(PageBytes(range), bytes.begin());
  }
  void WritePages(const Range& range, ByteView bytes) override {
    std::ranges::copy(bytes, PageBytes(range).begin());
  }
  MutableByteView PageBytes(const Range& range) {
    return MutableByteView(bytes_).subspan(range.offset_bytes, range.size_bytes);
  }
  void DropPages(const Range& range) override {
    const MutableByteView bytes = PageBytes(range);
    std::memset(bytes.data(), 0, bytes.size());
  }

 private:
  ByteVector bytes_;
};

class ResidencyTest : public ::testing::Test {
 protected:
  static bool IsReadable(int fd) {
    pollfd entry{fd, POLLIN, 0};
    return poll(&entry, 1, 0) == 1;
  }
  std::unique_ptr<Residency> Enter(Pages* pages) {
    return std::make_unique<Residency>(&pool_, pages, &clock_);
  }

  SecureRandom keys_;
  FakeClock clock_;
  Pool pool_{4 * kMiB, 64 * kMiB, UniqueFd(), 0, keys_};
  Room& room_ = pool_.room;
  static constexpr wire::Handle kQueue{1, 1}, kOther{2, 1};
};

TEST_F(ResidencyTest, MemoryTakesRoomWhenItIsUsed) {
  FakePages pages(8 * kMiB);
  const auto session = Enter(&pages);
  const auto id = session->Add({0, 3 * kMiB});
  EXPECT_EQ(session->held_bytes(), 0u);
  const Residency::Id ids[] = {id, id, 77};
  EXPECT_EQ(*session->TryUse(ids, kQueue), Residency::Use::kNow);
  EXPECT_EQ(session->held_bytes(), 3 * kMiB);
  EXPECT_EQ(room_.held_bytes(), 3 * kMiB);
  EXPECT_FALSE(session->WantsQuestion().has_value());  // nobody needs it
  session->Remove(id);
  EXPECT_EQ(room_.held_bytes(), 0u);
  EXPECT_EQ(pool_.restored_bytes, 0u);
}

TEST_F(ResidencyTest, TheLongestUnusedMakesRoomOnceItsCommandHasEnded) {
  FakePages pages(16 * kMiB);
  const auto session = Enter(&pages);
  std::vector<Residency::Id> ids;
  for (std::uint64_t i = 0; i < 3; ++i) {
    ids.push_back(session->Add({i * 2 * kMiB, 2 * kMiB}));
    clock_.Advance(std::chrono::seconds(1));
    if (i == 2) break;
    ASSERT_EQ(*session->TryUse({&ids[i], 1}, i == 0 ? kQueue : kOther), Residency::Use::kNow);
    pages.PageBytes({i * 2 * kMiB, 1}).front() = static_cast<std::byte>(i + 1);
  }
  ASSERT_EQ(*session->TryUse({&ids[2], 1}, kQueue), Residency::Use::kLater);
  EXPECT_FALSE(*session->Give());
  // Both queues are to be asked; that of the second answers first.
  for (int i = 0; i < 2; ++i) {
    const auto queue = session->WantsQuestion();
    ASSERT_TRUE(queue.has_value());
    session->Asked(*queue, queue->slot);
  }
  EXPECT_FALSE(session->WantsQuestion().has_value());
  session->Answered(kOther.slot);
  EXPECT_TRUE(*session->Give());
  EXPECT_EQ(*session->TryUse({&ids[2], 1}, kQueue), Residency::Use::kNow);
  EXPECT_EQ(pages.PageBytes({2 * kMiB, 1}).front(), std::byte{0});
  // And it comes back, for which the first goes now, as that has ended.
  ASSERT_EQ(*session->TryUse({&ids[1], 1}, kQueue), Residency::Use::kLater);
  EXPECT_FALSE(*session->Give());
  session->Answered(kQueue.slot);
  EXPECT_TRUE(*session->Give());
  EXPECT_EQ(*session->TryUse({&ids[1], 1}, kQueue), Residency::Use::kNow);
  EXPECT_EQ(pages.PageBytes({2 * kMiB, 1}).front(), std::byte{2});
  EXPECT_EQ(pages.PageBytes({0, 1}).front(), std::byte{0});
  EXPECT_EQ(room_.held_bytes(), 4 * kMiB);
}

TEST_F(ResidencyTest, AnotherSessionsIdleMemoryGoesFirst) {
  FakePages pages(16 * kMiB), others(16 * kMiB);
  const auto idle = Enter(&others), busy = Enter(&pages);
  const Residency::Id theirs = idle->Add({0, 2 * kMiB});
  ASSERT_EQ(*idle->TryUse({&theirs, 1}, kQueue), Residency::Use::kNow);
  idle->Asked(kQueue, 1);
  idle->Answered(1);
  clock_.Advance(std::chrono::seconds(1));
  const Residency::Id first = busy->Add({0, 2 * kMiB}), second = busy->Add({2 * kMiB, 2 * kMiB});
  ASSERT_EQ(*busy->TryUse({&first, 1}, kQueue), Residency::Use::kNow);
  busy->Asked(kQueue, 1);
  busy->Answered(1);
  ASSERT_EQ(*busy->TryUse({&second, 1}, kQueue), Residency::Use::kLater);
  EXPECT_TRUE(*idle->Give());
  EXPECT_FALSE(*busy->Give());
  EXPECT_EQ(idle->held_bytes(), 0u);
  EXPECT_EQ(*busy->TryUse({&second, 1}, kQueue), Residency::Use::kNow);
}

// Another waits for all, also for what is in use until this session has got a little more.
TEST_F(ResidencyTest, WhoMayKeepOthersWaitingGoesBeforeThem) {
  FakePages pages(16 * kMiB), others(16 * kMiB);
  const auto stuck = Enter(&pages), large = Enter(&others);
  const Residency::Id used = stuck->Add({0, kMiB}), next = stuck->Add({kMiB, 2 * kMiB});
  ASSERT_EQ(*stuck->TryUse({&used, 1}, kQueue), Residency::Use::kNow);
  const Residency::Id all = large->Add({0, 4 * kMiB});
  ASSERT_EQ(*large->TryUse({&all, 1}, kQueue), Residency::Use::kAgain);
  ASSERT_EQ(*large->TryUse({&all, 1}, kQueue), Residency::Use::kLater);
  EXPECT_EQ(*stuck->TryUse({&next, 1}, kOther, false), Residency::Use::kLater);
  EXPECT_FALSE(*large->Give()) << "it is the first";
  large->Awake();
  EXPECT_EQ(*stuck->TryUse({&next, 1}, kOther, true), Residency::Use::kLater);
  EXPECT_TRUE(IsReadable(large->room_fd()));
  EXPECT_TRUE(*large->Give());
  EXPECT_EQ(*stuck->TryUse({&next, 1}, kOther, true), Residency::Use::kNow);
  for (const auto queue : {kQueue, kOther}) {
    stuck->Asked(queue, queue.slot);
    stuck->Answered(queue.slot);
  }
  ASSERT_EQ(*large->TryUse({&all, 1}, kQueue), Residency::Use::kLater);
  EXPECT_TRUE(*stuck->Give());
  EXPECT_EQ(*large->TryUse({&all, 1}, kQueue), Residency::Use::kNow);
}

TEST_F(ResidencyTest, MoreThanThereIsNeverFits) {
  FakePages pages(16 * kMiB);
  const auto session = Enter(&pages);
  const Residency::Id large = session->Add({0, 3 * kMiB}), more = session->Add({4 * kMiB, 2 * kMiB});
  const Residency::Id both[] = {large, more};
  EXPECT_EQ(*session->TryUse(both, kQueue), Residency::Use::kNever);
  EXPECT_EQ(*session->TryUse({&large, 1}, kQueue), Residency::Use::kNow);
  EXPECT_EQ(*session->TryUse({&more, 1}, kQueue), Residency::Use::kAgain);
  EXPECT_EQ(*session->TryUse({&more, 1}, kQueue), Residency::Use::kLater);
  session->Remove(large);
  EXPECT_EQ(*session->TryUse({&more, 1}, kQueue), Residency::Use::kNow);
}

TEST_F(ResidencyTest, WhatIsHeldBeyondAnotherLimitIsGivenUp) {
  FakePages pages(16 * kMiB);
  const auto session = Enter(&pages);
  const Residency::Id id = session->Add({0, 4 * kMiB});
  ASSERT_EQ(*session->TryUse({&id, 1}, kQueue), Residency::Use::kNow);
  room_.SetLimit(kMiB);
  EXPECT_FALSE(*session->Give());
  ASSERT_EQ(session->WantsQuestion(), kQueue);
  session->Asked(kQueue, 5);
  session->Answered(5);
  EXPECT_TRUE(*session->Give());
  EXPECT_EQ(session->held_bytes(), kMiB);
}

TEST_F(ResidencyTest, AnswersInAnotherOrderEndOnlyWhatTheyAreFor) {
  FakePages pages(16 * kMiB);
  const auto session = Enter(&pages);
  const Residency::Id first = session->Add({0, 2 * kMiB}), second = session->Add({2 * kMiB, 2 * kMiB});
  ASSERT_EQ(*session->TryUse({&first, 1}, kQueue), Residency::Use::kNow);
  session->Asked(kQueue, 1);
  ASSERT_EQ(*session->TryUse({&second, 1}, kQueue), Residency::Use::kNow);
  session->Asked(kQueue, 2);
  session->Answered(2);
  room_.SetLimit(0);
  EXPECT_FALSE(*session->Give());
  session->Answered(1);
  EXPECT_TRUE(*session->Give());
  EXPECT_EQ(session->held_bytes(), 0u);
}

// An earlier answer tells nothing of what began after its question, however much that is.
TEST_F(ResidencyTest, AnAnswerEndsNothingThatBeganAfterItsQuestion) {
  FakePages pages(16 * kMiB);
  const auto session = Enter(&pages);
  Residency::Id ids[3];
  for (std::uint64_t i = 0; i < 3; ++i) {
    ids[i] = session->Add({i * kMiB, kMiB});
    ASSERT_EQ(*session->TryUse({&ids[i], 1}, kQueue), Residency::Use::kNow);
    if (i != 1) session->Asked(kQueue, i);
  }
  session->Answered(0);
  room_.SetLimit(0);
  while (*session->Give()) {
  }
  EXPECT_EQ(session->held_bytes(), 2 * kMiB);
  session->Answered(2);
  while (*session->Give()) {
  }
  EXPECT_EQ(session->held_bytes(), 0u);
}

TEST_F(ResidencyTest, WhoIsNextIsWokenWhenTheFirstGoes) {
  FakePages pages(32 * kMiB), others(32 * kMiB);
  room_.SetLimit(32 * kMiB);
  auto first = Enter(&pages);
  const auto next = Enter(&others);
  const Residency::Id large = first->Add({0, 20 * kMiB}), small = next->Add({0, kMiB});
  ASSERT_EQ(*first->TryUse({&large, 1}, kQueue), Residency::Use::kAgain);
  ASSERT_EQ(*next->TryUse({&small, 1}, kQueue), Residency::Use::kLater);
  EXPECT_FALSE(IsReadable(next->room_fd()));
  first.reset();
  EXPECT_TRUE(IsReadable(next->room_fd()));
  EXPECT_EQ(*next->TryUse({&small, 1}, kQueue), Residency::Use::kNow);
}

// One that has all that it uses, and uses it without end, does not keep who lacks some waiting for ever.
TEST_F(ResidencyTest, WhoLacksNothingWaitsInLineToo) {
  FakePages pages(16 * kMiB), others(16 * kMiB);
  const auto busy = Enter(&pages), waits = Enter(&others);
  const Residency::Id mine = busy->Add({0, 3 * kMiB}), theirs = waits->Add({0, 2 * kMiB});
  const auto use_mine = [&] { return *busy->TryUse({&mine, 1}, kQueue); };
  ASSERT_EQ(use_mine(), Residency::Use::kNow);
  ASSERT_EQ(*waits->TryUse({&theirs, 1}, kQueue), Residency::Use::kAgain);
  ASSERT_EQ(*waits->TryUse({&theirs, 1}, kQueue), Residency::Use::kLater);
  EXPECT_EQ(use_mine(), Residency::Use::kLater);
  clock_.Advance(std::chrono::seconds(1));
  EXPECT_EQ(pool_.WaitedNs(clock_.Now()), 2'000'000'000u) << "both do still";
  busy->Asked(*busy->WantsQuestion(), 1);
  busy->Answered(1);
  EXPECT_TRUE(*busy->Give());
  EXPECT_EQ(*waits->TryUse({&theirs, 1}, kQueue), Residency::Use::kNow);
  EXPECT_FALSE(waits->WaitsForItself());
  waits->Asked(kQueue, 1);
  waits->Answered(1);
  EXPECT_EQ(use_mine(), Residency::Use::kLater);
  EXPECT_TRUE(*waits->Give());
  EXPECT_EQ(use_mine(), Residency::Use::kNow);
}

TEST_F(ResidencyTest, UsesInManyQueuesAreNotRememberedWithoutEnd) {
  FakePages pages(16 * kMiB);
  const auto session = Enter(&pages);
  const Residency::Id id = session->Add({0, 4096});
  std::uint32_t queue = 1;
  while (*session->TryUse({&id, 1}, {queue, 1}) == Residency::Use::kNow)
    ASSERT_LE(++queue, Residency::kMostUses + 1);
  for (std::uint64_t sequence = 0; const auto asked = session->WantsQuestion(); ++sequence) {
    session->Asked(*asked, sequence);
    session->Answered(sequence);
  }
  EXPECT_EQ(*session->TryUse({&id, 1}, {queue, 1}), Residency::Use::kNow);
}

TEST_F(ResidencyTest, WhatCannotBeSavedStays) {
  Pool none(4 * kMiB, 0, UniqueFd(), 0, keys_);
  FakePages pages(16 * kMiB);
  Residency session(&none, &pages, &clock_);
  const Residency::Id first = session.Add({0, 4 * kMiB}), second = session.Add({4 * kMiB, kMiB});
  ASSERT_EQ(*session.TryUse({&first, 1}, kQueue), Residency::Use::kNow);
  std::ranges::fill(pages.PageBytes({0, 4 * kMiB}), std::byte{3});
  session.Asked(kQueue, 1);
  session.Answered(1);
  ASSERT_EQ(*session.TryUse({&second, 1}, kQueue), Residency::Use::kLater);
  EXPECT_FALSE(session.Give().ok());
  EXPECT_EQ(pages.PageBytes({4 * kMiB - 1, 1}).front(), std::byte{3});
  EXPECT_EQ(session.held_bytes(), 4 * kMiB);
}

// Sessions with several queues each, whose commands begin and end in any order and write to what they use:
// whatever happens, a command finds what the last one left, no more is on the device than may be, and all of
// them come to their end.
TEST_F(ResidencyTest, AnyInterleavingIsRight) {
  constexpr int kSessions = 3, kQueues = 3, kPieces = 6, kCommands = 60;
  constexpr std::uint64_t kPlaceBytes = 3 * kMiB;
#ifdef __SANITIZE_THREAD__
  constexpr std::uint64_t kSeeds = 1;  // where it takes thirty times as long
#else
  constexpr std::uint64_t kSeeds = 5;
#endif
  for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    SeededRandom random(seed);
    struct Command {
      std::uint32_t queue = 0;
      std::vector<int> pieces;
      bool begun = false;
    };
    struct Session {
      std::unique_ptr<FakePages> pages = std::make_unique<FakePages>(kPieces * kPlaceBytes);
      std::unique_ptr<Residency> memory;
      std::vector<Residency::Id> ids;
      std::vector<std::uint64_t> sizes;
      std::vector<std::uint8_t> content;  // of each piece, in all of its bytes
      std::deque<Command> running;        // begun, not ended
      std::vector<std::pair<std::uint64_t, std::uint32_t>> questions;
      std::vector<std::size_t> behind;  // of each question: commands of its queue before it
      std::optional<Command> next;
      int done = 0;
    };
    FakeClock clock;
    Pool pool(8 * kMiB, 2 * kMiB, UniqueFd(memfd_create("spill", MFD_CLOEXEC)), 256 * kMiB, keys_);
    Room& room = pool.room;
    std::vector<Session> sessions(kSessions);
    for (Session& session : sessions) {
      session.memory = std::make_unique<Residency>(&pool, session.pages.get(), &clock);
      for (int i = 0; i < kPieces; ++i) {
        const std::uint64_t size = 4096 * (1 + random.Below(kPlaceBytes / 4096));
        session.sizes.push_back(size);
        session.ids.push_back(session.memory->Add({i * kPlaceBytes, size}));
        session.content.push_back(0);
      }
    }
    std::uint64_t sequence = 0;
    const auto all_are = [](ByteView bytes, std::uint8_t value) {
      return bytes.front() == std::byte{value} &&
             std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0;
    };
    // The first that runs of a queue ends: writes, and ends whatever waits for it.
    const auto end_one = [&](Session& session, std::uint32_t queue) {
      const auto found = std::ranges::find(session.running, queue, &Command::queue);
      if (found == session.running.end()) return;
      for (const int piece : found->pieces) {
        const auto bytes = session.pages->PageBytes({piece * kPlaceBytes, session.sizes[piece]});
        ASSERT_TRUE(all_are(bytes, session.content[piece]));
        session.content[piece] = static_cast<std::uint8_t>(random.Below(4));
        std::memset(bytes.data(), session.content[piece], bytes.size());
      }
      session.running.erase(found);
    };
    std::uint64_t steps = 0;
    const auto unfinished = [&] {
      return std::ranges::any_of(sessions, [](const Session& s) { return s.done < kCommands; });
    };
    while (unfinished()) {
      ASSERT_LT(++steps, 200'000u) << "they do not come to an end";
      ASSERT_LE(room.held_bytes(), room.limit_bytes());
      clock.Advance(std::chrono::microseconds(1 + random.Below(100)));
      Session& session = sessions[random.Below(kSessions)];
      Residency& memory = *session.memory;
      switch (random.Below(5)) {
        case 0: {
          const auto queue = static_cast<std::uint32_t>(1 + random.Below(kQueues));
          end_one(session, queue);
          break;
        }
        case 1: {  // questions of queues with nothing running are answered
          for (std::size_t i = 0; i < session.questions.size(); ++i) {
            const auto [number, queue] = session.questions[i];
            if (std::ranges::find(session.running, queue, &Command::queue) != session.running.end()) continue;
            session.questions.erase(session.questions.begin() + static_cast<std::ptrdiff_t>(i));
            memory.Answered(number);
            break;
          }
          break;
        }
        case 2: {
          const auto gave = memory.Give();
          ASSERT_TRUE(gave.ok());
          while (const auto queue = memory.WantsQuestion()) {
            memory.Asked(*queue, ++sequence);
            session.questions.emplace_back(sequence, queue->slot);
          }
          break;
        }
        case 3: {  // one piece is replaced by another
          const std::size_t piece = random.Below(kPieces);
          const auto uses = [&](const Command& command) {
            return std::ranges::find(command.pieces, static_cast<int>(piece)) != command.pieces.end();
          };
          if (random.Below(8) != 0 || std::ranges::any_of(session.running, uses)) break;
          memory.Remove(session.ids[piece]);
          session.pages->DropPages({piece * kPlaceBytes, session.sizes[piece]});
          session.ids[piece] = memory.Add({piece * kPlaceBytes, session.sizes[piece]});
          session.content[piece] = 0;
          break;
        }
        default: {
          if (session.done == kCommands) break;
          if (!session.next.has_value()) {
            session.next.emplace();
            session.next->queue = static_cast<std::uint32_t>(1 + random.Below(kQueues));
            std::uint64_t all_bytes = 0;
            for (std::uint64_t i = random.Below(3) + 1; i-- != 0;) {
              const int piece = static_cast<int>(random.Below(kPieces));
              if (std::ranges::find(session.next->pieces, piece) != session.next->pieces.end()) continue;
              all_bytes += session.sizes[piece];
              if (all_bytes <= room.limit_bytes()) session.next->pieces.push_back(piece);
            }
          }
          std::vector<Residency::Id> ids;
          for (const int piece : session.next->pieces) ids.push_back(session.ids[piece]);
          const auto use = memory.TryUse(ids, {session.next->queue, 1});
          ASSERT_TRUE(use.ok());
          ASSERT_NE(*use, Residency::Use::kNever);
          if (*use != Residency::Use::kNow) break;
          for (const int piece : session.next->pieces) {
            const auto bytes = session.pages->PageBytes({piece * kPlaceBytes, session.sizes[piece]});
            ASSERT_TRUE(all_are(bytes, session.content[piece]));
          }
          session.running.push_back(*std::exchange(session.next, std::nullopt));
          ++session.done;
          break;
        }
      }
    }
    EXPECT_GT(pool.restored_bytes, 0u);
    EXPECT_GT(pool.WaitedNs(clock.Now()), 0u);
    for (Session& session : sessions) session.memory.reset();
    EXPECT_EQ(room.held_bytes(), 0u);
    EXPECT_EQ(pool.store.memory_bytes() + pool.store.file_bytes(), 0u);
  }
}

}  // namespace
}  // namespace tulle::worker::spill
