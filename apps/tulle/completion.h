// `tulle completion`: what a shell needs to complete this program's commands and flags, made of their
// definitions.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "tulle/base/result.h"

namespace tulle::cli {

// `shell`: bash, zsh or fish.
Result<std::string> Completion(const CLI::App& app, const std::string& shell);

}  // namespace tulle::cli
