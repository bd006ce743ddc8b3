"""What the bases of the worlds are made of: whose traces, and how many."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from traceward.builtin import TOKENIZER, WORLDS_TOKENIZER
from traceward.data.formats import EncodedTrace, Format, encode
from traceward.data.tasks.world import World, Written
from traceward.data.tasks.worlds import WORLDS
from traceward.records import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SEED = 20
BATCH = 16
LEARNING_RATE = 2e-3


class Of(StrEnum):
    """What a lesson is about: students' traces, or an exercise of the worlds."""

    STUDENT = "student"
    COPIES = "copies"
    VALUES = "values"
    PRACTICE = "practice"
    LINES = "lines"


@dataclass(frozen=True, slots=True)
class Lesson:
    """A part of pre-training, with its own schedule.   steps: updates of `batch` traces, each seen `epochs` times."""

    steps: int
    of: Of = Of.STUDENT
    batch: int = BATCH
    epochs: int = 2
    learning_rate: float = LEARNING_RATE

    @property
    def traces(self) -> int:
        """How many different traces that takes."""
        return self.batch * self.steps // self.epochs


@dataclass(frozen=True, slots=True)
class Plan:
    """How a base is made: one lesson after the other."""

    tokenizer: Path
    lessons: tuple[Lesson, ...]
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    context: int = 1024


PLANS: Mapping[str, Plan] = {
    "stories": Plan(TOKENIZER, (Lesson(12_000),), hidden=96, context=512),
    # Words and copying first, then who has what after many swaps, then how students tell it.
    "swaps": Plan(
        WORLDS_TOKENIZER,
        (
            Lesson(8_000),
            Lesson(5_500, of=Of.PRACTICE, batch=8, epochs=1, learning_rate=1.5e-3),
            Lesson(600, epochs=1, learning_rate=1e-3),
        ),
    ),
    # Copying first, as a base that had learned values before it did not learn to copy; then values, then calculations,
    # then values in the words of these, then how students tell them.
    "arithmetic": Plan(
        WORLDS_TOKENIZER,
        (
            Lesson(2_000, of=Of.COPIES, batch=32, epochs=1),
            Lesson(6_000, of=Of.VALUES, batch=128, epochs=4),
            Lesson(3_000, of=Of.PRACTICE, batch=8, epochs=1),
            Lesson(4_000, of=Of.LINES, batch=64, epochs=2, learning_rate=1.5e-3),
            Lesson(500, epochs=1, learning_rate=1e-3),
        ),
    ),
    # Its traces are six times as long. Single moves first: copying, and which of the words that begin alike have been
    # named.
    "sorting": Plan(
        WORLDS_TOKENIZER,
        (
            Lesson(5_500, of=Of.PRACTICE, batch=8, epochs=1),
            Lesson(150, batch=8, epochs=1, learning_rate=1e-3),
        ),
        context=5_120,
    ),
}


def plan_of(tasks: Sequence[str]) -> Plan:
    """The plan of one task, or one for several: their lessons together, in the tokenizer that knows all of them."""
    plans = [PLANS[task] for task in tasks]
    if len(plans) == 1:
        return plans[0]
    slots: dict[str, list[Lesson]] = {
        "copies": [],
        "values": [],
        "before": [],
        "practice": [],
        "lines": [],
        "after": [],
    }
    for plan in plans:
        for at, lesson in enumerate(plan.lessons):
            practised = any(earlier.of is Of.PRACTICE for earlier in plan.lessons[:at])
            slots[("after" if practised else "before") if lesson.of is Of.STUDENT else lesson.of].append(lesson)
    lessons = [replace(each[0], steps=sum(lesson.steps for lesson in each)) for each in slots.values() if each]
    return Plan(WORLDS_TOKENIZER, tuple(lessons), context=max(plan.context for plan in plans))


def traces_of(
    lesson: Lesson, tokenizer: PreTrainedTokenizerBase, worlds: Sequence[World], *, seed: int = SEED
) -> list[EncodedTrace]:
    """What a lesson takes, as token ids; the worlds take turns, and those without such an exercise have none. Raises
    ValueError where no world has it."""
    if lesson.of is Of.STUDENT:
        return student_traces(lesson.traces, tokenizer, worlds, seed)
    writers = [world.exercises[lesson.of] for world in worlds if lesson.of in world.exercises]
    if lesson.traces and not writers:
        raise ValueError(f"worlds must have an exercise in {lesson.of}: got {[world.name for world in worlds]}")
    return _written(lesson.of, lesson.traces, tokenizer, writers, seed)


def student_traces(
    count: int,
    tokenizer: PreTrainedTokenizerBase,
    worlds: Sequence[World] = (WORLDS["stories"],),
    seed: int = SEED,
) -> list[EncodedTrace]:
    """Problems answered by students, as token ids; the worlds take turns."""
    return _written(Of.STUDENT, count, tokenizer, [world.student for world in worlds], seed)


def _written(
    of: Of,
    count: int,
    tokenizer: PreTrainedTokenizerBase,
    writers: Sequence[Callable[[random.Random], Written]],
    seed: int,
) -> list[EncodedTrace]:
    rng = random.Random(f"{of}s-{seed}")
    traces = []
    for index in range(count):
        question, trace = writers[index % len(writers)](rng)
        traces.append(encode(Problem(f"{of}-{index}", question), trace, Format.PLAIN, tokenizer))
    return traces
