"""How many round trips a program waits for, and what they cost at a distance: an OpenCL program that counts the results
it waits for, natively and through a worker behind a relay that delays everything. A step should take its native time and
one delayed round trip for each result; the waits that a trace shows should be the results."""

import json
import os
import subprocess
import tempfile
from pathlib import Path

from harness import Case, run_json

TARGETS = ["tulle_bench_round_trips", "tulle_bench_delayed", "with_worker", "tulle_shim_opencl", "tulle"]

ROUND_TRIPS_US = {"0.05ms": 50, "0.5ms": 500, "5ms": 5_000, "30ms": 30_000}
STEPS = ["step", "pipeline", "map"]

CASES = [
    Case("waits", "", [["results"]]),
    *(Case(f"{step} at {distance}", "us", [[f"expected {step} at {distance}"]]) for distance in ROUND_TRIPS_US for step in STEPS),
    *(Case(f"start at {distance}", "us", [[f"expected start at {distance}"]]) for distance in ROUND_TRIPS_US),
]
YARDSTICK_UNITS = {f"round-trip at {distance}": "us" for distance in ROUND_TRIPS_US} | {f"native {step}": "us" for step in ["start", *STEPS]}


def program(bin):
    return bin / "tulle_bench_round_trips"


def on_worker(bin, *options):
    return [bin / "with_worker", "--icd", bin.parent / "lib/libtulle-opencl.so", *options, "--", program(bin)]


def measure_yardsticks(bin):
    native = run_json([program(bin)])
    results = {f"native {step}": native[step] for step in ["start", *STEPS]} | {"results": native["results"]}
    for distance, us in ROUND_TRIPS_US.items():
        round_trip = run_json([bin / "tulle_bench_delayed", us // 2])["round-trip"]
        results[f"round-trip at {distance}"] = round_trip
        for step in ["start", *STEPS]:
            waits = native[f"{step} results"]["value"]
            results[f"expected {step} at {distance}"] = {"value": native[step]["value"] + waits * round_trip["value"]}
    return results


def measure(bin):
    results = {}
    for distance, us in ROUND_TRIPS_US.items():
        one = run_json([str(word) for word in on_worker(bin, "--delay", us // 2)])
        results |= {f"{step} at {distance}": one[step] for step in ["start", *STEPS]}
    with tempfile.TemporaryDirectory() as folder:
        run_json([str(word) for word in on_worker(bin)], env={**os.environ, "TULLE_TRACE": folder})
        [trace] = Path(folder).iterdir()
        lines = subprocess.run([bin / "tulle", "trace", "-o", "json", trace], stdout=subprocess.PIPE, check=True).stdout.splitlines()
    results["waits"] = {"value": sum(json.loads(line)["kind"] == "wait-ends" for line in lines)}
    return results
