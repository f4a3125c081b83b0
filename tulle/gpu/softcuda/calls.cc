// Calls of functions, by name and through pointers, and what they need: places for parameters and results,
// and what is kept of a function that may be called again before it returns.
#include <algorithm>

#include "tulle/gpu/softcuda/lowering.h"

namespace tulle::gpu::softcuda {
namespace {

constexpr std::size_t kMaxDepth = 1000;  // of functions that call others

}  // namespace

std::optional<System> SystemNamed(std::string_view name) {
  if (name == "vprintf") return System::kPrint;
  if (name == "__assertfail") return System::kAssertFail;
  return std::nullopt;
}

Lowering::Callee Lowering::PlacesOf(const Signature& signature) {
  Callee callee;
  const auto place = [&](std::uint32_t bytes) {
    return Local({.type = Type::kB8, .align = 16, .count = bytes, .name = ""});
  };
  for (const std::uint32_t bytes : signature.parameters) callee.parameters.push_back(place(bytes));
  for (const std::uint32_t bytes : signature.returns) callee.returns.push_back(place(bytes));
  callee.return_to = Allocate(Width::k32);
  return callee;
}

Lowering::Callee& Lowering::Declare(const PtxFunction& function) {
  const auto [it, is_new] = callees_.try_emplace(function.name);
  if (!is_new || function.is_entry) return it->second;
  const Signature signature = SignatureOf(function);
  if (graph_.IsPointed(function)) {
    const auto [places, is_first] = pointed_places_.try_emplace(signature);
    if (is_first) places->second = PlacesOf(signature);
    return it->second = places->second;
  }
  return it->second = PlacesOf(signature);
}

void Lowering::FunctionsCalledBy(const PtxFunction& function) {
  if (depth_ == kMaxDepth) Fail("calls are nested deeper than " + std::to_string(kMaxDepth));
  ++depth_;
  std::map<std::string, Signature> prototypes;
  for (const PtxStatement& statement : function.body) {
    if (const auto* prototype = std::get_if<PtxPrototype>(&statement.what))
      prototypes[prototype->name] = SignatureOf(*prototype);
    const auto* instruction = std::get_if<PtxInstruction>(&statement.what);
    if (instruction == nullptr || instruction->words[0] != "call") continue;
    line_ = statement.line;
    std::vector<std::string> names;
    for (const PtxOperand& operand : instruction->operands) {
      if (operand.kind == PtxOperand::Kind::kName) names.push_back(operand.name);
    }
    if (names.empty() || SystemNamed(names[0])) continue;
    if (const auto prototype = prototypes.find(names.back());
        names.size() == 2 && prototype != prototypes.end()) {
      for (const PtxFunction* callee : graph_.Pointed(prototype->second)) Function(*callee);
      continue;
    }
    const PtxFunction* const callee = graph_.Find(names[0]);
    if (callee == nullptr || !callee->has_body)
      Fail("calls " + names[0] + ", which " + (callee == nullptr ? "is no function" : "has no body here"));
    if (callee->is_entry) Fail("calls " + names[0] + ", which is a kernel");
    Function(*callee);
  }
  --depth_;
}

std::uint32_t Lowering::Frame() {
  if (!frame_) {
    frame_ = static_cast<std::uint32_t>(program_.frames.size());
    program_.frames.emplace_back();
  }
  return *frame_;
}

void Lowering::EndFrame(const Callee& callee, std::size_t first_register, std::uint32_t local_at) {
  Program::Frame& frame = program_.frames[*frame_];
  frame.registers.assign(registers_.begin() + static_cast<std::ptrdiff_t>(first_register), registers_.end());
  frame.registers.push_back({callee.return_to, sizeof(std::uint32_t)});
  for (const auto* places : {&callee.parameters, &callee.returns}) {
    for (const Callee::Place& place : *places) frame.local.push_back({place.at, place.bytes});
  }
  frame.local.push_back({local_at, program_.local_bytes - local_at});
  for (const Program::Frame::Register& held : frame.registers) frame.bytes += std::max(held.bytes, 1u);
  for (const Program::Frame::Local& held : frame.local) frame.bytes += held.bytes;
}

void Lowering::Return() {
  if (frame_at_ != 0) Emit({.a = frame_at_, .flow = Flow::kLeave});
  Emit({.dst = return_to_, .flow = function_->is_entry ? Flow::kExit : Flow::kReturn});
}

void Lowering::LowerCall(const PtxInstruction& instruction) {
  // [(results),] function or pointer [, (parameters)] [, prototype]
  const auto& operands = instruction.operands;
  const bool returns = !operands.empty() && operands[0].kind == PtxOperand::Kind::kList;
  const std::size_t at = returns ? 1 : 0;
  if (operands.size() <= at || operands[at].kind != PtxOperand::Kind::kName) Fail("cannot read a call");
  const std::string& name = operands[at].name;
  if (const auto system = SystemNamed(name)) return LowerSystemCall(*system, operands, at);
  const bool takes = operands.size() > at + 1 && operands[at + 1].kind == PtxOperand::Kind::kList;
  const auto prototype = prototypes_.find(operands.back().name);
  const bool is_pointer = prototype != prototypes_.end();
  if (operands.size() != at + 1 + (takes ? 1 : 0) + (is_pointer ? 1 : 0)) Fail("cannot read a call");

  // Who does not call goes around all of it, as what the guard says may change meanwhile.
  const std::uint32_t pointer = is_pointer ? Source(operands[at], Type::kU64) : 0;
  const std::size_t around = program_.code.size();
  const bool is_guarded = guard_.has_value();
  if (is_guarded) {
    guard_negated_ = !guard_negated_;
    Emit({.flow = Flow::kBranch});
    guard_.reset();
  }
  const std::vector<PtxOperand> none;
  const auto& results = returns ? operands[0].items : none;
  const auto& parameters = takes ? operands[at + 1].items : none;
  if (is_pointer) {
    const Signature& signature = prototype->second;
    const auto [places, is_new] = pointed_places_.try_emplace(signature);
    if (is_new) places->second = PlacesOf(signature);
    CallWith(name, places->second,
             {.a = pointer, .flow = Flow::kCallPointer, .target = PointedTable(signature)},
             graph_.MayComeBack(*function_, signature), results, parameters);
  } else {
    const PtxFunction& function = *graph_.Find(name);
    CallWith(name, callees_.at(name), {.flow = Flow::kCall}, graph_.MayComeBack(*function_, function),
             results, parameters);
  }
  if (is_guarded) {
    program_.code[around].target = static_cast<std::uint32_t>(program_.code.size());
    last_label_at_ = program_.code.size();
    ForgetRuns();
  }
}

std::uint32_t Lowering::PointedTable(const Signature& signature) {
  const auto [it, is_new] =
      pointed_tables_.emplace(signature, static_cast<std::uint32_t>(program_.pointed.size()));
  if (is_new) program_.pointed.emplace_back();
  return it->second;
}

void Lowering::CallWith(const std::string& name, const Callee& callee, Inst call, bool may_come_back,
                        const std::vector<PtxOperand>& results, const std::vector<PtxOperand>& parameters) {
  const auto copy = [&](const std::vector<PtxOperand>& actual, const std::vector<Callee::Place>& formal,
                        bool in) {
    if (actual.size() != formal.size()) Fail(name + " takes another number of parameters, or returns one");
    for (std::size_t i = 0; i < actual.size(); ++i) {
      const Callee::Place* const place = FindParameter(actual[i].name);
      if (place == nullptr || place->bytes != formal[i].bytes)
        Fail("parameter " + actual[i].name + " is not what " + name + " takes");
      EmitHandled(
          {Op::kCopyParam},
          {.a = in ? place->at : formal[i].at, .b = in ? formal[i].at : place->at, .c = place->bytes});
    }
  };
  if (may_come_back) {
    if (results.size() > 1) Fail(name + " may call itself, and returns more than one value");
    Emit({.flow = Flow::kSave, .target = Frame()});
  }
  copy(parameters, callee.parameters, true);
  if (call.flow == Flow::kCall) calls_.emplace_back(program_.code.size(), name);
  call.dst = callee.return_to;
  Emit(call);
  copy(results, callee.returns, false);
  if (!may_come_back) return;
  // All but what was returned is as it was.
  const Callee::Place result = results.empty() ? Callee::Place() : *FindParameter(results[0].name);
  Emit({.a = result.at, .b = result.bytes, .flow = Flow::kRestore, .target = Frame()});
}

void Lowering::LowerSystemCall(System system, const std::vector<PtxOperand>& operands, std::size_t at) {
  const std::vector<std::uint32_t> sizes =
      system == System::kPrint ? std::vector<std::uint32_t>{8, 8} : std::vector<std::uint32_t>{8, 8, 4, 8, 8};
  const std::vector<PtxOperand> actual =
      operands.size() > at + 1 ? operands[at + 1].items : std::vector<PtxOperand>();
  std::uint32_t places[5] = {};
  const auto check = [&](const PtxOperand& operand, std::uint32_t bytes) {
    const Callee::Place* const place = FindParameter(operand.name);
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

}  // namespace tulle::gpu::softcuda
