#include "tulle/security/ca.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>

#include <filesystem>

#include "tulle/base/secret.h"
#include "tulle/security/files.h"

namespace tulle::security {
namespace {

constexpr std::size_t kMaxPemBytes = 64 << 10;
constexpr auto kClockSkew = std::chrono::hours(1);
constexpr auto kRenewBefore = std::chrono::hours(24 * 30);
constexpr auto kAuthorityValidity = std::chrono::hours(24 * 3650);

using BioPtr = std::unique_ptr<BIO, int (*)(BIO*)>;
using KeyPtr = std::unique_ptr<EVP_PKEY, void (*)(EVP_PKEY*)>;
using CertificatePtr = std::unique_ptr<X509, void (*)(X509*)>;

// The OpenSSL error queue, emptied, as an error.
Error CryptoError(const std::string& what) {
  char text[256] = "no detail";
  if (const unsigned long code = ERR_get_error(); code != 0) ERR_error_string_n(code, text, sizeof text);
  ERR_clear_error();
  return Error{.code = Code::kInternal, .message = what + ": " + text};
}

std::string TextOf(BIO* bio) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio, &data);
  return {data, static_cast<std::size_t>(size)};
}

Result<std::string> ToPem(EVP_PKEY* key) {
  const BioPtr bio(BIO_new(BIO_s_secmem()), BIO_free);
  if (PEM_write_bio_PrivateKey(bio.get(), key, nullptr, nullptr, 0, nullptr, nullptr) != 1) {
    return CryptoError("cannot write a key");
  }
  return TextOf(bio.get());
}

CertificatePtr ParseCertificate(const std::string& pem) {
  const BioPtr bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())), BIO_free);
  return {PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr), X509_free};
}

KeyPtr ParseKey(const std::string& pem) {
  const BioPtr bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())), BIO_free);
  return {PEM_read_bio_PrivateKey(bio.get(), nullptr, nullptr, nullptr), EVP_PKEY_free};
}

KeyPtr ParsePublicKey(const std::string& pem) {
  const BioPtr bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())), BIO_free);
  return {PEM_read_bio_PUBKEY(bio.get(), nullptr, nullptr, nullptr), EVP_PKEY_free};
}

bool AddExtension(X509* certificate, X509* issuer, int nid, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str());
  if (extension == nullptr) return false;
  const bool added = X509_add_ext(certificate, extension, -1) == 1;
  X509_EXTENSION_free(extension);
  return added;
}

// Subject, validity, serial number and key; the caller adds extensions and signs.
Result<CertificatePtr> Draft(const std::string& common_name, EVP_PKEY* key, std::int64_t now_us,
                             std::chrono::hours validity, Random& random) {
  CertificatePtr certificate(X509_new(), X509_free);
  const std::time_t from = now_us / 1'000'000 - std::chrono::seconds(kClockSkew).count();
  const std::time_t until = now_us / 1'000'000 + std::chrono::seconds(validity).count();
  std::byte serial[16];
  random.Fill(serial);
  serial[0] &= std::byte{0x7f};  // positive
  const std::unique_ptr<BIGNUM, void (*)(BIGNUM*)> number(
      BN_bin2bn(reinterpret_cast<const unsigned char*>(serial), sizeof serial, nullptr), BN_free);
  X509_NAME* subject = X509_get_subject_name(certificate.get());
  if (X509_set_version(certificate.get(), X509_VERSION_3) != 1 ||
      BN_to_ASN1_INTEGER(number.get(), X509_get_serialNumber(certificate.get())) == nullptr ||
      ASN1_TIME_set(X509_getm_notBefore(certificate.get()), from) == nullptr ||
      ASN1_TIME_set(X509_getm_notAfter(certificate.get()), until) == nullptr ||
      X509_NAME_add_entry_by_txt(subject, "O", MBSTRING_UTF8, reinterpret_cast<const unsigned char*>("tulle"),
                                 -1, -1, 0) != 1 ||
      X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8,
                                 reinterpret_cast<const unsigned char*>(common_name.c_str()), -1, -1,
                                 0) != 1 ||
      X509_set_pubkey(certificate.get(), key) != 1) {
    return CryptoError("cannot make a certificate");
  }
  return certificate;
}

bool IsIpAddress(const std::string& host) {
  unsigned char buffer[sizeof(in6_addr)];
  return inet_pton(AF_INET, host.c_str(), buffer) == 1 || inet_pton(AF_INET6, host.c_str(), buffer) == 1;
}

Status RequirePrivate(const std::string& path) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) return ErrnoError("cannot look at " + path, errno);
  if ((info.st_mode & 0077) != 0) {
    return Error{
        .code = Code::kPermissionDenied,
        .message = path + " may be read by others; take it as known to them, or `chmod 600 " + path + "`"};
  }
  return OkStatus();
}

}  // namespace

