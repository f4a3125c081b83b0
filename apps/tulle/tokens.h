// `tulle token`: one-time tokens that let machines and users in, and API tokens for programs.
#pragma once

#include <string>
#include <vector>

#include "apps/tulle/commands.h"

namespace tulle::cli {

// `run` must be callable for as long as the app is.
void AddTokenCommands(CLI::App& app, const Runner& run);

// For tests.
std::string TokenTable(const std::vector<sdk::ApiToken>& tokens);

}  // namespace tulle::cli
