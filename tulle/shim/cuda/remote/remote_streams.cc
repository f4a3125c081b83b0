// Streams, what they do, and events.
#include <algorithm>
#include <cstring>
#include <utility>

#include "tulle/cuda/copy_pieces.h"
#include "tulle/shim/cuda/remote/remote_objects.h"

namespace tulle::shim::cuda {

using namespace tulle::cuda;  // NOLINT: nearly every name here is CUDA's

namespace {

wire::cuda::Rows RowsOf(const CopyShape::Place& place) { return {place.address, place.pitch, place.slice}; }

bool IsPacked(const CopyShape::Place& place, const CopyShape& shape) {
  return (shape.height == 1 || place.pitch == shape.width) &&
         (shape.depth == 1 || place.slice == shape.width * shape.height);
}

// Between a place of the host and packed bytes.
void Pack(const CopyShape& shape, std::byte* packed, bool unpack) {
  const CopyShape::Place& host = shape.to.on_host ? shape.to : shape.from;
  for (std::uint64_t z = 0; z < shape.depth; ++z) {
    for (std::uint64_t y = 0; y < shape.height; ++y) {
      std::byte* const row = At(host.address + z * host.slice + y * host.pitch);
      if (unpack) {
        std::memcpy(row, packed, shape.width);
      } else {
        std::memcpy(packed, row, shape.width);
      }
      packed += shape.width;
    }
  }
}

// What a command takes of the places that a driver has for a stream: functions that tell of its end among
// them.
template <wire::Message M>
constexpr std::uint32_t kPlacesOf = 2;
template <>
constexpr std::uint32_t kPlacesOf<wire::cuda::LaunchKernel> = 1;
template <>
constexpr std::uint32_t kPlacesOf<wire::cuda::CopyOnDevice> = 1;
template <>
constexpr std::uint32_t kPlacesOf<wire::cuda::FillMemory> = 1;
template <>
constexpr std::uint32_t kPlacesOf<wire::cuda::WaitEvent> = 1;
template <>
constexpr std::uint32_t kPlacesOf<wire::cuda::CallHost> = 3;

wire::Vec3 RegionOf(const CopyShape& shape) { return {shape.width, shape.height, shape.depth}; }

}  // namespace

// A copy to the host under way, in pieces.
class RemoteDevice::Download {
 public:
  Download(std::shared_ptr<RemoteContext> context, std::uint64_t bytes)
      : context_(std::move(context)), bytes_(bytes) {
    ++context_->pending->on_host;
    context_->pending->download_bytes += bytes_;
  }
  ~Download() {
    --context_->pending->on_host;
    context_->pending->download_bytes -= bytes_;
  }

  bool done() const { return open_.load(std::memory_order_acquire) == 0; }
  CUresult result() const { return result_.load(); }
  void Expect(std::uint32_t pieces) { open_ += pieces; }
  void PieceDone(CUresult result, std::uint32_t pieces = 1) {
    CUresult none = CUDA_SUCCESS;
    if (result != CUDA_SUCCESS) result_.compare_exchange_strong(none, result);
    if (IsSticky(result)) {
      none = CUDA_SUCCESS;
      context_->error.compare_exchange_strong(none, result);
    }
    open_.fetch_sub(pieces, std::memory_order_acq_rel);
  }

 private:
  const std::shared_ptr<RemoteContext> context_;
  const std::uint64_t bytes_;
  std::atomic<std::uint32_t> open_{0};
  std::atomic<CUresult> result_{CUDA_SUCCESS};
};

// Deletes itself.
struct RemoteDevice::DownloadPiece final : Reply {
  std::shared_ptr<Download> download;
  CopyShape shape;
  ByteVector packed;

