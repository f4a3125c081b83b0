// Modules and libraries, their functions and variables.
#include <elf.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <iterator>

#include "tulle/base/log.h"
#include "tulle/shim/cuda/driver.h"

using namespace tulle::shim::cuda;  // NOLINT

namespace {

using tulle::ByteVector;
using tulle::ByteView;

// Longer texts than this are taken for a pointer to something else.
constexpr std::size_t kMaxImageBytes = std::size_t{256} << 20;

constexpr std::uint32_t kFatbinWrapperMagic = 0x466243b1, kFatbinMagic = 0xba55ed50;
struct FatbinWrapper {
  std::uint32_t magic, version;
  const void* data;
  void* unused;
};
struct FatbinHeader {
  std::uint32_t magic;
  std::uint16_t version, header_bytes;
  std::uint64_t bytes;  // of what follows the header
};

template <typename T>
T ReadAs(const void* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

void WriteLog(const std::string& text, unsigned count, CUjit_option* options, void** values) {
  char* buffer = nullptr;
  std::size_t room = 0;
  for (unsigned i = 0; i < count; ++i) {
    if (options[i] == CU_JIT_ERROR_LOG_BUFFER) buffer = static_cast<char*>(values[i]);
    if (options[i] == CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES)
      room = static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(values[i]));
  }
  std::size_t written = 0;
  if (buffer != nullptr && room != 0) {
    const std::size_t length = std::min(text.size(), room - 1);
    std::memcpy(buffer, text.data(), length);
    buffer[length] = '\0';
    written = length == 0 ? 0 : length + 1;
  }
  for (unsigned i = 0; i < count; ++i) {
    if (options[i] == CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES) values[i] = reinterpret_cast<void*>(written);
    if (options[i] == CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES) values[i] = nullptr;
  }
}

CUresult Load(const std::shared_ptr<Context>& context, ByteView image, std::string* log, CUmodule* handle) {
  auto module = std::make_shared<ModuleObject>();
  module->context = context;
  const CUresult result = context->device->LoadModule(context->id, image, &module->id, log);
  if (result != CUDA_SUCCESS) {
    tulle::Log(tulle::LogLevel::kWarn, "cuda", "a module could not be loaded", {{"why", *log}});
    return result;
  }
  *handle = TheDriver()->modules.Add(module);
  module->handle = *handle;
  return CUDA_SUCCESS;
}

CUresult FindModule(CUmodule handle, std::shared_ptr<ModuleObject>* module) {
  Driver* const driver = TheDriver();
  if (driver == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  *module = driver->modules.Find(handle);
  if (*module == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  return (*module)->context->destroyed ? CUDA_ERROR_CONTEXT_IS_DESTROYED : CUDA_SUCCESS;
}

// The library's module in the current context, loaded there if it is not yet.
CUresult ModuleOf(LibraryObject& library, CUmodule* module) {
  std::shared_ptr<Context> context;
  TULLE_CUDA_RETURN_IF_ERROR(CurrentContext(&context));
  const std::lock_guard lock(library.mutex);
  const auto it = library.modules.find(context->number);
  if (it != library.modules.end()) {
    *module = it->second;
    return CUDA_SUCCESS;
  }
  std::string log;
  TULLE_CUDA_RETURN_IF_ERROR(Load(context, library.image, &log, module));
  library.modules.emplace(context->number, *module);
  return CUDA_SUCCESS;
}

CUresult AttributeOf(const FunctionObject& function, CUfunction_attribute attribute, int* value) {
  if (value == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const FunctionInfo& info = function.info;
  const auto put = [value](std::uint32_t number) {
    *value = static_cast<int>(number);
    return CUDA_SUCCESS;
  };
  switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK: return put(info.max_threads);
    case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES: return put(info.shared_bytes);
    case CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES: return put(info.constant_bytes);
    case CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES: return put(info.local_bytes);
    case CU_FUNC_ATTRIBUTE_NUM_REGS: return put(info.registers);
    case CU_FUNC_ATTRIBUTE_PTX_VERSION: return put(info.ptx_version);
    case CU_FUNC_ATTRIBUTE_BINARY_VERSION: return put(info.binary_version);
    case CU_FUNC_ATTRIBUTE_CACHE_MODE_CA: return put(0);
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
      return put(static_cast<std::uint32_t>(function.max_dynamic_shared.load()));
    case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT: return put(~0u);
  }
  return CUDA_ERROR_INVALID_VALUE;
}

CUresult SetAttributeOf(FunctionObject& function, CUfunction_attribute attribute, int value) {
  switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: {
      const int most = function.context->device->properties().attribute(
          CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
      if (value < 0 || value > most - static_cast<int>(function.info.shared_bytes))
        return CUDA_ERROR_INVALID_VALUE;
      function.max_dynamic_shared = value;
      return CUDA_SUCCESS;
    }
    case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
      return value < -1 || value > 100 ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;  // a hint
    default: return CUDA_ERROR_INVALID_VALUE;
  }
}

}  // namespace

namespace tulle::shim::cuda {

ByteView ImageAt(const void* image) {
  const auto* const begin = static_cast<const std::byte*>(image);
  std::size_t bytes = 0;
  if (std::strncmp(static_cast<const char*>(image), ELFMAG, SELFMAG) == 0) {
    if (ReadAs<char>(begin + EI_CLASS) != ELFCLASS64) return {};
    const auto header = ReadAs<Elf64_Ehdr>(image);
    bytes = std::max<std::size_t>(header.e_shoff + std::size_t{header.e_shentsize} * header.e_shnum,
                                  header.e_phoff + std::size_t{header.e_phentsize} * header.e_phnum);
  } else if (ReadAs<char>(image) == '\xb1' && ReadAs<std::uint32_t>(image) == kFatbinWrapperMagic) {
    const void* const data = ReadAs<FatbinWrapper>(image).data;
    return data == nullptr || ReadAs<std::uint32_t>(data) != kFatbinMagic ? ByteView() : ImageAt(data);
  } else if (ReadAs<char>(image) == '\x50' && ReadAs<std::uint32_t>(image) == kFatbinMagic) {
    const auto header = ReadAs<FatbinHeader>(image);
    bytes = header.header_bytes + header.bytes;
  } else {
    bytes = strnlen(static_cast<const char*>(image), kMaxImageBytes);
  }
  return bytes == 0 || bytes >= kMaxImageBytes ? ByteView() : ByteView(begin, bytes);
}

CUresult FindFunction(CUfunction handle, std::shared_ptr<FunctionObject>* function) {
  Driver* const driver = TheDriver();
  if (driver == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  *function = driver->functions.Find(handle);
  if (*function == nullptr) {
    CUfunction of_kernel = nullptr;
    if (cuKernelGetFunction(&of_kernel, reinterpret_cast<CUkernel>(handle)) != CUDA_SUCCESS)
      return CUDA_ERROR_INVALID_HANDLE;
    *function = driver->functions.Find(of_kernel);
    if (*function == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  }
  return (*function)->context->destroyed ? CUDA_ERROR_CONTEXT_IS_DESTROYED : CUDA_SUCCESS;
}

}  // namespace tulle::shim::cuda

CUresult cuModuleLoad(CUmodule* module, const char* path) {
  if (TheDriver() == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  if (module == nullptr || path == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::ifstream file(path, std::ios::binary);
  if (!file) return CUDA_ERROR_FILE_NOT_FOUND;
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  std::shared_ptr<Context> context;
  TULLE_CUDA_RETURN_IF_ERROR(CurrentContext(&context));
  std::string log;
  return Load(context, tulle::AsBytes(text), &log, module);
}

CUresult cuModuleLoadData(CUmodule* module, const void* image) {
  return cuModuleLoadDataEx(module, image, 0, nullptr, nullptr);
}

CUresult cuModuleLoadFatBinary(CUmodule* module, const void* fatbin) {
  return cuModuleLoadData(module, fatbin);
}

CUresult cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned count, CUjit_option* options,
                            void** values) {
  std::shared_ptr<Context> context;
  TULLE_CUDA_RETURN_IF_ERROR(CurrentContext(&context));
  if (module == nullptr || image == nullptr || (count != 0 && (options == nullptr || values == nullptr)))
    return CUDA_ERROR_INVALID_VALUE;
  const ByteView bytes = ImageAt(image);
  if (bytes.empty()) return CUDA_ERROR_INVALID_IMAGE;
  std::string log;
  const CUresult result = Load(context, bytes, &log, module);
  WriteLog(log, count, options, values);
  return result;
}

CUresult cuModuleUnload(CUmodule handle) {
  std::shared_ptr<ModuleObject> module;
  TULLE_CUDA_RETURN_IF_ERROR(FindModule(handle, &module));
  Driver& driver = *TheDriver();
  if (driver.modules.Remove(handle) == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  for (const auto& [name, function] : module->functions) driver.functions.Remove(function);
  return module->context->device->UnloadModule(module->context->id, module->id);
}

CUresult cuModuleGetFunction(CUfunction* handle, CUmodule in, const char* name) {
  std::shared_ptr<ModuleObject> module;
  TULLE_CUDA_RETURN_IF_ERROR(FindModule(in, &module));
  if (handle == nullptr || name == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const std::lock_guard lock(module->mutex);
  const auto it = module->functions.find(name);
  if (it != module->functions.end()) {
    *handle = it->second;
    return CUDA_SUCCESS;
  }
  auto function = std::make_shared<FunctionObject>();
  function->context = module->context;
  function->module = module;
  function->name = name;
  Device& device = *module->context->device;
  TULLE_CUDA_RETURN_IF_ERROR(
      device.FindFunction(module->context->id, module->id, name, &function->id, &function->info));
  function->max_dynamic_shared =
      std::max(0, device.properties().attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK) -
                      static_cast<int>(function->info.shared_bytes));
  *handle = TheDriver()->functions.Add(std::move(function));
  module->functions.emplace(name, *handle);
  return CUDA_SUCCESS;
}

CUresult cuModuleGetGlobal_v2(CUdeviceptr* address, std::size_t* bytes, CUmodule in, const char* name) {
  std::shared_ptr<ModuleObject> module;
  TULLE_CUDA_RETURN_IF_ERROR(FindModule(in, &module));
  if (name == nullptr || (address == nullptr && bytes == nullptr)) return CUDA_ERROR_INVALID_VALUE;
  CUdeviceptr at = 0;
  std::uint64_t size = 0;
  TULLE_CUDA_RETURN_IF_ERROR(
      module->context->device->FindVariable(module->context->id, module->id, name, &at, &size));
  if (address != nullptr) *address = at;
  if (bytes != nullptr) *bytes = size;
  return CUDA_SUCCESS;
}

// All of a module is loaded at once.
CUresult cuModuleGetLoadingMode(int* mode) {
  if (mode == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *mode = 1;
  return CUDA_SUCCESS;
}

CUresult cuLibraryLoadData(CUlibrary* handle, const void* image, CUjit_option* jit_options, void** jit_values,
                           unsigned jit_count, CUlibraryOption*, void**, unsigned) {
  Driver* const driver = TheDriver();
  if (driver == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  if (handle == nullptr || image == nullptr ||
      (jit_count != 0 && (jit_options == nullptr || jit_values == nullptr)))
    return CUDA_ERROR_INVALID_VALUE;
  const ByteView bytes = ImageAt(image);
  if (bytes.empty()) return CUDA_ERROR_INVALID_IMAGE;
  auto library = std::make_shared<LibraryObject>();
  library->image.assign(bytes.begin(), bytes.end());
  std::shared_ptr<Context> context;
  if (CurrentContext(&context) == CUDA_SUCCESS) {  // what is wrong with it is told here, if it can be
    std::string log;
    CUmodule module = nullptr;
    const CUresult result = Load(context, library->image, &log, &module);
    WriteLog(log, jit_count, jit_options, jit_values);
    if (result != CUDA_SUCCESS) return result;
    library->modules.emplace(context->number, module);
  }
  *handle = driver->libraries.Add(std::move(library));
  return CUDA_SUCCESS;
}

CUresult cuLibraryUnload(CUlibrary handle) {
  Driver* const driver = TheDriver();
  if (driver == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  const auto library = driver->libraries.Remove(handle);
  if (library == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  for (const auto& [name, kernel] : library->kernels) driver->kernels.Remove(kernel);
  CUresult result = CUDA_SUCCESS;
  for (const auto& [context, module] : library->modules) {
    const CUresult unloaded = cuModuleUnload(module);
    if (unloaded != CUDA_ERROR_INVALID_HANDLE && result == CUDA_SUCCESS)
      result = unloaded;  // gone with its context
  }
  return result;
}

CUresult cuLibraryGetModule(CUmodule* module, CUlibrary handle) {
  Driver* const driver = TheDriver();
  if (driver == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  const auto library = driver->libraries.Find(handle);
  if (library == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  return module == nullptr ? CUDA_ERROR_INVALID_VALUE : ModuleOf(*library, module);
}

CUresult cuLibraryGetKernel(CUkernel* kernel, CUlibrary handle, const char* name) {
  Driver* const driver = TheDriver();
  if (driver == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  const auto library = driver->libraries.Find(handle);
  if (library == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (kernel == nullptr || name == nullptr) return CUDA_ERROR_INVALID_VALUE;
  CUmodule module = nullptr;
  CUfunction function = nullptr;
  TULLE_CUDA_RETURN_IF_ERROR(ModuleOf(*library, &module));
  TULLE_CUDA_RETURN_IF_ERROR(cuModuleGetFunction(&function, module, name));
  const std::lock_guard lock(library->mutex);
  const auto [it, is_new] = library->kernels.try_emplace(name);
  if (is_new) it->second = driver->kernels.Add(std::make_shared<KernelObject>(KernelObject{library, name}));
  *kernel = it->second;
  return CUDA_SUCCESS;
}

CUresult cuLibraryGetGlobal(CUdeviceptr* address, std::size_t* bytes, CUlibrary library, const char* name) {
  CUmodule module = nullptr;
  TULLE_CUDA_RETURN_IF_ERROR(cuLibraryGetModule(&module, library));
  return cuModuleGetGlobal_v2(address, bytes, module, name);
}

CUresult cuKernelGetFunction(CUfunction* function, CUkernel handle) {
  Driver* const driver = TheDriver();
  if (driver == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  const auto kernel = driver->kernels.Find(handle);
  const auto library = kernel == nullptr ? nullptr : kernel->library.lock();
  if (library == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (function == nullptr) return CUDA_ERROR_INVALID_VALUE;
  CUmodule module = nullptr;
  TULLE_CUDA_RETURN_IF_ERROR(ModuleOf(*library, &module));
  return cuModuleGetFunction(function, module, kernel->name.c_str());
}

CUresult cuKernelGetAttribute(int* value, CUfunction_attribute attribute, CUkernel kernel, CUdevice) {
  CUfunction function = nullptr;
  TULLE_CUDA_RETURN_IF_ERROR(cuKernelGetFunction(&function, kernel));
  return cuFuncGetAttribute(value, attribute, function);
}

CUresult cuKernelSetAttribute(CUfunction_attribute attribute, int value, CUkernel kernel, CUdevice) {
  CUfunction function = nullptr;
  TULLE_CUDA_RETURN_IF_ERROR(cuKernelGetFunction(&function, kernel));
  return cuFuncSetAttribute(function, attribute, value);
}

CUresult cuKernelGetName(const char** name, CUkernel kernel) {
  CUfunction function = nullptr;
  TULLE_CUDA_RETURN_IF_ERROR(cuKernelGetFunction(&function, kernel));
  return cuFuncGetName(name, function);
}

CUresult cuKernelGetLibrary(CUlibrary* library, CUkernel handle) {
  Driver* const driver = TheDriver();
  if (driver == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  const auto kernel = driver->kernels.Find(handle);
  if (kernel == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (library == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const auto its = kernel->library.lock();
  *library = driver->libraries.FindHandle([&](const LibraryObject& object) { return &object == its.get(); });
  return CUDA_SUCCESS;
}

CUresult cuKernelGetParamInfo(CUkernel kernel, std::size_t index, std::size_t* offset, std::size_t* bytes) {
  CUfunction function = nullptr;
  TULLE_CUDA_RETURN_IF_ERROR(cuKernelGetFunction(&function, kernel));
  return cuFuncGetParamInfo(function, index, offset, bytes);
}

CUresult cuKernelSetCacheConfig(CUkernel kernel, CUfunc_cache config, CUdevice) {
  CUfunction function = nullptr;
  TULLE_CUDA_RETURN_IF_ERROR(cuKernelGetFunction(&function, kernel));
  return cuFuncSetCacheConfig(function, config);
}

// A function is loaded with its module.
CUresult cuFuncIsLoaded(int* state, CUfunction handle) {
  TULLE_CUDA_RETURN_IF_ERROR(cuFuncLoad(handle));
  if (state == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *state = 1;
  return CUDA_SUCCESS;
}

CUresult cuFuncLoad(CUfunction handle) {
  std::shared_ptr<FunctionObject> function;
  return FindFunction(handle, &function);
}

CUresult cuFuncGetAttribute(int* value, CUfunction_attribute attribute, CUfunction handle) {
  std::shared_ptr<FunctionObject> function;
  TULLE_CUDA_RETURN_IF_ERROR(FindFunction(handle, &function));
  return AttributeOf(*function, attribute, value);
}

CUresult cuFuncSetAttribute(CUfunction handle, CUfunction_attribute attribute, int value) {
  std::shared_ptr<FunctionObject> function;
  TULLE_CUDA_RETURN_IF_ERROR(FindFunction(handle, &function));
  return SetAttributeOf(*function, attribute, value);
}

// A hint.
CUresult cuFuncSetCacheConfig(CUfunction handle, CUfunc_cache config) {
  std::shared_ptr<FunctionObject> function;
  TULLE_CUDA_RETURN_IF_ERROR(FindFunction(handle, &function));
  return config < CU_FUNC_CACHE_PREFER_NONE || config > CU_FUNC_CACHE_PREFER_EQUAL ? CUDA_ERROR_INVALID_VALUE
                                                                                   : CUDA_SUCCESS;
}

CUresult cuFuncGetModule(CUmodule* module, CUfunction handle) {
  std::shared_ptr<FunctionObject> function;
  TULLE_CUDA_RETURN_IF_ERROR(FindFunction(handle, &function));
  const auto its = function->module.lock();
  if (module == nullptr || its == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *module = its->handle;
  return CUDA_SUCCESS;
}

// The text lives as long as the function.
CUresult cuFuncGetName(const char** name, CUfunction handle) {
  std::shared_ptr<FunctionObject> function;
  TULLE_CUDA_RETURN_IF_ERROR(FindFunction(handle, &function));
  if (name == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *name = function->name.c_str();
  return CUDA_SUCCESS;
}

CUresult cuFuncGetParamInfo(CUfunction handle, std::size_t index, std::size_t* offset, std::size_t* bytes) {
  std::shared_ptr<FunctionObject> function;
  TULLE_CUDA_RETURN_IF_ERROR(FindFunction(handle, &function));
  if (offset == nullptr || index >= function->info.parameters.size()) return CUDA_ERROR_INVALID_VALUE;
  *offset = function->info.parameters[index].offset;
  if (bytes != nullptr) *bytes = function->info.parameters[index].bytes;
  return CUDA_SUCCESS;
}
