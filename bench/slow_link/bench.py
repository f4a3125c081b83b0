"""Transfers of what compresses well, badly and not at all over lines of different speed: a relay that carries so many
bits a second. Against the speed of the line."""

from harness import Case, run_json

TARGETS = ["tulle_bench_slow_link", "with_worker", "tulle_shim_opencl"]

MBITS = {"0.1Gbit/s": 100, "1Gbit/s": 1_000}  # a relay that is faster is limited by itself
KINDS = ["text", "sparse", "image", "floats", "random"]

CASES = [Case(f"{way} {kind} at {line}", "GB/s", [[line]]) for line in MBITS for kind in KINDS for way in ("write", "read")]
YARDSTICK_UNITS = {line: "GB/s" for line in MBITS}


def measure_yardsticks(bin):
    return {line: {"value": mbit / 8e3} for line, mbit in MBITS.items()}


def measure(bin):
    results = {}
    for line, mbit in MBITS.items():
        worker = [bin / "with_worker", "--icd", bin.parent / "lib/libtulle-opencl.so", "--rate", mbit, "--"]
        results |= {f"{case} at {line}": value for case, value in run_json([*worker, bin / "tulle_bench_slow_link"]).items()}
    return results
