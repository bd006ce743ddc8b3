"""Warm-up: the discriminator alone, against a frozen policy, stopped by held-out demonstrations."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from traceward.records import Rollout
from traceward.training.checkpoints import Checkpoints, Stateful
from traceward.training.critic import Critic


@dataclass(frozen=True, slots=True)
class WarmUp:
    """What a warm-up did: its metric rows, the update whose weights were kept, and why it stopped."""

    rows: tuple[dict[str, float], ...]
    kept: int
    stopped: str


class _Course:
    """How a warm-up has gone so far: its rows, and the weights with the best held-out AUROC."""

    def __init__(self, critic: Critic) -> None:
        self.critic = critic
        self.rows: list[dict[str, float]] = []
        self.best = -1.0
        self.best_update = 0
        self.best_weights: dict[str, torch.Tensor] | None = None
        self.waited = 0  # looks since the best one

    def look(self, update: int, auroc: float) -> None:
        """Keep the weights if they are the best so far."""
        self.waited += 1
        if auroc > self.best:
            self.best, self.best_update, self.waited = auroc, update, 0
            weights = self.critic.reward.learned.state_dict()
            self.best_weights = {name: value.detach().clone() for name, value in weights.items()}

    def finish(self) -> int:
        """Put the best weights back; the update they are from."""
        if self.best_weights is None:
            return len(self.rows) - 1
        with torch.no_grad():
            self.critic.reward.learned.load_state_dict(self.best_weights)
        return self.best_update

    def state_dict(self) -> dict[str, Any]:
        """Everything but the critic, which is a part of its own."""
        return {name: value for name, value in vars(self).items() if name != "critic"}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on there."""
        vars(self).update(state)


def warm_up(
    critic: Critic,
    rollouts: Sequence[Rollout],
    *,
    log: Callable[[dict[str, float]], None] | None = None,
    checkpoints: Checkpoints | None = None,
    parts: Mapping[str, Stateful] | None = None,
) -> WarmUp:
    """Update `critic` on `rollouts` of its demonstrations' questions and keep the weights that discriminate best on
    the held-out demonstrations (AUROC of experts against rollouts and corruptions of those questions).

    A look before `warmup_at_least` updates keeps and stops nothing: with few held-out demonstrations it is noise.
    Without held-out demonstrations all updates run and the last weights stay.
    checkpoints: with them a warm-up goes on from the newest one; `parts` are saved beside the critic.
    """
    settings = critic.settings
    held_ids = {d.problem.id for d in critic.held_out}
    critic.remember([r for r in rollouts if r.problem_id not in held_ids])
    check = critic.positives(critic.held_out)
    check += critic.corruptions(critic.held_out, random.Random("held-out corruptions"))
    check += critic.rollouts([r for r in rollouts if r.problem_id in held_ids])
    early = bool(critic.held_out) and len({e.label for e in check}) == 2
    course = _Course(critic)
    saved: dict[str, Stateful] = {"critic": critic, "course": course, **(parts or {})}
    if checkpoints is not None:
        checkpoints.load(saved)
    stopped = "all updates done"
    for update in range(len(course.rows), settings.warmup_updates + 1):
        row: dict[str, float] = {"step": update}
        if update:
            row |= critic.update([])
        if early and update % settings.check_every == 0:
            row["held_out_loss"], row["held_out_auroc"] = critic.discrimination(check)
            if update >= min(settings.warmup_at_least, settings.warmup_updates):
                course.look(update, row["held_out_auroc"])
        course.rows.append(row)
        if log is not None:
            log(row)
        if course.waited >= settings.patience:
            stopped = f"held-out AUROC did not rise for {course.waited * settings.check_every} updates"
            break
        if checkpoints is not None and checkpoints.due(update) and update < settings.warmup_updates:
            checkpoints.save(update, saved)
    kept = course.finish()
    return WarmUp(tuple(course.rows), kept, stopped)
