#include "apps/tulle-worker/isolated.h"

#include <algorithm>
#include <atomic>
#include <optional>
#include <thread>
#include <utility>

#include "tulle/base/log.h"
#include "tulle/gpu/api/device_nodes.h"
#include "tulle/gpu/isolated/build_server.h"
#include "tulle/gpu/isolated/executor_process.h"
#include "tulle/worker/build/cache.h"

namespace tulle::app {
namespace {

namespace isolated = gpu::isolated;

// Address space for buffers, as a multiple of the vGPU's memory: memory of destroyed buffers that commands
// still use overlaps with that of new ones, and holes between them must not fail a creation. Costs no memory.
constexpr std::uint64_t kArenaFactor = isolated::kTimesTheMemory;
// A session whose vGPU gets more may come to use so many times what it had when the session began, or so
// much.
constexpr std::uint64_t kGrowthFactor = 16;
constexpr std::uint64_t kLeastGrownBytes = std::uint64_t{1} << 30;
// In a virtual machine all of it is mapped from the beginning, or is the machine's own, so there it is less.
constexpr std::uint64_t kMachineGrowthFactor = 2;

// Of the host's memory, by control groups (HostMemory): what one executor has beside buffers, and what each
// of the others that the vGPU may have has typically. In a virtual machine also for the machine; on a GPU for
// what its driver has there.
struct OwnMemory {
  std::uint64_t one_bytes, typical_bytes;
};
constexpr OwnMemory kOfProcess = {1ull << 30, 128ull << 20};
constexpr OwnMemory kOfMachine = {kOfProcess.one_bytes + vm::kMachineBytes, 512ull << 20};
constexpr OwnMemory kOnGpu = {5ull << 30, 1ull << 30};
// The build server and its builders.
constexpr std::uint64_t kBuildsBytes = 4ull << 30;

// Of programs that were built before: some hundreds to thousands of them.
constexpr std::size_t kBuildCacheBytes = 64u << 20;

// What QEMU's translator knows of a processor's instructions; PoCL compiles for this host's otherwise.
const std::vector<std::string> kEmulatedCpu = {"POCL_LLVM_CPU_NAME=haswell", "POCL_KERNELLIB_NAME=avx2"};
constexpr char kEmulatedCpuText[] = "; for haswell";

std::vector<std::string> Arguments(const char* role, const ChildArguments& children) {
  std::vector<std::string> arguments = {"tulle-worker", std::string("--role=") + role};
  arguments.insert(arguments.end(), children.arguments.begin(), children.arguments.end());
  return arguments;
}

class IsolatedExecutor final : public worker::exec::Executor {
 public:
  explicit IsolatedExecutor(std::unique_ptr<isolated::ExecutorProcess> process)
      : process_(std::move(process)) {}

  std::optional<Range> AllocateMemory(std::uint64_t size_bytes) override {
    return process_->AllocateMemory(size_bytes);
  }
  void FreeMemory(const Range& range) override { process_->FreeMemory(range); }
  std::optional<Range> MapMemory(int fd, std::uint64_t size_bytes, bool writable) override {
    return process_->MapMemory(fd, size_bytes, writable);
  }
  int memory_fd() const override { return process_->memory_fd(); }
  void ReadPages(const Range& range, MutableByteView bytes) override { process_->ReadMemory(range, bytes); }
  void WritePages(const Range& range, ByteView bytes) override { process_->WriteMemory(range, bytes); }
  void DropPages(const Range& range) override { process_->DropMemory(range); }
  std::optional<worker::exec::Room> AllocateRoom(std::uint64_t size_bytes) override {
    auto block = process_->AllocateStaging(size_bytes);
    if (!block.has_value()) return std::nullopt;
    return Adopt(std::move(*block));
  }
  void FreeRoom(std::uint32_t id) override {
    blocks_[id].Release();
    free_ids_.push_back(id);
  }

