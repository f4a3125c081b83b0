#include "tulle/shim/opencl/image.h"

#include <algorithm>

#include "tulle/shim/opencl/entry_points.h"
#include "tulle/shim/opencl/transfer.h"

namespace tulle::shim::opencl {
namespace {

using wire::opencl::ImageType;

bool TypeOf(cl_mem_object_type object_type, ImageType* type) {
  *type = static_cast<ImageType>(object_type - wire::opencl::kImageTypeBase);
  return object_type > wire::opencl::kImageTypeBase && object_type <= CL_MEM_OBJECT_IMAGE1D_BUFFER;
}

wire::Vec3 ExtentsOf(ImageType type, const cl_image_desc& desc) {
  switch (type) {
    case ImageType::k2D: return {desc.image_width, desc.image_height, 1};
    case ImageType::k3D: return {desc.image_width, desc.image_height, desc.image_depth};
    case ImageType::k2DArray: return {desc.image_width, desc.image_height, desc.image_array_size};
    case ImageType::k1DArray: return {desc.image_width, desc.image_array_size, 1};
    case ImageType::k1D:
    case ImageType::k1DBuffer: return {desc.image_width, 1, 1};
  }
  return {};
}

// Fills in the pitches of a box in the program's memory, 0 being as tight as can be. False when rows or
// layers would run into each other, or 64 bits are too few for `total`, the bytes from the first to behind
// the last.
bool FillPitches(const Image& image, const wire::Vec3& region, std::size_t* row_pitch,
                 std::size_t* slice_pitch, std::size_t* total) {
  const std::size_t row = image.pixel_bytes * region[0];
  if (*row_pitch == 0) *row_pitch = row;
  if (*row_pitch < row) return false;
  if (!image.has_slices()) return *slice_pitch == 0 && !__builtin_mul_overflow(*row_pitch, region[1], total);
  const bool layers_of_rows = image.type != ImageType::k1DArray;
  std::size_t slice = 0;
  if (__builtin_mul_overflow(*row_pitch, layers_of_rows ? region[1] : 1, &slice)) return false;
  if (*slice_pitch == 0) *slice_pitch = slice;
  return *slice_pitch >= slice &&
         !__builtin_mul_overflow(*slice_pitch, layers_of_rows ? region[2] : region[1], total);
}

// The buffer of an image that has one: checked, with what the image takes over from it.
cl_int CheckBuffer(const Context& context, const Image& image, const cl_image_desc& desc, Memory** buffer,
                   cl_mem_flags* flags) {
  *buffer = BufferFromHandle(desc.buffer);
  const Device& device = context.device();
  if (*buffer == nullptr) return CL_INVALID_IMAGE_DESCRIPTOR;
  if (image.type == ImageType::k2D && !device.has_images_in_buffers()) return CL_INVALID_OPERATION;
  if (&(*buffer)->context() != &context) return CL_INVALID_CONTEXT;
  if (!InheritFlags(**buffer, flags)) return CL_INVALID_VALUE;
  if (image.type == ImageType::k2D) {
    const cl_uint pitch_pixels = device.Info<cl_uint>(CL_DEVICE_IMAGE_PITCH_ALIGNMENT);
    const cl_uint base_pixels = device.Info<cl_uint>(CL_DEVICE_IMAGE_BASE_ADDRESS_ALIGNMENT);
    if ((pitch_pixels > 1 && image.row_pitch % (pitch_pixels * image.pixel_bytes) != 0) ||
        (base_pixels > 1 && (*buffer)->root_origin() % (base_pixels * image.pixel_bytes) != 0)) {
      return CL_INVALID_IMAGE_FORMAT_DESCRIPTOR;
    }
  }
  return CL_SUCCESS;
}

// What is wrong with an image before the device or the program's memory come into it.
cl_int Describe(const Device& device, const cl_image_format* format, const cl_image_desc* desc,
                bool has_pitches, Image* image, std::size_t* size) {
  if (format == nullptr) return CL_INVALID_IMAGE_FORMAT_DESCRIPTOR;
  if (desc == nullptr || !TypeOf(desc->image_type, &image->type)) return CL_INVALID_IMAGE_DESCRIPTOR;
  image->format = *format;
  image->pixel_bytes =
      wire::opencl::PixelBytes({format->image_channel_order, format->image_channel_data_type});
  if (image->pixel_bytes == 0) return CL_INVALID_IMAGE_FORMAT_DESCRIPTOR;
  image->extents = ExtentsOf(image->type, *desc);
  if (std::ranges::count(image->extents, 0) != 0 || desc->num_mip_levels != 0 || desc->num_samples != 0)
    return CL_INVALID_IMAGE_DESCRIPTOR;
  if (!wire::opencl::BoxContains(device.limits().images.Most(image->type), {}, image->extents))
    return CL_INVALID_IMAGE_SIZE;
  const bool in_buffer = desc->buffer != nullptr;
  if (in_buffer ? image->type != ImageType::k1DBuffer && image->type != ImageType::k2D
                : image->type == ImageType::k1DBuffer) {
    return CL_INVALID_IMAGE_DESCRIPTOR;
  }
  image->row_pitch = desc->image_row_pitch;
  image->slice_pitch = desc->image_slice_pitch;
  if (!has_pitches && !in_buffer && (image->row_pitch != 0 || image->slice_pitch != 0))
    return CL_INVALID_IMAGE_DESCRIPTOR;
  // Programs leave what does not matter there.
  if (!image->has_slices()) image->slice_pitch = 0;
  if (image->row_pitch % image->pixel_bytes != 0 ||
      !FillPitches(*image, image->extents, &image->row_pitch, &image->slice_pitch, size) ||
      (image->has_slices() && image->slice_pitch % image->row_pitch != 0)) {
    return CL_INVALID_IMAGE_DESCRIPTOR;
  }
  return CL_SUCCESS;
}

wire::opencl::ImageAccess AccessOf(cl_mem_flags flags) {
  if ((flags & CL_MEM_WRITE_ONLY) != 0) return wire::opencl::ImageAccess::kWriteOnly;
  return (flags & CL_MEM_READ_ONLY) != 0 ? wire::opencl::ImageAccess::kReadOnly
                                         : wire::opencl::ImageAccess::kReadWrite;
}

// CutBox in pixels.
std::vector<BoxPiece> CutPixels(const wire::Vec3& region, std::size_t pixel_bytes) {
  std::vector<BoxPiece> pieces = CutBox({region[0] * pixel_bytes, region[1], region[2]}, pixel_bytes);
  for (auto& [origin, extents] : pieces) {
    origin[0] /= pixel_bytes;
    extents[0] /= pixel_bytes;
  }
  return pieces;
}

// Sends the contents that the program gave at creation.
bool SendContents(Connection& connection, const Memory& memory, std::byte* whole) {
  const Image& image = *memory.image();
  ByteVector packed;
  for (const auto& [origin, region] : CutPixels(image.extents, image.pixel_bytes)) {
    const HostBox box = image.BoxIn(whole, origin, region);
    ByteView data(box.bytes, box.packed_size());
    if (!box.packed()) {
      packed.resize(box.packed_size());
      box.CopyTo(packed.data());
      data = packed;
    }
    Attached attached;
    attached.payload = std::span(&data, 1);
    if (!connection.Submit(wire::opencl::InitImage{memory.wire(), origin, region, {data.size()}}, attached))
      return false;
  }
  return true;
}

cl_mem MakeImage(cl_context context_handle, std::vector<cl_mem_properties> properties, cl_mem_flags flags,
                 const cl_image_format* format, const cl_image_desc* desc, void* host_pointer,
                 cl_int* error) {
  Context* context = FromHandle<Context>(context_handle);
  if (context == nullptr) return Fail(error, CL_INVALID_CONTEXT);
  Device& device = context->device();
  if (!device.has_images()) return Fail(error, CL_INVALID_OPERATION);
  if (!ValidFlags(flags)) return Fail(error, CL_INVALID_VALUE);
  auto image = std::make_unique<Image>();
  std::size_t size = 0;
  if (const cl_int status = Describe(device, format, desc, host_pointer != nullptr, image.get(), &size);
      status != CL_SUCCESS) {
    return Fail(error, status);
  }
  Memory* buffer = nullptr;
  if (desc->buffer != nullptr) {
    const cl_int status = CheckBuffer(*context, *image, *desc, &buffer, &flags);
    if (status != CL_SUCCESS) return Fail(error, status);
    if (host_pointer != nullptr) return Fail(error, CL_INVALID_HOST_PTR);
    if (!buffer->Contains(0, size)) return Fail(error, CL_INVALID_IMAGE_DESCRIPTOR);
  }
  if ((flags & kDeviceAccess) == 0) flags |= CL_MEM_READ_WRITE;
  const bool wants_pointer = buffer == nullptr && (flags & (CL_MEM_USE_HOST_PTR | CL_MEM_COPY_HOST_PTR)) != 0;
  if (wants_pointer != (host_pointer != nullptr)) return Fail(error, CL_INVALID_HOST_PTR);

  wire::opencl::CreateImage message;
  message.context = context->wire();
  message.flags.bits = flags & kDeviceAccess;
  message.type = {image->type};
  message.format = {format->image_channel_order, format->image_channel_data_type};
  message.extents = image->extents;
  const auto* formats = device.ImageFormats(*context, AccessOf(flags), image->type);
  if (formats == nullptr) return Fail(error, CL_OUT_OF_RESOURCES);
  if (std::ranges::count(*formats, message.format) == 0) return Fail(error, CL_IMAGE_FORMAT_NOT_SUPPORTED);

  Connection& connection = context->connection();
  std::uint64_t charged_bytes = 0;
  if (buffer == nullptr) {
    const std::uint64_t own_bytes = wire::opencl::OwnBytes(message);
    if (own_bytes == 0 || own_bytes > device.limits().max_allocation_bytes)
      return Fail(error, CL_MEM_OBJECT_ALLOCATION_FAILURE);
    charged_bytes = wire::opencl::ChargedBytes(own_bytes);
    switch (connection.TakeMemory(charged_bytes)) {
      case Connection::Memory::kTaken: break;
      case Connection::Memory::kFull: return Fail(error, CL_MEM_OBJECT_ALLOCATION_FAILURE);
      case Connection::Memory::kLost: return Fail(error, CL_OUT_OF_RESOURCES);
    }
  } else {
    message.buffer = {buffer->wire().handle};
    if (image->type == ImageType::k2D) message.row_pitch_bytes = image->row_pitch;
  }
  const wire::Handle name = connection.NewHandle();
  if (name.null()) {
    connection.GiveMemory(charged_bytes);
    return Fail(error, CL_OUT_OF_RESOURCES);
  }
  message.image = {name};
  Ref<Memory> memory = Ref<Memory>::Adopt(
      new Memory(*context, name, flags, std::move(image), size, charged_bytes, buffer,
                 (flags & CL_MEM_USE_HOST_PTR) != 0 ? host_pointer : nullptr, std::move(properties)));
  if (buffer != nullptr) {
    // Whether a device can have this image in that buffer is its own to say.
    const cl_int status = connection.CallForStatus(message, CL_OUT_OF_RESOURCES);
    if (status != CL_SUCCESS) return Fail(error, status);
  } else if (!connection.Submit(message) ||
             (wants_pointer && !SendContents(connection, *memory, static_cast<std::byte*>(host_pointer)))) {
    return Fail(error, CL_OUT_OF_RESOURCES);
  }
  return Made(error, std::move(memory));
}

// For the calls of OpenCL 1.0, which know sizes and no descriptions.
cl_mem MakeOldImage(cl_context context, cl_mem_flags flags, const cl_image_format* format,
                    const cl_image_desc& desc, void* host_pointer, cl_int* error) {
  cl_int status = CL_SUCCESS;
  cl_mem image = MakeImage(context, {}, flags, format, &desc, host_pointer, &status);
  if (status == CL_INVALID_IMAGE_DESCRIPTOR) status = CL_INVALID_IMAGE_SIZE;
  if (error != nullptr) *error = status;
  return image;
}

// The checks of an image and a region of it.
cl_int CheckRegion(const Enqueue& enqueue, const Memory* memory, const std::size_t* origin,
                   const std::size_t* region, wire::Vec3* origin_out, wire::Vec3* region_out) {
  if (const cl_int status = CheckMemory(enqueue, memory); status != CL_SUCCESS) return status;
  if (origin == nullptr || region == nullptr) return CL_INVALID_VALUE;
  *origin_out = {origin[0], origin[1], origin[2]};
  *region_out = {region[0], region[1], region[2]};
  return wire::opencl::BoxContains(memory->image()->extents, *origin_out, *region_out) ? CL_SUCCESS
                                                                                       : CL_INVALID_VALUE;
}

// A read or write with its arguments checked, in pieces.
struct Transfer {
  Memory* memory = nullptr;
  wire::Vec3 origin{};
  wire::Vec3 region{};
  HostBox host;  // in bytes
  std::vector<BoxPiece> pieces;

