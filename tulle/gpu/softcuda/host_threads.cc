#include "tulle/gpu/softcuda/host_threads.h"

#include <algorithm>

namespace tulle::gpu::softcuda {

HostThreads::HostThreads(std::uint32_t count) {
  for (std::uint32_t i = 1; i < count; ++i) threads_.emplace_back([this] { Serve(); });
}

HostThreads::~HostThreads() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  start_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void HostThreads::Run(std::uint64_t wanted, const std::function<void()>& work) {
  const std::lock_guard one_at_a_time(running_);
  const std::uint64_t others =
      std::min<std::uint64_t>(std::max<std::uint64_t>(wanted, 1) - 1, threads_.size());
  if (others != 0) {
    const std::lock_guard lock(mutex_);
    work_ = &work;
    to_start_ = others;
    for (std::uint64_t i = 0; i < others; ++i) start_.notify_one();
  }
  work();
  if (others == 0) return;
  std::unique_lock lock(mutex_);
  to_start_ = 0;  // those that have not begun need not
  done_.wait(lock, [&] { return busy_ == 0; });
}

void HostThreads::Serve() {
  std::unique_lock lock(mutex_);
  for (;;) {
    start_.wait(lock, [&] { return ending_ || to_start_ != 0; });
    if (ending_) return;
    --to_start_;
    ++busy_;
    const std::function<void()>& work = *work_;
    lock.unlock();
    work();
    lock.lock();
    if (--busy_ == 0) done_.notify_one();
  }
}

}  // namespace tulle::gpu::softcuda
