// An executor that has been taken over by the kernels that it runs. Between it and the session stands
// gpu/isolated, which lets through only replies that are well-formed; what they say, and everything about
// notices, is for the session to judge.
#pragma once

#include <memory>
#include <utility>

#include "tests/wire/random_message.h"
#include "tulle/wire/command_table.h"
#include "tulle/wire/schema/exec.h"
#include "tulle/worker/exec/executor.h"

namespace tulle::fuzz {

class LyingExecutor final : public worker::exec::Executor {
 public:
  explicit LyingExecutor(std::unique_ptr<worker::exec::Executor> honest) : honest_(std::move(honest)) {}

  // From here on it lies; honest until then.
  void LieFrom(std::uint64_t seed) {
    random_ = SeededRandom(seed);
    lies_ = true;
  }

  worker::exec::Receive TryReceive(worker::exec::Received* received) override {
    using worker::exec::Receive;
    using Kind = worker::exec::Received::Kind;
    if (lies_ && random_.Below(32) == 0) {
      received->kind = Kind::kNotice;
      received->sequence = 0;
      received->payload = {};
      const auto& info = wire::kRowInfos[random_.Below(wire::kRowInfos.size())];
      received->opcode = random_.Below(2) == 0 ? wire::kOpcodeOf<wire::opencl::EventsCompleted> : info.opcode;
      wire::WithRow(wire::kCommands, received->opcode, [&](const auto& row) {
        MakeUp<typename std::remove_cvref_t<decltype(row)>::Command>(received);
      });
      return Receive::kGot;
    }
    const Receive result = honest_->TryReceive(received);
    if (!lies_ || result != Receive::kGot) return result;
    if (random_.Below(256) == 0) return Receive::kDead;
    if (received->kind == Kind::kReply && received->payload.empty() && random_.Below(4) == 0) {
      const auto lie = [&](const auto& row) {
        MakeUp<typename std::remove_cvref_t<decltype(row)>::Reply>(received);
      };
      if (!wire::WithRow(wire::kCommands, received->opcode, lie))
        wire::WithRow(wire::exec::kExecCommands, received->opcode, lie);
    }
    if (random_.Below(128) == 0) received->sequence += random_.Below(3);
    if (random_.Below(128) == 0) received->opcode ^= 1;
    return result;
  }

  std::optional<Range> AllocateMemory(std::uint64_t size_bytes) override {
    return honest_->AllocateMemory(size_bytes);
  }
  std::optional<Range> MapMemory(int fd, std::uint64_t size_bytes, bool writable) override {
    return honest_->MapMemory(fd, size_bytes, writable);
  }
  void FreeMemory(const Range& range) override { honest_->FreeMemory(range); }
  int memory_fd() const override { return honest_->memory_fd(); }
  void ReadPages(const Range& range, MutableByteView bytes) override { honest_->ReadPages(range, bytes); }
  void WritePages(const Range& range, ByteView bytes) override { honest_->WritePages(range, bytes); }
  void DropPages(const Range& range) override { honest_->DropPages(range); }
  std::optional<worker::exec::Room> AllocateRoom(std::uint64_t size_bytes) override {
    return honest_->AllocateRoom(size_bytes);
  }
  void FreeRoom(std::uint32_t id) override { honest_->FreeRoom(id); }
  bool Submit(worker::exec::Submission& submission) override { return honest_->Submit(submission); }
  void Flush() override { honest_->Flush(); }
  bool Spin() override { return honest_->Spin(); }
  bool PrepareToSleep() override { return honest_->PrepareToSleep(); }
  void Awake() override { honest_->Awake(); }
  int wake_fd() const override { return honest_->wake_fd(); }
  int death_fd() const override { return honest_->death_fd(); }
  void Kill() override { honest_->Kill(); }
  std::string EndText() const override { return honest_->EndText(); }
  std::uint64_t DeviceTimeNs() const override { return honest_->DeviceTimeNs(); }

 private:
  template <wire::Message M>
  void MakeUp(worker::exec::Received* received) {
    const M message = maker_.Make<M>();
    if (received->kind == worker::exec::Received::Kind::kReply && wire::AnnouncedPayload(message) != 0)
      return;
    body_.resize(wire::EncodedSize(message));
    wire::Encode(message, body_);
    received->body = body_;
  }

  const std::unique_ptr<worker::exec::Executor> honest_;
  SeededRandom random_{0};
  wire::testing::MessageMaker maker_{random_};
  ByteVector body_;
  bool lies_ = false;
};

}  // namespace tulle::fuzz
