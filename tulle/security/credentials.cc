#include "tulle/security/credentials.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "tulle/security/files.h"

namespace tulle::security {
namespace {

struct Key {
  const char* name;
  std::string Credentials::*field;
  bool is_file;
  bool required;
};

constexpr Key kKeys[] = {
    {"endpoint", &Credentials::endpoint, false, true},
    {"http_endpoint", &Credentials::http_endpoint, false, false},
    {"identity", &Credentials::identity, false, false},
    {"ca_file", &Credentials::ca_file, true, true},
    {"certificate_file", &Credentials::certificate_file, true, false},
    {"key_file", &Credentials::key_file, true, false},
    {"api_token", &Credentials::api_token, false, false},
};
constexpr std::size_t kMaxFileBytes = 1 << 20;

std::string_view Trim(std::string_view text) {
  const auto first = text.find_first_not_of(" \t\r");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
}

}  // namespace

Result<Credentials> LoadCredentials(const std::string& path) {
  TULLE_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxFileBytes));
  const auto bad = [&path](int line, const std::string& what) {
    return Error{.code = Code::kInvalidArgument, .message = path + ":" + std::to_string(line) + ": " + what};
  };
  Credentials credentials;
  int line_number = 0;
  for (std::string_view rest = text; !rest.empty();) {
    const auto end = std::min(rest.find('\n'), rest.size());
    const std::string_view line = Trim(rest.substr(0, end));
    rest.remove_prefix(std::min(end + 1, rest.size()));
    ++line_number;
    if (line.empty() || line.front() == '#') continue;
    const auto equals = line.find('=');
    if (equals == std::string_view::npos) return bad(line_number, "not of the form \"key = value\"");
    const std::string_view name = Trim(line.substr(0, equals));
    const auto key =
        std::find_if(std::begin(kKeys), std::end(kKeys), [name](const Key& k) { return name == k.name; });
    if (key == std::end(kKeys)) continue;  // of a later version
    std::string value(Trim(line.substr(equals + 1)));
    if (key->is_file && !value.empty()) value = std::filesystem::path(path).parent_path() / value;
    credentials.*key->field = std::move(value);
  }
  for (const Key& key : kKeys) {
    const bool shows_who = key.field == &Credentials::certificate_file || key.field == &Credentials::key_file;
    const bool required = key.required || (shows_who && credentials.api_token.empty());
    if (required && (credentials.*key.field).empty())
      return bad(line_number, std::string(key.name) + " is missing");
  }
  return credentials;
}

Status SaveCredentials(const Credentials& credentials, const std::string& path) {
  std::string text;
  for (const Key& key : kKeys) {
    const std::string& value = credentials.*key.field;
    if (!value.empty()) text += std::string(key.name) + " = " + value + "\n";
  }
  return WritePrivateFile(path, text);
}

Result<PemBundle> LoadPemBundle(const Credentials& credentials) {
  PemBundle bundle;
  TULLE_ASSIGN_OR_RETURN(bundle.ca, ReadFile(credentials.ca_file, kMaxFileBytes));
  if (!credentials.api_token.empty()) return bundle;
  TULLE_ASSIGN_OR_RETURN(bundle.certificate, ReadFile(credentials.certificate_file, kMaxFileBytes));
  TULLE_ASSIGN_OR_RETURN(bundle.key, ReadFile(credentials.key_file, kMaxFileBytes));
  return bundle;
}

}  // namespace tulle::security
