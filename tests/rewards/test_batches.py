"""Token ids and unit ends -> tensors."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from traceward.data.formats import EncodedTrace
from traceward.data.segmentation import Segmenter
from traceward.errors import DataError
from traceward.records import Granularity, UnitSpec
from traceward.rewards.batches import TraceBatch, by_length, collate, lowest_by_unit, sum_by_unit

STEPS = UnitSpec(Granularity.INTERVAL)
SPECS = [UnitSpec(Granularity.SPARSE), STEPS, UnitSpec(every=4), UnitSpec(Granularity.DENSE)]


@pytest.fixture(scope="module")
def segmenter(tokenizer: PreTrainedTokenizerBase) -> Segmenter:
    return Segmenter(tokenizer)


def test_a_batch_by_hand(segmenter: Segmenter) -> None:
    traces = [EncodedTrace((10, 11, 12), (20, 21, 22), "a"), EncodedTrace((10,), (30, 31, 32, 33, 34), "b")]
    batch = collate(traces, segmenter, UnitSpec(every=2), pad_id=7)
    assert batch.input_ids.tolist() == [[10, 11, 12, 20, 21, 22], [10, 30, 31, 32, 33, 34]]
    assert batch.attention_mask.tolist() == [[1] * 6, [1] * 6]
    assert batch.unit.tolist() == [[-1, -1, -1, 0, 0, 1], [-1, 0, 0, 1, 1, 2]]
    assert batch.unit_end.tolist() == [[4, 5, 0], [2, 4, 5]]
    assert batch.unit_mask.tolist() == [[True, True, False], [True] * 3]


def test_padding_is_on_the_right_and_masked(segmenter: Segmenter) -> None:
    batch = collate(
        [EncodedTrace((10,), (20,)), EncodedTrace((10, 11), (20, 21))],
        segmenter,
        UnitSpec(Granularity.DENSE),
        pad_id=7,
    )
    assert batch.input_ids[0].tolist() == [10, 20, 7, 7]
    assert batch.attention_mask[0].tolist() == [1, 1, 0, 0]
    assert batch.unit[0].tolist() == [-1, 0, -1, -1]


def test_only_right_padding_is_masked_where_pad_is_a_real_token(segmenter: Segmenter) -> None:
    # Many models pad with their end-of-sequence token: the mask must come from lengths.
    batch = collate([EncodedTrace((1, 5), (6, 1)), EncodedTrace((5,), (6,))], segmenter, STEPS, pad_id=1)
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]


@pytest.mark.parametrize("spec", SPECS)
def test_scored_positions_are_completion_relative(
    segmenter: Segmenter, traces: list[EncodedTrace], spec: UnitSpec
) -> None:
    # Fault 1: the same completion behind prompts of other lengths keeps its positions.
    trace = traces[0]
    for length in (1, 2, 13, 60):
        moved = EncodedTrace((5,) * length, trace.completion_ids)
        batch = collate([moved], segmenter, spec, pad_id=0)
        assert (batch.unit_end[0] - length).tolist() == segmenter.unit_ends(trace.completion_ids, spec)
        assert (batch.unit[0, :length] == -1).all()
        assert batch.unit_end[0, -1] == length + len(trace.completion_ids) - 1


@pytest.mark.parametrize("spec", SPECS)
def test_every_unit_ends_at_its_last_token(segmenter: Segmenter, traces: list[EncodedTrace], spec: UnitSpec) -> None:
    batch = collate(traces, segmenter, spec, pad_id=0)
    for row in range(len(traces)):
        ends = [int((batch.unit[row] == unit).nonzero().max()) for unit in range(int(batch.unit_mask[row].sum()))]
        assert batch.unit_end[row][batch.unit_mask[row]].tolist() == ends


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 30)), max_size=25), st.integers(1, 90))
def test_by_length_gives_every_row_once_within_the_budget(lengths: list[tuple[int, int]], tokens: int) -> None:
    traces = [EncodedTrace((1,) * prompt, (2,) * completion) for prompt, completion in lengths]
    batches = list(by_length(traces, tokens=tokens))
    assert sorted(row for batch in batches for row in batch) == list(range(len(traces)))
    for batch in batches:
        once = {traces[row].prompt_ids for row in batch}
        held = sum(map(len, once)) + sum(lengths[row][1] for row in batch)
        padded = len(batch) * max(sum(lengths[row]) for row in batch)
        assert len(batch) == 1 or (held <= tokens and padded <= 4 * tokens)
        # What several processes divide: the traces of a batch, planned again, are that batch.
        some = [traces[row] for row in batch]
        assert list(by_length(some, tokens=tokens)) == [list(range(len(some)))]


def test_by_length_puts_as_many_together_as_fit() -> None:
    traces = [EncodedTrace((1,), (2,) * length) for length in (3, 9, 3, 3)]
    assert list(by_length(traces, tokens=10)) == [[1], [0, 2, 3]]  # the prompt counts once in each


def test_by_length_bounds_the_padding_of_one_long_trace() -> None:
    traces = [EncodedTrace((1,), (2,) * length) for length in (30, *([1] * 20))]
    assert [len(rows) for rows in by_length(traces, tokens=60)] == [7, 14]  # 8 rows of 31 columns are over 240


def test_batches_keep_the_traces_of_a_prompt_together() -> None:
    rng = random.Random(1)
    prompts = [tuple(rng.choices(range(50), k=2 + 3 * at)) for at in range(6)]
    traces = [EncodedTrace(prompts[row % 6], (1,) * rng.randint(1, 9)) for row in range(18)]
    batches = list(by_length(traces, tokens=60))
    assert len(batches) > 2
    places = {(at, traces[row].prompt_ids) for at, rows in enumerate(batches) for row in rows}
    assert len(places) <= 6 + len(batches) - 1  # no more than one prompt is in both of two batches


def test_sums_and_lowest_tokens_by_hand() -> None:
    batch = TraceBatch(
        input_ids=torch.zeros(2, 5, dtype=torch.long),
        attention_mask=torch.ones(2, 5, dtype=torch.long),
        unit=torch.tensor([[-1, 0, 0, 1, -1], [-1, -1, 0, 0, 0]]),
        unit_end=torch.tensor([[2, 3], [4, 0]]),
        unit_mask=torch.tensor([[True, True], [True, False]]),
        prompt=torch.tensor([0, 1]),
    )
    values = torch.tensor([[100.0, 1.0, 2.0, 4.0, 100.0], [100.0, 100.0, 8.0, 16.0, 32.0]])
    assert sum_by_unit(values, batch).tolist() == [[3.0, 4.0], [56.0, 0.0]]
    assert lowest_by_unit(values, batch).tolist() == [[1.0, 4.0], [8.0, 0.0]]


def test_sum_by_unit_ignores_what_is_off_the_completion_even_infinities(segmenter: Segmenter) -> None:
    batch = collate([EncodedTrace((5, 6), (7, 8))], segmenter, UnitSpec(Granularity.SPARSE), pad_id=0)
    values = torch.tensor([[float("nan"), -torch.inf, 1.0, 2.0]])
    assert sum_by_unit(values, batch).tolist() == [[3.0]]


def test_a_trace_without_completion_is_named(segmenter: Segmenter) -> None:
    with pytest.raises(DataError, match=r"must have a completion: got none for 'q7'"):
        collate([EncodedTrace((1,), (), "q7")], segmenter, STEPS, pad_id=0)


def test_a_trace_longer_than_the_context_is_named(segmenter: Segmenter) -> None:
    fits = EncodedTrace((1, 2), (3, 4), "q1")
    assert collate([fits], segmenter, STEPS, pad_id=0, context=4).input_ids.shape == (1, 4)
    with pytest.raises(DataError, match=r"context of 3 tokens: got 4 for 'q1'"):
        collate([fits], segmenter, STEPS, pad_id=0, context=3)
