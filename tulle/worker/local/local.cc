#include "tulle/worker/local/local.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include <cstdlib>
#include <deque>
#include <memory>
#include <unordered_map>
#include <vector>

#include "tulle/base/check.h"
#include "tulle/base/guarded.h"
#include "tulle/base/range_allocator.h"
#include "tulle/base/shared_memory.h"
#include "tulle/base/unique_fd.h"
#include "tulle/gpu/api/outcome.h"

namespace tulle::worker::local {
namespace {

constexpr std::uint64_t kPageBytes = 4096;
constexpr std::uint64_t kFirstPlace = std::uint64_t{1} << 62;  // of memory that is not of memory_

class LocalExecutor final : public exec::Executor, private gpu::Completions {
 public:
  LocalExecutor(const Options& options, SharedMemory memory)
      : options_(options),
        wake_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)),
        memory_(std::move(memory)),
        ranges_(memory_.size_bytes(), kPageBytes) {
    TULLE_CHECK(wake_.valid());
  }
  ~LocalExecutor() override {
    backend_.reset();                        // no completion after this
    memory_.Scrub(0, memory_.size_bytes());  // whoever else has it mapped keeps no memory by that
    for (const Mapped& mapped : mapped_) {
      if (!mapped.bytes.empty()) munmap(mapped.bytes.data(), mapped.bytes.size());
    }
  }
  Status Open(gpu::Driver& driver) {
    TULLE_ASSIGN_OR_RETURN(backend_, driver.OpenDevice(options_.device_index, this));
    return OkStatus();
  }

  std::optional<Range> AllocateMemory(std::uint64_t size_bytes) override {
    return ranges_.Allocate(size_bytes);
  }
  std::optional<Range> MapMemory(int fd, std::uint64_t size_bytes, bool writable) override {
    void* const there = mmap(nullptr, size_bytes, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED, fd, 0);
    if (there == MAP_FAILED) return std::nullopt;
    const std::uint64_t place = kFirstPlace + mapped_.size();
    mapped_.push_back(
        {{static_cast<std::byte*>(there), size_bytes}, UniqueFd(fcntl(fd, F_DUPFD_CLOEXEC, 0))});
    return Range{place, size_bytes};
  }
  void FreeMemory(const Range& range) override {
    if (range.offset_bytes >= kFirstPlace) {
      Mapped& mapped = mapped_[range.offset_bytes - kFirstPlace];
      munmap(mapped.bytes.data(), mapped.bytes.size());
      mapped = {};
      return;
    }
    ranges_.Free(range);
    memory_.Scrub(range.offset_bytes, range.size_bytes);
  }
  int memory_fd() const override { return memory_.fd(); }
  void ReadPages(const Range& range, MutableByteView bytes) override {
    memory_.Read(range.offset_bytes, bytes);
  }
  void WritePages(const Range& range, ByteView bytes) override { memory_.Write(range.offset_bytes, bytes); }
  void DropPages(const Range& range) override { memory_.Scrub(range.offset_bytes, range.size_bytes); }

  std::optional<exec::Room> AllocateRoom(std::uint64_t size_bytes) override {
    if (size_bytes > options_.staging_bytes - staging_used_bytes_) return std::nullopt;
    staging_used_bytes_ += size_bytes;
    std::uint32_t id = static_cast<std::uint32_t>(rooms_.size());
    if (free_ids_.empty()) {
      rooms_.emplace_back();
    } else {
      id = free_ids_.back();
      free_ids_.pop_back();
    }
    RoomBytes& room = rooms_[id];
    room.bytes.reset(static_cast<std::byte*>(std::calloc(1, size_bytes)));
    TULLE_CHECK(room.bytes != nullptr);
    room.size = size_bytes;
    return exec::Room(this, id, room.view());
  }
  void FreeRoom(std::uint32_t id) override {
    staging_used_bytes_ -= rooms_[id].size;
    rooms_[id] = {};
    free_ids_.push_back(id);
  }

