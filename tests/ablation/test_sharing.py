"""Equal work has one name, and a stage reads nothing that its name does not know."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel

from traceward.ablation.grid import Cell
from traceward.ablation.sharing import Part, parts_of, place, prepare, settings_read
from traceward.config import Arm, Recipe
from traceward.training.run_directory import FREE, RunDirectory
from traceward.tree import merged
from traceward.workflows import stages

from .conftest import SMALL


def names(changes: dict[str, Any], arms: tuple[str, ...] = ("sft", "adversarial", "outcome")) -> dict[str, str]:
    recipe = Recipe.model_validate(merged({"run": {"arms": arms}}, changes))
    return {stage: part.name for stage, part in parts_of(recipe).items()}


BEFORE = names({})


@pytest.mark.parametrize(
    ("changes", "changed"),
    [
        ({"run": {"name": "other", "workers": 3}}, set()),
        ({"adversarial": {"learning_rate": 1e-5}}, {"adversarial", "outcome"}),
        ({"adversarial": {"temperature": 0.7}}, {"rollouts", "reward", "judge", "adversarial", "outcome"}),
        ({"critic": {"learning_rate": 1e-5}}, {"reward", "judge", "adversarial"}),
        ({"reward": {"head": "scalar"}}, {"reward", "judge", "adversarial"}),
        ({"sft": {"steps": 7}}, {"sft", "measure:sft", "judge"}),
        (
            {"sft": {"steps": 7}, "run": {"start": "sft"}},
            {"sft", "measure:sft", "judge", "adversarial", "outcome"},
        ),
        ({"evaluation": {"policy_samples": 9}}, {"measure:sft", "measure:base", "adversarial", "outcome"}),
        ({"evaluation": {"samples": 9}}, {"samples", "judge", "adversarial", "outcome"}),
        ({"run": {"seed": 1}}, {*BEFORE}),
        ({"data": {"test": 5}}, {*BEFORE}),
    ],
)
def test_a_setting_changes_the_stages_that_read_it_and_those_after_them(
    changes: dict[str, Any], changed: set[str]
) -> None:
    after = names(changes)
    assert {stage for stage in BEFORE if BEFORE[stage] != after[stage]} == changed


def test_fewer_arms_are_the_same_work() -> None:
    fewer = names({}, ("adversarial",))
    assert {stage: BEFORE[stage] for stage in fewer if stage != "judge"} == {
        stage: name for stage, name in fewer.items() if stage != "judge"
    }
    assert fewer["judge"] != BEFORE["judge"]  # it judges the SFT model too where there is one


def test_a_part_shows_what_all_before_it_left_and_nothing_of_its_neighbours(tmp_path: Path) -> None:
    parts = parts_of(Recipe.model_validate({"run": {"arms": ["sft", "adversarial"]}}))
    files = {"rollouts": "data/rollouts.jsonl", "samples": "data/samples.jsonl", "reward": "reward/card.json"}
    for stage, file in {**files, "sft": "policies/sft/x"}.items():
        directory = prepare(tmp_path, parts[stage])
        (directory / file).parent.mkdir(exist_ok=True)
        (directory / file).write_text(stage, encoding="utf-8")
        RunDirectory(directory).finish(stage, {"from": stage})
    judge = prepare(tmp_path, parts["judge"])
    assert (judge / "data" / "rollouts.jsonl").read_text(encoding="utf-8") == "rollouts"
    assert (judge / "policies" / "sft" / "x").read_text(encoding="utf-8") == "sft"
    assert RunDirectory(judge).part("reward") == {"from": "reward"}
    assert not (judge / "config.json").is_symlink()
    arm = prepare(tmp_path, parts["adversarial"])
    assert (arm / "reward" / "card.json").exists()
    assert not (arm / "policies" / "sft").exists()
    # Everything may move together.
    (tmp_path / "moved").mkdir()
    for path in list(tmp_path.glob("*-*")):
        path.rename(tmp_path / "moved" / path.name)
    assert RunDirectory(tmp_path / "moved" / judge.name).part("rollouts") == {"from": "rollouts"}
    prepare(tmp_path / "moved", parts["judge"])  # again, after an interruption


def test_other_data_are_other_work() -> None:
    recipe = Recipe()
    keys = [{part.name for part in parts_of(recipe, {"train": digest}).values()} for digest in ("a", "b", "a")]
    assert keys[0] == keys[2]
    assert not keys[0] & keys[1]
    cell = Cell({"a": "x"}, recipe)
    (placed,) = place([cell], lambda _recipe: {"train": "a"})
    assert {part.name for part in placed.parts.values()} == keys[0]


def test_cells_are_called_by_their_labels() -> None:
    cells = [Cell({"a": "x/y", "b": "0.5"}, Recipe()), Cell({"a": "x y", "b": "0.5"}, Recipe())]
    assert [placed.name for placed in place(cells)] == ["x-y-0.5-seed-0", "x-y-0.5-seed-0-2"]


class Watched:
    """A section of a recipe that notes which of its settings are read; anything but a setting counts as all."""

    def __init__(self, section: BaseModel, name: str, seen: set[str]) -> None:
        self._section, self._name, self._seen = section, name, seen

    def __getattr__(self, key: str) -> Any:
        value = getattr(self._section, key)
        if key == "model_copy" and not self._name:  # of the whole recipe: watched as well
            return lambda update: Watched(value(update=update), "", self._seen)
        name = f"{self._name}.{key}".lstrip(".")
        if isinstance(value, BaseModel):
            return Watched(value, name, self._seen)
        self._seen.add(name if key in type(self._section).model_fields else self._name)
        return value


def test_no_stage_reads_a_setting_that_its_key_does_not_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = merged(
        tomllib.loads(SMALL),
        {
            "run": {"arms": list(Arm), "variants": ["scalar:sparse"], "start": "sft"},
            "evaluation": {"pairs": 1, "curve_every": 1},
        },
    )
    recipe = Recipe.model_validate(tree)
    seen: set[str] = set()
    monkeypatch.setattr(stages, "die_with", lambda _parent: None)
    monkeypatch.setattr(RunDirectory, "recipe", lambda _run: Watched(recipe, "", seen))
    parts: dict[str, Part] = parts_of(recipe)
    threads = torch.get_num_threads()
    for stage, part in parts.items():
        seen.clear()
        stages.run_stage(str(prepare(tmp_path, part)), stage, threads, os.getppid())
        known = settings_read(stage, recipe)
        seen -= {f"run.{name}" for name in FREE}  # how it is carried out
        unknown = {name for name in seen if not any(f"{name}.".startswith(f"{one}.") for one in known)}
        assert unknown == set(), stage
        assert seen, stage
        assert part.found(tmp_path) is not None
