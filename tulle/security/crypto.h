// Key derivation.
#pragma once

#include "tulle/base/bytes.h"
#include "tulle/base/secret.h"

namespace tulle::security {

// HKDF-SHA256 (RFC 5869), `size_bytes` up to 255 * 32.
Secret HkdfSha256(ByteView key, ByteView salt, ByteView info, std::size_t size_bytes);

}  // namespace tulle::security
