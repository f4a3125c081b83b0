// The servers of a controller over one store, for as long as it may use it.
#pragma once

#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "tulle/base/clock.h"
#include "tulle/base/random.h"
#include "tulle/base/result.h"
#include "tulle/control/core/core.h"
#include "tulle/control/store/store.h"
#include "tulle/security/ca.h"
#include "tulle/security/sealer.h"

namespace tulle {

struct ServingOptions {
  std::string listen;       // HOST:PORT; port 0: any free one
  std::string http_listen;  // likewise
  // HOST or HOST:PORT of each controller of the mesh, as clients and nodes are told; never empty.
  std::vector<std::string> advertise;
  std::string state_dir;
  std::vector<std::string> nodes, users;  // that get credentials; the first user is the administrator
  control::CoreOptions core;
  std::shared_ptr<const security::Sealer> sealer;  // of secrets in the store
  std::size_t build_cache_mib = 0;
  int certificate_days = 0;
  int ready_fd = -1;  // gets a line for each server when both listen, and is closed
};

// Of this host, for certificates and for others to reach it by.
std::string HostName();
std::string HostOf(const std::string& address);

// The controller's own certificate, as all its servers show it.
Result<security::PemBundle> ControllerCertificate(const ServingOptions& options,
                                                  security::CertificateAuthority& authority);

// Serves until `stop`, which is no failure. kAborted when the store has failed meanwhile.
Status Serve(const ServingOptions& options, control::Store& store, security::CertificateAuthority& authority,
             const Clock& clock, Random& random, const std::stop_token& stop);

}  // namespace tulle
