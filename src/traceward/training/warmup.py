"""Warm-up: the discriminator alone, against a frozen policy, stopped by held-out demonstrations."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from traceward.records import Rollout
from traceward.training.checkpoints import Checkpoints, Stateful
from traceward.training.critic import Critic
from traceward.training.learner import what_learns


@dataclass(frozen=True, slots=True)
class WarmUp:
    """What a warm-up did: its metric rows, the update whose weights were kept, and why it stopped."""

    rows: tuple[dict[str, float], ...]
    kept: int
    stopped: str


def auroc_error(auroc: float, experts: int, others: int) -> float:
    """Standard error of an AUROC over so many traces of each class.

    The formula says that a perfect AUROC cannot err. Here one has the error of 1 - 1/4 expert.
    Source: Hanley and McNeil 1982, "The meaning and use of the area under a ROC curve", equation 1.
    """
    auroc = min(auroc, 1 - 1 / (4 * experts))
    both_experts, both_others = auroc / (2 - auroc), 2 * auroc**2 / (1 + auroc)
    variance = auroc * (1 - auroc)
    variance += (experts - 1) * (both_experts - auroc**2) + (others - 1) * (both_others - auroc**2)
    return math.sqrt(max(0.0, variance) / (experts * others))


class _Course:
    """How a warm-up has gone so far: its rows, and the last weights that were not worse than the best ones."""

    def __init__(self, critic: Critic) -> None:
        self.critic = critic
        self.rows: list[dict[str, float]] = []
        self.best = -1.0
        self.error = 0.0  # of the best AUROC
        self.kept_update = 0
        self.kept_weights: dict[str, torch.Tensor] | None = None
        self.waited = 0  # looks since the weights that are kept

    def look(self, update: int, auroc: float, error: float) -> None:
        """Keep the weights, unless their AUROC is below the best one by more than its standard error."""
        if auroc > self.best:
            self.best, self.error = auroc, error
        self.waited += 1
        if auroc >= self.best - self.error:
            self.kept_update, self.waited = update, 0
            weights = what_learns(self.critic.reward.learned)
            self.kept_weights = {name: value.detach().clone() for name, value in weights.items()}

    def finish(self) -> int:
        """Put the kept weights back; the update they are from."""
        if self.kept_weights is None:
            return len(self.rows) - 1
        with torch.no_grad():
            self.critic.reward.learned.load_state_dict(self.kept_weights, strict=False)
        return self.kept_update

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
    """Update `critic` on `rollouts` of its demonstrations' questions for as long as it discriminates no worse on the
    held-out demonstrations (AUROC of experts against rollouts and corruptions of those questions).

    Worse is more than a standard error below the best look: the fewer demonstrations are held out, the less a look
    can tell, and the more of the updates are done. Rerank and localisation go on rising long after that AUROC has
    (docs/LOG.md), so of looks that do not differ the last is kept. A look before `warmup_at_least` updates keeps and
    stops nothing; without held-out demonstrations all updates run.
    checkpoints: with them a warm-up goes on from the newest one; `parts` are saved beside the critic.
    """
    settings = critic.settings
    held_ids = {d.problem.id for d in critic.held_out}
    critic.remember([r for r in rollouts if r.problem_id not in held_ids])
    check = critic.positives(critic.held_out)
    check += critic.corruptions(critic.held_out, random.Random("held-out corruptions"))
    check += critic.rollouts([r for r in rollouts if r.problem_id in held_ids])
    experts = sum(e.label for e in check)
    early = 0 < experts < len(check)
    course = _Course(critic)
    saved: dict[str, Stateful] = {"critic": critic, "course": course, **(parts or {})}
    if checkpoints is not None:
        checkpoints.load(saved)
    stopped = "all updates done"
    for update in range(len(course.rows), settings.warmup_updates + 1):
        row: dict[str, float] = {"step": update}
        if update:
            row |= critic.update([])
        if early and (update % settings.check_every == 0 or update == settings.warmup_updates):
            row["held_out_loss"], row["held_out_auroc"] = critic.discrimination(check)
            if update >= min(settings.warmup_at_least, settings.warmup_updates):
                error = auroc_error(row["held_out_auroc"], experts, len(check) - experts)
                course.look(update, row["held_out_auroc"], error)
        course.rows.append(row)
        if log is not None:
            log(row)
        if course.waited >= settings.patience:
            stopped = f"held-out AUROC was below its best for {course.waited * settings.check_every} updates"
            break
        if checkpoints is not None and checkpoints.due(update) and update < settings.warmup_updates:
            checkpoints.save(update, saved)
    kept = course.finish()
    return WarmUp(tuple(course.rows), kept, stopped)
