// The unary methods of tulle.v1.Mesh as JSON over HTTPS: Connect's unary protocol, POST
// /tulle.v1.Mesh/<Method> with application/json, under the same client certificates as gRPC. Also GET
// /healthz and /metrics (Prometheus text). A thread of its own, and a small pool that serves connections.
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
