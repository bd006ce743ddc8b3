"""Problem and trace -> prompt and completion text, and back.

A format decides the words around the reasoning; `encode` turns them into token ids, once, with an end-of-sequence
token for every complete trace, whoever wrote it (method, "Symmetry").
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from traceward.data.grading import extract_answer
from traceward.data.segmentation import split_steps
from traceward.errors import DataError
from traceward.records import Problem, Rollout, Trace

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Format(StrEnum):
    """`plain`: lines, then "Answer: …". `think`: <think>…</think> and <answer>…</answer>, asked for in the prompt."""

    PLAIN = "plain"
    THINK = "think"


INSTRUCTION = (
    "Solve the problem. Reason step by step, one step a line, between <think> and </think>, "
    "then give the final answer between <answer> and </answer>."
)
_PLAIN_ANSWER = re.compile(r"^[ \t]*Answer:[ \t]*(.*?)[ \t]*$")
_THINK_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def prompt_text(problem: Problem, style: Format, tokenizer: PreTrainedTokenizerBase | None = None) -> str:
    """The text a policy continues. `think` uses the tokenizer's chat template where it has one."""
    if style is Format.PLAIN:
        return f"{problem.question}\n"
    if tokenizer is not None and tokenizer.chat_template:
        messages = [{"role": "user", "content": f"{INSTRUCTION}\n\n{problem.question}"}]
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    return f"{INSTRUCTION}\n\n{problem.question}\n"


def policy_prompt(problem: Problem, style: Format, tokenizer: PreTrainedTokenizerBase) -> str | list[dict[str, str]]:
    """The prompt as TRL's trainers take it: messages where a chat template applies, else the text."""
    if style is Format.THINK and tokenizer.chat_template:
        return [{"role": "user", "content": f"{INSTRUCTION}\n\n{problem.question}"}]
    return prompt_text(problem, style)


def completion_text(trace: Trace, style: Format) -> str:
    """The text of a trace as a policy would write it; one line per step, the answer on the last line."""
    steps = "\n".join(trace.steps)
    if style is Format.PLAIN:
        return steps if trace.answer is None else f"{steps}\nAnswer: {trace.answer}"
    thought = f"<think>{steps}</think>"
    return thought if trace.answer is None else f"{thought}\n<answer>{trace.answer}</answer>"


def parse_completion(text: str, style: Format) -> Trace:
    """The trace inside a completion; `answer` is None where the text states none. Never raises: any text is a trace."""
    if style is Format.PLAIN:
        lines = split_steps(text)
        match = _PLAIN_ANSWER.match(lines[-1]) if lines else None
        if match is None:
            return Trace(tuple(lines))
        return Trace(tuple(lines[:-1]), match.group(1) or None)
    steps = split_steps(text)
    found = _THINK_ANSWER.search(text)
    if found is None:
        return Trace(tuple(steps))
    return Trace(tuple(steps[:-1]), found.group(1).strip() or None)


def stated_answer(text: str, style: Format) -> str | None:
    """The answer that a completion states, in its format or else in one of the ways of `extract_answer`; None where it
    states none. Training, consensus and evaluation all ask here."""
    return parse_completion(text, style).answer or extract_answer(text)


@dataclass(frozen=True, slots=True)
class EncodedTrace:
    """Token ids of one prompt and one completion; `key` says whose it is in messages.

    ref_logprobs: of the completion's tokens under a reward's reference, where they are known (nats).
    """

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    key: str = ""
    ref_logprobs: tuple[float, ...] | None = None


def as_sampled(rollout: Rollout) -> EncodedTrace:
    """A rollout by its own token ids: they are never made again from text."""
    return EncodedTrace(rollout.prompt_ids, rollout.completion_ids, rollout.problem_id, rollout.ref_logprobs)


def same_tokens(one: PreTrainedTokenizerBase, two: PreTrainedTokenizerBase) -> bool:
    """Whether the ids of one tokenizer mean the same to the other."""
    return one is two or (one.eos_token_id == two.eos_token_id and one.get_vocab() == two.get_vocab())


def encode_prompt(problem: Problem, style: Format, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Prompt ids; a chat template brings its own special tokens, a plain text gets the tokenizer's."""
    text = prompt_text(problem, style, tokenizer)
    special = not (style is Format.THINK and tokenizer.chat_template)
    return tuple(tokenizer(text, add_special_tokens=special)["input_ids"])


def encode_completion(
    text: str, tokenizer: PreTrainedTokenizerBase, *, finished: bool = True, limit: int | None = None
) -> tuple[int, ...]:
    """Completion ids, with one end-of-sequence when `finished`; cut at `limit` tokens as a rollout would be.

    Raises DataError where the text itself writes out the end-of-sequence token: it would end twice.
    """
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    end = tokenizer.eos_token_id
    if end is not None and end in ids:
        raise DataError(f"completion must not hold the text {tokenizer.eos_token!r}: got {text!r}; remove it")
    if finished:
        if end is None:
            raise DataError("tokenizer must define an end-of-sequence token: got none; set tokenizer.eos_token")
        ids.append(end)
    return tuple(ids[:limit])


def encode(
    problem: Problem,
    trace: Trace,
    style: Format,
    tokenizer: PreTrainedTokenizerBase,
    *,
    limit: int | None = None,
) -> EncodedTrace:
    """A whole trace as ids: the same call for experts, corruptions and traces that came as text."""
    return EncodedTrace(
        encode_prompt(problem, style, tokenizer),
        encode_completion(completion_text(trace, style), tokenizer, limit=limit),
        problem.id,
    )
