// Images as the worker sees them: memory that is charged for, or a part of a buffer's.
#include <gtest/gtest.h>

#include "tulle/worker/exec/test_session.h"

namespace tulle::worker::exec {
namespace {

constexpr Handle kImage{7, 1};

opencl::CreateImage ImageOf(const wire::Vec3& extents, opencl::ImageType type = opencl::ImageType::k3D) {
  opencl::CreateImage message;
  message.context = {kContext};
  message.image = {kImage};
  message.type = {type};
  message.format = {opencl::kOrderRgba, opencl::kFloat};
  message.extents = extents;
  return message;
}

TEST_F(SessionTest, AnImageIsChargedItsPackedPixelsInWholePages) {
  CreateContextAndQueue();
  const auto made = client_.Send(ImageOf({10, 10, 10}), {}, wire::kWantStatus);
  client_.WhenAnswered(made);
  client_.Do([&] { EXPECT_EQ(quota_.used_bytes(), 16'384u); });
  const auto destroyed = Destroy(ObjectKind::kMemory, kImage, wire::kWantStatus);
  client_.WhenAnswered(destroyed);
  EXPECT_EQ(RunOnNull().reason, EndReason::kGoodbye);
  EXPECT_EQ(client_.StatusOf(made), 0);
  EXPECT_EQ(client_.StatusOf(destroyed), 0);
  EXPECT_EQ(quota_.used_bytes(), 0u);
}

TEST_F(SessionTest, AnImageInABufferIsNotCharged) {
  CreateContextAndQueue();
  CreateBuffer(kBuffer, 4'096, wire::kWantStatus);
  opencl::CreateImage image = ImageOf({256, 1, 1}, opencl::ImageType::k1DBuffer);
  image.buffer = {kBuffer};
  const auto made = client_.Send(image, {}, wire::kWantStatus);
  const auto buffer_gone = Destroy(ObjectKind::kMemory, kBuffer, wire::kWantStatus);
  client_.WhenAnswered(made);
  // Its bytes are the image's as long as that lives.
  client_.Do([&] {
    EXPECT_EQ(quota_.used_bytes(), 4'096u);
    EXPECT_EQ(client_.Find(buffer_gone), nullptr);
  });
  const auto image_gone = Destroy(ObjectKind::kMemory, kImage, wire::kWantStatus);
  client_.WhenAnswered(buffer_gone);
  EXPECT_EQ(RunOnNull().reason, EndReason::kGoodbye);
  EXPECT_EQ(client_.StatusOf(made), 0);
  EXPECT_EQ(client_.StatusOf(image_gone), 0);
  EXPECT_EQ(client_.StatusOf(buffer_gone), 0);
}

TEST_F(SessionTest, AnImageBeyondTheLeaseMustAskForItsStatus) {
  CreateContextAndQueue();
  client_.Send(ImageOf({10, 10, 10}));
  const Ending ending = RunOnNull();
  EXPECT_EQ(ending.reason, EndReason::kProtocol);
  EXPECT_NE(ending.detail.find("CreateImage"), std::string::npos) << ending.detail;
}

TEST_F(SessionTest, AbsurdImagesAreRefusedAndTakeNothing) {
  constexpr std::uint64_t kMost = ~std::uint64_t{0};
  CreateContextAndQueue();
  std::vector<std::uint64_t> refused;
  std::uint32_t slot = 20;
  for (const wire::Vec3& extents :
       {wire::Vec3{0, 1, 1}, wire::Vec3{kMost, kMost, kMost}, wire::Vec3{1ull << 32, 1ull << 28, 1},
        wire::Vec3{1ull << 60, 1, 1}, wire::Vec3{1ull << 59, 1, 1}, wire::Vec3{3'000, 10, 1}}) {
    opencl::CreateImage image = ImageOf(extents);
    image.image = {{slot++, 1}};
    refused.push_back(client_.Send(image, {}, wire::kWantStatus));
  }
  opencl::CreateImage strange = ImageOf({4, 4, 4});
  strange.image = {{slot, 1}};
  strange.format = {1, 2};
  refused.push_back(client_.Send(strange, {}, wire::kWantStatus));
  // What failed can be destroyed.
  const auto destroyed = Destroy(ObjectKind::kMemory, {20, 1}, wire::kWantStatus);
  EXPECT_EQ(RunOnNull().reason, EndReason::kGoodbye);
  for (const std::uint64_t sequence : refused) EXPECT_LT(client_.StatusOf(sequence), 0);
  EXPECT_EQ(client_.StatusOf(destroyed), 0);
  EXPECT_EQ(quota_.used_bytes(), 0u);
}

TEST_F(SessionTest, AnImageWithoutASizeEndsTheSessionUnlessItAsks) {
  CreateContextAndQueue();
  client_.Send(ImageOf({0, 1, 1}));
  EXPECT_EQ(RunOnNull().reason, EndReason::kProtocol);
}

}  // namespace
}  // namespace tulle::worker::exec
