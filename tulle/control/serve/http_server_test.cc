// JSON over HTTPS: the methods, the streams, and who may call.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>

#include <condition_variable>
#include <mutex>
#include <thread>

#include "tulle/base/bytes.h"
#include "tulle/control/serve/test_stack.h"

namespace tulle::control {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// One POST whose answer comes in parts, on a thread of its own.
class StreamingPost {
 public:
  StreamingPost(const security::Credentials& user, int port, const std::string& method, std::string body,
                const std::string& type)
      : http_("127.0.0.1", port, user.certificate_file, user.key_file) {
    http_.set_ca_cert_path(user.ca_file.c_str());
    http_.set_read_timeout(60);
    httplib::Request request;
    request.method = "POST";
    request.path = "/tulle.v1.Mesh/" + method;
    request.headers = {{"Content-Type", type}};
    request.body = std::move(body);
    request.response_handler = [this](const httplib::Response& response) {
      const std::lock_guard lock(mutex_);
      status_ = response.status;
      type_ = response.get_header_value("Content-Type");
      changed_.notify_all();
      return true;
    };
    request.content_receiver = [this](const char* data, std::size_t size, std::uint64_t, std::uint64_t) {
      const std::lock_guard lock(mutex_);
      body_.append(data, size);
      changed_.notify_all();
      return true;
    };
    thread_ = std::thread([this, request = std::move(request)] {
      (void)http_.send(request);
      const std::lock_guard lock(mutex_);
      over_ = true;
      changed_.notify_all();
    });
  }
  ~StreamingPost() { Leave(); }

  // Closes the connection.
  void Leave() {
    http_.stop();
    if (thread_.joinable()) thread_.join();
  }
  // What has come once it has that text, or all there will be.
  std::string WaitFor(const std::string& text) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return over_ || body_.find(text) != std::string::npos; });
    return body_;
  }
  std::string WaitEnd() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return over_; });
    return body_;
  }
  int status() {
    const std::lock_guard lock(mutex_);
    return status_;
  }
  std::string type() {
    const std::lock_guard lock(mutex_);
    return type_;
  }

 private:
  httplib::SSLClient http_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string body_, type_;
  int status_ = 0;
  bool over_ = false;
  std::thread thread_;
};

constexpr char kJson[] = "application/json";
constexpr char kConnectJson[] = "application/connect+json";

std::string Envelope(const std::string& json, char flags = 0) {
  std::string out{flags, 0, 0, static_cast<char>(json.size() >> 8), static_cast<char>(json.size())};
  return out + json;
}

