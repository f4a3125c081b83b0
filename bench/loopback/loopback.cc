// Yardsticks: what plain TCP and plain OpenSSL TLS 1.3 cost between two processes over loopback, with nothing
// of tulle in the way. Prints one JSON object: median and p99 of a 64-byte round trip in microseconds, and
// the rate of copying 64 MiB in 256 KiB writes in GB/s; and that of a memcpy of 64 MiB.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "bench/now.h"

namespace {

constexpr std::size_t kPingBytes = 64;
constexpr int kWarmUpPings = 200;
constexpr int kPings = 3000;
constexpr std::size_t kChunkBytes = 256 << 10;
constexpr std::size_t kCopyBytes = 64 << 20;
constexpr int kCopies = 3;

[[noreturn]] void Die(const char* what) {
  std::perror(what);
  std::exit(1);
}

// A connected socket, with TLS on it or not.
class Pipe {
 public:
  Pipe(int fd, SSL* ssl) : fd_(fd), ssl_(ssl) {}

  void Write(const char* data, std::size_t size) {
    while (size > 0) {
      const auto done = ssl_ ? SSL_write(ssl_, data, static_cast<int>(size)) : write(fd_, data, size);
      if (done <= 0) Die("write");
      data += done;
      size -= static_cast<std::size_t>(done);
    }
  }
  void Read(char* data, std::size_t size) {
    while (size > 0) {
      const auto done = ssl_ ? SSL_read(ssl_, data, static_cast<int>(size)) : read(fd_, data, size);
      if (done <= 0) Die("read");
      data += done;
      size -= static_cast<std::size_t>(done);
    }
  }

 private:
  int fd_;
  SSL* ssl_;
};

// The key exchange and cipher that tulle's data plane uses: TLS 1.3, ECDHE-PSK, AES-128-GCM.
unsigned ClientPsk(SSL*, const char*, char* identity, unsigned identity_size, unsigned char* psk, unsigned) {
  std::snprintf(identity, identity_size, "bench");
  std::memset(psk, 7, 32);
  return 32;
}
unsigned ServerPsk(SSL*, const char*, unsigned char* psk, unsigned) {
  std::memset(psk, 7, 32);
  return 32;
}

SSL* Handshake(int fd, bool server) {
  SSL_CTX* context = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
  SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
  SSL_CTX_set_ciphersuites(context, "TLS_AES_128_GCM_SHA256");
  SSL_CTX_set_num_tickets(context, 0);
  if (server) {
    SSL_CTX_set_psk_server_callback(context, ServerPsk);
  } else {
    SSL_CTX_set_psk_client_callback(context, ClientPsk);
  }
  SSL* ssl = SSL_new(context);
  SSL_set_fd(ssl, fd);
  if ((server ? SSL_accept(ssl) : SSL_connect(ssl)) != 1) Die("TLS handshake");
  return ssl;
}

void Echo(Pipe pipe) {
  std::vector<char> chunk(kChunkBytes);
  for (int i = 0; i < kWarmUpPings + kPings; ++i) {
    pipe.Read(chunk.data(), kPingBytes);
    pipe.Write(chunk.data(), kPingBytes);
  }
  for (int copy = 0; copy <= kCopies; ++copy) {
    for (std::size_t done = 0; done < kCopyBytes; done += kChunkBytes) pipe.Read(chunk.data(), kChunkBytes);
    pipe.Write(chunk.data(), 1);
  }
}

void Measure(Pipe pipe, const char* name, const char* separator) {
  std::vector<char> chunk(kChunkBytes, 'x');
  std::vector<double> pings_us;
  for (int i = 0; i < kWarmUpPings + kPings; ++i) {
    const double start = NowUs();
    pipe.Write(chunk.data(), kPingBytes);
    pipe.Read(chunk.data(), kPingBytes);
    if (i >= kWarmUpPings) pings_us.push_back(NowUs() - start);
  }
  std::vector<double> copies_us;
  for (int copy = 0; copy <= kCopies; ++copy) {
    const double start = NowUs();
    for (std::size_t done = 0; done < kCopyBytes; done += kChunkBytes) pipe.Write(chunk.data(), kChunkBytes);
    pipe.Read(chunk.data(), 1);
    if (copy > 0) copies_us.push_back(NowUs() - start);  // the first one warms up
  }
  std::sort(pings_us.begin(), pings_us.end());
  std::sort(copies_us.begin(), copies_us.end());
  std::printf("\"%s-round-trip\": {\"value\": %.3f, \"p99\": %.3f}, \"%s-copy\": {\"value\": %.4f}%s", name,
              pings_us[pings_us.size() / 2], pings_us[pings_us.size() * 99 / 100], name,
              kCopyBytes / copies_us[copies_us.size() / 2] / 1e3, separator);
}

void Run(bool tls, const char* name, const char* separator) {
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{.sin_family = AF_INET, .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
  socklen_t size = sizeof(address);
  if (bind(listener, reinterpret_cast<sockaddr*>(&address), size) != 0 || listen(listener, 1) != 0)
    Die("listen");
  getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size);
  std::fflush(stdout);
  const pid_t child = fork();
  if (child < 0) Die("fork");
  const int one = 1;
  if (child == 0) {
    const int fd = accept(listener, nullptr, nullptr);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    Echo(Pipe(fd, tls ? Handshake(fd, true) : nullptr));
    std::_Exit(0);
  }
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), size) != 0) Die("connect");
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
  Measure(Pipe(fd, tls ? Handshake(fd, false) : nullptr), name, separator);
  close(fd);
  close(listener);
  int status = 0;
  waitpid(child, &status, 0);
  if (status != 0) Die("the other end failed");
}

void RunCopy() {
  std::vector<char> from(kCopyBytes, 'x'), to(kCopyBytes, 'y');
  std::vector<double> copies_us;
  for (int copy = 0; copy < kCopies; ++copy) {
    const double start = NowUs();
    std::memcpy(to.data(), from.data(), kCopyBytes);
    copies_us.push_back(NowUs() - start);
    from[static_cast<std::size_t>(copy)] = to[kCopyBytes - 1];  // so that each is needed
  }
  std::sort(copies_us.begin(), copies_us.end());
  std::printf("\"local-copy\": {\"value\": %.4f}}\n", kCopyBytes / copies_us[kCopies / 2] / 1e3);
}

}  // namespace

int main() {
  std::printf("{");
  Run(false, "tcp", ", ");
  Run(true, "tls", ", ");
  RunCopy();
}
