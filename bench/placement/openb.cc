#include "bench/placement/openb.h"

#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>

namespace tulle::bench {
namespace {

using control::kWholeGpu;

[[noreturn]] void Die(const std::string& message) {
  std::fprintf(stderr, "placement: %s\n", message.c_str());
  std::exit(2);
}

// A CSV file without quotes: rows by column name.
class Csv {
 public:
  explicit Csv(const std::string& path) : path_(path), file_(path) {
    std::string line;
    if (!std::getline(file_, line)) Die(path + ": cannot be read");
    const std::vector<std::string> names = Split(line);
    for (std::size_t i = 0; i < names.size(); ++i) columns_[names[i]] = i;
  }
  bool Next() {
    std::string line;
    if (!std::getline(file_, line)) return false;
    ++line_;
    row_ = Split(line);
    if (row_.size() != columns_.size()) Die(path_ + ": line " + std::to_string(line_) + " has other columns");
    return true;
  }
  bool Has(const std::string& column) const { return columns_.contains(column); }
  const std::string& Text(const std::string& column) const {
    const auto it = columns_.find(column);
    if (it == columns_.end()) Die(path_ + ": no column " + column);
    return row_[it->second];
  }
  std::int64_t Number(const std::string& column) const {
    const std::string& text = Text(column);
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (text.empty()) return 0;
    if (error != std::errc()) Die(path_ + ": line " + std::to_string(line_) + ": " + column + " is " + text);
    return value;
  }

 private:
  static std::vector<std::string> Split(const std::string& line) {
    std::vector<std::string> cells(1);
    for (const char c : line) {
      if (c == ',') {
        cells.emplace_back();
      } else if (c != '\r') {
        cells.back() += c;
      }
    }
    return cells;
  }

  std::string path_;
  std::ifstream file_;
  std::map<std::string, std::size_t> columns_;
  std::vector<std::string> row_;
  int line_ = 1;
};

}  // namespace

Openb LoadOpenb(const std::string& folder, const std::string& list) {
  Openb openb;
  std::map<std::string, control::GpuKind> kinds;
  for (Csv csv(folder + "/openb_node_list_gpu_node.csv"); csv.Next();) {
    OpenbNode node{.name = csv.Text("sn")};
    node.room.cpu = static_cast<std::int32_t>(csv.Number("cpu_milli"));
    node.room.host_memory = static_cast<std::int32_t>(csv.Number("memory_mib"));
    const control::GpuKind kind =
        kinds.emplace(csv.Text("model"), static_cast<control::GpuKind>(kinds.size())).first->second;
    node.room.gpus.assign(static_cast<std::size_t>(csv.Number("gpu")), {.kind = kind});
    openb.gpu_milli += kWholeGpu * static_cast<std::int64_t>(node.room.gpus.size());
    openb.nodes.push_back(std::move(node));
  }
  for (Csv csv(folder + "/openb_pod_list_" + list + ".csv"); csv.Next();) {
    OpenbPod pod{.name = csv.Text("name")};
    pod.demand.cpu = static_cast<std::int32_t>(csv.Number("cpu_milli"));
    pod.demand.host_memory = static_cast<std::int32_t>(csv.Number("memory_mib"));
    pod.demand.gpus = static_cast<std::int32_t>(csv.Number("num_gpu"));
    pod.demand.compute = pod.demand.gpus > 0 ? static_cast<std::int32_t>(csv.Number("gpu_milli")) : 0;
    if (csv.Has("gpu_spec") && !csv.Text("gpu_spec").empty()) {
      pod.demand.kinds.assign(kinds.size(), 0);
      std::istringstream models(csv.Text("gpu_spec"));
      for (std::string model; std::getline(models, model, '|');) {
        if (const auto it = kinds.find(model); it != kinds.end()) pod.demand.kinds[it->second] = 1;
      }
    }
    if (csv.Has("creation_time")) {
      pod.created_s = csv.Number("creation_time");
      pod.deleted_s = csv.Number("deletion_time");
    }
    openb.pods.push_back(std::move(pod));
  }
  return openb;
}

}  // namespace tulle::bench
