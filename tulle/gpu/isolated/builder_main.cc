#include <unistd.h>

#include <string>

#include "tulle/gpu/isolated/build_file.h"
#include "tulle/gpu/isolated/executor_main.h"
#include "tulle/gpu/isolated/protocol.h"
#include "tulle/sandbox/lock.h"
#include "tulle/wire/schema/exec.h"

namespace tulle::gpu::isolated {

namespace {

// CL_COMPILER_NOT_AVAILABLE: a status of clBuildProgram, as CompileOutput::status is.
constexpr std::int32_t kCompilerNotAvailable = -3;

bool Answer(const CompileOutput& output) {
  wire::exec::CompileReply reply;
  reply.status = output.status;
  reply.log.text = std::string_view(output.log).substr(0, wire::kMaxBuildLogBytes);
  reply.binary.size_bytes = output.binary.size();
  return WriteBuildFile(kResultFd, wire::OpcodeIn<wire::exec::Compile>(wire::exec::kExecCommands), reply,
                        output.binary);
}

CompileOutput Run(Driver& driver, const BuildFile& file) {
  wire::exec::Compile request;
  wire::Arena arena;
  if (wire::Decode(file.body, file.payload.size(), arena, &request) != wire::WireResult::kOk) {
    return {kCompilerNotAvailable, "the builder was given a request that it cannot read", {}};
  }
  auto compiler = driver.OpenCompiler(request.device_index);
  if (!compiler.ok()) return {kCompilerNotAvailable, compiler.error().message, {}};
  const bool best_effort = file.header.flags != 0;
  if (const Status locked = sandbox::Lock(sandbox::Role::kBuilder, best_effort); !locked.ok()) {
    return {kCompilerNotAvailable, locked.error().message, {}};
  }
  return (*compiler)->Compile(request.kind.value, file.payload, std::string(request.options.text));
}

}  // namespace

int RunBuilder(Driver& driver) {
  const auto file = ReadBuildFile(kRequestFd);
  if (!file.ok()) return 2;  // not started by a BuildProcess
  // Not by way of the exit handlers: what compilers do there can only fail by now, and the result is out.
  _exit(Answer(Run(driver, *file)) ? 0 : 1);
}

}  // namespace tulle::gpu::isolated
