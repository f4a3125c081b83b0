// What executes: a warp of 32 lanes whose registers lie lane by lane, so that one instruction is a loop over
// an array, which the compiler makes vector instructions of. Lanes that go different ways are splits of the
// warp, each with a program counter and a mask; the one that is furthest behind goes on first, and splits
// that meet become one.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tulle/gpu/softcuda/memory.h"
#include "tulle/gpu/softcuda/ptx.h"

namespace tulle::gpu::softcuda {

inline constexpr std::uint32_t kLanes = 32;
inline constexpr std::uint32_t kAllLanes = 0xffff'ffff;
// Where shared and a thread's own memory are among generic addresses: where no memory of a process can be.
inline constexpr std::uint64_t kSharedWindow = 0xfff0'0000'0000'0000;
inline constexpr std::uint64_t kLocalWindow = 0xfff1'0000'0000'0000;
inline constexpr std::uint64_t kWindowBytes = 1u << 30;
inline constexpr std::uint32_t kBarriers = 16;

struct Dim3 {
  std::uint32_t x = 1, y = 1, z = 1;
  std::uint64_t all() const { return std::uint64_t{x} * y * z; }
};

// Why a kernel was stopped. The first one counts.
enum class Fault : std::uint8_t {
  kNone,
  kIllegalAddress,
  kMisaligned,
  kTrap,
  kDeadlock,
  kStopped,
  kAssert,
  kInvalidPc,     // a call through a pointer that leads to no such function
  kStackOverflow  // calls of functions within themselves are nested too deep
};

struct Warp;
struct Block;

enum class Op : std::uint8_t {
  kMov,
  kAdd,
  kSub,
  kMul,
  kMulHi,
  kMulWide,
  kMad,
  kMadHi,
  kMadWide,
  kFma,
  kDiv,
  kRem,
  kMin,
  kMax,
  kNeg,
  kAbs,
  kAnd,
  kOr,
  kXor,
  kNot,
  kCnot,
  kShl,
  kShr,
  kShfL,
  kShfR,
  kSetp,
  kSet,
  kSelp,
  kCvt,
  kPopc,
  kClz,
  kBrev,
  kBfind,
  kBfe,
  kBfi,
  kPrmt,
  kLop3,
  kRcp,
  kSqrt,
  kRsqrt,
  kSin,
  kCos,
  kEx2,
  kLg2,
  kTanh,
  kCopysign,
  kTestp,
  kSad,
  kAddCarry,
  kSubCarry,
  kMadCarry,
  kMadHiCarry,
  kLoad,
  kStore,
  kLoadParam,
  kAtom,
  kShfl,
  kVote,
  kMatch,
  kActive,
  kPack,
  kUnpack,
  kPredicate,
  kIsSpace,
  kCopyParam,
  kSystem
};
enum class Compare : std::uint8_t {
  kEq,
  kNe,
  kLt,
  kLe,
  kGt,
  kGe,
  kEqu,
  kNeu,
  kLtu,
  kLeu,
  kGtu,
  kGeu,
  kNum,
  kNan
};
enum class Join : std::uint8_t { kNone, kAnd, kOr, kXor };
enum class Rounding : std::uint8_t { kNone, kNearest, kNearestInt, kZeroInt, kDownInt, kUpInt };
// How the processor is to compute while a handler runs: rounding, or small numbers as zeros. Two flags at
// most.
enum class FloatControl : std::uint8_t {
  kNone = 0,
  kZero = 1,
  kDown = 2,
  kUp = 3,
  kRounding = 3,
  kFlush = 4
};
constexpr FloatControl operator|(FloatControl a, FloatControl b) {
  return static_cast<FloatControl>(static_cast<int>(a) | static_cast<int>(b));
}
constexpr FloatControl operator&(FloatControl a, FloatControl b) {
  return static_cast<FloatControl>(static_cast<int>(a) & static_cast<int>(b));
}
enum class AtomOp : std::uint8_t { kAdd, kMin, kMax, kAnd, kOr, kXor, kExch, kCas, kInc, kDec };
enum class Shuffle : std::uint8_t { kUp, kDown, kBfly, kIdx };
enum class System : std::uint8_t { kPrint, kAssertFail };
enum class Vote : std::uint8_t { kAll, kAny, kUni, kBallot };

struct Inst;
using Handler = void (*)(Warp& warp, const Inst& inst);

enum class Flow : std::uint8_t {
  kNext,
  kBranch,
  kTable,
  kBarrier,
  kCall,
  kCallPointer,
  kSave,
  kRestore,
  kEnter,
  kLeave,
  kReturn,
  kExit,
  kTrap
};

// Operands are places in the warp's registers, in bytes; constants have some, too.
struct Inst {
  Handler run = nullptr;    // of kNext
  Handler inner = nullptr;  // of WithFloatControl
  std::uint32_t dst = 0, a = 0, b = 0, c = 0, d = 0, dst2 = 0;
  std::uint32_t guard = ~0u;  // a predicate
  bool guard_negated = false;
  Flow flow = Flow::kNext;
  // Of the instruction, for its handler.
  std::uint8_t size = 0, count = 1;  // of memory: bytes of an element, elements
  bool ordered = false;  // of memory: volatile, relaxed, acquire, release: seen by other blocks as it is
  bool has_dst2 = false, negated = false, has_dst = true;
  Space space = Space::kGeneric;
  Type type = Type::kNone;
  Compare compare = Compare::kEq;
  Join join = Join::kNone;
  Rounding rounding = Rounding::kNone;
  FloatControl floats = FloatControl::kNone;
  bool saturates = false;
  std::uint8_t mode = 0;                 // AtomOp, Shuffle, Vote, ...
  std::array<std::uint32_t, 4> items{};  // of a vector
  std::int64_t offset = 0;               // of an address
  // Of an address: where in Warp::runs is what its lanes' addresses are to each other, and whether it is
  // known.
  std::uint8_t run_slot = 0;
  bool run_known = false;
  std::uint32_t target = 0;  // an instruction, a table, or a frame
  // From here on, so many instructions of kNext that all lanes execute.
  std::uint32_t straight = 0;
  std::uint32_t line = 0;
};

// What a lane may have in variables of its own, as CUDA has it; and in registers of functions that wait for
// calls of themselves.
inline constexpr std::uint32_t kMaxLocalBytes = 512 << 10;
// In variables of functions that may be called again before they return.
inline constexpr std::uint32_t kStackBytes = 64 << 10;

// A kernel that can be launched: its own code and that of all functions that it calls.
struct Program {
  std::string name;
  std::vector<Inst> code;
  std::uint32_t start = 0;                         // the first instruction
  std::vector<std::vector<std::uint32_t>> tables;  // of brx.idx
  // Of calls through pointers, for each signature: a function's address, and its first instruction; in order.
  std::vector<std::vector<std::pair<std::uint64_t, std::uint32_t>>> pointed;
  // What is each lane's own of a function that may be called again before it returns.
  struct Frame {
    struct Register {
      std::uint32_t at = 0, bytes = 0;  // of a lane; 0: a predicate
    };
    struct Local {
      std::uint32_t at = 0, bytes = 0;
    };
    std::vector<Register> registers;
    std::vector<Local> local;
    std::uint32_t bytes = 0;  // on the stack
  };
  std::vector<Frame> frames;
  // Registers at which launches put their values; offsets, 0: not used. In the order of kSpecialNames.
  std::array<std::uint32_t, 20> specials{};
  struct Constant {
    std::uint32_t at = 0;  // in the registers
    std::uint64_t bits = 0;
    bool wide = false;
  };
  std::vector<Constant> constants;
  // Parameters that are in registers from the beginning, as each is for all of a launch.
  struct ParameterConstant {
    std::uint32_t at = 0;  // in the registers
    std::uint32_t offset = 0;
    bool wide = false;
  };
  std::vector<ParameterConstant> parameter_constants;
  std::uint32_t register_bytes = 0;
  std::uint32_t local_bytes = 0;   // of each thread
  std::uint32_t stack_at = 0;      // in them: what is not at the same place throughout
  std::uint32_t shared_bytes = 0;  // of each block, dynamic shared memory aside
  std::uint32_t dynamic_shared_at = 0;
  std::uint32_t parameter_bytes = 0;
  struct Parameter {
    std::uint32_t offset = 0, bytes = 0;
  };
  std::vector<Parameter> parameters;
  std::uint32_t max_threads = 1024;
};

// What the addresses of lanes next to each other are.
enum class Run : std::uint8_t { kScattered, kInOrder, kSame };
inline constexpr std::size_t kRunSlots = 8;  // the first is for those that nobody asks for again

struct Split {
  std::uint32_t pc = 0;
  std::uint32_t mask = 0;
  std::int32_t barrier = -1;  // that it waits at
};

struct Warp {
  std::byte* registers = nullptr;
  std::byte* local = nullptr;  // local_bytes for each lane
  std::uint32_t active = 0;    // of the instruction in hand
  std::uint32_t alive = 0;
  std::uint32_t number = 0;  // in its block
  std::vector<Split> splits;
  std::array<std::vector<std::byte>, kLanes> stacks;  // of frames
  std::array<std::uint32_t, kLanes> stack_tops{};     // in local
  Block* block = nullptr;
  std::array<std::array<Run, 2>, kRunSlots> runs{};  // of the first and the second sixteen lanes

