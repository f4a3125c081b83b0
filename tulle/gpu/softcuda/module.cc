#include "tulle/gpu/softcuda/module.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>
#include <set>
#include <utility>
#include <vector>

namespace tulle::gpu::softcuda {
namespace {

constexpr std::uint32_t kMaxLocalBytes = 512 << 10;    // of a thread, as CUDA has it
constexpr std::uint32_t kMaxRegisterBytes = 64 << 20;  // of a warp
constexpr std::uint32_t kMaxParameterBytes = 32 << 10;
constexpr std::size_t kMaxCode = 4 << 20;  // instructions

// What is thrown never leaves this file.
struct Problem {
  int line;
  std::string what;
};

// In the order of Program::specials.
constexpr std::string_view kSpecialNames[] = {
    "%tid.x",   "%tid.y",       "%tid.z",       "%ntid.x",      "%ntid.y",      "%ntid.z",     "%ctaid.x",
    "%ctaid.y", "%ctaid.z",     "%nctaid.x",    "%nctaid.y",    "%nctaid.z",    "%laneid",     "%warpid",
    "%nwarpid", "%lanemask_eq", "%lanemask_lt", "%lanemask_le", "%lanemask_gt", "%lanemask_ge"};

struct Simple {
  std::string_view name;
  Op op;
  std::size_t sources;
  std::string_view modifiers;  // that change nothing here, or are looked at elsewhere
};
constexpr Simple kSimple[] = {{"mov", Op::kMov, 1, ""},
                              {"add", Op::kAdd, 2, "rn sat"},
                              {"sub", Op::kSub, 2, "rn sat"},
                              {"mul", Op::kMul, 2, "lo hi wide rn sat"},
                              {"mad", Op::kMad, 3, "lo hi wide rn"},
                              {"fma", Op::kFma, 3, "rn sat"},
                              {"div", Op::kDiv, 2, "rn approx full"},
                              {"rem", Op::kRem, 2, ""},
                              {"min", Op::kMin, 2, ""},
                              {"max", Op::kMax, 2, ""},
                              {"neg", Op::kNeg, 1, ""},
                              {"abs", Op::kAbs, 1, ""},
                              {"and", Op::kAnd, 2, ""},
                              {"or", Op::kOr, 2, ""},
                              {"xor", Op::kXor, 2, ""},
                              {"not", Op::kNot, 1, ""},
                              {"cnot", Op::kCnot, 1, ""},
                              {"shl", Op::kShl, 2, ""},
                              {"shr", Op::kShr, 2, ""},
                              {"popc", Op::kPopc, 1, ""},
                              {"clz", Op::kClz, 1, ""},
                              {"brev", Op::kBrev, 1, ""},
                              {"bfind", Op::kBfind, 1, "shiftamt"},
                              {"bfe", Op::kBfe, 3, ""},
                              {"bfi", Op::kBfi, 4, ""},
                              {"prmt", Op::kPrmt, 3, ""},
                              {"rcp", Op::kRcp, 1, "rn approx"},
                              {"sqrt", Op::kSqrt, 1, "rn approx"},
                              {"rsqrt", Op::kRsqrt, 1, "approx"},
                              {"sin", Op::kSin, 1, "approx"},
                              {"cos", Op::kCos, 1, "approx"},
                              {"ex2", Op::kEx2, 1, "approx"},
                              {"lg2", Op::kLg2, 1, "approx"},
                              {"tanh", Op::kTanh, 1, "approx"},
                              {"copysign", Op::kCopysign, 2, ""},
                              {"sad", Op::kSad, 3, ""}};

constexpr std::string_view kMemoryModifiers =
    "weak volatile relaxed acquire release acq_rel gpu cta sys nc ca cg cs lu cv wb wt v2 v4";
constexpr std::pair<std::string_view, Space> kSpaces[] = {{"global", Space::kGlobal},
                                                          {"shared", Space::kShared},
                                                          {"local", Space::kLocal},
                                                          {"const", Space::kConst},
                                                          {"param", Space::kParam}};
constexpr std::pair<std::string_view, Compare> kCompares[] = {
    {"eq", Compare::kEq},   {"ne", Compare::kNe},   {"lt", Compare::kLt},   {"le", Compare::kLe},
    {"gt", Compare::kGt},   {"ge", Compare::kGe},   {"lo", Compare::kLt},   {"ls", Compare::kLe},
    {"hi", Compare::kGt},   {"hs", Compare::kGe},   {"equ", Compare::kEqu}, {"neu", Compare::kNeu},
    {"ltu", Compare::kLtu}, {"leu", Compare::kLeu}, {"gtu", Compare::kGtu}, {"geu", Compare::kGeu},
    {"num", Compare::kNum}, {"nan", Compare::kNan}};
constexpr std::pair<std::string_view, Join> kJoins[] = {
    {"and", Join::kAnd}, {"or", Join::kOr}, {"xor", Join::kXor}};
constexpr std::pair<std::string_view, AtomOp> kAtoms[] = {
    {"add", AtomOp::kAdd}, {"min", AtomOp::kMin}, {"max", AtomOp::kMax},   {"and", AtomOp::kAnd},
    {"or", AtomOp::kOr},   {"xor", AtomOp::kXor}, {"exch", AtomOp::kExch}, {"cas", AtomOp::kCas},
    {"inc", AtomOp::kInc}, {"dec", AtomOp::kDec}};
constexpr std::pair<std::string_view, Shuffle> kShuffles[] = {
    {"up", Shuffle::kUp}, {"down", Shuffle::kDown}, {"bfly", Shuffle::kBfly}, {"idx", Shuffle::kIdx}};
constexpr std::pair<std::string_view, Vote> kVotes[] = {
    {"all", Vote::kAll}, {"any", Vote::kAny}, {"uni", Vote::kUni}, {"ballot", Vote::kBallot}};
constexpr std::pair<std::string_view, Rounding> kRoundings[] = {
    {"rn", Rounding::kNearest},  {"rz", Rounding::kZero},        {"rm", Rounding::kDown},
    {"rp", Rounding::kUp},       {"rni", Rounding::kNearestInt}, {"rzi", Rounding::kZeroInt},
    {"rmi", Rounding::kDownInt}, {"rpi", Rounding::kUpInt}};

constexpr std::pair<std::string_view, System> kSystemCalls[] = {{"vprintf", System::kPrint},
                                                                {"__assertfail", System::kAssertFail}};

template <typename T, std::size_t N>
std::optional<T> Among(const std::pair<std::string_view, T> (&names)[N], std::string_view word) {
  for (const auto& [name, value] : names) {
    if (name == word) return value;
  }
  return std::nullopt;
}

bool IsFloat(Type type) { return type == Type::kF32 || type == Type::kF64 || type == Type::kF16; }
bool IsInList(std::string_view list, std::string_view word) {
  for (std::size_t at = 0; at < list.size();) {
    const std::size_t end = std::min(list.find(' ', at), list.size());
    if (list.substr(at, end - at) == word) return true;
    at = end + 1;
  }
  return false;
}

std::uint64_t AlignUp(std::uint64_t at, std::uint64_t align) { return (at + align - 1) / align * align; }

using Variables = std::map<std::string, Module::Variable>;

// Makes one kernel's program.
class Lowering {
 public:
  Lowering(const PtxModule& module, const std::map<std::string, const PtxFunction*>& functions,
           const Variables& variables)
      : module_(module), functions_(functions), variables_(variables) {}

