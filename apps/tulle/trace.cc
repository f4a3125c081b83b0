#include "apps/tulle/trace.h"

#include <algorithm>
#include <ctime>
#include <map>
#include <optional>
#include <unordered_map>
#include <vector>

#include "apps/tulle/text.h"
#include "tulle/session/trace.h"
#include "tulle/wire/command_table.h"
#include "tulle/wire/describe.h"

namespace tulle::cli {
namespace {

using session::TraceKind;
using session::TraceRecord;

double Us(std::uint64_t ns) { return static_cast<double>(ns) / 1e3; }

std::string Number(const char* form, double number) {
  char text[64];
  std::snprintf(text, sizeof text, form, number);
  return text;
}

std::string CommandName(const wire::FrameHeader& header) {
  const wire::RowInfo* row = wire::FindRow(header.opcode);
  return row == nullptr ? "unknown" : std::string(row->name);
}

std::string WallTime(std::int64_t wall_us) {
  const std::time_t seconds = wall_us / 1'000'000;
  std::tm utc{};
  gmtime_r(&seconds, &utc);
  char text[40];
  std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &utc);
  return std::string(text) + Number(".%06.0f UTC", static_cast<double>(wall_us % 1'000'000));
}

std::string Json(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      (out += '\\') += c;
    } else if (byte < 0x20 || byte >= 0x7f) {
      char escaped[8];
      std::snprintf(escaped, sizeof escaped, "\\u%04x", static_cast<unsigned>(byte));
      out += escaped;
    } else {
      out += c;
    }
  }
  return out + '"';
}

// What is known of a record only from those before it.
class Timing {
 public:
  // From a command to its reply, and of a wait that has ended.
  std::optional<std::uint64_t> Took(const TraceRecord& record) {
    switch (record.kind) {
      case TraceKind::kSent: sent_[record.header.sequence] = record.time_ns; break;
      case TraceKind::kReceived:
        if (record.header.answers == 0) break;
        return Take(sent_, record.header.answers, record.time_ns);
      case TraceKind::kWaitBegins: waits_[record.thread_id] = record.time_ns; break;
      case TraceKind::kWaitEnds: return Take(waits_, std::uint64_t{record.thread_id}, record.time_ns);
      case TraceKind::kEnd:
      case TraceKind::kFull: break;
    }
    return std::nullopt;
  }

 private:
  using Begun = std::unordered_map<std::uint64_t, std::uint64_t>;
  static std::optional<std::uint64_t> Take(Begun& begun, std::uint64_t key, std::uint64_t now_ns) {
    const auto found = begun.find(key);
    if (found == begun.end()) return std::nullopt;
    const std::uint64_t then_ns = found->second;
    begun.erase(found);
    return now_ns >= then_ns ? now_ns - then_ns : 0;
  }
  Begun sent_;   // by sequence
  Begun waits_;  // by thread
};

class Printer {
 public:
  virtual ~Printer() = default;
  virtual void Begin(const session::TraceHead& head) = 0;
  virtual void Record(const TraceRecord& record, std::optional<std::uint64_t> took_ns) = 0;
  virtual void End() {}
};

class Lines final : public Printer {
 public:
  explicit Lines(std::FILE* out) : out_(out) {}

  void Begin(const session::TraceHead& head) override {
    std::fprintf(out_, "%s (process %u) on vGPU %s, from %s; wire version %u\n", head.program.c_str(),
                 head.process_id, head.vgpu.c_str(), WallTime(head.wall_us).c_str(), head.wire_version);
    std::fputs("        time us   thread     #\n", out_);
  }

  void Record(const TraceRecord& record, std::optional<std::uint64_t> took_ns) override {
    std::fprintf(out_, "%15.1f %8u ", Us(record.time_ns), record.thread_id);
    const auto& header = record.header;
    switch (record.kind) {
      case TraceKind::kSent:
      case TraceKind::kReceived: {
        std::string text = wire::DescribeFrame(header, record.body);
        if (header.payload_bytes != 0) text += " + " + std::to_string(header.payload_bytes) + " B";
        if ((header.flags & wire::kWantStatus) != 0) text += ", status wanted";
        if (took_ns) text += Number(", %.1f us after #", Us(*took_ns)) + std::to_string(header.answers);
        std::fprintf(out_, "%5llu %s %s\n", static_cast<unsigned long long>(header.sequence),
                     record.kind == TraceKind::kSent ? ">" : "<", text.c_str());
        break;
      }
      case TraceKind::kWaitBegins: std::fputs("      waits\n", out_); break;
      case TraceKind::kWaitEnds:
        std::fprintf(out_, "      waited%s\n", took_ns ? Number(" %.1f us", Us(*took_ns)).c_str() : "");
        break;
      case TraceKind::kEnd:
        std::fprintf(out_, "      the session is over: %s\n", std::string(AsText(record.body)).c_str());
        break;
      case TraceKind::kFull: std::fputs("      the trace is full\n", out_); break;
    }
  }

 private:
  std::FILE* const out_;
};

class JsonLines final : public Printer {
 public:
  explicit JsonLines(std::FILE* out) : out_(out) {}

  void Begin(const session::TraceHead& head) override {
    std::fprintf(out_, "{\"kind\":\"head\",\"program\":%s,\"process\":%u,\"vgpu\":%s,\"begun_us\":%lld}\n",
                 Json(head.program).c_str(), head.process_id, Json(head.vgpu).c_str(),
                 static_cast<long long>(head.wall_us));
  }

