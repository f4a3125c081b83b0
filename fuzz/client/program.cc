#include "fuzz/client/program.h"

#include <algorithm>
#include <array>
#include <deque>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "fuzz/target.h"
#include "tulle/shim/opencl/api.h"
#include "tulle/wire/test_spirv.h"

namespace tulle::fuzz {
namespace {

constexpr std::size_t kGuardBytes = 64;  // around what the program reads into
constexpr std::byte kGuard{0xa5};
constexpr std::size_t kBytes = 4000;

// Memory that the worker's answers may fill, with guards that they may not touch.
class GuardedBytes {
 public:
  explicit GuardedBytes(std::size_t size) : bytes_(size + 2 * kGuardBytes, kGuard), size_(size) {}
  void* data() { return bytes_.data() + kGuardBytes; }
  std::size_t size() const { return size_; }
  void Check() const {
    for (std::size_t i = 0; i < kGuardBytes; ++i) {
      Require(bytes_[i] == kGuard && bytes_[kGuardBytes + size_ + i] == kGuard,
              "written outside the program's memory");
    }
  }

 private:
  ByteVector bytes_;
  std::size_t size_;
};

class Program {
 public:
  explicit Program(Random& random) : random_(random) {}

  void Run() {
    if (!Open()) return;
    std::vector<std::function<void()>> parts = {
        [this] { Transfers(); }, [this] { Rectangles(); }, [this] { Images(); },   [this] { SharedMemory(); },
        [this] { Events(); },    [this] { Kernels(); },    [this] { Programs(); }, [this] { Parts(); },
    };
    for (std::size_t i = parts.size(); i > 1; --i) std::swap(parts[i - 1], parts[random_.Below(i)]);
    for (const auto& part : parts) part();
    cl_.clFinish(queue_);
    // What is still under way may land until the session is over; its memory must stay.
    for (cl_event event : events_) {
      cl_.clWaitForEvents(1, &event);
      cl_.clReleaseEvent(event);
    }
    for (const GuardedBytes& bytes : landing_) bytes.Check();
    if (kernel_ != nullptr) cl_.clReleaseKernel(kernel_);
    if (program_ != nullptr) cl_.clReleaseProgram(program_);
    cl_.clReleaseMemObject(buffer_);
    cl_.clReleaseCommandQueue(queue_);
    cl_.clReleaseContext(context_);
  }

 private:
  bool Open() {
    cl_uint count = 0;
    if (cl_.clGetPlatformIDs(1, &platform_, &count) != CL_SUCCESS || count == 0) return false;
    if (cl_.clGetDeviceIDs(platform_, CL_DEVICE_TYPE_ALL, 1, &device_, &count) != CL_SUCCESS) return false;
    Infos(CL_PLATFORM_PROFILE, CL_PLATFORM_NUMERIC_VERSION, cl_.clGetPlatformInfo, platform_);
    Infos(CL_DEVICE_TYPE, CL_DEVICE_LATEST_CONFORMANCE_VERSION_PASSED, cl_.clGetDeviceInfo, device_);
    const auto ignore = [](const char*, const void*, std::size_t, void*) {};
    const cl_context_properties properties[] = {CL_CONTEXT_PLATFORM,
                                                reinterpret_cast<cl_context_properties>(platform_), 0};
    context_ = random_.Below(2) == 0
                   ? cl_.clCreateContext(properties, 1, &device_, ignore, nullptr, &status_)
                   : cl_.clCreateContextFromType(nullptr, CL_DEVICE_TYPE_ALL, nullptr, nullptr, &status_);
    if (context_ == nullptr) return false;
    Infos(CL_CONTEXT_REFERENCE_COUNT, CL_CONTEXT_NUM_DEVICES, cl_.clGetContextInfo, context_);
    cl_.clSetContextDestructorCallback(
        context_, [](cl_context, void*) {}, nullptr);
    const cl_command_queue_properties out_of_order =
        random_.Below(4) == 0 ? CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE : 0;
    queue_ = cl_.clCreateCommandQueue(context_, device_, CL_QUEUE_PROFILING_ENABLE | out_of_order, &status_);
    std::vector<std::byte> initial(kBytes, std::byte{7});
    buffer_ = cl_.clCreateBuffer(context_, CL_MEM_READ_WRITE | CL_MEM_COPY_HOST_PTR, kBytes, initial.data(),
                                 &status_);
    if (queue_ == nullptr || buffer_ == nullptr) return false;
    Infos(CL_QUEUE_CONTEXT, CL_QUEUE_PROPERTIES_ARRAY, cl_.clGetCommandQueueInfo, queue_);
    Infos(CL_MEM_TYPE, CL_MEM_PROPERTIES, cl_.clGetMemObjectInfo, buffer_);
    return true;
  }

