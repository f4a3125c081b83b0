// The battery on images and samplers.
#include <algorithm>
#include <cstring>

#include "tests/conformance/backend/battery.h"
#include "tulle/wire/schema/opencl/image.h"

namespace tulle::gpu::conformance {
namespace {

using namespace wire::opencl;
namespace status = cl_status;

constexpr std::uint64_t kMost = ~std::uint64_t{0};
constexpr ImageFormat kBytes4 = {kOrderRgba, kUnsignedInt8};  // of four bytes, which mean themselves
constexpr std::size_t kPixel = 4;

struct Kind {
  ImageType type;
  wire::Vec3 extents;
};
constexpr Kind kKinds[] = {{ImageType::k1D, {13, 1, 1}},       {ImageType::k1DArray, {13, 5, 1}},
                           {ImageType::k1DBuffer, {13, 1, 1}}, {ImageType::k2D, {13, 7, 1}},
                           {ImageType::k2DArray, {13, 7, 3}},  {ImageType::k3D, {13, 7, 5}}};

CreateImage ImageOf(Handle context, Handle image, const Kind& kind, const ImageFormat& format = kBytes4) {
  CreateImage message;
  message.context = {context};
  message.image = {image};
  message.flags = {1};
  message.type = {kind.type};
  message.format = format;
  message.extents = kind.extents;
  return message;
}

std::size_t Size(const wire::Vec3& region, std::size_t pixel = kPixel) {
  return pixel * region[0] * region[1] * region[2];
}

// The packed bytes of a region, out of those of the whole.
ByteVector Part(const ByteVector& whole, const wire::Vec3& extents, const wire::Vec3& origin,
                const wire::Vec3& region) {
  ByteVector part;
  for (std::uint64_t slice = 0; slice < region[2]; ++slice) {
    for (std::uint64_t row = 0; row < region[1]; ++row) {
      const std::size_t at =
          kPixel * (origin[0] + extents[0] * (origin[1] + row + extents[1] * (origin[2] + slice)));
      part.insert(part.end(), whole.begin() + static_cast<std::ptrdiff_t>(at),
                  whole.begin() + static_cast<std::ptrdiff_t>(at + kPixel * region[0]));
    }
  }
  return part;
}
void Put(const ByteVector& part, const wire::Vec3& extents, const wire::Vec3& origin,
         const wire::Vec3& region, ByteVector* whole) {
  auto from = part.begin();
  for (std::uint64_t slice = 0; slice < region[2]; ++slice) {
    for (std::uint64_t row = 0; row < region[1]; ++row) {
      const std::size_t at =
          kPixel * (origin[0] + extents[0] * (origin[1] + row + extents[1] * (origin[2] + slice)));
      std::copy_n(from, kPixel * region[0], whole->begin() + static_cast<std::ptrdiff_t>(at));
      from += static_cast<std::ptrdiff_t>(kPixel * region[0]);
    }
  }
}

// A region within, not at a corner where there is room.
void Inside(const wire::Vec3& extents, wire::Vec3* origin, wire::Vec3* region) {
  for (std::size_t i = 0; i < 3; ++i) {
    (*origin)[i] = extents[i] > 2 ? 1 : 0;
    (*region)[i] = extents[i] > 2 ? extents[i] - 2 : extents[i];
  }
}

EnqueueReadImage ReadOf(Handle queue, Handle image, const wire::Vec3& origin, const wire::Vec3& region,
                        std::size_t pixel = kPixel) {
  EnqueueReadImage message;
  message.queue = {queue};
  message.image = {image};
  message.origin = origin;
  message.region = region;
  message.data = {Size(region, pixel)};
  return message;
}
EnqueueWriteImage WriteOf(Handle queue, Handle image, const wire::Vec3& origin, const wire::Vec3& region,
                          std::size_t size) {
  EnqueueWriteImage message;
  message.queue = {queue};
  message.image = {image};
  message.origin = origin;
  message.region = region;
  message.data = {size};
  return message;
}

}  // namespace

TEST_P(BackendBattery, ImagesOfEveryTypeHoldWhatIsWritten) {
  const Handle queue = Queue();
  for (const Kind& kind : kKinds) {
    SCOPED_TRACE(static_cast<int>(kind.type));
    const Handle image = NewHandle();
    CreateImage create = ImageOf(context_, image, kind);
    Handle buffer;
    if (kind.type == ImageType::k1DBuffer) create.buffer = {buffer = Buffer(Size(kind.extents))};
    ASSERT_EQ(Try(create), 0);
    ByteVector whole(Size(kind.extents));
    EXPECT_EQ(Wait(Send(ReadOf(queue, image, {}, kind.extents))).payload, whole);  // fresh: zeros
    whole = Pattern(whole.size());
    EXPECT_EQ(Try(WriteOf(queue, image, {}, kind.extents, whole.size()), whole), 0);
    EXPECT_EQ(Wait(Send(ReadOf(queue, image, {}, kind.extents))).payload, whole);

    wire::Vec3 origin{}, region{};
    Inside(kind.extents, &origin, &region);
    EXPECT_EQ(Wait(Send(ReadOf(queue, image, origin, region))).payload,
              Part(whole, kind.extents, origin, region));
    const ByteVector part = Pattern(Size(region), 99);
    EXPECT_EQ(Try(WriteOf(queue, image, origin, region, part.size()), part), 0);
    Put(part, kind.extents, origin, region, &whole);
    EXPECT_EQ(Wait(Send(ReadOf(queue, image, {}, kind.extents))).payload, whole);
    if (!buffer.null()) {
      EXPECT_EQ(Wait(Read(queue, buffer, 0, whole.size())).payload, whole);
    }
    Destroy(ObjectKind::kMemory, image);
  }
}

TEST_P(BackendBattery, ImagesTakeTheContentsOfTheirCreation) {
  const Handle queue = Queue();
  const wire::Vec3 extents = {13, 7, 5};
  const Handle image = NewHandle();
  ASSERT_EQ(Try(ImageOf(context_, image, {ImageType::k3D, extents})), 0);
  ByteVector whole = Pattern(Size(extents));
  const std::uint64_t first = Send(InitImage{{image}, {}, extents, {whole.size()}}, {.payload = whole});
  WaitPayloadDone(first);
  const wire::Vec3 origin = {2, 3, 1}, region = {5, 2, 3};
  const ByteVector part = Pattern(Size(region), 5);
  EXPECT_EQ(Try(InitImage{{image}, origin, region, {part.size()}}, part), 0);
  Put(part, extents, origin, region, &whole);
  EXPECT_EQ(Wait(Send(ReadOf(queue, image, {}, extents))).payload, whole);

  EXPECT_EQ(Try(InitImage{{image}, {9, 0, 0}, region, {part.size()}}, part), status::kInvalidValue);
  EXPECT_EQ(Try(InitImage{{image}, {}, region, {part.size() - 1}}, Pattern(part.size() - 1)),
            status::kInvalidValue);
  EXPECT_EQ(Try(InitImage{{NewHandle()}, {}, region, {part.size()}}, part), status::kInvalidMemObject);
}

TEST_P(BackendBattery, CopiesBetweenImagesAndBuffers) {
  const Handle queue = Queue();
  for (const Kind& kind : kKinds) {
    SCOPED_TRACE(static_cast<int>(kind.type));
    const Handle from = NewHandle();
    const Handle to = NewHandle();
    for (const Handle image : {from, to}) {
      CreateImage create = ImageOf(context_, image, kind);
      if (kind.type == ImageType::k1DBuffer) create.buffer = {Buffer(Size(kind.extents))};
      ASSERT_EQ(Try(create), 0);
    }
    const ByteVector whole = Pattern(Size(kind.extents));
    ASSERT_EQ(Try(WriteOf(queue, from, {}, kind.extents, whole.size()), whole), 0);
    wire::Vec3 origin{}, region{};
    Inside(kind.extents, &origin, &region);
    const ByteVector part = Part(whole, kind.extents, origin, region);

    EXPECT_EQ(Try(EnqueueCopyImage{{queue}, {from}, {to}, origin, {}, region}), 0);
    ByteVector copied(whole.size());
    Put(part, kind.extents, {}, region, &copied);
    EXPECT_EQ(Wait(Send(ReadOf(queue, to, {}, kind.extents))).payload, copied);

    const Handle buffer = Buffer(part.size() + 20);
    EXPECT_EQ(Try(EnqueueCopyImageToBuffer{{queue}, {from}, {buffer}, origin, region, 12}), 0);
    EXPECT_EQ(Wait(Read(queue, buffer, 12, part.size())).payload, part);
    EXPECT_EQ(Try(EnqueueCopyImageToBuffer{{queue}, {from}, {buffer}, origin, region, 21}),
              status::kInvalidValue);

    const ByteVector fresh = Pattern(part.size(), 50);
    Write(queue, buffer, 8, fresh);
    EXPECT_EQ(Try(EnqueueCopyBufferToImage{{queue}, {buffer}, {to}, 8, origin, region}), 0);
    Put(fresh, kind.extents, origin, region, &copied);
    EXPECT_EQ(Wait(Send(ReadOf(queue, to, {}, kind.extents))).payload, copied);
    EXPECT_EQ(Try(EnqueueCopyBufferToImage{{queue}, {buffer}, {to}, kMost, origin, region}),
              status::kInvalidValue);
    for (const Handle handle : {from, to, buffer}) Destroy(ObjectKind::kMemory, handle);
  }
}

TEST_P(BackendBattery, CopiesOfImagesThatAreWrong) {
  const Handle queue = Queue();
  const Handle image = NewHandle();
  const Handle other = NewHandle();
  ASSERT_EQ(Try(ImageOf(context_, image, {ImageType::k2D, {16, 16, 1}})), 0);
  ASSERT_EQ(Try(ImageOf(context_, other, {ImageType::k2D, {16, 16, 1}}, {kOrderRgba, kSignedInt8})), 0);
  const auto copy = [&](Handle from, Handle to, const wire::Vec3& source, const wire::Vec3& destination,
                        const wire::Vec3& region) {
    return Try(EnqueueCopyImage{{queue}, {from}, {to}, source, destination, region});
  };
  EXPECT_EQ(copy(image, other, {}, {}, {1, 1, 1}), status::kImageFormatMismatch);
  EXPECT_EQ(copy(image, image, {}, {4, 4, 0}, {5, 5, 1}), status::kMemCopyOverlap);
  EXPECT_EQ(copy(image, image, {}, {5, 0, 0}, {5, 5, 1}), 0);
  EXPECT_EQ(copy(image, image, {}, {12, 0, 0}, {5, 5, 1}), status::kInvalidValue);
  EXPECT_EQ(copy(image, image, {}, {0, 8, 0}, {kMost, 1, 1}), status::kInvalidValue);
  const Handle buffer = Buffer(1'024);
  EXPECT_EQ(copy(image, buffer, {}, {}, {1, 1, 1}), status::kInvalidMemObject);
  EXPECT_EQ(Try(EnqueueCopyImageToBuffer{{queue}, {buffer}, {buffer}, {}, {1, 1, 1}, 0}),
            status::kInvalidMemObject);
  EXPECT_EQ(Try(EnqueueCopyBufferToImage{{queue}, {image}, {image}, 0, {}, {1, 1, 1}}),
            status::kInvalidMemObject);
  EXPECT_EQ(Try(EnqueueCopy{{queue}, {image}, {buffer}, 0, 0, 16}), status::kInvalidMemObject);
  EXPECT_EQ(Wait(Read(queue, image, 0, 16)).status, status::kInvalidMemObject);
}

TEST_P(BackendBattery, FillsImages) {
  const Handle queue = Queue();
  // By the device itself, and in the buffer that an image is.
  const auto fill = [&](const ImageFormat& format, const auto& color, const ByteVector& pixel) {
    SCOPED_TRACE(testing::Message() << format.channel_order << " " << format.channel_type);
    const Handle image = NewHandle();
    const wire::Vec3 extents = {5, 3, 2};
    ASSERT_EQ(Try(ImageOf(context_, image, {ImageType::k3D, extents}, format)), 0);
    const ByteView bytes = std::as_bytes(std::span(color));
    EXPECT_EQ(Try(EnqueueFillImage{{queue}, {image}, {bytes}, {1, 1, 1}, {3, 2, 1}}), 0);
    EXPECT_EQ(Wait(Send(ReadOf(queue, image, {0, 1, 1}, {5, 1, 1}, pixel.size()))).payload, [&] {
      ByteVector row(pixel.size());
      for (int i = 0; i < 3; ++i) row.insert(row.end(), pixel.begin(), pixel.end());
      row.resize(5 * pixel.size());
      return row;
    }());
    EXPECT_EQ(Wait(Send(ReadOf(queue, image, {0, 0, 1}, {5, 1, 1}, pixel.size()))).payload,
              ByteVector(5 * pixel.size()));
    Destroy(ObjectKind::kMemory, image);

    const Handle linear = NewHandle();
    CreateImage create = ImageOf(context_, linear, {ImageType::k1DBuffer, {4, 1, 1}}, format);
    create.buffer = {Buffer(4 * pixel.size())};
    ASSERT_EQ(Try(create), 0);
    EXPECT_EQ(Try(EnqueueFillImage{{queue}, {linear}, {bytes}, {1, 0, 0}, {2, 1, 1}}), 0);
    ByteVector row(pixel.size());
    for (int i = 0; i < 2; ++i) row.insert(row.end(), pixel.begin(), pixel.end());
    row.resize(4 * pixel.size());
    EXPECT_EQ(Wait(Send(ReadOf(queue, linear, {}, {4, 1, 1}, pixel.size()))).payload, row);
    Destroy(ObjectKind::kMemory, linear);
  };
  const auto bytes = [](const auto& values) {
    const ByteView view = std::as_bytes(std::span(values));
    return ByteVector(view.begin(), view.end());
  };
  const std::uint32_t naturals[4] = {1, 2, 300, 4};
  const std::int32_t integers[4] = {-1, 2, -300, 4};
  const float reals[4] = {0.0F, 1.0F, 2.0F, -1.0F};
  fill({kOrderRgba, kUnsignedInt8}, naturals, bytes(std::array<std::uint8_t, 4>{1, 2, 255, 4}));
  fill({kOrderR, kUnsignedInt32}, naturals, bytes(std::array<std::uint32_t, 1>{1}));
  fill({kOrderRgba, kSignedInt16}, integers, bytes(std::array<std::int16_t, 4>{-1, 2, -300, 4}));
  fill({kOrderRgba, kSignedInt8}, integers, bytes(std::array<std::int8_t, 4>{-1, 2, -128, 4}));
  fill({kOrderRgba, kFloat}, reals, bytes(reals));
  fill({kOrderRgba, kUnormInt8}, reals, bytes(std::array<std::uint8_t, 4>{0, 255, 255, 0}));
  fill({kOrderRgba, kUnormInt16}, reals, bytes(std::array<std::uint16_t, 4>{0, 65535, 65535, 0}));
  fill({kOrderA, kHalfFloat}, reals, bytes(std::array<std::uint16_t, 1>{0xbc00}));
  fill({kOrderRgba, kHalfFloat}, reals, bytes(std::array<std::uint16_t, 4>{0, 0x3c00, 0x4000, 0xbc00}));
  fill({kOrderRgba, kSnormInt8}, reals, bytes(std::array<std::int8_t, 4>{0, 127, 127, -127}));

  const Handle image = NewHandle();
  ASSERT_EQ(Try(ImageOf(context_, image, {ImageType::k2D, {4, 4, 1}})), 0);
  const ByteVector color = Pattern(16);
  EXPECT_EQ(Try(EnqueueFillImage{{queue}, {image}, {ByteView(color).first(4)}, {}, {1, 1, 1}}),
            status::kInvalidValue);
  EXPECT_EQ(Try(EnqueueFillImage{{queue}, {image}, {color}, {}, {5, 1, 1}}), status::kInvalidValue);
  EXPECT_EQ(Try(EnqueueFillImage{{queue}, {image}, {color}, {4, 0, 0}, {1, 1, 1}}), status::kInvalidValue);
  EXPECT_EQ(Try(EnqueueFillImage{{queue}, {Buffer(64)}, {color}, {}, {1, 1, 1}}), status::kInvalidMemObject);
}

TEST_P(BackendBattery, NothingReachesBeyondAnImage) {
  const Handle queue = Queue();
  const Handle image = NewHandle();
  ASSERT_EQ(Try(ImageOf(context_, image, {ImageType::k3D, {8, 8, 8}})), 0);
  const std::pair<wire::Vec3, wire::Vec3> boxes[] = {{{0, 0, 0}, {9, 1, 1}},
                                                     {{1, 0, 0}, {8, 1, 1}},
                                                     {{0, 8, 0}, {1, 1, 1}},
                                                     {{0, 0, 0}, {1, 1, 9}},
                                                     {{kMost, 0, 0}, {1, 1, 1}},
                                                     {{kMost, 0, 0}, {2, 1, 1}},
                                                     {{0, 0, 0}, {0, 1, 1}},
                                                     {{0, 0, 0}, {1, 1, 0}},
                                                     {{0, 0, 0}, {kMost, kMost, kMost}},
                                                     {{0, 0, 0}, {1u << 31, 1u << 31, 4}}};
  for (const auto& [origin, region] : boxes) {
    SCOPED_TRACE(testing::Message() << origin[0] << "," << origin[1] << "," << origin[2] << " + " << region[0]
                                    << "," << region[1] << "," << region[2]);
    EnqueueReadImage read = ReadOf(queue, image, origin, region);
    read.data = {64};
    const Answer answer = Wait(Send(read));
    EXPECT_EQ(answer.status, status::kInvalidValue);
    EXPECT_TRUE(answer.payload.empty());
    const std::uint64_t write = Send(WriteOf(queue, image, origin, region, 64), {true, Pattern(64)});
    EXPECT_EQ(Wait(write).status, status::kInvalidValue);
    WaitPayloadDone(write);
  }
  // And the data is just that of the region.
  for (const std::size_t size : {63, 65}) {
    EnqueueReadImage read = ReadOf(queue, image, {}, {4, 4, 1});
    read.data = {size};
    EXPECT_EQ(Wait(Send(read)).status, status::kInvalidValue);
    EXPECT_EQ(Try(WriteOf(queue, image, {}, {4, 4, 1}, size), Pattern(size)), status::kInvalidValue);
  }
}

TEST_P(BackendBattery, RefusesImagesThatCannotBe) {
  const auto create = [&](const Kind& kind, const ImageFormat& format = kBytes4, Handle buffer = {},
                          std::uint64_t row_pitch = 0) {
    CreateImage message = ImageOf(context_, NewHandle(), kind, format);
    message.buffer = {buffer};
    message.row_pitch_bytes = row_pitch;
    return Try(message);
  };
  EXPECT_EQ(create({ImageType::k2D, {0, 4, 1}}), status::kInvalidImageSize);
  EXPECT_EQ(create({ImageType::k2D, {4, 4, 2}}), status::kInvalidImageSize);
  EXPECT_EQ(create({ImageType::k1D, {4, 2, 1}}), status::kInvalidImageSize);
  EXPECT_EQ(create({ImageType::k2D, {kMost, 4, 1}}), status::kInvalidImageSize);
  EXPECT_EQ(create({ImageType::k3D, {kMost, kMost, kMost}}), status::kInvalidImageSize);
  EXPECT_EQ(create({ImageType::k2D, {4, 4, 1}}, {1, 2}), status::kInvalidImageFormatDescriptor);
  EXPECT_EQ(create({ImageType::k2D, {4, 4, 1}}, {kOrderRgb, kFloat}), status::kInvalidImageFormatDescriptor);
  EXPECT_NE(create({ImageType::k2D, {4, 4, 1}}, {kOrderSrgb, kUnormInt8}), 0);
  EXPECT_EQ(create({ImageType::k2D, {4, 4, 1}}, kBytes4, {}, 16), status::kInvalidImageDescriptor);
  EXPECT_EQ(create({ImageType::k1DBuffer, {4, 1, 1}}), status::kInvalidImageDescriptor);
  const Handle buffer = Buffer(64);
  EXPECT_EQ(create({ImageType::k1DBuffer, {17, 1, 1}}, kBytes4, buffer), status::kInvalidImageSize);
  EXPECT_EQ(create({ImageType::k1DBuffer, {kMost, 1, 1}}, kBytes4, buffer), status::kInvalidImageSize);
  EXPECT_EQ(create({ImageType::k1DBuffer, {4, 1, 1}}, kBytes4, NewHandle()), status::kInvalidMemObject);
  EXPECT_EQ(create({ImageType::k3D, {4, 2, 2}}, kBytes4, buffer), status::kInvalidImageDescriptor);
  EXPECT_EQ(create({ImageType::k2D, {4, 4, 1}}, kBytes4, buffer, 12), status::kInvalidImageDescriptor);
  EXPECT_EQ(create({ImageType::k2D, {4, 4, 1}}, kBytes4, buffer, kMost - 3), status::kInvalidImageSize);
  EXPECT_EQ(create({ImageType::k2D, {4, 5, 1}}, kBytes4, buffer, 16), status::kInvalidImageSize);
  CreateImage nowhere = ImageOf(NewHandle(), NewHandle(), {ImageType::k2D, {4, 4, 1}});
  EXPECT_EQ(Try(nowhere), status::kInvalidContext);

  // What was not made is named all the same.
  const Handle image = NewHandle();
  const std::uint64_t failed = Send(ImageOf(context_, image, {ImageType::k2D, {0, 4, 1}}));
  EXPECT_EQ(WaitFailure(failed), status::kInvalidImageSize);
  EXPECT_EQ(Wait(Send(ReadOf(Queue(), image, {}, {1, 1, 1}))).status, status::kInvalidMemObject);
  Destroy(ObjectKind::kMemory, image);
}

TEST_P(BackendBattery, AnImageKeepsItsBuffersMemory) {
  const Handle queue = Queue();
  const Handle buffer = Buffer(256);
  const Handle image = NewHandle();
  CreateImage create = ImageOf(context_, image, {ImageType::k1DBuffer, {64, 1, 1}});
  create.buffer = {buffer};
  ASSERT_EQ(Try(create), 0);
  const ByteVector bytes = Pattern(256);
  Write(queue, buffer, 0, bytes);
  const std::uint64_t gone = Send(wire::DestroyObject{{ObjectKind::kMemory, buffer}}, {.status = true});
  EXPECT_EQ(Wait(Send(ReadOf(queue, image, {}, {64, 1, 1}))).payload, bytes);
  EXPECT_FALSE(Answered(gone));
  EXPECT_EQ(Try(wire::DestroyObject{{ObjectKind::kMemory, image}}), 0);
  EXPECT_EQ(Wait(Finish(queue)).status, 0);
  EXPECT_EQ(Wait(gone).status, 0);
}

TEST_P(BackendBattery, HostAccessFlagsOfImagesHold) {
  const Handle queue = Queue();
  const auto image = [&](std::uint64_t flags) {
    const Handle handle = NewHandle();
    CreateImage create = ImageOf(context_, handle, {ImageType::k2D, {4, 4, 1}});
    create.flags = {flags};
    EXPECT_EQ(Try(create), 0);
    return handle;
  };
  const auto read = [&](Handle handle) { return Wait(Send(ReadOf(queue, handle, {}, {1, 1, 1}))).status; };
  const auto write = [&](Handle handle) {
    return Try(WriteOf(queue, handle, {}, {1, 1, 1}, kPixel), Pattern(kPixel));
  };
  const Handle write_only = image(1u << 0 | 1u << 7);
  const Handle read_only = image(1u << 0 | 1u << 8);
  const Handle no_access = image(1u << 0 | 1u << 9);
  EXPECT_EQ(read(write_only), status::kInvalidOperation);
  EXPECT_EQ(write(write_only), 0);
  EXPECT_EQ(read(read_only), 0);
  EXPECT_EQ(write(read_only), status::kInvalidOperation);
  EXPECT_EQ(read(no_access), status::kInvalidOperation);
  EXPECT_EQ(write(no_access), status::kInvalidOperation);
}

TEST_P(BackendBattery, KernelsReadAndWriteImages) {
  const Handle queue = Queue();
  const wire::Vec3 extents = {9, 6, 1};
  const Handle from = NewHandle();
  const Handle to = NewHandle();
  ASSERT_EQ(Try(ImageOf(context_, from, {ImageType::k2D, extents})), 0);
  ASSERT_EQ(Try(ImageOf(context_, to, {ImageType::k2D, extents})), 0);
  const Handle sampler = NewHandle();
  ASSERT_EQ(Try(CreateSampler{{context_}, {sampler}, 0, {Addressing::kClampToEdge}, {Filter::kNearest}}), 0);
  const ByteVector whole = Pattern(Size(extents));
  ASSERT_EQ(Try(WriteOf(queue, from, {}, extents, whole.size()), whole), 0);

  const Handle kernel = Kernel("null_copy_image");
  const auto set_sampler = [&](std::uint32_t index, Handle handle) {
    return Try(SetSamplerArg{{kernel}, index, {handle}});
  };
  EXPECT_EQ(SetMemory(kernel, 0, from), 0);
  EXPECT_EQ(SetMemory(kernel, 1, to), 0);
  EXPECT_EQ(set_sampler(2, sampler), 0);
  EXPECT_EQ(Try(EnqueueKernel{{queue}, {kernel}, 2, {}, {9, 6, 1}, {}}), 0);
  EXPECT_EQ(Wait(Send(ReadOf(queue, to, {}, extents))).payload, whole);

  // Each argument takes its own kind only.
  const Handle buffer = Buffer(64);
  const Handle volume = NewHandle();
  ASSERT_EQ(Try(ImageOf(context_, volume, {ImageType::k3D, {4, 4, 4}})), 0);
  EXPECT_EQ(SetMemory(kernel, 0, buffer), status::kInvalidArgValue);
  EXPECT_EQ(SetMemory(kernel, 0, volume), status::kInvalidArgValue);
  EXPECT_EQ(SetMemory(kernel, 0, {}), status::kInvalidArgValue);
  EXPECT_EQ(SetMemory(kernel, 2, from), status::kInvalidArgValue);
  EXPECT_EQ(SetUint(kernel, 0, 1), status::kInvalidArgValue);
  EXPECT_EQ(SetUint(kernel, 2, 1), status::kInvalidArgValue);
  EXPECT_EQ(set_sampler(0, sampler), status::kInvalidArgValue);
  EXPECT_EQ(set_sampler(3, sampler), status::kInvalidArgIndex);
  EXPECT_EQ(set_sampler(2, NewHandle()), status::kInvalidSampler);
  EXPECT_EQ(SetMemory(Kernel("null_add"), 0, from), status::kInvalidArgValue);

  // And only while it lives.
  Destroy(ObjectKind::kSampler, sampler);
  EXPECT_EQ(Try(EnqueueKernel{{queue}, {kernel}, 2, {}, {9, 6, 1}, {}}), status::kInvalidKernelArgs);
}

TEST_P(BackendBattery, SamplersAreCheckedAndFormatsTold) {
  const auto sampler = [&](std::uint8_t normalized, Addressing addressing) {
    return Try(CreateSampler{{context_}, {NewHandle()}, normalized, {addressing}, {Filter::kLinear}});
  };
  EXPECT_EQ(sampler(1, Addressing::kRepeat), 0);
  EXPECT_EQ(sampler(0, Addressing::kNone), 0);
  EXPECT_EQ(sampler(0, Addressing::kRepeat), status::kInvalidValue);
  EXPECT_EQ(sampler(0, Addressing::kMirroredRepeat), status::kInvalidValue);
  EXPECT_EQ(sampler(2, Addressing::kClamp), status::kInvalidValue);
  EXPECT_EQ(Try(CreateSampler{{NewHandle()}, {NewHandle()}, 1, {Addressing::kClamp}, {Filter::kNearest}}),
            status::kInvalidContext);

  for (const Kind& kind : kKinds) {
    const auto reply = WaitFor<GetImageFormatsReply>(
        Send(GetImageFormats{{context_}, {ImageAccess::kReadWrite}, {kind.type}}));
    EXPECT_EQ(reply.status, 0);
    EXPECT_TRUE(std::ranges::count(reply.formats.items, kBytes4)) << static_cast<int>(kind.type);
    for (const ImageFormat& format : reply.formats.items) EXPECT_NE(PixelBytes(format), 0u);
  }
}

// One command in pieces, as for buffers: its event is the last piece's.
TEST_P(BackendBattery, TransfersOfImagesComeInPieces) {
  const Handle queue = Queue(kOutOfOrder);
  const wire::Vec3 extents = {16, 8, 1};
  const Handle image = NewHandle();
  ASSERT_EQ(Try(ImageOf(context_, image, {ImageType::k2D, extents})), 0);
  const ByteVector whole = Pattern(Size(extents));
  const Handle written = NewHandle();
  for (std::uint64_t row = 0; row < 8; row += 4) {
    EnqueueWriteImage write = WriteOf(queue, image, {0, row, 0}, {16, 4, 1}, whole.size() / 2);
    write.transfer = 7;
    write.more = row == 0;
    if (row != 0) write.event = {written};
    const auto begin = whole.begin() + static_cast<std::ptrdiff_t>(row * 16 * kPixel);
    Send(write, {.payload = ByteVector(begin, begin + static_cast<std::ptrdiff_t>(whole.size() / 2))});
  }
  EXPECT_EQ(WaitEvent(written).status, 0);
  EXPECT_EQ(Wait(Send(ReadOf(queue, image, {}, extents))).payload, whole);
  Destroy(ObjectKind::kEvent, written);
}

}  // namespace tulle::gpu::conformance
