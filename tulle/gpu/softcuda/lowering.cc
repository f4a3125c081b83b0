#include "tulle/gpu/softcuda/lowering.h"

#include <bit>
#include <iterator>

namespace tulle::gpu::softcuda {
namespace {

constexpr std::uint32_t kMaxRegisterBytes = 64 << 20;  // of a warp
constexpr std::uint32_t kMaxParameterBytes = 32 << 10;
constexpr std::size_t kMaxCode = 4 << 20;  // instructions

// In the order of Program::specials.
constexpr std::string_view kSpecialNames[] = {
    "%tid.x",   "%tid.y",       "%tid.z",       "%ntid.x",      "%ntid.y",      "%ntid.z",     "%ctaid.x",
    "%ctaid.y", "%ctaid.z",     "%nctaid.x",    "%nctaid.y",    "%nctaid.z",    "%laneid",     "%warpid",
    "%nwarpid", "%lanemask_eq", "%lanemask_lt", "%lanemask_le", "%lanemask_gt", "%lanemask_ge"};

std::uint64_t AlignUp(std::uint64_t at, std::uint64_t align) { return (at + align - 1) / align * align; }

}  // namespace

Program Lowering::Kernel(const PtxFunction& kernel) {
  program_.name = kernel.name;
  if (kernel.max_threads != 0) program_.max_threads = std::min(kernel.max_threads, kMaxBlockThreads);
  // The module's own shared memory is every kernel's.
  for (const PtxVariable& variable : module_.variables) {
    if (variable.space == Space::kShared) module_shared_[variable.name] = Shared(variable, kernel.line);
  }
  Function(kernel);
  for (const auto& [at, callee] : calls_) program_.code[at].target = callees_.at(callee).start;
  for (const auto& [signature, table] : pointed_tables_) {
    for (const PtxFunction* function : graph_.Pointed(signature))
      program_.pointed[table].emplace_back(functions_.at(function->name), callees_.at(function->name).start);
    std::sort(program_.pointed[table].begin(), program_.pointed[table].end());
  }
  program_.dynamic_shared_at = static_cast<std::uint32_t>(AlignUp(program_.shared_bytes, 16));
  for (const std::size_t constant : dynamic_) {
    program_.constants[constant].bits += program_.dynamic_shared_at;
  }
  program_.stack_at = program_.local_bytes;
  if (has_stack_) program_.local_bytes += kStackBytes;
  std::uint32_t straight = 0;
  for (auto inst = program_.code.rbegin(); inst != program_.code.rend(); ++inst) {
    straight = inst->flow == Flow::kNext && inst->guard == ~0u ? straight + 1 : 0;
    inst->straight = straight;
  }
  if (program_.register_bytes > kMaxRegisterBytes) throw Problem{kernel.line, "too many registers"};
  return std::move(program_);
}

std::uint32_t Lowering::Allocate(Width width) {
  const std::uint32_t bytes = width == Width::k64 ? 256 : width == Width::k32 ? 128 : 64;
  const std::uint32_t at = program_.register_bytes;
  program_.register_bytes += bytes;
  if (program_.register_bytes > kMaxRegisterBytes) Fail("too many registers");
  registers_.push_back({at, width == Width::kPredicate ? 0 : bytes / kLanes});
  return at;
}

std::uint32_t Lowering::AllocateConstant(Width width) {
  const std::uint32_t at = Allocate(width);
  registers_.pop_back();
  return at;
}

Lowering::Callee::Place Lowering::Local(const PtxVariable& variable) {
  const std::uint64_t at = AlignUp(program_.local_bytes, std::max(variable.align, 1u));
  if (at + variable.bytes() > kMaxLocalBytes)
    Fail("a thread's own memory is more than " + FormatSize(kMaxLocalBytes));
  // Each lane's memory begins as aligned as any variable is.
  program_.local_bytes = static_cast<std::uint32_t>(AlignUp(at + variable.bytes(), 16));
  return {static_cast<std::uint32_t>(at), static_cast<std::uint32_t>(variable.bytes())};
}

std::uint64_t Lowering::Shared(const PtxVariable& variable, int line) {
  if (variable.is_external || variable.count == 0) return kDynamic;
  const std::uint64_t at = AlignUp(program_.shared_bytes, std::max(variable.align, 1u));
  if (at + variable.bytes() > kMaxSharedBytes)
    throw Problem{line, "a block's shared memory is more than " + FormatSize(kMaxSharedBytes)};
  program_.shared_bytes = static_cast<std::uint32_t>(at + variable.bytes());
  return at;
}

std::uint32_t Lowering::Constant(std::uint64_t bits, bool wide) {
  const auto [it, is_new] = constants_.emplace(std::pair(bits, wide), 0);
  if (is_new) {
    it->second = AllocateConstant(wide ? Width::k64 : Width::k32);
    program_.constants.push_back({it->second, bits, wide});
  }
  return it->second;
}

void Lowering::Function(const PtxFunction& function) {
  const int line = std::exchange(line_, function.line);
  Callee& callee = Declare(function);
  if (std::exchange(callee.is_lowered, true)) {
    line_ = line;
    return;
  }
  FunctionsCalledBy(function);
  line_ = function.line;
  function_ = &function;
  scopes_ = {Scope()};
  labels_.clear();
  branches_.clear();
  tables_.clear();
  table_uses_.clear();
  written_.clear();
  prototypes_.clear();
  frame_.reset();
  for (const PtxStatement& statement : function.body) {
    const auto* instruction = std::get_if<PtxInstruction>(&statement.what);
    if (instruction == nullptr || instruction->operands.empty()) continue;
    const PtxOperand& result = instruction->operands[0];
    if (result.kind == PtxOperand::Kind::kMemory) continue;  // of a store: it is read
    ++written_[result.name];
    for (const PtxOperand& item : result.items) ++written_[item.name];
  }
  ForgetRuns();
  last_label_at_ = 0;

  const auto named = [&](const std::vector<PtxVariable>& variables,
                         const std::vector<Callee::Place>& places) {
    for (std::size_t i = 0; i < variables.size(); ++i) {
      if (variables[i].space != Space::kParam) Fail("parameters in registers are not supported");
      scopes_.back().parameters[variables[i].name] = places[i];
    }
  };
  if (function.is_entry) {
    for (const PtxVariable& parameter : function.parameters) KernelParameter(parameter);
    program_.start = static_cast<std::uint32_t>(program_.code.size());
  } else {
    named(function.parameters, callee.parameters);
    named(function.returns, callee.returns);
  }
  const std::size_t first_register = registers_.size();
  const std::uint32_t local_at = program_.local_bytes;
  callee.start = static_cast<std::uint32_t>(program_.code.size());
  return_to_ = callee.return_to;
  frame_at_ = frame_bytes_ = 0;
  if (graph_.IsCyclic(function)) {
    frame_at_ = Allocate(Width::k64);
    Emit({.dst = frame_at_, .flow = Flow::kEnter});
  }
  for (const PtxStatement& statement : function.body) {
    line_ = statement.line;
    std::visit([this](const auto& what) { Lower(what); }, statement.what);
    if (program_.code.size() > kMaxCode) Fail("too many instructions");
  }
  guard_.reset();  // the last instruction's own
  Return();
  if (frame_at_ != 0) {
    program_.code[callee.start].b = static_cast<std::uint32_t>(AlignUp(frame_bytes_, 16));
    has_stack_ |= frame_bytes_ != 0;
  }
  for (const auto& [at, label] : branches_) {
    const auto it = labels_.find(label.first);
    if (it == labels_.end()) throw Problem{label.second, "there is no label " + label.first};
    program_.code[at].target = it->second;
  }
  for (const auto& [name, table] : tables_) {
    for (std::size_t i = 0; i < table.labels.size(); ++i) {
      const auto it = labels_.find(table.labels[i]);
      if (it == labels_.end()) Fail("there is no label " + table.labels[i]);
      program_.tables[table.number].push_back(it->second);
    }
  }
  for (const auto& [at, name] : table_uses_) {
    if (!tables_.contains(name))
      throw Problem{static_cast<int>(program_.code[at].line), "there is no table " + name};
  }
  if (frame_) EndFrame(callee, first_register, local_at);
  line_ = line;
}

void Lowering::KernelParameter(const PtxVariable& parameter) {
  if (parameter.space != Space::kParam) Fail("parameters in registers are not supported");
  const std::uint64_t at = AlignUp(program_.parameter_bytes, std::max(parameter.align, 1u));
  if (at + parameter.bytes() > kMaxParameterBytes)
    Fail("the parameters are more than " + FormatSize(kMaxParameterBytes));
  const Callee::Place place{static_cast<std::uint32_t>(at), static_cast<std::uint32_t>(parameter.bytes())};
  program_.parameter_bytes = place.at + place.bytes;
  program_.parameters.push_back({place.at, place.bytes});
  scopes_.back().kernel_parameters[parameter.name] = place;
}

void Lowering::Lower(const PtxScope& scope) {
  if (scope.opens) {
    scopes_.emplace_back();
  } else {
    scopes_.pop_back();
  }
}

void Lowering::Lower(const PtxLabel& label) {
  // "@p bra HERE; bra THERE; HERE:" is a branch to THERE unless p.
  std::vector<Inst>& code = program_.code;
  const std::size_t end = code.size();
  if (branches_.size() >= 2 && branches_.back().first == end - 1 && branches_.end()[-2].first == end - 2 &&
      branches_.end()[-2].second.first == label.name && code[end - 1].guard == ~0u &&
      code[end - 2].guard != ~0u && last_label_at_ + 1 < end) {
    branches_.end()[-2].second = branches_.back().second;
    branches_.pop_back();
    code.pop_back();
    code.back().guard_negated = !code.back().guard_negated;
  }
  ForgetRuns();
  last_label_at_ = code.size();
  if (!labels_.emplace(label.name, static_cast<std::uint32_t>(program_.code.size())).second)
    Fail("label " + label.name + " is there twice");
}

void Lowering::Lower(const PtxTargets& targets) {
  program_.tables.emplace_back();
  tables_[targets.name] = {static_cast<std::uint32_t>(program_.tables.size() - 1), targets.labels};
  for (auto& [at, name] : table_uses_) {
    if (name == targets.name) program_.code[at].target = tables_[targets.name].number;
  }
}

void Lowering::Lower(const PtxVariable& variable) {
  Scope& scope = scopes_.back();
  switch (variable.space) {
    case Space::kRegister: {
      const Width width = WidthOf(variable.type);
      const std::uint32_t count = std::max(variable.range, 1u);
      for (std::uint32_t i = 0; i < count; ++i) {
        const std::string name = variable.range == 0 ? variable.name : variable.name + std::to_string(i);
        scope.registers[name] = {0, width};  // has its place once it is used
      }
      return;
    }
    case Space::kLocal: {
      if (!graph_.IsCyclic(*function_)) {
        scope.locals[variable.name] = Local(variable);
        return;
      }
      const std::uint64_t at = AlignUp(frame_bytes_, std::max(variable.align, 16u));
      if (at + variable.bytes() > kStackBytes)
        Fail("the variables of " + function_->name + " are more than " + FormatSize(kStackBytes));
      frame_bytes_ = static_cast<std::uint32_t>(at + variable.bytes());
      scope.locals[variable.name] = {static_cast<std::uint32_t>(at),
                                     static_cast<std::uint32_t>(variable.bytes()), true};
      return;
    }
    case Space::kParam: scope.parameters[variable.name] = Local(variable); return;
    case Space::kShared: scope.shared[variable.name] = Shared(variable, line_); return;
    default:
      Fail("." + std::string(variable.space == Space::kConst ? "const" : "global") +
           " within a function is not supported");
  }
}

Lowering::Register* Lowering::Declared(const std::string& name) {
  for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
    if (const auto it = scope->registers.find(name); it != scope->registers.end()) return &it->second;
  }
  return nullptr;
}

