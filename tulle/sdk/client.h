// The C++ client library of the mesh's API. Results are plain structs (tulle/control/model/resources.h),
// failures are Results whose codes are the API's; no gRPC or protobuf type shows.
//
//   TULLE_ASSIGN_OR_RETURN(auto client, tulle::sdk::Client::Connect());
//   TULLE_ASSIGN_OR_RETURN(auto claim, client->CreateClaim({.spec = {.memory_bytes = 1 << 30,
//   .release_when_unheld = true}})); auto hold = client->Hold(claim.metadata.name, {.program = "render"});
//   TULLE_ASSIGN_OR_RETURN(claim, hold->WaitBound());
//   TULLE_ASSIGN_OR_RETURN(auto vgpus, client->Attach(claim.metadata.name));
//
// A Client is thread-safe and may be shared; it owns one connection. Not to be used across fork(2): fork
// first, or exec. Connections are made on first use and again after a break, so Connect succeeds while the
// controller is down.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "tulle/base/clock.h"
#include "tulle/base/result.h"
#include "tulle/control/model/resources.h"
#include "tulle/security/credentials.h"

namespace tulle::sdk {

using control::ApiToken;
using control::AttachedVGpu;
using control::AuditEntry;
using control::Claim;
using control::ClaimExplanation;
using control::ClaimSpec;
using control::Gpu;
using control::Instance;
using control::Labels;
using control::Node;
using control::ResourceEvent;
using control::Session;
using control::Tenant;
using control::TenantUsage;
using control::VGpu;

// How to reach a controller and as whom. Read and written by tulle/security/credentials.h.
using Config = security::Credentials;

// Where the configuration is: $TULLE_CONFIG (a file), else client.conf in the state directory
// (tulle/base/paths.h).
std::string DefaultConfigPath();

// What that file says, if it is there; with $TULLE_API_TOKEN in place of its certificate and key, and
// $TULLE_ENDPOINT and $TULLE_CA_FILE in place of what it says of these, where they are set. With all three no
// file is needed. kNotFound when nothing says where a mesh is.
Result<Config> DefaultConfig();

struct CallOptions {
  // The call fails with kDeadlineExceeded after this long. While the controller cannot be reached a call
  // waits for it up to this long, unless fail_fast.
  Duration timeout = std::chrono::seconds(10);
  // kUnavailable at once when the controller cannot be reached.
  bool fail_fast = false;
  // Whose claims, vGPUs and instances; empty: the caller's own; "-", where it lists: all tenants'.
  // kPermissionDenied where the caller's role does not let it.
  std::string tenant;
};

struct NewClaim {
  std::string name;  // empty: the controller chooses
  Labels labels;
  ClaimSpec spec;  // fields left at 0 get the API's defaults
  std::string
      request_id;  // empty: a fresh random one, so that the library's own retries create one claim only
};

struct HoldOptions {
  std::string instance;  // default: this host's name
  std::string program;   // what runs, for people
};

// As of ClaimSpec; 0: as it is, but that min_compute_percent is then compute_percent where that is given.
struct ClaimSize {
  std::uint32_t compute_percent = 0;
  std::uint32_t min_compute_percent = 0;
  std::uint64_t network_bytes_per_s = 0;
  std::uint64_t memory_bytes = 0;
};

// Says that the claim's user is alive, from construction to destruction (or the death of this process,
// however it dies). A thread of its own keeps the stream open and opens it anew after a break. Thread-safe.
class ClaimHold {
 public:
  virtual ~ClaimHold() = default;

  // The claim as last seen; nothing before the first message has come.
  virtual std::optional<Claim> Latest() const = 0;

  // Waits until the claim's resource version is above `after_version` (0: until anything is known) and
  // returns it. kDeadlineExceeded when nothing newer came; kNotFound, kUnauthenticated, ... when holding
  // failed for good.
  virtual Result<Claim> WaitChange(std::uint64_t after_version, Duration timeout) = 0;

  // Waits until the claim is BOUND. kDeadlineExceeded carries what it waits for, kFailedPrecondition why the
  // claim ended instead.
  virtual Result<Claim> WaitBound(Duration timeout = std::chrono::minutes(10)) = 0;

