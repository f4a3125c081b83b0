// For tests only: a program on a vGPU, with a real client session. Nothing of it is built into a program.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tulle/base/guarded.h"
#include "tulle/base/random.h"
#include "tulle/session/client_session.h"

namespace tulle::worker {

namespace opencl = wire::opencl;

// Used by one thread.
class Program final : public session::ClientHandler {
 public:
  struct Answer {
    ByteVector body;
    ByteVector payload;
  };

  Result<MutableByteView> OnPayload(const wire::FrameHeader& header, ByteView) override {
    payload_.resize(header.payload_bytes);
    return MutableByteView(payload_);
  }
  Result<MutableByteView> OnParts(std::uint64_t, std::uint64_t total_bytes) override {
    parts_.resize(total_bytes);
    return MutableByteView(parts_);
  }
  Status OnFrame(const wire::FrameHeader& header, ByteView body, MutableByteView payload) override {
    ByteVector& place = !parts_.empty() && payload.data() == parts_.data() ? parts_ : payload_;
    (*answers_.lock())[header.answers] = {ByteVector(body.begin(), body.end()), std::exchange(place, {})};
    return OkStatus();
  }
  void OnLost(const Error& error) override { *lost_.lock() = error; }

  Status Attach(UniqueFd socket, const session::Target& target) {
    TULLE_ASSIGN_OR_RETURN(
        session_, session::ClientSession::ConnectOver(
                      std::move(socket), {.target = target, .program = "test", .random = &random_}, this));
    return OkStatus();
  }
  template <wire::Message M>
  std::uint64_t Send(const M& message, ByteView payload = {}, std::uint16_t flags = 0) {
    auto sent = session_->Send(message, {&payload, 1}, flags);
    return sent.ok() ? *sent : 0;
  }
  // The answer to a command; empty when the session was lost before it came.
  std::optional<Answer> Wait(std::uint64_t sequence) {
    (void)session_->WaitUntil([&] { return answers_.lock()->contains(sequence); });
    auto answers = answers_.lock();
    const auto found = answers->find(sequence);
    return found == answers->end() ? std::nullopt : std::optional(found->second);
  }
  // The same, decoded; what it holds stays valid until the next one.
  template <wire::Message M>
  M WaitFor(std::uint64_t sequence) {
    M message;
    std::optional<Answer> answer = Wait(sequence);
    EXPECT_TRUE(answer.has_value()) << ToString(*lost_.lock());
    if (answer.has_value()) {
      last_ = std::move(*answer);
      EXPECT_EQ(wire::Decode(last_.body, last_.payload.size(), arena_, &message), wire::WireResult::kOk);
    }
    return message;
  }
  Error WaitLost() {
    (void)session_->WaitUntil([] { return false; });
    return *lost_.lock();
  }
  session::ClientSession& session() { return *session_; }

  // What every program starts with.
  static constexpr wire::Handle kContext{1, 1}, kQueue{2, 1}, kBuffer{3, 1}, kProgram{4, 1}, kKernel{5, 1};
  void CreateContextAndQueue() {
    Send(opencl::CreateContext{{kContext}});
    Send(opencl::CreateQueue{{kContext}, {kQueue}, {}});
  }
  // kProgram from source; the build's answer.
  opencl::BuildProgramReply Build(std::string_view source, std::string_view options = {}) {
    Send(opencl::CreateProgram{{kContext}, {kProgram}, {opencl::ProgramKind::kSource}});
    Send(opencl::ProgramText{{kProgram}, {source.size()}}, AsBytes(source));
    return WaitFor<opencl::BuildProgramReply>(Send(opencl::BuildProgram{{kProgram}, {options}}));
  }
  std::int32_t Finish() { return WaitFor<wire::StatusReply>(Send(opencl::Finish{{kQueue}})).status; }

  // Adds `value` to `count` numbers on the vGPU and compares. Once a program.
  void ExpectVectorAdd(std::uint32_t value, std::size_t count = 1024) {
    std::vector<std::uint32_t> data(count);
    for (std::size_t i = 0; i < count; ++i) data[i] = static_cast<std::uint32_t>(i);
    const ByteView bytes = std::as_bytes(std::span(data));
    CreateContextAndQueue();
    const auto created =
        Send(opencl::CreateBuffer{{kContext}, {kBuffer}, {}, bytes.size()}, {}, wire::kWantStatus);
    EXPECT_EQ(WaitFor<wire::StatusReply>(created).status, 0);
    Send(opencl::EnqueueWrite{{kQueue}, {kBuffer}, 0, {bytes.size()}, 0, 0, {}, {}}, bytes);
    // What the null device understands too.
    EXPECT_EQ(
        Build("kernel void null_add(global uint* data, uint value) { data[get_global_id(0)] += value; }")
            .status,
        0);
    Send(opencl::CreateKernel{{kProgram}, {kKernel}, {"null_add"}});
    Send(opencl::SetKernelArg{{kKernel}, 0, {opencl::ArgKind::kMemory}, {kBuffer}, 0, {}});
    Send(opencl::SetKernelArg{
        {kKernel}, 1, {opencl::ArgKind::kValue}, {}, 0, {std::as_bytes(std::span(&value, 1))}});
    for (std::uint32_t& number : data) number += value;
    RunAndCompare(bytes);
  }
  // Runs kKernel once over kBuffer as numbers, and compares what it leaves there.
  void RunAndCompare(ByteView expected) {
    const std::uint64_t count = expected.size() / sizeof(std::uint32_t);
    Send(opencl::EnqueueKernel{{kQueue}, {kKernel}, 1, {}, {count, 1, 1}, {}, {}, {}});
    const auto read = Send(opencl::EnqueueRead{{kQueue}, {kBuffer}, 0, {expected.size()}, 0, 0, {}, {}});
    EXPECT_EQ(WaitFor<opencl::EnqueueReadReply>(read).status, 0);
    EXPECT_EQ(last_.payload, ByteVector(expected.begin(), expected.end()));
  }

 private:
  SecureRandom random_;
  wire::Arena arena_;
  ByteVector payload_, parts_;
  Answer last_;
  Guarded<std::map<std::uint64_t, Answer>> answers_;  // the session's own thread adds to it
  Guarded<Error> lost_;
  std::unique_ptr<session::ClientSession> session_;
};

}  // namespace tulle::worker
