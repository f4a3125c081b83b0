"""Runs one benchmark (bench/<name>/bench.py) and reports it as JSON lines or as a table.

A benchmark declares TARGETS (what to build), CASES, YARDSTICK_UNITS, and functions that each return
{case: {"value": ..., "p99": ...}} for one round: measure_yardsticks(bin), and either measure_native(bin) and
measure_mesh(mesh, bin), or measure(bin) where no mesh is needed. Rounds of everything that is compared are interleaved, so that a slow minute of the
machine is shared; what is reported is the median over the rounds. A benchmark whose rounds are seeds, not repetitions, has
lines(bin, runs) instead, which yields its lines.

A line is {bench, case, value, unit, yardstick, yardstick_value, ratio, runs} and p99 where single calls are
timed; ratio = value / yardstick_value. A yardstick "a+b" is the sum of both. Lines of yardsticks themselves
have none.
"""

import json
import os
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
from collections import namedtuple
from pathlib import Path

# yardsticks: what to compare with, each a list of parts to add up; "native" is the native case of the same name, or of the
# name given.
Case = namedtuple("Case", "name unit yardsticks native", defaults=[None])

MESH_START_S = 60
ROUND_S = 300


def run_json(command, env=None):
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True, timeout=ROUND_S, env=env)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))} ended with {done.returncode}")
    return json.loads(done.stdout)


class Mesh:
    """A one-machine mesh of the programs in `bin`, with state of its own; a context manager."""

    def __init__(self, bin, *arguments):
        self.bin = bin
        self.arguments = arguments

    def __enter__(self):
        self.state = tempfile.mkdtemp(prefix="tulle-bench-")
        self.env = {**os.environ, "TULLE_STATE_DIR": self.state}
        self.log = open(Path(self.state) / "mesh.log", "w+")
        up = [self.bin / "tulle", "up", "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", *self.arguments]
        self.process = subprocess.Popen(up, env=self.env, stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + MESH_START_S
        while subprocess.run([self.bin / "tulle", "status"], env=self.env, capture_output=True).returncode != 0:
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.log.seek(0)
                message = f"the mesh of {self.bin} did not start:\n{self.log.read()}"
                self.__exit__()
                raise SystemExit(message)
            time.sleep(0.1)
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()
        shutil.rmtree(self.state, ignore_errors=True)

    def run_json(self, claim, command):
        return run_json([self.bin / "tulle", "run", *claim, "--", *command], self.env)


class Samples:
    """What the rounds measured: {case: median}, and the median of the rounds' 99th percentiles."""

    def __init__(self):
        self.rounds = []

    def median(self, case, key="value"):
        values = [r[case][key] for r in self.rounds if key in r.get(case, {})]
        return statistics.median(values) if values else None


def rounded(value):
    return None if value is None else float(f"{value:.4g}")


def plain_line(name, runs, case, value, unit, yardstick=None, yardstick_value=None):
    return {
        "bench": name, "case": case, "value": rounded(value), "unit": unit, "yardstick": yardstick,
        "yardstick_value": rounded(yardstick_value),
        "ratio": rounded(value / yardstick_value) if yardstick_value else None, "runs": runs,
    }


def line(name, runs, case, unit, samples, yardstick=None, yardstick_value=None):
    result = plain_line(name, runs, case, samples.median(case), unit, yardstick, yardstick_value)
    p99 = samples.median(case, "p99")
    return {**result, "p99": rounded(p99)} if p99 is not None else result


def needs_mesh(bench):
    return hasattr(bench, "measure_mesh")


def run(name, bench, bin, runs, other=None):
    """Yields the report's lines. `other` = (label, bin of another build): it is compared case by case."""
    if hasattr(bench, "lines"):
        if other:
            raise SystemExit(f"{name} is not compared with another revision: run it there")
        yield from bench.lines(bin, runs)
        return
    native, bare, mesh, other_mesh = Samples(), Samples(), Samples(), Samples()
    builds = [(bin, mesh)] + ([(other[1], other_mesh)] if other else [])
    for number in range(runs):
        bare.rounds.append(bench.measure_yardsticks(bin))
        if needs_mesh(bench):
            native.rounds.append(bench.measure_native(bin))
        for build, samples in builds[:: 1 if number % 2 == 0 else -1]:  # one at a time, in turns
            if not needs_mesh(bench):
                samples.rounds.append(bench.measure(build))
                continue
            with Mesh(build) as running:
                samples.rounds.append(bench.measure_mesh(running, bin))
    for case in bench.CASES:
        if mesh.median(case.name) is None:  # not measured here
            continue

        def yardstick(part):
            return native.median(case.native or case.name) if part == "native" else bare.median(part)

        for parts in case.yardsticks:
            yield line(name, runs, case.name, case.unit, mesh, "+".join(parts), sum(map(yardstick, parts)))
        if not case.yardsticks:
            yield line(name, runs, case.name, case.unit, mesh)
        if other:
            yield line(name, runs, case.name, case.unit, mesh, other[0], other_mesh.median(case.name))
    for case in (c for c in bench.CASES if needs_mesh(bench) and native.median(c.name) is not None):
        yield {**line(name, runs, case.name, case.unit, native), "case": f"native {case.name}"}
    for case, unit in bench.YARDSTICK_UNITS.items():
        yield line(name, runs, case, unit, bare)


def table(lines):
    columns = ["case", "value", "unit", "p99", "yardstick", "yardstick_value", "ratio"]
    rows = [columns] + [["" if row.get(c) is None else f"{row[c]:g}" if isinstance(row[c], float) else str(row[c]) for c in columns]
                        for row in lines]
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    text = ["  ".join(cell.rjust(width) if i in (1, 3, 5, 6) else cell.ljust(width)
                      for i, (cell, width) in enumerate(zip(row, widths))).rstrip() for row in rows]
    return "\n".join(text + [f"{lines[0]['runs']} runs; ratio = value / yardstick_value"])
