#include "tulle/gpu/cuda_image/fatbin.h"

#include <lz4.h>
#include <zstd.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <set>

namespace tulle::gpu::cuda_image {
namespace {

constexpr std::uint32_t kMagic = 0xba55ed50;
constexpr std::uint16_t kPtx = 1, kCubin = 2;
constexpr std::uint64_t kCompressed = 0x2000, kCompressedOtherwise = 0x8000;  // of flags
constexpr std::uint64_t kMaxPlainBytes = 64u << 20;

struct Header {
  std::uint32_t magic;
  std::uint16_t version, header_bytes;
  std::uint64_t bytes;  // of the entries behind it
};
static_assert(sizeof(Header) == 16);
struct Entry {
  std::uint16_t kind, version;
  std::uint32_t header_bytes;
  std::uint64_t bytes;             // of what follows the header, padding and all
  std::uint32_t compressed_bytes;  // without padding; 0: not compressed
  std::uint32_t options_offset;
  std::uint16_t minor, major;
  std::uint32_t target;  // 70: sm_70
  std::uint32_t name_offset, name_bytes;
  std::uint64_t flags, reserved;
  std::uint64_t plain_bytes;  // once it is decompressed
};
static_assert(sizeof(Entry) == 64);

Error Damaged(const std::string& what) {
  return {.code = Code::kInvalidArgument, .message = "the fatbin is damaged: " + what};
}

// Decompressed.
Result<std::string> TextOf(const Entry& entry, ByteView content) {
  if ((entry.flags & (kCompressed | kCompressedOtherwise)) == 0)
    return std::string(reinterpret_cast<const char*>(content.data()), content.size());
  if (entry.compressed_bytes > content.size()) return Damaged("compressed content goes beyond its end");
  const ByteView packed = content.first(entry.compressed_bytes);
  if (entry.plain_bytes > kMaxPlainBytes) {
    return Error{.code = Code::kResourceExhausted,
                 .message = "the fatbin has an image of " + FormatSize(entry.plain_bytes) + ", at most " +
                            FormatSize(kMaxPlainBytes) + " are possible"};
  }
  std::string text(entry.plain_bytes, '\0');
  std::uint32_t begins = 0;
  std::memcpy(&begins, packed.data(), std::min(packed.size(), sizeof begins));
  if (begins == ZSTD_MAGICNUMBER) {
    const std::size_t got = ZSTD_decompress(text.data(), text.size(), packed.data(), packed.size());
    if (ZSTD_isError(got) != 0 || got != text.size())
      return Damaged("its content cannot be decompressed (zstd)");
    return text;
  }
  const int got = LZ4_decompress_safe(reinterpret_cast<const char*>(packed.data()), text.data(),
                                      static_cast<int>(packed.size()), static_cast<int>(text.size()));
  if (got < 0 || static_cast<std::size_t>(got) != text.size())
    return Damaged("its content cannot be decompressed (LZ4)");
  return text;
}

// Calls f(entry, content) for each, until one returns an error.
template <typename F>
Status ForEachEntry(ByteView fatbin, const F& f) {
  if (!IsFatbin(fatbin)) return Damaged("it does not begin as one");
  Header header;
  std::memcpy(&header, fatbin.data(), sizeof header);
  if (header.header_bytes < sizeof header || header.header_bytes > fatbin.size() ||
      header.bytes > fatbin.size() - header.header_bytes) {
    return Damaged("it has " + FormatSize(fatbin.size()) + ", and says that it has more");
  }
  ByteView rest = fatbin.subspan(header.header_bytes, header.bytes);
  while (rest.size() >= sizeof(Entry)) {
    Entry entry;
    std::memcpy(&entry, rest.data(), sizeof entry);
    if (entry.header_bytes < sizeof entry || entry.header_bytes > rest.size() ||
        entry.bytes > rest.size() - entry.header_bytes) {
      return Damaged("an entry goes beyond its end");
    }
    TULLE_RETURN_IF_ERROR(f(entry, rest.subspan(entry.header_bytes, entry.bytes)));
    rest = rest.subspan(entry.header_bytes + entry.bytes);
  }
  return OkStatus();
}

}  // namespace

bool IsFatbin(ByteView image) {
  std::uint32_t magic = 0;
  if (image.size() < sizeof(Header)) return false;
  std::memcpy(&magic, image.data(), sizeof magic);
  return magic == kMagic;
}

Status ForEachImage(ByteView fatbin, const std::function<Status(ByteView image)>& f) {
  return ForEachEntry(fatbin, [&f](const Entry& entry, ByteView content) -> Status {
    if (entry.kind != kPtx && entry.kind != kCubin) return OkStatus();
    TULLE_ASSIGN_OR_RETURN(const std::string image, TextOf(entry, content));
    return f(AsBytes(image));
  });
}

Result<std::string> PtxIn(ByteView fatbin, std::uint32_t capability) {
  Entry best{};
  ByteView best_content;
  std::set<std::uint32_t> too_new, cubins;
  TULLE_RETURN_IF_ERROR(ForEachEntry(fatbin, [&](const Entry& entry, ByteView content) -> Status {
    if (entry.kind != kPtx) {
      cubins.insert(entry.target);
    } else if (entry.target > capability) {
      too_new.insert(entry.target);
    } else if (best.kind != kPtx || entry.target > best.target) {
      best = entry;
      best_content = content;
    }
    return OkStatus();
  }));
  if (best.kind == kPtx) return TextOf(best, best_content);
  const auto list = [](const std::set<std::uint32_t>& targets) {
    std::string text;
    for (const std::uint32_t target : targets)
      text += (text.empty() ? "sm_" : ", sm_") + std::to_string(target);
    return text.empty() ? "nothing" : text;
  };
  return Error{.code = Code::kNotFound,
               .message = "this device compiles PTX for sm_" + std::to_string(capability) +
                          " and below; the fatbin has PTX for " + list(too_new) + ", machine code for " +
                          list(cubins) + " (compile with PTX for compute_" + std::to_string(capability) +
                          ")"};
}

}  // namespace tulle::gpu::cuda_image
