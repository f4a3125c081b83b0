// The gRPC server: mutual TLS under the mesh's CA, tulle.v1.Mesh for users, tulle.v1.NodeLink and
// tulle.v1.Builds for nodes; and tulle.v1.Enrollment for those who have no certificate yet. A thin adapter:
// calls become events of the controller, its answers become messages. Threads are gRPC's own.
#pragma once

#include <memory>
#include <string>

#include "tulle/base/result.h"
#include "tulle/control/serve/build_store.h"
#include "tulle/control/serve/mesh_service.h"
#include "tulle/security/credentials.h"

namespace tulle::control {

class GrpcServer {
 public:
  // Listens on `address` (host:port; port 0 chooses one). `service` and `builds` must outlive it.
  // kUnavailable when the address cannot be had.
  static Result<std::unique_ptr<GrpcServer>> Start(const std::string& address, const security::PemBundle& pem,
                                                   MeshService& service, BuildStore& builds);
  // Stop the controller first: that ends the streams.
  virtual ~GrpcServer() = default;

  virtual int port() const = 0;
};

}  // namespace tulle::control
