// Modules, and what they take of the device's memory, by the backend's own commands.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <condition_variable>
#include <map>
#include <mutex>
#include <string>

#include "tulle/cuda/types.h"
#include "tulle/gpu/cuda/driver.h"
#include "tulle/gpu/cuda/test_library.h"

namespace tulle::gpu::cuda {
namespace {

using wire::Handle;
using wire::ObjectKind;

class Answers final : public Completions {
 public:
  void Reply(std::uint16_t, std::uint64_t sequence, ByteView body, std::uint64_t) override {
    {
      const std::lock_guard lock(mutex_);
      bodies_[sequence].assign(body.begin(), body.end());
    }
    come_.notify_all();
  }
  void Notice(std::uint16_t, ByteView) override {}
  void PayloadDone(std::uint64_t) override {}

  bool Has(std::uint64_t sequence) {
    const std::lock_guard lock(mutex_);
    return bodies_.contains(sequence);
  }
  template <wire::Message M>
  M Await(std::uint64_t sequence) {
    std::unique_lock lock(mutex_);
    come_.wait(lock, [&] { return bodies_.contains(sequence); });
    M message;
    EXPECT_EQ(wire::Decode(bodies_[sequence], 0, arena_, &message), wire::WireResult::kOk);
    return message;
  }

 private:
  std::mutex mutex_;
  std::condition_variable come_;
  std::map<std::uint64_t, ByteVector> bodies_;
  wire::Arena arena_;
};

class CudaModules : public ::testing::Test {
 protected:
  static constexpr Handle kContext{1, 1}, kStream{2, 1}, kModule{3, 1}, kReached{4, 1}, kReturned{5, 1};
  static constexpr std::uint64_t kArenaBytes = 128u << 20, kAlignmentBytes = 2u << 20;

  CudaModules() {
    backend_ = *OpenBackend(LoadedLibrary(TULLE_SOFTCUDA_LIBRARY), "", &answers_);
    // Where this process may have memory: sanitizers keep much for themselves.
    const std::size_t with_margin = kArenaBytes + kAlignmentBytes;
    void* const free_range =
        mmap(nullptr, with_margin, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    EXPECT_NE(free_range, MAP_FAILED);
    munmap(free_range, with_margin);
    const auto begin = reinterpret_cast<std::uint64_t>(free_range);
    Send(wire::cuda::DescribeDevice{(begin + kAlignmentBytes - 1) / kAlignmentBytes * kAlignmentBytes,
                                    kArenaBytes});
    Send(wire::cuda::CreateContext{{kContext}, {kStream}});
  }
  ~CudaModules() override {
    backend_.reset();  // before who hears of it
  }

  template <wire::Message M>
  std::uint64_t Send(const M& message, std::uint16_t opcode = 0, const std::string& payload = {}) {
    ByteVector body(wire::EncodedSize(message));
    wire::Encode(message, body);
    ByteVector room(payload.size());
    std::ranges::copy(AsBytes(payload), room.begin());
    if constexpr (requires { wire::kOpcodeOf<M>; }) opcode = opcode == 0 ? wire::kOpcodeOf<M> : opcode;
    Command command{.opcode = opcode, .wants_status = true, .sequence = ++sequence_};
    command.body = body;
    command.payload = room;
    backend_->Submit(command);
    return sequence_;
  }
  void Bring(Handle module, const std::string& ptx) {
    const std::string text = ".version 6.4\n.target sm_50\n.address_size 64\n" + ptx;
    Send(wire::cuda::CreateModule{{kContext}, {module}});
    Send(wire::cuda::ModuleImage{{module}, {text.size()}}, 0, text);
  }
  std::uint64_t Measure(Handle module) {
    constexpr std::uint16_t kOpcode = wire::OpcodeIn<wire::exec::MeasureModule>(wire::exec::kExecCommands);
    ByteVector body(wire::EncodedSize(wire::exec::MeasureModule{module}));
    wire::Encode(wire::exec::MeasureModule{module}, body);
    Command command{.opcode = kOpcode, .sequence = ++sequence_};
    command.body = body;
    backend_->Submit(command);
    return answers_.Await<wire::exec::MeasureModuleReply>(sequence_).variable_bytes;
  }
  wire::cuda::LoadModuleReply Load(Handle module) {
    return answers_.Await<wire::cuda::LoadModuleReply>(Send(wire::cuda::LoadModule{{module}}));
  }
  std::uint64_t Destroy(Handle handle, ObjectKind kind) {
    wire::DestroyObject message;
    message.object = {kind, handle};
    return Send(message);
  }

  Answers answers_;
  std::unique_ptr<Backend> backend_;
  std::uint64_t sequence_ = 0;
};

TEST_F(CudaModules, AreMeasuredBeforeTheyAreLoaded) {
  Bring(kModule, ".global .b8 large[10000];\n");
  EXPECT_EQ(Measure(kModule), 10'000u);
  EXPECT_EQ(Load(kModule).status, tulle::cuda::CUDA_SUCCESS);
  EXPECT_EQ(Measure({9, 1}), 0u) << "there is none";
}

// A module is destroyed when nothing of the program's stands in the way; until then its memory is not free.
TEST_F(CudaModules, IsGoneWhenItsMemoryIs) {
  Bring(kModule, ".global .b8 large[1000000];\n");
  EXPECT_EQ(Load(kModule).status, tulle::cuda::CUDA_SUCCESS);
  Send(wire::cuda::CallHost{{kStream}, {kReached}, {kReturned}});
  const std::uint64_t destroyed = Destroy(kModule, ObjectKind::kProgram);
  answers_.Await<wire::StatusReply>(Send(wire::cuda::QueryStream{{kStream}}));
  EXPECT_FALSE(answers_.Has(destroyed)) << "a function of the host has not returned";
  Send(wire::cuda::EndHostCall{{kReturned}});
  EXPECT_EQ(answers_.Await<wire::StatusReply>(destroyed).status, 0);
}

// Whatever another context's function holds up.
TEST_F(CudaModules, IsGoneWithItsContext) {
  constexpr Handle kOther{6, 1}, kOtherStream{7, 1};
  Send(wire::cuda::CreateContext{{kOther}, {kOtherStream}});
  Send(wire::cuda::CallHost{{kOtherStream}, {kReached}, {kReturned}});
  Bring(kModule, ".global .b8 large[1000000];\n");
  EXPECT_EQ(Load(kModule).status, tulle::cuda::CUDA_SUCCESS);
  const std::uint64_t destroyed = Destroy(kModule, ObjectKind::kProgram);
  EXPECT_FALSE(answers_.Has(destroyed));
  Destroy(kContext, ObjectKind::kContext);
  EXPECT_EQ(answers_.Await<wire::StatusReply>(destroyed).status, 0);
}

}  // namespace
}  // namespace tulle::gpu::cuda
