// How a backend reports what became of a command, by the command's row: one place, so that every backend
// (and a decorator whose backend died) answers alike.
#pragma once

#include <array>

#include "tulle/gpu/api/backend.h"

namespace tulle::gpu {

// Calls f(row) for the row of this opcode, in either table of commands that a backend gets.
template <typename F>
bool WithDeviceRow(std::uint16_t opcode, F&& f) {
  return wire::WithRow(wire::kCommands, opcode, f) || wire::WithRow(wire::exec::kExecCommands, opcode, f);
}

// True when the message has a field of payload that the sender brings (Payload), as opposed to room (Wanted).
template <wire::Message M>
constexpr bool BringsPayload() {
  bool brings = false;
  M::ForEachField(M{}, [&](std::string_view, const auto& field) {
    if (wire::internal::IsPayload<std::remove_cvref_t<decltype(field)>>::value) brings = true;
  });
  return brings;
}

inline void SendStatus(Completions& completions, std::uint16_t opcode, std::uint64_t sequence,
                       std::int32_t status) {
  const wire::StatusReply reply{status};
  std::array<std::byte, sizeof reply.status> body;
  wire::Encode(reply, body);
  completions.Reply(opcode, sequence, body, 0);
}

// A command without a reply of its own has been done, or started.
inline void ReportDone(Completions& completions, const Command& command) {
  if (command.wants_status) SendStatus(completions, command.opcode, command.sequence, 0);
}

// The command did not run and never will. Its payload, if it brought any, is released; its event, if it
// names one, is the caller's to complete.
inline void ReportFailed(Completions& completions, const Command& command, std::int32_t status) {
  bool replied = false;
  bool brings = false;
  WithDeviceRow(command.opcode, [&](const auto& row) {
    using R = std::remove_cvref_t<decltype(row)>;
    brings = BringsPayload<typename R::Command>();
    typename R::Reply reply;
    if constexpr (requires { reply.status = status; }) {
      if (row.mode != wire::Mode::kReply) return;
      reply.status = status;
      SendReply(completions, command.opcode, command.sequence, reply);
      replied = true;
    }
  });
  if (brings && !command.payload.empty()) completions.PayloadDone(command.sequence);
  if (replied) return;
  if (command.wants_status) {
    SendStatus(completions, command.opcode, command.sequence, status);
  } else {
    SendNotice(completions, wire::CommandFailed{command.sequence, status});
  }
}

}  // namespace tulle::gpu
