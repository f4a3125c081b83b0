#include "tulle/shim/cuda/copy_elsewhere.h"

#include <memory>
#include <utility>

#include "tulle/base/log.h"
#include "tulle/cuda/copy_pieces.h"

namespace tulle::shim::cuda {
namespace {

constexpr std::uint64_t kPieceBytes = 8u << 20;

class Transfer {
 public:
  explicit Transfer(const CopyShape& shape) : shape_(shape) {}
  ~Transfer() {
    for (const End* end : {&to_, &from_}) {
      if (end->told != EventId{}) (void)end->device().DestroyEvent(end->context->id, end->told);
    }
  }
  Transfer(const Transfer&) = delete;
  Transfer& operator=(const Transfer&) = delete;

  // In the thread that asks for it.
  CUresult Prepare() {
    TULLE_CUDA_RETURN_IF_ERROR(PrepareEnd(shape_.to, &to_));
    return PrepareEnd(shape_.from, &from_);
  }

  // Done when it returns.
  CUresult Run() {
    for (const End* end : {&to_, &from_}) {
      if (end->context != nullptr)
        TULLE_CUDA_RETURN_IF_ERROR(end->device().SynchronizeEvent(end->context->id, end->told));
    }
    if (from_.context == nullptr) {
      TULLE_CUDA_RETURN_IF_ERROR(to_.device().Copy(to_.aside, shape_, CopyMode::kBlocking));
    } else if (to_.context == nullptr) {
      return from_.device().Copy(from_.aside, shape_, CopyMode::kBlocking);
    } else {
      ByteVector between;
      for (const CopyShape& piece : PiecesOf(shape_, kPieceBytes)) {
        between.resize(piece.bytes());
        const CopyShape::Place packed{.address = reinterpret_cast<std::uintptr_t>(between.data()),
                                      .on_host = true,
                                      .pitch = piece.width,
                                      .slice = piece.width * piece.height};
        CopyShape out = piece, in = piece;
        out.to = in.from = packed;
        TULLE_CUDA_RETURN_IF_ERROR(from_.device().Copy(from_.aside, out, CopyMode::kBlocking));
        TULLE_CUDA_RETURN_IF_ERROR(to_.device().Copy(to_.aside, in, CopyMode::kBlocking));
      }
    }
    return to_.device().SynchronizeStream(to_.aside);
  }

 private:
  struct End {
    std::shared_ptr<Context> context;  // null: the host
    Stream aside;
    EventId told{};  // behind the copies there that the program has been told are done
    Device& device() const { return *context->device; }
  };

  CUresult PrepareEnd(const CopyShape::Place& place, End* end) {
    if (place.on_host) return CUDA_SUCCESS;
    ContextId owner{};
    std::uint64_t extent = 0, bytes = 0;
    CUdeviceptr base = 0;
    Device* const device = OwnerOf(place.address, &owner);
    if (device == nullptr || !shape_.ExtentOf(place, &extent) ||
        !device->FindMemory(place.address, &owner, &base, &bytes) || extent > base + bytes - place.address) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    // What is mapped belongs to no context: any of the device's will do.
    const auto context = TheDriver()->contexts.FindFirst([&](const Context& one) {
      return one.device == device && (owner == ContextId{} || one.id == owner);
    });
    if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
    Stream behind{context->id, {}};
    end->aside.context = context->id;
    TULLE_CUDA_RETURN_IF_ERROR(context->TransferStreams(&end->aside.id, &behind.id));
    EventId told{};
    TULLE_CUDA_RETURN_IF_ERROR(device->CreateEvent(context->id, CU_EVENT_DISABLE_TIMING, &told));
    end->context = context;
    end->told = told;
    return device->RecordEvent(behind, told);
  }

  const CopyShape shape_;
  End to_, from_;
};

}  // namespace

Device* OwnerOf(std::uint64_t address, ContextId* owner) {
  CUdeviceptr base = 0;
  std::uint64_t bytes = 0;
  for (const auto& device : TheDriver()->devices) {
    if (device->FindMemory(address, owner, &base, &bytes)) return device.get();
  }
  return nullptr;
}

bool IsElsewhere(const Device& device, const CopyShape& shape) {
  if (TheDriver()->devices.size() == 1) return false;
  for (const CopyShape::Place* place : {&shape.to, &shape.from}) {
    ContextId owner{};
    if (place->on_host) continue;
    if (const Device* const its = OwnerOf(place->address, &owner); its != nullptr && its != &device)
      return true;
  }
  return false;
}

CUresult CopyElsewhere(const StreamChoice& choice, const CopyShape& shape, bool async) {
  auto transfer = std::make_unique<Transfer>(shape);
  TULLE_CUDA_RETURN_IF_ERROR(transfer->Prepare());
  if (!async) {
    TULLE_CUDA_RETURN_IF_ERROR(choice.device().SynchronizeStream(choice.stream));
    return transfer->Run();
  }
  const auto run = [](void* argument, CUresult result) {
    const std::unique_ptr<Transfer> its(static_cast<Transfer*>(argument));
    if (result != CUDA_SUCCESS) return;
    if (const CUresult failed = its->Run(); failed != CUDA_SUCCESS)
      Log(LogLevel::kError, "cuda", "a copy between devices failed", {{"result", static_cast<int>(failed)}});
  };
  Transfer* const argument = transfer.release();
  const CUresult result = choice.device().CallHost(choice.stream, run, argument);
  if (result != CUDA_SUCCESS) delete argument;
  return result;
}

}  // namespace tulle::shim::cuda
