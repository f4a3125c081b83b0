// Asks the controller for builds, and gives it those that were made here. Two threads of its own, one for
// each, so that no program's build waits until another's has gone out. Bounds: kMaxWaiting of each; more are
// answered with nothing, or let go. Without a controller everything is, until a while later. The process must
// ignore SIGPIPE.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "tulle/base/clock.h"
#include "tulle/base/guarded.h"
#include "tulle/node/supervisor.h"

namespace tulle::node {

class BuildExchange final : public BuildKeeper {
 public:
  static constexpr std::size_t kMaxWaiting = 64;

  struct Counters {
    std::uint64_t found = 0;
    std::uint64_t not_found = 0;  // for whatever reason
    std::uint64_t kept = 0;
    std::uint64_t not_kept = 0;
  };

  // The file is read anew after each failure: certificates are renewed, controllers move. `clock` must
  // outlive it.
  BuildExchange(const std::string& credentials_path, const Clock& clock);
  // Answers what waits with nothing. May take as long as a call (kFindWithin).
  ~BuildExchange() override;

  // Any thread.
  void Find(const std::string& vgpu_uid, ByteView key, UniqueFd answer) override;
  void Keep(const std::string& vgpu_uid, ByteView key, UniqueFd content) override;
  Counters counters() const;

 private:
  class Controller;
  // Takes one job after the other.
  class Line {
   public:
    using Work =
        std::function<bool(Controller&, const std::string& vgpu_uid, const std::string& key, int fd)>;
    Line(const std::string& credentials_path, const Clock& clock, Work work);
    ~Line();
    void Add(const std::string& vgpu_uid, ByteView key, UniqueFd fd);
    std::uint64_t succeeded() const { return succeeded_.load(std::memory_order_relaxed); }
    std::uint64_t failed() const { return failed_.load(std::memory_order_relaxed); }

   private:
    struct Job {
      std::string vgpu_uid;
      std::string key;
      UniqueFd fd;
    };
    struct State {
      std::deque<Job> jobs;
      bool stopping = false;
    };
    void Run();

    const std::unique_ptr<Controller> controller_;
    const Work work_;
    Guarded<State> state_;
    std::condition_variable changed_;
    std::atomic<std::uint64_t> succeeded_{0};
    std::atomic<std::uint64_t> failed_{0};
    std::thread thread_;
  };

  Line finds_;
  Line keeps_;
};

}  // namespace tulle::node
