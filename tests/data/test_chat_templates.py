"""Four families of models: which tokens are the prompt's, which the completion's, and what is scored."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from traceward.data.formats import Format, as_sampled, completion_text, encode, parse_completion, prompt_text
from traceward.data.segmentation import Segmenter
from traceward.errors import ConfigError
from traceward.records import Granularity, Problem, Rollout, Trace, UnitSpec
from traceward.rewards.batches import collate

MakeTokenizer = Callable[[str], PreTrainedTokenizerBase]
FAMILIES = ("qwen2.5", "qwen3", "llama-3", "base")
EACH = pytest.mark.parametrize("family", FAMILIES)
STYLES = pytest.mark.parametrize("style", list(Format))
UNITS = [UnitSpec(granularity) for granularity in Granularity]


def _is_line(text: str) -> bool:
    tags = re.search(r"</?(think|answer)>|Answer:|<\|", text)
    return bool(text) and text == text.strip() and "\n" not in text and tags is None


lines = st.one_of(st.sampled_from(["Ann has 7 + 5 = 12.", "So. It is 3.5!", "a < b"]), st.text(max_size=12)).filter(
    _is_line
)
traces = st.builds(Trace, st.lists(lines, min_size=2, max_size=4).map(tuple), lines)
problems = st.builds(Problem, st.just("p"), lines)


@EACH
@STYLES
@settings(max_examples=25)
@given(problem=problems, trace=traces)
def test_the_scored_positions_are_exactly_the_completions_tokens(
    family_tokenizer: MakeTokenizer, family: str, style: Format, problem: Problem, trace: Trace
) -> None:
    tokenizer = family_tokenizer(family)
    found = encode(problem, trace, style, tokenizer)
    said = completion_text(trace, style)
    assert tokenizer.decode(found.completion_ids) == said + tokenizer.eos_token
    segmenter = Segmenter(tokenizer)
    for spec in UNITS:
        # Another trace beside it, so that there is padding.
        batch = collate([found, encode(problem, Trace(("x",)), style, tokenizer)], segmenter, spec, pad_id=0)
        scored = (batch.unit[0] >= 0).nonzero().flatten()
        assert batch.input_ids[0][scored].tolist() == list(found.completion_ids)
        assert scored.tolist() == list(range(len(found.prompt_ids), len(found.prompt_ids) + len(found.completion_ids)))
        ends = batch.unit_end[0][batch.unit_mask[0]].tolist()
        assert ends[-1] == scored[-1]
        assert {*ends} <= {*scored.tolist()}


@pytest.mark.parametrize(
    ("family", "style"),
    [("qwen2.5", Format.CHAT), ("qwen2.5", Format.THINK), ("qwen3", Format.CHAT), ("llama-3", Format.CHAT)],
)
@settings(max_examples=25)
@given(problem=problems, trace=traces)
def test_prompt_and_completion_are_the_conversation_that_the_template_renders(
    family_tokenizer: MakeTokenizer, family: str, style: Format, problem: Problem, trace: Trace
) -> None:
    """The template itself renders both turns; what it puts behind the end of the last one is nobody's."""
    tokenizer = family_tokenizer(family)
    turns = [
        {"role": "user", "content": f"{style.instruction}\n\n{problem.question}"},
        {"role": "assistant", "content": completion_text(trace, style)},
    ]
    text = tokenizer.apply_chat_template(turns, tokenize=False, **style.template_options)
    found = encode(problem, trace, style, tokenizer)
    assert tokenizer.decode([*found.prompt_ids, *found.completion_ids]) == text.removesuffix("\n")


@EACH
@STYLES
@settings(max_examples=25)
@given(problem=problems, trace=traces)
def test_the_same_text_has_the_same_ids_as_positive_and_as_rollout(
    family_tokenizer: MakeTokenizer, family: str, style: Format, problem: Problem, trace: Trace
) -> None:
    tokenizer = family_tokenizer(family)
    expert = encode(problem, trace, style, tokenizer)
    text = tokenizer.decode(expert.completion_ids, skip_special_tokens=True)
    assume(parse_completion(text, style) == trace)  # a lone thought line is read sentence by sentence
    sampled = as_sampled(Rollout(problem.id, expert.prompt_ids, expert.completion_ids, text))
    assert encode(problem, parse_completion(text, style), style, tokenizer) == expert == sampled


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "base"])
def test_a_prompt_has_each_special_token_once(family_tokenizer: MakeTokenizer, family: str) -> None:
    """A template brings its own beginning of sequence; the tokenizer must not add a second."""
    tokenizer = family_tokenizer(family)
    ids = encode(Problem("p", "Why?"), Trace(("x",)), Format.CHAT, tokenizer).prompt_ids
    begin = tokenizer.bos_token_id
    assert begin is None or (ids[0] == begin and ids.count(begin) == 1)
    marks = {"<|im_start|>", "<|start_header_id|>"} & tokenizer.get_vocab().keys()
    turns = 2 if family == "qwen3" else 3  # the others have a turn of the system
    assert [ids.count(tokenizer.convert_tokens_to_ids(mark)) for mark in marks] == [turns]


def test_a_base_model_gets_its_beginning_of_sequence_from_the_tokenizer(family_tokenizer: MakeTokenizer) -> None:
    tokenizer = family_tokenizer("base")
    for style in Format:
        found = encode(Problem("p", "Why?"), Trace(("x",)), style, tokenizer)
        assert found.prompt_ids[0] == tokenizer.bos_token_id
        assert tokenizer.bos_token_id not in (*found.prompt_ids[1:], *found.completion_ids)


def test_qwen3_thinks_where_the_format_has_a_thought(family_tokenizer: MakeTokenizer) -> None:
    tokenizer, problem = family_tokenizer("qwen3"), Problem("p", "Why?")
    assert prompt_text(problem, Format.THINK, tokenizer).endswith("<|im_start|>assistant\n")
    assert prompt_text(problem, Format.CHAT, tokenizer).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert prompt_text(problem, Format.PLAIN, tokenizer) == "Why?\n"


def test_the_prompt_of_a_template_with_a_date_is_the_same_every_day(family_tokenizer: MakeTokenizer) -> None:
    text = prompt_text(Problem("p", "Why?"), Format.CHAT, family_tokenizer("llama-3"))
    assert "Today Date: 26 Jul 2024" in text
    assert date.today().strftime("%d %b %Y") not in text


def test_a_template_that_begins_the_thought_itself_is_refused(family_tokenizer: MakeTokenizer) -> None:
    tokenizer = family_tokenizer("qwen2.5")
    before = tokenizer.chat_template
    tokenizer.chat_template = before + "{{- '<think>\n' }}"
    try:
        with pytest.raises(ConfigError, match="chat template must leave <think> to the model"):
            prompt_text(Problem("p", "Why?"), Format.THINK, tokenizer)
    finally:
        tokenizer.chat_template = before
