#include <gtest/gtest.h>
#include <openssl/pem.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <memory>

#include "tulle/security/api_token.h"
#include "tulle/security/ca.h"
#include "tulle/security/credentials.h"
#include "tulle/security/crypto.h"
#include "tulle/security/files.h"
#include "tulle/security/join_token.h"
#include "tulle/security/sealer.h"

namespace tulle::security {
namespace {

class SecurityTest : public ::testing::Test {
 protected:
  SecurityTest() {
    char pattern[] = "/tmp/tulle-security-XXXXXX";
    root_ = mkdtemp(pattern);
  }
  ~SecurityTest() override { std::filesystem::remove_all(root_); }

  static unsigned Mode(const std::string& path) {
    struct stat info {};
    return stat(path.c_str(), &info) == 0 ? info.st_mode & 0777 : 0;
  }

  std::string root_;
  SystemClock clock_;
  SecureRandom random_;
};

using CertificatePtr = std::unique_ptr<X509, void (*)(X509*)>;

CertificatePtr Parse(const std::string& pem) {
  BIO* bio = BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size()));
  CertificatePtr certificate(PEM_read_bio_X509(bio, nullptr, nullptr, nullptr), X509_free);
  BIO_free(bio);
  return certificate;
}

// Whether OpenSSL accepts `pem` under `ca` for `purpose`.
bool Verifies(const std::string& pem, const std::string& ca, int purpose) {
  const CertificatePtr certificate = Parse(pem);
  const CertificatePtr authority = Parse(ca);
  X509_STORE* store = X509_STORE_new();
  X509_STORE_add_cert(store, authority.get());
  X509_STORE_CTX* context = X509_STORE_CTX_new();
  X509_STORE_CTX_init(context, store, certificate.get(), nullptr);
  X509_STORE_CTX_set_purpose(context, purpose);
  const bool ok = X509_verify_cert(context) == 1;
  X509_STORE_CTX_free(context);
  X509_STORE_free(store);
  return ok;
}

TEST_F(SecurityTest, AnAuthorityIssuesWhatItsRoleMayDo) {
  auto authority = CertificateAuthority::OpenOrCreate(root_ + "/ca", clock_, random_);
  ASSERT_TRUE(authority.ok()) << authority.error().message;
  EXPECT_EQ(Mode(root_ + "/ca"), 0700u);
  EXPECT_EQ(Mode(root_ + "/ca/ca.key"), 0600u);

  const auto user = authority->Issue({Role::kUser, "alice"});
  const auto controller =
      authority->Issue({Role::kController, "main"}, {.hosts = {"localhost", "127.0.0.1", "::1"}});
  ASSERT_TRUE(user.ok() && controller.ok());
  EXPECT_EQ(IdentityOfCertificate(user->certificate)->Uri(), "tulle://user/alice");
  EXPECT_TRUE(Verifies(user->certificate, user->ca, X509_PURPOSE_SSL_CLIENT));
  EXPECT_FALSE(Verifies(user->certificate, user->ca, X509_PURPOSE_SSL_SERVER))
      << "a user could pass for a controller";
  EXPECT_TRUE(Verifies(controller->certificate, user->ca, X509_PURPOSE_SSL_SERVER));
  const CertificatePtr parsed = Parse(controller->certificate);
  EXPECT_EQ(X509_check_host(parsed.get(), kControllerTlsName, 0, 0, nullptr), 1);
  EXPECT_EQ(X509_check_ip_asc(parsed.get(), "127.0.0.1", 0), 1);
  EXPECT_EQ(X509_check_host(Parse(user->certificate).get(), kControllerTlsName, 0, 0, nullptr), 0);

  // Loaded again it is the same authority; another mesh's is not.
  auto again = CertificateAuthority::OpenOrCreate(root_ + "/ca", clock_, random_);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->certificate_pem(), authority->certificate_pem());
  auto other = CertificateAuthority::OpenOrCreate(root_ + "/other", clock_, random_);
  EXPECT_FALSE(
      Verifies(other->Issue({Role::kUser, "alice"})->certificate, user->ca, X509_PURPOSE_SSL_CLIENT));

  EXPECT_EQ(authority->Issue({Role::kUser, "a,URI:tulle://user/b"}).error().code, Code::kInvalidArgument);
  EXPECT_FALSE(authority->Issue({Role::kController, "main"}, {.hosts = {"a,URI:tulle://user/b"}}).ok());
}