  // False from the first break of the stream that has not been mended.
  virtual bool connected() const = 0;
};

enum class Kind { kClaim = 1, kVGpu = 2, kGpu = 3, kNode = 4, kInstance = 5, kTenant = 6, kSession = 7 };
enum class EventType { kAdded = 1, kModified = 2, kDeleted = 3, kSynced = 4 };

struct Event {
  EventType type = EventType::kSynced;
  std::uint64_t resource_version = 0;  // resume from here
  std::variant<std::monostate, Claim, VGpu, Gpu, Node, Instance, Tenant, Session> resource;
};

// One stream of changes. Next is called by one thread; Cancel by any.
class Watch {
 public:
  virtual ~Watch() = default;
  // Blocks for the next event. kOutOfRange: the controller no longer has the changes since then, watch from 0
  // (or list) again. kUnavailable: the connection broke, watch again from the last event's version.
  // kCancelled after Cancel.
  virtual Result<Event> Next() = 0;
  virtual void Cancel() = 0;
};

struct NewToken {
  std::string text;  // secret
  control::WallMicros expire_time_us = 0;
};

struct NewApiToken {
  ApiToken token;
  std::string secret;  // for "authorization: Bearer", and Config::api_token
};

struct MeshInfo {
  std::string version;  // of the controller
  std::string caller;   // "tulle://user/alice"
  Duration hold_grace{};
  std::uint32_t nodes_ready = 0;
  std::uint32_t gpus = 0;
};

class Client {
 public:
  // `config`, or DefaultConfig(). kNotFound when there is none (start a mesh, or set
  // TULLE_CONFIG); kInvalidArgument when it or a file that it names cannot be used. Does not wait for the
  // controller.
  static Result<std::unique_ptr<Client>> Connect(const Config& config);
  static Result<std::unique_ptr<Client>> Connect();

  virtual ~Client() = default;

  virtual Result<MeshInfo> GetMesh(const CallOptions& options = {}) = 0;

  virtual Result<Claim> CreateClaim(const NewClaim& claim, const CallOptions& options = {}) = 0;
  // Releases it (phase RELEASED); a claim that has ended already is removed.
  virtual Result<Claim> DeleteClaim(const std::string& name, const CallOptions& options = {}) = 0;
  // Another share for each of the claim's vGPUs, while programs use them. kResourceExhausted: a GPU, or the
  // tenant's quota, has no room.
  virtual Result<Claim> ResizeClaim(const std::string& name, const ClaimSize& size,
                                    const CallOptions& options = {}) = 0;
  virtual Result<std::vector<AttachedVGpu>> Attach(const std::string& claim,
                                                   const CallOptions& options = {}) = 0;
  // Revokes all grants of the claim; the next Attach makes new ones.
  virtual Status Detach(const std::string& claim, const CallOptions& options = {}) = 0;
  // Empties the node: it takes no new vGPUs, and what it still has after the grace is given up. As
  // CordonNode, which ends it.
  virtual Result<Node> DrainNode(const std::string& name, Duration grace,
                                 const CallOptions& options = {}) = 0;
  // Whether the node takes new vGPUs. kPermissionDenied for all but operators and administrators of the
  // mesh.
  virtual Result<Node> CordonNode(const std::string& name, bool cordoned,
                                  const CallOptions& options = {}) = 0;
  virtual Result<Gpu> CordonGpu(const std::string& name, bool cordoned, const CallOptions& options = {}) = 0;
  // Sets the node's taints. As CordonNode.
  virtual Result<Node> TaintNode(const std::string& name, const Labels& taints,
                                 const CallOptions& options = {}) = 0;
  // A one-time token with which a host joins as a node (`name` may be empty then: it chooses), or somebody
  // logs in as a user. kPermissionDenied for all but administrators of the mesh, and operators for nodes.
  virtual Result<NewToken> CreateToken(control::JoinRole role, const std::string& name, Duration lifetime,
                                       const CallOptions& options = {}) = 0;
  // All certificates that it has so far are void. For administrators.
  virtual Status RevokeCertificates(control::JoinRole role, const std::string& name,
                                    const CallOptions& options = {}) = 0;
  // A secret by which programs without a certificate call as the caller's tenant (lifetime 0: the
  // controller's default). kPermissionDenied when called by one itself.
  virtual Result<NewApiToken> CreateApiToken(const std::string& description, Duration lifetime,
                                             const CallOptions& options = {}) = 0;
  virtual Result<std::vector<ApiToken>> ListApiTokens(const CallOptions& options = {}) = 0;
  virtual Result<ApiToken> DeleteApiToken(const std::string& id, const CallOptions& options = {}) = 0;
  // Sets the tenant's whole spec; it need not be there. kAborted when `tenant` has a resource version and has
  // changed since. Both for administrators.
  virtual Result<Tenant> UpdateTenant(const Tenant& tenant, const CallOptions& options = {}) = 0;
  // kFailedPrecondition while it has claims that have not ended.
  virtual Result<Tenant> DeleteTenant(const std::string& name, const CallOptions& options = {}) = 0;
  // Never null; problems show in the hold's own results. The client must outlive it.
  virtual std::unique_ptr<ClaimHold> Hold(const std::string& claim, const HoldOptions& options = {}) = 0;

