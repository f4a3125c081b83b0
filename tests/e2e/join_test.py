#!/usr/bin/env python3
"""A mesh of three hosts, set up by the lines of the README: network namespaces of their own with names of their own, on one
bridge."""

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import unittest
from pathlib import Path

from mesh import BIN, PATIENCE_S, wait_for

# Runs in a user and network namespace of its own: a bridge, and a host for each word, whose init waits for us to end.
HOSTS = r"""
set -e
ip link add bridge type bridge
ip link set bridge up
number=0
for name in "$@"; do
  number=$((number + 1))
  unshare --net --uts sh -c "echo $name > /proc/sys/kernel/hostname; echo up; exec cat" < "$FIFO" > "$READY.$name" &
  pid=$!
  while ! grep -q up "$READY.$name" 2> /dev/null; do :; done
  ip link add "port$number" type veth peer name eth0 netns "$pid"
  ip link set "port$number" master bridge up
  nsenter --target "$pid" --net sh -c "ip link set lo up; ip addr add 10.99.0.$number/24 dev eth0; ip link set eth0 up"
  echo "$pid"
done
exec cat < "$FIFO"
"""


class ThreeHosts(unittest.TestCase):
    def setUp(self):
        self.root = Path(tempfile.mkdtemp(prefix="tulle-e2e-"))
        self.addCleanup(shutil.rmtree, self.root, ignore_errors=True)
        fifo = self.root / "fifo"
        os.mkfifo(fifo)
        names = ["alpha", "beta", "gamma"]
        self.network = subprocess.Popen(
            ["unshare", "--user", "--map-root-user", "--net", "--mount", "sh", "-c", HOSTS, "sh", *names],
            env={**os.environ, "FIFO": str(fifo), "READY": str(self.root / "ready")}, stdout=subprocess.PIPE, text=True,
            start_new_session=True)
        self.addCleanup(self.end_network)
        self.fifo = open(fifo, "w")  # its end is that of all hosts
        self.addCleanup(self.fifo.close)
        pids = [self.network.stdout.readline() for _ in names]
        if not all(pids):
            self.skipTest("no network namespaces here (user namespaces, or iproute2, are missing)")
        self.hosts = dict(zip(names, map(int, pids)))
        self.running = []
        self.addCleanup(self.end_running)

    def end_network(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.network.pid, signal.SIGKILL)
        self.network.wait()
        self.network.stdout.close()

    def end_running(self):
        for process in reversed(self.running):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def on(self, host, command):
        """The command as it is run on that host, by a user whose home is there."""
        inside = ["nsenter", "--target", str(self.hosts[host]), "--user", "--net", "--uts", "--preserve-credentials", "--", *command]
        home = self.root / host
        home.mkdir(exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("TULLE_", "XDG_"))}
        return {"args": inside, "env": {**environment, "HOME": str(home), "USER": "ann", "PATH": f"{BIN}:{os.environ['PATH']}"}}

    def start(self, host, command):
        """Runs until the test ends. What it prints is in said(host)."""
        with open(self.root / f"{host}.log", "w") as log:
            process = subprocess.Popen(**self.on(host, command), stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self.running.append(process)

    def said(self, host):
        return (self.root / f"{host}.log").read_text()

    def run_on(self, host, command):
        done = subprocess.run(**self.on(host, command), capture_output=True, text=True, timeout=2 * PATIENCE_S)
        self.assertEqual(done.returncode, 0, f"{command} on {host}: {done.stderr}")
        return done.stdout

    def test_lines_that_are_printed_join_a_node_and_log_a_user_in(self):
        self.start("alpha", ["tulle", "up", "--listen", "10.99.0.1:7400"])
        lines = {}
        for what in ("node join", "login"):
            pattern = rf"\n +(tulle {what} .*--token .*)\n"
            match = wait_for(lambda: re.search(pattern, self.said("alpha")), f"the line for {what}", 2 * PATIENCE_S)
            lines[what] = shlex.split(match[1])
        self.start("beta", lines["node join"])
        self.run_on("gamma", lines["login"])
        wait_for(lambda: "2 ready of 2" in self.run_on("gamma", ["tulle", "status"]), "two nodes")
        nodes = self.run_on("gamma", ["tulle", "get", "nodes"])
        self.assertRegex(nodes, r"\nalpha +ready ")
        self.assertRegex(nodes, r"\nbeta +ready .* 10\.99\.0\.2:\d+ ")
        for node in ("alpha", "beta"):
            listed = self.run_on("gamma", ["tulle", "run", "--over-network", "--node", node, "--", "clinfo", "-l"])
            self.assertRegex(listed, r"Platform #0: tulle\n.*Device #0: ")
        # Each line was for one use, and the same name is not given twice.
        again = subprocess.run(**self.on("gamma", [*lines["login"], "--replace"]), capture_output=True, text=True)
        self.assertEqual(again.returncode, 1)
        self.assertIn("has been used", again.stderr)
        line = shlex.split(self.run_on("gamma", ["tulle", "token", "create", "--node"]).strip())
        taken = subprocess.run(**self.on("gamma", [*line, "--name", "beta", "--no-start"]), capture_output=True, text=True)
        self.assertIn("there is a node beta already", taken.stderr)
        self.run_on("gamma", [*line, "--name", "delta", "--no-start"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
