// The methods of tulle.v1.Mesh over the controller, written once for every protocol that serves them: the
// gRPC server and the JSON server look a method up by its name and hand it a message. Thread-safe.
#pragma once

#include <google/protobuf/message.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "tulle/base/guarded.h"
#include "tulle/base/result.h"
#include "tulle/control/serve/build_store.h"
#include "tulle/control/serve/caller.h"
#include "tulle/control/serve/controller.h"
#include "tulle/control/serve/enrollment.h"
#include "tulle/control/serve/streams.h"

namespace tulle::control {

// What a connection and a call show of who calls.
struct Credential {
  std::string certificate_uri;  // in the verified client certificate; empty: there is none
  std::function<std::string()> certificate_pem;
  std::string authorization;  // the header or metadata of that name
  std::string address;
};

// How often each method was answered with which code. Thread-safe.
class CallCounts {
 public:
  void Count(const std::string& method, std::optional<Code> failure);
  // Prometheus text.
  std::string Render();

 private:
  Guarded<std::map<std::pair<std::string, std::string>, std::uint64_t>> counts_;
};

class MeshService {
 public:
  using MessagePtr = std::unique_ptr<google::protobuf::Message>;
  using OnDone = std::function<void(Result<MessagePtr>)>;

  // `builds` is there for its metrics. It, `controller` and `enrollment` must outlive this.
  MeshService(Controller& controller, BuildStore& builds, Enrollment& enrollment, std::string version);

  // Whether the caller may use this API at all: users only.
  static Status CheckCaller(const Caller& caller);

  // Who that is: by the certificate if there is one, else by an API token. kUnauthenticated when it is
  // nobody, or what it shows has been revoked or has expired.
  Result<Caller> Authenticate(const Credential& shown) const;

  // Whether the caller has shown a certificate, for what a bearer of a token may not do.
  static Status CheckShowsCertificate(const Caller& caller);

  // An empty message for the request of "/tulle.v1.Mesh/<method>" if that is one of the unary methods, else
  // null.
  MessagePtr NewRequest(std::string_view path) const;

  // Runs the method. Precondition: `request` came from NewRequest(path). `done` is called exactly once,
  // perhaps before this returns, perhaps by the strand; it must not block.
  void Run(std::string_view path, const Caller& caller, const google::protobuf::Message& request,
           OnDone done);

  // The same for the methods that answer with a stream.
  MessagePtr NewStreamRequest(std::string_view path) const;
  std::shared_ptr<Stream> Open(std::string_view path, const Caller& caller,
                               const google::protobuf::Message& request, Wakeup on_more);

  Controller& controller() { return controller_; }
  Enrollment& enrollment() { return enrollment_; }
  CallCounts& counts() { return counts_; }
  // All of /metrics. `done` as above.
  void RenderMetrics(std::function<void(std::string)> done);

 private:
  struct Method {
    const google::protobuf::Message* request;  // prototype
    std::function<void(const Caller&, const google::protobuf::Message&, OnDone)> run;
  };
  template <typename Request, typename F>
  void Add(const std::string& name, F run);
  // The event goes to the controller, and into the audit log.
  template <typename Body, typename Event>
  void Change(const std::string& method, const Caller& caller, const google::protobuf::Message& request,
              Event event, OnDone done);
  template <typename Resource, typename GetRequest, typename ListRequest, typename ListResponse, typename F>
  void AddReads(const std::string& singular, const std::string& plural, F repeated);

  Controller& controller_;
  BuildStore& builds_;
  Enrollment& enrollment_;
  const std::string version_;
  std::map<std::string, Method, std::less<>> methods_;  // by path
  CallCounts counts_;
};

}  // namespace tulle::control
