// How a program reaches a controller and as whom: a small text file of "key = value" lines ('#' starts a
// comment) that names an address and three PEM files. The controller writes one for each user and node that
// it knows; the client library and nodes read it.
//
//   endpoint = 127.0.0.1:7400
//   http_endpoint = 127.0.0.1:7401
//   identity = tulle://user/alice
//   ca_file = ca.pem                       (relative names are relative to this file's folder)
//   certificate_file = user-alice.pem
//   key_file = user-alice.key
//
// In place of the last two, "api_token = tulle-api...." will do for a user.
#pragma once

#include <string>

#include "tulle/base/result.h"

namespace tulle::security {

// The name that each controller's certificate carries; clients verify it whatever address they use, so no
// other certificate of the mesh can pass for a controller's.
inline constexpr char kControllerTlsName[] = "controller.tulle";

struct Credentials {
  std::string endpoint;  // host:port of the gRPC services; of several controllers: each, with ',' between
  std::string http_endpoint;  // host:port of the JSON services (https); may be empty
  std::string identity;       // for people; the certificate decides
  std::string ca_file;
  std::string certificate_file;
  std::string key_file;
  std::string api_token = {};  // secret; with one there need be no certificate and key
};

// The PEM texts that a Credentials names.
struct PemBundle {
  std::string ca;
  std::string certificate;
  std::string key;
};

// Relative file names come back resolved against the folder of `path`. kNotFound when there is no such file,
// kInvalidArgument when it is not one of these (the message says where).
Result<Credentials> LoadCredentials(const std::string& path);

// Written whole or not at all, readable by its owner only.
Status SaveCredentials(const Credentials& credentials, const std::string& path);

// Without a certificate and key where there is an API token. kNotFound, kPermissionDenied: which of the
// files.
Result<PemBundle> LoadPemBundle(const Credentials& credentials);

}  // namespace tulle::security
