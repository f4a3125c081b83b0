// Which of the bugs of mutants.toml is there. Included ahead of everything in the sources that have them.
#pragma once

#include <vector>

namespace tulle::sim {

extern int mutant;                              // from 1; 0: none
extern const std::vector<const char*> mutants;  // their names

}  // namespace tulle::sim
