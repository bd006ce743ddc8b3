"""Attention over traces that lie end to end in one row, some of them behind a prompt that stands elsewhere in it.

Each token attends to its trace's tokens up to itself, wherever they are. In float32, on a CPU and where gradients flow
that is a call for each trace; on a GPU with FlashAttention's kernel for sequences of many lengths, one call for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # before PyTorch 2.10
    varlen_attn = None  # type: ignore[assignment]

HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class Segment:
    """A trace in the row, `start` to `stop`; `prompt` says where the tokens before are, if they are elsewhere."""

    start: int
    stop: int
    prompt: slice | None = None

    @property
    def behind(self) -> int:
        """How many tokens are elsewhere."""
        return 0 if self.prompt is None else self.prompt.stop - self.prompt.start


@dataclass(frozen=True, slots=True)
class Lengths:
    """The row as FlashAttention wants it told, for S traces.

    keys: where in the row the keys of all traces are, one trace after the other; None where that is the row itself.
    ends_queries, ends_keys: (S + 1,) where each begins and ends among the queries, and among `keys`.
    """

    keys: Tensor | None
    ends_queries: Tensor
    ends_keys: Tensor
    most_queries: int
    most_keys: int


@dataclass(frozen=True)
class Segments:
    """The traces of a row, in order; together they are all of it.   like: gives masks their type and device."""

    each: tuple[Segment, ...]
    like: Tensor

    @cached_property
    def masks(self) -> tuple[Tensor | None, ...]:
        """(tokens, prompt + tokens) of each, added to attention's scores; None where no prompt stands elsewhere."""
        return tuple(_mask(one, self.like) for one in self.each)

    @cached_property
    def lengths(self) -> Lengths:
        """The same for the one kernel."""
        queries = [one.stop - one.start for one in self.each]
        keys = [one.behind + count for one, count in zip(self.each, queries, strict=True)]
        where = [part for one in self.each for part in (one.prompt, slice(one.start, one.stop)) if part is not None]
        elsewhere = sum(keys) > sum(queries)
        index = torch.cat([torch.arange(part.start, part.stop) for part in where]) if elsewhere else None
        return Lengths(
            None if index is None else index.to(self.like.device),
            _ends(queries, self.like.device),
            _ends(keys, self.like.device),
            max(queries),
            max(keys),
        )


def _mask(one: Segment, like: Tensor) -> Tensor | None:
    """What lets a token see the prompt and its trace's tokens up to itself."""
    if one.prompt is None:
        return None
    tokens = one.stop - one.start
    seen = torch.ones(tokens, one.behind + tokens, dtype=torch.bool, device=like.device).tril(one.behind)
    return torch.zeros(seen.shape, dtype=like.dtype, device=like.device).masked_fill(~seen, -torch.inf)


def _ends(lengths: Sequence[int], device: torch.device) -> Tensor:
    ends = torch.zeros(len(lengths) + 1, dtype=torch.int32)
    ends[1:] = torch.tensor(lengths).cumsum(0)
    return ends.to(device)


def one_by_one(query: Tensor, key: Tensor, value: Tensor, segments: Segments, scaling: float | None) -> Tensor:
    """(1, heads, N, D) of queries, (1, heads or fewer, N, D) of keys and values -> the first of attended values."""
    groups = query.shape[1] // key.shape[1]
    key, value = (table.repeat_interleave(groups, dim=1) for table in (key, value))
    # Cut once: a slice of its own would cost the backward pass a whole table for each trace.
    lengths = [one.stop - one.start for one in segments.each]
    own = zip(*(torch.split(table, lengths, 2) for table in (query, key, value)), strict=True)
    found = []
    for one, mask, (queries, own_keys, own_values) in zip(segments.each, segments.masks, own, strict=True):
        if one.prompt is None:
            found.append(_sdpa(queries, own_keys, own_values, is_causal=True, scale=scaling))
            continue
        keys = torch.cat([key[:, :, one.prompt], own_keys], 2)
        values = torch.cat([value[:, :, one.prompt], own_values], 2)
        with _behind_prompt(query.device):
            found.append(_sdpa(queries, keys, values, attn_mask=mask, scale=scaling))
    return torch.cat(found, 2)


_sdpa = nn.functional.scaled_dot_product_attention


def _behind_prompt(device: torch.device) -> AbstractContextManager[None]:
    """Under a mask PyTorch's memory-efficient kernel has given NaN on GPUs, more so in its backward pass
    (pytorch/pytorch issues 124877 and 178251; two of our runs, docs/LOG.md). There the plain one serves."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cuda" else nullcontext()


def can_at_once(query: Tensor) -> bool:
    """Whether FlashAttention takes it: half precision, on Nvidia's Ampere or later."""
    return (
        query.device.type == "cuda"
        and query.dtype in HALF
        and query.shape[-1] % 8 == 0
        and query.shape[-1] <= 256
        and not torch.is_grad_enabled()
        and varlen_attn is not None
        and torch.version.cuda is not None
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
    )


def at_once(query: Tensor, key: Tensor, value: Tensor, segments: Segments, scaling: float | None) -> Tensor:
    """`one_by_one` in one kernel. Its causal mask is aligned to the last query and the last key of each trace."""
    lengths, groups = segments.lengths, query.shape[1] // key.shape[1]
    queries, keys, values = (table[0].transpose(0, 1) for table in (query, key, value))
    if lengths.keys is not None:  # gathered first: fewer heads are there yet
        keys, values = keys[lengths.keys], values[lengths.keys]
    keys, values = (table.repeat_interleave(groups, dim=1) for table in (keys, values))
    found: Any = varlen_attn(
        queries.contiguous(),
        keys.contiguous(),
        values.contiguous(),
        lengths.ends_queries,
        lengths.ends_keys,
        lengths.most_queries,
        lengths.most_keys,
        scale=scaling,
        window_size=(-1, 0),
    )
    attended: Tensor = found.transpose(0, 1)[None]
    return attended