  void Record(const TraceRecord& record, std::optional<std::uint64_t> took_ns) override {
    static constexpr const char* kKinds[] = {"",          "sent", "received", "wait-begins",
                                             "wait-ends", "end",  "full"};
    std::fprintf(out_, "{\"kind\":\"%s\",\"time_us\":%.3f,\"thread\":%u",
                 kKinds[static_cast<int>(record.kind)], Us(record.time_ns), record.thread_id);
    if (record.kind == TraceKind::kSent || record.kind == TraceKind::kReceived) {
      const auto& header = record.header;
      std::fprintf(
          out_,
          ",\"sequence\":%llu,\"answers\":%llu,\"command\":%s,\"body_bytes\":%u,\"payload_bytes\":%llu,"
          "\"text\":%s",
          static_cast<unsigned long long>(header.sequence), static_cast<unsigned long long>(header.answers),
          Json(CommandName(header)).c_str(), header.body_bytes,
          static_cast<unsigned long long>(header.payload_bytes),
          Json(wire::DescribeFrame(header, record.body)).c_str());
    }
    if (record.kind == TraceKind::kEnd) std::fprintf(out_, ",\"text\":%s", Json(AsText(record.body)).c_str());
    if (took_ns) std::fprintf(out_, ",\"took_us\":%.3f", Us(*took_ns));
    std::fputs("}\n", out_);
  }

 private:
  std::FILE* const out_;
};

class Summary final : public Printer {
 public:
  explicit Summary(std::FILE* out) : out_(out) {}

  void Begin(const session::TraceHead& head) override {
    std::fprintf(out_, "%s (process %u) on vGPU %s, from %s\n\n", head.program.c_str(), head.process_id,
                 head.vgpu.c_str(), WallTime(head.wall_us).c_str());
  }

  void Record(const TraceRecord& record, std::optional<std::uint64_t> took_ns) override {
    last_ns_ = std::max(last_ns_, record.time_ns);
    const auto& header = record.header;
    const std::uint64_t bytes = wire::kFrameHeaderBytes + header.body_bytes + header.payload_bytes;
    if (record.kind == TraceKind::kSent) {
      Command& command = commands_[CommandName(header)];
      ++command.count;
      command.sent_bytes += bytes;
    } else if (record.kind == TraceKind::kReceived) {
      Command& command = commands_[CommandName(header)];
      if (header.answers == 0) ++command.count;
      command.received_bytes += bytes;
      if (took_ns) command.took_ns.push_back(*took_ns);
    } else if (record.kind == TraceKind::kWaitEnds && took_ns) {
      ++waits_;
      waited_ns_ += *took_ns;
    } else if (record.kind == TraceKind::kFull) {
      full_ = true;
    }
  }

  void End() override {
    Table table({"COMMAND", "COUNT", "SENT B", "RECEIVED B", "ANSWERS", "MEDIAN us", "P99 us", "TOTAL us"});
    for (auto& [name, command] : commands_) {
      std::vector<std::uint64_t>& took = command.took_ns;
      std::sort(took.begin(), took.end());
      std::uint64_t total_ns = 0;
      for (const std::uint64_t ns : took) total_ns += ns;
      const auto at = [&](std::size_t percent) {
        return took.empty()
                   ? ""
                   : Number("%.1f", Us(took[std::min(took.size() - 1, took.size() * percent / 100)]));
      };
      table.Add({name, std::to_string(command.count), std::to_string(command.sent_bytes),
                 std::to_string(command.received_bytes), std::to_string(took.size()), at(50), at(99),
                 took.empty() ? "" : Number("%.1f", Us(total_ns))});
    }
    std::fputs(table.TakeText().c_str(), out_);
    std::fprintf(out_, "\nIn %.6f s the program waited %llu times for its vGPU, %.6f s together.%s\n\n",
                 static_cast<double>(last_ns_) / 1e9, static_cast<unsigned long long>(waits_),
                 static_cast<double>(waited_ns_) / 1e9, full_ ? " The trace is full: there was more." : "");
  }

 private:
  struct Command {
    std::uint64_t count = 0, sent_bytes = 0, received_bytes = 0;
    std::vector<std::uint64_t> took_ns;
  };
  std::FILE* const out_;
  std::map<std::string, Command> commands_;
  std::uint64_t last_ns_ = 0, waits_ = 0, waited_ns_ = 0;
  bool full_ = false;
};

}  // namespace

Status PrintTrace(const std::string& path, const TraceOptions& options, std::FILE* out) {
  TULLE_ASSIGN_OR_RETURN(const auto reader, session::TraceReader::Open(path));
  const std::unique_ptr<Printer> printer =
      options.summary ? std::unique_ptr<Printer>(std::make_unique<Summary>(out))
      : options.json  ? std::unique_ptr<Printer>(std::make_unique<JsonLines>(out))
                      : std::make_unique<Lines>(out);
  printer->Begin(reader->head());
  Timing timing;
  Status status = OkStatus();
  for (;;) {
    auto record = reader->Next();
    if (!record.ok()) status = record.error().Within(path);
    if (!record.ok() || !record->has_value()) break;
    const auto took_ns = timing.Took(**record);
    const bool is_frame = (*record)->kind == TraceKind::kSent || (*record)->kind == TraceKind::kReceived;
    if (!options.only.empty() &&
        (!is_frame || CommandName((*record)->header).find(options.only) == std::string::npos)) {
      continue;
    }
    printer->Record(**record, took_ns);
  }
  printer->End();
  return status;
}

}  // namespace tulle::cli
