// What must hold for every message of every table, derived from the rows: none is named here, so a new
// message is tested by existing.
#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>
#include <string>

#include "tests/wire/random_message.h"
#include "tulle/wire/command_table.h"
#include "tulle/wire/handle_table.h"
#include "tulle/wire/schema/exec.h"
#include "tulle/wire/schema/node.h"

namespace tulle::wire {
namespace {

using testing::Defect;
using testing::MessageMaker;

std::uint64_t Seed() {
  static const std::uint64_t seed = [] {
    const char* text = std::getenv("TULLE_TEST_SEED");
    const std::uint64_t value = text != nullptr ? std::strtoull(text, nullptr, 0) : SecureRandom().Next();
    std::printf("TULLE_TEST_SEED=%llu\n", static_cast<unsigned long long>(value));
    return value;
  }();
  return seed;
}

template <Message M>
ByteVector Encoded(const M& message) {
  ByteVector body(EncodedSize(message));
  EXPECT_EQ(Encode(message, body), body.size());
  return body;
}

template <Message M>
WireResult Decoded(ByteView body, std::uint64_t payload_bytes, M* message, Arena& arena) {
  arena.Reset();
  return Decode(body, payload_bytes, arena, message);
}

// Calls f.template operator()<M>() for each command, reply and notice of each table.
template <typename F>
void ForEachMessage(F&& f) {
  const auto visit = [&](const auto& row) {
    using R = std::remove_cvref_t<decltype(row)>;
    SCOPED_TRACE(std::string(R::Command::kMessageName));
    f.template operator()<typename R::Command>();
    if (row.mode != Mode::kNotice) f.template operator()<typename R::Reply>();
  };
  ForEachRow(kCommands, visit);
  ForEachRow(exec::kExecCommands, visit);
  ForEachRow(node::kNodeCommands, visit);
}

TEST(EveryMessage, SurvivesTheRoundTrip) {
  SeededRandom random(Seed());
  ForEachMessage([&]<typename M>() {
    MessageMaker maker(random);
    Arena arena;
    for (int i = 0; i < 50; ++i) {
      const M message = maker.Make<M>();
      const ByteVector body = Encoded(message);
      M decoded{};
      ASSERT_EQ(Decoded(body, AnnouncedPayload(message), &decoded, arena), WireResult::kOk);
      EXPECT_EQ(Encoded(decoded), body);
    }
  });
}

TEST(EveryMessage, IsRefusedWhenCutAtAnyByte) {
  SeededRandom random(Seed());
  ForEachMessage([&]<typename M>() {
    MessageMaker maker(random);
    Arena arena;
    const M message = maker.Make<M>();
    ByteVector body = Encoded(message);
    M decoded{};
    for (std::size_t size = 0; size < body.size(); ++size) {
      // A copy of exactly this size, so that AddressSanitizer sees a read past it.
      const ByteVector cut(body.begin(), body.begin() + static_cast<std::ptrdiff_t>(size));
      ASSERT_NE(Decoded(cut, AnnouncedPayload(message), &decoded, arena), WireResult::kOk)
          << "cut at " << size;
    }
    body.push_back(std::byte{0});
    EXPECT_EQ(Decoded(body, AnnouncedPayload(message), &decoded, arena), WireResult::kTrailing);
  });
}

// For each place of each message where `defect` can be planted, decoding says `expected`.
void ExpectEachDefect(Defect defect, WireResult expected) {
  SeededRandom random(Seed());
  std::size_t total = 0;
  ForEachMessage([&]<typename M>() {
    MessageMaker maker(random);
    Arena arena;
    // Nested lists are often empty, so a place may need a few tries to exist; a place that no try reaches
    // in a row of 20 is behind the last one.
    int missed = 0;
    for (std::size_t place = 0; missed < 20;) {
      const M message = maker.Make<M>(defect, place);
      if (!maker.planted()) {
        ++missed;
        continue;
      }
      missed = 0;
      M decoded{};
      const ByteVector body = Encoded(message);
      EXPECT_EQ(Decoded(body, AnnouncedPayload(message), &decoded, arena), expected) << "place " << place;
      ++place;
      ++total;
    }
  });
  EXPECT_GT(total, 0u);
}

TEST(EveryMessage, IsRefusedOverEachLimit) { ExpectEachDefect(Defect::kOverLimit, WireResult::kLimit); }
TEST(EveryMessage, IsRefusedForEachUnknownEnumerator) {
  ExpectEachDefect(Defect::kBadEnumerator, WireResult::kBadEnum);
}
TEST(EveryMessage, IsRefusedForEachMissingObject) {
  ExpectEachDefect(Defect::kNullHandle, WireResult::kBadHandle);
}

TEST(EveryMessage, NamesExactlyThePayloadThatTheFrameHas) {
  SeededRandom random(Seed());
  ForEachMessage([&]<typename M>() {
    MessageMaker maker(random);
    Arena arena;
    const M message = maker.Make<M>();
    M decoded{};
    EXPECT_EQ(Decoded(Encoded(message), AnnouncedPayload(message) + 1, &decoded, arena),
              WireResult::kBadPayload);
  });
}

// Bytes changed at random either are refused or mean what they say: encoding what was decoded gives them
// back.
TEST(EveryMessage, IsRefusedOrCanonicalWhenBytesChange) {
  SeededRandom random(Seed());
  ForEachMessage([&]<typename M>() {
    MessageMaker maker(random);
    Arena arena;
    for (int i = 0; i < 200; ++i) {
      const M message = maker.Make<M>();
      ByteVector body = Encoded(message);
      if (body.empty()) return;
      for (std::uint64_t flips = 1 + random.Below(3); flips > 0; --flips) {
        body[random.Below(body.size())] = static_cast<std::byte>(random.Below(256));
      }
      M decoded{};
      if (Decoded(body, AnnouncedPayload(message), &decoded, arena) == WireResult::kOk) {
        EXPECT_EQ(Encoded(decoded), body);
      }
    }
  });
}

// Calls f(kind, use, handle&) for each handle of a message, those in lists left out (they are const views).
template <typename M, typename F>
void ForEachHandle(M& message, F&& f) {
  M::ForEachField(message, [&](std::string_view, auto& field) {
    using T = std::remove_cvref_t<decltype(field)>;
    if constexpr (internal::IsHandle<T>::value) {
      f(T::kKind, T::kUse, field.handle);
    } else if constexpr (std::same_as<T, Drop>) {
      f(field.kind, Use::kRef, field.handle);
    }
  });
}

template <typename M>
void Detach(M& message) {
  M::ForEachField(message, [&](std::string_view, auto& field) {
    using T = std::remove_cvref_t<decltype(field)>;
    if constexpr (internal::IsList<T>::value) field.items = {};
  });
}

TEST(EveryMessage, ReachesItsHandlerOnlyWithLiveHandlesOfTheRightKind) {
  SeededRandom random(Seed());
  std::size_t handles = 0;
  ForEachMessage([&]<typename M>() {
    MessageMaker maker(random);
    M good = maker.Make<M>();
    Detach(good);
    // Every handle gets its own small slot and generation 5, so that there is an older and a newer one.
    U32 next = 1;
    ForEachHandle(good, [&](ObjectKind, Use, Handle& handle) { handle = {next++, 5}; });
    const auto table_for = [&](const M& message) {
      HandleTable table;
      M copy = message;
      ForEachHandle(copy, [&](ObjectKind kind, Use use, Handle& handle) {
        if (use == Use::kRef || use == Use::kOptRef) table.Insert(kind, handle);
      });
      return table;
    };
    Checked<M> checked;
    HandleTable table = table_for(good);
    ASSERT_EQ(Checked<M>::Make(good, table, &checked), WireResult::kOk);

    // Each handle in turn: of another kind, stale, from the future, never used.
    for (U32 victim = 1; victim < next; ++victim) {
      ++handles;
      const auto expect = [&](const std::function<void(HandleTable&, ObjectKind, Use, Handle&)>& spoil,
                              WireResult ref_result, WireResult new_result) {
        M message = good;
        HandleTable spoiled = table_for(good);
        Use victim_use = Use::kRef;
        U32 index = 1;
        ForEachHandle(message, [&](ObjectKind kind, Use use, Handle& handle) {
          if (index++ != victim) return;
          victim_use = use;
          spoil(spoiled, kind, use, handle);
        });
        const bool is_new = victim_use == Use::kNew || victim_use == Use::kOptNew;
        const std::size_t before = spoiled.live_count();
        EXPECT_EQ(Checked<M>::Make(message, spoiled, &checked), is_new ? new_result : ref_result)
            << "handle " << victim;
        if ((is_new ? new_result : ref_result) != WireResult::kOk) {
          EXPECT_EQ(spoiled.live_count(), before) << "a refused message changed the table";
        }
      };
      const auto other_kind = [](ObjectKind kind) {
        return kind == ObjectKind::kEvent ? ObjectKind::kContext : ObjectKind::kEvent;
      };
      expect(
          [&](HandleTable& t, ObjectKind kind, Use use, Handle& h) {
            if (use == Use::kRef || use == Use::kOptRef) t.Erase(h);
            h.generation = 6;
            t.Insert(other_kind(kind), h);
          },
          WireResult::kWrongKind, WireResult::kStale);
      expect(
          [&](HandleTable& t, ObjectKind kind, Use use, Handle& h) {
            if (use == Use::kRef || use == Use::kOptRef) t.Erase(h);
            t.Insert(kind, {h.slot, 6});
          },
          WireResult::kStale, WireResult::kStale);
      expect(
          [&](HandleTable& t, ObjectKind kind, Use use, Handle& h) {
            if (use == Use::kNew || use == Use::kOptNew) t.Insert(kind, h);
            t.Erase(h);
          },
          WireResult::kStale, WireResult::kStale);
      expect([&](HandleTable&, ObjectKind, Use, Handle& h) { h.slot = 1000; }, WireResult::kBadHandle,
             WireResult::kOk);
    }
  });
  EXPECT_GT(handles, 30u);
}

TEST(HandleTable, WaitListsAreCheckedItemByItem) {
  HandleTable table;
  table.Insert(ObjectKind::kQueue, {1, 1});
  table.Insert(ObjectKind::kEvent, {2, 1});
  std::vector<Ref<ObjectKind::kEvent>> waits = {{{2, 1}}, {{2, 1}}};
  opencl::EnqueueSync message;
  message.queue = {{1, 1}};
  message.waits.items = waits;
  Checked<opencl::EnqueueSync> checked;
  EXPECT_EQ(Checked<opencl::EnqueueSync>::Make(message, table, &checked), WireResult::kOk);
  waits[1].handle.generation = 2;
  EXPECT_EQ(Checked<opencl::EnqueueSync>::Make(message, table, &checked), WireResult::kStale);
  waits[1].handle = {1, 1};
  EXPECT_EQ(Checked<opencl::EnqueueSync>::Make(message, table, &checked), WireResult::kWrongKind);
}

}  // namespace
}  // namespace tulle::wire
