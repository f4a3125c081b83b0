// Messages between a worker and the processes that it keeps tenant code in: executor and builder. Same host
// and same build, so there is no version. A session's own commands (kCommands, Place::kDevice) travel the
// same way; these are what clients may not say.
#pragma once

#include "tulle/wire/row.h"
#include "tulle/wire/schema/opencl/program.h"

namespace tulle::wire::exec {

// A built program for the device. Repeated for the same program after a rebuild.
struct LoadProgram {
  Handle context;
  Handle program;
  Payload<kMaxProgramBytes> binary;
  TULLE_MESSAGE(LoadProgram, context, program, binary)
};
struct LoadProgramReply {
  I32 status = 0;  // of clBuildProgram on the binary
  Str<kMaxBuildLogBytes> log;
  List<opencl::KernelInfo, kMaxKernelsInProgram> kernels;
  TULLE_MESSAGE(LoadProgramReply, status, log, kernels)
};

// How much of the device's memory the module's variables will take, whose image has come as a whole; 0 where
// that cannot be told: then LoadModule fails, and says why.
struct MeasureModule {
  Handle module;
  TULLE_MESSAGE(MeasureModule, module)
};
struct MeasureModuleReply {
  I32 status = 0;  // 0, unless the question makes no sense
  U64 variable_bytes = 0;
  TULLE_MESSAGE(MeasureModuleReply, status, variable_bytes)
};

// To a builder: source (or a foreign binary) in, binary out.
struct Compile {
  U32 device_index = 0;
  Enum<opencl::ProgramKind> kind;
  Str<kMaxBuildOptionsBytes> options;
  Payload<kMaxProgramBytes> text;
  TULLE_MESSAGE(Compile, device_index, kind, options, text)
};
struct CompileReply {
  I32 status = 0;
  Str<kMaxBuildLogBytes> log;
  Payload<kMaxProgramBytes> binary;
  TULLE_MESSAGE(CompileReply, status, log, binary)
};

inline constexpr auto kExecCommands = std::tuple{
    Row<0x9001, LoadProgram, LoadProgramReply>{Mode::kReply, Place::kDevice, Capability::kOpenCl},
    Row<0x9002, Compile, CompileReply>{Mode::kReply, Place::kWorker, Capability::kOpenCl},
    Row<0x9003, MeasureModule, MeasureModuleReply>{Mode::kReply, Place::kDevice, Capability::kCuda},
};
static_assert(WellFormed(kExecCommands));

}  // namespace tulle::wire::exec
