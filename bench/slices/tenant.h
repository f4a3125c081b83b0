// A tenant: kernels of a certain length, one after the other, until a time. The same for both APIs.
//
//   PROGRAM calibrate US    prints how many turns a kernel has that takes so long alone
//   PROGRAM run TURNS one|deep|memory [QUEUES]
//
// run: says "ready", waits for a line with the seconds that it shall run (a line of its own begins each), and
// prints what it did as one JSON object: kernels, how long that took, and of those that it waited for one by
// one ("one") how long they took. deep: as many as a queue takes are under way. memory: as deep, and the
// kernel streams.
#pragma once

#include <algorithm>
#include <cstdio>
#include <iostream>
#include <string>
#include <vector>

#include "bench/now.h"

constexpr std::size_t kUnderWay = 16;
constexpr std::size_t kStreamBytes = 64u << 20;

// A Tenant has AddQueue(), SetTurns(turns), and of the queues by number Launch, Flush and Finish. It has one
// queue from the start. Made of whether its kernel streams.
template <typename Tenant>
int Calibrate(double us) {
  Tenant tenant(false);
  unsigned turns = 1;
  for (;;) {
    tenant.SetTurns(turns);
    double best = 1e18;
    for (int i = 0; i < 7; ++i) {
      const double begin = NowUs();
      tenant.Launch(0);
      tenant.Finish(0);
      best = std::min(best, NowUs() - begin);
    }
    if (best >= us / 2 && turns > 1) {
      std::printf("%u\n", static_cast<unsigned>(std::max(1.0, turns * us / best)));
      return 0;
    }
    if (best >= us) {
      std::printf("1\n");
      return 0;
    }
    turns *= 2;
  }
}

template <typename Tenant>
int Run(unsigned turns, const std::string& mode, std::size_t queue_count) {
  Tenant tenant(mode == "memory");
  tenant.SetTurns(turns);
  for (std::size_t i = 1; i < queue_count; ++i) tenant.AddQueue();
  tenant.Launch(0);
  tenant.Finish(0);
  std::printf("ready\n");
  std::fflush(stdout);
  for (double seconds = 0; std::cin >> seconds;) {
    std::vector<double> times_us;
    std::size_t kernels = 0;
    const double started = NowUs(), end = started + seconds * 1e6;
    while (NowUs() < end) {
      for (std::size_t queue = 0; queue < queue_count; ++queue) {
        const double begin = NowUs();
        if (mode == "one") {
          tenant.Launch(queue);
          tenant.Finish(queue);
          times_us.push_back(NowUs() - begin);
          ++kernels;
          continue;
        }
        for (std::size_t i = 0; i < kUnderWay; ++i) tenant.Launch(queue);
        tenant.Flush(queue);
        kernels += kUnderWay;
      }
      if (mode == "one") continue;
      for (std::size_t queue = 0; queue < queue_count; ++queue) tenant.Finish(queue);
    }
    std::printf("{\"kernels\": %zu, \"seconds\": %.3f", kernels, (NowUs() - started) / 1e6);
    if (!times_us.empty()) {
      std::sort(times_us.begin(), times_us.end());
      std::printf(", \"p50_us\": %.1f, \"p99_us\": %.1f", times_us[times_us.size() / 2],
                  times_us[times_us.size() * 99 / 100]);
    }
    std::printf("}\n");
    std::fflush(stdout);
  }
  return 0;
}

// -1: the arguments are of something else.
template <typename Tenant>
int TenantMain(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  if (what == "calibrate" && argc == 3) return Calibrate<Tenant>(std::stod(argv[2]));
  if (what == "run" && (argc == 4 || argc == 5)) {
    return Run<Tenant>(static_cast<unsigned>(std::stoul(argv[2])), argv[3],
                       argc == 5 ? std::stoul(argv[4]) : 1);
  }
  return -1;
}