  MutableByteView Room(std::uint64_t payload_bytes) override {
    if (payload_bytes != shape.bytes()) return {};
    if (IsPacked(shape.to, shape)) return {At(shape.to.address), payload_bytes};
    packed.resize(payload_bytes);
    return packed;
  }
  Status OnReply(ByteView body, ByteView payload) override {
    const std::unique_ptr<DownloadPiece> self(this);
    wire::Arena arena;
    wire::cuda::CopyFromDeviceReply reply;
    Status status = DecodeReply(body, payload.size(), arena, &reply);
    if (status.ok() && reply.status == 0) {
      if (payload.size() != shape.bytes()) {
        status =
            Error{Code::kInternal, "worker sent another number of bytes than was asked for", Scope::kSession};
      } else if (!packed.empty()) {
        Pack(shape, packed.data(), true);
      }
    }
    download->PieceDone(status.ok() ? static_cast<CUresult>(reply.status) : kLost);
    return status;
  }
  void OnLost() override {
    const std::unique_ptr<DownloadPiece> self(this);
    download->PieceDone(kLost);
  }
};

// Of a stream that was destroyed, when it has nothing left to do. Deletes itself.
struct RemoteDevice::StreamEnd final : Reply {
  Connection* connection = nullptr;
  wire::Handle stream;

