// What was built before on this vGPU: a program of the same kind, text and options has the same binary, which
// need not be built again. The whole request is the key, so that no two can be taken for one another. A vGPU
// is of one tenant, and a builder sees nothing but its request: what is found here is what the same tenant's
// builder would make again. What is not found here is looked for in the mesh (mesh_builds.h); but a binary
// that the program brings is nobody's to keep.
//
// Only builds that succeeded are kept, the least recently used goes first. In memory, for as long as the
// worker lives.
#pragma once

#include <memory>

#include "tulle/worker/build/builder.h"
#include "tulle/worker/build/mesh_builds.h"

namespace tulle::worker::build {

class CachingBuilder final : public Builder {
 public:
  // Requests and outcomes may take `max_bytes` together; one alone, a quarter of that. `mesh` may be null.
  CachingBuilder(std::unique_ptr<Builder> builder, std::size_t max_bytes,
                 std::unique_ptr<const MeshBuilds> mesh = nullptr);
  ~CachingBuilder() override;

  Result<std::unique_ptr<Build>> Start(wire::opencl::ProgramKind kind, ByteView text,
                                       std::string_view options) override;

 private:
  class Cache;
  class NewBuild;
  // Builds under way have these, too.
  const std::shared_ptr<Builder> builder_;
  const std::shared_ptr<Cache> cache_;
  const std::shared_ptr<const MeshBuilds> mesh_;
};

}  // namespace tulle::worker::build
