#include "tulle/base/log.h"

#include <unistd.h>
#include <atomic>
#include <cstdio>
#include <ctime>

namespace tulle {
namespace {

std::atomic<LogSink> g_sink{nullptr};
std::atomic<int> g_least{static_cast<int>(LogLevel::kOff)};
constexpr const char* kNames[] = {"trace", "debug", "info", "warn", "error", "off"};

// One write call, so that lines of several threads and processes never mix.
void WriteLine(std::string line) {
  line.push_back('\n');
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line.data(), line.size());
}

void AppendEscaped(std::string* out, std::string_view text) {
  for (const char c : text) {
    switch (c) {
      case '"': *out += "\\\""; break;
      case '\\': *out += "\\\\"; break;
      case '\n': *out += "\\n"; break;
      case '\t': *out += "\\t"; break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          char escaped[8];
          std::snprintf(escaped, sizeof escaped, "\\u%04x",
                        static_cast<unsigned>(static_cast<unsigned char>(c)));
          *out += escaped;
        } else {
          out->push_back(c);
        }
    }
  }
}

std::string Time(const char* format) {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  tm parts{};
  gmtime_r(&now.tv_sec, &parts);
  char text[64];
  const std::size_t length = std::strftime(text, sizeof text, format, &parts);
  std::snprintf(text + length, sizeof text - length, ".%06ldZ", now.tv_nsec / 1000);
  return text;
}

}  // namespace

void SetLogSink(LogSink sink, LogLevel least) {
  g_sink = sink;
  g_least = static_cast<int>(sink == nullptr ? LogLevel::kOff : least);
}

bool LogEnabled(LogLevel level) { return static_cast<int>(level) >= g_least.load(std::memory_order_relaxed); }

void Log(LogLevel level, std::string_view component, std::string_view message,
         std::initializer_list<LogField> fields) {
  if (!LogEnabled(level)) return;
  if (LogSink sink = g_sink.load()) sink(level, component, message, fields);
}

void StderrLogSink(LogLevel level, std::string_view component, std::string_view message,
                   std::initializer_list<LogField> fields) {
  std::string line = Time("%H:%M:%S");
  line += ' ';
  line += kNames[static_cast<int>(level)];
  line += ' ';
  line += component;
  line += ": ";
  line += message;
  for (const LogField& field : fields) {
    line += ' ';
    line += field.key;
    line += '=';
    line += field.value;
  }
  WriteLine(std::move(line));
}

void JsonLogSink(LogLevel level, std::string_view component, std::string_view message,
                 std::initializer_list<LogField> fields) {
  std::string line = "{\"time\":\"" + Time("%Y-%m-%dT%H:%M:%S") + "\",\"level\":\"";
  line += kNames[static_cast<int>(level)];
  line += "\",\"component\":\"";
  AppendEscaped(&line, component);
  line += "\",\"message\":\"";
  AppendEscaped(&line, message);
  line += '"';
  for (const LogField& field : fields) {
    line += ",\"";
    AppendEscaped(&line, field.key);
    line += "\":\"";
    AppendEscaped(&line, field.value);
    line += '"';
  }
  line += '}';
  WriteLine(std::move(line));
}

bool ParseLogLevel(std::string_view text, LogLevel* level) {
  for (int i = 0; i <= static_cast<int>(LogLevel::kOff); ++i) {
    if (text == kNames[i]) {
      *level = static_cast<LogLevel>(i);
      return true;
    }
  }
  return false;
}

}  // namespace tulle
