// Builds of programs, each in a process of its own (gpu/isolated, composed by the program; a fake in tests).
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "tulle/base/bytes.h"
#include "tulle/base/result.h"
#include "tulle/gpu/api/backend.h"

namespace tulle::worker::build {

// One build under way; a session's thread owns it. Its end kills what still runs.
class Build {
 public:
  virtual ~Build() = default;
  virtual int fd() const = 0;  // readable when TryFinish may have something to do
  // The outcome, once. A crash or a deadline is a failed build with a log that says so.
  virtual std::optional<gpu::CompileOutput> TryFinish() = 0;
};

// Thread-safe.
class Builder {
 public:
  virtual ~Builder() = default;
  // `text` and `options` are copied.
  virtual Result<std::unique_ptr<Build>> Start(wire::opencl::ProgramKind kind, ByteView text,
                                               std::string_view options) = 0;
};

}  // namespace tulle::worker::build
