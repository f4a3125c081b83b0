#include <gtest/gtest.h>

#include <map>

#include "tulle/gpu/api/checks.h"
#include "tulle/gpu/api/dispatch.h"
#include "tulle/gpu/api/object_table.h"
#include "tulle/gpu/api/outcome.h"

namespace tulle::gpu {
namespace {

using wire::Handle;
using wire::ObjectKind;

struct Base {
  virtual ~Base() = default;
};
struct Apple : Base {
  static constexpr ObjectKind kKind = ObjectKind::kMemory;
};
struct Pear : Base {
  static constexpr ObjectKind kKind = ObjectKind::kQueue;
};

TEST(ObjectTable, FindsByKindSlotAndGeneration) {
  ObjectTable<Base> table;
  auto apple = std::make_unique<Apple>();
  Apple* const address = apple.get();
  ASSERT_TRUE(table.Insert(Handle{5, 2}, apple));
  EXPECT_EQ(table.Find<Apple>({5, 2}), address);
  EXPECT_EQ(table.Find<Apple>({5, 1}), nullptr);
  EXPECT_EQ(table.Find<Apple>({4, 2}), nullptr);
  EXPECT_EQ(table.Find<Apple>({4'000'000'000, 2}), nullptr);
  EXPECT_EQ(table.Find<Pear>({5, 2}), nullptr);
  EXPECT_EQ(table.Take<Pear>({5, 2}), nullptr);

  auto second = std::make_unique<Apple>();
  EXPECT_FALSE(table.IsFree({5, 3}));
  EXPECT_FALSE(table.Insert(Handle{5, 3}, second));
  EXPECT_NE(second, nullptr);
  EXPECT_FALSE(table.Insert(Handle{}, second));
  EXPECT_FALSE(table.Insert(Handle{wire::kMaxObjects + 1, 1}, second));

  EXPECT_EQ(table.Take<Apple>({5, 2}).get(), address);
  EXPECT_EQ(table.Find<Apple>({5, 2}), nullptr);
  EXPECT_TRUE(table.Insert(Handle{5, 3}, second));
  int count = 0;
  table.ForEach<Apple>([&](Handle handle, Apple&) {
    EXPECT_EQ(handle, (Handle{5, 3}));
    ++count;
  });
  table.ForEach<Pear>([&](Handle, Pear&) { ++count; });
  EXPECT_EQ(count, 1);
}

class Recorder final : public Completions {
 public:
  void Reply(std::uint16_t opcode, std::uint64_t, ByteView body, std::uint64_t payload_bytes) override {
    ++replies[opcode];
    EXPECT_EQ(payload_bytes, 0u);
    std::memcpy(&status, body.data(), sizeof status);
  }
  void Notice(std::uint16_t opcode, ByteView) override { ++notices[opcode]; }
  void PayloadDone(std::uint64_t) override { ++payloads; }
  std::map<std::uint16_t, int> replies;
  std::map<std::uint16_t, int> notices;
  int payloads = 0;
  std::int32_t status = 0;
};

TEST(Outcome, EveryCommandThatFailsIsAnsweredInOneWay) {
  const auto check = [](const auto& row) {
    using R = std::remove_cvref_t<decltype(row)>;
    if (row.place != wire::Place::kDevice || row.mode == wire::Mode::kNotice) return;
    SCOPED_TRACE(R::Command::kMessageName);
    ByteVector payload(10);
    for (const bool wants_status : {false, true}) {
      Recorder recorder;
      ReportFailed(recorder, {R::kOpcode, wants_status, 7, {}, payload, {}}, -5);
      const bool replies = row.mode == wire::Mode::kReply || wants_status;
      EXPECT_EQ(recorder.replies[R::kOpcode], replies ? 1 : 0);
      EXPECT_EQ(recorder.notices[wire::kOpcodeOf<wire::CommandFailed>], replies ? 0 : 1);
      EXPECT_EQ(recorder.status, replies ? -5 : 0);
      EXPECT_EQ(recorder.payloads, BringsPayload<typename R::Command>() ? 1 : 0);
    }
  };
  wire::ForEachRow(wire::kCommands, check);
  wire::ForEachRow(wire::exec::kExecCommands, check);
}

TEST(Dispatch, RunsWhatHasAHandlerAndRefusesTheRest) {
  struct Handlers {
    int flushed = 0;
    void Run(const wire::opencl::Flush& message, const Command&) {
      flushed += static_cast<int>(message.queue.handle.slot);
    }
  } handlers;
  static_assert(!HandlesEveryDeviceCommand<Handlers>(wire::OpenClCapabilities()));
  wire::Arena arena;
  const wire::opencl::Flush message{{{3, 1}}};
  ByteVector body(wire::EncodedSize(message));
  wire::Encode(message, body);
  const auto dispatch = [&](std::uint16_t opcode, ByteView bytes) {
    return Dispatch(Command{opcode, false, 1, bytes, {}, {}}, arena, handlers);
  };
  EXPECT_EQ(dispatch(wire::kOpcodeOf<wire::opencl::Flush>, body), wire::WireResult::kOk);
  EXPECT_EQ(handlers.flushed, 3);
  EXPECT_EQ(dispatch(wire::kOpcodeOf<wire::opencl::Flush>, ByteView(body).first(3)),
            wire::WireResult::kTruncated);
  EXPECT_EQ(dispatch(wire::kOpcodeOf<wire::opencl::Finish>, body), wire::WireResult::kWrongDirection);
  EXPECT_EQ(dispatch(0xffff, body), wire::WireResult::kUnknownOpcode);
  EXPECT_EQ(handlers.flushed, 3);
}

TEST(Checks, FormNoSumThatOverflows) {
  BufferShape buffer;
  buffer.size_bytes = 100;
  constexpr std::uint64_t kMost = ~std::uint64_t{0};
  EXPECT_TRUE(buffer.Contains(0, 100));
  EXPECT_TRUE(buffer.Contains(100, 0));
  EXPECT_FALSE(buffer.Contains(1, 100));
  EXPECT_FALSE(buffer.Contains(kMost, 2));
  EXPECT_FALSE(buffer.Contains(2, kMost));
  EXPECT_FALSE(buffer.Contains(101, 0));

  wire::opencl::EnqueueKernel kernel;
  kernel.work_dim = 1;
  kernel.global_size = {2};
  kernel.global_offset = {kMost - 1};
  EXPECT_EQ(CheckRange(kernel), cl_status::kInvalidGlobalOffset);
  kernel.global_offset = {kMost - 2};
  EXPECT_EQ(CheckRange(kernel), 0);
  kernel.work_dim = 3;
  kernel.local_size = {1, 1, 0};
  EXPECT_EQ(CheckRange(kernel), cl_status::kInvalidWorkGroupSize);
}

}  // namespace
}  // namespace tulle::gpu
