#!/usr/bin/env python3
"""Programs that attack: kernels, which on the CPU device are native code, and sources. Nobody else notices."""

import os
import platform
import re
import signal
import unittest
from pathlib import Path

from mesh import PATIENCE_S, ControlGroupsTest, MeshTest, wait_for

LOST = r"cl\w+: error -\d+\n"  # the program's device: its executor was ended
EITHER = rf"(0\n|{LOST})"
# What the attack's system call gives back.
ATTACKS = {
    "read-passwords": "-2", "read-keys": "-2", "write-root": "-30", "write-dev": "-2", "write-bin": "-30",
    "fork": "-38", "socket": "-1", "kill": "-38", "limits": "-38",
    "exec": LOST, "ptrace": LOST, "mount": LOST, "unshare": LOST, "parents-memory": LOST,
    "crash": LOST, "scribble": LOST, "exit": LOST,
    "descriptors": EITHER,  # its own to close, and the worker may see that before the answer
}


@unittest.skipUnless(platform.machine() == "x86_64", "its kernels are of x86-64")
class Hostile(MeshTest):
    def setUp(self):
        self.beside = self.mesh.start_run("steady", stdin=-1, flags=["--memory", "64MiB", "--compute", "10%"])
        self.assertEqual(self.beside.stdout.readline(), "ready\n")

    def unharmed(self):
        """The program beside has computed on, and right."""
        out, err = self.beside.communicate("", timeout=PATIENCE_S)
        self.assertEqual(self.beside.returncode, 0, out + err)
        self.assertRegex(out, r"done after \d+ steps")

    def test_kernels(self):
        for attack, expected in ATTACKS.items():
            with self.subTest(attack):
                done = self.mesh.run("hostile", attack, flags=["--memory", "64MiB", "--compute", "10%"])
                self.assertRegex(done.stdout, f"^attacks\n{expected if expected in (LOST, EITHER) else expected + chr(10)}$")
        for file in "/owned", "/dev/shm/owned", "/usr/bin/owned":
            self.assertFalse(os.path.exists(file))
        self.unharmed()
        # What the operator reads of it.
        log = "".join(file.read_text() for file in (self.mesh.state / "logs").glob("node*.log"))
        for how in r"signal 31 \(Bad system call\)", r"signal 11 \(Segmentation fault\)", "exited with code 0":
            self.assertRegex(log, r"session ended .*reason=\"?device lost\"? told=\"?the executor [^\n]*" + how)

    def test_a_kernel_without_end(self):
        spins = self.mesh.start_run("hostile", "spin", flags=["--memory", "64MiB", "--compute", "10%", "--level", "guaranteed"])
        self.assertEqual(spins.stdout.readline(), "attacks\n")
        self.assert_ok(self.mesh.run("vector_add", flags=["--memory", "64MiB", "--compute", "10%"]))
        self.unharmed()
        executors = set(self.mesh.workers("executor"))
        self.assertTrue(executors)
        spins.send_signal(signal.SIGTERM)
        self.assertEqual(spins.wait(PATIENCE_S), 128 + signal.SIGTERM)
        wait_for(lambda: not executors & set(self.mesh.workers("executor")), "the end of its executor")

    def build(self, source):
        done = self.mesh.run("hostile", "source", source, flags=["--claim", "sources"])
        self.assertNotIn("a secret of the host", done.stdout)
        self.assertNotIn("root:", done.stdout)
        return done.stdout

    def test_sources(self):
        secret = Path(self.mesh.home) / "secret"
        secret.write_text("a secret of the host")
        # One vGPU for all of them, whose compiler stays loaded.
        keeper = self.mesh.start_run("steady", stdin=-1, flags=["--memory", "64MiB", "--compute", "10%", "--name", "sources"])
        self.assertEqual(keeper.stdout.readline(), "ready\n")
        for source in (
            f'#include "{secret}"',
            '#include "/etc/shadow"',
            "#define A B B\n" + "".join(f"#define {chr(66 + i)} {chr(67 + i)} {chr(67 + i)}\n" for i in range(20)) + "A",
            "(" * 5000,
            "\x01\x02",
        ):
            with self.subTest(source[:40]):
                self.assertRegex(self.build(source), r"^-11\n", "a build failure")
        # What the assembler puts into a kernel: files of its jail, if it likes, but no other.
        takes = """__kernel void k(__global char* out) {
            __constant char* there;
            __asm__(".pushsection .rodata\\nthere: .incbin \\"FILE\\"\\n.popsection\\n lea there(%%rip), %0" : "=r"(there));
            for (int i = 0; i < 60; ++i) out[i] = there[i];
        }"""
        self.assertIn("it wrote: /*", self.build(takes.replace("FILE", "/usr/include/stdio.h")))
        for file in secret, "/etc/shadow", "/etc/passwd", "/proc/1/environ":
            with self.subTest(file):
                self.assertRegex(self.build(takes.replace("FILE", str(file))), r"^(-11\n|0\n\nit wrote: \n$)")
        self.unharmed()


@unittest.skipUnless(platform.machine() == "x86_64", "its kernels are of x86-64")
class HostMemory(ControlGroupsTest):
    """What a kernel takes of the host's memory beside its buffers."""

    up = ("--node-arg=--cgroup=own",)

    def log(self):
        return "".join(file.read_text() for file in (self.mesh.state / "logs").glob("node*.log"))

    def test_who_takes_more_than_it_may_is_ended_alone(self):
        # One program on the same vGPU, and one beside it.
        shares = self.mesh.start_run("steady", stdin=-1, flags=["--memory", "64MiB", "--compute", "10%", "--name", "shared"])
        beside = self.mesh.start_run("steady", stdin=-1, flags=["--memory", "64MiB", "--compute", "10%"])
        for program in shares, beside:
            self.assertEqual(program.stdout.readline(), "ready\n")
        done = self.mesh.run("hostile", "hoard", flags=["--claim", "shared"])
        self.assertRegex(done.stdout, f"^attacks\n{LOST}$")
        self.assertRegex(self.log(), r"told=\"?the executor was ended by the host's kernel for want of memory: it may have 1\.1GiB of the host's, ")
        for program in shares, beside:
            out, err = program.communicate("", timeout=PATIENCE_S)
            self.assertEqual(program.returncode, 0, out + err)
            self.assertRegex(out, r"done after \d+ steps")

    def test_nothing_is_left(self):
        folder = re.search(r"vGPUs have control groups .*memory:([^\";\s]+)", self.log()).group(1)
        with self.mesh.start_run("steady", stdin=-1, flags=["--memory", "64MiB", "--compute", "10%"]) as program:
            self.assertEqual(program.stdout.readline(), "ready\n")
            groups = [entry for entry in Path(folder).iterdir() if entry.is_dir()]
            self.assertTrue([entry for group in groups for entry in group.iterdir() if entry.is_dir()], "an executor's")
            program.communicate("", timeout=PATIENCE_S)
        wait_for(lambda: not any(group.exists() for group in groups), "the end of its control groups")


if __name__ == "__main__":
    unittest.main()
