// Shared virtual memory, coarse-grained: the device's memory and its mirror here have the same address. Maps
// and unmaps bring one up to the other, as they do for buffers.
#include <algorithm>
#include <bit>

#include "tulle/shim/opencl/entry_points.h"
#include "tulle/shim/opencl/event.h"
#include "tulle/shim/opencl/kernel.h"
#include "tulle/shim/opencl/transfer.h"
#include "tulle/wire/schema/opencl/svm.h"

namespace tulle::shim::opencl {
namespace {

using FreeNotify = void(CL_CALLBACK*)(cl_command_queue, cl_uint, void*[], void*);

// The allocation of this context that `address` is in; empty if none.
SvmPlace FindIn(const Context& context, const void* address) {
  SvmPlace place = TheProcess().svm.Find(address);
  return place && &place.memory->context() == &context ? place : SvmPlace{};
}

// What every command about shared virtual memory demands of its queue.
cl_int CheckQueue(const Enqueue& enqueue) {
  if (enqueue.status() != CL_SUCCESS) return enqueue.status();
  return enqueue.queue().context().device().has_svm() ? CL_SUCCESS : CL_INVALID_OPERATION;
}

}  // namespace

void* SVMAlloc(cl_context context_handle, cl_svm_mem_flags flags, std::size_t size, cl_uint alignment) {
  Context* context = FromHandle<Context>(context_handle);
  if (context == nullptr || !context->device().has_svm()) return nullptr;
  // Fine-grained buffers and atomics are not offered.
  if ((flags & ~kDeviceAccess) != 0 || std::popcount(flags) > 1) return nullptr;
  if (flags == 0) flags = CL_MEM_READ_WRITE;
  if (size == 0 || size > context->device().limits().max_allocation_bytes) return nullptr;
  if (alignment != 0 && (!std::has_single_bit(alignment) || alignment > wire::opencl::kMemoryGranuleBytes))
    return nullptr;

  std::byte* const pages = TheProcess().svm.Map(size);
  if (pages == nullptr) return nullptr;
  Connection& connection = context->connection();
  const std::uint64_t charged_bytes = wire::opencl::ChargedBytes(size);
  const bool charged = connection.TakeMemory(charged_bytes) == Connection::Memory::kTaken;
  const wire::Handle name = charged ? connection.NewHandle() : wire::Handle{};
  if (name.null()) {
    if (charged) connection.GiveMemory(charged_bytes);
    SvmSpace::Unmap(pages, size);
    return nullptr;
  }
  Ref<Memory> memory = Ref<Memory>::Adopt(new Memory(*context, name, flags, size, pages));
  wire::opencl::CreateSvm message;
  message.context = context->wire();
  message.memory = {name};
  message.flags.bits = flags;
  message.address = reinterpret_cast<std::uintptr_t>(pages);
  message.size_bytes = size;
  if (!connection.Submit(message)) return nullptr;
  TheProcess().svm.Add(std::move(memory), pages, size);
  return pages;
}

void SVMFree(cl_context context_handle, void* address) {
  const Context* context = FromHandle<Context>(context_handle);
  if (context == nullptr || address == nullptr || !FindIn(*context, address)) return;
  TheProcess().svm.Take(address);
}

cl_int EnqueueSVMFree(cl_command_queue queue, cl_uint count, void* addresses[], FreeNotify notify,
                      void* user_data, cl_uint num_waits, const cl_event* waits, cl_event* event) {
  Enqueue enqueue(queue, CL_COMMAND_SVM_FREE, num_waits, waits, event);
  if (const cl_int status = CheckQueue(enqueue); status != CL_SUCCESS) return status;
  if ((count == 0) != (addresses == nullptr)) return CL_INVALID_VALUE;
  if (event != nullptr && enqueue.MakeEvent() == nullptr) return CL_OUT_OF_RESOURCES;
  auto free = [queue, notify, user_data, list = std::vector<void*>(addresses, addresses + count),
               context = Ref<Context>(&enqueue.queue().context())](const Enqueue::Done& done) mutable {
    if (notify != nullptr) {
      notify(queue, static_cast<cl_uint>(list.size()), list.data(), user_data);
    } else {
      for (void* address : list) SVMFree(ToHandle(context.get()), address);
    }
    done(CL_COMPLETE);
  };
  const cl_int status = enqueue.PlaceHere(std::move(free));
  return status == CL_SUCCESS ? enqueue.Commit() : status;
}

cl_int EnqueueSVMMemcpy(cl_command_queue queue, cl_bool blocking, void* target, const void* source,
                        std::size_t size, cl_uint num_waits, const cl_event* waits, cl_event* event) {
  Enqueue enqueue(queue, CL_COMMAND_SVM_MEMCPY, num_waits, waits, event);
  if (const cl_int status = CheckQueue(enqueue); status != CL_SUCCESS) return status;
  if (target == nullptr || source == nullptr) return CL_INVALID_VALUE;
  const auto from = reinterpret_cast<std::uintptr_t>(source);
  const auto to = reinterpret_cast<std::uintptr_t>(target);
  if (from < to + size && to < from + size) return CL_MEM_COPY_OVERLAP;
  if (size == 0) return enqueue.SubmitNothing();

  const Context& context = enqueue.queue().context();
  const SvmPlace source_place = FindIn(context, source);
  const SvmPlace target_place = FindIn(context, target);
  for (const SvmPlace* place : {&source_place, &target_place}) {
    if (*place && !place->memory->Contains(place->offset, size)) return CL_INVALID_VALUE;
  }
  if (source_place && target_place) {
    wire::opencl::EnqueueCopy message;
    message.source = source_place.memory->wire();
    message.destination = target_place.memory->wire();
    message.source_offset_bytes = source_place.offset;
    message.destination_offset_bytes = target_place.offset;
    message.size_bytes = size;
    const bool sent = BeginWrite(enqueue, blocking) && enqueue.SubmitPiece(message, true);
    return sent ? EndWrite(enqueue, blocking) : CL_OUT_OF_RESOURCES;
  }
  if (source_place) {
    if (event != nullptr && enqueue.MakeEvent() == nullptr) return CL_OUT_OF_RESOURCES;
    return EndRead(enqueue, blocking,
                   Download::Start(enqueue, *source_place.memory, source_place.offset,
                                   {static_cast<std::byte*>(target), size}, source_place.memory));
  }
  if (target_place) {
    if (!BeginWrite(enqueue, blocking)) return CL_OUT_OF_RESOURCES;
    const cl_int status = Upload(enqueue, *target_place.memory, target_place.offset,
                                 {static_cast<const std::byte*>(source), size});
    return status == CL_SUCCESS ? EndWrite(enqueue, blocking) : status;
  }
  // Both are this process's own.
  if (enqueue.MakeEvent(blocking != CL_FALSE) == nullptr && (event != nullptr || blocking != CL_FALSE))
    return CL_OUT_OF_RESOURCES;
  const cl_int status = enqueue.PlaceHere([target, source, size](const Enqueue::Done& done) {
    std::memcpy(target, source, size);
    done(CL_COMPLETE);
  });
  if (status != CL_SUCCESS) return status;
  if (blocking != CL_FALSE) {
    const Event& done = *enqueue.event();
    if (!enqueue.connection().AwaitUntil([&] { return done.final(); })) return CL_OUT_OF_RESOURCES;
    if (const cl_int end = EndBlocking(enqueue, done.sequence(), done.status()); end != CL_SUCCESS)
      return end;
  }
  return enqueue.Commit();
}

cl_int EnqueueSVMMemFill(cl_command_queue queue, void* address, const void* pattern, std::size_t pattern_size,
                         std::size_t size, cl_uint num_waits, const cl_event* waits, cl_event* event) {
  Enqueue enqueue(queue, CL_COMMAND_SVM_MEMFILL, num_waits, waits, event);
  if (const cl_int status = CheckQueue(enqueue); status != CL_SUCCESS) return status;
  if (address == nullptr || pattern == nullptr || !std::has_single_bit(pattern_size) ||
      pattern_size > wire::kMaxFillPatternBytes ||
      reinterpret_cast<std::uintptr_t>(address) % pattern_size != 0 || size % pattern_size != 0) {
    return CL_INVALID_VALUE;
  }
  const SvmPlace place = FindIn(enqueue.queue().context(), address);
  if (!place || !place.memory->Contains(place.offset, size)) return CL_INVALID_VALUE;
  if (size == 0) return enqueue.SubmitNothing();
  wire::opencl::EnqueueFill message;
  message.memory = place.memory->wire();
  message.offset_bytes = place.offset;
  message.size_bytes = size;
  message.pattern = {{static_cast<const std::byte*>(pattern), pattern_size}};
  return enqueue.Submit(message);
}

cl_int EnqueueSVMMap(cl_command_queue queue, cl_bool blocking, cl_map_flags flags, void* address,
                     std::size_t size, cl_uint num_waits, const cl_event* waits, cl_event* event) {
  Enqueue enqueue(queue, CL_COMMAND_SVM_MAP, num_waits, waits, event);
  if (const cl_int status = CheckQueue(enqueue); status != CL_SUCCESS) return status;
  const SvmPlace place = FindIn(enqueue.queue().context(), address);
  if (!place || size == 0 || !place.memory->Contains(place.offset, size)) return CL_INVALID_VALUE;
  Memory::Mapping mapping;
  if (const cl_int status = CheckMap(*place.memory, flags, &mapping.writes); status != CL_SUCCESS)
    return status;
  mapping.address = static_cast<std::byte*>(address);
  mapping.offset = place.offset;
  mapping.size = size;
  const cl_int status = FetchMapping(enqueue, blocking, flags, [&] {
    return Download::Start(enqueue, *place.memory, place.offset, {mapping.address, size}, place.memory);
  });
  if (status != CL_SUCCESS) return status;
  place.memory->AddMapping(mapping);
  return enqueue.Commit();
}

cl_int EnqueueSVMUnmap(cl_command_queue queue, void* address, cl_uint num_waits, const cl_event* waits,
                       cl_event* event) {
  Enqueue enqueue(queue, CL_COMMAND_SVM_UNMAP, num_waits, waits, event);
  if (const cl_int status = CheckQueue(enqueue); status != CL_SUCCESS) return status;
  const SvmPlace place = FindIn(enqueue.queue().context(), address);
  Memory::Mapping mapping;
  if (!place || !place.memory->TakeMapping(address, &mapping)) return CL_INVALID_VALUE;
  return EndMapping(enqueue, *place.memory, mapping);
}

// A hint: there is one device, and everything is there already.
cl_int EnqueueSVMMigrateMem(cl_command_queue queue, cl_uint count, const void** addresses,
                            const std::size_t* sizes, cl_mem_migration_flags flags, cl_uint num_waits,
                            const cl_event* waits, cl_event* event) {
  Enqueue enqueue(queue, CL_COMMAND_SVM_MIGRATE_MEM, num_waits, waits, event);
  if (const cl_int status = CheckQueue(enqueue); status != CL_SUCCESS) return status;
  if (count == 0 || addresses == nullptr ||
      (flags & ~(CL_MIGRATE_MEM_OBJECT_HOST | CL_MIGRATE_MEM_OBJECT_CONTENT_UNDEFINED)) != 0) {
    return CL_INVALID_VALUE;
  }
  for (cl_uint i = 0; i < count; ++i) {
    const SvmPlace place = FindIn(enqueue.queue().context(), addresses[i]);
    if (!place || !place.memory->Contains(place.offset, sizes == nullptr ? 0 : sizes[i]))
      return CL_INVALID_VALUE;
  }
  return enqueue.SubmitNothing();
}

cl_int SetKernelArgSVMPointer(cl_kernel handle, cl_uint index, const void* address) {
  Kernel* kernel = FromHandle<Kernel>(handle);
  if (kernel == nullptr) return CL_INVALID_KERNEL;
  const Context& context = kernel->program().context();
  if (!context.device().has_svm()) return CL_INVALID_OPERATION;
  if (index >= kernel->definition().args.size()) return CL_INVALID_ARG_INDEX;
  const ArgDefinition& arg = kernel->definition().args[index];
  const bool may_point = arg.address_qualifier == 0 ||
                         arg.address_qualifier == CL_KERNEL_ARG_ADDRESS_GLOBAL ||
                         arg.address_qualifier == CL_KERNEL_ARG_ADDRESS_CONSTANT;
  if (!may_point || arg.is_image()) return CL_INVALID_ARG_VALUE;
  if (address == nullptr) return kernel->SetPointer(index, {}, 0);
  const SvmPlace place = FindIn(context, address);
  return place ? kernel->SetPointer(index, place.memory->wire().handle, place.offset) : CL_INVALID_ARG_VALUE;
}

// Kernels reach every allocation of their context, so there is nothing to tell the device.
cl_int SetKernelExecInfo(cl_kernel handle, cl_kernel_exec_info name, std::size_t size, const void* value) {
  const Kernel* kernel = FromHandle<Kernel>(handle);
  if (kernel == nullptr) return CL_INVALID_KERNEL;
  const Context& context = kernel->program().context();
  if (!context.device().has_svm()) return CL_INVALID_OPERATION;
  switch (name) {
    case CL_KERNEL_EXEC_INFO_SVM_PTRS: {
      // Nothing at no address is the empty set.
      if ((size == 0) != (value == nullptr) || size % sizeof(void*) != 0) return CL_INVALID_VALUE;
      const auto* const addresses = static_cast<void* const*>(value);
      const bool all = std::all_of(addresses, addresses + size / sizeof(void*), [&](const void* address) {
        return static_cast<bool>(FindIn(context, address));
      });
      return all ? CL_SUCCESS : CL_INVALID_VALUE;
    }
    case CL_KERNEL_EXEC_INFO_SVM_FINE_GRAIN_SYSTEM: {
      if (value == nullptr || size != sizeof(cl_bool)) return CL_INVALID_VALUE;
      cl_bool wanted = CL_FALSE;
      std::memcpy(&wanted, value, sizeof wanted);
      return wanted == CL_FALSE ? CL_SUCCESS : CL_INVALID_OPERATION;
    }
    default: return CL_INVALID_VALUE;
  }
}

}  // namespace tulle::shim::opencl
