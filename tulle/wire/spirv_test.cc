#include "tulle/wire/spirv.h"

#include <gtest/gtest.h>

#include <cstring>

#include "tulle/base/random.h"
#include "tulle/wire/test_spirv.h"

namespace tulle::wire::opencl {
namespace {

using testing::AddConstantModule;
using testing::SpirvWriter;

template <typename T>
void Set(std::uint32_t number, T value, std::string* module) {
  const auto constants = ReadSpirvConstants(*module);
  ASSERT_TRUE(constants.has_value());
  const auto found = constants->find(number);
  ASSERT_NE(found, constants->end());
  ASSERT_EQ(found->second.size_bytes, sizeof value);
  SetSpirvConstant(found->second, std::as_bytes(std::span(&value, 1)), module);
}

TEST(SpirvTest, FindsTheConstants) {
  const auto constants = ReadSpirvConstants(AddConstantModule());
  ASSERT_TRUE(constants.has_value());
  std::map<std::uint32_t, std::uint32_t> sizes;
  for (const auto& [number, constant] : *constants) sizes[number] = constant.size_bytes;
  EXPECT_EQ(sizes, (std::map<std::uint32_t, std::uint32_t>{{0, 4}, {1, 1}, {2, 2}, {3, 8}}));
  EXPECT_TRUE(constants->find(1)->second.is_bool);
}

TEST(SpirvTest, SetsTheConstants) {
  std::string module = AddConstantModule();
  Set(0, std::uint32_t{0x12345678}, &module);
  Set(1, std::uint8_t{0}, &module);
  Set(3, std::uint64_t{0x1122334455667788}, &module);
  std::map<std::uint32_t, SpirvInstruction> constants;  // by their id
  SpirvReader reader(module);
  for (SpirvInstruction instruction; reader.Next(&instruction);) {
    const auto op = instruction.op();
    if (op == SpirvOp::kSpecConstant || op == SpirvOp::kSpecConstantTrue || op == SpirvOp::kSpecConstantFalse)
      constants[instruction.operand(1)] = instruction;
  }
  EXPECT_TRUE(reader.well_formed());
  ASSERT_EQ(constants.size(), 4u);
  EXPECT_EQ(constants[9].operand(2), 0x12345678u);
  EXPECT_EQ(constants[20].op(), SpirvOp::kSpecConstantFalse);
  EXPECT_EQ(constants[21].operand(2), 2u);  // left alone
  EXPECT_EQ(constants[22].operand(2), 0x55667788u);
  EXPECT_EQ(constants[22].operand(3), 0x11223344u);
  Set(1, std::uint8_t{7}, &module);
  Set(0, std::uint32_t{1}, &module);
  Set(3, std::uint64_t{0x400000003}, &module);
  EXPECT_EQ(module, AddConstantModule());
}

TEST(SpirvTest, NarrowValuesRepeatTheirSign) {
  for (const bool is_signed : {false, true}) {
    SpirvWriter writer(3);
    writer.Add(71, {2, 1, 5}).Add(21, {1, 16, is_signed ? 1u : 0u}).Add(50, {1, 2, 0});
    std::string module = writer.bytes();
    Set(5, std::int16_t{-2}, &module);
    std::uint32_t last;
    std::memcpy(&last, module.data() + module.size() - 4, 4);
    EXPECT_EQ(last, is_signed ? 0xfffffffeu : 0xfffeu);
  }
}

TEST(SpirvTest, OneNumberMayStandForSeveral) {
  SpirvWriter writer(4);
  writer.Add(71, {2, 1, 5}).Add(71, {3, 1, 5}).Add(21, {1, 32, 0}).Add(50, {1, 2, 0}).Add(50, {1, 3, 0});
  const auto constants = ReadSpirvConstants(writer.bytes());
  ASSERT_TRUE(constants.has_value());
  EXPECT_EQ(constants->count(5), 2u);
}

TEST(SpirvTest, RefusesWhatIsNoModule) {
  const std::string module = AddConstantModule();
  EXPECT_TRUE(IsSpirv(module));
  EXPECT_FALSE(IsSpirv("kernel void f() {}"));
  for (const std::size_t place : {0, 4, 7, 16}) {  // the magic number, the version, what must be 0
    std::string wrong = module;
    wrong[place] ^= '\x40';
    EXPECT_FALSE(ReadSpirvConstants(wrong).has_value()) << place;
  }
  // A constant of no type, of the wrong one, of another length than its type's.
  EXPECT_FALSE(ReadSpirvConstants(SpirvWriter(3).Add(71, {2, 1, 5}).Add(50, {1, 2, 0}).bytes()).has_value());
  EXPECT_FALSE(ReadSpirvConstants(SpirvWriter(3).Add(71, {2, 1, 5}).Add(20, {1}).Add(50, {1, 2, 0}).bytes())
                   .has_value());
  EXPECT_FALSE(
      ReadSpirvConstants(SpirvWriter(3).Add(71, {2, 1, 5}).Add(21, {1, 64, 0}).Add(50, {1, 2, 0}).bytes())
          .has_value());
  EXPECT_FALSE(
      ReadSpirvConstants(SpirvWriter(3).Add(71, {2, 1, 5}).Add(21, {1, 32, 0}).Add(50, {1, 2}).bytes())
          .has_value());
}

// Reads whatever is there, and nothing else: the copies are as long as what is read.
void ReadAll(std::string_view bytes) {
  const std::vector<char> copy(bytes.begin(), bytes.end());
  const std::string_view module(copy.data(), copy.size());
  SpirvReader reader(module);
  for (SpirvInstruction instruction; reader.Next(&instruction);) {
    for (std::uint32_t i = 0; i <= instruction.operands(); ++i) {
      instruction.operand(i);
      instruction.text(i);
    }
  }
  const auto constants = ReadSpirvConstants(module);
  if (!constants.has_value()) return;
  std::string changed(module);
  const std::uint64_t value = ~std::uint64_t{0};
  for (const auto& [number, constant] : *constants) {
    ASSERT_LE(constant.offset_bytes + 12, changed.size());
    SetSpirvConstant(constant, std::as_bytes(std::span(&value, 1)).first(constant.size_bytes), &changed);
  }
}

TEST(SpirvTest, TakesAnyBytes) {
  const std::string module = AddConstantModule();
  for (std::size_t size = 0; size <= module.size(); ++size) ReadAll(std::string_view(module).substr(0, size));
  SeededRandom random(1);
  for (int i = 0; i < 20000; ++i) {
    std::string broken = module;
    for (std::uint64_t n = 1 + random.Below(4); n > 0; --n)
      broken[random.Below(broken.size())] = static_cast<char>(random.Below(256));
    ReadAll(broken);
  }
}

}  // namespace
}  // namespace tulle::wire::opencl