  // Asks for a size, then for so much.
  template <typename Get>
  void Info(const Get& get) {
    std::size_t size = 0;
    if (get(0, nullptr, &size) != CL_SUCCESS || size > (1u << 20)) return;
    GuardedBytes value(size);
    get(size, value.data(), nullptr);
    value.Check();
  }

  // All of a range of names; those between that are none are refused.
  template <typename Get, typename... Of>
  void Infos(cl_uint first, cl_uint last, const Get& get, const Of&... of) {
    for (cl_uint name = first; name <= last; ++name) {
      Info([&](std::size_t size, void* value, std::size_t* needed) {
        return get(of..., name, size, value, needed);
      });
    }
  }

  void* Landing(std::size_t size) { return landing_.emplace_back(size).data(); }
  cl_bool Blocking() { return random_.Below(2) == 0 ? CL_TRUE : CL_FALSE; }
  // Where a command puts its event, which is awaited in the end.
  cl_event* Event() {
    if (random_.Below(2) == 0 || events_.size() == events_.capacity()) return nullptr;
    if (!events_.empty() && events_.back() == nullptr) events_.pop_back();  // of a command that failed
    return &events_.emplace_back(nullptr);
  }

  void Transfers() {
    cl_.clEnqueueReadBuffer(queue_, buffer_, Blocking(), 0, kBytes, Landing(kBytes), 0, nullptr, Event());
    const std::vector<std::byte> bytes(kBytes);
    cl_.clEnqueueWriteBuffer(queue_, buffer_, Blocking(), 0, kBytes, bytes.data(), 0, nullptr, Event());
    const cl_uint pattern = 5;
    cl_.clEnqueueFillBuffer(queue_, buffer_, &pattern, sizeof pattern, 0, 400, 0, nullptr, Event());
    cl_.clEnqueueCopyBuffer(queue_, buffer_, buffer_, 0, 2000, 500, 0, nullptr, Event());
    cl_.clEnqueueMigrateMemObjects(queue_, 1, &buffer_, 0, 0, nullptr, Event());
    Map(buffer_, CL_MAP_READ | CL_MAP_WRITE);
    const cl_buffer_region region = {0, 1024};
    if (cl_mem part = cl_.clCreateSubBuffer(buffer_, 0, CL_BUFFER_CREATE_TYPE_REGION, &region, &status_)) {
      Map(part, CL_MAP_WRITE_INVALIDATE_REGION);
      cl_.clSetMemObjectDestructorCallback(
          part, [](cl_mem, void*) {}, nullptr);
      cl_.clReleaseMemObject(part);
    }
  }
  void Map(cl_mem memory, cl_map_flags flags) {
    void* mapped =
        cl_.clEnqueueMapBuffer(queue_, memory, Blocking(), flags, 0, 1000, 0, nullptr, Event(), &status_);
    if (mapped != nullptr) cl_.clEnqueueUnmapMemObject(queue_, memory, mapped, 0, nullptr, Event());
  }

  void Rectangles() {
    const std::array<std::size_t, 3> origin = {1, 2, 0}, host = {0, 1, 0}, region = {10, 5, 3};
    cl_.clEnqueueReadBufferRect(queue_, buffer_, Blocking(), origin.data(), host.data(), region.data(), 32,
                                512, 16, 160, Landing(480), 0, nullptr, Event());
    std::vector<std::byte> bytes(480);
    cl_.clEnqueueWriteBufferRect(queue_, buffer_, Blocking(), origin.data(), host.data(), region.data(), 32,
                                 512, 16, 160, bytes.data(), 0, nullptr, Event());
    const std::array<std::size_t, 3> apart = {100, 20, 0};
    cl_.clEnqueueCopyBufferRect(queue_, buffer_, buffer_, origin.data(), apart.data(), region.data(), 32, 512,
                                32, 512, 0, nullptr, Event());
  }

