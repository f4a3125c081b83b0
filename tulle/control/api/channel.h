// A gRPC channel to a controller, as the client library and nodes use it: mutual TLS 1.2+ under the mesh's
// CA, the controller's certificate checked by its role and not by its address, keepalive pings so that a dead
// peer is noticed within 15 s, reconnection between 100 ms and 2 s.
#pragma once

#include <grpcpp/channel.h>

#include <memory>
#include <string>
#include <vector>

#include "tulle/base/result.h"
#include "tulle/security/credentials.h"

namespace tulle::control {

// "HOST:PORT,HOST:PORT" as the credentials of a mesh with several controllers name them: its parts.
std::vector<std::string> EndpointsOf(const std::string& list);

// Does not wait for the connection, which is to the first of the credentials' endpoints that accepts it: of
// several controllers only the one that leads does. Fails when a file cannot be read.
Result<std::shared_ptr<grpc::Channel>> OpenChannel(const security::Credentials& credentials);

// The same with texts; without a certificate in `pem`, nor an API token, the controller knows nobody at this
// end.
std::shared_ptr<grpc::Channel> OpenChannel(const std::string& endpoint, security::PemBundle pem,
                                           const std::string& api_token = "");

// gRPC's own log lines go to tulle's log (component "grpc", its errors as warnings: the calls that fail say
// so themselves) instead of standard error, from the first call on. Called by OpenChannel; servers call it
// themselves.
void RouteGrpcLog();

// A failed gRPC status as an Error. kUnavailable and kDeadlineExceeded have an unknown outcome.
Error ToError(const grpc::Status& status);

}  // namespace tulle::control
