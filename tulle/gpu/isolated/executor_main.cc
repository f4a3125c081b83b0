#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>
#include <thread>

#include "tulle/base/seqpacket.h"
#include "tulle/base/shared_memory.h"
#include "tulle/gpu/isolated/executor_main.h"
#include "tulle/gpu/isolated/kernel_output.h"
#include "tulle/gpu/isolated/protocol.h"
#include "tulle/gpu/isolated/ring.h"
#include "tulle/gpu/isolated/spinner.h"
#include "tulle/sandbox/lock.h"
#include "tulle/vm/guest_abi.h"

namespace tulle::gpu::isolated {

namespace {

// A worker that takes no replies is alive and busy, or dead and we soon with it: looking again now and then
// guards against nothing but a worker that forgot to wake us.
constexpr int kLookAgainMs = 1000;

int g_doorbell = kDoorbellFd;

void RingDoorbell() {
  const char byte = 1;
  // Full means that it will wake anyway.
  [[maybe_unused]] const ssize_t written = write(g_doorbell, &byte, 1);
}

// Sleeping until the worker wakes us. Thread-safe.
class Sleep {
 public:
  // Beside the worker the words of the rings are futexes. In a machine of its own it cannot reach them so: it
  // rings, and each ring has every sleeper look at its word.
  explicit Sleep(bool by_bell) : by_bell_(by_bell) {
    if (by_bell) std::thread([this] { Listen(); }).detach();
  }
  // While *word is 1, at most `timeout_ms` (-1: any time); may return early.
  void While(std::atomic<std::uint32_t>* word, int timeout_ms) {
    if (!by_bell_) return FutexWait(word, 1, timeout_ms);
    std::unique_lock lock(mutex_);
    // The worker takes the word back before it rings: whoever has found it 1 hears the ring.
    const auto taken = [&] { return word->load(std::memory_order_acquire) != 1; };
    if (timeout_ms < 0) {
      rung_.wait(lock, taken);
    } else {
      rung_.wait_for(lock, std::chrono::milliseconds(timeout_ms), taken);
    }
  }

 private:
  void Listen() {
    char bytes[64];
    for (;;) {
      pollfd bell{g_doorbell, POLLIN, 0};
      poll(&bell, 1, -1);
      // Without its other end, which is about to take us along, it would be readable all the time.
      if (read(g_doorbell, bytes, sizeof bytes) <= 0) poll(nullptr, 0, kNoBellMs);
      { const std::lock_guard lock(mutex_); }
      rung_.notify_all();
    }
  }

  static constexpr int kNoBellMs = 10;
  const bool by_bell_;
  std::mutex mutex_;
  std::condition_variable rung_;
};

// Carries what the driver reports to the worker. Thread-safe. When the ring is full the caller waits for the
// worker, which takes replies whatever else it waits for: so a driver's thread can wait here while holding
// its own locks.
class Replies final : public Completions {
 public:
  Replies(RingIndices* indices, const RingBytes* bytes, Sleep* sleep)
      : writer_(indices, bytes), sleep_(*sleep) {}

  void Reply(std::uint16_t opcode, std::uint64_t sequence, ByteView body,
             std::uint64_t payload_bytes) override {
    Write(RecordKind::kReply, opcode, sequence, body, payload_bytes);
  }
  void Notice(std::uint16_t opcode, ByteView body) override {
    Write(RecordKind::kNotice, opcode, 0, body, 0);
  }
  void PayloadDone(std::uint64_t sequence) override { Write(RecordKind::kPayloadDone, 0, sequence, {}, 0); }

  void Write(RecordKind kind, std::uint16_t opcode, std::uint64_t sequence, ByteView body,
             std::uint64_t payload_bytes) {
    RecordHeader header;
    header.kind = static_cast<std::uint8_t>(kind);
    header.opcode = opcode;
    header.sequence = sequence;
    header.payload_bytes = payload_bytes;
    bool wake = false;
    {
      std::lock_guard lock(mutex_);  // the pieces of one message stay together
      do {
        const ByteView piece = body.first(std::min<std::size_t>(body.size(), kMaxRecordBodyBytes));
        body = body.subspan(piece.size());
        header.flags = body.empty() ? 0 : kMoreFollows;
        while (writer_.TryWrite(header, piece) == RingResult::kNotNow) {
          if (writer_.MustWakeReader()) RingDoorbell();
          if (writer_.AnnounceWait(piece.size()) == RingResult::kNotNow)
            sleep_.While(writer_.wait_word(), kLookAgainMs);
        }
      } while (!body.empty());
      wake = writer_.MustWakeReader();
    }
    if (wake) RingDoorbell();
  }