  void Images() {
    cl_uint count = 0;
    cl_.clGetSupportedImageFormats(context_, CL_MEM_READ_WRITE, CL_MEM_OBJECT_IMAGE2D, 0, nullptr, &count);
    const cl_image_format format = {CL_RGBA, CL_UNSIGNED_INT8};
    cl_image_desc description = {};
    description.image_type = CL_MEM_OBJECT_IMAGE2D;
    description.image_width = description.image_height = 16;
    std::vector<std::byte> pixels(4 * 16 * 16);
    cl_mem image = cl_.clCreateImage(context_, CL_MEM_READ_WRITE | CL_MEM_COPY_HOST_PTR, &format,
                                     &description, pixels.data(), &status_);
    const cl_sampler_properties mirrored[] = {CL_SAMPLER_ADDRESSING_MODE, CL_ADDRESS_MIRRORED_REPEAT, 0};
    if (cl_sampler sampler = cl_.clCreateSamplerWithProperties(context_, mirrored, &status_)) {
      Infos(CL_SAMPLER_REFERENCE_COUNT, CL_SAMPLER_PROPERTIES, cl_.clGetSamplerInfo, sampler);
      cl_.clReleaseSampler(sampler);
    }
    if (image == nullptr) return;
    Infos(CL_IMAGE_FORMAT, CL_IMAGE_NUM_SAMPLES, cl_.clGetImageInfo, image);
    cl_image_desc other_description = {};
    constexpr std::array kTypes = {CL_MEM_OBJECT_IMAGE1D,        CL_MEM_OBJECT_IMAGE1D_ARRAY,
                                   CL_MEM_OBJECT_IMAGE1D_BUFFER, CL_MEM_OBJECT_IMAGE2D_ARRAY,
                                   CL_MEM_OBJECT_IMAGE3D,        CL_MEM_OBJECT_IMAGE2D};
    other_description.image_type = kTypes[random_.Below(kTypes.size())];
    other_description.image_width = 8;
    other_description.image_height = other_description.image_depth = other_description.image_array_size = 4;
    if (other_description.image_type == CL_MEM_OBJECT_IMAGE1D_BUFFER) other_description.buffer = buffer_;
    if (cl_mem made =
            cl_.clCreateImage(context_, CL_MEM_READ_ONLY, &format, &other_description, nullptr, &status_)) {
      Infos(CL_IMAGE_FORMAT, CL_IMAGE_NUM_SAMPLES, cl_.clGetImageInfo, made);
      cl_.clReleaseMemObject(made);
    }
    const std::array<std::size_t, 3> origin = {0, 0, 0}, other = {8, 0, 0}, region = {8, 10, 1};
    cl_.clEnqueueReadImage(queue_, image, Blocking(), origin.data(), region.data(), 40, 0, Landing(400), 0,
                           nullptr, Event());
    cl_.clEnqueueWriteImage(queue_, image, Blocking(), origin.data(), region.data(), 0, 0, pixels.data(), 0,
                            nullptr, Event());
    const std::array<cl_uint, 4> color = {1, 2, 3, 4};
    cl_.clEnqueueFillImage(queue_, image, color.data(), origin.data(), region.data(), 0, nullptr, Event());
    cl_.clEnqueueCopyImage(queue_, image, image, origin.data(), other.data(), region.data(), 0, nullptr,
                           Event());
    cl_.clEnqueueCopyImageToBuffer(queue_, image, buffer_, origin.data(), region.data(), 0, 0, nullptr,
                                   Event());
    cl_.clEnqueueCopyBufferToImage(queue_, buffer_, image, 0, origin.data(), region.data(), 0, nullptr,
                                   Event());
    std::size_t row_pitch = 0;
    void* mapped = cl_.clEnqueueMapImage(queue_, image, Blocking(), CL_MAP_READ | CL_MAP_WRITE, origin.data(),
                                         region.data(), &row_pitch, nullptr, 0, nullptr, Event(), &status_);
    if (mapped != nullptr) cl_.clEnqueueUnmapMemObject(queue_, image, mapped, 0, nullptr, Event());
    cl_.clReleaseMemObject(image);
  }

