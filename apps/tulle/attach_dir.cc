#include "apps/tulle/attach_dir.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <set>

#include "tulle/base/paths.h"
#include "tulle/base/unique_fd.h"
#include "tulle/security/files.h"

namespace tulle::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* kCudaLibrary = "cuda/libcuda.so.1";
constexpr const char* kLibrary = "libtulle-opencl.so";
constexpr const char* kPrefix = "tulle-run-";
constexpr int kTries = 100;  // to make a folder while others tidy up

Status WriteFile(const std::string& path, const std::string& text) {
  const UniqueFd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!fd.valid() || write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
    return ErrnoError("cannot write " + path, errno);
  }
  return OkStatus();
}

// Every .icd file of `folders`, linked under a name of its own. A folder that is not there has none.
Status LinkLocalVendors(const std::vector<std::string>& folders, const std::string& into) {
  std::set<std::string> taken;
  for (const std::string& folder : folders) {
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(folder, error)) {
      if (entry.path().extension() != ".icd") continue;
      std::string name = entry.path().filename();
      while (!taken.insert(name).second) name = "x-" + name;
      fs::create_symlink(fs::absolute(entry.path()), into + "/" + name, error);
      if (error)
        return Error{.code = Code::kInternal,
                     .message = "cannot link " + entry.path().string() + ": " + error.message()};
    }
  }
  return OkStatus();
}

// The folder, open and locked. Nothing: somebody else has locked or removed it, or there are no locks here.
UniqueFd LockFolder(const std::string& path, bool* busy) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  *busy = !fd.valid();
  if (*busy || flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    *busy |= errno == EWOULDBLOCK;
    return UniqueFd();
  }
  struct stat locked {
  }, there{};
  *busy = fstat(fd.get(), &locked) != 0 || lstat(path.c_str(), &there) != 0 || locked.st_ino != there.st_ino;
  return *busy ? UniqueFd() : std::move(fd);
}

}  // namespace

Result<AttachDir> AttachDir::Create(const Options& options, const std::vector<session::Target>& targets) {
  std::string path;
  UniqueFd lock;
  // Until it is locked, RemoveAbandoned of another process may take a new folder for an old one.
  bool busy = true;
  for (int tries = 0; busy; ++tries) {
    path = options.parent + "/" + kPrefix + "XXXXXX";
    if (tries == kTries || mkdtemp(path.data()) == nullptr)
      return ErrnoError("cannot make a folder in " + options.parent, errno);
    lock = LockFolder(path, &busy);
  }
  AttachDir made(path, std::move(lock));
  if (mkdir(made.vendors_dir().c_str(), 0700) != 0)
    return ErrnoError("cannot make " + made.vendors_dir(), errno);
  // The loader takes ICDs in the order of names: ours shall come first.
  TULLE_RETURN_IF_ERROR(WriteFile(made.vendors_dir() + "/00-tulle.icd", options.icd_library + "\n"));
  TULLE_RETURN_IF_ERROR(LinkLocalVendors(options.local_vendors, made.vendors_dir()));
  TULLE_RETURN_IF_ERROR(session::WriteAttachFile(made.attach_file(), targets));
  return made;
}

void AttachDir::RemoveAbandoned(const std::string& parent) {
  std::error_code error;
  std::vector<std::string> folders;
  for (const auto& entry : fs::directory_iterator(parent, error)) {
    if (entry.path().filename().string().starts_with(kPrefix)) folders.push_back(entry.path());
  }
  for (const std::string& folder : folders) {
    bool busy = false;
    // Where there are no locks, nothing is known of the folder and it stays.
    const UniqueFd lock = LockFolder(folder, &busy);
    if (lock.valid()) fs::remove_all(folder, error);
  }
}

AttachDir::~AttachDir() {
  std::error_code ignored;
  if (!path_.empty()) fs::remove_all(path_, ignored);
}

std::string AttachParent(const std::string& state_dir) {
  const char* runtime = getenv("XDG_RUNTIME_DIR");
  struct stat info {};
  if (runtime != nullptr && *runtime != '\0' && stat(runtime, &info) == 0 && S_ISDIR(info.st_mode) &&
      info.st_uid == geteuid() && (info.st_mode & 0077) == 0) {
    return runtime;
  }
  return state_dir + "/run";
}

std::vector<std::string> LocalVendors() {
  const char* set = getenv("OCL_ICD_VENDORS");
  return {set != nullptr && *set != '\0' ? set : "/etc/OpenCL/vendors"};
}

namespace {

Result<std::string> FindShim(const std::string& library, const char* target) {
  if (auto found = FindBesideExecutable({"../lib/" + library, "../lib/tulle/" + library,
                                         std::string("../" TULLE_LIBDIR "/tulle/") + library,
                                         std::string("../" TULLE_LIBDIR "/") + library, library})) {
    return *found;
  }
  return Error{.code = Code::kNotFound,
               .message = library +
                          " is not there: not in ../lib, ../lib/tulle or ../" TULLE_LIBDIR "/tulle of " +
                          ExecutableDir() + "; build or install it (CMake target " + target + ")"};
}

}  // namespace

Result<std::string> FindIcdLibrary() { return FindShim(kLibrary, "tulle_shim_opencl"); }

Result<std::string> FindCudaFolder() {
  TULLE_ASSIGN_OR_RETURN(const std::string library, FindShim(kCudaLibrary, "tulle_cuda_shim"));
  return fs::path(library).parent_path().string();
}

std::vector<std::string> ChangeEnvironment(const char* const* environment,
                                           const std::map<std::string, std::optional<std::string>>& set) {
  std::vector<std::string> changed;
  for (; *environment != nullptr; ++environment) {
    const std::string entry = *environment;
    if (!set.contains(entry.substr(0, entry.find('=')))) changed.push_back(entry);
  }
  for (const auto& [name, value] : set) {
    if (value) changed.push_back(name + "=" + *value);
  }
  return changed;
}

}  // namespace tulle::cli
