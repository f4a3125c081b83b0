// Text in and out of the command line: sizes and shares as people write them, tables as they read them. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "tulle/base/result.h"
#include "tulle/control/model/resources.h"

namespace tulle::cli {

// The value of `flag` as a number of bytes above 0. The error names flag, value and form.
Result<std::uint64_t> ParseMemory(const std::string& flag, const std::string& text);

// "50%" or "50": 1 to 100.
Result<std::uint32_t> ParsePercent(const std::string& flag, const std::string& text);

// The same, or a range, "25%..100%" or "25..100": then `least` is set, too.
Status ParseCompute(const std::string& flag, const std::string& text, std::uint32_t* least,
                    std::uint32_t* most);

// "burst", ...
Result<control::PerformanceLevel> ParseLevel(const std::string& flag, const std::string& text);

// "process", "vm".
Result<control::Isolation> ParseIsolation(const std::string& flag, const std::string& text);

// "same-gpu", ...
Result<control::Topology> ParseTopology(const std::string& flag, const std::string& text);

// "key=value".
Result<std::pair<std::string, std::string>> ParseLabel(const std::string& flag, const std::string& text);

// "BURST" as "burst", "BEST_EFFORT" as "best-effort".
std::string Word(const char* api_name);

// As one word of a shell's line.
std::string Quoted(const std::string& text);

// "12s", "5m", "3h", "2d": the largest unit that gives at least 2 of it, as kubectl has it.
std::string FormatAge(std::int64_t microseconds);

// Columns as wide as their widest cell so far, three blanks between; an empty cell is "-". The last column is
// not padded. May be printed in parts: rows that come later keep the columns where they are, if they fit.
class Table {
 public:
  explicit Table(std::vector<std::string> head) : rows_{std::move(head)} {}
  void Add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  // The rows since the last call, the head before the first ones.
  std::string TakeText();

 private:
  std::vector<std::vector<std::string>> rows_;
  std::vector<std::size_t> widths_;
};

}  // namespace tulle::cli
