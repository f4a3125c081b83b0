// Memory that is lent to others, and that others lend.
#include <algorithm>

#include "tulle/base/log.h"
#include "tulle/cuda/types.h"
#include "tulle/gpu/api/opencl_status.h"
#include "tulle/worker/exec/session.h"

namespace tulle::worker::exec {
namespace {

using wire::ExportStatus;

// Each is a question to the node.
constexpr std::size_t kMaxFailedOpens = 1000;

ExportStatus StatusOf(const Error& error) {
  switch (error.code) {
    case Code::kNotFound: return ExportStatus::kNoSuchExport;
    case Code::kResourceExhausted: return ExportStatus::kTooMany;
    default: return ExportStatus::kUnavailable;
  }
}

}  // namespace

// ReadyToCreate has been.
void Session::CreateExportable(wire::Handle handle, std::uint64_t size_bytes, std::int32_t no_memory,
                               Frame& frame) {
  Buffer& buffer = buffers_[handle.slot] = {};
  if (!wire::Has(client_.capabilities(), wire::Capability::kExports))
    return Breach(frame.header, "memory to be lent was not agreed on");
  if (size_bytes == 0 || !frame.wants_status())
    return Breach(frame.header, "memory to be lent, of no bytes or without asking");
  if (taken_ != quota::Lease::Take::kTaken) return SendStatus(frame, no_memory);
  const std::uint64_t charged_bytes = wire::opencl::ChargedBytes(size_bytes);
  auto memory = shared_.exports->NewMemory(size_bytes, shared_.quota);
  std::optional<Range> range;
  if (memory.ok()) range = executor_->MapMemory((*memory)->fd(), (*memory)->mapped_bytes(), true);
  if (!range.has_value()) {
    lease_.Destroyed(charged_bytes);
    lease_.Reclaim(charged_bytes);
    return SendStatus(frame, no_memory);
  }
  buffer = {.charged_bytes = charged_bytes,
            .range = *range,
            .lent = std::make_shared<Lent>(Lent{*std::move(memory)})};
  range->size_bytes = size_bytes;
  ++maps_under_way_;
  const UnderWay then{frame.header.opcode, UnderWay::Then::kMapped};
  Forward(frame, true, range, &then);
}

void Session::Run(const wire::Checked<wire::cuda::AllocateExportable>& message, Frame& frame) {
  CreateExportable(message->memory.handle, message->size_bytes, cuda::CUDA_ERROR_OUT_OF_MEMORY, frame);
}

void Session::Run(const wire::Checked<wire::ExportMemory>& message, Frame& frame) {
  Buffer& buffer = buffers_.at(message->memory.handle.slot);
  wire::ExportMemoryReply reply;
  std::string token;
  if (buffer.lent == nullptr) {
    reply.status = {ExportStatus::kNotExportable};
  } else if (buffer.lent->tokens.size() >= wire::kMaxExports) {
    reply.status = {ExportStatus::kTooMany};
  } else if (auto lent = shared_.exports->Export(buffer.lent->memory, message->writable != 0,
                                                 std::string(message->tenant.text));
             lent.ok()) {
    token = *std::move(lent);
    buffer.lent->tokens.push_back(token);
    reply.token = {token};
  } else {
    reply.status = {StatusOf(lent.error())};
  }
  Told(client_.SendReply(frame.header.opcode, frame.header.sequence, reply, {}, after_));
}

void Session::Run(const wire::Checked<wire::OpenExport>& message, Frame& frame) {
  const std::string token(message->token.text);
  wire::OpenExportReply reply;
  auto found = opened_.find(token);
  if (found == opened_.end() && opened_.size() >= wire::kMaxExports) {
    reply.status = {ExportStatus::kTooMany};
  } else if (found == opened_.end()) {
    auto opened = shared_.exports->Open(token, this);
    if (opened.ok()) {
      found = opened_.emplace(token, *std::move(opened)).first;
    } else {
      Log(LogLevel::kDebug, "worker", "memory of another was not opened",
          {{"error", ToString(opened.error())}});
      reply.status = {StatusOf(opened.error())};
      if (++failed_opens_ > kMaxFailedOpens) {
        return End(wire::EndReason::kResource, "it has asked " + std::to_string(kMaxFailedOpens) +
                                                   " times for exports that are not there");
      }
    }
  }
  if (found != opened_.end()) {
    reply.size_bytes = found->second.size_bytes;
    reply.writable = found->second.writable ? 1 : 0;
  }
  Told(client_.SendReply(frame.header.opcode, frame.header.sequence, reply, {}, after_));
}

void Session::Run(const wire::Checked<wire::RevokeExport>& message, Frame& frame) {
  const auto is_lent = [&](const auto& entry) {
    if (entry.second.lent == nullptr) return false;
    const auto& tokens = entry.second.lent->tokens;
    return std::find(tokens.begin(), tokens.end(), message->token.text) != tokens.end();
  };
  wire::RevokeExportReply reply;
  const auto buffer = std::find_if(buffers_.begin(), buffers_.end(), is_lent);
  if (buffer == buffers_.end() || opened_.contains(message->token.text)) {
    reply.status = {ExportStatus::kNotOwner};
  } else if (const Status done = shared_.exports->Withdraw(std::string(message->token.text)); done.ok()) {
    std::erase(buffer->second.lent->tokens, message->token.text);
  } else {
    reply.status = {StatusOf(done.error())};
  }
  Told(client_.SendReply(frame.header.opcode, frame.header.sequence, reply, {}, after_));
}

void Session::Import(wire::Handle handle, std::string_view token, Frame& frame) {
  Buffer& buffer = buffers_[handle.slot] = {};
  const auto opened = opened_.find(token);
  if (opened == opened_.end()) return Breach(frame.header, "memory of an export that was not opened");
  constexpr std::uint64_t kGranule = exports::ExportableMemory::kGranuleBytes;
  const std::uint64_t mapped_bytes = (opened->second.size_bytes + kGranule - 1) / kGranule * kGranule;
  auto range = executor_->MapMemory(opened->second.fd.get(), mapped_bytes, opened->second.writable);
  if (!range.has_value())
    return End(wire::EndReason::kResource, "the device's process cannot map more memory of others");
  buffer = {.range = *range, .imported = true};
  range->size_bytes = opened->second.size_bytes;
  ++maps_under_way_;
  const UnderWay then{frame.header.opcode, UnderWay::Then::kMapped, frame.wants_status()};
  Forward(frame, true, range, &then);
}

void Session::Run(const wire::Checked<wire::opencl::ImportBuffer>& message, Frame& frame) {
  Import(message->buffer.handle, message->token.text, frame);
}

void Session::Run(const wire::Checked<wire::cuda::ImportMemory>& message, Frame& frame) {
  Import(message->memory.handle, message->token.text, frame);
}

void Session::LetGo(const Buffer& buffer) {
  if (buffer.lent == nullptr) return;
  for (const std::string& token : buffer.lent->tokens) shared_.exports->Release(token, buffer.charged_bytes);
}

void Session::OnWithdrawn(const std::string&) {
  end_.Set(
      wire::EndReason::kGrantRevoked,
      "memory that another program had lent to this one was taken back, or that program's vGPU has ended");
}

}  // namespace tulle::worker::exec