  // By name or uid.
  // Why the claim is where it is, or what it waits for, and where one more vGPU like its own could go: at
  // most `most_nodes` nodes (0: the controller's default).
  virtual Result<ClaimExplanation> ExplainClaim(const std::string& name, std::uint32_t most_nodes = 0,
                                                const CallOptions& options = {}) = 0;
  virtual Result<Claim> GetClaim(const std::string& name, const CallOptions& options = {}) = 0;
  virtual Result<VGpu> GetVGpu(const std::string& name, const CallOptions& options = {}) = 0;
  virtual Result<Gpu> GetGpu(const std::string& name, const CallOptions& options = {}) = 0;
  virtual Result<Node> GetNode(const std::string& name, const CallOptions& options = {}) = 0;
  virtual Result<Instance> GetInstance(const std::string& name, const CallOptions& options = {}) = 0;

  virtual Result<Session> GetSession(const std::string& name, const CallOptions& options = {}) = 0;
  virtual Result<Tenant> GetTenant(const std::string& name, const CallOptions& options = {}) = 0;

  // What options.tenant has had since then (0: all that is known), in whole hours.
  virtual Result<std::vector<TenantUsage>> GetUsage(control::WallMicros since_us,
                                                    const CallOptions& options = {}) = 0;
  // The latest `most` (0: the controller's default) calls since then that changed something, or were to; the
  // latest last. `caller`: "tulle://user/bob", or empty. For operators and administrators.
  virtual Result<std::vector<AuditEntry>> ListAudit(control::WallMicros since_us, const std::string& caller,
                                                    std::uint32_t most, const CallOptions& options = {}) = 0;

  // What has happened lately to resources of that kind and name, or uid (without: to all): the latest `most`
  // (0: the controller's default), the latest last. options.tenant as for lists.
  virtual Result<std::vector<ResourceEvent>> ListEvents(std::optional<Kind> kind, const std::string& name,
                                                        std::uint32_t most,
                                                        const CallOptions& options = {}) = 0;

  // All pages.
  virtual Result<std::vector<Claim>> ListClaims(const CallOptions& options = {}) = 0;
  // Those that have not ended: PENDING and BOUND.
  virtual Result<std::vector<Claim>> ListLiveClaims(const CallOptions& options = {}) = 0;
  virtual Result<std::vector<VGpu>> ListVGpus(const CallOptions& options = {}) = 0;
  virtual Result<std::vector<Gpu>> ListGpus(const CallOptions& options = {}) = 0;
  virtual Result<std::vector<Node>> ListNodes(const CallOptions& options = {}) = 0;
  virtual Result<std::vector<Instance>> ListInstances(const CallOptions& options = {}) = 0;
  virtual Result<std::vector<Session>> ListSessions(const CallOptions& options = {}) = 0;
  virtual Result<std::vector<Tenant>> ListTenants(const CallOptions& options = {}) = 0;

  // No kinds: all. From version 0: what exists as kAdded, then kSynced, then changes. With live_only, the
  // last of a claim is the kModified of its end, and claims that have ended are not among what exists. The
  // client must outlive it. `tenant`: as in CallOptions.
  virtual std::unique_ptr<Watch> WatchChanges(const std::vector<Kind>& kinds,
                                              std::uint64_t resource_version = 0, bool live_only = false,
                                              const std::string& tenant = "") = 0;

  // The controller may be unreachable; that is an error of each call, never of these.
  virtual const Config& config() const = 0;

  // A resource as the API's JSON (two spaces of indent), for output and scripts.
  static std::string ToJson(const Claim& claim);
  static std::string ToJson(const ClaimExplanation& explanation);
  static std::string ToJson(const VGpu& vgpu);
  static std::string ToJson(const Gpu& gpu);
  static std::string ToJson(const Node& node);
  static std::string ToJson(const Instance& instance);
  static std::string ToJson(const Session& session);
  static std::string ToJson(const Tenant& tenant);
  static std::string ToJson(const TenantUsage& usage);
  static std::string ToJson(const AuditEntry& entry);
  static std::string ToJson(const ResourceEvent& event);
  static std::string ToJson(const ApiToken& token);
};

}  // namespace tulle::sdk
