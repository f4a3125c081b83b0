// Images and samplers: every type, every way in, out and around, and what kernels see of them.
#include <algorithm>
#include <array>
#include <cmath>

#include "tests/e2e/opencl/battery.h"

namespace battery {
namespace {

using Extents = std::array<size_t, 3>;
using Bytes = std::vector<unsigned char>;

constexpr cl_image_format kBytes4 = {CL_RGBA, CL_UNSIGNED_INT8};  // four bytes that mean themselves

struct Kind {
  const char* name;
  cl_mem_object_type type;
  Extents extents;  // as origins and regions have them
};
constexpr Kind kKinds[] = {{"1D", CL_MEM_OBJECT_IMAGE1D, {37, 1, 1}},
                           {"1D array", CL_MEM_OBJECT_IMAGE1D_ARRAY, {37, 5, 1}},
                           {"1D buffer", CL_MEM_OBJECT_IMAGE1D_BUFFER, {37, 1, 1}},
                           {"2D", CL_MEM_OBJECT_IMAGE2D, {37, 11, 1}},
                           {"2D array", CL_MEM_OBJECT_IMAGE2D_ARRAY, {37, 11, 4}},
                           {"3D", CL_MEM_OBJECT_IMAGE3D, {37, 11, 4}}};

cl_image_desc DescOf(cl_mem_object_type type, const Extents& extents) {
  cl_image_desc desc{};
  desc.image_type = type;
  desc.image_width = extents[0];
  switch (type) {
    case CL_MEM_OBJECT_IMAGE1D_ARRAY: desc.image_array_size = extents[1]; break;
    case CL_MEM_OBJECT_IMAGE2D: desc.image_height = extents[1]; break;
    case CL_MEM_OBJECT_IMAGE2D_ARRAY:
      desc.image_height = extents[1];
      desc.image_array_size = extents[2];
      break;
    case CL_MEM_OBJECT_IMAGE3D:
      desc.image_height = extents[1];
      desc.image_depth = extents[2];
      break;
    default: break;
  }
  return desc;
}

Bytes Pattern(size_t size, unsigned seed = 1) {
  Bytes bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<unsigned char>(i * 7 + i / 251 + seed);
  return bytes;
}

// Packed bytes to and from memory with pitches.
struct Layout {
  size_t row_pitch;
  size_t slice_pitch;
};
void Unpack(const Bytes& packed, const Extents& region, size_t pixel, const Layout& to, unsigned char* out) {
  const unsigned char* from = packed.data();
  for (size_t slice = 0; slice < region[2]; ++slice) {
    for (size_t row = 0; row < region[1]; ++row, from += region[0] * pixel)
      std::memcpy(out + slice * to.slice_pitch + row * to.row_pitch, from, region[0] * pixel);
  }
}
Bytes Pack(const unsigned char* in, const Extents& region, size_t pixel, const Layout& from) {
  Bytes packed;
  for (size_t slice = 0; slice < region[2]; ++slice) {
    for (size_t row = 0; row < region[1]; ++row) {
      const unsigned char* begin = in + slice * from.slice_pitch + row * from.row_pitch;
      packed.insert(packed.end(), begin, begin + region[0] * pixel);
    }
  }
  return packed;
}
// Where a region lies in the packed bytes of the whole.
size_t Offset(const Extents& whole, const Extents& origin, size_t pixel) {
  return pixel * (origin[0] + whole[0] * (origin[1] + whole[1] * origin[2]));
}
Layout PackedLayout(const Extents& whole, size_t pixel) {
  return {whole[0] * pixel, whole[0] * whole[1] * pixel};
}
size_t Size(const Extents& region, size_t pixel) { return region[0] * region[1] * region[2] * pixel; }

class Images : public OpenCl {
 protected:
  void SetUp() override {
    OpenCl::SetUp();
    if (DeviceInfo<cl_bool>(CL_DEVICE_IMAGE_SUPPORT) == CL_FALSE) GTEST_SKIP() << "the device has no images";
  }

