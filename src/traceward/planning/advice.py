"""What to change in a recipe that does not fit: settings are tried in turn, those that cost the least first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from traceward.config import Recipe, resolve
from traceward.errors import ConfigError
from traceward.planning.memory import Memory
from traceward.planning.moments import Room
from traceward.tree import set_override

RANK = 64

CHANGES = (
    ("critic.traces_per_pass=8",),
    ("adversarial.rollouts_per_backward=8",),
    ("sft.traces_per_backward=8",),
    ("reward.gradient_checkpointing=true",),
    ("policy.gradient_checkpointing=true",),
    ("critic.traces_per_pass=4",),
    ("adversarial.rollouts_per_backward=2",),
    ("sft.traces_per_backward=2",),
    (f"policy.adapter.rank={RANK}", f"reward.adapter.rank={RANK}"),
    ("policy.dtype=bfloat16",),
    ("reward.shares_backbone=true",),
    ("policy.load_in_4bit=true",),
)
"""Smaller parts and checkpointing give the same run for more time; adapters, bfloat16 and 4 bit give another one."""
GPUS = (2, 4, 8, 16, 32, 64)


def changed_to_fit(recipe: Recipe, room: Room, fits: Callable[[float, Recipe], bool]) -> str:
    """An instruction: changes with which it fits, or, where none do, more GPUs over which FSDP2 shards it.

    fits: whether a peak of so many bytes does, with that recipe.
    """
    peak, changed = _peak(recipe, room), recipe
    made: list[str] = []
    for group in CHANGES * 2:  # a change may help only when another has been made
        tried = _with(changed, group)
        if tried is None:
            continue
        lower = _peak(tried, room)
        if lower >= peak:
            continue
        peak, changed = lower, tried
        made += group
        if fits(peak, changed):
            return f"--set {' --set '.join(made)}"
    for gpus in GPUS:
        sharded = replace(room, gpus=gpus, sharded=True)
        if gpus > room.gpus and not recipe.reward.adapter.chosen and fits(_peak(recipe, sharded), recipe):
            return f"use --gpus {gpus} --sharded (FSDP2)"
    return (
        f"use a smaller model, or more memory: {_gib(peak)} with --set {' --set '.join(made)}"
        if made
        else ("use a smaller model, shorter completions, or more memory")
    )


def _gib(size: float) -> str:
    return f"a peak of {size / 2**30:.1f} GiB remains"


def _with(recipe: Recipe, overrides: tuple[str, ...]) -> Recipe | None:
    """The recipe with `overrides`; None where it has them already, has less, or may not have them."""
    tree: dict[str, Any] = recipe.model_dump(mode="json", exclude_unset=True)
    fresh = []
    for override in overrides:
        key, _, value = override.partition("=")
        section, *names = key.split(".")
        now: Any = getattr(recipe, section)
        for name in names:
            now = getattr(now, name)
        if value.isdigit() and now is not None and int(now) <= int(value):
            continue
        if now is not None and "adapter" in key:
            continue
        fresh.append(override)
        set_override(tree, override)
    if not fresh:
        return None
    try:
        changed = resolve(tree, where="recipe")
    except ConfigError:
        return None
    return None if changed == recipe else changed


def _peak(recipe: Recipe, room: Room) -> float:
    try:
        return max(moment.total for moment in Memory(recipe, room).moments())
    except ConfigError:  # so many rollouts cannot be divided by so many GPUs
        return float("inf")
