// The ring between two threads, between two processes, and against an end that lies.
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <new>
#include <thread>
#include <vector>

#include "tulle/base/random.h"
#include "tulle/base/shared_memory.h"
#include "tulle/gpu/isolated/protocol.h"
#include "tulle/gpu/isolated/ring.h"
#include "tulle/gpu/isolated/spinner.h"

namespace tulle::gpu::isolated {
namespace {

struct Ring {
  SharedMemory memory;
  RingBytes bytes;
  RingIndices* indices;
};

Ring MakeRing() {
  auto memory = SharedMemory::Create("test ring", kRingsFileBytes);
  EXPECT_TRUE(memory.ok());
  auto bytes = RingBytes::Map(memory->fd(), kCommandsOffset);
  EXPECT_TRUE(bytes.ok());
  auto* indices = new (memory->bytes().data()) RingIndices;
  return {std::move(*memory), std::move(*bytes), indices};
}

// A record that anyone with the seed can recognise.
ByteVector BodyOf(SeededRandom& random) {
  ByteVector body(random.Below(20) == 0 ? random.Below(kMaxRecordBodyBytes + 1) : random.Below(300));
  const std::size_t filled = std::min<std::size_t>(body.size(), 64);
  random.Fill(MutableByteView(body).first(filled));
  if (body.size() > 64) random.Fill(MutableByteView(body).last(std::min<std::size_t>(body.size() - 64, 64)));
  return body;
}

// Between records: go on at once, or let the other end go first, so that both full and empty come up.
void Dawdle(SeededRandom& random) {
  if (random.Below(50) != 0) return;
  for (std::uint64_t i = random.Below(200); i > 0; --i) sched_yield();
}

void WriteRecords(Ring& ring, std::uint64_t seed, int count) {
  RingWriter writer(ring.indices, &ring.bytes);
  SeededRandom random(seed), pace(seed + 1000);
  for (int i = 0; i < count; ++i) {
    RecordHeader header;
    header.sequence = static_cast<std::uint64_t>(i);
    header.opcode = static_cast<std::uint16_t>(i * 7);
    header.payload_bytes = random.Next();
    const ByteVector body = BodyOf(random);
    while (writer.TryWrite(header, body) == RingResult::kNotNow) {
      if (writer.MustWakeReader()) FutexWakeAll(&ring.indices->reader_sleeps);
      if (writer.AnnounceWait(body.size()) == RingResult::kNotNow) FutexWait(writer.wait_word(), 1, 20'000);
    }
    if (writer.MustWakeReader()) FutexWakeAll(&ring.indices->reader_sleeps);
    Dawdle(pace);
  }
}

// Empty when all came as they were written.
std::string ReadRecords(Ring& ring, std::uint64_t seed, int count) {
  RingReader reader(ring.indices, &ring.bytes);
  SeededRandom random(seed), pace(seed + 2000);
  Spinner spinner;
  for (int i = 0; i < count;) {
    RecordHeader header;
    ByteView body;
    const RingResult result = reader.Peek(&header, &body);
    if (result == RingResult::kBroken) return "broken at " + std::to_string(i);
    if (result == RingResult::kNotNow) {
      if (reader.MustWakeWriter()) FutexWakeAll(&ring.indices->writer_waits);
      if (!spinner.Spin([&] { return reader.HasRecord(); }) && reader.AnnounceSleep()) {
        FutexWait(reader.sleep_word(), 1, 20'000);
      }
      spinner.Came();
      continue;
    }
    const std::uint64_t payload_bytes = random.Next();
    const ByteVector expected = BodyOf(random);
    if (header.sequence != static_cast<std::uint64_t>(i) ||
        header.opcode != static_cast<std::uint16_t>(i * 7) || header.payload_bytes != payload_bytes ||
        AsText(body) != AsText(expected)) {
      return "wrong record at " + std::to_string(i);
    }
    reader.Pop();
    ++i;
    Dawdle(pace);
  }
  return "";
}

TEST(Ring, CarriesRecordsBetweenThreads) {
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    Ring ring = MakeRing();
    std::string outcome;
    std::thread reader([&] { outcome = ReadRecords(ring, seed, 2000); });
    WriteRecords(ring, seed, 2000);
    reader.join();
    EXPECT_EQ(outcome, "") << "seed " << seed;
  }
}

TEST(Ring, CarriesRecordsBetweenProcesses) {
  for (std::uint64_t seed = 11; seed <= 20; ++seed) {
    Ring ring = MakeRing();
    const pid_t pid = fork();
    if (pid == 0) {
      WriteRecords(ring, seed, 2000);
      _exit(0);
    }
    EXPECT_EQ(ReadRecords(ring, seed, 2000), "") << "seed " << seed;
    int status = 0;
    waitpid(pid, &status, 0);
    EXPECT_EQ(status, 0);
  }
}

TEST(Ring, FillsUpAndDrains) {
  Ring ring = MakeRing();
  RingWriter writer(ring.indices, &ring.bytes);
  RingReader reader(ring.indices, &ring.bytes);
  const ByteVector body(1000, std::byte{5});
  int written = 0;
  while (writer.TryWrite({}, body) == RingResult::kOk) ++written;
  EXPECT_EQ(written, static_cast<int>(kRingBytes / 1048));
  EXPECT_EQ(writer.TryWrite({}, body), RingResult::kNotNow);
  RecordHeader header;
  ByteView view;
  int read = 0;
  while (reader.Peek(&header, &view) == RingResult::kOk) {
    EXPECT_EQ(view.size(), body.size());
    reader.Pop();
    ++read;
  }
  EXPECT_EQ(read, written);
  EXPECT_EQ(writer.TryWrite({}, body), RingResult::kOk);
}

TEST(Ring, WakesOnceForEachSleep) {
  Ring ring = MakeRing();
  RingWriter writer(ring.indices, &ring.bytes);
  RingReader reader(ring.indices, &ring.bytes);
  EXPECT_FALSE(writer.MustWakeReader());
  EXPECT_TRUE(reader.AnnounceSleep());
  ASSERT_EQ(writer.TryWrite({}, {}), RingResult::kOk);
  EXPECT_TRUE(writer.MustWakeReader());
  EXPECT_FALSE(writer.MustWakeReader());
  EXPECT_FALSE(reader.AnnounceSleep());  // something is there
  EXPECT_FALSE(writer.MustWakeReader());
}

// A reader's view of a ring whose writer does as it likes.
class LyingWriter : public testing::Test {
 protected:
  RingResult Peek() {
    ByteView body;
    return reader_.Peek(&header_, &body);
  }
  void Put(std::uint64_t index, const RecordHeader& header) {
    std::memcpy(ring_.bytes.at(index), &header, sizeof header);
  }

  Ring ring_ = MakeRing();
  RingReader reader_{ring_.indices, &ring_.bytes};
  RecordHeader header_;
};

TEST_F(LyingWriter, IndexTooFarAhead) {
  ring_.indices->written = kRingBytes + 8;
  EXPECT_EQ(Peek(), RingResult::kBroken);
}
TEST_F(LyingWriter, IndexGoesBack) {
  Put(0, {.size_bytes = 48});
  ring_.indices->written = 48;
  EXPECT_EQ(Peek(), RingResult::kOk);
  reader_.Pop();
  ring_.indices->written = 40;
  EXPECT_EQ(Peek(), RingResult::kBroken);
}
TEST_F(LyingWriter, LessThanAHeader) {
  ring_.indices->written = 47;
  EXPECT_EQ(Peek(), RingResult::kBroken);
}
TEST_F(LyingWriter, SizesThatCannotBe) {
  for (const std::uint32_t size :
       {0u, 1u, 47u, 49u, 56u, static_cast<std::uint32_t>(kRingBytes), 0x7fffffffu, ~0u}) {
    Put(0, {.size_bytes = size});
    ring_.indices->written = 48;
    EXPECT_EQ(Peek(), RingResult::kBroken) << size;
  }
  Put(0, {.size_bytes = static_cast<std::uint32_t>(sizeof(RecordHeader) + kMaxRecordBodyBytes + 1)});
  ring_.indices->written = kRingBytes;
  EXPECT_EQ(Peek(), RingResult::kBroken);
}
TEST_F(LyingWriter, RandomBytesAreReadWithinTheRing) {
  SeededRandom random(3);
  for (int round = 0; round < 2000; ++round) {
    Ring ring = MakeRing();
    RingReader reader(ring.indices, &ring.bytes);
    MutableByteView all(ring.bytes.at(0), 4096);
    random.Fill(all);
    // Sizes that are likely to be accepted, so that it gets beyond the first.
    for (std::size_t at = 0; at + 4 <= all.size(); at += 8) {
      const auto size = static_cast<std::uint32_t>(random.Below(200));
      if (random.Below(2) == 0) std::memcpy(&all[at], &size, sizeof size);
    }
    ring.indices->written = random.Below(4096);
    RecordHeader header;
    ByteView body;
    int records = 0;
    std::uint64_t sum = 0;
    while (reader.Peek(&header, &body) == RingResult::kOk) {
      for (const std::byte b : body) sum += static_cast<std::uint64_t>(b);
      reader.Pop();
      ASSERT_LE(++records, 100);
    }
    ASSERT_LE(sum, 4096u * 255u);
  }
}

TEST(LyingReader, IndexesThatCannotBe) {
  const ByteVector body(kMaxRecordBodyBytes, std::byte{1});
  for (const std::uint64_t read : {kRingBytes, ~std::uint64_t{0}, std::uint64_t{1} << 63}) {
    Ring ring = MakeRing();
    RingWriter writer(ring.indices, &ring.bytes);
    ASSERT_EQ(writer.TryWrite({}, {}), RingResult::kOk);
    ring.indices->read = read;  // more than was written
    RingResult result;
    while ((result = writer.TryWrite({}, body)) == RingResult::kOk) {
    }
    EXPECT_EQ(result, RingResult::kBroken);
  }
}

}  // namespace
}  // namespace tulle::gpu::isolated
