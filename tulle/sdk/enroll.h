// Joins a mesh with a one-time token: makes a key, which never leaves this machine, has the mesh's CA certify
// it, and writes both where the client library and nodes look for them.
#pragma once

#include <string>

#include "tulle/base/result.h"
#include "tulle/security/identity.h"

namespace tulle::sdk {

struct EnrollOptions {
  std::string endpoint;  // of the controller, host[:port]; port 7400 unless given; several: with ','
  std::string token;     // as `tulle token create` prints it
  security::Role role = security::Role::kUser;  // what the token must be for
  std::string name;                             // of a node whose token names none
  bool name_is_default = false;                 // a token that names another overrules it
  std::string state_dir;
  bool replace = false;  // the configuration of another mesh, or of another identity
};

struct Enrollment {
  std::string identity;     // "tulle://node/gpu-1"
  std::string name;         // its last part
  std::string endpoint;     // with the ports
  std::string config_path;  // client.conf, or node-NAME.conf, in the state directory
};

// kAlreadyExists when client.conf is there already (nothing has happened then); kPermissionDenied when the
// controller is not one of the token's mesh, or the token is for another role; otherwise the controller's
// answer. The token is used up by the first success, also when its answer is lost.
Result<Enrollment> Enroll(const EnrollOptions& options);

}  // namespace tulle::sdk
