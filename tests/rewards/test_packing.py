"""Traces packed end to end: what a model says of each is what it says of that trace alone."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest
import torch
import transformers
from transformers import (
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
from traceward.rewards import segments as attention
from traceward.rewards.batches import TraceBatch, collate
from traceward.rewards.heads import scalar_values, token_logprobs
from traceward.rewards.packing import can_pack, pack
from traceward.rewards.segments import Segment

VOCABULARY = 50
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


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


def test_a_layout_by_hand() -> None:
    # Three traces in a table of 6 columns: prompts of 2, 2 and 1 tokens, the first two the same; 5, 4 and 3 in all.
    packed = pack([2, 2, 1], [5, 4, 3], [0, 0, 1], width=6, like=torch.zeros(()))
    assert packed.index.tolist() == [0, 1, 2, 3, 4, 8, 9, 12, 13, 14]
    assert packed.position.tolist() == [0, 1, 2, 3, 4, 2, 3, 0, 1, 2]
    assert packed.before.tolist() == [1, 2, 3, 1, 5, 7, 8]  # the second trace's first token follows the prompt's last
    assert packed.segments.each == (Segment(0, 5), Segment(5, 7, slice(0, 2)), Segment(7, 10))
    first, mask, last = packed.segments.masks
    assert first is last is None
    assert mask is not None
    assert mask.tolist() == [[0, 0, 0, -torch.inf], [0, 0, 0, 0]]
    lengths = packed.segments.lengths
    assert lengths.keys is not None
    assert lengths.keys.tolist() == [0, 1, 2, 3, 4, 0, 1, 5, 6, 7, 8, 9]
    assert lengths.ends_queries.tolist() == [0, 5, 7, 10]
    assert lengths.ends_keys.tolist() == [0, 5, 9, 12]
    assert (lengths.most_queries, lengths.most_keys) == (5, 5)


def flash(  # noqa: PLR0917  the kernel's own signature
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    ends_queries: torch.Tensor,
    ends_keys: torch.Tensor,
    most_queries: int,
    most_keys: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
) -> torch.Tensor:
    """What FlashAttention promises of sequences of many lengths, in float64: the last query sees all keys."""
    assert window_size == (-1, 0)
    found = []
    for (a, b), (c, d) in zip(*(pairwise(ends.tolist()) for ends in (ends_queries, ends_keys)), strict=True):
        assert b - a <= most_queries
        assert d - c <= most_keys
        seen = torch.ones(b - a, d - c, dtype=torch.bool).tril((d - c) - (b - a))
        q, k, v = (table.double().transpose(0, 1) for table in (query[a:b], key[c:d], value[c:d]))
        weights = (q @ k.transpose(1, 2) * (q.shape[-1] ** -0.5 if scale is None else scale)).masked_fill(~seen, -1e300)
        found.append((weights.softmax(-1) @ v).transpose(0, 1))
    return torch.cat(found).to(query.dtype)


@pytest.mark.parametrize("shared", [True, False])
def test_all_traces_at_once_attend_as_one_by_one(shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "varlen_attn", flash)
    prompts = [0, 0, 0, 1, 1] if shared else range(5)
    packed = pack([3, 3, 3, 2, 2], [5, 4, 9, 8, 3], prompts, width=9, like=torch.zeros(()))
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 1, 4, len(packed.index), 8)
    tables = query, key[:, :2], value[:, :2]  # two queries to a key
    for scaling in (None, 0.2):
        expected = attention.one_by_one(*tables, packed.segments, scaling)
        assert torch.allclose(attention.at_once(*tables, packed.segments, scaling), expected, atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="FlashAttention needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_gpu_attends_to_all_traces_at_once_in_half_precision(dtype: torch.dtype) -> None:
    packed = pack([70, 70, 70, 2, 2], [300, 71, 90, 80, 3], [0, 0, 0, 1, 1], width=300, like=torch.zeros(()).cuda())
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 1, 4, len(packed.index), 64).cuda()
    tables = query, key[:, :2], value[:, :2]
    expected = attention.one_by_one(*tables, packed.segments, None)
    half = tuple(table.to(dtype) for table in tables)
    assert attention.can_at_once(half[0]) is False  # gradients may flow
    with torch.no_grad():
        assert attention.can_at_once(half[0])
        found = attention.at_once(*half, packed.segments, None)
    assert torch.allclose(found.float(), expected, atol=0.02)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_those_of_each_trace_alone(kind: str, temperature: float, segmenter: Segmenter) -> None:
    model, traces = model_of(kind), groups()
    batch = batch_of(traces, segmenter)
    passes: list[torch.Size] = []
    hook = model.register_forward_pre_hook(
        lambda _m, _a, options: passes.append(options["input_ids"].shape), with_kwargs=True
    )
    with torch.no_grad():
        assert can_pack(model, batch)
        found = token_logprobs(model, batch, temperature=temperature)
        hook.remove()
        for row, trace in enumerate(traces):
            ids, start = torch.tensor([[*trace.prompt_ids, *trace.completion_ids]]), len(trace.prompt_ids)
            alone = (model(input_ids=ids).logits[0].double() / temperature).log_softmax(-1)
            expected = [alone[at - 1, ids[0, at]].item() for at in range(start, ids.shape[1])]
            assert found[row, start : ids.shape[1]].tolist() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    real = sum(len(t.completion_ids) for t in traces) + 2 + 5 + 8  # every prompt once, no padding
    assert passes == [(1, real)]
    assert not found[batch.unit < 0].any()
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("kind", ["Llama", "Qwen2", "Qwen3"])
def test_scalar_values_are_those_of_each_trace_alone(kind: str, segmenter: Segmenter) -> None:
    body, traces = model_of(kind.lower()), groups()
    body.config.num_labels = 1
    torch.manual_seed(1)
    model = getattr(transformers, f"{kind}ForTokenClassification")(body.config).eval()
    batch = batch_of(traces, segmenter)
    with torch.no_grad():
        assert can_pack(model, batch)
        found = scalar_values(model, batch)
        for row, trace in enumerate(traces):
            ids, start = torch.tensor([[*trace.prompt_ids, *trace.completion_ids]]), len(trace.prompt_ids)
            expected = model(input_ids=ids).logits[0, start:, 0].tolist()
            size = max(map(abs, expected))  # a value near 0 is a sum of terms of this size
            assert found[row, start : ids.shape[1]].tolist() == pytest.approx(expected, abs=1e-5 * size)


def test_learned_positions_are_those_of_each_trace(segmenter: Segmenter) -> None:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_positions=16, n_embd=16, n_layer=2, n_head=2, pad_token_id=0
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    traces = [EncodedTrace(tuple(range(1, 9)), (3, 4))] * 2 + [EncodedTrace((5, 6, 7), tuple(range(10, 23)))] * 2
    batch = batch_of(traces, segmenter)
    with torch.no_grad():
        assert can_pack(model, batch)
        found = token_logprobs(model, batch)
        for row, trace in enumerate(traces):
            ids, start = torch.tensor([[*trace.prompt_ids, *trace.completion_ids]]), len(trace.prompt_ids)
            alone = model(input_ids=ids).logits[0, start - 1 : -1].log_softmax(-1)
            expected = alone.gather(1, ids[0, start:, None])[:, 0]
            assert torch.allclose(found[row, start : ids.shape[1]], expected, atol=1e-5)


def gradients_alone(model: PreTrainedModel, traces: list[EncodedTrace], weights: torch.Tensor) -> dict[str, Any]:
    """Of every trace's own log-probabilities, each gone through the model alone."""
    model.zero_grad()
    for row, trace in enumerate(traces):
        ids = torch.tensor([[*trace.prompt_ids, *trace.completion_ids]], device=weights.device)
        start = len(trace.prompt_ids)
        alone = model(input_ids=ids).logits[0, start - 1 : -1].log_softmax(-1).gather(1, ids[0, start:, None])[:, 0]
        (alone * weights[row, start : ids.shape[1]]).sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_gradients_are_those_of_each_trace_alone(kind: str, device: str, segmenter: Segmenter) -> None:
    """To 1e-5, or where a device sums that roughly, as near to the exact gradient as the traces alone come."""
    model, traces = model_of(kind).to(device).train(), groups()  # type: ignore[arg-type]
    batch = batch_of(traces, segmenter).to(device)
    assert can_pack(model, batch)
    weights = torch.linspace(-1, 1, batch.input_ids.numel(), device=device).view(batch.input_ids.shape)  # sees all
    (token_logprobs(model, batch) * weights).sum().backward()
    packed = {name: parameter.grad for name, parameter in model.named_parameters()}
    alone = gradients_alone(model, traces, weights)
    exact = gradients_alone(model.double(), traces, weights.double())
    for name, true in exact.items():
        assert packed[name] is not None, name
        error, rounding = ((found[name] - true).abs().max() / true.abs().max() for found in (packed, alone))
        assert error < max(1e-5, 2 * rounding), (name, error, rounding)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable. is deprecated:FutureWarning")
