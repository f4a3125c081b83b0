#include <cstdio>

#include "tulle/wire/command_table.h"

int main() {
  std::fputs(tulle::wire::DescribeTable().c_str(), stdout);
  return 0;
}
