#include "tulle/session/psk_identity.h"

#include <algorithm>
#include <charconv>

namespace tulle::session {
namespace {

constexpr std::string_view kPrefix = "tulle1.";

bool IsIdByte(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
}

// Takes the text up to the next dot, or all that is left.
std::string_view TakePart(std::string_view* text) {
  const std::size_t dot = std::min(text->find('.'), text->size());
  const std::string_view part = text->substr(0, dot);
  text->remove_prefix(std::min(dot + 1, text->size()));
  return part;
}

// Reads the big-endian vectors of TLS. Every taker returns false, and takes nothing more, at the first byte
// that is not there.
class TlsReader {
 public:
  explicit TlsReader(ByteView bytes) : bytes_(bytes) {}
  bool empty() const { return bytes_.empty(); }
  bool Integer(std::size_t width, std::size_t* value) {
    if (bytes_.size() < width) return false;
    *value = 0;
    for (std::size_t i = 0; i < width; ++i) *value = *value << 8 | std::to_integer<std::size_t>(bytes_[i]);
    bytes_ = bytes_.subspan(width);
    return true;
  }
  bool Take(std::size_t size, ByteView* out) {
    if (bytes_.size() < size) return false;
    *out = bytes_.first(size);
    bytes_ = bytes_.subspan(size);
    return true;
  }
  // A length of `width` bytes, then that many.
  bool Vector(std::size_t width, ByteView* out) {
    std::size_t size = 0;
    return Integer(width, &size) && Take(size, out);
  }

 private:
  ByteView bytes_;
};

constexpr std::size_t kHandshakeHeaderBytes = 4;
constexpr std::size_t kMaxRecordBytes = 16u << 10;
constexpr std::size_t kHandshakeRecord = 22;
constexpr std::size_t kClientHello = 1;
constexpr std::size_t kPreSharedKeyExtension = 41;

// The identity out of a whole ClientHello body (RFC 8446 4.1.2 and 4.2.11).
bool FindIdentity(ByteView client_hello, ByteView* identity) {
  TlsReader hello(client_hello);
  std::size_t version = 0;
  ByteView random, session_id, ciphers, compression, extensions;
  if (!hello.Integer(2, &version) || version != 0x0303 || !hello.Take(32, &random) ||
      !hello.Vector(1, &session_id) || session_id.size() > 32 || !hello.Vector(2, &ciphers) ||
      !hello.Vector(1, &compression) || !hello.Vector(2, &extensions) || !hello.empty()) {
    return false;
  }
  TlsReader list(extensions);
  while (!list.empty()) {
    std::size_t type = 0;
    ByteView content;
    if (!list.Integer(2, &type) || !list.Vector(2, &content)) return false;
    if (type != kPreSharedKeyExtension) continue;
    // It must be the last extension, and we offer one key.
    if (!list.empty()) return false;
    TlsReader offer(content);
    ByteView identities, binders;
    if (!offer.Vector(2, &identities) || !offer.Vector(2, &binders) || !offer.empty()) return false;
    TlsReader offered(identities);
    std::size_t age = 0;
    return offered.Vector(2, identity) && offered.Integer(4, &age) && offered.empty();
  }
  return false;
}

PeekResult Accept(std::string_view text, PskIdentity* identity) {
  std::optional<PskIdentity> parsed = ParsePskIdentity(text);
  if (!parsed) return PeekResult::kInvalid;
  *identity = *std::move(parsed);
  return PeekResult::kFound;
}

PeekResult PeekPlain(ByteView arrived, PskIdentity* identity) {
  const std::string_view text = AsText(arrived.first(std::min(arrived.size(), kMaxPskIdentityBytes + 1)));
  const std::size_t known = std::min(text.size(), kPrefix.size());
  if (text.substr(0, known) != kPrefix.substr(0, known)) return PeekResult::kInvalid;
  const std::size_t end = text.find('\n');
  if (end != std::string_view::npos) return Accept(text.substr(0, end), identity);
  return text.size() > kMaxPskIdentityBytes ? PeekResult::kInvalid : PeekResult::kMore;
}

}  // namespace

bool IsId(std::string_view text) {
  return !text.empty() && text.size() <= kMaxIdBytes && std::all_of(text.begin(), text.end(), IsIdByte);
}

std::string FormatPskIdentity(const PskIdentity& identity) {
  return std::string(kPrefix) + identity.vgpu + "." + identity.grant + "." + identity.session_id + "." +
         std::to_string(identity.stream);
}

std::optional<PskIdentity> ParsePskIdentity(std::string_view text) {
  if (text.size() > kMaxPskIdentityBytes || !text.starts_with(kPrefix)) return std::nullopt;
  text.remove_prefix(kPrefix.size());
  const std::string_view vgpu = TakePart(&text);
  const std::string_view grant = TakePart(&text);
  const std::string_view session_id = TakePart(&text);
  if (!IsId(vgpu) || !IsId(grant)) return std::nullopt;
  const auto is_hex = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
  if (session_id.size() != 2 * kSessionIdBytes ||
      !std::all_of(session_id.begin(), session_id.end(), is_hex)) {
    return std::nullopt;
  }
  // One text for one number: no sign, no leading zero.
  std::uint32_t stream = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), stream);
  if (error != std::errc() || end != text.data() + text.size() || (text.size() > 1 && text.front() == '0')) {
    return std::nullopt;
  }
  return PskIdentity{std::string(vgpu), std::string(grant), std::string(session_id), stream};
}

PeekResult PeekPskIdentity(ByteView arrived, PskIdentity* identity) {
  if (arrived.empty()) return PeekResult::kMore;
  if (AsText(arrived).front() == kPrefix.front()) return PeekPlain(arrived, identity);

  // The message may be cut into records anywhere; only the first kMaxClientHelloBytes on the wire count.
  const ByteView window = arrived.first(std::min(arrived.size(), kMaxClientHelloBytes));
  const PeekResult more = window.size() == kMaxClientHelloBytes ? PeekResult::kInvalid : PeekResult::kMore;
  ByteVector message;
  TlsReader records(window);
  for (;;) {
    std::size_t type = 0, version = 0, size = 0;
    ByteView fragment;
    if (records.empty()) return more;
    if (!records.Integer(1, &type)) return more;
    if (type != kHandshakeRecord) return PeekResult::kInvalid;
    if (!records.Integer(2, &version)) return more;
    if (version != 0x0301 && version != 0x0303) return PeekResult::kInvalid;
    if (!records.Integer(2, &size)) return more;
    if (size == 0 || size > kMaxRecordBytes) return PeekResult::kInvalid;
    if (!records.Take(size, &fragment)) return more;
    message.insert(message.end(), fragment.begin(), fragment.end());

    if (message.size() < kHandshakeHeaderBytes) continue;
    TlsReader handshake(message);
    std::size_t message_type = 0, body_bytes = 0;
    ByteView body, found;
    if (!handshake.Integer(1, &message_type) || message_type != kClientHello) return PeekResult::kInvalid;
    if (!handshake.Integer(3, &body_bytes) || body_bytes > kMaxClientHelloBytes) return PeekResult::kInvalid;
    if (!handshake.Take(body_bytes, &body)) continue;
    if (!handshake.empty() || !FindIdentity(body, &found)) return PeekResult::kInvalid;
    return Accept(AsText(found), identity);
  }
}

}  // namespace tulle::session
