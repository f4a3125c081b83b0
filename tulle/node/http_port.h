// The node's plain HTTP port: GET /healthz and GET /metrics, nothing that changes anything. Meant for the
// local host or a monitoring network. A few threads of its own; each request is bounded in size and time.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "tulle/base/result.h"
#include "tulle/node/listen.h"
#include "tulle/node/snapshot.h"

namespace tulle::node {

class HttpPort {
 public:
  // `snapshot` is called by the port's threads; nothing: the node has stopped.
  using TakeSnapshot = std::function<std::optional<Snapshot>()>;

  static Result<std::unique_ptr<HttpPort>> Open(const HostPort& listen, TakeSnapshot snapshot);
  ~HttpPort();  // ends the threads

  const HostPort& address() const;

 private:
  class Impl;
  explicit HttpPort(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tulle::node