Result<std::string> ToPem(X509* certificate) {
  const BioPtr bio(BIO_new(BIO_s_mem()), BIO_free);
  if (PEM_write_bio_X509(bio.get(), certificate) != 1) return CryptoError("cannot write a certificate");
  return TextOf(bio.get());
}

Result<KeyPair> MakeKeyPair() {
  const KeyPtr key(EVP_EC_gen("P-256"), EVP_PKEY_free);
  const BioPtr public_half(BIO_new(BIO_s_mem()), BIO_free);
  if (key == nullptr || public_half == nullptr || PEM_write_bio_PUBKEY(public_half.get(), key.get()) != 1) {
    return CryptoError("cannot make a key");
  }
  TULLE_ASSIGN_OR_RETURN(std::string private_pem, ToPem(key.get()));
  return KeyPair{.private_pem = std::move(private_pem), .public_pem = TextOf(public_half.get())};
}

Status CheckPublicKey(const std::string& public_key_pem) {
  const KeyPtr key = ParsePublicKey(public_key_pem);
  char group[32] = "";
  if (key != nullptr && EVP_PKEY_get_base_id(key.get()) == EVP_PKEY_EC &&
      EVP_PKEY_get_group_name(key.get(), group, sizeof group, nullptr) == 1 &&
      std::string_view(group) == SN_X9_62_prime256v1) {
    return OkStatus();
  }
  ERR_clear_error();
  return Error{.code = Code::kInvalidArgument,
               .message = "the public key must be an ECDSA key on the curve P-256, in PEM"};
}

