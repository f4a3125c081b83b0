#include "tulle/wire/spirv.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <unordered_map>

namespace tulle::wire::opencl {
namespace {

constexpr std::uint32_t kSpirvMagic = 0x07230203;
constexpr std::size_t kHeaderBytes = 20;  // magic, version, generator, bound of ids, 0
constexpr std::uint32_t kSpecId = 1;      // the decoration

std::uint32_t WordAt(std::string_view bytes, std::size_t offset) {
  std::uint32_t word;
  std::memcpy(&word, bytes.data() + offset, sizeof word);
  return word;
}

void PutWord(std::uint32_t word, std::size_t offset, std::string* bytes) {
  std::memcpy(bytes->data() + offset, &word, sizeof word);
}

}  // namespace

SpirvOp SpirvInstruction::op() const { return static_cast<SpirvOp>(WordAt(bytes_, 0) & 0xffff); }

std::uint32_t SpirvInstruction::operand(std::uint32_t index) const {
  return index < operands() ? WordAt(bytes_, 4 * (index + std::size_t{1})) : 0;
}

std::string_view SpirvInstruction::text(std::uint32_t index) const {
  if (index >= operands()) return {};
  const std::string_view text = bytes_.substr(4 * (index + std::size_t{1}));
  const std::size_t end = text.find('\0');
  return end == std::string_view::npos ? std::string_view() : text.substr(0, end);
}

SpirvReader::SpirvReader(std::string_view module) : module_(module) {
  if (module.size() < kHeaderBytes || module.size() % 4 != 0 || !IsSpirv(module)) return;
  const std::uint32_t version = WordAt(module, 4);  // 0, major, minor, 0 from the highest byte
  well_formed_ = (version & 0xffff00ff) == 0x00010000 && WordAt(module, 16) == 0;
  offset_ = kHeaderBytes;
}

bool SpirvReader::Next(SpirvInstruction* instruction) {
  if (!well_formed_ || offset_ == module_.size()) return false;
  const std::size_t size = std::size_t{4} * (WordAt(module_, offset_) >> 16);
  if (size == 0 || size > module_.size() - offset_) {
    well_formed_ = false;
    return false;
  }
  *instruction = SpirvInstruction(module_.substr(offset_, size));
  offset_ += size;
  return true;
}

bool IsSpirv(std::string_view bytes) {
  return bytes.size() >= sizeof kSpirvMagic && WordAt(bytes, 0) == kSpirvMagic;
}

std::optional<SpirvConstants> ReadSpirvConstants(std::string_view module) {
  SpirvConstants constants;
  std::unordered_map<std::uint32_t, std::uint32_t> numbers;  // by the constant's id
  std::unordered_map<std::uint32_t, SpirvConstant> types;    // by the id of a scalar type
  SpirvReader reader(module);
  SpirvInstruction instruction;
  for (std::size_t at = reader.offset_bytes(); reader.Next(&instruction); at = reader.offset_bytes()) {
    const std::uint32_t first = instruction.operand(0);
    switch (instruction.op()) {
      case SpirvOp::kDecorate:
        if (instruction.operands() == 3 && instruction.operand(1) == kSpecId)
          numbers[first] = instruction.operand(2);
        break;
      case SpirvOp::kTypeBool: types[first] = {.size_bytes = 1, .is_bool = true}; break;
      case SpirvOp::kTypeInt:
      case SpirvOp::kTypeFloat: {
        const std::uint32_t bits = instruction.operand(1);
        const bool is_signed = instruction.op() == SpirvOp::kTypeInt && instruction.operand(2) != 0;
        if (bits == 8 || bits == 16 || bits == 32 || bits == 64)
          types[first] = {.size_bytes = bits / 8, .is_signed = is_signed};
        break;
      }
      case SpirvOp::kSpecConstantTrue:
      case SpirvOp::kSpecConstantFalse:
      case SpirvOp::kSpecConstant: {
        const auto type = types.find(first);
        const auto number = numbers.find(instruction.operand(1));
        const bool is_bool = instruction.op() != SpirvOp::kSpecConstant;
        if (number == numbers.end()) break;
        if (type == types.end() || type->second.is_bool != is_bool) return std::nullopt;
        SpirvConstant constant = type->second;
        if (instruction.operands() != 2 + (is_bool ? 0 : (constant.size_bytes + 3) / 4)) return std::nullopt;
        constant.offset_bytes = at;
        constants.emplace(number->second, constant);
        break;
      }
      default: break;
    }
  }
  if (!reader.well_formed()) return std::nullopt;
  return constants;
}

void SetSpirvConstant(const SpirvConstant& constant, ByteView value, std::string* module) {
  if (constant.is_bool) {
    const SpirvOp op = value[0] == std::byte{0} ? SpirvOp::kSpecConstantFalse : SpirvOp::kSpecConstantTrue;
    const std::uint32_t head = WordAt(*module, constant.offset_bytes) & 0xffff0000;
    PutWord(head | static_cast<std::uint32_t>(op), constant.offset_bytes, module);
    return;
  }
  // Narrow values fill the low bits of a word, the others of which repeat the sign.
  std::array<std::uint32_t, 2> words{};
  const bool is_negative = constant.is_signed && (value.back() & std::byte{0x80}) != std::byte{0};
  if (is_negative) words.fill(~std::uint32_t{0});
  std::memcpy(words.data(), value.data(), value.size());
  const std::size_t literal = constant.offset_bytes + 3 * sizeof(std::uint32_t);
  for (std::size_t i = 0; i < (value.size() + 3) / 4; ++i) PutWord(words[i], literal + 4 * i, module);
}

}  // namespace tulle::wire::opencl
