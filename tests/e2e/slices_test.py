#!/usr/bin/env python3
"""Slices hold, for OpenCL and CUDA: nobody takes more than its share, and another share holds while a program runs."""

import contextlib
import json
import os
import platform
import random
import re
import time
import unittest
import urllib.request

from mesh import BIN, PATIENCE_S, ControlGroupsTest, MeshTest, wait_for

PROGRAMS = {"opencl": "burns", "cuda": "cuda_burns"}


class SharesTest(MeshTest):
    def metrics(self, name):
        """{vGPU's claim: value}."""
        address = re.search(r"metrics http://(\S+)/metrics", (self.mesh.home / "up.log").read_text()).group(1)
        text = urllib.request.urlopen(f"http://{address}/metrics", timeout=PATIENCE_S).read().decode()
        return {labels: float(value) for labels, value in
                re.findall(name + r'\{vgpu="[^"]*",name="([^"]*?)(?:-\d+)?",[^}]*\} (\S+)', text)}



class Slices(SharesTest):
    lanes = os.cpu_count()

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
        seconds *= self.lanes
        then, before = time.monotonic(), self.metrics("tulle_vgpu_device_seconds_total")[name]
        after = wait_for(lambda: (now := self.metrics("tulle_vgpu_device_seconds_total")[name]) >= before + seconds and now,
                         f"{seconds} s of device time of {name}")
        return (after - before) / (time.monotonic() - then) / self.lanes

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


@unittest.skipUnless(platform.machine() == "x86_64", "the kernel without end is of x86-64")
class Turns(Slices):
    """The same on a device that vGPUs use one after the other, as GPUs are used."""

    up = ("--node-arg=--compute-sharing=turns", "--node-arg=--longest-turn=1")
    lanes = 1

    def test_the_mesh_says_so(self):
        self.assertRegex(self.assert_ok(self.mesh.tulle("get", "gpus", "-o", "wide")).stdout, "SHARED(.|\n)*by-turns")

    def test_a_kernel_without_end_is_ended_when_others_wait(self):
        spins = self.mesh.start_run("hostile", "spin", flags=["--memory", "64MiB", "--compute", "10%"])
        self.assertEqual(spins.stdout.readline(), "attacks\n")
        self.assert_ok(self.mesh.run("vector_add", flags=["--memory", "64MiB", "--compute", "10%"]))
        out, err = spins.communicate(timeout=PATIENCE_S)
        self.assertNotEqual(spins.returncode, 0, out + err)
        log = "".join(file.read_text() for file in (self.mesh.state / "logs").glob("node*.log"))
        self.assertIn("a kernel ran for more than 1 s while other vGPUs waited for the GPU", log)

    def test_programs_with_all_kinds_of_commands_are_right_beside_one_that_always_has_work(self):
        batteries = {"opencl": ("opencl_battery", "--gtest_filter=Events.*:Order.*:Kernels.*"), "cuda": ("cuda_conformance",)}
        with self.burning("opencl", "beside", "--compute", "50%"):
            for api, (battery, *arguments) in batteries.items():
                with self.subTest(api):
                    self.assert_ok(self.mesh.run(BIN / battery, "--gtest_brief=1", *arguments,
                                                 flags=["--api", api, "--memory", "512MiB", "--compute", "20%"]))


class SharesOfTheKernel(ControlGroupsTest, Slices):
    """The same where the host's kernel holds vGPUs to their shares, by control groups."""

    up = ("--node-arg=--compute-sharing=cgroup",)

    def test_who_bursts_has_what_others_leave(self):
        with self.burning("opencl", "bursts", "--compute", "10%"):
            self.share_is("bursts", 1, 1)
            self.used("bursts", 0.05)
            self.assertGreater(self.used("bursts"), 0.15)
            with self.burning("cuda", "capped", "--compute", "60%", "--level", "guaranteed"):
                self.share_is("capped", 0.6, 0.6)
                self.used("capped", 0.05)
                # It is promised six times as much, and may have no more than 0.6; alike they would have half each.
                self.assertGreater(self.used("capped"), 1.2 * self.used("bursts", 0.05))


