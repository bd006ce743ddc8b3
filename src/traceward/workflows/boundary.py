"""Where traces of a policy meet a scorer that may have another tokenizer, or another format.

Token ids travel as they were sampled where both sides read them alike. Everywhere else the text travels, and is
tokenised once, here, by the scorer's own tokenizer and in its own format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from traceward.data.formats import (
    EncodedTrace,
    Format,
    as_sampled,
    completion_text,
    encode,
    encode_completion,
    encode_prompt,
    parse_completion,
    same_tokens,
)
from traceward.errors import DataError
from traceward.records import Problem, Rollout, StopReason, Trace

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Reader:
    """How somebody writes or reads traces."""

    tokenizer: PreTrainedTokenizerBase
    style: Format

    def alike(self, other: Reader) -> bool:
        """Whether the ids of one mean the same to the other, prompts included."""
        return self.style is other.style and same_tokens(self.tokenizer, other.tokenizer, self.style)


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


@dataclass(frozen=True, slots=True)
class TextCrossing:
    """From the policy's tokens into the reward's, in one format; see traceward.training.tokens.

    context: the longest text the reward's model reads, in its tokens. What is longer is cut there, experts and rollouts
    alike; None: nothing is cut.
    """

    problems: Mapping[str, Problem]
    policy: Reader
    reward: Reader
    context: int | None = None

    def rollouts(self, sampled: Sequence[Rollout]) -> list[Rollout]:
        """The same rollouts in the reward's tokens. Where one writes out what ends a text there, that is left out."""
        end = self.reward.tokenizer.eos_token
        plain = [replace(rollout, text=rollout.text.replace(end, "")) for rollout in sampled]
        found, _ = crossed([(self.problems[r.problem_id], r) for r in plain], self.policy, self.reward)
        return [self._cut(r, one) for r, one in zip(sampled, found, strict=True)]

    def _cut(self, rollout: Rollout, read: EncodedTrace) -> Rollout:
        """The rollout in tokens of the reward, as many as its model reads."""
        room = None if self.context is None else self.context - len(read.prompt_ids)
        if room is not None and room < 1:
            raise DataError(
                f"question must leave room for an answer in the {self.context} tokens that reward.path reads: got "
                f"{len(read.prompt_ids)} for {rollout.problem_id!r}; remove it, or choose a model with a longer context"
            )
        ids = read.completion_ids[:room]
        stop = rollout.stop if len(ids) == len(read.completion_ids) else StopReason.LENGTH
        return replace(rollout, prompt_ids=read.prompt_ids, completion_ids=ids, stop=stop, ref_logprobs=None)

    def expert(self, problem: Problem, trace: Trace, limit: int | None) -> EncodedTrace:
        """A worked solution as if the policy had sampled it, in the reward's tokens."""
        words = self.policy.tokenizer
        ids = encode(problem, trace, self.policy.style, words, limit=limit)
        stop = StopReason.END if ids.completion_ids[-1] == words.eos_token_id else StopReason.LENGTH
        text = words.decode(ids.completion_ids, skip_special_tokens=True)
        return as_sampled(self.rollouts([Rollout(problem.id, ids.prompt_ids, ids.completion_ids, text, stop)])[0])
