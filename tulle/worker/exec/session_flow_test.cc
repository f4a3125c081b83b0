// Back-pressure: full rings, full staging memory, and clients that do not read.
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <utility>

#include "tulle/worker/exec/test_session.h"

namespace tulle::worker::exec {
namespace {

TEST_F(SessionTest, AFullRingHoldsTheStreamAndLosesNothing) {
  played_.room_for = 1;
  int looks = 0;
  played_.on_look = [&] {
    if (++looks % 3 == 0) played_.room_for = 1;
  };
  CreateContextAndQueue();
  for (std::uint32_t slot = 10; slot < 20; ++slot) {
    client_.Send(opencl::CreateQueue{{kContext}, {Handle{slot, 1}}, {}});
  }
  EXPECT_EQ(RunPlayed().reason, EndReason::kGoodbye);
  ASSERT_EQ(played_.seen.size(), 12u);
  for (std::size_t i = 0; i < played_.seen.size(); ++i) EXPECT_EQ(played_.seen[i].sequence, i + 2);
}

// A launch waits for the vGPU's share; so does what comes behind it, in its order.
TEST_F(SessionTest, LaunchesWaitForTheirShare) {
  wire::SharePage page{};
  page.share = wire::kWholeShare / 1'000'000;
  pace::Pacer pacer(&page, 1, &clock_);
  pacer_ = &pacer;
  CreateContextAndQueue();
  const auto built = CreateAndBuild("kernel void null_add(global uint* data, uint value) {}");
  client_.WhenAnswered(built);
  client_.Send(opencl::CreateKernel{{kProgram}, {kKernel}, {"null_add"}});
  client_.Send(opencl::EnqueueKernel{{kQueue}, {kKernel}, 1, {}, {8, 1, 1}, {}, {}, {kEvent}});
  const auto created = CreateBuffer(kBuffer, 64, wire::kWantStatus);
  client_.WhenAnswered(created);
  std::thread more([&] {
    while (page.throttled_ns == 0) std::this_thread::yield();
    page.share = wire::kWholeShare;
  });
  EXPECT_EQ(RunOnNull().reason, EndReason::kGoodbye);
  more.join();
  EXPECT_GT(page.throttled_ns, 0u);
}

// Between a node and its worker.
std::pair<UniqueFd, UniqueFd> Sockets() {
  int ends[2] = {-1, -1};
  EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

// A launch waits for the vGPU's turn, which ends when the device says that the launch has.
TEST_F(SessionTest, LaunchesWaitForTheirTurn) {
  wire::SharePage page{};
  page.others_wait = 1;
  auto [node, workers] = Sockets();
  pace::Turn turn(&page, std::move(workers), &clock_);
  turn_ = &turn;
  CreateContextAndQueue();
  const auto built = CreateAndBuild("kernel void null_add(global uint* data, uint value) {}");
  client_.WhenAnswered(built);
  client_.Send(opencl::CreateKernel{{kProgram}, {kKernel}, {"null_add"}});
  for (int i = 0; i < 5; ++i)
    client_.Send(opencl::EnqueueKernel{{kQueue}, {kKernel}, 1, {}, {8, 1, 1}, {}, {}, {}});
  const auto last = client_.Send(opencl::Finish{{kQueue}});
  client_.WhenAnswered(last);
  // One turn will do, if this process is let run meanwhile.
  std::atomic<bool> over{false};
  std::thread gives([&page, &over, socket = node.get()] {
    while (!over) {
      if (page.wants_turn != 0 && page.turns_ended == page.turns_given) {
        ++page.turns_given;
        ASSERT_EQ(send(socket, "", 1, 0), 1);
      }
      std::this_thread::yield();
    }
    while (page.turns_ended != page.turns_given) std::this_thread::yield();
  });
  EXPECT_EQ(RunOnNull().reason, EndReason::kGoodbye);
  over = true;
  gives.join();
  EXPECT_EQ(client_.StatusOf(last), 0);
  EXPECT_EQ(page.turns_ended, page.turns_given);
  EXPECT_GT(turn.DeviceTimeNs(), 0u);
}

// Behind each few launches it is asked whether they have ended; the client hears nothing of that.
TEST_F(SessionTest, AQuestionFollowsLaunchesAndGoesBeforeTheEndOfTheirQueue) {
  wire::SharePage page{};
  auto [node, workers] = Sockets();
  pace::Turn turn(&page, std::move(workers), &clock_);
  turn_ = &turn;
  CreateContextAndQueue();
  client_.Send(opencl::CreateProgram{{kContext}, {kProgram}, {opencl::ProgramKind::kSource}});
  client_.Send(opencl::CreateKernel{{kProgram}, {kKernel}, {"null_add"}});
  client_.Send(opencl::EnqueueKernel{{kQueue}, {kKernel}, 1, {}, {8, 1, 1}, {}, {}, {}});
  Destroy(ObjectKind::kQueue, kQueue);
  std::thread gives([&page, socket = node.get()] {
    while (page.wants_turn == 0) std::this_thread::yield();
    ++page.turns_given;
    ASSERT_EQ(send(socket, "", 1, 0), 1);
  });
  EXPECT_EQ(RunPlayed().reason, EndReason::kGoodbye);
  gives.join();
  std::vector<std::uint16_t> opcodes;
  for (const auto& seen : played_.seen) opcodes.push_back(seen.opcode);
  const std::vector<std::uint16_t> expected = {
      wire::kOpcodeOf<opencl::CreateContext>, wire::kOpcodeOf<opencl::CreateQueue>,
      wire::kOpcodeOf<opencl::CreateKernel>,  wire::kOpcodeOf<opencl::EnqueueKernel>,
      wire::kOpcodeOf<opencl::Finish>,        wire::kOpcodeOf<wire::DestroyObject>};
  EXPECT_EQ(opcodes, expected);
  EXPECT_GT(played_.seen[4].sequence, std::uint64_t{1} << 62);
}

// A client that has moved more than it may is neither heard nor answered until that has been made up for.
TEST_F(SessionTest, TheNetworkIsWaitedFor) {
  wire::SharePage page{};
  page.network_bytes_per_s = 1;
  pace::Network network(&page, &clock_);
  network_ = &network;
  client_.moved_bytes = 1000;
  CreateContextAndQueue();
  const auto created = CreateBuffer(kBuffer, 64, wire::kWantStatus);
  client_.WhenAnswered(created);
  std::thread more([&] {
    while (page.network_throttled_ns == 0) std::this_thread::yield();
    EXPECT_EQ(page.network_bytes, 1000u);
    page.network_bytes_per_s = 0;
  });
  EXPECT_EQ(RunOnNull().reason, EndReason::kGoodbye);
  more.join();
  EXPECT_EQ(client_.StatusOf(created), 0);
}

TEST_F(SessionTest, NothingIsTakenWithoutRoomForTheLargestPayload) {
  played_.staging_bytes = wire::kMaxPayloadBytes - 1;
  CreateContextAndQueue();
  int looks = 0;
  played_.on_look = [&] {
    if (++looks == 5) {
      EXPECT_TRUE(played_.seen.empty());
      played_.staging_bytes += kMiB;
    }
  };
  EXPECT_EQ(RunPlayed().reason, EndReason::kGoodbye);
  EXPECT_EQ(played_.seen.size(), 2u);
}

TEST_F(SessionTest, ManyTransfersGoThroughTinyStaging) {
  local::Options tiny;
  tiny.staging_bytes = 2 * wire::kMaxPayloadBytes;
  CreateContextAndQueue();
  client_.Send(wire::AcquireMemory{32 * kMiB});
  CreateBuffer(kBuffer, 32 * kMiB);
  std::vector<std::uint64_t> reads;
  for (int round = 0; round < 8; ++round) {
    const std::uint64_t offset = static_cast<std::uint64_t>(round) * wire::kMaxPayloadBytes;
    const ByteVector data(wire::kMaxPayloadBytes, std::byte(round + 1));
    client_.Send(opencl::EnqueueWrite{{kQueue}, {kBuffer}, offset, {data.size()}, 0, 0, {}, {}}, data);
    reads.push_back(
        client_.Send(opencl::EnqueueRead{{kQueue}, {kBuffer}, offset, {data.size()}, 0, 0, {}, {}}));
  }
  client_.WhenAnswered(reads.back());
  EXPECT_EQ(RunOnNull(tiny).reason, EndReason::kGoodbye);
  for (int round = 0; round < 8; ++round) {
    const Sent* sent = client_.Find(reads[static_cast<std::size_t>(round)]);
    ASSERT_NE(sent, nullptr);
    EXPECT_EQ(sent->payload, ByteVector(wire::kMaxPayloadBytes, std::byte(round + 1)));
  }
}

TEST_F(SessionTest, TransfersThatFillStagingBehindAUserEventEnd) {
  limits_.wait_on_user_event = std::chrono::milliseconds(20);
  local::Options tiny;
  tiny.staging_bytes = 2 * wire::kMaxPayloadBytes;
  CreateContextAndQueue();
  client_.Send(wire::AcquireMemory{kMiB});
  CreateBuffer(kBuffer, 4096);
  client_.Send(opencl::CreateUserEvent{{kContext}, {kEvent}});
  const wire::Ref<ObjectKind::kEvent> waits[] = {{kEvent}};
  const ByteVector data(4096);
  for (int i = 0; i < 3000; ++i) {
    client_.Send(opencl::EnqueueWrite{{kQueue}, {kBuffer}, 0, {data.size()}, 0, 0, {waits}, {}}, data);
  }
  EXPECT_EQ(RunOnNull(tiny).reason, EndReason::kResource);
  EXPECT_GT(client_.steps_left(), 0u);
}

TEST_F(SessionTest, AClientThatDoesNotReadIsLookedAfter) {
  CreateContextAndQueue();
  client_.Send(opencl::Finish{{kQueue}});
  client_.Do([&] {
    client_.set_pending_bytes(limits_.pending_output_bytes + 1);
    client_.gone = true;
  });
  client_.says_goodbye = false;
  played_.on_look = [] {};  // there is always an answer that could be taken
  EXPECT_EQ(RunPlayed().reason, EndReason::kGoodbye);
}

TEST_F(SessionTest, AClientThatDoesNotReadIsNotServed) {
  client_.set_pending_bytes(limits_.pending_output_bytes + 1);
  CreateContextAndQueue();
  client_.says_goodbye = false;
  int looks = 0;
  std::thread reader([&] {
    // Ends the session once it sleeps: nothing else would wake it.
    end_.Set(EndReason::kGrantRevoked, "revoked");
  });
  played_.on_look = [&] { ++looks; };
  EXPECT_EQ(RunPlayed().reason, EndReason::kGrantRevoked);
  reader.join();
  EXPECT_TRUE(played_.seen.empty());
  EXPECT_EQ(looks, 0);
}

}  // namespace
}  // namespace tulle::worker::exec
