// Moves bytes between the program's memory and the vGPU, in pieces of at most wire::kMaxPayloadBytes.
#pragma once

#include <functional>

#include "tulle/shim/opencl/box.h"
#include "tulle/shim/opencl/memory.h"
#include "tulle/shim/opencl/queue.h"

namespace tulle::shim::opencl {

// Bytes on their way into this process, as one command. Received straight into the program's memory where
// they are packed there, which must stay valid until the download is done; nothing is written there once it
// is.
class Download {
 public:
  // Enqueues `count` pieces: `fill(i, &message, &box)` sets what piece i, an M, reads of the device and where
  // it goes to. If the enqueue has an event, it becomes final only after the last byte has arrived. `keep`
  // stays alive until then. Null: the session is lost.
  template <wire::Message M, typename Fill>
  static Ref<Download> Start(Enqueue& enqueue, std::size_t count, Ref<Memory> keep, const Fill& fill);
  // Bytes of a buffer.
  static Ref<Download> Start(Enqueue& enqueue, Memory& memory, std::size_t offset, MutableByteView target,
                             Ref<Memory> keep);

  // Waits for it and returns its status; CL_OUT_OF_RESOURCES when the session is lost.
  cl_int Await(Connection& connection);
  // Of its last piece.
  std::uint64_t last_sequence() const { return pieces_.back().sequence(); }

  void AddRef() { references_.fetch_add(1, std::memory_order_relaxed); }
  bool DropRef() { return references_.fetch_sub(1, std::memory_order_acq_rel) == 1; }
  static void Dispose(Download* download) { delete download; }

 private:
  class Piece final : public Reply {
   public:
    Piece(Download* download, const HostBox& target) : download_(download), target_(target) {}

   private:
    MutableByteView Room(std::uint64_t payload_bytes) override;
    Status OnReply(ByteView body, ByteView payload) override;
    void OnLost() override;
    Download* download_;
    HostBox target_;
    ByteVector packed_;  // what has arrived, where the target is not packed
  };

  Download(Queue& queue, std::size_t pieces, Event* event, Ref<Memory> keep)
      : open_(pieces), queue_(&queue), event_(event), keep_(std::move(keep)) {
    pieces_.reserve(pieces);
    queue.downloads().fetch_add(1, std::memory_order_acq_rel);
  }
  void PieceDone(cl_int status, std::size_t pieces = 1);

  std::atomic<std::uint32_t> references_{1};
  std::atomic<std::size_t> open_;
  std::atomic<cl_int> status_{CL_SUCCESS};
  const Ref<Queue> queue_;
  const Ref<Event> event_;
  const Ref<Memory> keep_;
  std::vector<Piece> pieces_;  // one reference each while it is open
};

// Enqueues a write to `memory` in `count` pieces: `fill(i, &message, &box)` sets where piece i, an M, goes to
// on the device and what is in it. All has been copied when this returns, but for bytes that a download still
// has to bring: then it is when the command's turn comes. The event, if any, is made before.
template <wire::Message M, typename Fill>
cl_int Upload(Enqueue& enqueue, Memory& memory, std::size_t count, const Fill& fill);
// Bytes of a buffer.
cl_int Upload(Enqueue& enqueue, Memory& memory, std::size_t offset, ByteView data);

// The memory object of a command: one, and in the queue's context.
cl_int CheckMemory(const Enqueue& enqueue, const Memory* memory);

// Ends a call that has to wait for what it enqueued: `status` is the command's own.
cl_int EndBlocking(Enqueue& enqueue, std::uint64_t sequence, cl_int status);
// Ends a call that reads: waits if it is blocking. A null download is a session that is lost.
cl_int EndRead(Enqueue& enqueue, cl_bool blocking, const Ref<Download>& download);
// What a map must do before its region may be touched, if it is blocking: fetches it by `start()`, or, when
// the region is to be overwritten, only takes the command's place in the queue. Makes the call's event.
cl_int FetchMapping(Enqueue& enqueue, cl_bool blocking, cl_map_flags flags,
                    const std::function<Ref<Download>()>& start);
// What an unmap does: writes back what the mapping may have changed. Makes the call's event.
cl_int EndMapping(Enqueue& enqueue, Memory& memory, const Memory::Mapping& mapping);
// Around the Upload of a call that writes: makes its event if one is needed (false: that failed) ...
bool BeginWrite(Enqueue& enqueue, cl_bool blocking);
// ... and waits as long as the program could tell that the write is not done.
cl_int EndWrite(Enqueue& enqueue, cl_bool blocking);

// --- implementation ---

template <wire::Message M, typename Fill>
Ref<Download> Download::Start(Enqueue& enqueue, std::size_t count, Ref<Memory> keep, const Fill& fill) {
  if (enqueue.event() != nullptr) enqueue.event()->ExpectPart();
  Ref<Download> download =
      Ref<Download>::Adopt(new Download(enqueue.queue(), count, enqueue.event(), std::move(keep)));
  const std::uint64_t transfer = count > 1 ? enqueue.connection().NextTransfer() : 0;
  for (std::size_t i = 0; i < count; ++i) {
    M message;
    HostBox box;
    fill(i, &message, &box);
    message.data = {box.packed_size()};
    message.transfer = transfer;
    message.more = i + 1 < count;
    Attached attached;
    attached.reply = &download->pieces_.emplace_back(Piece(download.get(), box));
    enqueue.queue().context().incoming().Add(box);
    download->AddRef();
    if (!enqueue.SubmitPiece(message, i + 1 == count, attached)) {
      if (download->DropRef()) Dispose(download.release());
      enqueue.queue().context().incoming().Remove(box);
      // Pieces that were sent are told of the loss; these were not.
      if (download) download->PieceDone(CL_OUT_OF_RESOURCES, count - i);
      return {};
    }
  }
  return download;
}

// Uploads by `upload` when the command's turn comes.
cl_int UploadLater(Enqueue& enqueue, Memory& memory, std::function<cl_int(Enqueue& enqueue)> upload);

template <wire::Message M, typename Fill>
cl_int UploadNow(Enqueue& enqueue, std::size_t count, const Fill& fill) {
  const std::uint64_t transfer = count > 1 ? enqueue.connection().NextTransfer() : 0;
  cl_int status = CL_SUCCESS;
  ByteVector packed;
  for (std::size_t i = 0; i < count; ++i) {
    M message;
    HostBox box;
    fill(i, &message, &box);
    message.data = {box.packed_size()};
    message.transfer = transfer;
    message.more = i + 1 < count;
    ByteView data(box.bytes, box.packed_size());
    if (!box.packed()) {
      packed.resize(box.packed_size());
      box.CopyTo(packed.data());
      data = packed;
    }
    Attached attached;
    attached.payload = std::span(&data, 1);
    attached.lent = box.packed() && count > 1;
    if (!enqueue.SubmitPiece(message, i + 1 == count, attached)) {
      status = CL_OUT_OF_RESOURCES;
      break;
    }
  }
  if (count > 1) enqueue.connection().Settle();
  return status;
}

template <wire::Message M, typename Fill>
cl_int Upload(Enqueue& enqueue, Memory& memory, std::size_t count, const Fill& fill) {
  for (std::size_t i = 0; i < count; ++i) {
    M message;
    HostBox box;
    fill(i, &message, &box);
    if (!enqueue.queue().context().incoming().Touches(box)) continue;
    return UploadLater(enqueue, memory,
                       [count, fill](Enqueue& later) { return UploadNow<M>(later, count, fill); });
  }
  return UploadNow<M>(enqueue, count, fill);
}

}  // namespace tulle::shim::opencl
