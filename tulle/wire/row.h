// A row of a command table: one message with its number and behaviour. Everything that must know all
// messages (codec, dispatch, validation, schema.lock, generated tests) walks a tuple of rows.
#pragma once

#include <array>
#include <tuple>

#include "tulle/wire/schema/session.h"

namespace tulle::wire {

enum class Mode : U8 {
  kOneWay,  // no reply, unless the frame says kWantStatus; a failure comes back as CommandFailed
  kReply,   // always answered, perhaps much later
  kNotice,  // from the worker, answers nothing
};

// Who carries a command out.
enum class Place : U8 { kSession, kWorker, kDevice };

template <U16 Opcode, Message M, Message R = StatusReply>
struct Row {
  using Command = M;
  using Reply = R;
  static constexpr U16 kOpcode = Opcode;
  Mode mode = Mode::kOneWay;
  Place place = Place::kDevice;
  Capability needs = Capability::kNone;
  U16 since = 1;  // wire version that introduced it
};

// A row without its types, for run-time tables (metrics, traces, logs).
struct RowInfo {
  U16 opcode = 0;
  std::string_view name;
  Mode mode = Mode::kOneWay;
  Place place = Place::kDevice;
  Capability needs = Capability::kNone;
  U16 since = 1;
};

// Calls f(row) for each row of the table, in order.
template <typename Table, typename F>
constexpr void ForEachRow(const Table& table, F&& f) {
  std::apply([&](const auto&... rows) { (f(rows), ...); }, table);
}

// Calls f(row) for the row with this opcode; false when there is none.
template <typename Table, typename F>
constexpr bool WithRow(const Table& table, U16 opcode, F&& f) {
  return std::apply(
      [&](const auto&... rows) {
        return ((std::remove_cvref_t<decltype(rows)>::kOpcode == opcode && (f(rows), true)) || ...);
      },
      table);
}

template <typename Row>
constexpr RowInfo InfoOf(const Row& row) {
  return {Row::kOpcode, Row::Command::kMessageName, row.mode, row.place, row.needs, row.since};
}

template <typename Table>
constexpr auto InfosOf(const Table& table) {
  return std::apply([](const auto&... rows) { return std::array{InfoOf(rows)...}; }, table);
}

// Opcodes ascend, so that they are unique and a diff of the table reads well.
template <typename Table>
constexpr bool WellFormed(const Table& table) {
  U16 last = 0;
  bool good = true;
  ForEachRow(table, [&](const auto& row) {
    using R = std::remove_cvref_t<decltype(row)>;
    if (R::kOpcode <= last) good = false;
    last = R::kOpcode;
    if (row.since == 0) good = false;
  });
  return good;
}

// The opcode of message M in a table, and its mode; a compile error when it is not there.
template <typename M, typename... Rows>
constexpr U16 OpcodeIn(const std::tuple<Rows...>&) {
  static_assert((std::same_as<M, typename Rows::Command> || ...), "this message has no row in the table");
  U16 opcode = 0;
  ((std::same_as<M, typename Rows::Command> ? (opcode = Rows::kOpcode, 0) : 0), ...);
  return opcode;
}
template <typename M, typename... Rows>
constexpr Mode ModeIn(const std::tuple<Rows...>& table) {
  Mode mode = Mode::kOneWay;
  ForEachRow(table, [&](const auto& row) {
    if (std::same_as<M, typename std::remove_cvref_t<decltype(row)>::Command>) mode = row.mode;
  });
  return mode;
}

}  // namespace tulle::wire
