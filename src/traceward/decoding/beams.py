"""A trace that is being written, and what writes the next step of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from traceward.records import Problem, StopReason

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Beam:
    """A trace as far as it is written.

    prompt, prompt_ids: what stands before it, as text and as ids of the generator's tokenizer.
    completion_ids: what was sampled; of a generator that gives text alone, the whole text in ids.
    stop: None while it can go on.   sampled: tokens that were drawn for its newest step.
    """

    problem: Problem
    prompt: str
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...] = ()
    text: str = ""
    stop: StopReason | None = None
    sampled: int = 0

    def with_ids(self, new: tuple[int, ...], tokenizer: PreTrainedTokenizerBase, *, ended: bool, limit: int) -> Beam:
        """The same with sampled tokens behind it.   ended: the last one ends the trace.   limit: of the completion."""
        ids = self.completion_ids + new
        cut = StopReason.LENGTH if len(ids) >= limit else None
        text = tokenizer.decode(ids, skip_special_tokens=True)
        return replace(self, completion_ids=ids, text=text, stop=StopReason.END if ended else cut, sampled=len(new))


class Generator(Protocol):
    """A policy, as far as a search knows it."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The one whose ids its beams hold."""
        ...

    @property
    def context(self) -> int | None:
        """Longest prompt + completion in tokens; None where it is not known."""
        ...

    def extend(self, beams: Sequence[Beam], *, n: int, max_new_tokens: int, seed: int) -> list[list[Beam]]:
        """`n` sampled continuations of each beam that can go on, at most to the end of its next step.

        max_new_tokens: of a whole completion; one that reaches them stops there.   seed: the same call gives the same
        beams, as far as the policy behind it can do that.
        """
        ...
