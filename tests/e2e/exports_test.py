#!/usr/bin/env python3
"""Programs lend memory to each other: on one vGPU and on several, of both APIs, over shared memory and the network."""

import itertools
import re
import unittest

from mesh import BIN, PATIENCE_S, MeshTest, wait_for

INTS = 100_000  # no whole pages
NAMES = {"opencl": "cl_shares_memory", "cuda": "cuda_shares_memory"}
INVALID_EXPORT = {"opencl": "error -9801", "cuda": "error 500"}


class Exports(MeshTest):
    def program(self, api, *flags, **options):
        return self.mesh.start_run(NAMES[api], stdin=-1, flags=["--api", api, "--memory", "64MiB", *flags], **options)

    def ask(self, program, *words):
        """What the program answers."""
        program.stdin.write(" ".join(str(word) for word in words) + "\n")
        program.stdin.flush()
        answer = program.stdout.readline().strip()
        if not answer:
            self.fail(f"{words}: no answer\n{program.stderr.read()}")
        return answer

    def end(self, program):
        program.stdin.close()
        self.assertEqual(program.wait(PATIENCE_S), 0, program.stderr.read())

    def ints_of(self, api):
        """What comes of INTS: CUDA's memory is of whole granules."""
        granule = (2 << 20) // 4
        return INTS if api == "opencl" else -(-INTS // granule) * granule

    def test_programs_have_the_same_bytes(self):
        for owner_api, guest_api in itertools.product(NAMES, repeat=2):
            with self.subTest(owner=owner_api, guest=guest_api):
                owner, guest = self.program(owner_api), self.program(guest_api, "--over-network")
                self.assertEqual(self.ask(owner, "create", self.ints_of(owner_api)), "ok")
                self.assertEqual(self.ask(owner, "get"), "0")
                self.assertEqual(self.ask(owner, "set", 7), "ok")
                token = self.ask(owner, "export", "rw", "-")
                self.assertEqual(self.ask(guest, "import", token), str(self.ints_of(owner_api)))
                self.assertEqual(self.ask(guest, "get"), "7")
                self.assertEqual(self.ask(guest, "add", 5), "ok")
                self.assertEqual(self.ask(owner, "get"), "12")
                self.assertEqual(self.ask(owner, "add", 30), "ok")
                self.assertEqual(self.ask(guest, "get"), "42")
                self.assertEqual(self.ask(guest, "release"), "ok")
                self.assertEqual(self.ask(guest, "create", 1000), "ok")
                self.assertEqual(self.ask(guest, "get"), "0")
                self.end(guest)
                self.end(owner)

    def test_on_one_vgpu_it_stays_until_the_last_that_has_it_ends(self):
        keeper = self.program("opencl", "--name", "shared")  # whose end would be the claim's
        self.assertEqual(self.ask(keeper, "create", 1), "ok")
        for owner_api, guest_api in itertools.product(NAMES, repeat=2):
            with self.subTest(owner=owner_api, guest=guest_api):
                mib, joins = (1 << 20) // 4, ["--claim", "shared"]
                owner, guest = self.program(owner_api, *joins), self.program(guest_api, *joins)
                self.assertEqual(self.ask(owner, "create", 40 * mib), "ok")
                self.assertEqual(self.ask(owner, "set", 9), "ok")
                self.assertEqual(self.ask(guest, "import", self.ask(owner, "export", "rw", "-")), str(40 * mib))
                self.end(owner)
                self.assertEqual(self.ask(guest, "get"), "9")
                # It counts as the vGPU's memory until then.
                other = self.program(owner_api, *joins)
                no_memory = {"opencl": "error -4", "cuda": "error 2"}[owner_api]
                self.assertEqual(self.ask(other, "create", 40 * mib), no_memory)
                self.end(guest)
                wait_for(lambda: self.ask(other, "create", 40 * mib) == "ok", "the memory that was lent")
                self.assertEqual(self.ask(other, "get"), "0")
                self.end(other)
        self.assertEqual(self.program("opencl", "--claim", "nothing").wait(PATIENCE_S), 125)
        self.end(keeper)

    def test_what_may_only_be_read(self):
        for owner_api, guest_api in itertools.product(NAMES, repeat=2):
            with self.subTest(owner=owner_api, guest=guest_api):
                owner, guest = self.program(owner_api), self.program(guest_api)
                self.ask(owner, "create", self.ints_of(owner_api))
                self.ask(owner, "set", 3)
                token = self.ask(owner, "export", "ro", "-")
                self.ask(guest, "import", token)
                self.assertEqual(self.ask(guest, "get"), "3")
                refused = {"opencl": "error -59", "cuda": "error 1"}[guest_api]
                self.assertEqual(self.ask(guest, "set", 4), refused)
                self.assertEqual(self.ask(guest, "get"), "3")
                # A kernel that writes loses its own program the device (OpenCL's, which is native code), or its context.
                self.assertRegex(self.ask(guest, "add", 1), "error -5|error 700")
                self.assertEqual(self.ask(owner, "get"), "3")
                self.end(owner)
                self.end(guest)

    def test_what_is_taken_back(self):
        for owner_api, guest_api in itertools.product(NAMES, repeat=2):
            with self.subTest(owner=owner_api, guest=guest_api):
                owner, guest, late = self.program(owner_api), self.program(guest_api), self.program(guest_api)
                self.ask(owner, "create", self.ints_of(owner_api))
                token = self.ask(owner, "export", "rw", "-")
                self.ask(guest, "import", token)
                self.assertEqual(self.ask(guest, "revoke", token), INVALID_EXPORT[guest_api], "it is not the guest's")
                self.assertEqual(self.ask(owner, "revoke", token), "ok")
                self.assertRegex(self.ask(guest, "get"), "^error ")
                self.assertEqual(self.ask(late, "import", token), INVALID_EXPORT[guest_api])
                self.assertEqual(self.ask(owner, "revoke", token), INVALID_EXPORT[owner_api])
                self.assertEqual(self.ask(owner, "set", 1), "ok")
                self.assertEqual(self.ask(owner, "get"), "1")
                again = self.ask(owner, "export", "ro", "-")
                self.assertEqual(self.ask(late, "import", again), str(self.ints_of(owner_api)))
                self.assertEqual(self.ask(late, "get"), "1")
                for program in owner, guest, late:
                    self.end(program)

    def test_the_end_of_the_owners_vgpu(self):
        owner, guest = self.program("opencl"), self.program("cuda")
        self.ask(owner, "create", INTS)
        self.ask(guest, "import", self.ask(owner, "export", "rw", "-"))
        self.end(owner)
        # `tulle run` gives the vGPU back.
        wait_for(lambda: self.ask(guest, "get").startswith("error "), "the guest's loss of its device")

    def test_viewers_of_a_scene_that_changes(self):
        scene = BIN.parent / "examples" / "scene"
        simulation = self.mesh.start_run(scene, "simulate", "20000", stdin=-1, flags=["--memory", "64MiB"])
        token = simulation.stdout.readline().strip()
        self.assertNotEqual(token, "", simulation.stderr.read() if simulation.poll() is not None else "")
        pictures = []
        def another():
            file = self.mesh.home / "scene.ppm"
            done = self.assert_ok(self.mesh.run(scene, "view", token, file, "100", flags=["--memory", "64MiB", "--over-network"]))
            self.assertEqual(done.stdout, f"{file}: 20000 particles\n")
            pictures.append(file.read_bytes())
            return pictures[-1] != pictures[0]
        wait_for(another, "the scene to change")
        head = b"P6\n100 100\n255\n"
        for picture in pictures:
            self.assertTrue(picture.startswith(head))
            lit = sum(picture[at] != 0 for at in range(len(head), len(picture), 3))
            self.assertTrue(100 < lit < 10_000, f"{lit} of its pixels show something")
        simulation.stdin.close()
        self.assertRegex(simulation.stdout.read(), r"^\d+ steps\n$")
        self.assertEqual(simulation.wait(PATIENCE_S), 0)
        late = self.mesh.run(scene, "view", token, self.mesh.home / "late.ppm", flags=["--memory", "64MiB"])
        self.assertEqual((late.returncode, late.stdout), (1, ""))
        self.assertIn("no such scene", late.stderr)

    def test_another_tenant_has_what_is_lent_to_it(self):
        line = self.assert_ok(self.mesh.tulle("token", "create", "--user", "bob")).stdout
        login = re.search(r"tulle (login .*)", line).group(1).split()
        bobs = {**self.mesh.environment, "TULLE_STATE_DIR": str(self.mesh.home / "bob")}
        self.assert_ok(self.mesh.tulle(*login, env=bobs))
        for api in NAMES:
            with self.subTest(api):
                owner, bob = self.program(api), self.program(api, env=bobs)
                self.assertEqual(self.ask(owner, "create", self.ints_of(api)), "ok")
                self.ask(owner, "set", 3)
                for_all, for_bob = self.ask(owner, "export", "rw", "-"), self.ask(owner, "export", "ro", "bob")
                self.assertEqual(self.ask(bob, "import", for_all), INVALID_EXPORT[api])
                self.assertEqual(self.ask(bob, "import", for_bob), str(self.ints_of(api)))
                self.assertEqual(self.ask(bob, "get"), "3")
                self.assertRegex(self.ask(bob, "set", 4), "^error ")
                self.assertEqual(self.ask(owner, "revoke", for_all), "ok")
                self.assertEqual(self.ask(bob, "get"), "3", "that was another one")
                self.assertEqual(self.ask(owner, "revoke", for_bob), "ok")
                self.assertRegex(self.ask(bob, "get"), "^error ")
                self.end(owner)
                self.end(bob)

    def test_memory_that_a_vgpu_gets_and_gives_back_while_programs_run(self):
        mib = (1 << 20) // 4
        for api in NAMES:
            with self.subTest(api):
                name, no_memory = f"grows-{api}", {"opencl": "error -4", "cuda": "error 2"}[api]
                program = self.program(api, "--name", name)
                self.assertEqual(self.ask(program, "create", 40 * mib), "ok")
                self.assertEqual(self.ask(program, "create", 40 * mib), no_memory)
                done = self.assert_ok(self.mesh.tulle("resize", name, "--memory", "120MiB"))
                self.assertEqual(done.stdout, f"claim {name}: 120MiB for each of its vGPUs\n")
                wait_for(lambda: self.ask(program, "create", 40 * mib) == "ok", "memory that it has got")
                self.assertEqual(self.ask(program, "set", 3), "ok")
                later = self.program(api, "--claim", name)
                self.assertEqual(self.ask(later, "create", 41 * mib), no_memory)
                self.assert_ok(self.mesh.tulle("resize", name, "--memory", "400MiB"))
                large = self.program(api, "--claim", name)
                wait_for(lambda: self.ask(large, "create", 270 * mib) == "ok", "memory for a program that began later")
                self.end(large)
                self.end(later)
                wait_for(lambda: f'"memoryUsedBytes": "{80 << 20}"' in self.mesh.tulle("get", "vgpu", f"{name}-0", "-o", "json").stdout,
                         "what the node tells of it")
                refused = self.mesh.tulle("resize", name, "--memory", "64MiB")
                self.assertIn(f"programs use 80MiB of vGPU {name}-0", refused.stderr)
                self.assertEqual(self.ask(program, "get"), "3")
                self.assertEqual(self.ask(program, "release"), "ok")
                wait_for(lambda: self.mesh.tulle("resize", name, "--memory", "48MiB").returncode == 0, "a smaller vGPU")
                # One may have been made before the worker heard of it.
                wait_for(lambda: self.ask(program, "create", 20 * mib) == no_memory, "its end")
                self.end(program)

    def test_only_for_the_tenant_that_it_is_for(self):
        for api in NAMES:
            with self.subTest(api):
                owner, guest = self.program(api), self.program(api)
                self.ask(owner, "create", 10)
                token = self.ask(owner, "export", "rw", "somebody")
                self.assertEqual(self.ask(guest, "import", token), INVALID_EXPORT[api])
                self.assertEqual(self.ask(guest, "import", token[:-1] + ("0" if token[-1] != "0" else "1")), INVALID_EXPORT[api])
                self.assertEqual(self.ask(guest, "import", "x"), INVALID_EXPORT[api])
                self.assertEqual(self.ask(guest, "import", "y" * 200), INVALID_EXPORT[api])
                self.end(owner)
                self.end(guest)


if __name__ == "__main__":
    unittest.main()
