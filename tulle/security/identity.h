// Who a certificate of the mesh stands for: tulle://<role>/<name>, its one URI subject alternative name.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "tulle/base/result.h"

namespace tulle::security {

enum class Role { kController, kNode, kUser };

const char* RoleName(Role role);

struct Identity {
  Role role = Role::kUser;
  std::string name;  // 1 to 63 of a-z, 0-9 and '-', not '-' at either end
  std::string Uri() const;
  friend bool operator==(const Identity&, const Identity&) = default;
};

// Whether `name` may name an identity (or a resource; the rule is the same).
bool IsName(std::string_view name);

// `text` as a name: lower case, each other character a '-', cut at 63; "x" when nothing is left. For host
// names.
std::string MakeName(std::string_view text);

// kUnauthenticated for anything but exactly tulle://<role>/<name>.
Result<Identity> ParseIdentity(std::string_view uri);

// When a certificate is valid, in microseconds since 1970. kInvalidArgument when the text is not one.
struct Validity {
  std::int64_t from_us = 0;
  std::int64_t until_us = 0;
};
Result<Validity> ValidityOf(std::string_view certificate_pem);

// From a certificate in PEM whose signature the caller has verified. kUnauthenticated when it carries no
// identity, or more than one.
Result<Identity> IdentityOfCertificate(std::string_view pem);

}  // namespace tulle::security
