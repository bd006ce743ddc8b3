"""`traceward train --dry-run`: what a recipe becomes so that every stage of it runs on a laptop in about a minute.

Models become tiny random ones of the same architecture, data a few rows, counts small. What chooses the code that runs
stays: arms, head, granularity, objective, credit, format, adapters, shared backbone, checkpointed gradients, precision.
The figures of such a run mean nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from traceward.ablation.grid import is_grid, load_grid
from traceward.builtin import ASSETS
from traceward.config import BUILTIN_BASE, Recipe, load_recipe
from traceward.data.formats import Format, completion_text
from traceward.data.jsonl import write_jsonl
from traceward.data.prepare import rows_of
from traceward.data.tasks.registry import Task, jsonl_task
from traceward.records import Demonstration, Problem
from traceward.workflows.inputs import load_task
from traceward.workflows.train import changes

ROWS = ASSETS / "dry-run"  # self-written, in the forms of the public sets
LIKE = "gsm8k"  # whose rows stand in for sets without any

# Settings and what they are at most.
AT_MOST: dict[str, float] = {
    "run.checkpoint_every": 1,
    "data.demonstrations": 6,
    "data.questions": 4,
    "data.validation": 2,
    "data.test": 2,
    "policy.scratch.vocabulary": 600,
    "policy.scratch.hidden": 48,
    "policy.scratch.layers": 1,
    "policy.scratch.heads": 2,
    "policy.scratch.steps": 2,
    "policy.scratch.batch": 2,
    "sft.steps": 2,
    "sft.batch": 2,
    "sft.traces_per_backward": 1,
    "critic.demonstrations": 6,
    "critic.warmup_updates": 2,
    "critic.check_every": 1,
    "critic.positives": 2,
    "critic.rollouts": 4,
    "critic.traces_per_pass": 4,
    "critic.rollouts_per_question": 2,
    "adversarial.steps": 2,
    "adversarial.questions_per_step": 2,
    "adversarial.group": 2,
    "adversarial.rollouts_per_backward": 2,
    "adversarial.max_new_tokens": 24,
    "evaluation.samples": 2,
    "evaluation.policy_samples": 2,
    "evaluation.curve_every": 1,
    "evaluation.examples": 2,
    "evaluation.pairs": 2,
}


@dataclass(frozen=True, slots=True)
class DryRun:
    """overrides: what to set on top of the recipe.   notes: what stands in for what, and what is skipped."""

    overrides: tuple[str, ...]
    notes: tuple[str, ...]


def dry_run(recipe: Recipe, room: Path) -> DryRun:
    """Make what stands in for the recipe's models and data, in the directory `room`.

    Raises ConfigError for a model that cannot be stood in for, and DataError for data that are there and broken.
    """
    found = _few(recipe)
    notes: list[str] = []
    texts = _data(recipe, room / "data", found, notes)
    world = recipe.data.path is None
    for key, name in (("policy", recipe.policy.path), ("reward", recipe.reward.path)):
        if name is None or name in (BUILTIN_BASE, "scratch"):
            continue
        from traceward.builtin.stand_ins import stand_in

        place = room / key
        notes.append(f"{key}.path: {stand_in(name, texts, place, world=world)} stands in for {name}")
        found[f"{key}.path"] = str(place)
    notes += _skip(recipe, found)
    return DryRun(tuple(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in found.items()), tuple(notes))


def first_recipe(
    path: Path, *, data: Path | None = None, seed: int | None = None, overrides: Sequence[str] = ()
) -> Recipe:
    """The recipe at `path`; of a grid that of its first cell, as no axis of models or data would survive."""
    asked = changes(data, seed, overrides)
    if is_grid(path):
        return load_grid(path, asked, check=lambda _: None).cells[0].recipe
    return load_recipe(path, asked)


def _few(recipe: Recipe) -> dict[str, Any]:
    """Settings that are larger than a dry run's, cut."""
    found: dict[str, Any] = {"run.name": f"{recipe.run.name}-dry-run", "guards.on_alarm": "warn"}
    for key, most in AT_MOST.items():
        value: Any = recipe
        for part in key.split("."):
            value = getattr(value, part)
        if value is not None and value > most:
            found[key] = most
    found["critic.warmup_at_least"] = 0
    most = AT_MOST["evaluation.policy_samples"]
    found["evaluation.pass_at"] = [k for k in recipe.evaluation.pass_at if k <= most]
    return found


def _skip(recipe: Recipe, found: dict[str, Any]) -> Iterator[str]:
    if recipe.policy.load_in_4bit:
        found["policy.load_in_4bit"] = False
        yield f"skipped: weights in 4 bit; they are {recipe.policy.dtype} here"
    if recipe.run.report_to:
        found["run.report_to"] = []
        yield f"skipped: reports to {', '.join(recipe.run.report_to)}"
    asked = recipe.adversarial.vllm
    if asked.mode is not None:
        found["adversarial.vllm"] = {}
        yield f"skipped: vLLM ({asked.mode}); transformers samples"


# ---- data ------------------------------------------------------------------------------------------------------------


def _data(recipe: Recipe, room: Path, found: dict[str, Any], notes: list[str]) -> Sequence[str]:
    """A few rows in `room`; the texts that a tokenizer learns its words from. A built-in world needs no files."""
    data = recipe.data
    if data.path is None:
        found["data.demonstrations"] = min(data.demonstrations or 100, int(AT_MOST["data.demonstrations"]))
        own = recipe.model_copy(update={"data": data.model_copy(update={"demonstrations": 20, "questions": 0})})
        return _texts(load_task(own), data.format)
    if data.path.exists():
        task = load_task(recipe)
        notes.append(f"data.path: {len(task.demonstrations)} demonstrations of {data.path} were read, a few are used")
    else:
        like = data.task if (ROWS / data.task).is_dir() else LIKE
        task = jsonl_task(ROWS / like, demonstrations=None, questions=0, validation=2, test=3, name=like)
        notes.append(f"data.path: {data.path} is not there; a few rows of our own, like those of {like}, stand in")
    few = _cut(task)
    room.mkdir(parents=True, exist_ok=True)
    parts: dict[str, Sequence[Demonstration | Problem]] = {
        "train": few.demonstrations,
        "validation": few.validation,
        "test": few.test,
        "questions": few.questions,
    }
    for stem, items in parts.items():
        if items:
            write_jsonl(room / f"{stem}.jsonl", rows_of(items))
    found |= {"data.path": str(room), "data.demonstrations": len(few.demonstrations)}
    return _texts(task, data.format)


def _cut(task: Task) -> Task:
    """The shortest demonstrations of the first hundred, and the first of all others."""

    def most(name: str) -> int:
        return int(AT_MOST[f"data.{name}"])

    short = sorted(task.demonstrations[:100], key=lambda d: len(d.problem.question) + sum(map(len, d.trace.steps)))
    return replace(
        task,
        demonstrations=tuple(short[: most("demonstrations")]),
        questions=task.questions[: most("questions")],
        validation=task.validation[: most("validation")],
        test=task.test[: most("test")],
    )


def _texts(task: Task, style: Format) -> list[str]:
    some = task.demonstrations[:100]
    asked = [style.instruction, "system user assistant You are a helpful assistant. Today Date"]
    return [*asked, *(f"{d.problem.question}\n{completion_text(d.trace, style)}" for d in some)]
