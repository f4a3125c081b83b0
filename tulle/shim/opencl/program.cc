#include "tulle/shim/opencl/program.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <span>

#include "tulle/base/log.h"
#include "tulle/shim/opencl/entry_points.h"

namespace tulle::shim::opencl {
namespace {

using ProgramNotify = void(CL_CALLBACK*)(cl_program, void*);

bool SendText(Connection& connection, const Program& program, bool wants_status, cl_int* status) {
  ByteView text = AsBytes(program.text());
  while (!text.empty()) {
    const ByteView piece = text.first(std::min<std::size_t>(text.size(), wire::kMaxPayloadBytes));
    text = text.subspan(piece.size());
    const wire::opencl::ProgramText message{program.wire(), {piece.size()}};
    Attached attached;
    attached.payload = std::span(&piece, 1);
    if (wants_status && text.empty()) {
      *status = connection.CallForStatus(message, CL_OUT_OF_RESOURCES, attached);
    } else if (!connection.Submit(message, attached)) {
      return false;
    }
  }
  return true;
}

cl_program MakeProgram(Context& context, Program::Kind kind, std::string text, cl_int* error) {
  if (text.size() > wire::kMaxProgramBytes) {
    Log(LogLevel::kError, "shim", "a program is larger than can be sent",
        {{"size_bytes", text.size()}, {"limit_bytes", wire::kMaxProgramBytes}});
    return Fail(error, CL_OUT_OF_HOST_MEMORY);
  }
  Connection& connection = context.connection();
  const wire::Handle name = connection.NewHandle();
  if (name.null()) return Fail(error, CL_OUT_OF_RESOURCES);
  Ref<Program> program = Ref<Program>::Adopt(new Program(context, name, kind, std::move(text)));
  const bool binary = kind == Program::Kind::kBinary;
  wire::opencl::CreateProgram message;
  message.context = context.wire();
  message.program = {name};
  message.kind = {binary ? wire::opencl::ProgramKind::kBinary : wire::opencl::ProgramKind::kSource};
  // Whether a binary is one for this device is for the device to say, at once.
  cl_int status = CL_SUCCESS;
  if (!connection.Submit(message) || !SendText(connection, *program, binary, &status)) {
    return Fail(error, CL_OUT_OF_RESOURCES);
  }
  if (status != CL_SUCCESS) return Fail(error, status);
  return Made(error, std::move(program));
}

std::shared_ptr<KernelDefinition> CopyDefinition(const wire::opencl::KernelInfo& info, bool shows_arg_info) {
  auto definition = std::make_shared<KernelDefinition>();
  definition->name = info.name.text;
  definition->attributes = info.attributes.text;
  definition->work_group_size = info.work_group_size;
  definition->compile_work_group_size = info.compile_work_group_size;
  definition->local_mem_bytes = info.local_mem_bytes;
  definition->preferred_work_group_multiple = info.preferred_work_group_multiple;
  definition->private_mem_bytes = info.private_mem_bytes;
  definition->args = std::vector<ArgDefinition>(std::min(info.arg_count, wire::kMaxKernelArgs));
  const std::size_t known = std::min(info.args.items.size(), definition->args.size());
  for (std::size_t i = 0; i < known; ++i) {
    const wire::opencl::KernelArgInfo& from = info.args.items[i];
    ArgDefinition& to = definition->args[i];
    to.address_qualifier = from.address_qualifier;
    to.access_qualifier = from.access_qualifier;
    to.type_qualifier = from.type_qualifier;
    to.type_name = from.type_name.text;
    to.name = from.name.text;
  }
  definition->shows_arg_info = shows_arg_info && known != 0;
  return definition;
}

// What a failed build is called at each stage.
cl_int StatusOf(Program::Stage stage, cl_int status) {
  if (stage == Program::Stage::kCompile) {
    if (status == CL_BUILD_PROGRAM_FAILURE) return CL_COMPILE_PROGRAM_FAILURE;
    if (status == CL_INVALID_BUILD_OPTIONS) return CL_INVALID_COMPILER_OPTIONS;
  } else if (stage == Program::Stage::kLink) {
    if (status == CL_BUILD_PROGRAM_FAILURE) return CL_LINK_PROGRAM_FAILURE;
    if (status == CL_INVALID_BUILD_OPTIONS) return CL_INVALID_LINKER_OPTIONS;
  }
  return status;
}

// One build under way; deletes itself when it is over.
class BuildUnderWay final : public Reply {
 public:
  BuildUnderWay(Program& program, Program::Stage stage, std::string options, ProgramNotify notify, void* user_data)
      : program_(&program), build_(std::make_shared<Program::Build>()), notify_(notify), user_data_(user_data) {
    build_->stage = stage;
    build_->options = std::move(options);
  }

