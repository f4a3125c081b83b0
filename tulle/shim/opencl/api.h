// What every file of entry points needs: OpenCL's headers, handles to objects and back, and the rules of the
// clGet...Info calls.
#pragma once

#define CL_TARGET_OPENCL_VERSION 300
#define CL_USE_DEPRECATED_OPENCL_1_0_APIS
#define CL_USE_DEPRECATED_OPENCL_1_1_APIS
#define CL_USE_DEPRECATED_OPENCL_1_2_APIS
#define CL_USE_DEPRECATED_OPENCL_2_0_APIS
#define CL_USE_DEPRECATED_OPENCL_2_1_APIS
#define CL_USE_DEPRECATED_OPENCL_2_2_APIS
#include <CL/cl_icd.h>

#include <cstring>
#include <span>
#include <string_view>
#include <type_traits>

#include "tulle/shim/core/object.h"
#include "tulle/shim/opencl/cl_ext_tulle.h"

namespace tulle::shim::opencl {

// The entry points, as the ICD loader wants them in each object. Every one is there; those that this build
// does not support answer an error (unsupported.h).
const cl_icd_dispatch& Dispatch();

// What OpenCL calls an object of class T, and how it refuses something else.
template <typename T>
struct Api;

#define TULLE_API_OBJECT(T, handle_type, object_type, invalid) \
  template <>                                                  \
  struct Api<T> {                                              \
    using Handle = handle_type;                                \
    static constexpr ObjectType kType = object_type;           \
    static constexpr cl_int kInvalid = invalid;                \
  }

// Null when the handle is not one of ours, or dead.
template <typename T>
T* FromHandle(typename Api<T>::Handle handle) {
  return Object::IsLive(handle, Api<T>::kType) ? reinterpret_cast<T*>(handle) : nullptr;
}
template <typename T>
typename Api<T>::Handle ToHandle(T* object) {
  return reinterpret_cast<typename Api<T>::Handle>(object);
}

template <typename T>
cl_int RetainHandle(typename Api<T>::Handle handle) {
  T* object = FromHandle<T>(handle);
  if (object == nullptr) return Api<T>::kInvalid;
  object->AddHandle();
  return CL_SUCCESS;
}
template <typename T>
cl_int ReleaseHandle(typename Api<T>::Handle handle) {
  T* object = FromHandle<T>(handle);
  if (object == nullptr) return Api<T>::kInvalid;
  switch (object->DropHandle()) {
    case Object::Dropped::kNone: return Api<T>::kInvalid;
    case Object::Dropped::kSome: return CL_SUCCESS;
    case Object::Dropped::kLast: break;
  }
  Ref<T>::Adopt(object);
  return CL_SUCCESS;
}

// For entry points that return an object: `return Fail(error, CL_INVALID_VALUE);`
inline std::nullptr_t Fail(cl_int* error, cl_int code) {
  if (error != nullptr) *error = code;
  return nullptr;
}
// `return Made(error, std::move(ref));` The handle holds the reference from now on.
template <typename T>
typename Api<T>::Handle Made(cl_int* error, Ref<T> object) {
  if (error != nullptr) *error = CL_SUCCESS;
  return ToHandle(object.release());
}

// The last three parameters of every clGet...Info.
class InfoOut {
 public:
  InfoOut(std::size_t size, void* value, std::size_t* size_ret)
      : size_(size), value_(value), size_ret_(size_ret) {}

  cl_int Put(const void* data, std::size_t size) const {
    if (value_ != nullptr) {
      if (size_ < size) return CL_INVALID_VALUE;
      if (size != 0) std::memcpy(value_, data, size);
    }
    if (size_ret_ != nullptr) *size_ret_ = size;
    return CL_SUCCESS;
  }
  template <typename T>
  requires std::is_trivially_copyable_v<T> cl_int Value(const T& value)
  const { return Put(&value, sizeof value); }
  // With the zero byte that ends it.
  cl_int Text(std::string_view text) const;
  template <typename T>
  cl_int Array(std::span<const T> items) const {
    return Put(items.data(), items.size_bytes());
  }

  std::size_t size() const { return size_; }
  void* value() const { return value_; }

 private:
  std::size_t size_;
  void* value_;
  std::size_t* size_ret_;
};

}  // namespace tulle::shim::opencl
