"""Grids that really run: nothing twice, nothing lost by a kill, and a page at the end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from traceward import cli
from traceward.ablation import work as ablation
from traceward.ablation.run import run_grid
from traceward.ablation.sharing import MADE_WITH
from traceward.data.jsonl import fingerprint_file
from traceward.errors import RunError
from traceward.workflows import pool

from .conftest import write_small

SHARED = ("pretrain", "rollouts", "sft", "samples", "reward", "judge", "measure-base", "measure-sft")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grid that ran to its end without a stop."""
    room = tmp_path_factory.mktemp("grid")
    assert cli.run(["train", str(write_small(room / "small.toml")), "--out", str(room / "whole")]) == 0
    return room / "whole"


def table(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "grid.json").read_text(encoding="utf-8"))
    return found


def stamps(directory: Path) -> dict[str, int]:
    """When each stage left its part; links count for nothing."""
    parts = directory.glob("shared/*/parts/*.json")
    return {path.parents[1].name: path.stat().st_mtime_ns for path in parts if not path.is_symlink()}


def weights(directory: Path) -> dict[str, str]:
    """sha256 of every model that a stage left; a stage has the same name in every directory."""
    files = (path for path in directory.glob("shared/*/**/*.safetensors") if "trainer" not in str(path))
    return {str(path.relative_to(directory)): fingerprint_file(path) for path in files}


def test_equal_work_is_done_once_and_the_invalid_cell_is_listed(finished: Path) -> None:
    found = table(finished)
    assert (found["cells"], found["finished"], found["failed"]) == (6, 6, [])
    assert [row["labels"] for row in found["removed"]] == [
        {"adversarial.credit": "reward-to-go", "adversarial.baseline": "leave-one-out"}
    ]
    counted = [name.rpartition("-")[0] for name in stamps(finished)]
    assert {name: counted.count(name) for name in SHARED} == dict.fromkeys(SHARED, 2)  # once a seed
    assert counted.count("adversarial") == 6
    arms = [row["labels"]["arm"] for row in found["rows"]]
    assert sorted(arms) == ["adversarial"] * 3 + ["base", "sft"]
    assert all(row["seeds"] == [0, 1] for row in found["rows"])
    assert len(found["differences"]) == 3 + 1


def test_a_cell_is_a_run_that_the_report_takes(finished: Path, tmp_path: Path) -> None:
    cells = sorted((finished / "cells").iterdir())
    assert len(cells) == 6
    assert cli.run(["report", *map(str, cells[:2]), "--out", str(tmp_path / "page.html")]) == 0
    results = json.loads((cells[0] / "results.json").read_text(encoding="utf-8"))
    assert results["policy_pass_at_1"]["adversarial"] is not None
    assert results["seconds"]["total"] > 0
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert "reward-to-go · leave-one-out" in page
    assert "http://" not in page


def test_the_same_command_again_runs_nothing_and_a_wider_grid_only_what_is_new(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = stamps(finished)
    file = finished.parent / "small.toml"
    monkeypatch.setattr(pool, "ProcessPoolExecutor", None)
    run_grid(file, out=finished)
    assert stamps(finished) == before
    assert not caplog.messages
    monkeypatch.undo()
    moved, wider = tmp_path / "moved", tmp_path / "wider.toml"
    shutil.copytree(finished, moved, symlinks=True)
    text = file.read_text(encoding="utf-8").replace('"reward-to-go"]', '"reward-to-go", "trace-mean"]')
    wider.write_text(text.replace('["group-mean", "leave-one-out"]', '["group-mean"]'), encoding="utf-8")
    other = next((moved / "shared").glob("sft-*")) / MADE_WITH
    other.write_text(json.dumps({"version": "0.0.1", "commit": "another"}), encoding="utf-8")
    run_grid(wider, out=moved)
    (said,) = caplog.messages
    assert "must be of one version of the code to compare: got finished ones by another in" in said
    assert "another" in table(moved)["commits"]
    after = stamps(moved)
    assert {name: after[name] for name in before} == before
    assert [name.rpartition("-")[0] for name in after if name not in before] == ["adversarial"] * 2


def test_a_killed_grid_goes_on_and_ends_as_one_that_was_not(finished: Path, tmp_path: Path) -> None:
    command = ["train", str(write_small(tmp_path / "small.toml")), "--out", str(tmp_path / "killed"), "--seed", "1"]
    program = [sys.executable, "-c", "from traceward.cli import main; main()", *command]
    with subprocess.Popen(program, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as running:
        until = time.monotonic() + 200
        while len(stamps(tmp_path / "killed")) < 4 and time.monotonic() < until:
            time.sleep(0.05)
        os.kill(running.pid, signal.SIGKILL)
    before = stamps(tmp_path / "killed")
    assert 4 <= len(before) < 12
    time.sleep(2.5)  # workers notice within a second that they are alone
    assert cli.run(command) == 0
    after = stamps(tmp_path / "killed")
    assert {name: after[name] for name in before} == before
    killed, whole = weights(tmp_path / "killed"), weights(finished)
    assert len(killed) > 5
    assert killed == {name: whole[name] for name in killed}


def test_a_stage_that_fails_stops_only_what_waits_for_it(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []

    def work(jobs: dict[str, pool.Job], *_: Any, failed: Any, **__: Any) -> None:
        name = next(name for name, job in jobs.items() if job.stage == "reward")
        told.append(name)
        failed(name, ZeroDivisionError("by hand"))

    monkeypatch.setattr(ablation, "work", work)
    with pytest.raises(RunError, match="every stage must end well: got 1 that failed") as caught:
        run_grid(small, out=tmp_path / "out")
    assert "ZeroDivisionError('by hand')" in str(caught.value)
    assert "ZeroDivisionError: by hand" in capsys.readouterr().err  # with its traceback
    assert table(tmp_path / "out")["failed"] == [{"part": told[0], "reason": "ZeroDivisionError('by hand')"}]


def test_another_directory_is_refused(small: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(RunError, match="must be new, empty or a grid's"):
        run_grid(small, out=tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
