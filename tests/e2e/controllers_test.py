#!/usr/bin/env python3
"""Three controllers over three members of etcd: the one that leads is killed again and again, at any moment. What it had
acknowledged is there, a program that runs notices nothing, and another controller serves soon."""

import json
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.request
from pathlib import Path

from mesh import BIN, PATIENCE_S, PROGRAMS, wait_for

KILLS = int(os.environ.get("TULLE_E2E_KILLS", "5"))
LEASE_S = 5


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Controllers(unittest.TestCase):
    def setUp(self):
        self.root = Path(tempfile.mkdtemp(prefix="tulle-e2e-"))
        self.addCleanup(shutil.rmtree, self.root, ignore_errors=True)
        self.processes = {}
        self.addCleanup(self.end_all)
        self.seed = int(os.environ.get("TULLE_E2E_SEED", random.randrange(1 << 32)))
        self.random = random.Random(self.seed)
        print(f"seed {self.seed} (TULLE_E2E_SEED)", flush=True)

        self.etcd_ports = [(free_port(), free_port()) for _ in range(3)]
        for number in range(3):
            self.start_etcd(number)
        self.ports = [(free_port(), free_port()) for _ in range(3)]
        for number in range(3):
            if number:
                wait_for((self.root / "c0/ca/seal.key").exists, "the first controller's CA")
                (self.root / f"c{number}").mkdir(mode=0o700)
                shutil.copytree(self.root / "c0/ca", self.root / f"c{number}/ca")
            self.start_controller(number)
        wait_for(lambda: any((self.root / f"c{number}/node-n.conf").exists() for number in range(3)), "a leader")
        self.leader_state = next(self.root / f"c{number}" for number in range(3)
                                 if (self.root / f"c{number}/node-n.conf").exists())
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(("TULLE_", "XDG_"))}
        self.environment.update(HOME=str(self.root), PATH=f"{BIN}:{PROGRAMS}:{os.environ['PATH']}",
                                TULLE_STATE_DIR=str(self.root / "user"), TULLE_CONFIG=str(self.leader_state / "client.conf"))
        self.start("node", [BIN / "tulle-node", "--name", "n", "--config", self.leader_state / "node-n.conf", "--state-dir", self.root / "node",
                            "--data-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"],
                   env={name: value for name, value in self.environment.items() if not name.startswith("OCL_ICD")})
        wait_for(lambda: "registered" in (self.root / "node.log").read_text() or self.processes["node"].poll() is not None, "the node")
        self.assertIsNone(self.processes["node"].poll(), self.said())
        credentials = self.leader_state / "credentials"
        self.tls = ssl.create_default_context(cafile=credentials / "ca.pem")
        self.tls.load_cert_chain(credentials / "user-ann.pem", credentials / "user-ann.key")

    def start(self, name, command, **options):
        with open(self.root / f"{name}.log", "a") as log:
            self.processes[name] = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=log,
                                                    stderr=log, **options)

    def start_etcd(self, number):
        client, peer = self.etcd_ports[number]
        cluster = ",".join(f"e{i}=http://127.0.0.1:{ports[1]}" for i, ports in enumerate(self.etcd_ports))
        self.start(f"e{number}", [
            "etcd", "--name", f"e{number}", "--data-dir", self.root / f"e{number}", "--log-level", "error",
            "--listen-client-urls", f"http://127.0.0.1:{client}", "--advertise-client-urls", f"http://127.0.0.1:{client}",
            "--listen-peer-urls", f"http://127.0.0.1:{peer}", "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}",
            "--initial-cluster", cluster])

    def start_controller(self, number):
        port, http = self.ports[number]
        self.start(f"c{number}", [
            BIN / "tulle-controller", "--store", "etcd",
            "--etcd", ",".join(f"http://127.0.0.1:{ports[0]}" for ports in self.etcd_ports), "--lease", LEASE_S,
            "--state-dir", self.root / f"c{number}", "--listen", f"127.0.0.1:{port}", "--http-listen", f"127.0.0.1:{http}",
            "--advertise", ",".join(f"127.0.0.1:{ports[0]}" for ports in self.ports), "--user", "ann", "--node", "n"])

    def kill(self, name):
        self.processes[name].kill()
        self.processes[name].wait()

    def end_all(self):
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM if not process.args[0].endswith("etcd") else signal.SIGKILL)
        for process in self.processes.values():
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def said(self):
        return "\n".join(f"== {log.name}\n{log.read_text(errors='replace')[-5000:]}" for log in sorted(self.root.glob("*.log")))

    def request(self, number, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"https://127.0.0.1:{self.ports[number][1]}{path}", data,
                                         {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=PATIENCE_S, context=self.tls) as response:
            return response.read().decode()

    def leader(self):
        """The number of the controller that leads, or None."""
        for number in range(3):
            try:
                if self.request(number, "/healthz") == "ok\n":
                    return number
            except OSError:
                pass
        return None

    def call(self, method, body):
        """By whichever controller answers; tried again while none does."""
        def once():
            for number in range(3):
                try:
                    return [json.loads(self.request(number, f"/tulle.v1.Mesh/{method}", body))]
                except urllib.error.HTTPError as error:
                    if error.code != 503:
                        return [{"error": error.code, **json.loads(error.read())}]
                except OSError:
                    pass
            return None
        return wait_for(once, f"an answer to {method}")[0]

    def test_a_killed_leader_is_replaced_and_nothing_is_lost(self):
        steady = subprocess.Popen([BIN / "tulle", "run", "-q", "--memory", "64MiB", "--", "steady"], env=self.environment,
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(steady.kill)
        self.assertEqual(steady.stdout.readline(), "ready\n", self.said())

        created, deleted, stop = set(), set(), threading.Event()

        def work():
            """Creates claims and deletes some, and keeps account of what was acknowledged."""
            count = 0
            while not stop.is_set():
                name = f"claim-{count}"
                count += 1
                claim = {"metadata": {"name": name}, "spec": {"memoryBytes": str(1 << 20), "computePercent": 1}}
                # Of a call that broke off nobody knows whether it took effect: one with the same id is the same call.
                answer = self.call("CreateClaim", {"claim": claim, "requestId": name})
                self.assertNotIn("error", answer, answer)
                created.add(name)
                if count % 2:
                    self.call("DeleteClaim", {"name": name})
                    deleted.add(name)

        worker = threading.Thread(target=work)
        worker.start()
        took = []
        try:
            for kill in range(KILLS):
                # Under way again, and then at any moment.
                target = len(created) + 3 + self.random.randrange(40)
                wait_for(lambda: len(created) >= target, f"{target} claims")
                if kill == 1:
                    self.kill("e1")
                    self.start_etcd(1)
                leader = wait_for(lambda: self.leader() is not None and [self.leader()], "a leader")[0]
                if leader is None:
                    continue
                began = time.monotonic()
                self.kill(f"c{leader}")
                wait_for(lambda: self.leader() is not None, f"a new leader\n{self.said()}")
                took.append(time.monotonic() - began)
                self.start_controller(leader)
        finally:
            stop.set()
            worker.join()
        print("took over after", ", ".join(f"{seconds:.1f}" for seconds in took), "s", flush=True)
        self.assertLess(max(took), 3 * LEASE_S)

        for name in created - deleted:
            claim = self.call("GetClaim", {"name": name})
            self.assertNotIn("error", claim, claim)
            self.assertIn(claim["status"]["phase"], ("PENDING", "BOUND"), claim)
        for name in deleted:
            claim = self.call("GetClaim", {"name": name})
            self.assertTrue(claim.get("error") == 404 or claim["status"]["phase"] == "RELEASED", claim)
        self.assertIsNone(steady.poll(), self.said())
        out, err = steady.communicate("", timeout=PATIENCE_S)
        self.assertEqual(steady.returncode, 0, f"{out}{err}{self.said()}")
        self.assertRegex(out, r"done after \d+ steps")


if __name__ == "__main__":
    unittest.main()
