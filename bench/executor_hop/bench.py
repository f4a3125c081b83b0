"""What the step from a worker to its executor and back costs, against what its parts cost alone. Needs no mesh."""

from harness import Case, run_json

TARGETS = ["tulle_bench_executor_hop"]

CASES = [
    Case("start", "us", [["process-start"]]),
    Case("busy", "us", [["direct-finish", "spin-round-trip"]]),  # the work plus one bare round trip
    Case("idle", "us", [["direct-finish", "wake-round-trip"]]),
    Case("batch", "calls/s", [["direct-batch"]]),
]
YARDSTICK_UNITS = {"process-start": "us", "direct-finish": "us", "spin-round-trip": "us", "wake-round-trip": "us",
                   "direct-batch": "calls/s"}


def measure_yardsticks(bin):
    return run_json([bin / "tulle_bench_executor_hop", "--yardsticks"])


def measure(bin):
    return run_json([bin / "tulle_bench_executor_hop"])
