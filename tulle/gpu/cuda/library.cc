#include "tulle/gpu/cuda/library.h"

#include <dlfcn.h>

namespace tulle::gpu::cuda {

Result<Library> OpenLibrary(const std::string& path) {
  void* const handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (handle == nullptr) return Error{.code = Code::kNotFound, .message = dlerror()};
  Library library;
  const char* missing = nullptr;
#define TULLE_CUDA_LOOK_UP(name)                                                 \
  library.name = reinterpret_cast<decltype(library.name)>(dlsym(handle, #name)); \
  if (library.name == nullptr) missing = #name;
  TULLE_CUDA_USED(TULLE_CUDA_LOOK_UP)
#undef TULLE_CUDA_LOOK_UP
  if (missing != nullptr) {
    return Error{.code = Code::kFailedPrecondition,
                 .message = path + " has no " + missing + ": a driver of CUDA 12.4 or newer is needed"};
  }
  return library;
}

}  // namespace tulle::gpu::cuda
