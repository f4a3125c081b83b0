// Exports by way of the node that supervises this worker.
#pragma once

#include <map>

#include "tulle/base/clock.h"
#include "tulle/base/guarded.h"
#include "tulle/wire/schema/node.h"
#include "tulle/worker/exports/exports.h"

namespace tulle::worker::exports {

class NodeExports final : public Exports {
 public:
  // `control` is the packet socket to the node, `vgpu` this one's uid, `tenant` its own.
  NodeExports(int control, std::string vgpu, std::string tenant)
      : control_(control), vgpu_(std::move(vgpu)), tenant_(std::move(tenant)) {}

  Result<std::string> Export(std::shared_ptr<ExportableMemory> memory, bool writable,
                             const std::string& tenant) override;
  void Release(const std::string& token, std::uint64_t charged_bytes) override;
  Status Withdraw(const std::string& token) override;
  Result<Opened> Open(const std::string& token, Holder* holder) override;
  void Close(const std::string& token, Holder* holder) override;

  // The node's messages.
  void On(const wire::node::ExportWithdrawn& message);
  void On(const wire::node::ExportUnused& message);

 private:
  struct State {
    std::map<std::string, std::shared_ptr<ExportableMemory>> lent;  // by token, as the next
    std::map<std::string, std::map<Holder*, std::uint64_t>> had;    // with their numbers
    std::uint64_t last_number = 0;
  };
  struct Answer {
    wire::ExportStatus status{};
    std::uint64_t size_bytes = 0;
    bool writable = false;
    UniqueFd memory;
  };
  // Sends the message, with a descriptor if it is not -1, and a socket for the answer, and waits for that.
  template <typename M>
  Result<Answer> Ask(const M& message, int fd = -1);

  // Waits until the node takes it.
  template <typename M>
  void Tell(const M& message);

  const int control_;
  const std::string vgpu_;
  const std::string tenant_;
  Guarded<State> state_;
};

}  // namespace tulle::worker::exports
