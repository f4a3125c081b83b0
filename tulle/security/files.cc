#include "tulle/security/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>

#include "tulle/base/unique_fd.h"

namespace tulle::security {
namespace {

Error FileError(const std::string& what, const std::string& path) {
  const int error_number = errno;
  Error error = ErrnoError(what + " " + path, error_number);
  if (error_number == ENOENT) error.code = Code::kNotFound;
  if (error_number == EACCES || error_number == EPERM) error.code = Code::kPermissionDenied;
  return error;
}

Status WriteAll(int fd, std::string_view text, const std::string& path) {
  while (!text.empty()) {
    const ssize_t written = write(fd, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return FileError("cannot write", path);
    text.remove_prefix(static_cast<std::size_t>(written));
  }
  return OkStatus();
}

}  // namespace

Result<std::string> ReadFile(const std::string& path, std::size_t max_bytes) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return FileError("cannot open", path);
  std::string text;
  char buffer[4096];
  for (;;) {
    const ssize_t got = read(fd.get(), buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return FileError("cannot read", path);
    if (got == 0) return text;
    text.append(buffer, static_cast<std::size_t>(got));
    if (text.size() > max_bytes) {
      return Error{.code = Code::kInvalidArgument,
                   .message = path + " is longer than " + std::to_string(max_bytes) + " bytes"};
    }
  }
}

Status WritePrivateFile(const std::string& path, std::string_view text) {
  const std::string temporary = path + ".new." + std::to_string(getpid());
  UniqueFd fd(open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd.valid()) return FileError("cannot create", temporary);
  const auto write_file = [&]() -> Status {
    if (fchmod(fd.get(), 0600) != 0) return FileError("cannot set the mode of", temporary);
    TULLE_RETURN_IF_ERROR(WriteAll(fd.get(), text, temporary));
    if (fsync(fd.get()) != 0) return FileError("cannot sync", temporary);
    fd.reset();
    if (rename(temporary.c_str(), path.c_str()) != 0) return FileError("cannot rename to", path);
    return OkStatus();
  };
  if (Status status = write_file(); !status.ok()) {
    unlink(temporary.c_str());
    return status;
  }
  const std::string folder = std::filesystem::path(path).parent_path();
  const UniqueFd directory(open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory.valid() || fsync(directory.get()) != 0) return FileError("cannot sync", folder);
  return OkStatus();
}

Status MakePrivateDirectory(const std::string& path) {
  std::error_code error;
  const std::filesystem::path folder(path);
  if (folder.has_parent_path()) std::filesystem::create_directories(folder.parent_path(), error);
  if (error) {
    return Error{.code = Code::kPermissionDenied,
                 .message = "cannot create " + folder.parent_path().string() + ": " + error.message()};
  }
  if (mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) return FileError("cannot create", path);
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) return FileError("cannot look at", path);
  if (!S_ISDIR(info.st_mode))
    return Error{.code = Code::kFailedPrecondition, .message = path + " is not a folder"};
  if (info.st_uid != geteuid() || (info.st_mode & 0077) != 0) {
    return Error{.code = Code::kPermissionDenied,
                 .message = path + " holds keys, so it must be yours alone; see `ls -ld " + path +
                            "`, mend it with `chmod 700 " + path + "`"};
  }
  return OkStatus();
}

}  // namespace tulle::security
