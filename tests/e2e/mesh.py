"""A real mesh for a test: controller, nodes and workers as processes, on free ports, in a folder of its own.

Nothing here waits for a time to pass: readiness comes over descriptors, everything else is a condition with a
deadline (wait_for). stop() also finds out whether anything was left behind.
"""

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

BIN = Path(os.environ["TULLE_BIN"])            # the programs of the mesh
PROGRAMS = Path(os.environ["TULLE_PROGRAMS"])  # the test programs
# Some machines build while they test: deadlines are for hangs, not for speed.
PATIENCE_S = float(os.environ.get("TULLE_E2E_PATIENCE_S", "60"))


def wait_for(condition, what, timeout_s=PATIENCE_S):
    """The first true value of condition(), tried again and again. Fails the test after the deadline."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:.0f} s: {what}")
        time.sleep(0.02)


def processes():
    """{pid: (parent, start time, command line)} of all processes that have not ended."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if fields[0] not in "ZX":
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found[int(entry.name)] = (int(fields[1]), fields[19], command)
    return found


def descendants(pid):
    """{pid: (start time, command line)} of all that `pid` started, directly or not."""
    table = processes()
    found, queue = {}, [pid]
    while queue:
        parent = queue.pop()
        for child, (its_parent, start, command) in table.items():
            if its_parent == parent and child not in found:
                found[child] = (start, command)
                queue.append(child)
    return found


def alive(known):
    """Those of {pid: (start time, command line)} that still run."""
    table = processes()
    return {pid: command for pid, (start, command) in known.items() if pid in table and table[pid][1] == start}


class Mesh:
    """`tulle up` in the background."""

    def __init__(self, *arguments, nodes=1):
        self.home = Path(tempfile.mkdtemp(prefix="tulle-e2e-"))
        self.state = self.home / "state"
        # Programs run natively on the platform that the tests choose; the mesh finds all that there are.
        self.environment = {name: value for name, value in os.environ.items()
                            if not name.startswith(("TULLE_", "XDG_"))}
        self.environment.update(TULLE_STATE_DIR=str(self.state), HOME=str(self.home),
                                PATH=f"{BIN}:{PROGRAMS}:{os.environ['PATH']}", PYOPENCL_CTX="0")
        self.started = []
        self.log = open(self.home / "up.log", "wb")
        ready, child_end = os.pipe()
        self.up = subprocess.Popen(
            [BIN / "tulle", "up", "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--nodes", str(nodes),
             "--ready-fd", str(child_end), *arguments],
            env={name: value for name, value in self.environment.items() if not name.startswith("OCL_ICD")},
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, pass_fds=[child_end])
        os.close(child_end)
        with os.fdopen(ready, "rb") as pipe:
            if not select.select([pipe], [], [], 2 * PATIENCE_S)[0] or not pipe.read():
                self.up.kill()
                raise AssertionError(f"the mesh did not start:\n{self.said()}")

    def said(self):
        """All logs, for a failed test."""
        files = [self.home / "up.log", *sorted((self.state / "logs").glob("*.log"))]
        return "\n".join(f"== {file.name}\n{file.read_text(errors='replace')[-8000:]}" for file in files if file.exists())

    def stop(self):
        """Stops it as a user would. Fails when it does not end well, or leaves processes behind."""
        known = descendants(self.up.pid)
        self.up.send_signal(signal.SIGTERM)
        try:
            code = self.up.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.up.kill()
            raise AssertionError(f"the mesh did not stop\n{self.said()}") from None
        self.log.close()
        try:
            if code != 0:
                raise AssertionError(f"tulle up ended with {code}\n{self.said()}")
            wait_for(lambda: not alive(known), f"the end of what the mesh started: {alive(known)}", 5)
        finally:
            shutil.rmtree(self.home)

    # --- programs

    def start(self, *command, **options):
        """A process in the mesh's environment. Its pipes are text."""
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True,
                   "env": self.environment, **options}
        process = subprocess.Popen([str(word) for word in command], **options)
        self.started.append(process)
        return process

    def end_programs(self):
        """Kills what a failed test left running, so that the next one finds a quiet mesh."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
                process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream:
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()
        self.started.clear()

    def native(self, *command, timeout_s=5 * PATIENCE_S, **options):
        """Runs a program to its end on this machine's own device."""
        with self.start(*command, **options) as process:
            try:
                out, err = process.communicate(timeout=timeout_s)
            except subprocess.TimeoutExpired:
                process.kill()
                out, err = process.communicate()
                raise AssertionError(f"{command} took longer than {timeout_s:.0f} s\n{out}\n{err}\n{self.said()}") from None
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def tulle(self, *arguments, **options):
        return self.native(BIN / "tulle", *arguments, **options)

    def run(self, *command, flags=(), **options):
        """The same program on a vGPU."""
        return self.tulle("run", "-q", *flags, "--", *command, **options)

    def start_run(self, *command, flags=(), **options):
        return self.start(BIN / "tulle", "run", "-q", *flags, "--", *command, **options)

    # --- what runs

    def daemon(self, kind):
        """The process of "controller" or "node": its pid."""
        return next(pid for pid, (_, command) in descendants(self.up.pid).items() if f"tulle-{kind} " in command)

    def workers(self, role="worker"):
        """Pids of workers, or of those of their processes that have this role."""
        def has_role(command):
            named = re.search(r" --role=(\S+)", command)
            return "tulle-worker" in command and (named.group(1) if named else "worker") == role
        return [pid for pid, (_, command) in descendants(self.up.pid).items() if has_role(command)]

    def address(self, daemon, what):
        """"HOST:PORT" of "grpc", "data" or "http", from the banner."""
        for line in (self.home / "up.log").read_text().splitlines():
            if line.split()[:1] == [daemon]:
                word = {"grpc": 1, "data": line.split().index("port") + 1 if "port" in line.split() else 0,
                        "http": -1}[what]
                return line.split()[word].rstrip(",").removeprefix("http://").removesuffix("/metrics")
        raise AssertionError(f"no {daemon} in the banner")