Result<CertificateAuthority> CertificateAuthority::OpenOrCreate(const std::string& directory,
                                                                const Clock& clock, Random& random) {
  TULLE_RETURN_IF_ERROR(MakePrivateDirectory(directory));
  const std::string certificate_path = directory + "/ca.pem";
  const std::string key_path = directory + "/ca.key";
  const bool has_certificate = std::filesystem::exists(certificate_path);
  const bool has_key = std::filesystem::exists(key_path);
  CertificateAuthority authority(clock, random);
  if (has_certificate != has_key) {
    return Error{.code = Code::kFailedPrecondition,
                 .message = "the mesh's CA is incomplete: " + (has_key ? certificate_path : key_path) +
                            " is missing. Restore it, or remove " + (has_key ? key_path : certificate_path) +
                            " to start a new mesh"};
  }
  if (has_key) {
    TULLE_RETURN_IF_ERROR(RequirePrivate(key_path));
    TULLE_ASSIGN_OR_RETURN(authority.certificate_pem_, ReadFile(certificate_path, kMaxPemBytes));
    TULLE_ASSIGN_OR_RETURN(const std::string key_pem, ReadFile(key_path, kMaxPemBytes));
    authority.certificate_.reset(ParseCertificate(authority.certificate_pem_).release());
    authority.key_.reset(ParseKey(key_pem).release());
    if (authority.certificate_ == nullptr || authority.key_ == nullptr ||
        X509_check_private_key(authority.certificate_.get(), authority.key_.get()) != 1) {
      ERR_clear_error();
      return Error{.code = Code::kDataLoss,
                   .message = key_path + " and " + certificate_path + " do not belong together"};
    }
    return authority;
  }
  authority.key_.reset(EVP_EC_gen("P-256"));
  if (authority.key_ == nullptr) return CryptoError("cannot make the CA's key");
  std::byte id[4];
  random.Fill(id);
  TULLE_ASSIGN_OR_RETURN(CertificatePtr certificate, Draft("tulle mesh " + ToHex(id), authority.key_.get(),
                                                           clock.WallMicros(), kAuthorityValidity, random));
  X509* raw = certificate.get();
  if (X509_set_issuer_name(raw, X509_get_subject_name(raw)) != 1 ||
      !AddExtension(raw, raw, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") ||
      !AddExtension(raw, raw, NID_key_usage, "critical,keyCertSign,cRLSign") ||
      !AddExtension(raw, raw, NID_subject_key_identifier, "hash") ||
      X509_sign(raw, authority.key_.get(), EVP_sha256()) == 0) {
    return CryptoError("cannot sign the CA's certificate");
  }
  authority.certificate_.reset(certificate.release());
  TULLE_ASSIGN_OR_RETURN(authority.certificate_pem_, ToPem(authority.certificate_.get()));
  TULLE_ASSIGN_OR_RETURN(const std::string key_pem, ToPem(authority.key_.get()));
  TULLE_RETURN_IF_ERROR(WritePrivateFile(key_path, key_pem));
  TULLE_RETURN_IF_ERROR(WritePrivateFile(certificate_path, authority.certificate_pem_));
  return authority;
}

Result<PemBundle> CertificateAuthority::Issue(const Identity& identity, const IssueOptions& options) {
  TULLE_ASSIGN_OR_RETURN(KeyPair key, MakeKeyPair());
  TULLE_ASSIGN_OR_RETURN(std::string certificate, Certify(identity, key.public_pem, options));
  return PemBundle{
      .ca = certificate_pem_, .certificate = std::move(certificate), .key = std::move(key.private_pem)};
}

Result<std::string> CertificateAuthority::Certify(const Identity& identity, const std::string& public_key_pem,
                                                  const IssueOptions& options) {
  if (!IsName(identity.name)) {
    return Error{.code = Code::kInvalidArgument,
                 .message = "\"" + identity.name + "\" cannot be a name: use 1 to 63 of a-z, 0-9 and '-'"};
  }
  TULLE_RETURN_IF_ERROR(CheckPublicKey(public_key_pem));
  const std::lock_guard lock(*mutex_);
  const KeyPtr key = ParsePublicKey(public_key_pem);
  const bool serves = identity.role == Role::kController;
  std::string names = "URI:" + identity.Uri();
  if (serves) {
    names += std::string(",DNS:") + kControllerTlsName;
    for (const std::string& host : options.hosts) {
      if (host.find_first_of(", \n") != std::string::npos) {
        return Error{.code = Code::kInvalidArgument, .message = "\"" + host + "\" is not a host name"};
      }
      names += (IsIpAddress(host) ? ",IP:" : ",DNS:") + host;
    }
  }
  TULLE_ASSIGN_OR_RETURN(CertificatePtr certificate,
                         Draft(identity.name, key.get(), clock_->WallMicros(), options.validity, *random_));
  X509* raw = certificate.get();
  X509* issuer = certificate_.get();
  if (X509_set_issuer_name(raw, X509_get_subject_name(issuer)) != 1 ||
      !AddExtension(raw, issuer, NID_basic_constraints, "critical,CA:FALSE") ||
      !AddExtension(raw, issuer, NID_key_usage, "critical,digitalSignature") ||
      !AddExtension(raw, issuer, NID_ext_key_usage, serves ? "serverAuth,clientAuth" : "clientAuth") ||
      !AddExtension(raw, issuer, NID_authority_key_identifier, "keyid") ||
      !AddExtension(raw, issuer, NID_subject_alt_name, names) ||
      X509_sign(raw, key_.get(), EVP_sha256()) == 0) {
    return CryptoError("cannot sign a certificate for " + identity.Uri());
  }
  return ToPem(raw);
}

Result<Credentials> EnsureCredentials(CertificateAuthority& authority, const std::string& directory,
                                      const Identity& identity, const Clock& clock,
                                      const IssueOptions& options) {
  TULLE_RETURN_IF_ERROR(MakePrivateDirectory(directory));
  const std::string stem = directory + "/" + RoleName(identity.role) + "-" + identity.name;
  Credentials credentials{.identity = identity.Uri(),
                          .ca_file = directory + "/ca.pem",
                          .certificate_file = stem + ".pem",
                          .key_file = stem + ".key"};
  // A controller's hosts may differ from one start to the next, so its certificate is always made anew.
  if (identity.role != Role::kController) {
    if (const auto bundle = LoadPemBundle(credentials);
        bundle.ok() && bundle->ca == authority.certificate_pem()) {
      const CertificatePtr certificate = ParseCertificate(bundle->certificate);
      std::time_t renew_at = clock.WallMicros() / 1'000'000 + std::chrono::seconds(kRenewBefore).count();
      if (certificate != nullptr && X509_cmp_time(X509_get0_notAfter(certificate.get()), &renew_at) > 0) {
        return credentials;
      }
    }
  }
  TULLE_ASSIGN_OR_RETURN(const PemBundle bundle, authority.Issue(identity, options));
  TULLE_RETURN_IF_ERROR(WritePrivateFile(credentials.ca_file, bundle.ca));
  TULLE_RETURN_IF_ERROR(WritePrivateFile(credentials.key_file, bundle.key));
  TULLE_RETURN_IF_ERROR(WritePrivateFile(credentials.certificate_file, bundle.certificate));
  return credentials;
}

Result<std::int64_t> IssuedAt(std::string_view certificate_pem) {
  TULLE_ASSIGN_OR_RETURN(const Validity validity, ValidityOf(certificate_pem));
  return validity.from_us + std::chrono::microseconds(kClockSkew).count();
}

}  // namespace tulle::security
