// What kernels may ask of the device beside computing: to print, and to stop because an assertion failed.
#include <bit>
#include <cstring>

#include "tulle/gpu/softcuda/machine.h"
#include "tulle/gpu/softcuda/printing.h"

namespace tulle::gpu::softcuda {
namespace {

// Generic addresses of one thread.
bool Read(const Warp& warp, std::uint32_t lane, std::uint64_t address, void* to, std::size_t bytes) {
  const Block& block = *warp.block;
  const std::byte* from = nullptr;
  if (address < kSharedWindow) {
    if (block.memory->Holds(address, bytes)) from = reinterpret_cast<const std::byte*>(address);
  } else if (address - kSharedWindow < kWindowBytes) {
    const std::uint64_t at = address - kSharedWindow;
    if (at + bytes <= block.shared_bytes) from = block.shared + at;
  } else if (address - kLocalWindow < kWindowBytes) {
    const std::uint64_t at = address - kLocalWindow, local_bytes = block.program->local_bytes;
    if (at + bytes <= local_bytes) from = warp.local + lane * local_bytes + at;
  }
  if (from != nullptr) std::memcpy(to, from, bytes);
  return from != nullptr;
}

template <typename T>
T* Parameter(const Warp& warp, std::uint32_t lane, std::uint32_t at) {
  return reinterpret_cast<T*>(warp.local + lane * std::uint64_t{warp.block->program->local_bytes} + at);
}

template <typename F>
void EachActive(const Warp& warp, F&& f) {
  for (std::uint32_t rest = warp.active; rest != 0; rest &= rest - 1)
    f(static_cast<std::uint32_t>(std::countr_zero(rest)));
}

// int vprintf(const char* format, const void* arguments), at `a` and `b` of the thread's own memory; the
// result to `c`, if any (has_dst2).
void Print(Warp& warp, const Inst& inst) {
  EachActive(warp, [&](std::uint32_t lane) {
    const ReadMemory read = [&](std::uint64_t address, void* to, std::size_t bytes) {
      return Read(warp, lane, address, to, bytes);
    };
    std::string text;
    std::int32_t count = -1;
    const auto format = *Parameter<std::uint64_t>(warp, lane, inst.a);
    if (!FormatPrinted(read, format, *Parameter<std::uint64_t>(warp, lane, inst.b), &text, &count))
      return warp.block->Stop(Fault::kIllegalAddress, format, inst.line);
    if (warp.block->print != nullptr) (*warp.block->print)(text);
    if (inst.has_dst2) *Parameter<std::int32_t>(warp, lane, inst.c) = count;
  });
}

// void __assertfail(const char* message, const char* file, unsigned line, const char* function, size_t): `a`
// to `d`.
void FailAssertion(Warp& warp, const Inst& inst) {
  EachActive(warp, [&](std::uint32_t lane) {
    const ReadMemory read = [&](std::uint64_t address, void* to, std::size_t bytes) {
      return Read(warp, lane, address, to, bytes);
    };
    std::string message, file, function;
    const auto text = [&](std::uint32_t at, std::string* out) {
      if (!ReadText(read, *Parameter<std::uint64_t>(warp, lane, at), out)) *out = "?";
    };
    text(inst.a, &message);
    text(inst.b, &file);
    text(inst.d, &function);
    if (warp.block->print != nullptr) {
      const Dim3& block = warp.block->index;
      (*warp.block->print)(file + ":" + std::to_string(*Parameter<std::uint32_t>(warp, lane, inst.c)) + ": " +
                           function + ": block: [" + std::to_string(block.x) + "," + std::to_string(block.y) +
                           "," + std::to_string(block.z) + "], thread: [" +
                           std::to_string(warp.number * kLanes + lane) + "] Assertion `" + message +
                           "` failed.\n");
    }
    warp.block->Stop(Fault::kAssert, 0, inst.line);
  });
}

}  // namespace

Handler SystemCall(std::uint8_t which) {
  switch (static_cast<System>(which)) {
    case System::kPrint: return &Print;
    case System::kAssertFail: return &FailAssertion;
  }
  return nullptr;
}

}  // namespace tulle::gpu::softcuda
