#!/usr/bin/env python3
"""The client library as another project uses it: installed, found by CMake, built against, run on a mesh."""

import os
import re
import subprocess
import tempfile
import unittest
from pathlib import Path

from mesh import MeshTest

HERE = Path(__file__).parent
CMAKE = os.environ["TULLE_CMAKE"]
BUILD = os.environ["TULLE_BUILD"]
FLAGS = os.environ["TULLE_CXX_FLAGS"]  # what the library needs of those who link it: sanitizers, coverage


def must(*command):
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          check=False)
    if done.returncode != 0:
        raise AssertionError(f"{command} ended with {done.returncode}\n{done.stdout}")


class Sdk(MeshTest):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="tulle-sdk-")
        cls.addClassCleanup(cls.folder.cleanup)
        cls.prefix = Path(cls.folder.name) / "prefix"
        must(CMAKE, "--install", BUILD, "--prefix", cls.prefix, "--component", "sdk")
        super().setUpClass()

    def test_another_project_finds_builds_and_runs_with_it(self):
        build = Path(self.folder.name) / "build"
        must(CMAKE, "-G", "Ninja", "-S", HERE / "sdk", "-B", build, f"-DCMAKE_PREFIX_PATH={self.prefix}",
             f"-DCMAKE_CXX_FLAGS={FLAGS}", f"-DCMAKE_CXX_COMPILER={os.environ['TULLE_CXX']}")
        must(CMAKE, "--build", build)
        lines = self.assert_ok(self.mesh.native(build / "list")).stdout.splitlines()
        self.assertRegex(lines[0], rf"^vgpu claim-\w+-0 {256 << 20}$")
        self.assertRegex(lines[1], r"^gpu \S+-0$")
        self.assertRegex(lines[2], r"^claim claim-\w+ BOUND$")
        self.assertEqual(len(lines), 3)
        self.assertTrue(self.no_claims())

    def test_installed_headers_need_no_others(self):
        include = self.prefix / "include"
        headers = sorted(include.rglob("*.h"))
        self.assertIn(include / "tulle/sdk/client.h", headers)
        for header in headers:
            for needed in re.findall(r'^#include ["<](tulle/[^">]*)', header.read_text(), re.M):
                self.assertTrue((include / needed).is_file(), f"{header} includes {needed}, which is not installed")

    def test_nothing_installed_names_the_build(self):
        for file in self.prefix.rglob("*.cmake"):
            self.assertNotIn(str(HERE.parent.parent), file.read_text(), file)


if __name__ == "__main__":
    unittest.main(verbosity=2)