  // Of a 1D buffer image the buffer is made, too, and left to the image.
  cl_mem Image(const Kind& kind, const cl_image_format& format = kBytes4, size_t pixel = 4,
               cl_mem_flags flags = CL_MEM_READ_WRITE) const {
    cl_image_desc desc = DescOf(kind.type, kind.extents);
    if (kind.type == CL_MEM_OBJECT_IMAGE1D_BUFFER) desc.buffer = Buffer(Size(kind.extents, pixel));
    cl_int error = -1;
    cl_mem image = clCreateImage(context, flags, &format, &desc, nullptr, &error);
    EXPECT_EQ(error, CL_SUCCESS) << kind.name;
    if (desc.buffer != nullptr) clReleaseMemObject(desc.buffer);
    return image;
  }
  cl_mem Image2D(size_t width, size_t height, const cl_image_format& format = kBytes4,
                 cl_mem_flags flags = CL_MEM_READ_WRITE) const {
    return Image({"2D", CL_MEM_OBJECT_IMAGE2D, {width, height, 1}}, format, 4, flags);
  }
  void WriteImage(cl_mem image, const Extents& origin, const Extents& region, const void* data,
                  const Layout& layout = {}) const {
    EXPECT_EQ(clEnqueueWriteImage(queue, image, CL_TRUE, origin.data(), region.data(), layout.row_pitch,
                                  layout.slice_pitch, data, 0, nullptr, nullptr),
              CL_SUCCESS);
  }
  Bytes ReadImage(cl_mem image, const Extents& origin, const Extents& region, size_t pixel = 4) const {
    Bytes bytes(Size(region, pixel), 0xee);
    EXPECT_EQ(clEnqueueReadImage(queue, image, CL_TRUE, origin.data(), region.data(), 0, 0, bytes.data(), 0,
                                 nullptr, nullptr),
              CL_SUCCESS);
    return bytes;
  }
  cl_sampler Sampler(cl_bool normalized, cl_addressing_mode addressing, cl_filter_mode filter) const {
    cl_int error = -1;
    cl_sampler sampler = clCreateSampler(context, normalized, addressing, filter, &error);
    EXPECT_EQ(error, CL_SUCCESS);
    return sampler;
  }
  // What PoCL answers in its own way, the specification says how.
  void ExpectRefused(cl_int status, cl_int expected) const {
    if (OnVGpu()) {
      EXPECT_EQ(status, expected);
    } else {
      EXPECT_NE(status, CL_SUCCESS);
    }
  }
  size_t ImageInfo(cl_mem image, cl_image_info name) const {
    size_t value = 12345;
    EXPECT_EQ(clGetImageInfo(image, name, sizeof value, &value, nullptr), CL_SUCCESS);
    return value;
  }
};

TEST_F(Images, FormatsAreTold) {
  for (const Kind& kind : kKinds) {
    for (const cl_mem_flags flags : {CL_MEM_READ_WRITE, CL_MEM_READ_ONLY, CL_MEM_WRITE_ONLY}) {
      cl_uint count = 0;
      ASSERT_EQ(clGetSupportedImageFormats(context, flags, kind.type, 0, nullptr, &count), CL_SUCCESS);
      ASSERT_GT(count, 5u) << kind.name;
      std::vector<cl_image_format> formats(count + 1);
      ASSERT_EQ(clGetSupportedImageFormats(context, flags, kind.type, count + 1, formats.data(), nullptr),
                CL_SUCCESS);
      for (const cl_channel_type type : {CL_UNSIGNED_INT8, CL_UNORM_INT8, CL_SIGNED_INT32, CL_FLOAT}) {
        EXPECT_TRUE(std::any_of(formats.begin(), formats.end() - 1,
                                [type](const cl_image_format& f) {
                                  return f.image_channel_order == CL_RGBA &&
                                         f.image_channel_data_type == type;
                                }))
            << kind.name << " " << type;
      }
    }
  }
  cl_uint count = 0;
  EXPECT_EQ(clGetSupportedImageFormats(context, CL_MEM_READ_WRITE, CL_MEM_OBJECT_BUFFER, 0, nullptr, &count),
            CL_INVALID_VALUE);
  cl_image_format format;
  EXPECT_EQ(clGetSupportedImageFormats(context, CL_MEM_READ_WRITE, CL_MEM_OBJECT_IMAGE2D, 0, &format, &count),
            CL_INVALID_VALUE);
}

TEST_F(Images, SayWhatTheyAre) {
  for (const Kind& kind : kKinds) {
    SCOPED_TRACE(kind.name);
    cl_mem image = Image(kind);
    cl_mem_object_type type = 0;
    EXPECT_EQ(clGetMemObjectInfo(image, CL_MEM_TYPE, sizeof type, &type, nullptr), CL_SUCCESS);
    EXPECT_EQ(type, kind.type);
    size_t size = 0;
    EXPECT_EQ(clGetMemObjectInfo(image, CL_MEM_SIZE, sizeof size, &size, nullptr), CL_SUCCESS);
    EXPECT_EQ(size, Size(kind.extents, 4));
    cl_image_format format{};
    EXPECT_EQ(clGetImageInfo(image, CL_IMAGE_FORMAT, sizeof format, &format, nullptr), CL_SUCCESS);
    EXPECT_EQ(format.image_channel_order, kBytes4.image_channel_order);
    EXPECT_EQ(format.image_channel_data_type, kBytes4.image_channel_data_type);
    const cl_image_desc desc = DescOf(kind.type, kind.extents);
    EXPECT_EQ(ImageInfo(image, CL_IMAGE_ELEMENT_SIZE), 4u);
    EXPECT_EQ(ImageInfo(image, CL_IMAGE_WIDTH), desc.image_width);
    EXPECT_EQ(ImageInfo(image, CL_IMAGE_HEIGHT), desc.image_height);
    EXPECT_EQ(ImageInfo(image, CL_IMAGE_DEPTH), desc.image_depth);
    EXPECT_EQ(ImageInfo(image, CL_IMAGE_ARRAY_SIZE), desc.image_array_size);
    EXPECT_EQ(ImageInfo(image, CL_IMAGE_ROW_PITCH), 37u * 4);
    const bool slices = desc.image_depth != 0 || desc.image_array_size != 0;
    const size_t rows = std::max<size_t>(desc.image_height, 1);
    EXPECT_EQ(ImageInfo(image, CL_IMAGE_SLICE_PITCH), slices ? 37u * 4 * rows : 0);
    cl_mem buffer = nullptr;
    EXPECT_EQ(clGetImageInfo(image, CL_IMAGE_BUFFER, sizeof buffer, &buffer, nullptr), CL_SUCCESS);
    EXPECT_EQ(buffer != nullptr, kind.type == CL_MEM_OBJECT_IMAGE1D_BUFFER);
    cl_uint none = 1;
    EXPECT_EQ(clGetImageInfo(image, CL_IMAGE_NUM_SAMPLES, sizeof none, &none, nullptr), CL_SUCCESS);
    EXPECT_EQ(none, 0u);
    EXPECT_EQ(clReleaseMemObject(image), CL_SUCCESS);
  }
  cl_mem buffer = Buffer(64);
  size_t width = 0;
  if (OnVGpu()) {
    EXPECT_EQ(clGetImageInfo(buffer, CL_IMAGE_WIDTH, sizeof width, &width, nullptr), CL_INVALID_MEM_OBJECT);
  }
  clReleaseMemObject(buffer);
}

TEST_F(Images, WriteAndReadWithEveryPitch) {
  for (const Kind& kind : kKinds) {
    SCOPED_TRACE(kind.name);
    cl_mem image = Image(kind);
    const Bytes whole = Pattern(Size(kind.extents, 4));
    WriteImage(image, {}, kind.extents, whole.data());
    EXPECT_EQ(ReadImage(image, {}, kind.extents), whole);

    Extents origin{}, region = kind.extents;
    for (size_t i = 0; i < 3; ++i) {
      if (region[i] < 3) continue;
      origin[i] = 1;
      region[i] -= 2;
    }
    const Bytes part =
        Pack(whole.data() + Offset(kind.extents, origin, 4), region, 4, PackedLayout(kind.extents, 4));
    EXPECT_EQ(ReadImage(image, origin, region), part);

    // Rows and slices farther apart than they must be; what lies between stays as it is.
    const bool layers_of_rows = kind.type == CL_MEM_OBJECT_IMAGE1D_ARRAY;
    const bool slices = layers_of_rows || region[2] > 1;
    const size_t row_pitch = region[0] * 4 + 12;
    // PoCL takes the layers of a 1D array as rows of one image.
    const size_t layer_rows = layers_of_rows ? (OnVGpu() ? 3 : 1) : region[1] + 2;
    const Layout api = {row_pitch, slices ? row_pitch * layer_rows : 0};
    const Layout memory = layers_of_rows ? Layout{api.slice_pitch, 0} : api;
    Bytes spread(api.row_pitch * layer_rows * (layers_of_rows ? region[1] : region[2]), 0x55);
    Bytes expected = spread;
    Unpack(part, region, 4, memory, expected.data());
    EXPECT_EQ(clEnqueueReadImage(queue, image, CL_TRUE, origin.data(), region.data(), api.row_pitch,
                                 api.slice_pitch, spread.data(), 0, nullptr, nullptr),
              CL_SUCCESS);
    EXPECT_EQ(spread, expected);
    const Bytes fresh = Pattern(part.size(), 99);
    Unpack(fresh, region, 4, memory, spread.data());
    WriteImage(image, origin, region, spread.data(), api);
    EXPECT_EQ(ReadImage(image, origin, region), fresh);
    clReleaseMemObject(image);
  }
}

TEST_F(Images, LargeOnesTravelInPieces) {
  // Rows that make a piece, slices that do, and a row that is larger than one.
  for (const Kind& kind : {Kind{"rows", CL_MEM_OBJECT_IMAGE2D, {1025, 2049, 1}},
                           Kind{"slices", CL_MEM_OBJECT_IMAGE3D, {256, 300, 37}},
                           Kind{"large slices", CL_MEM_OBJECT_IMAGE2D_ARRAY, {1025, 1100, 3}}}) {
    SCOPED_TRACE(kind.name);
    cl_mem image = Image(kind);
    const Bytes whole = Pattern(Size(kind.extents, 4));
    cl_event written = nullptr, read = nullptr;
    const Extents origin{};
    ASSERT_EQ(clEnqueueWriteImage(queue, image, CL_FALSE, origin.data(), kind.extents.data(), 0, 0,
                                  whole.data(), 0, nullptr, &written),
              CL_SUCCESS);
    Bytes back(whole.size());
    ASSERT_EQ(clEnqueueReadImage(queue, image, CL_FALSE, origin.data(), kind.extents.data(), 0, 0,
                                 back.data(), 1, &written, &read),
              CL_SUCCESS);
    EXPECT_EQ(clWaitForEvents(1, &read), CL_SUCCESS);
    EXPECT_TRUE(back == whole);
    EXPECT_EQ(StatusOf(written), CL_COMPLETE);
    cl_command_type type = 0;
    EXPECT_EQ(clGetEventInfo(read, CL_EVENT_COMMAND_TYPE, sizeof type, &type, nullptr), CL_SUCCESS);
    EXPECT_EQ(type, cl_command_type{CL_COMMAND_READ_IMAGE});
    // With pitches, too.
    const size_t row_pitch = kind.extents[0] * 4 + 8;
    Bytes spread(row_pitch * kind.extents[1] * kind.extents[2]);
    ASSERT_EQ(clEnqueueReadImage(queue, image, CL_FALSE, origin.data(), kind.extents.data(), row_pitch, 0,
                                 spread.data(), 0, nullptr, nullptr),
              CL_SUCCESS);
    EXPECT_EQ(clFinish(queue), CL_SUCCESS);
    EXPECT_TRUE(Pack(spread.data(), kind.extents, 4, {row_pitch, row_pitch * kind.extents[1]}) == whole);
    clReleaseEvent(written);
    clReleaseEvent(read);
    clReleaseMemObject(image);
  }
}

TEST_F(Images, ARowLargerThanAPiece) {
  const size_t most = DeviceInfo<size_t>(CL_DEVICE_IMAGE_MAX_BUFFER_SIZE);
  const Kind kind{"row", CL_MEM_OBJECT_IMAGE1D_BUFFER, {std::min<size_t>(most, 600'001), 1, 1}};
  const cl_image_format format = {CL_RGBA, CL_FLOAT};
  cl_mem image = Image(kind, format, 16);
  const Bytes whole = Pattern(Size(kind.extents, 16));
  WriteImage(image, {}, kind.extents, whole.data());
  EXPECT_TRUE(ReadImage(image, {}, kind.extents, 16) == whole);
  clReleaseMemObject(image);
}

TEST_F(Images, HostPointersGiveTheContents) {
  const Extents extents = {19, 7, 3};
  const Layout layout = {19 * 4 + 20, (19 * 4 + 20) * 8};
  const Bytes packed = Pattern(Size(extents, 4));
  for (const cl_mem_flags flag : {CL_MEM_COPY_HOST_PTR, CL_MEM_USE_HOST_PTR}) {
    for (const bool spread : {false, true}) {
      SCOPED_TRACE(testing::Message() << "flag " << flag << " spread " << spread);
      Bytes host(layout.slice_pitch * extents[2], 0x55);
      cl_image_desc desc = DescOf(CL_MEM_OBJECT_IMAGE3D, extents);
      if (spread) {
        desc.image_row_pitch = layout.row_pitch;
        desc.image_slice_pitch = layout.slice_pitch;
      }
      Unpack(packed, extents, 4, spread ? layout : PackedLayout(extents, 4), host.data());
      cl_int error = -1;
      cl_mem image = clCreateImage(context, CL_MEM_READ_WRITE | flag, &kBytes4, &desc, host.data(), &error);
      ASSERT_EQ(error, CL_SUCCESS);
      EXPECT_EQ(ReadImage(image, {}, extents), packed);
      EXPECT_EQ(ImageInfo(image, CL_IMAGE_ROW_PITCH), spread ? layout.row_pitch : 19u * 4);
      EXPECT_EQ(ImageInfo(image, CL_IMAGE_SLICE_PITCH), spread ? layout.slice_pitch : 19u * 4 * 7);
      void* pointer = nullptr;
      EXPECT_EQ(clGetMemObjectInfo(image, CL_MEM_HOST_PTR, sizeof pointer, &pointer, nullptr), CL_SUCCESS);
      EXPECT_EQ(pointer, flag == CL_MEM_USE_HOST_PTR ? host.data() : nullptr);
      if (flag == CL_MEM_USE_HOST_PTR) {
        // A map shows the program's own memory.
        const Extents origin = {2, 1, 1}, region = {5, 3, 2};
        const Bytes fresh = Pattern(Size(region, 4), 77);
        WriteImage(image, origin, region, fresh.data());
        size_t row = 0, slice = 0;
        auto* mapped = static_cast<unsigned char*>(clEnqueueMapImage(queue, image, CL_TRUE, CL_MAP_READ,
                                                                     origin.data(), region.data(), &row,
                                                                     &slice, 0, nullptr, nullptr, &error));
        ASSERT_EQ(error, CL_SUCCESS);
        EXPECT_EQ(row, spread ? layout.row_pitch : 19u * 4);
        EXPECT_EQ(mapped, host.data() + 2 * 4 + row + slice);
        EXPECT_EQ(Pack(mapped, region, 4, {row, slice}), fresh);
        EXPECT_EQ(clEnqueueUnmapMemObject(queue, image, mapped, 0, nullptr, nullptr), CL_SUCCESS);
        EXPECT_EQ(clFinish(queue), CL_SUCCESS);
      }
      clReleaseMemObject(image);
    }
  }
}

TEST_F(Images, MapOfWhatTheProgramMayOnlyWrite) {
  cl_mem hidden = Image2D(4, 4, kBytes4, CL_MEM_HOST_WRITE_ONLY), copy = Buffer(64);
  const Bytes whole = Pattern(64);
  const Extents none{}, all{4, 4, 1};
  WriteImage(hidden, none, all, whole.data());
  size_t row = 0;
  cl_int error = -1;
  void* mapped = clEnqueueMapImage(queue, hidden, CL_TRUE, CL_MAP_WRITE, none.data(), all.data(), &row,
                                   nullptr, 0, nullptr, nullptr, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  ASSERT_EQ(clEnqueueUnmapMemObject(queue, hidden, mapped, 0, nullptr, nullptr), CL_SUCCESS);
  ASSERT_EQ(clEnqueueCopyImageToBuffer(queue, hidden, copy, none.data(), all.data(), 0, 0, nullptr, nullptr),
            CL_SUCCESS);
  EXPECT_EQ(Read<unsigned char>(copy, 64), whole);
  clReleaseMemObject(copy);
  clReleaseMemObject(hidden);
}

TEST_F(Images, MapsReadWriteAndInvalidate) {
  for (const Kind& kind : kKinds) {
    SCOPED_TRACE(kind.name);
    if (kind.type == CL_MEM_OBJECT_IMAGE1D_BUFFER && !OnVGpu()) continue;  // PoCL gives no pitch
    cl_mem image = Image(kind);
    Bytes whole = Pattern(Size(kind.extents, 4));
    WriteImage(image, {}, kind.extents, whole.data());
    Extents origin{}, region = kind.extents;
    for (size_t i = 0; i < 3; ++i) {
      if (region[i] < 3) continue;
      origin[i] = 1;
      region[i] -= 2;
    }
    const Layout packed = PackedLayout(kind.extents, 4);
    unsigned char* const at = whole.data() + Offset(kind.extents, origin, 4);
    for (const cl_map_flags flags :
         {cl_map_flags{CL_MAP_READ | CL_MAP_WRITE}, cl_map_flags{CL_MAP_WRITE_INVALIDATE_REGION}}) {
      size_t row = 0, slice = 99;
      cl_int error = -1;
      auto* mapped = static_cast<unsigned char*>(clEnqueueMapImage(queue, image, CL_TRUE, flags,
                                                                   origin.data(), region.data(), &row, &slice,
                                                                   0, nullptr, nullptr, &error));
      ASSERT_EQ(error, CL_SUCCESS);
      EXPECT_EQ(row, ImageInfo(image, CL_IMAGE_ROW_PITCH));
      EXPECT_EQ(slice, ImageInfo(image, CL_IMAGE_SLICE_PITCH));
      const Layout layout = kind.type == CL_MEM_OBJECT_IMAGE1D_ARRAY ? Layout{slice, 0} : Layout{row, slice};
      if ((flags & CL_MAP_READ) != 0) {
        EXPECT_EQ(Pack(mapped, region, 4, layout), Pack(at, region, 4, packed));
      }
      cl_uint count = 0;
      EXPECT_EQ(clGetMemObjectInfo(image, CL_MEM_MAP_COUNT, sizeof count, &count, nullptr), CL_SUCCESS);
      // PoCL (3.1) may count what was unmapped for a moment longer.
      EXPECT_TRUE(count == 1 || (count == 2 && !OnVGpu())) << count;
      const Bytes fresh = Pattern(Size(region, 4), static_cast<unsigned>(flags) * 31);
      Unpack(fresh, region, 4, layout, mapped);
      ASSERT_EQ(clEnqueueUnmapMemObject(queue, image, mapped, 0, nullptr, nullptr), CL_SUCCESS);
      Unpack(fresh, region, 4, packed, at);
      EXPECT_EQ(ReadImage(image, {}, kind.extents), whole);
    }
    clReleaseMemObject(image);
  }
}

TEST_F(Images, CopyAndFill) {
  for (const Kind& kind : kKinds) {
    SCOPED_TRACE(kind.name);
    if (kind.type == CL_MEM_OBJECT_IMAGE1D_BUFFER && !OnVGpu()) continue;  // PoCL crashes
    cl_mem from = Image(kind), to = Image(kind);
    const Bytes whole = Pattern(Size(kind.extents, 4));
    WriteImage(from, {}, kind.extents, whole.data());
    Extents origin{}, region = kind.extents, corner{};
    for (size_t i = 0; i < 3; ++i) {
      if (region[i] < 3) continue;
      origin[i] = 1;
      region[i] -= 2;
    }
    const Layout packed = PackedLayout(kind.extents, 4);
    Bytes expected(whole.size());
    const cl_uint color[4] = {1, 2, 3, 255};
    const Extents first{};
    ASSERT_EQ(clEnqueueFillImage(queue, to, color, first.data(), kind.extents.data(), 0, nullptr, nullptr),
              CL_SUCCESS);
    for (size_t i = 0; i < expected.size(); ++i) expected[i] = static_cast<unsigned char>(color[i % 4]);
    ASSERT_EQ(
        clEnqueueCopyImage(queue, from, to, origin.data(), corner.data(), region.data(), 0, nullptr, nullptr),
        CL_SUCCESS);
    const Bytes part = Pack(whole.data() + Offset(kind.extents, origin, 4), region, 4, packed);
    Unpack(part, region, 4, packed, expected.data());
    EXPECT_EQ(ReadImage(to, {}, kind.extents), expected);

    cl_mem buffer = Buffer(part.size() + 64);
    ASSERT_EQ(clEnqueueCopyImageToBuffer(queue, from, buffer, origin.data(), region.data(), 16, 0, nullptr,
                                         nullptr),
              CL_SUCCESS);
    EXPECT_EQ(Read<unsigned char>(buffer, part.size(), 16), part);
    const Bytes fresh = Pattern(part.size(), 42);
    Write(buffer, fresh);
    ASSERT_EQ(
        clEnqueueCopyBufferToImage(queue, buffer, to, 0, origin.data(), region.data(), 0, nullptr, nullptr),
        CL_SUCCESS);
    Unpack(fresh, region, 4, packed, expected.data() + Offset(kind.extents, origin, 4));
    EXPECT_EQ(ReadImage(to, {}, kind.extents), expected);
    for (cl_mem memory : {from, to, buffer}) clReleaseMemObject(memory);
  }
}

TEST_F(Images, FillsConvertTheColor) {
  const cl_float reals[4] = {0.0F, 1.0F, 0.25F, 2.0F};
  const cl_float red[4] = {0.25F};
  cl_mem image = Image2D(4, 4, {CL_RGBA, CL_UNORM_INT8});
  const Extents origin = {1, 1, 0}, region = {2, 2, 1};
  ASSERT_EQ(clEnqueueFillImage(queue, image, reals, origin.data(), region.data(), 0, nullptr, nullptr),
            CL_SUCCESS);
  const Bytes back = ReadImage(image, {1, 1, 0}, {1, 1, 1});
  EXPECT_EQ(back[0], 0);
  EXPECT_EQ(back[1], 255);
  EXPECT_NEAR(back[2], 64, 1);
  EXPECT_EQ(back[3], 255);
  clReleaseMemObject(image);
  image = Image2D(4, 4, {CL_R, CL_FLOAT});
  ASSERT_EQ(clEnqueueFillImage(queue, image, red, origin.data(), region.data(), 0, nullptr, nullptr),
            CL_SUCCESS);
  cl_float value = 0;
  std::memcpy(&value, ReadImage(image, {2, 2, 0}, {1, 1, 1}).data(), sizeof value);
  EXPECT_EQ(value, 0.25F);
  clReleaseMemObject(image);
}

TEST_F(Images, ABufferSeesWhatItsImageHolds) {
  cl_mem buffer = Buffer(64 * 4);
  cl_image_desc desc = DescOf(CL_MEM_OBJECT_IMAGE1D_BUFFER, {64, 1, 1});
  desc.buffer = buffer;
  cl_int error = -1;
  cl_mem image = clCreateImage(context, CL_MEM_READ_WRITE, &kBytes4, &desc, nullptr, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  const Bytes whole = Pattern(256);
  Write(buffer, whole);
  EXPECT_EQ(ReadImage(image, {10, 0, 0}, {20, 1, 1}), Bytes(whole.begin() + 40, whole.begin() + 120));
  const Bytes fresh = Pattern(40, 9);
  WriteImage(image, {3, 0, 0}, {10, 1, 1}, fresh.data());
  EXPECT_EQ(Read<unsigned char>(buffer, 40, 12), fresh);
  // The image keeps the buffer.
  EXPECT_EQ(clReleaseMemObject(buffer), CL_SUCCESS);
  EXPECT_EQ(ReadImage(image, {3, 0, 0}, {10, 1, 1}), fresh);
  clReleaseMemObject(image);
}

TEST_F(Images, TwoDimensionsInABuffer) {
  if (DeviceText(CL_DEVICE_EXTENSIONS).find("cl_khr_image2d_from_buffer") == std::string::npos) {
    cl_image_desc desc = DescOf(CL_MEM_OBJECT_IMAGE2D, {4, 4, 1});
    desc.buffer = Buffer(256);
    cl_int error = 0;
    EXPECT_EQ(clCreateImage(context, CL_MEM_READ_WRITE, &kBytes4, &desc, nullptr, &error), nullptr);
    EXPECT_EQ(error, CL_INVALID_OPERATION);
    clReleaseMemObject(desc.buffer);
    return;
  }
  cl_mem buffer = Buffer(4096);
  const Bytes whole = Pattern(4096);
  Write(buffer, whole);
  cl_image_desc desc = DescOf(CL_MEM_OBJECT_IMAGE2D, {16, 8, 1});
  desc.buffer = buffer;
  desc.image_row_pitch = 256;
  cl_int error = -1;
  cl_mem image = clCreateImage(context, 0, &kBytes4, &desc, nullptr, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  EXPECT_EQ(ImageInfo(image, CL_IMAGE_ROW_PITCH), 256u);
  EXPECT_EQ(ReadImage(image, {2, 3, 0}, {5, 4, 1}), Pack(whole.data() + 3 * 256 + 8, {5, 4, 1}, 4, {256, 0}));
  const Bytes fresh = Pattern(20 * 4, 3);
  WriteImage(image, {1, 1, 0}, {5, 4, 1}, fresh.data());
  EXPECT_EQ(Pack(Read<unsigned char>(buffer, 4096).data() + 256 + 4, {5, 4, 1}, 4, {256, 0}), fresh);
  size_t row = 0;
  const Extents origin = {1, 1, 0}, region = {5, 4, 1};
  auto* mapped = static_cast<unsigned char*>(clEnqueueMapImage(queue, image, CL_TRUE, CL_MAP_READ,
                                                               origin.data(), region.data(), &row, nullptr, 0,
                                                               nullptr, nullptr, &error));
  ASSERT_EQ(error, CL_SUCCESS);
  EXPECT_EQ(row, 256u);
  EXPECT_EQ(Pack(mapped, region, 4, {row, 0}), fresh);
  EXPECT_EQ(clEnqueueUnmapMemObject(queue, image, mapped, 0, nullptr, nullptr), CL_SUCCESS);
  desc.image_width = 65;
  EXPECT_EQ(clCreateImage(context, 0, &kBytes4, &desc, nullptr, &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_IMAGE_DESCRIPTOR);
  clReleaseMemObject(image);
  clReleaseMemObject(buffer);
}

// One kernel for each type: target pixel = 255 - source pixel.
constexpr const char* kKernels =
    "#pragma OPENCL EXTENSION cl_khr_3d_image_writes : enable\n"
    "constant sampler_t near = CLK_NORMALIZED_COORDS_FALSE | CLK_ADDRESS_NONE | CLK_FILTER_NEAREST;\n"
    "#define X get_global_id(0)\n"
    "#define Y get_global_id(1)\n"
    "#define Z get_global_id(2)\n"
    "kernel void invert_1d(read_only image1d_t s, write_only image1d_t t) {\n"
    "  write_imageui(t, (int)X, 255 - read_imageui(s, near, (int)X)); }\n"
    "kernel void invert_1d_array(read_only image1d_array_t s, write_only image1d_array_t t) {\n"
    "  int2 at = (int2)(X, Y); write_imageui(t, at, 255 - read_imageui(s, near, at)); }\n"
    "kernel void invert_1d_buffer(read_only image1d_buffer_t s, write_only image1d_buffer_t t) {\n"
    "  write_imageui(t, (int)X, 255 - read_imageui(s, (int)X)); }\n"
    "kernel void invert_2d(read_only image2d_t s, write_only image2d_t t) {\n"
    "  int2 at = (int2)(X, Y); write_imageui(t, at, 255 - read_imageui(s, near, at)); }\n"
    "kernel void invert_2d_array(read_only image2d_array_t s, write_only image2d_array_t t) {\n"
    "  int4 at = (int4)(X, Y, Z, 0); write_imageui(t, at, 255 - read_imageui(s, near, at)); }\n"
    "kernel void invert_3d(read_only image3d_t s, write_only image3d_t t) {\n"
    "  int4 at = (int4)(X, Y, Z, 0); write_imageui(t, at, 255 - read_imageui(s, near, at)); }\n"
    "kernel void sizes(read_only image3d_t s, read_only image2d_array_t a, global int* out) {\n"
    "  out[0] = get_image_width(s); out[1] = get_image_height(s); out[2] = get_image_depth(s);\n"
    "  out[3] = get_image_width(a); out[4] = get_image_height(a); out[5] = (int)get_image_array_size(a);\n"
    "  out[6] = get_image_channel_order(s); out[7] = get_image_channel_data_type(s); }\n"
    "kernel void sample(read_only image2d_t s, sampler_t how, global const float2* at, global float4* out) "
    "{\n"
    "  out[X] = read_imagef(s, how, at[X]); }\n"
    "kernel void add(global uint* data, uint value) { data[X] += value; }\n";

TEST_F(Images, KernelsReadAndWriteEveryType) {
  if (!HasCompiler()) GTEST_SKIP() << "needs a compiler";
  cl_program program = Program(kKernels);
  const char* names[] = {"invert_1d", "invert_1d_array", "invert_1d_buffer",
                         "invert_2d", "invert_2d_array", "invert_3d"};
  const std::string extensions = DeviceText(CL_DEVICE_EXTENSIONS);
  for (size_t i = 0; i < std::size(kKinds); ++i) {
    const Kind& kind = kKinds[i];
    SCOPED_TRACE(kind.name);
    if (kind.type == CL_MEM_OBJECT_IMAGE3D && extensions.find("cl_khr_3d_image_writes") == std::string::npos)
      continue;
    cl_mem from = Image(kind, kBytes4, 4, CL_MEM_READ_WRITE), to = Image(kind);
    Bytes whole = Pattern(Size(kind.extents, 4));
    WriteImage(from, {}, kind.extents, whole.data());
    cl_kernel kernel = Kernel(program, names[i]);
    EXPECT_EQ(clSetKernelArg(kernel, 0, sizeof from, &from), CL_SUCCESS);
    EXPECT_EQ(clSetKernelArg(kernel, 1, sizeof to, &to), CL_SUCCESS);
    ASSERT_EQ(
        clEnqueueNDRangeKernel(queue, kernel, 3, nullptr, kind.extents.data(), nullptr, 0, nullptr, nullptr),
        CL_SUCCESS);
    for (unsigned char& byte : whole) byte = static_cast<unsigned char>(255 - byte);
    EXPECT_EQ(ReadImage(to, {}, kind.extents), whole);
    clReleaseKernel(kernel);
    clReleaseMemObject(from);
    clReleaseMemObject(to);
  }
  clReleaseProgram(program);
}

TEST_F(Images, KernelsKnowTheirSizes) {
  if (!HasCompiler()) GTEST_SKIP() << "needs a compiler";
  cl_program program = Program(kKernels);
  cl_kernel kernel = Kernel(program, "sizes");
  cl_mem volume = Image({"3D", CL_MEM_OBJECT_IMAGE3D, {5, 6, 7}});
  cl_mem array = Image({"array", CL_MEM_OBJECT_IMAGE2D_ARRAY, {8, 9, 3}});
  cl_mem out = Buffer(32);
  EXPECT_EQ(clSetKernelArg(kernel, 0, sizeof volume, &volume), CL_SUCCESS);
  EXPECT_EQ(clSetKernelArg(kernel, 1, sizeof array, &array), CL_SUCCESS);
  EXPECT_EQ(clSetKernelArg(kernel, 2, sizeof out, &out), CL_SUCCESS);
  ASSERT_EQ(clEnqueueTask(queue, kernel, 0, nullptr, nullptr), CL_SUCCESS);
  EXPECT_EQ(Read<cl_int>(out, 8), (std::vector<cl_int>{5, 6, 7, 8, 9, 3, CL_RGBA, CL_UNSIGNED_INT8}));
  for (cl_mem memory : {volume, array, out}) clReleaseMemObject(memory);
  clReleaseKernel(kernel);
  clReleaseProgram(program);
}

class Samplers : public Images {};

// Every mode on one row of four pixels: what it reads at some places.
TEST_F(Samplers, ReadAsTheyAreMade) {
  if (!HasCompiler()) GTEST_SKIP() << "needs a compiler";
  const cl_image_format format = {CL_RGBA, CL_FLOAT};
  const Kind kind{"2D", CL_MEM_OBJECT_IMAGE2D, {4, 1, 1}};
  cl_mem image = Image(kind, format, 16);
  std::vector<cl_float> pixels;
  for (int i = 0; i < 4; ++i) pixels.insert(pixels.end(), {10.0F + i * 10, 0.0F, 0.0F, 1.0F});
  WriteImage(image, {}, kind.extents, pixels.data());
  cl_program program = Program(kKernels);
  cl_kernel kernel = Kernel(program, "sample");
  // x in pixels; y in the middle of the only row. Nearest, linear.
  struct Case {
    cl_bool normalized;
    cl_addressing_mode addressing;
    std::vector<std::array<float, 3>> reads;
  };
  const Case cases[] = {
      {CL_FALSE, CL_ADDRESS_CLAMP_TO_EDGE, {{1.5F, 20, 20}, {-3.0F, 10, 10}, {9.0F, 40, 40}, {2.0F, 30, 25}}},
      {CL_FALSE, CL_ADDRESS_CLAMP, {{1.5F, 20, 20}, {-3.0F, 0, 0}, {9.0F, 0, 0}, {2.0F, 30, 25}}},
      {CL_TRUE, CL_ADDRESS_CLAMP_TO_EDGE, {{1.5F, 20, 20}, {-3.0F, 10, 10}, {2.0F, 30, 25}}},
      {CL_TRUE, CL_ADDRESS_REPEAT, {{1.5F, 20, 20}, {5.5F, 20, 20}, {-1.5F, 30, 30}, {4.0F, 10, 25}}},
      {CL_TRUE, CL_ADDRESS_MIRRORED_REPEAT, {{1.5F, 20, 20}, {5.5F, 30, 30}, {-1.5F, 20, 20}}},
  };
  for (const Case& c : cases) {
    for (const cl_filter_mode filter : {CL_FILTER_NEAREST, CL_FILTER_LINEAR}) {
      SCOPED_TRACE(testing::Message() << "normalized " << c.normalized << " addressing " << std::hex
                                      << c.addressing << " filter " << filter);
      cl_sampler sampler = Sampler(c.normalized, c.addressing, filter);
      std::vector<cl_float> places;
      for (const auto& read : c.reads) {
        places.push_back(c.normalized == CL_TRUE ? read[0] / 4 : read[0]);
        places.push_back(0.5F);
      }
      cl_mem at = Buffer(places.size() * 4), out = Buffer(c.reads.size() * 16);
      Write(at, places);
      EXPECT_EQ(clSetKernelArg(kernel, 0, sizeof image, &image), CL_SUCCESS);
      EXPECT_EQ(clSetKernelArg(kernel, 1, sizeof sampler, &sampler), CL_SUCCESS);
      EXPECT_EQ(clSetKernelArg(kernel, 2, sizeof at, &at), CL_SUCCESS);
      EXPECT_EQ(clSetKernelArg(kernel, 3, sizeof out, &out), CL_SUCCESS);
      const size_t count = c.reads.size();
      ASSERT_EQ(clEnqueueNDRangeKernel(queue, kernel, 1, nullptr, &count, nullptr, 0, nullptr, nullptr),
                CL_SUCCESS);
      const auto back = Read<cl_float>(out, count * 4);
      for (size_t i = 0; i < count; ++i)
        EXPECT_NEAR(back[i * 4], c.reads[i][filter == CL_FILTER_LINEAR ? 2 : 1], 0.01) << c.reads[i][0];
      clReleaseMemObject(at);
      clReleaseMemObject(out);
      EXPECT_EQ(clReleaseSampler(sampler), CL_SUCCESS);
    }
  }
  clReleaseKernel(kernel);
  clReleaseProgram(program);
  clReleaseMemObject(image);
}

TEST_F(Samplers, SayWhatTheyAre) {
  cl_int error = -1;
  cl_sampler sampler = Sampler(CL_TRUE, CL_ADDRESS_REPEAT, CL_FILTER_LINEAR);
  const auto info = [](cl_sampler of, cl_sampler_info name) {
    cl_uint value = 12345;
    EXPECT_EQ(clGetSamplerInfo(of, name, sizeof value, &value, nullptr), CL_SUCCESS);
    return value;
  };
  EXPECT_EQ(info(sampler, CL_SAMPLER_NORMALIZED_COORDS), cl_uint{CL_TRUE});
  EXPECT_EQ(info(sampler, CL_SAMPLER_ADDRESSING_MODE), cl_uint{CL_ADDRESS_REPEAT});
  EXPECT_EQ(info(sampler, CL_SAMPLER_FILTER_MODE), cl_uint{CL_FILTER_LINEAR});
  EXPECT_EQ(info(sampler, CL_SAMPLER_REFERENCE_COUNT), 1u);
  EXPECT_EQ(clRetainSampler(sampler), CL_SUCCESS);
  EXPECT_EQ(info(sampler, CL_SAMPLER_REFERENCE_COUNT), 2u);
  EXPECT_EQ(clReleaseSampler(sampler), CL_SUCCESS);
  cl_context of = nullptr;
  EXPECT_EQ(clGetSamplerInfo(sampler, CL_SAMPLER_CONTEXT, sizeof of, &of, nullptr), CL_SUCCESS);
  EXPECT_EQ(of, context);
  EXPECT_EQ(clGetSamplerInfo(sampler, 0, 0, nullptr, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(clReleaseSampler(sampler), CL_SUCCESS);

  const cl_sampler_properties properties[] = {CL_SAMPLER_NORMALIZED_COORDS, CL_FALSE, CL_SAMPLER_FILTER_MODE,
                                              CL_FILTER_LINEAR, 0};
  sampler = clCreateSamplerWithProperties(context, properties, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  EXPECT_EQ(info(sampler, CL_SAMPLER_NORMALIZED_COORDS), cl_uint{CL_FALSE});
  EXPECT_EQ(info(sampler, CL_SAMPLER_ADDRESSING_MODE), cl_uint{CL_ADDRESS_CLAMP});
  cl_sampler_properties list[8] = {};
  size_t size = 0;
  EXPECT_EQ(clGetSamplerInfo(sampler, CL_SAMPLER_PROPERTIES, sizeof list, list, &size), CL_SUCCESS);
  EXPECT_EQ(size, sizeof properties);
  EXPECT_TRUE(std::equal(std::begin(properties), std::end(properties), list));
  EXPECT_EQ(clReleaseSampler(sampler), CL_SUCCESS);
}

TEST_F(Samplers, AreRefusedWithTheRightCode) {
  cl_int error = 0;
  EXPECT_EQ(clCreateSampler(nullptr, CL_TRUE, CL_ADDRESS_CLAMP, CL_FILTER_NEAREST, &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_CONTEXT);
  EXPECT_EQ(clCreateSampler(context, CL_FALSE, CL_ADDRESS_REPEAT, CL_FILTER_NEAREST, &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_VALUE);
  EXPECT_EQ(clCreateSampler(context, 2, CL_ADDRESS_CLAMP, CL_FILTER_NEAREST, &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_VALUE);
  const cl_sampler_properties twice[] = {CL_SAMPLER_NORMALIZED_COORDS, CL_FALSE, CL_SAMPLER_NORMALIZED_COORDS,
                                         CL_FALSE, 0};
  EXPECT_EQ(clCreateSamplerWithProperties(context, twice, &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_VALUE);
  const cl_sampler_properties strange[] = {1234, 0, 0};
  EXPECT_EQ(clCreateSamplerWithProperties(context, strange, &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_VALUE);
  if (OnVGpu()) {  // PoCL looks at neither
    EXPECT_EQ(clCreateSampler(context, CL_TRUE, 7, CL_FILTER_NEAREST, &error), nullptr);
    EXPECT_EQ(error, CL_INVALID_VALUE);
    EXPECT_EQ(clCreateSampler(context, CL_TRUE, CL_ADDRESS_CLAMP, 7, &error), nullptr);
    EXPECT_EQ(error, CL_INVALID_VALUE);
  }
}

TEST_F(Images, AreRefusedWithTheRightCode) {
  cl_int error = 0;
  Bytes host(4096);
  const auto expect = [&](const cl_image_format* format, const cl_image_desc* desc, void* pointer,
                          cl_mem_flags flags, cl_int code) {
    EXPECT_EQ(clCreateImage(context, flags, format, desc, pointer, &error), nullptr);
    ExpectRefused(error, code);
  };
  const cl_image_desc good = DescOf(CL_MEM_OBJECT_IMAGE2D, {8, 8, 1});
  EXPECT_EQ(clCreateImage(nullptr, 0, &kBytes4, &good, nullptr, &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_CONTEXT);
  expect(nullptr, &good, nullptr, 0, CL_INVALID_IMAGE_FORMAT_DESCRIPTOR);
  expect(&kBytes4, nullptr, nullptr, 0, CL_INVALID_IMAGE_DESCRIPTOR);
  expect(&kBytes4, &good, nullptr, CL_MEM_READ_ONLY | CL_MEM_WRITE_ONLY, CL_INVALID_VALUE);
  expect(&kBytes4, &good, nullptr, CL_MEM_COPY_HOST_PTR, CL_INVALID_HOST_PTR);
  expect(&kBytes4, &good, host.data(), CL_MEM_READ_WRITE, CL_INVALID_HOST_PTR);
  const cl_image_format strange = {1, 2}, packed_only = {CL_RGB, CL_FLOAT}, rare = {CL_RGx, CL_FLOAT};
  expect(&strange, &good, nullptr, 0, CL_INVALID_IMAGE_FORMAT_DESCRIPTOR);
  expect(&packed_only, &good, nullptr, 0, CL_INVALID_IMAGE_FORMAT_DESCRIPTOR);
  expect(&rare, &good, nullptr, 0, CL_IMAGE_FORMAT_NOT_SUPPORTED);

  cl_image_desc desc = good;
  desc.image_type = CL_MEM_OBJECT_BUFFER;
  expect(&kBytes4, &desc, nullptr, 0, CL_INVALID_IMAGE_DESCRIPTOR);
  desc = good;
  desc.image_width = 0;
  expect(&kBytes4, &desc, nullptr, 0, CL_INVALID_IMAGE_DESCRIPTOR);
  desc = good;
  desc.image_width = DeviceInfo<size_t>(CL_DEVICE_IMAGE2D_MAX_WIDTH) + 1;
  expect(&kBytes4, &desc, nullptr, 0, CL_INVALID_IMAGE_SIZE);
  desc = DescOf(CL_MEM_OBJECT_IMAGE3D, {~size_t{0}, ~size_t{0}, ~size_t{0}});
  expect(&kBytes4, &desc, nullptr, 0, CL_INVALID_IMAGE_SIZE);
  desc = DescOf(CL_MEM_OBJECT_IMAGE1D_BUFFER, {8, 1, 1});
  expect(&kBytes4, &desc, nullptr, 0, CL_INVALID_IMAGE_DESCRIPTOR);
  desc.buffer = Buffer(16);
  expect(&kBytes4, &desc, nullptr, 0, CL_INVALID_IMAGE_DESCRIPTOR);
  clReleaseMemObject(desc.buffer);
  desc = good;
  desc.image_row_pitch = 35;
  expect(&kBytes4, &desc, host.data(), CL_MEM_COPY_HOST_PTR, CL_INVALID_IMAGE_DESCRIPTOR);
  if (OnVGpu()) {  // PoCL reads beyond, or takes them as they are
    desc.image_row_pitch = 28;
    expect(&kBytes4, &desc, host.data(), CL_MEM_COPY_HOST_PTR, CL_INVALID_IMAGE_DESCRIPTOR);
    desc.image_row_pitch = 64;
    expect(&kBytes4, &desc, nullptr, 0, CL_INVALID_IMAGE_DESCRIPTOR);
    desc = good;
    desc.num_mip_levels = 1;
    expect(&kBytes4, &desc, nullptr, 0, CL_INVALID_IMAGE_DESCRIPTOR);
  }
  const cl_mem_properties properties[] = {1, 2, 0};
  EXPECT_EQ(clCreateImageWithProperties(context, properties, 0, &kBytes4, &good, nullptr, &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_PROPERTY);
  EXPECT_EQ(clCreateImage2D(context, 0, &kBytes4, 0, 8, 0, nullptr, &error), nullptr);
  ExpectRefused(error, CL_INVALID_IMAGE_SIZE);
}

TEST_F(Images, OldCallsMakeThem) {
  cl_int error = -1;
  Bytes host = Pattern(8 * 4 * 6 * 2);
  cl_mem flat = clCreateImage2D(context, CL_MEM_COPY_HOST_PTR, &kBytes4, 8, 6, 0, host.data(), &error);
  ASSERT_EQ(error, CL_SUCCESS);
  EXPECT_EQ(ReadImage(flat, {}, {8, 6, 1}), Bytes(host.begin(), host.begin() + 8 * 4 * 6));
  cl_mem deep = clCreateImage3D(context, CL_MEM_COPY_HOST_PTR, &kBytes4, 8, 6, 2, 0, 0, host.data(), &error);
  ASSERT_EQ(error, CL_SUCCESS);
  EXPECT_EQ(ReadImage(deep, {}, {8, 6, 2}), host);
  const cl_mem_properties none[] = {0};
  const cl_image_desc desc = DescOf(CL_MEM_OBJECT_IMAGE2D, {8, 8, 1});
  cl_mem listed = clCreateImageWithProperties(context, none, 0, &kBytes4, &desc, nullptr, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  for (cl_mem image : {flat, deep, listed}) clReleaseMemObject(image);
}

TEST_F(Images, CommandsAreCheckedBeforeTheyLeave) {
  cl_mem image = Image2D(8, 8), volume = Image({"3D", CL_MEM_OBJECT_IMAGE3D, {8, 8, 8}});
  cl_mem other = Image2D(8, 8, {CL_RGBA, CL_SIGNED_INT8}), buffer = Buffer(256);
  Bytes data(4096);
  const auto read = [&](cl_mem from, const Extents& origin, const Extents& region, size_t row = 0,
                        size_t slice = 0) {
    return clEnqueueReadImage(queue, from, CL_TRUE, origin.data(), region.data(), row, slice, data.data(), 0,
                              nullptr, nullptr);
  };
  const auto write = [&](cl_mem to, const Extents& origin, const Extents& region, size_t row = 0,
                         size_t slice = 0) {
    return clEnqueueWriteImage(queue, to, CL_TRUE, origin.data(), region.data(), row, slice, data.data(), 0,
                               nullptr, nullptr);
  };
  for (const auto& call : {std::function(read), std::function(write)}) {
    EXPECT_EQ(call(image, {}, {8, 8, 1}, 0, 0), CL_SUCCESS);
    EXPECT_EQ(call(image, {}, {9, 8, 1}, 0, 0), CL_INVALID_VALUE);
    EXPECT_EQ(call(image, {1, 0, 0}, {8, 8, 1}, 0, 0), CL_INVALID_VALUE);
    EXPECT_EQ(call(image, {8, 0, 0}, {1, 1, 1}, 0, 0), CL_INVALID_VALUE);
    EXPECT_EQ(call(image, {0, 0, 1}, {1, 1, 1}, 0, 0), CL_INVALID_VALUE);
    EXPECT_EQ(call(volume, {}, {8, 8, 9}, 0, 0), CL_INVALID_VALUE);
    ExpectRefused(call(image, {}, {8, 8, 0}, 0, 0), CL_INVALID_VALUE);
    if (OnVGpu()) {  // PoCL does them, and writes where nothing is
      EXPECT_EQ(call(image, {~size_t{0}, 0, 0}, {2, 1, 1}, 0, 0), CL_INVALID_VALUE);
      EXPECT_EQ(call(image, {}, {8, 8, 1}, 31, 0), CL_INVALID_VALUE);
      EXPECT_EQ(call(image, {}, {8, 8, 1}, 0, 256), CL_INVALID_VALUE);
      EXPECT_EQ(call(volume, {}, {8, 8, 2}, 32, 255), CL_INVALID_VALUE);
    }
    EXPECT_EQ(call(buffer, {}, {8, 8, 1}, 0, 0), CL_INVALID_MEM_OBJECT);
    EXPECT_EQ(call(nullptr, {}, {8, 8, 1}, 0, 0), CL_INVALID_MEM_OBJECT);
  }
  const Extents none{}, one = {1, 1, 1}, all = {8, 8, 1}, near = {2, 2, 0}, four = {4, 4, 1};
  EXPECT_EQ(
      clEnqueueReadImage(queue, image, CL_TRUE, none.data(), all.data(), 0, 0, nullptr, 0, nullptr, nullptr),
      CL_INVALID_VALUE);
  const auto copy = [&](cl_mem from, cl_mem to, const Extents& source, const Extents& target,
                        const Extents& region) {
    return clEnqueueCopyImage(queue, from, to, source.data(), target.data(), region.data(), 0, nullptr,
                              nullptr);
  };
  EXPECT_EQ(copy(image, other, none, none, one), CL_IMAGE_FORMAT_MISMATCH);
  EXPECT_EQ(copy(image, image, none, near, four), CL_MEM_COPY_OVERLAP);
  EXPECT_EQ(copy(image, image, none, {4, 0, 0}, four), CL_SUCCESS);
  EXPECT_EQ(copy(image, volume, none, {0, 0, 5}, four), CL_SUCCESS);
  EXPECT_EQ(copy(image, volume, none, {0, 0, 8}, four), CL_INVALID_VALUE);
  EXPECT_EQ(copy(buffer, image, none, none, one), CL_INVALID_MEM_OBJECT);
  EXPECT_EQ(clEnqueueCopyBuffer(queue, buffer, image, 0, 0, 16, 0, nullptr, nullptr), CL_INVALID_MEM_OBJECT);
  EXPECT_EQ(clEnqueueCopyImageToBuffer(queue, image, buffer, none.data(), all.data(), 1, 0, nullptr, nullptr),
            CL_INVALID_VALUE);
  EXPECT_EQ(clEnqueueCopyBufferToImage(queue, buffer, image, 1, none.data(), all.data(), 0, nullptr, nullptr),
            CL_INVALID_VALUE);
  const cl_uint color[4] = {};
  EXPECT_EQ(clEnqueueFillImage(queue, image, nullptr, none.data(), all.data(), 0, nullptr, nullptr),
            CL_INVALID_VALUE);
  EXPECT_EQ(clEnqueueFillImage(queue, image, color, near.data(), all.data(), 0, nullptr, nullptr),
            CL_INVALID_VALUE);
  cl_int error = 0;
  size_t row = 0;
  EXPECT_EQ(clEnqueueMapImage(queue, image, CL_TRUE, CL_MAP_READ, near.data(), all.data(), &row, nullptr, 0,
                              nullptr, nullptr, &error),
            nullptr);
  EXPECT_EQ(error, CL_INVALID_VALUE);
  EXPECT_EQ(clEnqueueMapImage(queue, image, CL_TRUE, CL_MAP_READ, none.data(), all.data(), nullptr, nullptr,
                              0, nullptr, nullptr, &error),
            nullptr);
  EXPECT_EQ(error, CL_INVALID_VALUE);
  cl_mem hidden = Image2D(8, 8, kBytes4, CL_MEM_HOST_NO_ACCESS);
  EXPECT_EQ(read(hidden, none, all), CL_INVALID_OPERATION);
  EXPECT_EQ(write(hidden, none, all), CL_INVALID_OPERATION);
  for (cl_mem memory : {image, volume, other, buffer, hidden}) clReleaseMemObject(memory);
}

TEST_F(Images, MapsForWritingMustNotOverlap) {
  if (!OnVGpu()) GTEST_SKIP() << "PoCL 3.1 does not look";
  cl_mem image = Image2D(8, 8);
  cl_int error = -1;
  const auto map = [&](cl_map_flags flags, Extents origin, Extents region) {
    size_t row = 0;
    return clEnqueueMapImage(queue, image, CL_TRUE, flags, origin.data(), region.data(), &row, nullptr, 0,
                             nullptr, nullptr, &error);
  };
  void* first = map(CL_MAP_WRITE, {0, 0, 0}, {4, 4, 1});
  ASSERT_EQ(error, CL_SUCCESS);
  EXPECT_EQ(map(CL_MAP_WRITE, {3, 3, 0}, {4, 4, 1}), nullptr);
  EXPECT_EQ(error, CL_INVALID_OPERATION);
  // Between its rows are pixels that are not mapped.
  void* second = map(CL_MAP_WRITE, {4, 0, 0}, {4, 4, 1});
  EXPECT_EQ(error, CL_SUCCESS);
  void* read = map(CL_MAP_READ, {0, 0, 0}, {8, 8, 1});
  EXPECT_EQ(error, CL_SUCCESS);
  for (void* mapped : {first, second, read})
    EXPECT_EQ(clEnqueueUnmapMemObject(queue, image, mapped, 0, nullptr, nullptr), CL_SUCCESS);
  clReleaseMemObject(image);
}

TEST_F(Images, ArgumentsMustBeOfTheKernelsKind) {
  if (!HasCompiler()) GTEST_SKIP() << "needs a compiler";
  cl_program program = Program(kKernels);
  cl_kernel invert = Kernel(program, "invert_2d"), sample = Kernel(program, "sample");
  cl_mem image = Image2D(4, 4);
  cl_sampler sampler = Sampler(CL_TRUE, CL_ADDRESS_CLAMP, CL_FILTER_NEAREST);
  EXPECT_EQ(clSetKernelArg(invert, 0, 4, &image), CL_INVALID_ARG_SIZE);
  // PoCL 3.1 has codes of its own.
  EXPECT_EQ(clSetKernelArg(invert, 0, sizeof image, nullptr),
            OnVGpu() ? CL_INVALID_MEM_OBJECT : CL_INVALID_ARG_VALUE);
  EXPECT_EQ(clSetKernelArg(sample, 1, 4, &sampler), CL_INVALID_ARG_SIZE);
  EXPECT_EQ(clSetKernelArg(sample, 1, sizeof sampler, nullptr),
            OnVGpu() ? CL_INVALID_SAMPLER : CL_INVALID_ARG_VALUE);
  cl_kernel clone = nullptr;
  if (OnVGpu()) {  // PoCL takes anything
    cl_int error = -1;
    cl_mem buffer = Buffer(64), volume = Image({"3D", CL_MEM_OBJECT_IMAGE3D, {4, 4, 4}});
    cl_mem write_only = Image2D(4, 4, kBytes4, CL_MEM_WRITE_ONLY);
    cl_mem read_only = Image2D(4, 4, kBytes4, CL_MEM_READ_ONLY);
    cl_mem none = nullptr;
    EXPECT_EQ(clSetKernelArg(invert, 0, sizeof buffer, &buffer), CL_INVALID_MEM_OBJECT);
    EXPECT_EQ(clSetKernelArg(invert, 0, sizeof volume, &volume), CL_INVALID_MEM_OBJECT);
    EXPECT_EQ(clSetKernelArg(invert, 0, sizeof write_only, &write_only), CL_INVALID_ARG_VALUE);
    EXPECT_EQ(clSetKernelArg(invert, 1, sizeof read_only, &read_only), CL_INVALID_ARG_VALUE);
    EXPECT_EQ(clSetKernelArg(invert, 0, sizeof none, &none), CL_INVALID_MEM_OBJECT);
    EXPECT_EQ(clSetKernelArg(sample, 1, sizeof image, &image), CL_INVALID_SAMPLER);
    EXPECT_EQ(clSetKernelArg(sample, 0, sizeof sampler, &sampler), CL_INVALID_MEM_OBJECT);
    EXPECT_EQ(clSetKernelArg(sample, 2, sizeof image, &image), CL_INVALID_MEM_OBJECT);
    for (cl_mem memory : {buffer, volume, write_only, read_only}) clReleaseMemObject(memory);
    // A clone has them, too.
    EXPECT_EQ(clSetKernelArg(sample, 0, sizeof image, &image), CL_SUCCESS);
    EXPECT_EQ(clSetKernelArg(sample, 1, sizeof sampler, &sampler), CL_SUCCESS);
    clone = clCloneKernel(sample, &error);
    EXPECT_EQ(error, CL_SUCCESS);
  }
  EXPECT_EQ(clReleaseSampler(sampler), CL_SUCCESS);
  clReleaseMemObject(image);
  if (clone != nullptr) clReleaseKernel(clone);
  clReleaseKernel(invert);
  clReleaseKernel(sample);
  clReleaseProgram(program);
}

TEST_F(Images, TakeOfTheDevicesMemoryAndGiveItBack) {
  // Far more than there is, one after the other.
  const cl_image_format format = {CL_RGBA, CL_FLOAT};
  for (int i = 0; i < 100; ++i) {
    cl_mem image = Image({"2D", CL_MEM_OBJECT_IMAGE2D, {1024, 1024, 1}}, format, 16);
    const Bytes pixel = Pattern(16);
    WriteImage(image, {1023, 1023, 0}, {1, 1, 1}, pixel.data());
    EXPECT_EQ(ReadImage(image, {1023, 1023, 0}, {1, 1, 1}, 16), pixel);
    EXPECT_EQ(clReleaseMemObject(image), CL_SUCCESS);
  }
}

}  // namespace
}  // namespace battery
