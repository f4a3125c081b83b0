#include "tulle/control/serve/http_server.h"

#include <google/protobuf/util/json_util.h>
#include <httplib.h>

#include <algorithm>
#include <future>
#include <thread>

#include "tulle/security/tls.h"

namespace tulle::control {
namespace {

constexpr std::size_t kMaxBodyBytes = 1 << 20;
constexpr std::size_t kThreads = 16;
constexpr int kReadSeconds = 10;
constexpr int kIdleSeconds = 5;  // also how long the end may take
constexpr auto kAnswerWithin = std::chrono::seconds(15);
constexpr char kJson[] = "application/json";

struct ConnectCode {
  const char* name;
  int http_status;
};

// As the Connect protocol maps them.
ConnectCode ToConnect(Code code) {
  switch (code) {
    case Code::kCancelled: return {"canceled", 499};
    case Code::kUnknown: return {"unknown", 500};
    case Code::kInvalidArgument: return {"invalid_argument", 400};
    case Code::kDeadlineExceeded: return {"deadline_exceeded", 504};
    case Code::kNotFound: return {"not_found", 404};
    case Code::kAlreadyExists: return {"already_exists", 409};
    case Code::kPermissionDenied: return {"permission_denied", 403};
    case Code::kResourceExhausted: return {"resource_exhausted", 429};
    case Code::kFailedPrecondition: return {"failed_precondition", 400};
    case Code::kAborted: return {"aborted", 409};
    case Code::kOutOfRange: return {"out_of_range", 400};
    case Code::kUnimplemented: return {"unimplemented", 501};
    case Code::kInternal: return {"internal", 500};
    case Code::kUnavailable: return {"unavailable", 503};
    case Code::kDataLoss: return {"data_loss", 500};
    case Code::kUnauthenticated: return {"unauthenticated", 401};
  }
  return {"unknown", 500};
}

void AnswerError(const Error& error, httplib::Response* response) {
  const ConnectCode code = ToConnect(error.code);
  std::string body = std::string("{\"code\":\"") + code.name + "\",\"message\":\"";
  for (const char c : error.message) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      body += '\\';
      body += c;
    } else if (byte < 0x20 || byte == 0x7f) {
      char escaped[8];
      std::snprintf(escaped, sizeof escaped, "\\u%04x", static_cast<unsigned>(byte));
      body += escaped;
    } else {
      body += c;
    }
  }
  response->status = code.http_status;
  response->set_content(body + "\"}", kJson);
}

Result<Caller> CallerOf(const httplib::Request& request) {
  TULLE_ASSIGN_OR_RETURN(security::Identity identity, security::IdentityOfPeer(request.ssl));
  return Caller{.identity = std::move(identity),
                .address = request.remote_addr + ":" + std::to_string(request.remote_port)};
}

class HttpServerImpl final : public HttpServer {
 public:
  explicit HttpServerImpl(const security::PemBundle& pem)
      : server_([&pem](SSL_CTX& context) { return security::ConfigureServer(context, pem); }) {}

  ~HttpServerImpl() override {
    server_.stop();
    if (thread_.joinable()) thread_.join();
  }

  // What is served, before Listen.
  void Serve(MeshService& service) {
    service_ = &service;
    server_.Post(
        R"(/tulle\.v1\.Mesh/([A-Za-z]+))",
        [this](const httplib::Request& request, httplib::Response& response) { Answer(request, &response); });
    server_.Get("/healthz", [](const httplib::Request&, httplib::Response& response) {
      response.set_content("ok\n", "text/plain");
    });
    server_.Get("/metrics", [this](const httplib::Request&, httplib::Response& response) {
      const auto text = std::make_shared<std::promise<std::string>>();
      auto future = text->get_future();
      service_->RenderMetrics([text](std::string rendered) { text->set_value(std::move(rendered)); });
      response.set_content(future.get(), "text/plain; version=0.0.4");
    });
  }
  void StandBy(std::function<std::string()> leader) {
    server_.Post(R"(/.*)", [leader](const httplib::Request&, httplib::Response& response) {
      AnswerError(Error{.code = Code::kUnavailable,
                        .message = "this controller stands by; the one that leads is " + leader()},
                  &response);
    });
    server_.Get("/healthz", [leader](const httplib::Request&, httplib::Response& response) {
      response.set_content("ok: stands by for " + leader() + "\n", "text/plain");
    });
  }

