// Programs, and what a build told of their kernels.
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

class Program final : public Object {
 public:
  enum class Kind { kSource, kBinary };
  Program(Context& context, wire::Handle name, Kind kind, std::string text)
      : Object(&Dispatch(), ObjectType::kProgram), context_(&context), name_(name), kind_(kind), text_(std::move(text)) {}
  static void Dispose(Program* program);

  Context& context() const { return *context_; }
  Connection& connection() const { return context_->connection(); }
  wire::Ref<wire::ObjectKind::kProgram> wire() const { return {name_}; }
  Kind kind() const { return kind_; }
  // The source, or the binary that it was made from.
  const std::string& text() const { return text_; }

  // CL_BUILD_NONE, _IN_PROGRESS, _SUCCESS or _ERROR.
  cl_build_status build_status() const { return build_status_.load(std::memory_order_acquire); }

  // Compiling alone is a build too, whose result may be linked but not run: see LinkProgram.
  enum class Stage { kBuild, kCompile, kLink };
  struct Build {
    Stage stage = Stage::kBuild;
    cl_int status = CL_SUCCESS;  // of clBuildProgram, clCompileProgram or clLinkProgram
    std::string options;
    std::string log;
    std::uint64_t binary_bytes = 0;
    std::vector<std::shared_ptr<KernelDefinition>> kernels;
  };
  // The latest build; empty before the first.
  std::shared_ptr<const Build> build();
  // Null unless the program has a binary: it is built, compiled or linked.
  std::shared_ptr<const Build> built() { return build_status() == CL_BUILD_SUCCESS ? build() : nullptr; }
  // Null unless its kernels can be made.
  std::shared_ptr<const Build> executable() {
    auto latest = built();
    return latest != nullptr && latest->stage != Stage::kCompile ? latest : nullptr;
  }
  // False when one is under way already.
  bool BeginBuild();
  void EndBuild(std::shared_ptr<const Build> build);

  std::atomic<std::uint32_t>& kernel_count() { return kernel_count_; }

 private:
  ~Program() = default;

  const Ref<Context> context_;
  const wire::Handle name_;
  const Kind kind_;
  const std::string text_;
  std::atomic<cl_build_status> build_status_{CL_BUILD_NONE};
  std::mutex mutex_;
  std::shared_ptr<const Build> build_ = std::make_shared<Build>();  // guarded by mutex_
  std::atomic<std::uint32_t> kernel_count_{0};                      // kernels alive
};
TULLE_API_OBJECT(Program, cl_program, ObjectType::kProgram, CL_INVALID_PROGRAM);

}  // namespace tulle::shim::opencl
