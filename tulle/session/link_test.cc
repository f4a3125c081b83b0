// Two ends of a link over simulated connections that take and give what they like, keep bytes without saying
// so, as TLS does, and are cut anywhere: what is read is what was written, once and in order.
#include "tulle/session/link.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "tulle/base/random.h"
#include "tulle/session/resume.h"
#include "tulle/session/sent_log.h"

namespace tulle::session {
namespace {

// One direction of a connection.
struct Pipe {
  std::vector<std::byte> bytes;
  std::size_t read = 0;
  bool cut = false;
};

class Connection final : public net::Transport {
 public:
  Connection(std::shared_ptr<Pipe> in, std::shared_ptr<Pipe> out, Random* random)
      : in_(std::move(in)), out_(std::move(out)), random_(*random), fd_(eventfd(0, EFD_CLOEXEC)) {}

  Result<std::size_t> Read(MutableByteView out) override {
    const std::size_t here = in_->bytes.size() - in_->read;
    if (here == 0 && in_->cut) return Error{Code::kUnavailable, "cut"};
    const std::size_t size =
        std::min({here, out.size(), random_.Below(3) == 0 ? random_.Below(40) : SIZE_MAX});
    std::copy_n(in_->bytes.begin() + static_cast<std::ptrdiff_t>(in_->read), size, out.begin());
    in_->read += size;
    return size;
  }

  Result<std::size_t> Write(std::span<const iovec> pieces) override {
    if (out_->cut) return Error{Code::kUnavailable, "cut"};
    std::vector<std::byte> all;
    for (const iovec& piece : pieces) {
      const auto* bytes = static_cast<const std::byte*>(piece.iov_base);
      all.insert(all.end(), bytes, bytes + piece.iov_len);
    }
    // What an earlier call has kept must come again.
    EXPECT_GE(all.size(), kept_.size());
    EXPECT_TRUE(std::equal(kept_.begin(), kept_.end(), all.begin()));
    const std::size_t most = random_.Below(4) == 0 ? random_.Below(100) : random_.Below(200'000);
    const std::size_t more = std::min(all.size() - kept_.size(), most);
    const std::size_t sent = kept_.size() + more;
    out_->bytes.insert(out_->bytes.end(), all.begin() + static_cast<std::ptrdiff_t>(kept_.size()),
                       all.begin() + static_cast<std::ptrdiff_t>(sent));
    const std::size_t reported = random_.Below(4) == 0 ? random_.Below(sent + 1) : sent;
    kept_.assign(all.begin() + static_cast<std::ptrdiff_t>(reported),
                 all.begin() + static_cast<std::ptrdiff_t>(sent));
    return reported;
  }

  int fd() const override { return fd_.get(); }
  short read_events() const override { return 0; }
  short write_events() const override { return 0; }
  bool has_buffered_input() const override { return in_->bytes.size() != in_->read && random_.Below(2) == 0; }
  void Shutdown() override { in_->cut = out_->cut = true; }

 private:
  const std::shared_ptr<Pipe> in_, out_;
  Random& random_;
  const UniqueFd fd_;
  std::vector<std::byte> kept_;
};

// The byte at a position of either stream. Some of it can be compressed.
std::byte ByteAt(std::uint64_t position, std::uint64_t stream) {
  if ((position >> 12) % 3 == 0) return static_cast<std::byte>((position >> 6) + stream);
  return static_cast<std::byte>((position * 2654435761u + (position >> 13) + stream) >> 3);
}

struct End {
  std::unique_ptr<Link> link;
  std::uint64_t stream = 0;   // that it writes
  std::uint64_t written = 0;  // taken by the link
  std::uint64_t read = 0;
  std::size_t at_once = 0;         // most that is offered
  std::vector<std::byte> offered;  // from `written` on, to be offered again

