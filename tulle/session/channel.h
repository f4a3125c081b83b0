// What a session's bytes go through.
#pragma once

#include <cstdint>
#include <string_view>

namespace tulle::session {

enum class Channel : std::uint8_t {
  kTls,    // TLS 1.3 with a pre-shared key
  kTcp,    // TCP alone, after a proof of the key: where the operator trusts the network
  kLocal,  // a unix socket of the host, after a proof of the key: nothing leaves the host
};

constexpr std::string_view ChannelName(Channel channel) {
  switch (channel) {
    case Channel::kTls: return "tls";
    case Channel::kTcp: return "tcp";
    case Channel::kLocal: return "local";
  }
  return "unknown";
}

}  // namespace tulle::session
