"""Calls of sizes, threads, queues and think times that nobody has chosen: drawn from a seed (TULLE_BENCH_SEED; told on
standard error), natively and on a vGPU, over TLS and within the host; with the processors to themselves, and with as many
other programs at work as there are processors."""

import contextlib
import math
import os
import random
import subprocess
import sys

from harness import Case, run_json

TARGETS = ["tulle_bench_curves"]

POINTS = 18
MEMORY = "1GiB"               # of a vGPU
MOST_BYTES_TOGETHER = 640 << 20  # of all threads' buffers
MOST_THREADS, MOST_QUEUES, MOST_THINK_US = 64, 32, 2000
KINDS = {"write": "GB/s", "read": "GB/s", "kernel": "calls/s"}
ON_MESH = {"tls": ["--over-network"], "local": []}
LOADS = {"": False, " busy": True}

seed = int(os.environ.get("TULLE_BENCH_SEED", random.getrandbits(31)))
print(f"TULLE_BENCH_SEED={seed}", file=sys.stderr)
draw = random.Random(seed)


def log_uniform(low, high):
    return round(math.exp(draw.uniform(math.log(low), math.log(high))))


def point():
    kind = draw.choice(list(KINDS))
    threads = log_uniform(1, MOST_THREADS)
    most = MOST_BYTES_TOGETHER // threads // (8 if kind == "kernel" else 1)
    think_us = draw.choice([0, log_uniform(1, MOST_THINK_US)])
    return f"{kind}:{min(log_uniform(1, 1 << 30), most)}:{threads}:{log_uniform(1, MOST_QUEUES)}:{think_us}"


# By kind and size: one curve after the other.
points = sorted((point() for _ in range(POINTS)), key=lambda text: (text.split(":")[0], int(text.split(":")[1])))

CASES = [Case(f"{where} {text}{load}", KINDS[text.split(":")[0]], [["native"]], f"{text}{load}")
         for text in points for where in ON_MESH for load in LOADS]
YARDSTICK_UNITS = {}


@contextlib.contextmanager
def load(is_busy):
    others = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(os.cpu_count() if is_busy else 0)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def measure_native(bin):
    results = {}
    for name, is_busy in LOADS.items():
        with load(is_busy):
            results |= {text + name: value for text, value in run_json([bin / "tulle_bench_curves", *points]).items()}
    return results


def measure_yardsticks(bin):
    return {}


def measure_mesh(mesh, bin):
    results = {}
    for where, options in ON_MESH.items():
        for name, is_busy in LOADS.items():
            with load(is_busy):
                one = mesh.run_json(["--memory", MEMORY, *options], [bin / "tulle_bench_curves", *points])
            results |= {f"{where} {text}{name}": value for text, value in one.items()}
    return results
