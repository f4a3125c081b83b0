#include "tulle/shim/opencl/includes.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>

namespace tulle::shim::opencl {
namespace {

class Includes : public testing::Test {
 protected:
  Includes() : folder_(std::filesystem::temp_directory_path() / "tulle-includes-XXXXXX") {
    EXPECT_NE(mkdtemp(folder_.data()), nullptr);
  }
  ~Includes() override { std::filesystem::remove_all(folder_); }

  void File(const std::string& name, const std::string& text) {
    const std::filesystem::path path = std::filesystem::path(folder_) / name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text;
  }
  std::string Inline(const std::string& source, const std::string& options = "",
                     const std::map<std::string, std::string>& headers = {}) {
    auto result = InlineIncludes(source, ParseIncludeOptions(options), headers, 1u << 20);
    EXPECT_TRUE(result.ok());
    return result.ok() ? *result : "";
  }
  std::string folder_;
};

TEST_F(Includes, SourceWithoutAnyIsUntouched) {
  const std::string source = "kernel void k() { /* nothing to include */ }\n";
  EXPECT_EQ(Inline(source), source);
}

TEST_F(Includes, FilesReplaceTheirLines) {
  File("a.h", "int a;\n#include \"sub/b.h\"\nint after;");
  File("sub/b.h", "int b;\n");
  EXPECT_EQ(Inline("one\n  #  include <a.h> // tail\nthree\n", "-I " + folder_),
            "one\n#line 1 \"" + folder_ + "/a.h\"\nint a;\n#line 1 \"" + folder_ +
                "/sub/b.h\"\nint b;\n#line 3 \"" + folder_ +
                "/a.h\"\nint after;\n#line 3 \"program.cl\"\nthree\n");
}

TEST_F(Includes, NamesMayBeMacros) {
  File("inc.h", "int x;\n");
  const std::string options = "-DINCLUDE_PATH=" + folder_ + " -D XM2S(x)=#x -D M2S(x)=XM2S(x) -w";
  EXPECT_NE(Inline("#include M2S(INCLUDE_PATH/inc.h)\n", options).find("int x;"), std::string::npos);
  EXPECT_NE(Inline("#define NAME \"inc.h\"\n#include NAME\n", "-I" + folder_).find("int x;"),
            std::string::npos);
}

TEST_F(Includes, CommentsAndStringsDoNotCount) {
  File("a.h", "WRONG\n");
  for (const char* source :
       {"/*\n#include \"a.h\"\n*/\n", "// \\\n#include \"a.h\"\n", "char* s = \"/*\"; // #include \"a.h\"\n",
        "x /* */ /*\n #include \"a.h\" */\n"}) {
    EXPECT_EQ(Inline(source, "-I " + folder_), source);
  }
  EXPECT_NE(Inline("char* s = \"/*\";\n#include \"a.h\"\n", "-I " + folder_).find("WRONG"),
            std::string::npos);
}

TEST_F(Includes, WhatIsMissingStays) {
  EXPECT_EQ(Inline("#include \"not_there.h\"\n#include NOT_DEFINED\n#include\n"),
            "#include \"not_there.h\"\n#include NOT_DEFINED\n#include\n");
}

TEST_F(Includes, CirclesEnd) {
  File("a.h", "#pragma once\n#include \"b.h\"\nint a;\n");
  File("b.h", "#pragma once\n#include \"a.h\"\nint b;\n");
  const std::string text = Inline("#include \"a.h\"\n", "-I " + folder_);
  EXPECT_NE(text.find("int a;"), std::string::npos);
  EXPECT_NE(text.find("int b;"), std::string::npos);
}

TEST_F(Includes, PragmaOnceHoldsForWhatIsIncluded) {
  File("a.h", "/* twice */\n #\tpragma  once // is enough\nint a;\n");
  const std::string guarded = "/* twice */\n#define TULLE_ONCE_0\nint a;\n#endif\n";
  EXPECT_EQ(Inline("#include \"a.h\"\n#include \"../" + std::filesystem::path(folder_).filename().string() +
                       "/a.h\"\n",
                   "-I " + folder_),
            "#ifndef TULLE_ONCE_0\n#line 1 \"" + folder_ + "/a.h\"\n" + guarded +
                "#line 2 \"program.cl\"\n#ifndef TULLE_ONCE_0\n#line 1 \"" + folder_ + "/../" +
                std::filesystem::path(folder_).filename().string() + "/a.h\"\n" + guarded +
                "#line 3 \"program.cl\"\n");
  // Lines count on, and two files are two.
  const std::string two = Inline("#include <x>\n#include <y>\n#pragma once\n", "",
                                 {{"x", "#pragma \\\nonce\nint x;"}, {"y", "#pragma once\n"}});
  EXPECT_EQ(two,
            "#ifndef TULLE_ONCE_0\n#line 1 \"x\"\n#define TULLE_ONCE_0\n\nint x;\n#endif\n#line 2 "
            "\"program.cl\"\n#ifndef TULLE_ONCE_1\n#line 1 \"y\"\n#define TULLE_ONCE_1\n#endif\n#line 3 "
            "\"program.cl\"\n#pragma once\n");
  EXPECT_EQ(Inline("#include <x>\n", "", {{"x", "#pragma once upon\n// #pragma once\n"}}).find("TULLE"),
            std::string::npos);
}

TEST_F(Includes, GivenHeadersComeFirst) {
  EXPECT_NE(Inline("#include \"virtual/h.h\"\n", "", {{"virtual/h.h", "int given;\n"}}).find("int given;"),
            std::string::npos);
}

TEST_F(Includes, GrowthIsBounded) {
  std::string body;
  for (int i = 0; i < 64; ++i) body += "#include \"next.h\"\n";
  File("a.h", body);
  File("next.h", std::string(64u << 10, ' ') + "\n");
  auto result = InlineIncludes(body, ParseIncludeOptions("-I " + folder_), {}, 1u << 20);
  ASSERT_FALSE(result.ok());
  EXPECT_NE(result.error().message.find("1 MiB"), std::string::npos);
}

}  // namespace
}  // namespace tulle::shim::opencl
