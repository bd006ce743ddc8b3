"""A run that its guards pause, and what it is in the end beside one that nobody paused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from traceward import cli
from traceward.builtin import ASSETS
from traceward.config import Arm, load_recipe
from traceward.errors import PausedError
from traceward.training.run_directory import RunDirectory
from traceward.workflows import stages
from traceward.workflows.arms import arm
from traceward.workflows.demo import QUICK
from traceward.workflows.inputs import load_task
from traceward.workflows.results import write_results

# TRL still says it in the words that transformers is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing. is deprecated:FutureWarning")
RECIPE = ASSETS / "demo.toml"
FEW = (*QUICK, "run.arms=['adversarial']", "adversarial.steps=4", "data.test=8", "guards.saturated_accuracy=0.51")


def start(out: Path, action: str) -> RunDirectory:
    return RunDirectory.create(out, load_recipe(RECIPE, [*FEW, "guards.window=2", f"guards.on_alarm={action}"]))


def results(run: RunDirectory) -> dict[str, Any]:
    write_results(run, load_task(run.recipe()), seconds=0)
    found: dict[str, Any] = json.loads((run.path / "results.json").read_text(encoding="utf-8"))
    return found


def rows(run: RunDirectory) -> list[dict[str, Any]]:
    """The metrics without what a clock says."""
    read = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in row.items() if not key.startswith("seconds")} for row in read]


def test_a_stage_that_was_paused_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    paused, whole = start(tmp_path / "paused", "pause"), start(tmp_path / "whole", "warn")
    for run in (paused, whole):
        stages.rollouts(run)
    with pytest.raises(PausedError, match=r"^warm-up: discriminator-saturated at step \d+ \(discriminator accuracy"):
        stages.reward(paused)
    assert paused.part("reward") is not None  # the reward is whole; what would be trained with it waits
    stages.reward(whole)
    with pytest.raises(PausedError, match=r"^adversarial: discriminator-saturated at step 2 \("):
        arm(paused, Arm.ADVERSARIAL)
    assert paused.part("adversarial") is None
    assert [path.name for path in (paused.path / "checkpoints" / "adversarial").iterdir()] == ["checkpoint-2"]
    for run in (start(paused.path, "pause"), whole):
        arm(run, Arm.ADVERSARIAL)
    # Alarms that are known are neither lost nor told twice.
    found = results(paused)
    assert [(alarm["stage"], alarm["alarm"]) for alarm in found["alarms"]] == [
        ("adversarial", "discriminator-saturated"),
        ("warm-up", "discriminator-saturated"),
    ]
    assert {**found, "seconds": 0} == {**results(whole), "seconds": 0}
    assert rows(paused) == rows(whole)
    for file in ("policies/adversarial/model.safetensors", "reward-after/model/model.safetensors"):
        assert (paused.path / file).read_bytes() == (whole.path / file).read_bytes()


def test_guards_may_change_while_a_run_goes_on(tmp_path: Path) -> None:
    start(tmp_path / "run", "pause")
    assert str(start(tmp_path / "run", "warn").recipe().guards.on_alarm) == "warn"


def test_a_paused_command_says_why_and_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    settings = [part for one in (*FEW, "guards.window=2", "guards.on_alarm=pause") for part in ("--set", one)]
    assert cli.run(["train", str(RECIPE), "--out", str(out), *settings]) == 3
    said = capsys.readouterr()
    assert "traceward: paused: run must stay within its guards: got warm-up: discriminator-saturated" in said.err
    assert "then the same command goes on" in said.err
    assert f"report: {out / 'report.html'}" in said.out
    assert not (out / "metrics" / "adversarial.jsonl").exists()  # it waits for the reward
    assert (out / "parts" / "judge.json").exists() is False
    assert (out / "parts" / "measure-base.json").exists()  # nothing else does
    assert (out / "report.html").read_text(encoding="utf-8").count("discriminator-saturated</th>") == 1