  Status OnReply(ByteView, ByteView) override {
    const std::unique_ptr<StreamEnd> self(this);
    connection->Retire(wire::ObjectKind::kQueue, stream);
    return OkStatus();
  }
  void OnLost() override { const std::unique_ptr<StreamEnd> self(this); }
};

template <wire::Message M>
CUresult RemoteDevice::Send(RemoteContext& context, wire::Handle stream, const M& message,
                            Attached attached) {
  attached.queue = stream;
  context.pending->functions.Pass(ToBits(stream), ToBits(context.legacy), kPlacesOf<M>);
  const bool sent = connection_->Submit(message, attached);
  ++context.begun;  // not before: who reads it and then waits has waited for this one
  if (!sent) return Heard(context, kLost);
  connection_->Flush();
  return CUDA_SUCCESS;
}

template <wire::Message M>
CUresult RemoteDevice::Enqueue(RemoteContext& context, wire::Handle stream, const M& message,
                               Attached attached) {
  return context.error != CUDA_SUCCESS ? context.error.load() : Send(context, stream, message, attached);
}

// --- streams

CUresult RemoteDevice::CreateStream(ContextId id, unsigned flags, int priority, StreamId* stream) {
  const auto context = Find(id);
  if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  if (context->error != CUDA_SUCCESS) return context->error;
  const wire::Handle handle = connection_->NewHandle();
  if (handle.null()) return CUDA_ERROR_OUT_OF_MEMORY;
  wire::cuda::CreateStream message{{context->handle}, {handle}, {}, priority};
  if ((flags & CU_STREAM_NON_BLOCKING) != 0)
    message.flags.bits |= static_cast<std::uint64_t>(wire::cuda::StreamFlag::kNonBlocking);
  if ((flags & kStreamStandsAside) != 0)
    message.flags.bits |= static_cast<std::uint64_t>(wire::cuda::StreamFlag::kStandsAside);
  *stream = StreamId{ToBits(handle)};
  {
    const std::lock_guard lock(context->mutex);
    context->streams.insert(ToBits(handle));
  }
  return Send(*context, handle, message);
}

CUresult RemoteDevice::DestroyStream(const Stream& stream) {
  wire::Handle queue;
  const auto context = Find(stream, &queue);
  if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  {
    const std::lock_guard lock(context->mutex);
    if (context->streams.erase(ToBits(queue)) == 0) return CUDA_ERROR_INVALID_HANDLE;
  }
  connection_->ForgetFailure(queue);
  // What it still has to do is part of what others wait for, so it stays until that is done.
  auto end = std::make_unique<StreamEnd>();
  end->connection = connection_.get();
  end->stream = queue;
  Attached attached;
  attached.reply = end.get();
  attached.queue = queue;
  if (connection_->Submit(wire::cuda::SynchronizeStream{{queue}}, attached)) {
    end.release();  // NOLINT: it deletes itself when it is answered
    connection_->Flush();
  }
  return CUDA_SUCCESS;
}

CUresult RemoteDevice::SynchronizeStream(const Stream& stream) {
  wire::Handle queue;
  const auto context = Find(stream, &queue);
  if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  StatusWait wait;
  if (!connection_->Call(wire::cuda::SynchronizeStream{{queue}}, wait)) return Heard(*context, kLost);
  vgpu_memory_->FreePassed();
  // Of a command that had been taken for done.
  const std::int32_t failure = connection_->TakeFailure(queue);
  return Heard(*context, wait.status != 0 ? wait.status : failure);
}

CUresult RemoteDevice::QueryStream(const Stream& stream) {
  wire::Handle queue;
  const auto context = Find(stream, &queue);
  if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  StatusWait wait;
  if (!connection_->Call(wire::cuda::QueryStream{{queue}}, wait)) return Heard(*context, kLost);
  return Heard(*context, wait.status);
}

// --- what streams do

CUresult RemoteDevice::Launch(const Stream& stream, FunctionId function, const LaunchShape& shape,
                              ByteView parameters) {
  wire::Handle queue;
  const auto context = Find(stream, &queue);
  if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  const auto extents = [](const Dimensions& d) { return wire::Vec3{d.x, d.y, d.z}; };
  return Enqueue(*context, queue,
                 wire::cuda::LaunchKernel{{queue},
                                          {ToHandle(static_cast<std::uint64_t>(function))},
                                          extents(shape.grid),
                                          extents(shape.block),
                                          shape.shared_bytes,
                                          shape.cooperative ? wire::U8{1} : wire::U8{0},
                                          {parameters}});
}

CUresult RemoteDevice::Copy(const Stream& stream, const CopyShape& shape, CopyMode mode) {
  wire::Handle queue;
  const auto context = Find(stream, &queue);
  if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  if (context->error != CUDA_SUCCESS) return context->error;
  for (const CopyShape::Place* place : {&shape.to, &shape.from}) {
    if (place->on_host) continue;
    ContextId owner{};
    CUdeviceptr base = 0;
    std::uint64_t bytes = 0;
    std::uint64_t extent = 0;
    if (!shape.ExtentOf(*place, &extent) || !FindMemory(place->address, &owner, &base, &bytes) ||
        extent > base + bytes - place->address) {
      return CUDA_ERROR_INVALID_VALUE;
    }
  }
  if (shape.bytes() == 0) return CUDA_SUCCESS;
  if (shape.to.on_host && shape.from.on_host) {
    TULLE_CUDA_RETURN_IF_ERROR(SynchronizeStream(stream));
    ByteVector packed(shape.bytes());
    CopyShape out = shape;
    out.to.on_host = false;
    Pack(out, packed.data(), false);
    Pack(shape, packed.data(), true);
    return CUDA_SUCCESS;
  }
  Pending& pending = *context->pending;
  if (shape.to.on_host) {
    // The worker has room for so much behind functions of the program, which must not come to need it
    // themselves.
    constexpr std::uint64_t kMostBytesBehindFunctions = 64u << 20;
    const bool when_there = mode == CopyMode::kAsync && pending.functions.count() != 0 &&
                            pending.download_bytes + shape.bytes() > kMostBytesBehindFunctions;
    if (when_there) {
      wire::Handle aside;
      TULLE_CUDA_RETURN_IF_ERROR(FindAside(stream.context, *context, &aside));
      return AtStream(context, queue, [this, context, aside, shape](CUresult result) {
        if (result == CUDA_SUCCESS) (void)DownloadNow(context, aside, shape);
      });
    }
    if (mode != CopyMode::kAsync) return DownloadNow(context, queue, shape);
    // Nor for more copies than so many, of whatever size: as with a GPU's own driver, whose queues have some
    // thousand places, the program waits until there is.
    constexpr std::uint32_t kMostCopiesBehindFunctions = wire::kCommandsUnderWay / 2;
    const auto has_room = [&] {
      return pending.functions.count() == 0 || pending.on_host <= kMostCopiesBehindFunctions;
    };
    if (!has_room() && !connection_->AwaitUntil(has_room)) return Heard(*context, kLost);
    std::shared_ptr<Download> download;
    return StartDownload(context, queue, shape, &download);
  }
  if (shape.from.on_host) {
    if (mode == CopyMode::kBlocking && pending.on_host != 0) {
      // What comes before in the stream may still write there.
      TULLE_CUDA_RETURN_IF_ERROR(SynchronizeStream(stream));
    }
    const bool when_there = mode == CopyMode::kAsync ? pending.on_host != 0 : pending.functions.count() != 0;
    if (mode == CopyMode::kBlocking || !when_there)
      return Upload(*context, queue, shape, mode == CopyMode::kBlocking);
    // What is there when the stream gets there, or what is there now, sent by a stream of its own meanwhile.
    std::shared_ptr<ByteVector> kept;
    CopyShape later = shape;
    if (mode == CopyMode::kStaged) {
      kept = std::make_shared<ByteVector>(shape.bytes());
      Pack(shape, kept->data(), false);
      later.from = {.address = reinterpret_cast<std::uint64_t>(kept->data()),
                    .on_host = true,
                    .pitch = shape.width,
                    .slice = shape.width * shape.height};
    }
    wire::Handle aside;
    TULLE_CUDA_RETURN_IF_ERROR(FindAside(stream.context, *context, &aside));
    return AtStream(context, queue, [this, context, aside, later, kept](CUresult result) {
      if (result != CUDA_SUCCESS || Upload(*context, aside, later, false) != CUDA_SUCCESS) return;
      StatusWait wait;
      if (connection_->Call(wire::cuda::SynchronizeStream{{aside}}, wait)) (void)Heard(*context, wait.status);
    });
  }
  return Enqueue(*context, queue,
                 wire::cuda::CopyOnDevice{{queue}, RowsOf(shape.to), RowsOf(shape.from), RegionOf(shape)});
}

CUresult RemoteDevice::FindAside(ContextId id, RemoteContext& context, wire::Handle* aside) {
  const std::lock_guard one_at_a_time(context.making_aside);
  if (context.aside.null()) {
    StreamId made{};
    TULLE_CUDA_RETURN_IF_ERROR(CreateStream(id, CU_STREAM_NON_BLOCKING | kStreamStandsAside, 0, &made));
    context.aside = ToHandle(static_cast<std::uint64_t>(made));
    context.pending->functions.Exempt(ToBits(context.aside));
  }
  *aside = context.aside;
  return CUDA_SUCCESS;
}

CUresult RemoteDevice::Upload(RemoteContext& context, wire::Handle stream, const CopyShape& shape,
                              bool blocking) {
  ByteVector packed;
  for (const CopyShape& piece : PiecesOf(shape, wire::kMaxPayloadBytes)) {
    ByteView data(At(piece.from.address), piece.bytes());
    if (!IsPacked(piece.from, piece)) {
      packed.resize(piece.bytes());
      Pack(piece, packed.data(), false);
      data = packed;
    }
    Attached attached;
    attached.payload = {&data, 1};
    TULLE_CUDA_RETURN_IF_ERROR(Enqueue(
        context, stream,
        wire::cuda::CopyToDevice{
            {stream}, RowsOf(piece.to), RegionOf(piece), blocking ? wire::U8{1} : wire::U8{0}, {data.size()}},
        attached));
  }
  return CUDA_SUCCESS;
}

CUresult RemoteDevice::DownloadNow(const std::shared_ptr<RemoteContext>& context, wire::Handle stream,
                                   const CopyShape& shape) {
  std::shared_ptr<Download> download;
  TULLE_CUDA_RETURN_IF_ERROR(StartDownload(context, stream, shape, &download));
  if (!connection_->AwaitUntil([&] { return download->done(); })) return Heard(*context, kLost);
  return Heard(*context, download->result());
}

CUresult RemoteDevice::StartDownload(const std::shared_ptr<RemoteContext>& context, wire::Handle stream,
                                     const CopyShape& shape, std::shared_ptr<Download>* download) {
  *download = std::make_shared<Download>(context, shape.bytes());
  const std::vector<CopyShape> pieces = PiecesOf(shape, wire::kMaxPayloadBytes);
  (*download)->Expect(static_cast<std::uint32_t>(pieces.size()));
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    auto reply = std::make_unique<DownloadPiece>();
    reply->download = *download;
    reply->shape = pieces[i];
    Attached attached;
    attached.reply = reply.get();
    attached.queue = stream;
    context->pending->functions.Pass(ToBits(stream), ToBits(context->legacy),
                                     kPlacesOf<wire::cuda::CopyFromDevice>);
    const wire::cuda::CopyFromDevice message{
        {stream}, RowsOf(pieces[i].from), RegionOf(pieces[i]), {pieces[i].bytes()}};
    if (!connection_->Submit(message, attached)) {
      (*download)->PieceDone(kLost, static_cast<std::uint32_t>(pieces.size() - i));
      return Heard(*context, kLost);
    }
    reply.release();  // NOLINT: it deletes itself when it is answered
  }
  ++context->begun;
  connection_->Flush();
  return CUDA_SUCCESS;
}

