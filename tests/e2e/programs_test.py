#!/usr/bin/env python3
"""Unmodified programs on a vGPU, each compared with the same program on the machine's own device."""

import re
import unittest
from pathlib import Path

from mesh import BIN, MeshTest

EXAMPLES = Path("/usr/share/doc/python-pyopencl-doc/examples")


def raw_infos(text):
    """{property: value} of `clinfo --raw`, of devices only."""
    infos = {}
    for line in text.splitlines():
        match = re.match(r"\s*\[[^]]*/\d+\]\s+(CL_DEVICE_\w+)\s+(.*)", line)
        if match:
            infos[match.group(1)] = match.group(2).strip()
    return infos


class Clinfo(MeshTest):
    # What differs on purpose: memory is the vGPU's, the rest tells of what is not remoted in this version.
    MEMORY = {"CL_DEVICE_GLOBAL_MEM_SIZE", "CL_DEVICE_MAX_MEM_ALLOC_SIZE"}

    def test_the_device_is_the_native_one_with_the_memory_asked_for(self):
        native = raw_infos(self.assert_ok(self.mesh.native("clinfo", "--raw")).stdout)
        remote = raw_infos(self.assert_ok(self.mesh.run("clinfo", "--raw", flags=["--memory", "512MiB"])).stdout)
        self.assertEqual(remote["CL_DEVICE_GLOBAL_MEM_SIZE"], str(512 << 20))
        for name in ("NAME", "VENDOR", "TYPE", "MAX_COMPUTE_UNITS", "MAX_CLOCK_FREQUENCY", "MAX_WORK_GROUP_SIZE",
                     "MAX_WORK_ITEM_SIZES", "VERSION", "OPENCL_C_VERSION", "ENDIAN_LITTLE", "ADDRESS_BITS",
                     "PREFERRED_VECTOR_WIDTH_FLOAT", "DOUBLE_FP_CONFIG", "LOCAL_MEM_SIZE", "IMAGE_SUPPORT",
                     "MAX_SAMPLERS", "MAX_READ_IMAGE_ARGS", "MAX_WRITE_IMAGE_ARGS", "IMAGE2D_MAX_WIDTH",
                     "IMAGE2D_MAX_HEIGHT", "IMAGE3D_MAX_WIDTH", "IMAGE3D_MAX_HEIGHT", "IMAGE3D_MAX_DEPTH",
                     "IMAGE_MAX_ARRAY_SIZE", "IMAGE_MAX_BUFFER_SIZE"):
            self.assertEqual(remote[f"CL_DEVICE_{name}"], native[f"CL_DEVICE_{name}"], name)

    def test_own_devices_are_hidden_unless_asked_for(self):
        def platforms(*flags):
            return self.assert_ok(self.mesh.run("clinfo", "-l", flags=flags)).stdout.count("Platform #")
        self.assertEqual(platforms(), 1)
        self.assertEqual(platforms("--with-local"), 2)


class Own(MeshTest):
    def test_vector_add(self):
        self.assert_same("vector_add")
        self.assert_same("vector_add", 12345)

    def test_what_kernels_print_is_where_the_program_expects_it(self):
        self.assert_same("prints")

    def test_images_and_shared_virtual_memory(self):
        # Programs for themselves: each test demands the same of the native device, where another test runs them.
        done = self.assert_ok(self.mesh.run(BIN / "opencl_battery", "--gtest_filter=Images.*:Samplers.*:Svm.*",
                                            flags=["--memory", "1GiB"]))
        self.assertIn("[       OK ] Svm.KernelsFollowPointersOfTheProgram", done.stdout)


class Pyopencl(MeshTest):
    def example(self, name, **options):
        return self.assert_same("/usr/bin/python3", EXAMPLES / name, **options)

    def test_demo(self):
        self.example("demo.py")

    def test_elementwise(self):
        self.example("demo_elementwise.py")

    def test_template(self):
        self.example("demo_meta_template.py")

    def test_struct_reduce(self):
        self.example("demo-struct-reduce.py")

    def test_narray(self):
        self.example("narray.py")

    def test_nbody(self):
        # Its output is times.
        self.assert_ok(self.mesh.run("/usr/bin/python3", EXAMPLES / "n-body.py"))


class Hashcat(MeshTest):
    # MD5 of "tull", with nothing remembered between runs.
    COMMAND = ("hashcat", "-m", "0", "-a", "3", "--potfile-disable", "--restore-disable", "--force", "--quiet",
               "-w", "1", "a6da3c93420362e729d2395b0022b8ef", "?l?l?l?l")

    def test_cracks_a_hash(self):
        # It keeps built kernels in its home and tells devices apart by name: each run gets a home of its own.
        def cracked(run, home):
            (self.mesh.home / home).mkdir()
            return self.assert_ok(run(*self.COMMAND, env={**self.mesh.environment, "HOME": str(self.mesh.home / home)})).stdout
        native = cracked(self.mesh.native, "native")
        self.assertIn(":tull", native)
        self.assertEqual(cracked(self.mesh.run, "remote"), native)


class Clfft(MeshTest):
    def test_transforms_as_it_says_it_should(self):
        # It compares its results with what it knows of the transform, and says so; a length with several radices.
        self.assertIn("PASS", self.assert_same("clFFT-client", "-x", "60", "-p", "1").stdout)


class Clpeak(MeshTest):
    def test_measures_the_same_things(self):
        command = ("clpeak", "--kernel-latency", "--global-bandwidth")

        def measured(done):
            return re.sub(r"[-+]?\d+\.\d+", "N", self.assert_ok(done).stdout.partition("Device:")[2])
        self.assertEqual(measured(self.mesh.run(*command)), measured(self.mesh.native(*command)))


if __name__ == "__main__":
    unittest.main(verbosity=2)
