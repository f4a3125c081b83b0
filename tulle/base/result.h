// Operational errors as values. No exception crosses a module border: what may fail returns Result<T>.
//
// An Error says what failed (code), how much is dead because of it (scope), and whether trying again can
// help (retry). Its message is for a person: it names the value, the limit and what to do. API outcomes
// (an OpenCL status, say) are data for the program and are never Errors.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <variant>

#include "tulle/base/check.h"

namespace tulle {

// The codes are gRPC's, so that the control plane maps them one to one.
enum class Code {
  kCancelled = 1,
  kUnknown = 2,
  kInvalidArgument = 3,
  kDeadlineExceeded = 4,
  kNotFound = 5,
  kAlreadyExists = 6,
  kPermissionDenied = 7,
  kResourceExhausted = 8,
  kFailedPrecondition = 9,
  kAborted = 10,
  kOutOfRange = 11,
  kUnimplemented = 12,
  kInternal = 13,
  kUnavailable = 14,
  kDataLoss = 15,
  kUnauthenticated = 16,
};

// The largest thing that is dead because of the error.
enum class Scope { kRequest, kSession, kWorker, kDevice, kNode };

// kUnknownOutcome: the request may or may not have taken effect; ask before repeating it.
enum class Retry { kNo, kSame, kElsewhere, kUnknownOutcome };

// "invalid argument", ...: the code in words.
const char* CodeName(Code code);

struct Error {
  Code code = Code::kUnknown;
  std::string message;
  Scope scope = Scope::kRequest;
  Retry retry = Retry::kNo;

  // The same error with `context` in front of its message: "context: message".
  Error Within(const std::string& context) const;
};

// "code: message", for logs.
std::string ToString(const Error& error);

// Error from errno: "what: strerror (errno N)".
Error ErrnoError(const std::string& what, int error_number);

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}      // NOLINT: implicit on purpose
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT: implicit on purpose

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }

  // Precondition of value(), * and ->: ok().
  T& value() & {
    TULLE_CHECK(ok());
    return std::get<0>(state_);
  }
  const T& value() const& {
    TULLE_CHECK(ok());
    return std::get<0>(state_);
  }
  T&& value() && {
    TULLE_CHECK(ok());
    return std::get<0>(std::move(state_));
  }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

  // Precondition: !ok().
  const Error& error() const& {
    TULLE_CHECK(!ok());
    return std::get<1>(state_);
  }
  Error&& error() && {
    TULLE_CHECK(!ok());
    return std::get<1>(std::move(state_));
  }

 private:
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)) {}  // NOLINT: implicit on purpose

  bool ok() const { return !error_.has_value(); }
  explicit operator bool() const { return ok(); }
  const Error& error() const& {
    TULLE_CHECK(!ok());
    return *error_;
  }
  Error&& error() && {
    TULLE_CHECK(!ok());
    return *std::move(error_);
  }

 private:
  std::optional<Error> error_;
};

using Status = Result<void>;
inline Status OkStatus() { return {}; }

}  // namespace tulle

#define TULLE_CONCAT_INNER(a, b) a##b
#define TULLE_CONCAT(a, b) TULLE_CONCAT_INNER(a, b)

// Returns from the calling function when `expr` (a Result) holds an error.
#define TULLE_RETURN_IF_ERROR(expr)                       \
  do {                                                    \
    if (auto tulle_status = (expr); !tulle_status.ok()) { \
      return std::move(tulle_status).error();             \
    }                                                     \
  } while (false)

// TULLE_ASSIGN_OR_RETURN(auto x, Compute()): x gets the value, or the calling function returns the error.
#define TULLE_ASSIGN_OR_RETURN(lhs, expr) \
  TULLE_ASSIGN_OR_RETURN_INNER(TULLE_CONCAT(tulle_result_, __LINE__), lhs, expr)
#define TULLE_ASSIGN_OR_RETURN_INNER(result, lhs, expr) \
  auto result = (expr);                                 \
  if (!result.ok()) {                                   \
    return std::move(result).error();                   \
  }                                                     \
  lhs = std::move(result).value()
