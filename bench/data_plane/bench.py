"""What calls cost: on a vGPU of a mesh (over TLS, and through its host's socket and memory), on one whose driver is in its
worker (the same, and over plain TCP), natively, and against a bare connection or copy, all in the same run."""

import random

from harness import Case, run_json

TARGETS = ["tulle_bench_data_plane", "tulle_bench_loopback", "with_worker"]

# Times that include a wait for the answer are compared with the native time and one bare round trip.
WAITS = [("empty-kernel-finish", "us"), ("read-4B", "us"), ("write-4B", "us"), ("write-kernel-read-4B", "us"), ("event-callback", "us")]
GOES_ON = [("enqueue-cost", "us"), ("enqueue-rate", "calls/s"), ("enqueue-4-args-cost", "us"), ("enqueue-4-args-rate", "calls/s"),
           ("queue-hop", "us")]
COPIES = [("write-64MiB", "GB/s"), ("read-64MiB", "GB/s")]
YARDSTICK_UNITS = {"tcp-round-trip": "us", "tls-round-trip": "us", "tcp-copy": "GB/s", "tls-copy": "GB/s", "local-copy": "GB/s"}

ON_MESH = {"": ["--over-network"], "local ": []}
IN_WORKER = {"in-worker-tls": [], "in-worker-tcp": ["--plain"], "in-worker-local": ["--local"]}


def cases(prefix, link):
    # Within a host there is no round trip that a call could not do without.
    wait = [["native"]] if link == "local" else [["native", f"{link}-round-trip"]]
    yield from (Case(prefix + name, unit, wait, name) for name, unit in WAITS)
    yield from (Case(prefix + name, unit, [["native"]], name) for name, unit in GOES_ON)
    yield from (Case(prefix + name, unit, [[f"{link}-copy"], ["native"]], name) for name, unit in COPIES)


CASES = [
    *cases("", "tls"),
    *cases("local ", "local"),
    Case("build", "ms", [["native"]]),
    Case("build-again", "ms", [["native"]], "build"),
    Case("build-elsewhere", "ms", [["native"]], "build"),
    *(case for where in IN_WORKER for case in cases(where + " ", where.rpartition("-")[2])),
]


def measure_native(bin):
    return run_json([bin / "tulle_bench_data_plane"])


def measure_yardsticks(bin):
    return run_json([bin / "tulle_bench_loopback"])


def measure_mesh(mesh, bin):
    results = {}
    seed = str(random.getrandbits(32))  # the second vGPU builds what the first has built
    for prefix, options in ON_MESH.items():
        one = mesh.run_json(["--memory", "512MiB", *options], [bin / "tulle_bench_data_plane", seed])
        results |= {prefix + case: value for case, value in one.items()}
    results["build-elsewhere"] = results["local build"]
    for where, options in IN_WORKER.items():
        worker = [mesh.bin / "with_worker", "--icd", mesh.bin.parent / "lib/libtulle-opencl.so", *options, "--"]
        results |= {f"{where} {case}": value for case, value in run_json([*worker, bin / "tulle_bench_data_plane"]).items()}
    return results