class Ranges(SharesTest):
    """vGPUs whose share follows what their programs use."""

    up = ("--controller-arg=--calm=4",)

    def has(self, percent):
        wait_for(lambda: [percent] == [vgpu["spec"]["computePercent"] for vgpu in json.loads(
            self.assert_ok(self.mesh.tulle("get", "vgpus", "-o", "json")).stdout)], f"the vGPU to have {percent}%")

    def test_the_share_follows_the_load(self):
        flags = ["--compute", "10%..80%", "--level", "guaranteed", "--name", "follows"]
        with self.mesh.start_run("cat", stdin=-1, flags=flags) as holder:
            self.has(80)
            self.has(10)  # nobody uses it
            with self.mesh.start_run("burns", stdin=-1, flags=["--claim", "follows"]) as program:
                self.has(80)
                program.stdin.close()
            self.has(10)
            events = self.assert_ok(self.mesh.tulle("events", "vgpu", "follows-0")).stdout
            holder.stdin.close()
        self.assertIn("wants 10% of compute instead of 80%: its programs used at most 0% of the GPU in the last 4 s", events)
        self.assertRegex(events, "wants 20% of compute instead of 10%: its programs use [0-9]+% of the GPU and wait for their share in [0-9]+%")


class Resizes(SharesTest):
    """vGPUs get another size again and again, of everything at random, while programs of both APIs compute and move data."""

    up = ("--node-arg=--network-bandwidth=400MiB",)

    def test_no_program_notices_more_than_its_speed(self):
        seed = int(os.environ.get("TULLE_E2E_SEED", time.time_ns() % 1_000_000))
        resizes = int(os.environ.get("TULLE_E2E_RESIZES", 60))
        print(f"seed {seed} (TULLE_E2E_SEED), {resizes} resizes (TULLE_E2E_RESIZES)", flush=True)
        choice = random.Random(seed)
        programs = {}
        for name, (program, api) in {"burns": ("burns", "opencl"), "cuda": ("cuda_burns", "cuda"), "moves": ("moves", "opencl")}.items():
            programs[name] = self.mesh.start_run(program, stdin=-1, flags=[
                "--api", api, "--name", name, "--memory", "256MiB", "--compute", "20%", "--network", "50MiB",
                "--level", choice.choice(["guaranteed", "burst"]), *choice.choice([["--over-network"], []])])
            if (said := programs[name].stdout.readline()) != "ready\n":
                self.fail(said + programs[name].stderr.read())
        refused = 0
        for _ in range(resizes):
            what = {"--compute": f"{choice.randint(1, 60)}%", "--network": f"{choice.randint(1, 200)}MiB",
                    "--memory": f"{choice.randint(64, 1024)}MiB"}
            flags = [word for flag in choice.sample(sorted(what), choice.randint(1, 3)) for word in (flag, what[flag])]
            done = self.mesh.tulle("resize", choice.choice(sorted(programs)), *flags)
            # Together they may want more than there is.
            refused += done.returncode != 0
            if done.returncode != 0:
                self.assertRegex(done.stderr, "would need .* more of")
        self.assertLess(refused, resizes)
        for name, program in programs.items():
            out, err = program.communicate("", timeout=2 * PATIENCE_S)
            self.assertEqual(program.returncode, 0, f"{name}: {out}{err}")
            self.assertRegex(out, r"^done after \d+( kernels)?\n$")


