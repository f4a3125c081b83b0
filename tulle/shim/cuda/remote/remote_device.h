// A vGPU as the entry points see a device: what a worker's backend does with its own, told over a session.
//
// All of the device's addresses are in a range that this process keeps free of everything else, so that what
// is an address of the device is no address here. Memory of the host that a stream reads when it gets there
// is sent at once where that is the same: while nothing that has been begun may still change it.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <unordered_map>

#include "tulle/cuda/device.h"
#include "tulle/shim/core/connection.h"
#include "tulle/shim/cuda/remote/vgpu_memory.h"

namespace tulle::shim::cuda {

class RemoteDevice final : public tulle::cuda::Device {
 public:
  // kFailedPrecondition: the vGPU's device has no CUDA. `options` need target, program, random and callbacks.
  static Result<std::unique_ptr<RemoteDevice>> Open(Connection::Options options);
  ~RemoteDevice() override;

  // In the child of a fork, which forgets this device.
  void AbandonAfterFork() { connection_->AbandonAfterFork(); }
  void Leave(Duration limit) { connection_->Leave(limit); }

  using CUresult = tulle::cuda::CUresult;
  using CUdeviceptr = tulle::cuda::CUdeviceptr;
  using ContextId = tulle::cuda::ContextId;
  using StreamId = tulle::cuda::StreamId;
  using EventId = tulle::cuda::EventId;
  using ModuleId = tulle::cuda::ModuleId;
  using FunctionId = tulle::cuda::FunctionId;
  using Stream = tulle::cuda::Stream;

  const tulle::cuda::DeviceProperties& properties() const override { return properties_; }
  CUresult CreateContext(ContextId* context) override;
  CUresult DestroyContext(ContextId context) override;
  CUresult SynchronizeContext(ContextId context) override;
  CUresult GetMemoryInfo(ContextId context, std::uint64_t* free_bytes, std::uint64_t* total_bytes) override;
  CUresult AllocateExportable(ContextId context, std::uint64_t bytes, CUdeviceptr* address) override;
  CUresult ExportAllocation(ContextId context, CUdeviceptr address, bool writable, const std::string& tenant,
                            std::string* token) override;
  CUresult ImportAllocation(ContextId context, const std::string& token, CUdeviceptr* address,
                            std::uint64_t* bytes) override;
  CUresult RevokeExport(ContextId context, const std::string& token) override;
  CUresult Allocate(ContextId context, std::uint64_t bytes, CUdeviceptr* address) override;
  CUresult Free(ContextId context, CUdeviceptr address) override;
  CUresult FreeAsync(const Stream& stream, CUdeviceptr address) override;
  bool FindMemory(CUdeviceptr address, ContextId* context, CUdeviceptr* base, std::uint64_t* bytes) override;
  CUresult LoadModule(ContextId context, ByteView image, ModuleId* module, std::string* log) override;
  CUresult UnloadModule(ContextId context, ModuleId module) override;
  CUresult FindFunction(ContextId context, ModuleId module, const std::string& name, FunctionId* function,
                        tulle::cuda::FunctionInfo* info) override;
  CUresult FindVariable(ContextId context, ModuleId module, const std::string& name, CUdeviceptr* address,
                        std::uint64_t* bytes) override;
  CUresult CreateStream(ContextId context, unsigned flags, int priority, StreamId* stream) override;
  CUresult DestroyStream(const Stream& stream) override;
  CUresult SynchronizeStream(const Stream& stream) override;
  CUresult QueryStream(const Stream& stream) override;
  CUresult Launch(const Stream& stream, FunctionId function, const tulle::cuda::LaunchShape& shape,
                  ByteView parameters) override;
  CUresult Copy(const Stream& stream, const tulle::cuda::CopyShape& shape,
                tulle::cuda::CopyMode mode) override;
  CUresult Fill(const Stream& stream, const tulle::cuda::FillShape& shape) override;
  CUresult CallHost(const Stream& stream, void (*function)(void* argument, CUresult result),
                    void* argument) override;
  CUresult CreateEvent(ContextId context, unsigned flags, EventId* event) override;
  CUresult DestroyEvent(ContextId context, EventId event) override;
  CUresult RecordEvent(const Stream& stream, EventId event) override;
  CUresult WaitForEvent(const Stream& stream, EventId event) override;
  CUresult QueryEvent(ContextId context, EventId event) override;
  CUresult SynchronizeEvent(ContextId context, EventId event) override;
  CUresult GetElapsedTime(ContextId context, EventId start, EventId end, float* milliseconds) override;

