// Any bytes as the other end of a link, from the first header on, through requests to resume and through
// connections that replace each other, while this end reads and writes. Whatever comes: what this end sends
// is its own stream, in order, from where it was allowed to go on, behind headers that are well formed; what
// it reads is counted; and a request to resume reaches the session of its token only.
#include <sys/eventfd.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "fuzz/target.h"
#include "tulle/base/random.h"
#include "tulle/net/wait.h"
#include "tulle/session/link.h"
#include "tulle/session/resume.h"

namespace {

using namespace tulle;
using session::Link;
using session::ResumeTable;

// Of the stream that this end writes.
std::byte ByteAt(std::uint64_t position) { return static_cast<std::byte>(position * 7 + (position >> 8)); }

// What one connection has carried, as the peer sees it.
struct Carried {
  ByteVector in, out;
  std::size_t read = 0;
  bool ended = false;
  std::size_t room = ~std::size_t{0};  // for what is written next
};

class Connection final : public net::Transport {
 public:
  explicit Connection(std::shared_ptr<Carried> carried)
      : carried_(std::move(carried)), fd_(eventfd(0, EFD_CLOEXEC)) {}
  Result<std::size_t> Read(MutableByteView out) override {
    const std::size_t size = std::min(out.size(), carried_->in.size() - carried_->read);
    if (size == 0 && carried_->ended) return Error{Code::kUnavailable, "the peer is gone"};
    std::copy_n(carried_->in.begin() + static_cast<std::ptrdiff_t>(carried_->read), size, out.begin());
    carried_->read += size;
    return size;
  }
  Result<std::size_t> Write(std::span<const iovec> pieces) override {
    if (carried_->ended) return Error{Code::kUnavailable, "the peer is gone"};
    std::size_t taken = 0;
    for (const iovec& piece : pieces) {
      const std::size_t size = std::min(piece.iov_len, carried_->room);
      const auto* bytes = static_cast<const std::byte*>(piece.iov_base);
      carried_->out.insert(carried_->out.end(), bytes, bytes + size);
      carried_->room -= size;
      taken += size;
    }
    return taken;
  }
  int fd() const override { return fd_.get(); }
  short read_events() const override { return 0; }
  short write_events() const override { return 0; }
  bool has_buffered_input() const override { return carried_->read != carried_->in.size(); }
  void Shutdown() override { carried_->ended = true; }

