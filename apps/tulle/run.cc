#include "apps/tulle/run.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <thread>
#include <utility>

#include "apps/tulle/attach_dir.h"
#include "apps/tulle/join.h"
#include "apps/tulle/text.h"
#include "tulle/base/bytes.h"
#include "tulle/base/paths.h"
#include "tulle/base/seqpacket.h"
#include "tulle/base/subprocess.h"
#include "tulle/net/local/local.h"
#include "tulle/sdk/client.h"
#include "tulle/security/files.h"

namespace tulle::cli {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr auto kQuietWait = milliseconds(500);  // a claim that is bound by then needs no word
constexpr auto kReleaseTimeout = seconds(5);    // then the controller finds out by itself
constexpr std::size_t kMaxPacket = 16 << 10;

void Say(const std::string& text) {
  const std::string line = "tulle: " + text + "\n";
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line.data(), line.size());
}

// ---- front and holder: one packet each way
//
//   holder to front   "go" NUL attach file NUL vendors folder, or "no" NUL message
//   front to holder   nothing but the end of the socket

std::string JoinFields(const std::vector<std::string>& fields) {
  std::string text;
  for (const std::string& field : fields) text += field + '\0';
  return text;
}

std::vector<std::string> SplitFields(std::string_view text) {
  std::vector<std::string> fields;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\0'), text.size());
    fields.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return fields;
}

constexpr Duration kForever = milliseconds(-1);

// Waits until the socket has a packet or its end. False: the timeout came first.
bool WaitReadable(int fd, Duration timeout) {
  pollfd waiting{fd, POLLIN, 0};
  return poll(&waiting, 1, static_cast<int>(timeout.count() / 1'000'000)) == 1;
}

// ---- the holder

class Holder {
 public:
  // `front`: the socket to it.
  Holder(const RunOptions& options, int front) : options_(options), front_(front) {}

  // The error is what the user is told.
  Status Serve() {
    TULLE_ASSIGN_OR_RETURN(const std::string library, FindIcdLibrary());
    RenewCertificate();
    TULLE_ASSIGN_OR_RETURN(const std::unique_ptr<sdk::Client> client, sdk::Client::Connect());
    TULLE_ASSIGN_OR_RETURN(const std::string name, NameOfClaim(*client));
    const std::unique_ptr<sdk::ClaimHold> hold = client->Hold(name, {.program = options_.command[0]});
    const Status served = ServeClaim(*client, *hold, name, library);
    if (!options_.claim.empty()) return served;
    // Also after an error: whatever was claimed is given back.
    const auto released = client->DeleteClaim(name, {.timeout = kReleaseTimeout});
    if (!released.ok() && released.error().code != Code::kNotFound && !options_.quiet) {
      Say("could not release claim " + name + " (" + released.error().message +
          "); the controller does it by itself soon");
    }
    // A program may end of it sooner than the news gets here.
    if (served.ok() && released.ok() && released->status.phase == control::ClaimPhase::kFailed) {
      TellEnd(*released);
    }
    return served;
  }

 private:
  // Of a new one, if none is to be joined.
  Result<std::string> NameOfClaim(sdk::Client& client) {
    const control::Isolation asked = options_.spec.isolation;
    if (!options_.claim.empty()) {
      TULLE_ASSIGN_OR_RETURN(const sdk::Claim joined, client.GetClaim(options_.claim));
      if (asked != control::Isolation::kUnspecified && asked != joined.spec.isolation) {
        return Error{.code = Code::kFailedPrecondition,
                     .message = "the vGPUs of claim " + options_.claim + " have the isolation " +
                                control::Name(joined.spec.isolation) + ", not " + control::Name(asked) +
                                "; leave --isolation out, or make a claim of its own"};
      }
      return options_.claim;
    }
    sdk::NewClaim wanted{.name = options_.name, .spec = options_.spec};
    wanted.spec.release_when_unheld = true;
    TULLE_ASSIGN_OR_RETURN(const sdk::Claim made, client.CreateClaim(wanted));
    // A controller that does not know what a virtual machine is would do without.
    if (asked == control::Isolation::kVm && made.spec.isolation != asked) {
      (void)client.DeleteClaim(made.metadata.name);
      return Error{.code = Code::kUnimplemented,
                   .message = "the controller is older than this program and knows no --isolation=vm"};
    }
    return made.metadata.name;
  }