 private:
  struct Pending;
  struct RemoteContext;
  struct RemoteModule;
  class Download;
  struct DownloadPiece;
  struct StreamEnd;
  struct Memory {
    std::uint64_t bytes = 0;
    ContextId context{};
    ModuleId module{};  // whose variable it is; 0: none's
    bool is_variable() const { return module != ModuleId{}; }
  };

  explicit RemoteDevice(Connection::Options options);
  Status Start();
  Status Describe();

  std::shared_ptr<RemoteContext> Find(ContextId context) const;
  // Of a stream; null where its context is gone.
  std::shared_ptr<RemoteContext> Find(const Stream& stream, wire::Handle* handle) const;
  // What was last recorded for an event; null: nothing was.
  CUresult FindRecorded(EventId event, Ref<Event>* recorded) const;
  // That an allocation of the context's is none any more.
  CUresult Forget(ContextId context, CUdeviceptr address);
  // What the worker's status means for the context.
  CUresult Heard(RemoteContext& context, std::int32_t status) const;
  bool has_exports() const {
    return wire::Has(connection_->limits().capabilities, wire::Capability::kExports);
  }

  // Sends a command of a stream; it leaves soon. The first whatever the context's error is: what it names is
  // sent in any case, so that the worker knows of what is then let go of.
  template <wire::Message M>
  CUresult Send(RemoteContext& context, wire::Handle stream, const M& message, Attached attached = {});
  template <wire::Message M>
  CUresult Enqueue(RemoteContext& context, wire::Handle stream, const M& message, Attached attached = {});

  CUresult FindAside(ContextId id, RemoteContext& context, wire::Handle* aside);
  CUresult Upload(RemoteContext& context, wire::Handle stream, const tulle::cuda::CopyShape& shape,
                  bool blocking);
  CUresult StartDownload(const std::shared_ptr<RemoteContext>& context, wire::Handle stream,
                         const tulle::cuda::CopyShape& shape, std::shared_ptr<Download>* download);
  // Returns when it is all there.
  CUresult DownloadNow(const std::shared_ptr<RemoteContext>& context, wire::Handle stream,
                       const tulle::cuda::CopyShape& shape);
  // Calls f once the stream gets there, in the callback thread; the stream goes on when it has returned.
  CUresult AtStream(const std::shared_ptr<RemoteContext>& context, wire::Handle stream,
                    std::function<void(CUresult)> f);

  Connection::Options options_;
  std::unique_ptr<Connection> connection_;
  tulle::cuda::DeviceProperties properties_;
  std::uint64_t arena_address_ = 0, arena_bytes_ = 0;
  std::unique_ptr<VgpuMemory> vgpu_memory_;  // fixed once the device is open
  const std::shared_ptr<Pending> pending_;

  mutable std::shared_mutex mutex_;
  std::uint64_t last_id_ = 0;  // guarded by mutex_, as all that follows
  std::map<ContextId, std::shared_ptr<RemoteContext>> contexts_;
  std::map<CUdeviceptr, Memory> memory_;  // by where it begins
  std::unordered_map<ModuleId, std::shared_ptr<RemoteModule>> modules_;
  struct RemoteEvent {
    ContextId context{};
    Ref<Event> recorded;  // null: never
  };
  std::unordered_map<EventId, RemoteEvent> events_;
};

}  // namespace tulle::shim::cuda
