// Compiled and built OpenCL programs as bytes that a program can take away and bring again.
//
// What is compiled apart is checked by the device's compiler, and compiled again where it is linked: so any
// driver will do, and nothing depends on what its own objects look like.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tulle::wire::opencl {

struct ProgramObject {
  std::string_view options;  // that it was compiled with
  std::string_view source;   // with what it includes in it; or IL (IsSpirv)
};

// What clCompileProgram (one object), or clLinkProgram with -create-library, makes.
struct ObjectFile {
  bool library = false;
  std::vector<ProgramObject> objects;
};

// Most objects of one file: more than any program has.
inline constexpr std::size_t kMaxObjectsInFile = 4096;

std::string FormatObjectFile(const ObjectFile& file);

// Views into `bytes`. None when these are not exactly an object file.
std::optional<ObjectFile> ParseObjectFile(std::string_view bytes);

// The binary of a built program as the program sees it: the device's own, and what its compiler knew of the
// kernels, some of which drivers do not find in their binaries.
struct BinaryFile {
  bool shows_arg_info = false;  // the build was asked for argument infos
  std::string_view kernels;     // an encoded exec::LoadProgramReply
  std::string_view native;
};

std::string FormatBinaryFile(const BinaryFile& file);

// Views into `bytes`. None when these are not a binary file: they may be what a driver takes.
std::optional<BinaryFile> ParseBinaryFile(std::string_view bytes);

}  // namespace tulle::wire::opencl
