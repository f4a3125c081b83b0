// Makes of a kernel's tree what executes: resolves names, gives registers and variables their places, and
// chooses a handler for each instruction.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tulle/gpu/softcuda/call_graph.h"
#include "tulle/gpu/softcuda/machine.h"
#include "tulle/gpu/softcuda/module.h"
#include "tulle/gpu/softcuda/problem.h"
#include "tulle/gpu/softcuda/ptx.h"

namespace tulle::gpu::softcuda {

using Variables = std::map<std::string, Module::Variable>;

// An instruction whose operands are all of its type, or nearly.
struct SimpleInstruction;

// Makes one kernel's program.
class Lowering {
 public:
  // `functions`: the addresses of those whose address is taken.
  Lowering(const PtxModule& module, const CallGraph& graph, const Variables& variables,
           const std::map<std::string, std::uint64_t>& functions)
      : module_(module), graph_(graph), variables_(variables), functions_(functions) {}

  Program Kernel(const PtxFunction& kernel);

 private:
  enum class Width : std::uint8_t { kPredicate, k32, k64 };
  struct Register {
    std::uint32_t at = 0;  // 0: it has not been used yet
    Width width = Width::k32;
    bool is_constant = false;  // the same throughout a launch, in each thread
  };
  struct Callee {
    bool is_lowered = false;  // or is being
    std::uint32_t start = 0;
    std::uint32_t return_to = 0;  // a register: an instruction for each lane
    struct Place {
      std::uint32_t at = 0, bytes = 0;  // in the thread's own memory
      bool in_frame = false;            // from where the function's own begins, each time that it is called
    };
    std::vector<Place> parameters, returns;
  };
  // What names mean, in the scope in hand.
  struct Scope {
    std::map<std::string, Register> registers;
    std::map<std::string, Callee::Place> locals;
    std::map<std::string, Callee::Place> parameters;  // of calls and of functions: in the thread's own memory
    std::map<std::string, Callee::Place> kernel_parameters;  // of a kernel
    std::map<std::string, std::uint64_t> shared;
  };
  // Where a name's memory is: an offset in shared or local memory, else an address. `at` may be kDynamic.
  struct Named {
    std::uint64_t at = 0;
    Space space = Space::kGeneric;
    bool in_frame = false, is_parameter = false;
  };

  [[noreturn]] void Fail(const std::string& what) const { throw Problem{line_, what}; }

  // ---- room

  std::uint32_t Allocate(Width width);
  // Of what no instruction changes.
  std::uint32_t AllocateConstant(Width width);
  static Width WidthOf(Type type) {
    return type == Type::kPred ? Width::kPredicate : SizeOf(type) == 8 ? Width::k64 : Width::k32;
  }
  Callee::Place Local(const PtxVariable& variable);
  std::uint64_t Shared(const PtxVariable& variable, int line);

  std::uint32_t Constant(std::uint64_t bits, bool wide);

  // ---- functions

  // Gives places to what it takes and returns. Those that a pointer may lead to have theirs in common with
  // others of their signature, so that who calls one need not know which.
  Callee& Declare(const PtxFunction& function);
  Callee PlacesOf(const Signature& signature);
  void Function(const PtxFunction& function);
  // What it calls comes first, as its code is in one piece.
  void FunctionsCalledBy(const PtxFunction& function);
  void KernelParameter(const PtxVariable& parameter);
  // What a call that may come back must save: all that the function in hand has.
  std::uint32_t Frame();
  void EndFrame(const Callee& callee, std::size_t first_register, std::uint32_t local_at);

  // ---- statements

  void Lower(const PtxScope& scope);
  void Lower(const PtxLabel& label);
  void Lower(const PtxTargets& targets);
  void Lower(const PtxPrototype& prototype) { prototypes_[prototype.name] = SignatureOf(prototype); }
  void Lower(const PtxVariable& variable);

  // ---- operands

  Register* Declared(const std::string& name);
  // The same, with a place.
  Register* FindRegister(const std::string& name);
  std::optional<Named> FindNamed(const std::string& name);
  const Callee::Place* FindKernelParameter(const std::string& name) const;
  // `offset` beyond what is named: a generic address with `offset` from WindowOf its space.
  std::uint32_t AddressOf(const Named& named, std::uint64_t offset, bool wide);
  std::optional<std::uint32_t> FindSpecial(const std::string& name);

  std::uint32_t Source(const PtxOperand& operand, Type type, bool any_width = false, Width* width = nullptr);
  std::uint64_t BitsOf(const PtxOperand& number, Type type);
  std::uint32_t Destination(const PtxOperand& operand, Type type, bool any_width = false,
                            Width* width = nullptr);

  // ---- instructions

  Inst& Emit(Inst inst);
  void EmitHandled(const Spec& spec, Inst inst);

  struct Modifiers {
    std::vector<Type> types;
    std::vector<std::string_view> words;  // the others
    bool Has(std::string_view word) const {
      return std::find(words.begin(), words.end(), word) != words.end();
    }
  };
  Modifiers ModifiersOf(const PtxInstruction& instruction);
  void Allow(const Modifiers& modifiers, std::string_view allowed);
  void Count(const PtxInstruction& instruction, std::size_t least, std::size_t most);
  Type OneType(const Modifiers& modifiers);

  void Lower(const PtxInstruction& instruction);
  // Instead of an instruction that moves what is constant into a register that nothing else writes: the
  // register is there from the beginning. False: it is none of those.
  bool LowerAsConstant(const PtxInstruction& instruction, const Modifiers& modifiers);

