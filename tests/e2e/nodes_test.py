#!/usr/bin/env python3
"""Two nodes on one machine."""

import collections
import contextlib
import json
import re
import socket
import threading
import unittest
import urllib.request

from mesh import BIN, PATIENCE_S, MeshTest, descendants, wait_for


class Relay:
    """Stands between clients and a server. While `answers` is cleared, what the server says does not come through."""

    def __init__(self, endpoint):
        host, port = endpoint.rsplit(":", 1)
        self.server = (host, int(port))
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.answers = threading.Event()
        self.answers.set()
        self.sent = 0  # bytes from clients
        threading.Thread(target=self.accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.answers.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection(self.server)
                threading.Thread(target=self.pump, args=(client, server, False), daemon=True).start()
                threading.Thread(target=self.pump, args=(server, client, True), daemon=True).start()

    def pump(self, source, sink, is_answer):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if is_answer:
                    self.answers.wait()
                else:
                    self.sent += len(data)
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


class TwoNodes(MeshTest):
    nodes = 2

    def test_a_program_sees_two_vgpus_on_two_nodes(self):
        listed = self.assert_ok(self.mesh.run("clinfo", "-l", flags=["--gpus", "2"])).stdout
        self.assertEqual(listed.count("Device #"), 2, listed)
        done = self.assert_ok(self.mesh.run("sh", "-c", "tulle get vgpus -o json; vector_add 5000 0; vector_add 5000 1",
                                            flags=["--gpus", "2"]))
        vgpus, _, sums = done.stdout.rpartition("]\n")
        nodes = {vgpu["status"]["node"] for vgpu in json.loads(vgpus + "]") if vgpu["status"]["phase"] == "READY"}
        self.assertEqual(len(nodes), 2)
        first, second = sums.splitlines()
        self.assertEqual(first, second)

    def test_what_one_node_has_built_another_need_not_build(self):
        names = [node["metadata"]["name"] for node in json.loads(self.mesh.tulle("get", "nodes", "-o", "json").stdout)]
        before = self.builds()
        sums = [self.assert_ok(self.mesh.run("vector_add", "5000", flags=["--node", name])).stdout for name in names]
        self.assertEqual(sums[0], sums[1])
        after = self.builds()
        # The first node may have to build it, the second has not: it finds what the first has, or both have found it.
        self.assertGreaterEqual(after["found"], before["found"] + 1)
        self.assertLessEqual(after["not_found"], before["not_found"] + 1)

    def builds(self):
        """What became of builds that were looked for in the mesh, or given to it, by both nodes together."""
        counts = collections.Counter()
        for node in re.findall(r"metrics http://(\S+)/metrics", (self.mesh.home / "up.log").read_text()):
            text = urllib.request.urlopen(f"http://{node}/metrics", timeout=PATIENCE_S).read().decode()
            for outcome, count in re.findall(r'mesh_builds_total\{outcome="(\w+)"\} (\d+)', text):
                counts[outcome] += int(count)
        return counts

    def test_the_nodes_share_the_device(self):
        gpus = json.loads(self.assert_ok(self.mesh.tulle("get", "gpus", "-o", "json")).stdout)
        self.assertEqual(len(gpus), 2)
        promised = sum(int(gpu["status"]["allocatableMemoryBytes"]) for gpu in gpus)
        there = int(gpus[0]["spec"]["description"]["memoryBytes"])
        self.assertLess(promised, there)
        self.assertEqual([gpu["status"]["allocatableComputePercent"] for gpu in gpus], [50, 50])
        self.assertEqual((self.mesh.home / "up.log").read_text().count(" and 50% of its compute for vGPUs"), 2)
        refused = self.mesh.run("true", flags=["--compute", "60%", "--no-wait"])
        self.assertEqual(refused.returncode, 125)
        self.assertIn("no GPU offers more than 50% of its compute", refused.stderr)

    def test_a_node_is_drained(self):
        name = json.loads(self.mesh.tulle("get", "nodes", "-o", "json").stdout)[0]["metadata"]["name"]
        self.addCleanup(self.mesh.tulle, "uncordon", name)
        with self.mesh.start_run("steady", stdin=-1, flags=["--node", name, "--name", "first"]) as first:
            self.assertEqual(first.stdout.readline(), "ready\n")
            drain = self.mesh.start(BIN / "tulle", "drain", name, "--grace", "1h")
            self.assertRegex(drain.stdout.readline(), rf"^node {name} takes no new vGPUs; the 1 that it has end at \S+Z\n")
            self.assertRegex(self.mesh.tulle("get", "claims").stdout, rf"\nfirst .* node {name} is drained: ")
            self.assertRegex(self.mesh.tulle("get", "nodes").stdout, rf"\n{name} +ready,draining |^{name} +ready,draining ")
            self.assertIn("cordoned", self.mesh.run("true", flags=["--node", name, "--no-wait"]).stderr)
            self.assert_ok(self.mesh.run("vector_add"))  # on the other one
            _, said = first.communicate("", timeout=PATIENCE_S)
            self.assertIn(f"claim first: node {name} is drained", said)
            self.assertEqual(drain.communicate(timeout=PATIENCE_S)[0], f"node {name} is drained\n")
            self.assertEqual(drain.returncode, 0)
        self.assertIn("drained", self.mesh.tulle("get", "nodes").stdout)
        self.assert_ok(self.mesh.tulle("uncordon", name))

    def test_a_program_that_ends_of_a_drain_before_its_holder_hears_of_it(self):
        name = json.loads(self.mesh.tulle("get", "nodes", "-o", "json").stdout)[0]["metadata"]["name"]
        self.addCleanup(self.mesh.tulle, "uncordon", name)
        config = dict(line.split(" = ", 1) for line in (self.mesh.state / "client.conf").read_text().splitlines())
        with Relay(config["endpoint"]) as relay, self.mesh.start(
                BIN / "tulle", "run", "-q", "--node", name, "--", "steady", stdin=-1,
                env={**self.mesh.environment, "TULLE_ENDPOINT": relay.endpoint}) as run:
            self.assertEqual(run.stdout.readline(), "ready\n")
            relay.answers.clear()
            sent = relay.sent
            self.assert_ok(self.mesh.tulle("drain", name, "--grace", "0s"))
            wait_for(lambda: not any(its.split(" ")[0].endswith("steady") for _, its in descendants(run.pid).values()),
                     "the program to end")
            wait_for(lambda: relay.sent > sent, "the holder to give the claim back")
            relay.answers.set()
            _, said = run.communicate("", timeout=PATIENCE_S)
            self.assertEqual(said.count(f"NodeDrained: node {name} has been drained"), 1, said)

    def test_a_node_can_be_chosen(self):
        names = [node["metadata"]["name"] for node in json.loads(self.mesh.tulle("get", "nodes", "-o", "json").stdout)]
        for name in names:
            done = self.assert_ok(self.mesh.run("tulle", "get", "vgpus", flags=["--node", name]))
            self.assertIn(f"{name}-0", done.stdout)
        wrong = self.mesh.run("true", flags=["--node", "nowhere", "--no-wait"])
        self.assertEqual(wrong.returncode, 125)


if __name__ == "__main__":
    unittest.main(verbosity=2)
