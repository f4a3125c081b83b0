// CUDA: the device, contexts, memory, modules. Statuses are CUresult's values; those of events, which OpenCL
// has as negative numbers, are their negatives.
#pragma once

#include "tulle/wire/fields.h"

namespace tulle::wire::cuda {

// The session's first command of the device: all its memory shall be within these addresses, at which the
// program has nothing else, so that pointers mean the same in both. CUDA_ERROR_ALREADY_MAPPED: they are not
// free there; others may be asked for.
struct DescribeDevice {
  U64 arena_address = 0;
  U64 arena_bytes = 0;
  TULLE_MESSAGE(DescribeDevice, arena_address, arena_bytes)
};
// What the program sees of the device. Attributes by their CUdevice_attribute; 0: it has not said. Memory is
// allocated in multiples of the granule.
struct DescribeDeviceReply {
  I32 status = 0;
  Str<kMaxNameBytes> name;
  Bytes<16> uuid;
  List<U32, kMaxDeviceInfos> attributes;
  U64 granule_bytes = 0;
  TULLE_MESSAGE(DescribeDeviceReply, status, name, uuid, attributes, granule_bytes)
};

struct CreateContext {
  New<ObjectKind::kContext> context;
  New<ObjectKind::kQueue> legacy;  // its legacy default stream
  TULLE_MESSAGE(CreateContext, context, legacy)
};

// Answered (StatusReply) when all streams of the context have done what they had; with its error, if it has
// one.
struct SynchronizeContext {
  Ref<ObjectKind::kContext> context;
  TULLE_MESSAGE(SynchronizeContext, context)
};

// What is left of the vGPU's memory for this session.
struct GetMemoryInfo {
  TULLE_EMPTY_MESSAGE(GetMemoryInfo)
};
struct GetMemoryInfoReply {
  U64 free_bytes = 0;
  U64 total_bytes = 0;
  TULLE_MESSAGE(GetMemoryInfoReply, free_bytes, total_bytes)
};

// Within the lease, and where the client wants it: in its range of addresses, where it has nothing allocated.
// DestroyObject gives it back, once nothing uses it any more: the client sees to that.
struct AllocateMemory {
  New<ObjectKind::kMemory> memory;
  U64 address = 0;
  U64 size_bytes = 0;
  TULLE_MESSAGE(AllocateMemory, memory, address, size_bytes)
};

// The same, to be exported.
struct AllocateExportable {
  New<ObjectKind::kMemory> memory;
  U64 address = 0;
  U64 size_bytes = 0;
  TULLE_MESSAGE(AllocateExportable, memory, address, size_bytes)
};

// All of the memory of an export which the session has opened, and of which it knows the size, at an address
// as of AllocateMemory. It takes nothing of a lease.
struct ImportMemory {
  New<ObjectKind::kMemory> memory;
  U64 address = 0;
  Str<kMaxExportTokenBytes> token;
  TULLE_MESSAGE(ImportMemory, memory, address, token)
};

// An image (PTX, fatbin or cubin) comes in pieces, then is loaded.
struct CreateModule {
  Ref<ObjectKind::kContext> context;
  New<ObjectKind::kProgram> module;
  TULLE_MESSAGE(CreateModule, context, module)
};
struct ModuleImage {
  Ref<ObjectKind::kProgram> module;
  Payload<kMaxPayloadBytes> data;
  TULLE_MESSAGE(ModuleImage, module, data)
};
struct LoadModule {
  Ref<ObjectKind::kProgram> module;
  TULLE_MESSAGE(LoadModule, module)
};
struct LoadModuleReply {
  I32 status = 0;
  Str<kMaxReasonBytes> log;  // what is wrong with it, for a person
  TULLE_MESSAGE(LoadModuleReply, status, log)
};

struct GetFunction {
  Ref<ObjectKind::kProgram> module;
  New<ObjectKind::kKernel> function;
  Str<kMaxNameBytes> name;
  TULLE_MESSAGE(GetFunction, module, function, name)
};
struct GetFunctionReply {
  I32 status = 0;
  List<U32, kMaxKernelArgs> parameter_offsets;
  List<U32, kMaxKernelArgs> parameter_sizes;
  U32 parameter_bytes = 0;
  U32 max_threads = 0;
  U32 shared_bytes = 0;
  U32 constant_bytes = 0;
  U32 local_bytes = 0;
  U32 registers = 0;
  U32 ptx_version = 0;
  U32 binary_version = 0;
  TULLE_MESSAGE(GetFunctionReply, status, parameter_offsets, parameter_sizes, parameter_bytes, max_threads,
                shared_bytes, constant_bytes, local_bytes, registers, ptx_version, binary_version)
};

struct GetVariable {
  Ref<ObjectKind::kProgram> module;
  Str<kMaxNameBytes> name;
  TULLE_MESSAGE(GetVariable, module, name)
};
struct GetVariableReply {
  I32 status = 0;
  U64 address = 0;
  U64 size_bytes = 0;
  TULLE_MESSAGE(GetVariableReply, status, address, size_bytes)
};

}  // namespace tulle::wire::cuda
