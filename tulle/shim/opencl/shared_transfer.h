// Transfers of buffers whose bytes this process can reach where they lie on the vGPU (Memory::Shared):
// nothing goes through the connection but when. The device is told by a map before this process touches them,
// and by an unmap after.
#pragma once

#include "tulle/shim/opencl/memory.h"
#include "tulle/shim/opencl/queue.h"

namespace tulle::shim::opencl {

// The map call of `mapping`, which is shared. Makes the call's event.
cl_int BeginShared(Enqueue& enqueue, cl_bool blocking, cl_map_flags flags, Memory& memory,
                   const Memory::Mapping& mapping);
// Its unmap.
cl_int EndShared(Enqueue& enqueue, Memory& memory, const Memory::Mapping& mapping);

// Where the buffer lies, if a transfer of `size` bytes had better be a copy there by this thread; else null.
std::byte* SharedForCopy(const Enqueue& enqueue, cl_bool blocking, Memory& memory, std::size_t size);
// A blocking read from its `offset` on, which is at `shared`. The event, if any, is made before.
cl_int ReadShared(Enqueue& enqueue, Memory& memory, std::size_t offset, const std::byte* shared,
                  MutableByteView target);
// A write. As of Upload, the end is left to EndWrite.
cl_int WriteShared(Enqueue& enqueue, Memory& memory, std::size_t offset, std::byte* shared, ByteView data);

}  // namespace tulle::shim::opencl
