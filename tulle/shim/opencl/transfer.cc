#include "tulle/shim/opencl/transfer.h"

#include <algorithm>

namespace tulle::shim::opencl {
namespace {

std::size_t PieceCount(std::size_t size) {
  return (size + wire::kMaxPayloadBytes - 1) / wire::kMaxPayloadBytes;
}

}  // namespace

Ref<Download> Download::Start(Enqueue& enqueue, Memory& memory, std::size_t offset, MutableByteView target,
                              Ref<Memory> keep) {
  const std::size_t count = PieceCount(target.size());
  if (enqueue.event() != nullptr) enqueue.event()->ExpectPart();
  Ref<Download> download = Ref<Download>::Adopt(new Download(count, enqueue.event(), std::move(keep)));
  for (std::size_t i = 0, at = 0; i < count; ++i) {
    const std::size_t size = std::min<std::size_t>(target.size() - at, wire::kMaxPayloadBytes);
    download->pieces_.emplace_back(Piece(download.get(), target.subspan(at, size)));
    at += size;
  }
  const std::uint64_t transfer = count > 1 ? enqueue.connection().NextTransfer() : 0;
  for (std::size_t i = 0; i < count; ++i) {
    Piece& piece = download->pieces_[i];
    wire::opencl::EnqueueRead message;
    message.memory = memory.wire();
    message.offset_bytes = offset;
    message.data = {piece.size()};
    message.transfer = transfer;
    message.more = i + 1 < count;
    Attached attached;
    attached.reply = &piece;
    download->AddRef();
    if (!enqueue.SubmitPiece(message, i + 1 == count, attached)) {
      if (download->DropRef()) Dispose(download.release());
      // Pieces that were sent are told of the loss; these were not.
      if (download) download->PieceDone(CL_OUT_OF_RESOURCES, count - i);
      return {};
    }
    offset += piece.size();
  }
  return download;
}

MutableByteView Download::Piece::Room(const wire::FrameHeader& header, ByteView) {
  return header.payload_bytes == target_.size() ? target_ : MutableByteView{};
}

Status Download::Piece::OnReply(ByteView body, ByteView payload) {
  wire::Arena arena;
  wire::opencl::EnqueueReadReply reply;
  Status status = DecodeReply(body, payload.size(), arena, &reply);
  if (status.ok() && reply.status == CL_SUCCESS && payload.size() != target_.size()) {
    status = Error{Code::kInternal,
                   "worker sent " + std::to_string(payload.size()) + " bytes where " +
                       std::to_string(target_.size()) + " were asked for",
                   Scope::kSession};
  }
  Ref<Download> download = Ref<Download>::Adopt(download_);  // the piece's reference ends here
  download->PieceDone(status.ok() ? std::min(reply.status, CL_SUCCESS) : CL_OUT_OF_RESOURCES);
  return status;
}

void Download::Piece::OnLost() {
  Ref<Download> download = Ref<Download>::Adopt(download_);
  download->PieceDone(CL_OUT_OF_RESOURCES);
}

void Download::PieceDone(cl_int status, std::size_t pieces) {
  if (status != CL_SUCCESS) {
    cl_int none = CL_SUCCESS;
    status_.compare_exchange_strong(none, status);
  }
  if (open_.fetch_sub(pieces, std::memory_order_acq_rel) == pieces && event_) event_->Arrive(status_.load());
}

cl_int Download::Await(Connection& connection) {
  const auto done = [this] { return open_.load(std::memory_order_acquire) == 0; };
  if (!done() && !connection.AwaitUntil(done)) return CL_OUT_OF_RESOURCES;
  return status_.load();
}

cl_int Upload(Enqueue& enqueue, Memory& memory, std::size_t offset, ByteView data) {
  const std::size_t count = PieceCount(data.size());
  const std::uint64_t transfer = count > 1 ? enqueue.connection().NextTransfer() : 0;
  for (std::size_t i = 0; i < count; ++i) {
    const ByteView piece = data.first(std::min<std::size_t>(data.size(), wire::kMaxPayloadBytes));
    data = data.subspan(piece.size());
    wire::opencl::EnqueueWrite message;
    message.memory = memory.wire();
    message.offset_bytes = offset;
    message.data = {piece.size()};
    message.transfer = transfer;
    message.more = i + 1 < count;
    Attached attached;
    attached.payload = std::span(&piece, 1);
    if (!enqueue.SubmitPiece(message, i + 1 == count, attached)) return CL_OUT_OF_RESOURCES;
    offset += piece.size();
  }
  return CL_SUCCESS;
}

}  // namespace tulle::shim::opencl
