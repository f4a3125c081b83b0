#include "tulle/node/build_exchange.h"

#include <fcntl.h>
#include <grpcpp/client_context.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "tulle/base/log.h"
#include "tulle/control/api/channel.h"
#include "tulle/net/wait.h"
#include "tulle/v1/node_link.grpc.pb.h"

namespace tulle::node {
namespace {

// A program waits: it is built here rather than later than this.
constexpr auto kFindWithin = std::chrono::seconds(1);
constexpr auto kKeepWithin = std::chrono::seconds(20);
// After a controller was out of reach.
constexpr Duration kPause = std::chrono::seconds(5);
// Of a worker, to take what it has asked for.
constexpr Duration kTakeWithin = std::chrono::seconds(2);

bool WriteAll(int fd, std::string_view content) {
  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
  const Instant deadline = net::Now() + kTakeWithin;
  while (!content.empty()) {
    const ssize_t written = write(fd, content.data(), content.size());
    if (written > 0) {
      content.remove_prefix(static_cast<std::size_t>(written));
    } else if (errno == EAGAIN) {
      if (net::WaitFor(fd, POLLOUT, deadline) == 0) return false;
    } else if (errno != EINTR) {
      return false;
    }
  }
  return true;
}

// Nothing when it is no file, empty, or too large.
std::string ReadFile(int fd) {
  struct stat status {};
  std::string content;
  if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode) || status.st_size <= 0 ||
      static_cast<std::uint64_t>(status.st_size) > wire::node::kMaxKeptBuildBytes) {
    return content;
  }
  content.resize(static_cast<std::size_t>(status.st_size));
  std::size_t size = 0;
  while (size < content.size()) {
    const ssize_t got = pread(fd, content.data() + size, content.size() - size, static_cast<off_t>(size));
    if (got <= 0) return {};
    size += static_cast<std::size_t>(got);
  }
  return content;
}

}  // namespace

// A channel to the controller, for one thread.
class BuildExchange::Controller {
 public:
  Controller(std::string credentials_path, const Clock& clock)
      : credentials_path_(std::move(credentials_path)), clock_(clock) {}

  template <typename Request, typename Response>
  bool Call(grpc::Status (v1::Builds::Stub::*method)(grpc::ClientContext*, const Request&, Response*),
            const Request& request, std::chrono::seconds within, Response* response) {
    if (clock_.Now() < paused_until_) return false;
    if (stub_ == nullptr && !Open()) return Pause("the node's credentials cannot be used");
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + within);
    const grpc::Status status = (stub_.get()->*method)(&context, request, response);
    if (status.ok()) return true;
    switch (status.error_code()) {
      case grpc::StatusCode::UNAVAILABLE:
      case grpc::StatusCode::DEADLINE_EXCEEDED:
      case grpc::StatusCode::UNIMPLEMENTED:  // of an earlier release
      case grpc::StatusCode::UNAUTHENTICATED: return Pause(status.error_message());
      case grpc::StatusCode::NOT_FOUND: return false;
      default:
        Log(LogLevel::kWarn, "node", "the controller refused to find or keep a build",
            {{"vgpu", request.vgpu_uid()}, {"why", status.error_message()}});
        return false;
    }
  }

 private:
  bool Open() {
    const auto credentials = security::LoadCredentials(credentials_path_);
    if (!credentials.ok()) return false;
    auto channel = control::OpenChannel(*credentials);
    if (!channel.ok()) return false;
    stub_ = v1::Builds::NewStub(*channel);
    return true;
  }
  bool Pause(const std::string& why) {
    Log(LogLevel::kDebug, "node", "the controller is not asked for builds for a while", {{"why", why}});
    stub_.reset();
    paused_until_ = clock_.Now() + kPause;
    return false;
  }

  const std::string credentials_path_;
  const Clock& clock_;
  std::unique_ptr<v1::Builds::Stub> stub_;
  Instant paused_until_;
};

BuildExchange::Line::Line(const std::string& credentials_path, const Clock& clock, Work work)
    : controller_(std::make_unique<Controller>(credentials_path, clock)),
      work_(std::move(work)),
      thread_([this] { Run(); }) {}

BuildExchange::Line::~Line() {
  state_.lock()->stopping = true;
  changed_.notify_one();
  thread_.join();
}

void BuildExchange::Line::Add(const std::string& vgpu_uid, ByteView key, UniqueFd fd) {
  {
    auto state = state_.lock();
    if (state->jobs.size() >= kMaxWaiting) {
      failed_.fetch_add(1, std::memory_order_relaxed);
      return;
    }
    state->jobs.push_back({vgpu_uid, std::string(AsText(key)), std::move(fd)});
  }
  changed_.notify_one();
}

void BuildExchange::Line::Run() {
  for (;;) {
    Job job;
    {
      auto state = state_.lock();
      changed_.wait(state.native(), [&] { return state->stopping || !state->jobs.empty(); });
      if (state->stopping) return;
      job = std::move(state->jobs.front());
      state->jobs.pop_front();
    }
    const bool done = work_(*controller_, job.vgpu_uid, job.key, job.fd.get());
    (done ? succeeded_ : failed_).fetch_add(1, std::memory_order_relaxed);
  }
}

BuildExchange::BuildExchange(const std::string& credentials_path, const Clock& clock)
    : finds_(credentials_path, clock,
             [](Controller& controller, const std::string& vgpu_uid, const std::string& key, int fd) {
               v1::FindBuildRequest request;
               request.set_vgpu_uid(vgpu_uid);
               request.set_key(key);
               v1::FindBuildResponse response;
               return controller.Call(&v1::Builds::Stub::FindBuild, request, kFindWithin, &response) &&
                      WriteAll(fd, response.content());
             }),
      keeps_(credentials_path, clock,
             [](Controller& controller, const std::string& vgpu_uid, const std::string& key, int fd) {
               v1::KeepBuildRequest request;
               request.set_vgpu_uid(vgpu_uid);
               request.set_key(key);
               request.set_content(ReadFile(fd));
               v1::KeepBuildResponse response;
               return !request.content().empty() &&
                      controller.Call(&v1::Builds::Stub::KeepBuild, request, kKeepWithin, &response);
             }) {}

BuildExchange::~BuildExchange() = default;

void BuildExchange::Find(const std::string& vgpu_uid, ByteView key, UniqueFd answer) {
  finds_.Add(vgpu_uid, key, std::move(answer));
}

void BuildExchange::Keep(const std::string& vgpu_uid, ByteView key, UniqueFd content) {
  keeps_.Add(vgpu_uid, key, std::move(content));
}

BuildExchange::Counters BuildExchange::counters() const {
  return {finds_.succeeded(), finds_.failed(), keeps_.succeeded(), keeps_.failed()};
}

}  // namespace tulle::node
