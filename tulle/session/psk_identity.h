// The cleartext name under which a client proves a grant: the TLS PSK identity. The node reads it from the
// ClientHello to find the worker; the worker finds the key by it. A connection without TLS starts with the
// same text and a line feed instead.
//
//   tulle1.<vgpu id>.<grant id>.<session id, 32 hex digits>.<stream index, decimal>
//
// What parses here comes from anyone who can reach the port: nothing is allocated before it was checked.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "tulle/base/bytes.h"

namespace tulle::session {

struct PskIdentity {
  std::string vgpu;
  std::string grant;
  std::string session_id;
  std::uint32_t stream = 0;  // 0: commands; others: bulk streams of the same session
};

// [A-Za-z0-9_-]{1,64}: what names vGPUs and grants.
inline constexpr std::size_t kMaxIdBytes = 64;
bool IsId(std::string_view text);

inline constexpr std::size_t kSessionIdBytes = 16;
inline constexpr std::size_t kMaxPskIdentityBytes = 7 + 2 * (kMaxIdBytes + 1) + 2 * kSessionIdBytes + 1 + 10;

std::string FormatPskIdentity(const PskIdentity& identity);
// Anything but the exact form above is refused.
std::optional<PskIdentity> ParsePskIdentity(std::string_view text);

// What has arrived of a connection, as seen with MSG_PEEK: a TLS 1.3 ClientHello whose pre_shared_key
// extension offers exactly one identity, or the line that starts a plain one. kMore: not the whole of it yet
// (it is at most kMaxClientHelloBytes; with that many bytes kMore is never the answer). Bytes behind it are
// not looked at.
inline constexpr std::size_t kMaxClientHelloBytes = 16u << 10;
enum class PeekResult { kMore, kFound, kInvalid };
PeekResult PeekPskIdentity(ByteView arrived, PskIdentity* identity);

}  // namespace tulle::session