  void End(cl_int status) {
    build_->status = StatusOf(build_->stage, status);
    program_->EndBuild(std::move(build_));
    if (notify_ != nullptr) {
      program_->context().callbacks().Post(MakeTask([program = program_, notify = notify_, user_data = user_data_] {
        notify(ToHandle(program.get()), user_data);
      }));
    }
    delete this;
  }

 private:
  Status OnReply(ByteView body, ByteView payload) override {
    wire::Arena arena;
    wire::opencl::BuildProgramReply reply;
    Status decoded = DecodeReply(body, payload.size(), arena, &reply);
    if (!decoded.ok()) {
      End(CL_OUT_OF_RESOURCES);
      return decoded;
    }
    build_->log = reply.log.text;
    build_->binary_bytes = reply.binary_bytes;
    // The worker always builds with argument info, since it saves round trips; a program that was built from
    // source sees it only if it asked for it.
    const bool shows_arg_info = program_->kind() == Program::Kind::kBinary ||
                                build_->options.find("-cl-kernel-arg-info") != std::string::npos;
    for (const wire::opencl::KernelInfo& info : reply.kernels.items) {
      build_->kernels.push_back(CopyDefinition(info, shows_arg_info));
    }
    End(reply.status);
    return OkStatus();
  }
  void OnLost() override { End(CL_OUT_OF_RESOURCES); }

  const Ref<Program> program_;
  std::shared_ptr<Program::Build> build_;
  const ProgramNotify notify_;
  void* const user_data_;
};

// Receives a piece of a binary straight into the program's memory.
class BinaryPiece final : public Wait {
 public:
  explicit BinaryPiece(MutableByteView target) : target_(target) {}
  std::int32_t status = CL_SUCCESS;

