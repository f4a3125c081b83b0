// Programs: compiling one to a binary, loading the binary, and what there is to know of its kernels.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tulle/gpu/api/backend.h"
#include "tulle/gpu/opencl/native.h"

namespace tulle::gpu::opencl {

// What clSetKernelArg takes for an argument.
enum class ArgShape : std::uint8_t {
  kUnknown,  // the driver does not say: it must check by itself
  kValue,
  kMemory,  // a buffer
  kImage,
  kSampler,
  kLocal,
  kOther,  // a pipe, ...: nothing that a command can name
};

// One kernel as the driver describes it. Immutable.
struct KernelDescription {
  struct Arg {
    std::string type_name;
    std::string name;
    wire::opencl::KernelArgInfo info;  // its texts are empty: they are the strings here
    ArgShape shape = ArgShape::kUnknown;
    std::optional<wire::opencl::ImageType> image;  // of kImage, if its type says
  };
  std::string name;
  std::string attributes;
  wire::opencl::KernelInfo info;  // its texts and args are empty: they are the members here
  std::vector<Arg> args;          // arg_count of them
  bool has_arg_info = false;
};

KernelDescription DescribeKernel(cl_kernel kernel, cl_device_id device);

// What the driver says of the sub-groups of work-groups that run the kernel; CL_INVALID_OPERATION when the
// device has none.
std::int32_t SubGroupsOf(cl_kernel kernel, cl_device_id device, const wire::opencl::GetKernelSubGroups& query,
                         wire::Vec3* values);

struct LoadedProgram {
  std::int32_t status = 0;  // of clBuildProgram
  std::string log;
  OwnedProgram program;  // null unless status is 0
  // By name; shared with the kernel objects made from it.
  std::map<std::string, std::shared_ptr<const KernelDescription>, std::less<>> kernels;
};

// For these devices, all of one kind: what is known of its kernels is the first's.
LoadedProgram LoadBinary(cl_context context, const std::vector<cl_device_id>& devices, ByteView binary);

// The reply that describes the program; fits into wire::kMaxBodyBytes (argument infos go first).
ByteVector EncodeReply(const LoadedProgram& loaded);

// See Driver::OpenCompiler.
std::unique_ptr<Compiler> MakeCompiler(const NativeDevice& device);

}  // namespace tulle::gpu::opencl