TEST_F(SecurityTest, AnAuthorityThatOthersCanReadOrHalfOfOneIsRefused) {
  ASSERT_TRUE(CertificateAuthority::OpenOrCreate(root_ + "/ca", clock_, random_).ok());
  chmod((root_ + "/ca/ca.key").c_str(), 0640);
  EXPECT_EQ(CertificateAuthority::OpenOrCreate(root_ + "/ca", clock_, random_).error().code,
            Code::kPermissionDenied);
  std::filesystem::remove(root_ + "/ca/ca.key");
  EXPECT_EQ(CertificateAuthority::OpenOrCreate(root_ + "/ca", clock_, random_).error().code,
            Code::kFailedPrecondition);
  std::filesystem::create_directory(root_ + "/open");
  chmod((root_ + "/open").c_str(), 0755);
  EXPECT_EQ(CertificateAuthority::OpenOrCreate(root_ + "/open", clock_, random_).error().code,
            Code::kPermissionDenied);
}

TEST_F(SecurityTest, CredentialsAreKeptUntilTheyNearTheirEnd) {
  auto authority = CertificateAuthority::OpenOrCreate(root_ + "/ca", clock_, random_);
  const Identity alice{Role::kUser, "alice"};
  const std::string folder = root_ + "/credentials";
  auto first = EnsureCredentials(*authority, folder, alice, clock_);
  ASSERT_TRUE(first.ok()) << first.error().message;
  const std::string certificate = LoadPemBundle(*first)->certificate;
  EXPECT_EQ(Mode(first->key_file), 0600u);
  EXPECT_EQ(LoadPemBundle(*EnsureCredentials(*authority, folder, alice, clock_))->certificate, certificate);

  class Later final : public Clock {
    Instant Now() const override { return {}; }
    std::int64_t WallMicros() const override {
      return SystemClock().WallMicros() + 340LL * 86400 * 1'000'000;
    }
  };
  EXPECT_NE(LoadPemBundle(*EnsureCredentials(*authority, folder, alice, Later()))->certificate, certificate);
}

TEST_F(SecurityTest, CredentialFilesGoBothWays) {
  const Credentials saved{.endpoint = "127.0.0.1:7400",
                          .identity = "tulle://user/alice",
                          .ca_file = "ca.pem",
                          .certificate_file = "/elsewhere/a.pem",
                          .key_file = "sub/a.key"};
  const std::string path = root_ + "/client.conf";
  ASSERT_TRUE(SaveCredentials(saved, path).ok());
  EXPECT_EQ(Mode(path), 0600u);
  const auto loaded = LoadCredentials(path);
  ASSERT_TRUE(loaded.ok()) << loaded.error().message;
  EXPECT_EQ(loaded->endpoint, "127.0.0.1:7400");
  EXPECT_EQ(loaded->http_endpoint, "");
  EXPECT_EQ(loaded->ca_file, root_ + "/ca.pem");
  EXPECT_EQ(loaded->certificate_file, "/elsewhere/a.pem");
  EXPECT_EQ(loaded->key_file, root_ + "/sub/a.key");

  EXPECT_EQ(LoadCredentials(root_ + "/none").error().code, Code::kNotFound);
  ASSERT_TRUE(WritePrivateFile(path, "# comment\n endpoint=x:1 \nfuture = y\nnonsense\n").ok());
  EXPECT_EQ(LoadCredentials(path).error().message, path + ":4: not of the form \"key = value\"");
  ASSERT_TRUE(WritePrivateFile(path, "endpoint = x:1\n").ok());
  EXPECT_EQ(LoadCredentials(path).error().message, path + ":1: ca_file is missing");
  ASSERT_TRUE(WritePrivateFile(path, "endpoint = x:1\nca_file = ca.pem\n").ok());
  EXPECT_EQ(LoadCredentials(path).error().message, path + ":2: certificate_file is missing");
  ASSERT_TRUE(WritePrivateFile(path, "endpoint = x:1\nca_file = ca.pem\napi_token = t\n").ok());
  EXPECT_EQ(LoadCredentials(path)->api_token, "t") << "shows who it is as well";
  EXPECT_EQ(ReadFile(path, 4).error().code, Code::kInvalidArgument);
}

