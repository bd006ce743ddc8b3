"""Search for an answer step by step, guided by a reward.

In each round every beam is continued by n / beams sampled steps, the reward reads each trace as far as it is written,
and the best ones are the beams of the next round. Nothing looks ahead of the step that was sampled.
  groups = 1         beam search: all beams of a question compete
  groups = beams     diverse search: a tree for each beam, which keeps its best step (DVTS, Beeching et al. 2024)
  beams = n          best of n: nothing is left out
A beam that ends gives up its place, so a search ends when all have ended. Whole traces are kept, also those that were
not among the best when they ended: they are paid for, and the exported reward chooses among all of them, as `rerank`.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from traceward.data.formats import (
    EncodedTrace,
    encode_completion,
    encode_prompt,
    prompt_text,
    same_tokens,
    stated_answer,
)
from traceward.data.options import answer_key
from traceward.data.segmentation import closed_steps
from traceward.decoding.beams import Beam, Generator
from traceward.errors import ConfigError, DataError
from traceward.evaluation.localise import increments
from traceward.evaluation.rerank import rank
from traceward.records import Guide, Problem, ScoredTrace, StopReason
from traceward.rewards.model import TraceScorer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class SearchReward(TraceScorer, Protocol):
    """A reward that knows its tokenizer; `RewardModel` is one."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The one whose ids it reads."""
        ...


@dataclass(frozen=True, slots=True)
class FoundTrace:
    """A whole trace, the answer it states, and its exported reward."""

    beam: Beam
    answer: str | None
    score: float


@dataclass(frozen=True, slots=True)
class Found:
    """traces: those that ended, best first; where none did, those that the length cap cut.

    vote: the winner of the reward-weighted vote over them.   sampled_tokens: all that were drawn, kept or not.
    """

    problem: Problem
    traces: tuple[FoundTrace, ...]
    vote: str | None
    sampled_tokens: int


@dataclass(slots=True)
class _Tree:
    """The search for one question: in each group its open beams, each with a place of its own."""

    problem: Problem
    groups: list[list[Beam]]
    finished: list[tuple[Beam, ScoredTrace]]
    sampled_tokens: int = 0


