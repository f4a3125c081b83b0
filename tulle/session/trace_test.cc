#include "tulle/session/trace.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "tulle/wire/command_table.h"

namespace tulle::session {
namespace {

class Trace : public testing::Test {
 protected:
  Trace() {
    std::string name = testing::TempDir() + "trace-XXXXXX";
    directory_ = mkdtemp(name.data());
    path_ = directory_ + "/t.trace";
  }
  ~Trace() override { std::filesystem::remove_all(directory_); }

  std::unique_ptr<TraceWriter> Write(bool with_payloads = false) {
    auto writer =
        TraceWriter::Create(path_, {1, 6, 1'700'000'000'000'000, 42, "prog", "vgpu-1"}, with_payloads);
    EXPECT_TRUE(writer.ok()) << writer.error().message;
    return std::move(*writer);
  }
  static wire::FrameHeader Header(std::uint32_t body_bytes, std::uint64_t payload_bytes,
                                  std::uint64_t sequence = 7) {
    wire::FrameHeader header;
    header.opcode = wire::kOpcodeOf<wire::opencl::EnqueueWrite>;
    header.body_bytes = body_bytes;
    header.payload_bytes = payload_bytes;
    header.sequence = sequence;
    return header;
  }
  // All records, and how it ended.
  std::pair<std::vector<TraceRecord>, Status> ReadAll() const {
    std::vector<TraceRecord> records;
    auto reader = TraceReader::Open(path_);
    if (!reader.ok()) return {records, reader.error()};
    for (;;) {
      auto record = (*reader)->Next();
      if (!record.ok()) return {std::move(records), record.error()};
      if (!record->has_value()) return {std::move(records), OkStatus()};
      records.push_back(std::move(**record));
    }
  }

  std::string directory_, path_;
};

TEST_F(Trace, IsReadAsItWasWritten) {
  const std::string body = "a body", first = "pay", second = "load";
  const std::array<ByteView, 2> payload = {AsBytes(first), AsBytes(second)};
  {
    const auto writer = Write();
    writer->Sent(Header(6, 7), AsBytes(body), payload);
    {
      const TraceWriter::Wait wait(*writer);
      writer->Received(Header(6, 7, 8), AsBytes(body), AsBytes(first));
    }
    writer->End("over");
  }
  const auto reader = TraceReader::Open(path_);
  ASSERT_TRUE(reader.ok());
  const TraceHead& head = (*reader)->head();
  EXPECT_EQ(head.wire_version, 1);
  EXPECT_EQ(head.capabilities, 6u);
  EXPECT_EQ(head.wall_us, 1'700'000'000'000'000);
  EXPECT_EQ(head.process_id, 42u);
  EXPECT_EQ(head.program, "prog");
  EXPECT_EQ(head.vgpu, "vgpu-1");
  const auto [records, end] = ReadAll();
  EXPECT_TRUE(end.ok());
  ASSERT_EQ(records.size(), 5u);
  const TraceKind kinds[] = {TraceKind::kSent, TraceKind::kWaitBegins, TraceKind::kReceived,
                             TraceKind::kWaitEnds, TraceKind::kEnd};
  for (std::size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(records[i].kind, kinds[i]);
    EXPECT_EQ(records[i].thread_id, static_cast<std::uint32_t>(gettid()));
    EXPECT_TRUE(records[i].payload.empty()) << "contents were not asked for";
    EXPECT_GE(records[i].time_ns, records[i == 0 ? 0 : i - 1].time_ns);
  }
  EXPECT_EQ(records[0].header.sequence, 7u);
  EXPECT_EQ(records[0].header.payload_bytes, 7u);
  EXPECT_EQ(AsText(records[0].body), "a body");
  EXPECT_EQ(AsText(records[4].body), "over");
}

TEST_F(Trace, KeepsPayloadsWhenAskedTo) {
  const std::string first = "pay", second = "load";
  const std::array<ByteView, 2> payload = {AsBytes(first), AsBytes(second)};
  Write(true)->Sent(Header(0, 7), {}, payload);
  EXPECT_EQ(AsText(ReadAll().first.at(0).payload), "payload");
}

TEST_F(Trace, IsItsOwnersAndNeverWrittenOver) {
  Write();
  struct stat status {};
  ASSERT_EQ(stat(path_.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  EXPECT_FALSE(TraceWriter::Create(path_, {}, false).ok());
  ASSERT_EQ(symlink("elsewhere", (directory_ + "/link").c_str()), 0);
  EXPECT_FALSE(TraceWriter::Create(directory_ + "/link", {}, false).ok());
}

TEST_F(Trace, WhatIsCutOffIsReadUpToThere) {
  {
    const auto writer = Write(true);
    const std::string text(100, 'x');
    const ByteView payload = AsBytes(text);
    for (int i = 0; i < 3; ++i) writer->Sent(Header(100, 100), AsBytes(text), {&payload, 1});
  }
  const auto size = std::filesystem::file_size(path_);
  const auto head_bytes = size - 3 * (24 + wire::kFrameHeaderBytes + 200);
  for (auto left = size; left-- > 0;) {
    std::filesystem::resize_file(path_, left);
    const auto [records, end] = ReadAll();
    const bool between =
        left >= head_bytes && (left - head_bytes) % (24 + wire::kFrameHeaderBytes + 200) == 0;
    EXPECT_EQ(end.ok(), between) << left;
    EXPECT_EQ(records.size(),
              left < head_bytes ? 0 : (left - head_bytes) / (24 + wire::kFrameHeaderBytes + 200));
    if (end.ok()) continue;
    EXPECT_EQ(end.error().code, left < head_bytes ? Code::kInvalidArgument : Code::kDataLoss);
  }
}

TEST_F(Trace, NonsenseIsRefused) {
  std::ofstream(path_) << "something else, and long enough for a head of a trace";
  EXPECT_EQ(ReadAll().second.error().code, Code::kInvalidArgument);
  std::filesystem::remove(path_);
  { Write()->Sent(Header(0, 0), {}, {}); }
  // Every byte of the record, with every bit turned: read or refused, but no more read than is there.
  std::string whole;
  {
    std::ifstream file(path_, std::ios::binary);
    whole.assign(std::istreambuf_iterator<char>(file), {});
  }
  for (std::size_t at = whole.size() - 24 - wire::kFrameHeaderBytes; at < whole.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string changed = whole;
      changed[at] = static_cast<char>(changed[at] ^ (1 << bit));
      std::ofstream(path_, std::ios::binary | std::ios::trunc) << changed;
      const auto [records, end] = ReadAll();
      EXPECT_LE(records.size(), 1u);
      EXPECT_TRUE(!end.ok() || records.at(0).body.empty());
    }
  }
}

TEST_F(Trace, ManyThreadsWriteWholeRecords) {
  {
    const auto writer = Write();
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&writer, t] {
        for (std::uint32_t i = 0; i < 1000; ++i) {
          const std::string body(i % 50, static_cast<char>('a' + t));
          writer->Sent(Header(i % 50, 0, i), AsBytes(body), {});
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  const auto [records, end] = ReadAll();
  EXPECT_TRUE(end.ok());
  EXPECT_EQ(records.size(), 4000u);
  for (const TraceRecord& record : records) {
    const std::string body(AsText(record.body));
    EXPECT_EQ(body, std::string(record.header.sequence % 50, body.empty() ? 'a' : body[0]));
  }
}

TEST_F(Trace, AChildOfAForkLeavesItAlone) {
  const auto writer = Write();
  writer->Sent(Header(0, 0, 1), {}, {});
  const pid_t child = fork();
  if (child == 0) {
    writer->AbandonAfterFork();
    writer->Sent(Header(0, 0, 2), {}, {});
    writer->End("the child's");
    _exit(0);
  }
  int state = 0;
  waitpid(child, &state, 0);
  writer->End("the parent's");
  const auto [records, end] = ReadAll();
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(AsText(records[1].body), "the parent's");
}

}  // namespace
}  // namespace tulle::session
