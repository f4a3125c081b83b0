#!/usr/bin/env python3
"""Nothing of one program is ever found by another, or by itself in memory that it has anew."""

import unittest

from mesh import PATIENCE_S, MeshTest

PROGRAMS = {"opencl": "scrub", "cuda": "cuda_scrub"}


class Scrubbing(MeshTest):
    def leave(self, api, *flags, memory="96MiB"):
        program = self.mesh.start_run(PROGRAMS[api], "leave", stdin=-1, flags=["--api", api, "--memory", memory, *flags])
        if (said := program.stdout.readline()) != "left\n":
            self.fail(said + program.stderr.read())
        return program

    def end(self, program):
        program.stdin.close()
        self.assertEqual(program.wait(PATIENCE_S), 0, program.stderr.read())

    def nothing_found(self, api, *flags):
        done = self.assert_ok(self.mesh.run(PROGRAMS[api], "seek", flags=["--api", api, "--memory", "96MiB", *flags]))
        self.assertRegex(done.stdout, "^([a-z]+ 0 ?)+$")

    def test_the_next_program_of_a_vgpu_finds_nothing(self):
        for first in PROGRAMS:
            keeper = self.leave(first, "--name", f"one-{first}", memory="300MiB")
            for way in (), ("--over-network",):
                for then in PROGRAMS:
                    with self.subTest(first=first, then=then, way=way):
                        self.end(self.leave(first, "--claim", f"one-{first}", *way))
                        self.nothing_found(then, "--claim", f"one-{first}", *way)
            self.end(keeper)

    def test_programs_beside_each_other_and_later_ones_find_nothing(self):
        for first in PROGRAMS:
            beside = self.leave(first)
            for then in PROGRAMS:
                self.nothing_found(then)
            self.end(beside)
            for then in PROGRAMS:
                self.nothing_found(then)

    def test_no_process_of_the_mesh_leaves_its_memory_in_a_file(self):
        program = self.leave("opencl")
        for pid in [*self.mesh.workers(), *self.mesh.workers("executor"), *self.mesh.workers("build-server")]:
            limits = open(f"/proc/{pid}/limits").read()
            self.assertRegex(limits, r"Max core file size +0 +0 ", f"of {pid}")
        self.end(program)


if __name__ == "__main__":
    unittest.main()