Lowering::Register* Lowering::FindRegister(const std::string& name) {
  Register* const found = Declared(name);
  if (found != nullptr && found->at == 0) found->at = Allocate(found->width);
  return found;
}

std::optional<Lowering::Named> Lowering::FindNamed(const std::string& name) {
  for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
    if (const auto it = scope->locals.find(name); it != scope->locals.end())
      return Named{.at = it->second.at, .space = Space::kLocal, .in_frame = it->second.in_frame};
    if (const auto it = scope->parameters.find(name); it != scope->parameters.end())
      return Named{.at = kLocalWindow + it->second.at, .is_parameter = true};
    if (const auto it = scope->shared.find(name); it != scope->shared.end())
      return Named{it->second, Space::kShared};
  }
  if (const auto it = module_shared_.find(name); it != module_shared_.end())
    return Named{it->second, Space::kShared};
  if (const auto it = variables_.find(name); it != variables_.end())
    return Named{it->second.address, Space::kGeneric};
  if (const auto it = functions_.find(name); it != functions_.end())
    return Named{it->second, Space::kGeneric};
  return std::nullopt;
}

const Lowering::Callee::Place* Lowering::FindKernelParameter(const std::string& name) const {
  for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
    if (const auto it = scope->kernel_parameters.find(name); it != scope->kernel_parameters.end())
      return &it->second;
  }
  return nullptr;
}