  bool Submit(worker::exec::Submission& submission) override {
    const bool with_payload = !submission.payload.empty();
    isolated::Submission out{
        .opcode = submission.opcode,
        .flags = submission.wants_status ? std::uint16_t{wire::kWantStatus} : std::uint16_t{0},
        .sequence = submission.sequence,
        .body = submission.body,
        .payload = {},
        .memory = submission.memory,
        .lacks_memory = submission.lacks_memory};
    const std::uint32_t id = submission.payload.id();
    if (with_payload) out.payload = std::move(blocks_[id]);
    const bool submitted = process_->Submit(out);
    if (with_payload) {
      if (submitted) {
        submission.payload.Forget();
        free_ids_.push_back(id);
      } else {
        blocks_[id] = std::move(out.payload);
      }
    }
    return submitted;
  }
  void Flush() override { process_->Flush(); }

  worker::exec::Receive TryReceive(worker::exec::Received* received) override {
    isolated::Received in;
    switch (process_->TryReceive(&in)) {
      case isolated::Receive::kNothing: return worker::exec::Receive::kNothing;
      case isolated::Receive::kDead: return worker::exec::Receive::kDead;
      case isolated::Receive::kGot: break;
    }
    using Kind = worker::exec::Received::Kind;
    switch (in.kind) {
      case isolated::Received::Kind::kReady:  // comes once
        ready_at_ns_ = process_->CpuTimeNs();
        return TryReceive(received);
      case isolated::Received::Kind::kReply: received->kind = Kind::kReply; break;
      case isolated::Received::Kind::kNotice: received->kind = Kind::kNotice; break;
      case isolated::Received::Kind::kPayloadDone: received->kind = Kind::kPayloadDone; break;
    }
    received->opcode = in.opcode;
    received->sequence = in.sequence;
    received->body = in.body;
    received->payload = in.payload.empty() ? worker::exec::Room() : Adopt(std::move(in.payload));
    return worker::exec::Receive::kGot;
  }
  bool Spin() override { return process_->SpinForReplies(); }
  bool PrepareToSleep() override { return process_->PrepareToSleep(); }
  void Awake() override { process_->Awake(); }
  int wake_fd() const override { return process_->wake_fd(); }
  int death_fd() const override { return process_->death_fd(); }
  void Kill() override { process_->Kill(); }
  std::string EndText() const override { return process_->end_reason(); }
  // That it has opened its device first is nobody's use of it.
  std::uint64_t DeviceTimeNs() const override {
    const std::uint64_t ready_at_ns = ready_at_ns_.load(), now_ns = process_->CpuTimeNs();
    // Of a process that has ended nothing may be known for a moment.
    return now_ns > ready_at_ns ? now_ns - ready_at_ns : 0;
  }
  std::uint64_t WaitedNs() const override { return process_->CpuWaitNs(); }
  void Freeze(bool frozen) override { process_->Freeze(frozen); }

 private:
  worker::exec::Room Adopt(isolated::StagingBlock block) {
    std::uint32_t id = 0;
    if (free_ids_.empty()) {
      id = static_cast<std::uint32_t>(blocks_.size());
      blocks_.push_back(std::move(block));
    } else {
      id = free_ids_.back();
      free_ids_.pop_back();
      blocks_[id] = std::move(block);
    }
    return worker::exec::Room(this, id, blocks_[id].bytes());
  }

  static constexpr std::uint64_t kNotReady = ~std::uint64_t{0};

