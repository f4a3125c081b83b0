// PTX of any kind, in a fatbin or not: it is refused with a line, or each of its kernels runs for a while,
// and touches nothing but the device's memory, of which nothing is left over.
#include <atomic>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "fuzz/target.h"
#include "tulle/base/random.h"
#include "tulle/gpu/cuda_image/fatbin.h"
#include "tulle/gpu/cuda_image/variables.h"
#include "tulle/gpu/softcuda/module.h"

namespace {

using namespace tulle;
using namespace tulle::gpu::softcuda;
namespace cuda_image = tulle::gpu::cuda_image;

constexpr std::uint64_t kDeviceBytes = 16 << 20;
constexpr std::size_t kLargest = 4 << 20;  // of what a kernel may take of the host for one block

// The texts that the tests have, function by function.
const std::vector<std::string>& Known() {
  static const auto* const known = [] {
    std::ifstream file(TULLE_SOFTCUDA_KERNELS);
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    auto* const parts = new std::vector<std::string>;
    const std::string head =
        ".version 6.4\n.target sm_70\n.address_size 64\n.extern .shared .align 4 .b8 scratch[];\n"
        ".const .align 4 .b8 primes[32] = {2};\n.global .u32 counter;\n.global .u64 pointer_to_counter = "
        "counter;\n";
    for (std::size_t at = 0; (at = text.find(".visible .entry", at)) != std::string::npos; ++at) {
      parts->push_back(head + text.substr(at, text.find("\n}\n", at) + 3 - at));
    }
    return parts;
  }();
  return *known;
}

// What instructions are made of, for new ones.
constexpr const char* kWords[] = {"add",
                                  "mul",
                                  "mad",
                                  "addc",
                                  "madc",
                                  "match.any",
                                  "setp",
                                  "selp",
                                  "cvt",
                                  "mov",
                                  "ld",
                                  "st",
                                  "atom",
                                  "shfl",
                                  "vote",
                                  "bar",
                                  "bra",
                                  "brx",
                                  "call",
                                  "ret",
                                  "exit",
                                  "bfe",
                                  "bfi",
                                  "prmt",
                                  "shl",
                                  "shr",
                                  ".u8",
                                  ".u16",
                                  ".s32",
                                  ".u64",
                                  ".f32",
                                  ".f64",
                                  ".f16",
                                  ".bf16x2",
                                  ".pred",
                                  ".b32",
                                  ".lo",
                                  ".hi",
                                  ".wide",
                                  ".sync",
                                  ".global",
                                  ".shared",
                                  ".local",
                                  ".param",
                                  ".v2",
                                  ".v4",
                                  ".rn",
                                  ".rzi",
                                  ".rz",
                                  ".ftz",
                                  ".sat",
                                  ".cc",
                                  "%r1",
                                  "%r2",
                                  "%rd1",
                                  "%rd2",
                                  "%f1",
                                  "%p1",
                                  "%tid.x",
                                  "[%rd1]",
                                  "[%rd1+4]",
                                  "{%r1, %r2}",
                                  "{",
                                  "}",
                                  "(",
                                  ")",
                                  "<",
                                  ">",
                                  "@%p1",
                                  "@!%p1",
                                  ",",
                                  ";",
                                  ":",
                                  "-1",
                                  "0",
                                  "31",
                                  "0f3F800000",
                                  "0xffffffffffffffff",
                                  ".reg .b32 %r<4>;",
                                  ".local .b8 depot[16];",
                                  ".shared .b8 s[16];",
                                  "scratch",
                                  "counter",
                                  "LBB0_1",
                                  "LBB0_2"};

// As it is, or as LZ4 or Zstandard would have to have it.
std::string InFatbin(const std::string& text, Random& random) {
  const std::uint64_t bytes = (text.size() + 7) / 8 * 8, flags = random.Below(4) == 0 ? 0x2011 : 0x11;
  const std::uint64_t words[] = {16ull << 48 | 1ull << 32 | 0xba55'ed50,
                                 64 + bytes,
                                 64ull << 32 | 0x0101'0001,
                                 bytes,
                                 64ull << 32 | (flags == 0x11 ? 0 : text.size()),
                                 (50 + random.Below(40)) << 32,
                                 0,
                                 flags,
                                 0,
                                 random.Below(5000)};
  std::string fatbin(reinterpret_cast<const char*>(words), sizeof words);
  return fatbin + text + std::string(bytes - text.size(), '\0');
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::unique_ptr<DeviceMemory> memory = *DeviceMemory::Reserve(kDeviceBytes);
  static const std::uint64_t buffer = *memory->Allocate(64 << 10);
  static const std::uint64_t free_bytes = memory->free_bytes();
  std::string text(reinterpret_cast<const char*>(data), size);
  const auto variable_bytes = cuda_image::VariableBytes(AsBytes(text));
  if (const ByteView image = AsBytes(text); cuda_image::IsFatbin(image)) {
    auto ptx = cuda_image::PtxIn(image, 70);
    fuzz::Require(ptx.ok() || !ptx.error().message.empty(), "a fatbin is refused without a reason");
    if (!ptx.ok()) return 0;
    text = *std::move(ptx);
  }
  {
    const auto module = Module::Load(text, *memory);
    if (!module.ok()) {
      const bool is_told =
          module.error().code == Code::kInvalidArgument || module.error().code == Code::kResourceExhausted;
      fuzz::Require(is_told && !module.error().message.empty(), "a text is refused without a reason");
    } else {
      std::uint64_t used_bytes = 0;
      for (const auto& [name, variable] : (*module)->variables()) used_bytes += variable.bytes;
      fuzz::Require(variable_bytes.ok() && *variable_bytes >= used_bytes,
                    "a module's variables are not counted");
      for (const auto& [name, program] : (*module)->kernels()) {
        if (std::size_t{program.register_bytes} * 2 + std::size_t{program.local_bytes} * 64 > kLargest)
          continue;
        ByteVector parameters(program.parameter_bytes);
        for (std::size_t at = 0; at + sizeof buffer <= parameters.size(); at += sizeof buffer)
          std::memcpy(&parameters[at], &buffer, sizeof buffer);
        const std::atomic<bool> stop{true};  // at the first look, some thousand instructions later
        const auto end = RunKernel(program, *memory,
                                   {.grid = {2},
                                    .block = {48 < program.max_threads ? 48 : program.max_threads},
                                    .dynamic_shared_bytes = 64,
                                    .parameters = parameters,
                                    .stop = &stop});
        fuzz::Require(end.ok() || end.error().code == Code::kInvalidArgument, "a launch fails for no reason");
      }
    }
  }
  fuzz::Require(memory->free_bytes() == free_bytes, "a module leaves memory behind");
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
  SeededRandom random(seed);
  if (size != 0 && random.Below(4) == 0) return LLVMFuzzerMutate(data, size, max_size);
  std::string text(reinterpret_cast<const char*>(data), size);
  if (text.size() < 40 || random.Below(8) == 0) text = Known()[random.Below(Known().size())];
  for (std::uint64_t changes = 1 + random.Below(2); changes > 0 && !text.empty(); --changes) {
    // At the beginning of a line, or of a word.
    std::size_t at = text.find_first_of(random.Below(2) == 0 ? "\n" : " \t,.", random.Below(text.size()));
    at = at == std::string::npos ? 0 : at + 1;
    const std::size_t end = std::min(text.find_first_of(" \t,;.\n", at), text.size());
    const std::string word = kWords[random.Below(std::size(kWords))];
    switch (random.Below(5)) {
      case 0: text.insert(at, word + " "); break;
      case 1: text.replace(at, end - at, word); break;
      case 2: text.erase(at, end - at); break;
      case 3: {  // a line once more, elsewhere
        const std::size_t line = std::min(text.find('\n', at), text.size());
        const std::string copy = text.substr(at, line - at) + "\n";
        text.insert(std::min(text.find('\n', random.Below(text.size())), text.size() - 1) + 1, copy);
        break;
      }
      default: text.erase(at, std::min(text.find('\n', at), text.size()) - at); break;
    }
  }
  if (random.Below(8) == 0) text = InFatbin(text, random);
  const std::size_t made = std::min(text.size(), max_size);
  std::memcpy(data, text.data(), made);
  return made;
}
