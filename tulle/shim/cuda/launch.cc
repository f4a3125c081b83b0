// Launches, and how many blocks of a function fit a multiprocessor.
#include <algorithm>
#include <cstring>

#include "tulle/shim/cuda/driver.h"

using namespace tulle::shim::cuda;  // NOLINT

namespace {

// The parameters as one block of bytes, from either way in which the API takes them.
CUresult GatherParameters(const FunctionInfo& info, void** parameters, void** extra, tulle::ByteVector* out) {
  out->resize(info.parameter_bytes);
  if (parameters != nullptr) {
    if (extra != nullptr) return CUDA_ERROR_INVALID_VALUE;
    for (std::size_t i = 0; i < info.parameters.size(); ++i) {
      if (parameters[i] == nullptr) return CUDA_ERROR_INVALID_VALUE;
      std::memcpy(out->data() + info.parameters[i].offset, parameters[i], info.parameters[i].bytes);
    }
    return CUDA_SUCCESS;
  }
  const void* buffer = nullptr;
  std::size_t bytes = 0;
  for (; extra != nullptr && *extra != kLaunchParamEnd; extra += 2) {
    if (extra[0] == kLaunchParamBufferPointer) {
      buffer = extra[1];
    } else if (extra[0] == kLaunchParamBufferSize) {
      std::memcpy(&bytes, extra[1], sizeof bytes);
    } else {
      return CUDA_ERROR_INVALID_VALUE;
    }
  }
  if (bytes < info.parameter_bytes || (bytes != 0 && buffer == nullptr)) return CUDA_ERROR_INVALID_VALUE;
  if (info.parameter_bytes != 0) std::memcpy(out->data(), buffer, info.parameter_bytes);
  return CUDA_SUCCESS;
}

CUresult CheckShape(const FunctionObject& function, const LaunchShape& shape) {
  const DeviceProperties& device = function.context->device->properties();
  const auto within = [&](std::uint64_t value, CUdevice_attribute most) {
    return value <= static_cast<std::uint64_t>(device.attribute(most));
  };
  if (shape.grid.all() == 0 || shape.block.all() == 0 ||
      !within(shape.grid.x, CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X) ||
      !within(shape.grid.y, CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y) ||
      !within(shape.grid.z, CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z) ||
      !within(shape.block.x, CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X) ||
      !within(shape.block.y, CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y) ||
      !within(shape.block.z, CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z) ||
      !within(shape.block.all(), CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK) ||
      shape.shared_bytes > static_cast<std::uint32_t>(function.max_dynamic_shared)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  return shape.block.all() > function.info.max_threads ? CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES : CUDA_SUCCESS;
}

CUresult BlocksFor(const FunctionObject& function, int block_size, std::size_t dynamic_shared, int* blocks) {
  if (block_size <= 0) return CUDA_ERROR_INVALID_VALUE;
  const DeviceProperties& device = function.context->device->properties();
  const int warp = device.attribute(CU_DEVICE_ATTRIBUTE_WARP_SIZE);
  const int threads = (block_size + warp - 1) / warp * warp;
  *blocks = 0;
  if (block_size > static_cast<int>(function.info.max_threads)) return CUDA_SUCCESS;
  const std::uint64_t shared = function.info.shared_bytes + dynamic_shared;
  std::uint64_t fit =
      static_cast<std::uint64_t>(device.attribute(CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR));
  const auto limit = [&fit](std::uint64_t all, std::uint64_t each) {
    if (each != 0) fit = std::min(fit, all / each);
  };
  limit(static_cast<std::uint64_t>(device.attribute(CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR)),
        static_cast<std::uint64_t>(threads));
  limit(
      static_cast<std::uint64_t>(device.attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR)),
      shared);
  limit(static_cast<std::uint64_t>(device.attribute(CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR)),
        std::uint64_t{function.info.registers} * static_cast<std::uint64_t>(threads));
  *blocks = static_cast<int>(fit);
  return CUDA_SUCCESS;
}

CUresult Launch(CUfunction handle, const LaunchShape& shape, CUstream stream, void** parameters,
                void** extra) {
  StreamChoice choice;
  TULLE_CUDA_RETURN_IF_ERROR(ChooseStream(stream, &choice));
  std::shared_ptr<FunctionObject> function;
  TULLE_CUDA_RETURN_IF_ERROR(FindFunction(handle, &function));
  if (function->context != choice.context) return CUDA_ERROR_INVALID_HANDLE;
  TULLE_CUDA_RETURN_IF_ERROR(CheckShape(*function, shape));
  if (shape.cooperative) {
    const DeviceProperties& device = choice.device().properties();
    if (device.attribute(CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH) == 0) return CUDA_ERROR_NOT_SUPPORTED;
    int blocks = 0;
    TULLE_CUDA_RETURN_IF_ERROR(
        BlocksFor(*function, static_cast<int>(shape.block.all()), shape.shared_bytes, &blocks));
    if (shape.grid.all() >
        static_cast<std::uint64_t>(blocks) *
            static_cast<std::uint64_t>(device.attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT))) {
      return CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE;
    }
  }
  tulle::ByteVector bytes;
  TULLE_CUDA_RETURN_IF_ERROR(GatherParameters(function->info, parameters, extra, &bytes));
  return choice.device().Launch(choice.stream, function->id, shape, bytes);
}

}  // namespace

