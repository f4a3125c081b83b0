// Messages of the session itself: handshake, acknowledgement, memory leases, how it ends.
#pragma once

#include <string_view>

#include "tulle/wire/fields.h"

namespace tulle::wire {

inline constexpr U16 kWireVersion = 1;     // spoken by this build
inline constexpr U16 kWireVersionMin = 1;  // oldest still understood

// What the two ends agree on beside the version. Bits are never reused.
enum class Capability : U64 {
  kNone = 0,
  kOpenCl = 1u << 0,
  kImages = 1u << 1,        // and samplers, of OpenCL
  kSvm = 1u << 2,           // shared virtual memory of OpenCL: CL_DEVICE_SVM_CAPABILITIES is true of it
  kIl = 1u << 3,            // programs of intermediate language, of OpenCL
  kSubGroups = 1u << 4,     // what there is to know of them, of OpenCL
  kSubDevices = 1u << 5,    // parts of a device, and contexts of several, of OpenCL
  kSharedMemory = 1u << 6,  // where both ends are on one host, the client may map the session's memory
  kCompression = 1u << 7,   // either may send parts of its stream as LinkBlock
  kParts = 1u << 8,         // either may send payloads in parts, and ask for acknowledgements (kLinkTell)
  kCuda = 1u << 9,          // and nothing of OpenCL: a session is of one API
  kExports = 1u << 10,      // memory can be lent to other programs: exports.h
};
// Both.
constexpr Capability operator|(Capability a, Capability b) {
  return static_cast<Capability>(static_cast<U64>(a) | static_cast<U64>(b));
}
constexpr U64 KnownCapabilities() {
  return static_cast<U64>(Capability::kOpenCl) | static_cast<U64>(Capability::kImages) |
         static_cast<U64>(Capability::kSvm) | static_cast<U64>(Capability::kIl) |
         static_cast<U64>(Capability::kSubGroups) | static_cast<U64>(Capability::kSubDevices) |
         static_cast<U64>(Capability::kSharedMemory) | static_cast<U64>(Capability::kCompression) |
         static_cast<U64>(Capability::kParts) | static_cast<U64>(Capability::kCuda) |
         static_cast<U64>(Capability::kExports);
}
// What sessions of any API may have.
constexpr U64 CommonCapabilities() {
  return static_cast<U64>(Capability::kCompression) | static_cast<U64>(Capability::kParts) |
         static_cast<U64>(Capability::kExports);
}
constexpr U64 CudaCapabilities() { return static_cast<U64>(Capability::kCuda) | CommonCapabilities(); }
constexpr U64 OpenClCapabilities() { return KnownCapabilities() & ~static_cast<U64>(Capability::kCuda); }

// Of those that both ends know: what a session has that may not be of two APIs.
constexpr U64 OfOneApi(U64 capabilities) {
  return (capabilities & static_cast<U64>(Capability::kCuda)) != 0 ? capabilities & CudaCapabilities()
                                                                   : capabilities;
}

constexpr bool Has(U64 capabilities, Capability one) { return (capabilities & static_cast<U64>(one)) != 0; }

// The reply to every command that has no reply of its own and was sent with kWantStatus.
struct StatusReply {
  I32 status = 0;  // in the API's own codes; 0 is success
  TULLE_MESSAGE(StatusReply, status)
};

// The first frame of a session, sent by the client.
struct Hello {
  U16 version_min = 0;
  U16 version_max = 0;
  U64 capabilities = 0;        // offered; unknown bits are ignored, so that a newer client can talk to us
  Str<kMaxNameBytes> program;  // for logs only
  U32 process_id = 0;          // for logs only
  TULLE_MESSAGE(Hello, version_min, version_max, capabilities, program, process_id)
};

enum class HelloStatus : U8 { kAccepted = 0, kNoCommonVersion = 1, kNoCommonCapability = 2, kBusy = 3 };
constexpr bool IsKnown(HelloStatus s) { return s <= HelloStatus::kBusy; }

struct HelloReply {
  Enum<HelloStatus> status;
  U16 version = 0;              // the highest both speak
  U64 capabilities = 0;         // the common ones
  U64 window_bytes = 0;         // the client may have this many bytes not acknowledged as executed
  U64 memory_limit_bytes = 0;   // the vGPU's memory: what the program sees as the device's
  Str<kMaxReasonBytes> reason;  // for a person, when refused
  U32 resume_ms = 0;            // how long the session waits for a client whose connection was lost; 0: not
  Bytes<kResumeTokenBytes> resume_token;  // all of it, or none where it does not wait
  TULLE_MESSAGE(HelloReply, status, version, capabilities, window_bytes, memory_limit_bytes, reason,
                resume_ms, resume_token)
};

// Worker to client: every command up to `executed` has reached the driver in order and will not be asked
// for again; every one up to `durable` is also in an epoch that is held elsewhere. Without protection the
// two are equal.
struct Ack {
  U64 executed = 0;
  U64 durable = 0;
  TULLE_MESSAGE(Ack, executed, durable)
};

// Either way: the next part of a payload, ahead of the frame that it belongs to. That one carries kAfterParts
// and the last of the payload. Frames of others may come in between, but parts of one payload at a time. From
// a worker the header answers what the frame will answer.
struct PayloadPart {
  U64 total_bytes = 0;             // of the payload; the same in all of its parts
  Payload<kMaxPayloadBytes> data;  // of this part
  TULLE_MESSAGE(PayloadPart, total_bytes, data)
};

// Asks whether the worker lives; the answer is a StatusReply.
struct Ping {
  U64 nonce = 0;
  TULLE_MESSAGE(Ping, nonce)
};

// The session asks for the right to create objects of this many bytes without a round trip each: its lease.
// A live object takes its ChargedBytes (opencl/memory.h) of the lease from its creation until its
// DestroyObject, both in the order in which the client sent them. A creation that does not fit into what is
// left must be sent with kWantStatus: the lease then grows by just what is missing, or the creation fails
// with the API's out-of-memory status and takes nothing. Without kWantStatus it is a breach of protocol.
struct AcquireMemory {
  U64 size_bytes = 0;
  TULLE_MESSAGE(AcquireMemory, size_bytes)
};
struct AcquireMemoryReply {
  U64 granted_bytes = 0;    // size_bytes, or 0: the vGPU has no more
  U64 available_bytes = 0;  // what is left for all sessions of the vGPU
  TULLE_MESSAGE(AcquireMemoryReply, granted_bytes, available_bytes)
};

// Gives back a part of the lease that no object uses.
struct ReleaseMemory {
  U64 size_bytes = 0;
  TULLE_MESSAGE(ReleaseMemory, size_bytes)
};

// Asks for the memory in which the session's buffers lie, for the client to map. With the answer, a
// StatusReply that says success, comes a descriptor for it, if the connection is one that carries descriptors
// and still is the one by which this was asked. Whether the memory of one buffer is there, and where:
// LocateMemory.
struct ShareMemory {
  TULLE_EMPTY_MESSAGE(ShareMemory)
};

// Where in that memory a buffer lies: one that is no part of another.
struct LocateMemory {
  Ref<ObjectKind::kMemory> memory;
  TULLE_MESSAGE(LocateMemory, memory)
};
struct LocateMemoryReply {
  I32 status = 0;  // an error: nowhere, since its creation failed
  U64 offset_bytes = 0;
  TULLE_MESSAGE(LocateMemoryReply, status, offset_bytes)
};

// Worker to client: a command that had returned success to the program could not be carried out.
struct CommandFailed {
  U64 sequence = 0;
  I32 status = 0;
  TULLE_MESSAGE(CommandFailed, sequence, status)
};

enum class EndReason : U8 {
  kGoodbye = 0,       // asked for by the client
  kGrantRevoked = 1,  // the claim ended
  kDeviceLost = 2,    // the executor died: a kernel crashed it, or it was killed
  kProtocol = 3,      // the client broke the protocol; no details on purpose
  kShuttingDown = 4,  // the node or worker stops
  kResource = 5,      // the session went over a limit of its worker
};
constexpr bool IsKnown(EndReason r) { return r <= EndReason::kResource; }
// In a few words, for logs.
constexpr std::string_view EndReasonName(EndReason r) {
  switch (r) {
    case EndReason::kGoodbye: return "goodbye";
    case EndReason::kGrantRevoked: return "grant revoked";
    case EndReason::kDeviceLost: return "device lost";
    case EndReason::kProtocol: return "protocol broken by the client";
    case EndReason::kShuttingDown: return "shutting down";
    case EndReason::kResource: return "over a limit";
  }
  return "unknown";
}

// Worker to client, the last frame: why there will be no more.
struct SessionEnded {
  Enum<EndReason> reason;
  Str<kMaxReasonBytes> message;
  TULLE_MESSAGE(SessionEnded, reason, message)
};

// Client to worker, the last frame: objects may be destroyed without being asked for.
struct Goodbye {
  TULLE_EMPTY_MESSAGE(Goodbye)
};

// Ends the life of any object. One command for all kinds. A handle is taken by the command that creates it,
// whether or not the creation succeeded, and freed only here: both ends' tables depend on what the client
// sent and never on results.
struct DestroyObject {
  Drop object;
  TULLE_MESSAGE(DestroyObject, object)
};

}  // namespace tulle::wire
