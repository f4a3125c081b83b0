#include "apps/tulle/join.h"

#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <filesystem>

#include "tulle/base/paths.h"
#include "tulle/control/api/renewal.h"
#include "tulle/sdk/enroll.h"
#include "tulle/security/identity.h"

namespace tulle::cli {
namespace {

std::string HostName() {
  char name[256] = "node";
  gethostname(name, sizeof name - 1);
  return security::MakeName(name);
}

}  // namespace

Result<Duration> ParseLifetime(const std::string& flag, const std::string& text, Duration most) {
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const std::string unit(end, text.data() + text.size());
  const std::int64_t seconds = unit == "s"   ? 1
                               : unit == "m" ? 60
                               : unit == "h" ? 3600
                               : unit == "d" ? 24 * 3600
                                             : 0;
  const std::int64_t most_seconds = std::chrono::duration_cast<std::chrono::seconds>(most).count();
  if (error != std::errc() || seconds == 0 || number <= 0 || number > most_seconds / seconds) {
    return Error{.code = Code::kInvalidArgument,
                 .message = flag + ": \"" + text + "\" is not a time of 1s to " +
                            std::to_string(most_seconds / (24 * 3600)) + "d, such as 30m or 12h"};
  }
  return Duration(std::chrono::seconds(number * seconds));
}

std::string JoinLine(control::JoinRole role, const std::string& endpoint, const std::string& token) {
  const char* const command = role == control::JoinRole::kNode ? "tulle node join " : "tulle login ";
  return command + endpoint + " --token " + token;
}

Status CreateToken(sdk::Client& client, control::JoinRole role, const std::string& name, Duration lifetime) {
  TULLE_ASSIGN_OR_RETURN(const sdk::NewToken token, client.CreateToken(role, name, lifetime));
  std::printf("%s\n", JoinLine(role, client.config().endpoint, token.text).c_str());
  std::fprintf(stderr, "For one use, within %lld minutes.\n",
               static_cast<long long>(std::chrono::duration_cast<std::chrono::minutes>(lifetime).count()));
  return OkStatus();
}

Status JoinAsNode(const JoinOptions& options) {
  // A token that names a node has the last word.
  TULLE_ASSIGN_OR_RETURN(const sdk::Enrollment enrollment,
                         sdk::Enroll({.endpoint = options.endpoint,
                                      .token = options.token,
                                      .role = security::Role::kNode,
                                      .name = options.name.empty() ? HostName() : options.name,
                                      .name_is_default = options.name.empty(),
                                      .state_dir = options.state_dir}));
  std::vector<std::string> command = {FindProgram("tulle-node"), "--name", enrollment.name, "--state-dir",
                                      options.state_dir};
  command.insert(command.end(), options.node_arguments.begin(), options.node_arguments.end());
  std::string line;
  for (const std::string& word : command) line += (line.empty() ? "" : " ") + word;
  std::fprintf(
      stderr, "This machine is node %s of the mesh at %s (%s). It serves while this runs:\n\n  %s\n\n",
      enrollment.name.c_str(), enrollment.endpoint.c_str(), enrollment.config_path.c_str(), line.c_str());
  if (!options.start) return OkStatus();
  std::vector<char*> argv;
  for (std::string& word : command) argv.push_back(word.data());
  argv.push_back(nullptr);
  execvp(argv[0], argv.data());
  return ErrnoError("cannot start " + command[0], errno);
}

void RenewCertificate() {
  [[maybe_unused]] const Result<bool> renewed = control::RenewIfDue(sdk::DefaultConfigPath(), SystemClock());
}

Status Login(const LoginOptions& options) {
  TULLE_ASSIGN_OR_RETURN(const sdk::Enrollment enrollment, sdk::Enroll({.endpoint = options.endpoint,
                                                                        .token = options.token,
                                                                        .role = security::Role::kUser,
                                                                        .state_dir = options.state_dir,
                                                                        .replace = options.replace}));
  std::fprintf(stderr, "You are %s of the mesh at %s (%s).\n", enrollment.name.c_str(),
               enrollment.endpoint.c_str(), enrollment.config_path.c_str());
  if (std::filesystem::weakly_canonical(options.state_dir) !=
      std::filesystem::weakly_canonical(DefaultStateDir())) {
    std::fprintf(stderr, "Tell other commands: export TULLE_STATE_DIR=%s\n", options.state_dir.c_str());
  }
  std::fprintf(stderr, "Try: tulle status; tulle run -- clinfo\n");
  return OkStatus();
}

}  // namespace tulle::cli
