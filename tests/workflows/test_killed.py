"""A real run, killed by SIGKILL three times: the files it ends with are those of a run that nobody touched."""

from __future__ import annotations

import importlib
import json
import signal
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
OVERRIDES = ("run.arms=['sft', 'adversarial']", "adversarial.steps=5", "evaluation.curve_every=3")
TRAINER = "traceward.training.adversarial:AdversarialTrainer"


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """What the benchmark kills runs with."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("_killed")


def checkpoints(run: Path, stage: str) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints" / stage).glob("checkpoint-*"))


def steps(run: Path, stage: str) -> list[int]:
    text = (run / "metrics" / f"{stage}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line)["step"] for line in text.splitlines()]


def names(place: Path) -> set[Path]:
    return {path.relative_to(place) for path in place.rglob("*")}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_killed_three_times_ends_with_the_same_files(tmp_path: Path, killed: ModuleType) -> None:
    # Each attempt is a fork of a process that has imported everything and run nothing.
    context = get_context("forkserver")
    context.set_forkserver_preload(["traceward.training.adversarial", "trl.trainer.sft_trainer"])
    whole, place = tmp_path / "whole", tmp_path / "killed"
    run = place / "run"
    assert killed.start(context, whole, None, OVERRIDES) == 0, (whole / "said.txt").read_text(encoding="utf-8")

    def kill(stage: str, *calls: tuple[str, int]) -> None:
        code = killed.start(context, place, killed.Point("", stage, calls), OVERRIDES)
        assert code == -signal.SIGKILL, (place / "said.txt").read_text(encoding="utf-8")

    # In warm-up, while its third checkpoint is written.
    kill("reward", ("traceward.training.checkpoints:Checkpoints.seal", 3), ("os:fsync", 2))
    assert checkpoints(run, "reward") == ["checkpoint-1", "checkpoint-2"]
    assert steps(run, "warm-up") == [0, 1, 2, 3]
    # At the fifth token of the second batch of rollouts.
    kill("adversarial", (f"{TRAINER}._generate", 2), ("torch:multinomial", 5))
    assert checkpoints(run, "adversarial") == ["checkpoint-1", "checkpoint-2"]
    assert steps(run, "adversarial") == [1, 2]
    # Between the two backward passes of step 4, which uses the rollouts of step 3.
    kill("adversarial", (f"{TRAINER}.training_step", 4))
    assert checkpoints(run, "adversarial") == ["checkpoint-2", "checkpoint-3"]
    # What a kill may leave besides: half a row, a torn checkpoint, half a file.
    with (run / "metrics" / "adversarial.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"stage": "adver')
    weights = run / "checkpoints" / "adversarial" / "checkpoint-3" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    (run / "policies" / ".adversarial.x.tmp").mkdir()
    assert killed.start(context, place, None, OVERRIDES) == 0
    said = (place / "said.txt").read_text(encoding="utf-8")
    assert "checkpoint must be whole: got a missing or changed model.safetensors" in said
    assert killed.differences(whole / "run", run) == []
    assert names(whole) == names(place)
    assert list((run / "checkpoints").iterdir()) == []
