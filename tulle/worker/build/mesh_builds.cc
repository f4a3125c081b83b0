#include "tulle/worker/build/mesh_builds.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <cerrno>

#include "tulle/base/check.h"
#include "tulle/base/log.h"
#include "tulle/base/seqpacket.h"
#include "tulle/wire/packet.h"

namespace tulle::worker::build {
namespace {

// For the node to answer, with what it takes to ask the controller. A program waits.
constexpr int kAnswerSeconds = 3;
constexpr std::size_t kReadBytes = 64u << 10;

}  // namespace

MeshKey MeshKeyOf(std::string_view compiler, wire::opencl::ProgramKind kind, ByteView text,
                  std::string_view options) {
  // The sizes say where each part ends.
  const std::string head = "tulle " TULLE_VERSION " build " + std::to_string(static_cast<unsigned>(kind)) +
                           ' ' + std::to_string(compiler.size()) + ' ' + std::to_string(options.size()) + ' ';
  MeshKey key;
  unsigned size = 0;
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> digest(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  bool done = digest != nullptr && EVP_DigestInit_ex(digest.get(), EVP_sha256(), nullptr) == 1;
  for (const ByteView part : {AsBytes(head), AsBytes(compiler), AsBytes(options), text}) {
    done = done && EVP_DigestUpdate(digest.get(), part.data(), part.size()) == 1;
  }
  TULLE_CHECK(done &&
              EVP_DigestFinal_ex(digest.get(), reinterpret_cast<unsigned char*>(key.data()), &size) == 1 &&
              size == key.size());
  return key;
}

Result<MeshAnswer> MeshAnswer::Await(UniqueFd pipe) {
  UniqueFd timer(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  UniqueFd poll(epoll_create1(EPOLL_CLOEXEC));
  const itimerspec within{{0, 0}, {kAnswerSeconds, 0}};
  epoll_event on_pipe{EPOLLIN, {.fd = pipe.get()}};
  epoll_event on_timer{EPOLLIN, {.fd = timer.get()}};
  if (!timer.valid() || !poll.valid() || fcntl(pipe.get(), F_SETFL, O_NONBLOCK) != 0 ||
      timerfd_settime(timer.get(), 0, &within, nullptr) != 0 ||
      epoll_ctl(poll.get(), EPOLL_CTL_ADD, pipe.get(), &on_pipe) != 0 ||
      epoll_ctl(poll.get(), EPOLL_CTL_ADD, timer.get(), &on_timer) != 0) {
    return ErrnoError("wait for the mesh's answer", errno);
  }
  return MeshAnswer(std::move(pipe), std::move(timer), std::move(poll));
}

bool MeshAnswer::Finished() {
  for (;;) {
    const std::size_t size = content_.size();
    content_.resize(size + kReadBytes);
    const ssize_t got = read(pipe_.get(), content_.data() + size, kReadBytes);
    content_.resize(size + static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
    if (got > 0 && content_.size() <= wire::node::kMaxKeptBuildBytes) continue;
    if (got < 0 && errno == EINTR) continue;
    if (got == 0) return true;
    if (got < 0 && errno == EAGAIN) {
      std::uint64_t expirations = 0;
      if (read(timer_.get(), &expirations, sizeof expirations) < 0) return false;
    }
    content_.clear();  // too late, too much, or broken
    return true;
  }
}

std::optional<gpu::CompileOutput> MeshAnswer::Take() {
  if (content_.empty()) return std::nullopt;
  wire::Arena arena;
  wire::node::KeptBuild kept;
  if (wire::Decode(content_, 0, arena, &kept) != wire::WireResult::kOk) {
    Log(LogLevel::kWarn, "worker", "the mesh's build is none; building it here");
    return std::nullopt;
  }
  return gpu::CompileOutput{
      0, std::string(kept.log.text), {kept.binary.bytes.begin(), kept.binary.bytes.end()}};
}

Result<MeshAnswer> MeshBuilds::Find(const MeshKey& key) const {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return ErrnoError("a pipe for the mesh's answer", errno);
  UniqueFd read_end(ends[0]);
  const UniqueFd write_end(ends[1]);
  TULLE_RETURN_IF_ERROR(
      SendPacket(control_, wire::EncodePacket(wire::node::kNodeCommands, wire::node::FindBuild{{key}}),
                 std::array{write_end.get()}));
  return MeshAnswer::Await(std::move(read_end));
}

void MeshBuilds::Keep(const MeshKey& key, const gpu::CompileOutput& output) const {
  const wire::node::KeptBuild kept{{output.log}, {output.binary}};
  if (output.log.size() > wire::kMaxBuildLogBytes ||
      wire::EncodedSize(kept) > wire::node::kMaxKeptBuildBytes) {
    return;
  }
  ByteVector content(wire::EncodedSize(kept));
  wire::Encode(kept, content);
  const UniqueFd file(memfd_create("tulle-build", MFD_CLOEXEC));
  if (!file.valid() ||
      write(file.get(), content.data(), content.size()) != static_cast<ssize_t>(content.size())) {
    return;  // it is built again another time
  }
  (void)SendPacket(control_, wire::EncodePacket(wire::node::kNodeCommands, wire::node::KeepBuild{{key}}),
                   std::array{file.get()});
}

}  // namespace tulle::worker::build
