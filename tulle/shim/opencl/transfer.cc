#include "tulle/shim/opencl/transfer.h"

#include <algorithm>

#include "tulle/shim/opencl/image.h"
#include "tulle/shim/opencl/shared_transfer.h"

namespace tulle::shim::opencl {
namespace {

std::size_t PieceCount(std::size_t size) {
  return (size + wire::kMaxPayloadBytes - 1) / wire::kMaxPayloadBytes;
}

// Piece i of bytes that follow each other, on both sides.
template <wire::Message M>
auto Linear(const Memory& memory, std::size_t offset, std::byte* bytes, std::size_t size) {
  return [&memory, offset, bytes, size](std::size_t i, M* message, HostBox* box) {
    const std::size_t at = i * wire::kMaxPayloadBytes;
    message->memory = memory.wire();
    message->offset_bytes = offset + at;
    *box = {bytes + at, {std::min<std::size_t>(size - at, wire::kMaxPayloadBytes), 1, 1}};
  };
}

// Whether a blocking write must be seen to end. The data has been copied when Upload returns, so it need not
// where the program cannot tell: it has no event of it, and no queue but this one, whose order holds.
bool WaitsForEnd(const Enqueue& enqueue, cl_bool blocking) {
  return blocking != CL_FALSE &&
         (enqueue.wants_event() || enqueue.has_waits() || !enqueue.queue().in_order());
}

}  // namespace

Ref<Download> Download::Start(Enqueue& enqueue, Memory& memory, std::size_t offset, MutableByteView target,
                              Ref<Memory> keep) {
  return Start<wire::opencl::EnqueueRead>(
      enqueue, PieceCount(target.size()), std::move(keep),
      Linear<wire::opencl::EnqueueRead>(memory, offset, target.data(), target.size()));
}

MutableByteView Download::Piece::Room(std::uint64_t payload_bytes) {
  const std::size_t size = target_.packed_size();
  if (payload_bytes != size) return {};
  if (target_.packed()) return {target_.bytes, size};
  packed_.resize(size);
  return packed_;
}

Status Download::Piece::OnReply(ByteView body, ByteView payload) {
  wire::Arena arena;
  wire::opencl::EnqueueReadReply reply;
  Status status = DecodeReply(body, payload.size(), arena, &reply);
  if (status.ok() && reply.status == CL_SUCCESS) {
    if (payload.size() != target_.packed_size()) {
      status = Error{Code::kInternal,
                     "worker sent " + std::to_string(payload.size()) + " bytes where " +
                         std::to_string(target_.packed_size()) + " were asked for",
                     Scope::kSession};
    } else if (!target_.packed()) {
      target_.CopyFrom(payload.data());
    }
  }
  packed_ = {};
  Ref<Download> download = Ref<Download>::Adopt(download_);  // the piece's reference ends here
  download->queue_->context().incoming().Remove(target_);
  download->PieceDone(status.ok() ? std::min(reply.status, CL_SUCCESS) : CL_OUT_OF_RESOURCES);
  return status;
}

void Download::Piece::OnLost() {
  Ref<Download> download = Ref<Download>::Adopt(download_);
  download->queue_->context().incoming().Remove(target_);
  download->PieceDone(CL_OUT_OF_RESOURCES);
}

void Download::PieceDone(cl_int status, std::size_t pieces) {
  if (status != CL_SUCCESS) {
    cl_int none = CL_SUCCESS;
    status_.compare_exchange_strong(none, status);
  }
  if (open_.fetch_sub(pieces, std::memory_order_acq_rel) != pieces) return;
  queue_->downloads().fetch_sub(1, std::memory_order_acq_rel);
  if (event_) event_->Arrive(status_.load());
}

cl_int Download::Await(Connection& connection) {
  const auto done = [this] { return open_.load(std::memory_order_acquire) == 0; };
  if (!done() && !connection.AwaitUntil(done)) return CL_OUT_OF_RESOURCES;
  return status_.load();
}

cl_int Upload(Enqueue& enqueue, Memory& memory, std::size_t offset, ByteView data) {
  // A box is of bytes that may be written; these are not.
  return Upload<wire::opencl::EnqueueWrite>(
      enqueue, memory, PieceCount(data.size()),
      Linear<wire::opencl::EnqueueWrite>(memory, offset, const_cast<std::byte*>(data.data()), data.size()));
}

// On a queue of its own, since the command's waits for it.
cl_int UploadLater(Enqueue& enqueue, Memory& memory, std::function<cl_int(Enqueue& enqueue)> upload) {
  // The command has an event, so that a blocking call knows that it must wait.
  const Ref<Event> whole(enqueue.MakeEvent(true));
  if (!whole) return CL_OUT_OF_RESOURCES;
  return enqueue.PlaceHere(
      [whole, memory = Ref<Memory>(&memory), upload = std::move(upload)](const Enqueue::Done& done) {
        const Ref<Queue> aside = Queue::MakeAside(memory->context());
        if (!aside) return done(CL_OUT_OF_RESOURCES);
        Enqueue later(*aside, CL_COMMAND_WRITE_BUFFER, {});
        const Ref<Event> event(later.MakeEvent(true));
        const cl_int status = event ? upload(later) : CL_OUT_OF_RESOURCES;
        if (status != CL_SUCCESS) return done(status);
        event->Observe(memory->context().callbacks(), MakeTask([event, done] { done(event->status()); }));
        aside->connection().Flush();
      });
}

cl_int CheckMemory(const Enqueue& enqueue, const Memory* memory) {
  if (memory == nullptr) return CL_INVALID_MEM_OBJECT;
  return &memory->context() == &enqueue.queue().context() ? CL_SUCCESS : CL_INVALID_CONTEXT;
}

cl_int EndBlocking(Enqueue& enqueue, std::uint64_t sequence, cl_int status) {
  Queue& queue = enqueue.queue();
  // In an in-order queue everything before has completed too, and the program may look at its events.
  if (queue.in_order()) {
    queue.NoteCompleted(enqueue.number());
    if (!queue.AwaitNotices(sequence)) return CL_OUT_OF_RESOURCES;
  }
  if (const Event* event = enqueue.event(); event != nullptr && !event->final()) {
    enqueue.connection().AwaitUntil([event] { return event->final(); });
  }
  if (status == CL_SUCCESS) status = enqueue.connection().TakeFailure(queue.name());
  return status;
}

cl_int EndRead(Enqueue& enqueue, cl_bool blocking, const Ref<Download>& download) {
  if (!download) return CL_OUT_OF_RESOURCES;
  if (blocking != CL_FALSE) {
    const cl_int status = download->Await(enqueue.connection());
    if (const cl_int end = EndBlocking(enqueue, download->last_sequence(), status); end != CL_SUCCESS)
      return end;
  }
  return enqueue.Commit();
}

cl_int FetchMapping(Enqueue& enqueue, cl_bool blocking, cl_map_flags flags,
                    const std::function<Ref<Download>()>& start) {
  if (enqueue.wants_event() && enqueue.MakeEvent() == nullptr) return CL_OUT_OF_RESOURCES;
  // A region that is to be overwritten whole need not be fetched. The command still has its place in the
  // queue.
  const bool invalidates = (flags & CL_MAP_WRITE_INVALIDATE_REGION) != 0;
  if (!invalidates) {
    const Ref<Download> download = start();
    if (!download) return CL_OUT_OF_RESOURCES;
    if (blocking == CL_FALSE) return CL_SUCCESS;
    return EndBlocking(enqueue, download->last_sequence(), download->Await(enqueue.connection()));
  }
  const bool in_order = enqueue.queue().in_order();
  if (!enqueue.wants_event() && !enqueue.has_waits() &&
      (!in_order || blocking == CL_FALSE || enqueue.queue().unseen())) {
    return CL_SUCCESS;
  }
  if (blocking != CL_FALSE && enqueue.MakeEvent(true) == nullptr) return CL_OUT_OF_RESOURCES;
  if (!enqueue.PlaceNothing()) return CL_OUT_OF_RESOURCES;
  if (blocking == CL_FALSE) return CL_SUCCESS;
  const Event& done = *enqueue.event();
  if (!enqueue.connection().AwaitUntil([&] { return done.final(); })) return CL_OUT_OF_RESOURCES;
  return EndBlocking(enqueue, done.sequence(), done.status());
}

cl_int EndMapping(Enqueue& enqueue, Memory& memory, const Memory::Mapping& mapping) {
  if (mapping.shared) return EndShared(enqueue, memory, mapping);
  if (mapping.writes) {
    if (enqueue.wants_event() && enqueue.MakeEvent() == nullptr) return CL_OUT_OF_RESOURCES;
    const cl_int status = memory.image() != nullptr
                              ? UploadMapping(enqueue, memory, mapping)
                              : Upload(enqueue, memory, mapping.offset, {mapping.address, mapping.size});
    return status == CL_SUCCESS ? enqueue.Commit() : status;
  }
  if (!enqueue.wants_event() && !enqueue.has_waits()) return CL_SUCCESS;  // nothing to move, nobody to tell
  return enqueue.SubmitNothing();
}

bool BeginWrite(Enqueue& enqueue, cl_bool blocking) {
  const bool waits_for_end = WaitsForEnd(enqueue, blocking);
  return (!enqueue.wants_event() && !waits_for_end) || enqueue.MakeEvent(true) != nullptr;
}

cl_int EndWrite(Enqueue& enqueue, cl_bool blocking) {
  Queue& queue = enqueue.queue();
  if (WaitsForEnd(enqueue, blocking)) {
    Event& done = *enqueue.event();
    if (!enqueue.connection().AwaitUntil([&] { return done.final(); })) return CL_OUT_OF_RESOURCES;
    if (const cl_int end = EndBlocking(enqueue, done.sequence(), done.status()); end != CL_SUCCESS)
      return end;
  } else if (blocking != CL_FALSE) {
    queue.NoteUnawaited();
    if (!queue.context().has_one_queue() || !queue.unseen()) return queue.Finish();
    enqueue.connection().Flush();
    if (const cl_int failure = enqueue.connection().TakeFailure(queue.name()); failure != CL_SUCCESS)
      return failure;
  }
  return enqueue.Commit();
}

}  // namespace tulle::shim::opencl
