"""A reward that is an adapter: what learns stands beside a backbone that somebody else may hold too.

No weight of the backbone is copied: p_phi, p_ref and, where it is given, the policy are models on the same weights
(traceward.adapters). On disk the reward is PEFT's directory, adapter and head in one; the backbone is named there.
"""

from __future__ import annotations

import hashlib
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from traceward.adapters import (
    add_adapter,
    load_adapter,
    merged,
    merged_copy,
    on_the_weights_of,
    place_of,
    settings_of,
    unwrapped,
)
from traceward.errors import ConfigError
from traceward.records import Head

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from traceward.training.adapter import AdapterSettings


def adapted(
    base: PreTrainedModel, head: Head, adapter: AdapterSettings, *, seed: int
) -> tuple[PreTrainedModel, PreTrainedModel | None]:
    """A backbone with a new adapter on the weights of `base`, and a log-ratio's reference, which is `base` without it.

    A scalar head gets a zero-mean random last layer. All randomness comes from `seed`.
    """
    if head is Head.SCALAR:
        backbone, reference = _token_classifier_on(base, seed), None
    else:
        backbone, reference = on_the_weights_of(base), on_the_weights_of(base).requires_grad_(False)
    add_adapter(backbone, adapter, seed=seed)
    if head is Head.SCALAR:
        for part in own_parts(backbone):
            part.requires_grad_()
    return backbone.eval(), reference


def _token_classifier_on(base: PreTrainedModel, seed: int) -> PreTrainedModel:
    from transformers import AutoModelForTokenClassification

    config = deepcopy(base.config)
    config.num_labels = 1
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForTokenClassification.from_config(config, dtype=base.dtype)
    setattr(model, model.base_model_prefix, on_the_weights_of(base).base_model)
    generator = torch.Generator().manual_seed(seed)
    for part in own_parts(model):
        part.to_empty(device=base.device)
        for name, values in part.named_parameters():
            spread = 0.0 if name.endswith("bias") else config.get_text_config().initializer_range
            values.data = torch.normal(0.0, spread, values.shape, generator=generator).to(values)
    model.name_or_path = base.name_or_path
    for name in ("is_loaded_in_4bit", "quantization_method"):  # what PEFT asks before it puts layers beside others
        if hasattr(base, name):
            setattr(model, name, getattr(base, name))
    return model


def own_parts(model: PreTrainedModel) -> list[nn.Module]:
    """What a model puts on its base."""
    return [part for name, part in model.named_children() if name != model.base_model_prefix]


def describe_base(model: PreTrainedModel) -> dict[str, Any]:
    """What a card says of the weights that an adapter stands beside."""
    return {
        "path": place_of(model),
        "load_in_4bit": bool(getattr(model, "is_loaded_in_4bit", False)),
        "first_weights_sha256": _fingerprint(model),
    }


def load_adapted(
    directory: Path,
    head: Head,
    described: dict[str, Any],
    dtype: torch.dtype,
    base: PreTrainedModel | None,
) -> tuple[PreTrainedModel, PreTrainedModel | None]:
    """Backbone and reference of a saved adapter.

    base: stands for the one that the card describes, and stays as it is; an adapter in it is merged into a copy.
    Raises ConfigError where it is another one.
    """
    from traceward.loading import load_causal_lm

    if base is None:
        base = merged(load_causal_lm(described["path"], dtype, load_in_4bit=described["load_in_4bit"]))
    else:
        base = merged_copy(unwrapped(base))
    found = adapted(base, head, settings_of(directory), seed=0)
    load_adapter(found[0], directory)
    now = describe_base(found[0])
    held_alike = now["load_in_4bit"] == described["load_in_4bit"]
    if held_alike and now["first_weights_sha256"] != described["first_weights_sha256"]:
        raise ConfigError(
            f"base must be the model that the adapter learned on: got other weights at '{described['path']}' for "
            f"{directory}; put the old ones back, or learn the reward again"
        )
    return found


def _fingerprint(model: PreTrainedModel) -> str:
    """sha256 of the first numbers of every weight of the base, in the coarsest type that they may be loaded in: short
    to make, and another base has another one."""
    seen = hashlib.sha256()
    for name, weight in model.base_model.named_parameters():
        if ".lora_" not in name:
            first = weight.detach().flatten()[:8].cpu()
            coarse = first.to(torch.bfloat16) if first.is_floating_point() else first
            seen.update(coarse.contiguous().view(torch.uint8).numpy().tobytes())
    return seen.hexdigest()
