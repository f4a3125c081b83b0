// The cleartext name under which a client proves a grant: the TLS PSK identity. The node reads it from the
// ClientHello to find the worker; the worker finds the key by it.
//
//   tulle1.<vgpu id>.<grant id>.<session id, 32 hex digits>.<stream index, decimal>
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

std::string FormatPskIdentity(const PskIdentity& identity);
// Anything but the exact form above is refused.
std::optional<PskIdentity> ParsePskIdentity(std::string_view text);

// What has arrived of a connection, as seen with MSG_PEEK. kMore: not the whole ClientHello yet (it is at
// most kMaxClientHelloBytes).
inline constexpr std::size_t kMaxClientHelloBytes = 16u << 10;
enum class PeekResult { kMore, kFound, kInvalid };
PeekResult PeekPskIdentity(ByteView client_hello, PskIdentity* identity);

}  // namespace tulle::session
