// Makes of a kernel's tree what executes: resolves names, gives registers and variables their places, and
// chooses a handler for each instruction.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

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
  Lowering(const PtxModule& module, const std::map<std::string, const PtxFunction*>& functions,
           const Variables& variables)
      : module_(module), functions_(functions), variables_(variables) {}

  Program Kernel(const PtxFunction& kernel);

 private:
  enum class Width : std::uint8_t { kPredicate, k32, k64 };
  struct Register {
    std::uint32_t at = 0;  // 0: it has not been used yet
    Width width = Width::k32;
    bool is_constant = false;  // the same throughout a launch, in each thread
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
    std::map<std::string, Callee::Place> locals;
    std::map<std::string, Callee::Place> parameters;  // of calls and of functions: in the thread's own memory
    std::map<std::string, Callee::Place> kernel_parameters;  // of a kernel
    std::map<std::string, std::uint64_t> shared;
  };
  // Where a name's memory is: an offset in shared or local memory, else an address. `at` may be kDynamic.
  struct Named {
    std::uint64_t at = 0;
    Space space = Space::kGeneric;
  };

  [[noreturn]] void Fail(const std::string& what) const { throw Problem{line_, what}; }

  // ---- room

  std::uint32_t Allocate(Width width);
  static Width WidthOf(Type type) {
    return type == Type::kPred ? Width::kPredicate : SizeOf(type) == 8 ? Width::k64 : Width::k32;
  }
  Callee::Place Local(const PtxVariable& variable);
  std::uint64_t Shared(const PtxVariable& variable, int line);

  std::uint32_t Constant(std::uint64_t bits, bool wide);

  // ---- functions

  const Callee& Function(const PtxFunction& function);

  void Parameter(const PtxFunction& function, const PtxVariable& parameter,
                 std::vector<Callee::Place>* places);

  // ---- statements

  void Lower(const PtxScope& scope);
  void Lower(const PtxLabel& label);
  void Lower(const PtxTargets& targets);
  void Lower(const PtxVariable& variable);

  // ---- operands

  Register* Declared(const std::string& name);
  // The same, with a place.
  Register* FindRegister(const std::string& name);
  std::optional<Named> FindNamed(const std::string& name);
  const Callee::Place* FindKernelParameter(const std::string& name) const;
  // `offset` beyond what is named: a generic address with `offset` from WindowOf its space.
  std::uint32_t AddressConstant(const Named& named, std::uint64_t offset, bool wide);
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
  const std::map<std::string, const PtxFunction*>& functions_;
  const Variables& variables_;
  Program program_{.register_bytes = 64};  // 0 is no register
  std::map<std::string, std::uint64_t> module_shared_;
  std::map<std::pair<std::uint64_t, bool>, std::uint32_t> constants_;
  std::vector<std::size_t> dynamic_;  // constants whose address begins where dynamic shared memory does
  std::uint32_t carry_ = 0;           // the predicate that carries are in; 0: none yet
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
  std::size_t last_label_at_ = 0;
  std::vector<std::pair<std::size_t, std::pair<std::string, int>>> branches_;
  std::map<std::string, Table> tables_;
  std::vector<std::pair<std::size_t, std::string>> table_uses_;
  std::uint32_t return_to_ = 0;
  bool in_kernel_ = false;
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
