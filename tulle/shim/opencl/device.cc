#include "tulle/shim/opencl/device.h"

#include <algorithm>

#include "tulle/base/log.h"
#include "tulle/shim/opencl/context.h"
#include "tulle/shim/opencl/entry_points.h"

namespace tulle::shim::opencl {
namespace {

// Extensions that are only a matter of the compiler and of infos, so that they work from afar as they are.
// Those with entry points or objects of their own are listed once those are remoted.
constexpr std::string_view kExtensions[] = {
    "cl_khr_byte_addressable_store",
    "cl_khr_extended_bit_ops",
    "cl_khr_expect_assume",
    "cl_khr_fp16",
    "cl_khr_fp64",
    "cl_khr_global_int32_base_atomics",
    "cl_khr_global_int32_extended_atomics",
    "cl_khr_int64_base_atomics",
    "cl_khr_int64_extended_atomics",
    "cl_khr_integer_dot_product",
    "cl_khr_local_int32_base_atomics",
    "cl_khr_local_int32_extended_atomics",
    "cl_khr_select_fprounding_mode",
    "cl_khr_work_group_uniform_arithmetic",
    "cl_ext_float_atomics",
    "cl_amd_media_ops",
    "cl_amd_media_ops2",
    "cl_amd_popcnt",
    "cl_nv_compiler_options",
    "cl_nv_pragma_unroll",
};

// Optional features of OpenCL C whose host side is not offered.
constexpr std::string_view kHiddenFeatures[] = {
    "__opencl_c_pipes",
    "__opencl_c_device_enqueue",
};
constexpr std::string_view kImageFeatures[] = {
    "__opencl_c_images",
    "__opencl_c_3d_image_writes",
    "__opencl_c_read_write_images",
};
constexpr std::string_view kImageExtensions[] = {
    "cl_khr_3d_image_writes",
    "cl_khr_depth_images",
    "cl_khr_image2d_from_buffer",
};

constexpr std::string_view kIlExtension = "cl_khr_il_program";
constexpr std::string_view kSubGroupExtension = "cl_khr_subgroups";
constexpr std::string_view kSubGroupFeature = "__opencl_c_subgroups";

template <typename List>
bool Contains(const List& list, std::string_view word) {
  return std::find(std::begin(list), std::end(list), word) != std::end(list);
}

// The words that `keep` wants.
template <typename Keep>
std::string FilterWords(std::string_view words, const Keep& keep) {
  std::string kept;
  while (!words.empty()) {
    const std::size_t end = std::min(words.find(' '), words.size());
    const std::string_view word = words.substr(0, end);
    words.remove_prefix(std::min(end + 1, words.size()));
    if (keep(word)) kept += (kept.empty() ? "" : " ") + std::string(word);
  }
  return kept;
}

bool HasWord(std::string_view words, std::string_view word) {
  return !FilterWords(words, [word](std::string_view other) { return other == word; }).empty();
}

// Keeps the rows of an array of cl_name_version that `keep` wants.
template <typename Keep>
ByteVector FilterNames(const ByteVector& rows, const Keep& keep) {
  ByteVector kept;
  for (std::size_t at = 0; at + sizeof(cl_name_version) <= rows.size(); at += sizeof(cl_name_version)) {
    cl_name_version row;
    std::memcpy(&row, rows.data() + at, sizeof row);
    if (keep(std::string_view(row.name, strnlen(row.name, sizeof row.name)))) {
      kept.insert(kept.end(), rows.begin() + static_cast<std::ptrdiff_t>(at),
                  rows.begin() + static_cast<std::ptrdiff_t>(at + sizeof row));
    }
  }
  return kept;
}

}  // namespace

void Device::Dispose(Device* device) {
  device->MarkDead();
  device->connection().Retire(wire::ObjectKind::kDevice, device->name_);
  delete device;
}

bool Device::Open() {
  State state = state_.load(std::memory_order_acquire);
  if (state == State::kUnopened) {
    const std::lock_guard lock(opening_);
    state = state_.load(std::memory_order_acquire);
    if (state == State::kUnopened) {
      const Status described = Describe();
      if (!described.ok()) {
        Log(LogLevel::kError, "shim", "cannot use the vGPU",
            {{"vgpu", target_.vgpu}, {"error", ToString(described.error())}});
      }
      state = described.ok() ? State::kOpen : State::kFailed;
      state_.store(state, std::memory_order_release);
    }
  }
  return state == State::kOpen;
}

Status Device::Describe() {
  Connection::Options options;
  options.target = target_;
  options.program = process_.program;
  options.random = &process_.random;
  options.callbacks = &process_.callbacks;
  options.trace_directory = process_.trace_directory;
  options.trace_payloads = process_.trace_payloads;
  options.lost_status = CL_OUT_OF_RESOURCES;
  options.waits_failed_status = CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST;
  options.on_lost = [](void* self, const Error& error) { static_cast<Device*>(self)->OnLost(error); };
  options.on_lost_argument = this;
  if (!is_part()) {
    TULLE_ASSIGN_OR_RETURN(connection_, Connection::Open(options));
  }

  cl_int status = CL_SUCCESS;
  auto take = [&](const wire::opencl::DescribeDeviceReply& reply) {
    status = reply.status;
    for (const wire::opencl::InfoValue& info : reply.infos.items) {
      infos_[info.name].assign(info.value.bytes.begin(), info.value.bytes.end());
    }
  };
  WaitFor<wire::opencl::DescribeDeviceReply, decltype(take)> wait(take);
  const bool answered = is_part() ? connection().Call(wire::opencl::DescribeSubDevice{{name_}}, wait)
                                  : connection().Call(wire::opencl::DescribeDevice{}, wait);
  if (!answered) {
    return Error{Code::kUnavailable, "the session ended while the device was asked for its properties",
                 Scope::kSession};
  }
  if (status != CL_SUCCESS) {
    return Error{Code::kUnavailable,
                 "the device gives no properties: OpenCL status " + std::to_string(status)};
  }
  Adapt();
  return OkStatus();
}

// From what the native device says to what is true of it from here.
void Device::Adapt() {
  Set<cl_platform_id>(CL_DEVICE_PLATFORM, ThePlatform());
  Set<cl_device_id>(CL_DEVICE_PARENT_DEVICE, is_part() ? ToHandle(parent_.get()) : nullptr);

  const cl_ulong memory = std::min<cl_ulong>(Info<cl_ulong>(CL_DEVICE_GLOBAL_MEM_SIZE, CL_ULONG_MAX),
                                             connection().limits().memory_limit_bytes);
  Set<cl_ulong>(CL_DEVICE_GLOBAL_MEM_SIZE, memory);
  // Programs that take one buffer of that size need others beside it.
  Set<cl_ulong>(CL_DEVICE_MAX_MEM_ALLOC_SIZE,
                std::min(memory / 4 * 3, Info<cl_ulong>(CL_DEVICE_MAX_MEM_ALLOC_SIZE, memory)));
  Set<cl_bool>(CL_DEVICE_HOST_UNIFIED_MEMORY, CL_FALSE);  // a map is a transfer

  // What was compiled apart is linked where it is compiled.
  Set<cl_bool>(CL_DEVICE_LINKER_AVAILABLE, Info<cl_bool>(CL_DEVICE_COMPILER_AVAILABLE));

  AdaptImages();
  AdaptPartition();
  AdaptIl();
  AdaptSubGroups();

  // A worker that is too old to know of it shows its device's own.
  has_svm_ = (Info<cl_device_svm_capabilities>(CL_DEVICE_SVM_CAPABILITIES) &
              CL_DEVICE_SVM_COARSE_GRAIN_BUFFER) != 0 &&
             Agreed(wire::Capability::kSvm) && SvmSpace::Available();
  Set<cl_device_svm_capabilities>(CL_DEVICE_SVM_CAPABILITIES,
                                  has_svm_ ? CL_DEVICE_SVM_COARSE_GRAIN_BUFFER : 0);

  // Optional features that are not offered.
  Set<cl_bool>(CL_DEVICE_PIPE_SUPPORT, CL_FALSE);
  for (const cl_device_info name :
       {CL_DEVICE_MAX_PIPE_ARGS, CL_DEVICE_PIPE_MAX_ACTIVE_RESERVATIONS, CL_DEVICE_PIPE_MAX_PACKET_SIZE,
        CL_DEVICE_QUEUE_ON_DEVICE_PREFERRED_SIZE, CL_DEVICE_QUEUE_ON_DEVICE_MAX_SIZE,
        CL_DEVICE_MAX_ON_DEVICE_QUEUES, CL_DEVICE_MAX_ON_DEVICE_EVENTS}) {
    Set<cl_uint>(name, 0);
  }
  Set<cl_command_queue_properties>(CL_DEVICE_QUEUE_ON_DEVICE_PROPERTIES, 0);
  Set<cl_device_device_enqueue_capabilities>(CL_DEVICE_DEVICE_ENQUEUE_CAPABILITIES, 0);
  Set<cl_device_exec_capabilities>(CL_DEVICE_EXECUTION_CAPABILITIES, CL_EXEC_KERNEL);
  SetText(CL_DEVICE_BUILT_IN_KERNELS, "");
  infos_[CL_DEVICE_BUILT_IN_KERNELS_WITH_VERSION].clear();

  infos_.erase(0x40e0);  // CL_DEVICE_SPIR_VERSIONS

  const ByteVector& extensions = infos_[CL_DEVICE_EXTENSIONS];
  std::string_view words = AsText(extensions);
  words = words.substr(0, words.find('\0'));
  const auto is_known = [this](std::string_view name) {
    return Contains(kExtensions, name) || (has_images_ && Contains(kImageExtensions, name)) ||
           (takes_il_ && name == kIlExtension) || (has_sub_groups_ && name == kSubGroupExtension);
  };
  has_images_in_buffers_ = has_images_ && HasWord(words, "cl_khr_image2d_from_buffer");
  SetText(CL_DEVICE_EXTENSIONS, FilterWords(words, is_known));
  infos_[CL_DEVICE_EXTENSIONS_WITH_VERSION] =
      FilterNames(infos_[CL_DEVICE_EXTENSIONS_WITH_VERSION], is_known);
  infos_[CL_DEVICE_OPENCL_C_FEATURES] =
      FilterNames(infos_[CL_DEVICE_OPENCL_C_FEATURES], [this](std::string_view name) {
        return !Contains(kHiddenFeatures, name) && (has_images_ || !Contains(kImageFeatures, name)) &&
               (has_sub_groups_ || name != kSubGroupFeature);
      });

  limits_.max_allocation_bytes = Info<cl_ulong>(CL_DEVICE_MAX_MEM_ALLOC_SIZE);
  limits_.max_work_group_size = Info<std::size_t>(CL_DEVICE_MAX_WORK_GROUP_SIZE);
  const ByteVector& sizes = infos_[CL_DEVICE_MAX_WORK_ITEM_SIZES];
  if (!sizes.empty()) {  // a worker may leave it out
    std::memcpy(limits_.max_work_item_sizes.data(), sizes.data(),
                std::min(sizes.size(), sizeof limits_.max_work_item_sizes));
  }
  limits_.local_memory_bytes = Info<cl_ulong>(CL_DEVICE_LOCAL_MEM_SIZE);
  limits_.empty_ranges = AsText(infos_[CL_DEVICE_VERSION]) >= "OpenCL 2.1";
  limits_.non_uniform_work_groups = Info<cl_bool>(CL_DEVICE_NON_UNIFORM_WORK_GROUP_SUPPORT) != CL_FALSE;
}

// As the device has it, unless the worker is too old to know of its parts.
void Device::AdaptPartition() {
  if (has_parts()) return;
  Set<cl_uint>(CL_DEVICE_PARTITION_MAX_SUB_DEVICES, 0);
  Set<cl_device_partition_property>(CL_DEVICE_PARTITION_PROPERTIES, 0);
  Set<cl_device_affinity_domain>(CL_DEVICE_PARTITION_AFFINITY_DOMAIN, 0);
  infos_[CL_DEVICE_PARTITION_TYPE].clear();
}

// As the device has them, unless the worker is too old to know of images.
void Device::AdaptImages() {
  has_images_ = Info<cl_bool>(CL_DEVICE_IMAGE_SUPPORT) != CL_FALSE && Agreed(wire::Capability::kImages);
  if (has_images_) {
    limits_.images = {.width_2d = Info<std::size_t>(CL_DEVICE_IMAGE2D_MAX_WIDTH),
                      .height_2d = Info<std::size_t>(CL_DEVICE_IMAGE2D_MAX_HEIGHT),
                      .width_3d = Info<std::size_t>(CL_DEVICE_IMAGE3D_MAX_WIDTH),
                      .height_3d = Info<std::size_t>(CL_DEVICE_IMAGE3D_MAX_HEIGHT),
                      .depth_3d = Info<std::size_t>(CL_DEVICE_IMAGE3D_MAX_DEPTH),
                      .layers = Info<std::size_t>(CL_DEVICE_IMAGE_MAX_ARRAY_SIZE),
                      .width_of_buffer = Info<std::size_t>(CL_DEVICE_IMAGE_MAX_BUFFER_SIZE)};
    return;
  }
  Set<cl_bool>(CL_DEVICE_IMAGE_SUPPORT, CL_FALSE);
  for (const cl_device_info name :
       {CL_DEVICE_MAX_READ_IMAGE_ARGS, CL_DEVICE_MAX_WRITE_IMAGE_ARGS, CL_DEVICE_MAX_READ_WRITE_IMAGE_ARGS,
        CL_DEVICE_MAX_SAMPLERS, CL_DEVICE_IMAGE_PITCH_ALIGNMENT, CL_DEVICE_IMAGE_BASE_ADDRESS_ALIGNMENT}) {
    Set<cl_uint>(name, 0);
  }
  for (const cl_device_info name :
       {CL_DEVICE_IMAGE2D_MAX_WIDTH, CL_DEVICE_IMAGE2D_MAX_HEIGHT, CL_DEVICE_IMAGE3D_MAX_WIDTH,
        CL_DEVICE_IMAGE3D_MAX_HEIGHT, CL_DEVICE_IMAGE3D_MAX_DEPTH, CL_DEVICE_IMAGE_MAX_BUFFER_SIZE,
        CL_DEVICE_IMAGE_MAX_ARRAY_SIZE}) {
    Set<std::size_t>(name, 0);
  }
}

bool Device::Agreed(wire::Capability capability) const {
  return (connection().limits().capabilities & static_cast<std::uint64_t>(capability)) != 0;
}

// Of the languages that the device takes, SPIR-V, which is known here.
void Device::AdaptIl() {
  constexpr std::string_view kSpirv = "SPIR-V";
  const ByteVector& versions = infos_[CL_DEVICE_IL_VERSION];
  std::string_view words = AsText(versions);
  words = words.substr(0, words.find('\0'));
  std::string kept;
  if (Agreed(wire::Capability::kIl)) {
    kept = FilterWords(words, [&](std::string_view word) { return word.starts_with(kSpirv); });
  }
  takes_il_ = !kept.empty();
  SetText(CL_DEVICE_IL_VERSION, kept);
  infos_[CL_DEVICE_ILS_WITH_VERSION] = FilterNames(
      infos_[CL_DEVICE_ILS_WITH_VERSION], [&](std::string_view name) { return takes_il_ && name == kSpirv; });
}

void Device::AdaptSubGroups() {
  has_sub_groups_ = Info<cl_uint>(CL_DEVICE_MAX_NUM_SUB_GROUPS) != 0 && Agreed(wire::Capability::kSubGroups);
  if (has_sub_groups_) return;
  Set<cl_uint>(CL_DEVICE_MAX_NUM_SUB_GROUPS, 0);
  Set<cl_bool>(CL_DEVICE_SUB_GROUP_INDEPENDENT_FORWARD_PROGRESS, CL_FALSE);
}

const std::vector<wire::opencl::ImageFormat>* Device::ImageFormats(const Context& context,
                                                                   wire::opencl::ImageAccess access,
                                                                   wire::opencl::ImageType type) {
  const std::lock_guard lock(formats_mutex_);
  const auto found = formats_.find({access, type});
  if (found != formats_.end()) return &found->second;
  cl_int status = CL_SUCCESS;
  std::vector<wire::opencl::ImageFormat> formats;
  auto take = [&](const wire::opencl::GetImageFormatsReply& reply) {
    status = reply.status;
    formats.assign(reply.formats.items.begin(), reply.formats.items.end());
  };
  WaitFor<wire::opencl::GetImageFormatsReply, decltype(take)> wait(take);
  wire::opencl::GetImageFormats message;
  message.context = context.wire();
  message.access = {access};
  message.type = {type};
  if (!connection().Call(message, wait) || status != CL_SUCCESS) return nullptr;
  return &formats_.emplace(std::pair{access, type}, std::move(formats)).first->second;
}

void Device::SetText(cl_device_info name, std::string_view text) {
  ByteVector& value = infos_[name];
  value.assign(AsBytes(text).begin(), AsBytes(text).end());
  value.push_back(std::byte{0});
}

bool Device::Divides(cl_device_partition_property property) const {
  const auto found = infos_.find(CL_DEVICE_PARTITION_PROPERTIES);
  if (found == infos_.end() || property == 0) return false;
  for (std::size_t at = 0; at + sizeof property <= found->second.size(); at += sizeof property) {
    if (std::memcmp(found->second.data() + at, &property, sizeof property) == 0) return true;
  }
  return false;
}

cl_int Device::GetInfo(cl_device_info name, const InfoOut& out) const {
  if (name == CL_DEVICE_AVAILABLE) return out.Value<cl_bool>(connection().lost() ? CL_FALSE : CL_TRUE);
  if (name == CL_DEVICE_REFERENCE_COUNT) return out.Value<cl_uint>(is_part() ? handles() : 1);
  const auto found = infos_.find(name);
  if (found == infos_.end()) return CL_INVALID_VALUE;
  return out.Put(found->second.data(), found->second.size());
}

// Of vGPUs, to which parts refer.
void Device::Register(Context* context) {
  const std::lock_guard lock(contexts_mutex_);
  contexts_.insert(context);
}
void Device::Unregister(Context* context) {
  const std::lock_guard lock(contexts_mutex_);
  contexts_.erase(context);
}

void Device::OnLost(const Error& error) {
  const std::lock_guard lock(contexts_mutex_);
  for (Context* context : contexts_) context->OnDeviceLost(error);
}

void Device::AbandonAfterFork() {
  if (state_.load(std::memory_order_acquire) == State::kOpen) connection_->AbandonAfterFork();
}

void Device::Leave(Duration limit) {
  if (state_.load(std::memory_order_acquire) == State::kOpen) connection_->Leave(limit);
}

cl_int GetDeviceIDs(cl_platform_id platform, cl_device_type type, cl_uint num_entries, cl_device_id* devices,
                    cl_uint* num_devices) {
  if (!IsPlatform(platform)) return CL_INVALID_PLATFORM;
  if ((num_entries == 0 && devices != nullptr) || (devices == nullptr && num_devices == nullptr))
    return CL_INVALID_VALUE;
  constexpr cl_device_type kKnown = CL_DEVICE_TYPE_DEFAULT | CL_DEVICE_TYPE_CPU | CL_DEVICE_TYPE_GPU |
                                    CL_DEVICE_TYPE_ACCELERATOR | CL_DEVICE_TYPE_CUSTOM;
  if (type != CL_DEVICE_TYPE_ALL && (type == 0 || (type & ~kKnown) != 0)) return CL_INVALID_DEVICE_TYPE;
  cl_uint count = 0;
  for (const auto& device : TheProcess().devices) {
    if (!device->Open()) continue;
    const auto is = device->Info<cl_device_type>(CL_DEVICE_TYPE) & ~CL_DEVICE_TYPE_DEFAULT;
    const bool is_default = count == 0 && (type & CL_DEVICE_TYPE_DEFAULT) != 0 && type != CL_DEVICE_TYPE_ALL;
    const bool wanted =
        type == CL_DEVICE_TYPE_ALL ? is != CL_DEVICE_TYPE_CUSTOM : is_default || (type & is) != 0;
    if (!wanted) continue;
    if (devices != nullptr && count < num_entries) devices[count] = ToHandle(device.get());
    ++count;
  }
  if (num_devices != nullptr) *num_devices = count;
  return count == 0 ? CL_DEVICE_NOT_FOUND : CL_SUCCESS;
}

cl_int GetDeviceInfo(cl_device_id handle, cl_device_info name, std::size_t size, void* value,
                     std::size_t* size_ret) {
  const Device* device = FromHandle<Device>(handle);
  if (device == nullptr) return CL_INVALID_DEVICE;
  return device->GetInfo(name, InfoOut(size, value, size_ret));
}

// Root devices are not counted.
cl_int RetainDevice(cl_device_id handle) {
  const Device* device = FromHandle<Device>(handle);
  if (device == nullptr) return CL_INVALID_DEVICE;
  return device->is_part() ? RetainHandle<Device>(handle) : CL_SUCCESS;
}
cl_int ReleaseDevice(cl_device_id handle) {
  const Device* device = FromHandle<Device>(handle);
  if (device == nullptr) return CL_INVALID_DEVICE;
  return device->is_part() ? ReleaseHandle<Device>(handle) : CL_SUCCESS;
}

cl_int CreateSubDevices(cl_device_id handle, const cl_device_partition_property* properties,
                        cl_uint num_entries, cl_device_id* devices, cl_uint* num_devices) {
  Device* parent = FromHandle<Device>(handle);
  if (parent == nullptr) return CL_INVALID_DEVICE;
  if (properties == nullptr || (num_entries == 0 && devices != nullptr)) return CL_INVALID_VALUE;
  if (!parent->has_parts() || !parent->Divides(properties[0])) return CL_INVALID_VALUE;
  // One property, whose value is one word but for the list of counts, which has an end of its own.
  std::vector<wire::U64> words;
  std::size_t count = 2;
  if (properties[0] == CL_DEVICE_PARTITION_BY_COUNTS) {
    while (count < wire::kMaxPartitionProperties &&
           properties[count - 1] != CL_DEVICE_PARTITION_BY_COUNTS_LIST_END)
      ++count;
    if (count == wire::kMaxPartitionProperties) return CL_INVALID_DEVICE_PARTITION_COUNT;
  }
  if (properties[count] != 0) return CL_INVALID_VALUE;
  for (std::size_t i = 0; i < count; ++i) words.push_back(static_cast<wire::U64>(properties[i]));

  Connection& connection = parent->connection();
  wire::opencl::CountSubDevicesReply counted;
  auto take = [&](const wire::opencl::CountSubDevicesReply& reply) { counted = reply; };
  WaitFor<wire::opencl::CountSubDevicesReply, decltype(take)> wait(take);
  if (!connection.Call(wire::opencl::CountSubDevices{parent->wire(), {words}}, wait))
    return CL_OUT_OF_RESOURCES;
  if (counted.status != CL_SUCCESS) return counted.status;
  if (devices != nullptr) {
    if (num_entries < counted.count) return CL_INVALID_VALUE;
    std::vector<Ref<Device>> parts;
    for (cl_uint i = 0; i < counted.count; ++i) {
      const wire::Handle name = connection.NewHandle();
      if (name.null()) return CL_OUT_OF_RESOURCES;
      parts.push_back(Ref<Device>::Adopt(new Device(*parent, name)));
      const wire::opencl::CreateSubDevice message{parent->wire(), {words}, i, {name}};
      const cl_int status = connection.CallForStatus(message, CL_OUT_OF_RESOURCES);
      if (status != CL_SUCCESS) return status;
      if (!parts.back()->Open()) return CL_OUT_OF_RESOURCES;
    }
    for (cl_uint i = 0; i < counted.count; ++i) devices[i] = ToHandle(parts[i].release());
  }
  if (num_devices != nullptr) *num_devices = counted.count;
  return CL_SUCCESS;
}

}  // namespace tulle::shim::opencl
