// `tulle node join`, `tulle login`: into a mesh of several machines.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "tulle/base/clock.h"
#include "tulle/base/result.h"
#include "tulle/sdk/client.h"

namespace tulle::cli {

// "30m", "12h", "7d", "90s": a second to `most`.
Result<Duration> ParseLifetime(const std::string& flag, const std::string& text,
                               Duration most = std::chrono::hours(30 * 24));

// The line that the bearer of a token is to run.
std::string JoinLine(control::JoinRole role, const std::string& endpoint, const std::string& token);

// Makes a token and prints its line.
Status CreateToken(sdk::Client& client, control::JoinRole role, const std::string& name, Duration lifetime);

struct JoinOptions {
  std::string endpoint, token, name, state_dir;
  bool start = true;
  std::vector<std::string> node_arguments;  // for tulle-node
};
// Then becomes the node daemon, unless it is not to start; only then it returns OK.
Status JoinAsNode(const JoinOptions& options);

// The user's own certificate, if that is due; says nothing, as the call that follows will.
void RenewCertificate();

struct LoginOptions {
  std::string endpoint, token, state_dir;
  bool replace = false;
};
Status Login(const LoginOptions& options);

}  // namespace tulle::cli
