"""A file larger than memory ought to be: python benchmarks/streaming.py [--quick] [--traces N]

Generates traces of the built-in world and scores them with `traceward score` and a log-ratio reward on the built-in
base model, four times, each in a process of its own: half the file; the whole file; the whole file with a kill
(SIGKILL) in the middle of it; and the same command again, which goes on. Memory is the largest resident set of a
process, as the kernel counts it.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from _record import record

from traceward.builtin import STORIES_BASE, TOKENIZER
from traceward.data.formats import Format
from traceward.data.jsonl import Row, fingerprint_file, write_jsonl
from traceward.data.tasks import stories
from traceward.loading import load_policy
from traceward.records import Head, UnitSpec
from traceward.rewards.model import new_reward
from traceward.workflows.inputs import quiet
from traceward.workflows.stream import BLOCK

GROUP = 8  # traces of a question
MAIN = "from traceward.cli import main; main()"


def rows(traces: int) -> Iterator[Row]:
    """Worked solutions, each GROUP times with another line that says more."""
    for number, item in enumerate(stories.demonstrations(traces // GROUP, seed=7)):
        for copy in range(GROUP):
            steps = list(item.trace.steps)
            steps[copy % len(steps)] += f" That is line {copy}."
            yield {"id": f"{number}-{copy}", "qid": str(number), "question": item.problem.question, "steps": steps}


def score(data: Path, reward: Path, out: Path, *, kill_at: int = 0) -> dict[str, Any]:
    """Score a file in a process of its own; `kill_at` rows done, it is killed.

    peak_mib: its largest resident set, the libraries included.
    """
    command = [sys.executable, "-c", MAIN, "score", str(data), "--reward", str(reward), "--out", str(out)]
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while True:
        found, status, used = os.wait4(process.pid, os.WNOHANG if kill_at else 0)
        if found:
            break
        if any(lines_of(path) >= kill_at for path in out.parent.glob(f".{out.name}.*.partial")):
            os.kill(process.pid, signal.SIGKILL)
            kill_at = 0
        time.sleep(0.1)
    process.returncode = os.waitstatus_to_exitcode(status)
    return {
        "exit": process.returncode,
        "seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_mib": round(used.ru_maxrss / 1024, 1),
    }


def lines_of(path: Path) -> int:
    with path.open("rb") as stream:
        return sum(1 for _ in stream)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few traces, to see that the script works")
    parser.add_argument("--traces", type=int, default=200_000)
    chosen = parser.parse_args()
    traces = 6 * BLOCK if chosen.quick else chosen.traces
    quiet()
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        policy, tokenizer = load_policy(STORIES_BASE, TOKENIZER)
        new_reward(policy, tokenizer, head=Head.LOG_RATIO, spec=UnitSpec(), style=Format.PLAIN).save(place / "reward")
        for name, count in (("half", traces // 2), ("whole", traces)):
            write_jsonl(place / f"{name}.jsonl", rows(count))
        whole, killed = place / "scored.jsonl", place / "killed.jsonl"
        found = {
            "half": score(place / "half.jsonl", place / "reward", place / "half-scored.jsonl"),
            "whole": score(place / "whole.jsonl", place / "reward", whole),
            "killed": score(place / "whole.jsonl", place / "reward", killed, kill_at=traces // 2),
            "resumed": score(place / "whole.jsonl", place / "reward", killed),
        }
        assert [row["exit"] for row in found.values()] == [0, 0, -signal.SIGKILL, 0], found
        lines = lines_of(whole)
        identical = fingerprint_file(killed) == fingerprint_file(whole)
        sizes = {name: (place / name).stat().st_size for name in ("whole.jsonl", "scored.jsonl")}
    summary: dict[str, float | None] = {
        "lines": lines,
        "peak_mib": max(row["peak_mib"] for row in found.values()),
        "peak_mib_half": found["half"]["peak_mib"],
        "identical_after_kill": int(identical),
        "traces_per_cpu_second": round(lines / found["whole"]["cpu_seconds"], 1),
    }
    details = {"attempts": found, "bytes": sizes, "rows_in_memory": BLOCK}
    print(record("streaming", seeds=[7], summary=summary, details=details, quick=chosen.quick))


if __name__ == "__main__":
    main()
