"""Measures whole programs on the first OpenCL device that they find, as JSON: measure.py FOLDER-OF-TULLE'S-PROGRAMS.
Run natively and on a vGPU. Programs that are not installed are left out."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STARTS = 10
PAUSE_S = 0.3  # between two starts, for a worker that gets the next one's place ready meanwhile

HASHCAT = ["hashcat", "-m", "0", "-a", "3", "-w", "3", "--potfile-disable", "--restore-disable", "--force", "--quiet",
           "ffffffffffffffffffffffffffffffff", "?l?l?l?l?l?d"]
FFT = ["clFFT-client", "-x", "1024", "-y", "1024", "-p", "100"]
IMAGE_FILTER = ["ffmpeg", "-v", "error", "-nostdin", "-init_hw_device", "opencl=device:0.0", "-filter_hw_device", "device",
                "-f", "lavfi", "-i", "testsrc2=size=1280x720:rate=25:duration=2",
                "-vf", "format=yuv420p,hwupload,unsharp_opencl=lx=9:ly=9:la=1.5,hwdownload,format=yuv420p", "-f", "null", "-"]
EXIT_CODES = {"hashcat": 1}  # it has tried everything


def seconds(command, env):
    began = time.monotonic()
    done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    took = time.monotonic() - began
    if done.returncode != EXIT_CODES.get(command[0], 0):
        sys.exit(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return took


def starts(program, pause_s):
    results = []
    for _ in range(STARTS):
        results.append(json.loads(subprocess.run([program], check=True, stdout=subprocess.PIPE).stdout))
        time.sleep(pause_s)
    return results


def main(bin):
    results = {}
    first = starts(bin / "tulle_bench_start", PAUSE_S)
    results["first-start"] = {"value": first[0]["start"]}
    for case in ("load", "start", "resident", "connections"):
        results[case] = {"value": statistics.median(one[case] for one in first[1:])}
    in_a_row = starts(bin / "tulle_bench_start", 0)
    results["start-in-a-row"] = {"value": statistics.median(one["start"] for one in in_a_row)}
    with tempfile.TemporaryDirectory() as home:
        env = {**os.environ, "HOME": home}
        for case, command in (("hashcat", HASHCAT), ("gemm", [bin / "tulle_bench_gemm"]), ("fft", FFT), ("image-filter", IMAGE_FILTER)):
            if shutil.which(command[0]):
                seconds(command, env)  # builds are kept, here and there
                results[case] = {"value": seconds(command, env)}
    print(json.dumps(results))


main(Path(sys.argv[1]))
