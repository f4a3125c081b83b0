// How a client and its worker begin, and how the worker ends: Hello and its answer, the last word, and what
// is true of every frame from a worker.
#pragma once

#include <string_view>

#include "tulle/base/clock.h"
#include "tulle/session/client_session.h"
#include "tulle/session/frame_io.h"
#include "tulle/session/resume.h"
#include "tulle/wire/command_table.h"

namespace tulle::session {

struct Welcome {
  SessionLimits limits;
  Duration resume_window{};  // how long the worker waits for a client that was lost; zero: not at all
  ResumeTable::Token resume_token{};
};

// Sends the session's first frame and takes the answer. `reader` goes on with what comes behind it.
Result<Welcome> SayHello(net::Transport& transport, FrameReader& reader, std::string_view program,
                         std::uint64_t offered, Instant deadline);

// The worker's last word, as an error.
Error EndedError(const wire::SessionEnded& ended);

// What FrameReader cannot know of a header: direction and order.
wire::WireResult CheckFromWorker(const wire::FrameHeader& header, std::uint64_t expected_sequence);

}  // namespace tulle::session