CUresult RemoteDevice::Fill(const Stream& stream, const FillShape& shape) {
  wire::Handle queue;
  const auto context = Find(stream, &queue);
  if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  ContextId owner{};
  CUdeviceptr base = 0;
  std::uint64_t bytes = 0;
  std::uint64_t extent = 0;
  if (!shape.Extent(&extent) || !FindMemory(shape.address, &owner, &base, &bytes) ||
      extent > base + bytes - shape.address) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  const std::uint64_t row = shape.width * shape.element_bytes;
  const std::uint64_t pitch = shape.height == 1 ? row : shape.pitch;
  return Enqueue(*context, queue,
                 wire::cuda::FillMemory{{queue},
                                        {shape.address, pitch, pitch * shape.height},
                                        {shape.width, shape.height, 1},
                                        shape.value,
                                        shape.element_bytes});
}

CUresult RemoteDevice::AtStream(const std::shared_ptr<RemoteContext>& context, wire::Handle stream,
                                std::function<void(CUresult)> f) {
  if (context->error != CUDA_SUCCESS) return context->error;
  if (!options_.callbacks->Start().ok()) return CUDA_ERROR_OUT_OF_MEMORY;
  const Ref<Event> reached = Ref<Event>::Adopt(connection_->events().Create(nullptr, {}, 0));
  const Ref<Event> returned = Ref<Event>::Adopt(connection_->events().Create(nullptr, {}, 0));
  if (!reached || !returned) return CUDA_ERROR_OUT_OF_MEMORY;
  Attached attached;
  attached.event = reached.get();
  TULLE_CUDA_RETURN_IF_ERROR(Send(
      *context, stream, wire::cuda::CallHost{{stream}, {reached->handle()}, {returned->handle()}}, attached));
  ++context->pending->on_host;
  const std::uint64_t function = context->pending->functions.Begin(ToBits(stream));
  reached->Observe(
      *options_.callbacks, MakeTask([this, context, reached, returned, function, f = std::move(f)] {
        f(Heard(*context, -reached->status()));
        --context->pending->on_host;
        if (connection_->Submit(wire::cuda::EndHostCall{{returned->handle()}})) connection_->Flush();
        context->pending->functions.End(function);  // after that, as others may send more from then on
      }));
  return CUDA_SUCCESS;
}

