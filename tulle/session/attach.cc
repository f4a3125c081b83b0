#include "tulle/session/attach.h"

#include <fcntl.h>
#include <openssl/crypto.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "tulle/base/unique_fd.h"
#include "tulle/net/local/local.h"
#include "tulle/net/tcp/socket.h"
#include "tulle/session/psk_identity.h"

namespace tulle::session {
namespace {

constexpr std::string_view kFirstLine = "tulle-attach 1";

Error BadLine(std::size_t number, const std::string& what) {
  return {Code::kInvalidArgument, "attach file, line " + std::to_string(number) + ": " + what};
}

// Holds a key in text until it goes.
struct SecretText {
  std::string text;
  ~SecretText() { OPENSSL_cleanse(text.data(), text.size()); }
};

Status CheckEndpoint(std::string_view text) {
  if (net::IsLocalEndpoint(text)) {
    TULLE_RETURN_IF_ERROR(net::ParseLocalEndpoint(text));
  } else {
    TULLE_RETURN_IF_ERROR(net::ParseEndpoint(text));
  }
  return OkStatus();
}

// What a target must have before the next one starts.
Status CheckComplete(const Target& target, bool has_transport, std::size_t line) {
  if (target.grant.empty()) return BadLine(line, "vgpu " + target.vgpu + " has no grant line");
  if (target.endpoints.empty()) return BadLine(line, "vgpu " + target.vgpu + " has no endpoint line");
  if (!has_transport) return BadLine(line, "vgpu " + target.vgpu + " has no transport line");
  return OkStatus();
}

}  // namespace

Result<std::vector<Target>> ParseAttach(std::string_view text) {
  if (text.size() > kMaxAttachBytes) {
    return Error{Code::kInvalidArgument, "attach file: " + FormatSize(text.size()) +
                                             " is over the limit of " + FormatSize(kMaxAttachBytes)};
  }
  std::vector<Target> targets;
  bool has_transport = false;  // of the last target
  std::size_t number = 0;
  while (!text.empty()) {
    ++number;
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (number == 1) {
      if (line != kFirstLine) return BadLine(1, "must be '" + std::string(kFirstLine) + "'");
      continue;
    }
    const std::size_t space = line.find(' ');
    const std::string_view word = line.substr(0, space);
    const std::string_view value =
        space == std::string_view::npos ? std::string_view() : line.substr(space + 1);
    if (word == "vgpu") {
      if (!targets.empty()) TULLE_RETURN_IF_ERROR(CheckComplete(targets.back(), has_transport, number));
      if (!IsId(value)) return BadLine(number, "a vgpu id is 1 to 64 of A-Z a-z 0-9 _ -");
      if (targets.size() == kMaxTargets) {
        return BadLine(number, "more than " + std::to_string(kMaxTargets) + " vGPUs for one program");
      }
      targets.emplace_back().vgpu = value;
      has_transport = false;
      continue;
    }
    if (targets.empty()) return BadLine(number, "a vgpu line must come before this one");
    Target& target = targets.back();
    if (word == "grant") {
      const std::size_t separator = value.find(' ');
      if (!target.grant.empty()) return BadLine(number, "a second grant for vgpu " + target.vgpu);
      if (separator == std::string_view::npos || !IsId(value.substr(0, separator)) ||
          !FromHex(value.substr(separator + 1), target.key)) {
        return BadLine(number, "must be 'grant <id> <64 hexadecimal digits>'");
      }
      target.grant = value.substr(0, separator);
    } else if (word == "endpoint") {
      if (target.endpoints.size() == kMaxEndpoints) {
        return BadLine(number, "more than " + std::to_string(kMaxEndpoints) + " endpoints for one vGPU");
      }
      if (const Status checked = CheckEndpoint(value); !checked.ok()) {
        return BadLine(number, checked.error().message);
      }
      target.endpoints.emplace_back(value);
    } else if (word == "transport") {
      if (has_transport) return BadLine(number, "a second transport for vgpu " + target.vgpu);
      if (value != "tls" && value != "tcp") return BadLine(number, "transport is tls or tcp");
      target.tls = value == "tls";
      has_transport = true;
    } else {
      return BadLine(number, "starts with none of vgpu, grant, endpoint, transport");
    }
  }
  if (number == 0) return BadLine(1, "must be '" + std::string(kFirstLine) + "'");
  if (targets.empty()) return BadLine(number, "names no vgpu");
  TULLE_RETURN_IF_ERROR(CheckComplete(targets.back(), has_transport, number));
  return targets;
}

std::string FormatAttach(const std::vector<Target>& targets) {
  std::string text(kFirstLine);
  text += '\n';
  for (const Target& target : targets) {
    text += "vgpu " + target.vgpu + "\ngrant " + target.grant + " " + ToHex(target.key) + "\n";
    for (const std::string& endpoint : target.endpoints) text += "endpoint " + endpoint + "\n";
    text += target.tls ? "transport tls\n" : "transport tcp\n";
  }
  return text;
}

Result<std::vector<Target>> ReadAttachFile(const std::string& path) {
  const UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file.valid()) return ErrnoError("open the attach file " + path, errno);
  struct stat info {};
  if (fstat(file.get(), &info) != 0) return ErrnoError("read the attach file " + path, errno);
  if (!S_ISREG(info.st_mode))
    return Error{Code::kInvalidArgument, "the attach file " + path + " is not a file"};
  if ((info.st_mode & (S_IRWXG | S_IRWXO)) != 0) {
    return Error{Code::kPermissionDenied,
                 "the attach file " + path + " holds a key but others may read it; run chmod 600 on it"};
  }
  SecretText content;
  content.text.resize(kMaxAttachBytes + 1);
  std::size_t size = 0;
  while (size < content.text.size()) {
    const ssize_t got = read(file.get(), content.text.data() + size, content.text.size() - size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoError("read the attach file " + path, errno);
    if (got == 0) break;
    size += static_cast<std::size_t>(got);
  }
  auto targets = ParseAttach(std::string_view(content.text).substr(0, size));
  if (!targets.ok()) return targets.error().Within(path);
  return targets;
}

Status WriteAttachFile(const std::string& path, const std::vector<Target>& targets) {
  const SecretText content{FormatAttach(targets)};
  UniqueFd file(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file.valid()) return ErrnoError("create the attach file " + path, errno);
  std::size_t written = 0;
  while (written < content.text.size()) {
    const ssize_t n = write(file.get(), content.text.data() + written, content.text.size() - written);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      const int error = errno;
      unlink(path.c_str());
      return ErrnoError("write the attach file " + path, error);
    }
    written += static_cast<std::size_t>(n);
  }
  return OkStatus();
}

}  // namespace tulle::session