  Status Listen(const std::string& address) {
    const auto colon = address.rfind(':');
    int port = -1;
    if (colon != std::string::npos) {
      const std::string digits = address.substr(colon + 1);
      if (!digits.empty() && digits.size() <= 5 && std::all_of(digits.begin(), digits.end(), ::isdigit))
        port = std::stoi(digits);
    }
    if (port < 0 || port > 65535) {
      return Error{.code = Code::kInvalidArgument, .message = "\"" + address + "\" is not host:port"};
    }
    std::string host = address.substr(0, colon);
    if (host.size() > 2 && host.front() == '[') host = host.substr(1, host.size() - 2);
    if (!server_.is_valid())
      return Error{.code = Code::kInternal, .message = "the HTTPS server cannot use its certificate"};
    server_.new_task_queue = [] { return new httplib::ThreadPool(kThreads); };
    server_.set_payload_max_length(kMaxBodyBytes);
    server_.set_read_timeout(kReadSeconds);
    server_.set_write_timeout(kReadSeconds);
    server_.set_keep_alive_timeout(kIdleSeconds);
    server_.set_tcp_nodelay(true);
    server_.set_socket_options(
        [](int socket) {  // the library's default would share the port with another program
          const int on = 1;
          setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        });
    port_ = port == 0 ? server_.bind_to_any_port(host) : server_.bind_to_port(host, port) ? port : -1;
    if (port_ <= 0) {
      return Error{.code = Code::kUnavailable,
                   .message = "cannot listen on " + address +
                              "; is another program using it? Choose another with --http-listen"};
    }
    thread_ = std::thread([this] { server_.listen_after_bind(); });
    while (!server_.is_running()) std::this_thread::yield();  // stop() before that would be lost
    return OkStatus();
  }

  int port() const override { return port_; }

 private:
  void Answer(const httplib::Request& http, httplib::Response* response) {
    const auto refuse = [response](Code code, const std::string& message) {
      AnswerError(Error{.code = code, .message = message}, response);
    };
    const Result<Caller> caller = CallerOf(http);
    if (!caller.ok()) return AnswerError(caller.error(), response);
    const Status good =
        service_->CheckCertificate(*caller, [&http] { return security::CertificateOfPeer(http.ssl); });
    if (!good.ok()) return AnswerError(good.error(), response);
    const std::string type = http.get_header_value("Content-Type");
    if (type.substr(0, type.find(';')) != kJson) {
      response->status = 415;
      response->set_header("Accept-Post", kJson);
      return;
    }
    const MeshService::MessagePtr request = service_->NewRequest(http.path);
    if (request == nullptr) {
      return refuse(
          Code::kUnimplemented,
          http.path +
              " is not served as JSON; see the service's definition (Hold and Watch are streams: use gRPC)");
    }
    const auto parsed = google::protobuf::util::JsonStringToMessage(http.body, request.get());
    if (!parsed.ok())
      return refuse(Code::kInvalidArgument,
                    "the body is not a " + request->GetTypeName() + ": " + std::string(parsed.message()));

    const auto answer = std::make_shared<std::promise<Result<MeshService::MessagePtr>>>();
    auto future = answer->get_future();
    service_->Run(http.path, *caller, *request,
                  [answer](Result<MeshService::MessagePtr> result) { answer->set_value(std::move(result)); });
    if (future.wait_for(kAnswerWithin) != std::future_status::ready) {
      return refuse(Code::kDeadlineExceeded, "no answer within 15 s; it may still take effect");
    }
    const Result<MeshService::MessagePtr> result = future.get();
    if (!result.ok()) return AnswerError(result.error(), response);
    std::string json;
    if (!google::protobuf::util::MessageToJsonString(**result, &json).ok())
      return refuse(Code::kInternal, "the answer is not JSON");
    response->set_content(json, kJson);
  }

  MeshService* service_ = nullptr;  // null: stands by
  httplib::SSLServer server_;
  std::thread thread_;
  int port_ = -1;
};

}  // namespace

Result<std::unique_ptr<HttpServer>> HttpServer::Start(const std::string& address,
                                                      const security::PemBundle& pem, MeshService& service) {
  auto server = std::make_unique<HttpServerImpl>(pem);
  server->Serve(service);
  TULLE_RETURN_IF_ERROR(server->Listen(address));
  return std::unique_ptr<HttpServer>(std::move(server));
}

Result<std::unique_ptr<HttpServer>> HttpServer::StartStandby(const std::string& address,
                                                             const security::PemBundle& pem,
                                                             std::function<std::string()> leader) {
  auto server = std::make_unique<HttpServerImpl>(pem);
  server->StandBy(std::move(leader));
  TULLE_RETURN_IF_ERROR(server->Listen(address));
  return std::unique_ptr<HttpServer>(std::move(server));
}

}  // namespace tulle::control
