"""The run directory: resume, refusals, parts, metrics, manifest."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from traceward.config import Recipe, resolve
from traceward.errors import RunError
from traceward.training import run_directory
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
    assert {p.name for p in run.path.iterdir()} == {
        *("checkpoints", "config.json", "data", "metrics", "parts", "policies"),
    }


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


def test_how_a_run_is_carried_out_may_change(tmp_path: Path, recipe: Recipe) -> None:
    RunDirectory.create(tmp_path / "run", recipe)
    other = recipe.run.model_copy(update={"workers": 1, "checkpoint_every": 3, "keep_checkpoints": 5})
    again = RunDirectory.create(tmp_path / "run", recipe.model_copy(update={"run": other}))
    assert again.recipe().run == other
    found = again.checkpoints("sft")
    assert (found.directory, found.every, found.keep) == (again.path / "checkpoints" / "sft", 3, 5)


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path, recipe: Recipe) -> None:
    run = RunDirectory.create(tmp_path / "run", recipe)
    for left in ("policies/.sft.abc.tmp", "checkpoints/sft", "checkpoints/reward/checkpoint-10"):
        (run.path / left).mkdir(parents=True)
        (run.path / left / "file").write_text("", encoding="utf-8")
    (run.path / "parts" / ".sft.json.abc.tmp").write_text("{", encoding="utf-8")
    (run.path / ".mine").write_text("", encoding="utf-8")
    (run.path / "parts" / "sft.json").write_text("{}", encoding="utf-8")  # done, but for its checkpoints
    RunDirectory.create(run.path, recipe)
    assert {str(path.relative_to(run.path)) for path in run.path.rglob("*") if path.is_file()} == {
        *("checkpoints/reward/checkpoint-10/file", "config.json", ".mine", "parts/sft.json"),
    }
    assert [path.name for path in (run.path / "checkpoints").iterdir()] == ["reward"]
    assert list((run.path / "policies").iterdir()) == []


def test_a_finished_stage_has_no_checkpoints(tmp_path: Path, recipe: Recipe) -> None:
    run = RunDirectory.create(tmp_path / "run", recipe)
    for stage in ("sft", "reward"):
        run.checkpoints(stage).save(10, {})
    run.finish("sft", {})
    assert [path.name for path in (run.path / "checkpoints").iterdir()] == ["reward"]


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


def logged(run: RunDirectory, *steps: int, state: dict[str, object] | None = None) -> dict[str, object]:
    """Log these steps, from a checkpoint where one is given; the state at the end."""
    with run.metrics("sft") as metrics:
        if state is not None:
            metrics.load_state_dict(state)
        for step in steps:
            metrics.log({"step": step})
        return metrics.state_dict()


def test_metrics_are_cut_back_to_the_checkpoint(tmp_path: Path, recipe: Recipe) -> None:
    run = RunDirectory.create(tmp_path / "run", recipe)
    state = {**logged(run, 1, 2), "seconds": 100.0}
    logged(run, 3, 4, state=state)
    with (run.path / "metrics" / "sft.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"stage": "s')  # where a kill fell
    with run.metrics("sft"), pytest.raises(KeyError):  # a start that fails before it has read its checkpoint
        raise KeyError
    logged(run, 3, state=state)
    assert [row["step"] for row in rows(run, "sft")] == [1, 2, 3]
    assert 100 <= rows(run, "sft")[2]["seconds"] < 200  # type: ignore[operator]


def test_metrics_that_are_gone_are_told(tmp_path: Path, recipe: Recipe) -> None:
    run = RunDirectory.create(tmp_path / "run", recipe)
    state = logged(run, 1, 2)
    (run.path / "metrics" / "sft.jsonl").unlink()
    with pytest.raises(RunError, match=r"sft.jsonl must hold the \d+ bytes that its checkpoint knows: got 0; bring"):
        logged(run, 3, state=state)


def test_a_nan_is_no_metric(tmp_path: Path, recipe: Recipe) -> None:
    run = RunDirectory.create(tmp_path / "run", recipe)
    with (
        run.metrics("sft") as metrics,
        pytest.raises(RunError, match="sft must stay finite: got loss = nan at step 3;"),
    ):
        metrics.log({"step": 3, "kl": 0.5, "loss": float("nan")})
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


def test_a_run_that_goes_on_keeps_its_manifest(
    tmp_path: Path, recipe: Recipe, caplog: pytest.LogCaptureFixture
) -> None:
    run = RunDirectory.create(tmp_path / "run", recipe)
    run.write_manifest(command="traceward train x.toml", data={"files": ("a",)}, seed=3)
    first = (run.path / "manifest.json").read_bytes()
    run.write_manifest(command="traceward train ./x.toml", data={"files": ("a",)}, seed=3)
    assert (run.path / "manifest.json").read_bytes() == first
    assert caplog.records == []


def test_other_data_are_refused(tmp_path: Path, recipe: Recipe) -> None:
    run = RunDirectory.create(tmp_path / "run", recipe)
    run.write_manifest(command="x", data={"demonstrations": "abc", "test": "d"}, seed=3)
    with pytest.raises(RunError, match=r"the data it began with: got other demonstrations than .*manifest.json names"):
        run.write_manifest(command="x", data={"demonstrations": "abd", "test": "d"}, seed=3)


def test_another_version_is_told_and_noted(
    tmp_path: Path, recipe: Recipe, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory.create(tmp_path / "run", recipe)
    run.write_manifest(command="x", data={}, seed=3)
    monkeypatch.setattr(run_directory, "source_commit", lambda: "0123456789ab")
    for _ in range(2):
        run.write_manifest(command="x", data={}, seed=3)
    (row,) = caplog.records  # the second time nothing is new
    assert row.getMessage().startswith("run must go on with the code it began with to stay exact: got another commit")
    found = json.loads((run.path / "manifest.json").read_text(encoding="utf-8"))
    assert [one["commit"] for one in found["continued_with"]] == ["0123456789ab"]
    assert found["commit"] != "0123456789ab"


def test_the_command_line_hides_where_the_program_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/traceward", "train", "x.toml"])
    assert command_line() == "traceward train x.toml"
