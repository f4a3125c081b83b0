#include "tulle/security/identity.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <ctime>
#include <memory>

namespace tulle::security {
namespace {

constexpr std::string_view kScheme = "tulle://";
constexpr std::size_t kMaxName = 63;

bool IsNameCharacter(char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-'; }

Error NoIdentity(const std::string& what) { return Error{.code = Code::kUnauthenticated, .message = what}; }

using CertificatePtr = std::unique_ptr<X509, void (*)(X509*)>;

CertificatePtr Parse(std::string_view pem) {
  const std::unique_ptr<BIO, int (*)(BIO*)> bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())),
                                                BIO_free);
  CertificatePtr certificate(PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr), X509_free);
  ERR_clear_error();
  return certificate;
}

}  // namespace

const char* RoleName(Role role) {
  switch (role) {
    case Role::kController: return "controller";
    case Role::kNode: return "node";
    case Role::kUser: return "user";
  }
  return "";
}

std::string Identity::Uri() const { return std::string(kScheme) + RoleName(role) + "/" + name; }

bool IsName(std::string_view name) {
  return !name.empty() && name.size() <= kMaxName && name.front() != '-' && name.back() != '-' &&
         std::all_of(name.begin(), name.end(), IsNameCharacter);
}

std::string MakeName(std::string_view text) {
  std::string name;
  for (char c : text.substr(0, kMaxName)) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    name += IsNameCharacter(c) ? c : '-';
  }
  name.erase(0, name.find_first_not_of('-'));
  if (const auto last = name.find_last_not_of('-'); last != std::string::npos) name.erase(last + 1);
  return name.empty() ? "x" : name;
}

Result<Identity> ParseIdentity(std::string_view uri) {
  if (uri.starts_with(kScheme)) {
    const std::string_view rest = uri.substr(kScheme.size());
    for (const Role role : {Role::kController, Role::kNode, Role::kUser}) {
      const std::string prefix = std::string(RoleName(role)) + "/";
      if (rest.starts_with(prefix) && IsName(rest.substr(prefix.size()))) {
        return Identity{.role = role, .name = std::string(rest.substr(prefix.size()))};
      }
    }
  }
  return NoIdentity("the certificate's name is not tulle://<role>/<name>");
}

Result<Validity> ValidityOf(std::string_view certificate_pem) {
  const CertificatePtr certificate = Parse(certificate_pem);
  std::tm from{};
  std::tm until{};
  if (certificate == nullptr || ASN1_TIME_to_tm(X509_get0_notBefore(certificate.get()), &from) != 1 ||
      ASN1_TIME_to_tm(X509_get0_notAfter(certificate.get()), &until) != 1) {
    return Error{.code = Code::kInvalidArgument, .message = "not a certificate"};
  }
  constexpr std::int64_t kMicros = 1'000'000;
  return Validity{.from_us = timegm(&from) * kMicros, .until_us = timegm(&until) * kMicros};
}

Result<Identity> IdentityOfCertificate(std::string_view pem) {
  const CertificatePtr certificate = Parse(pem);
  if (certificate == nullptr) return NoIdentity("not a certificate");
  const std::unique_ptr<GENERAL_NAMES, void (*)(GENERAL_NAMES*)> names(
      static_cast<GENERAL_NAMES*>(
          X509_get_ext_d2i(certificate.get(), NID_subject_alt_name, nullptr, nullptr)),
      GENERAL_NAMES_free);
  std::string_view uri;
  for (int i = 0; i < sk_GENERAL_NAME_num(names.get()); ++i) {
    const GENERAL_NAME* name = sk_GENERAL_NAME_value(names.get(), i);
    if (name->type != GEN_URI) continue;
    if (!uri.empty()) return NoIdentity("the certificate carries more than one identity");
    const ASN1_IA5STRING* text = name->d.uniformResourceIdentifier;
    uri = {reinterpret_cast<const char*>(ASN1_STRING_get0_data(text)),
           static_cast<std::size_t>(ASN1_STRING_length(text))};
  }
  return ParseIdentity(uri);
}

}  // namespace tulle::security
