from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from traceward.builtin import TOKENIZER
from traceward.data.formats import (
    INSTRUCTIONS,
    Format,
    completion_text,
    encode,
    encode_completion,
    encode_prompt,
    parse_completion,
    prompt_text,
    stated_answer,
)
from traceward.data.segmentation import Segmenter, step_spans
from traceward.errors import DataError
from traceward.loading import load_tokenizer
from traceward.records import Granularity, Problem, Trace, UnitSpec

PROBLEM = Problem("p1", "Ann has 3 pens. How many pens does Ann have?")
TRACE = Trace(("Ann has 1 + 2 = 3 pens.", "So it is 3."), "3")
STEPS = UnitSpec(Granularity.INTERVAL)
STYLES = pytest.mark.parametrize("style", list(Format))


def _is_line(text: str) -> bool:
    """What a step or an answer is: one line without blank edges, tags of a format, or the words of an answer line."""
    tags = re.search(r"</?(think|answer)>|Answer:", text)
    return bool(text) and text == text.strip() and "\n" not in text and tags is None


lines = st.one_of(
    st.sampled_from(["Ben has 7 + 5 = 12 apples.", "So. It is 3.5!", "x", "<b>", "a < b > c"]), st.text(max_size=12)
).filter(_is_line)
answered = st.builds(Trace, st.lists(lines, min_size=1, max_size=5).map(tuple), lines)
# One step without an answer is a text without a line break, so its sentences are its steps: here from two on.
unanswered = st.builds(Trace, st.lists(lines, min_size=2, max_size=5).map(tuple))
messy = st.lists(
    st.one_of(
        st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "Answer:", "\n", " ", "A.", "4", "\t"]),
        st.text(max_size=4),
    ),
    max_size=20,
).map("".join)


@STYLES
@given(trace=answered)
def test_an_answered_trace_is_read_back_from_its_text(style: Format, trace: Trace) -> None:
    # A thought of one line has no line break, so its sentences are its steps.
    assume(style is not Format.THINK or len(trace.steps) > 1)
    assert parse_completion(completion_text(trace, style), style) == trace


@STYLES
@given(trace=unanswered)
def test_a_trace_without_an_answer_is_read_back_from_its_text(style: Format, trace: Trace) -> None:
    assert parse_completion(completion_text(trace, style), style) == trace


def test_the_texts_of_a_trace_worked_by_hand() -> None:
    steps = "Ann has 1 + 2 = 3 pens.\nSo it is 3."
    assert completion_text(TRACE, Format.PLAIN) == f"{steps}\nAnswer: 3"
    assert completion_text(TRACE, Format.THINK) == f"<think>{steps}</think>\n<answer>3</answer>"
    assert completion_text(Trace(TRACE.steps), Format.PLAIN) == steps
    assert completion_text(Trace(TRACE.steps), Format.THINK) == f"<think>{steps}</think>"


@STYLES
@given(text=st.one_of(messy, st.text()))
def test_any_text_is_a_trace_with_a_unit_for_every_step_and_for_its_answer(style: Format, text: str) -> None:
    trace = parse_completion(text, style)
    units = len(step_spans(text))
    # An answer line that states nothing, such as "Answer:", is a unit too, though the trace has no answer.
    assert len(trace.steps) in ([units - 1] if trace.answer is not None else [units, units - 1])
    assert trace.answer is None or trace.answer == trace.answer.strip() != ""


@STYLES
def test_a_text_cut_before_its_answer_ends_has_no_answer_or_a_part_of_it(style: Format) -> None:
    whole = completion_text(Trace(TRACE.steps, "345"), style)
    for length in range(len(whole)):
        answer = parse_completion(whole[:length], style).answer
        # "Answer: 34" cannot be told from a whole line; an unclosed <answer> can.
        assert answer is None or (style is not Format.THINK and answer == whole[:length].rpartition(" ")[2])
    assert parse_completion(whole, style).answer == "345"


@pytest.mark.parametrize(
    ("text", "steps", "answer"),
    [
        ("One.\nAnswer: 4", ("One.",), "4"),
        ("One.\n  Answer:   4 apples  \n\n", ("One.",), "4 apples"),
        ("Answer: 4", (), "4"),
        ("One.\nAnswer:", ("One.",), None),
        ("One. Answer: 4", ("One.",), "4"),
        # Only the last line states the answer.
        ("Answer: 4\nNo, wait.", ("Answer: 4", "No, wait."), None),
        ("One.\nThe answer is 4", ("One.", "The answer is 4"), None),
        ("", (), None),
    ],
)
def test_plain_texts_worked_by_hand(text: str, steps: tuple[str, ...], answer: str | None) -> None:
    assert parse_completion(text, Format.PLAIN) == Trace(steps, answer)


@pytest.mark.parametrize(
    ("text", "steps", "answer"),
    [
        ("<think>\nOne.\nTwo.\n</think>\n<answer>\n4\n</answer>\n", ("One.", "Two."), "4"),
        ("<think>One. Two.</think><answer>4</answer>", ("One.", "Two."), "4"),
        ("One.\nTwo.</think>\nSo:\n<answer>4</answer>", ("One.", "Two.", "So:"), "4"),
        ("<think>One.</think>\n<answer> </answer>", ("One.",), None),
        ("<answer>4</answer><answer>5</answer>", (), "4"),
        ("<think>One.\nTwo.</think>\n<answer>4", ("One.", "Two.", "<answer>4"), None),
        ("<think></think>", (), None),
    ],
)
def test_think_texts_worked_by_hand(text: str, steps: tuple[str, ...], answer: str | None) -> None:
    assert parse_completion(text, Format.THINK) == Trace(steps, answer)


