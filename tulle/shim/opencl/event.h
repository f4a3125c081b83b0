// Events as OpenCL sees them: each belongs to a queue, or, if the program completes it, to a context.
#pragma once

#include "tulle/shim/core/event.h"
#include "tulle/shim/opencl/queue.h"

namespace tulle::shim::opencl {

inline Queue* QueueOf(const Event& event) {
  return event.command() == CL_COMMAND_USER ? nullptr : static_cast<Queue*>(event.owner());
}
inline Context& ContextOf(const Event& event) {
  const Queue* queue = QueueOf(event);
  return queue != nullptr ? queue->context() : *static_cast<Context*>(event.owner());
}

}  // namespace tulle::shim::opencl