 private:
  std::mutex mutex_;
  RingWriter writer_;
  Sleep& sleep_;
};

// The worker's memory at a place that it named. The worker is trusted; a wrong place is its bug, and ends us.
MutableByteView Piece(const SharedMemory& memory, std::uint64_t offset_bytes, std::uint64_t size_bytes) {
  TULLE_CHECK(offset_bytes <= memory.size_bytes() && size_bytes <= memory.size_bytes() - offset_bytes);
  return size_bytes == 0 ? MutableByteView() : memory.bytes().subspan(offset_bytes, size_bytes);
}

// Memory that is not of the arena.
class MappedMemories {
 public:
  // Its descriptor is there until `used` has been called, and never again: who could keep it could open the
  // memory for writing.
  template <typename Use>
  void Get(std::uint64_t place, std::uint64_t size_bytes, const Use& use) {
    UniqueFd fd;
    if (!mapped_.contains(place)) fd = Take(place);
    const MutableByteView bytes = mapped_.at(place);
    TULLE_CHECK(size_bytes <= bytes.size());
    use(bytes.first(size_bytes), fd.get());
  }
  void Unmap(std::uint64_t place) {
    const auto found = mapped_.find(place);
    if (found == mapped_.end()) return;
    munmap(found->second.data(), found->second.size());
    mapped_.erase(found);
  }