std::uint32_t Lowering::AddressOf(const Named& named, std::uint64_t offset, bool wide) {
  if (named.in_frame) {
    const std::uint32_t address = Allocate(Width::k64);
    EmitHandled({Op::kAdd, Type::kU64},
                {.dst = address, .a = frame_at_, .b = Constant(named.at + offset, true)});
    if (wide) return address;
    const std::uint32_t narrow = Allocate(Width::k32);
    EmitHandled({Op::kCvt, Type::kU32, Type::kU64}, {.dst = narrow, .a = address});
    return narrow;
  }
  if (named.at != kDynamic) return Constant(named.at + offset, wide);
  // Behind all static shared memory, which is not known yet.
  const std::uint32_t at = AllocateConstant(wide ? Width::k64 : Width::k32);
  dynamic_.push_back(program_.constants.size());
  program_.constants.push_back({at, offset, wide});
  return at;
}

std::optional<std::uint32_t> Lowering::FindSpecial(const std::string& name) {
  for (std::size_t i = 0; i < std::size(kSpecialNames); ++i) {
    if (kSpecialNames[i] != name) continue;
    if (program_.specials[i] == 0) program_.specials[i] = AllocateConstant(Width::k32);
    return program_.specials[i];
  }
  if (name == "WARP_SZ") return Constant(kLanes, false);
  return std::nullopt;
}