@STYLES
@given(trace=st.one_of(answered, unanswered))
def test_a_trace_has_a_unit_of_tokens_for_every_step_and_for_its_answer(
    tokenizer: PreTrainedTokenizerBase, style: Format, trace: Trace
) -> None:
    assume(style is not Format.THINK or len(trace.steps) > 1)
    ids = encode(PROBLEM, trace, style, tokenizer).completion_ids
    assert len(Segmenter(tokenizer).unit_ends(ids, STEPS)) == len(trace.steps) + (trace.answer is not None)


@STYLES
@given(trace=answered)
def test_a_whole_trace_has_one_end_of_sequence_at_its_end(
    tokenizer: PreTrainedTokenizerBase, style: Format, trace: Trace
) -> None:
    ids = encode(PROBLEM, trace, style, tokenizer).completion_ids
    assert ids[-1] == tokenizer.eos_token_id
    assert ids.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(ids[:-1]) == completion_text(trace, style)


def test_a_cut_trace_has_no_end_of_sequence(tokenizer: PreTrainedTokenizerBase) -> None:
    whole = encode(PROBLEM, TRACE, Format.PLAIN, tokenizer).completion_ids
    for limit in range(1, len(whole)):
        cut = encode(PROBLEM, TRACE, Format.PLAIN, tokenizer, limit=limit).completion_ids
        assert cut == whole[:limit]
        assert tokenizer.eos_token_id not in cut
    assert encode(PROBLEM, TRACE, Format.PLAIN, tokenizer, limit=len(whole)).completion_ids == whole


def test_an_unfinished_text_has_no_end_of_sequence(tokenizer: PreTrainedTokenizerBase) -> None:
    text = completion_text(TRACE, Format.PLAIN)
    whole = encode_completion(text, tokenizer)
    assert encode_completion(text, tokenizer, finished=False) == whole[:-1]


@STYLES
@given(trace=st.one_of(answered, unanswered))
def test_the_same_text_has_the_same_ids_whoever_wrote_it(
    tokenizer: PreTrainedTokenizerBase, style: Format, trace: Trace
) -> None:
    """An expert's trace, and a policy's completion that came back as text and was parsed."""
    text = completion_text(trace, style)
    expert = encode(PROBLEM, trace, style, tokenizer)
    policy = encode(PROBLEM, parse_completion(text, style), style, tokenizer)
    assume(style is not Format.THINK or len(trace.steps) > 1)
    assert policy == expert
    assert encode_completion(text, tokenizer) == expert.completion_ids


def test_a_text_that_writes_out_the_end_of_sequence_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    for text in ("One.\nAnswer: 4<|end|>", "One.<|end|>\nAnswer: 4"):
        with pytest.raises(DataError, match=r"completion must not hold the text '<\|end\|>'"):
            encode_completion(text, tokenizer)


def test_a_tokenizer_without_an_end_of_sequence_is_refused() -> None:
    own = load_tokenizer(TOKENIZER)
    own.eos_token = None
    assert encode_completion("One.", own, finished=False)
    with pytest.raises(DataError, match="tokenizer must define an end-of-sequence token"):
        encode_completion("One.", own)


def test_prompts_worked_by_hand(tokenizer: PreTrainedTokenizerBase) -> None:
    assert prompt_text(PROBLEM, Format.PLAIN, tokenizer) == f"{PROBLEM.question}\n"
    assert prompt_text(PROBLEM, Format.THINK, tokenizer) == f"{INSTRUCTIONS[Format.THINK]}\n\n{PROBLEM.question}\n"


def test_a_chat_template_wraps_the_prompt_once() -> None:
    own = load_tokenizer(TOKENIZER)
    own.chat_template = (
        "{% for m in messages %}<|pad|>{{ m['role'] }}: {{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '\nassistant:' }}{% endif %}"
    )
    text = prompt_text(PROBLEM, Format.THINK, own)
    assert text == f"<|pad|>user: {INSTRUCTIONS[Format.THINK]}\n\n{PROBLEM.question}\nassistant:"
    ids = encode_prompt(PROBLEM, Format.THINK, own)
    assert ids == tuple(own(text, add_special_tokens=False)["input_ids"])
    assert ids.count(own.pad_token_id) == 1
    # The plain format never sees the template.
    assert prompt_text(PROBLEM, Format.PLAIN, own) == f"{PROBLEM.question}\n"


@pytest.mark.parametrize(
    ("text", "answer"),
    [("So.\nAnswer: 7", "7"), ("So.\n#### 72", "72"), ("The answer is 5.", "5"), ("Hm.", None), ("\\boxed{3}", "3")],
)
def test_an_answer_is_found_in_the_ways_that_people_write_it(text: str, answer: str | None) -> None:
    assert stated_answer(text, Format.PLAIN) == answer
