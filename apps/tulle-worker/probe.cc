#include "apps/tulle-worker/probe.h"

#include <cstdio>

namespace tulle::app {
namespace {

void AppendString(std::string* out, const char* key, std::string_view value) {
  *out += out->size() == 1 ? "\"" : ",\"";
  *out += key;
  *out += "\":\"";
  for (const char c : value) {
    if (c == '"' || c == '\\') {
      *out += '\\';
      *out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char escaped[8];
      std::snprintf(escaped, sizeof escaped, "\\u%04x", static_cast<unsigned>(static_cast<unsigned char>(c)));
      *out += escaped;
    } else {
      *out += c;
    }
  }
  *out += '"';
}

void AppendRaw(std::string* out, const char* key, const std::string& value) {
  *out += out->size() == 1 ? "\"" : ",\"";
  *out += key;
  *out += "\":" + value;
}

}  // namespace

std::string ProbeLine(const gpu::DeviceInfo& device) {
  std::string line = "{";
  AppendRaw(&line, "index", std::to_string(device.index));
  AppendString(&line, "api", device.api);
  AppendString(&line, "cuda_device", device.cuda_device);
  AppendString(&line, "pci_address", device.pci_address);
  AppendString(&line, "name", device.name);
  AppendString(&line, "vendor", device.vendor);
  AppendString(&line, "platform", device.platform);
  AppendString(&line, "driver_version", device.driver_version);
  AppendString(&line, "type", device.type);
  AppendRaw(&line, "memory_bytes", std::to_string(device.memory_bytes));
  AppendRaw(&line, "max_allocation_bytes", std::to_string(device.max_allocation_bytes));
  AppendRaw(&line, "compute_units", std::to_string(device.compute_units));
  AppendRaw(&line, "clock_mhz", std::to_string(device.clock_mhz));
  AppendRaw(&line, "memory_bandwidth_bytes_per_s", std::to_string(device.memory_bandwidth_bytes_per_s));
  AppendRaw(&line, "fp32_flops", std::to_string(device.fp32_flops));
  AppendRaw(&line, "protects_memory", device.protects_memory ? "true" : "false");
  AppendString(&line, "compiler", device.compiler);
  return line + "}";
}

}  // namespace tulle::app
