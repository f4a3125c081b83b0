#!/usr/bin/env python3
"""Programs whose vGPU has virtual machines, which are emulated here: a functional test, and no wall. Needs QEMU, and
TULLE_VM_KERNEL and TULLE_VM_MODULES if /boot has no kernel."""

import os
import platform
import re
import subprocess
import unittest
from pathlib import Path

from hostile_test import LOST
from mesh import PATIENCE_S, MeshTest, wait_for

BIN = Path(os.environ["TULLE_BIN"])
VM = ("--vm=emulated", *(f"--vm-{part}={path}" for part in ("kernel", "modules")
                         if (path := os.environ.get(f"TULLE_VM_{part.upper()}"))))
SLICE = ["--memory", "64MiB", "--compute", "10%", "--isolation", "vm"]
BOOT_S = 10 * PATIENCE_S


def problem():
    """Why there can be no machine here; empty: there can."""
    if platform.machine() != "x86_64":
        return "its machines are x86-64's"
    tried = subprocess.run([BIN / "tulle-worker", "--probe-machines", *VM], capture_output=True, text=True)
    return tried.stderr.strip() if tried.returncode else ""


@unittest.skipIf(why := problem(), why)
class Machines(MeshTest):
    # One spare machine would start for each session beside those that are used.
    up = (*(f"--node-arg={argument}" for argument in VM), "--node-arg=--worker-arg=--spare-executors=0")

    def in_machine(self, *command, flags=SLICE, **options):
        return self.mesh.run(*command, flags=flags, timeout_s=BOOT_S, **options)

    def machines(self):
        return [line for line in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout.splitlines()
                if line.startswith("qemu-system-x86_64")]

    def test_programs_run_in_them_unchanged(self):
        self.assert_ok(self.in_machine("vector_add"))
        wait_for(lambda: not self.machines(), "the end of its machine")
        done = self.in_machine("cuda_vector_add", flags=[*SLICE, "--api", "cuda"])
        self.assert_ok(done)

    def test_the_battery_of_opencl(self):
        """Its basics: what takes a compiler's time, or much memory, is left out of an emulated machine."""
        done = self.in_machine(BIN / "opencl_battery", "--gtest_filter=Buffers.*:Events.*:Kernels.*:Order.*-*Large*",
                               flags=[*SLICE[2:], "--memory", "512MiB"])
        self.assert_ok(done)
        self.assertRegex(done.stdout, r"\[  PASSED  \] [1-9]\d+ tests")

    def test_what_attacks_ends_in_its_machine(self):
        beside = self.mesh.start_run("steady", stdin=-1, flags=SLICE[:4])
        self.assertEqual(beside.stdout.readline(), "ready\n")
        # "1": of a kernel of its own, in which nothing else is.
        for attack, expected in {"read-passwords": "-2\n", "write-root": "-30\n", "fork": "-38\n", "socket": "-1\n",
                                 "crash": LOST, "scribble": LOST, "exec": LOST}.items():
            with self.subTest(attack):
                done = self.in_machine("hostile", attack)
                self.assertRegex(done.stdout, f"^attacks\n{expected}$", done.stderr)
        out, err = beside.communicate("", timeout=PATIENCE_S)
        self.assertEqual(beside.returncode, 0, out + err)
        self.assertRegex(out, r"done after \d+ steps")
        log = "".join(file.read_text() for file in (self.mesh.state / "logs").glob("node*.log"))
        for how in r"signal 31 \(Bad system call\)", r"signal 11 \(Segmentation fault\)":
            self.assertRegex(log, r"session ended .*reason=\"?device lost\"? told=\"?the executor was killed by " + how)

    def test_a_kernel_without_end(self):
        spins = self.mesh.start_run("hostile", "spin", flags=SLICE)
        self.assertEqual(spins.stdout.readline(), "attacks\n")
        wait_for(self.machines, "its machine")
        spins.terminate()
        spins.wait(PATIENCE_S)
        wait_for(lambda: not self.machines(), "the end of its machine")

    def test_it_is_shown(self):
        gpus = self.mesh.tulle("get", "gpus", "-o", "wide").stdout
        self.assertRegex(gpus, r"ISOLATION[\s\S]* process,vm ")
        program = self.mesh.start_run("sleep", "60", flags=[*SLICE, "--name", "shown"])
        wide = wait_for(lambda: (text := self.mesh.tulle("get", "vgpus", "-o", "wide").stdout) and "shown" in text and text,
                        "the vGPU in the list")
        self.assertTrue(re.search(r"shown-0 .* vm ", wide), wide)
        program.terminate()
        program.wait(PATIENCE_S)


class WithoutMachines(MeshTest):
    up = ("--node-arg=--vm=off",)

    def test_it_is_said_that_there_are_none(self):
        done = self.mesh.run("true", flags=["--isolation", "vm", "--no-wait"])
        self.assertNotEqual(done.returncode, 0)
        self.assertRegex(done.stderr, r"in a virtual machine; no GPU of the mesh matches .*offers no virtual machines")
        done = self.mesh.run("true", flags=["--isolation", "jail"])
        self.assertIn("--isolation jail: not a kind of isolation; write process or vm", done.stderr)


if __name__ == "__main__":
    unittest.main()