def test_it_is_left_alone_where_it_does_not_pay_or_could_mislead(segmenter: Segmenter) -> None:
    model, batch = model_of("llama"), batch_of(groups(), segmenter)
    assert can_pack(model, batch)
    assert not can_pack(model, batch_of(groups(shortest=0), segmenter))  # nothing predicts a first token
    assert can_pack(model.train(), batch)
    model.gradient_checkpointing_enable()  # would go forward again without the layout
    assert not can_pack(model, batch)
    assert can_pack(model.eval(), batch)
    dropping = model_of("llama", attention_dropout=0.1)
    assert can_pack(dropping, batch)
    assert not can_pack(dropping.train(), batch)
    sliding = model_of("qwen3", use_sliding_window=True, sliding_window=4, max_window_layers=1)
    assert not can_pack(sliding, batch)
    sharded = model_of("llama")
    sharded.model.embed_tokens.weight.ds_id = 0
    assert not can_pack(sharded, batch)


class Leaky(LlamaForCausalLM):
    """Claims to be what it is not: its output layer mixes in the token before, whose ever it is."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.model.norm.register_forward_hook(lambda _m, _i, out: out + 0.1 * out.roll(1, dims=1))


def test_a_model_that_mixes_tokens_in_another_way_is_found_out(segmenter: Segmenter) -> None:
    leaky = Leaky(model_of("llama").config).eval()
    assert leaky._supports_attention_backend
    batch = batch_of(groups(), segmenter)
    with torch.no_grad():
        assert not can_pack(leaky, batch)
        padded = token_logprobs(leaky, batch)
        ids = batch.input_ids[:1, : int(batch.attention_mask[0].sum())]
        alone = leaky(input_ids=ids).logits[0].log_softmax(-1)
    last = ids.shape[1] - 1
    assert padded[0, last].item() == pytest.approx(alone[last - 1, ids[0, last]].item(), rel=1e-5)


def test_a_model_with_another_attention_is_padded(segmenter: Segmenter) -> None:
    # Gemma 2 caps the scores of its attention.
    torch.manual_seed(0)
    config = transformers.Gemma2Config(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, pad_token_id=0, layer_types=["full_attention"], sliding_window=None,
        attn_implementation="eager",
    )  # fmt: skip
    model = transformers.Gemma2ForCausalLM(config).eval()
    with torch.no_grad():
        assert not can_pack(model, batch_of(groups(), segmenter))
    assert model.config._attn_implementation == "eager"
