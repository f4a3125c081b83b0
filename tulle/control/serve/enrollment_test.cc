// How users and nodes get their certificates, and that nobody does anything without one.
#include "tulle/control/serve/enrollment.h"

#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "tulle/control/api/renewal.h"
#include "tulle/control/serve/test_stack.h"
#include "tulle/sdk/enroll.h"
#include "tulle/security/join_token.h"

namespace tulle::control {
namespace {

using EnrollmentTest = ServeTest;
using ::testing::HasSubstr;

// Some seconds ahead.
class LaterClock final : public Clock {
 public:
  Instant Now() const override { return clock_.Now(); }
  std::int64_t WallMicros() const override { return clock_.WallMicros() + 5'000'000; }

 private:
  SystemClock clock_;
};

TEST_F(EnrollmentTest, WhoBearsATokenGetsACertificateOnce) {
  const std::string endpoint = "127.0.0.1:" + std::to_string(port_);
  const auto alice = ClientOf("alice");
  const auto token_for = [&](JoinRole role, const std::string& name) {
    const auto token = alice->CreateToken(role, name, 60s);
    EXPECT_TRUE(token.ok()) << token.error().message;
    return token->text;
  };
  EXPECT_EQ(ClientOf("bob")->CreateToken(JoinRole::kUser, "bob", 60s).error().code, Code::kPermissionDenied);
  EXPECT_EQ(alice->CreateToken(JoinRole::kUser, "", 60s).error().code, Code::kInvalidArgument);
  EXPECT_EQ(alice->CreateToken(JoinRole::kUser, "carol", 0s).error().code, Code::kInvalidArgument);

  // As a user, who then is one.
  const std::string token = token_for(JoinRole::kUser, "carol");
  sdk::EnrollOptions options{.endpoint = endpoint, .token = token, .state_dir = root_ + "/carol"};
  const auto carol = sdk::Enroll(options);
  ASSERT_TRUE(carol.ok()) << carol.error().message;
  EXPECT_EQ(carol->identity, "tulle://user/carol");
  const auto client = sdk::Client::Connect(*security::LoadCredentials(carol->config_path));
  ASSERT_TRUE(client.ok());
  EXPECT_EQ((*client)->GetMesh()->caller, "tulle://user/carol");
  EXPECT_EQ(sdk::Enroll(options).error().code, Code::kAlreadyExists) << "her configuration is kept";
  options.replace = true;
  EXPECT_EQ(sdk::Enroll(options).error().code, Code::kUnauthenticated) << "once";
  EXPECT_EQ((*client)->GetMesh()->caller, "tulle://user/carol");

  // As a node, which then is one.
  sdk::EnrollOptions as_node{.endpoint = endpoint,
                             .token = token_for(JoinRole::kNode, ""),
                             .role = security::Role::kNode,
                             .name = "gpu-1",
                             .state_dir = root_ + "/gpu-1"};
  const auto enrolled = sdk::Enroll(as_node);
  ASSERT_TRUE(enrolled.ok()) << enrolled.error().message;
  EXPECT_EQ(enrolled->config_path, root_ + "/gpu-1/node-gpu-1.conf");
  FakeNode node(*security::LoadCredentials(enrolled->config_path), "gpu-1");
  node.Connect();
  WaitNode(*alice, "gpu-1", NodeState::kReady);
  // Nobody becomes a node that is there already.
  as_node.token = token_for(JoinRole::kNode, "");
  as_node.state_dir = root_ + "/thief";
  EXPECT_EQ(sdk::Enroll(as_node).error().code, Code::kAlreadyExists);
  as_node.role = security::Role::kUser;
  EXPECT_EQ(sdk::Enroll(as_node).error().code, Code::kPermissionDenied);
  as_node.role = security::Role::kNode;
  as_node.name = "gpu-2";
  EXPECT_TRUE(sdk::Enroll(as_node).ok()) << "refusals leave a token good";

  // Another mesh's token is not sent there: its CA is not the one that is shown.
  const auto other = *security::CertificateAuthority::OpenOrCreate(root_ + "/other-ca", clock_, random_);
  options.token = security::JoinToken::Make(other.certificate_pem(), random_).Text();
  EXPECT_EQ(sdk::Enroll(options).error().code, Code::kPermissionDenied);
  options.endpoint = "127.0.0.1:1";
  EXPECT_EQ(sdk::Enroll(options).error().code, Code::kUnavailable);
  options.token = "rubbish";
  EXPECT_EQ(sdk::Enroll(options).error().code, Code::kInvalidArgument);
}

TEST_F(EnrollmentTest, CertificatesAreRenewedInTime) {
  const auto token = ClientOf("alice")->CreateToken(JoinRole::kUser, "carol", 60s);
  const auto carol = sdk::Enroll({.endpoint = "127.0.0.1:" + std::to_string(port_),
                                  .token = token->text,
                                  .state_dir = root_ + "/carol"});
  ASSERT_TRUE(carol.ok()) << carol.error().message;
  const security::Credentials first = *security::LoadCredentials(carol->config_path);
  const std::string first_certificate = security::LoadPemBundle(first)->certificate;
  // It is for 24 hours, and dated an hour back.
  FakeClock later;
  later.Advance(std::chrono::microseconds(clock_.WallMicros() - later.WallMicros()));
  later.Advance(std::chrono::minutes(15 * 60 + 30));
  EXPECT_FALSE(*RenewIfDue(carol->config_path, later));
  EXPECT_EQ(security::LoadCredentials(carol->config_path)->certificate_file, first.certificate_file);
  later.Advance(std::chrono::minutes(20));
  const auto renewed = RenewIfDue(carol->config_path, later);
  ASSERT_TRUE(renewed.ok()) << renewed.error().message;
  EXPECT_TRUE(*renewed);
  const security::Credentials second = *security::LoadCredentials(carol->config_path);
  EXPECT_NE(security::LoadPemBundle(second)->certificate, first_certificate);
  EXPECT_NE(second.key_file, first.key_file);
  EXPECT_EQ(second.endpoint, first.endpoint);
  EXPECT_FALSE(std::filesystem::exists(first.certificate_file));
  EXPECT_FALSE(std::filesystem::exists(first.key_file));
  const auto client = sdk::Client::Connect(second);
  ASSERT_TRUE(client.ok());
  EXPECT_EQ((*client)->GetMesh()->caller, "tulle://user/carol");
  // While the controller is away nothing is lost.
  StopStack();
  const auto away = RenewIfDue(carol->config_path, later);
  EXPECT_FALSE(away.ok());
  EXPECT_EQ(security::LoadCredentials(carol->config_path)->certificate_file, second.certificate_file);
}

// Every method of every service but one, called by nobody.
TEST_F(EnrollmentTest, NoCallWithoutIdentity) {
  const auto channel =
      OpenChannel("127.0.0.1:" + std::to_string(port_), {.ca = authority_->certificate_pem()});
  grpc::GenericStub stub(channel);
  int methods = 0;
  for (const auto* file : {v1::Claim::descriptor()->file(), v1::NodeMessage::descriptor()->file()}) {
    for (int s = 0; s < file->service_count(); ++s) {
      for (int m = 0; m < file->service(s)->method_count(); ++m) {
        const auto* method = file->service(s)->method(m);
        const std::string path = "/" + file->service(s)->full_name() + "/" + method->name();
        grpc::ClientContext context;
        context.set_deadline(std::chrono::system_clock::now() + kSoon);
        grpc::CompletionQueue queue;
        const auto call = stub.PrepareUnaryCall(&context, path, grpc::ByteBuffer(), &queue);
        call->StartCall();
        grpc::ByteBuffer answer;
        grpc::Status status;
        call->Finish(&answer, &status, nullptr);
        void* tag = nullptr;
        bool ok = false;
        ASSERT_TRUE(queue.Next(&tag, &ok));
        const bool for_anybody = path == "/tulle.v1.Enrollment/Enroll";
        EXPECT_EQ(status.error_code(),
                  for_anybody ? grpc::StatusCode::INVALID_ARGUMENT : grpc::StatusCode::UNAUTHENTICATED)
            << path << ": " << status.error_message();
        ++methods;
      }
    }
  }
  EXPECT_GE(methods, 23);
}

TEST_F(EnrollmentTest, RevokedCertificatesOpenNothing) {
  FakeNode node = NodeNamed();
  node.Connect();
  const auto bob = ClientOf("bob");
  ASSERT_TRUE(bob->CreateClaim({.name = "c", .spec = {.release_when_unheld = true}}).ok());
  const auto hold = bob->Hold("c");
  ASSERT_TRUE(hold->WaitBound(kSoon).ok());
  const auto watch = bob->WatchChanges({sdk::Kind::kClaim});
  while (watch->Next()->type != sdk::EventType::kSynced) {
  }
  const auto alice = ClientOf("alice");
  EXPECT_EQ(bob->RevokeCertificates(JoinRole::kUser, "carol").error().code, Code::kPermissionDenied);
  EXPECT_EQ(alice->RevokeCertificates(JoinRole::kUser, "alice").error().code, Code::kFailedPrecondition);
  EXPECT_EQ(alice->RevokeCertificates(JoinRole::kUser, "No").error().code, Code::kInvalidArgument);

  ASSERT_TRUE(alice->RevokeCertificates(JoinRole::kUser, "bob").ok());
  for (int i = 0; i < 2; ++i) {
    const auto refused = ClientOf("bob")->GetMesh();
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().code, Code::kUnauthenticated);
    EXPECT_THAT(refused.error().message, HasSubstr("the certificate of tulle://user/bob has been revoked"));
    if (i == 0) {
      // What he held goes, and he is told nothing more.
      const auto ended = alice->WatchChanges({sdk::Kind::kClaim}, 0, false, "bob");
      for (bool released = false; !released;) {
        const auto event = ended->Next();
        ASSERT_TRUE(event.ok()) << event.error().message;
        const auto* claim = std::get_if<Claim>(&event->resource);
        released = claim != nullptr && claim->status.phase == ClaimPhase::kReleased;
      }
      EXPECT_FALSE(hold->WaitChange(1'000'000'000'000'000, kSoon).ok());
      for (;;) {
        const auto event = watch->Next();
        if (event.ok()) continue;
        EXPECT_EQ(event.error().code, Code::kUnauthenticated) << event.error().message;
        break;
      }
      StopStack();  // the next controller knows it, too
      StartStack();
    }
  }
  // One that is issued later is good.
  const LaterClock later;
  auto authority = *security::CertificateAuthority::OpenOrCreate(root_ + "/ca", later, random_);
  security::Credentials anew =
      *security::EnsureCredentials(authority, root_ + "/later", {security::Role::kUser, "bob"}, later);
  anew.endpoint = CredentialsOf(security::Role::kUser, "alice").endpoint;
  const auto again = (*sdk::Client::Connect(anew))->GetMesh();
  EXPECT_TRUE(again.ok()) << again.error().message;

  ASSERT_TRUE(ClientOf("alice")->RevokeCertificates(JoinRole::kNode, "a").ok());
  FakeNode shut = NodeNamed();
  shut.Connect();
  EXPECT_EQ(shut.WaitFinished().error_code(), grpc::StatusCode::UNAUTHENTICATED);
}

}  // namespace
}  // namespace tulle::control
