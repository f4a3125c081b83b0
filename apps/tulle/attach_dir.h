// What a program needs to find its vGPUs, in a private folder that goes with the object: the attach file with
// the grants' keys, and a folder of ICD files for the OpenCL loader. The folder is locked (flock) for as long
// as the object lives, so that one whose process was killed can be told from one in use.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "tulle/base/result.h"
#include "tulle/base/unique_fd.h"
#include "tulle/session/attach.h"

namespace tulle::cli {

// Where the dynamic loader looks for libcuda.so.1.
inline constexpr const char* kLibraryPath = "LD_LIBRARY_PATH";

class AttachDir {
 public:
  struct Options {
    std::string parent;                      // where the folder is made: see AttachParent
    std::string icd_library;                 // libtulle-opencl.so
    std::vector<std::string> local_vendors;  // folders whose .icd files are shown to the program too
  };
  // 0700, its files 0600. What could be made is removed again on an error.
  static Result<AttachDir> Create(const Options& options, const std::vector<session::Target>& targets);
  // Removes the folders in `parent` whose processes have gone without doing so.
  static void RemoveAbandoned(const std::string& parent);

  AttachDir(AttachDir&& other) noexcept
      : path_(std::exchange(other.path_, {})), lock_(std::move(other.lock_)) {}
  AttachDir& operator=(AttachDir&&) = delete;
  ~AttachDir();

  std::string attach_file() const { return path_ + "/attach"; }
  std::string vendors_dir() const { return path_ + "/vendors"; }

 private:
  AttachDir(std::string path, UniqueFd lock) : path_(std::move(path)), lock_(std::move(lock)) {}
  std::string path_;
  UniqueFd lock_;
};

// $XDG_RUNTIME_DIR where there is one (memory, gone with the login), else `state_dir`/run.
std::string AttachParent(const std::string& state_dir);

// The folders that the OpenCL loader would look into without us: $OCL_ICD_VENDORS, else /etc/OpenCL/vendors.
std::vector<std::string> LocalVendors();

// The shim, in the build tree or installed. kNotFound says where it was looked for.
Result<std::string> FindIcdLibrary();

// The folder of the libcuda.so.1 that is the shim. kNotFound as above.
Result<std::string> FindCudaFolder();

// `environment` ("NAME=value" texts) with `set` in it (nothing: without that name).
std::vector<std::string> ChangeEnvironment(const char* const* environment,
                                           const std::map<std::string, std::optional<std::string>>& set);

}  // namespace tulle::cli
