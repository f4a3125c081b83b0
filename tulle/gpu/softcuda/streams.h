// Queues of work, each done in order by a thread of its own, and marks in them that other queues and callers
// wait for.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

namespace tulle::gpu::softcuda {

// Thread-safe. Its destructor waits for all work; nothing may be added meanwhile.
class Streams {
 public:
  class Queue;
  // A place in a queue: reached when everything up to it is done. One of no queue is reached.
  struct Mark {
    std::shared_ptr<Queue> queue;
    std::uint64_t position = 0;
  };
  using Work = std::function<void()>;

  ~Streams();

  std::shared_ptr<Queue> Open();
  // No work is added any more; what there is is done.
  void Close(const std::shared_ptr<Queue>& queue);

  // The work begins when all before it in the queue is done and all of `after` are reached.
  Mark Add(const std::shared_ptr<Queue>& queue, std::vector<Mark> after, Work work);
  // The same, and waits for it: in the calling thread where nothing is before it.
  void Run(const std::shared_ptr<Queue>& queue, std::vector<Mark> after, const Work& work);
  // Behind what has been added so far.
  Mark End(const std::shared_ptr<Queue>& queue);

  // Until less than so many are there that are not done.
  void WaitForPlace(const std::shared_ptr<Queue>& queue, std::uint64_t places);
  bool Reached(const Mark& mark);
  void Wait(const Mark& mark);

 private:
  struct Entry {
    std::uint64_t position = 0;
    std::vector<Mark> after;
    Work work;
  };
  bool ReachedLocked(const Mark& mark) const;
  void Serve(const std::shared_ptr<Queue>& queue);

  std::mutex mutex_;
  std::condition_variable progress_;  // some queue has got on, or a thread has ended
  std::size_t threads_ = 0;
};

class Streams::Queue {
 private:
  friend class Streams;
  std::deque<Entry> entries_;
  std::uint64_t added_ = 0, done_ = 0;
  bool has_thread_ = false, closed_ = false;
  std::condition_variable wake_;
};

}  // namespace tulle::gpu::softcuda
