"""What calls of CUDA's driver API cost on a vGPU of a mesh, over TLS and through its host's socket; and programs there. Against
the same program on the device itself, in its own process; and the programs against plain loops in C++ on one thread, while
the device has one thread, too."""

import os

from harness import Case, run_json

TARGETS = ["tulle_bench_cuda", "tulle_softcuda", "tulle_cuda_shim"]

CALLS = ["launch+synchronize", "launch", "write-4B", "read-4B", "allocate+free", "event"]
MOVED = ["write-64MiB", "read-64MiB"]
PROGRAMS = ["vector-add", "matrix-product", "reduction", "histogram", "n-body", "black-scholes"]
ON_MESH = {"": ["--over-network"], "local ": []}

CASES = [Case(prefix + name, unit, [["native"]], name)
         for prefix in ON_MESH for names, unit in ((CALLS, "us"), (MOVED, "GB/s")) for name in names]
CASES += [Case("one-thread " + name, "ms", [["C++ " + name]]) for name in PROGRAMS]
YARDSTICK_UNITS = {"C++ " + name: "ms" for name in PROGRAMS}


def native(bin, *arguments, **environment):
    folder = bin.parent / "lib" / "softcuda"
    return run_json([bin / "tulle_bench_cuda", *arguments], {**os.environ, **environment, "LD_LIBRARY_PATH": str(folder)})


def measure_yardsticks(bin):
    return {"C++ " + case: value for case, value in run_json([bin / "tulle_bench_cuda", "loops"]).items()}


def measure_native(bin):
    return native(bin, "calls")


def measure_mesh(mesh, bin):
    results = {"one-thread " + case: value for case, value in native(bin, "programs", TULLE_SOFTCUDA_THREADS="1").items()}
    for prefix, options in ON_MESH.items():
        one = mesh.run_json(["--api", "cuda", "--memory", "1GiB", *options], [bin / "tulle_bench_cuda", "calls"])
        results |= {prefix + case: value for case, value in one.items()}
    return results
