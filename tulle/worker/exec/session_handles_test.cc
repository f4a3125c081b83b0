// Handles and bodies that are wrong: each ends the session, and nothing of it reaches the executor.
#include <gtest/gtest.h>

#include <concepts>
#include <memory>
#include <type_traits>

#include "tulle/worker/exec/test_session.h"

namespace tulle::worker::exec {
namespace {

// Every reference of the message names `handle`, every new object is slot 50.
template <wire::Message M>
M Naming(Handle handle, bool* has_reference) {
  M message;
  M::ForEachField(message, [&](std::string_view, auto& field) {
    using T = std::remove_cvref_t<decltype(field)>;
    if constexpr (wire::internal::IsHandle<T>::value) {
      if constexpr (T::kUse == wire::Use::kRef || T::kUse == wire::Use::kOptRef) {
        field.handle = handle;
        *has_reference = true;
      } else {
        field.handle = {50, 1};
      }
    } else if constexpr (std::same_as<T, wire::Drop>) {
      field = {ObjectKind::kKernel, handle};
      *has_reference = true;
    }
  });
  return message;
}

class BadHandles : public ::testing::TestWithParam<Handle> {};

TEST_P(BadHandles, EndTheSessionAtEveryCommandAndReachNothing) {
  int commands = 0;
  wire::ForEachRow(wire::kCommands, [&](const auto& row) {
    using M = typename std::remove_cvref_t<decltype(row)>::Command;
    if (row.place == wire::Place::kSession || row.mode == wire::Mode::kNotice) return;
    bool has_reference = false;
    const M message = Naming<M>(GetParam(), &has_reference);
    if (!has_reference) return;
    ++commands;
    SCOPED_TRACE(M::kMessageName);
    ScriptedClient client;
    PlayedExecutor::State played;
    quota::MemoryQuota quota(kMiB);
    PlayedBuilder builder;
    build::Slots slots(1);
    SystemClock clock;
    EndRequest end;
    SessionCounters counters;
    // Slot 1: an event that lives, slot 2: one that lived. (No message takes a single event and is harmless.)
    client.Send(opencl::CreateContext{{Handle{9, 1}}});
    client.Send(opencl::CreateUserEvent{{Handle{9, 1}}, {Handle{1, 1}}});
    client.Send(opencl::CreateUserEvent{{Handle{9, 1}}, {Handle{2, 1}}});
    client.Send(wire::DestroyObject{{ObjectKind::kEvent, Handle{2, 1}}});
    client.Send(message);
    Session session(&client, std::make_unique<PlayedExecutor>(&played), {&quota, &builder, &slots, &clock},
                    {}, &end, &counters);
    const bool of_an_event =
        std::same_as<M, opencl::SetUserEventStatus> || std::same_as<M, wire::cuda::EndHostCall>;
    if (of_an_event && GetParam() == Handle{1, 1}) return;  // that one is right
    EXPECT_EQ(session.Run().reason, EndReason::kProtocol);
    EXPECT_EQ(played.seen.size(), 4u);
    EXPECT_TRUE(client.sent().empty());
  });
  EXPECT_GE(commands, 20);
}

INSTANTIATE_TEST_SUITE_P(Session, BadHandles,
                         ::testing::Values(Handle{1, 1},   // another kind
                                           Handle{2, 1},   // dead
                                           Handle{1, 2},   // not born yet
                                           Handle{40, 1},  // never used
                                           Handle{wire::kMaxObjects, 1}, Handle{wire::kMaxObjects + 1, 1}));

TEST_F(SessionTest, ATakenHandleCannotBeCreatedAgain) {
  CreateContextAndQueue();
  client_.Send(opencl::CreateQueue{{kContext}, {kQueue}, {}});
  EXPECT_EQ(RunPlayed().reason, EndReason::kProtocol);
}

TEST_F(SessionTest, BrokenBodiesAndPayloadsEndTheSession) {
  CreateContextAndQueue();
  const ByteVector data(8);
  // Announces 4, brings 8.
  client_.Send(opencl::EnqueueWrite{{kQueue}, {kBuffer}, 0, {4}, 0, 0, {}, {}}, data);
  EXPECT_EQ(RunPlayed().reason, EndReason::kProtocol);
}

TEST_F(SessionTest, APayloadOnAMessageThatHasNoneEndsTheSession) {
  client_.Send(wire::AcquireMemory{1}, AsBytes("x"));
  EXPECT_EQ(RunPlayed().reason, EndReason::kProtocol);
}

}  // namespace
}  // namespace tulle::worker::exec
