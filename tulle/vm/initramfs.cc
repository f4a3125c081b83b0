// The archive that a Linux kernel unpacks into memory and starts from: cpio, "newc", as the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst has it.
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <iterator>
#include <string_view>

#include "tulle/vm/guest_abi.h"
#include "tulle/vm/machine.h"
#include "tulle/vm/shares.h"

namespace tulle::vm {
namespace {

constexpr unsigned kFolder = 0040755, kProgram = 0100755, kFile = 0100644;

class Archive {
 public:
  void Add(std::string_view path, unsigned mode, std::string_view content) {
    const auto name_bytes = static_cast<unsigned>(path.size() + 1);
    char header[111];
    std::snprintf(header, sizeof header, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
                  ++inode_, mode, 0u, 0u, 1u, 0u, static_cast<unsigned>(content.size()), 0u, 0u, 0u, 0u,
                  name_bytes, 0u);
    bytes_ += header;
    bytes_ += path;
    bytes_ += '\0';
    Pad();
    bytes_ += content;
    Pad();
  }
  std::string Finish() && {
    Add("TRAILER!!!", 0, {});
    return std::move(bytes_);
  }

 private:
  void Pad() { bytes_.append((4 - bytes_.size() % 4) % 4, '\0'); }
  std::string bytes_;
  unsigned inode_ = 0;
};

Result<std::string> ReadFile(const std::string& path) {
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  std::string content((std::istreambuf_iterator<char>(file)), {});
  if (!file.good()) return ErrnoError("reading " + path, errno != 0 ? errno : EIO);
  return content;
}

Result<std::string> CommandOf(const Program& program) {
  if (program.file.empty()) return std::string();
  const Shares shares = SharesOf(program);
  std::vector<std::string> links;
  for (const auto& [path, text] : shares.links) links.insert(links.end(), {path, text});
  std::string command;
  const std::vector<std::string> file = {program.file};
  for (const std::vector<std::string>* list : std::initializer_list<const std::vector<std::string>*>{
           &file, &program.arguments, &program.environment, &shares.folders, &links}) {
    if (std::ranges::count(*list, std::string()) != 0)
      return Error{Code::kInvalidArgument, "an empty argument or variable of " + program.file};
    for (const std::string& text : *list) command += text + '\0';
    command += '\0';
  }
  if (command.size() > kMaxCommandBytes) {
    return Error{Code::kInvalidArgument, "arguments and environment of " + program.file + " have " +
                                             std::to_string(command.size()) + " bytes, at most " +
                                             std::to_string(kMaxCommandBytes)};
  }
  return command;
}

}  // namespace

Result<SharedMemory> MakeInitramfs(const Settings& settings, const Program& program) {
  Archive archive;
  TULLE_ASSIGN_OR_RETURN(const std::string init, ReadFile(settings.init));
  archive.Add(kInitPath + 1, kProgram, init);
  archive.Add(kModulesFolder + 1, kFolder, {});
  for (std::size_t i = 0; i < settings.drivers.size(); ++i) {
    TULLE_ASSIGN_OR_RETURN(const std::string content, ReadFile(settings.drivers[i]));
    archive.Add(std::string(kModulesFolder + 1) + "/" + std::to_string(10 + i) + "-" +
                    std::filesystem::path(settings.drivers[i]).filename().string(),
                kFile, content);
  }
  TULLE_ASSIGN_OR_RETURN(const std::string command, CommandOf(program));
  archive.Add(kCommandPath + 1, kFile, command);
  const std::string bytes = std::move(archive).Finish();
  TULLE_ASSIGN_OR_RETURN(auto memory, SharedMemory::Create("tulle initramfs", bytes.size()));
  std::memcpy(memory.bytes().data(), bytes.data(), bytes.size());
  return memory;
}

}  // namespace tulle::vm
