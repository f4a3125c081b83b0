// The little of SPIR-V that must be known of a module to hand it on: that its instructions follow each other
// to its end, and its specialization constants. These are set by changing the module itself (their
// instructions hold what they are otherwise), so that any driver that takes modules will do. Any bytes may be
// given.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "tulle/base/bytes.h"

namespace tulle::wire::opencl {

// Operation codes, as SPIR-V numbers them.
enum class SpirvOp : std::uint16_t {
  kEntryPoint = 15,
  kTypeBool = 20,
  kTypeInt = 21,
  kTypeFloat = 22,
  kTypePointer = 32,
  kTypeFunction = 33,
  kSpecConstantTrue = 48,
  kSpecConstantFalse = 49,
  kSpecConstant = 50,
  kFunction = 54,
  kDecorate = 71,
};

// A view into its module.
class SpirvInstruction {
 public:
  SpirvInstruction() = default;
  explicit SpirvInstruction(std::string_view bytes) : bytes_(bytes) {}

  SpirvOp op() const;
  // Words behind the first one.
  std::uint32_t operands() const { return static_cast<std::uint32_t>(bytes_.size() / 4 - 1); }
  std::uint32_t operand(std::uint32_t index) const;  // 0 when there are fewer
  // The text that begins with this operand; empty when it does not end.
  std::string_view text(std::uint32_t index) const;

 private:
  std::string_view bytes_;
};

class SpirvReader {
 public:
  explicit SpirvReader(std::string_view module);
  // From an instruction of a module that was read before.
  SpirvReader(std::string_view module, std::size_t offset_bytes) : SpirvReader(module) {
    offset_ = offset_bytes;
  }
  // The next instruction. False at the end, and where the module is malformed.
  bool Next(SpirvInstruction* instruction);
  bool well_formed() const { return well_formed_; }     // as far as it was read
  std::size_t offset_bytes() const { return offset_; }  // where the next instruction is

 private:
  const std::string_view module_;
  std::size_t offset_ = 0;
  bool well_formed_ = false;
};

// A scalar whose value is chosen before the module is compiled.
struct SpirvConstant {
  std::size_t offset_bytes = 0;  // of its instruction
  std::uint32_t size_bytes = 0;  // of its value: 1 (also a bool, 0 or not), 2, 4 or 8
  bool is_bool = false;
  bool is_signed = false;
};
// By their numbers (SpecId). A number may stand for several.
using SpirvConstants = std::multimap<std::uint32_t, SpirvConstant>;

// Whether it begins as modules do, which is how one is told from source. Little-endian, as devices here are.
bool IsSpirv(std::string_view bytes);

// None when the bytes are no module.
std::optional<SpirvConstants> ReadSpirvConstants(std::string_view module);

// Precondition: `constant` is this module's, `value` has its size.
void SetSpirvConstant(const SpirvConstant& constant, ByteView value, std::string* module);

}  // namespace tulle::wire::opencl