  Status ServeClaim(sdk::Client& client, sdk::ClaimHold& hold, const std::string& name,
                    const std::string& library) {
    TULLE_RETURN_IF_ERROR(WaitBound(hold, name));
    TULLE_ASSIGN_OR_RETURN(const std::vector<sdk::AttachedVGpu> vgpus, client.Attach(name));
    TULLE_ASSIGN_OR_RETURN(const AttachDir files, WriteFiles(vgpus, library));
    if (!options_.quiet) Say(Banner(client, vgpus));
    const std::string go = JoinFields({"go", files.attach_file(), files.vendors_dir()});
    TULLE_RETURN_IF_ERROR(SendPacket(front_, AsBytes(go)));

    std::atomic<bool> over{false};
    std::thread watcher([&] { WatchClaim(hold, name, over); });
    WaitReadable(front_, kForever);
    over = true;
    watcher.join();
    return OkStatus();
  }

  // Until the claim is bound; tells what it waits for. kCancelled: the front has gone.
  Status WaitBound(sdk::ClaimHold& hold, const std::string& name) {
    const SystemClock clock;
    const Instant begin = clock.Now();
    std::string told;
    for (;;) {
      const auto bound = hold.WaitBound(milliseconds(200));
      if (bound.ok()) return OkStatus();
      if (WaitReadable(front_, Duration(0))) return Error{.code = Code::kCancelled, .message = "interrupted"};
      if (bound.error().code != Code::kDeadlineExceeded) return bound.error();
      if (options_.quiet || clock.Now() - begin < kQuietWait) continue;
      const std::string reason = WaitReason(hold);
      if (reason != told) Say("claim " + name + " waits: " + reason + " (Ctrl-C gives up)");
      told = reason;
    }
  }

  static std::string WaitReason(const sdk::ClaimHold& hold) {
    if (!hold.connected()) return "the controller cannot be reached";
    const auto claim = hold.Latest();
    if (!claim) return "the controller has not answered";
    for (const control::Condition& condition : claim->status.conditions) {
      if ((condition.type == "Placed" || condition.type == "Ready") && !condition.status &&
          !condition.message.empty()) {
        return condition.message;
      }
    }
    return "its vGPUs are being started";
  }

  Result<AttachDir> WriteFiles(const std::vector<sdk::AttachedVGpu>& vgpus, const std::string& library) {
    std::vector<session::Target> targets;
    for (const sdk::AttachedVGpu& vgpu : vgpus) {
      session::Target target{.vgpu = vgpu.vgpu_uid, .grant = vgpu.grant_id, .endpoints = vgpu.endpoints};
      if (vgpu.grant_key.size() != target.key.size()) {
        return Error{.code = Code::kInternal,
                     .message = "the controller's grant has a key of the wrong size"};
      }
      std::memcpy(target.key.data(), vgpu.grant_key.Expose().data(), target.key.size());
      if (options_.over_network) std::erase_if(target.endpoints, net::IsLocalEndpoint);
      targets.push_back(std::move(target));
    }
    const std::string parent = AttachParent(DefaultStateDir());
    TULLE_RETURN_IF_ERROR(security::MakePrivateDirectory(parent));
    AttachDir::RemoveAbandoned(parent);  // of holders that were killed
    return AttachDir::Create(
        {.parent = parent,
         .icd_library = library,
         .local_vendors = options_.with_local ? LocalVendors() : std::vector<std::string>{}},
        targets);
  }

  std::string Banner(sdk::Client& client, const std::vector<sdk::AttachedVGpu>& vgpus) {
    std::string text;
    for (const sdk::AttachedVGpu& vgpu : vgpus) {
      const auto full = client.GetVGpu(vgpu.vgpu_uid, {.timeout = seconds(2)});
      text += text.empty() ? "" : "; ";
      text += "vGPU " + vgpu.vgpu + (full.ok() ? " on node " + full->status.node : "") + ": " +
              FormatSize(vgpu.memory_bytes) + ", " + std::to_string(vgpu.compute_percent) + "% (" +
              Word(control::Name(vgpu.performance_level)) + ") of " + vgpu.device.type;
    }
    return text + (options_.with_local ? "; this machine's own GPUs are shown too"
                                       : "; this machine's own GPUs are hidden (--with-local shows them)");
  }

