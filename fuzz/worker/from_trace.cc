// Makes inputs of fuzz_worker from traces that `tulle run --trace DIR --trace-payloads` has written: what
// real programs send, as far as the target's frames can hold it.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <limits>

#include "fuzz/worker/made_up_program.h"
#include "tulle/session/trace.h"

namespace {

using namespace tulle;

constexpr std::size_t kMaxPartBytes = std::numeric_limits<std::uint16_t>::max();

Result<ByteVector> InputOf(const std::string& path) {
  TULLE_ASSIGN_OR_RETURN(const auto reader, session::TraceReader::Open(path));
  ByteVector input;
  const auto append = [&input](const auto& value) {
    const auto bytes = std::as_bytes(std::span(&value, 1));
    input.insert(input.end(), bytes.begin(), bytes.end());
  };
  for (;;) {
    TULLE_ASSIGN_OR_RETURN(const auto record, reader->Next());
    if (!record) return input;
    if (record->kind != session::TraceKind::kSent || record->body.size() > kMaxPartBytes ||
        record->payload.size() > kMaxPartBytes) {
      continue;
    }
    append(record->header.opcode);
    append(static_cast<std::uint8_t>(record->header.flags));
    append(static_cast<std::uint16_t>(record->body.size()));
    append(static_cast<std::uint16_t>(record->payload.size()));
    input.insert(input.end(), record->body.begin(), record->body.end());
    input.insert(input.end(), record->payload.begin(), record->payload.end());
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: %s FOLDER TRACE...\nwrites an input into FOLDER for each TRACE\n", argv[0]);
    return 2;
  }
  const std::filesystem::path folder = argv[1];
  std::filesystem::create_directories(folder);
  for (int i = 2; i < argc; ++i) {
    const auto input = InputOf(argv[i]);
    if (!input.ok()) {
      std::fprintf(stderr, "%s: %s\n", argv[i], input.error().message.c_str());
      return 1;
    }
    const auto path = folder / std::filesystem::path(argv[i]).filename();
    std::ofstream file(path, std::ios::binary);
    file.write(reinterpret_cast<const char*>(input->data()), static_cast<std::streamsize>(input->size()));
    if (!file.flush()) {
      std::fprintf(stderr, "%s: cannot be written\n", path.c_str());
      return 1;
    }
    std::printf("%s: %zu bytes\n", path.c_str(), input->size());
  }
  return 0;
}
