// What was built before on this vGPU: a program of the same kind, text and options has the same binary, which
// need not be built again. The whole request is the key, so that no two can be taken for one another. A vGPU
// is of one tenant, and a builder sees nothing but its request: what is found here is what the same tenant's
// builder would make again.
//
// Only builds that succeeded are kept, the least recently used goes first. In memory, for as long as the
// worker lives.
#pragma once

#include <memory>

#include "tulle/worker/build/builder.h"

namespace tulle::worker::build {

class CachingBuilder final : public Builder {
 public:
  // Requests and outcomes may take `max_bytes` together; one alone, a quarter of that.
  CachingBuilder(std::unique_ptr<Builder> builder, std::size_t max_bytes);
  ~CachingBuilder() override;

  Result<std::unique_ptr<Build>> Start(wire::opencl::ProgramKind kind, ByteView text,
                                       std::string_view options) override;

 private:
  class Cache;
  class NewBuild;
  const std::unique_ptr<Builder> builder_;
  const std::shared_ptr<Cache> cache_;  // builds under way have it, too
};

}  // namespace tulle::worker::build
