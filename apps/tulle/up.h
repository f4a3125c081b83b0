// `tulle up` and `tulle down`: a whole mesh on this machine, controller and nodes, as children of one
// foreground process. Whatever ends this process ends them.
#pragma once

#include <string>
#include <vector>

#include "tulle/base/result.h"

namespace tulle::cli {

struct UpOptions {
  std::string state_dir;
  bool name_state_dir = false;  // other commands look elsewhere unless told: the banner tells how
  int nodes = 1;
  std::string listen = "127.0.0.1:7400";       // of the controller: HOST:PORT, port 0: any
  std::string http_listen = "127.0.0.1:7401";  // of its JSON API
  std::string log_level = "info";
  std::vector<std::string> node_arguments;  // passed to each node
  std::vector<std::string> controller_arguments;
  int ready_fd = -1;  // closed after a line "ready" when everything runs
};

// Returns when it was told to stop (SIGINT, SIGTERM) and everything has ended.
Status Up(const UpOptions& options);

// The same in the background: returns when the mesh runs. `argv` is what to start, "tulle up ..." without
// --detach.
Status UpDetached(const std::string& state_dir, const std::vector<std::string>& argv);

// Stops the mesh of `state_dir` and waits for its end.
Status Down(const std::string& state_dir);

}  // namespace tulle::cli
