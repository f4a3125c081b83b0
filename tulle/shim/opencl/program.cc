#include "tulle/shim/opencl/program.h"

#include <algorithm>
#include <array>

#include "tulle/base/log.h"
#include "tulle/shim/opencl/entry_points.h"
#include "tulle/shim/opencl/includes.h"
#include "tulle/wire/object_file.h"
#include "tulle/wire/spirv.h"

namespace tulle::shim::opencl {
namespace {

using ProgramNotify = void(CL_CALLBACK*)(cl_program, void*);
using Headers = std::map<std::string, std::string>;

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

// One build under way; deletes itself when it is over.
class BuildUnderWay final : public Reply {
 public:
  // `build` has options, unit, and the type (with its object) that it will be when it goes well. The worker
  // always builds with argument info, since it saves round trips; the program sees it if `shows_arg_info`.
  BuildUnderWay(Program& program, std::shared_ptr<Program::Build> build, bool shows_arg_info,
                ProgramNotify notify, void* user_data)
      : program_(&program),
        build_(std::move(build)),
        shows_arg_info_(shows_arg_info),
        notify_(notify),
        user_data_(user_data) {}

  void End(cl_int status) {
    build_->status = status;
    if (!build_->object.empty()) build_->unit.reset();  // it was there to be compiled
    if (status != CL_SUCCESS) {
      build_->type = CL_PROGRAM_BINARY_TYPE_NONE;
      build_->object.clear();
      build_->binary_bytes = 0;
    }
    program_->EndBuild(std::move(build_));
    if (notify_ != nullptr) {
      program_->context().callbacks().Post(
          MakeTask([program = program_, notify = notify_, user_data = user_data_] {
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
    for (const wire::opencl::KernelInfo& info : reply.kernels.items) {
      build_->kernels.push_back(CopyDefinition(info, shows_arg_info_));
    }
    End(reply.status == CL_BUILD_PROGRAM_FAILURE ? Failure() : reply.status);
    return OkStatus();
  }
  void OnLost() override { End(CL_OUT_OF_RESOURCES); }
  // A build that failed, in the words of the call.
  cl_int Failure() const {
    if (build_->type == CL_PROGRAM_BINARY_TYPE_COMPILED_OBJECT) return CL_COMPILE_PROGRAM_FAILURE;
    return program_->origin() == Program::Origin::kLinked ? CL_LINK_PROGRAM_FAILURE
                                                          : CL_BUILD_PROGRAM_FAILURE;
  }

  const Ref<Program> program_;
  std::shared_ptr<Program::Build> build_;
  const bool shows_arg_info_;
  const ProgramNotify notify_;
  void* const user_data_;
};

// The words of a list of options.
std::vector<std::string_view> Words(std::string_view options) {
  std::vector<std::string_view> words;
  for (std::size_t at = 0; (at = options.find_first_not_of(' ', at)) != std::string_view::npos;) {
    const std::size_t end = std::min(options.find(' ', at), options.size());
    words.push_back(options.substr(at, end - at));
    at = end;
  }
  return words;
}

constexpr std::string_view kCreateLibrary = "-create-library";

bool LinkerOptionsKnown(std::string_view options) {
  static constexpr std::string_view kKnown[] = {kCreateLibrary,
                                                "-enable-link-options",
                                                "-cl-denorms-are-zero",
                                                "-cl-no-signed-zeros",
                                                "-cl-unsafe-math-optimizations",
                                                "-cl-finite-math-only",
                                                "-cl-fast-relaxed-math",
                                                "-cl-no-subgroup-ifp"};
  const auto words = Words(options);
  return std::all_of(words.begin(), words.end(), [](std::string_view word) {
    return std::find(std::begin(kKnown), std::end(kKnown), word) != std::end(kKnown);
  });
}

bool AsksForArgInfo(std::string_view options) {
  return options.find("-cl-kernel-arg-info") != std::string_view::npos;
}

// Gives the build the unit that it works on, with its text sent; and the object that it will be, if it
// compiles.
cl_int PrepareUnit(Program& program, const Headers& headers, Program::Build* build) {
  std::string source;
  std::string_view text = program.text();
  Unit::Kind kind = Unit::Kind::kLink;
  if (program.origin() == Program::Origin::kIl) {
    source = program.TextToBuild();
    kind = Unit::Kind::kIl;
  } else if (program.origin() == Program::Origin::kSource) {
    auto whole =
        InlineIncludes(program.text(), ParseIncludeOptions(build->options), headers, wire::kMaxProgramBytes);
    if (!whole.ok()) {
      Log(LogLevel::kError, "shim", "cannot send a program", {{"error", ToString(whole.error())}});
      return CL_OUT_OF_HOST_MEMORY;
    }
    source = std::move(*whole);
    kind = Unit::Kind::kSource;
  } else if (auto unit = program.build()->unit; unit != nullptr) {  // of a binary, which the worker has
    build->unit = std::move(unit);
    return CL_SUCCESS;
  }
  if (kind != Unit::Kind::kLink) text = source;
  if (build->type == CL_PROGRAM_BINARY_TYPE_COMPILED_OBJECT) {
    kind = Unit::Kind::kObject;
    build->object = wire::opencl::FormatObjectFile({false, {{build->options, text}}});
  }
  build->unit = Unit::Create(program.context(), kind);
  return build->unit != nullptr && build->unit->SendText(text) ? CL_SUCCESS : CL_OUT_OF_RESOURCES;
}

// Has the worker build `unit`, and waits for that if nobody is to be notified. The program keeps
// `under_way`'s outcome. Precondition: BeginBuild.
cl_int SendBuild(Program& program, cl_int prepared, const Unit* unit, std::string_view options,
                 std::unique_ptr<BuildUnderWay> under_way, bool waits) {
  // Another thread may release the program while this one waits.
  const Ref<Program> keep(&program);
  Connection& connection = program.connection();
  Attached attached;
  attached.reply = under_way.get();
  if (prepared == CL_SUCCESS &&
      !connection.Submit(wire::opencl::BuildProgram{unit->wire(), {options}}, attached)) {
    prepared = CL_OUT_OF_RESOURCES;
  }
  BuildUnderWay* const sent = under_way.release();  // it deletes itself when it is answered
  if (prepared != CL_SUCCESS) {
    sent->End(prepared);
    return prepared;
  }
  if (!waits) {
    connection.Flush();
    return CL_SUCCESS;
  }
  connection.AwaitUntil([&] { return program.build_status() != CL_BUILD_IN_PROGRESS; });
  return program.build()->status;
}

// What clBuildProgram and clCompileProgram share.
cl_int StartBuild(Program& program, cl_uint num_devices, const cl_device_id* devices, const char* options,
                  const Headers& headers, cl_program_binary_type type, ProgramNotify notify,
                  void* user_data) {
  if ((num_devices == 0) != (devices == nullptr) || (notify == nullptr && user_data != nullptr))
    return CL_INVALID_VALUE;
  for (cl_uint i = 0; i < num_devices; ++i) {
    if (!program.Has(FromHandle<Device>(devices[i]))) return CL_INVALID_DEVICE;
  }
  const std::string_view text = options == nullptr ? std::string_view() : options;
  const bool compiles = type == CL_PROGRAM_BINARY_TYPE_COMPILED_OBJECT;
  if (text.size() > wire::kMaxBuildOptionsBytes)
    return compiles ? CL_INVALID_COMPILER_OPTIONS : CL_INVALID_BUILD_OPTIONS;
  if (program.origin() == Program::Origin::kLinked ||
      (compiles && program.origin() == Program::Origin::kBinary) || program.kernel_count().load() != 0) {
    return CL_INVALID_OPERATION;
  }
  if (notify != nullptr && !program.context().callbacks().Start().ok()) return CL_OUT_OF_HOST_MEMORY;
  auto build = std::make_shared<Program::Build>();
  build->options = text;
  build->type = type;
  const auto file = wire::opencl::ParseBinaryFile(program.text());
  const bool shows_arg_info = AsksForArgInfo(text) || (program.origin() == Program::Origin::kBinary &&
                                                       (!file.has_value() || file->shows_arg_info));
  auto under_way = std::make_unique<BuildUnderWay>(program, build, shows_arg_info, notify, user_data);
  if (!program.BeginBuild()) return CL_INVALID_OPERATION;
  const cl_int prepared = PrepareUnit(program, headers, build.get());
  // A compiled object that is built is linked with nothing else, which takes fewer options.
  const bool takes_options = !wire::opencl::ParseObjectFile(program.text()) || LinkerOptionsKnown(text);
  return SendBuild(program, prepared, build->unit.get(), takes_options ? text : std::string_view(),
                   std::move(under_way), notify == nullptr);
}

// Whether the device takes a binary that did not come from a vGPU. Drivers' binaries look like nothing in
// particular: only a build can tell.
cl_int TryForeignBinary(const Unit& unit) {
  cl_int status = CL_SUCCESS;
  auto take = [&](const wire::opencl::BuildProgramReply& reply) { status = reply.status; };
  WaitFor<wire::opencl::BuildProgramReply, decltype(take)> wait(take);
  if (!unit.connection().Call(wire::opencl::BuildProgram{unit.wire(), {}}, wait)) return CL_OUT_OF_RESOURCES;
  return status == CL_INVALID_BINARY ? status : CL_SUCCESS;  // any other answer a build will give again
}

// Receives a piece of a binary straight into the program's memory.
class BinaryPiece final : public Wait {
 public:
  explicit BinaryPiece(MutableByteView target) : target_(target) {}
  std::int32_t status = CL_SUCCESS;

 private:
  MutableByteView Room(std::uint64_t payload_bytes) override {
    return payload_bytes == target_.size() ? target_ : MutableByteView{};
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

std::size_t BinarySize(Program& program, const Program::Build& build) {
  if (!build.object.empty()) return build.object.size();
  if (build.binary_bytes != 0) return build.binary_bytes;
  return program.origin() == Program::Origin::kBinary ? program.text().size() : 0;
}

// One binary for each of the devices that the program wants one of.
cl_int PutBinaries(Program& program, const InfoOut& out) {
  const std::size_t count = program.devices().size();
  auto* const* targets = static_cast<unsigned char* const*>(out.value());
  if (targets == nullptr || out.size() < count * sizeof *targets)
    return out.Array(std::span<unsigned char* const>(targets, count));
  const auto build = program.build();
  const std::size_t size = BinarySize(program, *build);
  const std::byte* first = nullptr;  // of those put already
  for (std::size_t i = 0; i < count; ++i) {
    if (targets[i] == nullptr || size == 0) continue;
    const MutableByteView room(reinterpret_cast<std::byte*>(targets[i]), size);
    if (first != nullptr) {
      std::memcpy(room.data(), first, size);
    } else if (!build->object.empty()) {
      std::memcpy(room.data(), build->object.data(), size);
    } else if (build->binary_bytes != 0) {
      if (const cl_int status = build->unit->ReadBinary(room); status != CL_SUCCESS) return status;
    } else {
      std::memcpy(room.data(), program.text().data(), size);
    }
    first = room.data();
  }
  // The array is the caller's own: putting the pointers back changes nothing.
  const std::vector<unsigned char*> same(targets, targets + count);
  return out.Array(std::span<unsigned char* const>(same));
}

std::string KernelNames(const Program::Build& build) {
  std::string names;
  for (const auto& kernel : build.kernels) names += (names.empty() ? "" : ";") + kernel->name;
  return names;
}

}  // namespace

bool Program::Has(const Device* device) const {
  return std::any_of(devices_.begin(), devices_.end(),
                     [device](const Ref<Device>& each) { return each.get() == device; });
}

std::size_t ArgDefinition::ValueSize() const {
  struct Base {
    std::string_view name;
    std::size_t size;
  };
  static constexpr Base kBases[] = {{"char", 1}, {"uchar", 1}, {"short", 2}, {"ushort", 2},
                                    {"half", 2}, {"int", 4},   {"uint", 4},  {"float", 4},
                                    {"long", 8}, {"ulong", 8}, {"double", 8}};
  if (address_qualifier != CL_KERNEL_ARG_ADDRESS_PRIVATE) return 0;
  std::string_view type = type_name;
  std::size_t count = 1;
  if (const std::size_t digits = type.find_first_of("0123456789"); digits != std::string_view::npos) {
    const std::string_view number = type.substr(digits);
    count = number == "2"                    ? 2
            : number == "3" || number == "4" ? 4
            : number == "8"                  ? 8
            : number == "16"                 ? 16
                                             : 0;
    type = type.substr(0, digits);
  }
  for (const Base& base : kBases) {
    if (base.name == type) return base.size * count;
  }
  return 0;
}

std::shared_ptr<Unit> Unit::Create(Context& context, Kind kind) {
  const wire::Handle name = context.connection().NewHandle();
  if (name.null()) return nullptr;
  std::shared_ptr<Unit> unit(new Unit(context, name));
  wire::opencl::CreateProgram message;
  message.context = context.wire();
  message.program = {name};
  message.kind = {kind};
  return context.connection().Submit(message) ? unit : nullptr;
}

Unit::~Unit() { connection().Retire(wire::ObjectKind::kProgram, name_); }

bool Unit::SendText(std::string_view text, cl_int* status) {
  for (ByteView rest = AsBytes(text); !rest.empty();) {
    const ByteView piece = rest.first(std::min<std::size_t>(rest.size(), wire::kMaxPayloadBytes));
    rest = rest.subspan(piece.size());
    const wire::opencl::ProgramText message{wire(), {piece.size()}};
    Attached attached;
    attached.payload = std::span(&piece, 1);
    if (status != nullptr && rest.empty()) {
      *status = connection().CallForStatus(message, CL_OUT_OF_RESOURCES, attached);
    } else if (!connection().Submit(message, attached)) {
      return false;
    }
  }
  return true;
}

cl_int Unit::ReadBinary(MutableByteView target) const {
  for (std::size_t offset = 0; offset < target.size();) {
    const std::size_t size = std::min<std::size_t>(target.size() - offset, wire::kMaxPayloadBytes);
    BinaryPiece piece(target.subspan(offset, size));
    if (!connection().Call(wire::opencl::GetProgramBinary{wire(), offset, {size}}, piece))
      return CL_OUT_OF_RESOURCES;
    if (piece.status != CL_SUCCESS) return piece.status;
    offset += size;
  }
  return CL_SUCCESS;
}

void Program::Dispose(Program* program) {
  program->MarkDead();
  delete program;
}

cl_int Program::Specialize(cl_uint number, std::size_t size, const void* value) {
  const auto constants = wire::opencl::ReadSpirvConstants(text_);
  const auto [begin, end] = constants->equal_range(number);
  if (begin == end) return CL_INVALID_SPEC_ID;
  for (auto it = begin; it != end; ++it) {
    if (value == nullptr || it->second.size_bytes != size) return CL_INVALID_VALUE;
  }
  const std::lock_guard lock(mutex_);
  if (specialized_.empty()) specialized_ = text_;
  for (auto it = begin; it != end; ++it)
    wire::opencl::SetSpirvConstant(it->second, {static_cast<const std::byte*>(value), size}, &specialized_);
  return CL_SUCCESS;
}

std::string Program::TextToBuild() {
  const std::lock_guard lock(mutex_);
  return specialized_.empty() ? text_ : specialized_;
}

std::shared_ptr<const Program::Build> Program::build() {
  const std::lock_guard lock(mutex_);
  return build_;
}

std::shared_ptr<const Program::Build> Program::built(cl_program_binary_type type) {
  if (build_status() != CL_BUILD_SUCCESS) return nullptr;
  auto latest = build();
  return latest->type == type ? latest : nullptr;
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
    build_.swap(build);
  }
  build_status_.store(status, std::memory_order_release);
}

cl_program CreateProgramWithSource(cl_context handle, cl_uint count, const char** strings,
                                   const std::size_t* lengths, cl_int* error) {
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
  // It is sent with the build, when the options are known that say where it finds what it includes.
  return Made(error, Ref<Program>::Adopt(new Program(*context, Program::Origin::kSource, std::move(source))));
}

cl_program CreateProgramWithBinary(cl_context handle, cl_uint num_devices, const cl_device_id* devices,
                                   const std::size_t* lengths, const unsigned char** binaries,
                                   cl_int* binary_status, cl_int* error) {
  Context* context = FromHandle<Context>(handle);
  if (context == nullptr) return Fail(error, CL_INVALID_CONTEXT);
  if (num_devices == 0 || devices == nullptr || lengths == nullptr || binaries == nullptr) {
    return Fail(error, CL_INVALID_VALUE);
  }
  std::vector<Ref<Device>> targets;
  const std::string_view first = lengths[0] == 0 || binaries[0] == nullptr
                                     ? std::string_view()
                                     : AsText({reinterpret_cast<const std::byte*>(binaries[0]), lengths[0]});
  cl_int wrong = CL_SUCCESS;
  for (cl_uint i = 0; i < num_devices; ++i) {
    Device* device = FromHandle<Device>(devices[i]);
    if (!context->Has(device)) return Fail(error, CL_INVALID_DEVICE);
    targets.emplace_back(device);
    cl_int status = CL_SUCCESS;
    if (lengths[i] == 0 || binaries[i] == nullptr) {
      status = CL_INVALID_VALUE;
    } else if (AsText({reinterpret_cast<const std::byte*>(binaries[i]), lengths[i]}) != first) {
      status = CL_INVALID_BINARY;  // parts of one device take the same
    }
    if (binary_status != nullptr) binary_status[i] = status;
    if (wrong == CL_SUCCESS) wrong = status;
  }
  if (wrong != CL_SUCCESS) return Fail(error, wrong);
  std::string text(first);
  if (text.size() > wire::kMaxProgramBytes) return Fail(error, CL_OUT_OF_HOST_MEMORY);
  auto build = std::make_shared<Program::Build>();
  cl_int status = CL_SUCCESS;
  if (const auto file = wire::opencl::ParseObjectFile(text); file.has_value()) {
    build->type = file->library ? CL_PROGRAM_BINARY_TYPE_LIBRARY : CL_PROGRAM_BINARY_TYPE_COMPILED_OBJECT;
    build->object = text;
  } else {
    // Whether this is a binary for the device is for the worker to say, and at once.
    build->type = CL_PROGRAM_BINARY_TYPE_EXECUTABLE;
    build->unit = Unit::Create(*context, Unit::Kind::kBinary);
    if (build->unit == nullptr || !build->unit->SendText(text, &status))
      return Fail(error, CL_OUT_OF_RESOURCES);
    if (status == CL_SUCCESS && !wire::opencl::ParseBinaryFile(text).has_value())
      status = TryForeignBinary(*build->unit);
  }
  if (binary_status != nullptr) std::fill_n(binary_status, num_devices, status);
  if (status != CL_SUCCESS) return Fail(error, status);
  Ref<Program> program = Ref<Program>::Adopt(
      new Program(*context, std::move(targets), Program::Origin::kBinary, std::move(text)));
  program->set_build(std::move(build));
  return Made(error, std::move(program));
}

cl_program CreateProgramWithIL(cl_context handle, const void* il, std::size_t length, cl_int* error) {
  Context* context = FromHandle<Context>(handle);
  if (context == nullptr) return Fail(error, CL_INVALID_CONTEXT);
  if (!context->device().takes_il()) return Fail(error, CL_INVALID_OPERATION);
  if (il == nullptr || length == 0) return Fail(error, CL_INVALID_VALUE);
  if (length > wire::kMaxProgramBytes) return Fail(error, CL_OUT_OF_HOST_MEMORY);
  std::string text(static_cast<const char*>(il), length);
  // What more there is to say against it, a build will say.
  if (!wire::opencl::ReadSpirvConstants(text).has_value()) return Fail(error, CL_INVALID_VALUE);
  return Made(error, Ref<Program>::Adopt(new Program(*context, Program::Origin::kIl, std::move(text))));
}

cl_int SetProgramSpecializationConstant(cl_program handle, cl_uint number, std::size_t size,
                                        const void* value) {
  Program* program = FromHandle<Program>(handle);
  if (program == nullptr || program->origin() != Program::Origin::kIl) return CL_INVALID_PROGRAM;
  return program->Specialize(number, size, value);
}

cl_int RetainProgram(cl_program handle) { return RetainHandle<Program>(handle); }
cl_int ReleaseProgram(cl_program handle) { return ReleaseHandle<Program>(handle); }

cl_int BuildProgram(cl_program handle, cl_uint num_devices, const cl_device_id* devices, const char* options,
                    ProgramNotify notify, void* user_data) {
  Program* program = FromHandle<Program>(handle);
  if (program == nullptr) return CL_INVALID_PROGRAM;
  return StartBuild(*program, num_devices, devices, options, {}, CL_PROGRAM_BINARY_TYPE_EXECUTABLE, notify,
                    user_data);
}

cl_int CompileProgram(cl_program handle, cl_uint num_devices, const cl_device_id* devices,
                      const char* options, cl_uint num_headers, const cl_program* headers,
                      const char** header_names, ProgramNotify notify, void* user_data) {
  Program* program = FromHandle<Program>(handle);
  if (program == nullptr) return CL_INVALID_PROGRAM;
  if ((num_headers == 0) != (headers == nullptr) || (num_headers == 0) != (header_names == nullptr))
    return CL_INVALID_VALUE;
  Headers texts;
  for (cl_uint i = 0; i < num_headers; ++i) {
    const Program* header = FromHandle<Program>(headers[i]);
    if (header == nullptr) return CL_INVALID_PROGRAM;
    if (header_names[i] == nullptr) return CL_INVALID_VALUE;
    texts[header_names[i]] = header->text();
  }
  return StartBuild(*program, num_devices, devices, options, texts, CL_PROGRAM_BINARY_TYPE_COMPILED_OBJECT,
                    notify, user_data);
}

cl_program LinkProgram(cl_context context_handle, cl_uint num_devices, const cl_device_id* devices,
                       const char* options, cl_uint num_programs, const cl_program* programs,
                       ProgramNotify notify, void* user_data, cl_int* error) {
  Context* context = FromHandle<Context>(context_handle);
  if (context == nullptr) return Fail(error, CL_INVALID_CONTEXT);
  if ((num_devices == 0) != (devices == nullptr) || num_programs == 0 || programs == nullptr ||
      (notify == nullptr && user_data != nullptr)) {
    return Fail(error, CL_INVALID_VALUE);
  }
  for (cl_uint i = 0; i < num_devices; ++i) {
    if (!context->Has(FromHandle<Device>(devices[i]))) return Fail(error, CL_INVALID_DEVICE);
  }
  auto build = std::make_shared<Program::Build>();
  build->options = options == nullptr ? "" : options;
  if (build->options.size() > wire::kMaxBuildOptionsBytes || !LinkerOptionsKnown(build->options))
    return Fail(error, CL_INVALID_LINKER_OPTIONS);
  std::vector<std::shared_ptr<const Program::Build>> inputs;  // the objects are views into them
  wire::opencl::ObjectFile objects;
  objects.library = true;
  bool shows_arg_info = false;
  for (cl_uint i = 0; i < num_programs; ++i) {
    Program* const program = FromHandle<Program>(programs[i]);
    if (program == nullptr) return Fail(error, CL_INVALID_PROGRAM);
    if (&program->context() != context) return Fail(error, CL_INVALID_CONTEXT);
    const auto file = wire::opencl::ParseObjectFile(inputs.emplace_back(program->build())->object);
    if (!file.has_value() || program->build_status() == CL_BUILD_IN_PROGRESS)
      return Fail(error, CL_INVALID_OPERATION);
    for (const wire::opencl::ProgramObject& object : file->objects) {
      objects.objects.push_back(object);
      shows_arg_info = shows_arg_info || AsksForArgInfo(object.options);
    }
  }
  std::string linked_text = wire::opencl::FormatObjectFile(objects);
  if (linked_text.size() > wire::kMaxProgramBytes || objects.objects.size() > wire::opencl::kMaxObjectsInFile)
    return Fail(error, CL_OUT_OF_HOST_MEMORY);
  if (notify != nullptr && !context->callbacks().Start().ok()) return Fail(error, CL_OUT_OF_HOST_MEMORY);

  Ref<Program> linked = Ref<Program>::Adopt(new Program(*context, Program::Origin::kLinked, {}));
  auto under_way = std::make_unique<BuildUnderWay>(*linked, build, shows_arg_info, notify, user_data);
  linked->BeginBuild();
  const auto words = Words(build->options);
  if (std::find(words.begin(), words.end(), kCreateLibrary) != words.end()) {
    build->type = CL_PROGRAM_BINARY_TYPE_LIBRARY;
    build->object = std::move(linked_text);
    under_way.release()->End(CL_SUCCESS);  // nothing is left to do before it is linked itself
    return Made(error, std::move(linked));
  }
  build->type = CL_PROGRAM_BINARY_TYPE_EXECUTABLE;
  build->unit = Unit::Create(*context, Unit::Kind::kLink);
  const bool sent = build->unit != nullptr && build->unit->SendText(linked_text);
  const cl_int status = SendBuild(*linked, sent ? CL_SUCCESS : CL_OUT_OF_RESOURCES, build->unit.get(),
                                  build->options, std::move(under_way), notify == nullptr);
  if (status != CL_SUCCESS && status != CL_LINK_PROGRAM_FAILURE) return Fail(error, status);
  const cl_program made = Made(error, std::move(linked));
  if (error != nullptr) *error = status;  // one that did not link is there too, with the log that says why
  return made;
}

cl_int GetProgramInfo(cl_program handle, cl_program_info name, std::size_t size, void* value,
                      std::size_t* size_ret) {
  Program* program = FromHandle<Program>(handle);
  if (program == nullptr) return CL_INVALID_PROGRAM;
  const InfoOut out(size, value, size_ret);
  switch (name) {
    case CL_PROGRAM_REFERENCE_COUNT: return out.Value<cl_uint>(program->handles());
    case CL_PROGRAM_CONTEXT: return out.Value<cl_context>(ToHandle(&program->context()));
    case CL_PROGRAM_NUM_DEVICES: return out.Value<cl_uint>(static_cast<cl_uint>(program->devices().size()));
    case CL_PROGRAM_DEVICES: return PutDevices(out, program->devices());
    case CL_PROGRAM_SOURCE:
      return out.Text(program->origin() == Program::Origin::kSource ? program->text() : std::string_view());
    case CL_PROGRAM_BINARY_SIZES: {
      const std::vector<std::size_t> sizes(program->devices().size(),
                                           BinarySize(*program, *program->build()));
      return out.Array(std::span<const std::size_t>(sizes));
    }
    case CL_PROGRAM_BINARIES: return PutBinaries(*program, out);
    case CL_PROGRAM_NUM_KERNELS:
    case CL_PROGRAM_KERNEL_NAMES: {
      const auto executable = program->built(CL_PROGRAM_BINARY_TYPE_EXECUTABLE);
      if (executable == nullptr) return CL_INVALID_PROGRAM_EXECUTABLE;
      if (name == CL_PROGRAM_NUM_KERNELS) return out.Value<std::size_t>(executable->kernels.size());
      return out.Text(KernelNames(*executable));
    }
    case CL_PROGRAM_IL:
      return program->origin() == Program::Origin::kIl
                 ? out.Put(program->text().data(), program->text().size())
                 : out.Put(nullptr, 0);
    case CL_PROGRAM_SCOPE_GLOBAL_CTORS_PRESENT:
    case CL_PROGRAM_SCOPE_GLOBAL_DTORS_PRESENT: return out.Value<cl_bool>(CL_FALSE);
    default: return CL_INVALID_VALUE;
  }
}

cl_int GetProgramBuildInfo(cl_program handle, cl_device_id device, cl_program_build_info name,
                           std::size_t size, void* value, std::size_t* size_ret) {
  Program* program = FromHandle<Program>(handle);
  if (program == nullptr) return CL_INVALID_PROGRAM;
  if (!program->Has(FromHandle<Device>(device))) return CL_INVALID_DEVICE;
  const InfoOut out(size, value, size_ret);
  const cl_build_status status = program->build_status();
  const auto build = program->build();
  switch (name) {
    case CL_PROGRAM_BUILD_STATUS: return out.Value(status);
    case CL_PROGRAM_BUILD_OPTIONS: return out.Text(build->options);
    case CL_PROGRAM_BUILD_LOG: return out.Text(build->log);
    case CL_PROGRAM_BINARY_TYPE: return out.Value(build->type);
    case CL_PROGRAM_BUILD_GLOBAL_VARIABLE_TOTAL_SIZE: return out.Value<std::size_t>(0);
    default: return CL_INVALID_VALUE;
  }
}

}  // namespace tulle::shim::opencl
