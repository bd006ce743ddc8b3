"""A shared prompt goes through the model once, and every log-probability is what it is without that."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from traceward.data.formats import EncodedTrace
from traceward.data.segmentation import Segmenter
from traceward.records import Granularity, UnitSpec
from traceward.rewards import heads
from traceward.rewards.batches import TraceBatch, by_length, collate
from traceward.rewards.heads import token_logprobs
from traceward.rewards.prompts import can_share

VOCABULARY = 50


def model_of(kind: str, **options: Any) -> PreTrainedModel:
    common: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 4,
        "initializer_range": 0.5,
        "pad_token_id": 0,
        **options,
    }
    torch.manual_seed(0)
    if kind == "qwen2":
        common.pop("head_dim")
        return Qwen2ForCausalLM(Qwen2Config(**common)).eval()
    if kind == "qwen3":
        return Qwen3ForCausalLM(Qwen3Config(**common)).eval()
    return LlamaForCausalLM(LlamaConfig(**common)).eval()


def groups(*, prompts: int = 3, group: int = 4, shortest: int = 2) -> list[EncodedTrace]:
    """Completions of many lengths after prompts of many lengths, in no order."""
    rng = random.Random(1)
    asked = [tuple(rng.choices(range(1, VOCABULARY), k=shortest + 3 * at)) for at in range(prompts)]
    found = [
        EncodedTrace(asked[row % prompts], tuple(rng.choices(range(1, VOCABULARY), k=rng.randint(1, 9))))
        for row in range(prompts * group)
    ]
    rng.shuffle(found)
    return found


def batch_of(traces: list[EncodedTrace], segmenter: Segmenter) -> TraceBatch:
    return collate(traces, segmenter, UnitSpec(Granularity.DENSE), pad_id=0)


@pytest.fixture(scope="session")
def segmenter(tokenizer: Any) -> Segmenter:
    return Segmenter(tokenizer)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_the_same(
    kind: str, temperature: float, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = model_of(kind), batch_of(groups(), segmenter)
    passes: list[torch.Size] = []
    model.register_forward_pre_hook(lambda _m, _a, options: passes.append(options["input_ids"].shape), with_kwargs=True)
    with torch.no_grad():
        assert can_share(model, batch)
        shared = token_logprobs(model, batch, temperature=temperature)
        monkeypatch.setattr(heads, "can_share", lambda *_: False)
        plain = token_logprobs(model, batch, temperature=temperature)
    assert [shape[0] for shape in passes] == [3, 12, 12]
    assert passes[1][1] == 9  # no prompt among them
    inside = batch.unit >= 0
    assert torch.allclose(shared[inside], plain[inside], atol=1e-5)
    assert not shared[~inside].any()


def test_places_behind_a_traces_end_stay_inside_learned_positions(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The longest prompt with the shortest completion: beside the longest completion it would reach place 20 of 16.
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=16, n_embd=16, n_layer=2, n_head=2, pad_token_id=0)
    model = GPT2LMHeadModel(config).eval()
    traces = [EncodedTrace(tuple(range(1, 9)), (3, 4))] * 2 + [EncodedTrace((5, 6, 7), tuple(range(10, 23)))] * 2
    batch = batch_of(traces, segmenter)
    with torch.no_grad():
        assert can_share(model, batch)
        shared = token_logprobs(model, batch)
        monkeypatch.setattr(heads, "can_share", lambda *_: False)
        assert torch.allclose(shared, token_logprobs(model, batch).masked_fill(batch.unit < 0, 0.0), atol=1e-5)


def test_it_is_left_alone_where_it_does_not_pay_or_could_mislead(segmenter: Segmenter) -> None:
    model, shared = model_of("llama"), batch_of(groups(), segmenter)
    assert not can_share(model, shared)  # a gradient is wanted
    with torch.no_grad():
        assert can_share(model, shared)
        assert not can_share(model, batch_of(groups(prompts=5, group=1), segmenter))
        assert not can_share(model, batch_of(groups(shortest=1), segmenter))  # nothing to keep of a prompt of one token
        assert not can_share(model.train(), shared)  # another pass would drop other units
        model.eval()
        sliding = model_of("qwen3", use_sliding_window=True, sliding_window=4, max_window_layers=1)
        assert not can_share(sliding, shared)
        model.model.embed_tokens.weight.ds_id = 0
        assert not can_share(model, shared)


def test_batches_keep_the_traces_of_a_prompt_together() -> None:
    traces = groups(prompts=6, group=3)
    batches = list(by_length(traces, tokens=90))
    assert sorted(row for rows in batches for row in rows) == list(range(18))
    assert len(batches) > 2
    for rows in batches:
        lengths = [len(traces[row].prompt_ids) + len(traces[row].completion_ids) for row in rows]
        assert len(rows) * max(lengths) <= 90
    order = [traces[row].prompt_ids for rows in batches for row in rows]
    assert sum(a != b for a, b in pairwise(order)) == 6 - 1
