// One function for each kind of instruction.
#include <algorithm>
#include <iterator>

#include "tulle/gpu/softcuda/lowering.h"

namespace tulle::gpu::softcuda {

struct SimpleInstruction {
  std::string_view name;
  Op op;
  std::size_t sources;
  std::string_view modifiers;  // that change nothing here, or are looked at elsewhere
};

namespace {

constexpr SimpleInstruction kSimple[] = {{"mov", Op::kMov, 1, ""},
                                         {"add", Op::kAdd, 2, "rn rz rm rp ftz sat"},
                                         {"sub", Op::kSub, 2, "rn rz rm rp ftz sat"},
                                         {"mul", Op::kMul, 2, "lo hi wide rn rz rm rp ftz sat"},
                                         {"mad", Op::kMad, 3, "lo hi wide rn rz rm rp ftz sat"},
                                         {"fma", Op::kFma, 3, "rn rz rm rp ftz sat"},
                                         {"div", Op::kDiv, 2, "rn rz rm rp approx full ftz"},
                                         {"rem", Op::kRem, 2, ""},
                                         {"min", Op::kMin, 2, "ftz"},
                                         {"max", Op::kMax, 2, "ftz"},
                                         {"neg", Op::kNeg, 1, "ftz"},
                                         {"abs", Op::kAbs, 1, "ftz"},
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
                                         {"rcp", Op::kRcp, 1, "rn rz rm rp approx ftz"},
                                         {"sqrt", Op::kSqrt, 1, "rn rz rm rp approx ftz"},
                                         {"rsqrt", Op::kRsqrt, 1, "approx ftz"},
                                         {"sin", Op::kSin, 1, "approx ftz"},
                                         {"cos", Op::kCos, 1, "approx ftz"},
                                         {"ex2", Op::kEx2, 1, "approx ftz"},
                                         {"lg2", Op::kLg2, 1, "approx ftz"},
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
constexpr std::pair<std::string_view, Rounding> kRoundings[] = {{"rn", Rounding::kNearest},
                                                                {"rni", Rounding::kNearestInt},
                                                                {"rzi", Rounding::kZeroInt},
                                                                {"rmi", Rounding::kDownInt},
                                                                {"rpi", Rounding::kUpInt}};
constexpr std::pair<std::string_view, FloatControl> kDirected[] = {
    {"rz", FloatControl::kZero}, {"rm", FloatControl::kDown}, {"rp", FloatControl::kUp}};

template <typename T, std::size_t N>
std::optional<T> Among(const std::pair<std::string_view, T> (&names)[N], std::string_view word) {
  for (const auto& [name, value] : names) {
    if (name == word) return value;
  }
  return std::nullopt;
}

bool IsInList(std::string_view list, std::string_view word) {
  for (std::size_t at = 0; at < list.size();) {
    const std::size_t end = std::min(list.find(' ', at), list.size());
    if (list.substr(at, end - at) == word) return true;
    at = end + 1;
  }
  return false;
}

}  // namespace

Lowering::Modifiers Lowering::ModifiersOf(const PtxInstruction& instruction) {
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

void Lowering::Allow(const Modifiers& modifiers, std::string_view allowed) {
  for (const std::string_view word : modifiers.words) {
    if (!IsInList(allowed, word)) Fail("this device has no " + shown_ + ": ." + std::string(word));
  }
}

void Lowering::Count(const PtxInstruction& instruction, std::size_t least, std::size_t most) {
  const std::size_t count = instruction.operands.size();
  if (count < least || count > most) Fail(shown_ + " has " + std::to_string(count) + " operands");
}

Type Lowering::OneType(const Modifiers& modifiers) {
  if (modifiers.types.size() != 1) Fail(shown_ + " needs one type");
  return modifiers.types[0];
}

void Lowering::Lower(const PtxInstruction& instruction) {
  shown_ = instruction.words[0];
  for (std::size_t i = 1; i < instruction.words.size(); ++i) shown_ += "." + instruction.words[i];
  guard_.reset();
  if (!instruction.guard.empty()) {
    guard_negated_ = instruction.guard_negated;
    guard_ = Source({.name = instruction.guard}, Type::kPred);
  }
  const Modifiers modifiers = ModifiersOf(instruction);
  if (LowerAsConstant(instruction, modifiers)) return;
  const std::string& name = instruction.words[0];
  const auto simple = std::find_if(std::begin(kSimple), std::end(kSimple),
                                   [&](const SimpleInstruction& s) { return s.name == name; });
  if (modifiers.Has("cc") || name == "addc" || name == "subc" || name == "madc") {
    LowerCarry(instruction, modifiers);
  } else if (simple != std::end(kSimple)) {
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
    LowerAddressConversion(instruction, modifiers);
  } else if (name == "atom" || name == "red") {
    LowerAtom(instruction, modifiers, name == "atom");
  } else if (name == "shfl") {
    LowerShuffle(instruction, modifiers);
  } else if (name == "vote") {
    LowerVote(instruction, modifiers);
  } else if (name == "match") {
    LowerMatch(instruction, modifiers);
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
    Return();
  } else if (name == "exit") {
    Emit({.flow = Flow::kExit});
  } else if (name == "trap") {
    Emit({.flow = Flow::kTrap});
  } else {
    Fail("this device has no " + shown_);
  }
}

bool Lowering::LowerAsConstant(const PtxInstruction& instruction, const Modifiers& modifiers) {
  const std::string& name = instruction.words[0];
  const std::vector<PtxOperand>& operands = instruction.operands;
  if (!instruction.guard.empty() || operands.size() != 2 || operands[0].kind != PtxOperand::Kind::kName ||
      modifiers.types.size() != 1)
    return false;
  const Type type = modifiers.types[0];
  const auto written = written_.find(operands[0].name);
  Register* const result = Declared(operands[0].name);
  if (result == nullptr || result->at != 0 || written == written_.end() || written->second != 1 ||
      SizeOf(type) < 4 || result->width != WidthOf(type))
    return false;
  const PtxOperand& from = operands[1];
  std::uint32_t at = 0;
  if (name == "ld" && modifiers.words.size() == 1 && modifiers.words[0] == "param" &&
      from.kind == PtxOperand::Kind::kMemory) {
    const Callee::Place* const parameter = FindKernelParameter(from.name);
    if (parameter == nullptr || from.offset < 0 ||
        static_cast<std::uint64_t>(from.offset) + SizeOf(type) > parameter->bytes)
      return false;
    at = Allocate(result->width);
    program_.parameter_constants.push_back({.at = at,
                                            .offset = parameter->at + static_cast<std::uint32_t>(from.offset),
                                            .wide = result->width == Width::k64});
  } else if ((name == "mov" && modifiers.words.empty()) ||
             (name == "cvta" && WindowOf(SpaceIn(modifiers)) == 0)) {
    Allow(modifiers, "to global shared local const param");
    if (from.kind != PtxOperand::Kind::kName && from.kind != PtxOperand::Kind::kNumber) return false;
    if (const Register* const source = Declared(from.name); source != nullptr && !source->is_constant)
      return false;
    if (const auto named = FindNamed(from.name); named && named->in_frame) return false;
    at = Source(from, type);
  } else {
    return false;
  }
  result->at = at;
  result->is_constant = true;
  return true;
}

void Lowering::Branch(const std::string& label) {
  branches_.emplace_back(program_.code.size(), std::pair(label, line_));
  Emit({.flow = Flow::kBranch});
}

void Lowering::LowerSimple(const SimpleInstruction& simple, const PtxInstruction& instruction,
                           const Modifiers& modifiers) {
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
  if (saturates && !IsFloat(type) && !IsHalf(type)) Fail("this device has no " + shown_);
  FloatControl floats = FloatControl::kNone;
  for (const std::string_view word : modifiers.words) {
    if (const auto directed = Among(kDirected, word)) floats = *directed;
  }
  if (floats != FloatControl::kNone && !IsFloat(type)) Fail("this device has no " + shown_);
  if (modifiers.Has("ftz")) {
    if (type != Type::kF32 && !IsHalf(type)) Fail("this device has no " + shown_);
    if (type == Type::kF32) floats = floats | FloatControl::kFlush;  // halves keep their small numbers
  }
  Type second = type;
  if (op == Op::kShl || op == Op::kShr || op == Op::kBfe) second = third = Type::kU32;
  if (op == Op::kBfi) third = Type::kU32;
  if (op == Op::kPopc || op == Op::kClz || op == Op::kBfind) result = Type::kU32;
  if (op == Op::kSad && IsFloat(type)) Fail("this device has no " + shown_);
  Inst inst{.dst = Destination(operands[0], result),
            .a = Source(operands[1], type),
            .floats = floats,
            .saturates = saturates};
  if (operands.size() > 2) inst.b = Source(operands[2], second);
  if (operands.size() > 3) inst.c = Source(operands[3], third);
  if (operands.size() > 4) inst.d = Source(operands[4], Type::kU32);
  if (modifiers.Has("shiftamt")) inst.mode = 1;
  EmitHandled({op, type}, inst);
}

void Lowering::LowerCarry(const PtxInstruction& instruction, const Modifiers& modifiers) {
  static constexpr std::pair<std::string_view, Op> kOps[] = {
      {"add", Op::kAddCarry},  {"sub", Op::kSubCarry},  {"mad", Op::kMadCarry},
      {"addc", Op::kAddCarry}, {"subc", Op::kSubCarry}, {"madc", Op::kMadCarry}};
  const std::string& name = instruction.words[0];
  const auto op = Among(kOps, name);
  const Type type = OneType(modifiers);
  if (!op || IsFloat(type) || IsHalf(type)) Fail("this device has no " + shown_);
  const bool multiplies = *op == Op::kMadCarry;
  Allow(modifiers, multiplies ? "lo hi cc" : "cc");
  Count(instruction, multiplies ? 4 : 3, multiplies ? 4 : 3);
  if (carry_ == 0) carry_ = Allocate(Width::kPredicate);
  Inst inst{.dst = Destination(instruction.operands[0], type),
            .a = Source(instruction.operands[1], type),
            .b = Source(instruction.operands[2], type),
            .dst2 = carry_,
            .mode = static_cast<std::uint8_t>((name.back() == 'c' ? 1 : 0) | (modifiers.Has("cc") ? 2 : 0))};
  if (multiplies) inst.c = Source(instruction.operands[3], type);
  EmitHandled({modifiers.Has("hi") ? Op::kMadHiCarry : *op, type}, inst);
}

void Lowering::LowerMatch(const PtxInstruction& instruction, const Modifiers& modifiers) {
  Count(instruction, 3, 3);
  Allow(modifiers, "any all sync");
  const Type type = OneType(modifiers);
  const PtxOperand& to = instruction.operands[0];
  Inst inst{.dst = Destination({.name = to.name}, Type::kB32),
            .a = Source(instruction.operands[1], type),
            .c = Source(instruction.operands[2], Type::kB32),
            .mode = static_cast<std::uint8_t>(modifiers.Has("all") ? 1 : 0)};
  if (to.kind == PtxOperand::Kind::kPair) {
    inst.dst2 = Destination(to.items[0], Type::kPred);
    inst.has_dst2 = true;
  }
  EmitHandled({Op::kMatch, type}, inst);
}

void Lowering::LowerVectorMove(const PtxInstruction& instruction, const Modifiers& modifiers) {
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

Space Lowering::SpaceIn(const Modifiers& modifiers) {
  for (const std::string_view word : modifiers.words) {
    if (const auto space = Among(kSpaces, word)) return *space;
  }
  return Space::kGeneric;
}

void Lowering::AllowMemory(const Modifiers& modifiers, std::string_view more) {
  for (const std::string_view word : modifiers.words) {
    if (!IsInList(kMemoryModifiers, word) && !Among(kSpaces, word) && !IsInList(more, word) &&
        !word.starts_with("L1::") && !word.starts_with("L2::")) {
      Fail("this device has no " + shown_ + ": ." + std::string(word));
    }
  }
}

std::uint32_t Lowering::Address(const PtxOperand& operand, Space space, Inst* inst) {
  if (operand.kind != PtxOperand::Kind::kMemory) Fail("an address in brackets is missing");
  const std::uint64_t offset = static_cast<std::uint64_t>(operand.offset);
  if (operand.name.empty()) return Constant(WindowOf(space) + operand.bits + offset, true);
  if (const Register* found = FindRegister(operand.name)) {
    inst->offset = static_cast<std::int64_t>(WindowOf(space) + offset);
    if (found->width == Width::k64) return found->at;
    // Shared and local memory are small enough for addresses of 32 bits.
    if (found->width != Width::k32 || WindowOf(space) == 0)
      Fail("address " + operand.name + " must have 64 bits");
    const std::uint32_t wide = Allocate(Width::k64);
    EmitHandled({Op::kCvt, Type::kU64, Type::kU32}, {.dst = wide, .a = found->at});
    return wide;
  }
  const auto named = FindNamed(operand.name);
  if (!named) Fail("there is no " + operand.name);
  return AddressOf(*named, WindowOf(named->space) + offset, true);
}

void Lowering::LowerAddressConversion(const PtxInstruction& instruction, const Modifiers& modifiers) {
  Count(instruction, 2, 2);
  Allow(modifiers, "to global shared local const param");
  const Type type = OneType(modifiers);
  const std::uint64_t window = WindowOf(SpaceIn(modifiers));
  Inst inst{.dst = Destination(instruction.operands[0], type), .a = Source(instruction.operands[1], type)};
  if (window == 0) return EmitHandled({Op::kMov, type}, inst);
  if (type != Type::kU64) Fail("generic addresses have 64 bits");
  inst.b = Constant(modifiers.Has("to") ? 0 - window : window, true);
  EmitHandled({Op::kAdd, type}, inst);
}

bool Lowering::IsOrdered(const Modifiers& modifiers) {
  return modifiers.Has("volatile") || modifiers.Has("relaxed") || modifiers.Has("acquire") ||
         modifiers.Has("release");
}

std::size_t Lowering::Items(const Modifiers& modifiers, const PtxOperand& operand) {
  const std::size_t count = modifiers.Has("v4") ? 4 : modifiers.Has("v2") ? 2 : 1;
  if (count != 1 && (operand.kind != PtxOperand::Kind::kVector || operand.items.size() != count))
    Fail(shown_ + " needs " + std::to_string(count) + " registers in braces");
  return count;
}

void Lowering::LowerLoad(const PtxInstruction& instruction, const Modifiers& modifiers) {
  Count(instruction, 2, 2);
  AllowMemory(modifiers);
  const Type type = OneType(modifiers);
  const PtxOperand& to = instruction.operands[0];
  Inst inst{.count = static_cast<std::uint8_t>(Items(modifiers, to)), .ordered = IsOrdered(modifiers)};
  std::size_t wide = 0;
  for (std::size_t i = 0; i < inst.count; ++i) {
    Width width;
    inst.items[i] = Destination(inst.count == 1 && to.kind != PtxOperand::Kind::kVector ? to : to.items.at(i),
                                type, true, &width);
    wide += width == Width::k64 ? 1 : 0;
  }
  if (wide != 0 && SizeOf(type) < 8) {
    // All of them then: those that nobody wants, too.
    inst.mode = 1;
    for (std::size_t i = 0; i < inst.count && wide < inst.count; ++i) {
      if (to.kind != PtxOperand::Kind::kVector || to.items[i].name != "_") continue;
      inst.items[i] = Allocate(Width::k64);
      ++wide;
    }
    if (wide != inst.count) Fail("the registers are not of one width");
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
  inst.a = Address(from, SpaceIn(modifiers), &inst);
  TrackRun(SizeOf(type), &inst);
  EmitHandled({Op::kLoad, type}, inst);
}

void Lowering::LowerStore(const PtxInstruction& instruction, const Modifiers& modifiers) {
  Count(instruction, 2, 2);
  AllowMemory(modifiers);
  const Type type = OneType(modifiers);
  const PtxOperand& from = instruction.operands[1];
  Inst inst{.count = static_cast<std::uint8_t>(Items(modifiers, from)), .ordered = IsOrdered(modifiers)};
  std::size_t wide = 0;
  for (std::size_t i = 0; i < inst.count; ++i) {
    Width width;
    inst.items[i] =
        Source(inst.count == 1 && from.kind != PtxOperand::Kind::kVector ? from : from.items.at(i), type,
               true, &width);
    wide += width == Width::k64 ? 1 : 0;
  }
  if (wide != 0 && SizeOf(type) < 8) {
    inst.mode = 1;
    if (wide != inst.count) Fail("the registers are not of one width");
  }
  inst.a = Address(instruction.operands[0], SpaceIn(modifiers), &inst);
  TrackRun(SizeOf(type), &inst);
  EmitHandled({Op::kStore, type}, inst);
}

void Lowering::TrackRun(std::uint32_t element_bytes, Inst* inst) {
  if (guard_ || inst->count != 1 || inst->mode == 1 || inst->ordered) return;
  const auto known = std::find_if(known_runs_.begin() + 1, known_runs_.end(), [&](const KnownRun& run) {
    return run.at == inst->a && run.element_bytes == element_bytes;
  });
  inst->run_known = known != known_runs_.end();
  if (inst->run_known) {
    inst->run_slot = static_cast<std::uint8_t>(known - known_runs_.begin());
    return;
  }
  inst->run_slot = next_run_slot_;
  known_runs_[next_run_slot_] = {inst->a, element_bytes};
  next_run_slot_ = next_run_slot_ % (kRunSlots - 1) + 1;
}

void Lowering::LowerCompare(const PtxInstruction& instruction, const Modifiers& modifiers,
                            bool to_predicate) {
  Count(instruction, 3, 4);
  Inst inst;
  bool has_compare = false;
  for (const std::string_view word : modifiers.words) {
    if (word == "ftz") {
      inst.floats = FloatControl::kFlush;
    } else if (const auto join = Among(kJoins, word)) {
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

void Lowering::LowerCvt(const PtxInstruction& instruction, const Modifiers& modifiers) {
  if (modifiers.types.size() != 2) Fail("cannot read " + shown_);
  const Type to = modifiers.types[0], from = modifiers.types[1];
  Inst inst;
  for (const std::string_view word : modifiers.words) {
    if (word == "sat") {
      inst.saturates = true;
    } else if (word == "ftz") {
      inst.floats = inst.floats | FloatControl::kFlush;
    } else if (const auto directed = Among(kDirected, word)) {
      inst.floats = inst.floats | *directed;
    } else if (const auto rounding = Among(kRoundings, word)) {
      inst.rounding = *rounding;
    } else {
      Fail("this device has no " + shown_ + ": ." + std::string(word));
    }
  }
  Width width;
  const bool packs = to == Type::kF16x2 || to == Type::kBF16x2;
  Count(instruction, packs ? 3 : 2, packs ? 3 : 2);
  inst.dst = Destination(instruction.operands[0], to, !IsFloat(to) && !IsHalf(to), &width);
  if (width == Width::k64 && SizeOf(to) < 8) inst.mode = 1;
  Width from_width = WidthOf(from);
  inst.a = Source(instruction.operands[1], from, !IsFloat(from) && !IsHalf(from), &from_width);
  if (from_width == Width::k64 && SizeOf(from) < 8) {  // of whose lower part it is
    const std::uint32_t lower = Allocate(Width::k32);
    EmitHandled({Op::kCvt, Type::kU32, Type::kU64}, {.dst = lower, .a = inst.a});
    inst.a = lower;
  }
  if (packs) inst.b = Source(instruction.operands[2], from);
  if (inst.floats != FloatControl::kNone && IsHalf(to)) Fail("this device has no " + shown_);
  EmitHandled({Op::kCvt, to, from}, inst);
}

void Lowering::LowerAtom(const PtxInstruction& instruction, const Modifiers& modifiers, bool returns) {
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
  inst.a = Address(instruction.operands[first], SpaceIn(modifiers), &inst);
  inst.b = Source(instruction.operands[first + 1], type);
  if (*op == AtomOp::kCas) inst.c = Source(instruction.operands[first + 2], type);
  EmitHandled({Op::kAtom, type, Type::kNone, inst.mode}, inst);
}

void Lowering::LowerShuffle(const PtxInstruction& instruction, const Modifiers& modifiers) {
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
  const PtxOperand &by = instruction.operands[2], &within = instruction.operands[3];
  const bool whole_warp = by.kind == PtxOperand::Kind::kNumber && within.kind == PtxOperand::Kind::kNumber &&
                          within.bits == (*mode == Shuffle::kUp ? 0 : kLanes - 1);
  EmitHandled({.op = Op::kShfl,
               .type = Type::kB32,
               .mode = inst.mode,
               .step = whole_warp ? static_cast<std::uint32_t>(by.bits) : 0},
              inst);
}

void Lowering::LowerVote(const PtxInstruction& instruction, const Modifiers& modifiers) {
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

void Lowering::LowerBarrier(const PtxInstruction& instruction, const Modifiers& modifiers) {
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

}  // namespace tulle::gpu::softcuda
