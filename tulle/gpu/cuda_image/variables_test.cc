#include "tulle/gpu/cuda_image/variables.h"

#include <elf.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "tulle/base/random.h"
#include "tulle/gpu/cuda_image/test_fatbin.h"

namespace tulle::gpu::cuda_image {
namespace {

using ::testing::HasSubstr;

std::uint64_t Bytes(const std::string& ptx) {
  const auto bytes = VariableBytes(AsBytes(ptx));
  EXPECT_TRUE(bytes.ok()) << ptx << ": " << ToString(bytes.error());
  return bytes.ok() ? *bytes : 0;
}

TEST(Variables, OfEachKindAreCounted) {
  const struct {
    const char* ptx;
    std::uint64_t bytes;
  } kCases[] = {
      {"", 0},
      {".global .f32 x;", 4},
      {".visible .global .align 8 .b64 x;", 8},
      {".const .align 4 .b8 table[32] = {2, 3, 5};", 32},
      {".weak .global .u16 a[3][5];", 30},
      {".global .v4 .f32 v[2];", 32},
      {".global .b128 wide;", 16},
      {".global .f16x2 two;", 4},
      {".global .texref t;", 8},
      {".global .attribute(.managed) .s32 shared_with_host[4];", 16},
      {".global .s32 a, b[2], c = 5;", 16},
      {".global .u32 x[0x10], y[010], z[0b11];", (16 + 8 + 3) * 4},
      {".global .u32 open[] = {1, 2, 3};", 12},
      {".global .u32 open[][2] = {{1, 2}, {3}};", 16},
      {".global .u32 open[] = {{1, 2, 3}};", 12},
      {".global .u32 none[] = {};", 0},
      {".global .u64 points_to[2] = {generic(x), x + 8};", 16},
      {".global .b8 large[17179869184];", 17179869184},
      {".global .b64 too[0xffffffffffffffff];", ~std::uint64_t{0}},
      {".global .b8 a[0xffffffffffffffff]; .global .b8 b[9];", ~std::uint64_t{0}},
      {".version 6.4\n.target sm_70, debug\n.address_size 64\n.global .u32 x;", 4},
      {".file 1 \"a.cu\"\n.global .u32 x;", 4},
      {".file 1 \"// no comment\" .global .u32 x; // .global .u32 y;\n/* .global .u32 z; */", 4},
      {".global .u32 /* x */ x; .global .u32 y;", 8},
      {".func f(.param .b64 .ptr .global .align 4 p) { .reg .b32 r; ld.global.u32 r, [p]; ret; } .global .u8 "
       "x;",
       1},
      {".entry k(.param .u64 p) .maxntid 1, 1, 1 { l: bra l; } .global .u8 x;", 1},
  };
  for (const auto& [ptx, bytes] : kCases) EXPECT_EQ(Bytes(ptx), bytes) << ptx;
}

TEST(Variables, OfOthersAreNot) {
  for (const char* const ptx :
       {".extern .global .b8 elsewhere[100];", ".extern .shared .b8 scratch[];", ".shared .b8 block[4096];",
        ".reg .b32 %r<100>;", ".entry k() { .local .b8 stack[64]; }", "// .global .u32 x;",
        "/* .global .u32 x;", ".section .debug_str { .b8 1, 2, 3 }"}) {
    EXPECT_EQ(Bytes(ptx), 0u) << ptx;
  }
  EXPECT_EQ(Bytes(std::string(".global .u8 x;\0.global .u8 y;", 28)), 1u)
      << "a text ends with its first zero";
}

TEST(Variables, WhatIsNotUnderstoodIsSaid) {
  for (const auto& [ptx, told] : {std::pair{".global .u32 x[4*4];", "size of variable x"},
                                  std::pair{".global .nothing x;", "type of variable x"}}) {
    const auto bytes = VariableBytes(AsBytes(std::string(ptx)));
    ASSERT_FALSE(bytes.ok()) << ptx;
    EXPECT_EQ(bytes.error().code, Code::kInvalidArgument);
    EXPECT_THAT(bytes.error().message, HasSubstr(told));
  }
}

struct Section {
  std::string name;
  std::uint64_t flags = 0, bytes = 0;
};
std::string Cubin(const std::vector<Section>& sections) {
  std::string names(1, '\0');
  std::vector<Elf64_Shdr> headers(1);
  for (const Section& section : sections) {
    Elf64_Shdr header{};
    header.sh_name = static_cast<Elf64_Word>(names.size());
    header.sh_flags = section.flags;
    header.sh_size = section.bytes;
    headers.push_back(header);
    names += section.name + '\0';
  }
  headers[0].sh_offset = sizeof(Elf64_Ehdr);
  headers[0].sh_size = names.size();
  Elf64_Ehdr elf{};
  std::memcpy(elf.e_ident, ELFMAG, SELFMAG);
  elf.e_ident[EI_CLASS] = ELFCLASS64;
  elf.e_shoff = sizeof elf + names.size();
  elf.e_shentsize = sizeof(Elf64_Shdr);
  elf.e_shnum = static_cast<Elf64_Half>(headers.size());
  std::string out(reinterpret_cast<const char*>(&elf), sizeof elf);
  return out + names +
         std::string(reinterpret_cast<const char*>(headers.data()), headers.size() * sizeof headers[0]);
}

TEST(Variables, OfACubinAreItsSections) {
  const std::string cubin = Cubin({{".text.k", SHF_ALLOC | SHF_EXECINSTR, 1000},
                                   {".nv.global", SHF_ALLOC | SHF_WRITE, 1 << 20},
                                   {".nv.shared.k", SHF_ALLOC | SHF_WRITE, 48 << 10},
                                   {".nv.constant0.k", SHF_ALLOC, 400},
                                   {".symtab", 0, 5000}});
  EXPECT_EQ(Bytes(cubin), (1u << 20) + 1400);
  for (std::size_t size = SELFMAG; size < cubin.size(); ++size)
    ASSERT_FALSE(VariableBytes(AsBytes(cubin).first(size)).ok()) << size;
  SeededRandom random(4);
  for (int i = 0; i < 20'000; ++i) {  // whatever is in it, it is read or refused
    std::string bad = cubin;
    for (std::uint64_t n = 1 + random.Below(3); n > 0; --n)
      bad[random.Below(bad.size())] = static_cast<char>(random.Below(256));
    (void)VariableBytes(AsBytes(bad));
  }
}

TEST(Variables, OfAFatbinAreThoseOfItsLargestImage) {
  for (const Packing packing : {Packing::kNone, Packing::kLz4, Packing::kZstd}) {
    const ByteVector fatbin = Fatbin(
        {Entry(1, 50, ".global .b8 small[10];"), Entry(1, 60, ".global .b8 large[1000];", packing),
         Entry(2, 70, Cubin({{".nv.global", SHF_ALLOC, 500}}), packing), Entry(7, 70, "something new")});
    const auto bytes = VariableBytes(fatbin);
    ASSERT_TRUE(bytes.ok()) << ToString(bytes.error());
    EXPECT_EQ(*bytes, 1000u);
  }
}

}  // namespace
}  // namespace tulle::gpu::cuda_image