TEST(ApiTokenSecret, OnlyTheOneFormIsAccepted) {
  SeededRandom random(1);
  const ApiTokenSecret made = ApiTokenSecret::Make(random);
  const std::string text = made.Text();
  EXPECT_EQ(text.size(), 10u + 16 + 1 + 64);
  const auto parsed = ApiTokenSecret::Parse(text);
  ASSERT_TRUE(parsed.ok());
  EXPECT_EQ(parsed->id, made.id);
  EXPECT_TRUE(parsed->secret == made.secret);
  EXPECT_NE(ApiTokenSecret::Make(random).Text(), text);
  for (const std::string& bad :
       {std::string(), std::string("tulle-api."), text.substr(1), text + "0", text.substr(0, text.size() - 1),
        text.substr(0, text.size() - 1) + "g", "tulle-api" + text.substr(9, 18), " " + text}) {
    const auto refused = ApiTokenSecret::Parse(bad);
    ASSERT_FALSE(refused.ok()) << bad;
    EXPECT_EQ(refused.error().code, Code::kUnauthenticated);
    EXPECT_EQ(refused.error().message.find(made.id), std::string::npos) << "the message does not show it";
  }
}

TEST(Identity, OnlyTheOneFormIsAccepted) {
  EXPECT_EQ(ParseIdentity("tulle://node/a-1")->role, Role::kNode);
  for (const char* bad : {"", "tulle://node/", "tulle://node/-a", "tulle://node/a/b", "tulle://admin/a",
                          "http://node/a", "tulle://user/Alice", "tulle://user/a b"}) {
    EXPECT_EQ(ParseIdentity(bad).error().code, Code::kUnauthenticated) << bad;
  }
  EXPECT_EQ(IdentityOfCertificate("rubbish").error().code, Code::kUnauthenticated);
  EXPECT_EQ(MakeName("My_Host.local"), "my-host-local");
  EXPECT_EQ(MakeName("--"), "x");
  EXPECT_TRUE(IsName(MakeName(std::string(62, 'a') + ".b")));
}

TEST_F(SecurityTest, TokensGoThroughTextAndNothingElseIsOne) {
  const auto authority = *CertificateAuthority::OpenOrCreate(root_ + "/ca", clock_, random_);
  const JoinToken token = JoinToken::Make(authority.certificate_pem(), random_);
  EXPECT_EQ(token.fingerprint, FingerprintOf(authority.certificate_pem()));
  EXPECT_EQ(token.fingerprint.size(), 64u);
  EXPECT_EQ(FingerprintOf("rubbish"), "");
  const auto parsed = JoinToken::Parse(token.Text());
  ASSERT_TRUE(parsed.ok());
  EXPECT_EQ(parsed->id, token.id);
  EXPECT_EQ(parsed->secret, token.secret);
  EXPECT_EQ(parsed->fingerprint, token.fingerprint);
  EXPECT_NE(JoinToken::Make(authority.certificate_pem(), random_).secret, token.secret);
  const std::string text = token.Text();
  for (std::size_t size = 0; size < text.size(); ++size) {
    EXPECT_FALSE(JoinToken::Parse(text.substr(0, size)).ok()) << size;
  }
  for (const std::string& wrong : {text + "0", text + ".", "x" + text, "tulle2" + text.substr(6)}) {
    const auto refused = JoinToken::Parse(wrong);
    ASSERT_FALSE(refused.ok()) << wrong;
    EXPECT_EQ(refused.error().message.find(ToHex(token.secret.Expose())), std::string::npos);
  }
}