 private:
  MutableByteView Room(const wire::FrameHeader& header, ByteView) override {
    return header.payload_bytes == target_.size() ? target_ : MutableByteView{};
  }
  Status Answered(ByteView body, ByteView payload) override {
    wire::Arena arena;
    wire::opencl::GetProgramBinaryReply reply;
    TULLE_RETURN_IF_ERROR(DecodeReply(body, payload.size(), arena, &reply));
    status = reply.status;
    if (status == CL_SUCCESS && payload.size() != target_.size()) status = CL_OUT_OF_RESOURCES;
    return OkStatus();
  }
  const MutableByteView target_;
};

// The binary of a built program, as long as its build said.
cl_int ReadBinary(Program& program, MutableByteView target) {
  for (std::size_t offset = 0; offset < target.size();) {
    const std::size_t size = std::min<std::size_t>(target.size() - offset, wire::kMaxPayloadBytes);
    BinaryPiece piece(target.subspan(offset, size));
    if (!program.connection().Call(wire::opencl::GetProgramBinary{program.wire(), offset, {size}}, piece)) {
      return CL_OUT_OF_RESOURCES;
    }
    if (piece.status != CL_SUCCESS) return piece.status;
    offset += size;
  }
  return CL_SUCCESS;
}

std::size_t BinarySize(Program& program) {
  if (const auto built = program.built()) return built->binary_bytes;
  return program.kind() == Program::Kind::kBinary ? program.text().size() : 0;
}

cl_int PutBinaries(Program& program, const InfoOut& out) {
  auto* const* targets = static_cast<unsigned char* const*>(out.value());
  if (targets != nullptr && out.size() >= sizeof *targets && targets[0] != nullptr) {
    const MutableByteView target(reinterpret_cast<std::byte*>(targets[0]), BinarySize(program));
    if (program.built() != nullptr) {
      if (const cl_int status = ReadBinary(program, target); status != CL_SUCCESS) return status;
    } else if (!target.empty()) {
      std::memcpy(target.data(), program.text().data(), target.size());
    }
  }
  // The array itself is the program's; putting the pointers back changes nothing.
  unsigned char* const same = targets != nullptr && out.size() >= sizeof *targets ? targets[0] : nullptr;
  return out.Value(same);
}

}  // namespace

std::size_t ArgDefinition::ValueSize() const {
  struct Base {
    std::string_view name;
    std::size_t size;
  };
  static constexpr Base kBases[] = {{"char", 1}, {"uchar", 1}, {"short", 2}, {"ushort", 2}, {"half", 2},   {"int", 4},
                                    {"uint", 4}, {"float", 4}, {"long", 8},  {"ulong", 8},  {"double", 8}};
  if (address_qualifier != CL_KERNEL_ARG_ADDRESS_PRIVATE) return 0;
  std::string_view type = type_name;
  std::size_t count = 1;
  if (const std::size_t digits = type.find_first_of("0123456789"); digits != std::string_view::npos) {
    const std::string_view number = type.substr(digits);
    count = number == "2" ? 2 : number == "3" || number == "4" ? 4 : number == "8" ? 8 : number == "16" ? 16 : 0;
    type = type.substr(0, digits);
  }
  for (const Base& base : kBases) {
    if (base.name == type) return base.size * count;
  }
  return 0;
}

void Program::Dispose(Program* program) {
  program->MarkDead();
  program->connection().Retire(wire::ObjectKind::kProgram, program->name_);
  delete program;
}

std::shared_ptr<const Program::Build> Program::build() {
  const std::lock_guard lock(mutex_);
  return build_;
}

bool Program::BeginBuild() {
  cl_build_status status = build_status();
  do {
    if (status == CL_BUILD_IN_PROGRESS) return false;
  } while (!build_status_.compare_exchange_weak(status, CL_BUILD_IN_PROGRESS));
  return true;
}

void Program::EndBuild(std::shared_ptr<const Build> build) {
  const cl_build_status status = build->status == CL_SUCCESS ? CL_BUILD_SUCCESS : CL_BUILD_ERROR;
  {
    const std::lock_guard lock(mutex_);
    build_ = std::move(build);
  }
  build_status_.store(status, std::memory_order_release);
}

cl_program CreateProgramWithSource(cl_context handle, cl_uint count, const char** strings, const std::size_t* lengths,
                                   cl_int* error) {
  Context* context = FromHandle<Context>(handle);
  if (context == nullptr) return Fail(error, CL_INVALID_CONTEXT);
  if (count == 0 || strings == nullptr) return Fail(error, CL_INVALID_VALUE);
  std::string source;
  for (cl_uint i = 0; i < count; ++i) {
    if (strings[i] == nullptr) return Fail(error, CL_INVALID_VALUE);
    if (lengths != nullptr && lengths[i] != 0) {
      source.append(strings[i], lengths[i]);
    } else {
      source.append(strings[i]);
    }
  }
  return MakeProgram(*context, Program::Kind::kSource, std::move(source), error);
}

cl_program CreateProgramWithBinary(cl_context handle, cl_uint num_devices, const cl_device_id* devices,
                                   const std::size_t* lengths, const unsigned char** binaries, cl_int* binary_status,
                                   cl_int* error) {
  Context* context = FromHandle<Context>(handle);
  if (context == nullptr) return Fail(error, CL_INVALID_CONTEXT);
  if (num_devices == 0 || devices == nullptr || lengths == nullptr || binaries == nullptr) {
    return Fail(error, CL_INVALID_VALUE);
  }
  if (num_devices != 1 || FromHandle<Device>(devices[0]) != &context->device()) return Fail(error, CL_INVALID_DEVICE);
  if (lengths[0] == 0 || binaries[0] == nullptr) {
    if (binary_status != nullptr) *binary_status = CL_INVALID_VALUE;
    return Fail(error, CL_INVALID_VALUE);
  }
  cl_int status = CL_SUCCESS;
  cl_program program = MakeProgram(*context, Program::Kind::kBinary,
                                   std::string(reinterpret_cast<const char*>(binaries[0]), lengths[0]), &status);
  if (binary_status != nullptr) *binary_status = status == CL_SUCCESS ? CL_SUCCESS : CL_INVALID_BINARY;
  if (error != nullptr) *error = status;
  return program;
}

cl_int RetainProgram(cl_program handle) { return RetainHandle<Program>(handle); }
cl_int ReleaseProgram(cl_program handle) { return ReleaseHandle<Program>(handle); }

namespace {

// Builds, compiles or links `program` on the worker and waits for it, unless `notify` is to be told.
cl_int StartBuild(Program& program, Program::Stage stage, cl_uint num_devices, const cl_device_id* devices,
                  const char* options, ProgramNotify notify, void* user_data) {
  if ((num_devices == 0) != (devices == nullptr) || (notify == nullptr && user_data != nullptr)) return CL_INVALID_VALUE;
  for (cl_uint i = 0; i < num_devices; ++i) {
    if (FromHandle<Device>(devices[i]) != &program.context().device()) return CL_INVALID_DEVICE;
  }
  const std::string_view text = options == nullptr ? std::string_view() : options;
  if (text.size() > wire::kMaxBuildOptionsBytes) return StatusOf(stage, CL_INVALID_BUILD_OPTIONS);
  if (program.kernel_count().load() != 0) return CL_INVALID_OPERATION;
  if (notify != nullptr && !program.context().callbacks().Start().ok()) return CL_OUT_OF_HOST_MEMORY;
  auto build = std::make_unique<BuildUnderWay>(program, stage, std::string(text), notify, user_data);
  if (!program.BeginBuild()) return CL_INVALID_OPERATION;

  // Another thread may release the program while this one waits.
  const Ref<Program> keep(&program);
  Connection& connection = program.connection();
  Attached attached;
  attached.reply = build.get();
  if (!connection.Submit(wire::opencl::BuildProgram{program.wire(), {text}}, attached)) {
    build.release()->End(CL_OUT_OF_RESOURCES);
    return CL_OUT_OF_RESOURCES;
  }
  build.release();  // NOLINT: it deletes itself when it is answered
  if (notify != nullptr) {
    connection.Flush();
    return CL_SUCCESS;
  }
  connection.AwaitUntil([&] { return program.build_status() != CL_BUILD_IN_PROGRESS; });
  return program.build()->status;
}

}  // namespace

cl_int BuildProgram(cl_program handle, cl_uint num_devices, const cl_device_id* devices, const char* options,
                    ProgramNotify notify, void* user_data) {
  Program* program = FromHandle<Program>(handle);
  if (program == nullptr) return CL_INVALID_PROGRAM;
  return StartBuild(*program, Program::Stage::kBuild, num_devices, devices, options, notify, user_data);
}

// Compiling is building, and linking the one program that was compiled is building its binary: what programs do
// that compile and link only because they may. Headers and more than one object are not remoted yet.
cl_int CompileProgram(cl_program handle, cl_uint num_devices, const cl_device_id* devices, const char* options,
                      cl_uint num_headers, const cl_program* headers, const char** header_names, ProgramNotify notify,
                      void* user_data) {
  Program* program = FromHandle<Program>(handle);
  if (program == nullptr) return CL_INVALID_PROGRAM;
  if ((num_headers == 0) != (headers == nullptr) || (num_headers == 0) != (header_names == nullptr)) {
    return CL_INVALID_VALUE;
  }
  if (program->kind() != Program::Kind::kSource) return CL_INVALID_OPERATION;
  if (num_headers != 0) {
    Log(LogLevel::kDebug, "shim", "refused", {{"call", "CompileProgram"}, {"reason", "headers are not remoted yet"}});
    return CL_COMPILER_NOT_AVAILABLE;
  }
  return StartBuild(*program, Program::Stage::kCompile, num_devices, devices, options, notify, user_data);
}

cl_program LinkProgram(cl_context handle, cl_uint num_devices, const cl_device_id* devices, const char* options,
                       cl_uint num_programs, const cl_program* programs, ProgramNotify notify, void* user_data,
                       cl_int* error) {
  Context* context = FromHandle<Context>(handle);
  if (context == nullptr) return Fail(error, CL_INVALID_CONTEXT);
  if (num_programs == 0 || programs == nullptr) return Fail(error, CL_INVALID_VALUE);
  for (cl_uint i = 0; i < num_programs; ++i) {
    Program* program = FromHandle<Program>(programs[i]);
    if (program == nullptr) return Fail(error, CL_INVALID_PROGRAM);
    if (program->built() == nullptr && program->kind() != Program::Kind::kBinary) return Fail(error, CL_INVALID_OPERATION);
  }
  const bool library = options != nullptr && std::strstr(options, "-create-library") != nullptr;
  if (num_programs != 1 || library) {
    Log(LogLevel::kDebug, "shim", "refused",
        {{"call", "LinkProgram"}, {"reason", "linking more than one object, and libraries, are not remoted yet"}});
    return Fail(error, CL_LINKER_NOT_AVAILABLE);
  }
  Program& object = *FromHandle<Program>(programs[0]);
  std::string binary(BinarySize(object), '\0');
  if (object.built() != nullptr) {
    const cl_int status = ReadBinary(object, std::as_writable_bytes(std::span(binary)));
    if (status != CL_SUCCESS) return Fail(error, status);
  } else {
    binary = object.text();
  }
  cl_int status = CL_SUCCESS;
  const cl_program linked = MakeProgram(*context, Program::Kind::kBinary, std::move(binary), &status);
  if (linked == nullptr) return Fail(error, status);
  status = StartBuild(*FromHandle<Program>(linked), Program::Stage::kLink, num_devices, devices, options, notify, user_data);
  if (error != nullptr) *error = status;
  // A program that could not be linked has a log all the same.
  if (status == CL_SUCCESS || status == CL_LINK_PROGRAM_FAILURE) return linked;
  ReleaseProgram(linked);
  return nullptr;
}

cl_int GetProgramInfo(cl_program handle, cl_program_info name, std::size_t size, void* value, std::size_t* size_ret) {
  Program* program = FromHandle<Program>(handle);
  if (program == nullptr) return CL_INVALID_PROGRAM;
  const InfoOut out(size, value, size_ret);
  switch (name) {
    case CL_PROGRAM_REFERENCE_COUNT: return out.Value<cl_uint>(program->handles());
    case CL_PROGRAM_CONTEXT: return out.Value<cl_context>(ToHandle(&program->context()));
    case CL_PROGRAM_NUM_DEVICES: return out.Value<cl_uint>(1);
    case CL_PROGRAM_DEVICES: return out.Value<cl_device_id>(ToHandle(&program->context().device()));
    case CL_PROGRAM_SOURCE:
      return out.Text(program->kind() == Program::Kind::kSource ? program->text() : std::string_view());
    case CL_PROGRAM_BINARY_SIZES: return out.Value<std::size_t>(BinarySize(*program));
    case CL_PROGRAM_BINARIES: return PutBinaries(*program, out);
    case CL_PROGRAM_NUM_KERNELS:
    case CL_PROGRAM_KERNEL_NAMES: {
      const auto executable = program->executable();
      if (executable == nullptr) return CL_INVALID_PROGRAM_EXECUTABLE;
      if (name == CL_PROGRAM_NUM_KERNELS) return out.Value<std::size_t>(executable->kernels.size());
      std::string names;
      for (const auto& kernel : executable->kernels) names += (names.empty() ? "" : ";") + kernel->name;
      return out.Text(names);
    }
    case CL_PROGRAM_IL: return out.Put(nullptr, 0);
    case CL_PROGRAM_SCOPE_GLOBAL_CTORS_PRESENT:
    case CL_PROGRAM_SCOPE_GLOBAL_DTORS_PRESENT: return out.Value<cl_bool>(CL_FALSE);
    default: return CL_INVALID_VALUE;
  }
}

cl_int GetProgramBuildInfo(cl_program handle, cl_device_id device, cl_program_build_info name, std::size_t size,
                           void* value, std::size_t* size_ret) {
  Program* program = FromHandle<Program>(handle);
  if (program == nullptr) return CL_INVALID_PROGRAM;
  if (FromHandle<Device>(device) != &program->context().device()) return CL_INVALID_DEVICE;
  const InfoOut out(size, value, size_ret);
  const cl_build_status status = program->build_status();
  const auto build = program->build();
  switch (name) {
    case CL_PROGRAM_BUILD_STATUS: return out.Value(status);
    case CL_PROGRAM_BUILD_OPTIONS: return out.Text(build->options);
    case CL_PROGRAM_BUILD_LOG: return out.Text(build->log);
    case CL_PROGRAM_BINARY_TYPE:
      return out.Value<cl_program_binary_type>(
          status != CL_BUILD_SUCCESS                        ? CL_PROGRAM_BINARY_TYPE_NONE
          : build->stage == Program::Stage::kCompile ? CL_PROGRAM_BINARY_TYPE_COMPILED_OBJECT
                                                     : CL_PROGRAM_BINARY_TYPE_EXECUTABLE);
    case CL_PROGRAM_BUILD_GLOBAL_VARIABLE_TOTAL_SIZE: return out.Value<std::size_t>(0);
    default: return CL_INVALID_VALUE;
  }
}

}  // namespace tulle::shim::opencl
