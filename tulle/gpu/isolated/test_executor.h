// Tests of executors: one in the real sandbox, driven as a session's thread does.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "tulle/gpu/isolated/executor_process.h"
#include "tulle/gpu/isolated/test_program.h"
#include "tulle/wire/codec.h"
#include "tulle/wire/command_table.h"
#include "tulle/wire/frame.h"

namespace tulle::gpu::isolated {

class Isolated : public testing::Test {
 protected:
  void SetUp() override {
    auto launcher = sandbox::Launcher::Create({});
    ASSERT_TRUE(launcher.ok()) << launcher.error().message;
    launcher_ = std::move(*launcher);
  }

  ExecutorOptions Options(const std::string& role = "executor") {
    ExecutorOptions options;
    options.argv = {"isolated_test", "--role=" + role};
    options.environment = kSanitizers;
    options.arena_bytes = 64 << 20;
    options.staging_bytes = 80 << 20;
    return options;
  }
  void Start() { Start(Options()); }
  void Start(const ExecutorOptions& options) {
    auto executor = ExecutorProcess::Start(*launcher_, options);
    ASSERT_TRUE(executor.ok()) << executor.error().message;
    executor_ = std::move(*executor);
  }

  template <wire::Message M>
  bool TrySend(const M& message, std::uint16_t opcode, StagingBlock* payload = nullptr,
               std::uint16_t flags = 0, std::optional<Range> memory = std::nullopt) {
    ByteVector body(wire::EncodedSize(message));
    wire::Encode(message, body);
    Submission submission{
        .opcode = opcode, .flags = flags, .sequence = sequence_ + 1, .body = body, .memory = memory};
    if (payload != nullptr) submission.payload = std::move(*payload);
    if (!executor_->Submit(submission)) {
      if (payload != nullptr) *payload = std::move(submission.payload);
      return false;
    }
    ++sequence_;
    return true;
  }
  template <wire::Message M>
  std::uint64_t Send(const M& message, StagingBlock payload = {}, std::uint16_t flags = 0,
                     std::optional<Range> memory = std::nullopt) {
    EXPECT_TRUE(TrySend(message, wire::kOpcodeOf<M>, &payload, flags, memory));
    executor_->Flush();
    return sequence_;
  }
  std::uint64_t Load(std::string_view order) {
    auto block = executor_->AllocateStaging(order.size());
    std::ranges::copy(AsBytes(order), block->bytes().begin());
    wire::exec::LoadProgram load;
    load.binary.size_bytes = order.size();
    EXPECT_TRUE(TrySend(load, kLoadProgram, &*block));
    executor_->Flush();
    return sequence_;
  }
  wire::opencl::Finish Finish() { return {.queue = {{1, 1}}}; }

  // Waits for the next report as a session's thread does.
  Receive Next(Received* received) { return Next(received, patience_); }
  Receive Next(Received* received, std::chrono::milliseconds deadline) {
    const auto end = std::chrono::steady_clock::now() + deadline;
    while (true) {
      const Receive result = executor_->TryReceive(received);
      if (result != Receive::kNothing) return result;
      if (std::chrono::steady_clock::now() > end) return result;
      if (executor_->SpinForReplies()) continue;
      if (executor_->PrepareToSleep()) {
        pollfd ready[] = {{executor_->wake_fd(), POLLIN, 0}, {executor_->death_fd(), POLLIN, 0}};
        poll(ready, 2, static_cast<int>(deadline.count()));
      }
      executor_->Awake();
    }
  }
  // The next report of this kind; others are dropped.
  bool Until(Received::Kind kind, Received* received) {
    Receive result;
    while ((result = Next(received)) == Receive::kGot) {
      if (received->kind == kind) return true;
    }
    return false;
  }
  std::string EndReason() {
    Received received;
    Receive result;
    while ((result = Next(&received)) == Receive::kGot) {
    }
    EXPECT_EQ(result, Receive::kDead);
    EXPECT_EQ(executor_->TryReceive(&received), Receive::kDead);
    EXPECT_FALSE(TrySend(Finish(), wire::kOpcodeOf<wire::opencl::Finish>));
    return executor_->end_reason();
  }
  std::string LoadLog() {
    Received received;
    if (!Until(Received::Kind::kReply, &received)) return executor_->end_reason();
    wire::Arena arena;
    wire::exec::LoadProgramReply reply;
    EXPECT_EQ(wire::Decode(received.body, 0, arena, &reply), wire::WireResult::kOk);
    kernels_ = reply.kernels.items.size();
    return std::string(reply.log.text);
  }

  std::unique_ptr<sandbox::Launcher> launcher_;
  std::unique_ptr<ExecutorProcess> executor_;
  std::uint64_t sequence_ = 0;
  std::size_t kernels_ = 0;
  std::chrono::milliseconds patience_ = std::chrono::seconds(20);
};

}  // namespace tulle::gpu::isolated
