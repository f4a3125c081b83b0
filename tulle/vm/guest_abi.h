// What a virtual machine and the first program in it (apps/tulle-guest) agree on. Plain constants: that
// program is linked with nothing.
#pragma once

#include <cstdint>

namespace tulle::vm {

// Of the root of its first file system, which is in memory.
inline constexpr char kInitPath[] = "/init";
inline constexpr char kModulesFolder[] = "/modules";  // NN-name.ko, to be loaded in this order
// What is to run: lists of texts that each end in a zero byte, as does each list. The program's file; its
// arguments (the first is its name); its environment; the folders that it sees of the host's, by the 9p tags
// kShareTag with 0, 1, ...; and symbolic links, each as its path and its text. An empty file: nothing, and
// the machine ends at once.
inline constexpr char kCommandPath[] = "/command";
inline constexpr char kShareTag[] = "share";
inline constexpr std::size_t kMaxCommandBytes = 64u << 10;

// Descriptors of the program. Memory that the machine shares with its host is at physical addresses that the
// program is told by its arguments; this is /dev/mem, by which it maps it, and which it closes then.
inline constexpr int kMemoryFd = 3;
// A serial port: what is written to it the host reads, and the other way.
inline constexpr int kBellFd = 4;
inline constexpr char kBellName[] = "bell";

// How the program ended is written to this I/O port, as one byte: kExited + its exit code (codes beyond
// kMaxCode as that), or the signal that ended it. QEMU then ends with twice that and one (its
// isa-debug-exit).
inline constexpr std::uint16_t kExitPort = 0x501;
inline constexpr unsigned kExited = 64;
inline constexpr unsigned kMaxCode = 63;
inline constexpr unsigned kNotStarted = kMaxCode;  // the code where it could not be run; the console says why

}  // namespace tulle::vm
