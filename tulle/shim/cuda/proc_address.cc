// All functions by name: twins, those that there is nothing behind, and cuGetProcAddress.
#include <algorithm>
#include <string_view>

#include "tulle/shim/cuda/driver.h"

using namespace tulle::shim::cuda;  // NOLINT

extern "C" {

#define TULLE_CUDA_FUNCTION(name, suffix, since, parameters)
#define TULLE_CUDA_STREAM_FUNCTION(name, suffix, since, twin, parameters, arguments) \
  CUresult name##suffix##twin parameters {                                           \
    const PerThreadDefault of_thread;                                                \
    return name##suffix arguments;                                                   \
  }
#include "tulle/cuda/functions.inc"
#undef TULLE_CUDA_FUNCTION
#undef TULLE_CUDA_STREAM_FUNCTION

#define TULLE_CUDA_UNSUPPORTED(name) \
  __attribute__((visibility("default"))) CUresult name() { return NotSupported(#name); }
#include "tulle/cuda/unsupported.inc"
#undef TULLE_CUDA_UNSUPPORTED
}

namespace {

struct Function {
  std::string_view name;      // as programs ask for it
  std::string_view exported;  // as it is exported
  int since = 0;
  void* address = nullptr;
  void* twin = nullptr;  // with the thread's own default stream; null: the same
};

template <typename F>
void* AddressOf(F* function) {
  return reinterpret_cast<void*>(function);
}

constexpr int kTwinsSince = 7000;
constexpr int kAnyVersion = 0;

const std::vector<Function>& Functions() {
  static const std::vector<Function> functions = {
#define TULLE_CUDA_FUNCTION(name, suffix, since, parameters) \
  {#name, #name #suffix, since, AddressOf(&name##suffix), nullptr},
#define TULLE_CUDA_STREAM_FUNCTION(name, suffix, since, twin, parameters, arguments) \
  {#name, #name #suffix, since, AddressOf(&name##suffix), AddressOf(&name##suffix##twin)},
#include "tulle/cuda/functions.inc"
#undef TULLE_CUDA_FUNCTION
#undef TULLE_CUDA_STREAM_FUNCTION
#define TULLE_CUDA_UNSUPPORTED(name) {#name, #name, kAnyVersion, AddressOf(&name), nullptr},
#include "tulle/cuda/unsupported.inc"
#undef TULLE_CUDA_UNSUPPORTED
  };
  return functions;
}

// "cuGraphInstantiate" of "cuGraphInstantiate_v2".
std::string_view WithoutVersion(std::string_view name) {
  const std::size_t at = name.rfind("_v");
  return at != std::string_view::npos && at + 3 == name.size() ? name.substr(0, at) : name;
}

}  // namespace

CUresult cuGetProcAddress(const char* symbol, void** function, int version, unsigned long long flags) {
  return cuGetProcAddress_v2(symbol, function, version, flags, nullptr);
}

CUresult cuGetProcAddress_v2(const char* symbol, void** function, int version, unsigned long long flags,
                             CUdriverProcAddressQueryResult* result) {
  if (symbol == nullptr || function == nullptr ||
      flags > (kProcAddressLegacyStream | kProcAddressPerThreadStream))
    return CUDA_ERROR_INVALID_VALUE;
  *function = nullptr;
  const Function* best = nullptr;
  bool too_new = false;
  for (const Function& candidate : Functions()) {
    if (candidate.name != symbol) continue;
    if (candidate.since > version) {
      too_new = true;
    } else if (best == nullptr || candidate.since > best->since) {
      best = &candidate;
    }
  }
  if (best == nullptr && !too_new) {
    for (const Function& candidate : Functions()) {
      if (WithoutVersion(candidate.name) == symbol) best = &candidate;
    }
  }
  if (result != nullptr) {
    *result = best != nullptr ? CU_GET_PROC_ADDRESS_SUCCESS
              : too_new       ? CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT
                              : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
  }
  if (best == nullptr) return result != nullptr ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
  const bool of_thread = (flags & kProcAddressPerThreadStream) != 0 && version >= kTwinsSince;
  *function = of_thread && best->twin != nullptr ? best->twin : best->address;
  return CUDA_SUCCESS;
}

namespace {

struct Words {
  CUresult result;
  const char *name, *text;
};
constexpr Words kWords[] = {
#define TULLE_CUDA_RESULT(name, value, text) {name, #name, text},
#include "tulle/cuda/results.inc"
#undef TULLE_CUDA_RESULT
};

CUresult PutWords(CUresult result, const char* Words::*which, const char** text) {
  if (text == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const auto* const found = std::ranges::find(kWords, result, &Words::result);
  *text = found == std::end(kWords) ? nullptr : found->*which;
  return *text == nullptr ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

}  // namespace

CUresult cuGetErrorName(CUresult error, const char** text) { return PutWords(error, &Words::name, text); }
CUresult cuGetErrorString(CUresult error, const char** text) { return PutWords(error, &Words::text, text); }
