// What commands share: how they reach the mesh, and how they print lists.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "tulle/base/result.h"
#include "tulle/sdk/client.h"

namespace tulle::cli {

// Connects, does it, and keeps the exit code.
using Runner = std::function<void(const std::function<Status(sdk::Client&)>&)>;

// --output table or json.
void AddOutput(CLI::App* command, std::string* output);

template <typename T>
void PrintAll(const std::vector<T>& values, const std::string& output, const std::string& table) {
  if (output == "json") {
    std::string json = "[";
    for (const T& value : values) {
      json += (json.size() > 1 ? ",\n" : "\n") + sdk::Client::ToJson(value);
      if (json.back() == '\n') json.pop_back();
    }
    std::printf("%s\n]\n", json.c_str());
  } else if (values.empty()) {
    std::fputs("none\n", stderr);
  } else {
    std::fputs(table.c_str(), stdout);
  }
}

}  // namespace tulle::cli