CUresult RemoteDevice::CallHost(const Stream& stream, void (*function)(void*, CUresult), void* argument) {
  wire::Handle queue;
  const auto context = Find(stream, &queue);
  if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  return AtStream(context, queue, [function, argument](CUresult result) { function(argument, result); });
}

// --- events

CUresult RemoteDevice::FindRecorded(EventId id, Ref<Event>* recorded) const {
  const std::shared_lock lock(mutex_);
  const auto it = events_.find(id);
  if (it == events_.end()) return CUDA_ERROR_INVALID_HANDLE;
  *recorded = it->second.recorded;
  return CUDA_SUCCESS;
}

CUresult RemoteDevice::CreateEvent(ContextId id, unsigned, EventId* event) {
  const auto context = Find(id);
  if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  if (context->error != CUDA_SUCCESS) return context->error;
  const std::lock_guard lock(mutex_);
  *event = EventId{++last_id_};
  events_.emplace(*event, RemoteEvent{id, {}});
  return CUDA_SUCCESS;
}

CUresult RemoteDevice::DestroyEvent(ContextId, EventId event) {
  Ref<Event> gone;  // let go of without the lock
  const std::lock_guard lock(mutex_);
  const auto it = events_.find(event);
  if (it == events_.end()) return CUDA_ERROR_INVALID_HANDLE;
  gone = std::move(it->second.recorded);
  events_.erase(it);
  return CUDA_SUCCESS;
}

