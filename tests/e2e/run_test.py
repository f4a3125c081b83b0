#!/usr/bin/env python3
"""`tulle run` as a program's stand-in: exit codes, signals, terminals, many processes, and the claim given back."""

import contextlib
import json
import os
import pty
import re
import select
import shutil
import signal
import stat
import subprocess
import termios
import time
import unittest

from mesh import BIN, PATIENCE_S, MeshTest, descendants, wait_for


class Run(MeshTest):
    def test_the_exit_code_is_the_programs(self):
        self.assertEqual(self.mesh.run("sh", "-c", "exit 7").returncode, 7)
        self.assertEqual(self.mesh.run("sh", "-c", "kill -SEGV $$").returncode, 128 + signal.SIGSEGV)

    def test_what_cannot_run_has_the_shells_codes(self):
        missing = self.mesh.run("no-such-program")
        self.assertEqual(missing.returncode, 127)
        self.assertIn("no-such-program: no such command", missing.stderr)
        self.assertEqual(self.mesh.run("/etc/passwd").returncode, 126)

    def test_standard_streams_pass_through(self):
        with self.mesh.start_run("sh", "-c", "cat; echo problem >&2", stdin=-1) as process:
            out, err = process.communicate("hello", timeout=PATIENCE_S)
        self.assertEqual((out, err), ("hello", "problem\n"))

    def test_a_vgpu_on_this_host_is_reached_through_its_socket_unless_told_otherwise(self):
        for flags, channel in ((), "local"), (("--over-network",), "tls"):
            before = self.mesh.said().count("program=vector_add")
            self.assert_ok(self.mesh.run("vector_add", flags=flags))
            wait_for(lambda: self.mesh.said().count("program=vector_add") > before, "the log line of the session's end")
            last = [line for line in self.mesh.said().splitlines() if "program=vector_add" in line][-1]
            self.assertIn(f" channel={channel} ", last)

    def test_a_trace_shows_what_a_program_did(self):
        folder = self.mesh.home / "traces"
        flags = ["--trace", str(folder), "--trace-payloads"]
        self.assert_ok(self.mesh.run("sh", "-c", "cd /; vector_add 1000; vector_add 2000", flags=flags))
        files = sorted(map(str, folder.iterdir()))
        self.assertEqual(len(files), 2)
        self.assertEqual([stat.S_IMODE(os.stat(file).st_mode) for file in files], [0o600] * 2)
        text = self.assert_ok(self.mesh.tulle("trace", files[0])).stdout
        for words in "> EnqueueKernel ", "< EnqueueRead -> status=0 ", " us after #", "  waits\n", "> Goodbye\n":
            self.assertIn(words, text)
        self.assertNotIn("Hello", text)  # with which secrets come
        kernels = self.assert_ok(self.mesh.tulle("trace", files[0], "--only", "EnqueueKernel", "-o", "json")).stdout
        head, kernel = map(json.loads, kernels.splitlines())
        self.assertEqual((head["program"], kernel["command"], kernel["kind"]), ("vector_add", "EnqueueKernel", "sent"))
        summary = self.assert_ok(self.mesh.tulle("trace", "--summary", *files)).stdout
        self.assertEqual(len(re.findall(r"^EnqueueKernel +1 ", summary, re.MULTILINE)), 2)
        self.assertEqual(summary.count(" times for its vGPU, "), 2)

        # Cut off, as by a crash, it is shown up to there.
        with open(files[0], "r+b") as file:
            file.truncate(os.path.getsize(files[0]) - 5)
        cut = self.mesh.tulle("trace", files[0])
        self.assertEqual(cut.returncode, 1)
        self.assertIn("the trace is cut off here", cut.stderr)
        self.assertIn("> EnqueueKernel ", cut.stdout)
        self.assertIn("is not a trace", self.mesh.tulle("trace", "/etc/passwd").stderr)
        refused = self.mesh.run("true", flags=["--trace", "/proc/traces"])
        self.assertEqual(refused.returncode, 125)
        self.assertIn("write traces into /proc/traces: ", refused.stderr)

        # It feeds the fuzzer.
        corpus = self.mesh.home / "corpus"
        subprocess.run([BIN / "worker_inputs_from_trace", corpus, files[1]], check=True, stdout=subprocess.PIPE)
        fed = subprocess.run([BIN / "fuzz_worker", "--corpus", corpus], check=True, stdout=subprocess.PIPE, text=True,
                             env={**os.environ, "TULLE_FUZZ_RUNS": "0"})
        self.assertIn("1 corpus files and 0 inputs, no finding", fed.stdout)

    def test_a_program_waits_for_its_results_and_nothing_else(self):
        for way, flags in ("network", ["--over-network"]), ("local", []):
            folder = self.mesh.home / f"waits-{way}"
            done = self.assert_ok(self.mesh.run(str(BIN / "tulle_bench_round_trips"), flags=["--trace", str(folder), *flags]))
            results = json.loads(done.stdout)["results"]["value"]
            [trace] = folder.iterdir()
            waits = self.assert_ok(self.mesh.tulle("trace", str(trace), "-o", "json")).stdout.count('"wait-ends"')
            self.assertGreater(waits, 0, way)
            self.assertLessEqual(waits, results, way)  # fewer where a result was there before the program asked

    def test_several_processes_share_one_grant(self):
        done = self.assert_ok(self.mesh.run("sh", "-c", "vector_add; vector_add 1000 & vector_add 2000; wait"))
        self.assertEqual(done.stdout.count("checksum"), 3, done.stdout)

    def test_a_forked_child_has_opencl_too(self):
        # Natively it may hang: PoCL's threads are not there after a fork.
        self.assertEqual(self.assert_ok(self.mesh.run("forks")).stdout, "all right\n")

    def test_the_claim_is_given_back_at_the_end(self):
        self.assert_ok(self.mesh.run("vector_add"))
        self.assertTrue(self.no_claims())  # at once, so that the next command finds the room free

    def test_a_killed_run_gives_its_claim_back(self):
        with self.mesh.start_run("steady", stdin=-1, flags=["--name", "killed"]) as process:
            self.assertEqual(process.stdout.readline(), "ready\n")
            self.assertFalse(self.no_claims())
            process.kill()
            wait_for(self.no_claims, "the claim of a killed run was given back")

    def test_the_folder_of_a_killed_holder_goes_with_the_next_run(self):
        def folders():
            return set((self.mesh.state / "run").glob("tulle-run-*"))

        before = folders()
        with self.mesh.start_run("steady", stdin=-1) as live, self.mesh.start_run("steady", stdin=-1) as process:
            self.assertEqual(live.stdout.readline(), "ready\n")
            self.assertEqual(process.stdout.readline(), "ready\n")
            self.assertEqual(len(folders() - before), 2)
            holder, = (pid for pid, (_, command) in descendants(process.pid).items() if "tulle run" in command)
            os.kill(holder, signal.SIGKILL)
            process.communicate(timeout=PATIENCE_S)
            self.assertEqual(len(folders() - before), 2)  # nobody was there to remove it
            self.assert_ok(self.mesh.run("true"))
            self.assertEqual(len(folders() - before), 1)  # the live one's
            self.assert_ok(self.mesh.run("true"))
            self.assertEqual(len(folders() - before), 1)
            live.communicate(timeout=PATIENCE_S)
        self.assertEqual(folders(), before)
        wait_for(self.no_claims, "the claim of the killed holder was given back")

    def test_signals_reach_the_program(self):
        script = "trap 'echo got it; exit 5' TERM; echo ready; read line"
        with self.mesh.start_run("sh", "-c", script, stdin=-1) as process:
            self.assertEqual(process.stdout.readline(), "ready\n")
            process.send_signal(signal.SIGTERM)
            self.assertEqual(process.stdout.readline(), "got it\n")  # while its input is open, which it would end with
            process.communicate(timeout=PATIENCE_S)
        self.assertEqual(process.returncode, 5)

    def test_more_than_there_is_says_so(self):
        done = self.mesh.run("true", flags=["--memory", "900GiB", "--no-wait"])
        self.assertEqual(done.returncode, 125)
        # What was asked, what there is, what to do: one line, nothing around it.
        self.assertRegex(done.stderr, r"^tulle: asked for 900GiB .*; the largest GPU has [\d.]+[GM]iB on node \S+ .*; "
                                      r"see `tulle get gpus`\n$")

    def test_waits_for_room_and_says_why(self):
        with self.mesh.start_run("steady", stdin=-1, flags=["--level", "dedicated"]) as first:
            self.assertEqual(first.stdout.readline(), "ready\n")
            with self.mesh.start(BIN / "tulle", "run", "--name", "second", "--", "vector_add") as second:
                line = second.stderr.readline()
                self.assertRegex(line, "^tulle: claim second waits: ")
                first.stdin.close()
                self.assertIn("checksum", second.stdout.read())
                self.assertEqual(second.wait(PATIENCE_S), 0)
            self.assertEqual(first.wait(PATIENCE_S), 0)

    def test_an_interrupted_wait_gives_the_claim_up(self):
        with self.mesh.start_run("steady", stdin=-1, flags=["--level", "dedicated"]) as first:
            self.assertEqual(first.stdout.readline(), "ready\n")
            with self.mesh.start(BIN / "tulle", "run", "--name", "given-up", "--", "true") as second:
                self.assertIn("waits", second.stderr.readline())
                second.send_signal(signal.SIGINT)
                self.assertEqual(second.wait(PATIENCE_S), -signal.SIGINT)
            wait_for(lambda: "given-up   pending" not in self.mesh.tulle("get", "claims").stdout, "the claim was given up")
            first.communicate(timeout=PATIENCE_S)

    def test_wrong_values_are_named(self):
        for flags, message in ((["--memory", "8Gb?"], "--memory 8Gb?: not a size"),
                               (["--compute", "150%"], "--compute 150%: not a share of a GPU"),
                               (["--level", "fast"], "--level fast: not a performance level")):
            done = self.mesh.run("true", flags=flags)
            self.assertEqual(done.returncode, 2)
            self.assertIn(message, done.stderr)