  // While the program runs: tells when it loses its vGPUs.
  void WatchClaim(sdk::ClaimHold& hold, const std::string& name, const std::atomic<bool>& over) {
    std::uint64_t version = 0;
    std::string told;
    while (!over) {
      const auto claim = hold.WaitChange(version, milliseconds(200));
      if (!claim.ok()) {
        if (claim.error().code == Code::kDeadlineExceeded) continue;
        if (!over) Say("claim " + name + " is lost: " + claim.error().message);
        return;
      }
      version = claim->metadata.resource_version;
      const control::Condition* draining = control::FindCondition(claim->status.conditions, "Draining");
      if (draining != nullptr && draining->status && draining->message != told) {
        told = draining->message;
        if (!over) Say("claim " + name + ": " + told);
      }
      if (claim->status.phase == control::ClaimPhase::kReleased ||
          claim->status.phase == control::ClaimPhase::kFailed) {
        TellEnd(*claim);
        return;
      }
    }
  }

  // Once, of a claim that ended before it was given back.
  void TellEnd(const sdk::Claim& claim) {
    if (std::exchange(told_end_, true)) return;
    std::string why;
    for (const control::Condition& condition : claim.status.conditions) {
      if (!condition.status && !condition.message.empty()) why = ": " + condition.message;
    }
    Say("claim " + claim.metadata.name + " has ended (" + Word(control::Name(claim.status.phase)) +
        ") while the program runs" + why);
  }

  const RunOptions& options_;
  const int front_;
  bool told_end_ = false;  // by the watcher while there is one, then by who joined it
};

// The folder of our libcuda.so.1 comes first.
std::string WithFolder(const std::string& folder, const char* others) {
  return others == nullptr || *others == '\0' ? folder : folder + ":" + others;
}

// What happens in the holder's process; never returns.
[[noreturn]] void RunHolder(const RunOptions& options, UniqueFd front) {
  // Out of reach of the terminal's signals, and of `kill %1`. In the program's session, because the kernel
  // may schedule another one as another group, which then can starve beside a busy program until nobody seems
  // to hold the claim any more (sandbox/jail.cc says more).
  setpgid(0, 0);
  // Nor does it keep open what was opened for the program: a reader at the other end waits for the program
  // only.
  const int last = dup2(front.get(), 3);
  if (front.get() != last) front.reset(last);
  fcntl(last, F_SETFD, FD_CLOEXEC);
  syscall(SYS_close_range, last + 1, ~0u, 0);
  const UniqueFd null(open("/dev/null", O_RDWR | O_CLOEXEC));
  dup2(null.get(), STDIN_FILENO);
  dup2(null.get(), STDOUT_FILENO);
  signal(SIGPIPE, SIG_IGN);
  Holder holder(options, front.get());
  const Status status = holder.Serve();
  // After "go" the front no longer listens for this, and there is nothing that it could do.
  if (!status.ok() && status.error().code != Code::kCancelled) {
    const std::string no = JoinFields({"no", status.error().message.substr(0, kMaxPacket / 2)});
    (void)SendPacket(front.get(), AsBytes(no));
  }
  _exit(0);  // no destructor of a library may keep it
}

// ---- the front

// What may not end the front while the program runs, but is passed on to it.
constexpr int kPassedOn[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};

// Waits for the program's end, passing signals on.
ExitState Accompany(Subprocess& program, int signals) {
  for (;;) {
    pollfd waiting[] = {{program.pidfd(), POLLIN, 0}, {signals, POLLIN, 0}};
    poll(waiting, 2, -1);
    signalfd_siginfo info;
    while (read(signals, &info, sizeof info) == sizeof info) {
      // What the terminal sends goes to the whole process group: the program has it already.
      if (info.ssi_code != SI_KERNEL) program.Signal(static_cast<int>(info.ssi_signo));
    }
    if (auto exit = program.TryWait()) return *exit;
  }
}

