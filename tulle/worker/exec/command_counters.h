// How many commands of each kind a session has had, how large they were and how long they took.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <iterator>

#include "tulle/base/clock.h"
#include "tulle/wire/command_table.h"
#include "tulle/wire/schema/node.h"

namespace tulle::worker::exec {

// Sums, by the commands' places in the table.
struct CommandTotals {
  struct Kind {
    std::uint64_t count = 0;
    std::uint64_t bytes = 0;
    std::uint64_t latency_ns = 0;
    std::array<std::uint64_t, wire::node::kLatencyCounts> latencies{};
    bool operator==(const Kind&) const = default;
  };
  std::array<Kind, wire::kRowInfos.size()> kinds;
};

// Written by the session's thread alone, read by any.
class CommandCounters {
 public:
  void Came(std::uint16_t opcode, std::uint64_t bytes) {
    Kind* kind = Find(opcode);
    if (kind == nullptr) return;
    Add(kind->count, 1);
    Add(kind->bytes, bytes);
  }
  // From its arrival to its answer, or, where nothing is answered, until the driver had it.
  void Took(std::uint16_t opcode, Duration latency) {
    Kind* kind = Find(opcode);
    if (kind == nullptr) return;
    const auto ns = static_cast<std::uint64_t>(std::max<std::int64_t>(0, latency.count()));
    const auto& bounds = wire::node::kLatencyBoundsNs;
    const auto bound = std::lower_bound(bounds.begin(), bounds.end(), ns);
    Add(kind->latency_ns, ns);
    Add(kind->latencies[static_cast<std::size_t>(std::distance(bounds.begin(), bound))], 1);
  }

  void AddTo(CommandTotals* totals) const {
    for (std::size_t i = 0; i < kinds_.size(); ++i) {
      const Kind& from = kinds_[i];
      CommandTotals::Kind& to = totals->kinds[i];
      to.count += from.count.load(std::memory_order_relaxed);
      to.bytes += from.bytes.load(std::memory_order_relaxed);
      to.latency_ns += from.latency_ns.load(std::memory_order_relaxed);
      for (std::size_t k = 0; k < to.latencies.size(); ++k) {
        to.latencies[k] += from.latencies[k].load(std::memory_order_relaxed);
      }
    }
  }

 private:
  struct Kind {
    std::atomic<std::uint64_t> count{0};
    std::atomic<std::uint64_t> bytes{0};
    std::atomic<std::uint64_t> latency_ns{0};
    std::array<std::atomic<std::uint64_t>, wire::node::kLatencyCounts> latencies{};
  };
  // There is one writer.
  static void Add(std::atomic<std::uint64_t>& counter, std::uint64_t more) {
    counter.store(counter.load(std::memory_order_relaxed) + more, std::memory_order_relaxed);
  }
  Kind* Find(std::uint16_t opcode) {
    const wire::RowInfo* row = wire::FindRow(opcode);
    return row == nullptr ? nullptr : &kinds_[static_cast<std::size_t>(row - wire::kRowInfos.data())];
  }

  std::array<Kind, wire::kRowInfos.size()> kinds_;
};

}  // namespace tulle::worker::exec
