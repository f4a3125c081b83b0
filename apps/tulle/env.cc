#include "apps/tulle/env.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "apps/tulle/attach_dir.h"
#include "apps/tulle/text.h"
#include "tulle/net/local/local.h"
#include "tulle/session/attach.h"

namespace tulle::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* kVendors = "OCL_ICD_VENDORS";

std::string Variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

bool IsLoopback(const std::string& endpoint) {
  return endpoint.starts_with("127.") || endpoint.starts_with("[::1]:") || endpoint.starts_with("localhost:");
}

Status CheckWord(const std::string& word) {
  if (word.find_first_of(" \t\n,:*?[\\'\"") == std::string::npos) return OkStatus();
  return Error{.code = Code::kInvalidArgument,
               .message = "\"" + word +
                          "\" has a blank, a comma, a colon or a quote in it, which cannot be given to a "
                          "container this way; put tulle and its state (--state-dir of `tulle up`) where no "
                          "path has one"};
}

}  // namespace

Result<ProgramEnvironment> ReadProgramEnvironment() {
  const std::string attach_file = Variable(session::kAttachEnv);
  const std::string vendors = Variable(kVendors);
  if (attach_file.empty() || vendors.empty()) {
    return Error{.code = Code::kFailedPrecondition,
                 .message =
                     "there are no vGPUs here: use this within `tulle run`, as in\n  tulle run -- sh -c "
                     "'docker run $(tulle env --docker) IMAGE COMMAND'"};
  }
  TULLE_ASSIGN_OR_RETURN(const auto targets, session::ReadAttachFile(attach_file));
  ProgramEnvironment environment;
  environment.variables = {{session::kAttachEnv, attach_file}, {kVendors, vendors}};
  if (const std::string log = Variable("TULLE_LOG"); !log.empty())
    environment.variables.emplace_back("TULLE_LOG", log);
  environment.paths = {attach_file, vendors};
  // The shim, wherever the ICD files say; ICDs of this host's own are for its programs, not for a
  // container's.
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(vendors, error)) {
    std::string library;
    if (entry.is_symlink() || !std::getline(std::ifstream(entry.path()), library)) continue;
    environment.paths.push_back(library);
  }
  // The libcuda.so.1 that `tulle run --api cuda` has put first.
  const std::string libraries = Variable(kLibraryPath);
  if (const auto cuda = FindCudaFolder(); cuda.ok() && libraries.substr(0, libraries.find(':')) == *cuda) {
    environment.variables.emplace_back(kLibraryPath, *cuda);
    environment.paths.push_back(*cuda);
  }
  for (const session::Target& target : targets) {
    for (const std::string& endpoint : target.endpoints) {
      environment.this_host_only = environment.this_host_only || IsLoopback(endpoint);
      // The socket of a vGPU that is on this host.
      const auto local = net::ParseLocalEndpoint(endpoint);
      if (local.ok() && fs::exists(local->path, error)) environment.paths.push_back(local->path);
    }
  }
  return environment;
}

Result<std::string> FormatEnvironment(const ProgramEnvironment& environment, EnvForm form) {
  std::string text;
  if (form == EnvForm::kShell) {
    for (const auto& [name, value] : environment.variables) {
      // Another shell may have folders of its own there.
      const char* const rest = name == kLibraryPath ? "\"${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}\"" : "";
      text += "export " + name + "=" + Quoted(value) + rest + "\n";
    }
    return text;
  }
  const bool docker = form == EnvForm::kDocker;
  std::vector<std::string> words;
  for (const std::string& path : environment.paths) {
    TULLE_RETURN_IF_ERROR(CheckWord(path));
    words.push_back((docker ? "--volume=" : "--bind=") + path + ":" + path + ":ro");
  }
  for (const auto& [name, value] : environment.variables) {
    TULLE_RETURN_IF_ERROR(CheckWord(value));
    words.push_back("--env=" + name + "=" + value);
  }
  // Apptainer shares the host's network as it is.
  if (docker && environment.this_host_only) words.push_back("--network=host");
  for (const std::string& word : words) text += (text.empty() ? "" : " ") + word;
  return text + "\n";
}

}  // namespace tulle::cli
