// CUDA: streams and what they do. Their results: see device.h. Events are recorded once each: a program's
// event is the last one that was recorded for it.
#pragma once

#include "tulle/wire/fields.h"

namespace tulle::wire::cuda {

enum class StreamFlag : U64 {
  kNonBlocking = 1u << 0,
  kStandsAside = 1u << 1  // it does not wait for blocking copies of other streams, nor they for its own
};
constexpr U64 KnownBits(StreamFlag) { return 0x3; }

struct CreateStream {
  Ref<ObjectKind::kContext> context;
  New<ObjectKind::kQueue> stream;
  Flags<StreamFlag> flags;
  I32 priority = 0;
  TULLE_MESSAGE(CreateStream, context, stream, flags, priority)
};

// Answered (StatusReply) when all before it is done; with the context's error, if it has one.
struct SynchronizeStream {
  Ref<ObjectKind::kQueue> stream;
  TULLE_MESSAGE(SynchronizeStream, stream)
};
// Answered (StatusReply) at once; CUDA_ERROR_NOT_READY: there is something left to do.
struct QueryStream {
  Ref<ObjectKind::kQueue> stream;
  TULLE_MESSAGE(QueryStream, stream)
};

struct LaunchKernel {
  Ref<ObjectKind::kQueue> stream;
  Ref<ObjectKind::kKernel> function;
  Vec3 grid{};
  Vec3 block{};
  U32 shared_bytes = 0;
  U8 cooperative = 0;
  Bytes<kMaxArgBytes> parameters;  // as the function's declaration lays them out
  TULLE_MESSAGE(LaunchKernel, stream, function, grid, block, shared_bytes, cooperative, parameters)
};

// Rows of the device's memory: from `address` on, `pitch_bytes` from a row to the next, `slice_bytes` from a
// plane to the next.
struct Rows {
  U64 address = 0;
  U64 pitch_bytes = 0;
  U64 slice_bytes = 0;
  TULLE_MESSAGE(Rows, address, pitch_bytes, slice_bytes)
};

// The data is packed: region[0] bytes in a row, region[1] rows in a plane, region[2] planes.
struct CopyToDevice {
  Ref<ObjectKind::kQueue> stream;
  Rows to;
  Vec3 region{};
  U8 blocking = 0;  // for the program it is done: whatever is sent later, to any stream, comes after it
  Payload<kMaxPayloadBytes> data;
  TULLE_MESSAGE(CopyToDevice, stream, to, region, blocking, data)
};
struct CopyFromDevice {
  Ref<ObjectKind::kQueue> stream;
  Rows from;
  Vec3 region{};
  Wanted<kMaxPayloadBytes> data;
  TULLE_MESSAGE(CopyFromDevice, stream, from, region, data)
};
struct CopyFromDeviceReply {
  I32 status = 0;
  Payload<kMaxPayloadBytes> data;  // all that was wanted, or nothing when status is an error
  TULLE_MESSAGE(CopyFromDeviceReply, status, data)
};
struct CopyOnDevice {
  Ref<ObjectKind::kQueue> stream;
  Rows to;
  Rows from;
  Vec3 region{};
  TULLE_MESSAGE(CopyOnDevice, stream, to, from, region)
};
// region[0] counts elements; region[2] is 1.
struct FillMemory {
  Ref<ObjectKind::kQueue> stream;
  Rows to;
  Vec3 region{};
  U32 value = 0;
  U32 element_bytes = 0;  // 1, 2 or 4
  TULLE_MESSAGE(FillMemory, stream, to, region, value, element_bytes)
};

// Completes, with the time, when the stream gets there.
struct RecordEvent {
  Ref<ObjectKind::kQueue> stream;
  New<ObjectKind::kEvent> event;
  TULLE_MESSAGE(RecordEvent, stream, event)
};
struct WaitEvent {
  Ref<ObjectKind::kQueue> stream;
  Ref<ObjectKind::kEvent> event;
  TULLE_MESSAGE(WaitEvent, stream, event)
};

// `reached` completes when the stream gets there, which goes on when `returned` has been ended.
struct CallHost {
  Ref<ObjectKind::kQueue> stream;
  New<ObjectKind::kEvent> reached;
  New<ObjectKind::kEvent> returned;
  TULLE_MESSAGE(CallHost, stream, reached, returned)
};
struct EndHostCall {
  Ref<ObjectKind::kEvent> returned;
  TULLE_MESSAGE(EndHostCall, returned)
};

}  // namespace tulle::wire::cuda
