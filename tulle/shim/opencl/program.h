// Programs, and what a build told of their kernels.
//
// What the worker knows as a program is a Unit: one text, built at most with one set of options. A program of
// the API is built into a Unit of its own each time. One that is only compiled leaves an object file instead,
// which stays here until it is linked.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "tulle/shim/opencl/context.h"
#include "tulle/wire/schema/opencl/program.h"

namespace tulle::shim::opencl {

// One argument of a kernel as its definition has it.
struct ArgDefinition {
  cl_uint address_qualifier = 0;  // 0: the device does not say; then the next four are empty too
  cl_uint access_qualifier = 0;
  cl_ulong type_qualifier = 0;
  std::string type_name;
  std::string name;
  // The last kind and size that the device took for this argument: (size << 8 | kind + 1); 0: none yet.
  std::atomic<std::uint64_t> accepted{0};

  // Whatever the program calls its type: nothing else has an access qualifier but pipes.
  bool is_image() const {
    return access_qualifier == CL_KERNEL_ARG_ACCESS_READ_ONLY ||
           access_qualifier == CL_KERNEL_ARG_ACCESS_WRITE_ONLY ||
           access_qualifier == CL_KERNEL_ARG_ACCESS_READ_WRITE;
  }
  // Bytes of a value of this argument's type, 0 when that is not known here.
  std::size_t ValueSize() const;
};

// A kernel function of a built program; all kernels made from it share it.
struct KernelDefinition {
  std::string name;
  std::string attributes;
  std::uint64_t work_group_size = 0;
  wire::Vec3 compile_work_group_size{};
  std::uint64_t local_mem_bytes = 0;
  std::uint64_t preferred_work_group_multiple = 0;
  std::uint64_t private_mem_bytes = 0;
  std::vector<ArgDefinition> args;
  bool shows_arg_info = false;  // the program may ask for it
};

// A program as the worker has it.
class Unit {
 public:
  using Kind = wire::opencl::ProgramKind;
  // Null: the session is lost, or too many objects.
  static std::shared_ptr<Unit> Create(Context& context, Kind kind);
  ~Unit();

  // Sends the text. With `status` waits for the worker's word on it. False: the session is lost.
  bool SendText(std::string_view text, cl_int* status = nullptr);
  Connection& connection() const { return context_->connection(); }
  wire::Ref<wire::ObjectKind::kProgram> wire() const { return {name_}; }
  // The binary of a built one, exactly as long as its build said.
  cl_int ReadBinary(MutableByteView target) const;

 private:
  Unit(Context& context, wire::Handle name) : context_(&context), name_(name) {}
  const Ref<Context> context_;
  const wire::Handle name_;
};

class Program final : public Object {
 public:
  enum class Origin { kSource, kBinary, kIl, kLinked };
  // For all devices of the context, ...
  Program(Context& context, Origin origin, std::string text)
      : Program(context, context.devices(), origin, std::move(text)) {}
  // ... or some.
  Program(Context& context, std::vector<Ref<Device>> devices, Origin origin, std::string text)
      : Object(&Dispatch(), ObjectType::kProgram),
        context_(&context),
        devices_(std::move(devices)),
        origin_(origin),
        text_(std::move(text)) {}
  static void Dispose(Program* program);

  Context& context() const { return *context_; }
  const std::vector<Ref<Device>>& devices() const { return devices_; }
  bool Has(const Device* device) const;
  Connection& connection() const { return context_->connection(); }
  Origin origin() const { return origin_; }
  // The source, binary or IL that it was made from; empty when it was linked.
  const std::string& text() const { return text_; }

  // Of IL: sets a specialization constant for builds that follow.
  cl_int Specialize(cl_uint number, std::size_t size, const void* value);
  // What a build that begins now takes: the text, with the constants that were set.
  std::string TextToBuild();

  // CL_BUILD_NONE, _IN_PROGRESS, _SUCCESS or _ERROR.
  cl_build_status build_status() const { return build_status_.load(std::memory_order_acquire); }

  // How a build, compilation or link went.
  struct Build {
    cl_int status = CL_SUCCESS;  // of the call
    cl_program_binary_type type = CL_PROGRAM_BINARY_TYPE_NONE;
    std::string options;
    std::string log;
    std::uint64_t binary_bytes = 0;
    std::vector<std::shared_ptr<KernelDefinition>> kernels;
    std::shared_ptr<Unit> unit;
    std::string object;  // of a compiled object or library: the object file, and its binary
  };
  // The latest; before the first, one of type NONE whose unit is that of a program made from a binary.
  std::shared_ptr<const Build> build();
  // The latest if it was successful and is of this type, else null.
  std::shared_ptr<const Build> built(cl_program_binary_type type);
  // False when one is under way already.
  bool BeginBuild();
  void EndBuild(std::shared_ptr<const Build> build);
  // Before the program is known to anyone.
  void set_build(std::shared_ptr<const Build> build) { build_ = std::move(build); }

  std::atomic<std::uint32_t>& kernel_count() { return kernel_count_; }

 private:
  ~Program() = default;

  const Ref<Context> context_;
  const std::vector<Ref<Device>> devices_;
  const Origin origin_;
  const std::string text_;
  std::atomic<cl_build_status> build_status_{CL_BUILD_NONE};
  std::mutex mutex_;
  std::string specialized_;  // guarded by mutex_; the IL with constants set, empty when none was
  std::shared_ptr<const Build> build_ = std::make_shared<Build>();  // guarded by mutex_
  std::atomic<std::uint32_t> kernel_count_{0};                      // kernels alive
};
TULLE_API_OBJECT(Program, cl_program, ObjectType::kProgram, CL_INVALID_PROGRAM);

}  // namespace tulle::shim::opencl