def search(
    reward: SearchReward,
    generator: Generator,
    problems: Sequence[Problem],
    *,
    n: int = 8,
    beams: int = 4,
    groups: int = 1,
    guide: Guide = Guide.SUM,
    max_new_tokens: int = 256,
    seed: int = 0,
) -> list[Found]:
    """The traces found for each problem, in order; all problems advance together, a step a round.

    n: steps sampled a round.   max_new_tokens: of a whole trace.
    """
    _check(n=n, beams=beams, groups=groups, max_new_tokens=max_new_tokens)
    judge = _Judge(reward, generator.tokenizer, guide)
    trees = [_Tree(problem, [[judge.start(problem)] * (beams // groups)] * groups, []) for problem in problems]
    rounds = random.Random(seed)
    while beams_open := [beam for tree in trees for group in tree.groups for beam in group]:
        found = _next_steps(generator, beams_open, n // beams, max_new_tokens, rounds.getrandbits(31))
        read = iter(judge.read([beam for some in found for beam in some]))
        steps = iter([(beam, next(read)) for beam in some] for some in found)
        for tree in trees:
            _advance(tree, steps, judge)
    return [_found(tree, judge) for tree in trees]


def _check(*, n: int, beams: int, groups: int, max_new_tokens: int) -> None:
    for name, value, of, parts in (("n", n, "beams", beams), ("beams", beams, "groups", groups)):
        if value < 1 or parts < 1 or value % parts:
            rule = f"{name} must be a multiple of {of}, and both at least 1"
            raise ConfigError(f"{rule}: got n = {n}, beams = {beams}, groups = {groups}; use 8, 4 and 1 or 4")
    if max_new_tokens < 1:
        raise ConfigError(f"max_new_tokens must be at least 1: got {max_new_tokens}; give a trace room to end")


def _next_steps(generator: Generator, beams: list[Beam], n: int, limit: int, seed: int) -> list[list[Beam]]:
    """The continuations of each beam, each to the end of a step, of the trace, or of its room.

    A generator that stops at every line break is asked again where the line was blank.
    """
    draws = random.Random(seed)
    found = generator.extend(beams, n=n, max_new_tokens=limit, seed=draws.getrandbits(31))
    closed = [closed_steps(beam.text) for beam in beams]
    while short := [
        (at, index)
        for at, some in enumerate(found)
        for index, beam in enumerate(some)
        if beam.stop is None and closed_steps(beam.text) == closed[at]
    ]:
        before = [found[at][index] for at, index in short]
        more = generator.extend(before, n=1, max_new_tokens=limit, seed=draws.getrandbits(31))
        for (at, index), old, (new,) in zip(short, before, more, strict=True):
            sampled = old.sampled + new.sampled
            # Line breaks without end: their text may go into few tokens, however many were drawn.
            stop = StopReason.LENGTH if new.stop is None and sampled >= limit else new.stop
            found[at][index] = replace(new, sampled=sampled, stop=stop)
    return found


def _advance(tree: _Tree, steps: Iterator[list[tuple[Beam, ScoredTrace]]], judge: _Judge) -> None:
    """Take the continuations of the tree's open beams, in order, and keep the best in each group."""
    for at, group in enumerate(tree.groups):
        candidates = [step for some in islice(steps, len(group)) for step in some]
        tree.sampled_tokens += sum(beam.sampled for beam, _ in candidates)
        tree.finished += [(beam, read) for beam, read in candidates if beam.stop is not None]
        kept = _best(candidates, [judge.value(read) for _, read in candidates], len(group))
        tree.groups[at] = [beam for beam, _ in kept if beam.stop is None]


def _best(
    candidates: Sequence[tuple[Beam, ScoredTrace]], values: Sequence[float], places: int
) -> list[tuple[Beam, ScoredTrace]]:
    """The highest values; a trace that is there already takes a place only where no other one wants it."""
    met: Counter[tuple[int, ...]] = Counter()
    ranks = []
    for (beam, _), value in zip(candidates, values, strict=True):
        ranks.append((met[beam.completion_ids], -value))
        met[beam.completion_ids] += 1
    return [candidates[index] for index in sorted(range(len(candidates)), key=ranks.__getitem__)[:places]]


class _Judge:
    """Reads beams with the reward: by their own ids where generator and reward share their tokens."""

    def __init__(self, reward: SearchReward, tokenizer: PreTrainedTokenizerBase, guide: Guide) -> None:
        self.reward = reward
        self.tokenizer = tokenizer
        self.guide = guide
        self.same = same_tokens(tokenizer, reward.tokenizer, reward.style)

    def start(self, problem: Problem) -> Beam:
        """The empty trace, behind a prompt in the reward's format."""
        style = self.reward.style
        text = prompt_text(problem, style, self.tokenizer)
        return Beam(problem, text, encode_prompt(problem, style, self.tokenizer))

    def read(self, beams: Sequence[Beam]) -> list[ScoredTrace]:
        """One reading a beam. Raises DataError where one is not finite."""
        found = self.reward.score_encoded([self._encoded(beam) for beam in beams])
        for beam, read in zip(beams, found, strict=True):
            if not all(map(math.isfinite, (read.exported, *read.unit_logits))):
                raise DataError(
                    f"scores must be finite: got {read.exported} and {read.unit_logits} for {beam.problem.id!r}; "
                    "mend the reward"
                )
        return found

    def _encoded(self, beam: Beam) -> EncodedTrace:
        if self.same:
            return EncodedTrace(beam.prompt_ids, beam.completion_ids, beam.problem.id)
        tokenizer, finished = self.reward.tokenizer, beam.stop is StopReason.END
        prompt = encode_prompt(beam.problem, self.reward.style, tokenizer)
        return EncodedTrace(prompt, encode_completion(beam.text, tokenizer, finished=finished), beam.problem.id)

    def value(self, read: ScoredTrace) -> float:
        """What the guide says."""
        if self.guide is Guide.EXPORTED:
            return read.exported
        steps = increments(self.reward.head, read.unit_logits)
        match self.guide:
            case Guide.SUM:
                return float(steps.sum())
            case Guide.LOWEST:
                return float(steps.min())
            case Guide.LAST:
                return float(steps[-1])


def _found(tree: _Tree, judge: _Judge) -> Found:
    """The whole traces in order, and their vote."""
    ended = [item for item in tree.finished if item[0].stop is StopReason.END]
    style = judge.reward.style
    traces = [
        FoundTrace(beam, stated_answer(beam.text, style), read.exported) for beam, read in (ended or tree.finished)
    ]
    answers = [trace.answer for trace in traces]
    keys = [answer_key(answer, tree.problem.question) for answer in answers]
    ranking = rank([trace.score for trace in traces], answers, keys)
    return Found(tree.problem, tuple(traces[index] for index in ranking.order), ranking.answer, tree.sampled_tokens)
