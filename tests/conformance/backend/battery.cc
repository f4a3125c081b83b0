#include "tests/conformance/backend/battery.h"

#include <chrono>
#include <cstring>
#include <map>
#include <string>
#include <vector>

namespace tulle::gpu::conformance {
namespace {

using namespace std::chrono_literals;
using wire::opencl::ArgKind;
using wire::opencl::EventCompletion;
using wire::opencl::ProgramKind;

constexpr auto kDeadline = 60s;  // far more than anything here takes, on any machine

constexpr char kSource[] = R"(
__kernel void null_add(__global uint* data, uint value) { data[get_global_id(0)] += value; }
__kernel void null_mul(__global uint* data, uint value) { data[get_global_id(0)] *= value; }
__kernel void null_copy_image(__read_only image2d_t source, __write_only image2d_t target, sampler_t sampler) {
  int2 at = (int2)(get_global_id(0), get_global_id(1));
  write_imageui(target, at, read_imageui(source, sampler, at));
}
__kernel void takes_local(__global uint* data, __local uint* scratch) {
  scratch[get_local_id(0)] = data[get_global_id(0)];
  barrier(CLK_LOCAL_MEM_FENCE);
  data[get_global_id(0)] = scratch[get_local_id(0)];
}
__kernel void follow(__global ulong* holder) { *(__global uint*)*holder += 7; }
)";

}  // namespace

void BackendBattery::SetUp() {
  subject_ = GetParam().open();
  ASSERT_NE(subject_, nullptr);
  context_ = Context();
}

void BackendBattery::TearDown() {
  Close();
  for (const auto& [sequence, status] : failures_) {
    EXPECT_TRUE(expected_failures_.contains(sequence)) << "command " << sequence << " failed with " << status;
  }
}

bool BackendBattery::Pump(Duration timeout) {
  Report report;
  if (!subject_->Receive(timeout, &report)) return false;
  Take(std::move(report));
  return true;
}

void BackendBattery::Take(Report report) {
  const Position position = ++position_;
  wire::Arena arena;
  switch (report.kind) {
    case Report::Kind::kReply:
      EXPECT_TRUE(replies_.emplace(report.sequence, Replied{report.body, report.payload, position}).second);
      return;
    case Report::Kind::kPayloadDone:
      EXPECT_TRUE(payloads_done_.emplace(report.sequence, position).second);
      return;
    case Report::Kind::kNotice: break;
  }
  if (report.opcode == wire::kOpcodeOf<wire::CommandFailed>) {
    wire::CommandFailed failed;
    ASSERT_EQ(wire::Decode(report.body, 0, arena, &failed), wire::WireResult::kOk);
    EXPECT_TRUE(failures_.emplace(failed.sequence, failed.status).second);
    EXPECT_LT(failed.status, 0);
    return;
  }
  ASSERT_EQ(report.opcode, wire::kOpcodeOf<wire::opencl::EventsCompleted>);
  wire::opencl::EventsCompleted notice;
  ASSERT_EQ(wire::Decode(report.body, 0, arena, &notice), wire::WireResult::kOk);
  EXPECT_FALSE(notice.events.items.empty());
  for (const EventCompletion& event : notice.events.items) {
    EXPECT_LE(event.status, 0);
    EXPECT_TRUE(completed_.emplace(event.event, std::pair{event, position}).second)
        << "an event completed twice";
  }
}

template <typename Done>
void BackendBattery::Until(const char* what, const Done& done) {
  subject_->Flush();
  const auto deadline = std::chrono::steady_clock::now() + kDeadline;
  while (!done()) {
    if (std::chrono::steady_clock::now() > deadline) {
      ADD_FAILURE() << "timed out waiting for " << what;
      return;
    }
    Pump(1s);
  }
}

Answer BackendBattery::Wait(std::uint64_t sequence) {
  Until("a reply", [&] { return replies_.contains(sequence); });
  Answer answer;
  const auto found = replies_.find(sequence);
  if (found == replies_.end()) return answer;
  EXPECT_GE(found->second.body.size(), sizeof answer.status);
  std::memcpy(&answer.status, found->second.body.data(), sizeof answer.status);
  answer.payload = found->second.payload;
  answer.position = found->second.position;
  return answer;
}

EventCompletion BackendBattery::WaitEvent(Handle event, Position* position) {
  Until("an event", [&] { return completed_.contains(event); });
  const auto found = completed_.find(event);
  if (found == completed_.end()) return {};
  if (position != nullptr) *position = found->second.second;
  return found->second.first;
}

std::int32_t BackendBattery::WaitFailure(std::uint64_t sequence) {
  expected_failures_.insert(sequence);
  Until("a failure", [&] { return failures_.contains(sequence); });
  return failures_.contains(sequence) ? failures_[sequence] : 0;
}

