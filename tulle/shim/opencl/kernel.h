// Kernels: a function of a built program with the arguments that the program has set.
#pragma once

#include <mutex>

#include "tulle/shim/opencl/memory.h"
#include "tulle/shim/opencl/program.h"

namespace tulle::shim::opencl {

// An argument as it was last sent to the worker.
struct ArgValue {
  bool set = false;
  wire::opencl::ArgKind kind = wire::opencl::ArgKind::kValue;
  wire::Handle memory;      // kMemory; may be null
  bool is_pointer = false;  // of kMemory: `offset_bytes` into shared virtual memory
  std::uint64_t offset_bytes = 0;
  wire::Handle sampler;           // if not null, that is all
  std::uint64_t local_bytes = 0;  // kLocal
  ByteVector value;               // kValue
};

class Kernel final : public Object {
 public:
  Kernel(Program& program, wire::Handle name, std::shared_ptr<KernelDefinition> definition);
  static void Dispose(Kernel* kernel);

  Program& program() const { return *program_; }
  Connection& connection() const { return program_->connection(); }
  wire::Ref<wire::ObjectKind::kKernel> wire() const { return {name_}; }
  KernelDefinition& definition() const { return *definition_; }
  const std::shared_ptr<KernelDefinition>& shared_definition() const { return definition_; }
  bool all_args_set() const { return unset_args_.load(std::memory_order_acquire) == 0; }

  // Precondition: index is in range, the value fits the wire's limits.
  cl_int SetArg(cl_uint index, wire::opencl::ArgKind kind, wire::Handle memory, std::uint64_t local_bytes,
                ByteView value);
  cl_int SetSampler(cl_uint index, wire::Handle sampler);
  // A pointer into shared virtual memory; null: the null pointer.
  cl_int SetPointer(cl_uint index, wire::Handle memory, std::uint64_t offset_bytes);
  // Local memory of each work-group: its own and what arguments ask for.
  std::uint64_t local_bytes() const {
    return definition_->local_mem_bytes + local_arg_bytes_.load(std::memory_order_acquire);
  }
  // Sets all that `other` (of the same definition) has set, but objects that are gone.
  cl_int CopyArgs(Kernel& other);

 private:
  ~Kernel() = default;
  // Sends what sets an argument: at once if it is known to fit, else asking the device, if that has not taken
  // one of this form before.
  template <wire::Message M>
  cl_int Send(const M& message, ArgDefinition& definition, bool fits, std::uint64_t form);
  // Remembers what was sent.
  void Store(ArgValue& arg, ArgValue value);
  bool Same(const ArgValue& arg, wire::opencl::ArgKind kind, wire::Handle memory, std::uint64_t local_bytes,
            ByteView value) const;

  const Ref<Program> program_;
  const wire::Handle name_;
  const std::shared_ptr<KernelDefinition> definition_;
  std::atomic<std::uint32_t> unset_args_;
  std::atomic<std::uint64_t> local_arg_bytes_{0};
  std::mutex mutex_;            // held while an argument is sent, so that args_ is what the worker has
  std::vector<ArgValue> args_;  // guarded by mutex_
};
TULLE_API_OBJECT(Kernel, cl_kernel, ObjectType::kKernel, CL_INVALID_KERNEL);

}  // namespace tulle::shim::opencl