  void Write(Random& random, std::uint64_t total) {
    const std::uint64_t left = total - written - offered.size();
    const std::uint64_t most = random.Below(3) == 0 ? at_once - offered.size() : random.Below(300);
    const std::uint64_t more = std::min<std::uint64_t>({left, most, at_once - offered.size()});
    for (std::uint64_t i = 0; i < more; ++i) offered.push_back(ByteAt(written + offered.size(), stream));
    const std::size_t first = random.Below(offered.size() + 1);
    const iovec pieces[] = {{offered.data(), first}, {offered.data() + first, offered.size() - first}};
    // Copied, kept by an owner, or lent.
    auto kept = std::make_shared<std::vector<std::byte>>(offered.begin() + static_cast<std::ptrdiff_t>(first),
                                                         offered.end());
    const std::uint64_t how = random.Below(3);
    const Link::Owner owners[] = {{}, {how != 0, how == 1 ? kept : nullptr}};
    const iovec where[] = {pieces[0], {kept->data(), kept->size()}};
    const auto taken = link->WriteKept(where, owners);
    ASSERT_TRUE(taken.ok()) << ToString(taken.error());
    if (how == 2) link->Settle();
    // Nobody looks at it any more.
    if (how != 1) std::fill(kept->begin(), kept->end(), std::byte{0});
    written += *taken;
    offered.erase(offered.begin(), offered.begin() + static_cast<std::ptrdiff_t>(*taken));
  }

  void Read(Random& random, std::uint64_t peer_stream) {
    std::vector<std::byte> room(1 + random.Below(random.Below(2) == 0 ? 100 : at_once));
    const auto got = link->Read(room);
    ASSERT_TRUE(got.ok()) << ToString(got.error());
    for (std::size_t i = 0; i < *got; ++i, ++read) {
      if (room[i] != ByteAt(read, peer_stream)) FAIL() << "byte " << read;
    }
  }
};

class LinkSimulation {
 public:
  LinkSimulation(std::uint64_t seed, std::size_t at_once, Link::Compress compress = Link::Compress::kNever)
      : random_(seed) {
    client_.at_once = worker_.at_once = at_once;
    client_.stream = 1;
    worker_.stream = 2;
    auto [client, worker] = Connect();
    client_.link = std::move(*Link::Make(std::move(client), /*from_client=*/false));
    worker_.link = std::move(*Link::Make(std::move(worker), /*from_client=*/true));
    client_.link->AllowResume(true);
    worker_.link->AllowResume(true);
    client_.link->AllowCompression(compress);
    worker_.link->AllowCompression(compress);
    client_.link->AllowAsking();
    worker_.link->AllowAsking();
  }
  std::uint64_t carried_bytes() const { return carried_bytes_ + up_->bytes.size() + down_->bytes.size(); }

  void Run(std::uint64_t up_bytes, std::uint64_t down_bytes, int cuts) {
    for (int step = 0; client_.read != down_bytes || worker_.read != up_bytes ||
                       client_.written != up_bytes || worker_.written != down_bytes;
         ++step) {
      ASSERT_LT(step, 2'000'000) << client_.read << " " << worker_.read;
      if (cuts != 0 && random_.Below(20) == 0) {
        --cuts;
        Cut();
      }
      if (client_.link->down() && random_.Below(3) == 0) Resume();
      switch (random_.Below(4)) {
        case 0: client_.Write(random_, up_bytes); break;
        case 1: worker_.Write(random_, down_bytes); break;
        case 2: client_.Read(random_, worker_.stream); break;
        case 3:
          // A worker that takes nothing sees acknowledgements all the same.
          if (random_.Below(8) == 0) {
            ASSERT_TRUE(worker_.link->ReadAhead().ok());
          } else {
            worker_.Read(random_, client_.stream);
          }
          break;
      }
      if (testing::Test::HasFatalFailure()) return;
    }
  }

 private:
  std::pair<std::unique_ptr<Connection>, std::unique_ptr<Connection>> Connect() {
    if (up_ != nullptr) carried_bytes_ = carried_bytes();
    up_ = std::make_shared<Pipe>();
    down_ = std::make_shared<Pipe>();
    return {std::make_unique<Connection>(down_, up_, &random_),
            std::make_unique<Connection>(up_, down_, &random_)};
  }

