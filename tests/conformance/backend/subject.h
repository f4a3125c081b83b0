// What the backend battery talks to: one session of something that carries out device commands. Whoever has
// another implementation (a backend in another process, say) writes a Subject for it and a program that says
//   INSTANTIATE_TEST_SUITE_P(Name, BackendBattery, testing::Values(factory), SubjectName);
#pragma once

#include <functional>
#include <memory>
#include <ostream>
#include <string>

#include "tulle/base/bytes.h"
#include "tulle/base/clock.h"
#include "tulle/gpu/api/backend.h"

namespace tulle::gpu::conformance {

struct Outgoing {
  std::uint16_t opcode = 0;
  bool wants_status = false;
  std::uint64_t sequence = 0;
  ByteView body;
  ByteView payload;                // the bytes that it brings
  std::uint64_t room_bytes = 0;    // or the room for the bytes that it wants
  std::uint64_t memory_bytes = 0;  // CreateBuffer, CreateImage: what the object needs
};

// One thing that was reported.
struct Report {
  enum class Kind { kReply, kNotice, kPayloadDone };
  Kind kind = Kind::kReply;
  std::uint16_t opcode = 0;
  std::uint64_t sequence = 0;
  ByteVector body;
  ByteVector payload;
};

// Used by one thread. Its destructor ends the session and returns when nothing is under way any more.
class Subject {
 public:
  virtual ~Subject() = default;
  virtual void Submit(const Outgoing& command) = 0;
  virtual void Flush() = 0;
  // The next report in order. False when none came within `timeout`.
  virtual bool Receive(Duration timeout, Report* report) = 0;
  // What was lent for the object to live in; empty: nothing.
  virtual MutableByteView Lent(wire::Handle memory) = 0;
};

struct SubjectFactory {
  std::string name;
  std::function<std::unique_ptr<Subject>()> open;
  std::function<CompileOutput(wire::opencl::ProgramKind kind, const std::string& text,
                              const std::string& options)>
      compile;
  bool checks_programs =
      true;  // compiles in earnest: refuses text that is no program, and binaries of others
};
inline void PrintTo(const SubjectFactory& factory, std::ostream* out) { *out << factory.name; }

}  // namespace tulle::gpu::conformance