  void Branch(const std::string& label);
  void Return();

  void LowerSimple(const SimpleInstruction& simple, const PtxInstruction& instruction,
                   const Modifiers& modifiers);

  // Sums of several words: add.cc, addc, ...
  void LowerCarry(const PtxInstruction& instruction, const Modifiers& modifiers);
  void LowerMatch(const PtxInstruction& instruction, const Modifiers& modifiers);
  // mov.b64 {a, b}, c, and back.
  void LowerVectorMove(const PtxInstruction& instruction, const Modifiers& modifiers);

  Space SpaceIn(const Modifiers& modifiers);
  void AllowMemory(const Modifiers& modifiers, std::string_view more = "");
  // The register, or constant, of a memory operand's address in this space; what is to be added, so that it
  // becomes a generic address, goes to the instruction.
  std::uint32_t Address(const PtxOperand& operand, Space space, Inst* inst);
  void LowerAddressConversion(const PtxInstruction& instruction, const Modifiers& modifiers);
  static bool IsOrdered(const Modifiers& modifiers);
  // Finds whether an instruction before this one, which comes to it straight, has looked at the same
  // addresses.
  void TrackRun(std::uint32_t element_bytes, Inst* inst);
  void ForgetRuns() { known_runs_.fill({}); }
  std::size_t Items(const Modifiers& modifiers, const PtxOperand& operand);

  void LowerLoad(const PtxInstruction& instruction, const Modifiers& modifiers);
  void LowerStore(const PtxInstruction& instruction, const Modifiers& modifiers);
  void LowerCompare(const PtxInstruction& instruction, const Modifiers& modifiers, bool to_predicate);
  void LowerCvt(const PtxInstruction& instruction, const Modifiers& modifiers);
  void LowerAtom(const PtxInstruction& instruction, const Modifiers& modifiers, bool returns);
  void LowerShuffle(const PtxInstruction& instruction, const Modifiers& modifiers);
  void LowerVote(const PtxInstruction& instruction, const Modifiers& modifiers);
  void LowerBarrier(const PtxInstruction& instruction, const Modifiers& modifiers);
  void LowerCall(const PtxInstruction& instruction);
  // `call`: the instruction that goes there; `may_come_back`: to the function in hand, before it returns.
  void CallWith(const std::string& name, const Callee& callee, Inst call, bool may_come_back,
                const std::vector<PtxOperand>& results, const std::vector<PtxOperand>& parameters);
  // Of where pointers to functions of this signature may lead: its number.
  std::uint32_t PointedTable(const Signature& signature);

  // Null: there is none of this name.
  const Callee::Place* FindParameter(const std::string& name) const;

  void LowerSystemCall(System system, const std::vector<PtxOperand>& operands, std::size_t at);

  static constexpr std::uint64_t kDynamic = ~std::uint64_t{0};  // where dynamic shared memory begins
  // Where the addresses of a space lie among generic ones.
  static constexpr std::uint64_t WindowOf(Space space) {
    return space == Space::kShared ? kSharedWindow : space == Space::kLocal ? kLocalWindow : 0;
  }

  struct Table {
    std::uint32_t number = 0;
    std::vector<std::string> labels;
  };

  const PtxModule& module_;
  const CallGraph& graph_;
  const Variables& variables_;
  const std::map<std::string, std::uint64_t>& functions_;
  Program program_{.register_bytes = 64};  // 0 is no register
  std::map<std::string, std::uint64_t> module_shared_;
  std::map<std::pair<std::uint64_t, bool>, std::uint32_t> constants_;
  std::vector<std::size_t> dynamic_;  // constants whose address begins where dynamic shared memory does
  std::uint32_t carry_ = 0;           // the predicate that carries are in; 0: none yet
  std::vector<Program::Frame::Register> registers_;  // all but constants, as they came
  std::map<std::string, Callee> callees_;
  std::map<Signature, Callee> pointed_places_;
  std::map<Signature, std::uint32_t> pointed_tables_;
  std::size_t depth_ = 0;  // of calls
  bool has_stack_ = false;
  std::vector<std::pair<std::size_t, std::string>> calls_;
  int line_ = 0;
  std::string shown_;
  std::optional<std::uint32_t> guard_;
  bool guard_negated_ = false;

  // Of the function in hand.
  std::vector<Scope> scopes_;
  std::map<std::string, std::uint32_t> labels_;
  std::size_t last_label_at_ = 0;
  std::vector<std::pair<std::size_t, std::pair<std::string, int>>> branches_;
  std::map<std::string, Table> tables_;
  std::vector<std::pair<std::size_t, std::string>> table_uses_;
  const PtxFunction* function_ = nullptr;
  std::uint32_t return_to_ = 0;
  std::map<std::string, Signature> prototypes_;
  std::optional<std::uint32_t> frame_;
  // Of a function that may be called again before it returns: a register, where its variables begin; their
  // bytes.
  std::uint32_t frame_at_ = 0, frame_bytes_ = 0;
  std::map<std::string, std::uint32_t> written_;  // how many instructions write each register

  // By Inst::run_slot: the register whose addresses have been looked at, for elements of this size.
  struct KnownRun {
    std::uint32_t at = 0;
    std::uint32_t element_bytes = 0;
  };
  std::array<KnownRun, kRunSlots> known_runs_{};
  std::uint8_t next_run_slot_ = 1;
};

// What a function that no module has means to the device itself (vprintf, ...).
std::optional<System> SystemNamed(std::string_view name);

}  // namespace tulle::gpu::softcuda
