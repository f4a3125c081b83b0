// Compiles one program in a builder: a process of its own, in the sandbox's builder role, that is gone
// afterwards. A build that crashes or takes too long is a build that failed, with a log that says so.
//
// One thread owns a BuildProcess. Nothing blocks: poll fd(), then TryFinish(). Bounds: the deadline, the
// limits of BuildOptions, wire/limits.h for text, log and binary, kMaxCapturedBytes of the tools' output.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tulle/base/bytes.h"
#include "tulle/base/result.h"
#include "tulle/gpu/api/backend.h"
#include "tulle/sandbox/launcher.h"

namespace tulle::gpu::isolated {

// LLVM maps far more than it uses; sanitizers reserve terabytes, so in their builds it is not limited.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr std::uint64_t kBuilderAddressSpaceBytes = 0;
#else
inline constexpr std::uint64_t kBuilderAddressSpaceBytes = 8ull << 30;
#endif

struct BuildOptions {
  std::string binary = "/proc/self/exe";
  std::vector<std::string> argv;         // {"tulle-worker", "--role=builder", ...}: must end in RunBuilder()
  std::vector<std::string> environment;  // added to what drivers need anyway
  std::vector<std::string>
      read_only_paths;  // seen in the jail besides the system's folders: a driver in /opt
  std::uint32_t device_index = 0;
  std::chrono::seconds deadline{300};
  std::uint64_t address_space_bytes = kBuilderAddressSpaceBytes;
  std::uint64_t cpu_seconds = 600;         // of each process in it
  std::uint64_t tmp_bytes = 512ull << 20;  // the builder's /tmp: compiler cache and objects
};

struct BuildRequest {
  wire::opencl::ProgramKind kind = wire::opencl::ProgramKind::kSource;
  ByteView text;             // source, or a binary
  std::string_view options;  // of clBuildProgram
};

class BuildProcess {
 public:
  // `request` is copied. Returns once the builder runs (a few milliseconds); `launcher` must outlive it.
  static Result<std::unique_ptr<BuildProcess>> Start(sandbox::Launcher& launcher, const BuildOptions& options,
                                                     const BuildRequest& request);
  ~BuildProcess();  // kills a build under way
  BuildProcess(const BuildProcess&) = delete;
  BuildProcess& operator=(const BuildProcess&) = delete;

  int fd() const;  // readable (poll) when TryFinish may have something to do
  // The outcome, once. Crash, deadline and nonsense come as CL_BUILD_PROGRAM_FAILURE with a log.
  std::optional<CompileOutput> TryFinish();
  void Kill();
  std::uint64_t CpuTimeNs() const;  // so far, in nanoseconds

 private:
  class Impl;
  explicit BuildProcess(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tulle::gpu::isolated
