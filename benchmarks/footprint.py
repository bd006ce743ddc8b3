"""What the demo costs after installation: python benchmarks/footprint.py [--quick]

Runs `traceward demo` as a process of its own and adds up the resident memory of all its processes, four times a
second. Pages that processes share (libraries) are counted once for each of them, so the sum is an upper bound.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

os.environ.setdefault("OMP_NUM_THREADS", "1")

from _record import record

INTERVAL = 0.25  # seconds


def resident(process: psutil.Process) -> int:
    """Bytes of a process and its descendants; one that ends meanwhile counts for nothing."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small demo, to see that the script works")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory() as scratch:
        command = [str(Path(sys.executable).with_name("traceward")), "demo", "--seed", "0"]
        command += ["--out", str(Path(scratch) / "demo"), *(["--quick"] if quick else [])]
        started, peak = time.monotonic(), 0
        with subprocess.Popen(command) as running:
            watched = psutil.Process(running.pid)
            while running.poll() is None:
                peak = max(peak, resident(watched))
                time.sleep(INTERVAL)
        seconds = time.monotonic() - started
        if running.returncode:
            sys.exit(running.returncode)
    summary: dict[str, float | None] = {"seconds": round(seconds, 1), "peak_gb": round(peak / 1e9, 3)}
    print(record("footprint", seeds=[0], summary=summary, details={"interval_seconds": INTERVAL}, quick=quick))


if __name__ == "__main__":
    main()
