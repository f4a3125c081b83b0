#include "tulle/control/api/renewal.h"

#include <grpcpp/client_context.h>

#include <chrono>
#include <filesystem>

#include "tulle/control/api/channel.h"
#include "tulle/security/ca.h"
#include "tulle/security/credentials.h"
#include "tulle/security/files.h"
#include "tulle/security/identity.h"
#include "tulle/security/join_token.h"
#include "tulle/v1/mesh.grpc.pb.h"

namespace tulle::control {
namespace {

constexpr auto kPatience = std::chrono::seconds(20);
constexpr std::size_t kNameDigits = 8;  // of the certificate's fingerprint

// As the file is to name it: relative to its own folder, if it lies below that.
std::string RelativeTo(const std::filesystem::path& folder, const std::string& file) {
  const std::filesystem::path relative = std::filesystem::path(file).lexically_relative(folder);
  return relative.empty() || *relative.begin() == ".." ? file : relative.string();
}

}  // namespace

Result<bool> RenewIfDue(const std::string& path, const Clock& clock) {
  TULLE_ASSIGN_OR_RETURN(security::Credentials credentials, security::LoadCredentials(path));
  if (!credentials.api_token.empty()) return false;
  TULLE_ASSIGN_OR_RETURN(const security::PemBundle old, security::LoadPemBundle(credentials));
  TULLE_ASSIGN_OR_RETURN(const security::Validity validity, security::ValidityOf(old.certificate));
  if (clock.WallMicros() < validity.until_us - (validity.until_us - validity.from_us) / 3) return false;

  TULLE_ASSIGN_OR_RETURN(const security::Identity identity, security::IdentityOfCertificate(old.certificate));
  TULLE_ASSIGN_OR_RETURN(const security::KeyPair key, security::MakeKeyPair());
  v1::RenewRequest request;
  request.set_public_key_pem(key.public_pem);
  const auto stub = v1::Enrollment::NewStub(OpenChannel(credentials.endpoint, old));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kPatience);
  v1::EnrollResponse response;
  if (const grpc::Status status = stub->Renew(&context, request, &response); !status.ok())
    return ToError(status);
  TULLE_ASSIGN_OR_RETURN(const security::Identity renewed,
                         security::IdentityOfCertificate(response.certificate_pem()));
  if (!(renewed == identity)) {
    return Error{.code = Code::kInternal,
                 .message = "the controller gave a certificate for " + renewed.Uri()};
  }

  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  const security::Credentials before = credentials;
  const std::string stem = std::filesystem::path(credentials.certificate_file).parent_path() /
                           (std::string(security::RoleName(identity.role)) + "-" + identity.name + "-" +
                            security::FingerprintOf(response.certificate_pem()).substr(0, kNameDigits));
  TULLE_RETURN_IF_ERROR(security::WritePrivateFile(stem + ".key", key.private_pem));
  TULLE_RETURN_IF_ERROR(security::WritePrivateFile(stem + ".pem", response.certificate_pem()));
  credentials.ca_file = RelativeTo(folder, credentials.ca_file);
  credentials.certificate_file = RelativeTo(folder, stem + ".pem");
  credentials.key_file = RelativeTo(folder, stem + ".key");
  TULLE_RETURN_IF_ERROR(security::SaveCredentials(credentials, path));
  std::error_code ignored;
  std::filesystem::remove(before.certificate_file, ignored);
  std::filesystem::remove(before.key_file, ignored);
  return true;
}

}  // namespace tulle::control
