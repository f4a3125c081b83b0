// What a program shows instead of a client certificate: a secret that the controller knows by its digest. As
// text "tulle-api.<id>.<secret>", both hexadecimal, so that a lost one is found by who looks for secrets.
#pragma once

#include <string>
#include <string_view>

#include "tulle/base/random.h"
#include "tulle/base/result.h"
#include "tulle/base/secret.h"

namespace tulle::security {

struct ApiTokenSecret {
  std::string id;  // 16 digits; not secret
  Secret secret;   // 32 bytes

  static ApiTokenSecret Make(Random& random);
  // kUnauthenticated for anything else; the message does not show it.
  static Result<ApiTokenSecret> Parse(std::string_view text);
  std::string Text() const;
};

}  // namespace tulle::security