  // Loses any part of what is under way.
  void Cut() {
    for (Pipe* pipe : {up_.get(), down_.get()}) {
      pipe->cut = true;
      pipe->bytes.resize(pipe->bytes.size() - random_.Below(pipe->bytes.size() - pipe->read + 1));
    }
  }

  void Resume() {
    auto [client, worker] = Connect();
    worker_.link->Drop();
    ASSERT_TRUE(worker_.link->Adopt(std::move(worker), client_.link->received_bytes(), /*answer=*/true).ok());
    wire::LinkHeader answer;
    while (down_->bytes.size() < sizeof answer) ASSERT_TRUE(worker_.link->Write({}).ok());
    if (random_.Below(4) == 0) return Cut();  // before the client has read it
    const auto received = ReadLinkHeader(*client, /*from_client=*/false, Instant{});
    if (!received.ok()) return Cut();  // the simulated connection was slow
    EXPECT_EQ(received->flags, std::uint32_t{wire::kLinkResumed});
    ASSERT_TRUE(client_.link->Adopt(std::move(client), received->received_bytes, /*answer=*/false).ok());
  }

  SeededRandom random_;
  std::shared_ptr<Pipe> up_, down_;
  std::uint64_t carried_bytes_ = 0;  // by former ones
  End client_, worker_;
};

TEST(LinkTest, NothingIsLostOrDoubledHoweverOftenItIsCut) {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    LinkSimulation simulation(seed, 30'000);
    simulation.Run(200'000 + seed * 10'000, 900'000 - seed * 10'000, 100);
    if (HasFatalFailure()) return;
  }
}

TEST(LinkTest, NothingIsLostOrDoubledWhereItIsCompressed) {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    LinkSimulation simulation(seed, 30'000, Link::Compress::kAlways);
    simulation.Run(200'000 + seed * 10'000, 900'000 - seed * 10'000, 100);
    if (HasFatalFailure()) return;
  }
  // And it is.
  LinkSimulation simulation(1, 300'000, Link::Compress::kAlways);
  simulation.Run(2'000'000, 2'000'000, 0);
  EXPECT_LT(simulation.carried_bytes(), 3'500'000u);
}

TEST(LinkTest, MoreThanTheLogHolds) {
  LinkSimulation simulation(1, 600'000);
  simulation.Run(ByteLog::kCapacityBytes + 5'000'000, ByteLog::kCapacityBytes + 3'000'000, 30);
}

// A connection that takes everything and gives what the test says.
struct Scripted {
  std::shared_ptr<Pipe> in = std::make_shared<Pipe>(), out = std::make_shared<Pipe>();
  SeededRandom random{1};
  std::unique_ptr<Link> link;
  explicit Scripted(bool from_client) {
    link = std::move(*Link::Make(std::make_unique<Connection>(in, out, &random), from_client));
    link->AllowResume(true);
  }
  void Say(const wire::LinkHeader& header) {
    const ByteView bytes = std::as_bytes(std::span(&header, 1));
    in->bytes.insert(in->bytes.end(), bytes.begin(), bytes.end());
  }
  Status Read() {
    std::array<std::byte, 64> room;
    Status status;
    for (int i = 0; i < 200 && status.ok(); ++i) {
      const auto got = link->Read(room);
      if (!got.ok()) status = got.error();
    }
    return status;
  }
};

TEST(LinkTest, HeadersThatCannotBe) {
  const auto refused = [](const wire::LinkHeader& header, bool from_client) {
    Scripted one(from_client);
    one.Say(header);
    const Status status = one.Read();
    return !status.ok() && status.error().code == Code::kDataLoss && !one.link->down();
  };
  for (const bool from_client : {true, false}) {
    EXPECT_TRUE(refused({wire::kMaxLinkDataBytes + 1, 0, 0}, from_client));
    EXPECT_TRUE(refused({0, 1u << 20, 0}, from_client));
    EXPECT_TRUE(refused({0, 0, 1}, from_client)) << "nothing was sent";
    EXPECT_TRUE(refused({24, wire::kLinkResume, 0}, from_client)) << "in the middle";
    EXPECT_TRUE(refused({0, wire::kLinkResumed, 0}, from_client)) << "in the middle";
    EXPECT_TRUE(refused({0, wire::kLinkUnknown, 0}, from_client)) << "in the middle";
    EXPECT_TRUE(refused({0, wire::kLinkPacked, 0}, from_client)) << "of nothing";
    EXPECT_FALSE(refused({0, 0, 0}, from_client));
  }
}

TEST(LinkTest, WhoIsAskedTells) {
  Scripted one(true);
  const auto say = [&](std::uint32_t data_bytes, std::uint32_t flags) {
    one.Say({data_bytes, flags, 0});
    one.in->bytes.insert(one.in->bytes.end(), data_bytes, std::byte{1});
    EXPECT_TRUE(one.Read().ok());
  };
  say(100, 0);
  EXPECT_FALSE(one.link->wants_to_write());
  say(50, wire::kLinkTell);
  ASSERT_TRUE(one.link->wants_to_write());
  while (one.link->wants_to_write()) ASSERT_TRUE(one.link->Write({}).ok());
  wire::LinkHeader told;
  ASSERT_EQ(one.out->bytes.size(), sizeof told);
  std::memcpy(&told, one.out->bytes.data(), sizeof told);
  EXPECT_EQ(told.received_bytes, 150u);
  // Asked about what it has told.
  say(0, wire::kLinkTell);
  EXPECT_FALSE(one.link->wants_to_write());
  // Only when all of it is here.
  one.Say({100, wire::kLinkTell, 0});
  EXPECT_TRUE(one.Read().ok());
  EXPECT_FALSE(one.link->wants_to_write());
}

TEST(LinkTest, NoMoreUnderWayThanTheLimitUnlessItMayNotAsk) {
  for (const bool asks : {false, true}) {
    Scripted one(true);
    if (asks) one.link->AllowAsking();
    const ByteVector bytes(FlightLimit::kFirstBytes);
    std::size_t taken = 0;
    EXPECT_TRUE(one.link->has_room_for(bytes.size()));
    while (taken < bytes.size()) {
      const iovec rest{const_cast<std::byte*>(bytes.data()) + taken, bytes.size() - taken};
      taken += *one.link->Write({&rest, 1});
    }
    EXPECT_EQ(one.link->has_room_for(1), !asks);
    if (!asks) continue;
    // The last of it may not have been asked about.
    one.link->Ask();
    while (one.link->wants_to_write()) ASSERT_TRUE(one.link->Write({}).ok());
    EXPECT_FALSE(one.link->must_ask());
    one.Say({0, 0, taken});
    EXPECT_TRUE(one.Read().ok());
    EXPECT_TRUE(one.link->has_room_for(one.link->part_bytes()));
    // A part and what is in front of it fill records of TLS.
    const wire::PayloadPart part{wire::kMaxPayloadBytes, {one.link->part_bytes()}};
    const std::size_t all =
        wire::kLinkHeaderBytes + wire::kFrameHeaderBytes + wire::EncodedSize(part) + part.data.size_bytes;
    EXPECT_EQ(all % (16u << 10), 0u);
    EXPECT_LE(all, wire::kLinkHeaderBytes + wire::kMaxLinkDataBytes);
  }
}

TEST(LinkTest, BlocksThatCannotBe) {
  const ByteVector plain(1000, std::byte{7});
  ByteVector packed(sizeof(wire::LinkBlock) + MostPackedBytes(plain.size()));
  packed.resize(sizeof(wire::LinkBlock) +
                PackBlock(plain, std::span(packed).subspan(sizeof(wire::LinkBlock))));
  ASSERT_LT(packed.size(), 100u);
  // Says that the block is of `packed_bytes`, and becomes `plain_bytes`.
  const auto read = [&](std::uint32_t packed_bytes, std::uint32_t plain_bytes, const ByteVector& block) {
    Scripted one(true);
    one.Say({plain_bytes, wire::kLinkPacked, 0});
    const std::size_t at = one.in->bytes.size();
    one.in->bytes.insert(one.in->bytes.end(), block.begin(), block.end());
    std::memcpy(one.in->bytes.data() + at, &packed_bytes, sizeof packed_bytes);
    return one.Read();
  };
  const auto right = static_cast<std::uint32_t>(packed.size() - sizeof(wire::LinkBlock));
  EXPECT_TRUE(read(right, 1000, packed).ok());
  const auto refused = [](const Status& status) {
    return !status.ok() && status.error().code == Code::kDataLoss;
  };
  EXPECT_TRUE(refused(read(0, 1000, packed)));
  EXPECT_TRUE(refused(read(1000, 1000, packed))) << "no smaller than what it becomes";
  EXPECT_TRUE(refused(read(right, 999, packed)));
  EXPECT_TRUE(refused(read(right, 1001, packed)));
  EXPECT_TRUE(refused(read(right - 1, 1000, packed)));
  ByteVector wrong = packed;
  wrong[sizeof(wire::LinkBlock)] = std::byte{0xff};
  EXPECT_TRUE(refused(read(right, 1000, wrong)));
}

TEST(LinkTest, WhatWasAcknowledgedIsNotTakenBack) {
  Scripted one(false);
  std::array<std::byte, 100> bytes{};
  std::size_t taken = 0;
  while (taken < bytes.size()) {
    const iovec rest{bytes.data() + taken, bytes.size() - taken};
    taken += *one.link->Write({&rest, 1});
  }
  one.Say({0, 0, 60});
  EXPECT_TRUE(one.Read().ok());
  auto pipe = std::make_shared<Pipe>();
  const auto another = [&] { return std::make_unique<Connection>(pipe, pipe, &one.random); };
  EXPECT_FALSE(one.link->Adopt(another(), 59, false).ok());
  EXPECT_FALSE(one.link->Adopt(another(), 101, false).ok());
  EXPECT_TRUE(one.link->Adopt(another(), 60, false).ok());
}

TEST(LinkTest, NothingIsKeptAfterTheEnd) {
  Scripted one(true);
  const auto payload = std::make_shared<std::vector<std::byte>>(100'000);
  const iovec piece{payload->data(), payload->size()};
  const Link::Owner owner{true, payload};
  while (payload.use_count() == 2) ASSERT_TRUE(one.link->WriteKept({&piece, 1}, {&owner, 1}).ok());
  one.link->Shutdown();
  EXPECT_EQ(payload.use_count(), 2) << "this test and its Owner";
}

TEST(LinkTest, AfterAFarewellTheEndIsTheEnd) {
  for (const bool farewell : {false, true}) {
    Scripted one(true);
    one.Say({0, farewell ? std::uint32_t{wire::kLinkFarewell} : 0, 0});
    one.in->cut = true;
    const Status status = one.Read();
    EXPECT_EQ(status.ok(), !farewell);
    EXPECT_EQ(one.link->down(), !farewell);
  }
}

TEST(ByteLogTest, HoldsWhatWasNotForgotten) {
  for (std::uint64_t seed = 0; seed < 4; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    SeededRandom random(seed);
    ByteLog log;
    for (int i = 0; i < 300; ++i) {
      const std::size_t size = random.Below(random.Below(4) == 0 ? 2'000'000 : 2'000);
      if (log.Reserve(size)) {
        std::vector<std::byte> bytes(size);
        for (std::size_t k = 0; k < size; ++k) bytes[k] = ByteAt(log.end() + k, 5);
        log.Append(bytes);
      } else {
        EXPECT_LT(log.room(), size);
      }
      if (random.Below(3) == 0) log.ForgetBefore(log.begin() + random.Below(log.end() - log.begin() + 1));
      if (random.Below(20) == 0) log.ForgetBefore(log.end() + random.Below(1'000'000));
      for (std::uint64_t at = log.begin() + random.Below(log.end() - log.begin() + 1); at < log.end();) {
        const ByteView bytes = log.From(at);
        ASSERT_FALSE(bytes.empty());
        ASSERT_EQ(bytes.front(), ByteAt(at, 5));
        ASSERT_EQ(bytes.back(), ByteAt(at + bytes.size() - 1, 5));
        at += bytes.size();
      }
    }
  }
}

// A small copy that stays, made before large bytes ahead of it were copied, held the room of these for ever.
TEST(SentLogTest, WhatWasForgottenTakesNoRoom) {
  SentLog log;
  std::uint64_t sent = 0;
  const auto bytes = [&](std::size_t size) {
    std::vector<std::byte> some(size);
    for (std::size_t k = 0; k < size; ++k) some[k] = ByteAt(sent + k, 5);
    sent += size;
    return some;
  };
  for (int round = 0; round < 3; ++round) {
    std::vector<std::byte> large = bytes(log.room() - 48);
    log.Refer(large, nullptr);
    const std::vector<std::byte> small = bytes(48);
    ASSERT_TRUE(log.Reserve(small.size()));
    log.Append(small);
    log.Settle();
    std::fill(large.begin(), large.end(), std::byte{0});
    log.ForgetBefore(log.end() - 48);
    ASSERT_EQ(log.room(), ByteLog::kCapacityBytes - 48);
    ASSERT_TRUE(log.Reserve(log.room())) << "round " << round;
    log.Append(bytes(1'000'000));
    for (std::uint64_t at = log.begin(); at < log.end();) {
      const ByteView here = log.From(at);
      ASSERT_EQ(here.front(), ByteAt(at, 5));
      ASSERT_EQ(here.back(), ByteAt(at + here.size() - 1, 5));
      at += here.size();
    }
  }
}

TEST(ResumeTableTest, OnlyTheSessionsOwnClientComesBackAndTheLatestFirst) {
  ResumeTable table;
  const PskIdentity identity{"vgpu-1", "grant-1", std::string(32, 'a'), 0};
  auto place = table.Add(identity);
  ASSERT_TRUE(place.ok());
  EXPECT_EQ(table.Add(identity).error().code, Code::kAlreadyExists);
  SeededRandom random(1);
  const auto hand = [&](const PskIdentity& who, const wire::LinkResume& request, std::uint64_t received) {
    auto pipe = std::make_shared<Pipe>();
    ResumeTable::Offer offer{std::make_unique<Connection>(pipe, pipe, &random), received};
    const bool taken = table.Hand(who, request, offer).ok();
    EXPECT_EQ(taken, offer.connection == nullptr);
    return taken;
  };
  const ResumeTable::Token token = (*place)->token();
  ResumeTable::Token wrong = token;
  wrong[3] ^= std::byte{1};
  PskIdentity another = identity;
  another.session_id = std::string(32, 'b');
  EXPECT_FALSE(hand(another, {1, token}, 0));
  another = identity;
  another.grant = "grant-2";
  EXPECT_FALSE(hand(another, {1, token}, 0));
  EXPECT_FALSE(hand(identity, {1, wrong}, 0));
  EXPECT_FALSE(hand(identity, {0, token}, 0));
  EXPECT_FALSE((*place)->Take().has_value());
  EXPECT_TRUE(hand(identity, {2, token}, 20));
  EXPECT_FALSE(hand(identity, {2, token}, 25)) << "a replay";
  EXPECT_FALSE(hand(identity, {1, token}, 10)) << "it was delayed";
  EXPECT_TRUE(hand(identity, {3, token}, 30));
  const auto offer = (*place)->Take();
  ASSERT_TRUE(offer.has_value());
  EXPECT_EQ(offer->received_bytes, 30u);
  EXPECT_FALSE((*place)->Take().has_value());
  place->reset();
  EXPECT_FALSE(hand(identity, {4, token}, 0));
  EXPECT_TRUE(table.Add(identity).ok());
}

}  // namespace
}  // namespace tulle::session
