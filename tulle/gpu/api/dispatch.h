// From opcode and bytes to a typed call: `handlers.Run(message, command)` for each row of the tables that
// happens on a device. A backend without an overload for some row does not compile.
#pragma once

#include "tulle/gpu/api/backend.h"

namespace tulle::gpu {

namespace internal {

template <typename Table, typename Handlers>
bool DispatchIn(const Table& table, const Command& command, wire::Arena& arena, Handlers& handlers,
                wire::WireResult* result) {
  return wire::WithRow(table, command.opcode, [&](const auto& row) {
    using R = std::remove_cvref_t<decltype(row)>;
    using M = typename R::Command;
    // Whether a row is a device's is a run-time field of a constexpr row; handlers cover exactly those rows.
    if constexpr (requires { handlers.Run(std::declval<const M&>(), command); }) {
      M message;
      // Wanted payload is room, not part of the frame.
      const std::uint64_t brought = []<typename T>(const Command& c) {
        std::uint64_t size = 0;
        T::ForEachField(T{}, [&](std::string_view, const auto& field) {
          if constexpr (wire::internal::IsPayload<std::remove_cvref_t<decltype(field)>>::value)
            size = c.payload.size();
        });
        return size;
      }.template operator()<M>(command);
      *result = wire::Decode(command.body, brought, arena, &message);
      if (*result == wire::WireResult::kOk) handlers.Run(message, command);
    } else {
      *result = wire::WireResult::kWrongDirection;
    }
  });
}

}  // namespace internal

// Decodes and runs one command. Anything but kOk means that the sender is broken, and nothing ran.
template <typename Handlers>
wire::WireResult Dispatch(const Command& command, wire::Arena& arena, Handlers& handlers) {
  wire::WireResult result = wire::WireResult::kUnknownOpcode;
  arena.Reset();
  if (!internal::DispatchIn(wire::kCommands, command, arena, handlers, &result)) {
    internal::DispatchIn(wire::exec::kExecCommands, command, arena, handlers, &result);
  }
  return result;
}

// True when `Handlers` has Run for every command that a device carries out in sessions of these capabilities:
// static_assert it beside a backend.
template <typename Handlers>
constexpr bool HandlesEveryDeviceCommand(std::uint64_t capabilities) {
  bool all = true;
  const auto check = [&](const auto& row) {
    using M = typename std::remove_cvref_t<decltype(row)>::Command;
    constexpr bool handled = requires(Handlers & h, const M& m, const Command& c) { h.Run(m, c); };
    const auto needs = static_cast<std::uint64_t>(row.needs);
    if (row.place == wire::Place::kDevice && row.mode != wire::Mode::kNotice &&
        (needs & ~capabilities) == 0 && !handled)
      all = false;
  };
  wire::ForEachRow(wire::kCommands, check);
  wire::ForEachRow(wire::exec::kExecCommands, check);
  return all;
}

}  // namespace tulle::gpu
