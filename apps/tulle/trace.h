// `tulle trace`: what a program said to its vGPU and heard from it, from the file that `tulle run --trace`
// has written.
#pragma once

#include <cstdio>
#include <string>

#include "tulle/base/result.h"

namespace tulle::cli {

struct TraceOptions {
  bool summary = false;  // a table of the commands instead of a line for each frame
  bool json = false;     // a JSON object a line
  std::string only;      // commands whose name has this in it; empty: all
};

// Prints the file to `out`. kDataLoss: it was cut off or is broken; what is before that is printed.
Status PrintTrace(const std::string& path, const TraceOptions& options, std::FILE* out);

}  // namespace tulle::cli
