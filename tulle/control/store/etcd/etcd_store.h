// The state of a mesh in etcd, and which of several controllers may change it.
//
// The one that leads holds a key under a lease, which it keeps alive. Every transaction is conditional on
// that key being the one that it made, so that what a controller writes after it has lost the lease, perhaps
// without having noticed, has no effect.
//
// etcd limits a transaction to 128 operations and 1.5 MiB. A larger batch is written beside the state first,
// in parts; one further transaction says that it is whole, and from then on it is carried out, by the next
// leader if need be (a redo log).
#pragma once

#include <functional>
#include <memory>
#include <stop_token>
#include <string>
#include <thread>

#include "tulle/base/guarded.h"
#include "tulle/control/store/etcd/etcd_client.h"
#include "tulle/control/store/store.h"

namespace tulle::control {

struct EtcdLeadership {
  std::string name;  // what others are told of this one while it leads: its address
  // Without a sign of life for so long it leads no more. etcd's least is about 2 s.
  Duration lease = std::chrono::seconds(5);
  // Another one leads, as it calls itself. From the thread that waits in Lead.
  std::function<void(const std::string& leader)> on_standby = [](const std::string&) {};
  // This one leads no more: the store will commit nothing. Once at most, from a thread of the store's; must
  // not destroy it.
  std::function<void()> on_lost = [] {};
};

class EtcdStore final : public Store {
 public:
  // Waits until this process leads. kCancelled once `stop` is requested; other errors when etcd cannot be
  // used at all. As long as no member answers it goes on trying. `clock` must outlive the store.
  static Result<std::unique_ptr<EtcdStore>> Lead(const EtcdOptions& options, EtcdLeadership leadership,
                                                 const Clock& clock, const std::stop_token& stop);
  // Gives the lead up, so that another one may have it at once.
  ~EtcdStore() override;

  // Tries again for as long as this one leads. kAborted when it does no more.
  Status Commit(std::span<const Write> writes) override;
  Result<std::optional<std::string>> Get(const std::string& key) override;
  Result<std::vector<Entry>> Scan(const std::string& prefix) override;

  std::int64_t lease_id() const { return lease_.id; }

 private:
  EtcdStore(std::unique_ptr<EtcdClient> client, std::string prefix, EtcdLeadership leadership,
            const Clock& clock);
  std::string LeaderKey() const { return prefix_ + "leader"; }
  std::string DataKey(const std::string& key) const { return prefix_ + "data/" + key; }
  std::string PendingKey(const std::string& part) const { return prefix_ + "pending/" + part; }

  // Whether it leads now; if not, the lease is not there.
  Result<bool> Campaign(const std::stop_token& stop);
  void KeepAlive(const std::stop_token& stop);
  // Both: kAborted once this one leads no more. Apply is fenced.
  Result<etcdserverpb::RangeResponse> Read(const etcdserverpb::RangeRequest& request);
  Status Apply(const etcdserverpb::TxnRequest& operations);
  // Carries out what an earlier leader has left whole, and forgets what it has not.
  Status Redo();
  Instant LeadsUntil() { return *leads_until_.lock(); }

  const std::string prefix_;
  const EtcdLeadership leadership_;
  const Clock& clock_;
  const std::unique_ptr<EtcdClient> client_;
  EtcdClient::Lease lease_;
  std::int64_t fence_ = 0;  // the revision at which the leader's key was made
  Guarded<Instant> leads_until_;
  std::jthread keeper_;
};

}  // namespace tulle::control
