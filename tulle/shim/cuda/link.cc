// Linking, of one input: what it comes to is the input itself, which the device compiles when it is loaded.
#include <fstream>
#include <iterator>
#include <vector>

#include "tulle/shim/cuda/driver.h"

using namespace tulle::shim::cuda;  // NOLINT

namespace {

constexpr std::size_t kMaxHeaderBytes = 64;  // of a cubin, the longest that tells an image's size

CUresult FindLink(CUlinkState state, std::shared_ptr<LinkObject>* link) {
  Driver* const driver = TheDriver();
  if (driver == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  *link = driver->links.Find(state);
  return *link == nullptr ? CUDA_ERROR_INVALID_HANDLE : CUDA_SUCCESS;
}

}  // namespace

CUresult cuLinkCreate_v2(unsigned count, CUjit_option* options, void** values, CUlinkState* state) {
  std::shared_ptr<Context> context;
  TULLE_CUDA_RETURN_IF_ERROR(CurrentContext(&context));
  if (state == nullptr || (count != 0 && (options == nullptr || values == nullptr)))
    return CUDA_ERROR_INVALID_VALUE;
  auto link = std::make_shared<LinkObject>();
  link->options.assign(options, options + count);
  link->values = values;
  *state = TheDriver()->links.Add(std::move(link));
  return CUDA_SUCCESS;
}

CUresult cuLinkAddData_v2(CUlinkState state, CUjitInputType type, void* data, std::size_t bytes, const char*,
                          unsigned count, CUjit_option* options, void** values) {
  std::shared_ptr<LinkObject> link;
  TULLE_CUDA_RETURN_IF_ERROR(FindLink(state, &link));
  if (data == nullptr || bytes == 0 || (count != 0 && (options == nullptr || values == nullptr)))
    return CUDA_ERROR_INVALID_VALUE;
  if (type != CU_JIT_INPUT_PTX && type != CU_JIT_INPUT_CUBIN && type != CU_JIT_INPUT_FATBINARY)
    return NotSupported("linking objects, libraries and NVVM");
  const std::lock_guard lock(link->mutex);
  if (!link->image.empty()) return NotSupported("linking several inputs");
  const auto* const begin = static_cast<const std::byte*>(data);
  tulle::ByteVector image(begin, begin + bytes);
  image.resize(bytes + kMaxHeaderBytes);  // zeros, for what a text's end or a header that is cut would lack
  const tulle::ByteView view = ImageAt(image.data());
  if (view.empty() || (view.data() == image.data() && view.size() > bytes)) return CUDA_ERROR_INVALID_IMAGE;
  // What is wrong with it is told here. Its own options come before those of all inputs.
  if (count == 0) {
    count = static_cast<unsigned>(link->options.size());
    options = link->options.data();
    values = link->values;
  }
  CUmodule module = nullptr;
  TULLE_CUDA_RETURN_IF_ERROR(cuModuleLoadDataEx(&module, image.data(), count, options, values));
  link->image = std::move(image);
  return cuModuleUnload(module);
}

CUresult cuLinkAddFile_v2(CUlinkState state, CUjitInputType type, const char* path, unsigned count,
                          CUjit_option* options, void** values) {
  if (path == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::ifstream file(path, std::ios::binary);
  if (!file) return CUDA_ERROR_FILE_NOT_FOUND;
  std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  return cuLinkAddData_v2(state, type, bytes.data(), bytes.size(), path, count, options, values);
}

CUresult cuLinkComplete(CUlinkState state, void** image, std::size_t* bytes) {
  std::shared_ptr<LinkObject> link;
  TULLE_CUDA_RETURN_IF_ERROR(FindLink(state, &link));
  const std::lock_guard lock(link->mutex);
  if (image == nullptr || link->image.empty()) return CUDA_ERROR_INVALID_VALUE;
  *image = link->image.data();  // the state's own, until it is destroyed
  if (bytes != nullptr) *bytes = link->image.size();
  return CUDA_SUCCESS;
}

CUresult cuLinkDestroy(CUlinkState state) {
  std::shared_ptr<LinkObject> link;
  TULLE_CUDA_RETURN_IF_ERROR(FindLink(state, &link));
  return TheDriver()->links.Remove(state) == nullptr ? CUDA_ERROR_INVALID_HANDLE : CUDA_SUCCESS;
}

CUresult cuLinkCreate(unsigned count, CUjit_option* options, void** values, CUlinkState* state) {
  return cuLinkCreate_v2(count, options, values, state);
}
CUresult cuLinkAddData(CUlinkState state, CUjitInputType type, void* data, std::size_t bytes,
                       const char* name, unsigned count, CUjit_option* options, void** values) {
  return cuLinkAddData_v2(state, type, data, bytes, name, count, options, values);
}
CUresult cuLinkAddFile(CUlinkState state, CUjitInputType type, const char* path, unsigned count,
                       CUjit_option* options, void** values) {
  return cuLinkAddFile_v2(state, type, path, count, options, values);
}
