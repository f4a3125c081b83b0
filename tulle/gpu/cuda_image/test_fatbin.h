// For tests only: makes fatbins.
#pragma once

#include <lz4.h>
#include <zstd.h>

#include <cstdint>
#include <string>
#include <vector>

#include "tulle/base/bytes.h"

namespace tulle::gpu::cuda_image {

enum class Packing { kNone, kLz4, kZstd };

inline void Append(ByteVector* out, const void* data, std::size_t bytes) {
  const auto* const begin = static_cast<const std::byte*>(data);
  out->insert(out->end(), begin, begin + bytes);
}
template <typename T>
void Append(ByteVector* out, T value) {
  Append(out, &value, sizeof value);
}

// As nvcc lays them out: headers of 64 bytes and something, content in multiples of eight.
inline ByteVector Entry(std::uint16_t kind, std::uint32_t target, const std::string& text,
                        Packing packing = Packing::kNone) {
  std::string content = text;
  if (packing == Packing::kLz4) {
    content.resize(static_cast<std::size_t>(LZ4_compressBound(static_cast<int>(text.size()))));
    content.resize(static_cast<std::size_t>(LZ4_compress_default(
        text.data(), content.data(), static_cast<int>(text.size()), static_cast<int>(content.size()))));
  } else if (packing == Packing::kZstd) {
    content.resize(ZSTD_compressBound(text.size()));
    content.resize(ZSTD_compress(content.data(), content.size(), text.data(), text.size(), 3));
  }
  const bool packed = packing != Packing::kNone;
  const std::size_t packed_bytes = content.size();
  content.resize((content.size() + 7) / 8 * 8);
  ByteVector out;
  Append<std::uint16_t>(&out, kind);
  Append<std::uint16_t>(&out, 0x101);
  Append<std::uint32_t>(&out, 72);
  Append<std::uint64_t>(&out, content.size());
  Append<std::uint32_t>(&out, packed ? static_cast<std::uint32_t>(packed_bytes) : 0);
  Append<std::uint32_t>(&out, 64);
  Append<std::uint32_t>(&out, 7 << 16 | 5);
  Append<std::uint32_t>(&out, target);
  Append<std::uint64_t>(&out, 0);
  Append<std::uint64_t>(&out, 0x11u | (packed ? 0x2000u : 0u));
  Append<std::uint64_t>(&out, 0);
  Append<std::uint64_t>(&out, packed ? text.size() : 0);
  Append<std::uint64_t>(&out, 0);
  Append(&out, content.data(), content.size());
  return out;
}
inline ByteVector Fatbin(const std::vector<ByteVector>& entries) {
  ByteVector all, out;
  for (const ByteVector& entry : entries) Append(&all, entry.data(), entry.size());
  Append<std::uint32_t>(&out, 0xba55ed50);
  Append<std::uint32_t>(&out, 16 << 16 | 1);
  Append<std::uint64_t>(&out, all.size());
  Append(&out, all.data(), all.size());
  return out;
}

}  // namespace tulle::gpu::cuda_image
