// The streaming methods of tulle.v1.Mesh, written once for every protocol that carries them. A stream is
// asked for its next message whenever the wire is free, so a slow client costs no memory. Thread-safe.
#pragma once

#include <google/protobuf/message.h>

#include <functional>
#include <memory>
#include <variant>

#include "tulle/base/result.h"
#include "tulle/control/serve/caller.h"
#include "tulle/control/serve/controller.h"
#include "tulle/v1/mesh.pb.h"

namespace tulle::control {

class Stream {
 public:
  // A message; or how the stream has ended, which stays so; or nothing now: on_more will be called.
  using Next = std::variant<std::monostate, std::unique_ptr<google::protobuf::Message>, Status>;

  virtual ~Stream() = default;
  virtual Next Take() = 0;
  // The client has gone. on_more is not called any more once this has returned, unless it runs just then.
  virtual void Close() = 0;
};

// `on_more`: there may be something to take; called by any thread, perhaps before these return; it must not
// block. `still_good`: whether the caller may still have it; asked before each message.
using Wakeup = std::function<void()>;
using StillGood = std::function<Status()>;
std::shared_ptr<Stream> OpenWatch(Controller& controller, const Caller& caller,
                                  const v1::WatchRequest& request, Wakeup on_more, StillGood still_good);
std::shared_ptr<Stream> OpenHoldStream(Controller& controller, const Caller& caller,
                                       const v1::HoldRequest& request, Wakeup on_more);

}  // namespace tulle::control
