// Moves bytes between the program's memory and a buffer, in pieces of at most wire::kMaxPayloadBytes.
#pragma once

#include "tulle/shim/opencl/memory.h"
#include "tulle/shim/opencl/queue.h"

namespace tulle::shim::opencl {

// Bytes on their way from a buffer into this process, as one command. Received straight into `target`, which
// must stay valid until the download is done; nothing is written there once it is.
class Download {
 public:
  // Enqueues the reads. If the enqueue has an event, it becomes final only after the last byte has arrived.
  // `keep` stays alive until then. Null: the session is lost.
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
    Piece(Download* download, MutableByteView target) : download_(download), target_(target) {}
    std::size_t size() const { return target_.size(); }

   private:
    MutableByteView Room(const wire::FrameHeader& header, ByteView body) override;
    Status OnReply(ByteView body, ByteView payload) override;
    void OnLost() override;
    Download* download_;
    MutableByteView target_;
  };

  Download(std::size_t pieces, Event* event, Ref<Memory> keep)
      : open_(pieces), event_(event), keep_(std::move(keep)) {
    pieces_.reserve(pieces);
  }
  void PieceDone(cl_int status, std::size_t pieces = 1);

  std::atomic<std::uint32_t> references_{1};
  std::atomic<std::size_t> open_;
  std::atomic<cl_int> status_{CL_SUCCESS};
  const Ref<Event> event_;
  const Ref<Memory> keep_;
  std::vector<Piece> pieces_;  // one reference each while it is open
};

// Enqueues a write of `data`, which has been copied when this returns. The event, if any, is made before.
cl_int Upload(Enqueue& enqueue, Memory& memory, std::size_t offset, ByteView data);

}  // namespace tulle::shim::opencl
