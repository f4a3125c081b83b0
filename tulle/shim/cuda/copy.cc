// Copies and fills.
#include <array>
#include <memory>

#include "tulle/shim/cuda/copy_elsewhere.h"
#include "tulle/shim/cuda/driver.h"

using namespace tulle::shim::cuda;  // NOLINT

namespace {

std::uint64_t AddressOf(const void* memory) { return reinterpret_cast<std::uintptr_t>(memory); }

bool IsOnDevice(std::uint64_t address) {
  ContextId owner{};
  return OwnerOf(address, &owner) != nullptr;
}

// `async`: may return before it is done, as far as the kinds of memory allow.
CUresult Copy(const CopyShape& shape, CUstream stream, bool async) {
  StreamChoice choice;
  TULLE_CUDA_RETURN_IF_ERROR(ChooseStream(stream, &choice));
  if (shape.width == 0 || shape.height == 0 || shape.depth == 0) return CUDA_SUCCESS;
  std::uint64_t extent = 0;
  for (const CopyShape::Place* place : {&shape.to, &shape.from}) {
    if (place->address == 0 || !shape.ExtentOf(*place, &extent)) return CUDA_ERROR_INVALID_VALUE;
  }
  CopyMode mode = async ? CopyMode::kAsync : CopyMode::kBlocking;
  if (!shape.to.on_host && !shape.from.on_host) mode = CopyMode::kAsync;  // the device alone: nobody waits
  // Between two places of the host it waits, whatever kind of memory they are.
  if (shape.to.on_host && shape.from.on_host) mode = CopyMode::kBlocking;
  const CopyShape::Place* const host = shape.to.on_host     ? &shape.to
                                       : shape.from.on_host ? &shape.from
                                                            : nullptr;
  if (mode == CopyMode::kAsync && host != nullptr) {
    (void)shape.ExtentOf(*host, &extent);
    if (!TheDriver()->host_memory.Contains(host->address, extent)) mode = CopyMode::kStaged;
  }
  if (IsElsewhere(choice.device(), shape))
    return CopyElsewhere(choice, shape, async && mode == CopyMode::kAsync);
  return choice.device().Copy(choice.stream, shape, mode);
}

CUresult CopyLine(std::uint64_t to, bool to_host, std::uint64_t from, bool from_host, std::size_t bytes,
                  CUstream stream, bool async) {
  return Copy({.to = {.address = to, .on_host = to_host},
               .from = {.address = from, .on_host = from_host},
               .width = bytes},
              stream, async);
}

CUresult CopyAnyLine(CUdeviceptr to, CUdeviceptr from, std::size_t bytes, CUstream stream, bool async) {
  if (TheDriver() == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  return CopyLine(to, !IsOnDevice(to), from, !IsOnDevice(from), bytes, stream, async);
}

// One side of a copy of rows, as the API describes it.
struct Side {
  CUmemorytype type;
  const void* host;
  CUdeviceptr device;
  std::size_t x, y, z, pitch, height;
};

CUresult PlaceOf(const Side& side, std::size_t width, std::size_t rows, std::size_t depth,
                 CopyShape::Place* place) {
  const std::size_t pitch = side.pitch != 0 ? side.pitch : side.x + width;
  const std::size_t height = side.height != 0 ? side.height : side.y + rows;
  std::uint64_t slice = 0, planes = 0;
  if (side.x + width > pitch || (depth > 1 && side.y + rows > height) ||
      __builtin_mul_overflow(pitch, height, &slice) || __builtin_mul_overflow(side.z, slice, &planes)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  switch (side.type) {
    case CU_MEMORYTYPE_HOST:
      place->on_host = true;
      place->address = AddressOf(side.host);
      break;
    case CU_MEMORYTYPE_DEVICE: place->address = side.device; break;
    case CU_MEMORYTYPE_UNIFIED:
      place->on_host = !IsOnDevice(side.device);
      place->address = side.device;
      break;
    case CU_MEMORYTYPE_ARRAY: return NotSupported("copies of arrays");
    default: return CUDA_ERROR_INVALID_VALUE;
  }
  if (place->address == 0) return CUDA_ERROR_INVALID_VALUE;
  place->pitch = pitch;
  place->slice = slice;
  std::uint64_t rows_before = 0, before = 0;
  if (__builtin_mul_overflow(side.y, pitch, &rows_before) ||
      __builtin_add_overflow(planes, rows_before, &before) ||
      __builtin_add_overflow(before, side.x, &before) ||
      __builtin_add_overflow(place->address, before, &place->address)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  return CUDA_SUCCESS;
}

CUresult CopyBox(const Side& to, const Side& from, std::size_t width, std::size_t height, std::size_t depth,
                 CUstream stream, bool async) {
  if (TheDriver() == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  // So that no sum of these is more than a number.
  constexpr std::size_t kMost = std::size_t{1} << 40;
  for (const Side* side : {&to, &from}) {
    for (const std::size_t value : {side->x, side->y, side->z, side->pitch, side->height}) {
      if (value > kMost) return CUDA_ERROR_INVALID_VALUE;
    }
  }
  if (width > kMost || height > kMost || depth > kMost) return CUDA_ERROR_INVALID_VALUE;
  CopyShape shape{.width = width, .height = height, .depth = depth};
  if (width == 0 || height == 0 || depth == 0) return CUDA_SUCCESS;
  TULLE_CUDA_RETURN_IF_ERROR(PlaceOf(to, width, height, depth, &shape.to));
  TULLE_CUDA_RETURN_IF_ERROR(PlaceOf(from, width, height, depth, &shape.from));
  return Copy(shape, stream, async);
}

CUresult Copy2D(const CUDA_MEMCPY2D* c, CUstream stream, bool async) {
  if (c == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return CopyBox({c->dstMemoryType, c->dstHost, c->dstDevice, c->dstXInBytes, c->dstY, 0, c->dstPitch, 0},
                 {c->srcMemoryType, c->srcHost, c->srcDevice, c->srcXInBytes, c->srcY, 0, c->srcPitch, 0},
                 c->WidthInBytes, c->Height, 1, stream, async);
}

// C: CUDA_MEMCPY3D or CUDA_MEMCPY3D_PEER, whose contexts have been looked at.
template <typename C>
CUresult Copy3D(const C* c, CUstream stream, bool async) {
  if (c == nullptr || c->srcLOD != 0 || c->dstLOD != 0) return CUDA_ERROR_INVALID_VALUE;
  return CopyBox({c->dstMemoryType, c->dstHost, c->dstDevice, c->dstXInBytes, c->dstY, c->dstZ, c->dstPitch,
                  c->dstHeight},
                 {c->srcMemoryType, c->srcHost, c->srcDevice, c->srcXInBytes, c->srcY, c->srcZ, c->srcPitch,
                  c->srcHeight},
                 c->WidthInBytes, c->Height, c->Depth, stream, async);
}

CUresult Fill(CUdeviceptr to, std::size_t pitch, std::uint32_t value, std::uint32_t element,
              std::size_t width, std::size_t height, CUstream stream) {
  StreamChoice choice;
  TULLE_CUDA_RETURN_IF_ERROR(ChooseStream(stream, &choice));
  if (width == 0 || height == 0) return CUDA_SUCCESS;
  constexpr std::size_t kMost = std::size_t{1} << 40;
  if (to == 0 || to % element != 0 || width > kMost || height > kMost || pitch > kMost ||
      pitch % element != 0 || (height > 1 && pitch < width * element)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  return choice.device().Fill(choice.stream, {.address = to,
                                              .value = value,
                                              .element_bytes = element,
                                              .width = width,
                                              .height = height,
                                              .pitch = pitch});
}

}  // namespace

CUresult cuMemcpy(CUdeviceptr to, CUdeviceptr from, std::size_t bytes) {
  return CopyAnyLine(to, from, bytes, nullptr, false);
}
CUresult cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, std::size_t bytes, CUstream stream) {
  return CopyAnyLine(to, from, bytes, stream, true);
}
CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, std::size_t bytes) {
  return CopyLine(to, false, AddressOf(from), true, bytes, nullptr, false);
}
CUresult cuMemcpyDtoH_v2(void* to, CUdeviceptr from, std::size_t bytes) {
  return CopyLine(AddressOf(to), true, from, false, bytes, nullptr, false);
}
CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, std::size_t bytes) {
  return CopyLine(to, false, from, false, bytes, nullptr, false);
}
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, std::size_t bytes, CUstream stream) {
  return CopyLine(to, false, AddressOf(from), true, bytes, stream, true);
}
CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, std::size_t bytes, CUstream stream) {
  return CopyLine(AddressOf(to), true, from, false, bytes, stream, true);
}
CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, std::size_t bytes, CUstream stream) {
  return CopyLine(to, false, from, false, bytes, stream, true);
}

