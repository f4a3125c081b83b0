// OpenCL command queues, enqueued commands and events.
//
// A transfer larger than one payload is sent as several commands with the same nonzero `transfer` number on
// the same queue; all but the last have more = 1. The wait list stands in every piece, the event only in the
// last, and it completes when all pieces have.
#pragma once

#include "tulle/wire/fields.h"

namespace tulle::wire::opencl {

enum class QueueFlag : U64 { kOutOfOrder = 1u << 0, kProfiling = 1u << 1 };
constexpr U64 KnownBits(QueueFlag) { return 0x3; }

struct CreateQueue {
  Ref<ObjectKind::kContext> context;
  New<ObjectKind::kQueue> queue;
  Flags<QueueFlag> flags;
  TULLE_MESSAGE(CreateQueue, context, queue, flags)
};

// The same on one of the context's devices; null: the vGPU's own.
struct CreateQueueOn {
  Ref<ObjectKind::kContext> context;
  New<ObjectKind::kQueue> queue;
  Flags<QueueFlag> flags;
  OptRef<ObjectKind::kDevice> device;
  TULLE_MESSAGE(CreateQueueOn, context, queue, flags, device)
};

struct EnqueueKernel {
  Ref<ObjectKind::kQueue> queue;
  Ref<ObjectKind::kKernel> kernel;
  U32 work_dim = 0;  // 1 to 3
  Vec3 global_offset{};
  Vec3 global_size{};
  Vec3 local_size{};  // all 0: the device chooses
  WaitList waits;
  NewEvent event;
  TULLE_MESSAGE(EnqueueKernel, queue, kernel, work_dim, global_offset, global_size, local_size, waits, event)
};

struct EnqueueRead {
  Ref<ObjectKind::kQueue> queue;
  Ref<ObjectKind::kMemory> memory;
  U64 offset_bytes = 0;
  Wanted<kMaxPayloadBytes> data;
  U64 transfer = 0;
  U8 more = 0;
  WaitList waits;
  NewEvent event;
  TULLE_MESSAGE(EnqueueRead, queue, memory, offset_bytes, data, transfer, more, waits, event)
};
// Sent when the data is there, so it may come long after later replies.
struct EnqueueReadReply {
  I32 status = 0;
  Payload<kMaxPayloadBytes> data;  // all that was wanted, or nothing when status is an error
  TULLE_MESSAGE(EnqueueReadReply, status, data)
};

struct EnqueueWrite {
  Ref<ObjectKind::kQueue> queue;
  Ref<ObjectKind::kMemory> memory;
  U64 offset_bytes = 0;
  Payload<kMaxPayloadBytes> data;
  U64 transfer = 0;
  U8 more = 0;
  WaitList waits;
  NewEvent event;
  TULLE_MESSAGE(EnqueueWrite, queue, memory, offset_bytes, data, transfer, more, waits, event)
};

struct EnqueueCopy {
  Ref<ObjectKind::kQueue> queue;
  Ref<ObjectKind::kMemory> source;
  Ref<ObjectKind::kMemory> destination;
  U64 source_offset_bytes = 0;
  U64 destination_offset_bytes = 0;
  U64 size_bytes = 0;
  WaitList waits;
  NewEvent event;
  TULLE_MESSAGE(EnqueueCopy, queue, source, destination, source_offset_bytes, destination_offset_bytes,
                size_bytes, waits, event)
};

struct EnqueueFill {
  Ref<ObjectKind::kQueue> queue;
  Ref<ObjectKind::kMemory> memory;
  U64 offset_bytes = 0;
  U64 size_bytes = 0;
  Bytes<kMaxFillPatternBytes> pattern;
  WaitList waits;
  NewEvent event;
  TULLE_MESSAGE(EnqueueFill, queue, memory, offset_bytes, size_bytes, pattern, waits, event)
};

// What a client that maps the session's memory will do to a part of a buffer. OpenCL's values.
enum class MapAccess : U64 { kRead = 1u << 0, kWrite = 1u << 1, kOverwrite = 1u << 2 };
constexpr U64 KnownBits(MapAccess) { return 0x7; }

// From its completion on until the EnqueueUnmap the client reads and writes the bytes where they lie.
struct EnqueueMap {
  Ref<ObjectKind::kQueue> queue;
  Ref<ObjectKind::kMemory> memory;
  U64 offset_bytes = 0;
  U64 size_bytes = 0;
  Flags<MapAccess> access;
  WaitList waits;
  NewEvent event;
  TULLE_MESSAGE(EnqueueMap, queue, memory, offset_bytes, size_bytes, access, waits, event)
};

// Ends one EnqueueMap of just these bytes; what follows sees what the client wrote.
struct EnqueueUnmap {
  Ref<ObjectKind::kQueue> queue;
  Ref<ObjectKind::kMemory> memory;
  U64 offset_bytes = 0;
  U64 size_bytes = 0;
  WaitList waits;
  NewEvent event;
  TULLE_MESSAGE(EnqueueUnmap, queue, memory, offset_bytes, size_bytes, waits, event)
};

enum class SyncKind : U8 { kMarker = 0, kBarrier = 1 };
constexpr bool IsKnown(SyncKind k) { return k <= SyncKind::kBarrier; }

// An empty wait list waits for everything enqueued before.
struct EnqueueSync {
  Ref<ObjectKind::kQueue> queue;
  Enum<SyncKind> kind;
  WaitList waits;
  NewEvent event;
  TULLE_MESSAGE(EnqueueSync, queue, kind, waits, event)
};

struct Flush {
  Ref<ObjectKind::kQueue> queue;
  TULLE_MESSAGE(Flush, queue)
};

// Answered (StatusReply) when everything enqueued before has completed.
struct Finish {
  Ref<ObjectKind::kQueue> queue;
  TULLE_MESSAGE(Finish, queue)
};

struct CreateUserEvent {
  Ref<ObjectKind::kContext> context;
  New<ObjectKind::kEvent> event;
  TULLE_MESSAGE(CreateUserEvent, context, event)
};

struct SetUserEventStatus {
  Ref<ObjectKind::kEvent> event;
  I32 status = 0;  // CL_COMPLETE (0) or a negative error
  TULLE_MESSAGE(SetUserEventStatus, event, status)
};

// One event that reached its final state. Times are the device's, in nanoseconds, as profiling reports them;
// all 0 when the queue does not profile.
struct EventCompletion {
  Handle event;
  I32 status = 0;  // CL_COMPLETE (0) or a negative error
  U64 queued_ns = 0;
  U64 submitted_ns = 0;
  U64 started_ns = 0;
  U64 ended_ns = 0;
  TULLE_MESSAGE(EventCompletion, event, status, queued_ns, submitted_ns, started_ns, ended_ns)
};

// Worker to client. Sent for every event that the client asked for (a NewEvent that is not null).
struct EventsCompleted {
  List<EventCompletion, kMaxEventsPerNotice> events;
  TULLE_MESSAGE(EventsCompleted, events)
};

// Worker to client. What kernels have printed, in pieces of any size; ahead of the report that the command
// which printed it has completed.
struct KernelOutput {
  Bytes<kMaxKernelOutputBytes> text;
  TULLE_MESSAGE(KernelOutput, text)
};

}  // namespace tulle::wire::opencl
