// `tulle env`: what a program needs to find the vGPUs of the `tulle run` around it, for those places where it
// does not inherit it: a container, another shell.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "tulle/base/result.h"

namespace tulle::cli {

enum class EnvForm {
  kShell,      // lines of a POSIX shell: export NAME='value'
  kDocker,     // arguments of `docker run`, on one line; Podman and nerdctl take the same
  kApptainer,  // arguments of `apptainer exec`, on one line
};

struct ProgramEnvironment {
  std::vector<std::pair<std::string, std::string>> variables;
  std::vector<std::string> paths;  // files and folders that the variables name, or what is there
  bool this_host_only = false;     // a vGPU is reached on a loopback address
};

// That of this process. kFailedPrecondition: it does not run within `tulle run`.
Result<ProgramEnvironment> ReadProgramEnvironment();

// With a newline at the end. Fails where a container's argument could not be told from the next one: a path
// or value with a blank, a comma or a colon in it.
Result<std::string> FormatEnvironment(const ProgramEnvironment& environment, EnvForm form);

}  // namespace tulle::cli
