#include "tulle/gpu/opencl/program.h"

#include <algorithm>
#include <cstring>

#include "tulle/wire/object_file.h"
#include "tulle/wire/spirv.h"

namespace tulle::gpu::opencl {
namespace {

// Kernels' argument infos tell handles from numbers. Programs that do not ask for them must not see them,
// which is the client's business.
constexpr char kArgInfoOption[] = "-cl-kernel-arg-info";

std::string Cut(std::string text, std::size_t most) {
  if (text.size() > most) text.resize(most);
  return text;
}

template <typename Get>
std::string Text(Get get, std::size_t most) {
  std::size_t size = 0;
  if (get(0, nullptr, &size) != CL_SUCCESS || size <= 1) return {};
  std::string text(size, '\0');
  if (get(size, text.data(), nullptr) != CL_SUCCESS) return {};
  text.resize(std::min(text.find('\0'), text.size()));
  return Cut(std::move(text), most);
}

bool IsOther(std::string_view type_name) {
  return type_name == "queue_t" || type_name.starts_with("pipe") || type_name == "event_t" ||
         type_name == "reserve_id_t";
}

ArgShape ShapeOf(const KernelDescription::Arg& arg) {
  if (IsOther(arg.type_name)) return ArgShape::kOther;
  if (arg.type_name == "sampler_t") return ArgShape::kSampler;
  // An image whatever the program calls its type: nothing else has an access qualifier but pipes.
  if (arg.image.has_value() || arg.info.access_qualifier == CL_KERNEL_ARG_ACCESS_READ_ONLY ||
      arg.info.access_qualifier == CL_KERNEL_ARG_ACCESS_WRITE_ONLY ||
      arg.info.access_qualifier == CL_KERNEL_ARG_ACCESS_READ_WRITE) {
    return ArgShape::kImage;
  }
  switch (arg.info.address_qualifier) {
    case CL_KERNEL_ARG_ADDRESS_GLOBAL:
    case CL_KERNEL_ARG_ADDRESS_CONSTANT: return ArgShape::kMemory;
    case CL_KERNEL_ARG_ADDRESS_LOCAL: return ArgShape::kLocal;
    case CL_KERNEL_ARG_ADDRESS_PRIVATE: return ArgShape::kValue;
    default: return ArgShape::kUnknown;
  }
}

// The same binary for each of the devices.
OwnedProgram WithBinary(cl_context context, const std::vector<cl_device_id>& devices, std::string_view binary,
                        cl_int* status) {
  *status = CL_INVALID_BINARY;
  if (binary.empty()) return {};
  const std::vector<std::size_t> sizes(devices.size(), binary.size());
  std::vector<const unsigned char*> bytes(devices.size(),
                                          reinterpret_cast<const unsigned char*>(binary.data()));
  std::vector<cl_int> statuses(devices.size(), CL_SUCCESS);
  OwnedProgram program(clCreateProgramWithBinary(context, static_cast<cl_uint>(devices.size()),
                                                 devices.data(), sizes.data(), bytes.data(), statuses.data(),
                                                 status));
  for (const cl_int each : statuses) {
    if (*status == CL_SUCCESS) *status = each;
  }
  return program;
}

// The built program's, as the driver has it.
cl_int ReadBinary(cl_program program, std::string* binary) {
  std::size_t size = 0;
  const cl_int status = clGetProgramInfo(program, CL_PROGRAM_BINARY_SIZES, sizeof size, &size, nullptr);
  if (status != CL_SUCCESS || size == 0 || size > wire::kMaxProgramBytes) return CL_OUT_OF_RESOURCES;
  binary->resize(size);
  auto* out = reinterpret_cast<unsigned char*>(binary->data());
  return clGetProgramInfo(program, CL_PROGRAM_BINARIES, sizeof out, &out, nullptr);
}

using Kernels = std::map<std::string, std::shared_ptr<const KernelDescription>, std::less<>>;

cl_int Describe(cl_program program, cl_device_id device, Kernels* kernels) {
  cl_uint count = 0;
  cl_int status = clCreateKernelsInProgram(program, 0, nullptr, &count);
  if (status == CL_SUCCESS && count > wire::kMaxKernelsInProgram) status = CL_OUT_OF_RESOURCES;
  std::vector<cl_kernel> natives(count);
  if (status == CL_SUCCESS && count > 0)
    status = clCreateKernelsInProgram(program, count, natives.data(), nullptr);
  if (status != CL_SUCCESS) return status;
  for (cl_kernel native : natives) {
    const OwnedKernel kernel(native);
    auto described = std::make_shared<const KernelDescription>(DescribeKernel(native, device));
    kernels->emplace(described->name, described);
  }
  return CL_SUCCESS;
}

// Adds what the file says of kernels and the driver does not. It came from a program: it is for the program's
// own eyes, and what an argument takes (ArgShape) is only ever the driver's word.
void AddKnown(const wire::opencl::BinaryFile& file, Kernels* kernels) {
  wire::exec::LoadProgramReply known;
  wire::Arena arena;
  if (wire::Decode(AsBytes(file.kernels), 0, arena, &known) != wire::WireResult::kOk) return;
  for (const wire::opencl::KernelInfo& info : known.kernels.items) {
    const auto found = kernels->find(info.name.text);
    if (found == kernels->end() || found->second->info.arg_count != info.arg_count) continue;
    KernelDescription kernel = *found->second;
    if (kernel.attributes.empty()) kernel.attributes = info.attributes.text;
    if (!kernel.has_arg_info && info.args.items.size() == kernel.args.size()) {
      kernel.has_arg_info = !kernel.args.empty();
      for (std::size_t i = 0; i < kernel.args.size(); ++i) {
        KernelDescription::Arg& arg = kernel.args[i];
        arg.info = info.args.items[i];
        arg.type_name = std::exchange(arg.info.type_name, {}).text;
        arg.name = std::exchange(arg.info.name, {}).text;
      }
    }
    found->second = std::make_shared<const KernelDescription>(std::move(kernel));
  }
}

bool AsksForArgInfo(wire::opencl::ProgramKind kind, ByteView text, std::string_view options) {
  if (options.find(kArgInfoOption) != std::string_view::npos) return true;
  if (kind != wire::opencl::ProgramKind::kLink) return false;
  const auto file = wire::opencl::ParseObjectFile(AsText(text));
  return file.has_value() && std::any_of(file->objects.begin(), file->objects.end(), [](const auto& object) {
           return object.options.find(kArgInfoOption) != std::string_view::npos;
         });
}

class OpenClCompiler final : public Compiler {
 public:
  explicit OpenClCompiler(const NativeDevice& device) : device_(device) {}