TEST_F(ServeTest, TheSameMethodsAreThereAsJson) {
  auto other = *security::CertificateAuthority::OpenOrCreate(root_ + "/other/ca", clock_, random_);
  ASSERT_TRUE(security::EnsureCredentials(other, root_ + "/other/credentials",
                                          {security::Role::kUser, "alice"}, clock_)
                  .ok());
  const security::Credentials user = CredentialsOf(security::Role::kUser, "alice");
  httplib::SSLClient http("127.0.0.1", http_server_->port(), user.certificate_file, user.key_file);
  http.set_ca_cert_path(user.ca_file.c_str());
  http.enable_server_certificate_verification(true);
  const auto post = [&http](const std::string& method, const std::string& body,
                            const char* type = "application/json") {
    const auto response = http.Post("/tulle.v1.Mesh/" + method, body, type);
    if (!response) return std::pair(0, httplib::to_string(response.error()));
    return std::pair(response->status, response->body);
  };
  const auto created =
      post("CreateClaim", R"({"claim": {"metadata": {"name": "c"}, "spec": {"memoryBytes": "1073741824"}}})");
  EXPECT_EQ(created.first, 200) << created.second;
  EXPECT_THAT(created.second, HasSubstr(R"("name":"c")"));
  EXPECT_THAT(post("ListClaims", "{}").second, HasSubstr(R"("phase":"PENDING")"));
  EXPECT_EQ(post("CreateClaim", R"({"claim": {"metadata": {"name": "over"}}})").first, 200);
  EXPECT_EQ(post("DeleteClaim", R"({"name": "over"})").first, 200);
  EXPECT_THAT(post("ListClaims", "{}").second, HasSubstr(R"("phase":"RELEASED")"));
  EXPECT_THAT(post("ListClaims", R"({"liveOnly": true})").second,
              ::testing::Not(HasSubstr(R"("phase":"RELEASED")")));
  EXPECT_EQ(post("DeleteClaim", R"({"name": "over"})").first, 200);
  EXPECT_EQ(
      post("CreateClaim", R"({"claim": {"spec": {"count": 65}}})"),
      std::pair(
          400,
          std::string(
              R"({"code":"invalid_argument","message":"spec.count: 65 is more than the most that one claim may ask for, 64"})")));
  EXPECT_EQ(post("GetClaim", R"({"name": "\"<x>\""})").first, 404);
  EXPECT_EQ(post("CreateClaim", R"({"claim": {"spec": {"memory_bites": 1}}})").first, 400)
      << "a misspelt field";
  EXPECT_EQ(post("CreateClaim", "not json").first, 400);
  EXPECT_EQ(post("Nothing", "{}").first, 501);
  EXPECT_EQ(post("ListClaims", "{}", "text/plain").first, 415);
  EXPECT_EQ(http.Get("/healthz")->body, "ok\n");
  const std::string metrics = http.Get("/metrics")->body;
  EXPECT_THAT(metrics, HasSubstr("tulle_claims{state=\"PENDING\"} 1\n"));
  EXPECT_THAT(metrics, HasSubstr("tulle_api_calls_total{method=\"CreateClaim\",code=\"ok\"} 2\n"));

  httplib::SSLClient nobody("127.0.0.1", http_server_->port());
  nobody.set_ca_cert_path(user.ca_file.c_str());
  EXPECT_EQ(nobody.Get("/healthz")->status, 200);
  EXPECT_EQ(nobody.Get("/metrics")->status, 401) << "nothing else without a client certificate";
  const auto refused = nobody.Post("/tulle.v1.Mesh/ListClaims", "{}", "application/json");
  EXPECT_EQ(refused->status, 401);
  EXPECT_THAT(refused->body, HasSubstr("neither a client certificate of this mesh was shown"));
  httplib::SSLClient stranger("127.0.0.1", http_server_->port(), root_ + "/other/credentials/user-alice.pem",
                              root_ + "/other/credentials/user-alice.key");
  stranger.set_ca_cert_path(user.ca_file.c_str());
  EXPECT_FALSE(stranger.Get("/healthz")) << "a certificate of another mesh";
  const security::Credentials node = CredentialsOf(security::Role::kNode, "a");
  httplib::SSLClient wrong_role("127.0.0.1", http_server_->port(), node.certificate_file, node.key_file);
  wrong_role.set_ca_cert_path(user.ca_file.c_str());
  EXPECT_EQ(wrong_role.Post("/tulle.v1.Mesh/ListClaims", "{}", "application/json")->status, 403);
}

TEST_F(ServeTest, AStandbySaysWhoLeads) {
  const auto pem = authority_->Issue({security::Role::kController, "standby"}, {.hosts = {"127.0.0.1"}});
  const auto standby = HttpServer::StartStandby("127.0.0.1:0", *pem, [] { return "10.0.0.1:7400"; });
  ASSERT_TRUE(standby.ok()) << standby.error().message;
  const auto credentials = CredentialsOf(security::Role::kUser, "alice");
  httplib::SSLClient http("127.0.0.1", (*standby)->port(), credentials.certificate_file,
                          credentials.key_file);
  http.set_ca_cert_path(credentials.ca_file.c_str());
  const auto health = http.Get("/healthz");
  ASSERT_TRUE(health) << httplib::to_string(health.error());
  EXPECT_EQ(health->body, "ok: stands by for 10.0.0.1:7400\n");
  const auto answer = http.Post("/tulle.v1.Mesh/GetMesh", "{}", "application/json");
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status, 503);
  EXPECT_EQ(answer->body,
            "{\"code\":\"unavailable\",\"message\":\"this controller stands by; the one that leads is "
            "10.0.0.1:7400\"}");
}

