// A device that is only memory: the whole contract of gpu/api without a driver, a thread or a clock. Unit
// tests, simulation and fuzzers run on it; it takes any bytes that decode, however absurd.
//
// Buffers and images are real; samplers are names. Programs are text: one that holds kernels ("kernel void
// name(...)") has exactly those, with arguments as declared; any other text is a program in which every
// kernel exists and takes anything; text with "#error" in it does not build. Kernels do nothing, but for
// these (64-bit global id i, only elements that exist):
//   null_add(global uint* data, uint value)   data[i] += value
//   null_mul(global uint* data, uint value)   data[i] *= value
//   null_add_constant(global uint* data)      data[i] += null_constant, of "constant uint null_constant = 5;"
//   null_copy_image(read_only image2d_t source, write_only image2d_t target, ...)
//                                             pixel (x, y) of the one to the other, in the same format
// Written out in OpenCL C they mean the same to any other backend. Programs of SPIR-V have the kernels that
// their entry points name, of which the device knows the same by their names; null_constant is there the
// specialization constant 0. Kernels of any size run in sub-groups of 32.
#pragma once

#include <memory>

#include "tulle/gpu/api/backend.h"

namespace tulle::gpu::null {

struct Options {
  std::uint64_t memory_bytes = 1u << 30;  // of all live buffers together
  std::uint64_t max_allocation_bytes = 256u << 20;
  // Commands are carried out only by SteppedBackend::Step. Otherwise each runs during the Submit that makes
  // it ready.
  bool stepped = false;
  // Fails this many of a million commands, half when they are submitted and half when they run.
  std::uint32_t failures_per_million = 0;
  std::uint64_t seed = 0;  // which ones
};

// All methods are called by the thread that submits; completions are reported during those calls.
class SteppedBackend : public Backend {
 public:
  // Carries out one command that may run (of the queue that has waited longest); false when there is none.
  virtual bool Step() = 0;
  // Commands that have been accepted and have not run.
  virtual std::size_t waiting() const = 0;
};

// Commands that may wait at once; one more fails with CL_OUT_OF_RESOURCES.
inline constexpr std::size_t kMaxWaiting = 4096;

std::unique_ptr<SteppedBackend> MakeBackend(const Options& options, Completions* completions);

// One device, "tulle null device".
std::unique_ptr<Driver> OpenDriver(const Options& options = {});

}  // namespace tulle::gpu::null
