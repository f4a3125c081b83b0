#include "tulle/vm/shares.h"

#include <algorithm>
#include <filesystem>

#include "tulle/sandbox/system_folders.h"

namespace tulle::vm {

Shares SharesOf(const Program& program) {
  Shares shares;
  std::error_code error;
  for (const std::string& folder : sandbox::SystemFolders()) {
    if (std::filesystem::is_symlink(folder, error)) {
      shares.links.emplace_back(folder, std::filesystem::read_symlink(folder, error).string());
    } else if (std::filesystem::is_directory(folder, error)) {
      shares.folders.push_back(folder);
    }
  }
  shares.folders.emplace_back("/etc");  // of the jail: what drivers read there
  for (const std::string& folder : program.folders) {
    const bool seen = std::ranges::any_of(shares.folders, [&](const std::string& other) {
      return folder == other || folder.starts_with(other + "/");
    });
    if (!seen) shares.folders.push_back(folder);
  }
  return shares;
}

}  // namespace tulle::vm