class Environment(MeshTest):
    def test_a_container_gets_all_that_a_program_needs(self):
        self.assertIn("within `tulle run`", self.mesh.tulle("env").stderr)
        done = self.assert_ok(self.mesh.run("sh", "-c", "tulle env --docker && tulle env --apptainer && tulle env && "
                                            # What a container does with it: the files, the variables and nothing else.
                                            "env -i $(tulle env | sed \"s/^export //; s/'//g\") $(which vector_add) 1000"))
        docker, apptainer, *exports, sums = done.stdout.split("\n", 4)
        self.assertEqual(sums, self.assert_ok(self.mesh.native("vector_add", 1000)).stdout)
        self.assertEqual(len(exports), 2)
        variables = [line.removeprefix("export ").replace("'", "") for line in exports]
        self.assertEqual([word for word in docker.split() if word.startswith("--env=")],
                         ["--env=" + variable for variable in variables])
        self.assertIn("--network=host", docker.split())
        mounts = [word.removeprefix("--bind=") for word in apptainer.split() if word.startswith("--bind=")]
        self.assertEqual(mounts, [word.removeprefix("--volume=") for word in docker.split() if word.startswith("--volume=")])
        for variable in variables:
            path = variable.split("=")[1]
            self.assertIn(f"{path}:{path}:ro", mounts)
        self.assertIn("libtulle-opencl.so", " ".join(mounts))

    def test_a_root_file_system_with_nothing_of_ours_is_enough(self):
        """What container engines do, done by bubblewrap from the same arguments: the system's own files, one program,
        and what `tulle env --docker` says; processes, users and the host's name are the container's own."""
        program = shutil.which("vector_add", path=self.mesh.environment["PATH"])
        inside = ["bwrap", "--unshare-all", "--share-net", "--die-with-parent", "--clearenv", "--ro-bind", "/usr", "/usr",
                  "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64", "--symlink", "usr/bin", "/bin",
                  "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--ro-bind", program, "/vector_add"]
        # Files of a grant last as long as its `tulle run`, so the container is started within the same.
        script = """
            for word in $(tulle env --docker); do
              case $word in
                --env=*) rest=${word#--env=}; set -- "$@" --setenv "${rest%%=*}" "${rest#*=}" ;;
                --volume=*) rest=${word#--volume=}; from=${rest%%:*}; rest=${rest#*:}; set -- "$@" --ro-bind "$from" "${rest%%:*}" ;;
              esac
            done
            exec "$@" /vector_add 1000"""
        done = self.assert_ok(self.mesh.run("sh", "-c", script, "sh", *inside))
        self.assertEqual(done.stdout, self.assert_ok(self.mesh.native("vector_add", 1000)).stdout)


