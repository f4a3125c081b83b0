// What kernels print (the printf of OpenCL C): drivers write it to standard output, which in an executor is a
// pipe to itself. It goes to the program as notices, ahead of the report that what printed it has completed.
#pragma once

#include <mutex>

#include "tulle/base/result.h"
#include "tulle/base/unique_fd.h"
#include "tulle/gpu/api/backend.h"

namespace tulle::gpu::isolated {

// What a backend reports, on its way to `next`, with what was printed before it put ahead. One for the life
// of the process. Costs a system call for each report.
class KernelOutput final : public Completions {
 public:
  explicit KernelOutput(Completions* next) : next_(*next) {}

  // Makes this process's standard output the pipe, for good, and starts the thread that empties it: a driver
  // that prints more than a pipe holds (64 KiB) waits for that. Before the sandbox's lock, and before the
  // first report.
  Status Capture();

  void Reply(std::uint16_t opcode, std::uint64_t sequence, ByteView body,
             std::uint64_t payload_bytes) override {
    Flush();
    next_.Reply(opcode, sequence, body, payload_bytes);
  }
  void Notice(std::uint16_t opcode, ByteView body) override {
    Flush();
    next_.Notice(opcode, body);
  }
  void PayloadDone(std::uint64_t sequence) override { next_.PayloadDone(sequence); }

 private:
  // Sends what has been printed by now. False: nothing more will be, since the driver (or a kernel, which
  // runs in this process) has closed standard output.
  bool Flush();

  Completions& next_;
  UniqueFd read_;
  std::mutex mutex_;  // notices leave in the order of the pipe
  ByteVector buffer_;
};

}  // namespace tulle::gpu::isolated
