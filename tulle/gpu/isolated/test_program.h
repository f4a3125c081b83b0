// The tests of this folder are one program, which is also what runs in the jail: isolated_test.cc has its
// roles.
#pragma once

#include <string>
#include <vector>

#include "tulle/wire/schema/exec.h"

namespace tulle::gpu::isolated {

inline constexpr std::uint16_t kLoadProgram =
    wire::OpcodeIn<wire::exec::LoadProgram>(wire::exec::kExecCommands);
inline constexpr std::int32_t kNotZeroed = -999;  // what the scripted device says of memory that is not

// Crashes are to reach the kernel in a sanitizer's build too, and the sandbox has no leak checker's calls.
inline const std::vector<std::string> kSanitizers = {
    "TSAN_OPTIONS=handle_segv=0:handle_abort=0", "ASAN_OPTIONS=handle_segv=0:handle_abort=0:detect_leaks=0"};

}  // namespace tulle::gpu::isolated
