#include "tulle/worker/exports/node_exports.h"

#include <poll.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <vector>

#include "tulle/base/log.h"
#include "tulle/base/random.h"
#include "tulle/base/seqpacket.h"
#include "tulle/wire/packet.h"

namespace tulle::worker::exports {
namespace {

// A node answers at once, but for a withdrawal, which takes the ends of sessions.
constexpr int kAnswerMs = 5000;

std::string NewToken(const std::string& vgpu) {
  std::array<std::byte, 16> secret;
  SecureRandom().Fill(secret);
  std::string token = vgpu + '.';
  for (const std::byte byte : secret) {
    char digits[3];
    std::snprintf(digits, sizeof digits, "%02x", std::to_integer<unsigned>(byte));
    token += digits;
  }
  return token;
}

// A tenant's name as a program says it, for logs: any bytes otherwise.
std::string NameForLogs(std::string name) {
  std::replace_if(
      name.begin(), name.end(), [](unsigned char c) { return c <= ' ' || c == '"' || c >= 0x7f; }, '?');
  return name;
}

Error Unavailable(const char* what) { return {.code = Code::kUnavailable, .message = what}; }

}  // namespace

template <typename M>
Result<NodeExports::Answer> NodeExports::Ask(const M& message, int fd) {
  TULLE_ASSIGN_OR_RETURN(auto pair, MakeSeqPacketPair());
  const std::array fds = {pair.child.get(), fd};
  const std::array with_memory = {fd, pair.child.get()};
  TULLE_RETURN_IF_ERROR(SendPacket(control_, wire::EncodePacket(wire::node::kNodeCommands, message),
                                   fd < 0 ? std::span(fds).first(1) : std::span<const int>(with_memory)));
  pair.child.reset();
  pollfd readable{pair.parent.get(), POLLIN, 0};
  if (poll(&readable, 1, kAnswerMs) <= 0) return Unavailable("the node does not answer in time");
  std::array<std::byte, 64> room;
  TULLE_ASSIGN_OR_RETURN(auto packet, ReceivePacket(pair.parent.get(), room));
  wire::node::ExportAnswer answer;
  wire::Arena arena;
  if (wire::Decode(ByteView(room).first(packet.size_bytes), 0, arena, &answer) != wire::WireResult::kOk)
    return Unavailable("the node's answer is none");
  return Answer{answer.status.value, answer.size_bytes, answer.writable != 0,
                packet.fds.empty() ? UniqueFd() : std::move(packet.fds.front())};
}

// On the thread of a session; the node waits for none of these.
template <typename M>
void NodeExports::Tell(const M& message) {
  const ByteVector packet = wire::EncodePacket(wire::node::kNodeCommands, message);
  Status told = SendPacket(control_, packet);
  while (!told.ok() && told.error().code == Code::kResourceExhausted) {
    pollfd writable{control_, POLLOUT, 0};
    if (poll(&writable, 1, kAnswerMs) <= 0) break;
    told = SendPacket(control_, packet);
  }
  if (!told.ok())
    Log(LogLevel::kError, "worker", "cannot tell the node", {{"error", ToString(told.error())}});
}

Result<std::string> NodeExports::Export(std::shared_ptr<ExportableMemory> memory, bool writable,
                                        const std::string& tenant) {
  const std::string token = NewToken(vgpu_);
  const std::string& whose = tenant.empty() ? tenant_ : tenant;
  state_.lock()->lent.emplace(token, memory);
  const auto answer = Ask(
      wire::node::OfferExport{{token}, {whose}, memory->size_bytes(), writable ? wire::U8{1} : wire::U8{0}},
      writable ? memory->fd() : memory->read_only_fd());
  if (answer.ok() && answer->status == wire::ExportStatus::kOk) {
    Log(LogLevel::kInfo, "worker", "memory is lent",
        {{"vgpu", vgpu_},
         {"export", token.substr(0, vgpu_.size() + 7)},
         {"bytes", memory->size_bytes()},
         {"tenant", NameForLogs(whose)},
         {"writable", writable}});
    return token;
  }
  state_.lock()->lent.erase(token);
  if (!answer.ok()) {
    Tell(wire::node::WithdrawExport{{token}});  // what comes too late was taken nevertheless
    return answer.error();
  }
  return Error{
      .code = answer->status == wire::ExportStatus::kTooMany ? Code::kResourceExhausted : Code::kUnavailable,
      .message = "the node does not take the export"};
}

void NodeExports::Release(const std::string& token, std::uint64_t charged_bytes) {
  bool fits = true;
  {
    auto state = state_.lock();
    const auto found = state->lent.find(token);
    if (found == state->lent.end()) return;  // it was withdrawn
    fits = found->second->CountAlone(charged_bytes);
  }
  Tell(wire::node::ReleaseExport{{token}});
  if (fits) return;
  Log(LogLevel::kWarn, "worker", "memory that is lent is taken back: the vGPU has no room for it any more",
      {{"vgpu", vgpu_}, {"bytes", charged_bytes}});
  Tell(wire::node::WithdrawExport{{token}});
}

Status NodeExports::Withdraw(const std::string& token) {
  TULLE_ASSIGN_OR_RETURN(const Answer answer, Ask(wire::node::WithdrawExport{{token}}));
  if (answer.status != wire::ExportStatus::kOk)
    return Error{.code = Code::kNotFound, .message = "there is no such export"};
  return OkStatus();
}

Result<Opened> NodeExports::Open(const std::string& token, Holder* holder) {
  std::uint64_t number = 0;
  {
    // Before it is there, so that no withdrawal is missed.
    auto state = state_.lock();
    number = state->had[token].try_emplace(holder, state->last_number + 1).first->second;
    state->last_number = std::max(state->last_number, number);
  }
  auto answer = Ask(wire::node::TakeExport{{token}, number});
  if (answer.ok() && answer->status == wire::ExportStatus::kOk && answer->memory.valid())
    return Opened{std::move(answer->memory), answer->size_bytes, answer->writable};
  Close(token, holder);  // what comes too late was given nevertheless
  if (!answer.ok()) return answer.error();
  return Error{.code = Code::kNotFound, .message = "there is no such export"};
}

void NodeExports::Close(const std::string& token, Holder* holder) {
  std::uint64_t number = 0;
  {
    auto state = state_.lock();
    const auto found = state->had.find(token);
    if (found == state->had.end() || !found->second.contains(holder)) return;
    number = found->second.extract(holder).mapped();
    if (found->second.empty()) state->had.erase(found);
  }
  Tell(wire::node::CloseExport{{token}, number});
}

void NodeExports::On(const wire::node::ExportWithdrawn& message) {
  auto state = state_.lock();  // so that no holder goes meanwhile
  const std::string token(message.token.text);
  const auto found = state->had.find(token);
  if (found == state->had.end()) return;
  for (const auto& [holder, number] : found->second) holder->OnWithdrawn(token);
}

void NodeExports::On(const wire::node::ExportUnused& message) {
  std::shared_ptr<ExportableMemory> last;  // not destroyed under the lock
  auto state = state_.lock();
  const auto found = state->lent.find(std::string(message.token.text));
  if (found == state->lent.end()) return;
  last = std::move(found->second);
  state->lent.erase(found);
}

}  // namespace tulle::worker::exports
