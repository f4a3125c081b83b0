// The contract of gpu/api as tests, over whatever a SubjectFactory opens. The fixture plays the worker: it
// chooses handles, encodes commands, and collects what is reported. The tests are in the *_battery.cc.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <vector>

#include "tests/conformance/backend/subject.h"
#include "tulle/gpu/api/opencl_status.h"

namespace tulle::gpu::conformance {

using wire::Handle;
using wire::ObjectKind;

// Where something stands in the order of reports.
using Position = std::size_t;

struct Answer {
  std::int32_t status = 0;
  ByteVector payload;
  Position position = 0;
};

struct With {
  bool status = false;      // ask for a StatusReply
  ByteVector payload = {};  // bring these bytes
};

// Of an enqueued command.
struct Options {
  std::vector<Handle> waits = {};
  Handle event = {};
  std::uint64_t transfer = 0;
  bool more = false;
};

inline constexpr auto kOutOfOrder = static_cast<std::uint64_t>(wire::opencl::QueueFlag::kOutOfOrder);
inline constexpr auto kProfiling = static_cast<std::uint64_t>(wire::opencl::QueueFlag::kProfiling);

class BackendBattery : public testing::TestWithParam<SubjectFactory> {
 protected:
  void SetUp() override;
  // Ends the session; everything that is still due is reported before it returns.
  void Close() { subject_.reset(); }
  void TearDown() override;

  // --- sending ---
  template <wire::Message M>
  std::uint64_t Send(const M& message, const With& with = {}) {
    ByteVector body(wire::EncodedSize(message));
    wire::Encode(message, body);
    Outgoing out;
    out.opcode = OpcodeOf<M>();
    out.wants_status = with.status;
    out.sequence = ++sequence_;
    out.body = body;
    out.payload = with.payload;
    out.room_bytes = wire::WantedPayload(message);
    if constexpr (std::same_as<M, wire::opencl::CreateBuffer> || std::same_as<M, wire::opencl::CreateSvm>) {
      if (message.size_bytes <= kMostLent) out.memory_bytes = message.size_bytes;
    } else if constexpr (std::same_as<M, wire::opencl::CreateImage>) {
      if (const auto size = wire::opencl::OwnBytes(message);
          message.buffer.handle.null() && size <= kMostLent)
        out.memory_bytes = size;
    }
    subject_->Submit(out);
    return sequence_;
  }
  // Sends, asks for the status and waits for it.
  template <wire::Message M>
  std::int32_t Try(const M& message, ByteVector payload = {}) {
    const std::uint64_t sequence = Send(message, {true, std::move(payload)});
    return Wait(sequence).status;
  }

  // --- what was reported ---
  Answer Wait(std::uint64_t sequence);  // of a reply that begins with a status
  // The same with all of its fields; views live as long as the test.
  template <wire::Message R>
  R WaitFor(std::uint64_t sequence) {
    R reply;
    Wait(sequence);
    EXPECT_EQ(wire::Decode(replies_[sequence].body, replies_[sequence].payload.size(), arena_, &reply),
              wire::WireResult::kOk);
    return reply;
  }
  wire::opencl::EventCompletion WaitEvent(Handle event, Position* position = nullptr);
  std::int32_t WaitFailure(std::uint64_t sequence);  // of CommandFailed
  Position WaitPayloadDone(std::uint64_t sequence);
  // True when this has been reported by now (which proves nothing when it has not).
  bool Answered(std::uint64_t sequence);
  bool Completed(Handle event);

  // --- objects ---
  Handle NewHandle();
  // Destroys, and lets the slot be used again with a higher generation.
  void Destroy(ObjectKind kind, Handle handle, bool wait = true);
  Handle Context();
  Handle Queue(std::uint64_t flags = 0);
  Handle Buffer(std::uint64_t size_bytes, std::uint64_t flags = 1);
  bool HasSvm();
  Handle Svm(std::uint64_t address, std::uint64_t size_bytes);
  Handle UserEvent();
  // The battery's kernels, compiled once for each factory: null_add, null_mul, null_copy_image, takes_local,
  // follow.
  const ByteVector& Binary();
  Handle Program();
  Handle Kernel(const char* name);
  // What null_add_constant of this program adds.
  std::uint32_t Added(const CompileOutput& output);
  std::int32_t SetMemory(Handle kernel, std::uint32_t index, Handle memory);
  std::int32_t SetPointer(Handle kernel, std::uint32_t index, Handle svm, std::uint64_t offset_bytes);
  std::int32_t SetUint(Handle kernel, std::uint32_t index, std::uint32_t value);

  // --- commands ---
  std::uint64_t Read(Handle queue, Handle buffer, std::uint64_t offset, std::uint64_t size,
                     const Options& options = {});
  std::uint64_t Write(Handle queue, Handle buffer, std::uint64_t offset, ByteVector data,
                      const Options& options = {}, bool status = false);
  std::uint64_t Run(Handle queue, Handle kernel, std::uint64_t items, const Options& options = {},
                    bool status = false);
  std::uint64_t Marker(Handle queue, const Options& options = {});
  std::uint64_t Barrier(Handle queue, const Options& options = {});
  std::uint64_t Map(Handle queue, Handle buffer, std::uint64_t offset, std::uint64_t size,
                    std::uint64_t access, const Options& options = {}, bool status = false);
  std::uint64_t Unmap(Handle queue, Handle buffer, std::uint64_t offset, std::uint64_t size,
                      const Options& options = {}, bool status = false);
  // The memory that was lent for the buffer.
  MutableByteView Lent(Handle buffer) { return subject_->Lent(buffer); }
  std::uint64_t Finish(Handle queue);
  std::int32_t SetUserEvent(Handle event, std::int32_t status);
  // All words of the buffer, through a queue of their own.
  std::vector<std::uint32_t> Words(Handle buffer, std::uint64_t count);
  ByteVector Pattern(std::size_t size, std::uint8_t first = 1);
  static ByteVector WordBytes(const std::vector<std::uint32_t>& words);

  Handle context_;
  std::set<std::uint64_t> expected_failures_;  // CommandFailed of any other command is an error

 private:
  static constexpr std::uint64_t kMostLent = 1u << 30;

  template <wire::Message M>
  static constexpr std::uint16_t OpcodeOf() {
    if constexpr (std::same_as<M, wire::exec::LoadProgram>) {
      return wire::OpcodeIn<M>(wire::exec::kExecCommands);
    } else {
      return wire::kOpcodeOf<M>;
    }
  }
  std::uint64_t Sync(Handle queue, wire::opencl::SyncKind kind, const Options& options);
  bool Pump(Duration timeout);
  void Take(Report report);
  template <typename Done>
  void Until(const char* what, const Done& done);

  std::unique_ptr<Subject> subject_;
  std::uint64_t sequence_ = 0;
  std::uint32_t slots_ = 0;
  std::vector<Handle> free_;
  Handle program_;
  wire::Arena arena_;

  Position position_ = 0;
  struct Replied {
    ByteVector body;
    ByteVector payload;
    Position position;
  };
  std::map<std::uint64_t, Replied> replies_;
  std::map<std::uint64_t, std::int32_t> failures_;
  std::map<std::uint64_t, Position> payloads_done_;
  std::map<Handle, std::pair<wire::opencl::EventCompletion, Position>> completed_;
};

inline std::string SubjectName(const testing::TestParamInfo<SubjectFactory>& info) { return info.param.name; }

}  // namespace tulle::gpu::conformance