  template <typename T>
  T* Reg(std::uint32_t at) {
    return reinterpret_cast<T*>(registers + at);
  }
};

struct Block {
  Dim3 index;
  const std::function<void(std::string_view)>* print = nullptr;  // null: nowhere
  const Program* program = nullptr;
  DeviceMemory* memory = nullptr;
  const std::byte* parameters = nullptr;
  std::byte* shared = nullptr;
  std::uint32_t shared_bytes = 0;
  Fault fault = Fault::kNone;
  std::uint64_t fault_address = 0;
  std::uint32_t fault_line = 0;

  void Stop(Fault why, std::uint64_t address, std::uint32_t line) {
    if (fault != Fault::kNone) return;
    fault = why;
    fault_address = address;
    fault_line = line;
  }
};

// What an instruction is, for the choice of its handler.
struct Spec {
  Op op;
  Type type = Type::kNone;
  Type type2 = Type::kNone;
  std::uint8_t mode = 0;
  std::uint32_t step = 0;  // of kShfl: lanes, the same for all and across the whole warp; 0: whatever
};

// The handlers for the processor that this runs on; null: there is no such instruction.
Handler FindHandler(const Spec& spec);
// Runs inst.inner with inst.floats: the same for any processor whose control it knows, as of now x86's. On
// others roundings are to the nearest, and small numbers stay.
void WithFloatControl(Warp& warp, const Inst& inst);
// Of kSystem, for any processor.
Handler SystemCall(std::uint8_t which);

}  // namespace tulle::gpu::softcuda
