// The dispatch table: each entry point behind a guard, so that nothing is ever thrown into the program.
#include "tulle/base/log.h"
#include "tulle/shim/opencl/entry_points.h"
#include "tulle/shim/opencl/kernel.h"
#include "tulle/shim/opencl/queue.h"
#include "tulle/shim/opencl/unsupported.h"

namespace tulle::shim::opencl {
namespace {

// How a call of this signature reports an error: as its value, or through its last argument.
template <typename R, typename... Args>
R Failure(cl_int code, [[maybe_unused]] Args... args) {
  if constexpr (std::is_same_v<R, cl_int>) {
    return code;
  } else if constexpr (!std::is_void_v<R>) {
    const auto set = [code]([[maybe_unused]] auto last) {
      if constexpr (std::is_same_v<decltype(last), cl_int*>) {
        if (last != nullptr) *last = code;
      }
    };
    (set(args), ...);  // the only cl_int* of any such signature is errcode_ret
    return nullptr;
  }
}

template <typename F>
struct Guard;
template <typename R, typename... Args>
struct Guard<R(Args...)> {
  template <R (*kEntryPoint)(Args...)>
  static R CL_API_CALL Call(Args... args) noexcept {
    try {
      return kEntryPoint(args...);
    } catch (...) {  // only memory can be short here
      return Failure<R>(CL_OUT_OF_HOST_MEMORY, args...);
    }
  }
};

void LogUnsupported(const char* name, const char* reason) noexcept {
  if (!LogEnabled(LogLevel::kDebug)) return;
  try {
    Log(LogLevel::kDebug, "shim", "refused", {{"call", name}, {"reason", reason}});
  } catch (...) {
  }
}

// CL_INVALID_... when this is a handle of what was never made, or is gone.
template <typename T>
cl_int CheckHandle([[maybe_unused]] T handle) {
  const auto check = [&]<typename O>() {
    return FromHandle<O>(handle) == nullptr ? Api<O>::kInvalid : CL_SUCCESS;
  };
  if constexpr (std::is_same_v<T, cl_device_id>) return check.template operator()<Device>();
  if constexpr (std::is_same_v<T, cl_context>) return check.template operator()<Context>();
  if constexpr (std::is_same_v<T, cl_command_queue>) return check.template operator()<Queue>();
  if constexpr (std::is_same_v<T, cl_program>) return check.template operator()<Program>();
  if constexpr (std::is_same_v<T, cl_kernel>) return check.template operator()<Kernel>();
  return CL_SUCCESS;
}

template <typename Tag, typename F>
struct Refusal;
template <typename Tag, typename R, typename First, typename... Args>
struct Refusal<Tag, R(CL_API_CALL*)(First, Args...)> {
  // The first argument is what the call is about.
  static R CL_API_CALL Call(First first, Args... args) noexcept {
    if (const cl_int invalid = CheckHandle(first); invalid != CL_SUCCESS)
      return Failure<R>(invalid, first, args...);
    LogUnsupported(Tag::kName, Tag::kReason);
    return Failure<R>(Tag::kCode, first, args...);
  }
};

cl_int CL_API_CALL RefuseUntyped() noexcept { return CL_INVALID_OPERATION; }

#define TULLE_REFUSAL_TAG(name, code, reason)        \
  struct name##Tag {                                 \
    static constexpr const char* kName = "cl" #name; \
    static constexpr const char* kReason = reason;   \
    static constexpr cl_int kCode = code;            \
  };
TULLE_UNSUPPORTED_OPTIONAL(TULLE_REFUSAL_TAG)
TULLE_UNSUPPORTED_INTEROP(TULLE_REFUSAL_TAG)

cl_icd_dispatch MakeTable() {
  cl_icd_dispatch table{};
#define TULLE_SET_ENTRY_POINT(name) \
  table.cl##name = &Guard<std::remove_pointer_t<cl_api_cl##name>>::template Call<&name>;
  TULLE_ENTRY_POINTS(TULLE_SET_ENTRY_POINT)
#define TULLE_SET_REFUSAL(name, code, reason) table.cl##name = &Refusal<name##Tag, cl_api_cl##name>::Call;
  TULLE_UNSUPPORTED_OPTIONAL(TULLE_SET_REFUSAL)
  TULLE_UNSUPPORTED_INTEROP(TULLE_SET_REFUSAL)
#define TULLE_SET_UNTYPED(name) table.cl##name = reinterpret_cast<cl_api_cl##name>(&RefuseUntyped);
  TULLE_UNSUPPORTED_UNTYPED(TULLE_SET_UNTYPED)
  return table;
}

// Constant before the first call, needs no destruction.
const cl_icd_dispatch g_table = MakeTable();

}  // namespace

const cl_icd_dispatch& Dispatch() { return g_table; }

cl_int InfoOut::Text(std::string_view text) const {
  if (value_ != nullptr) {
    if (size_ < text.size() + 1) return CL_INVALID_VALUE;
    if (!text.empty()) std::memcpy(value_, text.data(), text.size());
    static_cast<char*>(value_)[text.size()] = '\0';
  }
  if (size_ret_ != nullptr) *size_ret_ = text.size() + 1;
  return CL_SUCCESS;
}

}  // namespace tulle::shim::opencl
