#include "tulle/session/trace.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "tulle/net/wait.h"
#include "tulle/wire/command_table.h"

namespace tulle::session {
namespace {

constexpr std::array<char, 8> kMagic = {'T', 'U', 'L', 'L', 'E', 'T', 'R', '1'};

struct HeadBytes {
  std::array<char, 8> magic = kMagic;
  std::int64_t wall_us = 0;
  std::uint64_t capabilities = 0;
  std::uint32_t process_id = 0;
  std::uint16_t wire_version = 0;
  std::uint8_t program_bytes = 0;  // behind this
  std::uint8_t vgpu_bytes = 0;     // behind that
};
static_assert(sizeof(HeadBytes) == 32);

struct RecordBytes {
  std::uint64_t time_ns = 0;
  std::uint32_t thread_id = 0;
  std::uint32_t payload_kept_bytes = 0;  // behind the body
  std::uint8_t kind = 0;
  std::array<std::uint8_t, 7> unused{};
  wire::FrameHeader header;  // header.body_bytes are behind this
};
static_assert(sizeof(RecordBytes) == 24 + wire::kFrameHeaderBytes);

template <typename T>
void AppendBytes(ByteVector& out, const T& value) {
  const auto bytes = std::as_bytes(std::span(&value, 1));
  out.insert(out.end(), bytes.begin(), bytes.end());
}

Error NoTrace(const std::string& path, const char* why) {
  return {Code::kInvalidArgument, path + " is not a trace that this version reads: " + why};
}

}  // namespace

TraceWriter::TraceWriter(UniqueFd file, bool with_payloads)
    : with_payloads_(with_payloads), began_(net::Now()), file_(std::move(file)) {}

Result<std::unique_ptr<TraceWriter>> TraceWriter::Create(const std::string& path, const TraceHead& head,
                                                         bool with_payloads) {
  UniqueFd file(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file.valid()) return ErrnoError("create the trace " + path, errno);
  std::unique_ptr<TraceWriter> writer(new TraceWriter(std::move(file), with_payloads));
  const std::string program = head.program.substr(0, 255);
  const std::string vgpu = head.vgpu.substr(0, 255);
  AppendBytes(writer->buffer_, HeadBytes{.wall_us = head.wall_us,
                                         .capabilities = head.capabilities,
                                         .process_id = head.process_id,
                                         .wire_version = head.wire_version,
                                         .program_bytes = static_cast<std::uint8_t>(program.size()),
                                         .vgpu_bytes = static_cast<std::uint8_t>(vgpu.size())});
  for (const ByteView text : {AsBytes(program), AsBytes(vgpu)}) {
    writer->buffer_.insert(writer->buffer_.end(), text.begin(), text.end());
  }
  writer->Flush();
  return writer;
}

TraceWriter::~TraceWriter() { Flush(); }

void TraceWriter::Sent(const wire::FrameHeader& header, ByteView body, std::span<const ByteView> payload) {
  Append(TraceKind::kSent, header, body, payload);
  if (header.opcode != wire::kOpcodeOf<wire::Goodbye>) return;
  const std::lock_guard lock(mutex_);
  Flush();  // the process may be about to end
}

void TraceWriter::Received(const wire::FrameHeader& header, ByteView body, ByteView payload) {
  Append(TraceKind::kReceived, header, body, {&payload, 1});
}

void TraceWriter::WaitBegins() {
  Append(TraceKind::kWaitBegins, {}, {}, {});
  const std::lock_guard lock(mutex_);
  Flush();
}

void TraceWriter::End(std::string_view reason) {
  const ByteView text = AsBytes(reason.substr(0, kMaxTraceTextBytes));
  wire::FrameHeader header;
  header.body_bytes = static_cast<std::uint32_t>(text.size());
  Append(TraceKind::kEnd, header, text, {});
  const std::lock_guard lock(mutex_);
  Flush();
}

void TraceWriter::AbandonAfterFork() { ::close(file_.release()); }

void TraceWriter::Append(TraceKind kind, const wire::FrameHeader& header, ByteView body,
                         std::span<const ByteView> payload) {
  const std::lock_guard lock(mutex_);
  if (!file_.valid()) return;
  RecordBytes record;
  record.time_ns = static_cast<std::uint64_t>((net::Now() - began_).count());
  record.thread_id = static_cast<std::uint32_t>(syscall(SYS_gettid));  // glibc 2.28 has no gettid
  record.header = header;
  record.kind = static_cast<std::uint8_t>(kind);
  if (with_payloads_) {
    for (const ByteView piece : payload)
      record.payload_kept_bytes += static_cast<std::uint32_t>(piece.size());
  }
  const bool full =
      written_bytes_ + buffer_.size() + sizeof record + body.size() + record.payload_kept_bytes >
      kMaxTraceBytes - sizeof record;
  if (full) record = {.time_ns = record.time_ns, .kind = static_cast<std::uint8_t>(TraceKind::kFull)};
  AppendBytes(buffer_, record);
  if (!full) {
    buffer_.insert(buffer_.end(), body.begin(), body.end());
    for (const ByteView piece : payload) {
      if (with_payloads_) buffer_.insert(buffer_.end(), piece.begin(), piece.end());
    }
  }
  if (full || buffer_.size() >= kTraceBufferBytes) Flush();
  if (full) file_.reset();
}

// mutex_ is held, or nobody else knows of this.
void TraceWriter::Flush() {
  ByteView left = buffer_;
  while (!left.empty() && file_.valid()) {
    const ssize_t written = write(file_.get(), left.data(), left.size());
    if (written > 0) {
      left = left.subspan(static_cast<std::size_t>(written));
      written_bytes_ += static_cast<std::uint64_t>(written);
    } else if (errno != EINTR) {
      file_.reset();  // a full disk ends the trace, not the program
    }
  }
  buffer_.clear();
}

// --- reading ---

Result<bool> TraceReader::Read(MutableByteView out) {
  while (!out.empty()) {
    if (begin_ == buffer_.size()) {
      buffer_.resize(kTraceBufferBytes);
      begin_ = 0;
      const ssize_t got = read(file_.get(), buffer_.data(), buffer_.size());
      if (got < 0 && errno != EINTR) return ErrnoError("read the trace", errno);
      buffer_.resize(static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
      if (got == 0) return false;
    }
    const std::size_t size = std::min(out.size(), buffer_.size() - begin_);
    std::memcpy(out.data(), buffer_.data() + begin_, size);
    begin_ += size;
    out = out.subspan(size);
  }
  return true;
}

Result<std::unique_ptr<TraceReader>> TraceReader::Open(const std::string& path) {
  UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid()) return ErrnoError("open the trace " + path, errno);
  std::unique_ptr<TraceReader> reader(new TraceReader(std::move(file)));
  HeadBytes head;
  TULLE_ASSIGN_OR_RETURN(bool whole, reader->Read(std::as_writable_bytes(std::span(&head, 1))));
  if (!whole) return NoTrace(path, "it is too short");
  if (head.magic != kMagic) return NoTrace(path, "it does not begin like one");
  TraceHead& out = reader->head_;
  out = {head.wire_version,
         head.capabilities,
         head.wall_us,
         head.process_id,
         std::string(head.program_bytes, ' '),
         std::string(head.vgpu_bytes, ' ')};
  for (std::string* text : {&out.program, &out.vgpu}) {
    TULLE_ASSIGN_OR_RETURN(whole, reader->Read(std::as_writable_bytes(std::span(*text))));
    if (!whole) return NoTrace(path, "it is too short");
  }
  return reader;
}

Result<std::optional<TraceRecord>> TraceReader::Next() {
  RecordBytes bytes;
  const MutableByteView room = std::as_writable_bytes(std::span(&bytes, 1));
  TULLE_ASSIGN_OR_RETURN(const bool more, Read(room.first(1)));
  if (!more) return std::optional<TraceRecord>();
  const Error cut{Code::kDataLoss, "the trace is cut off here"};
  TULLE_ASSIGN_OR_RETURN(bool whole, Read(room.subspan(1)));
  if (!whole) return cut;
  if (bytes.kind < static_cast<std::uint8_t>(TraceKind::kSent) ||
      bytes.kind > static_cast<std::uint8_t>(TraceKind::kFull) ||
      wire::CheckHeader(bytes.header) != wire::WireResult::kOk ||
      bytes.payload_kept_bytes > bytes.header.payload_bytes) {
    return Error{Code::kDataLoss, "the trace is broken here"};
  }
  TraceRecord record{static_cast<TraceKind>(bytes.kind),
                     bytes.time_ns,
                     bytes.thread_id,
                     bytes.header,
                     ByteVector(bytes.header.body_bytes),
                     ByteVector(bytes.payload_kept_bytes)};
  for (ByteVector* part : {&record.body, &record.payload}) {
    TULLE_ASSIGN_OR_RETURN(whole, Read(*part));
    if (!whole) return cut;
  }
  return std::optional(std::move(record));
}

}  // namespace tulle::session
