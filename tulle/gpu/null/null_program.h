// Programs of the null device: what its "compiler" reads out of their text.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tulle/gpu/api/backend.h"

namespace tulle::gpu::null {

struct NullKernel {
  struct Arg {
    wire::opencl::ArgKind kind = wire::opencl::ArgKind::kValue;
    std::optional<wire::opencl::ImageType> image;  // of kMemory: none is a buffer
    std::uint32_t access_qualifier = 0;            // of an image
    bool is_sampler = false;
    std::string type_name;
    std::string name;
  };
  std::string name;
  std::vector<Arg> args;
  bool takes_anything = false;  // nothing is known of its arguments
  std::uint32_t constant = 1;   // null_constant, of its program
};

struct NullProgram {
  std::int32_t status = 0;
  std::string log;
  std::vector<std::shared_ptr<const NullKernel>> kernels;  // empty: any kernel exists

  // Null when there is no such kernel.
  std::shared_ptr<const NullKernel> Find(std::string_view name) const;
};

CompileOutput CompileNull(wire::opencl::ProgramKind kind, ByteView text);
NullProgram LoadNull(ByteView binary);
ByteVector EncodeReply(const NullProgram& program);

}  // namespace tulle::gpu::null