  const std::unique_ptr<isolated::ExecutorProcess> process_;
  std::atomic<std::uint64_t> ready_at_ns_{kNotReady};
  // Rooms that the session holds, by id; bounded by what staging can hold.
  std::vector<isolated::StagingBlock> blocks_;
  std::vector<std::uint32_t> free_ids_;
};

class IsolatedExecutors final : public worker::exec::ExecutorFactory {
 public:
  // `memory_bytes`: the vGPU's. `device_bytes`: the device's, whose buffers are to lie in memory of the
  // host; 0: it has its own, and executors are told how much of it is the vGPU's.
  IsolatedExecutors(sandbox::Launcher* launcher, isolated::ExecutorOptions options,
                    std::uint64_t memory_bytes, std::uint64_t device_bytes)
      : launcher_(*launcher),
        options_(std::move(options)),
        device_bytes_(device_bytes),
        memory_bytes_(memory_bytes) {}
  Result<std::unique_ptr<worker::exec::Executor>> Start() override {
    isolated::ExecutorOptions options = options_;
    const std::uint64_t memory_bytes = memory_bytes_;
    if (device_bytes_ == 0) {
      options.argv.push_back("--memory-bytes=" + std::to_string(memory_bytes));
      options.arena_bytes = 1;
      options.driver_bytes = kMachineGrowthFactor * memory_bytes;
    } else {
      // Sessions keep theirs when the vGPU gets more. But kernels can write all of it, so it has an end.
      const std::uint64_t grown_bytes =
          std::min(device_bytes_, options.machine.has_value()
                                      ? memory_bytes * kMachineGrowthFactor
                                      : std::max(memory_bytes * kGrowthFactor, kLeastGrownBytes));
      options.arena_bytes = std::max(memory_bytes, grown_bytes) * kArenaFactor;
    }
    TULLE_ASSIGN_OR_RETURN(auto process, isolated::ExecutorProcess::Start(launcher_, options));
    return std::unique_ptr<worker::exec::Executor>(std::make_unique<IsolatedExecutor>(std::move(process)));
  }
  void SetMemory(std::uint64_t bytes) override {
    memory_bytes_ = bytes;
    if (options_.host_memory != nullptr) options_.host_memory->SetMemory(bytes);
  }

 private:
  sandbox::Launcher& launcher_;
  const isolated::ExecutorOptions options_;
  const std::uint64_t device_bytes_;
  std::atomic<std::uint64_t> memory_bytes_;
};

class IsolatedBuild final : public worker::build::Build {
 public:
  explicit IsolatedBuild(std::unique_ptr<isolated::BuildProcess> process) : process_(std::move(process)) {}
  int fd() const override { return process_->fd(); }
  std::optional<gpu::CompileOutput> TryFinish() override { return process_->TryFinish(); }

 private:
  const std::unique_ptr<isolated::BuildProcess> process_;
};

class IsolatedBuilder final : public worker::build::Builder {
 public:
  explicit IsolatedBuilder(isolated::BuildOptions options) : server_(std::move(options)) {}
  Result<std::unique_ptr<worker::build::Build>> Start(wire::opencl::ProgramKind kind, ByteView text,
                                                      std::string_view options) override {
    TULLE_ASSIGN_OR_RETURN(auto process, server_.Start({kind, text, options}));
    return std::unique_ptr<worker::build::Build>(std::make_unique<IsolatedBuild>(std::move(process)));
  }