  Program Kernel(const PtxFunction& kernel) {
    program_.name = kernel.name;
    if (kernel.max_threads != 0) program_.max_threads = std::min(kernel.max_threads, kMaxBlockThreads);
    // The module's own shared memory is every kernel's.
    for (const PtxVariable& variable : module_.variables) {
      if (variable.space == Space::kShared) module_shared_[variable.name] = Shared(variable, kernel.line);
    }
    Function(kernel);
    for (const auto& [at, callee] : calls_) program_.code[at].target = done_.at(callee).start;
    program_.dynamic_shared_at = static_cast<std::uint32_t>(AlignUp(program_.shared_bytes, 16));
    for (const std::size_t constant : dynamic_) {
      program_.constants[constant].bits += kSharedWindow + program_.dynamic_shared_at;
    }
    if (program_.register_bytes > kMaxRegisterBytes) throw Problem{kernel.line, "too many registers"};
    return std::move(program_);
  }

 private:
  enum class Width : std::uint8_t { kPredicate, k32, k64 };
  struct Register {
    std::uint32_t at = 0;
    Width width = Width::k32;
  };
  struct Callee {
    std::uint32_t start = 0;
    std::uint32_t return_to = 0;  // a register: an instruction for each lane
    struct Place {
      std::uint32_t at = 0, bytes = 0;  // in the thread's own memory
    };
    std::vector<Place> parameters, returns;
  };
  // What names mean, in the scope in hand.
  struct Scope {
    std::map<std::string, Register> registers;
    std::map<std::string, Callee::Place> locals;             // .local, and .param of calls and of functions
    std::map<std::string, Callee::Place> kernel_parameters;  // of a kernel
    std::map<std::string, std::uint64_t> shared;             // generic addresses
  };

  [[noreturn]] void Fail(const std::string& what) const { throw Problem{line_, what}; }

  // ---- room

  std::uint32_t Allocate(Width width) {
    const std::uint32_t bytes = width == Width::k64 ? 256 : width == Width::k32 ? 128 : 64;
    const std::uint32_t at = program_.register_bytes;
    program_.register_bytes += bytes;
    if (program_.register_bytes > kMaxRegisterBytes) Fail("too many registers");
    return at;
  }
  static Width WidthOf(Type type) {
    return type == Type::kPred ? Width::kPredicate : SizeOf(type) == 8 ? Width::k64 : Width::k32;
  }
  Callee::Place Local(const PtxVariable& variable) {
    const std::uint64_t at = AlignUp(program_.local_bytes, std::max(variable.align, 1u));
    if (at + variable.bytes() > kMaxLocalBytes)
      Fail("a thread's own memory is more than " + FormatSize(kMaxLocalBytes));
    // Each lane's memory begins as aligned as any variable is.
    program_.local_bytes = static_cast<std::uint32_t>(AlignUp(at + variable.bytes(), 16));
    return {static_cast<std::uint32_t>(at), static_cast<std::uint32_t>(variable.bytes())};
  }
  std::uint64_t Shared(const PtxVariable& variable, int line) {
    if (variable.is_external || variable.count == 0) return kDynamic;
    const std::uint64_t at = AlignUp(program_.shared_bytes, std::max(variable.align, 1u));
    if (at + variable.bytes() > kMaxSharedBytes)
      throw Problem{line, "a block's shared memory is more than " + FormatSize(kMaxSharedBytes)};
    program_.shared_bytes = static_cast<std::uint32_t>(at + variable.bytes());
    return kSharedWindow + at;
  }

  std::uint32_t Constant(std::uint64_t bits, bool wide) {
    const auto [it, is_new] = constants_.emplace(std::pair(bits, wide), 0);
    if (is_new) {
      it->second = Allocate(wide ? Width::k64 : Width::k32);
      program_.constants.push_back({it->second, bits, wide});
    }
    return it->second;
  }

  // ---- functions