bool Executable(const std::string& command) {
  if (command.find('/') != std::string::npos) return access(command.c_str(), F_OK) == 0;
  const char* path = getenv("PATH");
  std::string_view rest = path != nullptr ? path : "/usr/local/bin:/usr/bin:/bin";
  while (!rest.empty()) {
    const std::size_t end = std::min(rest.find(':'), rest.size());
    if (access((std::string(rest.substr(0, end)) + "/" + command).c_str(), X_OK) == 0) return true;
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return false;
}

}  // namespace

int Run(const RunOptions& options) {
  // Before anything is claimed, perhaps after a long wait.
  if (!Executable(options.command[0])) {
    Say(options.command[0] + ": no such command");
    return kNoSuchCommand;
  }
  std::string trace_directory;  // absolute, since the program may go elsewhere
  if (!options.trace_directory.empty()) {
    std::error_code error;
    std::filesystem::create_directories(options.trace_directory, error);
    trace_directory = std::filesystem::absolute(options.trace_directory, error);
    if (access(trace_directory.c_str(), W_OK | X_OK) != 0) {
      Say(ErrnoError("write traces into " + options.trace_directory, errno).message);
      return kRunFailed;
    }
  }
  auto pair = MakeSeqPacketPair();
  if (!pair.ok()) {
    Say(pair.error().message);
    return kRunFailed;
  }
  const pid_t holder = fork();
  if (holder < 0) {
    Say(ErrnoError("fork", errno).message);
    return kRunFailed;
  }
  if (holder == 0) {
    pair->parent.reset();
    RunHolder(options, std::move(pair->child));
  }
  pair->child.reset();

  // Until the program runs, signals do what they do by default; the holder notices.
  std::byte buffer[kMaxPacket];
  WaitReadable(pair->parent.get(), kForever);
  const auto packet = ReceivePacket(pair->parent.get(), buffer);
  const std::vector<std::string> answer =
      packet.ok() ? SplitFields(AsText(ByteView(buffer).first(packet->size_bytes)))
                  : std::vector<std::string>{};
  if (answer.size() != 3 || answer[0] != "go") {
    Say(answer.size() == 2 ? answer[1] : "the helper process that holds the claim ended unexpectedly");
    return kRunFailed;
  }

  sigset_t passed_on;
  sigemptyset(&passed_on);
  for (const int number : kPassedOn) sigaddset(&passed_on, number);
  pthread_sigmask(SIG_BLOCK, &passed_on, nullptr);
  const UniqueFd signals(signalfd(-1, &passed_on, SFD_CLOEXEC | SFD_NONBLOCK));

  std::map<std::string, std::optional<std::string>> environment = {{session::kAttachEnv, answer[1]},
                                                                   {"OCL_ICD_VENDORS", answer[2]}};
  // Only if asked for: a program that knows both APIs would take this one.
  if (options.spec.api == control::DeviceApi::kCuda) {
    const auto folder = FindCudaFolder();
    if (!folder.ok()) {
      Say(folder.error().message);
      return kRunFailed;
    }
    environment[kLibraryPath] = WithFolder(*folder, std::getenv(kLibraryPath));
  }
  if (!options.trace_directory.empty()) {
    environment[session::kTraceEnv] = trace_directory;
    if (options.trace_payloads) environment[session::kTracePayloadsEnv] = "1";
  }
  if (!options.with_local)
    environment["OCL_ICD_FILENAMES"] = std::nullopt;  // another loader's way to name ICDs
  auto program = Subprocess::Start({.argv = options.command,
                                    .environment = ChangeEnvironment(environ, environment),
                                    .keep_other_fds = true,  // 3<file, <(command), make's job server
                                    .death_signal = SIGTERM,
                                    .keep_ignored_signals = true});
  int code;
  if (program.ok()) {
    code = Accompany(*program, signals.get()).ShellCode();
  } else {
    Say(program.error().message);
    code = program.error().code == Code::kNotFound ? kNoSuchCommand : kCannotExecute;
  }
  // The claim is released when this returns, so that the next command finds its room free.
  shutdown(pair->parent.get(), SHUT_WR);
  WaitReadable(pair->parent.get(), kReleaseTimeout + seconds(1));
  return code;
}

}  // namespace tulle::cli
