// The first bytes of any connection, as a node peeks at them: an identity is found only where its own text
// says the same, and what is found does not change when more bytes follow.
#include <cstring>
#include <string>

#include "fuzz/target.h"
#include "tulle/base/random.h"
#include "tulle/session/psk_identity.h"

namespace {

using namespace tulle;
using session::PeekResult;
using session::PskIdentity;

void Append(std::string* out, std::size_t width, std::size_t value) {
  for (std::size_t i = width; i-- > 0;) out->push_back(static_cast<char>(value >> (8 * i)));
}
std::string Vector(std::size_t width, const std::string& content) {
  std::string out;
  Append(&out, width, content.size());
  return out + content;
}

// A ClientHello (RFC 8446, 4.1.2) whose last extension is pre_shared_key with this identity.
std::string ClientHello(Random& random, const std::string& identity) {
  std::string content = "\x03\x03" + std::string(32, 'r') + Vector(1, std::string(random.Below(33), 's')) +
                        Vector(2, std::string("\x13\x01", 2)) + Vector(1, std::string(1, '\0'));
  std::string extensions;
  for (std::uint64_t i = random.Below(4); i > 0; --i) {
    Append(&extensions, 2, 1 + random.Below(60));
    extensions += Vector(2, std::string(random.Below(20), 'x'));
  }
  Append(&extensions, 2, 41);
  extensions += Vector(
      2, Vector(2, Vector(2, identity) + std::string(4, '\0')) + Vector(2, Vector(1, std::string(32, 'b'))));
  content += Vector(2, extensions);
  const std::string handshake = std::string(1, '\x01') + Vector(3, content);
  return std::string("\x16\x03\x01", 3) + Vector(2, handshake);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const ByteView input = std::as_bytes(std::span(data, size));
  PskIdentity identity;
  if (session::PeekPskIdentity(input, &identity) == PeekResult::kFound) {
    const std::string text = session::FormatPskIdentity(identity);
    fuzz::Require(
        std::string_view(reinterpret_cast<const char*>(data), size).find(text) != std::string_view::npos,
        "an identity was found that is not in the bytes");
    std::string longer(reinterpret_cast<const char*>(data), size);
    longer += "more";
    PskIdentity again;
    if (longer.size() <= session::kMaxClientHelloBytes) {
      fuzz::Require(session::PeekPskIdentity(AsBytes(longer), &again) == PeekResult::kFound &&
                        session::FormatPskIdentity(again) == text,
                    "bytes behind the ClientHello changed what was found");
    }
  }
  if (const auto parsed = session::ParsePskIdentity(AsText(input))) {
    fuzz::Require(session::FormatPskIdentity(*parsed) == AsText(input), "an identity has two spellings");
  }
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
  SeededRandom random(seed);
  if (size != 0 && random.Below(2) == 0) return LLVMFuzzerMutate(data, size, max_size);
  PskIdentity identity{"vgpu-1", "grant-1", std::string(32, 'a'),
                       static_cast<std::uint32_t>(random.Below(3))};
  std::string text = session::FormatPskIdentity(identity);
  if (random.Below(4) == 0) text[random.Below(text.size())] = static_cast<char>(random.Next());
  if (random.Below(8) != 0) text = ClientHello(random, text);
  const std::size_t made = std::min(text.size(), max_size);
  std::memcpy(data, text.data(), made);
  return made;
}
