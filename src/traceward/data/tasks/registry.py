"""A task: demonstrations, further questions, problems to measure on, and a judge that only evaluation calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from traceward.data.demonstrations import (
    DemonstrationSet,
    fingerprint,
    hash_split,
    read_demonstrations,
    refuse_overlap,
    split_record,
)
from traceward.data.grading import Grade, extract_answer
from traceward.data.options import grade_answer
from traceward.data.tasks import gsm8k
from traceward.data.tasks.world import World
from traceward.errors import DataError
from traceward.records import Demonstration, Problem, Trace, Verdict

Judge = Callable[[Problem, Trace], Verdict]
SPLITS: Mapping[str, float] = {"train": 0.8, "validation": 0.1, "test": 0.1}
SALT = "traceward"
VALIDATION_STREAM, TEST_STREAM = -1, -2


@dataclass(frozen=True, slots=True)
class Task:
    """Everything a run needs of a task.

    demonstrations: the supervision.   questions: problems without worked solutions, for policies.
    validation, test: with reference solutions; validation draws curves, test is only measured on.
    judge: the verdict on a trace; exact where the task has a checker, else by its final answer.
    """

    name: str
    demonstrations: tuple[Demonstration, ...]
    questions: tuple[Problem, ...]
    validation: tuple[Demonstration, ...]
    test: tuple[Demonstration, ...]
    judge: Judge
    record: dict[str, Any] = field(default_factory=dict)


def judge_answer(problem: Problem, trace: Trace) -> Verdict:
    """By the final answer, an option's by its letter or text; which step is wrong stays unknown."""
    found = grade_answer(trace.answer or extract_answer("\n".join(trace.steps)), problem)
    return Verdict(found is Grade.CORRECT if problem.answer is not None else None)


def world_task(
    world: World,
    *,
    demonstrations: int,
    questions: int,
    validation: int,
    test: int,
    seed: int,
    experts: World | None = None,
) -> Task:
    """A built-in world. Test and validation problems are the same for every seed, and neither depends on how many there
    are of the other; demonstrations follow the seed.

    experts: the variant that demonstrations are of; left out, `world` itself.
    """
    tested = world.demonstrations(test, TEST_STREAM)
    asked = world.demonstrations(validation, VALIDATION_STREAM, exclude=_questions(tested))
    seen = _questions(tested) | _questions(asked)
    # One more demonstration never changes the others: budgets of one seed are nested.
    expert = (experts or world).demonstrations(demonstrations, seed, exclude=seen)
    seen |= _questions(expert)
    further = world.demonstrations(questions, 10_000 + seed, exclude=seen)
    return Task(
        name=world.name,
        demonstrations=tuple(expert),
        questions=tuple(item.problem for item in further),
        validation=tuple(asked),
        test=tuple(tested),
        judge=world.judge,
        record={"demonstrations": fingerprint(expert), "test": fingerprint(tested), "generator_seed": seed},
    )


def _questions(items: Iterable[Demonstration]) -> frozenset[str]:
    return frozenset(item.problem.question for item in items)


def jsonl_task(
    path: Path, *, demonstrations: int | None, questions: int, validation: int, test: int, name: str = "jsonl"
) -> Task:
    """A task from files: a directory with train and test splits, or one file split by the hash of its questions."""
    read = gsm8k.load if name == "gsm8k" else read_demonstrations
    if path.is_dir():
        train, held = read(path, split="train"), read(path, split="test")
        refuse_overlap(train, held)
        shares = {"train": 1 - SPLITS["validation"], "validation": SPLITS["validation"]}
        parts = hash_split(train.demonstrations, fractions=shares, salt=SALT)
        tested = held.demonstrations
    else:
        train, held = read(path), None
        shares = dict(SPLITS)
        parts = hash_split(train.demonstrations, fractions=shares, salt=SALT)
        tested = parts["test"]
    expert = parts["train"][:demonstrations]
    if len(expert) < 4 or not tested:
        raise DataError(
            f"{path} must give at least 4 demonstrations and 1 test problem: got {len(expert)} and {len(tested)}; "
            "add rows or point to a directory with train.jsonl and test.jsonl"
        )
    further = parts["train"][len(expert) : len(expert) + questions]
    return Task(
        name=name,
        demonstrations=expert,
        questions=tuple(item.problem for item in further),
        validation=parts["validation"][:validation],
        test=tuple(tested[:test]),
        judge=judge_answer,
        record={"split": split_record(parts, fractions=shares, salt=SALT), **_fingerprints(train, held)},
    )


def _fingerprints(train: DemonstrationSet, held: DemonstrationSet | None) -> dict[str, str]:
    return {"train": train.fingerprint, **({"test": held.fingerprint} if held else {})}
