// `tulle doctor`: what this machine has for the mesh, and what to do about what it lacks.
#pragma once

#include <string>
#include <vector>

namespace tulle::cli {

struct Check {
  enum class Level { kOk, kWarn, kFail };
  Level level = Level::kOk;
  std::string name;
  std::string finding;
  std::string fix;  // when not ok
};

// Takes up to some seconds: it starts the probe and asks the controller.
std::vector<Check> Diagnose();

// For people; the fixes below their findings.
std::string FormatChecks(const std::vector<Check>& checks);

}  // namespace tulle::cli