CUresult RemoteDevice::RecordEvent(const Stream& stream, EventId id) {
  wire::Handle queue;
  const auto context = Find(stream, &queue);
  if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  if (context->error != CUDA_SUCCESS) return context->error;
  Ref<Event> recorded = Ref<Event>::Adopt(connection_->events().Create(nullptr, {}, 0));
  if (!recorded) return CUDA_ERROR_OUT_OF_MEMORY;
  Attached attached;
  attached.event = recorded.get();
  TULLE_CUDA_RETURN_IF_ERROR(
      Send(*context, queue, wire::cuda::RecordEvent{{queue}, {recorded->handle()}}, attached));
  const std::lock_guard lock(mutex_);
  const auto it = events_.find(id);
  if (it == events_.end()) return CUDA_ERROR_INVALID_HANDLE;
  std::swap(it->second.recorded, recorded);
  return CUDA_SUCCESS;
}

CUresult RemoteDevice::WaitForEvent(const Stream& stream, EventId id) {
  wire::Handle queue;
  const auto context = Find(stream, &queue);
  if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  Ref<Event> event;
  TULLE_CUDA_RETURN_IF_ERROR(FindRecorded(id, &event));
  if (!event || event->final()) return context->error;
  context->pending->functions.WaitsForAnother(ToBits(queue));
  return Enqueue(*context, queue, wire::cuda::WaitEvent{{queue}, event->wire()});
}

CUresult RemoteDevice::QueryEvent(ContextId id, EventId event_id) {
  const auto context = Find(id);
  if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  Ref<Event> event;
  TULLE_CUDA_RETURN_IF_ERROR(FindRecorded(event_id, &event));
  if (!event) return context->error;
  if (!event->final()) connection_->FlushAndPoll();
  return event->final() ? Heard(*context, -event->status()) : CUDA_ERROR_NOT_READY;
}

CUresult RemoteDevice::SynchronizeEvent(ContextId id, EventId event_id) {
  const auto context = Find(id);
  if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  Ref<Event> event;
  TULLE_CUDA_RETURN_IF_ERROR(FindRecorded(event_id, &event));
  if (!event) return context->error;
  if (!event->final() && !connection_->AwaitUntil([&] { return event->final(); }))
    return Heard(*context, kLost);
  return Heard(*context, -event->status());
}

CUresult RemoteDevice::GetElapsedTime(ContextId id, EventId start, EventId end, float* milliseconds) {
  const auto context = Find(id);
  if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  Ref<Event> first, last;
  TULLE_CUDA_RETURN_IF_ERROR(FindRecorded(start, &first));
  TULLE_CUDA_RETURN_IF_ERROR(FindRecorded(end, &last));
  if (!first || !last) return CUDA_ERROR_INVALID_HANDLE;
  connection_->FlushAndPoll();
  for (const Ref<Event>* event : {&first, &last}) {
    if (!(*event)->final()) return CUDA_ERROR_NOT_READY;
    TULLE_CUDA_RETURN_IF_ERROR(Heard(*context, -(*event)->status()));
  }
  *milliseconds = static_cast<float>(
      static_cast<double>(static_cast<std::int64_t>(last->times().ended_ns - first->times().ended_ns)) / 1e6);
  return CUDA_SUCCESS;
}

}  // namespace tulle::shim::cuda
