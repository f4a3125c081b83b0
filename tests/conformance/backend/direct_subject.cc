#include "tests/conformance/backend/direct_subject.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>

#include "tulle/gpu/api/outcome.h"

namespace tulle::gpu::conformance {
namespace {

class DirectSubject final : public Subject, public Completions {
 public:
  DirectSubject(Driver& driver, std::uint32_t index, bool lend_memory) : lend_memory_(lend_memory) {
    auto backend = driver.OpenDevice(index, this);
    TULLE_CHECK(backend.ok());
    backend_ = std::move(*backend);
  }

  ~DirectSubject() override {
    backend_.reset();
    // Nothing may come any more, and everything must have.
    EXPECT_TRUE(payloads_.empty()) << payloads_.size()
                                   << " payloads were never released, the first of command "
                                   << payloads_.begin()->first;
    for (const auto& [sequence, opcode] : awaiting_) {
      // The memory of a buffer that was destroyed in flight may outlive the session.
      EXPECT_EQ(opcode, wire::kOpcodeOf<wire::DestroyObject>)
          << "command " << sequence << " was never answered";
    }
    for (const auto& [sequence, memory] : memories_) ::munmap(memory.data(), memory.size());
  }

  void Submit(const Outgoing& command) override {
    Command native{command.opcode, command.wants_status, command.sequence, command.body, {}, {}};
    {
      std::lock_guard lock(mutex_);
      if (!command.payload.empty()) {
        auto& staged = payloads_[command.sequence];
        staged.assign(command.payload.begin(), command.payload.end());
        native.payload = staged;
      } else if (command.room_bytes != 0) {
        auto& room = rooms_[command.sequence];
        room.resize(command.room_bytes);
        native.payload = room;
      }
      if (lend_memory_ && command.memory_bytes != 0) {
        void* memory =
            ::mmap(nullptr, command.memory_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        TULLE_CHECK(memory != MAP_FAILED);
        native.memory = {static_cast<std::byte*>(memory), command.memory_bytes};
        memories_[command.sequence] = native.memory;
      }
      ExpectAnswer(command);
    }
    TrackMemory(command);
    backend_->Submit(native);
  }

  void Flush() override { backend_->Flush(); }

  bool Receive(Duration timeout, Report* report) override {
    std::unique_lock lock(mutex_);
    if (!arrived_.wait_for(lock, timeout, [this] { return !reports_.empty(); })) return false;
    *report = std::move(reports_.front());
    reports_.pop_front();
    return true;
  }

  void Reply(std::uint16_t opcode, std::uint64_t sequence, ByteView body,
             std::uint64_t payload_bytes) override {
    std::lock_guard lock(mutex_);
    EXPECT_EQ(awaiting_.erase(sequence), 1u) << "command " << sequence << " was answered twice, or unasked";
    ByteVector payload;
    if (const auto room = rooms_.find(sequence); room != rooms_.end()) {
      EXPECT_LE(payload_bytes, room->second.size());
      payload.assign(room->second.begin(), room->second.begin() + payload_bytes);
      rooms_.erase(room);
    } else {
      EXPECT_EQ(payload_bytes, 0u);
    }
    if (const auto buffer = destroying_.find(sequence); buffer != destroying_.end()) {
      if (const auto memory = memories_.find(buffer->second); memory != memories_.end()) {
        ::mprotect(memory->second.data(), memory->second.size(), PROT_NONE);
      }
    }
    Push({Report::Kind::kReply, opcode, sequence, {body.begin(), body.end()}, std::move(payload)});
  }

  void Notice(std::uint16_t opcode, ByteView body) override {
    std::lock_guard lock(mutex_);
    Push({Report::Kind::kNotice, opcode, 0, {body.begin(), body.end()}, {}});
  }

  void PayloadDone(std::uint64_t sequence) override {
    std::lock_guard lock(mutex_);
    EXPECT_EQ(payloads_.erase(sequence), 1u)
        << "the payload of command " << sequence << " was released twice";
    Push({Report::Kind::kPayloadDone, 0, sequence, {}, {}});
  }

  MutableByteView Lent(wire::Handle memory) override {
    std::lock_guard lock(mutex_);
    const auto created = created_.find(memory);
    if (created == created_.end()) return {};
    const auto found = memories_.find(created->second);
    return found == memories_.end() ? MutableByteView() : found->second;
  }

 private:
  void ExpectAnswer(const Outgoing& command) {
    bool replies = command.wants_status;
    WithDeviceRow(command.opcode,
                  [&](const auto& row) { replies = replies || row.mode == wire::Mode::kReply; });
    if (replies) awaiting_[command.sequence] = command.opcode;
  }

  // Which CreateBuffer made the memory that a DestroyObject gives back.
  void TrackMemory(const Outgoing& command) {
    wire::Arena arena;
    if (command.opcode == wire::kOpcodeOf<wire::opencl::CreateBuffer>) {
      wire::opencl::CreateBuffer message;
      if (wire::Decode(command.body, 0, arena, &message) != wire::WireResult::kOk) return;
      created_[message.buffer.handle] = command.sequence;
    } else if (command.opcode == wire::kOpcodeOf<wire::opencl::CreateSvm>) {
      wire::opencl::CreateSvm message;
      if (wire::Decode(command.body, 0, arena, &message) != wire::WireResult::kOk) return;
      created_[message.memory.handle] = command.sequence;
    } else if (command.opcode == wire::kOpcodeOf<wire::DestroyObject> && command.wants_status) {
      wire::DestroyObject message;
      if (wire::Decode(command.body, 0, arena, &message) != wire::WireResult::kOk) return;
      std::lock_guard lock(mutex_);
      if (const auto found = created_.find(message.object.handle); found != created_.end()) {
        destroying_[command.sequence] = found->second;
      }
    }
  }

  void Push(Report report) {
    reports_.push_back(std::move(report));
    arrived_.notify_one();
  }

  const bool lend_memory_;
  std::map<wire::Handle, std::uint64_t> created_;  // of the submitting thread

  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<Report> reports_;
  std::map<std::uint64_t, ByteVector> payloads_;     // brought, not yet released
  std::map<std::uint64_t, ByteVector> rooms_;        // wanted, not yet filled
  std::map<std::uint64_t, std::uint16_t> awaiting_;  // opcodes of the commands to be answered
  std::map<std::uint64_t, MutableByteView> memories_;
  std::map<std::uint64_t, std::uint64_t> destroying_;

  std::unique_ptr<Backend> backend_;  // last: goes first
};

}  // namespace

std::unique_ptr<Subject> MakeDirectSubject(Driver& driver, std::uint32_t index, bool lend_memory) {
  return std::make_unique<DirectSubject>(driver, index, lend_memory);
}

SubjectFactory DirectFactory(std::string name, std::shared_ptr<Driver> driver, std::uint32_t index,
                             bool lend_memory) {
  SubjectFactory factory;
  factory.name = std::move(name);
  factory.open = [driver, index, lend_memory] { return MakeDirectSubject(*driver, index, lend_memory); };
  factory.compile = [driver, index](wire::opencl::ProgramKind kind, const std::string& text,
                                    const std::string& options) {
    auto compiler = driver->OpenCompiler(index);
    TULLE_CHECK(compiler.ok());
    return (*compiler)->Compile(kind, AsBytes(text), options);
  };
  return factory;
}

}  // namespace tulle::gpu::conformance
