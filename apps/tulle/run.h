// `tulle run`: a claim for as long as a program runs.
//
// Three processes. This one (the front) starts the program, stands in for it towards shell and terminal, and
// ends as it ended. The holder, in a session of its own, talks to the controller: it claims, keeps the claim
// held, and releases it when the front says so or is gone, however it went; stopping the front (Ctrl-Z) does
// not stop it. The program is the front's child in its process group, so that the terminal treats both alike.
#pragma once

#include <string>
#include <vector>

#include "tulle/control/model/resources.h"

namespace tulle::cli {

struct RunOptions {
  control::ClaimSpec spec;
  std::string name;   // of the claim; empty: the controller's choice
  std::string claim;  // one that there is, in whose place none is made; it is not given back, either
  bool with_local = false;
  bool over_network = false;  // also to vGPUs on this host
  bool quiet = false;
  std::string trace_directory;  // made if it is not there; empty: no traces
  bool trace_payloads = false;
  std::vector<std::string> command;
};

// Exit codes of its own, as other wrappers have them; all others are the program's.
inline constexpr int kRunFailed = 125;  // no vGPU for it
inline constexpr int kCannotExecute = 126;
inline constexpr int kNoSuchCommand = 127;

// Must be called while the process has one thread. Returns the exit code.
int Run(const RunOptions& options);

}  // namespace tulle::cli
