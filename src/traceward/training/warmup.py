"""Warm-up: the discriminator alone, against a frozen policy, stopped by held-out demonstrations."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from traceward.records import Rollout
from traceward.training.critic import Critic


@dataclass(frozen=True, slots=True)
class WarmUp:
    """What a warm-up did: its metric rows, the update whose weights were kept, and why it stopped."""

    rows: tuple[dict[str, float], ...]
    kept: int
    stopped: str


def warm_up(
    critic: Critic, rollouts: Sequence[Rollout], *, log: Callable[[dict[str, float]], None] | None = None
) -> WarmUp:
    """Update `critic` on `rollouts` of its demonstrations' questions and keep the weights that discriminate best on
    the held-out demonstrations (AUROC of experts against rollouts and corruptions of those questions).

    A look before `warmup_at_least` updates keeps and stops nothing: with few held-out demonstrations it is noise.
    Without held-out demonstrations all updates run and the last weights stay.
    """
    settings = critic.settings
    held_ids = {d.problem.id for d in critic.held_out}
    critic.remember([r for r in rollouts if r.problem_id not in held_ids])
    check = critic.positives(critic.held_out)
    check += critic.corruptions(critic.held_out, random.Random("held-out corruptions"))
    check += critic.rollouts([r for r in rollouts if r.problem_id in held_ids])
    early = bool(critic.held_out) and len({e.label for e in check}) == 2
    backbone = critic.reward.backbone
    best, best_update, best_weights, waited = -1.0, 0, None, 0
    rows: list[dict[str, float]] = []
    stopped = "all updates done"
    for update in range(settings.warmup_updates + 1):
        row: dict[str, float] = {"step": update}
        if update:
            row |= critic.update([])
        if early and update % settings.check_every == 0:
            row["held_out_loss"], row["held_out_auroc"] = critic.discrimination(check)
            if update >= min(settings.warmup_at_least, settings.warmup_updates):
                waited += 1
                if row["held_out_auroc"] > best:
                    best, best_update, waited = row["held_out_auroc"], update, 0
                    best_weights = {k: v.detach().clone() for k, v in backbone.state_dict().items()}
        rows.append(row)
        if log is not None:
            log(row)
        if waited >= settings.patience:
            stopped = f"held-out AUROC did not rise for {waited * settings.check_every} updates"
            break
    if best_weights is None:
        best_update = len(rows) - 1
    else:
        with torch.no_grad():
            backbone.load_state_dict(best_weights)
    return WarmUp(tuple(rows), best_update, stopped)