class MeshTest(unittest.TestCase):
    """One mesh for the tests of a class; `up` are arguments of `tulle up`."""

    up = ()
    nodes = 1

    @classmethod
    def setUpClass(cls):
        cls.mesh = Mesh(*cls.up, nodes=cls.nodes)

    @classmethod
    def tearDownClass(cls):
        cls.mesh.stop()

    def tearDown(self):
        self.mesh.end_programs()

    def run(self, result=None):
        failures = len(result.failures) + len(result.errors)
        super().run(result)
        if len(result.failures) + len(result.errors) > failures:
            print(self.mesh.said())

    def assert_ok(self, done):
        self.assertEqual(done.returncode, 0, f"{done.args}\n{done.stdout}\n{done.stderr}")
        return done

    def assert_same(self, *command, **options):
        """The program does the same on a vGPU as natively, whichever way it reaches it."""
        native = self.assert_ok(self.mesh.native(*command, **options))
        for flags in (), ("--over-network",):
            remote = self.assert_ok(self.mesh.run(*command, flags=flags, **options))
            self.assertEqual(remote.stdout, native.stdout)
        return native

    def no_claims(self):
        """Whether all claims have been given back."""
        return self.assert_ok(self.mesh.tulle("get", "claims")).stdout == ""


class ControlGroupsTest(MeshTest):
    """Where nodes that tests start may make control groups; elsewhere it is skipped."""

    @classmethod
    def setUpClass(cls):
        checks = subprocess.run([BIN / "tulle", "doctor"], capture_output=True, text=True).stdout
        if not re.search(r"^ok +control groups ", checks, re.M):
            raise unittest.SkipTest("no control groups can be made here (tulle doctor says why)")
        super().setUpClass()
