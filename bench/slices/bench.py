"""How well slices hold: tenants beside each other on the CPU device, with OpenCL, then with CUDA on the software device, each with a share of its time (the CPU time of their
executors) and wanting more. How far each is from its share over the whole time, and in windows of a second; how much of its
share the worst off gets; how long kernels take that are waited for one by one. Then the device is used by turns, as GPUs are:
what part of its rate alone each tenant has, and what turns cost one that is alone. Then with the
kernel's control groups in place of freezing, where they can be made. How fast memory goes from the device and comes
back to it, beside how fast it is copied there. The shares of the network: programs that write and
read, each with a share of what the node says that its network moves, which is less than this machine does."""

import contextlib
import json
import os
import random
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

from harness import Mesh, plain_line

TARGETS = ["tulle_bench_slices", "tulle_bench_cuda_slices", "tulle_softcuda", "tulle_cuda_shim"]

SECONDS = 10
# Shares in percent; the kernel of each tenant in us; how it launches.
SCENES = [
    ("30/70 50us beside 5ms", [(30, 50, "one"), (70, 5_000, "deep")]),
    ("30/70 5ms", [(30, 5_000, "one"), (70, 5_000, "deep")]),
    ("50/50 500ms", [(50, 500_000, "one"), (50, 500_000, "deep")]),
    ("10/20/30/40 mixed", [(10, 5_000, "one"), (20, 50, "deep"), (30, 500_000, "one"), (40, 5_000, "memory")]),
    ("30 alone 5ms", [(30, 5_000, "deep")]),
]
# Besides, scenes that these seeds give.
SEEDS = [1, 2, 3]


