#include "tulle/shim/opencl/sampler.h"

#include "tulle/shim/opencl/entry_points.h"

namespace tulle::shim::opencl {
namespace {

cl_sampler MakeSampler(cl_context context_handle, const Sampler::Properties& properties,
                       std::vector<cl_sampler_properties> list, cl_int* error) {
  Context* context = FromHandle<Context>(context_handle);
  if (context == nullptr) return Fail(error, CL_INVALID_CONTEXT);
  if (!context->device().has_images()) return Fail(error, CL_INVALID_OPERATION);
  const auto [normalized, addressing, filter] = properties;
  // Coordinates repeat from 0 to 1.
  const bool repeats = addressing == CL_ADDRESS_REPEAT || addressing == CL_ADDRESS_MIRRORED_REPEAT;
  if ((normalized != CL_TRUE && normalized != CL_FALSE) || (repeats && normalized == CL_FALSE) ||
      addressing < CL_ADDRESS_NONE || addressing > CL_ADDRESS_MIRRORED_REPEAT ||
      (filter != CL_FILTER_NEAREST && filter != CL_FILTER_LINEAR)) {
    return Fail(error, CL_INVALID_VALUE);
  }
  Connection& connection = context->connection();
  const wire::Handle name = connection.NewHandle();
  if (name.null()) return Fail(error, CL_OUT_OF_RESOURCES);
  Ref<Sampler> sampler = Ref<Sampler>::Adopt(new Sampler(*context, name, properties, std::move(list)));
  wire::opencl::CreateSampler message;
  message.context = context->wire();
  message.sampler = {name};
  message.normalized = normalized == CL_TRUE ? 1 : 0;
  message.addressing = {static_cast<wire::opencl::Addressing>(addressing - wire::opencl::kAddressingBase)};
  message.filter = {static_cast<wire::opencl::Filter>(filter - wire::opencl::kFilterBase)};
  if (!connection.Submit(message)) return Fail(error, CL_OUT_OF_RESOURCES);
  return Made(error, std::move(sampler));
}

}  // namespace

Sampler::Sampler(Context& context, wire::Handle name, const Properties& properties,
                 std::vector<cl_sampler_properties> list)
    : Object(&Dispatch(), ObjectType::kSampler),
      context_(&context),
      name_(name),
      properties_(properties),
      list_(std::move(list)) {
  context_->AddArgument(this, name_);
}

void Sampler::Dispose(Sampler* sampler) {
  sampler->MarkDead();
  sampler->context_->RemoveArgument(sampler, sampler->name_);
  sampler->context_->connection().Retire(wire::ObjectKind::kSampler, sampler->name_);
  delete sampler;
}

cl_sampler CreateSampler(cl_context context, cl_bool normalized, cl_addressing_mode addressing,
                         cl_filter_mode filter, cl_int* error) {
  return MakeSampler(context, {normalized, addressing, filter}, {}, error);
}

cl_sampler CreateSamplerWithProperties(cl_context context, const cl_sampler_properties* properties,
                                       cl_int* error) {
  Sampler::Properties wanted;
  std::vector<cl_sampler_properties> list;
  if (properties != nullptr) {
    for (; *properties != 0; properties += 2) {
      for (std::size_t i = 0; i < list.size(); i += 2) {
        if (list[i] == properties[0]) return Fail(error, CL_INVALID_VALUE);
      }
      switch (properties[0]) {
        case CL_SAMPLER_NORMALIZED_COORDS: wanted.normalized = static_cast<cl_bool>(properties[1]); break;
        case CL_SAMPLER_ADDRESSING_MODE:
          wanted.addressing = static_cast<cl_addressing_mode>(properties[1]);
          break;
        case CL_SAMPLER_FILTER_MODE: wanted.filter = static_cast<cl_filter_mode>(properties[1]); break;
        default: return Fail(error, CL_INVALID_VALUE);
      }
      list.insert(list.end(), properties, properties + 2);
    }
    list.push_back(0);
  }
  return MakeSampler(context, wanted, std::move(list), error);
}

cl_int RetainSampler(cl_sampler handle) { return RetainHandle<Sampler>(handle); }
cl_int ReleaseSampler(cl_sampler handle) { return ReleaseHandle<Sampler>(handle); }

cl_int GetSamplerInfo(cl_sampler handle, cl_sampler_info name, std::size_t size, void* value,
                      std::size_t* size_ret) {
  const Sampler* sampler = FromHandle<Sampler>(handle);
  if (sampler == nullptr) return CL_INVALID_SAMPLER;
  const InfoOut out(size, value, size_ret);
  switch (name) {
    case CL_SAMPLER_REFERENCE_COUNT: return out.Value<cl_uint>(sampler->handles());
    case CL_SAMPLER_CONTEXT: return out.Value<cl_context>(ToHandle(&sampler->context()));
    case CL_SAMPLER_NORMALIZED_COORDS: return out.Value(sampler->properties().normalized);
    case CL_SAMPLER_ADDRESSING_MODE: return out.Value(sampler->properties().addressing);
    case CL_SAMPLER_FILTER_MODE: return out.Value(sampler->properties().filter);
    case CL_SAMPLER_PROPERTIES: return out.Array(std::span(sampler->list()));
    default: return CL_INVALID_VALUE;
  }
}

}  // namespace tulle::shim::opencl
