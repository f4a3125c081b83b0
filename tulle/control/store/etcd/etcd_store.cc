#include "tulle/control/store/etcd/etcd_store.h"

#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <map>
#include <mutex>
#include <utility>

#include "tulle/base/log.h"
#include "tulle/control/store/etcd/etcd.pb.h"

namespace tulle::control {
namespace {

namespace pb = etcdserverpb;

constexpr char kComponent[] = "etcd";
// Of one transaction, below etcd's own limits (--max-txn-ops, --max-request-bytes). A part of a batch is a
// value of its own, too.
constexpr int kMaxOperations = 100;
constexpr std::size_t kMaxBytes = kMaxStoreValueBytes + kMaxStoreKeyBytes + 4'096;
constexpr std::int64_t kPage = 1'000;
constexpr char kWhole[] = "whole";  // the key that says how many parts there are
constexpr Duration kFirstAnswer = std::chrono::seconds(10);
constexpr int kSignsOfLifePerLease = 3;

// The first key after all that start with `prefix`.
std::string EndOf(std::string prefix) {
  while (!prefix.empty() && prefix.back() == '\xff') prefix.pop_back();
  if (!prefix.empty()) ++prefix.back();
  return prefix;
}

std::string PartName(std::size_t number) {
  char name[24];
  std::snprintf(name, sizeof name, "%08zu", number);
  return name;
}

Error NotLeading() {
  return Error{.code = Code::kAborted,
               .message = "this controller leads no more: another one may have changed the state since"};
}

}  // namespace

EtcdStore::EtcdStore(std::unique_ptr<EtcdClient> client, std::string prefix, EtcdLeadership leadership,
                     const Clock& clock)
    : prefix_(std::move(prefix)),
      leadership_(std::move(leadership)),
      clock_(clock),
      client_(std::move(client)) {}

EtcdStore::~EtcdStore() {
  keeper_ = {};
  // What has been lost need not be given up.
  if (lease_.id != 0) client_->Revoke(lease_.id, LeadsUntil());
}

Result<std::unique_ptr<EtcdStore>> EtcdStore::Lead(const EtcdOptions& options, EtcdLeadership leadership,
                                                   const Clock& clock, const std::stop_token& stop) {
  TULLE_ASSIGN_OR_RETURN(std::unique_ptr<EtcdClient> client, EtcdClient::Open(options, clock));
  std::unique_ptr<EtcdStore> store(
      new EtcdStore(std::move(client), options.prefix, std::move(leadership), clock));
  for (;;) {
    if (stop.stop_requested()) return Error{.code = Code::kCancelled, .message = "stopped"};
    const Result<bool> leads = store->Campaign(stop);
    if (!leads.ok() && leads.error().code != Code::kUnavailable) return leads.error();
    if (!leads.ok()) {
      Log(LogLevel::kWarn, kComponent, "no answer; tried again", {{"error", leads.error().message}});
    } else if (*leads) {
      break;
    }
  }
  store->keeper_ =
      std::jthread([store = store.get()](const std::stop_token& token) { store->KeepAlive(token); });
  TULLE_RETURN_IF_ERROR(store->Redo());
  return store;
}

Result<bool> EtcdStore::Campaign(const std::stop_token& stop) {
  const auto soon = [this] { return clock_.Now() + kFirstAnswer; };
  pb::RangeRequest who;
  who.set_key(LeaderKey());
  TULLE_ASSIGN_OR_RETURN(const pb::RangeResponse leader, client_->Range(who, soon(), stop));
  if (leader.kvs_size() > 0) {
    leadership_.on_standby(leader.kvs(0).value());
    client_->WaitForChange(LeaderKey(), leader.header().revision(), 2 * leadership_.lease, stop);
    return false;
  }
  const Instant asked = clock_.Now();
  TULLE_ASSIGN_OR_RETURN(lease_, client_->Grant(leadership_.lease, soon(), stop));
  pb::TxnRequest claim;
  pb::Compare& nobody = *claim.add_compare();
  nobody.set_target(pb::Compare::VERSION);
  nobody.set_key(LeaderKey());
  nobody.set_version(0);
  pb::PutRequest& put = *claim.add_success()->mutable_request_put();
  put.set_key(LeaderKey());
  put.set_value(leadership_.name);
  put.set_lease(lease_.id);
  const Result<pb::TxnResponse> claimed = client_->Txn(claim, asked + lease_.time_to_live, stop);
  // After a try without an answer the key may be ours or not: this lease tells which.
  TULLE_ASSIGN_OR_RETURN(const pb::RangeResponse now, client_->Range(who, soon(), stop));
  if (now.kvs_size() > 0 && now.kvs(0).lease() == lease_.id) {
    fence_ = now.kvs(0).create_revision();
    *leads_until_.lock() = asked + lease_.time_to_live;
    return true;
  }
  client_->Revoke(std::exchange(lease_.id, 0), soon());
  return false;
}

void EtcdStore::KeepAlive(const std::stop_token& stop) {
  std::mutex mutex;
  std::condition_variable_any never;
  const Duration interval = lease_.time_to_live / kSignsOfLifePerLease;
  while (!stop.stop_requested()) {
    {
      std::unique_lock lock(mutex);
      never.wait_for(lock, stop, interval, [] { return false; });
    }
    const Instant asked = clock_.Now();
    const Result<bool> alive = client_->KeepAlive(lease_.id, LeadsUntil(), stop);
    if (stop.stop_requested()) return;
    if (alive.ok() && *alive) {
      *leads_until_.lock() = asked + lease_.time_to_live;
    } else if ((alive.ok() && !*alive) || clock_.Now() >= LeadsUntil()) {
      *leads_until_.lock() = clock_.Now();
      Log(LogLevel::kWarn, kComponent, "leads no more",
          {{"why", alive.ok() ? "the lease has ended" : alive.error().message}});
      return leadership_.on_lost();
    }
  }
}

Status EtcdStore::Apply(const pb::TxnRequest& operations) {
  pb::TxnRequest fenced = operations;
  pb::Compare& mine = *fenced.add_compare();
  mine.set_target(pb::Compare::CREATE);
  mine.set_key(LeaderKey());
  mine.set_create_revision(fence_);
  // Nobody else writes while this one leads, so a try that did have its effect may be made again.
  const Result<pb::TxnResponse> done = client_->Txn(fenced, LeadsUntil(), {});
  if (done.ok()) return done->succeeded() ? OkStatus() : Status(NotLeading());
  return done.error().code == Code::kUnavailable ? NotLeading() : done.error();
}

Result<pb::RangeResponse> EtcdStore::Read(const pb::RangeRequest& request) {
  Result<pb::RangeResponse> response = client_->Range(request, LeadsUntil(), {});
  if (!response.ok() && response.error().code == Code::kUnavailable) return NotLeading();
  return response;
}

Status EtcdStore::Commit(std::span<const Write> writes) {
  TULLE_RETURN_IF_ERROR(CheckWrites(writes));
  if (writes.empty()) return OkStatus();
  // A transaction of etcd may name a key once: the last write of each counts.
  std::map<std::string_view, const Write*> last;
  for (const Write& write : writes) last[write.key] = &write;
  std::vector<pb::TxnRequest> parts(1);
  std::size_t bytes = 0;
  for (const auto& [key, write] : last) {
    const std::size_t size = key.size() + (write->value ? write->value->size() : 0);
    if (parts.back().success_size() == kMaxOperations ||
        (parts.back().success_size() > 0 && bytes + size > kMaxBytes)) {
      parts.emplace_back();
      bytes = 0;
    }
    bytes += size;
    pb::RequestOp& operation = *parts.back().add_success();
    if (write->value) {
      operation.mutable_request_put()->set_key(DataKey(write->key));
      operation.mutable_request_put()->set_value(*write->value);
    } else {
      operation.mutable_request_delete_range()->set_key(DataKey(write->key));
    }
  }
  if (parts.size() == 1) return Apply(parts.front());

  const auto put = [this](const std::string& part, std::string value) {
    pb::TxnRequest operations;
    operations.add_success()->mutable_request_put()->set_key(PendingKey(part));
    operations.mutable_success(0)->mutable_request_put()->set_value(std::move(value));
    return Apply(operations);
  };
  for (std::size_t i = 0; i < parts.size(); ++i) {
    pb::PendingPart pending;
    *pending.mutable_ops() = parts[i].success();
    TULLE_RETURN_IF_ERROR(put(PartName(i), pending.SerializeAsString()));
  }
  TULLE_RETURN_IF_ERROR(put(kWhole, std::to_string(parts.size())));
  return Redo();
}

Status EtcdStore::Redo() {
  pb::RangeRequest range;
  range.set_key(PendingKey(""));
  range.set_range_end(EndOf(PendingKey("")));
  range.set_limit(1);
  TULLE_ASSIGN_OR_RETURN(pb::RangeResponse found, Read(range));
  if (found.kvs_size() == 0) return OkStatus();
  pb::RangeRequest one;
  one.set_key(PendingKey(kWhole));
  TULLE_ASSIGN_OR_RETURN(const pb::RangeResponse whole, Read(one));
  const std::size_t parts = whole.kvs_size() == 0 ? 0 : std::stoul(whole.kvs(0).value());
  for (std::size_t i = 0; i < parts; ++i) {
    one.set_key(PendingKey(PartName(i)));
    TULLE_ASSIGN_OR_RETURN(const pb::RangeResponse part, Read(one));
    pb::PendingPart pending;
    if (part.kvs_size() == 0 || !pending.ParseFromString(part.kvs(0).value())) {
      return Error{
          .code = Code::kDataLoss,
          .message = "etcd: part " + std::to_string(i) + " of a batch is not there; restore a backup"};
    }
    pb::TxnRequest operations;
    *operations.mutable_success() = pending.ops();
    TULLE_RETURN_IF_ERROR(Apply(operations));
  }
  pb::TxnRequest forget;
  pb::DeleteRangeRequest& all = *forget.add_success()->mutable_request_delete_range();
  all.set_key(PendingKey(""));
  all.set_range_end(EndOf(PendingKey("")));
  return Apply(forget);
}

Result<std::optional<std::string>> EtcdStore::Get(const std::string& key) {
  pb::RangeRequest request;
  request.set_key(DataKey(key));
  TULLE_ASSIGN_OR_RETURN(const pb::RangeResponse response, Read(request));
  if (response.kvs_size() == 0) return std::optional<std::string>();
  return std::optional(response.kvs(0).value());
}

Result<std::vector<Store::Entry>> EtcdStore::Scan(const std::string& prefix) {
  const std::size_t skipped = DataKey("").size();
  pb::RangeRequest request;
  request.set_key(DataKey(prefix));
  request.set_range_end(EndOf(DataKey(prefix)));
  request.set_limit(kPage);
  std::vector<Entry> entries;
  for (;;) {
    TULLE_ASSIGN_OR_RETURN(const pb::RangeResponse response, Read(request));
    for (const pb::KeyValue& entry : response.kvs()) {
      entries.emplace_back(entry.key().substr(skipped), entry.value());
    }
    if (!response.more() || response.kvs_size() == 0) return entries;
    request.set_key(response.kvs(response.kvs_size() - 1).key() + '\0');
    request.set_revision(response.header().revision());
  }
}

}  // namespace tulle::control
