#include "tulle/gpu/null/null_device.h"

#include <deque>

#include "tulle/gpu/null/null_image.h"

namespace tulle::gpu::null {
namespace {

// Collects properties; CL_DEVICE_ numbers are OpenCL's.
class Infos {
 public:
  void Text(std::uint32_t name, std::string_view text) {
    const ByteView bytes = AsBytes(text);
    ByteVector& value = values_.emplace_back(bytes.begin(), bytes.end());
    value.push_back(std::byte{0});
    infos_.push_back({name, {value}});
  }
  template <typename T>
  void Value(std::uint32_t name, T number) {
    const ByteView bytes = std::as_bytes(std::span(&number, 1));
    infos_.push_back({name, {values_.emplace_back(bytes.begin(), bytes.end())}});
  }
  ByteVector Encode() const {
    const wire::opencl::DescribeDeviceReply reply{0, {infos_}};
    ByteVector body(wire::EncodedSize(reply));
    wire::Encode(reply, body);
    return body;
  }

 private:
  std::deque<ByteVector> values_;
  std::vector<wire::opencl::InfoValue> infos_;
};

}  // namespace

ByteVector EncodeDeviceInfos(const Options& options) {
  using U32 = std::uint32_t;
  using U64 = std::uint64_t;
  Infos infos;
  infos.Value(0x1000, U64{1} << 2);        // TYPE: GPU
  infos.Value(0x1001, U32{0});             // VENDOR_ID
  infos.Value(0x1002, kComputeUnits);      // MAX_COMPUTE_UNITS
  infos.Value(0x1003, U32{3});             // MAX_WORK_ITEM_DIMENSIONS
  infos.Value(0x1004, kMaxWorkGroupSize);  // MAX_WORK_GROUP_SIZE
  infos.Value(0x1005,
              wire::Vec3{kMaxWorkGroupSize, kMaxWorkGroupSize, kMaxWorkGroupSize});  // MAX_WORK_ITEM_SIZES
  for (U32 name = 0x1006; name <= 0x100B; ++name) infos.Value(name, U32{1});  // PREFERRED_VECTOR_WIDTH_*
  infos.Value(0x100C, U32{1000});                                             // MAX_CLOCK_FREQUENCY
  infos.Value(0x100D, U32{64});                                               // ADDRESS_BITS
  infos.Value(0x1010, options.max_allocation_bytes);                          // MAX_MEM_ALLOC_SIZE
  infos.Value(0x100E, U32{128});                                              // MAX_READ_IMAGE_ARGS
  infos.Value(0x100F, U32{64});                                               // MAX_WRITE_IMAGE_ARGS
  infos.Value(0x1011, U64{kImageLimits.width_2d});                            // IMAGE2D_MAX_WIDTH
  infos.Value(0x1012, U64{kImageLimits.height_2d});                           // IMAGE2D_MAX_HEIGHT
  infos.Value(0x1013, U64{kImageLimits.width_3d});                            // IMAGE3D_MAX_WIDTH
  infos.Value(0x1014, U64{kImageLimits.height_3d});                           // IMAGE3D_MAX_HEIGHT
  infos.Value(0x1015, U64{kImageLimits.depth_3d});                            // IMAGE3D_MAX_DEPTH
  infos.Value(0x1016, U32{1});                                                // IMAGE_SUPPORT
  infos.Value(0x1017, U64{1024});                                             // MAX_PARAMETER_SIZE
  infos.Value(0x1018, U32{16});                                               // MAX_SAMPLERS
  infos.Value(0x1019, U32{8 * kBaseAddressAlignBytes});                       // MEM_BASE_ADDR_ALIGN
  infos.Value(0x101A, U32{128});                                              // MIN_DATA_TYPE_ALIGN_SIZE
  infos.Value(0x101B, U64{0x6});                // SINGLE_FP_CONFIG: INF_NAN, ROUND_TO_NEAREST
  infos.Value(0x101C, U32{0});                  // GLOBAL_MEM_CACHE_TYPE: none
  infos.Value(0x101D, U32{0});                  // GLOBAL_MEM_CACHELINE_SIZE
  infos.Value(0x101E, U64{0});                  // GLOBAL_MEM_CACHE_SIZE
  infos.Value(0x101F, options.memory_bytes);    // GLOBAL_MEM_SIZE
  infos.Value(0x1020, U64{64u << 10});          // MAX_CONSTANT_BUFFER_SIZE
  infos.Value(0x1021, U32{8});                  // MAX_CONSTANT_ARGS
  infos.Value(0x1022, U32{1});                  // LOCAL_MEM_TYPE: local
  infos.Value(0x1023, kLocalMemoryBytes);       // LOCAL_MEM_SIZE
  infos.Value(0x1024, U32{0});                  // ERROR_CORRECTION_SUPPORT
  infos.Value(0x1025, U64{1});                  // PROFILING_TIMER_RESOLUTION
  infos.Value(0x1026, U32{1});                  // ENDIAN_LITTLE
  infos.Value(0x1027, U32{1});                  // AVAILABLE
  infos.Value(0x1028, U32{1});                  // COMPILER_AVAILABLE
  infos.Value(0x1029, U64{1});                  // EXECUTION_CAPABILITIES: kernels
  infos.Value(0x102A, U64{3});                  // QUEUE_PROPERTIES: out of order, profiling
  infos.Text(0x102B, kDeviceName);              // NAME
  infos.Text(0x102C, kVendor);                  // VENDOR
  infos.Text(0x102D, kDriverVersion);           // DRIVER_VERSION
  infos.Text(0x102E, "FULL_PROFILE");           // PROFILE
  infos.Text(0x102F, "OpenCL 1.2 tulle null");  // VERSION
  // EXTENSIONS
  infos.Text(0x1030,
             "cl_khr_byte_addressable_store cl_khr_il_program cl_khr_image2d_from_buffer cl_khr_subgroups");
  infos.Value(0x1032, U64{0});                                                // DOUBLE_FP_CONFIG: no doubles
  infos.Value(0x1034, U32{0});                                                // PREFERRED_VECTOR_WIDTH_HALF
  infos.Value(0x1035, U32{0});                                                // HOST_UNIFIED_MEMORY
  for (U32 name = 0x1036; name <= 0x103B; ++name) infos.Value(name, U32{1});  // NATIVE_VECTOR_WIDTH_*
  infos.Value(0x103C, U32{0});                                                // NATIVE_VECTOR_WIDTH_HALF
  infos.Text(0x103D, "OpenCL C 1.2 tulle null");                              // OPENCL_C_VERSION
  infos.Value(0x103E, U32{1});                                                // LINKER_AVAILABLE
  infos.Text(0x103F, "");                                                     // BUILT_IN_KERNELS
  infos.Value(0x1040, U64{kImageLimits.width_of_buffer});                     // IMAGE_MAX_BUFFER_SIZE
  infos.Value(0x1041, U64{kImageLimits.layers});                              // IMAGE_MAX_ARRAY_SIZE
  infos.Value(0x1043, U64{0});                                                // PARTITION_PROPERTIES: none
  infos.Value(0x1044, U64{0});                                                // PARTITION_AFFINITY_DOMAIN
  infos.Value(0x1048, U32{1});                                                // PREFERRED_INTEROP_USER_SYNC
  infos.Value(0x1049, U64{1u << 20});                                         // PRINTF_BUFFER_SIZE
  infos.Value(0x104A, U32{1});                                                // IMAGE_PITCH_ALIGNMENT
  infos.Value(0x104B, U32{1});                                                // IMAGE_BASE_ADDRESS_ALIGNMENT
  infos.Value(0x1053, U64{1});                                                // SVM_CAPABILITIES: coarse
  infos.Text(0x105B, "SPIR-V_1.0");                                           // IL_VERSION
  infos.Value(0x105C, static_cast<U32>(kMaxWorkGroupSize / kSubGroupSize));   // MAX_NUM_SUB_GROUPS
  infos.Value(0x105D, U32{1});  // SUB_GROUP_INDEPENDENT_FORWARD_PROGRESS
  struct NameVersion {          // cl_name_version
    U32 version;
    char name[64];
  };
  infos.Value(0x1061, NameVersion{1u << 22, "SPIR-V"});  // ILS_WITH_VERSION
  return infos.Encode();
}

}  // namespace tulle::gpu::null
