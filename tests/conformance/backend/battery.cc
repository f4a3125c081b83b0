#include "tests/conformance/backend/battery.h"

#include <chrono>
#include <cstring>

namespace tulle::gpu::conformance {
namespace {

using namespace std::chrono_literals;
using wire::opencl::ArgKind;
using wire::opencl::EventCompletion;
using wire::opencl::MemFlag;
using wire::opencl::ProgramKind;
using wire::opencl::QueueFlag;
namespace status = cl_status;

constexpr auto kDeadline = 60s;  // far more than anything here takes, on any machine

constexpr char kSource[] = R"(
__kernel void null_add(__global uint* data, uint value) { data[get_global_id(0)] += value; }
__kernel void null_mul(__global uint* data, uint value) { data[get_global_id(0)] *= value; }
__kernel void takes_local(__global uint* data, __local uint* scratch) {
  scratch[get_local_id(0)] = data[get_global_id(0)];
  barrier(CLK_LOCAL_MEM_FENCE);
  data[get_global_id(0)] = scratch[get_local_id(0)];
}
)";

constexpr std::uint64_t kOutOfOrder = static_cast<std::uint64_t>(QueueFlag::kOutOfOrder);
constexpr std::uint64_t kProfiling = static_cast<std::uint64_t>(QueueFlag::kProfiling);

}  // namespace

// --- the fixture -------------------------------------------------------------------------------------------

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

