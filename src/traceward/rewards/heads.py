"""Token values of the two heads (method, "Reward model (head)")."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from traceward.rewards.batches import TraceBatch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def token_logprobs(model: PreTrainedModel, batch: TraceBatch) -> Tensor:
    """(B, T) log-probability in nats of each token given those before it; the first column is 0."""
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[:, :-1].float()
    targets = batch.input_ids[:, 1:].unsqueeze(-1)
    picked = logits.gather(-1, targets).squeeze(-1) - logits.logsumexp(-1)
    return torch.nn.functional.pad(picked, (1, 0))


def scalar_values(model: PreTrainedModel, batch: TraceBatch) -> Tensor:
    """(B, T) one number per token from a token classifier with a single label."""
    values: Tensor = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    return values[..., 0].float()
