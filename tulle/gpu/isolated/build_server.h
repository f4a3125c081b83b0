// Compiles programs, each in a builder: a process of its own, in the sandbox's builder role, that is gone
// afterwards. A build that crashes or takes too long is a build that failed, with a log that says so.
//
// Compilers take long to start (PoCL's a second) and little for a program. So builders are copies of a *build
// server*: a process without a tenant's code, which has loaded the driver and compiled something once. It is
// started by the first build, and lets go of the driver when there has been none for a while. Where a driver
// does not survive in a copy, each builder loads it itself.
//
// Bounds: the deadline, the limits of BuildOptions, wire/limits.h for text, log and binary, kMaxCapturedBytes
// of the tools' output.
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
#include "tulle/sandbox/control_group.h"

namespace tulle::gpu::isolated {

// LLVM maps far more than it uses; sanitizers reserve terabytes, so in their builds it is not limited.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr std::uint64_t kBuilderAddressSpaceBytes = 0;
#else
inline constexpr std::uint64_t kBuilderAddressSpaceBytes = 8ull << 30;
#endif

struct BuildOptions {
  std::string binary = "/proc/self/exe";
  std::vector<std::string> argv;  // {"tulle-worker", "--role=build-server"}: must end in RunBuildServer()
  std::vector<std::string> environment;  // added to what drivers need anyway
  std::uint32_t device_index = 0;
  bool best_effort = false;       // of the sandbox (LauncherOptions)
  std::chrono::seconds idle{60};  // without a build for so long, the server keeps no driver (some 200 MB)
  // Of one builder.
  std::chrono::seconds deadline{300};
  std::uint64_t address_space_bytes = kBuilderAddressSpaceBytes;
  std::uint64_t cpu_seconds = 600;         // of each process in it
  std::uint64_t tmp_bytes = 512ull << 20;  // its /tmp: compiler cache and objects
  // Of the server, with all builders; null: the parent's.
  std::shared_ptr<const sandbox::ControlGroup> control_group;
};

struct BuildRequest {
  wire::opencl::ProgramKind kind = wire::opencl::ProgramKind::kSource;
  ByteView text;             // source, or a binary
  std::string_view options;  // of clBuildProgram
};

// One build. One thread owns it. Nothing blocks: poll fd(), then TryFinish().
class BuildProcess {
 public:
  ~BuildProcess();  // ends a build under way
  BuildProcess(const BuildProcess&) = delete;
  BuildProcess& operator=(const BuildProcess&) = delete;

  int fd() const;  // readable (poll) when TryFinish may have something to do
  // The outcome, once. Crash, deadline and nonsense come as CL_BUILD_PROGRAM_FAILURE with a log.
  std::optional<CompileOutput> TryFinish();

 private:
  friend class BuildServer;
  class Impl;
  explicit BuildProcess(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Thread-safe. Its builds may outlive it: they end as failed then.
class BuildServer {
 public:
  explicit BuildServer(BuildOptions options);
  ~BuildServer();  // ends the server, and the builds under way
  BuildServer(const BuildServer&) = delete;
  BuildServer& operator=(const BuildServer&) = delete;

  // `request` is copied. Returns once it is on its way (a few milliseconds).
  Result<std::unique_ptr<BuildProcess>> Start(const BuildRequest& request);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tulle::gpu::isolated
