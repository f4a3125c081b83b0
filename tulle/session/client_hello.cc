#include "tulle/session/client_hello.h"

#include <unistd.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

namespace tulle::session {
namespace {

// Takes the answer to Hello.
class HelloSink final : public FrameSink {
 public:
  explicit HelloSink(std::uint64_t offered) : offered_(offered) {}
  bool WantsMore() const override { return !welcome_ && !refusal_; }
  Status OnHeader(const wire::FrameHeader& header) override {
    TULLE_RETURN_IF_ERROR(CheckedOrBreach(CheckFromWorker(header, 1)));
    if (header.payload_bytes != 0) return Breach(wire::WireResult::kBadPayload);
    if (header.opcode == wire::kOpcodeOf<wire::SessionEnded>) return OkStatus();
    if (header.opcode != wire::kOpcodeOf<wire::Hello> || header.answers != 1) {
      return Breach(wire::WireResult::kBadSequence);
    }
    return OkStatus();
  }
  Result<MutableByteView> OnPayload(const wire::FrameHeader&, ByteView) override { return MutableByteView(); }
  Status OnFrame(const wire::FrameHeader& header, ByteView body, MutableByteView) override {
    wire::Arena arena;
    if (header.opcode == wire::kOpcodeOf<wire::SessionEnded>) {
      wire::SessionEnded ended;
      TULLE_RETURN_IF_ERROR(CheckedOrBreach(wire::Decode(body, 0, arena, &ended)));
      refusal_ = EndedError(ended);
      return OkStatus();
    }
    wire::HelloReply reply;
    TULLE_RETURN_IF_ERROR(CheckedOrBreach(wire::Decode(body, 0, arena, &reply)));
    const std::string reason = reply.reason.text.empty() ? "" : ": " + std::string(reply.reason.text);
    switch (reply.status.value) {
      case wire::HelloStatus::kAccepted: break;
      case wire::HelloStatus::kNoCommonVersion:
      case wire::HelloStatus::kNoCommonCapability:
        refusal_ = SessionError(Code::kFailedPrecondition, "the worker refused the session" + reason,
                                Retry::kElsewhere);
        return OkStatus();
      case wire::HelloStatus::kBusy:
        refusal_ = SessionError(Code::kResourceExhausted, "the worker is busy" + reason, Retry::kElsewhere);
        return OkStatus();
    }
    if (reply.version < wire::kWireVersionMin || reply.version > wire::kWireVersion ||
        (reply.capabilities & ~offered_) != 0) {
      return Breach(wire::WireResult::kNotNegotiated);
    }
    welcome_.emplace();
    welcome_->limits = {reply.version, reply.capabilities,
                        std::min(reply.window_bytes, wire::kMaxWindowBytes), reply.memory_limit_bytes};
    if (reply.resume_ms == 0) return OkStatus();
    if (reply.resume_token.bytes.size() != wire::kResumeTokenBytes) return Breach(wire::WireResult::kLimit);
    welcome_->resume_window = std::chrono::milliseconds(reply.resume_ms);
    std::copy(reply.resume_token.bytes.begin(), reply.resume_token.bytes.end(),
              welcome_->resume_token.begin());
    return OkStatus();
  }

  std::optional<Welcome> welcome_;
  std::optional<Error> refusal_;

 private:
  const std::uint64_t offered_;
};

}  // namespace

Error EndedError(const wire::SessionEnded& ended) {
  const auto error = [&](Code code, std::string what, Retry retry = Retry::kNo) {
    what = "the worker ended the session: " + what;
    if (!ended.message.text.empty()) what += ": " + std::string(ended.message.text);
    return SessionError(code, std::move(what), retry);
  };
  switch (ended.reason.value) {
    case wire::EndReason::kGoodbye: return error(Code::kCancelled, "goodbye");
    case wire::EndReason::kGrantRevoked: return error(Code::kPermissionDenied, "the grant was revoked");
    case wire::EndReason::kDeviceLost:
      return error(Code::kAborted, "the device was lost", Retry::kUnknownOutcome);
    case wire::EndReason::kProtocol:
      return error(Code::kInternal, "this program's session broke the protocol");
    case wire::EndReason::kShuttingDown:
      return error(Code::kUnavailable, "the worker stops", Retry::kElsewhere);
    case wire::EndReason::kResource: return error(Code::kResourceExhausted, "over a limit of the worker");
  }
  return error(Code::kUnknown, "no reason given");
}

wire::WireResult CheckFromWorker(const wire::FrameHeader& header, std::uint64_t expected_sequence) {
  const wire::RowInfo* row = wire::FindRow(header.opcode);
  if (row == nullptr) return wire::WireResult::kUnknownOpcode;
  if ((header.flags & ~wire::kAfterParts) != 0) return wire::WireResult::kBadEnum;
  if (header.sequence != expected_sequence) return wire::WireResult::kBadSequence;
  if ((row->mode == wire::Mode::kNotice) != (header.answers == 0)) return wire::WireResult::kWrongDirection;
  return wire::WireResult::kOk;
}

Result<Welcome> SayHello(net::Transport& transport, FrameReader& reader, std::string_view program,
                         std::uint64_t offered, Instant deadline) {
  ByteQueue hello;
  AppendMessage(hello, wire::kOpcodeOf<wire::Hello>, 1, 0,
                wire::Hello{wire::kWireVersionMin,
                            wire::kWireVersion,
                            offered,
                            {program.substr(0, wire::kMaxNameBytes)},
                            static_cast<std::uint32_t>(getpid())});
  TULLE_RETURN_IF_ERROR(WriteAll(transport, hello.data(), deadline));
  HelloSink sink(offered);
  TULLE_RETURN_IF_ERROR(ReadUntilSatisfied(transport, reader, sink, deadline));
  if (sink.refusal_) return *sink.refusal_;
  return *sink.welcome_;
}

}  // namespace tulle::session
