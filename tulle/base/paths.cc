#include "tulle/base/paths.h"

#include <pwd.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

namespace tulle {

std::string DefaultStateDir() {
  const auto set = [](const char* name) -> const char* {
    const char* value = getenv(name);
    return value != nullptr && *value != '\0' ? value : nullptr;
  };
  if (const char* own = set("TULLE_STATE_DIR")) return own;
  if (const char* state = set("XDG_STATE_HOME")) return std::string(state) + "/tulle";
  if (const char* home = set("HOME")) return std::string(home) + "/.local/state/tulle";
  const passwd* user = getpwuid(getuid());
  return std::string(user != nullptr ? user->pw_dir : "") + "/.local/state/tulle";
}

std::string ExecutableDir() {
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  return error ? "" : self.parent_path().string();
}

std::optional<std::string> FindBesideExecutable(const std::vector<std::string>& relative) {
  const std::string folder = ExecutableDir();
  for (const std::string& name : relative) {
    std::error_code error;
    const auto path = std::filesystem::weakly_canonical(folder + "/" + name, error);
    if (!error && std::filesystem::exists(path, error)) return path.string();
  }
  return std::nullopt;
}

std::string FindProgram(const std::string& name) {
  return FindBesideExecutable({name, "../libexec/tulle/" + name}).value_or(name);
}

}  // namespace tulle
