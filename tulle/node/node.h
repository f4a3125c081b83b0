// A node as a whole: data port, supervisor, link to the controller, HTTP port, on one loop. What
// apps/tulle-node runs.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "tulle/base/clock.h"
#include "tulle/base/result.h"
#include "tulle/node/build_exchange.h"
#include "tulle/node/control_link.h"
#include "tulle/node/data_port.h"
#include "tulle/node/http_port.h"
#include "tulle/node/inventory.h"
#include "tulle/node/loop.h"
#include "tulle/node/supervisor.h"

namespace tulle::node {

struct NodeOptions {
  std::string name;
  std::string version;
  std::string credentials_path;
  std::map<std::string, std::string> labels;
  HostPort data_listen;
  std::string data_socket;  // path for programs of this host; empty: they connect as others do
  std::string advertise;    // host, or host:port, that programs connect to; empty: found out
  HostPort http_listen;
  std::vector<InventoryGpu> gpus;
  Duration longest_turn = std::chrono::seconds(10);  // arbiter::Arbiter
  std::uint64_t network_bytes_per_s = 0;  // that the network moves, both ways together; 0: not known
  Supervisor::Options supervisor;
};

class Node {
 public:
  // Opens the ports. Everything that can fail has been done when it returns.
  static Result<std::unique_ptr<Node>> Open(const Clock& clock, const NodeOptions& options);

  // Runs until Stop has done its work. By the thread that shall be the workers' parent: they die with it.
  // `on_ready` is called once, when the controller knows the node.
  void Run(std::function<void()> on_ready);

  // Leaves the mesh: takes no more connections, tells the controller, ends the workers. Only on the loop's
  // thread (from a watch or timer); may be called again.
  void Stop(const std::string& reason);

  Loop& loop() { return loop_; }
  std::string data_endpoint() const { return data_endpoint_; }
  // Empty: none.
  std::string local_endpoint() const { return local_endpoint_; }
  HostPort http_address() const { return http_port_->address(); }

 private:
  Node(const Clock& clock, NodeOptions options);
  Status OpenPorts();
  Snapshot TakeSnapshot() const;
  void KeepCertificate();
  void SampleLoad();

  const NodeOptions options_;
  Loop loop_;
  HostLoadSampler sampler_;
  HostLoad load_;
  bool registered_ = false;
  bool stopping_ = false;
  std::function<void()> on_ready_;
  std::string data_endpoint_;
  std::string local_endpoint_;
  BuildExchange builds_;
  arbiter::Arbiter arbiter_;
  Supervisor supervisor_;
  std::unique_ptr<DataPort> data_port_;
  DataPort::Counters last_data_port_;  // of the closed port
  std::unique_ptr<HttpPort> http_port_;
  std::unique_ptr<ControlLink> link_;
  std::jthread renewal_;  // of the certificate
};

}  // namespace tulle::node
