// How hosts and users come into the mesh: one-time tokens, and certificates for those who bear them; and API
// tokens for programs that have no certificate. Thread-safe.
#pragma once

#include <functional>
#include <string>

#include "tulle/base/clock.h"
#include "tulle/base/random.h"
#include "tulle/base/result.h"
#include "tulle/base/secret.h"
#include "tulle/control/serve/controller.h"
#include "tulle/security/ca.h"

namespace tulle::control {

class Enrollment {
 public:
  // All must outlive it. `validity`: of the certificates.
  Enrollment(Controller& controller, security::CertificateAuthority& authority, Random& random,
             std::chrono::hours validity)
      : controller_(controller), authority_(authority), random_(random), validity_(validity) {}

  struct NewToken {
    std::string text;
    WallMicros expire_time_us = 0;
  };
  // `audit` and `done` as of Controller::Call.
  void CreateToken(const std::string& caller, JoinRole role, const std::string& name, Duration lifetime,
                   AuditEntry audit, std::function<void(Result<NewToken>)> done);

  struct NewApiToken {
    ApiToken token;
    std::string text;  // secret
  };
  void CreateApiToken(const std::string& tenant, const std::string& description, Duration lifetime,
                      AuditEntry audit, std::function<void(Result<NewApiToken>)> done);

  struct Request {
    std::string token_id;
    Secret token_secret;
    std::string name;
    bool name_is_default = false;
    JoinRole role = JoinRole::kUnspecified;  // that the token must be for
    std::string public_key_pem;
    std::string address;  // for the log
  };
  struct Enrolled {
    std::string identity;
    std::string certificate_pem;
  };
  void Enroll(Request request, std::function<void(Result<Enrolled>)> done);
  // For whoever has shown that it is `identity`.
  Result<Enrolled> Renew(const security::Identity& identity, const std::string& address,
                         const std::string& public_key_pem);

 private:
  Controller& controller_;
  security::CertificateAuthority& authority_;
  Random& random_;
  const std::chrono::hours validity_;
};

}  // namespace tulle::control