  bool Submit(exec::Submission& submission) override {
    const bool brings = Brings(submission.opcode) && !submission.payload.empty();
    const int answers = (brings ? 1 : 0) + (submission.wants_status || Replies(submission.opcode) ? 1 : 0);
    if (answers != 0 && under_way_.size() >= options_.in_flight) return false;
    gpu::Command command{.opcode = submission.opcode,
                         .wants_status = submission.wants_status,
                         .sequence = submission.sequence,
                         .body = submission.body,
                         .payload = submission.payload.bytes(),
                         .memory = {},
                         .lacks_memory = submission.lacks_memory};
    if (submission.memory.has_value()) {
      const auto [offset_bytes, size_bytes] = *submission.memory;
      if (offset_bytes < kFirstPlace) {
        command.memory = memory_.bytes().subspan(offset_bytes, size_bytes);
      } else {
        const Mapped& mapped = mapped_[offset_bytes - kFirstPlace];
        command.memory = mapped.bytes.first(size_bytes);
        command.memory_fd = mapped.fd.get();
      }
    }
    if (answers != 0)
      under_way_.emplace(submission.sequence, UnderWay{std::move(submission.payload), brings, answers});
    backend_->Submit(command);
    return true;
  }
  void Flush() override { backend_->Flush(); }

  exec::Receive TryReceive(exec::Received* received) override {
    {
      auto queue = queue_.lock();
      if (queue->empty()) return exec::Receive::kNothing;
      current_ = std::move(queue->front());
      queue->pop_front();
    }
    received->kind = current_.kind;
    received->opcode = current_.opcode;
    received->sequence = current_.sequence;
    received->body = current_.body;
    received->payload = {};
    if (current_.kind == exec::Received::Kind::kNotice) return exec::Receive::kGot;

    const auto found = under_way_.find(current_.sequence);
    TULLE_CHECK(found != under_way_.end());  // the backend is ours
    UnderWay& under_way = found->second;
    if (current_.kind == exec::Received::Kind::kPayloadDone) {
      under_way.payload.Release();
    } else if (!under_way.brings && current_.payload_bytes != 0) {
      received->payload = Shrink(std::move(under_way.payload), current_.payload_bytes);
    }
    if (--under_way.answers == 0) under_way_.erase(found);
    return exec::Receive::kGot;
  }
  bool Spin() override { return !queue_.lock()->empty(); }
  bool PrepareToSleep() override { return queue_.lock()->empty(); }
  void Awake() override {
    eventfd_t count = 0;
    (void)eventfd_read(wake_.get(), &count);
  }
  int wake_fd() const override { return wake_.get(); }
  int death_fd() const override { return -1; }
  void Kill() override {}
  std::string EndText() const override { return "the device was closed"; }
  std::uint64_t DeviceTimeNs() const override { return 0; }

 private:
  struct UnderWay {
    exec::Room payload;
    bool brings = false;
    int answers = 0;  // still to come: a reply, a PayloadDone
  };
  struct Item {
    exec::Received::Kind kind{};
    std::uint16_t opcode = 0;
    std::uint64_t sequence = 0;
    ByteVector body;
    std::uint64_t payload_bytes = 0;
  };

  static bool Brings(std::uint16_t opcode) {
    bool brings = false;
    gpu::WithDeviceRow(opcode, [&](const auto& row) {
      brings = gpu::BringsPayload<typename std::remove_cvref_t<decltype(row)>::Command>();
    });
    return brings;
  }
  static bool Replies(std::uint16_t opcode) {
    bool replies = false;
    gpu::WithDeviceRow(opcode, [&](const auto& row) { replies = row.mode == wire::Mode::kReply; });
    return replies;
  }

  exec::Room Shrink(exec::Room room, std::uint64_t size_bytes) {
    const std::uint32_t id = room.id();
    TULLE_CHECK(size_bytes <= rooms_[id].size);
    room.Forget();
    return exec::Room(this, id, rooms_[id].view().first(size_bytes));
  }

