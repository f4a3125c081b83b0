#!/usr/bin/env python3
"""Slices hold, for OpenCL and CUDA: nobody takes more than its share, and another share holds while a program runs."""

import contextlib
import os
import re
import time
import unittest
import urllib.request

from mesh import PATIENCE_S, MeshTest, wait_for

PROGRAMS = {"opencl": "burns", "cuda": "cuda_burns"}


class Slices(MeshTest):
    def metrics(self, name):
        """{vGPU's claim: value}."""
        address = re.search(r"metrics http://(\S+)/metrics", (self.mesh.home / "up.log").read_text()).group(1)
        text = urllib.request.urlopen(f"http://{address}/metrics", timeout=PATIENCE_S).read().decode()
        return {labels: float(value) for labels, value in
                re.findall(name + r'\{vgpu="[^"]*",name="([^"]*?)(?:-\d+)?",[^}]*\} (\S+)', text)}

    @contextlib.contextmanager
    def burning(self, api, name, *flags):
        with self.mesh.start_run(PROGRAMS[api], stdin=-1, flags=["--api", api, "--name", name, *flags]) as program:
            if (said := program.stdout.readline()) != "ready\n":
                self.fail(said + program.stderr.read())
            yield
            program.stdin.close()
            self.assertRegex(program.stdout.read(), r"^done after \d+ kernels\n$")
            self.assertEqual(program.wait(PATIENCE_S), 0)

    def used(self, name, seconds=0.3):
        """Which part of the device a vGPU uses, until it has used as much as all of it gives in so many seconds."""
        seconds *= os.cpu_count()
        then, before = time.monotonic(), self.metrics("tulle_vgpu_device_seconds_total")[name]
        after = wait_for(lambda: (now := self.metrics("tulle_vgpu_device_seconds_total")[name]) >= before + seconds and now,
                         f"{seconds} s of device time of {name}")
        return (after - before) / (time.monotonic() - then) / os.cpu_count()

    def share_is(self, name, least, most):
        wait_for(lambda: least <= self.metrics("tulle_vgpu_share_ratio").get(name, -1) <= most,
                 f"a share of {name} between {least} and {most}: it is {self.metrics('tulle_vgpu_share_ratio')}")

    def test_nobody_takes_more_than_its_share(self):
        for api in PROGRAMS:
            name = f"capped-{api}"  # the one before is deleted in its own time
            with self.subTest(api), self.burning(api, name, "--compute", "15%", "--level", "guaranteed"):
                self.share_is(name, 0.15, 0.15)
                self.used(name, 0.05)  # what it may have saved
                # Nothing else wants the device; what is told of its time may be 0.2 s old.
                self.assertLess(self.used(name), 0.15 * 1.25)
                self.assertGreater(self.metrics("tulle_vgpu_throttled_seconds_total")[name], 0)
                self.assertEqual(self.metrics("tulle_vgpu_promised_share_ratio")[name], 0.15)

    def test_who_bursts_has_what_others_leave(self):
        with self.burning("opencl", "bursts", "--compute", "10%"):
            self.share_is("bursts", 0.9, 1)
            with self.burning("cuda", "capped", "--compute", "60%", "--level", "guaranteed"):
                self.share_is("bursts", 0.1, 0.7)
            self.share_is("bursts", 0.9, 1)

    def test_another_share_holds_while_the_program_runs(self):
        for api in PROGRAMS:
            name = f"range-{api}"
            with self.subTest(api), self.burning(api, name, "--compute", "10%..90%", "--level", "guaranteed"):
                self.share_is(name, 0.9, 0.9)
                with self.burning(api, f"other-{api}", "--compute", "80%", "--level", "guaranteed"):
                    self.share_is(name, 0.05, 0.2)  # less than promised where the machine has less to give
                    self.used(name, 0.05)
                    self.assertLess(self.used(name, 0.15), 0.35)
                self.share_is(name, 0.9, 0.9)

    def test_another_share_by_hand(self):
        with self.burning("opencl", "by-hand", "--compute", "90%", "--level", "guaranteed"):
            self.share_is("by-hand", 0.85, 0.9)
            done = self.assert_ok(self.mesh.tulle("resize", "by-hand", "--compute", "10%"))
            self.assertEqual(done.stdout, "claim by-hand: 10% of a GPU for each of its vGPUs\n")
            self.share_is("by-hand", 0.05, 0.1)
            self.used("by-hand", 0.05)
            self.assertLess(self.used("by-hand", 0.15), 0.1 * 1.5)
            refused = self.mesh.tulle("resize", "by-hand", "--compute", "0%")
            self.assertNotEqual(refused.returncode, 0)
            self.assertIn("--compute", refused.stderr)


if __name__ == "__main__":
    unittest.main()