CUresult cuLaunchKernel(CUfunction handle, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                        unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes,
                        CUstream stream, void** parameters, void** extra) {
  return Launch(
      handle,
      {.grid = {grid_x, grid_y, grid_z}, .block = {block_x, block_y, block_z}, .shared_bytes = shared_bytes},
      stream, parameters, extra);
}

CUresult cuLaunchCooperativeKernel(CUfunction handle, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                                   unsigned block_x, unsigned block_y, unsigned block_z,
                                   unsigned shared_bytes, CUstream stream, void** parameters) {
  return Launch(handle,
                {.grid = {grid_x, grid_y, grid_z},
                 .block = {block_x, block_y, block_z},
                 .shared_bytes = shared_bytes,
                 .cooperative = true},
                stream, parameters, nullptr);
}

CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function, void** parameters,
                          void** extra) {
  if (config == nullptr || (config->numAttrs != 0 && config->attrs == nullptr))
    return CUDA_ERROR_INVALID_VALUE;
  LaunchShape shape{.grid = {config->gridDimX, config->gridDimY, config->gridDimZ},
                    .block = {config->blockDimX, config->blockDimY, config->blockDimZ},
                    .shared_bytes = config->sharedMemBytes};
  for (unsigned i = 0; i < config->numAttrs; ++i) {
    const CUlaunchAttribute& attribute = config->attrs[i];
    int value = 0;
    std::memcpy(&value, attribute.value, sizeof value);
    switch (attribute.id) {
      case CU_LAUNCH_ATTRIBUTE_IGNORE:
      case CU_LAUNCH_ATTRIBUTE_PRIORITY: break;
      case CU_LAUNCH_ATTRIBUTE_COOPERATIVE: shape.cooperative = value != 0; break;
      default: return NotSupported("cuLaunchKernelEx with this attribute");
    }
  }
  return Launch(function, shape, config->hStream, parameters, extra);
}

CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction function, int block_size,
                                                     std::size_t dynamic_shared) {
  return cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, function, block_size, dynamic_shared,
                                                              0);
}

CUresult cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, CUfunction handle, int block_size,
                                                              std::size_t dynamic_shared, unsigned flags) {
  std::shared_ptr<FunctionObject> function;
  TULLE_CUDA_RETURN_IF_ERROR(FindFunction(handle, &function));
  if (blocks == nullptr || flags > 1) return CUDA_ERROR_INVALID_VALUE;
  return BlocksFor(*function, block_size, dynamic_shared, blocks);
}

CUresult cuOccupancyMaxPotentialBlockSize(int* grid_size, int* block_size, CUfunction function,
                                          std::size_t (*shared_of)(int), std::size_t dynamic_shared,
                                          int limit) {
  return cuOccupancyMaxPotentialBlockSizeWithFlags(grid_size, block_size, function, shared_of, dynamic_shared,
                                                   limit, 0);
}

// The size with which most threads are on a multiprocessor; of several, the largest.
CUresult cuOccupancyMaxPotentialBlockSizeWithFlags(int* grid_size, int* block_size, CUfunction handle,
                                                   std::size_t (*shared_of)(int), std::size_t dynamic_shared,
                                                   int limit, unsigned flags) {
  std::shared_ptr<FunctionObject> function;
  TULLE_CUDA_RETURN_IF_ERROR(FindFunction(handle, &function));
  if (grid_size == nullptr || block_size == nullptr || limit < 0 || flags > 1)
    return CUDA_ERROR_INVALID_VALUE;
  const DeviceProperties& device = function->context->device->properties();
  const int warp = device.attribute(CU_DEVICE_ATTRIBUTE_WARP_SIZE);
  int most = static_cast<int>(function->info.max_threads);
  if (limit != 0) most = std::min(most, limit);
  int best = 0, best_blocks = 0;
  for (int size = most; size > 0; size = size % warp == 0 ? size - warp : size / warp * warp) {
    int blocks = 0;
    TULLE_CUDA_RETURN_IF_ERROR(
        BlocksFor(*function, size, shared_of == nullptr ? dynamic_shared : shared_of(size), &blocks));
    if (blocks * size <= best_blocks * best) continue;
    best = size;
    best_blocks = blocks;
  }
  *block_size = best;
  *grid_size = best_blocks * device.attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
  return CUDA_SUCCESS;
}
