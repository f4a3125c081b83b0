#include "tulle/wire/object_file.h"

#include <gtest/gtest.h>

namespace tulle::wire::opencl {
namespace {

using namespace std::string_view_literals;

TEST(ObjectFile, HoldsWhatWasPutIn) {
  const std::string bytes = FormatObjectFile({true, {{"-DA=1", "kernel\0void"sv}, {"", ""}, {"-O", "x"}}});
  const auto file = ParseObjectFile(bytes);
  ASSERT_TRUE(file.has_value());
  EXPECT_TRUE(file->library);
  ASSERT_EQ(file->objects.size(), 3u);
  EXPECT_EQ(file->objects[0].options, "-DA=1");
  EXPECT_EQ(file->objects[0].source, "kernel\0void"sv);
  EXPECT_EQ(file->objects[1].source, "");
  EXPECT_EQ(file->objects[2].source, "x");
  EXPECT_FALSE(ParseObjectFile(FormatObjectFile({false, {{"", "x"}}}))->library);
}

TEST(ObjectFile, IsRefusedWhenItIsCut) {
  const std::string bytes = FormatObjectFile({false, {{"-DA=1", "kernel"}}});
  for (std::size_t size = 0; size < bytes.size(); ++size)
    EXPECT_FALSE(ParseObjectFile(std::string_view(bytes).substr(0, size))) << size;
  EXPECT_FALSE(ParseObjectFile(bytes + "x"));
}

TEST(ObjectFile, IsRefusedWithSizesThatCannotBe) {
  const std::string good = FormatObjectFile({false, {{"-DA=1", "kernel"}}});
  for (std::size_t i = 0; i < 16; ++i) {
    std::string bad = good;
    bad[good.size() - 11 - 16 + i] = '\xff';
    EXPECT_FALSE(ParseObjectFile(bad)) << i;
  }
  EXPECT_FALSE(ParseObjectFile(FormatObjectFile({false, {}})));
  EXPECT_FALSE(ParseObjectFile(FormatObjectFile({true, {}})));
  EXPECT_FALSE(ParseObjectFile(FormatObjectFile({false, {{"", "a"}, {"", "b"}}})));
  EXPECT_FALSE(ParseObjectFile(
      FormatObjectFile({true, std::vector<ProgramObject>(kMaxObjectsInFile + 1, ProgramObject{"", "a"})})));
}

TEST(BinaryFile, HoldsWhatWasPutIn) {
  for (const bool shows : {false, true}) {
    const std::string bytes = FormatBinaryFile({shows, "ker\0nels"sv, "native"});
    const auto file = ParseBinaryFile(bytes);
    ASSERT_TRUE(file.has_value());
    EXPECT_EQ(file->shows_arg_info, shows);
    EXPECT_EQ(file->kernels, "ker\0nels"sv);
    EXPECT_EQ(file->native, "native");
    EXPECT_FALSE(ParseObjectFile(bytes));
  }
}

TEST(BinaryFile, IsRefusedWhenItIsCut) {
  const std::string bytes = FormatBinaryFile({true, "kernels", ""});
  for (std::size_t size = 0; size < bytes.size(); ++size)
    EXPECT_FALSE(ParseBinaryFile(std::string_view(bytes).substr(0, size))) << size;
  for (std::size_t i = 0; i < 8; ++i) {
    std::string bad = bytes;
    bad[bytes.size() - 7 - 8 + i] = '\xff';
    EXPECT_FALSE(ParseBinaryFile(bad)) << i;
  }
  EXPECT_FALSE(ParseBinaryFile("the driver's own"));
}

}  // namespace
}  // namespace tulle::wire::opencl
