"""Traces laid end to end: no padding, and a prompt that several of them share goes through the model once.

All tokens of a batch stand in one row, so every layer but attention sees one matrix of real tokens, of one size
whatever the lengths; attention stays inside a trace (traceward.rewards.segments). The first trace of a prompt brings it
along; the others hold their completion only, and attend to the prompt's keys and values where that one has left them.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import AttentionInterface

from traceward.rewards.batches import TraceBatch
from traceward.rewards.segments import Segment, Segments, at_once, can_at_once, one_by_one

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_NAME = "traceward_packed"
_OTHER = ("position_bias", "s_aux", "softcap")  # what some models add to attention, and this one lacks
_agrees: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Packed:
    """The row of N tokens.

    index: (N,) where each token is in the batch's flattened (B, T).   position: (N,) where it is in its trace.
    before: (C,) for each completion token of the batch, in its order, where in the row the token before it is.
    """

    index: Tensor
    position: Tensor
    before: Tensor
    segments: Segments


def pack(starts: Sequence[int], lengths: Sequence[int], prompts: Sequence[int], *, width: int, like: Tensor) -> Packed:
    """The layout of traces that are rows of a (B, `width`) table.

    starts: of the completions.   prompts: equal where traces share theirs.   like: a weight of the model.
    """
    first: dict[int, int] = {}  # where in the row each prompt begins
    index, position, before, segments = [], [], [], []
    place = 0
    for row, (start, length, prompt) in enumerate(zip(starts, lengths, prompts, strict=True)):
        at = first.setdefault(prompt, place)
        skipped = 0 if at == place else start
        own = torch.arange(skipped, length)
        index.append(row * width + own)
        position.append(own)
        stop = place + length - skipped
        before.append(torch.cat([torch.tensor([at + start - 1]), torch.arange(place + start - skipped, stop - 1)]))
        segments.append(Segment(place, stop, slice(at, at + start) if skipped else None))
        place = stop
    rows, positions, predictors = (torch.cat(parts).to(like.device) for parts in (index, position, before))
    return Packed(rows, positions, predictors, Segments(tuple(segments), like))


def pack_batch(model: PreTrainedModel, batch: TraceBatch) -> Packed:
    """The layout of a batch for `model`; on a GPU each trace keeps its own prompt where gradients flow (see
    traceward.rewards.segments)."""
    lengths = batch.attention_mask.sum(1).tolist()
    like = next(model.parameters())
    alone = like.device.type == "cuda" and torch.is_grad_enabled()
    prompts = range(len(lengths)) if alone else batch.prompt.tolist()
    return pack(batch.start.tolist(), lengths, prompts, width=batch.input_ids.shape[1], like=like)


def run(model: nn.Module, input_ids: Tensor, packed: Packed, **options: Any) -> Any:
    """The output of `model`, or of its base, over the packed row: (1, N, …). input_ids: (B, T)."""
    return model(
        input_ids=input_ids.flatten()[packed.index][None],
        position_ids=packed.position[None],
        segments=packed.segments,
        use_cache=False,
        **options,
    )


@contextmanager
def packed_attention(model: PreTrainedModel) -> Iterator[None]:
    """Inside, `model` takes packed rows and nothing else."""
    before = model.config._attn_implementation
    model.set_attn_implementation(_NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _attend(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _attention_mask: Tensor | None,
    *,
    segments: Segments,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: (1, heads, N, D) in, of keys and values maybe fewer heads; (1, N, heads, D)
    out."""
    if any(options.get(name) is not None for name in _OTHER):
        raise NotImplementedError
    attend = at_once if can_at_once(query) else one_by_one
    return attend(query, key, value, segments, scaling).transpose(1, 2), None


AttentionInterface.register(_NAME, _attend)


def can_pack(model: PreTrainedModel, batch: TraceBatch) -> bool:
    """Whether the batch may go through `model` as one row: nothing is dropped or computed again in the backward pass,
    and the model mixes tokens in nothing but plain attention that is told where they stand. What a model says of
    itself is tried out once."""
    if int(batch.start.min()) < 1 or (model.training and (_drops(model) or repeats(model))):
        return False
    if model not in _agrees:
        _agrees[model] = _says_so(model) and _proves_it(model)
    return _agrees[model]


def _drops(model: PreTrainedModel) -> bool:
    """Whether training mode drops units."""
    return any(
        (isinstance(module, nn.Dropout) and module.p > 0)
        or (isinstance(rate := getattr(module, "attention_dropout", None), float) and rate > 0)
        for module in model.modules()
    )


def repeats(model: PreTrainedModel) -> bool:
    """Whether training mode goes forward again on the way back."""
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


def _says_so(model: PreTrainedModel) -> bool:
    weight = next(model.parameters())
    if isinstance(weight, DTensor) or hasattr(weight, "ds_id"):  # FSDP2, ZeRO-3: a trial would be a pass of its own
        return False
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None) or ["full_attention"]
    return (
        getattr(model, "_supports_attention_backend", False)
        and "position_ids" in inspect.signature(model.forward).parameters
        and {*kinds} == {"full_attention"}
        and getattr(config, "sliding_window", None) is None
    )


@torch.no_grad()
def _proves_it(model: PreTrainedModel) -> bool:
    """Whether two short traces of one prompt have the hidden states that each has alone."""
    weight = next(model.parameters())
    ids = torch.tensor([[1, 2, 3, 0], [1, 2, 4, 5]], device=weight.device)
    ids %= model.get_input_embeddings().num_embeddings
    packed = pack([2, 2], [3, 4], [0, 0], width=4, like=weight)
    try:
        with packed_attention(model):
            found = run(model.base_model, ids, packed).last_hidden_state[0]
    except NotImplementedError:
        return False
    alone = [model.base_model(input_ids=ids[row : row + 1, :end], use_cache=False) for row, end in ((0, 3), (1, 4))]
    expected = torch.cat([alone[0].last_hidden_state[0], alone[1].last_hidden_state[0, 2:]])
    error = (found - expected).abs().max() / expected.abs().max()
    return bool(error < max(1e-4, 8 * torch.finfo(weight.dtype).eps))