  CompileOutput Compile(wire::opencl::ProgramKind kind, ByteView text, const std::string& options) override {
    using wire::opencl::ProgramKind;
    CompileOutput output;
    std::optional<wire::opencl::BinaryFile> given;  // of a binary that is one of ours
    cl_int status = CL_SUCCESS;
    if (!context_) context_ = MakeContext(device_, &status);
    if (!context_) return Failed(status);
    OwnedProgram program;
    switch (kind) {
      case ProgramKind::kObject:
        program = CompileObject(context_.get(), {options, AsText(text)}, &output);
        return output;
      case ProgramKind::kLink: program = Link(context_.get(), AsText(text), options, &output); break;
      case ProgramKind::kSource: program = WithSource(context_.get(), AsText(text), &status); break;
      case ProgramKind::kIl: program = WithIl(context_.get(), AsText(text), &status); break;
      case ProgramKind::kBinary: {
        given = wire::opencl::ParseBinaryFile(AsText(text));
        program = WithBinary(context_.get(), {device_.device},
                             given.has_value() ? given->native : AsText(text), &status);
        break;
      }
    }
    if (status != CL_SUCCESS) return Failed(status);
    if (kind != ProgramKind::kLink) {
      output.status =
          clBuildProgram(program.get(), 1, &device_.device, WithArgInfo(options).c_str(), nullptr, nullptr);
      output.log = BuildLog(program.get(), device_.device);
    }
    if (output.status != CL_SUCCESS) return output;

    LoadedProgram built;
    if (status = Describe(program.get(), device_.device, &built.kernels); status != CL_SUCCESS)
      return Failed(status);
    if (given.has_value()) AddKnown(*given, &built.kernels);
    std::string native;
    if (status = ReadBinary(program.get(), &native); status != CL_SUCCESS) return Failed(status);
    const ByteVector kernels = EncodeReply(built);
    const bool shows_arg_info =
        given.has_value() ? given->shows_arg_info : AsksForArgInfo(kind, text, options);
    const std::string file = wire::opencl::FormatBinaryFile({shows_arg_info, AsText(kernels), native});
    if (file.size() > wire::kMaxProgramBytes) return Failed(CL_OUT_OF_RESOURCES);
    output.binary.assign(AsBytes(file).begin(), AsBytes(file).end());
    return output;
  }

