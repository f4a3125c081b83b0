// A session's frames with their times, in a file: what a program did, for whoever looks for a fault or for
// time. Written by the client's end of a session, read by `tulle trace`.
//
// Kept are headers, bodies (arguments, build options, names) and, only if asked for, payloads (the contents
// of buffers, sources). Never kept: the handshake, and with it everything that opens a session.
//
// The file: a head, then records; all integers little-endian, nothing aligned. It is whole up to where it was
// flushed last: at every wait, at the program's goodbye, and every kTraceBufferBytes.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>

#include "tulle/base/bytes.h"
#include "tulle/base/clock.h"
#include "tulle/base/result.h"
#include "tulle/base/unique_fd.h"
#include "tulle/wire/frame.h"

namespace tulle::session {

inline constexpr std::uint64_t kMaxTraceBytes = 1ull << 30;  // then it ends, and says so
inline constexpr std::size_t kTraceBufferBytes = 64u << 10;
inline constexpr std::size_t kMaxTraceTextBytes = 256;

enum class TraceKind : std::uint8_t {
  kSent = 1,        // a frame was queued
  kReceived = 2,    // a frame has arrived
  kWaitBegins = 3,  // a thread of the program waits for what has not arrived yet
  kWaitEnds = 4,
  kEnd = 5,   // the session is over; what follows is why
  kFull = 6,  // kMaxTraceBytes
};

struct TraceHead {
  std::uint16_t wire_version = 0;
  std::uint64_t capabilities = 0;
  std::int64_t wall_us = 0;  // when it began, microseconds since 1970
  std::uint32_t process_id = 0;
  std::string program;
  std::string vgpu;
};

struct TraceRecord {
  TraceKind kind = TraceKind::kSent;
  std::uint64_t time_ns = 0;    // since it began
  std::uint32_t thread_id = 0;  // of the system, that sends, receives or waits
  wire::FrameHeader header;     // of a frame; otherwise only body_bytes is set
  ByteVector body;              // of a frame; of kEnd, its reason
  ByteVector payload;           // empty: none, or not kept
};

// Any thread, one at a time inside.
class TraceWriter {
 public:
  // Makes the file, which must not be there, readable by its owner only. `with_payloads`: keeps them.
  static Result<std::unique_ptr<TraceWriter>> Create(const std::string& path, const TraceHead& head,
                                                     bool with_payloads);
  ~TraceWriter();

  void Sent(const wire::FrameHeader& header, ByteView body, std::span<const ByteView> payload);
  void Received(const wire::FrameHeader& header, ByteView body, ByteView payload);
  // A thread waits for as long as this lives.
  class Wait {
   public:
    explicit Wait(TraceWriter& trace) : trace_(trace) { trace_.WaitBegins(); }
    ~Wait() { trace_.Append(TraceKind::kWaitEnds, {}, {}, {}); }
    Wait(const Wait&) = delete;
    Wait& operator=(const Wait&) = delete;

   private:
    TraceWriter& trace_;
  };
  void End(std::string_view reason);
  // In the child of a fork: what is not written yet is the parent's.
  void AbandonAfterFork();

 private:
  TraceWriter(UniqueFd file, bool with_payloads);
  void Append(TraceKind kind, const wire::FrameHeader& header, ByteView body,
              std::span<const ByteView> payload);
  void WaitBegins();
  void Flush();

  const bool with_payloads_;
  const Instant began_;
  std::mutex mutex_;
  UniqueFd file_;  // guarded by mutex_, as the rest
  ByteVector buffer_;
  std::uint64_t written_bytes_ = 0;
};

// One thread.
class TraceReader {
 public:
  // kInvalidArgument: it is no trace, or one of another format.
  static Result<std::unique_ptr<TraceReader>> Open(const std::string& path);

  const TraceHead& head() const { return head_; }
  // The next record; nothing at the end. kDataLoss: what follows is cut off, or none.
  Result<std::optional<TraceRecord>> Next();

 private:
  explicit TraceReader(UniqueFd file) : file_(std::move(file)) {}
  // False: the file ends here.
  Result<bool> Read(MutableByteView out);

  UniqueFd file_;
  TraceHead head_;
  ByteVector buffer_;
  std::size_t begin_ = 0;
};

}  // namespace tulle::session
