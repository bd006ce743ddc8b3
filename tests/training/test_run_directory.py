"""The run directory: resume, refusals, parts, metrics, manifest."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from traceward.config import Recipe, resolve
from traceward.errors import RunError
from traceward.training.callbacks import MetricsCallback
from traceward.training.run_directory import RunDirectory, command_line


@pytest.fixture
def recipe() -> Recipe:
    return resolve({"run": {"name": "mine", "seed": 3}, "data": {"test": 50}}, where="test")


def rows(run: RunDirectory, stage: str) -> list[dict[str, object]]:
    text = (run.path / "metrics" / f"{stage}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_a_new_run_holds_its_resolved_recipe(tmp_path: Path, recipe: Recipe) -> None:
    run = RunDirectory.create(tmp_path / "deep" / "run", recipe)
    assert run.recipe() == recipe
    assert json.loads((run.path / "config.json").read_text(encoding="utf-8"))["data"]["test"] == 50
    assert {p.name for p in run.path.iterdir()} == {"config.json", "data", "metrics", "parts", "policies"}


def test_the_same_recipe_resumes_with_its_finished_stages(tmp_path: Path, recipe: Recipe) -> None:
    RunDirectory.create(tmp_path / "run", recipe).finish("sft", {"loss_last": 0.5})
    again = RunDirectory.create(tmp_path / "run", recipe)
    assert again.part("sft") == {"loss_last": 0.5}
    assert again.part("reward") is None


def test_another_recipe_is_refused_and_changes_nothing(tmp_path: Path, recipe: Recipe) -> None:
    run = RunDirectory.create(tmp_path / "run", recipe)
    other = recipe.model_copy(update={"run": recipe.run.model_copy(update={"seed": 4})})
    with pytest.raises(RunError, match=r"must be of the same recipe: got another one in .*run; choose a new --out"):
        RunDirectory.create(tmp_path / "run", other)
    assert run.recipe() == recipe


def test_foreign_files_are_refused_and_kept(tmp_path: Path, recipe: Recipe) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(RunError, match="must be new or empty"):
        RunDirectory.create(tmp_path, recipe)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_empty_directory_is_taken(tmp_path: Path, recipe: Recipe) -> None:
    assert RunDirectory.create(tmp_path, recipe).recipe() == recipe


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, recipe: Recipe) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(RunError, match="must be writable"):
        RunDirectory.create(tmp_path / "file" / "run", recipe)


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_broken_config_is_told(tmp_path: Path, recipe: Recipe, text: str) -> None:
    run = RunDirectory.create(tmp_path / "run", recipe)
    (run.path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(RunError, match="run directory must"):
        RunDirectory.create(tmp_path / "run", recipe)


def test_a_directory_that_is_no_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"must hold config.json: got none in .*; "):
        RunDirectory(tmp_path).recipe()


def test_metrics_are_on_disk_as_they_come(tmp_path: Path, recipe: Recipe) -> None:
    run = RunDirectory.create(tmp_path / "run", recipe)
    with run.metrics("sft") as metrics:
        metrics.log({"step": 1, "loss": 0.5})
        (row,) = rows(run, "sft")
        metrics.log({"step": 2, "loss": 0.25})
    assert (row["stage"], row["step"], row["loss"]) == ("sft", 1, 0.5)
    assert [r["step"] for r in rows(run, "sft")] == [1, 2]
    assert all(isinstance(r["seconds"], float) and r["seconds"] >= 0 for r in rows(run, "sft"))


def test_a_stage_that_starts_again_starts_its_metrics_again(tmp_path: Path, recipe: Recipe) -> None:
    run = RunDirectory.create(tmp_path / "run", recipe)
    for steps in (5, 2):
        with run.metrics("sft") as metrics:
            for step in range(steps):
                metrics.log({"step": step})
    with run.metrics("reward") as metrics:
        metrics.log({"step": 0})
    assert [r["step"] for r in rows(run, "sft")] == [0, 1]
    assert [r["stage"] for r in rows(run, "reward")] == ["reward"]


def test_a_nan_is_no_metric(tmp_path: Path, recipe: Recipe) -> None:
    run = RunDirectory.create(tmp_path / "run", recipe)
    with run.metrics("sft") as metrics, pytest.raises(ValueError, match="Out of range"):
        metrics.log({"step": 0, "loss": float("nan")})
    assert rows(run, "sft") == []


def test_a_trainers_logs_come_under_our_names(tmp_path: Path, recipe: Recipe) -> None:
    run = RunDirectory.create(tmp_path / "run", recipe)
    with run.metrics("adversarial") as metrics:
        callback = MetricsCallback(metrics)
        logs = {"loss": "0.5", "completions/mean_length": 7.0, "critic/accuracy": 0.75, "epoch": 1.0}
        callback.on_log(None, SimpleNamespace(global_step=4), None, logs=logs)
        callback.on_log(None, SimpleNamespace(global_step=5), None, logs={"train_runtime": 2.0})
        callback.on_log(None, SimpleNamespace(global_step=6), None)
    (row,) = rows(run, "adversarial")
    del row["seconds"]
    assert row == {
        "stage": "adversarial",
        "step": 4,
        "loss": 0.5,
        "completion_length": 7.0,
        "accuracy": 0.75,
    }


def test_the_manifest_says_with_what_the_run_was_made(tmp_path: Path, recipe: Recipe) -> None:
    run = RunDirectory.create(tmp_path / "run", recipe)
    run.write_manifest(command="traceward train x.toml", data={"demonstrations": "abc"}, seed=3)
    found = json.loads((run.path / "manifest.json").read_text(encoding="utf-8"))
    assert found["command"] == "traceward train x.toml"
    assert (found["seeds"], found["data"]) == ([3], {"demonstrations": "abc"})
    assert found["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"torch", "transformers", "trl", "traceward"} <= found["versions"].keys()
    assert {"version", "commit", "platform", "started"} <= found.keys()
    assert str(Path.home()) not in json.dumps(found)


def test_the_command_line_hides_where_the_program_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/traceward", "train", "x.toml"])
    assert command_line() == "traceward train x.toml"