TEST_F(ServeTest, StreamsAreThereAsLines) {
  const security::Credentials user = CredentialsOf(security::Role::kUser, "alice");
  const auto client = ClientOf("alice");
  ASSERT_TRUE(client->CreateClaim({.name = "first"}).ok());
  StreamingPost watch(user, http_server_->port(), "Watch", R"({"kinds": ["CLAIM"]})", kJson);
  std::string body = watch.WaitFor("SYNCED");
  EXPECT_EQ(watch.status(), 200);
  EXPECT_EQ(watch.type(), "application/x-ndjson");
  EXPECT_THAT(body, HasSubstr(R"({"type":"ADDED","resourceVersion":")"));
  EXPECT_THAT(body, HasSubstr(R"("name":"first")"));
  ASSERT_TRUE(client->CreateClaim({.name = "second"}).ok());
  body = watch.WaitFor("second");
  EXPECT_EQ(std::count(body.begin(), body.end(), '\n'), 3) << body;

  // A hold counts as one over gRPC does, and ends with its connection.
  StreamingPost hold(user, http_server_->port(), "Hold", R"({"claim": "first", "program": "render"})", kJson);
  EXPECT_THAT(hold.WaitFor("\n"), HasSubstr(R"("holders":1)"));
  hold.Leave();
  watch.WaitFor(R"("message":"render","lastTransitionTime")");
  for (const auto changes = client->WatchChanges({sdk::Kind::kClaim});;) {
    const auto event = changes->Next();
    ASSERT_TRUE(event.ok()) << event.error().message;
    const auto* claim = std::get_if<Claim>(&event->resource);
    const Condition* held = claim == nullptr ? nullptr : FindCondition(claim->status.conditions, "Held");
    if (held != nullptr && !held->status) break;
  }
  // How it ends is the last line.
  StreamingPost none(user, http_server_->port(), "Hold", R"({"claim": "third"})", kJson);
  EXPECT_THAT(none.WaitEnd(), HasSubstr(R"({"error":{"code":"not_found","message":")"));
  StreamingPost wrong(user, http_server_->port(), "Watch", R"({"kinds": [77]})", kJson);
  EXPECT_EQ(wrong.WaitEnd(), R"({"error":{"code":"invalid_argument","message":"kinds: 77 is not a kind"}})"
                             "\n");
  // A server that stops lets go of its clients.
  StopStack();
  watch.WaitEnd();
}

TEST_F(ServeTest, StreamsAreThereByConnectsProtocol) {
  const security::Credentials user = CredentialsOf(security::Role::kUser, "alice");
  const auto client = ClientOf("alice");
  ASSERT_TRUE(client->CreateClaim({.name = "c"}).ok());
  StreamingPost hold(user, http_server_->port(), "Hold", Envelope(R"({"claim": "c"})"), kConnectJson);
  std::string body = hold.WaitFor("\"c\"");
  EXPECT_EQ(hold.type(), kConnectJson);
  ASSERT_GT(body.size(), 5u);
  EXPECT_EQ(body[0], 0);
  const std::size_t size = static_cast<std::size_t>(static_cast<unsigned char>(body[3])) << 8 |
                           static_cast<unsigned char>(body[4]);
  EXPECT_THAT(body.substr(5, size), ::testing::EndsWith("}"));
  ASSERT_TRUE(client->DeleteClaim("c").ok());
  body = hold.WaitEnd();
  EXPECT_TRUE(body.ends_with(Envelope("{}", 2))) << "the end, which is a good one";
  StreamingPost none(user, http_server_->port(), "Hold", Envelope(R"({"claim": "other"})"), kConnectJson);
  body = none.WaitEnd();
  EXPECT_EQ(body[0], 2);
  EXPECT_THAT(body, HasSubstr(R"({"error":{"code":"not_found","message":")"));
  for (const std::string& bad : {std::string("{}"), std::string(), Envelope("{}") + "x", Envelope("{}", 1)}) {
    StreamingPost refused(user, http_server_->port(), "Hold", bad, kConnectJson);
    EXPECT_THAT(refused.WaitEnd(), HasSubstr("one envelope"));
    EXPECT_EQ(refused.status(), 400);
  }
  StreamingPost unary(user, http_server_->port(), "ListClaims", Envelope("{}"), kConnectJson);
  unary.WaitEnd();
  EXPECT_EQ(unary.status(), 415);
}

TEST_F(ServeTest, StreamsOverHttpAreNotManyAndGoWithTheirClients) {
  const security::Credentials user = CredentialsOf(security::Role::kUser, "alice");
  std::vector<std::unique_ptr<StreamingPost>> streams;
  for (int i = 0; i < 64; ++i) {
    streams.push_back(std::make_unique<StreamingPost>(user, http_server_->port(), "Watch",
                                                      R"({"kinds": ["NODE"]})", kJson));
  }
  for (const auto& stream : streams) EXPECT_THAT(stream->WaitFor("SYNCED"), HasSubstr("SYNCED"));
  StreamingPost refused(user, http_server_->port(), "Watch", "{}", kJson);
  EXPECT_THAT(refused.WaitEnd(), HasSubstr("there are 64 streams over HTTP, the most"));
  EXPECT_EQ(refused.status(), 429);
  httplib::SSLClient http("127.0.0.1", http_server_->port(), user.certificate_file, user.key_file);
  http.set_ca_cert_path(user.ca_file.c_str());
  EXPECT_EQ(http.Post("/tulle.v1.Mesh/GetMesh", "{}", kJson)->status, 200) << "others are served";
  streams.back()->Leave();
  for (;;) {  // the server looks twice a second
    StreamingPost again(user, http_server_->port(), "Watch", R"({"kinds": ["NODE"]})", kJson);
    if (again.WaitFor("SYNCED").find("SYNCED") != std::string::npos) break;
    EXPECT_EQ(again.status(), 429);
  }
}

TEST_F(ServeTest, ApiTokensOpenBothDoors) {
  const security::Credentials user = CredentialsOf(security::Role::kUser, "bob");
  const auto bob = ClientOf("bob");
  const auto made = bob->CreateApiToken("nightly", Duration(0));
  ASSERT_TRUE(made.ok()) << made.error().message;
  EXPECT_EQ(made->token.tenant, "bob");
  EXPECT_EQ(made->token.description, "nightly");
  EXPECT_NEAR(static_cast<double>(made->token.expire_time_us - made->token.create_time_us) / 1e6, 30 * 86400,
              1);

  httplib::SSLClient http("127.0.0.1", http_server_->port());
  http.set_ca_cert_path(user.ca_file.c_str());
  const auto post = [&http](const std::string& authorization, const std::string& method) {
    const auto response = http.Post("/tulle.v1.Mesh/" + method,
                                    httplib::Headers{{"Authorization", authorization}}, "{}", kJson);
    return std::pair(response->status, response->body);
  };
  EXPECT_THAT(post("Bearer " + made->secret, "GetMesh").second, HasSubstr("tulle://user/bob"));
  EXPECT_EQ(post("bearer " + made->secret, "ListClaims").first, 200);
  EXPECT_EQ(http.Get("/metrics", httplib::Headers{{"Authorization", "Bearer " + made->secret}})->status, 200);
  std::string other = made->secret;
  other.back() = other.back() == '0' ? '1' : '0';
  for (const std::string& bad : {"Bearer " + other, std::string("Bearer x"), "Basic " + made->secret,
                                 made->secret, std::string("Bearer"), "Bearer  " + made->secret}) {
    EXPECT_EQ(post(bad, "GetMesh").first, 401) << bad;
  }
  // It cannot make itself live longer.
  for (const char* method : {"CreateApiToken", "CreateToken", "RevokeCertificates"})
    EXPECT_EQ(post("Bearer " + made->secret, method).first, 403) << method;

  security::Credentials bearer{.endpoint = user.endpoint, .ca_file = user.ca_file, .api_token = made->secret};
  const auto program = *sdk::Client::Connect(bearer);
  ASSERT_TRUE(program->CreateClaim({.name = "c"}).ok());
  EXPECT_EQ(program->GetMesh()->caller, "tulle://user/bob");
  const auto audit = ClientOf("alice")->ListAudit(0, "tulle://user/bob", 10);
  ASSERT_TRUE(audit.ok());
  EXPECT_THAT(audit->back().address, HasSubstr(", API token " + made->token.id));
  for (const AuditEntry& entry : *audit) EXPECT_THAT(entry.request, Not(HasSubstr(made->secret)));
  const auto listed = bob->ListApiTokens();
  ASSERT_EQ(listed->size(), 1u);
  EXPECT_EQ(listed->front(), made->token) << "of the secret not even the digest";
  EXPECT_EQ(ClientOf("carol")->ListApiTokens({.tenant = "bob"}).error().code, Code::kPermissionDenied);

  const auto watch = program->WatchChanges({sdk::Kind::kClaim});
  while (watch->Next()->type != sdk::EventType::kSynced) {
  }
  StopStack();  // the next controller knows it, too
  StartStack();
  bearer.endpoint = CredentialsOf(security::Role::kUser, "bob").endpoint;
  const auto again = *sdk::Client::Connect(bearer);
  const auto stream = again->WatchChanges({sdk::Kind::kClaim});
  while (stream->Next()->type != sdk::EventType::kSynced) {
  }
  const auto owner = ClientOf("bob");
  ASSERT_TRUE(owner->DeleteApiToken(made->token.id).ok());
  EXPECT_EQ(again->GetMesh().error().message, "the API token is unknown, has been deleted, or has expired");
  ASSERT_TRUE(owner->DeleteClaim("c").ok());
  EXPECT_EQ(stream->Next().error().code, Code::kUnauthenticated);
}

}  // namespace
}  // namespace tulle::control
