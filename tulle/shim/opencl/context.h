// Contexts: of one vGPU in this version, and of any parts of it.
#pragma once

#include <map>
#include <mutex>
#include <unordered_set>
#include <vector>

#include "tulle/shim/opencl/box.h"
#include "tulle/shim/opencl/destructor_callbacks.h"
#include "tulle/shim/opencl/device.h"

namespace tulle::shim::opencl {

class Queue;

using ContextNotify = void(CL_CALLBACK*)(const char*, const void*, std::size_t, void*);

class Context final : public Object {
 public:
  // The devices, at least one, are of one vGPU.
  Context(std::vector<Ref<Device>> devices, wire::Handle name, std::vector<cl_context_properties> properties,
          ContextNotify notify, void* user_data);
  static void Dispose(Context* context);

  const std::vector<Ref<Device>>& devices() const { return devices_; }
  // The first: they differ in nothing but their number of compute units.
  Device& device() const { return *devices_.front(); }
  bool Has(const Device* device) const;
  Connection& connection() const { return device().connection(); }
  CallbackThread& callbacks() const { return device().process().callbacks; }
  wire::Ref<wire::ObjectKind::kContext> wire() const { return {name_}; }
  const std::vector<cl_context_properties>& properties() const { return properties_; }
  DestructorCallbacks<cl_context>& destructor_callbacks() { return destructor_callbacks_; }

  // What events of this context that belong to no queue are owned by.
  EventOwner event_owner();

  // From whatever thread noticed it: posts the program's notification.
  void OnDeviceLost(const Error& error);

  // The memory objects and samplers that are alive, to tell eight bytes that are one from eight bytes that
  // are a number.
  void AddArgument(Object* object, wire::Handle name);
  void RemoveArgument(Object* object, wire::Handle name);
  bool HasArgument(const void* address);
  // The one of this name, which is a T, kept alive; empty when it is gone.
  template <typename T>
  Ref<T> Argument(wire::Handle name) {
    const std::lock_guard lock(arguments_mutex_);
    const auto found = arguments_by_name_.find(name);
    // One that is dying takes itself out before its memory goes.
    if (found == arguments_by_name_.end() || !found->second->TryAddRef()) return {};
    return Ref<T>::Adopt(static_cast<T*>(found->second));
  }

  // The program's memory that commands are still to fill.
  HostSpans& incoming() { return incoming_; }

  // The queues that are alive; see Queue::NoteUnawaited.
  void AddQueue(Queue* queue);
  void RemoveQueue(Queue* queue);
  bool has_one_queue() const { return queue_count_.load() == 1; }
  std::vector<Ref<Queue>> Queues();
  // Whether all commands so far are known to have completed.
  bool idle();

 private:
  ~Context() = default;

  const std::vector<Ref<Device>> devices_;
  const wire::Handle name_;
  const std::vector<cl_context_properties> properties_;  // as given, with the 0 that ends them; or empty
  const ContextNotify notify_;
  void* const user_data_;
  DestructorCallbacks<cl_context> destructor_callbacks_;
  std::mutex arguments_mutex_;
  std::unordered_set<const void*> arguments_;          // guarded by arguments_mutex_
  std::map<wire::Handle, Object*> arguments_by_name_;  // the same; guarded by arguments_mutex_
  HostSpans incoming_;
  std::atomic<std::size_t> queue_count_{0};
  std::mutex queues_mutex_;
  std::unordered_set<Queue*> queues_;   // guarded by queues_mutex_
  std::atomic<bool> left_busy_{false};  // a queue is gone whose commands may run still
};
// The answer to a question for devices.
cl_int PutDevices(const InfoOut& out, const std::vector<Ref<Device>>& devices);
TULLE_API_OBJECT(Context, cl_context, ObjectType::kContext, CL_INVALID_CONTEXT);

}  // namespace tulle::shim::opencl
