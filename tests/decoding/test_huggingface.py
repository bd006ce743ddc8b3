"""Steps of transformers models: where they end, and that ids stay what they were."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from traceward.data.formats import EncodedTrace, Format
from traceward.data.segmentation import Segmenter
from traceward.decoding.beams import Beam
from traceward.decoding.huggingface import HuggingFaceGenerator
from traceward.decoding.search import search
from traceward.records import Problem, ScoredTrace, StopReason
from traceward.rewards.rivals import LogProbScorer
from traceward.sampling import sample

MakePolicy = Callable[..., PreTrainedModel]
LIMIT = 24
QUESTIONS = ("Ann has 5 pens.", "How many things does Ben have?", "Cara")


def start(tokenizer: PreTrainedTokenizerBase, question: str = QUESTIONS[0]) -> Beam:
    text = f"{question}\n"
    return Beam(Problem(question, question), text, tuple(tokenizer(text)["input_ids"]))


def to_the_end(generator: HuggingFaceGenerator, beam: Beam) -> list[Beam]:
    """One beam after the other, step by step."""
    path = [beam]
    while path[-1].stop is None:
        ((beam,),) = generator.extend([path[-1]], n=1, max_new_tokens=LIMIT, seed=len(path))
        path.append(beam)
    return path


@pytest.mark.parametrize("family", ["Llama", "Qwen3"])
def test_greedy_steps_put_together_are_the_greedy_trace(
    family: str, make_policy: MakePolicy, tokenizer: PreTrainedTokenizerBase
) -> None:
    policy = make_policy(family)
    generator = HuggingFaceGenerator(policy, tokenizer, temperature=0)
    for question in QUESTIONS:
        beam = start(tokenizer, question)
        whole = sample(policy, tokenizer, [("q", beam.prompt_ids)], n=1, max_new_tokens=LIMIT, seed=0, temperature=0)[
            0
        ][0]
        last = to_the_end(generator, beam)[-1]
        assert (last.completion_ids, last.text, last.stop) == (whole.completion_ids, whole.text, whole.stop)


def test_a_step_ends_where_segmentation_says(make_policy: MakePolicy, tokenizer: PreTrainedTokenizerBase) -> None:
    segmenter = Segmenter(tokenizer)
    beams = [start(tokenizer, question) for question in QUESTIONS]
    groups = HuggingFaceGenerator(make_policy(), tokenizer, batch=7).extend(beams, n=16, max_new_tokens=LIMIT, seed=3)
    found = [beam for group in groups for beam in group]
    stops = {stop: [beam for beam in found if beam.stop is stop] for stop in (None, *StopReason)}
    assert all(stops.values())
    for beam in stops[None]:
        assert segmenter.closed_steps(beam.completion_ids) == 1
        assert segmenter.closed_steps(beam.completion_ids[:-1]) == 0
    for beam in stops[StopReason.END]:
        assert beam.completion_ids.index(tokenizer.eos_token_id) == len(beam.completion_ids) - 1
        assert segmenter.closed_steps(beam.completion_ids) == 0
    for beam in stops[StopReason.LENGTH]:
        assert len(beam.completion_ids) == LIMIT
    assert all(beam.sampled == len(beam.completion_ids) for beam in found)


def test_rows_with_little_room_are_cut_beside_others(
    make_policy: MakePolicy, tokenizer: PreTrainedTokenizerBase
) -> None:
    generator = HuggingFaceGenerator(make_policy(), tokenizer)
    fresh = start(tokenizer)
    word = tokenizer(" Ben", add_special_tokens=False)["input_ids"][0]
    full = fresh.with_ids((word,) * (LIMIT - 1), tokenizer, ended=False, limit=LIMIT)
    short, long = generator.extend([full, fresh], n=8, max_new_tokens=LIMIT, seed=1)
    assert {len(beam.completion_ids) for beam in short} == {LIMIT}
    assert {beam.sampled for beam in short} == {1}
    assert {beam.stop for beam in short} <= {StopReason.LENGTH, StopReason.END}
    assert any(len(beam.completion_ids) > 1 for beam in long)


def test_the_padding_of_rows_that_stopped_is_no_end(
    make_policy: MakePolicy, tokenizer: PreTrainedTokenizerBase
) -> None:
    policy, padded_with_ends = make_policy(), deepcopy(tokenizer)
    padded_with_ends.pad_token = tokenizer.eos_token
    expected, found = (
        HuggingFaceGenerator(policy, either).extend([start(tokenizer)], n=16, max_new_tokens=LIMIT, seed=3)
        for either in (tokenizer, padded_with_ends)
    )
    assert found == expected


def test_the_same_seed_draws_the_same_steps(make_policy: MakePolicy, tokenizer: PreTrainedTokenizerBase) -> None:
    generator = HuggingFaceGenerator(make_policy(), tokenizer)
    draw = [generator.extend([start(tokenizer)], n=8, max_new_tokens=LIMIT, seed=seed) for seed in (1, 1, 2)]
    assert draw[0] == draw[1] != draw[2]


class Spy(LogProbScorer):
    """Keeps what it was asked to read."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.seen: list[EncodedTrace] = []

    def score_encoded(self, traces: Sequence[EncodedTrace], **options: Any) -> list[ScoredTrace]:
        self.seen += traces
        return super().score_encoded(traces, **options)


def test_token_ids_are_never_made_again_from_text(
    make_policy: MakePolicy, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A random model writes " B" "en" where an encoder would write " Ben".
    policy = make_policy()
    generator, reward = HuggingFaceGenerator(policy, tokenizer), Spy(policy, tokenizer, Format.PLAIN)
    continued: list[tuple[int, ...]] = []
    extend = generator.extend

    def spied(beams: Sequence[Beam], **options: Any) -> list[list[Beam]]:
        continued.extend(beam.completion_ids for beam in beams if beam.completion_ids)
        groups = extend(beams, **options)
        for beam, group in zip(beams, groups, strict=True):
            assert all(new.completion_ids[: len(beam.completion_ids)] == beam.completion_ids for new in group)
        return groups

    monkeypatch.setattr(generator, "extend", spied)
    found = search(
        reward, generator, [Problem(q, q) for q in QUESTIONS], n=8, beams=4, groups=2, max_new_tokens=LIMIT, seed=2
    )
    read = {trace.completion_ids for trace in reward.seen}
    kept = {trace.beam.completion_ids for item in found for trace in item.traces}
    assert kept <= read
    assert set(continued) <= read
    again = {tuple(tokenizer(tokenizer.decode(ids), add_special_tokens=False)["input_ids"]) for ids in read}
    assert not read <= again  # so ids from text would have been seen
    for item in found:
        scores = reward.score_encoded(
            [EncodedTrace(trace.beam.prompt_ids, trace.beam.completion_ids) for trace in item.traces]
        )
        assert [trace.score for trace in item.traces] == pytest.approx([score.exported for score in scores], abs=1e-3)
