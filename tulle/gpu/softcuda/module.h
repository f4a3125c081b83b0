// A PTX module that is loaded: its variables have their memory, its kernels can be launched.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "tulle/base/bytes.h"
#include "tulle/base/result.h"
#include "tulle/gpu/softcuda/host_threads.h"
#include "tulle/gpu/softcuda/machine.h"
#include "tulle/gpu/softcuda/memory.h"

namespace tulle::gpu::softcuda {

// Immutable once loaded, but for its variables' contents; launches may run at the same time.
class Module {
 public:
  // `memory` must outlive it. kInvalidArgument with "line N: what" for a text that is not PTX or has an
  // instruction that this device does not have; kResourceExhausted when there is no memory for its variables.
  static Result<std::unique_ptr<Module>> Load(std::string_view ptx, DeviceMemory& memory);
  ~Module();

  struct Variable {
    std::uint64_t address = 0;
    std::uint64_t bytes = 0;
  };
  // Null: there is no such one. Valid as long as the module.
  const Program* FindKernel(const std::string& name) const;
  const Variable* FindVariable(const std::string& name) const;
  const std::map<std::string, Program>& kernels() const { return kernels_; }
  const std::map<std::string, Variable>& variables() const { return variables_; }

  // Of PTX, 7.1: 71; of the target, sm_70: 70.
  std::uint32_t ptx_version() const { return ptx_version_; }
  std::uint32_t target() const { return target_; }

 private:
  explicit Module(DeviceMemory& memory) : memory_(memory) {}
  DeviceMemory& memory_;
  std::uint32_t ptx_version_ = 0, target_ = 0;
  std::uint64_t functions_at_ = 0;  // the first one's address; 0: none is taken
  std::map<std::string, Variable> variables_;
  std::map<std::string, Program> kernels_;
};

struct Launch {
  Dim3 grid, block;
  std::uint32_t dynamic_shared_bytes = 0;
  ByteView parameters;  // as the kernel's declaration lays them out; program.parameter_bytes of them
  HostThreads* threads = nullptr;  // that blocks are spread over; null: the caller's alone
  // What kernels print, a text at a time; called by any of the threads. Null: nobody reads it.
  const std::function<void(std::string_view)>* print = nullptr;
  const std::atomic<bool>* stop = nullptr;  // when it becomes true the kernel ends soon
};
struct LaunchEnd {
  Fault fault = Fault::kNone;
  std::uint64_t address = 0;  // of kIllegalAddress and kMisaligned
  std::uint32_t line = 0;     // of the PTX
};

// Limits of the device, as CUDA has them.
inline constexpr std::uint32_t kMaxBlockThreads = 1024;
inline constexpr std::uint32_t kMaxSharedBytes = 96 << 10;

// Runs it to its end; blocks. kInvalidArgument when its dimensions or parameters are not possible.
Result<LaunchEnd> RunKernel(const Program& program, DeviceMemory& memory, const Launch& launch);

}  // namespace tulle::gpu::softcuda
