// An object of OpenSSL's that is freed with its owner: Owned<SSL, SSL_free>.
#pragma once

#include <memory>

namespace tulle::net {

template <typename T, void (*Free)(T*)>
struct Freer {
  void operator()(T* object) const { Free(object); }
};
template <typename T, void (*Free)(T*)>
using Owned = std::unique_ptr<T, Freer<T, Free>>;

}  // namespace tulle::net