  void Push(Item item) {
    auto queue = queue_.lock();
    queue->push_back(std::move(item));
    if (queue->size() == 1) (void)eventfd_write(wake_.get(), 1);
  }
  // gpu::Completions: from any thread.
  void Reply(std::uint16_t opcode, std::uint64_t sequence, ByteView body,
             std::uint64_t payload_bytes) override {
    Push({exec::Received::Kind::kReply, opcode, sequence, ByteVector(body.begin(), body.end()),
          payload_bytes});
  }
  void Notice(std::uint16_t opcode, ByteView body) override {
    Push({exec::Received::Kind::kNotice, opcode, 0, ByteVector(body.begin(), body.end()), 0});
  }
  void PayloadDone(std::uint64_t sequence) override {
    Push({exec::Received::Kind::kPayloadDone, 0, sequence, {}, 0});
  }

  const Options options_;
  const UniqueFd wake_;
  SharedMemory memory_;
  RangeAllocator ranges_;
  struct Mapped {
    MutableByteView bytes;
    UniqueFd fd;
  };
  std::vector<Mapped> mapped_;  // by place, from kFirstPlace on
  // Zeros, which cost nothing where nobody looks.
  struct RoomBytes {
    std::unique_ptr<std::byte, decltype(&std::free)> bytes{nullptr, &std::free};
    std::size_t size = 0;
    MutableByteView view() const { return {bytes.get(), size}; }
  };
  std::vector<RoomBytes> rooms_;
  std::vector<std::uint32_t> free_ids_;
  std::uint64_t staging_used_bytes_ = 0;
  std::unordered_map<std::uint64_t, UnderWay> under_way_;  // by sequence; bounded by in_flight
  // Unanswered commands and their events bound it: at most a reply, a PayloadDone and a notice each.
  Guarded<std::deque<Item>> queue_;
  Item current_;
  std::unique_ptr<gpu::Backend> backend_;
};

class LocalExecutors final : public exec::ExecutorFactory {
 public:
  LocalExecutors(gpu::Driver* driver, const Options& options) : driver_(*driver), options_(options) {}
  Result<std::unique_ptr<exec::Executor>> Start() override {
    TULLE_ASSIGN_OR_RETURN(auto memory, SharedMemory::Create("tulle memory", options_.memory_bytes));
    auto executor = std::make_unique<LocalExecutor>(options_, std::move(memory));
    TULLE_RETURN_IF_ERROR(executor->Open(driver_));
    return std::unique_ptr<exec::Executor>(std::move(executor));
  }

 private:
  gpu::Driver& driver_;
  const Options options_;
};

class FinishedBuild final : public build::Build {
 public:
  explicit FinishedBuild(gpu::CompileOutput output)
      : event_(eventfd(1, EFD_CLOEXEC)), output_(std::move(output)) {}
  int fd() const override { return event_.get(); }
  std::optional<gpu::CompileOutput> TryFinish() override { return std::exchange(output_, std::nullopt); }

 private:
  UniqueFd event_;
  std::optional<gpu::CompileOutput> output_;
};

class LocalBuilder final : public build::Builder {
 public:
  LocalBuilder(gpu::Driver* driver, std::uint32_t device_index)
      : driver_(*driver), device_index_(device_index) {}
  Result<std::unique_ptr<build::Build>> Start(wire::opencl::ProgramKind kind, ByteView text,
                                              std::string_view options) override {
    TULLE_ASSIGN_OR_RETURN(const auto compiler, driver_.OpenCompiler(device_index_));
    return std::unique_ptr<build::Build>(
        std::make_unique<FinishedBuild>(compiler->Compile(kind, text, std::string(options))));
  }

 private:
  gpu::Driver& driver_;
  const std::uint32_t device_index_;
};

}  // namespace

std::unique_ptr<exec::ExecutorFactory> MakeExecutors(gpu::Driver* driver, const Options& options) {
  return std::make_unique<LocalExecutors>(driver, options);
}

std::unique_ptr<build::Builder> MakeBuilder(gpu::Driver* driver, std::uint32_t device_index) {
  return std::make_unique<LocalBuilder>(driver, device_index);
}

}  // namespace tulle::worker::local
