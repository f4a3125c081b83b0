// Why a module is not loaded.
#pragma once

#include <string>

namespace tulle::gpu::softcuda {

// Thrown where it is found, caught where the loading began: no caller of this module sees it.
struct Problem {
  int line;
  std::string what;
};

}  // namespace tulle::gpu::softcuda
