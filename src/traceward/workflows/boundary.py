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
    """From the policy's tokens into the reward's, in one format; see traceward.training.tokens."""

    problems: Mapping[str, Problem]
    policy: Reader
    reward: Reader

    def rollouts(self, sampled: Sequence[Rollout]) -> list[Rollout]:
        """The same rollouts in the reward's tokens. Where one writes out what ends a text there, that is left out."""
        end = self.reward.tokenizer.eos_token
        plain = [replace(rollout, text=rollout.text.replace(end, "")) for rollout in sampled]
        found, _ = crossed([(self.problems[r.problem_id], r) for r in plain], self.policy, self.reward)
        return [
            replace(r, prompt_ids=one.prompt_ids, completion_ids=one.completion_ids, ref_logprobs=None)
            for r, one in zip(sampled, found, strict=True)
        ]

    def expert(self, problem: Problem, trace: Trace, limit: int | None) -> EncodedTrace:
        """A worked solution as if the policy had sampled it, in the reward's tokens."""
        words = self.policy.tokenizer
        ids = encode(problem, trace, self.policy.style, words, limit=limit)
        stop = StopReason.END if ids.completion_ids[-1] == words.eos_token_id else StopReason.LENGTH
        text = words.decode(ids.completion_ids, skip_special_tokens=True)
        return as_sampled(self.rollouts([Rollout(problem.id, ids.prompt_ids, ids.completion_ids, text, stop)])[0])