std::int32_t BackendBattery::SetMemory(Handle kernel, std::uint32_t index, Handle memory) {
  return Try(wire::opencl::SetKernelArg{{kernel}, index, {ArgKind::kMemory}, {memory}});
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

// --- devices, contexts, memory -----------------------------------------------------------------------------

TEST_P(BackendBattery, DescribesItsDevice) {
  const auto reply = WaitFor<wire::opencl::DescribeDeviceReply>(Send(wire::opencl::DescribeDevice{}));
  EXPECT_EQ(reply.status, 0);
  std::map<std::uint32_t, ByteView> infos;
  for (const auto& info : reply.infos.items) {
    EXPECT_TRUE(infos.emplace(info.name, info.value.bytes).second) << "described twice: " << info.name;
  }
  // What no program can do without: type, units, dimensions, group sizes, memory, name, version, extensions.
  const std::pair<std::uint32_t, std::size_t> sizes[] = {{0x1000, 8}, {0x1002, 4},  {0x1003, 4},
                                                         {0x1004, 8}, {0x1005, 24}, {0x1010, 8},
                                                         {0x101F, 8}, {0x1023, 8},  {0x102A, 8}};
  for (const auto& [name, size] : sizes) EXPECT_EQ(infos[name].size(), size) << std::hex << name;
  for (std::uint32_t text : {0x102B, 0x102C, 0x102D, 0x102E, 0x102F, 0x1030, 0x103D}) {
    ASSERT_FALSE(infos[text].empty()) << std::hex << text;
    EXPECT_EQ(infos[text].back(), std::byte{0}) << std::hex << text;
  }
  EXPECT_FALSE(infos.contains(0x1031));  // the platform: an address in the driver's process
  EXPECT_FALSE(infos.contains(0x1042));  // so is the parent
}

TEST_P(BackendBattery, FreshMemoryReadsAsZero) {
  const Handle queue = Queue();
  for (int i = 0; i < 3; ++i) {
    const Handle buffer = Buffer(70'000);
    const Answer read = Wait(Read(queue, buffer, 0, 70'000));
    EXPECT_EQ(read.status, 0);
    EXPECT_EQ(read.payload, ByteVector(70'000));
    EXPECT_EQ(Wait(Write(queue, buffer, 0, Pattern(70'000), {}, true)).status, 0);
    EXPECT_EQ(Wait(Finish(queue)).status, 0);
    Destroy(ObjectKind::kMemory, buffer);
  }
}

TEST_P(BackendBattery, InitialContentsPrecedeEverything) {
  const Handle queue = Queue();
  const Handle buffer = Buffer(10'000, 1u << 2 | 1u << 9);  // read-only for kernels, not at all for the host
  const ByteVector data = Pattern(10'000);
  EXPECT_EQ(Try(wire::opencl::InitBuffer{{buffer}, 0, {4'000}}, {data.begin(), data.begin() + 4'000}), 0);
  EXPECT_EQ(Try(wire::opencl::InitBuffer{{buffer}, 4'000, {6'000}}, {data.begin() + 4'000, data.end()}), 0);
  const Handle visible = Buffer(10'000);
  Send(wire::opencl::EnqueueCopy{{queue}, {buffer}, {visible}, 0, 0, 10'000});
  EXPECT_EQ(Wait(Read(queue, visible, 0, 10'000)).payload, data);

  EXPECT_EQ(Try(wire::opencl::InitBuffer{{buffer}, 9'999, {2}}, Pattern(2)), status::kInvalidValue);
  EXPECT_EQ(Try(wire::opencl::InitBuffer{{buffer}, ~std::uint64_t{0}, {2}}, Pattern(2)),
            status::kInvalidValue);
}

TEST_P(BackendBattery, WritesAndReadsAnyRange) {
  const Handle queue = Queue();
  const Handle buffer = Buffer(1 << 20);
  ByteVector expected(1 << 20);
  for (std::uint64_t offset : {0, 1, 4'095, 65'536, (1 << 20) - 333}) {
    ByteVector data = Pattern(333, static_cast<std::uint8_t>(offset));
    std::copy(data.begin(), data.end(), expected.begin() + offset);
    const std::uint64_t write = Write(queue, buffer, offset, data);
    WaitPayloadDone(write);
    EXPECT_EQ(Wait(Read(queue, buffer, offset, 333)).payload, data);
  }
  EXPECT_EQ(Wait(Read(queue, buffer, 0, 1 << 20)).payload, expected);
}

TEST_P(BackendBattery, RefusesBuffersThatCannotBe) {
  const auto create = [&](std::uint64_t size) {
    return Try(wire::opencl::CreateBuffer{{context_}, {NewHandle()}, {1}, size});
  };
  EXPECT_EQ(create(0), status::kInvalidBufferSize);
  EXPECT_LT(create(~std::uint64_t{0}), 0);
  EXPECT_LT(create(std::uint64_t{1} << 62), 0);
}

TEST_P(BackendBattery, ObjectsThatFailedAreInvalidAndCanBeDestroyed) {
  const Handle queue = Queue();
  const Handle buffer = NewHandle();
  const std::uint64_t create = Send(wire::opencl::CreateBuffer{{context_}, {buffer}, {1}, 0});
  EXPECT_EQ(WaitFailure(create), status::kInvalidBufferSize);
  EXPECT_EQ(Wait(Read(queue, buffer, 0, 4)).status, status::kInvalidMemObject);
  const std::uint64_t write = Write(queue, buffer, 0, Pattern(4), {}, true);
  EXPECT_EQ(Wait(write).status, status::kInvalidMemObject);
  WaitPayloadDone(write);
  Destroy(ObjectKind::kMemory, buffer);

  const Handle nothing = NewHandle();
  EXPECT_EQ(Try(wire::opencl::CreateQueue{{nothing}, {NewHandle()}, {}}), status::kInvalidContext);
  EXPECT_EQ(Try(wire::opencl::CreateBuffer{{nothing}, {NewHandle()}, {1}, 16}), status::kInvalidContext);
  EXPECT_EQ(Try(wire::opencl::CreateKernel{{nothing}, {NewHandle()}, {"null_add"}}),
            status::kInvalidProgramExecutable);
  EXPECT_EQ(SetUint(nothing, 0, 1), status::kInvalidKernel);
  EXPECT_EQ(Wait(Finish(nothing)).status, status::kInvalidCommandQueue);
  EXPECT_EQ(Try(wire::opencl::Flush{{nothing}}), status::kInvalidCommandQueue);
  EXPECT_EQ(Wait(Run(queue, nothing, 1, {}, true)).status, status::kInvalidKernel);
  EXPECT_EQ(SetUserEvent(nothing, 0), status::kInvalidEvent);
  for (ObjectKind kind : {ObjectKind::kContext, ObjectKind::kQueue, ObjectKind::kMemory, ObjectKind::kProgram,
                          ObjectKind::kKernel, ObjectKind::kEvent}) {
    EXPECT_EQ(Try(wire::DestroyObject{{kind, nothing}}), 0);
  }
}

TEST_P(BackendBattery, NothingReachesBeyondABuffer) {
  const Handle queue = Queue();
  const Handle buffer = Buffer(1'000);
  const Handle other = Buffer(1'000);
  constexpr std::uint64_t kMost = ~std::uint64_t{0};
  const std::pair<std::uint64_t, std::uint64_t> ranges[] = {
      {0, 1'001}, {1, 1'000}, {1'000, 1}, {kMost, 1}, {kMost - 499, 500}, {kMost - 499, 999}, {1u << 31, 4}};
  for (const auto& [offset, size] : ranges) {
    SCOPED_TRACE(testing::Message() << offset << " + " << size);
    const Answer read = Wait(Read(queue, buffer, offset, size));
    EXPECT_EQ(read.status, status::kInvalidValue);
    EXPECT_TRUE(read.payload.empty());
    const std::uint64_t write = Write(queue, buffer, offset, Pattern(size), {}, true);
    EXPECT_EQ(Wait(write).status, status::kInvalidValue);
    WaitPayloadDone(write);
    EXPECT_EQ(Try(wire::opencl::EnqueueCopy{{queue}, {buffer}, {other}, offset, 0, size}),
              status::kInvalidValue);
    EXPECT_EQ(Try(wire::opencl::EnqueueCopy{{queue}, {other}, {buffer}, 0, offset, size}),
              status::kInvalidValue);
    const ByteVector pattern = Pattern(1);
    EXPECT_EQ(Try(wire::opencl::EnqueueFill{{queue}, {buffer}, offset, size, {pattern}}),
              status::kInvalidValue);
  }
  EXPECT_EQ(Wait(Read(queue, buffer, 0, 0)).status, status::kInvalidValue);
  EXPECT_EQ(Wait(Write(queue, buffer, 0, {}, {}, true)).status, status::kInvalidValue);
}

TEST_P(BackendBattery, HostAccessFlagsHold) {
  const Handle queue = Queue();
  const Handle write_only = Buffer(64, 1u << 0 | 1u << 7);
  const Handle read_only = Buffer(64, 1u << 0 | 1u << 8);
  const Handle no_access = Buffer(64, 1u << 0 | 1u << 9);
  EXPECT_EQ(Wait(Read(queue, write_only, 0, 4)).status, status::kInvalidOperation);
  EXPECT_EQ(Wait(Read(queue, read_only, 0, 4)).status, 0);
  EXPECT_EQ(Wait(Read(queue, no_access, 0, 4)).status, status::kInvalidOperation);
  EXPECT_EQ(Wait(Write(queue, write_only, 0, Pattern(4), {}, true)).status, 0);
  EXPECT_EQ(Wait(Write(queue, read_only, 0, Pattern(4), {}, true)).status, status::kInvalidOperation);
  EXPECT_EQ(Wait(Write(queue, no_access, 0, Pattern(4), {}, true)).status, status::kInvalidOperation);
}

TEST_P(BackendBattery, CopiesBetweenAndWithinBuffers) {
  const Handle queue = Queue();
  const Handle a = Buffer(1'000);
  const Handle b = Buffer(1'000);
  const ByteVector data = Pattern(1'000);
  Write(queue, a, 0, data);
  EXPECT_EQ(Try(wire::opencl::EnqueueCopy{{queue}, {a}, {b}, 100, 7, 500}), 0);
  EXPECT_EQ(Wait(Read(queue, b, 7, 500)).payload, ByteVector(data.begin() + 100, data.begin() + 600));
  EXPECT_EQ(Try(wire::opencl::EnqueueCopy{{queue}, {a}, {a}, 0, 500, 500}), 0);
  EXPECT_EQ(Wait(Read(queue, a, 500, 500)).payload, ByteVector(data.begin(), data.begin() + 500));
  EXPECT_EQ(Try(wire::opencl::EnqueueCopy{{queue}, {a}, {a}, 0, 499, 500}), status::kMemCopyOverlap);
}

TEST_P(BackendBattery, FillsWithEveryPatternSize) {
  const Handle queue = Queue();
  const Handle buffer = Buffer(4'096);
  for (std::size_t size = 1; size <= 128; size *= 2) {
    SCOPED_TRACE(size);
    const ByteVector pattern = Pattern(size, static_cast<std::uint8_t>(size));
    EXPECT_EQ(Try(wire::opencl::EnqueueFill{{queue}, {buffer}, size * 3, size * 5, {pattern}}), 0);
    ByteVector expected;
    for (int i = 0; i < 5; ++i) expected.insert(expected.end(), pattern.begin(), pattern.end());
    EXPECT_EQ(Wait(Read(queue, buffer, size * 3, size * 5)).payload, expected);
    if (size == 1) continue;
    EXPECT_EQ(Try(wire::opencl::EnqueueFill{{queue}, {buffer}, size / 2, size, {pattern}}),
              status::kInvalidValue);
    EXPECT_EQ(Try(wire::opencl::EnqueueFill{{queue}, {buffer}, 0, size / 2, {pattern}}),
              status::kInvalidValue);
  }
  for (std::size_t size : {0, 3, 127}) {
    const ByteVector pattern = Pattern(size);
    EXPECT_EQ(Try(wire::opencl::EnqueueFill{{queue}, {buffer}, 0, 384, {pattern}}), status::kInvalidValue);
  }
  const ByteVector pattern = Pattern(4);
  EXPECT_EQ(Try(wire::opencl::EnqueueFill{{queue}, {buffer}, 0, 0, {pattern}}), status::kInvalidValue);
}

// --- programs and kernels ----------------------------------------------------------------------------------

TEST_P(BackendBattery, LoadsWhatTheCompilerMadeAndDescribesItsKernels) {
  const Handle program = NewHandle();
  const std::uint64_t sequence =
      Send(wire::exec::LoadProgram{context_, program, {Binary().size()}}, {false, Binary()});
  const auto reply = WaitFor<wire::exec::LoadProgramReply>(sequence);
  EXPECT_EQ(reply.status, 0);
  WaitPayloadDone(sequence);
  std::map<std::string_view, wire::opencl::KernelInfo> kernels;
  for (const auto& kernel : reply.kernels.items) kernels[kernel.name.text] = kernel;
  ASSERT_EQ(kernels.size(), 3u);
  ASSERT_TRUE(kernels.contains("null_add") && kernels.contains("null_mul") &&
              kernels.contains("takes_local"));
  const wire::opencl::KernelInfo& local = kernels["takes_local"];
  EXPECT_GT(local.work_group_size, 0u);
  EXPECT_GT(local.preferred_work_group_multiple, 0u);
  EXPECT_EQ(local.arg_count, 2u);
  constexpr std::uint32_t kGlobal = 0x119B, kLocal = 0x119C, kPrivate = 0x119E;
  if (!local.args.items.empty()) {
    ASSERT_EQ(local.args.items.size(), 2u);
    EXPECT_EQ(local.args.items[0].address_qualifier, kGlobal);
    EXPECT_EQ(local.args.items[0].name.text, "data");
    EXPECT_EQ(local.args.items[0].type_name.text, "uint*");
    EXPECT_EQ(local.args.items[1].address_qualifier, kLocal);
    EXPECT_EQ(kernels["null_add"].args.items[1].address_qualifier, kPrivate);
    EXPECT_EQ(kernels["null_add"].args.items[1].type_name.text, "uint");
  }

  EXPECT_EQ(Try(wire::opencl::CreateKernel{{program}, {NewHandle()}, {"null_add"}}), 0);
  EXPECT_EQ(Try(wire::opencl::CreateKernel{{program}, {NewHandle()}, {"null_ad"}}),
            status::kInvalidKernelName);
  EXPECT_EQ(Try(wire::opencl::CreateKernel{{program}, {NewHandle()}, {""}}), status::kInvalidKernelName);

  // A rebuild replaces the program; its kernels are not touched.
  const Handle kernel = NewHandle();
  EXPECT_EQ(Try(wire::opencl::CreateKernel{{program}, {kernel}, {"null_mul"}}), 0);
  EXPECT_EQ(Try(wire::exec::LoadProgram{context_, program, {Binary().size()}}, Binary()), 0);
  EXPECT_EQ(SetUint(kernel, 1, 1), 0);
  EXPECT_EQ(Try(wire::opencl::CreateKernel{{program}, {NewHandle()}, {"null_mul"}}), 0);
}

TEST_P(BackendBattery, CompilersSayWhatIsWrong) {
  const CompileOutput bad = GetParam().compile(ProgramKind::kSource, "#error no such luck\n", "");
  EXPECT_EQ(bad.status, status::kBuildProgramFailure);
  EXPECT_NE(bad.log.find("no such luck"), std::string::npos) << bad.log;
  EXPECT_TRUE(bad.binary.empty());
  const CompileOutput garbage = GetParam().compile(ProgramKind::kBinary, "not a binary", "");
  EXPECT_NE(garbage.status, 0);
  EXPECT_NE(GetParam().compile(ProgramKind::kBinary, "", "").status, 0);
  const std::string binary(AsText(Binary()));
  const CompileOutput again = GetParam().compile(ProgramKind::kBinary, binary, "");
  EXPECT_EQ(again.status, 0) << again.log;
  EXPECT_FALSE(again.binary.empty());
}

TEST_P(BackendBattery, CompilerOptionsReachTheProgram) {
  if (!GetParam().checks_programs) GTEST_SKIP() << "takes any options";
  const std::string source = "__kernel void k(__global uint* d) { d[0] = VALUE; }";
  EXPECT_EQ(GetParam().compile(ProgramKind::kSource, source, "").status, status::kBuildProgramFailure);
  const CompileOutput good =
      GetParam().compile(ProgramKind::kSource, source, "-DVALUE=77 -cl-kernel-arg-info");
  ASSERT_EQ(good.status, 0) << good.log;
  EXPECT_LT(GetParam().compile(ProgramKind::kSource, source, "-DVALUE=1 -no-such-option").status, 0);
  const Handle program = NewHandle();
  ASSERT_EQ(Try(wire::exec::LoadProgram{context_, program, {good.binary.size()}}, good.binary), 0);
  const Handle kernel = NewHandle();
  ASSERT_EQ(Try(wire::opencl::CreateKernel{{program}, {kernel}, {"k"}}), 0);
  const Handle buffer = Buffer(4);
  ASSERT_EQ(SetMemory(kernel, 0, buffer), 0);
  const Handle queue = Queue();
  Run(queue, kernel, 1);
  EXPECT_EQ(Wait(Finish(queue)).status, 0);
  EXPECT_EQ(Words(buffer, 1)[0], 77u);
}

TEST_P(BackendBattery, BinariesThatAreNoneDoNotLoad) {
  if (!GetParam().checks_programs) GTEST_SKIP() << "takes any binary";
  const Handle program = NewHandle();
  // Not tried: a binary that begins like one of the driver's. PoCL aborts the process on many of those, which
  // is one reason why binaries of programs go through a builder first.
  for (const ByteVector& binary : {Pattern(1'000), Pattern(1)}) {
    const std::uint64_t sequence =
        Send(wire::exec::LoadProgram{context_, program, {binary.size()}}, {false, binary});
    EXPECT_LT(Wait(sequence).status, 0);
    WaitPayloadDone(sequence);
  }
  EXPECT_LT(Wait(Send(wire::exec::LoadProgram{context_, program, {0}})).status, 0);
  EXPECT_EQ(Try(wire::opencl::CreateKernel{{program}, {NewHandle()}, {"null_add"}}),
            status::kInvalidProgramExecutable);
  Destroy(ObjectKind::kProgram, program);
}

TEST_P(BackendBattery, KernelsRunOnTheirArgumentsOfThatMoment) {
  const Handle queue = Queue();
  const Handle buffer = Buffer(4'096);
  const Handle add = Kernel("null_add");
  ASSERT_EQ(SetMemory(add, 0, buffer), 0);
  ASSERT_EQ(SetUint(add, 1, 5), 0);
  Run(queue, add, 1'024);
  ASSERT_EQ(SetUint(add, 1, 70), 0);  // the kernel above has its 5
  Run(queue, add, 512);
  EXPECT_EQ(Wait(Finish(queue)).status, 0);
  const auto words = Words(buffer, 1'024);
  for (std::size_t i = 0; i < words.size(); ++i) ASSERT_EQ(words[i], i < 512 ? 75u : 5u) << i;

  // With an offset, and a group size.
  EXPECT_EQ(Try(wire::opencl::EnqueueKernel{{queue}, {add}, 1, {1'000}, {24}, {8}}), 0);
  EXPECT_EQ(Wait(Finish(queue)).status, 0);
  EXPECT_EQ(Words(buffer, 1'024)[999], 5u);
  EXPECT_EQ(Words(buffer, 1'024)[1'000], 75u);
}

TEST_P(BackendBattery, WrongArgumentsAreRefused) {
  const Handle kernel = Kernel("null_add");
  const Handle buffer = Buffer(64);
  EXPECT_EQ(SetMemory(kernel, 2, buffer), status::kInvalidArgIndex);
  EXPECT_EQ(SetUint(kernel, ~0u, 1), status::kInvalidArgIndex);
  EXPECT_EQ(SetMemory(kernel, 1, buffer), status::kInvalidArgValue);  // not a buffer there
  EXPECT_EQ(SetUint(kernel, 0, 1), status::kInvalidArgValue);         // a number where a buffer goes
  const std::uint64_t forged = 0x7f0000001000;
  const auto raw = [&](Handle k, std::uint32_t index, ByteView bytes) {
    return Try(wire::opencl::SetKernelArg{{k}, index, {ArgKind::kValue}, {}, 0, {bytes}});
  };
  EXPECT_EQ(raw(kernel, 0, std::as_bytes(std::span(&forged, 1))), status::kInvalidArgValue);
  EXPECT_EQ(raw(kernel, 1, std::as_bytes(std::span(&forged, 1))), status::kInvalidArgSize);
  EXPECT_EQ(raw(kernel, 1, {}), status::kInvalidArgSize);
  EXPECT_EQ(SetMemory(kernel, 0, NewHandle()), status::kInvalidMemObject);

  const Handle local = Kernel("takes_local");
  const auto set_local = [&](Handle k, std::uint32_t index, std::uint64_t bytes) {
    return Try(wire::opencl::SetKernelArg{{k}, index, {ArgKind::kLocal}, {}, bytes, {}});
  };
  EXPECT_EQ(set_local(local, 1, 0), status::kInvalidArgSize);
  EXPECT_LT(set_local(local, 1, ~std::uint64_t{0}), 0);
  EXPECT_EQ(set_local(local, 0, 64), status::kInvalidArgValue);
  EXPECT_EQ(SetMemory(local, 1, buffer), status::kInvalidArgValue);
  EXPECT_EQ(set_local(kernel, 1, 64), status::kInvalidArgValue);

  const Handle queue = Queue();
  EXPECT_EQ(Wait(Run(queue, kernel, 1, {}, true)).status, status::kInvalidKernelArgs);  // none was set
  EXPECT_EQ(SetMemory(kernel, 0, buffer), 0);
  EXPECT_EQ(Wait(Run(queue, kernel, 1, {}, true)).status, status::kInvalidKernelArgs);
  EXPECT_EQ(SetUint(kernel, 1, 1), 0);
  EXPECT_EQ(Wait(Run(queue, kernel, 1, {}, true)).status, 0);
  EXPECT_EQ(SetMemory(local, 0, buffer), 0);
  EXPECT_EQ(set_local(local, 1, 64), 0);
  EXPECT_EQ(Wait(Run(queue, local, 16, {}, true)).status, 0);
  EXPECT_EQ(Wait(Finish(queue)).status, 0);
}

TEST_P(BackendBattery, ADestroyedBufferIsNoArgument) {
  const Handle queue = Queue();
  const Handle kernel = Kernel("null_add");
  Handle buffer = Buffer(64);
  ASSERT_EQ(SetMemory(kernel, 0, buffer), 0);
  ASSERT_EQ(SetUint(kernel, 1, 1), 0);
  Run(queue, kernel, 16);
  EXPECT_EQ(Wait(Finish(queue)).status, 0);
  Destroy(ObjectKind::kMemory, buffer);
  EXPECT_EQ(Wait(Run(queue, kernel, 16, {}, true)).status, status::kInvalidKernelArgs);
  buffer = Buffer(64);  // the same slot
  EXPECT_EQ(Wait(Run(queue, kernel, 16, {}, true)).status, status::kInvalidKernelArgs);
  ASSERT_EQ(SetMemory(kernel, 0, buffer), 0);
  EXPECT_EQ(Wait(Run(queue, kernel, 16, {}, true)).status, 0);
}

TEST_P(BackendBattery, WrongRangesAreRefused) {
  const Handle queue = Queue();
  const Handle kernel = Kernel("null_add");
  const Handle buffer = Buffer(65'536);
  ASSERT_EQ(SetMemory(kernel, 0, buffer), 0);
  ASSERT_EQ(SetUint(kernel, 1, 1), 0);
  const auto run = [&](std::uint32_t dim, wire::Vec3 offset, wire::Vec3 global, wire::Vec3 local) {
    return Try(wire::opencl::EnqueueKernel{{queue}, {kernel}, dim, offset, global, local});
  };
  EXPECT_EQ(run(0, {}, {16}, {}), status::kInvalidWorkDimension);
  EXPECT_EQ(run(4, {}, {16, 1, 1}, {}), status::kInvalidWorkDimension);
  EXPECT_EQ(run(2, {}, {16, 2}, {4, 0}), status::kInvalidWorkGroupSize);
  EXPECT_EQ(run(1, {}, {16}, {5}), status::kInvalidWorkGroupSize);
  EXPECT_LT(run(1, {}, {1u << 30}, {1u << 30}), 0);
  EXPECT_EQ(run(1, {~std::uint64_t{0} - 3}, {16}, {}), status::kInvalidGlobalOffset);
  EXPECT_EQ(run(3, {}, {2, 2, 2}, {2, 1, 2}), 0);
  EXPECT_EQ(Wait(Finish(queue)).status, 0);
}

// --- events ------------------------------------------------------------------------------------------------

TEST_P(BackendBattery, EveryCommandCompletesItsEvent) {
  const Handle queue = Queue();
  const Handle a = Buffer(64);
  const Handle b = Buffer(64);
  const Handle kernel = Kernel("null_add");
  ASSERT_EQ(SetMemory(kernel, 0, a), 0);
  ASSERT_EQ(SetUint(kernel, 1, 1), 0);
  const ByteVector pattern = Pattern(4);
  std::vector<Handle> events;
  const auto event = [&] { return events.emplace_back(NewHandle()); };
  Write(queue, a, 0, Pattern(64), {.event = event()});
  Run(queue, kernel, 16, {.event = event()});
  Send(wire::opencl::EnqueueCopy{{queue}, {a}, {b}, 0, 0, 64, {}, {event()}});
  Send(wire::opencl::EnqueueFill{{queue}, {a}, 0, 64, {pattern}, {}, {event()}});
  Marker(queue, {.event = event()});
  Barrier(queue, {.event = event()});
  const std::uint64_t read = Read(queue, b, 0, 64, {.event = event()});
  for (Handle handle : events) {
    const EventCompletion completion = WaitEvent(handle);
    EXPECT_EQ(completion.status, 0);
    EXPECT_EQ(completion.ended_ns, 0u);  // the queue does not profile
  }
  EXPECT_EQ(Wait(read).status, 0);
}

TEST_P(BackendBattery, AReadIsAnsweredBeforeItsEventCompletes) {
  const Handle queue = Queue();
  const Handle buffer = Buffer(4'096);
  for (int i = 0; i < 50; ++i) {
    const Handle event = NewHandle();
    const std::uint64_t read = Read(queue, buffer, 0, 4'096, {.event = event});
    Position completed = 0;
    EXPECT_EQ(WaitEvent(event, &completed).status, 0);
    ASSERT_TRUE(Answered(read));
    EXPECT_LT(Wait(read).position, completed);
    Destroy(ObjectKind::kEvent, event);
  }
}

TEST_P(BackendBattery, CommandsWaitForUserEvents) {
  const Handle queue = Queue();
  const Handle buffer = Buffer(64);
  const Handle gate = UserEvent();
  const Handle written = NewHandle();
  Write(queue, buffer, 0, Pattern(64), {.waits = {gate}, .event = written});
  const std::uint64_t read = Read(queue, buffer, 0, 64);
  const std::uint64_t finish = Finish(queue);
  // Other queues go on meanwhile.
  const Handle other = Queue();
  EXPECT_EQ(Wait(Read(other, Buffer(64), 0, 64)).status, 0);
  EXPECT_EQ(Wait(Finish(other)).status, 0);
  EXPECT_FALSE(Completed(written));
  EXPECT_FALSE(Answered(read));
  EXPECT_FALSE(Answered(finish));
  EXPECT_EQ(SetUserEvent(gate, 0), 0);
  EXPECT_EQ(WaitEvent(written).status, 0);
  EXPECT_EQ(Wait(read).payload, Pattern(64));
  EXPECT_EQ(Wait(finish).status, 0);
  EXPECT_EQ(SetUserEvent(gate, 0), status::kInvalidOperation);  // once only
  EXPECT_EQ(SetUserEvent(written, 0), status::kInvalidOperation);
}

TEST_P(BackendBattery, WaitListsCrossQueues) {
  const Handle queues[] = {Queue(), Queue(), Queue(kOutOfOrder)};
  const Handle buffer = Buffer(4);
  const Handle add = Kernel("null_add");
  const Handle mul = Kernel("null_mul");
  ASSERT_EQ(SetMemory(add, 0, buffer), 0);
  ASSERT_EQ(SetUint(add, 1, 3), 0);
  ASSERT_EQ(SetMemory(mul, 0, buffer), 0);
  ASSERT_EQ(SetUint(mul, 1, 5), 0);
  // x = (x + 3) * 5, eight times, each step on another queue and waiting for the one before.
  std::uint32_t expected = 0;
  Handle last = UserEvent();
  const Handle gate = last;
  for (int i = 0; i < 16; ++i) {
    const Handle next = NewHandle();
    Run(queues[i % 3], i % 2 == 0 ? add : mul, 1, {.waits = {last}, .event = next});
    expected = i % 2 == 0 ? expected + 3 : expected * 5;
    if (last != gate) Destroy(ObjectKind::kEvent, last, false);
    last = next;
  }
  EXPECT_EQ(SetUserEvent(gate, 0), 0);
  EXPECT_EQ(WaitEvent(last).status, 0);
  EXPECT_EQ(Words(buffer, 1)[0], expected);
}

TEST_P(BackendBattery, AFailedUserEventFailsWhatWaitsForIt) {
  for (std::uint64_t flags : {std::uint64_t{0}, kOutOfOrder}) {
    const Handle queue = Queue(flags);
    const Handle buffer = Buffer(64);
    const Handle gate = UserEvent();
    const Handle written = NewHandle();
    const Handle marked = NewHandle();
    const std::uint64_t write = Write(queue, buffer, 0, Pattern(64), {.waits = {gate}, .event = written});
    Marker(queue, {.waits = {written}, .event = marked});
    const std::uint64_t read = Read(queue, buffer, 0, 64, {.waits = {gate}});
    EXPECT_EQ(SetUserEvent(gate, -5), 0);
    EXPECT_LT(WaitEvent(written).status, 0);
    EXPECT_LT(WaitEvent(marked).status, 0);
    WaitPayloadDone(write);
    const Answer answer = Wait(read);
    EXPECT_LT(answer.status, 0);
    EXPECT_TRUE(answer.payload.empty());
    // Known to have failed by now.
    EXPECT_EQ(Wait(Read(queue, buffer, 0, 64, {.waits = {gate}})).status,
              status::kExecStatusErrorForEventsInWaitList);
    EXPECT_EQ(Wait(Finish(queue)).status, 0);
    EXPECT_EQ(Words(buffer, 16), std::vector<std::uint32_t>(16));
  }
}

TEST_P(BackendBattery, AUserEventDestroyedUnsetReleasesWhatWaits) {
  const Handle queue = Queue();
  const Handle buffer = Buffer(64);
  const Handle gate = UserEvent();
  const Handle written = NewHandle();
  Write(queue, buffer, 0, Pattern(64), {.waits = {gate}, .event = written});
  const std::uint64_t finish = Finish(queue);
  Destroy(ObjectKind::kEvent, gate);
  EXPECT_LT(WaitEvent(written).status, 0);
  EXPECT_EQ(Wait(finish).status, 0);
}

TEST_P(BackendBattery, AFailedEnqueueLeavesAFailedEvent) {
  const Handle queue = Queue();
  const Handle buffer = Buffer(64);
  const Handle failed = NewHandle();
  const std::uint64_t write = Write(queue, buffer, 60, Pattern(64), {.event = failed});
  EXPECT_EQ(WaitFailure(write), status::kInvalidValue);
  EXPECT_EQ(WaitEvent(failed).status, status::kInvalidValue);
  WaitPayloadDone(write);

  const Handle failed_read = NewHandle();
  const std::uint64_t read = Read(queue, buffer, 60, 64, {.event = failed_read});
  Position completed = 0;
  EXPECT_EQ(WaitEvent(failed_read, &completed).status, status::kInvalidValue);
  EXPECT_EQ(Wait(read).status, status::kInvalidValue);
  EXPECT_LT(Wait(read).position, completed);

  const Handle next = NewHandle();
  const std::uint64_t waits = Read(queue, buffer, 0, 64, {.waits = {failed}, .event = next});
  EXPECT_EQ(Wait(waits).status, status::kExecStatusErrorForEventsInWaitList);
  EXPECT_EQ(WaitEvent(next).status, status::kExecStatusErrorForEventsInWaitList);
  const std::uint64_t run = Marker(queue, {.waits = {next}});
  EXPECT_EQ(WaitFailure(run), status::kExecStatusErrorForEventsInWaitList);
  EXPECT_EQ(Wait(Read(queue, buffer, 0, 64, {.waits = {NewHandle()}})).status, status::kInvalidEventWaitList);
  Destroy(ObjectKind::kEvent, failed);
  EXPECT_EQ(Wait(Finish(queue)).status, 0);
}

TEST_P(BackendBattery, EventsMayBeDestroyedWhileTheirCommandsRun) {
  const Handle queue = Queue(kProfiling);
  const Handle buffer = Buffer(64);
  const Handle gate = UserEvent();
  std::vector<Handle> events;
  std::vector<std::uint64_t> reads;
  for (int i = 0; i < 20; ++i) {
    events.push_back(NewHandle());
    reads.push_back(Read(queue, buffer, 0, 64, {.waits = {gate}, .event = events.back()}));
  }
  for (Handle event : events) EXPECT_EQ(Try(wire::DestroyObject{{ObjectKind::kEvent, event}}), 0);
  EXPECT_EQ(SetUserEvent(gate, 0), 0);
  for (std::uint64_t read : reads) EXPECT_EQ(Wait(read).status, 0);
  for (Handle event : events) EXPECT_EQ(WaitEvent(event).status, 0);
}

TEST_P(BackendBattery, ProfilingQueuesReportTimesInOrder) {
  const Handle queue = Queue(kProfiling);
  const Handle buffer = Buffer(1 << 20);
  std::uint64_t last_end = 0;
  for (int i = 0; i < 5; ++i) {
    const Handle event = NewHandle();
    Write(queue, buffer, 0, Pattern(1 << 20), {.event = event});
    const EventCompletion times = WaitEvent(event);
    EXPECT_EQ(times.status, 0);
    EXPECT_GT(times.queued_ns, 0u);
    EXPECT_LE(times.queued_ns, times.submitted_ns);
    EXPECT_LE(times.submitted_ns, times.started_ns);
    EXPECT_LE(times.started_ns, times.ended_ns);
    EXPECT_LE(last_end, times.started_ns);
    last_end = times.ended_ns;
  }
}

// --- order -------------------------------------------------------------------------------------------------

TEST_P(BackendBattery, FinishIsAnsweredBehindEverythingBeforeIt) {
  for (std::uint64_t flags : {std::uint64_t{0}, kOutOfOrder, kProfiling}) {
    const Handle queue = Queue(flags);
    const Handle buffer = Buffer(4'096);
    const Handle kernel = Kernel("null_add");
    ASSERT_EQ(SetMemory(kernel, 0, buffer), 0);
    ASSERT_EQ(SetUint(kernel, 1, 1), 0);
    EXPECT_EQ(Wait(Finish(queue)).status, 0);  // nothing to finish
    for (int round = 0; round < 20; ++round) {
      std::vector<Handle> events;
      std::vector<std::uint64_t> reads;
      for (int i = 0; i < 10; ++i) {
        const Options options{.event = events.emplace_back(NewHandle())};
        if (i % 3 == 0) {
          Run(queue, kernel, 1'024, options);
        } else if (i % 3 == 1) {
          reads.push_back(Read(queue, buffer, 0, 4'096, options));
        } else {
          Run(queue, kernel, 1'024);
          Marker(queue, options);
        }
      }
      if (round % 2 == 0) Run(queue, kernel, 1'024);  // the last command has no event
      const Answer finished = Wait(Finish(queue));
      EXPECT_EQ(finished.status, 0);
      for (Handle event : events) {
        ASSERT_TRUE(Completed(event));
        Position position = 0;
        EXPECT_EQ(WaitEvent(event, &position).status, 0);
        EXPECT_LT(position, finished.position);
        Destroy(ObjectKind::kEvent, event);
      }
      for (std::uint64_t read : reads) EXPECT_LT(Wait(read).position, finished.position);
    }
  }
}

TEST_P(BackendBattery, FinishesAreAnsweredInOrderAndDoNotBlock) {
  const Handle queue = Queue();
  const Handle gate = UserEvent();
  std::vector<std::uint64_t> finishes;
  Marker(queue, {.waits = {gate}});
  for (int i = 0; i < 5; ++i) finishes.push_back(Finish(queue));
  Marker(queue);
  for (int i = 0; i < 5; ++i) finishes.push_back(Finish(queue));
  EXPECT_FALSE(Answered(finishes.front()));
  EXPECT_EQ(SetUserEvent(gate, 0), 0);
  Position last = 0;
  for (std::uint64_t finish : finishes) {
    const Answer answer = Wait(finish);
    EXPECT_EQ(answer.status, 0);
    EXPECT_GT(answer.position, last);
    last = answer.position;
  }
}

TEST_P(BackendBattery, FinishOfUntrackedCommandsMeansTheyRan) {
  for (std::uint64_t flags : {std::uint64_t{0}, kOutOfOrder}) {
    const Handle queue = Queue(flags);
    const Handle buffer = Buffer(4'096);
    const Handle kernel = Kernel("null_add");
    ASSERT_EQ(SetMemory(kernel, 0, buffer), 0);
    ASSERT_EQ(SetUint(kernel, 1, 1), 0);
    for (std::uint32_t round = 1; round <= 100; ++round) {
      Run(queue, kernel, 1'024);
      EXPECT_EQ(Wait(Finish(queue)).status, 0);
      if (round % 25 == 0) {
        EXPECT_EQ(Words(buffer, 1'024), std::vector<std::uint32_t>(1'024, round));
      }
    }
  }
}

TEST_P(BackendBattery, AnOutOfOrderQueueRunsWhatCanRun) {
  const Handle queue = Queue(kOutOfOrder);
  const Handle buffer = Buffer(64);
  const Handle gate = UserEvent();
  const std::uint64_t blocked = Read(queue, buffer, 0, 64, {.waits = {gate}});
  EXPECT_EQ(Wait(Read(queue, buffer, 0, 64)).status, 0);
  EXPECT_FALSE(Answered(blocked));
  EXPECT_EQ(SetUserEvent(gate, 0), 0);
  EXPECT_EQ(Wait(blocked).status, 0);
}

TEST_P(BackendBattery, BarriersHoldAnOutOfOrderQueue) {
  const Handle queue = Queue(kOutOfOrder);
  const Handle buffer = Buffer(64);
  const Handle gate = UserEvent();
  const Handle marked = NewHandle();
  const Handle passed = NewHandle();
  Read(queue, buffer, 0, 64, {.waits = {gate}});
  Marker(queue, {.event = marked});  // behind all so far
  Barrier(queue, {.event = passed});
  const std::uint64_t behind = Read(queue, buffer, 0, 64);
  const Handle other = Queue();
  EXPECT_EQ(Wait(Read(other, buffer, 0, 64)).status, 0);
  EXPECT_FALSE(Completed(marked));
  EXPECT_FALSE(Completed(passed));
  EXPECT_FALSE(Answered(behind));
  EXPECT_EQ(SetUserEvent(gate, 0), 0);
  EXPECT_EQ(WaitEvent(marked).status, 0);
  EXPECT_EQ(WaitEvent(passed).status, 0);
  EXPECT_EQ(Wait(behind).status, 0);
}

TEST_P(BackendBattery, ManyCommandsWithEventsCompleteEachOnce) {
  const Handle queues[] = {Queue(), Queue(kOutOfOrder), Queue(kProfiling)};
  const Handle buffer = Buffer(4'096);
  const Handle kernel = Kernel("null_add");
  ASSERT_EQ(SetMemory(kernel, 0, buffer), 0);
  ASSERT_EQ(SetUint(kernel, 1, 1), 0);
  std::vector<Handle> events;
  std::vector<std::uint64_t> writes;
  for (int i = 0; i < 1'500; ++i) {
    const Handle event = events.emplace_back(NewHandle());
    if (i % 4 == 3) {
      writes.push_back(Write(queues[i % 3], buffer, 0, Pattern(64), {.event = event}));
    } else {
      Run(queues[i % 3], kernel, 16, {.event = event});
    }
  }
  for (Handle queue : queues) EXPECT_EQ(Wait(Finish(queue)).status, 0);
  for (Handle event : events) ASSERT_TRUE(Completed(event));
  for (std::uint64_t write : writes) WaitPayloadDone(write);
}

// --- transfers in pieces -----------------------------------------------------------------------------------

TEST_P(BackendBattery, APiecewiseTransferHasOneEvent) {
  for (std::uint64_t flags : {kProfiling, kOutOfOrder | kProfiling}) {
    const Handle queue = Queue(flags);
    const Handle buffer = Buffer(5'000);
    const ByteVector data = Pattern(5'000, static_cast<std::uint8_t>(flags));
    const Handle gate = UserEvent();
    const Handle written = NewHandle();
    const auto piece = [&](std::size_t begin, std::size_t end) {
      return ByteVector(data.begin() + begin, data.begin() + end);
    };
    std::vector<std::uint64_t> writes;
    writes.push_back(
        Write(queue, buffer, 0, piece(0, 2'000), {.waits = {gate}, .transfer = 9, .more = true}));
    writes.push_back(
        Write(queue, buffer, 2'000, piece(2'000, 4'000), {.waits = {gate}, .transfer = 9, .more = true}));
    writes.push_back(
        Write(queue, buffer, 4'000, piece(4'000, 5'000), {.waits = {gate}, .event = written, .transfer = 9}));
    const Handle read_done = NewHandle();
    std::vector<std::uint64_t> reads;
    reads.push_back(Read(queue, buffer, 0, 2'000, {.waits = {written}, .transfer = 10, .more = true}));
    reads.push_back(Read(queue, buffer, 2'000, 2'000, {.waits = {written}, .transfer = 10, .more = true}));
    reads.push_back(
        Read(queue, buffer, 4'000, 1'000, {.waits = {written}, .event = read_done, .transfer = 10}));
    EXPECT_FALSE(Completed(written));
    EXPECT_EQ(SetUserEvent(gate, 0), 0);
    Position write_position = 0;
    Position read_position = 0;
    const EventCompletion write_times = WaitEvent(written, &write_position);
    const EventCompletion read_times = WaitEvent(read_done, &read_position);
    EXPECT_EQ(write_times.status, 0);
    EXPECT_EQ(read_times.status, 0);
    for (std::uint64_t write : writes) EXPECT_LT(WaitPayloadDone(write), write_position);
    ByteVector all;
    for (std::uint64_t read : reads) {
      ASSERT_TRUE(Answered(read));
      const Answer answer = Wait(read);
      EXPECT_EQ(answer.status, 0);
      EXPECT_LT(answer.position, read_position);
      all.insert(all.end(), answer.payload.begin(), answer.payload.end());
    }
    EXPECT_EQ(all, data);
    for (const EventCompletion& times : {write_times, read_times}) {
      EXPECT_GT(times.queued_ns, 0u);
      EXPECT_LE(times.queued_ns, times.submitted_ns);
      EXPECT_LE(times.submitted_ns, times.started_ns);
      EXPECT_LT(times.started_ns, times.ended_ns);
    }
    EXPECT_LE(write_times.ended_ns, read_times.started_ns);
  }
}

TEST_P(BackendBattery, PiecesOfTransfersMayInterleave) {
  for (std::uint64_t flags : {std::uint64_t{0}, kOutOfOrder}) {
    const Handle queue = Queue(flags);
    const Handle buffer = Buffer(6'000);
    const Handle first = NewHandle();
    const Handle second = NewHandle();
    Write(queue, buffer, 0, Pattern(1'000, 1), {.transfer = 1, .more = true});
    Write(queue, buffer, 3'000, Pattern(1'000, 4), {.transfer = 2, .more = true});
    Write(queue, buffer, 1'000, Pattern(1'000, 2), {.transfer = 1, .more = true});
    Write(queue, buffer, 4'000, Pattern(1'000, 5), {.transfer = 2, .more = true});
    Write(queue, buffer, 5'000, Pattern(1'000, 6), {.event = second, .transfer = 2});
    EXPECT_EQ(WaitEvent(second).status, 0);
    EXPECT_FALSE(Completed(first));
    Write(queue, buffer, 2'000, Pattern(1'000, 3), {.event = first, .transfer = 1});
    EXPECT_EQ(WaitEvent(first).status, 0);
    for (std::uint8_t i = 0; i < 6; ++i) {
      EXPECT_EQ(Wait(Read(queue, buffer, i * 1'000, 1'000)).payload, Pattern(1'000, i + 1)) << int{i};
    }
  }
}

TEST_P(BackendBattery, APieceThatFailsFailsItsTransfer) {
  for (std::uint64_t flags : {std::uint64_t{0}, kOutOfOrder}) {
    const Handle queue = Queue(flags);
    const Handle buffer = Buffer(3'000);
    const Handle gate = UserEvent();
    const Handle event = NewHandle();
    const std::uint64_t good = Read(queue, buffer, 0, 1'000, {.waits = {gate}, .transfer = 1, .more = true});
    const std::uint64_t bad =
        Read(queue, buffer, 2'500, 1'000, {.waits = {gate}, .transfer = 1, .more = true});
    const std::uint64_t last =
        Read(queue, buffer, 2'000, 1'000, {.waits = {gate}, .event = event, .transfer = 1});
    EXPECT_EQ(Wait(bad).status, status::kInvalidValue);
    EXPECT_EQ(Wait(last).status, status::kInvalidValue);
    EXPECT_FALSE(Completed(event));  // a piece is still under way
    EXPECT_EQ(SetUserEvent(gate, 0), 0);
    EXPECT_EQ(Wait(good).status, 0);
    EXPECT_EQ(WaitEvent(event).status, status::kInvalidValue);
    EXPECT_EQ(Wait(Read(queue, buffer, 0, 4, {.waits = {event}})).status,
              status::kExecStatusErrorForEventsInWaitList);
    // The number is free again.
    const Handle next = NewHandle();
    Read(queue, buffer, 0, 1'000, {.transfer = 1, .more = true});
    Read(queue, buffer, 1'000, 1'000, {.event = next, .transfer = 1});
    EXPECT_EQ(WaitEvent(next).status, 0);
  }
}

TEST_P(BackendBattery, TransfersThatNeverEndHoldNothingUp) {
  const Handle queue = Queue();
  const Handle buffer = Buffer(64);
  const std::uint64_t read = Read(queue, buffer, 0, 32, {.transfer = 1, .more = true});
  EXPECT_EQ(Wait(read).status, 0);
  EXPECT_EQ(Wait(Finish(queue)).status, 0);
  EXPECT_EQ(Wait(Read(queue, buffer, 0, 32, {.more = true})).status, status::kInvalidValue);  // more of what?
  const Handle early = NewHandle();
  const std::uint64_t wrong = Read(queue, buffer, 0, 32, {.event = early, .transfer = 2, .more = true});
  EXPECT_EQ(Wait(wrong).status, status::kInvalidValue);  // the event goes with the last piece
  EXPECT_EQ(WaitEvent(early).status, status::kInvalidValue);
  std::vector<std::uint64_t> reads;
  for (std::uint64_t i = 0; i < 2'000; ++i)
    reads.push_back(Read(queue, buffer, 0, 1, {.transfer = 100 + i, .more = true}));
  EXPECT_EQ(Wait(reads.back()).status, status::kOutOfResources);
  Destroy(ObjectKind::kQueue, queue);
}

// --- destruction -------------------------------------------------------------------------------------------

TEST_P(BackendBattery, ABuffersMemoryIsUsedUntilItsCommandsHaveRun) {
  const Handle queue = Queue();
  const Handle a = Buffer(1 << 20);
  const Handle b = Buffer(1 << 20);
  const Handle gate = UserEvent();
  Write(queue, a, 0, Pattern(1 << 20));
  Marker(queue, {.waits = {gate}});
  Send(wire::opencl::EnqueueCopy{{queue}, {a}, {b}, 0, 0, 1 << 20});
  const std::uint64_t destroyed = Send(wire::DestroyObject{{ObjectKind::kMemory, a}}, {true});
  const std::uint64_t read = Read(queue, b, 0, 1 << 20);
  EXPECT_FALSE(Answered(destroyed));
  EXPECT_EQ(SetUserEvent(gate, 0), 0);
  EXPECT_EQ(Wait(destroyed).status, 0);
  EXPECT_EQ(Wait(read).payload, Pattern(1 << 20));
}

TEST_P(BackendBattery, AKernelsBufferLivesUntilItHasRun) {
  const Handle queue = Queue();
  const Handle buffer = Buffer(4'096);
  const Handle kernel = Kernel("null_add");
  ASSERT_EQ(SetMemory(kernel, 0, buffer), 0);
  ASSERT_EQ(SetUint(kernel, 1, 1), 0);
  const Handle gate = UserEvent();
  const Handle ran = NewHandle();
  Run(queue, kernel, 1'024, {.waits = {gate}, .event = ran});
  const std::uint64_t destroyed = Send(wire::DestroyObject{{ObjectKind::kMemory, buffer}}, {true});
  Destroy(ObjectKind::kKernel, kernel);
  Destroy(ObjectKind::kQueue, queue);
  EXPECT_FALSE(Answered(destroyed));
  EXPECT_FALSE(Completed(ran));
  EXPECT_EQ(SetUserEvent(gate, 0), 0);
  EXPECT_EQ(WaitEvent(ran).status, 0);
  EXPECT_EQ(Wait(destroyed).status, 0);
}

TEST_P(BackendBattery, QueuesMayBeDestroyedWithCommandsInThem) {
  const Handle buffer = Buffer(64);
  const Handle kernel = Kernel("null_add");
  ASSERT_EQ(SetMemory(kernel, 0, buffer), 0);
  ASSERT_EQ(SetUint(kernel, 1, 1), 0);
  for (std::uint64_t flags : {std::uint64_t{0}, kOutOfOrder, kProfiling}) {
    const Handle gate = UserEvent();
    const Handle event = NewHandle();
    const Handle queue = Queue(flags);
    const std::uint64_t read = Read(queue, buffer, 0, 64, {.waits = {gate}, .event = event});
    Run(queue, kernel, 16, {.waits = {gate}});
    const std::uint64_t finish = Finish(queue);
    Destroy(ObjectKind::kQueue, queue);
    EXPECT_FALSE(Answered(finish));
    EXPECT_EQ(SetUserEvent(gate, 0), 0);
    EXPECT_EQ(Wait(read).status, 0);
    EXPECT_EQ(WaitEvent(event).status, 0);
    EXPECT_EQ(Wait(finish).status, 0);
  }
}

TEST_P(BackendBattery, EverythingMayBeDestroyedInAnyOrder) {
  const Handle queue = Queue();
  const Handle buffer = Buffer(4'096);
  const Handle kernel = Kernel("null_add");
  const Handle program = Program();
  ASSERT_EQ(SetMemory(kernel, 0, buffer), 0);
  ASSERT_EQ(SetUint(kernel, 1, 1), 0);
  const Handle event = NewHandle();
  for (int i = 0; i < 50; ++i) Run(queue, kernel, 1'024);
  Run(queue, kernel, 1'024, {.event = event});
  EXPECT_EQ(Try(wire::DestroyObject{{ObjectKind::kContext, context_}}), 0);
  EXPECT_EQ(Try(wire::DestroyObject{{ObjectKind::kProgram, program}}), 0);
  EXPECT_EQ(Try(wire::DestroyObject{{ObjectKind::kKernel, kernel}}), 0);
  EXPECT_EQ(Try(wire::DestroyObject{{ObjectKind::kQueue, queue}}), 0);
  EXPECT_EQ(Try(wire::DestroyObject{{ObjectKind::kMemory, buffer}}), 0);
  EXPECT_EQ(WaitEvent(event).status, 0);
}

TEST_P(BackendBattery, ASessionEndsWhateverIsUnderWay) {
  const Handle queues[] = {Queue(), Queue(kOutOfOrder), Queue(kProfiling)};
  const Handle buffer = Buffer(1 << 20);
  const Handle gate = UserEvent();
  for (Handle queue : queues) {
    for (int i = 0; i < 20; ++i) {
      Write(queue, buffer, 0, Pattern(1 << 12), {.waits = {gate}, .event = NewHandle()});
      Read(queue, buffer, 0, 1 << 12, {.transfer = 5, .more = true});
      Write(queue, buffer, 0, Pattern(1 << 12));
    }
    Finish(queue);
  }
  Close();  // the subject checks that every payload was released
}

// --- answers -----------------------------------------------------------------------------------------------

TEST_P(BackendBattery, AFailureIsReportedOnceAndInOneWay) {
  const Handle queue = Queue();
  const Handle buffer = Buffer(64);
  const ByteVector pattern = Pattern(3);
  // Asked for: a status, and no CommandFailed (TearDown looks for those).
  EXPECT_EQ(Try(wire::opencl::EnqueueFill{{queue}, {buffer}, 0, 3, {pattern}}), status::kInvalidValue);
  // Not asked for: CommandFailed.
  EXPECT_EQ(WaitFailure(Send(wire::opencl::EnqueueFill{{queue}, {buffer}, 0, 3, {pattern}})),
            status::kInvalidValue);
  // With its own reply: only that.
  EXPECT_EQ(Wait(Read(queue, buffer, 65, 1)).status, status::kInvalidValue);
  // Bytes that are no message.
  EXPECT_EQ(Wait(Finish(queue)).status, 0);
}

}  // namespace tulle::gpu::conformance
