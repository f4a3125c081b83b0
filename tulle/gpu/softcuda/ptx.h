// PTX, NVIDIA's virtual instruction set, as a tree: what a text says, not yet whether it makes sense. Follows
// the "Parallel Thread Execution ISA" (docs.nvidia.com/cuda/parallel-thread-execution), versions 6 to 8, as
// LLVM's NVPTX back-end writes it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "tulle/base/result.h"

namespace tulle::gpu::softcuda {

enum class Type : std::uint8_t {
  kNone,
  kPred,
  kB8,
  kB16,
  kB32,
  kB64,
  kU8,
  kU16,
  kU32,
  kU64,
  kS8,
  kS16,
  kS32,
  kS64,
  kF16,
  kBF16,
  kF32,
  kF64,
  kF16x2,  // two in a register of 32 bits, as the next
  kBF16x2
};
// Of one element, in bytes; 0 for kNone, 1 for kPred.
std::uint32_t SizeOf(Type type);
inline bool IsFloat(Type type) { return type == Type::kF32 || type == Type::kF64; }
// Of half the usual precision, one or two.
inline bool IsHalf(Type type) {
  return type == Type::kF16 || type == Type::kBF16 || type == Type::kF16x2 || type == Type::kBF16x2;
}
// "u32": kU32; kNone when it is not a type.
Type TypeNamed(std::string_view word);

enum class Space : std::uint8_t { kGeneric, kRegister, kGlobal, kConst, kShared, kLocal, kParam };

struct PtxOperand {
  enum class Kind : std::uint8_t {
    kName,    // a register, a special register, a variable, a label or a function
    kNumber,  // bits; a float's in its own width
    kMemory,  // [name or number + offset]
    kVector,  // {items}
    kPair,    // name|items[0]: a result and a predicate
    kList     // (items): of a call
  };
  Kind kind = Kind::kName;
  std::string name;               // also of kMemory: empty when its base is a number
  bool negated = false;           // !name, or -name
  bool is_float = false;          // kNumber
  std::uint32_t float_bytes = 0;  // 4 or 8
  std::uint64_t bits = 0;
  std::int64_t offset = 0;
  std::vector<PtxOperand> items;
};

struct PtxInstruction {
  std::vector<std::string> words;  // "ld.global.f32": ld, global, f32
  std::string guard;               // a predicate register; empty: always
  bool guard_negated = false;
  std::vector<PtxOperand> operands;
};

struct PtxVariable {
  Space space = Space::kGlobal;
  Type type = Type::kNone;
  std::uint32_t align = 0;  // 0: of its type
  std::uint64_t count = 1;  // elements
  std::string name;
  std::uint32_t range = 0;  // of registers: name0 to name(range - 1); 0: the one
  bool is_external = false;
  std::vector<std::uint8_t> init;  // the first bytes; the rest is zero
  // Addresses of variables in what it is initialised with.
  struct Address {
    std::uint64_t at = 0;
    std::string name;
    std::int64_t offset = 0;
    bool generic = false;
  };
  std::vector<Address> addresses;
  std::uint64_t bytes() const { return count * SizeOf(type); }
};

struct PtxLabel {
  std::string name;
};
struct PtxScope {
  bool opens = true;
};
// name: .branchtargets of brx.idx.
struct PtxTargets {
  std::string name;
  std::vector<std::string> labels;
};
// name: .callprototype of a call through a pointer.
struct PtxPrototype {
  std::string name;
  std::vector<PtxVariable> returns, parameters;
};
struct PtxStatement {
  int line = 0;
  std::variant<PtxInstruction, PtxVariable, PtxLabel, PtxScope, PtxTargets, PtxPrototype> what;
};

struct PtxFunction {
  std::string name;
  int line = 0;
  bool is_entry = false;
  bool has_body = false;
  std::vector<PtxVariable> returns, parameters;
  std::vector<PtxStatement> body;
  std::uint32_t max_threads = 0;  // .maxntid or .reqntid, all dimensions together; 0: not said
};

struct PtxModule {
  std::uint32_t version = 0;  // 7.1: 71
  std::string target;         // "sm_70"
  std::vector<PtxFunction> functions;
  std::vector<PtxVariable> variables;  // of the module
};

// kInvalidArgument with "line N: what" for a text that is not PTX, or has what this does not read.
Result<PtxModule> ParsePtx(std::string_view text);

}  // namespace tulle::gpu::softcuda
