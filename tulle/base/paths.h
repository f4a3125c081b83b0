// Where the mesh's programs keep their state and find each other.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace tulle {

// $TULLE_STATE_DIR, else $XDG_STATE_HOME/tulle, else ~/.local/state/tulle. Never empty; nothing is created.
std::string DefaultStateDir();

// The folder of the running program. Empty when /proc cannot tell.
std::string ExecutableDir();

// The first that exists of `relative` names, each seen from the folder of the running program: in a build
// tree programs lie side by side, installed ones do not.
std::optional<std::string> FindBesideExecutable(const std::vector<std::string>& relative);

// Another program of the mesh: beside this one, or in ../libexec/tulle. When it is in neither: `name` itself,
// so that starting it names what is missing.
std::string FindProgram(const std::string& name);

}  // namespace tulle
