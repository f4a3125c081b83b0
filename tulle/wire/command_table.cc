#include "tulle/wire/command_table.h"

#include <string>

#include "tulle/wire/describe.h"

namespace tulle::wire {

const RowInfo* FindRow(U16 opcode) {
  for (const RowInfo& info : kRowInfos) {
    if (info.opcode == opcode) return &info;
  }
  return nullptr;
}

std::string DescribeTable() {
  std::string text;
  ForEachRow(kCommands, [&](const auto& row) { text += DescribeRow(row); });
  return text;
}

}  // namespace tulle::wire