def drawn(seed):
    """Two to four tenants with shares that make up all of the device, and kernels from 20 us to 500 ms."""
    rng = random.Random(seed)
    parts = [rng.randint(1, 4) for _ in range(rng.randint(2, 4))]
    shares = [100 * part // sum(parts) for part in parts]
    shares[0] += 100 - sum(shares)
    tenants = [(share, 10 * round(10 ** rng.uniform(0.3, 4.7)), rng.choice(["one", "deep", "memory"])) for share in shares]
    return f"seed {seed}: " + " ".join(f"{share}%:{us / 1000:g}ms:{mode}" for share, us, mode in tenants), tenants


SCENES += [drawn(seed) for seed in SEEDS]
# Of programs that have one vGPU together, with so much of the device.
SHARED_PERCENT = 30
SHARED_SCENES = [
    ("50us one by one beside 5ms", [(5_000, "deep"), (50, "one")]),
    ("5ms one by one beside 500ms", [(500_000, "deep"), (5_000, "one")]),
    ("50us beside 5ms", [(5_000, "deep"), (50, "deep")]),
]
# By turns; and the pieces in which a tenant that is alone is timed with and without them, one after the other.
# What is as long as a batch of deep ones goes on when others have ended, so long ones are waited for here.
TURN_SCENES = [
    *SCENES[:2],
    ("50/50 500ms", [(50, 500_000, "one"), (50, 500_000, "one")]),
    ("10/20/30/40 5ms", [(10, 5_000, "one"), (20, 5_000, "deep"), (30, 5_000, "deep"), (40, 5_000, "memory")]),
]
APIS = {"opencl": "tulle_bench_slices", "cuda": "tulle_bench_cuda_slices"}
PIECES, PIECE_SECONDS = 8, 1
SPILL_BUFFERS = 12, 64  # so many of so many MiB
# Of NETWORK_MIB a second, in percent; how much each tenant moves at a time, in KiB.
NETWORK_MIB = 200
NETWORK_SCENES = [
    ("network 10/90, 64 KiB", [(10, 64, "guaranteed"), (90, 64, "guaranteed")]),
    ("network 10/90, 4 MiB beside 256 KiB", [(10, 4096, "guaranteed"), (90, 256, "guaranteed")]),
    ("network 30 bursting beside 70", [(30, 256, "burst"), (70, 256, "burst")]),
    ("network 20 alone", [(20, 256, "guaranteed")]),
]


def cpu_time(pid):
    """Of a process with all of its threads, in seconds."""
    return time.clock_gettime((~pid << 3) | 2)


def children():
    of = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
            command = (entry / "cmdline").read_text()
        except OSError:
            continue
        of.setdefault(int(stat.rsplit(")", 1)[1].split()[1]), []).append((int(entry.name), command))
    return of


def executors_of(root):
    """{worker: [its executors]} below a process."""
    of, found, todo = children(), {}, [root]
    while todo:
        pid = todo.pop()
        for child, command in of.get(pid, []):
            todo.append(child)
            if re.search("--role=(cuda-)?executor", command):
                found.setdefault(pid, []).append(child)
    return found


class Program:
    def __init__(self, mesh, claim, command, memory="256MiB"):
        command = [mesh.bin / "tulle", "run", "--quiet", "--memory", memory, *claim, "--", *command]
        self.process = subprocess.Popen([str(word) for word in command], env=mesh.env, text=True, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE)
        if self.process.stdout.readline() != "ready\n":
            raise SystemExit("a tenant did not start")

    def begin(self, seconds):
        print(seconds, file=self.process.stdin, flush=True)

    def result(self):
        return json.loads(self.process.stdout.readline())

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def computing(bin, api, percent, turns, mode, level="guaranteed"):
    """A program that computes: its claim and its command."""
    return ["--api", api, "--compute", f"{percent}%", "--level", level], [bin / APIS[api], "run", turns, mode]


def calibrated(bin, api):
    """{length in us: turns of a kernel that takes so long alone, without a mesh}"""
    env = {**os.environ, "LD_LIBRARY_PATH": str(bin.parent / "lib" / "softcuda")}
    return {us: subprocess.run([bin / APIS[api], "calibrate", str(us)], capture_output=True, text=True, check=True, env=env).stdout.strip()
            for us in {kernel for _, tenants in SCENES for _, kernel, _ in tenants}}


def rates(programs, seconds):
    """Kernels a second of each, all at once."""
    for program in programs:
        program.begin(seconds)
    return [result["kernels"] / result["seconds"] for result in [program.result() for program in programs]]


@contextlib.contextmanager
def ending(programs):
    try:
        yield programs
    finally:
        for program in programs:
            program.end()


class Tenant(Program):
    def __init__(self, mesh, bin, api, percent, turns, mode, level="guaranteed"):
        known = set(executors_of(mesh.process.pid))
        self.percent, self.mode = percent, mode
        super().__init__(mesh, *computing(bin, api, percent, turns, mode, level))
        (worker,) = set(executors_of(mesh.process.pid)) - known
        self.executors = executors_of(mesh.process.pid)[worker]

    def device_time(self):
        return sum(cpu_time(pid) for pid in self.executors)


def watch(tenants, seconds, lanes):
    """Each tenant's parts of the device in windows of a second, in percent."""
    for tenant in tenants:
        tenant.begin(seconds + 1.5)
    time.sleep(0.5)
    windows = [[] for _ in tenants]
    before, then = [t.device_time() for t in tenants], time.monotonic()
    for _ in range(seconds):
        time.sleep(1)
        now, times = time.monotonic(), [t.device_time() for t in tenants]
        for window, a, b in zip(windows, before, times):
            window.append(100 * (b - a) / ((now - then) * lanes))
        before, then = times, now
    return windows, [t.result() for t in tenants]


def p95(values):
    return sorted(values)[min(len(values) - 1, len(values) * 95 // 100)]


def measured_scenes(mesh, bin, runs, api):
    lanes = len(os.sched_getaffinity(0))
    turns = calibrated(bin, api)
    for name, scene in SCENES:
        errors, window_errors, delivered, latency, parts = [], [], [], [], []
        for _ in range(runs):
            with ending([Tenant(mesh, bin, api, percent, turns[us], mode) for percent, us, mode in scene]) as tenants:
                windows, results = watch(tenants, SECONDS, lanes)
            # Programs and workers take their part of the machine: shares are of what there is for kernels.
            whole = sum(tenant.percent for tenant in tenants) == 100
            totals = [sum(second) / 100 if whole else 1 for second in zip(*windows)]
            parts.append(100 * statistics.mean(totals))
            for tenant, window, result in zip(tenants, windows, results):
                seconds = [one / total for one, total in zip(window, totals)]
                share = statistics.mean(seconds)
                errors.append(abs(share - tenant.percent))
                window_errors += [abs(one - tenant.percent) for one in seconds]
                delivered.append(100 * share / tenant.percent)
                if "p99_us" in result:
                    latency.append((tenant.percent, result["p50_us"], result["p99_us"]))
        yield f"{name}: error", max(errors), "points"
        yield f"{name}: error of 1 s, p95", p95(window_errors), "points"
        yield f"{name}: delivered of the share", min(delivered), "%"
        if parts[0] != 100:
            yield f"{name}: of the processors, for kernels", statistics.mean(parts), "%"
        for percent, p50, p99 in latency[:len([1 for _, _, m in scene if m == "one"])]:
            yield f"{name}: kernel on {percent} %, p50", p50, "us"
            yield f"{name}: kernel on {percent} %, p99", p99, "us"


def shared_scenes(mesh, bin, runs, api):
    """Two programs of one vGPU, both of which want more than half of it: what the worse off has of its half."""
    lanes = len(os.sched_getaffinity(0))
    turns = calibrated(bin, api)
    for name, scene in SHARED_SCENES:
        parts = []
        for _ in range(runs):
            claim = f"shared-{time.monotonic_ns()}"
            flags = ["--api", api, "--compute", f"{SHARED_PERCENT}%", "--level", "guaranteed", "--name", claim]
            programs = []
            for us, mode in scene:
                programs.insert(0, Program(mesh, flags, [bin / APIS[api], "run", turns[us], mode]))
                flags = ["--api", api, "--claim", claim]
            with ending(programs):
                for program in programs:
                    program.begin(SECONDS + 1.5)
                time.sleep(0.5)
                executors = [pid for pids in executors_of(mesh.process.pid).values() for pid in pids]
                before, then = [cpu_time(pid) for pid in executors], time.monotonic()
                time.sleep(SECONDS)
                after, now = [cpu_time(pid) for pid in executors], time.monotonic()
                for program in programs:
                    program.result()
            # The others are spare ones.
            most = sorted(a - b for a, b in zip(after, before))[-2:]
            parts.append(100 * 100 * most[0] / ((now - then) * lanes) / (SHARED_PERCENT / 2))
        yield f"two programs on {SHARED_PERCENT} %, {name}: the worse off has of its half", statistics.median(parts), "%"


def turn_scenes(measured, by_turns, bin, runs, api):
    turns = calibrated(bin, api)
    alone = {}
    for us, mode in sorted({(us, mode) for _, scene in TURN_SCENES for _, us, mode in scene}):
        pieces = []
        with ending([Program(mesh, *computing(bin, api, 100, turns[us], mode)) for mesh in (measured, by_turns)]) as programs:
            for _ in range(PIECES * runs):
                pieces.append([rates([program], PIECE_SECONDS)[0] for program in programs])
        without, alone[us, mode] = (statistics.median(of) for of in zip(*pieces))
        yield f"turns: {us} us {mode}, alone", alone[us, mode], "kernels/s", "alone without turns", without
    for name, scene in TURN_SCENES:
        parts = []
        for _ in range(runs):
            with ending([Program(by_turns, *computing(bin, api, percent, turns[us], mode)) for percent, us, mode in scene]) as programs:
                parts.append([100 * rate / alone[us, mode] for rate, (_, us, mode) in zip(rates(programs, SECONDS), scene)])
        for (percent, us, mode), part in zip(scene, zip(*parts)):
            yield f"turns: {name}: {percent} % has", statistics.median(part), "% of its rate alone"


class NoControlGroups(Exception):
    pass


@contextlib.contextmanager
def by_control_groups(bin):
    """A mesh whose node leaves shares to the kernel, where that can be done."""
    checks = subprocess.run([bin / "tulle", "doctor"], capture_output=True, text=True).stdout
    if not re.search(r"^ok +control groups ", checks, re.M):
        print("no control groups can be made here: shares by them are left out", file=sys.stderr)
        raise NoControlGroups
    with Mesh(bin, "--node-arg=--compute-sharing=cgroup") as mesh:
        yield mesh


def spill_lines(bin, runs):
    """Each buffer in turn, of which a third fit: for each one another goes. Beside copies where all fit."""
    def rate(mesh, claim, what, memory="256MiB"):
        with ending([Program(mesh, claim, [bin / "tulle_bench_slices", "sweep", *SPILL_BUFFERS, what], memory)]) as (program,):
            results = []
            for _ in range(runs):
                program.begin(SECONDS / 2)
                results.append(program.result())
        return statistics.median(result["bytes"] / result["seconds"] / (1 << 20) for result in results)

    for place in "memory", "disk":
        with Mesh(bin, f"--node-arg=--spill-{place}=1GiB") as mesh:
            copies = rate(mesh, [], "copy", "1GiB")
            filled = rate(mesh, ["--spill", "768MiB"], "fill")
            yield f"spill to {place}: moved, both ways together", 2 * filled, "MiB/s", "copies on the device", copies


def lines(bin, runs):
    def report(case, *rest):
        return plain_line("slices", runs, case, *rest)

    with Mesh(bin) as measured, Mesh(bin, "--node-arg=--compute-sharing=turns") as by_turns:
        for api in APIS:
            for line in measured_scenes(measured, bin, runs, api):
                yield report(f"{api} {line[0]}", *line[1:])
            for line in shared_scenes(measured, bin, runs, api):
                yield report(f"{api} {line[0]}", *line[1:])
            for line in turn_scenes(measured, by_turns, bin, runs, api):
                yield report(f"{api} {line[0]}", *line[1:])

    with contextlib.suppress(NoControlGroups), by_control_groups(bin) as mesh:
        for api in APIS:
            for line in measured_scenes(mesh, bin, runs, api):
                yield report(f"{api} by control groups: {line[0]}", *line[1:])

    for line in spill_lines(bin, runs):
        yield report(*line)

    with Mesh(bin, f"--node-arg=--network-bandwidth={NETWORK_MIB}MiB") as mesh:
        for name, scene in NETWORK_SCENES:
            errors = []
            for _ in range(runs):
                programs = [Program(mesh, ["--over-network", "--compute", "10%", "--level", level,
                                           "--network", f"{percent * NETWORK_MIB // 100}MiB"],
                                    [bin / "tulle_bench_slices", "move", kib]) for percent, kib, level in scene]
                for seconds in (1, SECONDS):  # the first of what they have saved
                    for program in programs:
                        program.begin(seconds)
                    moved = [program.result()["bytes"] for program in programs]
                for program in programs:
                    program.end()
                errors += [100 * bytes / SECONDS / (1 << 20) / NETWORK_MIB - percent
                           for bytes, (percent, _, _) in zip(moved, scene)]
            yield report(f"{name}: error", max(errors, key=abs), "points")
