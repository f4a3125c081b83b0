// The node's end of NodeLink: one stream to the controller under mutual TLS, opened anew for ever after each
// break, soon at first and then every few seconds. What the controller says is carried out on the loop's
// thread; what the vGPUs report goes out in the order of its last change. Without a controller everything
// that runs goes on.
//
// Two threads of its own (reading, writing). Bounds: what waits to be sent is at most one report per vGPU.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "tulle/base/clock.h"
#include "tulle/base/result.h"
#include "tulle/node/loop.h"
#include "tulle/node/snapshot.h"
#include "tulle/node/supervisor.h"

namespace tulle::node {

class ControlLink {
 public:
  struct Options {
    std::string
        credentials_path;        // read anew for each connection: certificates are renewed, controllers move
    std::string name;            // as in the certificate
    std::string data_endpoint;   // host:port that programs connect to
    std::string local_endpoint;  // where programs of this host had better connect; empty: nowhere else
    std::map<std::string, std::string> labels;
  };
  // All called on the loop's thread.
  struct Callbacks {
    std::function<Snapshot()> snapshot;
    // The controller knows the node (true), or the stream broke (false).
    std::function<void(bool registered)> on_registered;
  };

  // Starts at once. `loop` and `supervisor` must outlive it.
  ControlLink(Loop& loop, Supervisor& supervisor, Options options, Callbacks callbacks);
  // Breaks the stream if it is still there.
  ~ControlLink();

  // A vGPU has changed. Any thread; never blocks.
  void Report(const VGpuStatus& status);

  // Tells the controller that the node leaves, as soon as it can; nothing is sent after that. Any thread.
  void Leave(const std::string& reason);
  // Waits until the controller has taken note of Leave, or there is no stream, or `timeout` is over. Not from
  // the loop's thread.
  void WaitLeft(Duration timeout);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tulle::node