  bool SurvivesCopies() const override { return device_.compiler_survives_copies; }

 private:
  static std::string WithArgInfo(std::string_view options) {
    return options.empty() ? kArgInfoOption : std::string(options) + " " + kArgInfoOption;
  }

  static OwnedProgram WithSource(cl_context context, std::string_view source, cl_int* status) {
    const char* text = source.empty() ? "" : source.data();
    const std::size_t size = source.size();
    return OwnedProgram(clCreateProgramWithSource(context, 1, &text, &size, status));
  }

  OwnedProgram WithIl(cl_context context, std::string_view il, cl_int* status) const {
    *status = CL_INVALID_OPERATION;
    if (DeviceText(device_.device, CL_DEVICE_IL_VERSION).empty()) return {};
    // Drivers read words.
    std::vector<std::uint32_t> words((il.size() + 3) / 4);
    std::memcpy(words.data(), il.data(), il.size());
    if (HasVersion(device_.device, "2.1"))
      return OwnedProgram(clCreateProgramWithIL(context, words.data(), il.size(), status));
    const auto create = reinterpret_cast<decltype(&clCreateProgramWithIL)>(
        clGetExtensionFunctionAddressForPlatform(device_.platform, "clCreateProgramWithILKHR"));
    return create == nullptr ? OwnedProgram()
                             : OwnedProgram(create(context, words.data(), il.size(), status));
  }

  // Adds to the log; sets the status when it fails.
  OwnedProgram CompileObject(cl_context context, const wire::opencl::ProgramObject& object,
                             CompileOutput* output) const {
    OwnedProgram program = wire::opencl::IsSpirv(object.source)
                               ? WithIl(context, object.source, &output->status)
                               : WithSource(context, object.source, &output->status);
    if (output->status != CL_SUCCESS) return program;
    output->status = clCompileProgram(program.get(), 1, &device_.device, WithArgInfo(object.options).c_str(),
                                      0, nullptr, nullptr, nullptr, nullptr);
    output->log += BuildLog(program.get(), device_.device);
    return program;
  }

  OwnedProgram Link(cl_context context, std::string_view bytes, const std::string& options,
                    CompileOutput* output) const {
    const auto file = wire::opencl::ParseObjectFile(bytes);
    if (!file.has_value()) {
      *output = {CL_INVALID_BINARY, "this is no object file", {}};
      return {};
    }
    std::vector<OwnedProgram> objects;
    std::vector<cl_program> inputs;
    for (const wire::opencl::ProgramObject& object : file->objects) {
      inputs.push_back(objects.emplace_back(CompileObject(context, object, output)).get());
      if (output->status != CL_SUCCESS) return {};
    }
    // Where a driver has no log of a failed link but in its result, and no result, this is all that is known.
    OwnedProgram linked(clLinkProgram(context, 1, &device_.device, options.c_str(),
                                      static_cast<cl_uint>(inputs.size()), inputs.data(), nullptr, nullptr,
                                      &output->status));
    if (linked) output->log += BuildLog(linked.get(), device_.device);
    if (output->status != CL_SUCCESS && output->log.empty())
      output->log = "the objects could not be linked; the driver does not say why\n";
    return linked;
  }

