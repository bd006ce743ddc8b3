"""Problem and trace -> prompt and completion text, and back.

A format decides the words around the reasoning; `encode` turns them into token ids, once, with an end-of-sequence
token for every complete trace, whoever wrote it (method, "Symmetry").
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from traceward.data.grading import extract_answer
from traceward.data.segmentation import split_steps
from traceward.errors import ConfigError, DataError
from traceward.records import Problem, Rollout, Trace

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Format(StrEnum):
    """`plain`: lines, then "Answer: …". `chat`: the same, asked for in the prompt. `think`: <think>…</think> and
    <answer>…</answer>, asked for in the prompt. What is asked for stands in the tokenizer's chat template where it has
    one."""

    PLAIN = "plain"
    CHAT = "chat"
    THINK = "think"

    @property
    def instruction(self) -> str:
        """What the prompt asks for; nothing with `plain`."""
        return INSTRUCTIONS.get(self, "")

    @property
    def template_options(self) -> dict[str, Any]:
        """What chat templates are told beside the messages; those that do not know an option pass over it.

        A model's own thinking (Qwen3) is switched on where the format has a thought, else off. Templates that write
        today's date (Llama-3.2) get a fixed one: rollouts of one day and experts of the next must not differ by it.
        """
        return {"enable_thinking": self is Format.THINK, "date_string": "26 Jul 2024"}

    def templated(self, tokenizer: PreTrainedTokenizerBase | None) -> bool:
        """Whether prompts go through the tokenizer's chat template."""
        return self is not Format.PLAIN and tokenizer is not None and bool(tokenizer.chat_template)


INSTRUCTIONS = {
    Format.CHAT: "Solve the problem. Reason step by step, one step a line, then give the final answer on a last line "
    'that reads "Answer: …".',
    Format.THINK: "Solve the problem. Reason step by step, one step a line, between <think> and </think>, "
    "then give the final answer between <answer> and </answer>.",
}
_ANY = Problem("any", "Why?")
_PLAIN_ANSWER = re.compile(r"^[ \t]*Answer:[ \t]*(.*?)[ \t]*$")
_THINK_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def prompt_text(problem: Problem, style: Format, tokenizer: PreTrainedTokenizerBase | None = None) -> str:
    """The text a policy continues.

    Raises ConfigError for a chat template that begins the thought itself: a completion would begin inside of it.
    """
    if tokenizer is None or not style.templated(tokenizer):
        return f"{_asked(problem, style)}\n"
    text = str(
        tokenizer.apply_chat_template(
            _messages(problem, style), tokenize=False, add_generation_prompt=True, **style.template_options
        )
    )
    if text.rstrip().endswith("<think>"):
        raise ConfigError(
            f"chat template must leave <think> to the model with format '{style}': got one that ends its prompt with "
            "it; use format 'plain', or take it out of the template"
        )
    return text


def policy_prompt(problem: Problem, style: Format, tokenizer: PreTrainedTokenizerBase) -> str | list[dict[str, str]]:
    """The prompt as TRL's trainers take it: messages where a chat template applies, which they must be told
    `style.template_options` for, else the text."""
    return _messages(problem, style) if style.templated(tokenizer) else prompt_text(problem, style)


def _messages(problem: Problem, style: Format) -> list[dict[str, str]]:
    return [{"role": "user", "content": _asked(problem, style)}]


def _asked(problem: Problem, style: Format) -> str:
    return f"{style.instruction}\n\n{problem.question}" if style.instruction else problem.question


def completion_text(trace: Trace, style: Format) -> str:
    """The text of a trace as a policy would write it; one line per step, the answer on the last line."""
    steps = "\n".join(trace.steps)
    if style is not Format.THINK:
        return steps if trace.answer is None else f"{steps}\nAnswer: {trace.answer}"
    thought = f"<think>{steps}</think>"
    return thought if trace.answer is None else f"{thought}\n<answer>{trace.answer}</answer>"


def parse_completion(text: str, style: Format) -> Trace:
    """The trace inside a completion; `answer` is None where the text states none. Never raises: any text is a trace."""
    if style is not Format.THINK:
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


def same_tokens(one: PreTrainedTokenizerBase, two: PreTrainedTokenizerBase, style: Format) -> bool:
    """Whether a trace in `style` has the same ids with both tokenizers: ids mean the same, and so do prompts read,
    which two chat templates may word otherwise."""
    if one is two:
        return True
    if one.eos_token_id != two.eos_token_id or one.get_vocab() != two.get_vocab():
        return False
    return encode_prompt(_ANY, style, one) == encode_prompt(_ANY, style, two)


def encode_prompt(problem: Problem, style: Format, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Prompt ids; a chat template brings its own special tokens, a plain text gets the tokenizer's."""
    text = prompt_text(problem, style, tokenizer)
    return tuple(tokenizer(text, add_special_tokens=not style.templated(tokenizer))["input_ids"])


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