  Transfer() = default;
  Transfer(Memory& of, const wire::Vec3& at, const wire::Vec3& pixels, const HostBox& box)
      : memory(&of), origin(at), region(pixels), host(box) {
    pieces = CutPixels(region, of.image()->pixel_bytes);
  }

  template <typename M>
  void operator()(std::size_t i, M* message, HostBox* box) const {
    const auto& [at, extents] = pieces[i];
    const std::size_t pixel_bytes = memory->image()->pixel_bytes;
    message->image = memory->wire();
    for (std::size_t axis = 0; axis < 3; ++axis) message->origin[axis] = origin[axis] + at[axis];
    message->region = extents;
    *box = {host.bytes + at[0] * pixel_bytes + at[1] * host.row_pitch + at[2] * host.slice_pitch,
            {extents[0] * pixel_bytes, extents[1], extents[2]},
            host.row_pitch,
            host.slice_pitch};
  }
};

cl_int MakeTransfer(const Enqueue& enqueue, cl_mem handle, const std::size_t* origin,
                    const std::size_t* region, std::size_t row_pitch, std::size_t slice_pitch,
                    const void* pointer, Transfer* transfer) {
  Memory* memory = ImageFromHandle(handle);
  wire::Vec3 at{}, pixels{};
  if (const cl_int status = CheckRegion(enqueue, memory, origin, region, &at, &pixels); status != CL_SUCCESS)
    return status;
  std::size_t total = 0;
  if (pointer == nullptr || !FillPitches(*memory->image(), pixels, &row_pitch, &slice_pitch, &total))
    return CL_INVALID_VALUE;
  auto* bytes = static_cast<std::byte*>(const_cast<void*>(pointer));  // a read's target, or not written
  *transfer = Transfer(*memory, at, pixels, memory->image()->BoxAt(bytes, pixels, row_pitch, slice_pitch));
  return CL_SUCCESS;
}

}  // namespace

HostBox Image::BoxAt(std::byte* bytes, const wire::Vec3& region, std::size_t row, std::size_t slice) const {
  // The layers of a 1D array are the rows of the box.
  return {bytes,
          {region[0] * pixel_bytes, region[1], region[2]},
          type == ImageType::k1DArray ? slice : row,
          slice};
}

HostBox Image::BoxIn(std::byte* whole, const wire::Vec3& origin, const wire::Vec3& region) const {
  HostBox box = BoxAt(whole, region, row_pitch, slice_pitch);
  box.bytes += origin[0] * pixel_bytes + origin[1] * box.row_pitch + origin[2] * box.slice_pitch;
  return box;
}

Memory* ImageFromHandle(cl_mem handle) {
  Memory* memory = FromHandle<Memory>(handle);
  return memory == nullptr || memory->image() == nullptr ? nullptr : memory;
}

cl_int UploadMapping(Enqueue& enqueue, Memory& memory, const Memory::Mapping& mapping) {
  const Image& image = *memory.image();
  const Transfer transfer(memory, mapping.origin, mapping.region,
                          image.BoxAt(mapping.address, mapping.region, image.row_pitch, image.slice_pitch));
  return Upload<wire::opencl::EnqueueWriteImage>(enqueue, memory, transfer.pieces.size(), transfer);
}

cl_mem CreateImage(cl_context context, cl_mem_flags flags, const cl_image_format* format,
                   const cl_image_desc* desc, void* host_pointer, cl_int* error) {
  return MakeImage(context, {}, flags, format, desc, host_pointer, error);
}

cl_mem CreateImageWithProperties(cl_context context, const cl_mem_properties* properties, cl_mem_flags flags,
                                 const cl_image_format* format, const cl_image_desc* desc, void* host_pointer,
                                 cl_int* error) {
  if (properties != nullptr && properties[0] != 0) return Fail(error, CL_INVALID_PROPERTY);
  std::vector<cl_mem_properties> copy;
  if (properties != nullptr) copy.push_back(0);
  return MakeImage(context, std::move(copy), flags, format, desc, host_pointer, error);
}

cl_mem CreateImage2D(cl_context context, cl_mem_flags flags, const cl_image_format* format, std::size_t width,
                     std::size_t height, std::size_t row_pitch, void* host_pointer, cl_int* error) {
  cl_image_desc desc{};
  desc.image_type = CL_MEM_OBJECT_IMAGE2D;
  desc.image_width = width;
  desc.image_height = height;
  desc.image_row_pitch = row_pitch;
  return MakeOldImage(context, flags, format, desc, host_pointer, error);
}

cl_mem CreateImage3D(cl_context context, cl_mem_flags flags, const cl_image_format* format, std::size_t width,
                     std::size_t height, std::size_t depth, std::size_t row_pitch, std::size_t slice_pitch,
                     void* host_pointer, cl_int* error) {
  cl_image_desc desc{};
  desc.image_type = CL_MEM_OBJECT_IMAGE3D;
  desc.image_width = width;
  desc.image_height = height;
  desc.image_depth = depth;
  desc.image_row_pitch = row_pitch;
  desc.image_slice_pitch = slice_pitch;
  return MakeOldImage(context, flags, format, desc, host_pointer, error);
}

cl_int GetSupportedImageFormats(cl_context handle, cl_mem_flags flags, cl_mem_object_type object_type,
                                cl_uint num_entries, cl_image_format* formats, cl_uint* num_formats) {
  const Context* context = FromHandle<Context>(handle);
  if (context == nullptr) return CL_INVALID_CONTEXT;
  ImageType type{};
  const bool in_kernel = (flags & CL_MEM_KERNEL_READ_AND_WRITE) != 0;
  if (!ValidFlags(flags & ~cl_mem_flags{CL_MEM_KERNEL_READ_AND_WRITE}) || !TypeOf(object_type, &type) ||
      (num_entries == 0 && formats != nullptr)) {
    return CL_INVALID_VALUE;
  }
  if (!context->device().has_images()) {
    if (num_formats != nullptr) *num_formats = 0;
    return CL_SUCCESS;
  }
  const auto* known = context->device().ImageFormats(
      *context, in_kernel ? wire::opencl::ImageAccess::kKernelReadAndWrite : AccessOf(flags), type);
  if (known == nullptr) return CL_OUT_OF_RESOURCES;
  if (formats != nullptr) {
    for (std::size_t i = 0; i < known->size() && i < num_entries; ++i)
      formats[i] = {(*known)[i].channel_order, (*known)[i].channel_type};
  }
  if (num_formats != nullptr) *num_formats = static_cast<cl_uint>(known->size());
  return CL_SUCCESS;
}

cl_int GetImageInfo(cl_mem handle, cl_image_info name, std::size_t size, void* value, std::size_t* size_ret) {
  const Memory* memory = ImageFromHandle(handle);
  if (memory == nullptr) return CL_INVALID_MEM_OBJECT;
  const Image& image = *memory->image();
  const InfoOut out(size, value, size_ret);
  const bool flat = image.type == ImageType::k2D || image.type == ImageType::k2DArray;
  const bool is_3d = image.type == ImageType::k3D;
  const std::size_t layers = image.type == ImageType::k1DArray ? image.extents[1] : image.extents[2];
  switch (name) {
    case CL_IMAGE_FORMAT: return out.Value(image.format);
    case CL_IMAGE_ELEMENT_SIZE: return out.Value(image.pixel_bytes);
    case CL_IMAGE_ROW_PITCH: return out.Value(image.row_pitch);
    case CL_IMAGE_SLICE_PITCH: return out.Value(image.slice_pitch);
    case CL_IMAGE_WIDTH: return out.Value<std::size_t>(image.extents[0]);
    case CL_IMAGE_HEIGHT: return out.Value<std::size_t>(flat || is_3d ? image.extents[1] : 0);
    case CL_IMAGE_DEPTH: return out.Value<std::size_t>(is_3d ? image.extents[2] : 0);
    case CL_IMAGE_ARRAY_SIZE: return out.Value<std::size_t>(image.is_array() ? layers : 0);
    case CL_IMAGE_BUFFER:
      return out.Value<cl_mem>(memory->parent() == nullptr ? nullptr : ToHandle(memory->parent()));
    case CL_IMAGE_NUM_MIP_LEVELS:
    case CL_IMAGE_NUM_SAMPLES: return out.Value<cl_uint>(0);
    default: return CL_INVALID_VALUE;
  }
}

cl_int EnqueueReadImage(cl_command_queue queue, cl_mem handle, cl_bool blocking, const std::size_t* origin,
                        const std::size_t* region, std::size_t row_pitch, std::size_t slice_pitch,
                        void* pointer, cl_uint num_waits, const cl_event* waits, cl_event* event) {
  Enqueue enqueue(queue, CL_COMMAND_READ_IMAGE, num_waits, waits, event);
  if (enqueue.status() != CL_SUCCESS) return enqueue.status();
  Transfer transfer;
  if (const cl_int status =
          MakeTransfer(enqueue, handle, origin, region, row_pitch, slice_pitch, pointer, &transfer);
      status != CL_SUCCESS) {
    return status;
  }
  if (!transfer.memory->HostMayRead()) return CL_INVALID_OPERATION;
  if (event != nullptr && enqueue.MakeEvent() == nullptr) return CL_OUT_OF_RESOURCES;
  return EndRead(
      enqueue, blocking,
      Download::Start<wire::opencl::EnqueueReadImage>(enqueue, transfer.pieces.size(), {}, transfer));
}

cl_int EnqueueWriteImage(cl_command_queue queue, cl_mem handle, cl_bool blocking, const std::size_t* origin,
                         const std::size_t* region, std::size_t row_pitch, std::size_t slice_pitch,
                         const void* pointer, cl_uint num_waits, const cl_event* waits, cl_event* event) {
  Enqueue enqueue(queue, CL_COMMAND_WRITE_IMAGE, num_waits, waits, event);
  if (enqueue.status() != CL_SUCCESS) return enqueue.status();
  Transfer transfer;
  if (const cl_int status =
          MakeTransfer(enqueue, handle, origin, region, row_pitch, slice_pitch, pointer, &transfer);
      status != CL_SUCCESS) {
    return status;
  }
  if (!transfer.memory->HostMayWrite()) return CL_INVALID_OPERATION;
  if (!BeginWrite(enqueue, blocking)) return CL_OUT_OF_RESOURCES;
  const cl_int status =
      Upload<wire::opencl::EnqueueWriteImage>(enqueue, *transfer.memory, transfer.pieces.size(), transfer);
  return status == CL_SUCCESS ? EndWrite(enqueue, blocking) : status;
}

cl_int EnqueueCopyImage(cl_command_queue queue, cl_mem source_handle, cl_mem destination_handle,
                        const std::size_t* source_origin, const std::size_t* destination_origin,
                        const std::size_t* region, cl_uint num_waits, const cl_event* waits,
                        cl_event* event) {
  Enqueue enqueue(queue, CL_COMMAND_COPY_IMAGE, num_waits, waits, event);
  if (enqueue.status() != CL_SUCCESS) return enqueue.status();
  const Memory* source = ImageFromHandle(source_handle);
  const Memory* destination = ImageFromHandle(destination_handle);
  for (const Memory* memory : {source, destination}) {
    if (const cl_int status = CheckMemory(enqueue, memory); status != CL_SUCCESS) return status;
  }
  const cl_image_format& from = source->image()->format;
  const cl_image_format& to = destination->image()->format;
  if (from.image_channel_order != to.image_channel_order ||
      from.image_channel_data_type != to.image_channel_data_type) {
    return CL_IMAGE_FORMAT_MISMATCH;
  }
  wire::opencl::EnqueueCopyImage message;
  if (const cl_int status =
          CheckRegion(enqueue, source, source_origin, region, &message.source_origin, &message.region);
      status != CL_SUCCESS) {
    return status;
  }
  if (const cl_int status = CheckRegion(enqueue, destination, destination_origin, region,
                                        &message.destination_origin, &message.region);
      status != CL_SUCCESS) {
    return status;
  }
  if (source == destination &&
      wire::opencl::BoxesOverlap(message.source_origin, message.destination_origin, message.region)) {
    return CL_MEM_COPY_OVERLAP;
  }
  if (!destination->writable()) return CL_INVALID_OPERATION;
  message.source = source->wire();
  message.destination = destination->wire();
  return enqueue.Submit(message);
}

cl_int EnqueueFillImage(cl_command_queue queue, cl_mem handle, const void* color, const std::size_t* origin,
                        const std::size_t* region, cl_uint num_waits, const cl_event* waits,
                        cl_event* event) {
  Enqueue enqueue(queue, CL_COMMAND_FILL_IMAGE, num_waits, waits, event);
  if (enqueue.status() != CL_SUCCESS) return enqueue.status();
  const Memory* memory = ImageFromHandle(handle);
  wire::opencl::EnqueueFillImage message;
  if (const cl_int status = CheckRegion(enqueue, memory, origin, region, &message.origin, &message.region);
      status != CL_SUCCESS) {
    return status;
  }
  if (color == nullptr) return CL_INVALID_VALUE;
  if (!memory->writable()) return CL_INVALID_OPERATION;
  // The color of a depth image is one float.
  const bool depth = memory->image()->format.image_channel_order == CL_DEPTH;
  std::array<std::byte, wire::kFillColorBytes> bytes{};
  std::memcpy(bytes.data(), color, depth ? sizeof(cl_float) : bytes.size());
  message.image = memory->wire();
  message.color = {bytes};
  return enqueue.Submit(message);
}

cl_int EnqueueCopyImageToBuffer(cl_command_queue queue, cl_mem image_handle, cl_mem buffer_handle,
                                const std::size_t* origin, const std::size_t* region, std::size_t offset,
                                cl_uint num_waits, const cl_event* waits, cl_event* event) {
  Enqueue enqueue(queue, CL_COMMAND_COPY_IMAGE_TO_BUFFER, num_waits, waits, event);
  if (enqueue.status() != CL_SUCCESS) return enqueue.status();
  const Memory* image = ImageFromHandle(image_handle);
  const Memory* buffer = BufferFromHandle(buffer_handle);
  wire::opencl::EnqueueCopyImageToBuffer message;
  if (const cl_int status = CheckMemory(enqueue, buffer); status != CL_SUCCESS) return status;
  if (const cl_int status = CheckRegion(enqueue, image, origin, region, &message.origin, &message.region);
      status != CL_SUCCESS) {
    return status;
  }
  if (!buffer->Contains(offset, image->image()->PackedBytes(message.region))) return CL_INVALID_VALUE;
  if (!buffer->writable()) return CL_INVALID_OPERATION;
  message.image = image->wire();
  message.buffer = buffer->wire();
  message.offset_bytes = offset;
  return enqueue.Submit(message);
}

cl_int EnqueueCopyBufferToImage(cl_command_queue queue, cl_mem buffer_handle, cl_mem image_handle,
                                std::size_t offset, const std::size_t* origin, const std::size_t* region,
                                cl_uint num_waits, const cl_event* waits, cl_event* event) {
  Enqueue enqueue(queue, CL_COMMAND_COPY_BUFFER_TO_IMAGE, num_waits, waits, event);
  if (enqueue.status() != CL_SUCCESS) return enqueue.status();
  const Memory* buffer = BufferFromHandle(buffer_handle);
  const Memory* image = ImageFromHandle(image_handle);
  wire::opencl::EnqueueCopyBufferToImage message;
  if (const cl_int status = CheckMemory(enqueue, buffer); status != CL_SUCCESS) return status;
  if (const cl_int status = CheckRegion(enqueue, image, origin, region, &message.origin, &message.region);
      status != CL_SUCCESS) {
    return status;
  }
  if (!buffer->Contains(offset, image->image()->PackedBytes(message.region))) return CL_INVALID_VALUE;
  if (!image->writable()) return CL_INVALID_OPERATION;
  message.buffer = buffer->wire();
  message.image = image->wire();
  message.offset_bytes = offset;
  return enqueue.Submit(message);
}

void* EnqueueMapImage(cl_command_queue queue, cl_mem handle, cl_bool blocking, cl_map_flags flags,
                      const std::size_t* origin, const std::size_t* region, std::size_t* row_pitch,
                      std::size_t* slice_pitch, cl_uint num_waits, const cl_event* waits, cl_event* event,
                      cl_int* error) {
  Enqueue enqueue(queue, CL_COMMAND_MAP_IMAGE, num_waits, waits, event);
  if (enqueue.status() != CL_SUCCESS) return Fail(error, enqueue.status());
  Memory* memory = ImageFromHandle(handle);
  Memory::Mapping mapping;
  if (const cl_int status = CheckRegion(enqueue, memory, origin, region, &mapping.origin, &mapping.region);
      status != CL_SUCCESS) {
    return Fail(error, status);
  }
  const Image& image = *memory->image();
  if (row_pitch == nullptr || (slice_pitch == nullptr && image.has_slices()))
    return Fail(error, CL_INVALID_VALUE);
  if (const cl_int status = CheckMap(*memory, flags, &mapping.writes); status != CL_SUCCESS)
    return Fail(error, status);
  std::byte* mirror = memory->Mirror();
  if (mirror == nullptr) return Fail(error, CL_MAP_FAILURE);
  const HostBox box = image.BoxIn(mirror, mapping.origin, mapping.region);
  mapping.address = box.bytes;
  if (!memory->TryAddMapping(mapping)) return Fail(error, CL_INVALID_OPERATION);
  const cl_int status = FetchMapping(enqueue, blocking, flags, [&] {
    const Transfer transfer(*memory, mapping.origin, mapping.region, box);
    return Download::Start<wire::opencl::EnqueueReadImage>(enqueue, transfer.pieces.size(),
                                                           Ref<Memory>(memory), transfer);
  });
  if (status != CL_SUCCESS) {
    memory->DropMapping(mapping);
    return Fail(error, status);
  }
  *row_pitch = image.row_pitch;
  if (slice_pitch != nullptr) *slice_pitch = image.slice_pitch;
  if (error != nullptr) *error = CL_SUCCESS;
  enqueue.Commit();
  return mapping.address;
}

}  // namespace tulle::shim::opencl
