"""Work that is the same in several cells is done once.

A stage of a grid runs in a directory of its own, `shared/STAGE-KEY`: a run directory with links to what the stages
before it left. KEY is a hash of the stage's name, of the settings that it reads, of the data's fingerprints and of the
keys of those it waits for, so two cells that ask for the same work name the same directory, whichever comes first and
whatever the grid looked like then. A cell is a directory of links to its stages.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from traceward.ablation.grid import Cell
from traceward.config import Recipe
from traceward.data.jsonl import write_json
from traceward.training.run_directory import FREE, PARTS, RunDirectory, installed_version, source_commit
from traceward.workflows.pool import part_name
from traceward.workflows.train import plan

MADE_WITH = "made-with.json"  # the code that made a part

# What a stage reads of a recipe, and no more: sections or single settings. tests/ablation/test_sharing.py watches the
# stages read. One that is not named here reads everything but UNREAD: what is new is never shared too much.
EVERYWHERE = ("data", "policy", "run.seed")
MEASURED = (
    "evaluation.policy_samples",
    "evaluation.temperature",
    "evaluation.top_p",
    "evaluation.pass_at",
    "adversarial.max_new_tokens",
)
READS: Mapping[str, tuple[str, ...]] = {
    "pretrain": (),
    "rollouts": (
        "critic.demonstrations",
        "critic.rollouts_per_question",
        "adversarial.max_new_tokens",
        "adversarial.temperature",
        "adversarial.top_p",
    ),
    "sft": ("sft",),
    "reward": ("reward", "critic", "guards", "adversarial.max_new_tokens", "adversarial.temperature"),
    "samples": ("evaluation.samples", "evaluation.temperature", "evaluation.top_p", "adversarial.max_new_tokens"),
    "measure:base": MEASURED,
    "measure:sft": MEASURED,
    "judge": ("evaluation.samples", "evaluation.examples"),
    "outcome": ("run.start", "adversarial", "evaluation", "guards"),
    "majority_consensus": ("run.start", "adversarial", "evaluation", "critic.demonstrations", "guards"),
    "sft_logprob_consensus": ("run.start", "adversarial", "evaluation", "critic.demonstrations", "guards"),
}
BESIDE_A_POLICY = ("reward.shares_backbone", "reward.gradient_checkpointing")
# A reward and the SFT policy come as files, under their own keys.
UNREAD = ("run.name", "run.arms", "run.variants", "sft", "reward", *(f"run.{name}" for name in FREE))


@dataclass(frozen=True, slots=True)
class Part:
    """A stage of some cells. inputs: the names of all parts before it, whose files are among its own.

    beside: names in its directory, of parts that stay run directories of their own there.
    """

    name: str
    stage: str
    recipe: Recipe
    waits: tuple[str, ...]
    inputs: tuple[str, ...]
    beside: Mapping[str, str] = field(default_factory=dict)

    def found(self, room: Path) -> dict[str, Any] | None:
        """What it wrote below `room` when it finished, or None."""
        return RunDirectory(room / self.name).part(part_name(self.stage))

    def commit(self, room: Path) -> str | None:
        """Of the code that made it; None where it was made by an installed package, or is not there."""
        file = room / self.name / MADE_WITH
        found: str | None = json.loads(file.read_text(encoding="utf-8"))["commit"] if file.exists() else None
        return found


def parts_of(recipe: Recipe, data: Mapping[str, Any] | None = None) -> dict[str, Part]:
    """Stage -> part, in the order of the plan. Equal names are equal work.

    data: fingerprints of what the recipe's data hold now, by name.
    """
    found: dict[str, Part] = {}
    for stage, waits in _ordered(plan(recipe)).items():
        before = tuple(found[wait].name for wait in waits)
        name = _named(stage, settings_read(stage, recipe), data, sorted(before))
        inputs = dict.fromkeys(name for wait in waits for name in (*found[wait].inputs, found[wait].name))
        found[stage] = Part(name, stage, recipe, before, tuple(inputs))
    return found


def part_beside(stage: str, recipe: Recipe, parts: Mapping[str, Part]) -> Part:
    """A stage that reads nothing but other run directories, each of them under a name in its own."""
    beside = {name: part.name for name, part in parts.items()}
    return Part(_named(stage, beside), stage, recipe, tuple(beside.values()), (), beside)


def _named(stage: str, *asked: Any) -> str:
    """The name of the work that reads this."""
    text = json.dumps([stage, *asked], sort_keys=True)
    return f"{part_name(stage)}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _ordered(stages: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """A plan with every stage after those it waits for."""
    found: dict[str, tuple[str, ...]] = {}
    while len(found) < len(stages):
        found |= {s: waits for s, waits in stages.items() if s not in found and found.keys() >= set(waits)}
    return found


def settings_read(stage: str, recipe: Recipe) -> dict[str, Any]:
    """The settings that a stage reads, by dotted name of a section or a setting."""
    tree = recipe.model_dump(mode="json")
    if stage in READS:
        names = (*EVERYWHERE, *READS[stage])
    else:
        every = (*(section for section in tree if section != "run"), *(f"run.{key}" for key in tree["run"]))
        names = tuple(name for name in every if name not in UNREAD) + ("reward",) * stage.startswith("variant:")
        names += BESIDE_A_POLICY * (stage in ("adversarial", "reward_frozen"))
    return {name: _at(tree, name) for name in names}


def _at(tree: dict[str, Any], name: str) -> Any:
    for part in name.split("."):
        tree = tree[part]
    return tree


def prepare(room: Path, part: Part) -> Path:
    """Make a part's run directory below `room`, its inputs linked; returns it."""
    directory = room / part.name
    link(directory, [room / name for name in part.inputs])
    for name, other in part.beside.items():
        if not (directory / name).is_symlink():
            (directory / name).symlink_to(os.path.relpath(room / other, directory))
    write_json(directory / "config.json", part.recipe.model_dump(mode="json"))
    write_json(directory / MADE_WITH, {"version": installed_version("traceward"), "commit": source_commit()})
    RunDirectory(directory).tidy()
    return directory


