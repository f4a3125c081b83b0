#!/usr/bin/env python3
"""The command line apart from `tulle run`: what it prints, and what it refuses."""

import json
import os
import signal
import ssl
import subprocess
import tempfile
import unittest
import urllib.request
from pathlib import Path

from mesh import BIN, PATIENCE_S, MeshTest, wait_for


class Commands(MeshTest):
    def test_tables_and_json_of_all_kinds(self):
        with self.mesh.start_run("steady", stdin=-1, flags=["--name", "seen", "--memory", "256MiB"]) as process:
            self.assertEqual(process.stdout.readline(), "ready\n")
            with self.mesh.start_run("sh", "-c", "clinfo -l; read line", stdin=-1) as other:
                other.communicate("\n", timeout=PATIENCE_S)
            wait_for(lambda: len(json.loads(self.mesh.tulle("get", "sessions", "-o", "json").stdout)) == 1, "one session")
            session, = json.loads(self.mesh.tulle("get", "sessions", "-o", "json").stdout)
            self.assertEqual((session["spec"]["vgpu"], session["status"]["program"]), ("seen-0", "steady"))
            for kind in ("nodes", "gpus", "vgpus", "claims", "sessions", "instances", "tenants"):
                table = self.assert_ok(self.mesh.tulle("get", kind)).stdout.splitlines()
                self.assertTrue(table[0].startswith("NAME "), table)
                resources = json.loads(self.assert_ok(self.mesh.tulle("get", kind, "-o", "json")).stdout)
                self.assertEqual(len(resources), len(table) - 1)
                name = resources[0]["metadata"]["name"]
                one = json.loads(self.assert_ok(self.mesh.tulle("get", kind[:-1], name, "-o", "json")).stdout)
                self.assertEqual(one["metadata"]["uid"], resources[0]["metadata"]["uid"])
                self.assertRegex(self.assert_ok(self.mesh.tulle("describe", kind, name)).stdout, rf"Name:\s+{name}\n")
            claim = json.loads(self.mesh.tulle("get", "claim", "seen", "-o", "json").stdout)
            self.assertEqual((claim["status"]["phase"], claim["spec"]["memoryBytes"]), ("BOUND", str(256 << 20)))
            self.assertIn("1 bound", self.assert_ok(self.mesh.tulle("status")).stdout)
            why = self.assert_ok(self.mesh.tulle("explain", "seen")).stdout
            self.assertRegex(why, r"^Claim seen is bound\nIts vGPUs \(seen-0\) are new slices .*\(create-slice\), chosen by \S+\n")
            self.assertRegex(why, r"\nNODE +SCORE +ROOM +GPU +WHY\n\S+ +-?[\d.]+ +\d+ +\S+ +has room for \d+\n")
            why = json.loads(self.assert_ok(self.mesh.tulle("explain", "seen", "-o", "json")).stdout)
            self.assertEqual(why["claim"]["status"]["branch"], "CREATE_SLICE")
            self.assertEqual(self.mesh.tulle("explain", "nobody").returncode, 1)
            # Deleting the claim takes the vGPU from the program.
            self.assert_ok(self.mesh.tulle("delete", "claim", "seen"))
            self.assertRegex(process.stdout.readline(), r"^cl\w+: error -\d+\n")
            process.communicate(timeout=PATIENCE_S)

    def test_claims_that_have_ended_are_shown_on_request(self):
        self.assert_ok(self.mesh.run("true", flags=["--name", "over"]))
        self.assertNotIn("over ", self.assert_ok(self.mesh.tulle("get", "claims")).stdout)
        self.assertRegex(self.assert_ok(self.mesh.tulle("get", "claims", "--all")).stdout, r"\nover +released ")
        self.assertRegex(self.assert_ok(self.mesh.tulle("get", "claim", "over")).stdout, r"\nover +released ")
        with self.mesh.start(BIN / "tulle", "watch", "claims", "--all") as watch:
            while "over " not in (line := watch.stdout.readline()):
                self.assertTrue(line, "the watch ended")
            watch.kill()
            watch.communicate()

    def test_a_mesh_that_several_share(self):
        me = json.loads(self.mesh.tulle("get", "tenants", "-o", "json").stdout or "[]")
        name = me[0]["metadata"]["name"] if me else self.mesh.tulle("status").stdout.partition("tulle://user/")[2].split()[0]
        # What the administrator sets of himself holds, too; and what waits for a quota says so.
        self.assertRegex(self.assert_ok(self.mesh.tulle("tenant", "set", name, "--role", "admin", "--memory", "300MiB", "--weight", "3")).stdout,
                         rf"\n{name} +admin +0 +0 +0 +0B of 300MiB +0% +0% +3 ")
        with self.mesh.start_run("steady", stdin=-1, flags=["--name", "first", "--memory", "256MiB"]) as first:
            self.assertEqual(first.stdout.readline(), "ready\n")
            refused = self.mesh.run("true", flags=["--memory", "256MiB", "--no-wait"])
            self.assertEqual(refused.returncode, 125)
            self.assertIn("it asks for 256MiB of memory, you have 256MiB, and your quota is 300MiB", refused.stderr)
            with self.mesh.start_run("true", flags=["--name", "second", "--memory", "256MiB", "--priority", "5"]) as second:
                wait_for(lambda: "your quota is 300MiB" in self.mesh.tulle("get", "claims").stdout, "the second claim waits")
                self.assertIn("number 1 of 1 waiting", self.assert_ok(self.mesh.tulle("explain", "second")).stdout)
                self.assert_ok(self.mesh.tulle("tenant", "set", name, "--memory", "none"))
                self.assertEqual(second.wait(PATIENCE_S), 0)
                second.communicate()
            self.assertIn("first", self.assert_ok(self.mesh.tulle("get", "claims", "-A")).stdout)
            first.communicate("", timeout=PATIENCE_S)
        self.assertRegex(self.assert_ok(self.mesh.tulle("usage", "--since", "1d")).stdout,
                         rf"^TENANT +GPU-HOURS +MEMORY-GIB-HOURS +VGPU-HOURS\n{name} ")
        audit = self.assert_ok(self.mesh.tulle("audit", "--since", "1h", "--most", "1000")).stdout
        self.assertRegex(audit, rf"\n\S+Z +tulle://user/{name} +\S+ +UpdateTenant +ok +\{{")
        self.assertRegex(audit, r" CreateClaim +resource exhausted: it asks for ")
        node = json.loads(self.mesh.tulle("get", "nodes", "-o", "json").stdout)[0]["metadata"]["name"]
        self.assertEqual(self.assert_ok(self.mesh.tulle("cordon", node)).stdout, f"node {node} is cordoned\n")
        self.assertIn("cordoned", self.mesh.run("true", flags=["--no-wait"]).stderr)
        self.assert_ok(self.mesh.tulle("uncordon", node))
        self.assertIn("stays one", self.mesh.tulle("tenant", "set", name, "--suspend").stderr)
        self.assertEqual(self.mesh.tulle("tenant", "set", name, "--role", "king").returncode, 2)
        self.assertEqual(self.mesh.tulle("delete", "tenant", "nobody").returncode, 1)

    def test_a_claim_that_may_have_less_makes_room_for_another(self):
        def share():
            return json.loads(self.mesh.tulle("get", "vgpu", "wide-0", "-o", "json").stdout)["spec"]["computePercent"]

        with self.mesh.start_run("steady", stdin=-1, flags=["--name", "wide", "--compute", "25%..100%"]) as wide:
            self.assertEqual(wide.stdout.readline(), "ready\n")
            self.assertEqual(share(), 100)
            with self.mesh.start_run("steady", stdin=-1, flags=["--name", "narrow", "--compute", "60%", "--no-wait"]) as narrow:
                self.assertEqual(narrow.stdout.readline(), "ready\n")
                self.assertEqual(share(), 40)
                self.assertIn("(shrink-neighbours)", self.assert_ok(self.mesh.tulle("explain", "narrow")).stdout)
                self.assertRegex(self.mesh.tulle("get", "vgpus").stdout, r"\nwide-0 .* 40% of 100% ")
                self.assertRegex(self.mesh.tulle("get", "claims").stdout, r"\nwide .* 25\.\.100% ")
                self.assertIn("the largest free share is 0%", self.mesh.run("true", flags=["--compute", "20%", "--no-wait"]).stderr)
                narrow.communicate("", timeout=PATIENCE_S)
            wait_for(lambda: share() == 100, "it has all of it again")
            self.assertIn("has 40% of the 100% of compute that it wants", self.mesh.tulle("events").stdout)
            self.assertEqual(wide.communicate("", timeout=PATIENCE_S)[1], "")
        units = json.loads(self.mesh.tulle("get", "gpus", "-o", "json").stdout)[0]["spec"]["description"]["computeUnits"]
        script = "tulle get vgpus -o json; tulle get claims"
        shown = self.assert_ok(self.mesh.run("sh", "-c", script, flags=["--compute-units", str(units)])).stdout
        self.assertIn('"computePercent": 100', shown)
        self.assertIn(f" {units} units ", shown)
        refused = self.mesh.run("true", flags=["--compute-units", str(units + 1), "--no-wait"])
        self.assertIn(f"has {units} compute units", refused.stderr)
        flops = int(json.loads(self.mesh.tulle("get", "gpus", "-o", "json").stdout)[0]["spec"]["description"]["fp32Flops"])
        shown = self.assert_ok(self.mesh.run("sh", "-c", script, flags=["--tflops", str(flops / 1e12 * 0.399)])).stdout
        # Rates of GPUs are taken for equal, to their two leading digits: at most a tenth lower than measured.
        self.assertRegex(shown, r'"computePercent": 4[0-5],')
        self.assertRegex(shown, r" [0-9.]+ [GT]FLOPS ")
        refused = self.mesh.run("true", flags=["--tflops", str(flops / 1e12 * 2), "--no-wait"])
        self.assertRegex(refused.stderr, r"asked for 1GiB and [0-9.]+ [GT]FLOPS; no GPU .* has [0-9.]+ [GT]FLOPS")
        refused = self.mesh.run("true", flags=["--compute", "60%..50%"])
        self.assertEqual(refused.returncode, 2)
        self.assertIn("--compute 60%..50%: the first must not be above the second", refused.stderr)

    def test_a_program_without_a_certificate_calls_with_a_token(self):
        made = self.assert_ok(self.mesh.tulle("token", "create", "--api", "--description", "a job"))
        secret = made.stdout.strip()
        self.assertRegex(secret, r"^tulle-api\.[0-9a-f]{16}\.[0-9a-f]{64}$")
        config = dict(line.split(" = ", 1) for line in (self.mesh.state / "client.conf").read_text().splitlines())
        job = {**self.mesh.environment, "TULLE_STATE_DIR": str(self.mesh.home / "elsewhere"), "TULLE_API_TOKEN": secret,
               "TULLE_ENDPOINT": config["endpoint"], "TULLE_CA_FILE": str(self.mesh.state / config["ca_file"])}
        self.assert_ok(self.mesh.run("vector_add", env=job))
        self.assertIn("may not do that", self.mesh.tulle("token", "create", "--node", env=job).stderr)

        # The same as JSON: a stream's lines.
        context = ssl.create_default_context(cafile=job["TULLE_CA_FILE"])
        request = urllib.request.Request(f"https://{config['http_endpoint']}/tulle.v1.Mesh/Watch", b'{"kinds": ["GPU"]}',
                                         {"Content-Type": "application/json", "Authorization": f"Bearer {secret}"})
        with urllib.request.urlopen(request, timeout=PATIENCE_S, context=context) as stream:
            kinds = [json.loads(stream.readline())["type"] for _ in range(2)]
        self.assertEqual(kinds, ["ADDED", "SYNCED"])

        listed = self.assert_ok(self.mesh.tulle("token", "list")).stdout
        self.assertIn("a job", listed)
        identifier = secret.split(".")[1]
        self.assert_ok(self.mesh.tulle("token", "delete", identifier))
        refused = self.mesh.run("vector_add", env=job)
        self.assertEqual(refused.returncode, 125)
        self.assertIn("the API token is unknown, has been deleted, or has expired", refused.stderr)

    def test_what_has_happened_is_told(self):
        self.assert_ok(self.mesh.run("true", flags=["--name", "short", "--memory", "64MiB"]))
        events = self.assert_ok(self.mesh.tulle("events", "claim", "short")).stdout
        self.assertRegex(events, r"^AGE +RESOURCE +EVENT +MESSAGE\n(\S+ +claim/short +\S.*\n)+$")
        for step in ("Placed +short-0, chosen by", "BOUND +short-0", "RELEASED +deleted by its user"):
            self.assertRegex(events, rf"claim/short +{step}")
        self.assertNotIn("vgpu/", events)
        wait_for(lambda: "GONE" in self.mesh.tulle("events", "vgpu", "short-0").stdout, "the vGPU has gone")
        self.assertRegex(self.assert_ok(self.mesh.tulle("describe", "claim", "short")).stdout, r"\nAGE +RESOURCE +EVENT")
        latest = json.loads(self.assert_ok(self.mesh.tulle("events", "--most", "1", "-o", "json")).stdout)
        self.assertEqual(len(latest), 1)
        node = json.loads(self.mesh.tulle("get", "nodes", "-o", "json").stdout)[0]["metadata"]["name"]
        self.assertEqual(self.assert_ok(self.mesh.tulle("taint", node, "k=v", "l=w")).stdout, f"node {node}: k=v, l=w\n")
        self.assertIn("is tainted k=v", self.mesh.run("true", flags=["--no-wait"]).stderr)
        self.assert_ok(self.mesh.run("true", flags=["--memory", "64MiB", "--tolerate", "k=v", "--tolerate", "l=*"]))
        self.assertEqual(self.assert_ok(self.mesh.tulle("taint", node, "k-", "l-")).stdout, f"node {node}: no taints\n")
        self.assertRegex(self.assert_ok(self.mesh.tulle("events", "node", node)).stdout, r"READY,tainted k=v l=w")

    def test_top_shows_who_has_what(self):
        with self.mesh.start_run("steady", stdin=-1, flags=["--memory", "64MiB", "--compute", "50%"]) as process:
            self.assertEqual(process.stdout.readline(), "ready\n")
            top = self.assert_ok(self.mesh.tulle("top")).stdout
            self.assertRegex(top, r"^NODE +ALLOCATED +MEMORY +COMPUTE +VGPUS +SESSIONS +HOST-CPU +STATE\nall +#{10}\.{10} ")
            self.assertRegex(top, r"\n\nTENANT +SHARE +MEMORY +COMPUTE +VGPUS +CLAIMS +WAITING\n\S+ +#{10}\.{10} +64MiB +50% ")
            process.communicate("", timeout=PATIENCE_S)

    def test_shells_complete_what_the_program_takes(self):
        def complete(*words):
            line = " ".join(f"'{word}'" for word in words)
            done = subprocess.run(["bash", "-c", f"source <({BIN}/tulle completion bash); COMP_WORDS=({line}); "
                                   "COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _tulle; printf '%s\n' \"${COMPREPLY[@]}\""],
                                  capture_output=True, text=True, timeout=PATIENCE_S, check=True)
            self.assertEqual(done.stderr, "")
            return done.stdout.split()
        self.assertEqual(complete("tulle", "comp"), ["completion"])
        self.assertEqual(complete("tulle", "tenant", ""), ["set", "--help"])
        self.assertEqual(complete("tulle", "tenant", "set", "bob", "--mem"), ["--memory"])
        self.assertEqual(complete("tulle", "get", "claims", "--al"), ["--all", "--all-tenants"])
        self.assertIn("claims", complete("tulle", "describe", "c"))
        self.assertEqual(complete("tulle", "run", "--", "--mem"), [])
        for shell in ("zsh", "fish"):
            self.assertIn("tenant", self.assert_ok(self.mesh.tulle("completion", shell)).stdout)
        self.assertEqual(self.mesh.tulle("completion", "csh").returncode, 2)

    def test_what_is_not_there_is_an_error(self):
        done = self.mesh.tulle("get", "claim", "nothing")
        self.assertEqual(done.returncode, 1)
        self.assertIn("nothing", done.stderr)
        self.assertEqual(self.mesh.tulle("get", "pods").returncode, 2)
        self.assertEqual(self.mesh.tulle("delete", "node", "a").returncode, 2)
        self.assertEqual(self.mesh.tulle("frobnicate").returncode, 2)

    def test_watch_shows_changes_as_they_come(self):
        with self.mesh.start(BIN / "tulle", "watch", "claims") as watch:
            self.assertTrue(watch.stdout.readline().startswith("EVENT "))
            self.assert_ok(self.mesh.run("true", flags=["--name", "watched"]))
            seen = ""
            while "released" not in seen:
                line = watch.stdout.readline()
                self.assertTrue(line, "the watch ended")
                if "watched" in line:
                    seen += line
            self.assertIn("bound", seen)
            watch.send_signal(signal.SIGINT)
            self.assertEqual(watch.wait(PATIENCE_S), -signal.SIGINT)
            watch.communicate()

    def test_doctor_finds_what_this_machine_has(self):
        done = self.assert_ok(self.mesh.tulle("doctor"))
        for name in ("OpenCL loader", "OpenCL shim", "mesh", "sandbox: ", "control groups", "KVM", "CRIU"):
            self.assertIn(name, done.stdout)
        self.assertNotIn("FAIL", done.stdout)

    def test_version_tells_both_ends(self):
        lines = self.assert_ok(self.mesh.tulle("version")).stdout.splitlines()
        self.assertEqual(lines[0].split()[1], lines[1].split()[1])

    def test_a_second_mesh_in_the_same_place_is_refused(self):
        done = self.mesh.tulle("up")
        self.assertEqual(done.returncode, 1)
        self.assertIn(f"(process {self.mesh.up.pid}); stop it with `tulle down`", done.stderr)

    def test_the_node_answers_http(self):
        banner = (self.mesh.home / "up.log").read_text()
        address = banner.partition("metrics http://")[2].partition("/metrics")[0]
        with urllib.request.urlopen(f"http://{address}/healthz", timeout=PATIENCE_S) as answer:
            self.assertEqual(answer.read(), b"ok\nregistered yes\n")
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=PATIENCE_S) as answer:
            self.assertIn(b"\ntulle_node_registered 1\n", answer.read())


