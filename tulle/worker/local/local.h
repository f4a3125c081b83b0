// The driver in the worker's own process: no ring, no jail, no copy. For devices whose hardware keeps kernels
// out of the host's memory, and for tests and fuzzers on a backend that runs no tenant's code.
#pragma once

#include <memory>

#include "tulle/gpu/api/backend.h"
#include "tulle/wire/limits.h"
#include "tulle/worker/build/builder.h"
#include "tulle/worker/exec/executor.h"

namespace tulle::worker::local {

struct Options {
  std::uint32_t device_index = 0;
  std::uint64_t memory_bytes = 16ull << 30;         // of all buffers of one session together; sparse
  std::uint64_t staging_bytes = 256ull << 20;       // of all payloads under way
  std::size_t in_flight = wire::kCommandsUnderWay;  // commands that wait for an answer or bring a payload
};

// `driver` must outlive the factory and its executors.
std::unique_ptr<exec::ExecutorFactory> MakeExecutors(gpu::Driver* driver, const Options& options);

// Compiles in Start, on the session's thread.
std::unique_ptr<build::Builder> MakeBuilder(gpu::Driver* driver, std::uint32_t device_index);

}  // namespace tulle::worker::local
