#include "tulle/gpu/softcuda/streams.h"

#include <algorithm>
#include <thread>

namespace tulle::gpu::softcuda {

Streams::~Streams() {
  std::unique_lock lock(mutex_);
  progress_.wait(lock, [&] { return threads_ == 0; });
}

std::shared_ptr<Streams::Queue> Streams::Open() { return std::make_shared<Queue>(); }

void Streams::Close(const std::shared_ptr<Queue>& queue) {
  const std::lock_guard lock(mutex_);
  queue->closed_ = true;
  queue->wake_.notify_one();
}

Streams::Mark Streams::Add(const std::shared_ptr<Queue>& queue, std::vector<Mark> after, Work work) {
  const std::lock_guard lock(mutex_);
  std::erase_if(after, [&](const Mark& mark) { return ReachedLocked(mark); });
  const std::uint64_t position = ++queue->added_;
  queue->entries_.push_back({position, std::move(after), std::move(work)});
  if (!queue->has_thread_) {
    queue->has_thread_ = true;
    ++threads_;
    std::thread([this, queue] { Serve(queue); }).detach();
  } else {
    queue->wake_.notify_one();
  }
  return {queue, position};
}

void Streams::Run(const std::shared_ptr<Queue>& queue, std::vector<Mark> after, const Work& work) {
  {
    std::unique_lock lock(mutex_);
    std::erase_if(after, [&](const Mark& mark) { return ReachedLocked(mark); });
    if (after.empty() && queue->done_ == queue->added_) {
      ++queue->added_;
      lock.unlock();
      work();
      lock.lock();
      ++queue->done_;
      progress_.notify_all();
      return;
    }
  }
  Wait(Add(queue, std::move(after), work));
}

Streams::Mark Streams::End(const std::shared_ptr<Queue>& queue) {
  const std::lock_guard lock(mutex_);
  return {queue, queue->added_};
}

void Streams::WaitForPlace(const std::shared_ptr<Queue>& queue, std::uint64_t places) {
  std::unique_lock lock(mutex_);
  progress_.wait(lock, [&] { return queue->added_ - queue->done_ < places; });
}

bool Streams::ReachedLocked(const Mark& mark) const {
  return mark.queue == nullptr || mark.queue->done_ >= mark.position;
}

bool Streams::Reached(const Mark& mark) {
  const std::lock_guard lock(mutex_);
  return ReachedLocked(mark);
}

void Streams::Wait(const Mark& mark) {
  std::unique_lock lock(mutex_);
  progress_.wait(lock, [&] { return ReachedLocked(mark); });
}

void Streams::Serve(const std::shared_ptr<Queue>& queue) {
  std::unique_lock lock(mutex_);
  for (;;) {
    queue->wake_.wait(lock, [&] { return !queue->entries_.empty() || queue->closed_; });
    if (queue->entries_.empty()) break;
    Entry entry = std::move(queue->entries_.front());
    queue->entries_.pop_front();
    progress_.wait(lock, [&] {
      return queue->done_ + 1 == entry.position &&
             std::all_of(entry.after.begin(), entry.after.end(),
                         [&](const Mark& m) { return ReachedLocked(m); });
    });
    lock.unlock();
    entry.work();
    entry = {};
    lock.lock();
    ++queue->done_;
    progress_.notify_all();
  }
  --threads_;
  progress_.notify_all();
}

}  // namespace tulle::gpu::softcuda
