#include "tulle/session/dial.h"

#include <array>
#include <span>
#include <utility>

#include "tulle/net/local/local.h"
#include "tulle/net/tcp/socket.h"
#include "tulle/net/wait.h"
#include "tulle/session/frame_io.h"
#include "tulle/session/link.h"
#include "tulle/session/secure.h"

namespace tulle::session {
namespace {

// What a refusal means to the person who started the program.
Error Explained(Error error, const Target& target) {
  if (error.code == Code::kPermissionDenied) {
    error.message = "the worker refused grant " + target.grant + " for vGPU " + target.vgpu +
                    " (revoked, ended with its claim, or of another vGPU): " + error.message;
  } else if (error.code == Code::kUnauthenticated) {
    error.message = "the worker has another key for grant " + target.grant + ": " + error.message;
  }
  return error;
}

}  // namespace

Dialer::Dialer(const Target& target, Random* random) : target_(target) {
  std::array<std::byte, kSessionIdBytes> id;
  random->Fill(id);
  identity_ = PskIdentity{target.vgpu, target.grant, ToHex(id), 0};
}

Status Dialer::DialOver(UniqueFd socket, Channel channel, Instant deadline, const Greet& greet) const {
  auto connection = SecureClient(std::move(socket), target_.key, identity_, channel, deadline);
  const Status greeted = connection.ok() ? greet(*std::move(connection), deadline) : connection.error();
  if (!greeted.ok()) return Explained(greeted.error(), target_);
  return OkStatus();
}

Status Dialer::Dial(Instant deadline, const Greet& greet) const {
  const std::vector<std::string>& endpoints = target_.endpoints;
  Error failure{Code::kUnavailable, endpoints.empty() ? "no endpoint is given" : "", Scope::kSession};
  for (std::size_t i = 0; i < endpoints.size(); ++i) {
    const auto one = [&]() -> Status {
      // An endpoint that never answers must not use up the time of those behind it.
      const Instant now = net::Now();
      const Instant until = now + (deadline - now) / static_cast<std::int64_t>(endpoints.size() - i);
      if (net::IsLocalEndpoint(endpoints[i])) {
        TULLE_ASSIGN_OR_RETURN(const net::LocalEndpoint endpoint, net::ParseLocalEndpoint(endpoints[i]));
        TULLE_ASSIGN_OR_RETURN(UniqueFd socket, net::ConnectLocal(endpoint));
        return DialOver(std::move(socket), Channel::kLocal, until, greet);
      }
      TULLE_ASSIGN_OR_RETURN(const net::Endpoint endpoint, net::ParseEndpoint(endpoints[i]));
      TULLE_ASSIGN_OR_RETURN(UniqueFd socket, net::ConnectTcp(endpoint, until));
      return DialOver(std::move(socket), until, greet);
    };
    const Status status = one();
    if (status.ok()) return status;
    const Error& error = status.error();
    if (!failure.message.empty()) failure.message += "; ";
    failure.message += endpoints[i] + ": " + error.message;
    // A worker's answer says more than that another endpoint is silent.
    if (error.code != Code::kUnavailable && error.code != Code::kDeadlineExceeded) {
      failure.code = error.code;
      failure.retry = error.retry;
    }
  }
  return failure.Within("vGPU " + target_.vgpu + " cannot be reached");
}

Result<Dialer::Resumed> Dialer::Resume(const wire::LinkResume& request, std::uint64_t received_bytes,
                                       Instant deadline) const {
  Resumed resumed;
  const auto ask = [&](std::unique_ptr<net::Transport> connection, Instant until) -> Status {
    const wire::LinkHeader header{sizeof request, wire::kLinkResume, received_bytes};
    ByteQueue hello;
    hello.Append(std::as_bytes(std::span(&header, 1)));
    hello.Append(std::as_bytes(std::span(&request, 1)));
    TULLE_RETURN_IF_ERROR(WriteAll(*connection, hello.data(), until));
    TULLE_ASSIGN_OR_RETURN(const wire::LinkHeader answer,
                           ReadLinkHeader(*connection, /*from_client=*/false, until));
    if ((answer.flags & wire::kLinkUnknown) != 0) {
      return Error{Code::kAborted,
                   "the worker does not have the session any more: it was restarted, or has given it up",
                   Scope::kSession, Retry::kUnknownOutcome};
    }
    if ((answer.flags & wire::kLinkResumed) == 0) return Breach(wire::WireResult::kBadSequence);
    resumed = {std::move(connection), answer.received_bytes};
    return OkStatus();
  };
  TULLE_RETURN_IF_ERROR(Dial(deadline, ask));
  return resumed;
}

bool Dialer::IsFinal(const Error& error) {
  switch (error.code) {
    case Code::kAborted:
    case Code::kPermissionDenied:
    case Code::kUnauthenticated:
    case Code::kFailedPrecondition: return true;
    default: return false;
  }
}

}  // namespace tulle::session