class Terminal(MeshTest):
    """A shell with job control on a terminal of its own."""

    def setUp(self):
        self.shell, self.terminal = pty.fork()
        if self.shell == 0:
            os.execve("/bin/bash", ["bash", "--norc", "-i"], {**self.mesh.environment, "PS1": "", "TERM": "dumb"})
        self.text = ""

    def tearDown(self):
        super().tearDown()
        os.kill(self.shell, signal.SIGKILL)
        os.waitpid(self.shell, 0)
        os.close(self.terminal)

    def type(self, text):
        os.write(self.terminal, text.encode())

    def expect(self, wanted):
        deadline = time.monotonic() + PATIENCE_S
        while wanted not in self.text:
            if not select.select([self.terminal], [], [], max(0, deadline - time.monotonic()))[0]:
                self.fail(f"{wanted!r} not seen in {self.text!r}")
            with contextlib.suppress(OSError):
                self.text += os.read(self.terminal, 4096).decode(errors="replace")
        self.text = self.text.partition(wanted)[2]

    def test_reads_the_terminal(self):
        self.type("tulle run -q -- sh -c 'read line; echo \"<$line>\"'\nsome words\n")
        self.expect("<some words>")

    def test_interrupt_ends_the_program(self):
        self.type("tulle run -q -- steady; echo code=$?\n")
        self.expect("ready")
        self.type("\x03")
        self.expect("code=130")

    def test_stop_and_continue(self):
        self.type("tulle run -q -- steady; echo over\n")
        self.expect("ready")
        self.type("\x1a")
        self.expect("Stopped")
        self.assertFalse(self.no_claims())  # held while it is stopped
        self.type("fg\n")

        def in_front():
            return os.tcgetpgrp(self.terminal) != self.shell and termios.tcgetattr(self.terminal)[3] & termios.ICANON
        wait_for(in_front, "the program has the terminal again")
        self.type("\x04")
        self.expect("done after")
        wait_for(self.no_claims, "the claim was given back")


if __name__ == "__main__":
    unittest.main(verbosity=2)
