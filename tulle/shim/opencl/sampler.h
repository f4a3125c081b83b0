// Samplers: how kernels read images between and beyond pixels. They hold nothing but their properties.
#pragma once

#include <vector>

#include "tulle/shim/opencl/context.h"
#include "tulle/wire/schema/opencl/image.h"

namespace tulle::shim::opencl {

class Sampler final : public Object {
 public:
  struct Properties {
    cl_bool normalized = CL_TRUE;
    cl_addressing_mode addressing = CL_ADDRESS_CLAMP;
    cl_filter_mode filter = CL_FILTER_NEAREST;
  };
  Sampler(Context& context, wire::Handle name, const Properties& properties,
          std::vector<cl_sampler_properties> list);
  static void Dispose(Sampler* sampler);

  Context& context() const { return *context_; }
  wire::Ref<wire::ObjectKind::kSampler> wire() const { return {name_}; }
  const Properties& properties() const { return properties_; }
  // As given to clCreateSamplerWithProperties, with the 0 that ends them; or empty.
  const std::vector<cl_sampler_properties>& list() const { return list_; }

 private:
  ~Sampler() = default;

  const Ref<Context> context_;
  const wire::Handle name_;
  const Properties properties_;
  const std::vector<cl_sampler_properties> list_;
};
TULLE_API_OBJECT(Sampler, cl_sampler, ObjectType::kSampler, CL_INVALID_SAMPLER);

}  // namespace tulle::shim::opencl
