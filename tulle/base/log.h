// Structured logging with no framework behind it: a line is a level, a component (the folder's name), a
// message and fields. Where lines go is the program's choice (SetLogSink); until then nothing is printed.
// Small enough to be loaded into a tenant's process; daemons install a sink that writes JSON lines.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

namespace tulle {

enum class LogLevel : int { kTrace = 0, kDebug = 1, kInfo = 2, kWarn = 3, kError = 4, kOff = 5 };

struct LogField {
  std::string_view key;
  std::string value;
  LogField(std::string_view k, std::string v) : key(k), value(std::move(v)) {}
  LogField(std::string_view k, std::string_view v) : key(k), value(v) {}
  LogField(std::string_view k, const char* v) : key(k), value(v) {}
  LogField(std::string_view k, bool v) : key(k), value(v ? "true" : "false") {}
  template <typename N>
  requires std::is_arithmetic_v<N> LogField(std::string_view k, N v) : key(k), value(std::to_string(v)) {}
};

using LogSink = void (*)(LogLevel level, std::string_view component, std::string_view message,
                         std::initializer_list<LogField> fields);

// Both are thread-safe and may be called at any time; `sink` must stay callable for the process's life.
void SetLogSink(LogSink sink, LogLevel least);
bool LogEnabled(LogLevel level);

// Writes one line. Never throws; secrets are never passed to it.
void Log(LogLevel level, std::string_view component, std::string_view message,
         std::initializer_list<LogField> fields = {});

// A sink for people: "12:00:00.123 info  node  worker started vgpu=..." on standard error.
void StderrLogSink(LogLevel level, std::string_view component, std::string_view message,
                   std::initializer_list<LogField> fields);
// A sink for machines: one JSON object a line on standard error, time in RFC 3339.
void JsonLogSink(LogLevel level, std::string_view component, std::string_view message,
                 std::initializer_list<LogField> fields);

// "trace", "debug", "info", "warn", "error", "off". False for anything else.
bool ParseLogLevel(std::string_view text, LogLevel* level);

}  // namespace tulle
