#include "tulle/control/serve/enrollment.h"

#include <utility>

#include "tulle/base/log.h"
#include "tulle/security/api_token.h"
#include "tulle/security/join_token.h"

namespace tulle::control {
namespace {

constexpr char kEnrollment[] = "enrollment";
constexpr std::size_t kShownBytes = 16;  // of what somebody says is a token's id

}  // namespace

void Enrollment::CreateToken(const std::string& caller, JoinRole role, const std::string& name,
                             Duration lifetime, AuditEntry audit,
                             std::function<void(Result<NewToken>)> done) {
  const security::JoinToken token = security::JoinToken::Make(authority_.certificate_pem(), random_);
  Invitation invitation{
      .id = token.id, .role = role, .name = name, .secret_digest = security::DigestOf(token.secret)};
  controller_.Call(
      CreateInvitation{.caller = caller, .invitation = std::move(invitation), .lifetime = lifetime},
      [caller, text = token.Text(), done = std::move(done)](Result<ReplyBody> reply) {
        if (!reply.ok()) return done(std::move(reply).error());
        const auto& made = std::get<Invitation>(*reply);
        Log(LogLevel::kInfo, kEnrollment, "token made",
            {{"caller", caller},
             {"token", made.id},
             {"role", made.role == JoinRole::kNode ? "node" : "user"},
             {"name", made.name}});
        done(NewToken{.text = text, .expire_time_us = made.expire_time_us});
      },
      std::move(audit));
}

void Enrollment::CreateApiToken(const std::string& tenant, const std::string& description, Duration lifetime,
                                AuditEntry audit, std::function<void(Result<NewApiToken>)> done) {
  const security::ApiTokenSecret secret = security::ApiTokenSecret::Make(random_);
  controller_.Call(
      control::CreateApiToken{.token = {.id = secret.id,
                                        .tenant = tenant,
                                        .description = description,
                                        .secret_digest = security::DigestOf(secret.secret)},
                              .lifetime = lifetime},
      [text = secret.Text(), done = std::move(done)](Result<ReplyBody> reply) {
        if (!reply.ok()) return done(std::move(reply).error());
        done(NewApiToken{.token = std::get<ApiToken>(*reply), .text = text});
      },
      std::move(audit));
}

void Enrollment::Enroll(Request request, std::function<void(Result<Enrolled>)> done) {
  // Before the token is used up.
  if (Status status = security::CheckPublicKey(request.public_key_pem); !status.ok())
    return done(status.error());
  RedeemInvitation redeem{.id = request.token_id,
                          .secret_digest = security::DigestOf(request.token_secret),
                          .name = request.name,
                          .name_is_default = request.name_is_default,
                          .role = request.role};
  AuditEntry audit{.caller = "token " + request.token_id.substr(0, kShownBytes),
                   .address = request.address,
                   .method = "Enroll",
                   .request = "{\"name\":\"" + security::MakeName(request.name) + "\"}"};
  controller_.Call(
      std::move(redeem),
      [this, request = std::move(request), done = std::move(done)](Result<ReplyBody> reply) {
        const auto answer = [&]() -> Result<Enrolled> {
          if (!reply.ok()) return std::move(reply).error();
          const auto& invitation = std::get<Invitation>(*reply);
          const security::Identity identity{
              .role = invitation.role == JoinRole::kNode ? security::Role::kNode : security::Role::kUser,
              .name = invitation.name};
          TULLE_ASSIGN_OR_RETURN(std::string certificate, authority_.Certify(identity, request.public_key_pem,
                                                                             {.validity = validity_}));
          return Enrolled{.identity = identity.Uri(), .certificate_pem = std::move(certificate)};
        }();
        // Anybody can have himself refused, so that fills no log; the metrics count it.
        Log(answer.ok() ? LogLevel::kInfo : LogLevel::kDebug, kEnrollment,
            answer.ok() ? "enrolled" : "refused",
            {{"token", request.token_id.substr(0, kShownBytes)},
             {"address", request.address},
             {"identity", answer.ok() ? answer->identity : ""},
             {"why", answer.ok() ? "" : answer.error().message}});
        done(answer);
      },
      std::move(audit));
}

Result<Enrollment::Enrolled> Enrollment::Renew(const security::Identity& identity, const std::string& address,
                                               const std::string& public_key_pem) {
  TULLE_ASSIGN_OR_RETURN(std::string certificate,
                         authority_.Certify(identity, public_key_pem, {.validity = validity_}));
  Log(LogLevel::kInfo, kEnrollment, "renewed", {{"identity", identity.Uri()}});
  controller_.Audit({.caller = identity.Uri(), .address = address, .method = "Renew", .code = "ok"});
  return Enrolled{.identity = identity.Uri(), .certificate_pem = std::move(certificate)};
}

}  // namespace tulle::control