 private:
  isolated::BuildServer server_;
};

}  // namespace

Result<worker::Device> MakeIsolatedDevice(sandbox::Launcher* launcher, int control,
                                          const wire::node::AssignVGpu& assignment,
                                          const ChildArguments& children) {
  const std::vector<std::string> device_nodes = gpu::DeviceNodesOf(assignment.pci_address.text);
  std::string compiler(assignment.compiler.text), compiler_of_binaries = compiler;
  const bool in_machine = assignment.in_machine != 0;
  std::optional<vm::Settings> machine;
  std::vector<std::string> environment;
  if (in_machine) {
    if (!device_nodes.empty()) {
      return Error{Code::kFailedPrecondition,
                   "a GPU cannot be given to a virtual machine: only the CPU device's vGPUs have them"};
    }
    TULLE_ASSIGN_OR_RETURN(machine, vm::Complete(children.machine));
    // In a machine the processor has another name. It is the same device; and no other of its platform is
    // there.
    compiler = compiler.substr(0, compiler.find(';') + 1);
    if (machine->accelerator == vm::Accelerator::kEmulated) {
      environment = kEmulatedCpu;
      compiler_of_binaries += kEmulatedCpuText;
    }
  }
  // Which of OpenCL's devices it is: in a jail there may be fewer of them than the probe has counted.
  std::vector<std::string> which;
  if (assignment.pci_address.text.size() != 0)
    which.push_back("--pci-address=" + std::string(assignment.pci_address.text));
  if (!compiler.empty()) which.push_back("--compiler=" + compiler);
  std::shared_ptr<isolated::HostMemory> host_memory;
  std::shared_ptr<sandbox::ControlGroup> builders;
  if (!children.executors_group.empty()) {
    const OwnMemory own = in_machine ? kOfMachine : device_nodes.empty() ? kOfProcess : kOnGpu;
    TULLE_ASSIGN_OR_RETURN(auto executors_group, sandbox::ControlGroup::Open(children.executors_group));
    host_memory = std::make_shared<isolated::HostMemory>(
        std::move(executors_group),
        isolated::HostMemory::Options{.memory_bytes = assignment.memory_bytes + assignment.spill_bytes,
                                      .own_bytes = own.one_bytes,
                                      .others_bytes = children.max_sessions * own.typical_bytes});
  }
  if (!children.builders_group.empty()) {
    TULLE_ASSIGN_OR_RETURN(auto builders_group, sandbox::ControlGroup::Open(children.builders_group));
    if (const Status limited = builders_group.LimitMemory(kBuildsBytes); !limited.ok()) {
      Log(LogLevel::kError, "worker", "what builders have of the host's memory is not limited",
          {{"error", ToString(limited.error())}});
    }
    builders = std::make_shared<sandbox::ControlGroup>(std::move(builders_group));
  }
  isolated::ExecutorOptions executor;
  executor.host_memory = std::move(host_memory);
  executor.argv = Arguments("executor", children);
  executor.argv.insert(executor.argv.end(), which.begin(), which.end());
  executor.device_nodes = device_nodes;
  executor.device_index = assignment.device_index;
  executor.environment = environment;
  executor.machine = machine;
  executor.processors = std::max(std::thread::hardware_concurrency(), 1u);
  isolated::ExecutorOptions cuda = executor;
  cuda.argv = Arguments("cuda-executor", children);
  cuda.argv.push_back("--compute-percent=" + std::to_string(assignment.compute_percent));
  const std::string cuda_device(assignment.cuda_device.text);
  if (cuda_device != gpu::kSoftwareCuda) {
    cuda.argv.push_back("--cuda-device=" + cuda_device);
    cuda.argv.push_back("--cuda-library=" + children.cuda_library);
    if (children.cuda_library.starts_with('/')) cuda.read_only_paths = {children.cuda_library};
  }
  isolated::BuildOptions builder;
  builder.argv = Arguments("build-server", children);
  builder.argv.insert(builder.argv.end(), which.begin(), which.end());
  for (const std::string& node : device_nodes) builder.argv.push_back("--device-node=" + node);
  builder.device_index = assignment.device_index;
  builder.environment = environment;
  builder.best_effort = launcher->best_effort();
  builder.control_group = std::move(builders);
  return worker::Device{
      assignment.has_opencl == 0
          ? nullptr
          : std::make_unique<IsolatedExecutors>(
                launcher, std::move(executor), assignment.memory_bytes + assignment.spill_bytes,
                std::max(assignment.memory_bytes, assignment.device_memory_bytes) + assignment.spill_bytes),
      std::make_unique<worker::build::CachingBuilder>(
          std::make_unique<IsolatedBuilder>(std::move(builder)), kBuildCacheBytes,
          compiler_of_binaries.empty()
              ? nullptr
              : std::make_unique<const worker::build::MeshBuilds>(control, compiler_of_binaries)),
      cuda_device.empty()
          ? nullptr
          : std::make_unique<IsolatedExecutors>(launcher, std::move(cuda), assignment.memory_bytes, 0),
      // Of a GPU they would measure what its driver does.
      device_nodes.empty() ? static_cast<double>(std::max(std::thread::hardware_concurrency(), 1u)) : 0,
      !in_machine};
}

}  // namespace tulle::app
