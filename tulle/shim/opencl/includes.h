// Puts the files that a program's source includes into the source: they lie on this host, and the compiler
// runs on another.
//
// Every #include whose file is found is replaced by the file's text, with #line around it, wherever it
// stands: whether the compiler will skip it is for the compiler to say. Names may be macros (of the options,
// or defined in the text). What is not found stays, and is the compiler's to report. What a file says with
// #pragma once, which means nothing in the middle of a text, it says with #ifndef and #define then.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "tulle/base/result.h"

namespace tulle::shim::opencl {

struct IncludeOptions {
  std::vector<std::string> folders;           // of -I, in order
  std::map<std::string, std::string> macros;  // of -D: "NAME" or "NAME(a,b)" to the replacement
};
// From the options of a build.
IncludeOptions ParseIncludeOptions(std::string_view build_options);

// Nested includes deeper than this are left alone, as compilers do.
inline constexpr int kMaxIncludeDepth = 200;

// `headers`: further files, by the name under which they are included (clCompileProgram's). The error names
// the limit: the result may have `max_bytes`.
Result<std::string> InlineIncludes(std::string_view source, const IncludeOptions& options,
                                   const std::map<std::string, std::string>& headers, std::size_t max_bytes);

}  // namespace tulle::shim::opencl
