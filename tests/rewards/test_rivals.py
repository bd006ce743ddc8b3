"""Scorers that learn nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from traceward.data.formats import EncodedTrace
from traceward.data.segmentation import Segmenter
from traceward.errors import DataError
from traceward.records import Demonstration, Granularity, Head, UnitSpec
from traceward.rewards.model import RewardModel
from traceward.rewards.rivals import LogProbScorer, UniformScorer, sft_log_ratio

SPARSE, STEPS, DENSE = (UnitSpec(granularity) for granularity in Granularity)
MakePolicy = Callable[..., PreTrainedModel]


def test_log_probabilities_against_a_slow_loop(
    make_policy: MakePolicy, tokenizer: PreTrainedTokenizerBase, traces: list[EncodedTrace]
) -> None:
    model = make_policy("Qwen3")
    scorer = LogProbScorer(model, tokenizer)
    for trace, scored in zip(traces, scorer.score_encoded(traces), strict=True):
        ids, start = [*trace.prompt_ids, *trace.completion_ids], len(trace.prompt_ids)
        with torch.no_grad():
            logprobs = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
        tokens = [logprobs[place - 1, ids[place]].item() for place in range(start, len(ids))]
        begin, units, lows = 0, [], []
        for end in Segmenter(tokenizer).unit_ends(trace.completion_ids, STEPS):
            units.append(sum(tokens[begin : end + 1]))
            lows.append(min(tokens[begin : end + 1]))
            begin = end + 1
        assert scored.unit_logits == pytest.approx(units, rel=1e-5)
        assert scored.unit_lows == pytest.approx(lows, rel=1e-5)
        assert scored.exported == pytest.approx(sum(tokens), rel=1e-6)


def test_log_probability_of_a_trace_does_not_depend_on_its_units(
    make_policy: MakePolicy, tokenizer: PreTrainedTokenizerBase, traces: list[EncodedTrace]
) -> None:
    scorer = LogProbScorer(make_policy(), tokenizer)
    whole = [s.exported for s in scorer.score_encoded(traces, spec=SPARSE)]
    for spec in (STEPS, DENSE):
        assert [s.exported for s in scorer.score_encoded(traces, spec=spec)] == pytest.approx(whole, rel=1e-6)
    assert [s.exported for s in scorer.score_encoded(traces[::-1])][::-1] == pytest.approx(whole, rel=1e-6)


def test_dropout_is_off(
    make_policy: MakePolicy, tokenizer: PreTrainedTokenizerBase, traces: list[EncodedTrace]
) -> None:
    scorer = LogProbScorer(make_policy(dropout=0.5).train(), tokenizer)
    assert scorer.score_encoded(traces) == scorer.score_encoded(traces)


def test_text_is_read_as_steps_and_an_answer(
    make_policy: MakePolicy, tokenizer: PreTrainedTokenizerBase, demonstrations: list[Demonstration]
) -> None:
    scorer = LogProbScorer(make_policy(), tokenizer)
    assert scorer.head is Head.LOG_RATIO
    found = scorer.score([(d.problem, d.trace) for d in demonstrations])
    assert [len(s.unit_logits) for s in found] == [len(d.trace.steps) + 1 for d in demonstrations]


def test_a_trace_longer_than_the_context_is_named(make_policy: MakePolicy, tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(DataError, match="'q9'"):
        LogProbScorer(make_policy(), tokenizer).score_encoded([EncodedTrace((5,) * 250, (6,) * 7, "q9")])


def test_uniform_scores_are_equal(traces: list[EncodedTrace]) -> None:
    for spec in (SPARSE, STEPS, DENSE):
        found = UniformScorer().score_encoded(traces, spec=spec)
        assert len(found) == len(traces)
        assert {s.exported for s in found} == {0.0}


@pytest.mark.parametrize("head", Head)
def test_sft_as_a_log_ratio_is_the_difference_of_two_log_probabilities(
    head: Head,
    make_policy: MakePolicy,
    make_reward: Callable[..., RewardModel],
    tokenizer: PreTrainedTokenizerBase,
    traces: list[EncodedTrace],
) -> None:
    sft = LogProbScorer(make_policy("Qwen3", seed=1), tokenizer)
    base = LogProbScorer(make_policy("Qwen3", seed=0), tokenizer)
    like = make_reward(head)
    like.reference_share = 0.5
    share = 0.5 if head is Head.LOG_RATIO else 0.75
    every = (scorer.score_encoded(traces) for scorer in (sft_log_ratio(sft, base, like=like), sft, base))
    for found, above, below in zip(*every, strict=True):
        assert found.exported == pytest.approx(above.exported - share * below.exported, rel=1e-4, abs=1e-3)
        units = [a - b for a, b in zip(above.unit_logits, below.unit_logits, strict=True)]
        assert found.unit_logits == pytest.approx(units, rel=1e-4, abs=1e-3)
        assert found.unit_lows