 private:
  // Packets come in the order of their places, and before the records that mean them.
  UniqueFd Take(std::uint64_t place) {
    for (;;) {
      MappedMemory memory;
      auto packet = ReceivePacket(kMemoriesFd, std::as_writable_bytes(std::span(&memory, 1)));
      TULLE_CHECK(packet.ok() && packet->size_bytes == sizeof memory && packet->fds.size() == 1);
      void* const there =
          mmap(nullptr, memory.size_bytes, PROT_READ | (memory.writable != 0 ? PROT_WRITE : 0), MAP_SHARED,
               packet->fds.front().get(), 0);
      TULLE_CHECK(there != MAP_FAILED);
      mapped_[memory.place] = {static_cast<std::byte*>(there), memory.size_bytes};
      if (memory.place == place) return std::move(packet->fds.front());
    }
  }
  std::map<std::uint64_t, MutableByteView> mapped_;
};

// Runs what lies in the ring. False: the ring is broken.
bool RunBatch(RingReader& commands, SharedMemory& arena, const SharedMemory& staging, MappedMemories& mapped,
              Backend& backend) {
  const auto make_room = [&] {
    if (commands.MustWakeWriter()) RingDoorbell();
  };
  std::uint64_t popped_bytes = 0;
  bool any = false;
  RecordHeader header;
  ByteView body;
  RingResult result;
  while ((result = commands.Peek(&header, &body)) == RingResult::kOk) {
    const auto kind = static_cast<RecordKind>(header.kind);
    if (kind == RecordKind::kUnmapMemory || kind == RecordKind::kPopulate) {
      if (kind == RecordKind::kPopulate) {
        arena.Populate(header.memory_offset_bytes, header.memory_bytes);
      } else {
        mapped.Unmap(header.memory_offset_bytes);
      }
      commands.Pop();
      any = true;
      popped_bytes += header.size_bytes;
      continue;
    }
    Command command;
    command.opcode = header.opcode;
    command.wants_status = (header.flags & kWantsStatus) != 0;
    command.lacks_memory = (header.flags & kLacksMemory) != 0;
    command.sequence = header.sequence;
    command.body = body;  // in place: the worker leaves it alone until Pop
    command.payload = Piece(staging, header.payload_offset_bytes, header.payload_bytes);
    if (header.memory_offset_bytes < kFirstPlace) {
      command.memory = Piece(arena, header.memory_offset_bytes, header.memory_bytes);
      backend.Submit(command);
    } else {
      mapped.Get(header.memory_offset_bytes, header.memory_bytes, [&](MutableByteView bytes, int fd) {
        command.memory = bytes;
        command.memory_fd = fd;
        backend.Submit(command);
      });
    }
    any = true;
    commands.Pop();
    popped_bytes += header.size_bytes;
    if (popped_bytes > kWakeWriterEveryBytes) {
      popped_bytes = 0;
      make_room();
    }
  }
  if (any) {
    backend.Flush();
    make_room();
  }
  return result == RingResult::kNotNow;
}

struct Mappings {
  SharedMemory rings, arena, staging;
  RingBytes command_bytes, reply_bytes;
};

Result<Mappings> MapInMachine(std::uint64_t address) {
  // Gone when this returns: by it all of the machine's devices can be reached.
  const UniqueFd memory(vm::kMemoryFd);
  TULLE_ASSIGN_OR_RETURN(auto rings, SharedMemory::MapDevice(memory.get(), address, kRingsFileBytes));
  const auto& head = *reinterpret_cast<const RingsHead*>(rings.bytes().data());
  const std::uint64_t arena_address = address + kRingsFileBytes;
  TULLE_ASSIGN_OR_RETURN(auto arena, SharedMemory::MapDevice(memory.get(), arena_address, head.arena_bytes));
  TULLE_ASSIGN_OR_RETURN(auto staging, SharedMemory::MapDevice(memory.get(), arena_address + head.arena_bytes,
                                                               head.staging_bytes));
  TULLE_ASSIGN_OR_RETURN(auto command_bytes, RingBytes::Map(memory.get(), address + kCommandsOffset));
  TULLE_ASSIGN_OR_RETURN(auto reply_bytes, RingBytes::Map(memory.get(), address + kRepliesOffset));
  g_doorbell = vm::kBellFd;
  return Mappings{std::move(rings), std::move(arena), std::move(staging), std::move(command_bytes),
                  std::move(reply_bytes)};
}

Result<Mappings> Map() {
  TULLE_ASSIGN_OR_RETURN(auto rings, SharedMemory::Adopt(UniqueFd(kRingsFd)));
  TULLE_ASSIGN_OR_RETURN(auto arena, SharedMemory::Adopt(UniqueFd(kArenaFd)));
  TULLE_ASSIGN_OR_RETURN(auto staging, SharedMemory::Adopt(UniqueFd(kStagingFd)));
  TULLE_ASSIGN_OR_RETURN(auto command_bytes, RingBytes::Map(rings.fd(), kCommandsOffset));
  TULLE_ASSIGN_OR_RETURN(auto reply_bytes, RingBytes::Map(rings.fd(), kRepliesOffset));
  return Mappings{std::move(rings), std::move(arena), std::move(staging), std::move(command_bytes),
                  std::move(reply_bytes)};
}

}  // namespace

int RunExecutor(const OpenDevice& open_device, const Place& place) {
  const bool in_machine = place.machine_address != 0;
  auto mapped = in_machine ? MapInMachine(place.machine_address) : Map();
  if (!mapped.ok() || mapped->rings.size_bytes() != kRingsFileBytes) {
    if (!mapped.ok()) std::fprintf(stderr, "%s\n", mapped.error().message.c_str());
    return 2;  // not started by an ExecutorProcess
  }
  RingsHead& head = *reinterpret_cast<RingsHead*>(mapped->rings.bytes().data());
  // They outlive this function: what drivers start, and what listens, does.
  static Sleep& sleep = *new Sleep(in_machine);
  Replies replies(&head.replies, &mapped->reply_bytes, &sleep);
  const auto refuse = [&](const Error& error) {
    replies.Write(RecordKind::kFailed, 0, 0,
                  AsBytes(std::string_view(error.message).substr(0, kMaxRecordBodyBytes)), 0);
    return 1;
  };

  // Drivers load compilers and start threads, which the filter would not let them; nothing of a tenant's has
  // been read yet.
  KernelOutput reports(&replies);
  if (const Status captured = reports.Capture(); !captured.ok()) return refuse(captured.error());
  auto backend = open_device(head.device_index, &reports);
  if (!backend.ok()) return refuse(backend.error());
  if (const Status locked =
          sandbox::Lock(sandbox::Role::kExecutor,
                        {.best_effort = head.best_effort != 0, .drives_devices = head.drives_devices != 0});
      !locked.ok()) {
    return refuse(locked.error());
  }
  (*backend)->UsePayloadMemory(mapped->staging.bytes());
  replies.Write(RecordKind::kReady, 0, 0, {}, 0);

  RingReader commands(&head.commands, &mapped->command_bytes);
  Spinner spinner;
  MappedMemories memories;
  while (RunBatch(commands, mapped->arena, mapped->staging, memories, **backend)) {
    if (!spinner.Spin([&] { return commands.HasRecord(); })) {
      while (commands.AnnounceSleep()) sleep.While(commands.sleep_word(), -1);
    }
    spinner.Came();
  }
  return 3;  // the ring is broken
}

}  // namespace tulle::gpu::isolated
