// Memory that a program lends to others: those of its own tenant, or of one other, on the same vGPU or on
// another of the same node. The one who has made it exportable gives out a token; who has the token opens it
// and has the same bytes. It stays until the last that has it has ended, or its owner takes it back.
#pragma once

#include "tulle/wire/fields.h"

namespace tulle::wire {

enum class ExportStatus : U8 {
  kOk = 0,
  kNotExportable = 1,  // the memory was not created to be exported
  kNoSuchExport = 2,   // none of this token that this tenant may open, or not on this node
  kTooMany = 3,
  kUnavailable = 4,  // the node does not answer, or has no means
  kNotOwner = 5,     // only the session that has exported it may take it back
};
constexpr bool IsKnown(ExportStatus s) { return s <= ExportStatus::kNotOwner; }

// Lends the memory; one that is no part of another. `writable`: those who open it may write to it, too.
// `tenant`: whose programs may open it; empty: those of its own.
struct ExportMemory {
  Ref<ObjectKind::kMemory> memory;
  U8 writable = 0;
  Str<kMaxTenantBytes> tenant;
  TULLE_MESSAGE(ExportMemory, memory, writable, tenant)
};
struct ExportMemoryReply {
  Enum<ExportStatus> status;
  Str<kMaxExportTokenBytes> token;
  TULLE_MESSAGE(ExportMemoryReply, status, token)
};

// From now on and until it ends the session has it, and may import it by that name as often as it likes. (Who
// has once had memory in reach of its kernels is not believed to have let go of it.)
struct OpenExport {
  Str<kMaxExportTokenBytes> token;
  TULLE_MESSAGE(OpenExport, token)
};
struct OpenExportReply {
  Enum<ExportStatus> status;
  U64 size_bytes = 0;
  U8 writable = 0;
  TULLE_MESSAGE(OpenExportReply, status, size_bytes, writable)
};

// Takes it back: nobody can open it any more, and sessions that have it are ended. Answered when they are.
struct RevokeExport {
  Str<kMaxExportTokenBytes> token;
  TULLE_MESSAGE(RevokeExport, token)
};
struct RevokeExportReply {
  Enum<ExportStatus> status;
  TULLE_MESSAGE(RevokeExportReply, status)
};

}  // namespace tulle::wire
