"""Where traces of a policy meet a scorer that may have another tokenizer, or another format.

Token ids travel as they were sampled where both sides read them alike. Everywhere else the text travels, and is
tokenised once, here, by the scorer's own tokenizer and in its own format.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from traceward.data.formats import (
    EncodedTrace,
    Format,
    as_sampled,
    completion_text,
    encode_completion,
    encode_prompt,
    parse_completion,
)
from traceward.records import Problem, Rollout, StopReason

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Reader:
    """How somebody writes or reads traces."""

    tokenizer: PreTrainedTokenizerBase
    style: Format

    def alike(self, other: Reader) -> bool:
        """Whether the ids of one mean the same to the other."""
        mine, theirs = self.tokenizer, other.tokenizer
        ends = mine.eos_token_id == theirs.eos_token_id
        return self.style is other.style and ends and mine.get_vocab() == theirs.get_vocab()


def crossed(
    sampled: Sequence[tuple[Problem, Rollout]], writer: Reader, reader: Reader
) -> tuple[list[EncodedTrace], bool]:
    """Traces that `writer` sampled as `reader` takes them, and whether they went through text."""
    if writer.alike(reader):
        return [as_sampled(rollout) for _, rollout in sampled], False
    prompts: dict[str, tuple[int, ...]] = {}
    found = []
    for problem, rollout in sampled:
        if problem.id not in prompts:
            prompts[problem.id] = encode_prompt(problem, reader.style, reader.tokenizer)
        text = rollout.text
        if writer.style is not reader.style:
            text = completion_text(parse_completion(text, writer.style), reader.style)
        # Special tokens alone leave no text, and a trace without any token cannot be read: it ends where it began.
        finished = rollout.stop is StopReason.END or not text
        completion = encode_completion(text, reader.tokenizer, finished=finished)
        found.append(EncodedTrace(prompts[problem.id], completion, problem.id))
    return found, True
