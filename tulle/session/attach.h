// What `tulle run` hands to a program so that it can reach its vGPUs: a small text file, mode 0600, named by
// the environment variable TULLE_ATTACH. Valid for any number of processes while the claim lives.
//
//   tulle-attach 1
//   vgpu <vgpu id>
//   grant <grant id> <64 hex digits: the key>
//   endpoint <host>:<port>            (one or more, tried in this order; [v6]:port for IPv6)
//   endpoint local:<boot id>:<uid>:<path>   (on the host of that boot; net/local/local.h)
//   transport tls|tcp                 (to those that are not local)
//   (next vgpu ...)
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "tulle/base/result.h"

namespace tulle::session {

inline constexpr char kAttachEnv[] = "TULLE_ATTACH";
// A folder for traces of the program's sessions (trace.h); and, if set, with the contents of buffers.
inline constexpr char kTraceEnv[] = "TULLE_TRACE";
inline constexpr char kTracePayloadsEnv[] = "TULLE_TRACE_PAYLOADS";
inline constexpr std::size_t kMaxAttachBytes = 1u << 20;
inline constexpr std::size_t kMaxTargets = 256;   // vGPUs of one program
inline constexpr std::size_t kMaxEndpoints = 16;  // where one vGPU may be found
inline constexpr std::size_t kGrantKeyBytes = 32;

using GrantKey = std::array<std::byte, kGrantKeyBytes>;

struct Target {
  std::string vgpu;
  std::string grant;
  GrantKey key{};
  std::vector<std::string> endpoints;
  bool tls = true;
};

// The error names the line. Ids are [A-Za-z0-9_-]{1,64}.
Result<std::vector<Target>> ParseAttach(std::string_view text);
std::string FormatAttach(const std::vector<Target>& targets);

// Reads and parses the file; refuses one that others may read.
Result<std::vector<Target>> ReadAttachFile(const std::string& path);
// Creates the file (0600, must not exist).
Status WriteAttachFile(const std::string& path, const std::vector<Target>& targets);

}  // namespace tulle::session