  const Callee& Function(const PtxFunction& function) {
    if (const auto it = done_.find(function.name); it != done_.end()) return it->second;
    if (!open_.insert(function.name).second)
      Fail(function.name + " calls itself, which this device cannot do");
    const int line = std::exchange(line_, function.line);
    auto scopes = std::exchange(scopes_, {Scope()});
    auto labels = std::exchange(labels_, {});
    auto branches = std::exchange(branches_, {});
    auto tables = std::exchange(tables_, {});
    const bool was_kernel = std::exchange(in_kernel_, function.is_entry);

    // What it calls comes first, as its code is in one piece.
    for (const PtxStatement& statement : function.body) {
      const auto* instruction = std::get_if<PtxInstruction>(&statement.what);
      if (instruction == nullptr || instruction->words[0] != "call") continue;
      line_ = statement.line;
      for (const PtxOperand& operand : instruction->operands) {
        if (operand.kind != PtxOperand::Kind::kName) continue;
        if (Among(kSystemCalls, operand.name)) break;
        const auto it = functions_.find(operand.name);
        if (it == functions_.end() || !it->second->has_body) {
          Fail("calls " + operand.name + ", which " +
               (it == functions_.end() ? "is no function" : "has no body here"));
        }
        Function(*it->second);
        break;
      }
    }
    line_ = function.line;

    Callee callee;
    for (const PtxVariable& parameter : function.parameters)
      Parameter(function, parameter, &callee.parameters);
    for (const PtxVariable& result : function.returns) Parameter(function, result, &callee.returns);
    if (!function.is_entry) callee.return_to = Allocate(Width::k32);
    callee.start = static_cast<std::uint32_t>(program_.code.size());
    const std::uint32_t return_to = callee.return_to;
    return_to_ = return_to;
    for (const PtxStatement& statement : function.body) {
      line_ = statement.line;
      std::visit([this](const auto& what) { Lower(what); }, statement.what);
      if (program_.code.size() > kMaxCode) Fail("too many instructions");
    }
    guard_.reset();  // the last instruction's own
    Emit({.dst = return_to, .flow = function.is_entry ? Flow::kExit : Flow::kReturn});
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
    table_uses_.clear();
    scopes_ = std::move(scopes);
    labels_ = std::move(labels);
    branches_ = std::move(branches);
    tables_ = std::move(tables);
    in_kernel_ = was_kernel;
    line_ = line;
    open_.erase(function.name);
    if (function.is_entry) program_.start = callee.start;
    return done_.emplace(function.name, std::move(callee)).first->second;
  }

  void Parameter(const PtxFunction& function, const PtxVariable& parameter,
                 std::vector<Callee::Place>* places) {
    if (parameter.space != Space::kParam) Fail("parameters in registers are not supported");
    if (function.is_entry) {
      const std::uint64_t at = AlignUp(program_.parameter_bytes, std::max(parameter.align, 1u));
      if (at + parameter.bytes() > kMaxParameterBytes)
        Fail("the parameters are more than " + FormatSize(kMaxParameterBytes));
      const Callee::Place place{static_cast<std::uint32_t>(at),
                                static_cast<std::uint32_t>(parameter.bytes())};
      program_.parameter_bytes = place.at + place.bytes;
      program_.parameters.push_back({place.at, place.bytes});
      scopes_.back().kernel_parameters[parameter.name] = place;
      return;
    }
    const Callee::Place place = Local(parameter);
    scopes_.back().locals[parameter.name] = place;
    places->push_back(place);
  }

  // ---- statements

  void Lower(const PtxScope& scope) {
    if (scope.opens) {
      scopes_.emplace_back();
    } else {
      scopes_.pop_back();
    }
  }
  void Lower(const PtxLabel& label) {
    if (!labels_.emplace(label.name, static_cast<std::uint32_t>(program_.code.size())).second)
      Fail("label " + label.name + " is there twice");
  }
  void Lower(const PtxTargets& targets) {
    program_.tables.emplace_back();
    tables_[targets.name] = {static_cast<std::uint32_t>(program_.tables.size() - 1), targets.labels};
    for (auto& [at, name] : table_uses_) {
      if (name == targets.name) program_.code[at].target = tables_[targets.name].number;
    }
  }
  void Lower(const PtxVariable& variable) {
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
      case Space::kLocal:
      case Space::kParam: scope.locals[variable.name] = Local(variable); return;
      case Space::kShared: scope.shared[variable.name] = Shared(variable, line_); return;
      default:
        Fail("." + std::string(variable.space == Space::kConst ? "const" : "global") +
             " within a function is not supported");
    }
  }

  // ---- operands

