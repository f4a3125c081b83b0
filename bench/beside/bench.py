"""A small command beside large transfers of the same program: on a vGPU of a mesh, over TLS and through its host's socket and
memory. Against native."""

from harness import Case, run_json

TARGETS = ["tulle_bench_beside"]

READS = ["read-4B alone", "read-4B beside-writes", "read-4B beside-reads"]
MOVED = ["beside-writes", "beside-reads"]
ON_MESH = {"": ["--over-network"], "local ": []}

CASES = [Case(prefix + name, unit, [["native"]], name)
         for prefix in ON_MESH for names, unit in ((READS, "us"), (MOVED, "GB/s")) for name in names]
YARDSTICK_UNITS = {}


def measure_yardsticks(bin):
    return {}


def measure_native(bin):
    return run_json([bin / "tulle_bench_beside"])


def measure_mesh(mesh, bin):
    results = {}
    for prefix, options in ON_MESH.items():
        one = mesh.run_json(["--memory", "512MiB", *options], [bin / "tulle_bench_beside"])
        results |= {prefix + case: value for case, value in one.items()}
    return results
