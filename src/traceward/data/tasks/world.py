"""A world: a task whose problems, worked solutions, students and verdicts come from a program.

Experts solve every problem right. *Students*, whose traces pre-train a base model, hold misconceptions and slip. The
verdict on a trace is exact; it serves evaluation, thresholds and tests, and no training code asks for it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from traceward.data.grading import extract_answer
from traceward.records import Demonstration, Problem, Trace, Verdict

Written = tuple[str, Trace]  # a question, and a trace that answers it


@dataclass(frozen=True, slots=True)
class Marked:
    """A trace whose first wrong step is known: its index, len(steps) = the answer line, -1 = none."""

    problem: Problem
    trace: Trace
    first_error: int


@dataclass(frozen=True, slots=True)
class World:
    """expert, student: draw a new question and a trace of it.   check: the verdict on any trace of a question; it
    raises DataError for a question of another world.   variant: which one, where a world has several.   exercises: what
    a base is pre-trained on beside students' traces, where these alone teach it too slowly; names as in
    builtin/plans.py."""

    name: str
    expert: Callable[[random.Random], Written]
    student: Callable[[random.Random], Written]
    check: Callable[[str, Trace], Verdict]
    variant: str = ""
    exercises: Mapping[str, Callable[[random.Random], Written]] = field(default_factory=dict)

    def judge(self, problem: Problem, trace: Trace) -> Verdict:
        """The verdict on a trace."""
        return self.check(problem.question, trace)

    def demonstration(self, rng: random.Random) -> Demonstration:
        """A problem with the expert's worked solution."""
        question, trace = self.expert(rng)
        source = f"{self.name}/{self.variant}" if self.variant else self.name
        return Demonstration(Problem(self._identity(rng), question, trace.answer), trace, source)

    def _identity(self, rng: random.Random) -> str:
        return f"{self.name}-{rng.getrandbits(48):012x}"

    def _stream(self, seed: int, *more: str) -> random.Random:
        return random.Random("-".join([self.name, str(seed), *filter(None, (self.variant, *more))]))

    def demonstrations(self, count: int, seed: int, *, exclude: frozenset[str] = frozenset()) -> list[Demonstration]:
        """`count` worked solutions of different questions, none of them in `exclude`. One more never changes the
        others."""
        rng = self._stream(seed)
        seen = set(exclude)
        found: list[Demonstration] = []
        while len(found) < count:
            item = self.demonstration(rng)
            if item.problem.question not in seen:
                seen.add(item.problem.question)
                found.append(item)
        return found

    def marked(self, count: int, seed: int, *, exclude: frozenset[str] = frozenset()) -> list[Marked]:
        """Students' traces with the place of their first error: what a threshold is tuned on. None of their questions
        is in `exclude`."""
        rng = self._stream(seed, "marked")
        found: list[Marked] = []
        while len(found) < count:
            question, trace = self.student(rng)
            problem = Problem(self._identity(rng), question)
            first = self.check(question, trace).first_error
            if question not in exclude and first is not None:
                found.append(Marked(problem, trace, first))
        return found


def verdict(trace: Trace, truth: str, right: Callable[[str], bool]) -> Verdict:
    """The verdict of a checker whose `right` says of each step, in order, whether it is right. Where all are the answer
    line counts, which is wrong where it is missing or not the true answer."""
    given = (trace.answer or "").strip()
    correct = (given or extract_answer("\n".join(trace.steps))) == truth
    wrong = next((index for index, step in enumerate(trace.steps) if not _holds(right, step)), None)
    if wrong is not None:
        return Verdict(correct, wrong)
    return Verdict(correct, -1 if given == truth else len(trace.steps))


def _holds(right: Callable[[str], bool], step: str) -> bool:
    try:
        return right(step)
    except (ValueError, IndexError, RecursionError):  # no expression, no such letter, brackets in brackets without end
        return False
