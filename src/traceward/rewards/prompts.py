"""A prompt that several traces share goes through the model once.

Rollouts come in groups: eight completions of one question are eight copies of its prompt, half of all tokens where
prompts are as long as completions. Their keys and values are computed once and handed to every completion.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import DynamicCache

from traceward.rewards.batches import TraceBatch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def can_share(model: PreTrainedModel, batch: TraceBatch) -> bool:
    """Whether `completion_logits` is worth it and safe: no gradient, no dropout that another pass would have to repeat,
    prompts shared by two traces on average, a model with plain attention that is told where its tokens stand."""
    if torch.is_grad_enabled() or model.training or "position_ids" not in inspect.signature(model.forward).parameters:
        return False
    weight = next(model.parameters())
    if isinstance(weight, DTensor) or hasattr(weight, "ds_id"):  # FSDP2, ZeRO-3: every process must run as many passes
        return False
    kinds = getattr(model.config.get_text_config(), "layer_types", None) or ["full_attention"]
    few = 2 * len(torch.unique(batch.prompt)) <= len(batch.prompt)
    return few and {*kinds} == {"full_attention"} and int(batch.start.min()) > 1


def completion_logits(model: PreTrainedModel, batch: TraceBatch) -> Tensor:
    """(B, C, V) logits of every completion token, the first of each trace in column 0; behind its end they mean
    nothing."""
    start, device = batch.start, batch.input_ids.device
    cache = DynamicCache(config=model.config)
    # transformers 5.2x renames the argument and warns of the old name.
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    prompts, member = torch.unique(batch.prompt, return_inverse=True)
    rows = torch.stack([(batch.prompt == prompt).nonzero()[0, 0] for prompt in prompts])
    # Prompts without their last token, which goes with the completions: it predicts their first. Padded on the left,
    # so that all completions begin in the same column.
    kept = start[rows] - 1
    column = torch.arange(int(kept.max()), device=device) - (kept.max() - kept)[:, None]
    there = (column >= 0).long()
    model(
        input_ids=batch.input_ids[rows].gather(1, column.clamp(min=0)),
        attention_mask=there,
        position_ids=column.clamp(min=0),
        use_cache=True,
        logits_to_keep=1,
        **{name: cache},
    )
    cache.batch_select_indices(member)
    lengths = (batch.unit >= 0).sum(1)
    step = torch.arange(int(lengths.max()), device=device)
    place = (start[:, None] - 1 + step).clamp(max=batch.input_ids.shape[1] - 1)  # behind a trace's end it means nothing
    logits: Tensor = model(
        input_ids=batch.input_ids.gather(1, place),
        attention_mask=torch.cat([there[member], (step < lengths[:, None]).long()], 1),
        position_ids=place,
        use_cache=True,
        **{name: cache},
    ).logits
    return logits