class NetworkShares(SharesTest):
    up = ("--node-arg=--network-bandwidth=100MiB",)

    @contextlib.contextmanager
    def moving(self, name, *flags):
        with self.mesh.start_run("moves", stdin=-1,
                                 flags=["--over-network", "--compute", "10%", "--name", name, *flags]) as program:
            if (said := program.stdout.readline()) != "ready\n":
                self.fail(said + program.stderr.read())
            yield
            program.stdin.close()
            self.assertRegex(program.stdout.read(), r"^done after \d+\n$")
            self.assertEqual(program.wait(PATIENCE_S), 0)

    def moved(self, name, mib):
        """How much a second, until it is so much."""
        then, before = time.monotonic(), self.metrics("tulle_vgpu_network_bytes_total")[name]
        after = wait_for(lambda: (now := self.metrics("tulle_vgpu_network_bytes_total")[name]) >= before + (mib << 20) and now,
                         f"{mib} MiB of {name}")
        return (after - before) / (time.monotonic() - then) / (1 << 20)

    def may_move(self, name, least, most):
        wait_for(lambda: least <= self.metrics("tulle_vgpu_network_bytes_per_second").get(name, -1) / (1 << 20) <= most,
                 f"{least} to {most} MiB/s of {name}: it is {self.metrics('tulle_vgpu_network_bytes_per_second')}")

    def test_nobody_moves_more_than_its_share_and_another_holds_at_once(self):
        with self.moving("capped", "--network", "10MiB", "--level", "guaranteed"):
            self.may_move("capped", 9.99, 10)
            self.moved("capped", 1)  # what it may have saved
            self.assertLess(self.moved("capped", 20), 10 * 1.1)  # they move 1 MiB at a time
            self.assertGreater(self.metrics("tulle_vgpu_network_throttled_seconds_total")["capped"], 0)
            self.assertEqual(self.metrics("tulle_vgpu_network_promised_bytes_per_second")["capped"], 10 << 20)
            done = self.assert_ok(self.mesh.tulle("resize", "capped", "--network", "40MiB"))
            self.assertEqual(done.stdout, "claim capped: 40MiB/s of the network for each of its vGPUs\n")
            self.may_move("capped", 39.9, 40)
            self.assertGreater(self.moved("capped", 20), 10 * 1.1)
            self.assertRegex(self.mesh.tulle("get", "vgpus").stdout, r" 40MiB/s +guaranteed ")
            # As its node tells with its heartbeats: what it may move, and that it wants more.
            wait_for(lambda: re.search(r" [1-9]\S*/s +40MiB/s +[1-9]\d*% ", self.mesh.tulle("get", "vgpus", "-o", "wide").stdout),
                     "the vGPU's usage: " + self.mesh.tulle("get", "vgpus", "-o", "wide").stdout)

    def test_who_bursts_has_what_others_leave(self):
        with self.moving("bursts", "--network", "10MiB"):
            self.may_move("bursts", 85, 100)
            with self.moving("capped", "--network", "60MiB", "--level", "guaranteed"):
                self.may_move("bursts", 10, 60)
            self.may_move("bursts", 85, 100)

    def test_no_more_is_promised_than_there_is(self):
        with self.moving("most", "--network", "90MiB"):
            refused = self.mesh.run("moves", flags=["--no-wait", "--compute", "10%", "--network", "20MiB"])
            self.assertEqual(refused.returncode, 125)
            self.assertIn("the most that a GPU's node can promise of its network is 10MiB/s", refused.stderr)
            refused = self.mesh.tulle("resize", "most", "--network", "101MiB")
            self.assertIn("11MiB/s more of the network of GPU", refused.stderr)
            self.assertIn("10MiB/s left to promise", refused.stderr)
            self.assertRegex(self.assert_ok(self.mesh.tulle("get", "gpus")).stdout, r" 100MiB/s +10MiB/s ")
        self.assertEqual(self.mesh.tulle("resize", "most").returncode, 2)
        refused = self.mesh.run("moves", flags=["--level", "best-effort", "--network", "20MiB"])
        self.assertIn("spec.network_bytes_per_s: is not for BEST_EFFORT vGPUs", refused.stderr)


if __name__ == "__main__":
    unittest.main()
