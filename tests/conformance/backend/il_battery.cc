// The battery on programs of IL, on their constants, and on sub-groups, which a device may not have.
#include <string>

#include "tests/conformance/backend/battery.h"
#include "tulle/wire/object_file.h"
#include "tulle/wire/spirv.h"
#include "tulle/wire/test_spirv.h"

namespace tulle::gpu::conformance {
namespace {

using wire::opencl::ProgramKind;
using wire::opencl::SubGroupQuery;
using wire::opencl::testing::AddConstantModule;
namespace status = cl_status;

std::string AddModule(std::uint32_t value) {
  std::string module = AddConstantModule();
  const auto constants = wire::opencl::ReadSpirvConstants(module);
  wire::opencl::SetSpirvConstant(constants->find(0)->second, std::as_bytes(std::span(&value, 1)), &module);
  return module;
}

}  // namespace

TEST_P(BackendBattery, ConstantsOfAProgramAreThere) {
  const CompileOutput output = GetParam().compile(
      ProgramKind::kSource,
      "constant uint null_constant = 5;\n"
      "kernel void null_add_constant(global uint* data) { data[get_global_id(0)] += null_constant; }\n",
      "");
  EXPECT_EQ(Added(output), 5u);
}

TEST_P(BackendBattery, IlIsCompiledWithItsConstantsOrRefused) {
  const CompileOutput output = GetParam().compile(ProgramKind::kIl, AddModule(77), "");
  if (output.status == status::kInvalidOperation) GTEST_SKIP() << "takes no IL";
  EXPECT_EQ(Added(output), 77u);
  EXPECT_EQ(Added(GetParam().compile(ProgramKind::kIl, AddConstantModule(), "")), 1u);
  // Its binary is like any other.
  EXPECT_EQ(Added(GetParam().compile(ProgramKind::kBinary, std::string(AsText(output.binary)), "")), 77u);

  // Compiled apart, and linked.
  EXPECT_EQ(GetParam().compile(ProgramKind::kObject, AddModule(3), "").status, 0);
  const std::string module = AddModule(3);
  const std::string object =
      wire::opencl::FormatObjectFile({true, {{"", module}, {"", "uint f(void) { return 1; }"}}});
  EXPECT_EQ(Added(GetParam().compile(ProgramKind::kLink, object, "")), 3u);

  EXPECT_LT(GetParam().compile(ProgramKind::kIl, "kernel void f() {}", "").status, 0);
  EXPECT_LT(GetParam().compile(ProgramKind::kIl, "", "").status, 0);
}

TEST_P(BackendBattery, SubGroupsAreToldOrRefused) {
  const Handle kernel = Kernel("null_add");
  const auto ask = [&](SubGroupQuery query, std::uint32_t dimensions, const wire::Vec3& sizes) {
    return WaitFor<wire::opencl::GetKernelSubGroupsReply>(
        Send(wire::opencl::GetKernelSubGroups{{kernel}, {query}, dimensions, sizes}));
  };
  const auto most = ask(SubGroupQuery::kMaxCount, 1, {1, 1, 1});
  if (most.status == status::kInvalidOperation) GTEST_SKIP() << "has no sub-groups";
  ASSERT_EQ(most.status, 0);
  EXPECT_GT(most.values[0], 0u);
  const std::uint64_t size = ask(SubGroupQuery::kMaxSizeForRange, 2, {16, 4, 1}).values[0];
  const std::uint64_t count = ask(SubGroupQuery::kCountForRange, 2, {16, 4, 1}).values[0];
  EXPECT_GE(size * count, 64u);
  EXPECT_LE(size, 64u);
  const auto local = ask(SubGroupQuery::kLocalSizeForCount, 2, {1, 1, 1}).values;
  if (local[0] != 0) {
    EXPECT_EQ(ask(SubGroupQuery::kCountForRange, 2, {local[0], local[1], 1}).values[0], 1u);
  }
  EXPECT_EQ(ask(SubGroupQuery::kLocalSizeForCount, 1, {~std::uint64_t{0}, 1, 1}).values, wire::Vec3{});
  EXPECT_EQ(ask(SubGroupQuery::kCompiledCount, 1, {1, 1, 1}).values[0], 0u);
  EXPECT_EQ(ask(SubGroupQuery::kMaxCount, 0, {}).status, status::kInvalidValue);
  EXPECT_EQ(ask(SubGroupQuery::kCountForRange, 4, {1, 1, 1}).status, status::kInvalidValue);
  EXPECT_EQ(
      Wait(Send(wire::opencl::GetKernelSubGroups{{NewHandle()}, {SubGroupQuery::kMaxCount}, 1, {1, 1, 1}}))
          .status,
      status::kInvalidKernel);
}

}  // namespace tulle::gpu::conformance
