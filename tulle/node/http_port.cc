#include "tulle/node/http_port.h"

#include <httplib.h>

#include <atomic>
#include <thread>
#include <utility>

namespace tulle::node {

class HttpPort::Impl {
 public:
  explicit Impl(TakeSnapshot snapshot) : snapshot_(std::move(snapshot)) {
    server_.new_task_queue = [] { return new httplib::ThreadPool(2); };
    // The library's default also sets SO_REUSEPORT: two nodes would share a port without knowing.
    server_.set_socket_options([](auto socket) {
      const int on = 1;
      setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    });
    server_.set_payload_max_length(1024);
    server_.set_read_timeout(5);
    server_.set_write_timeout(5);
    server_.set_keep_alive_max_count(100);
    server_.set_keep_alive_timeout(1);  // an idle connection keeps one of the threads
    server_.Get("/healthz", [this](const httplib::Request&, httplib::Response& response) {
      const auto snapshot = snapshot_();
      if (!snapshot) return Stopped(response);
      response.set_content(std::string("ok\nregistered ") + (snapshot->registered ? "yes" : "no") + "\n",
                           "text/plain");
    });
    server_.Get("/metrics", [this](const httplib::Request&, httplib::Response& response) {
      const auto snapshot = snapshot_();
      if (!snapshot) return Stopped(response);
      response.set_content(FormatMetrics(*snapshot), "text/plain; version=0.0.4");
    });
  }
  ~Impl() {
    server_.stop();
    if (thread_.joinable()) thread_.join();
  }

  Status Start(const HostPort& listen) {
    address_ = listen;
    const std::string host = listen.host.empty() ? "0.0.0.0" : listen.host;
    bool bound;
    if (listen.port == 0) {
      const int port = server_.bind_to_any_port(host);
      bound = port > 0;
      address_.port = static_cast<std::uint16_t>(port);
    } else {
      bound = server_.bind_to_port(host, listen.port);
    }
    if (!bound) {
      return Error{.code = Code::kUnavailable,
                   .message = "cannot listen on " + listen.Text() +
                              " for HTTP: the address is taken or not this machine's"};
    }
    thread_ = std::thread([this] {
      server_.listen_after_bind();
      finished_ = true;
    });
    while (!server_.is_running() && !finished_)
      std::this_thread::yield();  // a stop() before that would be lost
    return OkStatus();
  }

  HostPort address_;

 private:
  static void Stopped(httplib::Response& response) {
    response.status = 503;
    response.set_content("stopping\n", "text/plain");
  }
  const TakeSnapshot snapshot_;
  httplib::Server server_;
  std::atomic<bool> finished_{false};
  std::thread thread_;
};

Result<std::unique_ptr<HttpPort>> HttpPort::Open(const HostPort& listen, TakeSnapshot snapshot) {
  auto impl = std::make_unique<Impl>(std::move(snapshot));
  TULLE_RETURN_IF_ERROR(impl->Start(listen));
  return std::unique_ptr<HttpPort>(new HttpPort(std::move(impl)));
}

HttpPort::HttpPort(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HttpPort::~HttpPort() = default;
const HostPort& HttpPort::address() const { return impl_->address_; }

}  // namespace tulle::node
