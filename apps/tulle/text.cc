#include "apps/tulle/text.h"

#include <algorithm>
#include <charconv>

#include "tulle/base/bytes.h"

namespace tulle::cli {
namespace {

Error BadValue(const std::string& flag, const std::string& text, const std::string& form) {
  return Error{.code = Code::kInvalidArgument, .message = flag + " " + text + ": " + form};
}

}  // namespace

Result<std::uint64_t> ParseMemory(const std::string& flag, const std::string& text) {
  std::uint64_t bytes = 0;
  if (ParseSize(text, &bytes) && bytes != 0) return bytes;
  return BadValue(flag, text, "not a size; write a number and a unit, such as 512MiB or 1.5GiB");
}

Result<std::uint32_t> ParsePercent(const std::string& flag, const std::string& text) {
  std::uint32_t percent = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, percent);
  const std::string_view unit(rest, static_cast<std::size_t>(end - rest));
  if (error == std::errc() && (unit.empty() || unit == "%") && percent >= 1 && percent <= 100) return percent;
  return BadValue(flag, text, "not a share of a GPU; write a whole percentage from 1% to 100%");
}

Status ParseCompute(const std::string& flag, const std::string& text, std::uint32_t* least,
                    std::uint32_t* most) {
  const std::size_t dots = text.find("..");
  if (dots != std::string::npos) {
    TULLE_ASSIGN_OR_RETURN(*least, ParsePercent(flag, text.substr(0, dots)));
    TULLE_ASSIGN_OR_RETURN(*most, ParsePercent(flag, text.substr(dots + 2)));
    if (*least <= *most) return OkStatus();
    return Error{.code = Code::kInvalidArgument,
                 .message = flag + " " + text + ": the first must not be above the second"};
  }
  TULLE_ASSIGN_OR_RETURN(*most, ParsePercent(flag, text));
  return OkStatus();
}

Result<control::PerformanceLevel> ParseLevel(const std::string& flag, const std::string& text) {
  control::PerformanceLevel level{};
  if (control::ParsePerformanceLevel(text, &level)) return level;
  return BadValue(flag, text, "not a performance level; write best-effort, burst, guaranteed or dedicated");
}

Result<control::Isolation> ParseIsolation(const std::string& flag, const std::string& text) {
  control::Isolation isolation{};
  if (control::ParseIsolation(text, &isolation)) return isolation;
  return BadValue(flag, text, "not a kind of isolation; write process or vm");
}

Result<control::Topology> ParseTopology(const std::string& flag, const std::string& text) {
  control::Topology topology{};
  if (control::ParseTopology(text, &topology)) return topology;
  return BadValue(flag, text, "not a topology; write same-gpu, same-node or distinct-nodes");
}

Result<std::pair<std::string, std::string>> ParseLabel(const std::string& flag, const std::string& text) {
  const std::size_t equals = text.find('=');
  if (equals != std::string::npos && equals != 0)
    return std::pair(text.substr(0, equals), text.substr(equals + 1));
  return BadValue(flag, text, "not a label; write KEY=VALUE");
}

std::string Word(const char* api_name) {
  std::string word = api_name;
  for (char& c : word) c = c == '_' ? '-' : static_cast<char>(c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c);
  return word;
}

std::string Quoted(const std::string& text) {
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? "'\\''" : std::string(1, c);
  return quoted + "'";
}

std::string FormatAge(std::int64_t microseconds) {
  const std::int64_t seconds = std::max<std::int64_t>(microseconds / 1'000'000, 0);
  if (seconds < 2 * 60) return std::to_string(seconds) + "s";
  if (seconds < 2 * 3600) return std::to_string(seconds / 60) + "m";
  if (seconds < 2 * 86400) return std::to_string(seconds / 3600) + "h";
  return std::to_string(seconds / 86400) + "d";
}

std::string Table::TakeText() {
  const auto cell = [](const std::string& text) -> std::string { return text.empty() ? "-" : text; };
  for (const auto& row : rows_) {
    widths_.resize(std::max(widths_.size(), row.size()));
    for (std::size_t i = 0; i < row.size(); ++i) widths_[i] = std::max(widths_[i], cell(row[i]).size());
  }
  std::string text;
  for (const auto& row : rows_) {
    for (std::size_t i = 0; i < row.size(); ++i) {
      const std::string shown = cell(row[i]);
      text += shown;
      if (i + 1 < row.size()) text.append(widths_[i] - shown.size() + 3, ' ');
    }
    text += '\n';
  }
  rows_.clear();
  return text;
}

}  // namespace tulle::cli
