#include "tulle/control/serve/controller.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "tulle/base/log.h"
#include "tulle/control/model/rules.h"
#include "tulle/control/placement/rehearsal.h"
#include "tulle/control/serve/records.h"

namespace tulle::control {
namespace {

constexpr char kComponent[] = "controller";
// A controller's epoch is in the high bits of its resource versions, so that versions grow across restarts.
constexpr int kEpochShift = 40;
// Of the thread that rehearses: nobody waits for it.
constexpr int kRehearsalNice = 10;
// Without anything to do, the strand looks at the clock this often: steady_clock waits do not count suspended
// time.
constexpr auto kIdle = std::chrono::seconds(60);

Error Stopped() {
  return Error{
      .code = Code::kUnavailable, .message = "the controller is stopping; try again", .retry = Retry::kSame};
}

void Append(Actions* to, Actions from) {
  const auto move_all = [](auto& source, auto& target) {
    target.insert(target.end(), std::make_move_iterator(source.begin()),
                  std::make_move_iterator(source.end()));
  };
  move_all(from.writes, to->writes);
  move_all(from.changes, to->changes);
  move_all(from.effects, to->effects);
}

}  // namespace

Controller::Controller(ControllerOptions options, Store& store, const Clock& clock, Random& random)
    : options_(std::move(options)),
      store_(store),
      clock_(clock),
      random_(random),
      history_(options_.event_history) {}

Controller::~Controller() { Stop(); }

Status Controller::Start() {
  TULLE_ASSIGN_OR_RETURN(StoredState state,
                         LoadState(store_, options_.ca_fingerprint, options_.sealer.get()));
  core_ = std::make_unique<Core>(options_.core, random_, state.epoch << kEpochShift);
  const std::size_t records = state.records.size();
  for (const Record& record : state.records) RememberForAuthentication(record);
  TULLE_RETURN_IF_ERROR(core_->Load(std::move(state.records), ReadClock()));
  audit_log_ =
      std::make_unique<AuditLog>(options_.audit_entries, std::move(state.audit), state.first_audit_number);
  const auto begin = [this](const auto& page) {
    for (const auto& resource : page.resources) history_.Begin(resource);
  };
  constexpr std::size_t kAll = std::numeric_limits<std::size_t>::max() - 1;
  begin(core_->List<Node>("", "", kAll));
  begin(core_->List<Gpu>("", "", kAll));
  begin(core_->List<Tenant>("", "", kAll));
  begin(core_->ListAll<Claim>({}, kAll));
  begin(core_->ListAll<VGpu>({}, kAll));
  log_ = std::make_unique<EventLog>(options_.watch_history, core_->resource_version());
  Log(LogLevel::kInfo, kComponent, "started", {{"epoch", state.epoch}, {"records", records}});
  strand_ = std::thread([this] { Run(); });
  return OkStatus();
}

void Controller::Stop() {
  queue_.lock()->stopping = true;
  wakeup_.notify_one();
  if (strand_.joinable()) strand_.join();
  rehearsal_ = {};  // asks it to stop, and waits
}

void Controller::Submit(Item item) {
  std::optional<Error> refusal;
  {
    auto queue = queue_.lock();
    if (queue->stopping) {
      refusal = Stopped();
    } else if ((item.on_reply || !item.event) && queue->items.size() >= options_.max_queued) {
      refusal = Error{.code = Code::kResourceExhausted,
                      .message = "the controller is overloaded; try again later",
                      .retry = Retry::kSame};
    } else {
      queue->items.push_back(std::move(item));
    }
  }
  if (!refusal) return wakeup_.notify_one();
  if (item.on_reply) item.on_reply(*refusal);
  if (item.hold_listener) item.hold_listener->OnEnd(*refusal);
}

void Controller::RememberForAuthentication(const Record& record) {
  if (const auto* revocation = std::get_if<Revocation>(&record)) {
    revoked_.lock()->insert_or_assign(revocation->identity, revocation->before_us);
  } else if (const auto* token = std::get_if<ApiToken>(&record)) {
    api_tokens_.lock()->insert_or_assign(token->id, *token);
  }
}

std::optional<ApiToken> Controller::FindApiToken(const std::string& id) {
  auto tokens = api_tokens_.lock();
  const auto it = tokens->find(id);
  if (it == tokens->end() || it->second.expire_time_us <= clock_.WallMicros()) return std::nullopt;
  return it->second;
}

WallMicros Controller::RevokedBefore(const std::string& identity) {
  auto revoked = revoked_.lock();
  const auto it = revoked->find(identity);
  return it == revoked->end() ? 0 : it->second;
}

void Controller::Audit(AuditEntry entry) { Submit({.audit = std::move(entry)}); }

HoldId Controller::Hold(OpenHold event, std::shared_ptr<HoldListener> listener) {
  const HoldId hold = event.hold = static_cast<HoldId>(next_id_.fetch_add(1));
  Submit({.event = std::move(event), .hold = hold, .hold_listener = std::move(listener)});
  return hold;
}

void Controller::EndHold(HoldId hold) { Submit({.event = CloseHold{hold}, .hold = hold}); }

LinkId Controller::OpenLink(std::shared_ptr<LinkListener> listener) {
  const std::uint64_t id = next_id_.fetch_add(1);
  bool stopping = false;
  {
    auto queue = queue_.lock();
    stopping = queue->stopping;
    if (!stopping) links_.lock()->emplace(id, listener);
  }
  if (stopping) listener->OnClose(Stopped());
  return static_cast<LinkId>(id);
}

void Controller::FromNode(Event event) {
  if (const auto* closed = std::get_if<LinkClosed>(&event))
    links_.lock()->erase(static_cast<std::uint64_t>(closed->link));
  Submit({.event = std::move(event)});
}

void Controller::Read(std::function<void(const Core*)> read) {
  {
    auto queue = queue_.lock();
    if (!queue->stopping && queue->reads.size() < options_.max_queued) {
      queue->reads.push_back(std::move(read));
      read = nullptr;
    }
  }
  if (read) return read(nullptr);
  wakeup_.notify_one();
}

void Controller::Run() {
  for (;;) {
    std::vector<Item> items;
    std::vector<std::function<void(const Core*)>> reads;
    {
      auto queue = queue_.lock();
      Duration wait = kIdle;
      if (const auto tick = core_->NextTick()) wait = std::min<Duration>(wait, *tick - clock_.Now());
      wakeup_.wait_for(queue.native(), std::max<Duration>(wait, Duration(0)),
                       [&] { return queue->stopping || !queue->items.empty() || !queue->reads.empty(); });
      if (queue->stopping) break;
      if (queue->items.size() <= options_.max_batch) {
        items.swap(queue->items);
        reads.swap(queue->reads);  // only now is all that came before them in hand
      } else {
        const auto end = queue->items.begin() + static_cast<std::ptrdiff_t>(options_.max_batch);
        items.assign(std::make_move_iterator(queue->items.begin()), std::make_move_iterator(end));
        queue->items.erase(queue->items.begin(), end);
      }
    }
    HandleBatch(std::move(items));
    for (const auto& read : reads) read(failed_ ? nullptr : core_.get());
  }
  Close(Stopped());
}

void Controller::AddAudit(AuditEntry entry, std::vector<Store::Write>* writes) {
  entry.time_us = clock_.WallMicros();
  for (Store::Write& write : audit_log_->Append(std::move(entry))) writes->push_back(std::move(write));
}

void Controller::HandleBatch(std::vector<Item> items) {
  Actions actions;
  std::vector<Store::Write> audit;
  for (Item& item : items) {
    if (item.on_reply) replies_.emplace(static_cast<std::uint64_t>(item.call), std::move(item.on_reply));
    if (item.hold_listener) {
      holds_.emplace(static_cast<std::uint64_t>(item.hold), std::move(item.hold_listener));
    } else if (item.hold != HoldId{}) {
      holds_.erase(static_cast<std::uint64_t>(item.hold));
    }
    if (item.audit && item.event)
      audits_.emplace(static_cast<std::uint64_t>(item.call), std::move(*item.audit));
    if (item.audit && !item.event) AddAudit(std::move(*item.audit), &audit);
    if (item.event) Append(&actions, core_->Handle(*item.event, ReadClock()));
  }
  if (const auto tick = core_->NextTick(); tick && *tick <= clock_.Now())
    Append(&actions, core_->Handle(Tick{}, ReadClock()));

  for (const Effect& effect : actions.effects) {
    const auto* reply = std::get_if<Reply>(&effect);
    if (reply == nullptr) continue;
    auto node = audits_.extract(static_cast<std::uint64_t>(reply->call));
    if (node.empty()) continue;
    node.mapped().code = reply->body.ok() ? "ok" : CodeName(reply->body.error().code);
    if (!reply->body.ok()) node.mapped().message = reply->body.error().message;
    AddAudit(std::move(node.mapped()), &audit);
  }
  if (!actions.writes.empty() || !audit.empty()) {
    std::vector<Store::Write> writes = std::move(audit);
    writes.reserve(writes.size() + actions.writes.size());
    for (const Write& write : actions.writes) writes.push_back(ToStoreWrite(write, options_.sealer.get()));
    if (Status status = store_.Commit(writes); !status.ok()) {
      Log(LogLevel::kError, kComponent, "the store failed; stopping", {{"error", ToString(status.error())}});
      failed_ = true;
      queue_.lock()->stopping = true;
      options_.on_fatal(status.error());
      return;  // Run ends with everybody told
    }
  }
  for (const Write& write : actions.writes) {
    if (write.record) {
      RememberForAuthentication(*write.record);
    } else if (write.kind == Kind::kApiToken) {
      api_tokens_.lock()->erase(write.uid);
    }
  }
  LogChanges(actions.changes);
  history_.Append(actions.changes, clock_.WallMicros());
  log_->Append(std::move(actions.changes));
  for (Effect& effect : actions.effects) Deliver(std::move(effect));
}

void Controller::Deliver(Effect effect) {
  if (auto* reply = std::get_if<Reply>(&effect)) {
    if (auto node = replies_.extract(static_cast<std::uint64_t>(reply->call)))
      node.mapped()(std::move(reply->body));
  } else if (auto* update = std::get_if<UpdateHold>(&effect)) {
    const auto it = holds_.find(static_cast<std::uint64_t>(update->hold));
    if (it != holds_.end()) it->second->OnUpdate(update->claim);
  } else if (auto* end = std::get_if<control::EndHold>(&effect)) {
    if (auto node = holds_.extract(static_cast<std::uint64_t>(end->hold))) node.mapped()->OnEnd(end->status);
  } else if (auto* send = std::get_if<SendToNode>(&effect)) {
    std::shared_ptr<LinkListener> link;
    {
      auto links = links_.lock();
      const auto it = links->find(static_cast<std::uint64_t>(send->link));
      if (it != links->end()) link = it->second;
    }
    if (link) link->OnCommand(std::move(send->command));
  } else if (auto* rehearsal = std::get_if<StartRehearsal>(&effect)) {
    Rehearse(std::move(*rehearsal));
  } else if (auto* close = std::get_if<CloseLink>(&effect)) {
    auto node = links_.lock()->extract(static_cast<std::uint64_t>(close->link));
    if (node) node.mapped()->OnClose(close->status);
  }
}

void Controller::Rehearse(StartRehearsal what) {
  rehearsal_ = std::jthread([this, what = std::move(what)](const std::stop_token& stop) {
    setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), kRehearsalNice);
    const Instant began = clock_.Now();
    auto outlook = std::make_shared<const Outlook>(control::Rehearse(what.nodes, what.demands, {}, stop));
    if (stop.stop_requested()) return;
    Log(LogLevel::kInfo, kComponent, "placement rehearsed",
        {{"claims", what.demands.size()},
         {"nodes", what.nodes.size()},
         {"learnt", outlook->leftover.has_value()},
         {"seconds", std::chrono::duration<double>(clock_.Now() - began).count()}});
    Submit({.event = Rehearsed{std::move(outlook)}});
  });
}

