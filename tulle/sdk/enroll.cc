#include "tulle/sdk/enroll.h"

#include <grpcpp/client_context.h>

#include <chrono>
#include <filesystem>

#include "tulle/control/api/channel.h"
#include "tulle/security/ca.h"
#include "tulle/security/credentials.h"
#include "tulle/security/files.h"
#include "tulle/security/join_token.h"
#include "tulle/v1/mesh.grpc.pb.h"

namespace tulle::sdk {
namespace {

constexpr char kDefaultPort[] = "7400";
constexpr auto kPatience = std::chrono::seconds(20);
constexpr std::size_t kFolderDigits = 12;  // of the mesh's fingerprint

std::string WithPort(const std::string& endpoint) {
  const std::size_t colon = endpoint.rfind(':');
  const std::size_t bracket = endpoint.rfind(']');
  const bool has_port = colon != std::string::npos && (bracket == std::string::npos || colon > bracket);
  return has_port ? endpoint : endpoint + ":" + kDefaultPort;
}

// The same for each of a list.
std::string WithPorts(const std::string& list) {
  std::string whole;
  for (const std::string& endpoint : control::EndpointsOf(list)) {
    whole += (whole.empty() ? "" : ",") + WithPort(endpoint);
  }
  return whole;
}

}  // namespace

Result<Enrollment> Enroll(const EnrollOptions& options) {
  TULLE_ASSIGN_OR_RETURN(const security::JoinToken token, security::JoinToken::Parse(options.token));
  const bool is_user = options.role == security::Role::kUser;
  Enrollment enrollment{.endpoint = WithPorts(options.endpoint)};
  const std::string client_config = options.state_dir + "/client.conf";
  if (is_user && !options.replace && std::filesystem::exists(client_config)) {
    const auto present = security::LoadCredentials(client_config);
    return Error{
        .code = Code::kAlreadyExists,
        .message =
            client_config + " is there already" +
            (present.ok() ? ", as " + present->identity + " of the mesh at " + present->endpoint : "") +
            "; --replace replaces it, --state-dir keeps another beside it"};
  }
  TULLE_RETURN_IF_ERROR(security::MakePrivateDirectory(options.state_dir));
  Result<std::string> fetched =
      Error{.code = Code::kInvalidArgument, .message = "say where the controller is"};
  for (const std::string& endpoint : control::EndpointsOf(enrollment.endpoint)) {
    fetched = security::FetchAuthority(endpoint, token.fingerprint);
    if (fetched.ok()) break;
  }
  TULLE_ASSIGN_OR_RETURN(const std::string ca, std::move(fetched));
  TULLE_ASSIGN_OR_RETURN(security::KeyPair key, security::MakeKeyPair());

  v1::EnrollRequest request;
  request.set_token_id(token.id);
  request.set_token_secret(std::string(AsText(token.secret.Expose())));
  request.set_name(options.name);
  request.set_name_is_default(options.name_is_default);
  request.set_role(is_user ? v1::JOIN_USER : v1::JOIN_NODE);
  request.set_public_key_pem(key.public_pem);
  const auto channel = control::OpenChannel(enrollment.endpoint, {.ca = ca});
  const auto stub = v1::Enrollment::NewStub(channel);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kPatience);
  v1::EnrollResponse response;
  if (const grpc::Status status = stub->Enroll(&context, request, &response); !status.ok()) {
    return control::ToError(status);
  }
  TULLE_ASSIGN_OR_RETURN(const security::Identity identity,
                         security::IdentityOfCertificate(response.certificate_pem()));
  enrollment.identity = identity.Uri();
  enrollment.name = identity.name;

  // A folder for each mesh, as one machine may be in several.
  const std::string folder = "mesh-" + token.fingerprint.substr(0, kFolderDigits);
  TULLE_RETURN_IF_ERROR(security::MakePrivateDirectory(options.state_dir + "/" + folder));
  const std::string stem = folder + "/" + security::RoleName(identity.role) + "-" + identity.name;
  const security::Credentials credentials{.endpoint = enrollment.endpoint,
                                          .identity = enrollment.identity,
                                          .ca_file = folder + "/ca.pem",
                                          .certificate_file = stem + ".pem",
                                          .key_file = stem + ".key"};
  const auto write = [&](const std::string& file, const std::string& text) {
    return security::WritePrivateFile(options.state_dir + "/" + file, text);
  };
  TULLE_RETURN_IF_ERROR(write(credentials.ca_file, ca));
  TULLE_RETURN_IF_ERROR(write(credentials.key_file, key.private_pem));
  TULLE_RETURN_IF_ERROR(write(credentials.certificate_file, response.certificate_pem()));
  enrollment.config_path = is_user ? client_config : options.state_dir + "/node-" + identity.name + ".conf";
  TULLE_RETURN_IF_ERROR(security::SaveCredentials(credentials, enrollment.config_path));
  return enrollment;
}

}  // namespace tulle::sdk