namespace {

CUresult FindPeers(CUcontext to, CUcontext from, std::array<std::shared_ptr<Context>, 2>* peers) {
  Driver* const driver = TheDriver();
  if (driver == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  *peers = {driver->contexts.Find(to), driver->contexts.Find(from)};
  return (*peers)[0] == nullptr || (*peers)[1] == nullptr ? CUDA_ERROR_INVALID_CONTEXT : CUDA_SUCCESS;
}

// What does not say in which stream it is done waits for all that the contexts do, and they for it.
template <typename F>
CUresult BetweenAll(CUcontext to, CUcontext from, F&& copy) {
  std::array<std::shared_ptr<Context>, 2> peers;
  TULLE_CUDA_RETURN_IF_ERROR(FindPeers(to, from, &peers));
  for (const auto& peer : peers) TULLE_CUDA_RETURN_IF_ERROR(peer->device->SynchronizeContext(peer->id));
  TULLE_CUDA_RETURN_IF_ERROR(copy());
  StreamChoice choice;
  TULLE_CUDA_RETURN_IF_ERROR(ChooseStream(nullptr, &choice));
  return choice.device().SynchronizeStream(choice.stream);
}

}  // namespace

CUresult cuMemcpyPeer(CUdeviceptr to, CUcontext to_context, CUdeviceptr from, CUcontext from_context,
                      std::size_t bytes) {
  return BetweenAll(to_context, from_context,
                    [&] { return CopyLine(to, false, from, false, bytes, nullptr, false); });
}
CUresult cuMemcpyPeerAsync(CUdeviceptr to, CUcontext to_context, CUdeviceptr from, CUcontext from_context,
                           std::size_t bytes, CUstream stream) {
  std::array<std::shared_ptr<Context>, 2> peers;
  TULLE_CUDA_RETURN_IF_ERROR(FindPeers(to_context, from_context, &peers));
  return CopyLine(to, false, from, false, bytes, stream, true);
}
CUresult cuMemcpy3DPeer(const CUDA_MEMCPY3D_PEER* copy) {
  if (copy == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return BetweenAll(copy->dstContext, copy->srcContext, [&] { return Copy3D(copy, nullptr, false); });
}
CUresult cuMemcpy3DPeerAsync(const CUDA_MEMCPY3D_PEER* copy, CUstream stream) {
  if (copy == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::array<std::shared_ptr<Context>, 2> peers;
  TULLE_CUDA_RETURN_IF_ERROR(FindPeers(copy->dstContext, copy->srcContext, &peers));
  return Copy3D(copy, stream, true);
}
CUresult cuMemcpy2D_v2(const CUDA_MEMCPY2D* copy) { return Copy2D(copy, nullptr, false); }
CUresult cuMemcpy2DUnaligned_v2(const CUDA_MEMCPY2D* copy) { return Copy2D(copy, nullptr, false); }
CUresult cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D* copy, CUstream stream) { return Copy2D(copy, stream, true); }
CUresult cuMemcpy3D_v2(const CUDA_MEMCPY3D* copy) { return Copy3D(copy, nullptr, false); }
CUresult cuMemcpy3DAsync_v2(const CUDA_MEMCPY3D* copy, CUstream stream) { return Copy3D(copy, stream, true); }

CUresult cuMemsetD8_v2(CUdeviceptr to, unsigned char value, std::size_t count) {
  return Fill(to, 0, value, 1, count, 1, nullptr);
}
CUresult cuMemsetD16_v2(CUdeviceptr to, unsigned short value, std::size_t count) {
  return Fill(to, 0, value, 2, count, 1, nullptr);
}
CUresult cuMemsetD32_v2(CUdeviceptr to, unsigned value, std::size_t count) {
  return Fill(to, 0, value, 4, count, 1, nullptr);
}
CUresult cuMemsetD2D8_v2(CUdeviceptr to, std::size_t pitch, unsigned char value, std::size_t width,
                         std::size_t height) {
  return Fill(to, pitch, value, 1, width, height, nullptr);
}
CUresult cuMemsetD2D16_v2(CUdeviceptr to, std::size_t pitch, unsigned short value, std::size_t width,
                          std::size_t height) {
  return Fill(to, pitch, value, 2, width, height, nullptr);
}
CUresult cuMemsetD2D32_v2(CUdeviceptr to, std::size_t pitch, unsigned value, std::size_t width,
                          std::size_t height) {
  return Fill(to, pitch, value, 4, width, height, nullptr);
}
CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, std::size_t count, CUstream stream) {
  return Fill(to, 0, value, 1, count, 1, stream);
}
CUresult cuMemsetD16Async(CUdeviceptr to, unsigned short value, std::size_t count, CUstream stream) {
  return Fill(to, 0, value, 2, count, 1, stream);
}
CUresult cuMemsetD32Async(CUdeviceptr to, unsigned value, std::size_t count, CUstream stream) {
  return Fill(to, 0, value, 4, count, 1, stream);
}
CUresult cuMemsetD2D8Async(CUdeviceptr to, std::size_t pitch, unsigned char value, std::size_t width,
                           std::size_t height, CUstream stream) {
  return Fill(to, pitch, value, 1, width, height, stream);
}
CUresult cuMemsetD2D16Async(CUdeviceptr to, std::size_t pitch, unsigned short value, std::size_t width,
                            std::size_t height, CUstream stream) {
  return Fill(to, pitch, value, 2, width, height, stream);
}
CUresult cuMemsetD2D32Async(CUdeviceptr to, std::size_t pitch, unsigned value, std::size_t width,
                            std::size_t height, CUstream stream) {
  return Fill(to, pitch, value, 4, width, height, stream);
}
