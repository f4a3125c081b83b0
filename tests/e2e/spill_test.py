#!/usr/bin/env python3
"""Programs that have more memory than their vGPU: what they do not use is in their node's memory or on its disk."""

import unittest

from mesh import PATIENCE_S, wait_for
from slices_test import SharesTest

MIB = 1 << 20


class Spills(SharesTest):
    """The vGPU has 64 MiB, the programs up to 256; of what is not on it a quarter is in memory, the rest on disk."""

    up = ("--node-arg=--spill-memory=256MiB", "--node-arg=--spill-disk=768MiB")

    SLICE = ("--memory", "64MiB", "--spill", "192MiB")

    def start(self, *arguments, flags=SLICE, ready=True):
        program = self.mesh.start_run("spills", *arguments, stdin=-1, flags=flags)
        if ready and (said := program.stdout.readline()) != "ready\n":
            self.fail(said + program.stderr.read())
        return program

    def finish(self, program):
        out, errors = program.communicate("go on\n", timeout=5 * PATIENCE_S)
        self.assertEqual((out, program.returncode), ("right\n", 0), errors)

    def test_a_program_has_more_than_is_on_its_vgpu(self):
        program = self.start(12, 16, 3, flags=[*self.SLICE, "--name", "large"])
        places = ("used_memory", "spilled_memory", "spilled_file")

        def where():
            return [self.metrics(f"tulle_vgpu_{place}_bytes").get("large", 0) for place in places]

        # The node is told five times a second.
        wait_for(lambda: sum(where()) == 12 * 16 * MIB, "all of the program's memory, somewhere")
        here, in_memory, on_disk = where()
        self.assertLessEqual(here, 64 * MIB)
        self.assertLessEqual(in_memory, 48 * MIB)
        self.assertGreater(on_disk, 0)
        self.assertGreater(self.metrics("tulle_vgpu_spill_out_bytes_total")["large"], 128 * MIB)
        wide = wait_for(lambda: (text := self.mesh.tulle("get", "vgpus", "-o", "wide").stdout) and "128MiB" in text and text,
                        "what is spilled in the list")
        self.assertRegex(wide, r"SPILL +SPILLED +SPILL-RATE +SPILL-WAITS")
        self.assertRegex(self.mesh.tulle("get", "gpus", "-o", "wide").stdout, r"SPILL-FREE[\s\S]* 832MiB ")
        self.finish(program)
        self.assertGreater(self.metrics("tulle_vgpu_spill_wait_seconds_total").get("large", 1), 0)

    def test_programs_of_one_vgpu_make_room_for_each_other(self):
        keeper = self.start(4, 12, 1, flags=[*self.SLICE, "--name", "shared"])
        others = [self.start(4, 12, 3, flags=["--claim", "shared"]) for _ in range(2)]
        for program in others:
            self.finish(program)
        self.finish(keeper)

    def test_without_it_memory_ends_where_the_vgpu_does(self):
        done = self.mesh.run("spills", "12", "16", "1", flags=["--memory", "64MiB"])
        self.assertEqual((done.stdout, done.returncode), ("clCreateBuffer: error -4\n", 3))

    def test_memory_beyond_both_is_refused(self):
        done = self.mesh.run("spills", "17", "16", "1", flags=self.SLICE)
        self.assertEqual((done.stdout, done.returncode), ("clCreateBuffer: error -4\n", 3))

    def test_a_command_may_use_no_more_than_the_vgpu_has(self):
        done = self.mesh.run("spills", "3", "33", "1", flags=self.SLICE)
        self.assertEqual((done.stdout, done.returncode), ("clFinish: error -4\n", 3), done.stderr)
        done = self.mesh.run("spills", "1", "80", "1", flags=self.SLICE)  # no device has so large buffers
        self.assertEqual((done.stdout, done.returncode), ("clCreateBuffer: error -61\n", 3), done.stderr)

    def test_what_cannot_be_is_said_before(self):
        done = self.mesh.run("true", flags=["--memory", "64MiB", "--spill", "2GiB", "--no-wait"])
        self.assertNotEqual(done.returncode, 0)
        self.assertRegex(done.stderr, r"2GiB to spill; the most that is left for vGPUs of one GPU to spill is \S+")
        self.assertIn("--spill-disk", done.stderr)
        done = self.mesh.run("true", flags=["--api", "cuda", "--spill", "1GiB"])
        self.assertIn("spec.spill_bytes: is for OPENCL", done.stderr)

    def test_it_grows_while_the_program_runs_and_does_not_shrink(self):
        program = self.start(8, 16, 2, flags=[*self.SLICE, "--name", "grows"])
        done = self.mesh.tulle("resize", "grows", "--memory", "32MiB")
        self.assertIn("spills, and cannot have less memory than now, 64MiB", done.stderr)
        self.assert_ok(self.mesh.tulle("resize", "grows", "--memory", "256MiB"))
        self.finish(program)


if __name__ == "__main__":
    unittest.main()