  static CompileOutput Failed(cl_int status) {
    CompileOutput output;
    output.status = status == CL_SUCCESS ? CL_OUT_OF_RESOURCES : status;
    return output;
  }

  const NativeDevice device_;
  OwnedContext context_;  // kept: PoCL loads what its compiler needs once for each context
};

}  // namespace

KernelDescription DescribeKernel(cl_kernel kernel, cl_device_id device) {
  KernelDescription described;
  wire::opencl::KernelInfo& info = described.info;
  described.name = Text(
      [&](std::size_t size, void* out, std::size_t* needed) {
        return clGetKernelInfo(kernel, CL_KERNEL_FUNCTION_NAME, size, out, needed);
      },
      wire::kMaxNameBytes);
  described.attributes = Text(
      [&](std::size_t size, void* out, std::size_t* needed) {
        return clGetKernelInfo(kernel, CL_KERNEL_ATTRIBUTES, size, out, needed);
      },
      wire::kMaxNameBytes);
  cl_uint arg_count = 0;
  clGetKernelInfo(kernel, CL_KERNEL_NUM_ARGS, sizeof arg_count, &arg_count, nullptr);
  info.arg_count = std::min(arg_count, wire::kMaxKernelArgs);

  const auto work_group = [&](cl_kernel_work_group_info what, auto* value) {
    std::remove_reference_t<decltype(*value)> got{};
    if (clGetKernelWorkGroupInfo(kernel, device, what, sizeof got, &got, nullptr) == CL_SUCCESS) *value = got;
  };
  static_assert(sizeof(std::size_t) == sizeof(std::uint64_t));
  work_group(CL_KERNEL_WORK_GROUP_SIZE, &info.work_group_size);
  work_group(CL_KERNEL_COMPILE_WORK_GROUP_SIZE, &info.compile_work_group_size);
  work_group(CL_KERNEL_LOCAL_MEM_SIZE, &info.local_mem_bytes);
  work_group(CL_KERNEL_PREFERRED_WORK_GROUP_SIZE_MULTIPLE, &info.preferred_work_group_multiple);
  work_group(CL_KERNEL_PRIVATE_MEM_SIZE, &info.private_mem_bytes);

  described.args.resize(info.arg_count);
  described.has_arg_info = info.arg_count > 0;
  for (cl_uint i = 0; i < info.arg_count; ++i) {
    KernelDescription::Arg& arg = described.args[i];
    const auto get = [&](cl_kernel_arg_info what, auto* value) {
      return clGetKernelArgInfo(kernel, i, what, sizeof *value, value, nullptr) == CL_SUCCESS;
    };
    const auto text = [&](cl_kernel_arg_info what, std::size_t most) {
      return Text([&](std::size_t size, void* out,
                      std::size_t* needed) { return clGetKernelArgInfo(kernel, i, what, size, out, needed); },
                  most);
    };
    if (!get(CL_KERNEL_ARG_ADDRESS_QUALIFIER, &arg.info.address_qualifier)) {
      described.has_arg_info = false;
      continue;
    }
    get(CL_KERNEL_ARG_ACCESS_QUALIFIER, &arg.info.access_qualifier);
    get(CL_KERNEL_ARG_TYPE_QUALIFIER, &arg.info.type_qualifier);
    arg.type_name = text(CL_KERNEL_ARG_TYPE_NAME, wire::kMaxTypeNameBytes);
    arg.name = text(CL_KERNEL_ARG_NAME, wire::kMaxNameBytes);
    arg.image = wire::opencl::ImageTypeNamed(arg.type_name);
    arg.shape = ShapeOf(arg);
  }
  return described;
}

std::int32_t SubGroupsOf(cl_kernel kernel, cl_device_id device, const wire::opencl::GetKernelSubGroups& query,
                         wire::Vec3* values) {
  using wire::opencl::SubGroupQuery;
  // Others need not have the call.
  if (!HasVersion(device, "2.1") || DeviceValue<cl_uint>(device, CL_DEVICE_MAX_NUM_SUB_GROUPS) == 0)
    return CL_INVALID_OPERATION;
  if (query.dimensions < 1 || query.dimensions > query.sizes.size()) return CL_INVALID_VALUE;
  const auto ask = [&](cl_kernel_sub_group_info what, std::size_t inputs, std::size_t outputs) {
    return clGetKernelSubGroupInfo(kernel, device, what, inputs * sizeof(std::size_t),
                                   inputs == 0 ? nullptr : query.sizes.data(), outputs * sizeof(std::size_t),
                                   values->data(), nullptr);
  };
  switch (query.query.value) {
    case SubGroupQuery::kMaxSizeForRange:
      return ask(CL_KERNEL_MAX_SUB_GROUP_SIZE_FOR_NDRANGE, query.dimensions, 1);
    case SubGroupQuery::kCountForRange:
      return ask(CL_KERNEL_SUB_GROUP_COUNT_FOR_NDRANGE, query.dimensions, 1);
    case SubGroupQuery::kLocalSizeForCount:
      return ask(CL_KERNEL_LOCAL_SIZE_FOR_SUB_GROUP_COUNT, 1, query.dimensions);
    case SubGroupQuery::kMaxCount: return ask(CL_KERNEL_MAX_NUM_SUB_GROUPS, 0, 1);
    case SubGroupQuery::kCompiledCount: return ask(CL_KERNEL_COMPILE_NUM_SUB_GROUPS, 0, 1);
  }
  return CL_INVALID_VALUE;
}

LoadedProgram LoadBinary(cl_context context, const std::vector<cl_device_id>& devices, ByteView binary) {
  LoadedProgram loaded;
  const auto file = wire::opencl::ParseBinaryFile(AsText(binary));
  OwnedProgram program =
      WithBinary(context, devices, file.has_value() ? file->native : AsText(binary), &loaded.status);
  if (loaded.status != CL_SUCCESS) return loaded;
  loaded.status = clBuildProgram(program.get(), static_cast<cl_uint>(devices.size()), devices.data(),
                                 kArgInfoOption, nullptr, nullptr);
  loaded.log = BuildLog(program.get(), devices.front());
  if (loaded.status != CL_SUCCESS) return loaded;

  loaded.status = Describe(program.get(), devices.front(), &loaded.kernels);
  if (loaded.status != CL_SUCCESS) return loaded;
  if (file.has_value()) AddKnown(*file, &loaded.kernels);
  loaded.program = std::move(program);
  return loaded;
}

ByteVector EncodeReply(const LoadedProgram& loaded) {
  const auto encode = [&](bool with_args) {
    std::vector<wire::opencl::KernelInfo> infos;
    std::vector<std::vector<wire::opencl::KernelArgInfo>> args;
    args.reserve(loaded.kernels.size());
    for (const auto& [name, kernel] : loaded.kernels) {
      wire::opencl::KernelInfo& info = infos.emplace_back(kernel->info);
      info.name.text = kernel->name;
      info.attributes.text = kernel->attributes;
      auto& list = args.emplace_back();
      if (!with_args || !kernel->has_arg_info) continue;
      for (const KernelDescription::Arg& arg : kernel->args) {
        wire::opencl::KernelArgInfo& arg_info = list.emplace_back(arg.info);
        arg_info.type_name.text = arg.type_name;
        arg_info.name.text = arg.name;
      }
      info.args.items = list;
    }
    const wire::exec::LoadProgramReply reply{loaded.status, {loaded.log}, {infos}};
    ByteVector body(wire::EncodedSize(reply));
    wire::Encode(reply, body);
    return body;
  };
  ByteVector body = encode(true);
  if (body.size() > wire::kMaxBodyBytes) body = encode(false);
  if (body.size() > wire::kMaxBodyBytes) {
    const wire::exec::LoadProgramReply reply{CL_OUT_OF_RESOURCES,
                                             {"the description of its kernels is too long"}};
    body.resize(wire::EncodedSize(reply));
    wire::Encode(reply, body);
  }
  return body;
}

std::unique_ptr<Compiler> MakeCompiler(const NativeDevice& device) {
  return std::make_unique<OpenClCompiler>(device);
}

}  // namespace tulle::gpu::opencl
