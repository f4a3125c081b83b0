"""Whole programs: hashcat, a matrix product by CLBlast, clFFT's own client, and a filter of ffmpeg; and what it takes a
program to get to its device. On a vGPU of a mesh, over TLS and within its host, against native. Programs of others are
left out where they are not installed (apt-get install hashcat clfft-client ffmpeg libclblast-dev)."""

import sys
from pathlib import Path

from harness import Case, run_json

TARGETS = ["tulle_bench_start", "tulle_bench_gemm", "tulle_shim_opencl"]

PROGRAMS = ["hashcat", "gemm", "fft", "image-filter"]
STARTS = {"load": "ms", "start": "ms", "start-in-a-row": "ms", "first-start": "ms", "resident": "MiB", "connections": ""}
WHERE = {"": ["--over-network"], "local ": []}

CASES = [
    *(Case(where + name, "s", [["native"]], name) for where in WHERE for name in PROGRAMS),
    *(Case(where + name, unit, [["native"]], name) for where in WHERE for name, unit in STARTS.items()),
]
YARDSTICK_UNITS = {}


def command(bin):
    return [sys.executable, Path(__file__).parent / "measure.py", bin]


def measure_yardsticks(bin):
    return {}


def measure_native(bin):
    return run_json(command(bin))


def measure_mesh(mesh, bin):
    results = {}
    for where, options in WHERE.items():
        one = mesh.run_json(["-q", "--memory", "1GiB", *options], command(bin))
        results |= {where + case: value for case, value in one.items()}
    return results
