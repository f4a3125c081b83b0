#include "tulle/wire/object_file.h"

#include <cstdint>
#include <cstring>

namespace tulle::wire::opencl {
namespace {

// Then 'O' or 'L', and for each object: two sizes (8 bytes each, little-endian), options, source.
constexpr std::string_view kMagic = "\177TULLE OBJECT 1\n";

// Then 'A' (shows argument infos) or '-', the size of the kernels' description, that, the native binary.
constexpr std::string_view kBinaryMagic = "\177TULLE BINARY 1\n";

void PutSize(std::size_t size, std::string* bytes) {
  for (int shift = 0; shift < 64; shift += 8) bytes->push_back(static_cast<char>(size >> shift & 0xff));
}

// Takes `size` bytes off the front. False: there are fewer.
bool Take(std::size_t size, std::string_view* rest, std::string_view* taken) {
  if (size > rest->size()) return false;
  *taken = rest->substr(0, size);
  rest->remove_prefix(size);
  return true;
}

bool TakeSize(std::string_view* rest, std::size_t* size) {
  std::string_view bytes;
  if (!Take(8, rest, &bytes)) return false;
  *size = 0;
  for (int i = 0; i < 8; ++i)
    *size |= static_cast<std::size_t>(static_cast<unsigned char>(bytes[i])) << 8 * i;
  return true;
}

}  // namespace

std::string FormatObjectFile(const ObjectFile& file) {
  std::string bytes(kMagic);
  bytes.push_back(file.library ? 'L' : 'O');
  for (const ProgramObject& object : file.objects) {
    PutSize(object.options.size(), &bytes);
    PutSize(object.source.size(), &bytes);
    bytes += object.options;
    bytes += object.source;
  }
  return bytes;
}

std::optional<ObjectFile> ParseObjectFile(std::string_view bytes) {
  if (!bytes.starts_with(kMagic)) return std::nullopt;
  bytes.remove_prefix(kMagic.size());
  if (!bytes.starts_with('O') && !bytes.starts_with('L')) return std::nullopt;
  ObjectFile file;
  file.library = bytes.front() == 'L';
  bytes.remove_prefix(1);
  while (!bytes.empty()) {
    ProgramObject object;
    std::size_t options_size = 0;
    std::size_t source_size = 0;
    if (file.objects.size() == kMaxObjectsInFile || !TakeSize(&bytes, &options_size) ||
        !TakeSize(&bytes, &source_size) || !Take(options_size, &bytes, &object.options) ||
        !Take(source_size, &bytes, &object.source)) {
      return std::nullopt;
    }
    file.objects.push_back(object);
  }
  if (file.objects.empty() || (!file.library && file.objects.size() != 1)) return std::nullopt;
  return file;
}

std::string FormatBinaryFile(const BinaryFile& file) {
  std::string bytes(kBinaryMagic);
  bytes.push_back(file.shows_arg_info ? 'A' : '-');
  PutSize(file.kernels.size(), &bytes);
  bytes += file.kernels;
  bytes += file.native;
  return bytes;
}

std::optional<BinaryFile> ParseBinaryFile(std::string_view bytes) {
  if (!bytes.starts_with(kBinaryMagic)) return std::nullopt;
  bytes.remove_prefix(kBinaryMagic.size());
  if (!bytes.starts_with('A') && !bytes.starts_with('-')) return std::nullopt;
  BinaryFile file;
  file.shows_arg_info = bytes.front() == 'A';
  bytes.remove_prefix(1);
  std::size_t size = 0;
  if (!TakeSize(&bytes, &size) || !Take(size, &bytes, &file.kernels)) return std::nullopt;
  file.native = bytes;
  return file;
}

}  // namespace tulle::wire::opencl
