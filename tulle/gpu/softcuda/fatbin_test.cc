#include "tulle/gpu/softcuda/fatbin.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <lz4.h>
#include <zstd.h>

#include <cstring>

#include "tulle/base/random.h"

namespace tulle::gpu::softcuda {
namespace {

using ::testing::HasSubstr;

enum class Packing { kNone, kLz4, kZstd };

void Append(ByteVector* out, const void* data, std::size_t bytes) {
  const auto* const begin = static_cast<const std::byte*>(data);
  out->insert(out->end(), begin, begin + bytes);
}
template <typename T>
void Append(ByteVector* out, T value) {
  Append(out, &value, sizeof value);
}

// As nvcc lays them out: headers of 64 bytes and something, content in multiples of eight.
ByteVector Entry(std::uint16_t kind, std::uint32_t target, const std::string& text,
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
ByteVector Fatbin(const std::vector<ByteVector>& entries) {
  ByteVector all, out;
  for (const ByteVector& entry : entries) Append(&all, entry.data(), entry.size());
  Append<std::uint32_t>(&out, 0xba55ed50);
  Append<std::uint32_t>(&out, 16 << 16 | 1);
  Append<std::uint64_t>(&out, all.size());
  Append(&out, all.data(), all.size());
  return out;
}
std::string TextIn(const ByteVector& fatbin) {
  const auto text = PtxIn(fatbin, 70);
  return text.ok() ? text->c_str() : ToString(text.error());  // as it is read: up to the padding
}

const std::string kText = "\n\n\n\n.version 6.0\n.target sm_60\n.address_size 64\n\n\n\n\n\n\n";

TEST(Fatbin, TheNewestThatTheDeviceCanCompile) {
  for (const Packing packing : {Packing::kNone, Packing::kLz4, Packing::kZstd}) {
    EXPECT_EQ(TextIn(Fatbin({Entry(2, 60, "machine code"), Entry(1, 50, "older"),
                             Entry(1, 60, kText, packing), Entry(1, 52, "older"), Entry(1, 80, "newer")})),
              kText);
  }
}

TEST(Fatbin, WhatIsThereInsteadIsSaid) {
  EXPECT_THAT(TextIn(Fatbin({Entry(2, 60, "code"), Entry(2, 90, "code"), Entry(1, 80, "newer")})),
              HasSubstr("PTX for sm_80, machine code for sm_60, sm_90"));
  EXPECT_THAT(TextIn(Fatbin({})), HasSubstr("PTX for nothing, machine code for nothing"));
}

TEST(Fatbin, DamageIsNoticed) {
  for (const Packing packing : {Packing::kNone, Packing::kLz4, Packing::kZstd}) {
    const ByteVector good = Fatbin({Entry(1, 50, "older"), Entry(1, 60, kText, packing)});
    for (std::size_t size = 0; size < good.size(); ++size) {
      const auto text = PtxIn(ByteView(good).first(size), 70);
      ASSERT_FALSE(text.ok()) << size;
      EXPECT_EQ(text.error().code, Code::kInvalidArgument);
    }
    // Whatever is in it, it is read or refused.
    SeededRandom random(3);
    for (int i = 0; i < 5000; ++i) {
      ByteVector bad = good;
      for (std::uint64_t n = 1 + random.Below(3); n > 0; --n)
        bad[random.Below(bad.size())] = static_cast<std::byte>(random.Below(256));
      (void)PtxIn(bad, 70);
    }
  }
  ByteVector large = Fatbin({Entry(1, 60, kText, Packing::kLz4)});
  const std::uint64_t absurd = std::uint64_t{1} << 40;
  std::memcpy(&large[16 + 56], &absurd, sizeof absurd);
  EXPECT_EQ(PtxIn(large, 70).error().code, Code::kResourceExhausted);
}

}  // namespace
}  // namespace tulle::gpu::softcuda
