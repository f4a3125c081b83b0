// What every jail has of the host's root.
#pragma once

#include <string>
#include <vector>

namespace tulle::sandbox {

// "/usr", "/lib", ...: those that the host has are in the jail, folders as folders and links as links. Of
// /etc and /sys jails have a few things only.
const std::vector<std::string>& SystemFolders();

}  // namespace tulle::sandbox
