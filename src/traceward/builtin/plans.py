"""What the bases of the worlds are made of: whose traces, and how many."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
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


@dataclass(frozen=True, slots=True)
class Lesson:
    """A part of pre-training, with a schedule of its own.   steps: updates of `batch` traces, each seen `epochs` times.
    practice: of what worlds practise, not of students' traces."""

    steps: int
    practice: bool = False
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
            Lesson(5_500, practice=True, batch=8, epochs=1, learning_rate=1.5e-3),
            Lesson(600, epochs=1, learning_rate=1e-3),
        ),
    ),
    # What sums and products are first, then how students lay steps out.
    "arithmetic": Plan(
        WORLDS_TOKENIZER,
        (
            Lesson(10_000, practice=True, batch=8, epochs=1),
            Lesson(600, epochs=1, learning_rate=1e-3),
        ),
    ),
    # Its traces are six times as long. Single moves first: copying, and which of the words that begin alike have been
    # named.
    "sorting": Plan(
        WORLDS_TOKENIZER,
        (
            Lesson(5_500, practice=True, batch=8, epochs=1),
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
    # A plan that begins with practice joins those that begin with students there.
    begun = [(None, *plan.lessons) if plan.lessons[0].practice else plan.lessons for plan in plans]
    together = [list(filter(None, each)) for each in zip_longest(*begun)]
    lessons = [replace(each[0], steps=sum(lesson.steps for lesson in each)) for each in together if each]
    return Plan(WORLDS_TOKENIZER, tuple(lessons), context=max(plan.context for plan in plans))


def traces_of(
    lesson: Lesson, tokenizer: PreTrainedTokenizerBase, worlds: Sequence[World], *, seed: int = SEED
) -> list[EncodedTrace]:
    """What a lesson takes, as token ids."""
    draw = practice_traces if lesson.practice else student_traces
    return draw(lesson.traces, tokenizer, worlds, seed)


def student_traces(
    count: int,
    tokenizer: PreTrainedTokenizerBase,
    worlds: Sequence[World] = (WORLDS["stories"],),
    seed: int = SEED,
) -> list[EncodedTrace]:
    """Problems answered by students, as token ids; the worlds take turns."""
    return _written("student", count, tokenizer, [world.student for world in worlds], seed)


def practice_traces(
    count: int, tokenizer: PreTrainedTokenizerBase, worlds: Sequence[World], seed: int = SEED
) -> list[EncodedTrace]:
    """The same of what worlds practise; those without have no turn. Raises ValueError where none has one."""
    writers = [world.practice for world in worlds if world.practice is not None]
    if count and not writers:
        raise ValueError(f"worlds must practise something: got {[world.name for world in worlds]}")
    return _written("practice", count, tokenizer, writers, seed)


def _written(
    name: str,
    count: int,
    tokenizer: PreTrainedTokenizerBase,
    writers: Sequence[Callable[[random.Random], Written]],
    seed: int,
) -> list[EncodedTrace]:
    rng = random.Random(f"{name}s-{seed}")
    traces = []
    for index in range(count):
        question, trace = writers[index % len(writers)](rng)
        traces.append(encode(Problem(f"{name}-{index}", question), trace, Format.PLAIN, tokenizer))
    return traces
