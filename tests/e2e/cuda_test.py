#!/usr/bin/env python3
"""Programs of CUDA's driver API on a vGPU, each compared with the same program on the software device itself."""

import functools
import json
import os
import re
import signal
import subprocess
import unittest
from pathlib import Path

from mesh import BIN, PATIENCE_S, MeshTest

SOFTCUDA = BIN.parent / "lib" / "softcuda"


class Cuda(MeshTest):
    nodes = 2

    def run_cuda(self, *command, flags=()):
        return self.mesh.run(*command, flags=["--api", "cuda", *flags])

    def native(self, *command):
        return self.mesh.native(*command, env={**self.mesh.environment, "LD_LIBRARY_PATH": str(SOFTCUDA)})

    def test_a_program_runs_as_it_is(self):
        for count in (1, 1000, 3_000_000):
            native = self.assert_ok(self.native("cuda_vector_add", str(count)))
            self.assertEqual(native.stdout.count(f"1 devices, tulle software CUDA device, {os.cpu_count()} multiprocessors, {count} elements"), 2)
            for flags in ([], ["--over-network"]):
                remote = self.assert_ok(self.run_cuda("cuda_vector_add", str(count), flags=flags))
                self.assertEqual(*[re.sub(r"\d+ multiprocessors", "", done.stdout) for done in (remote, native)])

    def test_the_battery(self):
        for flags in ([], ["--over-network"]):
            done = self.assert_ok(self.run_cuda(BIN / "cuda_conformance", "--gtest_brief=1", flags=flags))
            self.assertRegex(done.stdout, r"PASSED  \] \d\d tests")

    def test_both_apis_use_one_vgpu(self):
        done = self.assert_ok(self.run_cuda("sh", "-c", "vector_add 1000; cuda_vector_add 1000; vector_add 1000"))
        first, _, _, last = done.stdout.splitlines()
        self.assertEqual(first, last)
        gpus = json.loads(self.mesh.tulle("get", "gpus", "-o", "json").stdout)
        self.assertEqual(gpus[0]["spec"]["description"]["apis"], ["OPENCL", "CUDA"])

    def test_several_vgpus_are_several_devices(self):
        first, second = [self.assert_ok(self.run_cuda("cuda_vector_add", "1000", device, flags=["--gpus", "2"])).stdout
                         for device in ("0", "1")]
        self.assertEqual(first, second)
        self.assertIn("2 devices", first)

    def test_memory_is_the_vgpus(self):
        refused = self.run_cuda("cuda_vector_add", "10000000", flags=["--memory", "64MiB"])
        self.assertEqual(refused.stderr, "cuMemAlloc: CUDA_ERROR_OUT_OF_MEMORY\n")
        self.assert_ok(self.run_cuda("cuda_vector_add", "5000000", flags=["--memory", "64MiB"]))

    def test_a_share_is_so_many_multiprocessors(self):
        for share, count in ((100 // self.nodes, -(-os.cpu_count() // self.nodes)), (1, 1)):
            done = self.run_cuda("cuda_vector_add", "1000", flags=["--compute", f"{share}%"])
            self.assertIn(f" {count} multiprocessors,", self.assert_ok(done).stdout)

    def test_an_executor_that_dies_takes_its_own_program_only(self):
        with self.mesh.start_run("cuda_vector_add", "10", "0", "wait", stdin=-1, flags=["--api", "cuda"]) as first:
            self.assertIn("10 elements", first.stdout.readline())
            self.assertEqual(first.stdout.readline(), "ready\n")
            executor, = self.mesh.workers("cuda-executor")
            with self.mesh.start_run("cuda_vector_add", "10", "0", "wait", stdin=-1, flags=["--api", "cuda"]) as second:
                self.assertIn("10 elements", second.stdout.readline())
                self.assertEqual(second.stdout.readline(), "ready\n")
                os.kill(executor, signal.SIGKILL)
                _, said = first.communicate("\n", timeout=PATIENCE_S)
                self.assertRegex(said, r"CUDA_ERROR_DEVICE_UNAVAILABLE\n$")
                self.assertEqual(first.returncode, 1)
                out, said = second.communicate("\n", timeout=PATIENCE_S)
                self.assertIn("10 elements", out)
                self.assertEqual((second.returncode, said), (0, ""))

    def test_who_does_not_ask_for_cuda_does_not_see_it(self):
        self.assertNotIn(str(SOFTCUDA.parent), self.assert_ok(self.mesh.run("sh", "-c", "echo $LD_LIBRARY_PATH")).stdout)
        self.assertIn("API", self.mesh.tulle("run", "--api", "vulkan", "--", "true").stderr.upper())

    def test_without_a_vgpu_there_is_no_device(self):
        alone = self.mesh.native("cuda_vector_add", "1", env={**self.mesh.environment, "LD_LIBRARY_PATH": str(SOFTCUDA.parent / "cuda")})
        self.assertEqual(alone.stderr, "cuInit: CUDA_ERROR_NO_DEVICE\n")


class CudaLibrary(MeshTest):
    """GPUs that a library of CUDA's driver has, as NVIDIA's would."""

    up = (f"--node-arg=--cuda-library={SOFTCUDA / 'libcuda.so.1'}",)

    def run_there(self, *command, flags=()):
        return self.mesh.run(*command, flags=["--api", "cuda", "--type", "software CUDA", *flags])

    def test_they_are_gpus_of_the_node(self):
        gpus = [gpu["spec"]["description"] for gpu in json.loads(self.mesh.tulle("get", "gpus", "-o", "json").stdout)]
        self.assertEqual([gpu["apis"] for gpu in gpus], [["OPENCL", "CUDA"], ["CUDA"]])
        self.assertEqual(gpus[1]["type"], "tulle software CUDA device")
        for rate in ("fp32Flops", "bandwidthBytesPerS"):
            self.assertGreater(int(gpus[1][rate]), 0, rate)

    def test_the_battery(self):
        for flags in ([], ["--over-network"]):
            done = self.assert_ok(self.run_there(BIN / "cuda_conformance", "--gtest_brief=1", flags=flags))
            self.assertRegex(done.stdout, r"PASSED  \] \d\d tests")

    def test_the_library_is_what_runs_the_kernels(self):
        # The device in the worker's own program would have one.
        done = self.run_there("cuda_vector_add", "1000", flags=["--compute", "1%"])
        self.assertIn(f" {os.cpu_count()} multiprocessors,", self.assert_ok(done).stdout)

    def test_programs_of_opencl_are_not_sent_there(self):
        refused = self.mesh.run("vector_add", "10", flags=["--type", "software CUDA", "--no-wait"])
        self.assertIn("OPENCL", refused.stderr)
        # Nor can they use what was asked for with CUDA in mind.
        refused = self.run_there("vector_add", "10")
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn("no driver of OpenCL", self.mesh.said() + refused.stderr)


class CudaGpu(MeshTest):
    """On a GPU, where this machine has one that CUDA's driver knows. Each program runs on the GPU itself, too."""

    @classmethod
    def setUpClass(cls):
        probe = subprocess.run([BIN / "tulle-worker", "--probe"], capture_output=True, text=True, timeout=PATIENCE_S)
        gpus = [gpu for gpu in map(json.loads, probe.stdout.splitlines()) if ":" in gpu["cuda_device"]]
        if not gpus:
            raise unittest.SkipTest("CUDA's driver knows no GPU here")
        cls.gpu = gpus[0]
        super().setUpClass()

    def run_there(self, *command, api="cuda", flags=()):
        return self.mesh.run(*command, flags=["--api", api, "--type", self.gpu["name"], "--memory", "4GiB", *flags])

    def native(self, *command):
        return self.mesh.native(*command, env={**self.mesh.environment, "LD_LIBRARY_PATH": "/usr/lib/x86_64-linux-gnu"})

    def test_the_battery(self):
        battery = (BIN / "cuda_conformance", "--gtest_brief=1")
        for done in (self.native(*battery), self.run_there(*battery), self.run_there(*battery, flags=["--over-network"])):
            self.assertRegex(self.assert_ok(done).stdout, r"PASSED  \] \d\d tests")

    def test_programs(self):
        self.assertEqual(*[self.assert_ok(run("cuda_vector_add", "3000000")).stdout.partition("multiprocessors,")[2]
                           for run in (self.native, self.run_there)])
        pictures = []
        for run in (self.native, self.run_there):
            picture = self.mesh.home / f"{len(pictures)}.ppm"
            self.assert_ok(run(BIN.parent / "examples" / "render", "1920", "1080", picture))
            pictures.append(picture.read_bytes())
        self.assertEqual(*pictures)
        program = Path(__file__).parent / "programs" / "halide_pipelines.py"
        self.assertEqual(self.assert_ok(self.run_there("/usr/bin/python3", program, "80")).stdout.count("is right"), 4)

    def test_opencl_is_on_the_same_gpu(self):
        if self.gpu["api"] != "OPENCL":
            return  # it has no driver of OpenCL
        self.assertEqual(*[self.assert_ok(run("vector_add", "3000000")).stdout
                           for run in (self.native, functools.partial(self.run_there, api="opencl"))])


class CudaPrograms(MeshTest):
    """Programs of others that use the driver API, as Debian has them, and those of examples/."""

    def run_cuda(self, *command, flags=()):
        return self.mesh.run(*command, flags=["--api", "cuda", "--over-network", "--memory", "256MiB", *flags])

    def test_a_picture_of_two_vgpus_is_that_of_one_device(self):
        render = BIN.parent / "examples" / "render"
        native, remote = [self.mesh.home / name for name in ("native.ppm", "remote.ppm")]
        done = self.mesh.native(render, "400", "225", native, env={**self.mesh.environment, "LD_LIBRARY_PATH": str(SOFTCUDA)})
        self.assertEqual(self.assert_ok(done).stdout, "rows 0 to 224 on tulle software CUDA device\n")
        done = self.run_cuda(render, "400", "225", remote, flags=["--gpus", "2"])
        self.assertEqual([line.split(" on ")[0] for line in self.assert_ok(done).stdout.splitlines()],
                         ["rows 0 to 111", "rows 112 to 224"])
        self.assertEqual(native.read_bytes(), remote.read_bytes())
        self.assertGreater(len(set(native.read_bytes())), 100, "it is not a picture")

    def test_halide(self):
        # Pipelines compiled while the program runs, for old devices and for newer ones.
        program = Path(__file__).parent / "programs" / "halide_pipelines.py"
        for capability in ("50", "80"):
            done = self.assert_ok(self.run_cuda("/usr/bin/python3", program, capability))
            self.assertEqual(re.findall(r"\w+ is (\w+)", done.stdout), ["right"] * 4, done.stdout)

    def test_ffmpeg(self):
        # One picture on another, by a kernel of ffmpeg's own, is to the byte what its processor filter makes of them.
        def frames(run, *options, upload="", overlay="overlay", download=""):
            graph = (f"[0:v]format=yuv420p{upload}[scene];[1:v]format=yuv420p{upload}[small];"
                     f"[scene][small]{overlay}=x=20:y=30{download},format=yuv420p")
            return self.assert_ok(run("ffmpeg", "-loglevel", "error", *options,
                                      "-f", "lavfi", "-i", "testsrc2=size=320x240:rate=5:duration=2",
                                      "-f", "lavfi", "-i", "testsrc=size=100x80:rate=5:duration=2",
                                      "-filter_complex", graph, "-f", "framemd5", "-")).stdout
        on_vgpu = frames(self.run_cuda, "-init_hw_device", "cuda=vgpu:0", "-filter_hw_device", "vgpu",
                         upload=",hwupload", overlay="overlay_cuda", download=",hwdownload")
        self.assertEqual(on_vgpu.count("115200"), 10, on_vgpu)
        self.assertEqual(on_vgpu, frames(self.mesh.native))


if __name__ == "__main__":
    unittest.main(verbosity=2)
