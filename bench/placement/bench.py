"""How much of a cluster's GPUs each placement policy can use: the openb trace (bench/data), as the FGD paper has it.

Each run is a seed. First the seeds whose means are published; then fresh ones, on which ours is compared with FGD seed by
seed. "at least" is the lower end of the difference's one-sided 95 % confidence interval (Student's t).

Then the same with departures (departures.h), at loads of so many percent of the GPUs: what is allocated, and how long claims
wait; the yardstick is FGD in the same runs."""

import csv
import math
import statistics
from pathlib import Path

from harness import plain_line, run_json

TARGETS = ["tulle_bench_placement", "tulle_bench_departures"]

DATA = Path(__file__).resolve().parent.parent / "data/openb"
LISTS = ["default", "cpu100", "gpushare40", "gpuspec10", "multigpu20"]
PUBLISHED = {"random": "01-Random", "dot-product": "02-DotProd", "gpu-packing": "04-GpuPacking", "best-fit": "05-BestFit", "fgd": "06-FGD"}
LEVELS = [100, 110, 120, 130]
LOADS = [100, 110]
FIRST_PUBLISHED_SEED = 42
FIRST_FRESH_SEED = 1000
# Of Student's t, 0.95, by degrees of freedom; in between, that of fewer, which is larger.
T95 = {1: 6.314, 2: 2.920, 3: 2.353, 4: 2.132, 5: 2.015, 6: 1.943, 7: 1.895, 8: 1.860, 9: 1.833, 14: 1.761, 19: 1.729, 29: 1.699}


def published():
    with open(DATA / "expected/openb_published_allocation.csv", newline="") as file:
        return {(row["workload"].removeprefix("openb_pod_list_"), row["sc_policy"]): row for row in csv.DictReader(file)}


def at_least(differences):
    """Of the mean, with 95 % confidence."""
    if len(differences) < 2:
        return None
    freedom = len(differences) - 1
    t = T95.get(freedom) or T95[max(k for k in T95 if k < freedom)]
    return statistics.mean(differences) - t * statistics.stdev(differences) / math.sqrt(len(differences))


def lines(bin, runs):
    known = published()
    for pods in LISTS:
        replayed = run_json([bin / "tulle_bench_placement", DATA, pods, FIRST_PUBLISHED_SEED, runs])
        for policy, shares in replayed.items():
            for level in LEVELS:
                of_paper = known.get((pods, PUBLISHED.get(policy)))
                yield plain_line("placement", runs, f"{pods} {policy} at {level} %", statistics.mean(shares[str(level)]), "%",
                                 of_paper and "published", of_paper and float(of_paper[f"{level}_mean"]))
            yield plain_line("placement", runs, f"{pods} {policy} decision", shares["us"], "us")
        fresh = run_json([bin / "tulle_bench_placement", DATA, pods, FIRST_FRESH_SEED, runs])
        for level in LEVELS:
            better = [ours - fgd for ours, fgd in zip(fresh["predictive"][str(level)], fresh["fgd"][str(level)])]
            yield {**plain_line("placement", runs, f"{pods} predictive - fgd at {level} %", statistics.mean(better), "points", "at least",
                                at_least(better)), "ratio": None}
    for load in LOADS:
        replayed = run_json([bin / "tulle_bench_departures", DATA, "default", load, FIRST_FRESH_SEED, runs])
        fgd = {what: statistics.mean(values) for what, values in replayed["fgd"].items()}
        for policy, seen in replayed.items():
            of_fgd = policy != "fgd" or None
            for what, unit, name in (("allocated", "%", "allocated"), ("wait_s", "s", "mean wait"), ("waiting", "claims", "wait at once")):
                yield plain_line("placement", runs, f"default, load {load} %: {policy} {name}", statistics.mean(seen[what]), unit,
                                 of_fgd and "fgd", of_fgd and fgd[what])