TEST_F(SecurityTest, WhoHasAKeyIsCertifiedForThatKeyOnly) {
  auto authority = *CertificateAuthority::OpenOrCreate(root_ + "/ca", clock_, random_);
  const KeyPair key = *MakeKeyPair();
  const auto certificate = authority.Certify({Role::kNode, "gpu-1"}, key.public_pem);
  ASSERT_TRUE(certificate.ok()) << certificate.error().message;
  EXPECT_EQ(IdentityOfCertificate(*certificate)->Uri(), "tulle://node/gpu-1");
  const Validity validity = *ValidityOf(*certificate);
  EXPECT_NEAR(static_cast<double>(validity.from_us - clock_.WallMicros()), -3600e6, 60e6);
  EXPECT_NEAR(static_cast<double>(validity.until_us - clock_.WallMicros()), 365 * 24 * 3600e6, 60e6);
  EXPECT_FALSE(ValidityOf("rubbish").ok());
  const CertificatePtr parsed = Parse(*certificate);
  BIO* bio = BIO_new_mem_buf(key.private_pem.data(), static_cast<int>(key.private_pem.size()));
  EVP_PKEY* private_half = PEM_read_bio_PrivateKey(bio, nullptr, nullptr, nullptr);
  EXPECT_EQ(X509_check_private_key(parsed.get(), private_half), 1);
  EVP_PKEY_free(private_half);
  BIO_free(bio);
  // Another curve, a private key, and rubbish.
  EVP_PKEY* other = EVP_EC_gen("P-384");
  BIO* out = BIO_new(BIO_s_mem());
  PEM_write_bio_PUBKEY(out, other);
  char* data = nullptr;
  const long size = BIO_get_mem_data(out, &data);
  const std::string other_curve(data, static_cast<std::size_t>(size));
  BIO_free(out);
  EVP_PKEY_free(other);
  for (const std::string& wrong : {other_curve, key.private_pem, std::string("rubbish"), std::string()}) {
    EXPECT_EQ(authority.Certify({Role::kNode, "gpu-1"}, wrong).error().code, Code::kInvalidArgument);
    EXPECT_FALSE(CheckPublicKey(wrong).ok());
  }
}

// RFC 5869, test cases 1 and 3.
TEST(Hkdf, IsTheOneOfTheRfc) {
  std::byte key[22], salt[13], info[10];
  ASSERT_TRUE(FromHex("0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b", key));
  ASSERT_TRUE(FromHex("000102030405060708090a0b0c", salt));
  ASSERT_TRUE(FromHex("f0f1f2f3f4f5f6f7f8f9", info));
  EXPECT_EQ(ToHex(HkdfSha256(key, salt, info, 42).Expose()),
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865");
  EXPECT_EQ(ToHex(HkdfSha256(key, {}, {}, 42).Expose()),
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8");
}

TEST(Sealer, OnlyTheSameKeyAndContextUnseal) {
  char pattern[] = "/tmp/tulle-sealer-XXXXXX";
  const std::string folder = mkdtemp(pattern);
  SecureRandom random;
  const auto sealer = Sealer::OpenOrCreate(folder + "/seal.key", random);
  ASSERT_TRUE(sealer.ok()) << sealer.error().message;
  const Secret secret(AsBytes(std::string_view("thirty-two bytes of secret matter")));
  const std::string sealed = sealer->Seal(secret.Expose(), "grant-1");
  EXPECT_EQ(sealed.find("secret"), std::string::npos);
  EXPECT_NE(sealed, sealer->Seal(secret.Expose(), "grant-1")) << "a nonce of its own";
  EXPECT_EQ(*sealer->Unseal(sealed, "grant-1"), secret);
  EXPECT_EQ(*Sealer::OpenOrCreate(folder + "/seal.key", random)->Unseal(sealed, "grant-1"), secret);
  EXPECT_EQ(*sealer->Unseal(sealer->Seal({}, "x"), "x"), Secret());

  EXPECT_EQ(sealer->Unseal(sealed, "grant-2").error().code, Code::kDataLoss);
  EXPECT_FALSE(sealer->Unseal("short", "grant-1").ok());
  for (std::size_t i = 0; i < sealed.size(); ++i) {
    std::string damaged = sealed;
    damaged[i] = static_cast<char>(damaged[i] ^ 1);
    EXPECT_FALSE(sealer->Unseal(damaged, "grant-1").ok()) << i;
  }
  EXPECT_FALSE(Sealer::OpenOrCreate(folder + "/other.key", random)->Unseal(sealed, "grant-1").ok());
  std::ofstream(folder + "/bad.key") << "not a key";
  EXPECT_EQ(Sealer::OpenOrCreate(folder + "/bad.key", random).error().code, Code::kDataLoss);
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace tulle::security
