// Every message between client and worker, once. A new one is a struct in schema/ and a row here; the
// compiler then asks for its handler. Numbers are never reused; schema.lock holds what was released.
#pragma once

#include "tulle/wire/row.h"
#include "tulle/wire/schema/cuda/device.h"
#include "tulle/wire/schema/cuda/stream.h"
#include "tulle/wire/schema/exports.h"
#include "tulle/wire/schema/opencl/device.h"
#include "tulle/wire/schema/opencl/image.h"
#include "tulle/wire/schema/opencl/memory.h"
#include "tulle/wire/schema/opencl/program.h"
#include "tulle/wire/schema/opencl/queue.h"
#include "tulle/wire/schema/opencl/rect.h"
#include "tulle/wire/schema/opencl/svm.h"

namespace tulle::wire {

inline constexpr auto kCommands = std::tuple{
    // The session itself.
    Row<0x0001, Hello, HelloReply>{Mode::kReply, Place::kSession},
    Row<0x0002, Ack>{Mode::kNotice, Place::kSession},
    Row<0x0003, Ping>{Mode::kReply, Place::kSession},
    Row<0x0004, SessionEnded>{Mode::kNotice, Place::kSession},
    Row<0x0005, Goodbye>{Mode::kOneWay, Place::kSession},
    Row<0x0006, CommandFailed>{Mode::kNotice, Place::kSession},
    Row<0x0007, PayloadPart>{Mode::kOneWay, Place::kSession, Capability::kParts},
    Row<0x0010, AcquireMemory, AcquireMemoryReply>{Mode::kReply, Place::kWorker},
    Row<0x0011, ReleaseMemory>{Mode::kOneWay, Place::kWorker},
    Row<0x0012, DestroyObject>{Mode::kOneWay, Place::kDevice},
    Row<0x0013, ShareMemory>{Mode::kOneWay, Place::kDevice, Capability::kSharedMemory},
    Row<0x0014, LocateMemory, LocateMemoryReply>{Mode::kReply, Place::kWorker, Capability::kSharedMemory},
    Row<0x0015, ExportMemory, ExportMemoryReply>{Mode::kReply, Place::kWorker, Capability::kExports},
    Row<0x0016, OpenExport, OpenExportReply>{Mode::kReply, Place::kWorker, Capability::kExports},
    Row<0x0017, RevokeExport, RevokeExportReply>{Mode::kReply, Place::kWorker, Capability::kExports},

    // OpenCL: devices and contexts.
    Row<0x0101, opencl::DescribeDevice, opencl::DescribeDeviceReply>{Mode::kReply, Place::kDevice,
                                                                     Capability::kOpenCl},
    Row<0x0102, opencl::CreateContext>{Mode::kOneWay, Place::kDevice, Capability::kOpenCl},
    Row<0x0103, opencl::CountSubDevices, opencl::CountSubDevicesReply>{Mode::kReply, Place::kDevice,
                                                                       Capability::kSubDevices},
    Row<0x0104, opencl::CreateSubDevice>{Mode::kOneWay, Place::kDevice, Capability::kSubDevices},
    Row<0x0105, opencl::DescribeSubDevice, opencl::DescribeDeviceReply>{Mode::kReply, Place::kDevice,
                                                                        Capability::kSubDevices},
    Row<0x0106, opencl::CreateContextOn>{Mode::kOneWay, Place::kDevice, Capability::kSubDevices},

    // OpenCL: memory objects.
    Row<0x0201, opencl::CreateBuffer>{Mode::kOneWay, Place::kDevice, Capability::kOpenCl},
    Row<0x0202, opencl::InitBuffer>{Mode::kOneWay, Place::kDevice, Capability::kOpenCl},
    Row<0x0203, opencl::CreateSubBuffer>{Mode::kOneWay, Place::kDevice, Capability::kOpenCl},
    Row<0x0204, opencl::ImportBuffer>{Mode::kOneWay, Place::kDevice,
                                      Capability::kOpenCl | Capability::kExports},

    // OpenCL: images and samplers.
    Row<0x0211, opencl::GetImageFormats, opencl::GetImageFormatsReply>{Mode::kReply, Place::kDevice,
                                                                       Capability::kImages},
    Row<0x0212, opencl::CreateImage>{Mode::kOneWay, Place::kDevice, Capability::kImages},
    Row<0x0213, opencl::InitImage>{Mode::kOneWay, Place::kDevice, Capability::kImages},
    Row<0x0214, opencl::CreateSampler>{Mode::kOneWay, Place::kDevice, Capability::kImages},
    Row<0x0215, opencl::SetSamplerArg>{Mode::kOneWay, Place::kDevice, Capability::kImages},

    // OpenCL: shared virtual memory.
    Row<0x0221, opencl::CreateSvm>{Mode::kOneWay, Place::kDevice, Capability::kSvm},
    Row<0x0222, opencl::SetSvmArg>{Mode::kOneWay, Place::kDevice, Capability::kSvm},

    // OpenCL: programs and kernels. Building happens in the worker's builder, not on the device.
    Row<0x0301, opencl::CreateProgram>{Mode::kOneWay, Place::kWorker, Capability::kOpenCl},
    Row<0x0302, opencl::ProgramText>{Mode::kOneWay, Place::kWorker, Capability::kOpenCl},
    Row<0x0303, opencl::BuildProgram, opencl::BuildProgramReply>{Mode::kReply, Place::kWorker,
                                                                 Capability::kOpenCl},
    Row<0x0304, opencl::GetProgramBinary, opencl::GetProgramBinaryReply>{Mode::kReply, Place::kWorker,
                                                                         Capability::kOpenCl},
    Row<0x0311, opencl::CreateKernel>{Mode::kOneWay, Place::kDevice, Capability::kOpenCl},
    Row<0x0312, opencl::SetKernelArg>{Mode::kOneWay, Place::kDevice, Capability::kOpenCl},
    Row<0x0313, opencl::GetKernelSubGroups, opencl::GetKernelSubGroupsReply>{Mode::kReply, Place::kDevice,
                                                                             Capability::kSubGroups},

    // OpenCL: queues, commands, events.
    Row<0x0401, opencl::CreateQueue>{Mode::kOneWay, Place::kDevice, Capability::kOpenCl},
    Row<0x0402, opencl::Flush>{Mode::kOneWay, Place::kDevice, Capability::kOpenCl},
    Row<0x0403, opencl::Finish>{Mode::kReply, Place::kDevice, Capability::kOpenCl},
    Row<0x0404, opencl::CreateQueueOn>{Mode::kOneWay, Place::kDevice, Capability::kSubDevices},
    Row<0x0411, opencl::EnqueueKernel>{Mode::kOneWay, Place::kDevice, Capability::kOpenCl},
    Row<0x0412, opencl::EnqueueRead, opencl::EnqueueReadReply>{Mode::kReply, Place::kDevice,
                                                               Capability::kOpenCl},
    Row<0x0413, opencl::EnqueueWrite>{Mode::kOneWay, Place::kDevice, Capability::kOpenCl},
    Row<0x0414, opencl::EnqueueCopy>{Mode::kOneWay, Place::kDevice, Capability::kOpenCl},
    Row<0x0415, opencl::EnqueueFill>{Mode::kOneWay, Place::kDevice, Capability::kOpenCl},
    Row<0x0416, opencl::EnqueueSync>{Mode::kOneWay, Place::kDevice, Capability::kOpenCl},
    Row<0x0417, opencl::EnqueueReadRect, opencl::EnqueueReadReply>{Mode::kReply, Place::kDevice,
                                                                   Capability::kOpenCl},
    Row<0x0418, opencl::EnqueueWriteRect>{Mode::kOneWay, Place::kDevice, Capability::kOpenCl},
    Row<0x0419, opencl::EnqueueCopyRect>{Mode::kOneWay, Place::kDevice, Capability::kOpenCl},
    Row<0x041a, opencl::EnqueueMap>{Mode::kOneWay, Place::kDevice, Capability::kSharedMemory},
    Row<0x041b, opencl::EnqueueUnmap>{Mode::kOneWay, Place::kDevice, Capability::kSharedMemory},
    Row<0x0421, opencl::CreateUserEvent>{Mode::kOneWay, Place::kDevice, Capability::kOpenCl},
    Row<0x0422, opencl::SetUserEventStatus>{Mode::kOneWay, Place::kDevice, Capability::kOpenCl},
    Row<0x0431, opencl::EventsCompleted>{Mode::kNotice, Place::kDevice, Capability::kOpenCl},
    Row<0x0432, opencl::KernelOutput>{Mode::kNotice, Place::kDevice, Capability::kOpenCl},
    Row<0x0441, opencl::EnqueueReadImage, opencl::EnqueueReadReply>{Mode::kReply, Place::kDevice,
                                                                    Capability::kImages},
    Row<0x0442, opencl::EnqueueWriteImage>{Mode::kOneWay, Place::kDevice, Capability::kImages},
    Row<0x0443, opencl::EnqueueCopyImage>{Mode::kOneWay, Place::kDevice, Capability::kImages},
    Row<0x0444, opencl::EnqueueFillImage>{Mode::kOneWay, Place::kDevice, Capability::kImages},
    Row<0x0445, opencl::EnqueueCopyImageToBuffer>{Mode::kOneWay, Place::kDevice, Capability::kImages},
    Row<0x0446, opencl::EnqueueCopyBufferToImage>{Mode::kOneWay, Place::kDevice, Capability::kImages},

    // CUDA: devices, contexts, memory, modules.
    Row<0x0501, cuda::DescribeDevice, cuda::DescribeDeviceReply>{Mode::kReply, Place::kDevice,
                                                                 Capability::kCuda},
    Row<0x0502, cuda::CreateContext>{Mode::kOneWay, Place::kDevice, Capability::kCuda},
    Row<0x0503, cuda::SynchronizeContext>{Mode::kReply, Place::kDevice, Capability::kCuda},
    Row<0x0511, cuda::GetMemoryInfo, cuda::GetMemoryInfoReply>{Mode::kReply, Place::kWorker,
                                                               Capability::kCuda},
    Row<0x0513, cuda::AllocateMemory>{Mode::kOneWay, Place::kDevice, Capability::kCuda},
    Row<0x0514, cuda::AllocateExportable>{Mode::kOneWay, Place::kDevice,
                                          Capability::kCuda | Capability::kExports},
    Row<0x0515, cuda::ImportMemory>{Mode::kOneWay, Place::kDevice, Capability::kCuda | Capability::kExports},
    Row<0x0521, cuda::CreateModule>{Mode::kOneWay, Place::kDevice, Capability::kCuda},
    Row<0x0522, cuda::ModuleImage>{Mode::kOneWay, Place::kDevice, Capability::kCuda},
    Row<0x0523, cuda::LoadModule, cuda::LoadModuleReply>{Mode::kReply, Place::kDevice, Capability::kCuda},
    Row<0x0524, cuda::GetFunction, cuda::GetFunctionReply>{Mode::kReply, Place::kDevice, Capability::kCuda},
    Row<0x0525, cuda::GetVariable, cuda::GetVariableReply>{Mode::kReply, Place::kDevice, Capability::kCuda},

    // CUDA: streams and what they do.
    Row<0x0531, cuda::CreateStream>{Mode::kOneWay, Place::kDevice, Capability::kCuda},
    Row<0x0532, cuda::SynchronizeStream>{Mode::kReply, Place::kDevice, Capability::kCuda},
    Row<0x0533, cuda::QueryStream>{Mode::kReply, Place::kDevice, Capability::kCuda},
    Row<0x0541, cuda::LaunchKernel>{Mode::kOneWay, Place::kDevice, Capability::kCuda},
    Row<0x0542, cuda::CopyToDevice>{Mode::kOneWay, Place::kDevice, Capability::kCuda},
    Row<0x0543, cuda::CopyFromDevice, cuda::CopyFromDeviceReply>{Mode::kReply, Place::kDevice,
                                                                 Capability::kCuda},
    Row<0x0544, cuda::CopyOnDevice>{Mode::kOneWay, Place::kDevice, Capability::kCuda},
    Row<0x0545, cuda::FillMemory>{Mode::kOneWay, Place::kDevice, Capability::kCuda},
    Row<0x0546, cuda::RecordEvent>{Mode::kOneWay, Place::kDevice, Capability::kCuda},
    Row<0x0547, cuda::WaitEvent>{Mode::kOneWay, Place::kDevice, Capability::kCuda},
    Row<0x0548, cuda::CallHost>{Mode::kOneWay, Place::kDevice, Capability::kCuda},
    Row<0x0549, cuda::EndHostCall>{Mode::kOneWay, Place::kDevice, Capability::kCuda},
};
static_assert(WellFormed(kCommands));

inline constexpr auto kRowInfos = InfosOf(kCommands);

template <Message M>
inline constexpr U16 kOpcodeOf = OpcodeIn<M>(kCommands);
template <Message M>
inline constexpr Mode kModeOf = ModeIn<M>(kCommands);

// In kRowInfos; null when no row has this opcode.
const RowInfo* FindRow(U16 opcode);

// The table as text, one line a row: what schema.lock holds.
std::string DescribeTable();

}  // namespace tulle::wire
