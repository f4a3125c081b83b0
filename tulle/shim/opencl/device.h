// A vGPU as an OpenCL device. It is connected to and described once, when its infos are first needed; from
// then on every question about it is answered here. Or a part of one: a sub-device, which shares its
// connection.
#pragma once

#include <atomic>
#include <map>
#include <mutex>
#include <set>

#include "tulle/shim/core/connection.h"
#include "tulle/shim/opencl/platform.h"
#include "tulle/wire/schema/opencl/image.h"

namespace tulle::shim::opencl {

class Context;

class Device final : public Object {
 public:
  Device(Process& process, const session::Target& target)
      : Object(&Dispatch(), ObjectType::kDevice), process_(process), target_(target) {}

  // A part of `parent`, which the worker has by this name; Open() is still to be called.
  Device(Device& parent, wire::Handle name)
      : Object(&Dispatch(), ObjectType::kDevice),
        process_(parent.process_),
        target_(parent.target_),
        parent_(&parent),
        name_(name) {}
  // Ends a sub-device; others live as long as the process.
  static void Dispose(Device* device);

  // Connects and describes on the first call; true when that went well and the device can be shown.
  bool Open();

  // The rest needs Open() to have been true.
  Process& process() const { return process_; }
  Connection& connection() const { return *root().connection_; }
  // The vGPU that this is, or is a part of.
  const Device& root() const { return parent_ ? parent_->root() : *this; }
  Device& root() { return parent_ ? parent_->root() : *this; }
  bool is_part() const { return static_cast<bool>(parent_); }
  wire::OptRef<wire::ObjectKind::kDevice> wire() const { return {name_}; }
  // Whether CL_DEVICE_PARTITION_PROPERTIES has this one.
  bool Divides(cl_device_partition_property property) const;
  // Can be divided, or at least asked to.
  bool has_parts() const { return Agreed(wire::Capability::kSubDevices); }
  bool has_exports() const { return Agreed(wire::Capability::kExports); }
  cl_int GetInfo(cl_device_info name, const InfoOut& out) const;
  // The value of an info that is a T; `otherwise` when the device did not give one.
  template <typename T>
  T Info(cl_device_info name, T otherwise = {}) const {
    const auto found = infos_.find(name);
    if (found != infos_.end() && found->second.size() == sizeof(T)) {
      std::memcpy(&otherwise, found->second.data(), sizeof(T));
    }
    return otherwise;
  }

  // What is checked at every enqueue.
  struct Limits {
    std::uint64_t max_allocation_bytes = 0;
    std::size_t max_work_group_size = 0;
    std::array<std::size_t, 3> max_work_item_sizes{};
    bool non_uniform_work_groups = false;
    bool empty_ranges = false;             // kernels may be enqueued for no work-items: since OpenCL 2.1
    std::uint64_t local_memory_bytes = 0;  // of a work-group; 0: the device does not say
    wire::opencl::ImageLimits images;
  };
  const Limits& limits() const { return limits_; }

  // Shared virtual memory (coarse-grained buffers), or all calls about it are refused.
  bool has_svm() const { return has_svm_; }
  // Images and samplers, or all calls about them are refused.
  bool has_images() const { return has_images_; }
  // Programs of SPIR-V, or calls about them are refused.
  bool takes_il() const { return takes_il_; }
  bool has_sub_groups() const { return has_sub_groups_; }
  // 2D images in buffers (cl_khr_image2d_from_buffer).
  bool has_images_in_buffers() const { return has_images_in_buffers_; }
  // What the device is asked once for each access and type; any context will do. Null: the session is lost,
  // or the device does not say. Valid as long as the device.
  const std::vector<wire::opencl::ImageFormat>* ImageFormats(const Context& context,
                                                             wire::opencl::ImageAccess access,
                                                             wire::opencl::ImageType type);

  // Contexts that want to hear that the device is lost.
  void Register(Context* context);
  void Unregister(Context* context);

  // In the child of a fork, which forgets this device.
  void AbandonAfterFork();
  // The process ends: tells the worker, waits at most `limit`.
  void Leave(Duration limit);

 private:
  Status Describe();
  void Adapt();
  void AdaptImages();
  void AdaptPartition();
  void AdaptIl();
  void AdaptSubGroups();
  bool Agreed(wire::Capability capability) const;
  void OnLost(const Error& error);
  template <typename T>
  void Set(cl_device_info name, const T& value) {
    const auto* bytes = reinterpret_cast<const std::byte*>(&value);
    infos_[name].assign(bytes, bytes + sizeof value);
  }
  void SetText(cl_device_info name, std::string_view text);

  Process& process_;
  const session::Target target_;
  const Ref<Device> parent_;
  const wire::Handle name_;
  std::mutex opening_;
  enum class State { kUnopened, kOpen, kFailed };
  std::atomic<State> state_{State::kUnopened};
  std::unique_ptr<Connection> connection_;
  std::map<cl_device_info, ByteVector> infos_;  // fixed once open
  Limits limits_;
  bool has_svm_ = false;
  bool has_images_ = false;
  bool has_images_in_buffers_ = false;
  bool takes_il_ = false;
  bool has_sub_groups_ = false;
  std::mutex formats_mutex_;
  std::map<std::pair<wire::opencl::ImageAccess, wire::opencl::ImageType>,
           std::vector<wire::opencl::ImageFormat>>
      formats_;  // guarded by formats_mutex_; only ever grows
  std::mutex contexts_mutex_;
  std::set<Context*> contexts_;  // guarded by contexts_mutex_
};
TULLE_API_OBJECT(Device, cl_device_id, ObjectType::kDevice, CL_INVALID_DEVICE);

}  // namespace tulle::shim::opencl
