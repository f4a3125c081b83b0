// tulle: the command line of the mesh. Flags in, one call of a command out.

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "apps/tulle/completion.h"
#include "apps/tulle/doctor.h"
#include "apps/tulle/env.h"
#include "apps/tulle/join.h"
#include "apps/tulle/resources.h"
#include "apps/tulle/run.h"
#include "apps/tulle/tenants.h"
#include "apps/tulle/text.h"
#include "apps/tulle/tokens.h"
#include "apps/tulle/trace.h"
#include "apps/tulle/up.h"
#include "tulle/base/clock.h"
#include "tulle/base/paths.h"
#include "tulle/sdk/client.h"

namespace tulle::cli {
namespace {

constexpr int kUsage = 2;

// The message as it is: the controller's say what was asked, what there is and what to do.
int Report(const Status& status) {
  if (status.ok()) return EXIT_SUCCESS;
  std::fprintf(stderr, "tulle: %s\n", status.error().message.c_str());
  return status.error().code == Code::kInvalidArgument ? kUsage : EXIT_FAILURE;
}

struct RunFlags {
  std::string api = "opencl", memory, compute, bandwidth, level, node, name, claim, network, spill, isolation,
              topology, duration;
  std::vector<std::string> types, vendors, labels, tolerations, command;
  std::uint32_t gpus = 1, compute_units = 0;
  double tflops = 0;
  std::int32_t priority = 0;
  bool no_wait = false, with_local = false, over_network = false, quiet = false;
  std::string trace;
  bool trace_payloads = false;
};

Result<RunOptions> ToOptions(const RunFlags& flags) {
  RunOptions options{.name = flags.name,
                     .claim = flags.claim,
                     .with_local = flags.with_local,
                     .over_network = flags.over_network,
                     .quiet = flags.quiet,
                     .trace_directory = flags.trace,
                     .trace_payloads = flags.trace_payloads,
                     .command = flags.command};
  control::ClaimSpec& spec = options.spec;
  spec.api = flags.api == "cuda" ? control::DeviceApi::kCuda : control::DeviceApi::kOpenCl;
  spec.gpu_types = flags.types;
  spec.vendors = flags.vendors;
  spec.count = flags.gpus;
  spec.no_wait = flags.no_wait;
  spec.priority = flags.priority;
  if (!flags.memory.empty()) {
    TULLE_ASSIGN_OR_RETURN(spec.memory_bytes, ParseMemory("--memory", flags.memory));
  }
  if (!flags.compute.empty()) {
    TULLE_RETURN_IF_ERROR(
        ParseCompute("--compute", flags.compute, &spec.min_compute_percent, &spec.compute_percent));
  }
  spec.compute_units = flags.compute_units;
  spec.fp32_flops = static_cast<std::uint64_t>(flags.tflops * 1e12);
  if (!flags.bandwidth.empty()) {
    TULLE_ASSIGN_OR_RETURN(spec.memory_bandwidth, ParseMemory("--bandwidth", flags.bandwidth));
  }
  if (!flags.network.empty()) {
    TULLE_ASSIGN_OR_RETURN(spec.network_bytes_per_s, ParseMemory("--network", flags.network));
  }
  if (!flags.spill.empty()) {
    TULLE_ASSIGN_OR_RETURN(spec.spill_bytes, ParseMemory("--spill", flags.spill));
  }
  if (!flags.level.empty()) {
    TULLE_ASSIGN_OR_RETURN(spec.performance_level, ParseLevel("--level", flags.level));
  }
  for (const std::string& label : flags.labels) {
    TULLE_ASSIGN_OR_RETURN(const auto parsed, ParseLabel("--label", label));
    spec.node_selector.insert(parsed);
  }
  for (const std::string& toleration : flags.tolerations) {
    TULLE_ASSIGN_OR_RETURN(const auto parsed, ParseLabel("--tolerate", toleration));
    spec.tolerations.insert(parsed);
  }
  if (!flags.isolation.empty()) {
    TULLE_ASSIGN_OR_RETURN(spec.isolation, ParseIsolation("--isolation", flags.isolation));
  }
  if (!flags.topology.empty()) {
    TULLE_ASSIGN_OR_RETURN(spec.topology, ParseTopology("--topology", flags.topology));
  }
  if (!flags.duration.empty()) {
    TULLE_ASSIGN_OR_RETURN(const Duration duration, ParseLifetime("--duration", flags.duration));
    spec.duration_us = std::chrono::duration_cast<std::chrono::microseconds>(duration).count();
  }
  if (!flags.node.empty()) spec.node_selector["tulle/node"] = flags.node;
  if (options.command.empty()) {
    return Error{.code = Code::kInvalidArgument, .message = "say what to run: tulle run -- clinfo"};
  }
  return options;
}

Output ToOutput(const std::string& text) {
  return text == "json" ? Output::kJson : text == "wide" ? Output::kWide : Output::kTable;
}

// Connects, then does it.
Status WithClient(const std::function<Status(sdk::Client&)>& action) {
  RenewCertificate();
  TULLE_ASSIGN_OR_RETURN(const std::unique_ptr<sdk::Client> client, sdk::Client::Connect());
  return action(*client);
}

std::int64_t NowMicros() { return SystemClock().WallMicros(); }

int Main(int argc, char** argv) {
  CLI::App app(
      "Runs unmodified OpenCL programs on GPUs of other machines.\n\nExample: tulle up, and in another "
      "terminal: tulle run -- clinfo",
      "tulle");
  app.require_subcommand(1);
  app.set_version_flag("--version", "tulle " TULLE_VERSION);
  int code = EXIT_SUCCESS;
  std::string state_dir = DefaultStateDir();
  // All that look for a mesh look there: the client library, and whatever is started.
  const auto use_state_dir = [&] {
    state_dir = std::filesystem::absolute(state_dir);
    setenv("TULLE_STATE_DIR", state_dir.c_str(), 1);
  };

  // --- a mesh on this machine
  UpOptions up;
  bool detach = false;
  CLI::App* up_command =
      app.add_subcommand("up", "Run a mesh on this machine: a controller and its nodes, in the foreground");
  up_command->footer(
      "Examples:\n  tulle up --nodes 2\n  tulle up --listen 10.0.0.1:7400    for other machines, too: it "
      "prints the lines "
      "by which they join\n\nOn one machine nodes split the device: each offers an equal part of "
      "its memory and compute, so that nothing\n"
      "is promised twice. With more than 4 a program has to ask for less than the usual 25%: tulle run "
      "--compute 10%.");
  up_command->add_option("--nodes", up.nodes, "How many node daemons")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  up_command->add_option("--state-dir", state_dir, "State, keys and logs; one mesh each")
      ->capture_default_str();
  up_command
      ->add_option("--listen", up.listen,
                   "HOST:PORT of the controller; port 0: any free one. Nodes listen on the same host")
      ->capture_default_str();
  up_command->add_option("--http-listen", up.http_listen, "HOST:PORT of its JSON API")->capture_default_str();
  up_command->add_option("--log-level", up.log_level, "Least level in the logs")
      ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error", "off"}))
      ->capture_default_str();
  up_command
      ->add_option("--node-arg", up.node_arguments,
                   "A further argument for each node, such as --only-devices=0; may be repeated")
      ->take_all();
  up_command
      ->add_option("--controller-arg", up.controller_arguments,
                   "A further argument for the controller, such as --calm=30; may be repeated")
      ->take_all();
  up_command->add_flag("--detach", detach, "Return when the mesh runs; `tulle down` stops it");
  up_command->add_option("--ready-fd", up.ready_fd, "Descriptor that gets a line when the mesh runs")
      ->group("");
  up_command->callback([&] {
    if (!detach) {
      up.name_state_dir = state_dir != DefaultStateDir();
      use_state_dir();
      up.state_dir = state_dir;
      code = Report(Up(up));
      return;
    }
    std::vector<std::string> again = {"/proc/self/exe"};
    for (int i = 1; i < argc; ++i) {
      if (std::string_view(argv[i]) != "--detach") again.push_back(argv[i]);
    }
    code = Report(UpDetached(state_dir, again));
  });

  CLI::App* down_command = app.add_subcommand("down", "Stop the mesh that `tulle up` runs on this machine");
  down_command->footer("Example: tulle down");
  down_command->add_option("--state-dir", state_dir, "Of the mesh")->capture_default_str();
  down_command->callback([&] { code = Report(Down(state_dir)); });

  // --- several machines
  const Runner with_client = [&code](const std::function<Status(sdk::Client&)>& action) {
    code = Report(WithClient(action));
  };
  AddTokenCommands(app, with_client);

  JoinOptions join;
  bool no_start = false;
  CLI::App* node_command = app.add_subcommand("node", "Make this machine a node of a mesh");
  node_command->require_subcommand(1);
  CLI::App* join_command = node_command->add_subcommand(
      "join", "Join with a token, and serve this machine's GPUs in the foreground");
  join_command->footer(
      "Example: tulle node join controller.example --token tulle1.0123... -- --data-listen :7410 --label "
      "zone=a\n\n"
      "`tulle token create --node` on the mesh prints the line. What follows -- goes to tulle-node, by which "
      "the node "
      "is\nstarted again later; the token is for the first time only.");
  join_command->add_option("HOST", join.endpoint, "The controller, HOST or HOST:PORT [port 7400]")
      ->required();
  join_command->add_option("--token", join.token, "As `tulle token create` printed it")
      ->required()
      ->envname("TULLE_TOKEN");
  join_command->add_option("--name", join.name, "The node's name, if the token names none [this host's]");
  join_command->add_option("--state-dir", state_dir, "Where its key and configuration are kept")
      ->capture_default_str();
  join_command->add_flag("--no-start", no_start, "Only join");
  join_command->add_option("ARGUMENT", join.node_arguments, "For tulle-node, after --");
  join_command->callback([&] {
    join.state_dir = std::filesystem::absolute(state_dir);
    join.start = !no_start;
    code = Report(JoinAsNode(join));
  });

  LoginOptions login;
  CLI::App* login_command = app.add_subcommand("login", "Use a mesh of other machines, with a token");
  login_command->footer(
      "Example: tulle login controller.example --token tulle1.0123...\n\n"
      "`tulle token create --user NAME` on the mesh prints the line.");
  login_command->add_option("HOST", login.endpoint, "The controller, HOST or HOST:PORT [port 7400]")
      ->required();
  login_command->add_option("--token", login.token, "As `tulle token create` printed it")
      ->required()
      ->envname("TULLE_TOKEN");
  login_command->add_option("--state-dir", state_dir, "Where key and configuration are kept")
      ->capture_default_str();
  login_command->add_flag("--replace", login.replace, "Even if there is a configuration already");
  login_command->callback([&] {
    login.state_dir = std::filesystem::absolute(state_dir);
    code = Report(Login(login));
  });

  // --- run
  RunFlags run;
  CLI::App* run_command =
      app.add_subcommand("run", "Run a program on one or more vGPUs, and give them back when it ends");
  run_command->footer(
      "Examples:\n  tulle run -- clinfo\n  tulle run --memory 4GiB --compute 50% --level guaranteed -- "
      "./train\n"
      "  tulle run --gpus 2 -- sh -c 'make test'\n\n"
      "The exit code is the program's (128 + n when signal n ended it); 125: there was no vGPU for it, 126: "
      "it could\n"
      "not be executed, 127: there is no such command.");
  run_command
      ->add_option(
          "--api", run.api,
          "What the program uses. cuda: it is shown a libcuda.so.1, too, and a GPU is chosen that has CUDA")
      ->check(CLI::IsMember({"opencl", "cuda"}))
      ->capture_default_str();
  run_command->add_option("--memory", run.memory, "Memory of each vGPU, such as 512MiB or 4GiB [1GiB]");
  run_command->add_option("--compute", run.compute,
                          "Share of a GPU that is reserved for each vGPU, such as 50% [25%], or a range, "
                          "such as 25%..100%: by what its programs use and as "
                          "there is room, which changes while it runs");
  run_command->add_option("--compute-units", run.compute_units,
                          "As much of a GPU as makes so many of its compute units, in place of --compute");
  run_command
      ->add_option(
          "--tflops", run.tflops,
          "As much of a GPU as makes so many TFLOPS of single precision (a node measures its GPUs: see "
          "`tulle get gpus`), in place of --compute")
      ->check(CLI::Range(1e-6, 1e6));
  run_command->add_option(
      "--bandwidth", run.bandwidth,
      "As much of a GPU as makes so much of its memory bandwidth, such as 200GiB a second, in "
      "place of --compute");
  run_command->add_option("--isolation", run.isolation,
                          "What is between each program's kernels and the GPU's host: process, a sandboxed "
                          "process; vm, a virtual machine "
                          "too, on nodes that offer it [process]");
  run_command->add_option(
      "--spill", run.spill,
      "What each vGPU's programs may allocate beyond --memory, such as 8GiB: what they do not "
      "use is kept in the node's memory or on its disk; OpenCL only [nothing]");
  run_command->add_option("--network", run.network,
                          "What each vGPU's programs may move over the network in a second, such as 100MiB: "
                          "with --level guaranteed so much "
                          "and no more, else at least so much [what others leave]");
  run_command->add_option(
      "--level", run.level,
      "What the share is. guaranteed: so much and no more; burst: so much, and what others leave; "
      "best-effort: what others leave; dedicated: a whole GPU [burst]");
  run_command->add_option("--gpus", run.gpus, "How many vGPUs the program sees")
      ->check(CLI::Range(1u, 64u))
      ->capture_default_str();
  run_command
      ->add_option("--type", run.types, "Any of these GPU types (a part of the name, see `tulle get gpus`)")
      ->delimiter(',');
  run_command->add_option("--vendor", run.vendors, "Any of these GPU vendors (a part of the name)")
      ->delimiter(',');
  run_command->add_option("--node", run.node, "On this node only");
  run_command->add_option("--label", run.labels, "On nodes with this label only, KEY=VALUE; may be repeated")
      ->take_all();
  run_command
      ->add_option("--tolerate", run.tolerations,
                   "Also on nodes with this taint, KEY=VALUE, or KEY=* for any value; may be repeated")
      ->take_all();
  run_command->add_option(
      "--topology", run.topology,
      "Several vGPUs: same-gpu, same-node or distinct-nodes [distinct GPUs where possible]");
  run_command->add_option(
      "--duration", run.duration,
      "The vGPUs are taken back after so long, such as 30m or 2d; others that wait can reckon with "
      "that [when it ends]");
  CLI::Option* claim_name =
      run_command->add_option("--name", run.name, "Name of the claim, for `tulle get claims` [chosen]");
  run_command
      ->add_option(
          "--claim", run.claim,
          "On the vGPUs of this claim, beside the programs that have them already, on this machine or "
          "another; it ends with the `tulle run` that has made it")
      ->excludes(claim_name);
  run_command
      ->add_option("--priority", run.priority, "Among your own claims that wait for room, higher first")
      ->check(CLI::Range(-1000, 1000))
      ->capture_default_str();
  run_command->add_flag("--no-wait", run.no_wait,
                        "Fail at once when nothing fits, instead of waiting for room");
  run_command->add_flag(
      "--over-network", run.over_network,
      "Reach vGPUs on this host through the network too, not through its socket and shared memory");
  run_command->add_flag(
      "--with-local", run.with_local,
      "Show the program this machine's own GPUs too (those of OpenCL; of CUDA it sees its vGPUs only)");
  CLI::Option* trace = run_command->add_option(
      "--trace", run.trace,
      "Folder for traces of what the program says to its vGPUs, a file for each process and vGPU: see "
      "`tulle trace`");
  run_command
      ->add_flag("--trace-payloads", run.trace_payloads,
                 "Sources and contents of buffers too, not only their sizes")
      ->needs(trace);
  run_command->add_flag("-q,--quiet", run.quiet, "No line about the vGPU");
  run_command->add_option("COMMAND", run.command, "The program and its arguments, after --");
  run_command->positionals_at_end();
  run_command->callback([&] {
    const auto options = ToOptions(run);
    code = options.ok() ? Run(*options) : Report(options.error());
  });

  TraceOptions trace_options;
  std::vector<std::string> trace_files;
  std::string trace_output = "text";
  CLI::App* trace_command = app.add_subcommand("trace", "Print what `tulle run --trace` has written");
  trace_command->footer(
      "Examples:\n  tulle run --trace traces -- clinfo\n  tulle trace traces/*.trace --summary\n"
      "  tulle trace traces/clinfo-4711-....trace --only Enqueue\n\n"
      "A line for each frame: > was sent, < has arrived. Times count from the session's begin. Arguments, "
      "build "
      "options and names are\nin the file; sources and contents of buffers only with --trace-payloads; keys "
      "never.");
  trace_command->add_option("FILE", trace_files, "Which")->required();
  trace_command->add_flag("--summary", trace_options.summary,
                          "A table by command: how many, how long, and how often the program waited");
  trace_command->add_option("--only", trace_options.only, "Commands with this in their name only");
  trace_command->add_option("-o,--output", trace_output, "text, or json: one object a line")
      ->check(CLI::IsMember({"text", "json"}))
      ->capture_default_str();
  trace_command->callback([&] {
    trace_options.json = trace_output == "json";
    for (const std::string& file : trace_files) {
      if (const int failed = Report(PrintTrace(file, trace_options, stdout)); failed != 0) code = failed;
    }
  });

  bool for_docker = false;
  bool for_apptainer = false;
  CLI::App* env_command = app.add_subcommand(
      "env", "Within `tulle run`: what a container, or another shell, needs to find the vGPUs");
  env_command->footer(
      "Examples:\n  tulle run -- sh -c 'docker run $(tulle env --docker) IMAGE clinfo'\n"
      "  tulle run -- sh -c 'apptainer exec $(tulle env --apptainer) IMAGE.sif clinfo'\n\n"
      "The container needs glibc 2.28 or later and an OpenCL loader (Debian: ocl-icd-libopencl1). The vGPUs "
      "last as long as\nwhat `tulle run` runs.");
  CLI::Option* docker =
      env_command->add_flag("--docker", for_docker,
                            "As arguments of `docker run` (or podman, nerdctl); otherwise as "
                            "lines for a shell");
  env_command->add_flag("--apptainer", for_apptainer, "As arguments of `apptainer exec`")->excludes(docker);
  env_command->callback([&] {
    code = Report([&]() -> Status {
      TULLE_ASSIGN_OR_RETURN(const ProgramEnvironment environment, ReadProgramEnvironment());
      const EnvForm form = for_docker      ? EnvForm::kDocker
                           : for_apptainer ? EnvForm::kApptainer
                                           : EnvForm::kShell;
      TULLE_ASSIGN_OR_RETURN(const std::string text, FormatEnvironment(environment, form));
      std::fputs(text.c_str(), stdout);
      return OkStatus();
    }());
  });

  // --- resources
  std::string kind_text, name, output = "table";
  std::vector<std::string> names;
  bool all = false;
  const auto add_kind = [&](CLI::App* command) {
    command->add_option("KIND", kind_text, "nodes, gpus, vgpus, claims, sessions, instances or tenants")
        ->required();
  };
  const auto add_output = [&](CLI::App* command) {
    command->add_option("-o,--output", output, "table, wide (a table that shows all), or json")
        ->check(CLI::IsMember({"table", "wide", "json"}))
        ->capture_default_str();
  };
  const auto add_all = [&](CLI::App* command) {
    command->add_flag("--all", all, "Claims that have ended too; they are kept for some minutes");
  };
  std::string tenant;
  bool all_tenants = false;
  const auto add_tenant = [&](CLI::App* command) {
    return command->add_option("--tenant", tenant,
                               "Whose; others' for those whose role lets them [your own]");
  };
  const auto add_tenants = [&](CLI::App* command) {
    CLI::Option* whose = add_tenant(command);
    command->add_flag("-A,--all-tenants", all_tenants, "All tenants'")->excludes(whose);
  };
  const auto with_kind = [&](const std::function<Status(sdk::Client&, const Selection&, Output)>& action) {
    return [&, action] {
      code = Report([&]() -> Status {
        Selection selection{.tenant = all_tenants ? "-" : tenant, .all = all};
        TULLE_ASSIGN_OR_RETURN(selection.kind, ParseKind(kind_text));
        return WithClient([&](sdk::Client& client) { return action(client, selection, ToOutput(output)); });
      }());
    };
  };

  CLI::App* get_command = app.add_subcommand("get", "List resources, or show some by name");
  get_command->footer(
      "Examples:\n  tulle get gpus\n  tulle get claims --all\n  tulle get claim train -o json");
  add_kind(get_command);
  get_command->add_option("NAME", names, "Only these");
  add_all(get_command);
  add_tenants(get_command);
  add_output(get_command);
  get_command->callback(with_kind([&](sdk::Client& client, const Selection& selection, Output format) {
    return Get(client, selection, names, format, NowMicros());
  }));

  CLI::App* describe_command = app.add_subcommand("describe", "Show all about one resource");
  describe_command->footer("Example: tulle describe claim train");
  add_kind(describe_command);
  describe_command->add_option("NAME", name, "Which")->required();
  add_tenant(describe_command);
  describe_command->callback(with_kind([&](sdk::Client& client, const Selection& selection, Output) {
    return Describe(client, selection, name, NowMicros());
  }));

  std::uint32_t most_nodes = 0;
  CLI::App* explain_command = app.add_subcommand(
      "explain", "Why a claim is where it is, or what it waits for, and where one more like it could go");
  explain_command->footer(
      "Examples:\n  tulle explain train\n  tulle explain train --nodes 100 -o json\n\n"
      "Scores are those of the rule that is named; higher is better, and they say nothing from one claim to "
      "another.");
  explain_command->add_option("CLAIM", name, "Which")->required();
  explain_command->add_option("--nodes", most_nodes, "Show so many nodes, the best first")
      ->check(CLI::Range(1, 1000))
      ->default_str("20");
  add_tenant(explain_command);
  add_output(explain_command);
  explain_command->callback([&] {
    code = Report(WithClient(
        [&](sdk::Client& client) { return Explain(client, name, tenant, most_nodes, ToOutput(output)); }));
  });

  CLI::App* delete_command = app.add_subcommand(
      "delete", "Release claims, so that their programs lose their vGPUs; or forget tenants");
  delete_command->footer("Examples:\n  tulle delete claim train\n  tulle delete tenant bob");
  delete_command
      ->add_option("KIND", kind_text, "claim or tenant: the other kinds go with their claim or their daemon")
      ->required();
  delete_command->add_option("NAME", names, "Which")->required();
  add_tenant(delete_command);
  delete_command->callback(with_kind([&](sdk::Client& client, const Selection& selection, Output) {
    return Delete(client, selection, names);
  }));

  std::string compute, memory, network;
  CLI::App* resize_command = app.add_subcommand("resize",
                                                "Give a claim's vGPUs another share of compute or of the "
                                                "network, or other memory, while their programs run");
  resize_command->footer(
      "Examples:\n  tulle resize train --compute 60%\n  tulle resize train --compute 25%..100%\n\n"
      "It holds within an instant, where the GPU has room for it and your quota allows it; else it is "
      "refused.");
  resize_command->add_option("CLAIM", name, "Which, see `tulle get claims`")->required();
  resize_command->add_option(
      "--compute", compute,
      "Share of a GPU for each of its vGPUs, such as 60%, or a range, such as 25%..100%: by "
      "what its programs use and as there is room [as it is]");
  resize_command->add_option(
      "--memory", memory, "Memory of each of its vGPUs, such as 4GiB; not less than programs use [as it is]");
  resize_command->add_option(
      "--network", network,
      "What each of its vGPUs' programs may move over the network in a second, such as 100MiB "
      "[as it is]");
  add_tenant(resize_command);
  resize_command->callback([&] {
    code = Report(WithClient(
        [&](sdk::Client& client) { return Resize(client, name, compute, memory, network, tenant); }));
  });

  CLI::App* watch_command =
      app.add_subcommand("watch", "Show resources and each change of them, until interrupted");
  watch_command->footer("Example: tulle watch claims");
  add_kind(watch_command);
  add_all(watch_command);
  add_tenants(watch_command);
  add_output(watch_command);
  watch_command->callback(with_kind([&](sdk::Client& client, const Selection& selection, Output format) {
    return WatchKind(client, selection, format);
  }));

  std::uint32_t most_events = 100;
  CLI::App* events_command = app.add_subcommand(
      "events", "What has happened lately to claims, vGPUs, GPUs, nodes and tenants, the latest last");
  events_command->footer(
      "Examples:\n  tulle events\n  tulle events claim train\n  tulle events nodes --most 1000");
  events_command->add_option("KIND", kind_text, "Of this kind only: nodes, gpus, vgpus, claims or tenants");
  events_command->add_option("NAME", name, "Of this one only");
  events_command->add_option("--most", most_events, "The latest so many")
      ->check(CLI::Range(1u, 1000u))
      ->capture_default_str();
  add_tenants(events_command);
  add_output(events_command);
  events_command->callback([&] {
    code = Report([&]() -> Status {
      std::optional<sdk::Kind> kind;
      if (!kind_text.empty()) {
        TULLE_ASSIGN_OR_RETURN(kind, ParseKind(kind_text));
      }
      return WithClient([&](sdk::Client& client) {
        return Events(client, kind, name, all_tenants ? "-" : tenant, most_events, ToOutput(output),
                      NowMicros());
      });
    }());
  });

  double interval_s = 2;
  CLI::App* top_command =
      app.add_subcommand("top", "The mesh's load by node and tenant, again and again until interrupted");
  top_command->footer("Examples:\n  tulle top\n  tulle top | head      once");
  top_command->add_option("--interval", interval_s, "Seconds from one screen to the next")
      ->check(CLI::Range(0.1, 3600.0))
      ->capture_default_str();
  top_command->callback([&] {
    code = Report(WithClient([&](sdk::Client& client) {
      return Top(client, std::chrono::duration_cast<Duration>(std::chrono::duration<double>(interval_s)));
    }));
  });

  // --- who shares the mesh
  AddTenantCommands(app, with_client);

  // --- the mesh and this machine
  CLI::App* status_command =
      app.add_subcommand("status", "One screen: is the mesh there, what does it have, what is in use");
  status_command->footer("Example: tulle status");
  status_command->callback([&] { code = Report(WithClient(PrintStatus)); });

  CLI::App* doctor_command =
      app.add_subcommand("doctor", "Check what this machine has for the mesh, and how to mend what it lacks");
  doctor_command->footer(
      "Example: tulle doctor\n\nThe exit code is 1 when something failed that programs need; warnings do not "
      "count.");
  doctor_command->callback([&] {
    const std::vector<Check> checks = Diagnose();
    std::fputs(FormatChecks(checks).c_str(), stdout);
    for (const Check& check : checks) code |= check.level == Check::Level::kFail;
  });

  std::string shell;
  CLI::App* completion_command =
      app.add_subcommand("completion", "Print what a shell needs to complete commands and flags of tulle");
  completion_command->footer(
      "Examples:\n  source <(tulle completion bash)         in ~/.bashrc\n  source <(tulle completion zsh)   "
      "       in "
      "~/.zshrc\n  tulle completion fish > ~/.config/fish/completions/tulle.fish");
  completion_command->add_option("SHELL", shell, "bash, zsh or fish")->required();
  completion_command->callback([&] {
    code = Report([&]() -> Status {
      TULLE_ASSIGN_OR_RETURN(const std::string script, Completion(app, shell));
      std::fputs(script.c_str(), stdout);
      return OkStatus();
    }());
  });

  CLI::App* version_command =
      app.add_subcommand("version", "Show the version of this program and of the controller");
  version_command->footer("Example: tulle version");
  version_command->callback([&] {
    std::printf("tulle %s\n", TULLE_VERSION);
    const auto client = sdk::Client::Connect();
    if (!client.ok()) return;
    const auto mesh = (*client)->GetMesh({.timeout = std::chrono::seconds(3), .fail_fast = true});
    std::printf("controller %s\n",
                mesh.ok() ? mesh->version.c_str() : ("not reached: " + mesh.error().message).c_str());
  });

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? EXIT_SUCCESS : kUsage;
  }
  return code;
}

}  // namespace
}  // namespace tulle::cli

int main(int argc, char** argv) { return tulle::cli::Main(argc, argv); }
