// The driver over the one null device.
#include "tulle/gpu/null/driver.h"

#include "tulle/gpu/null/null_backend_class.h"
#include "tulle/gpu/null/null_device.h"

namespace tulle::gpu::null {
namespace {

class NullCompiler final : public Compiler {
 public:
  CompileOutput Compile(wire::opencl::ProgramKind kind, ByteView text, const std::string&) override {
    return CompileNull(kind, text);
  }
  bool SurvivesCopies() const override { return true; }
};

class NullDriver final : public Driver {
 public:
  explicit NullDriver(const Options& options) : options_(options) {}

  Result<std::vector<DeviceInfo>> Probe(bool) override {
    DeviceInfo info;
    info.api = "OPENCL";
    info.name = kDeviceName;
    info.vendor = kVendor;
    info.platform = "null";
    info.driver_version = kDriverVersion;
    info.type = "GPU";
    info.memory_bytes = options_.memory_bytes;
    info.max_allocation_bytes = options_.max_allocation_bytes;
    info.compute_units = kComputeUnits;
    info.clock_mhz = 1000;
    info.protects_memory = true;
    info.compiler = kDriverVersion;
    return std::vector{info};
  }
  Result<std::unique_ptr<Backend>> OpenDevice(std::uint32_t index, Completions* completions) override {
    if (index != 0) return NoDevice(index);
    return std::unique_ptr<Backend>(MakeBackend(options_, completions));
  }
  Result<std::unique_ptr<Compiler>> OpenCompiler(std::uint32_t index) override {
    if (index != 0) return NoDevice(index);
    return std::unique_ptr<Compiler>(std::make_unique<NullCompiler>());
  }

 private:
  static Error NoDevice(std::uint32_t index) {
    return Error{Code::kNotFound, "there is no null device " + std::to_string(index) + ": the only one is 0",
                 Scope::kDevice};
  }

  const Options options_;
};

}  // namespace

std::unique_ptr<SteppedBackend> MakeBackend(const Options& options, Completions* completions) {
  return std::make_unique<NullBackend>(options, completions);
}

std::unique_ptr<Driver> OpenDriver(const Options& options) { return std::make_unique<NullDriver>(options); }

}  // namespace tulle::gpu::null
