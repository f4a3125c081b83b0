#include "tulle/base/result.h"

#include <cerrno>
#include <cstring>

namespace tulle {

const char* CodeName(Code code) {
  switch (code) {
    case Code::kCancelled: return "cancelled";
    case Code::kUnknown: return "unknown";
    case Code::kInvalidArgument: return "invalid argument";
    case Code::kDeadlineExceeded: return "deadline exceeded";
    case Code::kNotFound: return "not found";
    case Code::kAlreadyExists: return "already exists";
    case Code::kPermissionDenied: return "permission denied";
    case Code::kResourceExhausted: return "resource exhausted";
    case Code::kFailedPrecondition: return "failed precondition";
    case Code::kAborted: return "aborted";
    case Code::kOutOfRange: return "out of range";
    case Code::kUnimplemented: return "unimplemented";
    case Code::kInternal: return "internal";
    case Code::kUnavailable: return "unavailable";
    case Code::kDataLoss: return "data loss";
    case Code::kUnauthenticated: return "unauthenticated";
  }
  return "unknown";
}

Error Error::Within(const std::string& context) const {
  Error wrapped = *this;
  wrapped.message = context + ": " + message;
  return wrapped;
}

std::string ToString(const Error& error) { return std::string(CodeName(error.code)) + ": " + error.message; }

Error ErrnoError(const std::string& what, int error_number) {
  Code code = Code::kInternal;
  switch (error_number) {
    case EACCES:
    case EPERM: code = Code::kPermissionDenied; break;
    case ENOENT: code = Code::kNotFound; break;
    case EEXIST:
    case EADDRINUSE: code = Code::kAlreadyExists; break;
    case ENOMEM:
    case EMFILE:
    case ENFILE:
    case ENOSPC: code = Code::kResourceExhausted; break;
    case EINVAL: code = Code::kInvalidArgument; break;
    case ETIMEDOUT: code = Code::kDeadlineExceeded; break;
    case ECONNREFUSED:
    case ECONNRESET:
    case EPIPE:
    case EHOSTUNREACH:
    case ENETUNREACH: code = Code::kUnavailable; break;
    default: break;
  }
  char text[256];
  return Error{.code = code,
               .message = what + ": " + strerror_r(error_number, text, sizeof text) + " (errno " +
                          std::to_string(error_number) + ")"};
}

}  // namespace tulle