Position BackendBattery::WaitPayloadDone(std::uint64_t sequence) {
  Until("a payload's release", [&] { return payloads_done_.contains(sequence); });
  return payloads_done_[sequence];
}

bool BackendBattery::Answered(std::uint64_t sequence) {
  while (Pump(0ns)) {
  }
  return replies_.contains(sequence);
}

bool BackendBattery::Completed(Handle event) {
  while (Pump(0ns)) {
  }
  return completed_.contains(event);
}

Handle BackendBattery::NewHandle() {
  if (!free_.empty()) {
    const Handle handle = free_.back();
    free_.pop_back();
    return {handle.slot, handle.generation + 1};
  }
  return {++slots_, 1};
}

void BackendBattery::Destroy(ObjectKind kind, Handle handle, bool wait) {
  const std::uint64_t sequence = Send(wire::DestroyObject{{kind, handle}}, {true});
  if (wait) {
    EXPECT_EQ(Wait(sequence).status, 0);
  }
  free_.push_back(handle);
}

Handle BackendBattery::Context() {
  const Handle handle = NewHandle();
  EXPECT_EQ(Try(wire::opencl::CreateContext{{handle}}), 0);
  return handle;
}

Handle BackendBattery::Queue(std::uint64_t flags) {
  const Handle handle = NewHandle();
  EXPECT_EQ(Try(wire::opencl::CreateQueue{{context_}, {handle}, {flags}}), 0);
  return handle;
}

Handle BackendBattery::Buffer(std::uint64_t size_bytes, std::uint64_t flags) {
  const Handle handle = NewHandle();
  EXPECT_EQ(Try(wire::opencl::CreateBuffer{{context_}, {handle}, {flags}, size_bytes}), 0);
  return handle;
}

bool BackendBattery::HasSvm() {
  constexpr std::uint32_t kSvmCapabilities = 0x1053;
  const auto reply = WaitFor<wire::opencl::DescribeDeviceReply>(Send(wire::opencl::DescribeDevice{}));
  for (const auto& info : reply.infos.items) {
    if (info.name == kSvmCapabilities) return info.value.bytes[0] != std::byte{0};
  }
  return false;
}

Handle BackendBattery::Svm(std::uint64_t address, std::uint64_t size_bytes) {
  const Handle handle = NewHandle();
  EXPECT_EQ(Try(wire::opencl::CreateSvm{{context_}, {handle}, {1}, address, size_bytes}), 0);
  return handle;
}

Handle BackendBattery::UserEvent() {
  const Handle handle = NewHandle();
  EXPECT_EQ(Try(wire::opencl::CreateUserEvent{{context_}, {handle}}), 0);
  return handle;
}

const ByteVector& BackendBattery::Binary() {
  static std::map<std::string, ByteVector> binaries;
  ByteVector& binary = binaries[GetParam().name];
  if (binary.empty()) {
    CompileOutput output = GetParam().compile(ProgramKind::kSource, kSource, "");
    EXPECT_EQ(output.status, 0) << output.log;
    binary = std::move(output.binary);
  }
  return binary;
}

Handle BackendBattery::Program() {
  if (program_.null()) {
    program_ = NewHandle();
    EXPECT_EQ(Try(wire::exec::LoadProgram{context_, program_, {Binary().size()}}, Binary()), 0);
  }
  return program_;
}

Handle BackendBattery::Kernel(const char* name) {
  const Handle program = Program();
  const Handle handle = NewHandle();
  EXPECT_EQ(Try(wire::opencl::CreateKernel{{program}, {handle}, {name}}), 0);
  return handle;
}

std::uint32_t BackendBattery::Added(const CompileOutput& output) {
  EXPECT_EQ(output.status, 0) << output.log;
  const Handle program = NewHandle(), kernel = NewHandle();
  EXPECT_EQ(Try(wire::exec::LoadProgram{context_, program, {output.binary.size()}}, output.binary), 0);
  EXPECT_EQ(Try(wire::opencl::CreateKernel{{program}, {kernel}, {"null_add_constant"}}), 0);
  const Handle buffer = Buffer(64), queue = Queue();
  EXPECT_EQ(SetMemory(kernel, 0, buffer), 0);
  Run(queue, kernel, 16);
  EXPECT_EQ(Wait(Finish(queue)).status, 0);
  const auto words = Words(buffer, 16);
  EXPECT_EQ(words.front(), words.back());
  return words.front();
}

std::int32_t BackendBattery::SetMemory(Handle kernel, std::uint32_t index, Handle memory) {
  return Try(wire::opencl::SetKernelArg{{kernel}, index, {ArgKind::kMemory}, {memory}});
}

