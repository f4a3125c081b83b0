#include "tulle/wire/describe.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tulle/wire/command_table.h"

namespace tulle::wire {
namespace {

template <Message M>
std::string DescribedAs(std::uint16_t opcode, U64 answers, const M& message) {
  ByteVector body(EncodedSize(message));
  Encode(message, body);
  FrameHeader header;
  header.opcode = opcode;
  header.answers = answers;
  header.payload_bytes = AnnouncedPayload(message);
  return DescribeFrame(header, body);
}
template <Message M>
std::string Described(const M& message) {
  return DescribedAs(kOpcodeOf<M>, 0, message);
}

TEST(Describe, ShowsEveryKindOfField) {
  opencl::EnqueueKernel command;
  command.queue.handle = {3, 1};
  command.kernel.handle = {260, 7};
  command.work_dim = 2;
  command.global_size = {64, 32, 1};
  const std::string text = Described(command);
  EXPECT_TRUE(text.starts_with("EnqueueKernel queue=3.1 kernel=260.7 work_dim=2 ")) << text;
  EXPECT_NE(text.find("global_size=64,32,1"), std::string::npos) << text;
  EXPECT_NE(text.find("waits=[] event=-"), std::string::npos) << text;
  EXPECT_EQ(DescribedAs(kOpcodeOf<opencl::CreateBuffer>, 12, StatusReply{-5}), "CreateBuffer -> status=-5");
  EXPECT_EQ(Described(Goodbye{}), "Goodbye");
}

TEST(Describe, CutsWhatIsLong) {
  const std::string options = "-D\"A\\B\"\n" + std::string(100, 'x');
  const std::string text = Described(opencl::BuildProgram{.program = {{1, 1}}, .options = {options}});
  EXPECT_NE(text.find("options=\"-D\\\"A\\\\B\\\"\\nxxx"), std::string::npos) << text;
  EXPECT_NE(text.find("...\""), std::string::npos) << text;
  EXPECT_LT(text.size(), 120u);
  const ByteVector bytes(40, std::byte{0xab});
  opencl::SetKernelArg argument;
  argument.kernel.handle = {1, 1};
  argument.value.bytes = bytes;
  EXPECT_NE(Described(argument).find("value=40 B:abababababababababababababababab..."), std::string::npos)
      << Described(argument);
  std::vector<Ref<ObjectKind::kEvent>> events(9);
  opencl::EnqueueKernel command;
  command.queue.handle = command.kernel.handle = {1, 1};
  command.work_dim = 1;
  command.global_size = {1, 1, 1};
  command.waits.items = events;
  for (U32 i = 0; i < 9; ++i) events[i].handle = {i + 1, 1};
  EXPECT_NE(Described(command).find("waits=[1.1 2.1 3.1 4.1 5.1 6.1 ... 9]"), std::string::npos)
      << Described(command);
}

TEST(Describe, SaysWhatItDoesNotKnow) {
  FrameHeader header;
  header.opcode = 0xfff0;
  EXPECT_EQ(DescribeFrame(header, {}), "unknown opcode 0xfff0");
  header.opcode = kOpcodeOf<opencl::CreateBuffer>;
  EXPECT_EQ(DescribeFrame(header, {}), "CreateBuffer does not decode: truncated");
}

}  // namespace
}  // namespace tulle::wire
