// OpenCL programs and kernels.
#pragma once

#include "tulle/wire/fields.h"

namespace tulle::wire::opencl {

enum class ProgramKind : U8 {
  kSource = 0,
  kBinary = 1,
  kObject = 2,  // source or IL that is only compiled: a build says if it can be, and the device never sees it
  kLink = 3,    // an object file (wire/object_file.h), whose objects are linked
  kIl = 4,      // a SPIR-V module, its specialization constants set (wire/spirv.h); needs Capability::kIl
};
constexpr bool IsKnown(ProgramKind k) { return k <= ProgramKind::kIl; }

// An empty program; ProgramText fills it.
struct CreateProgram {
  Ref<ObjectKind::kContext> context;
  New<ObjectKind::kProgram> program;
  Enum<ProgramKind> kind;
  TULLE_MESSAGE(CreateProgram, context, program, kind)
};

// The next piece of a program's source, IL or binary; at most kMaxProgramBytes in all.
struct ProgramText {
  Ref<ObjectKind::kProgram> program;
  Payload<kMaxPayloadBytes> data;
  TULLE_MESSAGE(ProgramText, program, data)
};

// cl_kernel_arg_address_qualifier and _access_qualifier, as OpenCL numbers them; 0 = not known.
struct KernelArgInfo {
  U32 address_qualifier = 0;
  U32 access_qualifier = 0;
  U64 type_qualifier = 0;
  Str<kMaxTypeNameBytes> type_name;
  Str<kMaxNameBytes> name;
  TULLE_MESSAGE(KernelArgInfo, address_qualifier, access_qualifier, type_qualifier, type_name, name)
};

// What clGetKernelInfo, clGetKernelWorkGroupInfo and clGetKernelArgInfo can be answered from.
struct KernelInfo {
  Str<kMaxNameBytes> name;
  Str<kMaxNameBytes> attributes;
  U32 arg_count = 0;
  U64 work_group_size = 0;
  Vec3 compile_work_group_size{};
  U64 local_mem_bytes = 0;
  U64 preferred_work_group_multiple = 0;
  U64 private_mem_bytes = 0;
  List<KernelArgInfo, kMaxKernelArgs> args;  // empty when the device does not know
  TULLE_MESSAGE(KernelInfo, name, attributes, arg_count, work_group_size, compile_work_group_size,
                local_mem_bytes, preferred_work_group_multiple, private_mem_bytes, args)
};

// Compiles apart from running; the program may have no kernels attached.
struct BuildProgram {
  Ref<ObjectKind::kProgram> program;
  Str<kMaxBuildOptionsBytes> options;
  TULLE_MESSAGE(BuildProgram, program, options)
};
struct BuildProgramReply {
  I32 status = 0;  // of clBuildProgram
  Str<kMaxBuildLogBytes> log;
  U64 binary_bytes = 0;  // size of what GetProgramBinary returns
  List<KernelInfo, kMaxKernelsInProgram> kernels;
  TULLE_MESSAGE(BuildProgramReply, status, log, binary_bytes, kernels)
};

// A piece of the program's binary.
struct GetProgramBinary {
  Ref<ObjectKind::kProgram> program;
  U64 offset_bytes = 0;
  Wanted<kMaxPayloadBytes> data;
  TULLE_MESSAGE(GetProgramBinary, program, offset_bytes, data)
};
struct GetProgramBinaryReply {
  I32 status = 0;
  Payload<kMaxPayloadBytes> data;
  TULLE_MESSAGE(GetProgramBinaryReply, status, data)
};

struct CreateKernel {
  Ref<ObjectKind::kProgram> program;
  New<ObjectKind::kKernel> kernel;
  Str<kMaxNameBytes> name;
  TULLE_MESSAGE(CreateKernel, program, kernel, name)
};

enum class ArgKind : U8 {
  kValue = 0,   // `value` holds the bytes
  kMemory = 1,  // `memory` (null is a valid __global pointer)
  kLocal = 2,   // `local_bytes` of local memory
};
constexpr bool IsKnown(ArgKind k) { return k <= ArgKind::kLocal; }

struct SetKernelArg {
  Ref<ObjectKind::kKernel> kernel;
  U32 index = 0;
  Enum<ArgKind> kind;
  OptRef<ObjectKind::kMemory> memory;
  U64 local_bytes = 0;
  Bytes<kMaxArgBytes> value;
  TULLE_MESSAGE(SetKernelArg, kernel, index, kind, memory, local_bytes, value)
};

// What clGetKernelSubGroupInfo is asked for.
enum class SubGroupQuery : U8 {
  kMaxSizeForRange = 0,    // work-items in the largest sub-group of a work-group of these sizes
  kCountForRange = 1,      // sub-groups in it
  kLocalSizeForCount = 2,  // sizes of a work-group that has sizes[0] sub-groups; all 0: there is none
  kMaxCount = 3,           // sub-groups in the largest work-group
  kCompiledCount = 4,      // sub-groups that the kernel's source demands; 0: any
};
constexpr bool IsKnown(SubGroupQuery q) { return q <= SubGroupQuery::kCompiledCount; }

struct GetKernelSubGroups {
  Ref<ObjectKind::kKernel> kernel;
  Enum<SubGroupQuery> query;
  U32 dimensions = 0;  // of the work-group, 1 to 3
  Vec3 sizes{};
  TULLE_MESSAGE(GetKernelSubGroups, kernel, query, dimensions, sizes)
};
struct GetKernelSubGroupsReply {
  I32 status = 0;
  Vec3 values{};  // all but sizes: the first
  TULLE_MESSAGE(GetKernelSubGroupsReply, status, values)
};

}  // namespace tulle::wire::opencl
