// A real etcd of one member for tests, on this host and in a folder of its own.
#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <csignal>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "tulle/base/subprocess.h"
#include "tulle/base/unique_fd.h"

namespace tulle::control {

class TestEtcd {
 public:
  explicit TestEtcd(std::vector<std::string> arguments = {}) : arguments_(std::move(arguments)) {
    char pattern[] = "/tmp/tulle-etcd-XXXXXX";
    folder_ = mkdtemp(pattern);
    client_ = "http://127.0.0.1:" + FreePort();
    peer_ = "http://127.0.0.1:" + FreePort();
    Start();
  }
  ~TestEtcd() {
    Kill();
    std::filesystem::remove_all(folder_);
  }

  // What it has stored is there again after Start.
  void Kill() {
    if (!process_) return;
    kill(process_->pid(), SIGKILL);
    process_->Wait(std::chrono::seconds(30));
    process_.reset();
  }
  void Start() {
    std::vector<std::string> argv = {"etcd", "--data-dir", folder_ + "/data", "--listen-client-urls", client_,
                                     "--advertise-client-urls", client_, "--listen-peer-urls", peer_,
                                     "--initial-advertise-peer-urls", peer_, "--initial-cluster",
                                     "default=" + peer_, "--log-level", "error",
                                     // To be elected sooner, as it is alone.
                                     "--heartbeat-interval", "20", "--election-timeout", "200"};
    argv.insert(argv.end(), arguments_.begin(), arguments_.end());
    auto started = Subprocess::Start({.argv = argv, .fds = {{-1, 1}, {-1, 2}}, .death_signal = SIGKILL});
    ASSERT_TRUE(started.ok()) << started.error().message;
    process_.emplace(std::move(*started));
  }
  const std::string& endpoint() const { return client_; }

 private:
  static std::string FreePort() {
    const UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{
        .sin_family = AF_INET, .sin_port = 0, .sin_addr = {htonl(INADDR_LOOPBACK)}, .sin_zero = {}};
    socklen_t size = sizeof address;
    EXPECT_EQ(bind(fd.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
    return std::to_string(ntohs(address.sin_port));
  }

  const std::vector<std::string> arguments_;
  std::string folder_, client_, peer_;
  std::optional<Subprocess> process_;
};

}  // namespace tulle::control