  Register* FindRegister(const std::string& name) {
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
      const auto it = scope->registers.find(name);
      if (it == scope->registers.end()) continue;
      if (it->second.at == 0) it->second.at = Allocate(it->second.width);
      return &it->second;
    }
    return nullptr;
  }
  // Its generic address, or the number of the constant that will be it.
  std::optional<std::uint64_t> FindAddress(const std::string& name) {
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
      if (const auto it = scope->locals.find(name); it != scope->locals.end())
        return kLocalWindow + it->second.at;
      if (const auto it = scope->shared.find(name); it != scope->shared.end()) return it->second;
    }
    if (const auto it = module_shared_.find(name); it != module_shared_.end()) return it->second;
    if (const auto it = variables_.find(name); it != variables_.end()) return it->second.address;
    return std::nullopt;
  }
  const Callee::Place* FindKernelParameter(const std::string& name) const {
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
      if (const auto it = scope->kernel_parameters.find(name); it != scope->kernel_parameters.end())
        return &it->second;
    }
    return nullptr;
  }
  std::uint32_t AddressConstant(std::uint64_t address, std::int64_t offset) {
    if (address != kDynamic) return Constant(address + static_cast<std::uint64_t>(offset), true);
    // Behind all static shared memory, which is not known yet.
    const std::uint32_t at = Allocate(Width::k64);
    dynamic_.push_back(program_.constants.size());
    program_.constants.push_back({at, static_cast<std::uint64_t>(offset), true});
    return at;
  }
  std::optional<std::uint32_t> FindSpecial(const std::string& name) {
    for (std::size_t i = 0; i < std::size(kSpecialNames); ++i) {
      if (kSpecialNames[i] != name) continue;
      if (program_.specials[i] == 0) program_.specials[i] = Allocate(Width::k32);
      return program_.specials[i];
    }
    if (name == "WARP_SZ") return Constant(kLanes, false);
    return std::nullopt;
  }

  std::uint32_t Source(const PtxOperand& operand, Type type, bool any_width = false, Width* width = nullptr) {
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
    if (const auto address = FindAddress(operand.name)) {
      if (!wide) Fail("the address of " + operand.name + " has 64 bits");
      return AddressConstant(*address, operand.offset);
    }
    Fail("there is no " + operand.name);
  }
  std::uint64_t BitsOf(const PtxOperand& number, Type type) {
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
  std::uint32_t Destination(const PtxOperand& operand, Type type, bool any_width = false,
                            Width* width = nullptr) {
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

  // ---- instructions

  Inst& Emit(Inst inst) {
    inst.line = static_cast<std::uint32_t>(line_);
    if (guard_) {
      inst.guard = *guard_;
      inst.guard_negated = guard_negated_;
    }
    program_.code.push_back(inst);
    return program_.code.back();
  }
  void EmitHandled(const Spec& spec, Inst inst) {
    inst.run = FindHandler(spec);
    inst.type = spec.type;
    if (inst.run == nullptr) Fail("this device has no " + shown_);
    Emit(inst);
  }

  struct Modifiers {
    std::vector<Type> types;
    std::vector<std::string_view> words;  // the others
    bool Has(std::string_view word) const {
      return std::find(words.begin(), words.end(), word) != words.end();
    }
  };
  Modifiers ModifiersOf(const PtxInstruction& instruction) {
    Modifiers modifiers;
    for (std::size_t i = 1; i < instruction.words.size(); ++i) {
      const std::string& word = instruction.words[i];
      if (const Type type = TypeNamed(word); type != Type::kNone) {
        modifiers.types.push_back(type);
      } else {
        modifiers.words.push_back(word);
      }
    }
    return modifiers;
  }
  void Allow(const Modifiers& modifiers, std::string_view allowed) {
    for (const std::string_view word : modifiers.words) {
      if (!IsInList(allowed, word)) Fail("this device has no " + shown_ + ": ." + std::string(word));
    }
  }
  void Count(const PtxInstruction& instruction, std::size_t least, std::size_t most) {
    const std::size_t count = instruction.operands.size();
    if (count < least || count > most) Fail(shown_ + " has " + std::to_string(count) + " operands");
  }
  Type OneType(const Modifiers& modifiers) {
    if (modifiers.types.size() != 1) Fail(shown_ + " needs one type");
    return modifiers.types[0];
  }

  void Lower(const PtxInstruction& instruction) {
    shown_ = instruction.words[0];
    for (std::size_t i = 1; i < instruction.words.size(); ++i) shown_ += "." + instruction.words[i];
    guard_.reset();
    if (!instruction.guard.empty()) {
      guard_negated_ = instruction.guard_negated;
      guard_ = Source({.name = instruction.guard}, Type::kPred);
    }
    const Modifiers modifiers = ModifiersOf(instruction);
    const std::string& name = instruction.words[0];
    const auto simple =
        std::find_if(std::begin(kSimple), std::end(kSimple), [&](const Simple& s) { return s.name == name; });
    if (simple != std::end(kSimple)) {
      LowerSimple(*simple, instruction, modifiers);
    } else if (name == "ld" || name == "ldu") {
      LowerLoad(instruction, modifiers);
    } else if (name == "st") {
      LowerStore(instruction, modifiers);
    } else if (name == "setp" || name == "set") {
      LowerCompare(instruction, modifiers, name == "setp");
    } else if (name == "selp") {
      Count(instruction, 4, 4);
      Allow(modifiers, "");
      const Type type = OneType(modifiers);
      EmitHandled({Op::kSelp, type}, {.dst = Destination(instruction.operands[0], type),
                                      .a = Source(instruction.operands[1], type),
                                      .b = Source(instruction.operands[2], type),
                                      .c = Source(instruction.operands[3], Type::kPred),
                                      .negated = instruction.operands[3].negated});
    } else if (name == "cvt") {
      LowerCvt(instruction, modifiers);
    } else if (name == "cvta") {
      Count(instruction, 2, 2);
      Allow(modifiers, "to global shared local const param");
      const Type type = OneType(modifiers);
      // All addresses are generic ones.
      EmitHandled({Op::kMov, type}, {.dst = Destination(instruction.operands[0], type),
                                     .a = Source(instruction.operands[1], type)});
    } else if (name == "atom" || name == "red") {
      LowerAtom(instruction, modifiers, name == "atom");
    } else if (name == "shfl") {
      LowerShuffle(instruction, modifiers);
    } else if (name == "vote") {
      LowerVote(instruction, modifiers);
    } else if (name == "activemask") {
      Count(instruction, 1, 1);
      EmitHandled({Op::kActive, Type::kB32}, {.dst = Destination(instruction.operands[0], Type::kB32)});
    } else if (name == "shf") {
      Count(instruction, 4, 4);
      Allow(modifiers, "l r wrap clamp");
      const Type type = OneType(modifiers);
      const auto mode =
          static_cast<std::uint8_t>((modifiers.Has("r") ? 1 : 0) | (modifiers.Has("clamp") ? 2 : 0));
      EmitHandled({Op::kShfL, type}, {.dst = Destination(instruction.operands[0], type),
                                      .a = Source(instruction.operands[1], type),
                                      .b = Source(instruction.operands[2], type),
                                      .c = Source(instruction.operands[3], Type::kU32),
                                      .mode = mode});
    } else if (name == "lop3") {
      Count(instruction, 5, 5);
      Allow(modifiers, "");
      if (instruction.operands[4].kind != PtxOperand::Kind::kNumber || instruction.operands[4].bits > 255)
        Fail("the table of lop3 must be a number up to 255");
      EmitHandled({Op::kLop3, OneType(modifiers)},
                  {.dst = Destination(instruction.operands[0], Type::kB32),
                   .a = Source(instruction.operands[1], Type::kB32),
                   .b = Source(instruction.operands[2], Type::kB32),
                   .c = Source(instruction.operands[3], Type::kB32),
                   .mode = static_cast<std::uint8_t>(instruction.operands[4].bits)});
    } else if (name == "testp") {
      static constexpr std::pair<std::string_view, int> kKinds[] = {
          {"finite", 0}, {"infinite", 1}, {"number", 2}, {"notanumber", 3}, {"normal", 4}, {"subnormal", 5}};
      Count(instruction, 2, 2);
      const auto kind = modifiers.words.size() == 1 ? Among(kKinds, modifiers.words[0]) : std::nullopt;
      if (!kind) Fail("cannot read " + shown_);
      const Type type = OneType(modifiers);
      EmitHandled({Op::kTestp, type}, {.dst = Destination(instruction.operands[0], Type::kPred),
                                       .a = Source(instruction.operands[1], type),
                                       .mode = static_cast<std::uint8_t>(*kind)});
    } else if (name == "isspacep") {
      Count(instruction, 2, 2);
      const auto space = modifiers.words.size() == 1 ? Among(kSpaces, modifiers.words[0]) : std::nullopt;
      if (!space || *space == Space::kParam || *space == Space::kConst) Fail("cannot read " + shown_);
      EmitHandled({Op::kIsSpace}, {.dst = Destination(instruction.operands[0], Type::kPred),
                                   .a = Source(instruction.operands[1], Type::kU64),
                                   .space = *space});
    } else if (name == "membar" || name == "fence" || name == "prefetch" || name == "prefetchu" ||
               name == "nanosleep" || name == "brkpt" || name == "pmevent") {
      // Threads of a block take turns, and atomics are in order for all.
    } else if (name == "bar" || name == "barrier") {
      LowerBarrier(instruction, modifiers);
    } else if (name == "bra") {
      Count(instruction, 1, 1);
      Allow(modifiers, "uni");
      Branch(instruction.operands[0].name);
    } else if (name == "brx") {
      Count(instruction, 2, 2);
      Allow(modifiers, "idx uni");
      const std::uint32_t index = Source(instruction.operands[0], Type::kU32);
      const std::string& table = instruction.operands[1].name;
      Inst& inst = Emit({.a = index, .flow = Flow::kTable});
      if (const auto it = tables_.find(table); it != tables_.end()) {
        inst.target = it->second.number;
      } else {
        table_uses_.emplace_back(program_.code.size() - 1, table);
      }
    } else if (name == "call") {
      LowerCall(instruction);
    } else if (name == "ret") {
      Emit({.dst = return_to_, .flow = in_kernel_ ? Flow::kExit : Flow::kReturn});
    } else if (name == "exit") {
      Emit({.flow = Flow::kExit});
    } else if (name == "trap") {
      Emit({.flow = Flow::kTrap});
    } else {
      Fail("this device has no " + shown_);
    }
  }

  void Branch(const std::string& label) {
    branches_.emplace_back(program_.code.size(), std::pair(label, line_));
    Emit({.flow = Flow::kBranch});
  }

  void LowerSimple(const Simple& simple, const PtxInstruction& instruction, const Modifiers& modifiers) {
    const std::vector<PtxOperand>& operands = instruction.operands;
    if (simple.op == Op::kMov && operands.size() == 2 &&
        (operands[0].kind == PtxOperand::Kind::kVector || operands[1].kind == PtxOperand::Kind::kVector)) {
      return LowerVectorMove(instruction, modifiers);
    }
    Count(instruction, simple.sources + 1, simple.sources + 1);
    Allow(modifiers, simple.modifiers);
    const Type type = OneType(modifiers);
    if (type == Type::kPred) {
      if (simple.op != Op::kMov && simple.op != Op::kAnd && simple.op != Op::kOr && simple.op != Op::kXor &&
          simple.op != Op::kNot)
        Fail("this device has no " + shown_);
      const std::uint32_t a = Source(operands[1], type);
      return EmitHandled({Op::kPredicate}, {.dst = Destination(operands[0], type),
                                            .a = a,
                                            .b = operands.size() > 2 ? Source(operands[2], type) : a,
                                            .mode = static_cast<std::uint8_t>(simple.op)});
    }
    Op op = simple.op;
    Type result = type, third = type;
    if (modifiers.Has("hi")) op = op == Op::kMul ? Op::kMulHi : Op::kMadHi;
    if (modifiers.Has("wide")) {
      op = op == Op::kMul ? Op::kMulWide : Op::kMadWide;
      result = third = SizeOf(type) == 4 ? Type::kU64 : Type::kU32;
    }
    if (op == Op::kMad && IsFloat(type)) op = Op::kFma;
    const bool saturates = modifiers.Has("sat");
    if (saturates && !IsFloat(type)) Fail("this device has no " + shown_);
    Type second = type;
    if (op == Op::kShl || op == Op::kShr || op == Op::kBfe) second = third = Type::kU32;
    if (op == Op::kBfi) third = Type::kU32;
    if (op == Op::kPopc || op == Op::kClz || op == Op::kBfind) result = Type::kU32;
    if (op == Op::kSad && IsFloat(type)) Fail("this device has no " + shown_);
    Inst inst{
        .dst = Destination(operands[0], result), .a = Source(operands[1], type), .saturates = saturates};
    if (operands.size() > 2) inst.b = Source(operands[2], second);
    if (operands.size() > 3) inst.c = Source(operands[3], third);
    if (operands.size() > 4) inst.d = Source(operands[4], Type::kU32);
    if (modifiers.Has("shiftamt")) inst.mode = 1;
    EmitHandled({op, type}, inst);
  }

  // mov.b64 {a, b}, c, and back.
  void LowerVectorMove(const PtxInstruction& instruction, const Modifiers& modifiers) {
    Allow(modifiers, "");
    const Type type = OneType(modifiers);
    const bool packs = instruction.operands[1].kind == PtxOperand::Kind::kVector;
    const std::vector<PtxOperand>& items = instruction.operands[packs ? 1 : 0].items;
    if ((items.size() != 2 && items.size() != 4) || SizeOf(type) / items.size() < 2)
      Fail("cannot read " + shown_);
    Inst inst{.size = static_cast<std::uint8_t>(SizeOf(type) / items.size()),
              .count = static_cast<std::uint8_t>(items.size())};
    const Type part = inst.size == 4 ? Type::kB32 : Type::kB16;
    for (std::size_t i = 0; i < items.size(); ++i)
      inst.items[i] = packs ? Source(items[i], part) : Destination(items[i], part);
    if (packs) {
      inst.dst = Destination(instruction.operands[0], type);
    } else {
      inst.a = Source(instruction.operands[1], type);
    }
    EmitHandled({packs ? Op::kPack : Op::kUnpack, type}, inst);
  }

  Space SpaceIn(const Modifiers& modifiers) {
    for (const std::string_view word : modifiers.words) {
      if (const auto space = Among(kSpaces, word)) return *space;
    }
    return Space::kGeneric;
  }
  void AllowMemory(const Modifiers& modifiers, std::string_view more = "") {
    for (const std::string_view word : modifiers.words) {
      if (!IsInList(kMemoryModifiers, word) && !Among(kSpaces, word) && !IsInList(more, word) &&
          !word.starts_with("L1::") && !word.starts_with("L2::")) {
        Fail("this device has no " + shown_ + ": ." + std::string(word));
      }
    }
  }
  // The register, or constant, of a memory operand's address; what is to be added goes to the instruction.
  std::uint32_t Address(const PtxOperand& operand, Inst* inst) {
    if (operand.kind != PtxOperand::Kind::kMemory) Fail("an address in brackets is missing");
    if (operand.name.empty())
      return Constant(operand.bits + static_cast<std::uint64_t>(operand.offset), true);
    if (const Register* found = FindRegister(operand.name)) {
      if (found->width != Width::k64) Fail("address " + operand.name + " must have 64 bits");
      inst->offset = operand.offset;
      return found->at;
    }
    const auto address = FindAddress(operand.name);
    if (!address) Fail("there is no " + operand.name);
    return AddressConstant(*address, operand.offset);
  }
  static bool IsOrdered(const Modifiers& modifiers) {
    return modifiers.Has("volatile") || modifiers.Has("relaxed") || modifiers.Has("acquire") ||
           modifiers.Has("release");
  }
  std::size_t Items(const Modifiers& modifiers, const PtxOperand& operand) {
    const std::size_t count = modifiers.Has("v4") ? 4 : modifiers.Has("v2") ? 2 : 1;
    if (count != 1 && (operand.kind != PtxOperand::Kind::kVector || operand.items.size() != count))
      Fail(shown_ + " needs " + std::to_string(count) + " registers in braces");
    return count;
  }

  void LowerLoad(const PtxInstruction& instruction, const Modifiers& modifiers) {
    Count(instruction, 2, 2);
    AllowMemory(modifiers);
    const Type type = OneType(modifiers);
    const PtxOperand& to = instruction.operands[0];
    Inst inst{.count = static_cast<std::uint8_t>(Items(modifiers, to)), .ordered = IsOrdered(modifiers)};
    for (std::size_t i = 0; i < inst.count; ++i) {
      Width width;
      inst.items[i] = Destination(
          inst.count == 1 && to.kind != PtxOperand::Kind::kVector ? to : to.items.at(i), type, true, &width);
      if (width == Width::k64 && SizeOf(type) < 8) inst.mode = 1;
    }
    const PtxOperand& from = instruction.operands[1];
    if (const Callee::Place* parameter =
            from.kind == PtxOperand::Kind::kMemory ? FindKernelParameter(from.name) : nullptr) {
      const std::uint64_t bytes = SizeOf(type) * inst.count;
      if (from.offset < 0 || static_cast<std::uint64_t>(from.offset) + bytes > parameter->bytes)
        Fail("beyond the end of " + from.name);
      inst.offset = parameter->at + from.offset;
      return EmitHandled({Op::kLoadParam, type}, inst);
    }
    inst.a = Address(from, &inst);
    EmitHandled({Op::kLoad, type}, inst);
  }
  void LowerStore(const PtxInstruction& instruction, const Modifiers& modifiers) {
    Count(instruction, 2, 2);
    AllowMemory(modifiers);
    const Type type = OneType(modifiers);
    const PtxOperand& from = instruction.operands[1];
    Inst inst{.count = static_cast<std::uint8_t>(Items(modifiers, from)), .ordered = IsOrdered(modifiers)};
    for (std::size_t i = 0; i < inst.count; ++i) {
      Width width;
      inst.items[i] =
          Source(inst.count == 1 && from.kind != PtxOperand::Kind::kVector ? from : from.items.at(i), type,
                 true, &width);
      if (width == Width::k64 && SizeOf(type) < 8) inst.mode = 1;
    }
    inst.a = Address(instruction.operands[0], &inst);
    EmitHandled({Op::kStore, type}, inst);
  }

  void LowerCompare(const PtxInstruction& instruction, const Modifiers& modifiers, bool to_predicate) {
    Count(instruction, 3, 4);
    Inst inst;
    bool has_compare = false;
    for (const std::string_view word : modifiers.words) {
      if (const auto join = Among(kJoins, word)) {
        inst.join = *join;
      } else if (const auto compare = Among(kCompares, word)) {
        inst.compare = *compare;
        has_compare = true;
      } else {
        Fail("this device has no " + shown_ + ": ." + std::string(word));
      }
    }
    const std::size_t types = to_predicate ? 1 : 2;
    if (!has_compare || modifiers.types.size() != types) Fail("cannot read " + shown_);
    const Type type = modifiers.types.back();
    const PtxOperand& to = instruction.operands[0];
    if (to_predicate) {
      inst.dst = Destination({.name = to.name}, Type::kPred);
      if (to.kind == PtxOperand::Kind::kPair) {
        inst.dst2 = Destination(to.items[0], Type::kPred);
        inst.has_dst2 = true;
      }
    } else {
      inst.dst = Destination(to, Type::kU32);
      inst.mode = modifiers.types[0] == Type::kF32 ? 1 : 0;
    }
    inst.a = Source(instruction.operands[1], type);
    inst.b = Source(instruction.operands[2], type);
    if ((instruction.operands.size() == 4) != (inst.join != Join::kNone)) Fail("cannot read " + shown_);
    if (inst.join != Join::kNone) {
      inst.c = Source(instruction.operands[3], Type::kPred);
      inst.negated = instruction.operands[3].negated;
    }
    EmitHandled({to_predicate ? Op::kSetp : Op::kSet, type}, inst);
  }

  void LowerCvt(const PtxInstruction& instruction, const Modifiers& modifiers) {
    Count(instruction, 2, 2);
    if (modifiers.types.size() != 2) Fail("cannot read " + shown_);
    const Type to = modifiers.types[0], from = modifiers.types[1];
    Inst inst;
    for (const std::string_view word : modifiers.words) {
      if (word == "sat") {
        inst.saturates = true;
      } else if (const auto rounding = Among(kRoundings, word)) {
        inst.rounding = *rounding;
      } else {
        Fail("this device has no " + shown_ + ": ." + std::string(word));
      }
    }
    // Between floats, and from whole numbers to floats, the nearest only.
    const bool directed = inst.rounding == Rounding::kZero || inst.rounding == Rounding::kDown ||
                          inst.rounding == Rounding::kUp;
    if (directed) Fail("this device has no " + shown_);
    Width width;
    inst.dst = Destination(instruction.operands[0], to, !IsFloat(to), &width);
    if (width == Width::k64 && SizeOf(to) < 8) inst.mode = 1;
    inst.a = Source(instruction.operands[1], from, !IsFloat(from));
    EmitHandled({Op::kCvt, to, from}, inst);
  }

  void LowerAtom(const PtxInstruction& instruction, const Modifiers& modifiers, bool returns) {
    std::optional<AtomOp> op;
    for (const std::string_view word : modifiers.words) {
      if (const auto named = Among(kAtoms, word)) op = named;
    }
    AllowMemory(modifiers, "add min max and or xor exch cas inc dec noftz");
    if (!op) Fail("cannot read " + shown_);
    const std::size_t first = returns ? 1 : 0;
    Count(instruction, first + (*op == AtomOp::kCas ? 3 : 2), first + (*op == AtomOp::kCas ? 3 : 2));
    const Type type = OneType(modifiers);
    Inst inst{.has_dst = returns, .mode = static_cast<std::uint8_t>(*op)};
    if (returns) inst.dst = Destination(instruction.operands[0], type);
    inst.a = Address(instruction.operands[first], &inst);
    inst.b = Source(instruction.operands[first + 1], type);
    if (*op == AtomOp::kCas) inst.c = Source(instruction.operands[first + 2], type);
    EmitHandled({Op::kAtom, type, Type::kNone, inst.mode}, inst);
  }

  void LowerShuffle(const PtxInstruction& instruction, const Modifiers& modifiers) {
    Count(instruction, 4, 5);
    Allow(modifiers, "sync up down bfly idx");
    std::optional<Shuffle> mode;
    for (const std::string_view word : modifiers.words) {
      if (const auto named = Among(kShuffles, word)) mode = named;
    }
    if (!mode || OneType(modifiers) != Type::kB32) Fail("cannot read " + shown_);
    const PtxOperand& to = instruction.operands[0];
    Inst inst{.dst = Destination({.name = to.name}, Type::kB32),
              .a = Source(instruction.operands[1], Type::kB32),
              .b = Source(instruction.operands[2], Type::kB32),
              .c = Source(instruction.operands[3], Type::kB32),
              .mode = static_cast<std::uint8_t>(*mode)};
    if (to.kind == PtxOperand::Kind::kPair) {
      inst.dst2 = Destination(to.items[0], Type::kPred);
      inst.has_dst2 = true;
    }
    EmitHandled({Op::kShfl, Type::kB32}, inst);
  }

  void LowerVote(const PtxInstruction& instruction, const Modifiers& modifiers) {
    Count(instruction, 2, 3);
    Allow(modifiers, "sync all any uni ballot");
    std::optional<Vote> mode;
    for (const std::string_view word : modifiers.words) {
      if (const auto named = Among(kVotes, word)) mode = named;
    }
    if (!mode) Fail("cannot read " + shown_);
    const Type type = *mode == Vote::kBallot ? Type::kB32 : Type::kPred;
    EmitHandled({Op::kVote, type},
                {.dst = Destination(instruction.operands[0], type),
                 .a = Source(instruction.operands[1], Type::kPred),
                 .b = instruction.operands.size() == 3 ? Source(instruction.operands[2], Type::kB32)
                                                       : Constant(kAllLanes, false),
                 .negated = instruction.operands[1].negated,
                 .mode = static_cast<std::uint8_t>(*mode)});
  }

  void LowerBarrier(const PtxInstruction& instruction, const Modifiers& modifiers) {
    Allow(modifiers, "sync aligned cta warp");
    if (!modifiers.Has("sync")) Fail("this device has no " + shown_);
    if (modifiers.Has("warp")) {
      Emit({.flow = Flow::kBarrier, .mode = 1});
      return;
    }
    Count(instruction, 1, 2);
    Emit({.a = Source(instruction.operands[0], Type::kU32),
          .b = instruction.operands.size() == 2 ? Source(instruction.operands[1], Type::kU32) : 0,
          .flow = Flow::kBarrier});
  }

  void LowerCall(const PtxInstruction& instruction) {
    const auto& operands = instruction.operands;
    const bool returns = !operands.empty() && operands[0].kind == PtxOperand::Kind::kList;
    const std::size_t at = returns ? 1 : 0;
    if (operands.size() <= at || operands[at].kind != PtxOperand::Kind::kName || operands.size() > at + 2)
      Fail("cannot read a call");
    if (const auto system = Among(kSystemCalls, operands[at].name))
      return LowerSystemCall(*system, operands, at);
    const auto found = done_.find(operands[at].name);
    if (found == done_.end()) Fail("calls through pointers are not supported");
    const Callee& callee = found->second;
    const auto copy = [&](const std::vector<PtxOperand>& actual, const std::vector<Callee::Place>& formal,
                          bool in) {
      if (actual.size() != formal.size())
        Fail(operands[at].name + " takes another number of parameters, or returns one");
      for (std::size_t i = 0; i < actual.size(); ++i) {
        const Callee::Place* const place = FindLocal(actual[i].name);
        if (place == nullptr || place->bytes != formal[i].bytes)
          Fail("parameter " + actual[i].name + " is not what " + operands[at].name + " takes");
        EmitHandled(
            {Op::kCopyParam},
            {.a = in ? place->at : formal[i].at, .b = in ? formal[i].at : place->at, .c = place->bytes});
      }
    };
    copy(operands.size() > at + 1 ? operands[at + 1].items : std::vector<PtxOperand>(), callee.parameters,
         true);
    calls_.emplace_back(program_.code.size(), operands[at].name);
    Emit({.dst = callee.return_to, .flow = Flow::kCall});
    copy(returns ? operands[0].items : std::vector<PtxOperand>(), callee.returns, false);
  }

  // Null: there is none of this name.
  const Callee::Place* FindLocal(const std::string& name) const {
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
      if (const auto it = scope->locals.find(name); it != scope->locals.end()) return &it->second;
    }
    return nullptr;
  }

  void LowerSystemCall(System system, const std::vector<PtxOperand>& operands, std::size_t at) {
    const std::vector<std::uint32_t> sizes = system == System::kPrint
                                                 ? std::vector<std::uint32_t>{8, 8}
                                                 : std::vector<std::uint32_t>{8, 8, 4, 8, 8};
    const std::vector<PtxOperand> actual =
        operands.size() > at + 1 ? operands[at + 1].items : std::vector<PtxOperand>();
    std::uint32_t places[5] = {};
    const auto check = [&](const PtxOperand& operand, std::uint32_t bytes) {
      const Callee::Place* const place = FindLocal(operand.name);
      if (place == nullptr || place->bytes != bytes)
        Fail("parameter " + operand.name + " is not what " + operands[at].name + " takes");
      return place->at;
    };
    if (actual.size() != sizes.size()) Fail(operands[at].name + " takes another number of parameters");
    for (std::size_t i = 0; i < actual.size(); ++i) places[i] = check(actual[i], sizes[i]);
    Inst inst{.a = places[0], .b = places[1], .c = places[2], .d = places[3]};
    if (system == System::kPrint && at == 1 && operands[0].items.size() == 1) {
      inst.c = check(operands[0].items[0], 4);
      inst.has_dst2 = true;
    }
    EmitHandled({.op = Op::kSystem, .mode = static_cast<std::uint8_t>(system)}, inst);
  }

  static constexpr std::uint64_t kDynamic = ~std::uint64_t{0};  // the address of dynamic shared memory

  struct Table {
    std::uint32_t number = 0;
    std::vector<std::string> labels;
  };

  const PtxModule& module_;
  const std::map<std::string, const PtxFunction*>& functions_;
  const Variables& variables_;
  Program program_{.register_bytes = 64};  // 0 is no register
  std::map<std::string, std::uint64_t> module_shared_;
  std::map<std::pair<std::uint64_t, bool>, std::uint32_t> constants_;
  std::vector<std::size_t> dynamic_;  // constants whose address begins where dynamic shared memory does
  std::map<std::string, Callee> done_;
  std::set<std::string> open_;
  std::vector<std::pair<std::size_t, std::string>> calls_;
  int line_ = 0;
  std::string shown_;
  std::optional<std::uint32_t> guard_;
  bool guard_negated_ = false;

  // Of the function in hand.
  std::vector<Scope> scopes_;
  std::map<std::string, std::uint32_t> labels_;
  std::vector<std::pair<std::size_t, std::pair<std::string, int>>> branches_;
  std::map<std::string, Table> tables_;
  std::vector<std::pair<std::size_t, std::string>> table_uses_;
  std::uint32_t return_to_ = 0;
  bool in_kernel_ = false;
};

}  // namespace

Module::~Module() {
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
    if (!variable.init.empty())
      std::memcpy(reinterpret_cast<void*>(address), variable.init.data(), variable.init.size());
  }
  std::map<std::string, const PtxFunction*> functions;
  for (const PtxFunction& function : parsed.functions) {
    const auto [it, is_new] = functions.emplace(function.name, &function);
    if (!is_new && function.has_body) it->second = &function;  // declared before
  }
  for (const PtxVariable& variable : parsed.variables) {
    for (const PtxVariable::Address& address : variable.addresses) {
      const auto to = module->variables_.find(address.name);
      if (to == module->variables_.end()) {
        return Error{
            .code = Code::kInvalidArgument,
            .message = variable.name + " holds the address of " + address.name + ", which is no variable"};
      }
      const std::uint64_t value = to->second.address + static_cast<std::uint64_t>(address.offset);
      std::memcpy(reinterpret_cast<void*>(module->variables_.at(variable.name).address + address.at), &value,
                  sizeof value);
    }
  }
  try {
    for (const PtxFunction& function : parsed.functions) {
      if (!function.is_entry || !function.has_body) continue;
      if (!module->kernels_
               .emplace(function.name, Lowering(parsed, functions, module->variables_).Kernel(function))
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
