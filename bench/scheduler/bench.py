"""What it takes the controller to place a claim: meshes of many GPUs, 95 % full, with claims coming and going. Needs no mesh:
the core is run as the controller runs it, and nodes that do at once what they are told are part of the program."""

from pathlib import Path

from harness import Case, run_json

TARGETS = ["tulle_bench_scheduler"]

DATA = Path(__file__).resolve().parent.parent / "data/openb"
GPUS = [1_213, 6_212, 10_000, 100_000]

CASES = [
    Case("policy-decisions", "1/s", [["kube-scheduler-extended-resource"]]),
    *(Case(f"{gpus}-gpus decision", "us", [["6212-gpus-decision"]]) for gpus in GPUS),
    *(Case(f"{gpus}-gpus refusal", "us", []) for gpus in GPUS),
    *(Case(f"{gpus}-gpus claims", "1/s", []) for gpus in GPUS),
    Case("rehearsal", "s", []),
    Case("durable-claims", "1/s", [["durable-commits"]]),
]
YARDSTICK_UNITS = {"kube-scheduler-extended-resource": "1/s", "6212-gpus-decision": "us", "durable-commits": "1/s"}


def measure_yardsticks(bin):
    # Kubernetes' own test demands that many pods a second at 5,000 nodes (test/integration/scheduler_perf, 008b3652).
    return {"kube-scheduler-extended-resource": {"value": 180}, **run_json([bin / "tulle_bench_scheduler", DATA, "--yardsticks"])}


def measure(bin):
    return run_json([bin / "tulle_bench_scheduler", DATA, *GPUS])
