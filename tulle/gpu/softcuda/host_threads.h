// Threads of the host that a kernel's blocks are spread over. They stay, so that a launch starts none.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace tulle::gpu::softcuda {

class HostThreads {
 public:
  // `count` with the one that calls Run, which must be at least one.
  explicit HostThreads(std::uint32_t count);
  ~HostThreads();
  HostThreads(const HostThreads&) = delete;
  HostThreads& operator=(const HostThreads&) = delete;

  std::uint32_t count() const { return static_cast<std::uint32_t>(threads_.size()) + 1; }

  // Calls `work` in `wanted` threads at most, of which one is this one, and returns when all have. One Run at
  // a time: others wait.
  void Run(std::uint64_t wanted, const std::function<void()>& work);

 private:
  void Serve();

  std::mutex running_;
  std::mutex mutex_;
  std::condition_variable start_, done_;
  const std::function<void()>* work_ = nullptr;
  std::uint64_t to_start_ = 0, busy_ = 0;
  bool ending_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace tulle::gpu::softcuda
