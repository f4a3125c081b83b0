#include "tulle/control/serve/http_server.h"

#include <google/protobuf/util/json_util.h>
#include <httplib.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <future>
#include <mutex>
#include <thread>

#include "tulle/security/tls.h"

namespace tulle::control {
namespace {

constexpr std::size_t kMaxBodyBytes = 1 << 20;
constexpr std::size_t kThreads = 16;                    // for what is answered at once
constexpr int kMaxStreams = 64;                         // each has a thread
constexpr auto kSilence = std::chrono::seconds(15);     // after which a line tells that the stream is alive
constexpr auto kLook = std::chrono::milliseconds(500);  // whether the client is still there
constexpr int kReadSeconds = 10;
constexpr int kIdleSeconds = 5;  // also how long the end may take
constexpr auto kAnswerWithin = std::chrono::seconds(15);
constexpr char kJson[] = "application/json";
constexpr char kJsonLines[] = "application/x-ndjson";
constexpr char kConnectJson[] = "application/connect+json";

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

// As the Connect protocol has it.
std::string ErrorJson(const Error& error) {
  std::string body = std::string("{\"code\":\"") + ToConnect(error.code).name + "\",\"message\":\"";
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
  return body + "\"}";
}

void AnswerError(const Error& error, httplib::Response* response) {
  response->status = ToConnect(error.code).http_status;
  if (error.code == Code::kUnauthenticated) response->set_header("WWW-Authenticate", "Bearer");
  response->set_content(ErrorJson(error), kJson);
}

Credential CredentialOf(const httplib::Request& request) {
  Credential shown{.authorization = request.get_header_value("Authorization"),
                   .address = request.remote_addr + ":" + std::to_string(request.remote_port)};
  const auto identity = security::IdentityOfPeer(request.ssl);
  if (identity.ok()) shown.certificate_uri = identity->Uri();
  shown.certificate_pem = [&request] { return security::CertificateOfPeer(request.ssl); };
  return shown;
}

// How the messages of a stream are told apart: Connect's envelopes, or a line each.
class Framing {
 public:
  explicit Framing(bool is_connect) : is_connect_(is_connect) {}
  const char* content_type() const { return is_connect_ ? kConnectJson : kJsonLines; }
  std::string Message(const std::string& json) const { return is_connect_ ? Envelope(0, json) : json + "\n"; }
  // Connect's streams end with a message of their own; lines with one only when they end by an error.
  std::string End(const Status& status) const {
    if (is_connect_) return Envelope(2, status.ok() ? "{}" : "{\"error\":" + ErrorJson(status.error()) + "}");
    return status.ok() ? "" : "{\"error\":" + ErrorJson(status.error()) + "}\n";
  }
  // Connect has nothing that could be sent meanwhile.
  std::string Alive() const { return is_connect_ ? "" : "\n"; }
  // The one message of a request.
  Result<std::string> Request(const std::string& body) const {
    if (!is_connect_) return body;
    if (body.size() < kHeaderBytes || body[0] != 0 || SizeIn(body) != body.size() - kHeaderBytes) {
      return Error{.code = Code::kInvalidArgument,
                   .message = "the body must be one envelope of Connect's streaming protocol, uncompressed"};
    }
    return body.substr(kHeaderBytes);
  }

 private:
  static constexpr std::size_t kHeaderBytes = 5;  // flags, and the size, the most significant byte first
  static std::string Envelope(char flags, const std::string& json) {
    std::string out(1, flags);
    for (int shift = 24; shift >= 0; shift -= 8) out += static_cast<char>(json.size() >> shift & 0xff);
    return out + json;
  }
  static std::size_t SizeIn(const std::string& body) {
    std::size_t size = 0;
    for (std::size_t i = 1; i < kHeaderBytes; ++i) size = size << 8 | static_cast<unsigned char>(body[i]);
    return size;
  }

  const bool is_connect_;
};

// A wakeup that is not lost.
class Signal {
 public:
  void Set() {
    {
      const std::lock_guard lock(mutex_);
      set_ = true;
    }
    changed_.notify_all();
  }
  // Whether it was set; it is not any more.
  bool Wait(Duration timeout) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, timeout, [this] { return set_; });
    return std::exchange(set_, false);
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool set_ = false;
};

class HttpServerImpl final : public HttpServer {
 public:
  explicit HttpServerImpl(const security::PemBundle& pem)
      : server_([&pem](SSL_CTX& context) { return security::ConfigureServer(context, pem); }) {}

