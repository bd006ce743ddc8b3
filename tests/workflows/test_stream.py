"""`score` over a file that is larger than what is in memory: kill it, go on, the same bytes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from traceward.workflows import stream

KILLED = """
import os, signal, sys
from traceward.cli import run
from traceward.data.partial import PartialRows
from traceward.workflows import stream
stream.BLOCK = 3
append = PartialRows.append
def dies(self, rows):
    if self.done == 6:
        self._stream.write(b'{"torn": ')
        os.kill(os.getpid(), signal.SIGKILL)
    append(self, rows)
PartialRows.append = dies
run(sys.argv[1:])
"""


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "BLOCK", 3)


def test_a_killed_job_goes_on_to_the_bytes_of_one_that_was_not(
    verb: Any, traces: Path, scalar_reward: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    verb("score", traces, "--reward", scalar_reward, "--out", whole)
    command = ["score", str(traces), "--reward", str(scalar_reward), "--out", str(out)]
    done = subprocess.run([sys.executable, "-c", KILLED, *command], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not out.exists()
    scored: list[int] = []
    read = stream.read_scores
    monkeypatch.setattr(stream, "read_scores", lambda s, r, *a, **k: (scored.append(len(r)), read(s, r, *a, **k))[1])
    told = verb(*command)
    assert scored == [3, 3]  # six of twelve rows were there
    assert "scored before  6" in " ".join(told.split()).replace("before 6", "before  6")
    assert out.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_blocks_change_no_score(verb: Any, traces: Path, reward: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    some = [json.loads(line) for line in verb("score", traces, "--reward", reward).splitlines()]
    monkeypatch.setattr(stream, "BLOCK", 100)
    whole = [json.loads(line) for line in verb("score", traces, "--reward", reward).splitlines()]
    for one, other in zip(some, whole, strict=True):
        assert one["score"] == pytest.approx(other["score"], rel=1e-5)
        assert one["step_scores"] == pytest.approx(other["step_scores"], abs=1e-5)


def test_a_broken_row_is_refused_before_anything_is_scored(
    verb: Any, traces: Path, reward: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = verb.read(traces)
    rows[9]["steps"] = ["It is <answer>3</answer> then.", "And so on."]
    rows[11]["steps"] = ["Ann has two."] * 60
    path = verb.write(tmp_path / "in.jsonl", rows)
    path.write_text(path.read_text() + '{"question": "no steps"}\n')
    monkeypatch.setattr(stream, "read_scores", None)
    err = verb.fails("score", path, "--reward", reward, "--out", tmp_path / "out.jsonl")
    assert [line.split(": ")[0].strip() for line in err.splitlines()[1:]] == [f"{path}:{line}" for line in (10, 12, 13)]
    assert {path.name for path in tmp_path.iterdir()} == {"in.jsonl", "traces.jsonl"}


def test_memory_holds_a_block_of_rows_at_a_time(
    verb: Any, traces: Path, reward: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = verb.write(tmp_path / "in.jsonl", verb.read(traces) * 5)
    alive, most = set(), []
    read = stream.stream_traces

    def counted(*arguments: Any) -> Any:
        import weakref

        class Row(dict):  # type: ignore[type-arg]
            __hash__ = object.__hash__  # type: ignore[assignment]

        for record in read(*arguments):
            kept = Row(record.raw)
            alive.add(id(kept))
            weakref.finalize(kept, alive.discard, id(kept))
            most.append(len(alive))
            yield type(record)(**{**{n: getattr(record, n) for n in record.__slots__}, "raw": kept})

    monkeypatch.setattr(stream, "stream_traces", counted)
    verb("score", path, "--reward", reward, "--out", tmp_path / "out.jsonl")
    assert len(most) == 2 * 60
    assert max(most) <= 2 * 3  # a block, and the one that takes its place


def test_bfloat16_is_near_float32(verb: Any, traces: Path, reward: Path, tmp_path: Path) -> None:
    verb("score", traces, "--reward", reward, "--out", tmp_path / "full.jsonl")
    verb("score", traces, "--reward", reward, "--precision", "bfloat16", "--out", tmp_path / "half.jsonl")
    full, half = ([row["score"] for row in verb.read(tmp_path / f"{name}.jsonl")] for name in ("full", "half"))
    assert half != full
    assert half == pytest.approx(full, rel=0.02)


def test_a_device_takes_the_rows_as_they_come(verb: Any, traces: Path, reward: Path, tmp_path: Path) -> None:
    verb("score", traces, "--reward", reward, "--out", "/dev/null")
    assert {path.name for path in tmp_path.iterdir()} == {"traces.jsonl"}