  void SharedMemory() {
    void* shared = cl_.clSVMAlloc(context_, CL_MEM_READ_WRITE, kBytes, 0);
    if (shared == nullptr) return;
    const cl_uint pattern = 3;
    cl_.clEnqueueSVMMemFill(queue_, shared, &pattern, sizeof pattern, 400, 0, nullptr, Event());
    if (cl_.clEnqueueSVMMap(queue_, CL_TRUE, CL_MAP_READ | CL_MAP_WRITE, shared, 1000, 0, nullptr, Event()) ==
        CL_SUCCESS)
      cl_.clEnqueueSVMUnmap(queue_, shared, 0, nullptr, Event());
    cl_.clEnqueueSVMMemcpy(queue_, Blocking(), Landing(400), shared, 400, 0, nullptr, Event());
    const void* inside = static_cast<const std::byte*>(shared) + 8;
    const std::size_t size = 16;
    cl_.clEnqueueSVMMigrateMem(queue_, 1, &inside, &size, 0, 0, nullptr, Event());
    if (cl_mem around = cl_.clCreateBuffer(context_, CL_MEM_USE_HOST_PTR, kBytes, shared, &status_))
      cl_.clReleaseMemObject(around);
    if (kernel_ != nullptr) {
      cl_.clSetKernelArgSVMPointer(kernel_, 0, inside);
      cl_.clSetKernelExecInfo(kernel_, CL_KERNEL_EXEC_INFO_SVM_PTRS, sizeof shared, &shared);
      Launch(kernel_);
    }
    if (random_.Below(2) == 0) {
      cl_.clEnqueueSVMFree(queue_, 1, &shared, nullptr, nullptr, 0, nullptr, Event());
    } else {
      cl_.clFinish(queue_);
      cl_.clSVMFree(context_, shared);
    }
  }

  void Events() {
    cl_event gate = cl_.clCreateUserEvent(context_, &status_);
    if (gate == nullptr) return;
    const auto ignore = [](cl_event, cl_int, void*) {};
    cl_event marker = nullptr;
    cl_.clEnqueueMarkerWithWaitList(queue_, 1, &gate, &marker);
    cl_.clEnqueueBarrierWithWaitList(queue_, 0, nullptr, Event());
    if (marker != nullptr) cl_.clSetEventCallback(marker, CL_COMPLETE, ignore, nullptr);
    cl_.clFlush(queue_);
    cl_.clSetUserEventStatus(gate, random_.Below(4) == 0 ? -5 : CL_COMPLETE);
    if (marker != nullptr) {
      cl_.clWaitForEvents(1, &marker);
      for (const cl_profiling_info name : {CL_PROFILING_COMMAND_QUEUED, CL_PROFILING_COMMAND_END}) {
        cl_ulong time = 0;
        cl_.clGetEventProfilingInfo(marker, name, sizeof time, &time, nullptr);
      }
      Infos(CL_EVENT_COMMAND_QUEUE, CL_EVENT_CONTEXT, cl_.clGetEventInfo, marker);
      cl_.clReleaseEvent(marker);
    }
    cl_.clReleaseEvent(gate);
  }

  static constexpr const char* kSource =
      "#pragma once\nkernel void k(global int* p, int v) { p[get_global_id(0)] += v; }";

