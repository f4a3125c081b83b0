#include "tulle/gpu/null/null_program.h"

#include <algorithm>
#include <cctype>
#include <charconv>

#include "tulle/gpu/api/opencl_status.h"
#include "tulle/gpu/null/null_il.h"
#include "tulle/wire/object_file.h"
#include "tulle/wire/spirv.h"

namespace tulle::gpu::null {
namespace {

using wire::opencl::ArgKind;

constexpr std::string_view kMagic = "tulle-null-binary\n";

// The address qualifiers of cl_kernel_arg_address_qualifier.
constexpr std::uint32_t kGlobal = 0x119B;
constexpr std::uint32_t kLocal = 0x119C;
constexpr std::uint32_t kPrivate = 0x119E;
// And the access qualifiers of cl_kernel_arg_access_qualifier.
constexpr std::uint32_t kReadOnly = 0x11A0;
constexpr std::uint32_t kWriteOnly = 0x11A1;
constexpr std::uint32_t kReadWrite = 0x11A2;
constexpr std::uint32_t kAccessNone = 0x11A3;

bool IsWord(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

// Words, and every other visible character by itself.
std::vector<std::string_view> Tokens(std::string_view text) {
  std::vector<std::string_view> tokens;
  for (std::size_t i = 0; i < text.size();) {
    std::size_t end = i;
    while (end < text.size() && IsWord(text[end])) ++end;
    if (end == i) {
      if (std::isgraph(static_cast<unsigned char>(text[i])) != 0) tokens.push_back(text.substr(i, 1));
      ++i;
    } else {
      tokens.push_back(text.substr(i, end - i));
      i = end;
    }
  }
  return tokens;
}

NullKernel::Arg ParseArg(std::span<const std::string_view> tokens) {
  NullKernel::Arg arg;
  std::uint32_t access = kReadOnly;
  for (std::string_view token : tokens) {
    if (token == "global" || token == "__global" || token == "constant" || token == "__constant") {
      arg.kind = ArgKind::kMemory;
    } else if (token == "local" || token == "__local") {
      arg.kind = ArgKind::kLocal;
    } else if (token == "read_only" || token == "__read_only") {
      access = kReadOnly;
    } else if (token == "write_only" || token == "__write_only") {
      access = kWriteOnly;
    } else if (token == "read_write" || token == "__read_write") {
      access = kReadWrite;
    } else if (token != "const" && token != "restrict" && token != "volatile") {
      if (!arg.name.empty()) arg.type_name += arg.name;
      arg.name = token;
    }
  }
  arg.image = wire::opencl::ImageTypeNamed(arg.type_name);
  if (arg.image.has_value()) arg.kind = ArgKind::kMemory;
  arg.access_qualifier = arg.image.has_value() ? access : kAccessNone;
  arg.is_sampler = arg.type_name == "sampler_t";
  if (arg.name.size() > wire::kMaxNameBytes) arg.name.resize(wire::kMaxNameBytes);
  if (arg.type_name.size() > wire::kMaxTypeNameBytes) arg.type_name.resize(wire::kMaxTypeNameBytes);
  return arg;
}

// At tokens[at] stands "kernel". Null when no kernel's head follows.
std::shared_ptr<NullKernel> ParseKernel(std::span<const std::string_view> tokens, std::size_t at) {
  constexpr std::size_t kFarthestVoid = 32;  // attributes may stand between
  std::size_t i = at + 1;
  while (i < tokens.size() && i < at + kFarthestVoid && tokens[i] != "void") ++i;
  if (i + 2 >= tokens.size() || tokens[i] != "void" || !IsWord(tokens[i + 1][0]) || tokens[i + 2] != "(")
    return nullptr;
  auto kernel = std::make_shared<NullKernel>();
  kernel->name = tokens[i + 1].substr(0, wire::kMaxNameBytes);
  std::size_t begin = i + 3;
  for (i = begin; i < tokens.size() && kernel->args.size() < wire::kMaxKernelArgs; ++i) {
    if (tokens[i] != "," && tokens[i] != ")") continue;
    const auto arg = tokens.subspan(begin, i - begin);
    if (!arg.empty() && !(arg.size() == 1 && arg[0] == "void")) kernel->args.push_back(ParseArg(arg));
    if (tokens[i] == ")") return kernel;
    begin = i + 1;
  }
  return nullptr;
}

CompileOutput Failed(const std::string& reason) {
  return {cl_status::kBuildProgramFailure, "error: " + reason + "\n", {}};
}

// What "null_constant = 5" says; 1 when nothing does.
std::uint32_t ParseConstant(std::span<const std::string_view> tokens) {
  std::uint32_t value = 1;
  for (std::size_t i = 0; i + 2 < tokens.size(); ++i) {
    const std::string_view number = tokens[i + 2];
    if (tokens[i] == "null_constant" && tokens[i + 1] == "=")
      std::from_chars(number.data(), number.data() + number.size(), value);
  }
  return value;
}

// All sources one after the other.
CompileOutput LinkNull(std::string_view bytes) {
  const auto file = wire::opencl::ParseObjectFile(bytes);
  if (!file.has_value()) return {cl_status::kInvalidBinary, "this is no object file", {}};
  std::string source;
  for (const wire::opencl::ProgramObject& object : file->objects) {
    if (!wire::opencl::IsSpirv(object.source)) {
      source += std::string(object.source) + "\n";
    } else if (auto text = SourceOfIl(object.source); text.ok()) {
      source += *text;
    } else {
      return Failed(text.error().message);
    }
  }
  return CompileNull(wire::opencl::ProgramKind::kSource, AsBytes(source));
}

}  // namespace

std::shared_ptr<const NullKernel> NullProgram::Find(std::string_view name) const {
  if (status != 0) return nullptr;
  if (kernels.empty()) {
    auto kernel = std::make_shared<NullKernel>();
    kernel->name = name;
    kernel->takes_anything = true;
    return kernel;
  }
  for (const auto& kernel : kernels) {
    if (kernel->name == name) return kernel;
  }
  return nullptr;
}

CompileOutput CompileNull(wire::opencl::ProgramKind kind, ByteView text) {
  CompileOutput output;
  const std::string_view source = AsText(text);
  if (kind == wire::opencl::ProgramKind::kBinary) {
    if (!source.starts_with(kMagic)) {
      output.status = cl_status::kInvalidBinary;
      return output;
    }
    output.binary.assign(text.begin(), text.end());
    return output;
  }
  if (kind == wire::opencl::ProgramKind::kLink) return LinkNull(source);
  const bool is_object = kind == wire::opencl::ProgramKind::kObject;
  if (kind == wire::opencl::ProgramKind::kIl || (is_object && wire::opencl::IsSpirv(source))) {
    const auto translated = SourceOfIl(source);
    if (!translated.ok()) return Failed(translated.error().message);
    if (is_object) return output;
    return CompileNull(wire::opencl::ProgramKind::kSource, AsBytes(*translated));
  }
  if (const std::size_t error = source.find("#error"); error != std::string_view::npos) {
    const std::string_view line = source.substr(error, source.find('\n', error) - error);
    return Failed(std::string(line.substr(0, wire::kMaxReasonBytes)));
  }
  if (is_object) return output;
  output.binary.resize(kMagic.size() + text.size());
  std::copy(kMagic.begin(), kMagic.end(), reinterpret_cast<char*>(output.binary.data()));
  std::copy(text.begin(), text.end(), output.binary.begin() + kMagic.size());
  return output;
}

NullProgram LoadNull(ByteView binary) {
  NullProgram program;
  std::string_view text = AsText(binary);
  if (text.starts_with(kMagic)) text.remove_prefix(kMagic.size());
  const std::vector<std::string_view> tokens = Tokens(text);
  const std::uint32_t constant = ParseConstant(tokens);
  for (std::size_t i = 0; i < tokens.size() && program.kernels.size() < wire::kMaxKernelsInProgram; ++i) {
    if (tokens[i] != "kernel" && tokens[i] != "__kernel") continue;
    auto kernel = ParseKernel(tokens, i);
    if (kernel != nullptr && (program.kernels.empty() || program.Find(kernel->name) == nullptr)) {
      kernel->constant = constant;
      program.kernels.push_back(std::move(kernel));
    }
  }
  return program;
}

ByteVector EncodeReply(const NullProgram& program) {
  std::vector<wire::opencl::KernelInfo> infos;
  std::vector<std::vector<wire::opencl::KernelArgInfo>> args;
  args.reserve(program.kernels.size());
  for (const auto& kernel : program.kernels) {
    wire::opencl::KernelInfo& info = infos.emplace_back();
    info.name.text = kernel->name;
    info.arg_count = static_cast<std::uint32_t>(kernel->args.size());
    info.work_group_size = 1024;
    info.preferred_work_group_multiple = 1;
    auto& list = args.emplace_back();
    for (const NullKernel::Arg& arg : kernel->args) {
      wire::opencl::KernelArgInfo& arg_info = list.emplace_back();
      arg_info.address_qualifier = arg.kind == ArgKind::kMemory  ? kGlobal
                                   : arg.kind == ArgKind::kLocal ? kLocal
                                                                 : kPrivate;
      arg_info.access_qualifier = arg.access_qualifier;
      arg_info.type_name.text = arg.type_name;
      arg_info.name.text = arg.name;
    }
    info.args.items = list;
  }
  wire::exec::LoadProgramReply reply{program.status, {program.log}, {infos}};
  if (wire::EncodedSize(reply) > wire::kMaxBodyBytes) {
    reply = {cl_status::kOutOfResources, {"the description of its kernels is too long"}};
  }
  ByteVector body(wire::EncodedSize(reply));
  wire::Encode(reply, body);
  return body;
}

}  // namespace tulle::gpu::null
