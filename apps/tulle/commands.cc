#include "apps/tulle/commands.h"

namespace tulle::cli {

void AddOutput(CLI::App* command, std::string* output) {
  command->add_option("-o,--output", *output, "table or json")
      ->check(CLI::IsMember({"table", "json"}))
      ->capture_default_str();
}

}  // namespace tulle::cli
