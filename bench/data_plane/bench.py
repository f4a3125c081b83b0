"""What calls cost: on a vGPU of a mesh, on one whose driver is in its worker (over TLS, over plain TCP), natively, and
against a bare connection, all in the same run."""

from harness import Case, run_json

TARGETS = ["tulle_bench_data_plane", "tulle_bench_loopback", "with_worker"]

# Times that include a wait for the answer are compared with the native time and one bare round trip.
WAITS = [("empty-kernel-finish", "us"), ("read-4B", "us"), ("write-4B", "us"), ("write-kernel-read-4B", "us"), ("event-callback", "us")]
GOES_ON = [("enqueue-cost", "us"), ("enqueue-rate", "calls/s"), ("enqueue-4-args-cost", "us"), ("enqueue-4-args-rate", "calls/s"),
           ("queue-hop", "us")]
COPIES = [("write-64MiB", "GB/s"), ("read-64MiB", "GB/s")]
ALONE = [("attach", "ms"), ("resident", "MiB")]
YARDSTICK_UNITS = {"tcp-round-trip": "us", "tls-round-trip": "us", "tcp-copy": "GB/s", "tls-copy": "GB/s"}

IN_WORKER = {"in-worker-tls": [], "in-worker-tcp": ["--plain"]}


def cases(prefix, link):
    yield from (Case(prefix + name, unit, [["native", f"{link}-round-trip"]], name) for name, unit in WAITS)
    yield from (Case(prefix + name, unit, [["native"]], name) for name, unit in GOES_ON)
    yield from (Case(prefix + name, unit, [[f"{link}-copy"], ["native"]], name) for name, unit in COPIES)
    yield from (Case(prefix + name, unit, []) for name, unit in ALONE)


CASES = [
    *cases("", "tls"),
    Case("build", "ms", [["native"]]),
    Case("build-again", "ms", [["native"]], "build"),
    *(case for where in IN_WORKER for case in cases(where + " ", where[-3:])),
]


def measure_native(bin):
    return run_json([bin / "tulle_bench_data_plane"])


def measure_yardsticks(bin):
    return run_json([bin / "tulle_bench_loopback"])


def measure_mesh(mesh, bin):
    results = mesh.run_json(["--memory", "512MiB"], [bin / "tulle_bench_data_plane"])
    for where, options in IN_WORKER.items():
        worker = [mesh.bin / "with_worker", "--icd", mesh.bin.parent / "lib/libtulle-opencl.so", *options, "--"]
        results |= {f"{where} {case}": value for case, value in run_json([*worker, bin / "tulle_bench_data_plane"]).items()}
    return results
