// A worker that only speaks to its node: what the supervisor's tests start. Behaves as its first argument
// says:
//
//   ready     serves: answers each adopted connection with "<vgpu> <memory> <grants>\n" and closes it
//   refuse    says at once that it cannot serve
//   silent    never says anything
//   crash     is ready, and dies when a connection is adopted
//   stubborn  is ready, and does not end when it is asked to
//   garbage   sends a packet that is none
//   builds    gives the mesh a build, "built by <vgpu>", looks for it again, and answers each adopted
//             connection with what it was told and a newline
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <set>
#include <string>

#include "tulle/base/seqpacket.h"
#include "tulle/wire/packet.h"
#include "tulle/wire/schema/node.h"

namespace {

using namespace tulle;
using wire::node::kNodeCommands;

struct FakeWorker {
  int control;
  std::string mode;
  std::string vgpu;
  std::uint64_t memory_bytes = 0;
  std::set<std::string> grants;
  int adopted = -1;
  std::string found;

  template <typename M>
  void Send(const M& message) {
    (void)SendPacket(control, wire::EncodePacket(kNodeCommands, message));
  }
  void On(const wire::node::AssignVGpu& message) {
    vgpu = message.vgpu.text;
    memory_bytes = message.memory_bytes;
    if (mode == "refuse") Send(wire::node::WorkerReady{1, {"the device is on fire"}});
    if (mode == "garbage") (void)SendPacket(control, AsBytes("hello"));
    if (mode == "builds") UseBuilds();
    if (mode == "ready" || mode == "crash" || mode == "stubborn" || mode == "builds")
      Send(wire::node::WorkerReady{0, {""}});
  }
  void UseBuilds() {
    const std::string content = "built by " + vgpu;
    const std::string key(wire::node::kBuildKeyBytes, 'k');
    const UniqueFd file(memfd_create("content", MFD_CLOEXEC));
    int ends[2];
    if (write(file.get(), content.data(), content.size()) < 0 || pipe2(ends, O_CLOEXEC) != 0) std::exit(4);
    const UniqueFd read_end(ends[0]);
    UniqueFd write_end(ends[1]);
    const auto send = [&](const auto& message, int fd) {
      (void)SendPacket(control, wire::EncodePacket(kNodeCommands, message), std::array{fd});
    };
    send(wire::node::KeepBuild{{AsBytes(key)}}, file.get());
    send(wire::node::FindBuild{{AsBytes(key).first(1)}}, write_end.get());  // no key
    (void)SendPacket(control, wire::EncodePacket(kNodeCommands, wire::node::FindBuild{{AsBytes(key)}}));
    send(wire::node::FindBuild{{AsBytes(key)}}, write_end.get());
    write_end.reset();
    char buffer[256];
    for (ssize_t got; (got = read(read_end.get(), buffer, sizeof buffer)) > 0;)
      found.append(buffer, static_cast<std::size_t>(got));
  }
  void On(const wire::node::AddGrant& message) { grants.insert(std::string(message.grant.text)); }
  void On(const wire::node::RevokeGrant& message) { grants.erase(std::string(message.grant.text)); }
  void On(const wire::node::AdoptConnection&) {
    if (mode == "crash") raise(SIGKILL);
    std::string text = vgpu + " " + std::to_string(memory_bytes);
    for (const std::string& grant : grants) text += " " + grant;
    if (mode == "builds") text = found;
    text += "\n";
    [[maybe_unused]] const ssize_t written = write(adopted, text.data(), text.size());
    wire::node::WorkerStats stats;
    stats.sessions = 1;
    stats.commands_total = 7;
    stats.received_bytes_total = 100;
    Send(stats);
    Send(wire::node::SessionOpened{{"s1"}, {"a program"}, 77, {"tls"}});
    Send(wire::node::SessionOpened{{"s2"}, {"another"}, 78, {"local"}});
    Send(wire::node::SessionEnded{{"s1"}});
    Send(wire::node::SessionEnded{{"none"}});
    std::array<std::uint64_t, wire::node::kLatencyCounts> latencies{};
    latencies[1] = 5;
    latencies.back() = 2;
    Send(wire::node::CommandStats{0x0411, 7, 100, 9'000'000'000, {latencies}});
    Send(wire::node::CommandStats{0xffff, 7, 100, 0, {latencies}});  // of a kind that there is not
  }
  void On(const wire::node::Shutdown&) {
    if (mode != "stubborn") std::exit(0);
  }
};

}  // namespace

int main(int argc, char** argv) {
  FakeWorker worker{.control = -1, .mode = "ready"};
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--control-fd" && i + 1 < argc) {
      worker.control = std::atoi(argv[++i]);
    } else {
      worker.mode = argument;
    }
  }
  wire::Arena arena;
  for (;;) {
    pollfd waiting{worker.control, POLLIN, 0};
    poll(&waiting, 1, -1);
    std::byte buffer[wire::kMaxPacketBytes];
    auto packet = ReceivePacket(worker.control, buffer);
    if (!packet.ok()) return 0;
    if (packet->none) continue;
    worker.adopted = packet->fds.empty() ? -1 : packet->fds[0].get();
    if (wire::DispatchPacket(kNodeCommands, ByteView(buffer).first(packet->size_bytes), arena, worker) !=
        wire::WireResult::kOk) {
      return 3;
    }
  }
}
