// A core with a clock, a store that survives it, and what it said last, for tests.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tulle/base/random.h"
#include "tulle/control/core/core.h"

namespace tulle::control {

using namespace std::chrono_literals;
inline constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;
inline constexpr LinkId kLink{1};

class CoreTest : public ::testing::Test {
 protected:
  CoreTest() { StartCore(); }

  void StartCore() {
    options_.admins = {"root"};
    core_ = std::make_unique<Core>(options_, random_, ++epoch_ << 40);
    std::vector<Record> records;
    for (const auto& [key, record] : store_) records.push_back(record);
    const Status status = core_->Load(std::move(records), now_);
    ASSERT_TRUE(status.ok()) << status.error().message;
  }

  void Do(const Event& event) {
    Actions actions = core_->Handle(event, now_);
    for (Write& write : actions.writes) {
      if (write.record) {
        store_.insert_or_assign({write.kind, write.uid}, std::move(*write.record));
      } else {
        store_.erase({write.kind, write.uid});
      }
    }
    changes_ = std::move(actions.changes);
    commands_.clear();
    std::vector<SendToNode> orders;
    for (Effect& effect : actions.effects) {
      if (auto* reply = std::get_if<Reply>(&effect))
        replies_.insert_or_assign(reply->call, std::move(reply->body));
      if (auto* send = std::get_if<SendToNode>(&effect)) {
        if (obey_) orders.push_back(*send);
        commands_.push_back(std::move(send->command));
      }
      if (auto* end = std::get_if<EndHold>(&effect)) ended_.insert_or_assign(end->hold, end->status);
      if (auto* update = std::get_if<UpdateHold>(&effect))
        held_.insert_or_assign(update->hold, update->claim);
      if (auto* close = std::get_if<CloseLink>(&effect)) closed_.insert_or_assign(close->link, close->status);
      if (auto* rehearsal = std::get_if<StartRehearsal>(&effect))
        rehearsals_.push_back(std::move(*rehearsal));
    }
    for (const SendToNode& order : orders) {
      if (const auto* create = std::get_if<CreateVGpu>(&order.command)) {
        Do(ReportVGpu{order.link, ReadyReport(*create)});
      } else if (const auto* remove = std::get_if<DeleteVGpu>(&order.command)) {
        Do(ReportVGpu{order.link, {.uid = remove->uid, .state = ReportedState::kDeleted}});
      }
    }
  }

  // Moves time and wakes the core when it wants to be woken.
  void Advance(Duration by) {
    const Instant end = now_.mono + by;
    while (core_->NextTick() && *core_->NextTick() <= end) {
      MoveTo(std::max(now_.mono, *core_->NextTick()));
      Do(Tick{});
    }
    MoveTo(end);
  }
  // The same while the nodes of `links` keep sending heartbeats.
  void AdvanceBeating(Duration by, const std::vector<LinkId>& links) {
    for (const Instant end = now_.mono + by; now_.mono < end;) {
      for (const LinkId link : links) Do(NodeHeartbeat{.link = link});
      Advance(std::min<Duration>(1s, end - now_.mono));
    }
  }
  void MoveTo(Instant to) {
    now_.wall_us += std::chrono::duration_cast<std::chrono::microseconds>(to - now_.mono).count();
    now_.mono = to;
  }

  // Records in the store, but for tenants and what they have used.
  std::size_t Kept() const {
    std::size_t kept = 0;
    for (const auto& [key, record] : store_) kept += key.first != Kind::kTenant && key.first != Kind::kUsage;
    return kept;
  }

  CallId NextCall() { return CallId{++calls_}; }
  Result<ReplyBody> Call(auto event) {
    event.call = NextCall();
    Do(event);
    const auto it = replies_.find(event.call);
    if (it == replies_.end()) return Error{.code = Code::kUnknown, .message = "no reply"};
    return it->second;
  }
  Claim Create(const std::string& name, ClaimSpec spec = {}) {
    auto reply = Call(CreateClaim{.tenant = "alice", .name = name, .spec = std::move(spec)});
    EXPECT_TRUE(reply.ok()) << reply.error().message;
    return std::get<Claim>(*reply);
  }
  Claim Get(const std::string& name) { return core_->Get<Claim>("alice", name).value_or(Claim{}); }

  RegisterNode Registration(LinkId link = kLink, const std::string& name = "a",
                            std::uint64_t memory = 8 * kGiB) {
    return {.link = link,
            .name = name,
            .endpoint = name + ":7",
            .local_endpoint = "local:" + name,
            .gpus = {{.description = {.type = "cpu", .apis = {DeviceApi::kOpenCl}, .memory_bytes = memory},
                      .allocatable_memory_bytes = memory,
                      .allocatable_spill_bytes = memory}}};
  }
  template <typename C>
  std::vector<C> Commands() const {
    std::vector<C> found;
    for (const NodeCommand& command : commands_) {
      if (const auto* it = std::get_if<C>(&command)) found.push_back(*it);
    }
    return found;
  }
  VGpuReport ReadyReport(const CreateVGpu& command) {
    VGpuReport report{.uid = command.uid, .state = ReportedState::kReady};
    for (const Grant& grant : command.grants) report.grant_ids.push_back(grant.id);
    return report;
  }
  // A node that makes what it is told to make at once.
  void Comply(LinkId link = kLink) {
    for (const CreateVGpu& command : Commands<CreateVGpu>()) Do(ReportVGpu{link, ReadyReport(command)});
  }

  bool obey_ = false;  // nodes make and end what they are told to, at once
  CoreOptions options_;
  SeededRandom random_{1};
  Now now_{.mono = {1'000'000'000}, .wall_us = 1'700'000'000'000'000};
  std::uint64_t epoch_ = 0;
  std::unique_ptr<Core> core_;
  std::map<std::pair<Kind, std::string>, Record> store_;
  std::vector<Change> changes_;
  std::vector<NodeCommand> commands_;
  std::map<CallId, Result<ReplyBody>> replies_;
  std::map<HoldId, Status> ended_;
  std::map<HoldId, Claim> held_;
  std::map<LinkId, Status> closed_;
  std::vector<StartRehearsal> rehearsals_;
  std::uint64_t calls_ = 0;
};

}  // namespace tulle::control
