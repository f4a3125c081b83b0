"""What an executor in a virtual machine costs, against one in a process. TULLE_VM=emulated: by QEMU's emulator, whose numbers are its own;
else by KVM. TULLE_VM_KERNEL and TULLE_VM_MODULES name a kernel where /boot has none. Needs no mesh."""

import os

from harness import Case, run_json

TARGETS = ["tulle_bench_executor_hop", "tulle-guest"]

YARDSTICK_UNITS = {"process-start": "us", "process-busy": "us", "process-idle": "us", "process-memory": "MiB", "process-batch": "calls/s"}
CASES = [Case(name.removeprefix("process-"), unit, [[name]]) for name, unit in YARDSTICK_UNITS.items()]


def measure_yardsticks(bin):
    measured = run_json([bin / "tulle_bench_executor_hop", "--process"])
    return {f"process-{name}": value for name, value in measured.items()}


def measure(bin):
    return run_json([bin / "tulle_bench_executor_hop", "--machine", os.environ.get("TULLE_VM", "kvm")])
