"""What one call costs: through the mesh, natively, and against a bare connection, all in the same run."""

from harness import Case, run_json

TARGETS = ["tulle_bench_call_latency", "tulle_bench_loopback"]

LATENCY = [["native", "tcp-round-trip"], ["native", "tls-round-trip"]]  # the work plus one bare round trip
COPY = [["tcp-copy"], ["tls-copy"], ["native"]]
CASES = [
    Case("empty-kernel-finish", "us", LATENCY),
    Case("read-4B", "us", LATENCY),
    Case("write-kernel-read-4B", "us", LATENCY),
    Case("enqueue-cost", "us", [["native"]]),
    Case("enqueue-rate", "calls/s", [["native"]]),
    Case("write-64MiB", "GB/s", COPY),
    Case("read-64MiB", "GB/s", COPY),
]
YARDSTICK_UNITS = {"tcp-round-trip": "us", "tls-round-trip": "us", "tcp-copy": "GB/s", "tls-copy": "GB/s"}


def measure_native(bin):
    return run_json([bin / "tulle_bench_call_latency"])


def measure_yardsticks(bin):
    return run_json([bin / "tulle_bench_loopback"])


def measure_mesh(mesh, bin):
    return mesh.run_json(["--memory", "512MiB"], [bin / "tulle_bench_call_latency"])
