// Modules and launches on memory of a device, for tests.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "tulle/base/random.h"
#include "tulle/gpu/softcuda/module.h"

namespace tulle::gpu::softcuda {

inline constexpr std::uint64_t kDeviceBytes = 256 << 20;

class SoftCudaTest : public ::testing::Test {
 protected:
  void Load(const std::string& text) {
    auto loaded = Module::Load(text, *memory_);
    ASSERT_TRUE(loaded.ok()) << loaded.error().message;
    module_ = *std::move(loaded);
  }
  std::string Refusal(const std::string& text) {
    const auto loaded = Module::Load(text, *memory_);
    return loaded.ok() ? "" : loaded.error().message;
  }

  template <typename T>
  T* Device(const std::vector<T>& values) {
    auto* const device =
        reinterpret_cast<T*>(*memory_->Allocate(std::max<std::size_t>(values.size(), 1) * sizeof(T)));
    std::copy(values.begin(), values.end(), device);
    return device;
  }
  template <typename T>
  static void Append(ByteVector* bytes, T value) {
    while (bytes->size() % sizeof value != 0) bytes->push_back(std::byte{0});
    const auto* const begin = reinterpret_cast<const std::byte*>(&value);
    bytes->insert(bytes->end(), begin, begin + sizeof value);
  }
  template <typename... Args>
  LaunchEnd Start(const std::string& name, Dim3 grid, Dim3 block, Args... args) {
    ByteVector parameters;
    (Append(&parameters, args), ...);
    const Program* program = module_->FindKernel(name);
    if (program == nullptr) {
      ADD_FAILURE() << "no kernel " << name;
      return {};
    }
    auto end = RunKernel(*program, *memory_,
                         {.grid = grid,
                          .block = block,
                          .dynamic_shared_bytes = dynamic_,
                          .parameters = parameters,
                          .threads = threads_.get(),
                          .stop = &stop_});
    EXPECT_TRUE(end.ok()) << end.error().message;
    return end.ok() ? *end : LaunchEnd();
  }
  template <typename... Args>
  void Launch(const std::string& name, Dim3 grid, Dim3 block, Args... args) {
    const LaunchEnd end = Start(name, grid, block, args...);
    EXPECT_EQ(end.fault, Fault::kNone)
        << name << " at line " << end.line << ", address " << std::hex << end.address;
  }

  std::unique_ptr<DeviceMemory> memory_ = *DeviceMemory::Reserve(kDeviceBytes);
  std::unique_ptr<Module> module_;
  SeededRandom random_{7};
  std::uint32_t dynamic_ = 0;
  std::unique_ptr<HostThreads> threads_ = std::make_unique<HostThreads>(2);
  std::atomic<bool> stop_{false};
};

// A kernel "k" of two addresses, with these instructions.
inline std::string Kernel(const std::string& registers, const std::string& body) {
  return ".version 7.1\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 in, .param .u64 out) "
         "{\n" +
         registers + body + "ret;\n}\n";
}

}  // namespace tulle::gpu::softcuda