class Detached(unittest.TestCase):
    def test_up_in_the_background_and_down(self):
        with tempfile.TemporaryDirectory(prefix="tulle-e2e-") as home:
            environment = {**os.environ, "TULLE_STATE_DIR": f"{home}/state", "HOME": home}

            def tulle(*arguments):
                # To a file: the mesh must not keep the caller's pipes open, but a failed test should not hang either.
                with open(Path(home) / "out", "w+b") as out:
                    code = subprocess.run([BIN / "tulle", *arguments], env=environment, stdin=subprocess.DEVNULL, stdout=out,
                                          stderr=out, timeout=2 * PATIENCE_S, check=False).returncode
                    out.seek(0)
                    return code, out.read().decode()
            code, text = tulle("up", "--detach", "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0")
            self.assertEqual(code, 0, text)
            self.assertIn("`tulle down` stops everything", text)
            self.assertEqual(tulle("status")[0], 0)
            self.assertEqual(tulle("down"), (0, "The mesh has stopped.\n"))
            code, text = tulle("status")
            self.assertEqual(code, 1, text)
            code, text = tulle("run", "--", "true")
            self.assertEqual(code, 125, text)

    def test_up_says_why_it_could_not(self):
        with tempfile.TemporaryDirectory(prefix="tulle-e2e-") as home:
            done = subprocess.run([BIN / "tulle", "up", "--listen", "192.0.2.1:1"], capture_output=True, text=True,
                                  env={**os.environ, "TULLE_STATE_DIR": f"{home}/state"}, timeout=2 * PATIENCE_S, check=False)
            self.assertEqual(done.returncode, 1)
            self.assertIn("the controller did not start", done.stderr)
            self.assertIn("192.0.2.1:1", done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
