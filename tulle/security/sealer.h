// Seals secrets for storage, so that who has a copy of the store has none of them: AES-256-GCM (NIST SP
// 800-38D) under a key that is kept elsewhere, with a random nonce each, bound to what they are for.
// Thread-safe.
#pragma once

#include <string>
#include <string_view>

#include "tulle/base/random.h"
#include "tulle/base/result.h"
#include "tulle/base/secret.h"

namespace tulle::security {

class Sealer {
 public:
  // The key in the file at `path`, readable by its owner only, made if there is none. `random` must outlive
  // it.
  static Result<Sealer> OpenOrCreate(const std::string& path, Random& random);
  Sealer(Secret key, Random& random) : key_(std::move(key)), random_(&random) {}

  // `context`: what it is for, such as the key under which it is stored; Unseal takes it with the same only.
  std::string Seal(ByteView secret, std::string_view context) const;
  // kDataLoss for anything but what Seal has made with this key and context.
  Result<Secret> Unseal(std::string_view sealed, std::string_view context) const;

 private:
  Secret key_;
  Random* random_;
};

}  // namespace tulle::security
