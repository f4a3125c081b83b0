#include "tulle/session/frame_io.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "tulle/net/wait.h"

namespace tulle::session {

void ByteQueue::Reserve(std::size_t size) {
  if (capacity_ - end_ >= size) return;
  const std::size_t used = this->size();
  if (begin_ >= used && capacity_ - used >= size) {  // the front is free: no growth needed
    if (used != 0) std::memcpy(bytes_.get(), bytes_.get() + begin_, used);
  } else {
    const std::size_t capacity = std::max({2 * capacity_, used + size, std::size_t{4096}});
    auto larger = std::make_unique_for_overwrite<std::byte[]>(capacity);
    if (used != 0) std::memcpy(larger.get(), bytes_.get() + begin_, used);
    bytes_ = std::move(larger);
    capacity_ = capacity;
  }
  begin_ = 0;
  end_ = used;
}

MutableByteView ByteQueue::Append(std::size_t size) {
  Reserve(size);
  const MutableByteView room(bytes_.get() + end_, size);
  end_ += size;
  return room;
}

void ByteQueue::Append(ByteView bytes) {
  if (!bytes.empty()) std::memcpy(Append(bytes.size()).data(), bytes.data(), bytes.size());
}

void ByteQueue::Consume(std::size_t size) {
  begin_ += size;
  if (begin_ != end_) return;
  begin_ = end_ = 0;
  if (capacity_ > kKeptBytes) {
    bytes_.reset();
    capacity_ = 0;
  }
}

void ByteQueue::swap(ByteQueue& other) noexcept {
  std::swap(bytes_, other.bytes_);
  std::swap(capacity_, other.capacity_);
  std::swap(begin_, other.begin_);
  std::swap(end_, other.end_);
}

FrameReader::FrameReader() : buffer_(std::make_unique_for_overwrite<std::byte[]>(kBufferBytes)) {}

Result<std::size_t> FrameReader::Fill(net::Transport& transport) {
  // A large payload goes straight to its place.
  if (begin_ == end_ && target_ != nullptr && (in_large_ || missing_ >= kDirectPayloadBytes)) {
    TULLE_ASSIGN_OR_RETURN(const std::size_t got, transport.Read({target_, missing_}));
    target_ += got;
    missing_ -= got;
    return got;
  }
  if (begin_ == end_) {
    begin_ = end_ = 0;
  } else if (begin_ != 0 && kBufferBytes - end_ < kBufferBytes / 2) {
    std::memmove(buffer_.get(), buffer_.get() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
  }
  if (end_ == kBufferBytes) return std::size_t{0};
  // Behind a large payload comes another, as a rule: what is read of it here is copied.
  const std::size_t room = std::min(kBufferBytes - end_, after_large_ ? kReadAfterLarge : kBufferBytes);
  TULLE_ASSIGN_OR_RETURN(const std::size_t got, transport.Read({buffer_.get() + end_, room}));
  end_ += got;
  return got;
}

bool FrameReader::FillTarget() {
  const std::size_t step = std::min<std::uint64_t>(end_ - begin_, missing_);
  if (target_ != nullptr && step != 0) {
    std::memcpy(target_, buffer_.get() + begin_, step);
    target_ += step;
  }
  begin_ += step;
  missing_ -= step;
  return missing_ == 0;
}

Status FrameReader::Drain(FrameSink& sink) {
  for (;;) {
    if (expecting_ == Expecting::kHeader) {
      if (!sink.WantsMore() || end_ - begin_ < wire::kFrameHeaderBytes) return OkStatus();
      std::memcpy(&header_, buffer_.get() + begin_, sizeof header_);
      TULLE_RETURN_IF_ERROR(CheckedOrBreach(wire::CheckHeader(header_)));
      TULLE_RETURN_IF_ERROR(sink.OnHeader(header_));
      begin_ += wire::kFrameHeaderBytes;
      expecting_ = Expecting::kBody;
      target_ = nullptr;
      missing_ = header_.body_bytes;
      if (header_.body_bytes > kBodyInBuffer || header_.payload_bytes != 0) {
        body_.resize(header_.body_bytes);
        target_ = body_.data();
      }
    }
    if (expecting_ == Expecting::kBody) {
      const bool in_buffer = header_.body_bytes <= kBodyInBuffer && header_.payload_bytes == 0;
      if (in_buffer) {
        if (end_ - begin_ < header_.body_bytes) return OkStatus();
        const ByteView body(buffer_.get() + begin_, header_.body_bytes);
        begin_ += header_.body_bytes;
        missing_ = 0;
        TULLE_RETURN_IF_ERROR(FinishFrame(sink, body));
        continue;
      }
      if (!FillTarget()) return OkStatus();
      target_ = nullptr;
      if (header_.payload_bytes == 0) {
        TULLE_RETURN_IF_ERROR(FinishFrame(sink, body_));
        continue;
      }
      TULLE_ASSIGN_OR_RETURN(payload_, sink.OnPayload(header_, body_));
      payload_ =
          payload_.size() < header_.payload_bytes ? MutableByteView() : payload_.first(header_.payload_bytes);
      expecting_ = Expecting::kPayload;
      target_ = payload_.data();
      missing_ = header_.payload_bytes;
      in_large_ = header_.payload_bytes >= kDirectPayloadBytes;
    }
    if (!FillTarget()) return OkStatus();
    TULLE_RETURN_IF_ERROR(FinishFrame(sink, body_));
  }
}

Status FrameReader::FinishFrame(FrameSink& sink, ByteView body) {
  expecting_ = Expecting::kHeader;
  target_ = nullptr;
  after_large_ = std::exchange(in_large_, false);
  Status status = sink.OnFrame(header_, body, std::exchange(payload_, {}));
  if (body_.capacity() > kBodyKept) ByteVector().swap(body_);
  return status;
}

MutableByteView AppendFrame(ByteQueue& out, const wire::FrameHeader& header, std::size_t extra_bytes) {
  const MutableByteView room = out.Append(sizeof header + header.body_bytes + extra_bytes);
  std::memcpy(room.data(), &header, sizeof header);
  return room.subspan(sizeof header);
}

Error Breach(wire::WireResult what) {
  return {Code::kDataLoss, "the peer broke the protocol: " + std::string(wire::WireResultName(what)),
          Scope::kSession};
}

Status CheckedOrBreach(wire::WireResult result) {
  if (result == wire::WireResult::kOk) return OkStatus();
  return Breach(result);
}

Status WriteAll(net::Transport& transport, ByteView bytes, Instant deadline) {
  while (!bytes.empty()) {
    const iovec piece{const_cast<std::byte*>(bytes.data()), bytes.size()};
    TULLE_ASSIGN_OR_RETURN(const std::size_t taken, transport.Write({&piece, 1}));
    bytes = bytes.subspan(taken);
    if (taken == 0 && net::WaitFor(transport.fd(), transport.write_events(), deadline) == 0) {
      return Error{Code::kDeadlineExceeded, "the peer took nothing in time", Scope::kSession};
    }
  }
  return OkStatus();
}

Status ReadAll(net::Transport& transport, MutableByteView out, Instant deadline) {
  while (!out.empty()) {
    TULLE_ASSIGN_OR_RETURN(const std::size_t got, transport.Read(out));
    out = out.subspan(got);
    if (got == 0 && net::WaitFor(transport.fd(), transport.read_events(), deadline) == 0) {
      return Error{Code::kDeadlineExceeded, "the peer did not finish the handshake in time", Scope::kSession};
    }
  }
  return OkStatus();
}

Status ReadUntilSatisfied(net::Transport& transport, FrameReader& reader, FrameSink& sink, Instant deadline) {
  while (sink.WantsMore()) {
    TULLE_ASSIGN_OR_RETURN(const std::size_t got, reader.Fill(transport));
    TULLE_RETURN_IF_ERROR(reader.Drain(sink));
    if (got == 0 && sink.WantsMore() &&
        net::WaitFor(transport.fd(), transport.read_events(), deadline) == 0) {
      return Error{Code::kDeadlineExceeded, "the peer did not answer in time", Scope::kSession};
    }
  }
  return OkStatus();
}

}  // namespace tulle::session
