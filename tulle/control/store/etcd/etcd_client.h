// The calls to etcd that a store makes, each tried again at another member until it is answered or its time
// is over. Thread-safe.
#pragma once

#include <grpcpp/client_context.h>
#include <grpcpp/support/status.h>

#include <atomic>
#include <functional>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "tulle/base/clock.h"
#include "tulle/base/result.h"

namespace etcdserverpb {
class RangeRequest;
class RangeResponse;
class TxnRequest;
class TxnResponse;
}  // namespace etcdserverpb

namespace tulle::control {

struct EtcdOptions {
  // http://HOST:PORT or https://HOST:PORT of each member, all of one kind. http is for this host only: what
  // is stored opens vGPUs.
  std::vector<std::string> endpoints;
  std::string prefix = "tulle/";  // of all keys; a mesh each
  // For https: PEM texts. An empty CA: those of the system. Certificate and key are for members that ask.
  std::string ca_pem, certificate_pem, key_pem;
};

class EtcdClient {
 public:
  // Does not wait for a connection. kInvalidArgument for options that are not as documented. `clock` must
  // outlive it.
  static Result<std::unique_ptr<EtcdClient>> Open(const EtcdOptions& options, const Clock& clock);
  ~EtcdClient();

  struct Lease {
    std::int64_t id = 0;
    Duration time_to_live{};
  };

  // All of these give up at `until`, or once `stop` is requested: kUnavailable, with an unknown outcome.
  Result<etcdserverpb::RangeResponse> Range(const etcdserverpb::RangeRequest& request, Instant until,
                                            const std::stop_token& stop);
  Result<etcdserverpb::TxnResponse> Txn(const etcdserverpb::TxnRequest& request, Instant until,
                                        const std::stop_token& stop);
  Result<Lease> Grant(Duration time_to_live, Instant until, const std::stop_token& stop);
  // False: there is no such lease any more.
  Result<bool> KeepAlive(std::int64_t lease, Instant until, const std::stop_token& stop);
  void Revoke(std::int64_t lease, Instant until);

  // Returns when `key` has changed after `revision`; or else for no reason, which is always allowed: look
  // again.
  void WaitForChange(const std::string& key, std::int64_t revision, Duration at_most,
                     const std::stop_token& stop);

 private:
  struct Member;
  explicit EtcdClient(const Clock& clock);
  Status Try(Instant until, const std::stop_token& stop,
             const std::function<grpc::Status(Member&, grpc::ClientContext*)>& call);
  void Pause();

  const Clock& clock_;
  std::vector<std::unique_ptr<Member>> members_;
  std::atomic<std::size_t> current_ = 0;  // the member that is asked: the last that answered, or the next one
};

}  // namespace tulle::control
