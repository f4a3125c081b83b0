// Who calls, as it has shown.
#pragma once

#include <string>

#include "tulle/security/identity.h"

namespace tulle::control {

// In a request, in place of a tenant's name.
inline constexpr char kAllTenants[] = "-";

struct Caller {
  security::Identity identity;
  std::string address;
  std::string api_token = {};  // the id of the one that it has shown; empty: a certificate
};

}  // namespace tulle::control
