#include "tulle/control/serve/streams.h"

#include <deque>
#include <limits>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "tulle/control/api/map.h"
#include "tulle/control/model/rules.h"
#include "tulle/control/serve/event_log.h"

namespace tulle::control {
namespace {

// What both have: who is told, and how it ended.
class StreamBase : public Stream {
 public:
  explicit StreamBase(Wakeup on_more) : on_more_(std::move(on_more)) {}

 protected:
  void Notify() {
    Wakeup on_more;
    {
      const std::lock_guard lock(mutex_);
      on_more = on_more_;
    }
    if (on_more) on_more();
  }
  void End(Status status) {
    {
      const std::lock_guard lock(mutex_);
      if (!end_) end_ = std::move(status);
    }
    Notify();
  }
  // Whether it was open.
  bool Shut() {
    Wakeup on_more;  // what it holds goes outside the lock
    const std::lock_guard lock(mutex_);
    on_more.swap(on_more_);
    return !std::exchange(closed_, true);
  }

  std::mutex mutex_;
  std::optional<Status> end_;
  bool closed_ = false;

 private:
  Wakeup on_more_;
};

class HoldStream final : public StreamBase,
                         public HoldListener,
                         public std::enable_shared_from_this<HoldStream> {
 public:
  HoldStream(Controller& controller, Wakeup on_more)
      : StreamBase(std::move(on_more)), controller_(controller) {}

  void Begin(const Caller& caller, const v1::HoldRequest& request) {
    const HoldId hold = controller_.Hold(OpenHold{.tenant = caller.identity.name,
                                                  .claim = request.claim(),
                                                  .instance = request.instance(),
                                                  .program = request.program(),
                                                  .address = caller.address,
                                                  .api_token = caller.api_token},
                                         shared_from_this());
    bool gone = false;
    {
      const std::lock_guard lock(mutex_);
      hold_ = hold;
      gone = closed_;
    }
    if (gone) controller_.EndHold(hold);
  }

  void OnUpdate(const Claim& claim) override {
    auto response = std::make_unique<v1::HoldResponse>();
    *response->mutable_claim() = ToProto(claim);
    {
      const std::lock_guard lock(mutex_);
      latest_ = std::move(response);  // one that was not taken yet is old news
    }
    Notify();
  }
  void OnEnd(const Status& status) override { End(status); }

  Next Take() override {
    const std::lock_guard lock(mutex_);
    if (latest_ != nullptr) return std::move(latest_);
    if (end_) return *end_;
    return {};
  }
  void Close() override {
    if (!Shut()) return;
    std::optional<HoldId> hold;
    {
      const std::lock_guard lock(mutex_);
      hold = std::exchange(hold_, std::nullopt);
    }
    if (hold) controller_.EndHold(*hold);
  }

 private:
  Controller& controller_;
  std::optional<HoldId> hold_;
  std::unique_ptr<v1::HoldResponse> latest_;
};

class WatchStream final : public StreamBase,
                          public EventLog::Watcher,
                          public std::enable_shared_from_this<WatchStream> {
 public:
  WatchStream(Controller& controller, Caller caller, Wakeup on_more, StillGood still_good)
      : StreamBase(std::move(on_more)),
        controller_(controller),
        caller_(std::move(caller)),
        still_good_(std::move(still_good)) {}

  void Begin(const v1::WatchRequest& request) {
    for (const int kind : request.kinds()) {
      if (kind < v1::CLAIM || kind > v1::SESSION)
        return End(Error{.code = Code::kInvalidArgument,
                         .message = "kinds: " + std::to_string(kind) + " is not a kind"});
      kinds_.insert(static_cast<Kind>(kind));
    }
    live_only_ = request.live_only();
    tenant_ = request.tenant().empty() ? caller_.identity.name : request.tenant();
    const auto self = shared_from_this();
    controller_.Read([self, version = request.resource_version()](const Core* core) {
      if (core == nullptr) {
        return self->End(
            Error{.code = Code::kUnavailable, .message = "the controller is stopping; try again"});
      }
      if (Status status = core->CheckRead(self->caller_.identity.name, self->tenant_); !status.ok()) {
        return self->End(std::move(status));
      }
      {
        const std::lock_guard lock(self->mutex_);
        self->reads_all_ = core->Authorize(self->caller_.identity.name, Permission::kReadAll).ok();
      }
      if (version != 0) return self->Follow(version);
      {
        const std::lock_guard lock(self->mutex_);
        self->Snapshot<Node>(*core);
        self->Snapshot<Gpu>(*core);
        self->Snapshot<Tenant>(*core);
        self->Snapshot<Claim>(*core);
        self->Snapshot<VGpu>(*core);
        self->Snapshot<Session>(*core);
        self->Snapshot<Instance>(*core);
        self->synced_at_ = core->resource_version();
      }
      self->Follow(core->resource_version());
    });
  }

  void OnMore() override { Notify(); }
  void OnClosed(const Status& status) override { End(status); }

  Next Take() override {
    const std::lock_guard lock(mutex_);
    if (end_) return *end_;
    if (!version_) return {};
    const auto end = [this](Status status) -> Next { return end_.emplace(std::move(status)); };
    if (Status good = still_good_(); !good.ok()) return end(std::move(good));
    if (!existing_.empty()) {
      auto event = EventOf(existing_.front());
      existing_.pop_front();
      return event;
    }
    if (synced_at_) {
      auto event = std::make_unique<v1::WatchEvent>();
      event->set_type(v1::WatchEvent::SYNCED);
      event->set_resource_version(*std::exchange(synced_at_, std::nullopt));
      return event;
    }
    auto change =
        controller_.log().Next(&*version_, [this](const Change& candidate) { return Wants(candidate); });
    if (!change.ok()) return end(change.error());
    if (!*change) return {};
    return EventOf(**change);
  }
  void Close() override {
    if (Shut()) controller_.log().Remove(shared_from_this());
  }

 private:
  bool Wants(Kind kind) const { return kinds_.empty() || kinds_.contains(kind); }
  bool Wants(const Change& change) const {
    // A claim has ended before its record goes.
    const bool hidden =
        live_only_ && KindOf(change.resource) == Kind::kClaim && change.type == ChangeType::kDeleted;
    return Wants(KindOf(change.resource)) && !hidden && IsVisible(change.resource);
  }
  // Of tenants those that may be seen, of tenants' resources those asked for, and all that is the mesh's.
  bool IsVisible(const Resource& resource) const {
    if (const auto* tenant = std::get_if<Tenant>(&resource)) {
      return reads_all_ || tenant->metadata.name == caller_.identity.name;
    }
    const std::string& tenant = TenantOf(resource);
    return tenant.empty() || tenant_ == kAllTenants || tenant == tenant_;
  }

  template <typename R>
  void Snapshot(const Core& core) {
    if (!Wants(KindOf(Resource(R{})))) return;
    constexpr std::size_t kAll = std::numeric_limits<std::size_t>::max() - 1;
    Page<R> page;
    if constexpr (std::is_same_v<R, Node> || std::is_same_v<R, Gpu> || std::is_same_v<R, Tenant>) {
      page = core.List<R>("", "", kAll);
    } else {
      page = tenant_ == kAllTenants ? core.ListAll<R>({}, kAll, live_only_)
                                    : core.List<R>(tenant_, "", kAll, live_only_);
    }
    for (R& resource : page.resources) {
      if (IsVisible(resource)) existing_.push_back({ChangeType::kAdded, std::move(resource)});
    }
  }

  void Follow(std::uint64_t version) {
    {
      const std::lock_guard lock(mutex_);
      version_ = version;
      if (closed_) return;
    }
    const auto self = shared_from_this();
    controller_.log().Add(self);
    // Close may have run meanwhile, before there was something to remove.
    bool closed = false;
    {
      const std::lock_guard lock(mutex_);
      closed = closed_;
    }
    if (closed) return controller_.log().Remove(self);
    Notify();
  }

  static std::unique_ptr<v1::WatchEvent> EventOf(const Change& change) {
    auto event = std::make_unique<v1::WatchEvent>();
    event->set_type(static_cast<v1::WatchEvent::Type>(change.type));
    event->set_resource_version(VersionOf(change.resource));
    std::visit([&event](const auto& resource) { Set(event.get(), ToProto(resource)); }, change.resource);
    return event;
  }
  static void Set(v1::WatchEvent* event, v1::Claim claim) { *event->mutable_claim() = std::move(claim); }
  static void Set(v1::WatchEvent* event, v1::VGpu vgpu) { *event->mutable_vgpu() = std::move(vgpu); }
  static void Set(v1::WatchEvent* event, v1::Gpu gpu) { *event->mutable_gpu() = std::move(gpu); }
  static void Set(v1::WatchEvent* event, v1::Node node) { *event->mutable_node() = std::move(node); }
  static void Set(v1::WatchEvent* event, v1::Instance instance) {
    *event->mutable_instance() = std::move(instance);
  }
  static void Set(v1::WatchEvent* event, v1::Session session) {
    *event->mutable_session() = std::move(session);
  }
  static void Set(v1::WatchEvent* event, v1::Tenant tenant) { *event->mutable_tenant() = std::move(tenant); }

  Controller& controller_;
  const Caller caller_;
  const StillGood still_good_;
  std::set<Kind> kinds_;
  std::string tenant_;      // whose resources are watched
  bool reads_all_ = false;  // tenants, too
  bool live_only_ = false;
  std::deque<Change> existing_;
  std::optional<std::uint64_t> synced_at_;
  std::optional<std::uint64_t> version_;  // of the last change seen; nothing until the stream is set up
};

}  // namespace

std::shared_ptr<Stream> OpenWatch(Controller& controller, const Caller& caller,
                                  const v1::WatchRequest& request, Wakeup on_more, StillGood still_good) {
  const auto stream =
      std::make_shared<WatchStream>(controller, caller, std::move(on_more), std::move(still_good));
  stream->Begin(request);
  return stream;
}

std::shared_ptr<Stream> OpenHoldStream(Controller& controller, const Caller& caller,
                                       const v1::HoldRequest& request, Wakeup on_more) {
  const auto stream = std::make_shared<HoldStream>(controller, std::move(on_more));
  stream->Begin(caller, request);
  return stream;
}

}  // namespace tulle::control
