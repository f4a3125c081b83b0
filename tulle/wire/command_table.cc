#include "tulle/wire/command_table.h"

#include <algorithm>
#include <string>

#include "tulle/wire/describe.h"

namespace tulle::wire {

const RowInfo* FindRow(U16 opcode) {
  const auto found = std::lower_bound(kRowInfos.begin(), kRowInfos.end(), opcode,
                                      [](const RowInfo& info, U16 wanted) { return info.opcode < wanted; });
  return found == kRowInfos.end() || found->opcode != opcode ? nullptr : &*found;
}

std::string DescribeTable() {
  std::string text;
  ForEachRow(kCommands, [&](const auto& row) { text += DescribeRow(row); });
  return text;
}

}  // namespace tulle::wire