  void Kernels() {
    const char* source = kSource;
    program_ = cl_.clCreateProgramWithSource(context_, 1, &source, nullptr, &status_);
    if (program_ == nullptr ||
        cl_.clBuildProgram(program_, 0, nullptr, "-cl-kernel-arg-info", nullptr, nullptr) != CL_SUCCESS) {
      return;
    }
    Infos(CL_PROGRAM_REFERENCE_COUNT, CL_PROGRAM_BINARY_SIZES, cl_.clGetProgramInfo, program_);
    Infos(CL_PROGRAM_NUM_KERNELS, CL_PROGRAM_SCOPE_GLOBAL_DTORS_PRESENT, cl_.clGetProgramInfo, program_);
    Infos(CL_PROGRAM_BUILD_STATUS, CL_PROGRAM_BUILD_GLOBAL_VARIABLE_TOTAL_SIZE, cl_.clGetProgramBuildInfo,
          program_, device_);
    std::array<cl_kernel, 8> kernels{};
    cl_uint count = 0;
    if (cl_.clCreateKernelsInProgram(program_, kernels.size(), kernels.data(), &count) == CL_SUCCESS) {
      for (cl_kernel kernel : std::span(kernels).first(std::min<std::size_t>(count, kernels.size())))
        cl_.clReleaseKernel(kernel);
    }
    kernel_ = cl_.clCreateKernel(program_, "k", &status_);
    if (kernel_ == nullptr) return;
    Infos(CL_KERNEL_FUNCTION_NAME, CL_KERNEL_ATTRIBUTES, cl_.clGetKernelInfo, kernel_);
    Infos(CL_KERNEL_WORK_GROUP_SIZE, CL_KERNEL_GLOBAL_WORK_SIZE, cl_.clGetKernelWorkGroupInfo, kernel_,
          device_);
    for (cl_uint arg = 0; arg < 3; ++arg) {
      Infos(CL_KERNEL_ARG_ADDRESS_QUALIFIER, CL_KERNEL_ARG_NAME, cl_.clGetKernelArgInfo, kernel_, arg);
    }
    const std::array<std::size_t, 3> range = {8, 4, 2};
    for (const cl_kernel_sub_group_info name :
         {CL_KERNEL_MAX_SUB_GROUP_SIZE_FOR_NDRANGE, CL_KERNEL_SUB_GROUP_COUNT_FOR_NDRANGE,
          CL_KERNEL_LOCAL_SIZE_FOR_SUB_GROUP_COUNT, CL_KERNEL_MAX_NUM_SUB_GROUPS}) {
      const std::size_t input =
          name == CL_KERNEL_LOCAL_SIZE_FOR_SUB_GROUP_COUNT ? sizeof range[0] : sizeof range;
      Info([&](std::size_t size, void* value, std::size_t* needed) {
        return cl_.clGetKernelSubGroupInfo(kernel_, device_, name, input, range.data(), size, value, needed);
      });
    }
    cl_.clSetKernelArg(kernel_, 0, sizeof buffer_, &buffer_);
    Launch(kernel_);
    if (cl_kernel clone = cl_.clCloneKernel(kernel_, &status_)) {
      cl_.clEnqueueTask(queue_, clone, 0, nullptr, Event());
      cl_.clReleaseKernel(clone);
    }
    if (cl_sampler sampler =
            cl_.clCreateSampler(context_, CL_FALSE, CL_ADDRESS_CLAMP, CL_FILTER_NEAREST, &status_)) {
      cl_.clSetKernelArg(kernel_, 1, sizeof sampler, &sampler);
      cl_.clSetKernelArg(kernel_, 0, 64, nullptr);
      if (cl_kernel clone = cl_.clCloneKernel(kernel_, &status_)) cl_.clReleaseKernel(clone);
      cl_.clReleaseSampler(sampler);
    }
  }
  void Launch(cl_kernel kernel) {
    const int value = 3;
    const std::size_t global = 1000;
    cl_.clSetKernelArg(kernel, 1, sizeof value, &value);
    cl_.clEnqueueNDRangeKernel(queue_, kernel, 1, nullptr, &global, nullptr, 0, nullptr, Event());
  }

