// The methods of tulle.v1.Mesh as JSON over HTTPS: Connect's unary protocol, POST /tulle.v1.Mesh/<Method>
// with application/json; those that answer with a stream by Connect's streaming protocol
// (application/connect+json), or, asked with application/json, as lines (application/x-ndjson: a message
// each, an empty one after 15 s of silence, and
// {"error": ...} at last when it ends by one). The caller shows a client certificate or an API token, as with
// gRPC. Also GET /metrics (Prometheus text), for whoever the mesh knows, and GET /healthz, for everybody. A
// thread of its own, and a pool that serves connections; each stream has one of its threads.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "tulle/base/result.h"
#include "tulle/control/serve/mesh_service.h"
#include "tulle/security/credentials.h"

namespace tulle::control {

class HttpServer {
 public:
  // Listens on `address` (host:port; port 0 chooses one). `service` must outlive it.
  static Result<std::unique_ptr<HttpServer>> Start(const std::string& address, const security::PemBundle& pem,
                                                   MeshService& service);
  // For a controller that stands by: /healthz says so, and every method answers "unavailable" with the
  // address of the one that leads, as `leader` says it, on any thread.
  static Result<std::unique_ptr<HttpServer>> StartStandby(const std::string& address,
                                                          const security::PemBundle& pem,
                                                          std::function<std::string()> leader);
  virtual ~HttpServer() = default;  // waits for the requests in hand, at most a few seconds

  virtual int port() const = 0;
};

}  // namespace tulle::control
