// The controller: one thread (the strand) runs the core and does what it says. It takes all events that have
// gathered, hands them to the core, commits what the core wants kept as one batch, and only then answers,
// tells the nodes and serves reads: whoever hears of a change can rely on it, and one sync to disk serves
// many callers.
//
// When the store fails the controller stops for good (its state and the store's may differ), calls on_fatal,
// and answers kUnavailable to everybody: the program ends and its supervisor starts it anew from the store.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "tulle/base/clock.h"
#include "tulle/base/guarded.h"
#include "tulle/base/random.h"
#include "tulle/base/result.h"
#include "tulle/control/core/core.h"
#include "tulle/control/serve/audit_log.h"
#include "tulle/control/serve/event_history.h"
#include "tulle/control/serve/event_log.h"
#include "tulle/control/store/store.h"
#include "tulle/security/sealer.h"

namespace tulle::control {

struct ControllerOptions {
  CoreOptions core;
  std::string ca_fingerprint;                      // of the mesh's CA; the store is to be that mesh's
  std::shared_ptr<const security::Sealer> sealer;  // of secrets in the store; null: they are not sealed
  std::size_t watch_history = 16'384;              // changes kept for watchers, about 1 KiB each
  std::size_t max_queued = 65'536;                 // events, and reads; more are refused
  std::size_t max_batch = 1'024;                   // events per commit
  std::size_t audit_entries = 20'000;              // of the audit log, about 500 bytes each
  std::size_t event_history = 10'000;              // events, about 300 bytes each
  std::function<void(const Error&)> on_fatal = [](const Error&) {};
};

// Called on the strand; must not block.
class HoldListener {
 public:
  virtual ~HoldListener() = default;
  virtual void OnUpdate(const Claim& claim) = 0;
  virtual void OnEnd(const Status& status) = 0;  // the last call
};
class LinkListener {
 public:
  virtual ~LinkListener() = default;
  virtual void OnCommand(NodeCommand command) = 0;
  virtual void OnClose(const Status& status) = 0;  // the last call
};

class Controller {
 public:
  // `store`, `clock` and `random` must outlive it; the store is used by the strand only.
  Controller(ControllerOptions options, Store& store, const Clock& clock, Random& random);
  ~Controller();

  // Loads the state and starts the strand. Once.
  Status Start();
  // Answers what waits with kUnavailable, ends holds, links and watches, and joins. May be called twice.
  void Stop();

  using OnReply = std::function<void(Result<ReplyBody>)>;
  // `event` is one with a `call`, which is filled in. `on_reply` is called exactly once, by the strand or,
  // when the controller cannot take the call, at once.
  // `audit`: the call's entry in the audit log but for its outcome; in the store when `on_reply` is called.
  template <typename E>
  void Call(E event, OnReply on_reply, std::optional<AuditEntry> audit = std::nullopt) {
    event.call = static_cast<CallId>(next_id_.fetch_add(1));
    Submit({.event = std::move(event),
            .call = event.call,
            .on_reply = std::move(on_reply),
            .audit = std::move(audit)});
  }
  // An entry for a call that was answered without an event; whole, but for its time. In the store soon.
  void Audit(AuditEntry entry);

  // `event.hold` is filled in and returned. Unless closed first, OnEnd is called exactly once.
  HoldId Hold(OpenHold event, std::shared_ptr<HoldListener> listener);
  void EndHold(HoldId hold);

  LinkId OpenLink(std::shared_ptr<LinkListener> listener);
  // An event of that link: RegisterNode, NodeHeartbeat, ReportVGpu, NodeLeaving or LinkClosed.
  void FromNode(Event event);

  // Runs `read` on the strand, after all that was called before is committed. When the controller has
  // stopped, or too many wait, `read` gets null, perhaps at once.
  void Read(std::function<void(const Core*)> read);

  EventLog& log() { return *log_; }
  AuditLog& audit_log() { return *audit_log_; }
  // Certificates of that identity (as a URI) that were issued before then are void; 0: none are. Any thread.
  WallMicros RevokedBefore(const std::string& identity);
  // The API token with that id, if it has not expired. Any thread.
  std::optional<ApiToken> FindApiToken(const std::string& id);
  EventHistory& history() { return history_; }
  const CoreOptions& core_options() const { return options_.core; }
  Now ReadClock() const { return {.mono = clock_.Now(), .wall_us = clock_.WallMicros()}; }

 private:
  struct Item {
    std::optional<Event> event;  // nothing: `audit` only
    CallId call{};
    OnReply on_reply;
    std::optional<AuditEntry> audit;
    HoldId hold{};
    std::shared_ptr<HoldListener> hold_listener;
  };
  struct Queue {
    std::vector<Item> items;
    std::vector<std::function<void(const Core*)>> reads;
    bool stopping = false;  // by Stop, or by a failed store
  };

  void Submit(Item item);
  void Run();
  void HandleBatch(std::vector<Item> items);
  void AddAudit(AuditEntry entry, std::vector<Store::Write>* writes);
  void Deliver(Effect effect);
  void RememberForAuthentication(const Record& record);
  // On a thread of its own, at low priority.
  void Rehearse(StartRehearsal what);
  void LogChanges(const std::vector<Change>& changes);
  void Close(const Status& status);

  const ControllerOptions options_;
  Store& store_;
  const Clock& clock_;
  Random& random_;
  std::unique_ptr<Core> core_;  // the strand's, once it runs
  std::unique_ptr<EventLog> log_;
  std::unique_ptr<AuditLog> audit_log_;
  EventHistory history_;
  Guarded<std::unordered_map<std::string, WallMicros>> revoked_;
  Guarded<std::unordered_map<std::string, ApiToken>> api_tokens_;  // by id
  std::thread strand_;
  std::jthread rehearsal_;  // the strand's: one at a time
  std::atomic<std::uint64_t> next_id_{1};
  Guarded<Queue> queue_;
  std::condition_variable wakeup_;
  Guarded<std::unordered_map<std::uint64_t, std::shared_ptr<LinkListener>>> links_;

  // Of the strand.
  std::unordered_map<std::uint64_t, OnReply> replies_;
  std::unordered_map<std::uint64_t, AuditEntry> audits_;  // of calls that have not been answered yet
  std::unordered_map<std::uint64_t, std::shared_ptr<HoldListener>> holds_;
  std::unordered_map<std::string, int> logged_states_;  // by uid
  bool failed_ = false;
};

}  // namespace tulle::control