  void Programs() {
    const char* source = kSource;
    if (cl_program object = cl_.clCreateProgramWithSource(context_, 1, &source, nullptr, &status_)) {
      if (cl_.clCompileProgram(object, 0, nullptr, "", 0, nullptr, nullptr, nullptr, nullptr) == CL_SUCCESS) {
        cl_program linked =
            cl_.clLinkProgram(context_, 0, nullptr, "", 1, &object, nullptr, nullptr, &status_);
        if (linked != nullptr) {
          Reload(linked);
          cl_.clReleaseProgram(linked);
        }
      }
      cl_.clReleaseProgram(object);
    }
    Headers();
    const std::string module = wire::opencl::testing::AddConstantModule();
    if (cl_program il = cl_.clCreateProgramWithIL(context_, module.data(), module.size(), &status_)) {
      const cl_uint value = 9;
      cl_.clSetProgramSpecializationConstant(il, 0, sizeof value, &value);
      cl_.clBuildProgram(il, 0, nullptr, "", nullptr, nullptr);
      cl_.clReleaseProgram(il);
    }
  }
  // Compiled with headers that are given, and with files of this program's machine.
  void Headers() {
    const char* text = "#ifndef N\n#define N 1\n#include \"other.h\"\n#endif\nconstant int in_header = N;";
    const char* source =
        "#include \"header.h\"\n#if 1 /* text */\n#include <stdio.h>\n#include \"nowhere.h\" // "
        "text\n#endif\n"
        "kernel void k(global int* p, int v) { p[0] = in_header; }\n";
    const char* name = "header.h";
    cl_program header = cl_.clCreateProgramWithSource(context_, 1, &text, nullptr, &status_);
    cl_program program = cl_.clCreateProgramWithSource(context_, 1, &source, nullptr, &status_);
    if (header != nullptr && program != nullptr) {
      cl_.clCompileProgram(program, 0, nullptr, "-D N=2", 1, &header, &name, nullptr, nullptr);
      cl_.clBuildProgram(program, 0, nullptr, "-I \"/usr/include\" -I /nonexistent -DN=3", nullptr, nullptr);
    }
    if (program != nullptr) cl_.clReleaseProgram(program);
    if (header != nullptr) cl_.clReleaseProgram(header);
  }
  // From its binary.
  void Reload(cl_program program) {
    std::size_t size = 0;
    if (cl_.clGetProgramInfo(program, CL_PROGRAM_BINARY_SIZES, sizeof size, &size, nullptr) != CL_SUCCESS ||
        size == 0 || size > (1u << 22)) {
      return;
    }
    GuardedBytes binary(size);
    void* pointer = binary.data();
    cl_.clGetProgramInfo(program, CL_PROGRAM_BINARIES, sizeof pointer, &pointer, nullptr);
    binary.Check();
    const auto* bytes = static_cast<const unsigned char*>(binary.data());
    if (cl_program loaded =
            cl_.clCreateProgramWithBinary(context_, 1, &device_, &size, &bytes, nullptr, &status_)) {
      cl_.clBuildProgram(loaded, 0, nullptr, "", nullptr, nullptr);
      cl_.clReleaseProgram(loaded);
    }
  }

  void Parts() {
    const cl_device_partition_property equally[] = {CL_DEVICE_PARTITION_EQUALLY, 1, 0};
    std::array<cl_device_id, 16> parts{};
    cl_uint count = 0;
    if (cl_.clCreateSubDevices(device_, equally, parts.size(), parts.data(), &count) != CL_SUCCESS) return;
    for (cl_device_id part : std::span(parts).first(std::min<std::size_t>(count, parts.size())))
      cl_.clReleaseDevice(part);
  }

  Random& random_;
  const cl_icd_dispatch& cl_ = shim::opencl::Dispatch();
  cl_platform_id platform_ = nullptr;
  cl_device_id device_ = nullptr;
  cl_context context_ = nullptr;
  cl_command_queue queue_ = nullptr;
  cl_mem buffer_ = nullptr;
  cl_program program_ = nullptr;
  cl_kernel kernel_ = nullptr;
  cl_int status_ = 0;
  std::deque<GuardedBytes> landing_;
  std::vector<cl_event> events_ = [] {
    std::vector<cl_event> events;
    events.reserve(64);
    return events;
  }();
};

}  // namespace

void RunProgram(Random& random) { Program(random).Run(); }

}  // namespace tulle::fuzz
