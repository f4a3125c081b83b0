#include "tulle/gpu/softcuda/module.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "tulle/gpu/softcuda/call_graph.h"
#include "tulle/gpu/softcuda/lowering.h"

namespace tulle::gpu::softcuda {

namespace {
constexpr std::uint64_t kFunctionBytes = 16;  // apart, by which addresses of functions lie
}

Module::~Module() {
  if (functions_at_ != 0) (void)memory_.Free(functions_at_);
  for (const auto& [name, variable] : variables_) (void)memory_.Free(variable.address);
}

Result<std::unique_ptr<Module>> Module::Load(std::string_view ptx, DeviceMemory& memory) {
  TULLE_ASSIGN_OR_RETURN(const PtxModule parsed, ParsePtx(ptx));
  std::unique_ptr<Module> module(new Module(memory));
  module->ptx_version_ = parsed.version;
  for (const char c : parsed.target) {
    if (c >= '0' && c <= '9') module->target_ = module->target_ * 10 + static_cast<std::uint32_t>(c - '0');
  }
  for (const PtxVariable& variable : parsed.variables) {
    if (variable.space == Space::kShared) continue;
    if (variable.is_external) {
      return Error{.code = Code::kInvalidArgument,
                   .message = "variable " + variable.name + " is in no module that is linked with this one"};
    }
    TULLE_ASSIGN_OR_RETURN(const std::uint64_t address,
                           memory.Allocate(std::max<std::uint64_t>(variable.bytes(), 1)));
    if (!module->variables_.emplace(variable.name, Variable{address, variable.bytes()}).second) {
      (void)memory.Free(address);
      return Error{.code = Code::kInvalidArgument,
                   .message = "variable " + variable.name + " is there twice"};
    }
    if (!variable.init.empty()) {
      std::memcpy(reinterpret_cast<void*>(address), variable.init.data(), variable.init.size());
      memory.NoteWritten(address, variable.init.size());
    }
  }
  const CallGraph graph(parsed);
  // A function's address is one of the module's own, at which nothing is.
  std::map<std::string, std::uint64_t> functions;
  if (!graph.pointed().empty()) {
    TULLE_ASSIGN_OR_RETURN(module->functions_at_, memory.Allocate(kFunctionBytes * graph.pointed().size()));
    for (const PtxFunction* function : graph.pointed())
      functions.emplace(function->name, module->functions_at_ + kFunctionBytes * functions.size());
  }
  for (const PtxVariable& variable : parsed.variables) {
    for (const PtxVariable::Address& address : variable.addresses) {
      const auto to = module->variables_.find(address.name);
      const auto function = functions.find(address.name);
      if (to == module->variables_.end() && function == functions.end()) {
        return Error{.code = Code::kInvalidArgument,
                     .message = variable.name + " holds the address of " + address.name +
                                ", which is no variable and no function with a body"};
      }
      const std::uint64_t value = (to != module->variables_.end() ? to->second.address : function->second) +
                                  static_cast<std::uint64_t>(address.offset);
      const std::uint64_t at = module->variables_.at(variable.name).address + address.at;
      std::memcpy(reinterpret_cast<void*>(at), &value, sizeof value);
      memory.NoteWritten(at, sizeof value);
    }
  }
  try {
    for (const PtxFunction& function : parsed.functions) {
      if (!function.is_entry || !function.has_body) continue;
      if (!module->kernels_
               .emplace(function.name,
                        Lowering(parsed, graph, module->variables_, functions).Kernel(function))
               .second) {
        throw Problem{function.line, "kernel " + function.name + " is there twice"};
      }
    }
  } catch (const Problem& problem) {
    return Error{.code = Code::kInvalidArgument,
                 .message = "line " + std::to_string(problem.line) + ": " + problem.what};
  }
  return module;
}

const Program* Module::FindKernel(const std::string& name) const {
  const auto it = kernels_.find(name);
  return it == kernels_.end() ? nullptr : &it->second;
}

const Module::Variable* Module::FindVariable(const std::string& name) const {
  const auto it = variables_.find(name);
  return it == variables_.end() ? nullptr : &it->second;
}

}  // namespace tulle::gpu::softcuda
