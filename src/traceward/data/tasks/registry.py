"""A task: demonstrations, further questions, problems to measure on, and a judge that only evaluation calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

from traceward.data.demonstrations import (
    find_file,
    fingerprint,
    hash_split,
    question_key,
    read_demonstrations,
    read_questions,
    refuse_overlap,
    split_record,
)
from traceward.data.grading import Grade, extract_answer
from traceward.data.jsonl import fingerprint_file
from traceward.data.options import grade_answer
from traceward.data.tasks.sets import SETS
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
    """A task from files: a directory with train, test and perhaps validation splits, or one file.

    What has no file is split off by the hash of its questions. Of further questions, those of train come first, then
    those of a file `questions`.
    """
    read = partial(read_demonstrations, convert=SETS[name].convert if name in SETS else None)
    given = {split: read(path, split=split) for split in _splits(path)} if path.is_dir() else {"train": read(path)}
    for first, second in combinations(given.values(), 2):
        refuse_overlap(first, second)
    parts = {split: found.demonstrations for split, found in given.items()}
    missing = {split: SPLITS[split] for split in ("validation", "test") if split not in given}
    shares = {"train": 1 - sum(missing.values()), **missing}
    if missing:
        parts |= hash_split(parts["train"], fractions=shares, salt=SALT)
    expert = parts["train"][:demonstrations]
    if len(expert) < 4 or not parts["test"]:
        raise DataError(
            f"{path} must give at least 4 demonstrations and 1 test problem: got {len(expert)} and "
            f"{len(parts['test'])}; add rows or point to a directory with train.jsonl and test.jsonl"
        )
    prints = {split: found.fingerprint for split, found in given.items()}
    further = [item.problem for item in parts["train"][len(expert) :]]
    if len(further) < questions and path.is_dir() and _there(path, "questions"):
        further += _unseen(path, parts)
        prints["questions"] = fingerprint_file(find_file(path, "questions"))
    return Task(
        name=name,
        demonstrations=expert,
        questions=tuple(further[:questions]),
        validation=parts["validation"][:validation],
        test=tuple(parts["test"][:test]),
        judge=judge_answer,
        record={"split": split_record(parts, fractions=shares, salt=SALT), **prints},
    )


def _there(path: Path, stem: str) -> bool:
    return any((path / f"{stem}{end}").is_file() for end in (".jsonl", ".jsonl.gz"))


def _splits(path: Path) -> list[str]:
    """Train and test must be there, validation may be."""
    return ["train", *(["validation"] if _there(path, "validation") else []), "test"]


def _unseen(path: Path, parts: Mapping[str, Sequence[Demonstration]]) -> list[Problem]:
    """The questions of the file `questions`. Raises DataError where one of them is in a part, or its id in train: a run
    tells the questions it trains on by their ids."""
    keys = {question_key(item.problem.question) for items in parts.values() for item in items}
    ids = {item.problem.id for item in parts["train"]}
    found = read_questions(path, split="questions")
    if doubled := [one.id for one in found if one.id in ids or question_key(one.question) in keys]:
        raise DataError(
            f"{path} must hold no question of another split, and no id of train, under questions: "
            f"got {', '.join(doubled[:10])}; prepare it with traceward data, or remove them"
        )
    return found