  ~HttpServerImpl() override {
    stopping_ = true;
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
    server_.Get("/metrics", [this](const httplib::Request& request, httplib::Response& response) {
      const Result<Caller> caller = service_->Authenticate(CredentialOf(request));
      if (!caller.ok()) return AnswerError(caller.error(), &response);
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
    server_.Get("/healthz", [leader](const httplib::Request& request, httplib::Response& response) {
      const bool is_known = security::IdentityOfPeer(request.ssl).ok();
      response.set_content(is_known ? "ok: stands by for " + leader() + "\n" : "ok: stands by\n",
                           "text/plain");
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
    server_.new_task_queue = [] { return new httplib::ThreadPool(kThreads + kMaxStreams); };
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
    const Result<Caller> caller = service_->Authenticate(CredentialOf(http));
    if (!caller.ok()) return AnswerError(caller.error(), response);
    MeshService::MessagePtr request = service_->NewStreamRequest(http.path);
    const bool is_stream = request != nullptr;
    if (!is_stream) request = service_->NewRequest(http.path);
    if (request == nullptr)
      return refuse(Code::kUnimplemented, http.path + " is not a method; see the service's definition");
    const std::string header = http.get_header_value("Content-Type");
    const std::string type = header.substr(0, header.find(';'));
    if (type != kJson && !(is_stream && type == kConnectJson)) {
      response->status = 415;
      response->set_header("Accept-Post", is_stream ? std::string(kConnectJson) + ", " + kJson : kJson);
      return;
    }
    const Framing framing(type == kConnectJson);
    const Result<std::string> json_request = framing.Request(http.body);
    if (!json_request.ok()) return AnswerError(json_request.error(), response);
    const auto parsed = google::protobuf::util::JsonStringToMessage(*json_request, request.get());
    if (!parsed.ok())
      return refuse(Code::kInvalidArgument,
                    "the body is not a " + request->GetTypeName() + ": " + std::string(parsed.message()));
    if (is_stream) return AnswerStream(http, *caller, *request, framing, response);

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

  void AnswerStream(const httplib::Request& http, const Caller& caller,
                    const google::protobuf::Message& request, const Framing& framing,
                    httplib::Response* response) {
    if (streams_.fetch_add(1) >= kMaxStreams) {
      --streams_;
      return AnswerError(Error{.code = Code::kResourceExhausted,
                               .message = "there are " + std::to_string(kMaxStreams) +
                                          " streams over HTTP, the most; use gRPC, or try again later"},
                         response);
    }
    const auto more = std::make_shared<Signal>();
    const std::shared_ptr<Stream> stream =
        service_->Open(http.path, caller, request, [more] { more->Set(); });
    auto written = std::chrono::steady_clock::now();
    response->set_header("Cache-Control", "no-store");
    response->set_chunked_content_provider(
        framing.content_type(),
        [this, ssl = http.ssl, framing, more, stream, written](std::size_t, httplib::DataSink& sink) mutable {
          const auto write = [&](const std::string& text) {
            written = std::chrono::steady_clock::now();
            return text.empty() || sink.write(text.data(), text.size());
          };
          for (;;) {
            Stream::Next next = stream->Take();
            if (const auto* message = std::get_if<MeshService::MessagePtr>(&next)) {
              std::string json;
              if (!google::protobuf::util::MessageToJsonString(**message, &json).ok()) return false;
              return write(framing.Message(json));
            }
            if (const auto* end = std::get_if<Status>(&next)) {
              if (!write(framing.End(*end))) return false;
              sink.done();
              return true;
            }
            if (more->Wait(kLook)) continue;
            if (stopping_ || security::PeerIsGone(ssl)) return false;
            if (std::chrono::steady_clock::now() - written >= kSilence && !write(framing.Alive()))
              return false;
          }
        },
        [this, stream](bool) {
          stream->Close();
          --streams_;
        });
  }

  MeshService* service_ = nullptr;  // null: stands by
  std::atomic<bool> stopping_ = false;
  std::atomic<int> streams_ = 0;
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