// One line for each step of a claim's and a node's life.
void Controller::LogChanges(const std::vector<Change>& changes) {
  if (!LogEnabled(LogLevel::kInfo)) return;
  const auto is_new = [this](const Change& change, const std::string& uid, int state) {
    if (change.type == ChangeType::kDeleted) {
      logged_states_.erase(uid);
      return false;
    }
    const auto [it, inserted] = logged_states_.emplace(uid, state);
    return inserted || std::exchange(it->second, state) != state;
  };
  for (const Change& change : changes) {
    if (const auto* claim = std::get_if<Claim>(&change.resource)) {
      const Metadata& metadata = claim->metadata;
      if (!is_new(change, metadata.uid, static_cast<int>(claim->status.phase))) continue;
      std::string why;
      for (const Condition& condition : claim->status.conditions) {
        if (!condition.status && condition.type != "Held" && why.empty()) why = condition.message;
      }
      Log(LogLevel::kInfo, kComponent, "claim",
          {{"tenant", metadata.tenant},
           {"name", metadata.name},
           {"uid", metadata.uid},
           {"phase", Name(claim->status.phase)},
           {"why", why}});
    } else if (const auto* node = std::get_if<Node>(&change.resource)) {
      if (!is_new(change, node->metadata.uid, static_cast<int>(node->status.state))) continue;
      Log(LogLevel::kInfo, kComponent, "node",
          {{"name", node->metadata.name},
           {"state", Name(node->status.state)},
           {"endpoint", node->status.endpoint},
           {"gpus", node->status.gpus},
           {"why", node->status.message}});
    }
  }
}

void Controller::Close(const Status& status) {
  Queue rest;
  {
    auto queue = queue_.lock();
    rest.items.swap(queue->items);
    rest.reads.swap(queue->reads);
  }
  for (const Item& item : rest.items) {
    if (item.on_reply) item.on_reply(status.error());
    if (item.hold_listener) item.hold_listener->OnEnd(status);
  }
  for (const auto& read : rest.reads) read(nullptr);
  for (auto& [call, on_reply] : std::exchange(replies_, {})) on_reply(status.error());
  for (auto& [hold, listener] : std::exchange(holds_, {})) listener->OnEnd(status);
  std::unordered_map<std::uint64_t, std::shared_ptr<LinkListener>> links;
  links_.lock()->swap(links);
  for (auto& [link, listener] : links) listener->OnClose(status);
  log_->Close(status);
  Log(LogLevel::kInfo, kComponent, "stopped", {});
}

}  // namespace tulle::control
