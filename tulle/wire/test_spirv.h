// A module in SPIR-V, put together by hand, for tests of what takes one.
#pragma once

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <string>

namespace tulle::wire::opencl::testing {

class SpirvWriter {
 public:
  explicit SpirvWriter(std::uint32_t bound) { Words({0x07230203, 0x00010000, 0, bound, 0}); }

  // An instruction: operands, then text if it is not null, then more operands.
  SpirvWriter& Add(std::uint32_t op, std::initializer_list<std::uint32_t> operands,
                   const char* text = nullptr, std::initializer_list<std::uint32_t> more = {}) {
    const std::size_t text_words = text == nullptr ? 0 : std::strlen(text) / 4 + 1;
    const std::size_t count = 1 + operands.size() + text_words + more.size();
    Words({static_cast<std::uint32_t>(count << 16) | op});
    Words(operands);
    if (text != nullptr) {
      bytes_ += text;
      bytes_.append(4 - std::strlen(text) % 4, '\0');
    }
    Words(more);
    return *this;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  void Words(std::initializer_list<std::uint32_t> words) {
    for (const std::uint32_t word : words) bytes_.append(reinterpret_cast<const char*>(&word), sizeof word);
  }
  std::string bytes_;
};

// kernel void null_add_constant(global uint* data): data[get_global_id(0)] += specialization constant 0, a
// uint that is 1 otherwise. Unused constants: 1 a bool, 2 a short, 3 a ulong.
inline std::string AddConstantModule() {
  constexpr std::uint32_t kVoid = 1, kUint = 2, kUlong = 3, kUlong3 = 4, kInputPointer = 5,
                          kGlobalPointer = 6, kFunction = 7, kGlobalId = 8, kConstant = 9, kKernel = 10,
                          kData = 11, kLabel = 12, kIds = 13, kId = 14, kElement = 15, kOld = 16, kNew = 17,
                          kBool = 18, kShort = 19, kUnusedBool = 20, kUnusedShort = 21, kUnusedUlong = 22;
  SpirvWriter module(23);
  for (const std::uint32_t capability : {4, 6, 11, 22})
    module.Add(17, {capability});                                  // .., Kernel, Int64, Int16
  module.Add(14, {2, 2});                                          // OpMemoryModel Physical64 OpenCL
  module.Add(15, {6, kKernel}, "null_add_constant", {kGlobalId});  // OpEntryPoint Kernel
  module.Add(71, {kGlobalId, 11, 28});                             // OpDecorate BuiltIn GlobalInvocationId
  module.Add(71, {kConstant, 1, 0});                               // OpDecorate SpecId
  module.Add(71, {kUnusedBool, 1, 1}).Add(71, {kUnusedShort, 1, 2}).Add(71, {kUnusedUlong, 1, 3});
  module.Add(19, {kVoid}).Add(20, {kBool});                                          // OpTypeVoid, OpTypeBool
  module.Add(21, {kUint, 32, 0}).Add(21, {kUlong, 64, 0}).Add(21, {kShort, 16, 0});  // OpTypeInt
  module.Add(23, {kUlong3, kUlong, 3});                                              // OpTypeVector
  module.Add(32, {kInputPointer, 1, kUlong3}).Add(32, {kGlobalPointer, 5, kUint});   // OpTypePointer
  module.Add(33, {kFunction, kVoid, kGlobalPointer});                                // OpTypeFunction
  module.Add(50, {kUint, kConstant, 1}).Add(48, {kBool, kUnusedBool});               // OpSpecConstant, ..True
  module.Add(50, {kShort, kUnusedShort, 2}).Add(50, {kUlong, kUnusedUlong, 3, 4});
  module.Add(59, {kInputPointer, kGlobalId, 1});                                    // OpVariable
  module.Add(54, {kVoid, kKernel, 0, kFunction}).Add(55, {kGlobalPointer, kData});  // OpFunction, ..Parameter
  module.Add(248, {kLabel});                                                        // OpLabel
  module.Add(61, {kUlong3, kIds, kGlobalId, 2, 32})
      .Add(81, {kUlong, kId, kIds, 0});                    // OpLoad, OpCompositeExtract
  module.Add(70, {kGlobalPointer, kElement, kData, kId});  // OpInBoundsPtrAccessChain
  module.Add(61, {kUint, kOld, kElement, 2, 4}).Add(128, {kUint, kNew, kOld, kConstant});  // OpIAdd
  module.Add(62, {kElement, kNew, 2, 4}).Add(253, {}).Add(56, {});  // OpStore, OpReturn, OpFunctionEnd
  return module.bytes();
}

}  // namespace tulle::wire::opencl::testing
