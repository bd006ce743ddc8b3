"""Where the time of a policy step goes: seconds of each part, in the metrics of every step.

    rollout         sampling from the policy
    discriminator   its updates, and what they sample for themselves
    scoring         rewards and advantages
    policy          log-probs of policy and reference, loss, backward pass, optimiser
    other           everything else inside a step

A part's time is its own: what a nested part takes is not counted twice.
"""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from collections.abc import Callable
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

if TYPE_CHECKING:
    from trl import GRPOTrainer

# Methods of a trainer and the part that they are, the seams of traceward.training.adversarial among them. TRL's own
# trainer has all but the second.
METHODS = {
    "_generate": "rollout",
    "_update_critic": "discriminator",
    "_calculate_rewards": "scoring",
    "_generate_and_score_completions": "policy",
    "training_step": "policy",
}
PARTS = (*dict.fromkeys(METHODS.values()), "other")
PREFIX = "seconds/"


class Clock:
    """Adds up the seconds of named parts, each without those inside it."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.now = now
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside: list[str] = []
        self._since = now()

    def turn(self) -> None:
        """Give the time since the last turn to the part that was running."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = self.now()
        self.seconds[self._inside[-1] if self._inside else "other"] += now - self._since
        self._since = now

    def start(self, name: str) -> None:
        """From now on the time is that of `name`, until `stop`."""
        self.turn()
        self._inside.append(name)

    def stop(self) -> None:
        """The part that started last is over."""
        self.turn()
        self._inside.pop()

    def take(self) -> dict[str, float]:
        """The seconds of every part since the last time; all of the time is in one of them."""
        self.turn()
        taken = {name: self.seconds.get(name, 0.0) for name in PARTS}
        self.seconds.clear()
        return taken


class StepTimes(TrainerCallback):  # type: ignore[misc]
    """Times the parts of `trainer` and puts their means over the steps since the last log into what it logs."""

    def __init__(self, trainer: GRPOTrainer) -> None:
        self.clock = Clock()
        self.steps: list[dict[str, float]] = []
        self._log = trainer.log
        trainer.log = self.log
        for method, part in METHODS.items():
            if hasattr(trainer, method):
                setattr(trainer, method, self._timed(getattr(trainer, method), part))

    def _timed(self, method: Callable[..., Any], part: str) -> Callable[..., Any]:
        @functools.wraps(method)
        def run(*arguments: Any, **options: Any) -> Any:
            self.clock.start(part)
            try:
                return method(*arguments, **options)
            finally:
                self.clock.stop()

        return run

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """What came before is of no step."""
        self.clock.take()

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        """The optimiser steps outside the trainer's methods."""
        self.clock.start("policy")

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        """The step is over; what callbacks do at its end is left out."""
        self.clock.stop()
        self.steps.append(self.clock.take())

    def log(self, logs: dict[str, float], *arguments: Any, **options: Any) -> None:
        """In place of the trainer's `log`."""
        if self.steps:
            logs |= {PREFIX + part: fmean(step[part] for step in self.steps) for part in PARTS}
            self.steps.clear()
        self._log(logs, *arguments, **options)