std::int32_t BackendBattery::SetPointer(Handle kernel, std::uint32_t index, Handle svm,
                                        std::uint64_t offset_bytes) {
  return Try(wire::opencl::SetSvmArg{{kernel}, index, {svm}, offset_bytes});
}

std::int32_t BackendBattery::SetUint(Handle kernel, std::uint32_t index, std::uint32_t value) {
  return Try(wire::opencl::SetKernelArg{
      {kernel}, index, {ArgKind::kValue}, {}, 0, {std::as_bytes(std::span(&value, 1))}});
}

namespace {
std::vector<wire::Ref<ObjectKind::kEvent>> Refs(const std::vector<Handle>& events) {
  std::vector<wire::Ref<ObjectKind::kEvent>> refs;
  for (Handle event : events) refs.push_back({event});
  return refs;
}
}  // namespace

std::uint64_t BackendBattery::Read(Handle queue, Handle buffer, std::uint64_t offset, std::uint64_t size,
                                   const Options& options) {
  const auto waits = Refs(options.waits);
  return Send(wire::opencl::EnqueueRead{{queue},
                                        {buffer},
                                        offset,
                                        {size},
                                        options.transfer,
                                        static_cast<wire::U8>(options.more),
                                        {waits},
                                        {options.event}});
}

std::uint64_t BackendBattery::Write(Handle queue, Handle buffer, std::uint64_t offset, ByteVector data,
                                    const Options& options, bool status) {
  const auto waits = Refs(options.waits);
  const wire::opencl::EnqueueWrite message{
      {queue}, {buffer},       offset, {data.size()}, options.transfer, static_cast<wire::U8>(options.more),
      {waits}, {options.event}};
  return Send(message, {status, std::move(data)});
}

std::uint64_t BackendBattery::Run(Handle queue, Handle kernel, std::uint64_t items, const Options& options,
                                  bool status) {
  const auto waits = Refs(options.waits);
  return Send(wire::opencl::EnqueueKernel{{queue}, {kernel}, 1, {}, {items}, {}, {waits}, {options.event}},
              {status});
}

std::uint64_t BackendBattery::Sync(Handle queue, wire::opencl::SyncKind kind, const Options& options) {
  const auto waits = Refs(options.waits);
  return Send(wire::opencl::EnqueueSync{{queue}, {kind}, {waits}, {options.event}});
}
std::uint64_t BackendBattery::Marker(Handle queue, const Options& options) {
  return Sync(queue, wire::opencl::SyncKind::kMarker, options);
}
std::uint64_t BackendBattery::Barrier(Handle queue, const Options& options) {
  return Sync(queue, wire::opencl::SyncKind::kBarrier, options);
}

std::uint64_t BackendBattery::Map(Handle queue, Handle buffer, std::uint64_t offset, std::uint64_t size,
                                  std::uint64_t access, const Options& options, bool status) {
  const auto waits = Refs(options.waits);
  return Send(wire::opencl::EnqueueMap{{queue}, {buffer}, offset, size, {access}, {waits}, {options.event}},
              {status});
}
std::uint64_t BackendBattery::Unmap(Handle queue, Handle buffer, std::uint64_t offset, std::uint64_t size,
                                    const Options& options, bool status) {
  const auto waits = Refs(options.waits);
  return Send(wire::opencl::EnqueueUnmap{{queue}, {buffer}, offset, size, {waits}, {options.event}},
              {status});
}

std::uint64_t BackendBattery::Finish(Handle queue) { return Send(wire::opencl::Finish{{queue}}); }

std::int32_t BackendBattery::SetUserEvent(Handle event, std::int32_t status) {
  return Try(wire::opencl::SetUserEventStatus{{event}, status});
}

std::vector<std::uint32_t> BackendBattery::Words(Handle buffer, std::uint64_t count) {
  const Handle queue = Queue();
  const Answer answer = Wait(Read(queue, buffer, 0, count * sizeof(std::uint32_t)));
  EXPECT_EQ(answer.status, 0);
  EXPECT_EQ(answer.payload.size(), count * sizeof(std::uint32_t));
  std::vector<std::uint32_t> words(count);
  if (answer.payload.size() == count * sizeof(std::uint32_t)) {
    std::memcpy(words.data(), answer.payload.data(), answer.payload.size());
  }
  Destroy(ObjectKind::kQueue, queue);
  return words;
}

ByteVector BackendBattery::Pattern(std::size_t size, std::uint8_t first) {
  ByteVector bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(first + i * 7 + i / 251);
  return bytes;
}

ByteVector BackendBattery::WordBytes(const std::vector<std::uint32_t>& words) {
  const ByteView bytes = std::as_bytes(std::span(words));
  return {bytes.begin(), bytes.end()};
}

}  // namespace tulle::gpu::conformance