 private:
  const std::shared_ptr<Carried> carried_;
  const UniqueFd fd_;
};

// Takes the input apart.
struct Script {
  ByteView rest;
  std::uint64_t Number(std::size_t bytes) {
    std::uint64_t value = 0;
    const std::size_t size = std::min(bytes, rest.size());
    if (size != 0) std::memcpy(&value, rest.data(), size);
    rest = rest.subspan(size);
    return value;
  }
  ByteView Bytes(std::size_t size) {
    const ByteView bytes = rest.first(std::min(size, rest.size()));
    rest = rest.subspan(bytes.size());
    return bytes;
  }
};

// The data behind the headers is the stream from `position` on.
void CheckSent(const Carried& carried, std::uint64_t position, bool by_client) {
  const ByteVector& out = carried.out;
  bool first = true;
  for (std::size_t at = 0; out.size() - at >= wire::kLinkHeaderBytes; first = false) {
    wire::LinkHeader header;
    std::memcpy(&header, out.data() + at, sizeof header);
    fuzz::Require(wire::CheckLinkHeader(header, first, by_client) == wire::WireResult::kOk,
                  "a header was sent that the other end would refuse");
    at += sizeof header;
    for (std::uint32_t i = 0; i < header.data_bytes && at < out.size(); ++i, ++at, ++position) {
      fuzz::Require(out[at] == ByteAt(position),
                    "not the stream was sent, or not from where it should go on");
    }
  }
}

void Exchange(Script& script, bool from_client) {
  auto carried = std::make_shared<Carried>();
  auto made = Link::Make(std::make_unique<Connection>(carried), from_client);
  fuzz::Require(made.ok(), "no link");
  Link& link = **made;
  link.AllowResume(script.Number(1) % 4 != 0);
  std::uint64_t started = 0;  // where our stream begins on this connection
  std::uint64_t written = 0, given = 0;
  while (!script.rest.empty()) {
    switch (script.Number(1) % 8) {
      case 0: {
        const ByteView bytes = script.Bytes(script.Number(1));
        carried->in.insert(carried->in.end(), bytes.begin(), bytes.end());
        break;
      }
      case 1: {
        wire::LinkHeader header;
        header.data_bytes = static_cast<std::uint32_t>(script.Number(2));
        header.flags = static_cast<std::uint32_t>(script.Number(1));
        header.received_bytes = written - std::min<std::uint64_t>(written, script.Number(2));
        const ByteView bytes = std::as_bytes(std::span(&header, 1));
        carried->in.insert(carried->in.end(), bytes.begin(), bytes.end());
        break;
      }
      case 2: {
        ByteVector room(1 + script.Number(2));
        const auto got = link.Read(room);
        if (!got.ok()) return CheckSent(*carried, started, !from_client);
        given += *got;
        fuzz::Require(given <= link.received_bytes(), "more was read than has arrived");
        break;
      }
      case 3: {
        ByteVector bytes(script.Number(3) % 300'000);
        for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = ByteAt(written + i);
        carried->room = script.Number(1) % 2 == 0 ? ~std::size_t{0} : script.Number(3);
        const iovec piece{bytes.data(), bytes.size()};
        const auto taken = link.Write({&piece, 1});
        if (!taken.ok()) return CheckSent(*carried, started, !from_client);
        fuzz::Require(*taken <= bytes.size(), "more was taken than was offered");
        written += *taken;
        // What was begun and not taken is offered again until it is, as the contract demands.
        while (*taken != 0 && written != 0 && carried->room == 0 && !carried->ended) {
          carried->room = ~std::size_t{0};
          ByteVector rest(bytes.begin() + static_cast<std::ptrdiff_t>(*taken), bytes.end());
          const iovec again{rest.data(), rest.size()};
          const auto more = link.Write({&again, 1});
          if (!more.ok()) return;
          written += *more;
          break;
        }
        break;
      }
      case 4:
        if (!link.ReadAhead().ok()) return CheckSent(*carried, started, !from_client);
        break;
      case 5: carried->ended = true; break;
      case 6: {
        const std::uint64_t received = written - std::min<std::uint64_t>(written, script.Number(2)) +
                                       (script.Number(1) % 8 == 0 ? script.Number(1) : 0);
        CheckSent(*carried, started, !from_client);
        auto another = std::make_shared<Carried>();
        if (!link.Adopt(std::make_unique<Connection>(another), received, from_client).ok()) return;
        carried = another;
        started = received;
        break;
      }
      default: link.SayFarewell(); break;
    }
  }
  CheckSent(*carried, started, !from_client);
}

// The first bytes on a connection that has proved its key.
void Open(Script& script) {
  ResumeTable table;
  const session::PskIdentity identity{"vgpu-1", "grant-1", std::string(32, 'a'), 0};
  const auto place = table.Add(identity);
  fuzz::Require(place.ok(), "no place for a session");
  auto carried = std::make_shared<Carried>();
  const bool knows = script.Number(1) % 2 == 0;
  const ByteView bytes = script.Bytes(script.rest.size());
  carried->in.assign(bytes.begin(), bytes.end());
  if (knows && carried->in.size() >= sizeof(wire::LinkHeader) + sizeof(wire::LinkResume)) {
    const auto& token = (*place)->token();
    std::copy(token.begin(), token.end(),
              carried->in.begin() + sizeof(wire::LinkHeader) + offsetof(wire::LinkResume, token));
  }
  auto connection = std::make_unique<Connection>(carried);
  const auto header = session::ReadLinkHeader(*connection, /*from_client=*/true, Instant{});
  if (!header.ok() || (header->flags & wire::kLinkResume) == 0) return;
  wire::LinkResume request;
  if (!session::ReadAll(*connection, std::as_writable_bytes(std::span(&request, 1)), Instant{}).ok()) return;
  ResumeTable::Offer offer{std::move(connection), header->received_bytes};
  const bool handed = table.Hand(identity, request, offer).ok();
  fuzz::Require(!handed || request.token == (*place)->token(), "a session was given to another's token");
  fuzz::Require(handed == (*place)->Take().has_value(), "what was handed over was not there");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Script script{std::as_bytes(std::span(data, size))};
  switch (script.Number(1) % 4) {
    case 0: Open(script); break;
    case 1: Exchange(script, /*from_client=*/false); break;
    default: Exchange(script, /*from_client=*/true); break;
  }
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
  SeededRandom random(seed);
  if (size > 4 && random.Below(3) != 0) return LLVMFuzzerMutate(data, size, max_size);
  // A fair sequence of steps, or a fair request.
  ByteVector made;
  const auto put = [&](std::uint64_t value, std::size_t bytes) {
    for (std::size_t i = 0; i < bytes; ++i) made.push_back(static_cast<std::byte>(value >> (8 * i)));
  };
  put(random.Below(4), 1);
  put(random.Below(256), 1);
  if (made[0] == std::byte{0}) {
    const wire::LinkHeader header{sizeof(wire::LinkResume), wire::kLinkResume, random.Below(100)};
    const ByteView bytes = std::as_bytes(std::span(&header, 1));
    made.insert(made.end(), bytes.begin(), bytes.end());
    put(random.Below(3), 8);
    put(random.Next(), 8);
    put(random.Next(), 8);
  } else {
    for (std::uint64_t i = 1 + random.Below(30); i != 0; --i) {
      const std::uint64_t step = random.Below(8);
      put(step, 1);
      if (step == 0) {
        const std::uint64_t count = random.Below(200);
        put(count, 1);
        for (std::uint64_t k = 0; k < count; ++k) put(random.Next(), 1);
      } else {
        put(random.Below(random.Below(2) == 0 ? 200 : 1u << 24), random.Below(7));
      }
    }
  }
  const std::size_t kept = std::min(made.size(), max_size);
  std::memcpy(data, made.data(), kept);
  return kept;
}
