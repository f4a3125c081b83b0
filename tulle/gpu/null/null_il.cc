#include "tulle/gpu/null/null_il.h"

#include <algorithm>
#include <cctype>
#include <unordered_map>
#include <vector>

#include "tulle/wire/limits.h"
#include "tulle/wire/spirv.h"

namespace tulle::gpu::null {
namespace {

using wire::opencl::SpirvInstruction;
using wire::opencl::SpirvOp;

// As SPIR-V numbers them.
constexpr std::uint32_t kKernelModel = 6;
constexpr std::uint32_t kUniformConstant = 0;
constexpr std::uint32_t kWorkgroup = 4;
constexpr std::uint32_t kCrossWorkgroup = 5;

Error Refused(std::string why) { return Error{Code::kInvalidArgument, std::move(why)}; }

bool IsIdentifier(std::string_view name) {
  const auto is_word = [](unsigned char c) { return std::isalnum(c) != 0 || c == '_'; };
  return !name.empty() && name.size() <= wire::kMaxNameBytes &&
         std::isdigit(static_cast<unsigned char>(name[0])) == 0 &&
         std::all_of(name.begin(), name.end(), is_word);
}

// What a module says of types and functions, by their ids.
class Declarations {
 public:
  void Take(const SpirvInstruction& instruction) {
    const std::uint32_t first = instruction.operand(0);
    switch (instruction.op()) {
      case SpirvOp::kTypeInt:
        numbers_[first] = IntName(instruction.operand(1), instruction.operand(2) != 0);
        break;
      case SpirvOp::kTypeFloat: numbers_[first] = instruction.operand(1) == 64 ? "double" : "float"; break;
      case SpirvOp::kTypePointer: pointers_[first] = {instruction.operand(1), instruction.operand(2)}; break;
      case SpirvOp::kTypeFunction: function_types_[first] = instruction; break;
      case SpirvOp::kFunction: functions_[instruction.operand(1)] = instruction.operand(3); break;
      default: break;
    }
  }

  // "global uint* a, uint b"
  Result<std::string> Arguments(std::uint32_t function) const {
    const auto declared = functions_.find(function);
    const auto type =
        declared == functions_.end() ? function_types_.end() : function_types_.find(declared->second);
    if (type == function_types_.end()) return Refused("a kernel has no function");
    const std::uint32_t count = type->second.operands() - 2;
    if (type->second.operands() < 2 || count > wire::kMaxKernelArgs)
      return Refused("a kernel has too many arguments");
    std::string text;
    for (std::uint32_t i = 0; i < count; ++i) {
      const std::string argument = TypeText(type->second.operand(i + 2));
      if (argument.empty()) return Refused("the null device takes no arguments but numbers and pointers");
      text += (i == 0 ? "" : ", ") + argument + " arg" + std::to_string(i);
    }
    return text;
  }

 private:
  static std::string IntName(std::uint32_t bits, bool is_signed) {
    return (is_signed ? "" : "u") + std::string(bits == 8    ? "char"
                                                : bits == 16 ? "short"
                                                : bits == 64 ? "long"
                                                             : "int");
  }
  std::string TypeText(std::uint32_t type) const {
    if (const auto number = numbers_.find(type); number != numbers_.end()) return number->second;
    const auto pointer = pointers_.find(type);
    if (pointer == pointers_.end()) return {};
    const auto [storage, target] = pointer->second;
    const std::string space = storage == kCrossWorkgroup    ? "global "
                              : storage == kWorkgroup       ? "local "
                              : storage == kUniformConstant ? "constant "
                                                            : "";
    const auto number = numbers_.find(target);
    return space.empty() ? space : space + (number == numbers_.end() ? "void" : number->second) + "*";
  }

  std::unordered_map<std::uint32_t, std::string> numbers_;  // int and float types, as OpenCL C calls them
  std::unordered_map<std::uint32_t, std::pair<std::uint32_t, std::uint32_t>> pointers_;  // storage, target
  std::unordered_map<std::uint32_t, SpirvInstruction> function_types_;
  std::unordered_map<std::uint32_t, std::uint32_t> functions_;  // their types
};

}  // namespace

Result<std::string> SourceOfIl(std::string_view module) {
  const auto constants = wire::opencl::ReadSpirvConstants(module);
  if (!constants.has_value()) return Refused("this is no SPIR-V module");
  std::string source;
  if (const auto found = constants->find(0); found != constants->end() && found->second.size_bytes == 4) {
    wire::opencl::SpirvReader reader(module, found->second.offset_bytes);
    SpirvInstruction constant;
    reader.Next(&constant);
    source += "constant uint null_constant = " + std::to_string(constant.operand(2)) + ";\n";
  }
  Declarations declarations;
  std::vector<SpirvInstruction> kernels;
  wire::opencl::SpirvReader reader(module);
  for (SpirvInstruction instruction; reader.Next(&instruction);) {
    if (instruction.op() != SpirvOp::kEntryPoint) {
      declarations.Take(instruction);
    } else if (instruction.operand(0) == kKernelModel) {
      kernels.push_back(instruction);
    }
  }
  if (kernels.size() > wire::kMaxKernelsInProgram) return Refused("too many kernels");
  for (const SpirvInstruction& kernel : kernels) {
    const std::string_view name = kernel.text(2);
    if (!IsIdentifier(name)) return Refused("a kernel has no name that OpenCL C could give it");
    auto arguments = declarations.Arguments(kernel.operand(1));
    if (!arguments.ok()) return arguments.error();
    if (source.size() + arguments->size() > wire::kMaxProgramBytes / 2) return Refused("too much text");
    source += "kernel void " + std::string(name) + "(" + *arguments + ");\n";
  }
  return source;
}

}  // namespace tulle::gpu::null
