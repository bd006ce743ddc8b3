"""Weights and tokenizer of an export. Files are copied where they are plain already; only what changes is written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from traceward.adapters import base_of, merged
from traceward.errors import ConfigError
from traceward.export.card import Contents, hub_name
from traceward.export.directory import REFERENCE, copy_model
from traceward.export.forms import as_sequence_classifier, form_of
from traceward.loading import load_causal_lm, load_tokenizer, opened_by, saved_dtype
from traceward.records import Granularity, Head, ModelForm
from traceward.rewards.model import RewardModel

if TYPE_CHECKING:
    from traceward.config import Recipe


def write_reward(
    source: Path,
    room: Path,
    card: Mapping[str, Any],
    recipe: Recipe | None,
    asked: ModelForm | None,
    *,
    merge: bool,
) -> Contents:
    """The reward in `source`; see `traceward.export.forms` for what becomes of it."""
    base: Mapping[str, Any] | None = card.get("base")
    _refuse_merge(source, base is not None, merge=merge)
    stays = base is not None and not merge
    form = form_of(Head(card["head"]), Granularity(card["granularity"]), asked, adapter=stays)
    made_of = base["path"] if base else card.get("policy") or _path(recipe, reward=True)
    offset, reference = 0.0, None
    if merge or form is ModelForm.SEQUENCE:
        offset, reference = _write_anew(source, room, card, form)
    else:
        copy_model(source / "model", room)
        if (source / REFERENCE).is_dir():
            reference = REFERENCE
            (room / REFERENCE).mkdir()
            copy_model(source / REFERENCE, room / REFERENCE)
    return Contents(
        form=form,
        adapter_base=base["path"] if base is not None and stays else None,
        made_of=made_of,
        tokenizer_class=opened_by(room),
        reference=reference,
        offset=offset,
        four_bits=base is not None and base["load_in_4bit"],
    )


def _write_anew(source: Path, room: Path, card: Mapping[str, Any], form: ModelForm) -> tuple[float, str | None]:
    """A reward whose weights change: merged, or another class. Returns its offset, and where its reference is.

    An adapter that learned beside 4-bit weights is added to the whole ones: 4 bits cannot take it in.
    """
    described: Mapping[str, Any] = card.get("base") or {}
    base = None
    if described.get("load_in_4bit"):
        base = load_causal_lm(described["path"], getattr(torch, card["dtype"]))
    reward = RewardModel.load(source, base=base).merged()
    model, offset = reward.backbone, 0.0
    if form is ModelForm.SEQUENCE:
        model, offset = as_sequence_classifier(model, reward.tokenizer)
    model.save_pretrained(room)
    reward.tokenizer.save_pretrained(room)
    if reward.reference is None:
        return offset, None
    if hub_name(described.get("path")):
        return offset, described["path"]
    reward.reference.save_pretrained(room / REFERENCE)
    return offset, REFERENCE


def write_policy(source: Path, room: Path, recipe: Recipe | None, *, merge: bool) -> Contents:
    """The policy in `source`. A merged one is in the type that it was trained in, or else that of its base's files."""
    base = base_of(source)
    _refuse_merge(source, base is not None, merge=merge)
    if merge:
        dtype = saved_dtype(source) if recipe is None else getattr(torch, recipe.policy.dtype)
        merged(load_causal_lm(source, dtype)).save_pretrained(room)
        load_tokenizer(source).save_pretrained(room)
    else:
        copy_model(source, room)
        if not any(room.glob("*.safetensors")):
            raise ConfigError(f"policy must hold its weights as safetensors: got none in {source}; save it so")
    return Contents(
        form=ModelForm.CAUSAL_LM,
        adapter_base=None if merge else base,
        made_of=base or _path(recipe, reward=False),
        tokenizer_class=opened_by(room),
        four_bits=base is not None and recipe is not None and recipe.policy.load_in_4bit,
    )


def _path(recipe: Recipe | None, *, reward: bool) -> str | None:
    """The model that a run was made of."""
    if recipe is None:
        return None
    return (recipe.reward.path if reward else None) or recipe.policy.path


def _refuse_merge(source: Path, is_adapter: bool, *, merge: bool) -> None:
    if merge and not is_adapter:
        raise ConfigError(f"merge must be asked of an adapter: got whole weights in {source}; leave --merge out")