def link(directory: Path, sources: list[Path]) -> None:
    """Show what the sources hold in `directory`, by relative links, so that all may move together.

    What a source only links to itself is left out, and so are the files that every run directory has of its own.
    """
    for kind in PARTS:
        (directory / kind).mkdir(parents=True, exist_ok=True)
    for source in sources:
        for entry in (*source.iterdir(), *(inner for kind in PARTS for inner in (source / kind).iterdir())):
            place = directory / entry.relative_to(source)
            own = (
                entry.is_symlink()
                or entry.name in {"config.json", MADE_WITH}
                or str(entry.relative_to(source)) in PARTS
            )
            if not own and not place.is_symlink() and not place.exists():
                place.symlink_to(os.path.relpath(entry, place.parent))


@dataclass(frozen=True, slots=True)
class Placed:
    """A cell with the name of its directory and its parts by stage."""

    cell: Cell
    name: str
    parts: Mapping[str, Part]

    def done(self, room: Path) -> bool:
        """Whether all its stages have finished."""
        return all(part.found(room) is not None for part in self.parts.values())


def place(cells: Sequence[Cell], data: Callable[[Recipe], Mapping[str, Any]] = lambda _recipe: {}) -> list[Placed]:
    """Cells with their parts; a name says a cell's labels, and a number where two would be called alike.

    data: the fingerprints of a recipe's data.
    """
    found: dict[str, Placed] = {}
    for cell in cells:
        words = [*cell.labels.values(), "seed", str(cell.seed)]
        name = plain = re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(words)).strip("-.")[:120]
        for number in itertools.count(2):
            if name not in found:
                break
            name = f"{plain}-{number}"
        found[name] = Placed(cell, name, parts_of(cell.recipe, data(cell.recipe)))
    return list(found.values())