std::uint32_t Lowering::Source(const PtxOperand& operand, Type type, bool any_width, Width* width) {
  const bool wide = SizeOf(type) == 8;
  if (width != nullptr) *width = WidthOf(type);
  if (operand.kind == PtxOperand::Kind::kNumber) {
    // A predicate is a bit for each lane, at the beginning of its register.
    if (type == Type::kPred) return Constant(operand.bits != 0 ? kAllLanes : 0, false);
    return Constant(BitsOf(operand, type), wide);
  }
  if (operand.kind != PtxOperand::Kind::kName) Fail("an operand is not of the right kind");
  if (const Register* found = FindRegister(operand.name)) {
    if (operand.negated && type != Type::kPred) Fail("! is for predicates");
    const bool fits =
        found->width == WidthOf(type) || (any_width && found->width == Width::k64 && type != Type::kPred);
    if (!fits) Fail("register " + operand.name + " is not as wide as the instruction takes");
    if (width != nullptr) *width = found->width;
    return found->at;
  }
  if (const auto special = FindSpecial(operand.name)) {
    if (SizeOf(type) != 4) Fail(operand.name + " has 32 bits");
    return *special;
  }
  if (const auto named = FindNamed(operand.name)) {
    if (!wide && (SizeOf(type) != 4 || WindowOf(named->space) == 0))
      Fail("the address of " + operand.name + " has 64 bits");
    if (named->is_parameter && graph_.IsCyclic(*function_))
      Fail("the address of a parameter within " + function_->name +
           ", which may call itself, is not supported");
    return AddressOf(*named, static_cast<std::uint64_t>(operand.offset), wide);
  }
  Fail("there is no " + operand.name);
}

std::uint64_t Lowering::BitsOf(const PtxOperand& number, Type type) {
  if (IsFloat(type)) {
    if (!number.is_float) Fail("a float is missing");
    if (number.float_bytes == SizeOf(type)) return number.bits;
    if (type == Type::kF32) {
      const float narrow = static_cast<float>(std::bit_cast<double>(number.bits));
      return std::bit_cast<std::uint32_t>(narrow);
    }
    return std::bit_cast<std::uint64_t>(
        static_cast<double>(std::bit_cast<float>(static_cast<std::uint32_t>(number.bits))));
  }
  // mov.b32 of a float's bits, too.
  const std::uint32_t size = SizeOf(type);
  return size == 8 ? number.bits : number.bits & ((std::uint64_t{1} << (8 * size)) - 1);
}

std::uint32_t Lowering::Destination(const PtxOperand& operand, Type type, bool any_width, Width* width) {
  if (operand.kind != PtxOperand::Kind::kName) Fail("a result is not a register");
  if (operand.name == "_") {
    if (width != nullptr) *width = WidthOf(type);
    return Allocate(WidthOf(type));
  }
  const Register* found = FindRegister(operand.name);
  if (found == nullptr) Fail("there is no register " + operand.name);
  const bool fits =
      found->width == WidthOf(type) || (any_width && found->width == Width::k64 && type != Type::kPred);
  if (!fits) Fail("register " + operand.name + " is not as wide as the result");
  if (width != nullptr) *width = found->width;
  return found->at;
}

Inst& Lowering::Emit(Inst inst) {
  inst.line = static_cast<std::uint32_t>(line_);
  if (guard_) {
    inst.guard = *guard_;
    inst.guard_negated = guard_negated_;
  }
  if (inst.flow != Flow::kNext) ForgetRuns();
  for (KnownRun& run : known_runs_) {
    const auto& items = inst.items;
    if (run.at == inst.dst || run.at == inst.dst2 ||
        std::find(items.begin(), items.end(), run.at) != items.end())
      run = {};
  }
  program_.code.push_back(inst);
  return program_.code.back();
}

void Lowering::EmitHandled(const Spec& spec, Inst inst) {
  inst.run = FindHandler(spec);
  inst.type = spec.type;
  if (inst.run == nullptr) Fail("this device has no " + shown_);
  if (inst.floats != FloatControl::kNone) {
    inst.inner = inst.run;
    inst.run = &WithFloatControl;
  }
  Emit(inst);
}

const Lowering::Callee::Place* Lowering::FindParameter(const std::string& name) const {
  for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
    if (const auto it = scope->parameters.find(name); it != scope->parameters.end()) return &it->second;
  }
  return nullptr;
}

}  // namespace tulle::gpu::softcuda
