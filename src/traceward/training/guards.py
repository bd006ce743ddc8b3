"""Alarms: what a run's own metrics say when it goes wrong, in words, as it happens.

A look is a row of metrics: one per policy step, one per update in warm-up. An alarm speaks of whole windows of looks,
never of one odd batch, and is told once; again only after its condition has been false. What each means and what to do
about it: docs/guards.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean
from typing import Any

import numpy as np

from traceward.training.settings import GuardSettings

_WATCHED = (
    "accuracy",
    "form_auroc",
    "reward",
    "completion_length",
    "kl",
    "entropy",
    "reward_length_correlation",
)


class AlarmKind(StrEnum):
    """What can go wrong."""

    SATURATED = "discriminator-saturated"
    FORM = "form-separates-classes"
    LENGTH = "reward-up-length-away"
    KL = "reward-up-kl-away"
    ENTROPY = "entropy-collapse"
    CORRELATION = "reward-follows-length"


@dataclass(frozen=True, slots=True)
class Alarm:
    """One alarm, with the look that raised it, what was seen and the limit that it broke."""

    step: int
    kind: AlarmKind
    message: str


class Guards:
    """Watches one stage's metrics. Plain numbers in, alarms out."""

    def __init__(self, settings: GuardSettings) -> None:
        self.settings = settings
        self._first: dict[str, list[float]] = {}
        self._last: dict[str, list[float]] = {}
        self._looks: dict[str, int] = {}
        self._on: set[str] = set()

    def watch(self, step: int, row: Mapping[str, float]) -> list[Alarm]:
        """Take a look; returns the alarms whose condition it made true. Metrics that a row lacks stay as they were."""
        size = self.settings.window
        for name in _WATCHED:
            if name in row:
                self._looks[name] = self._looks.get(name, 0) + 1
                self._first[name] = [*self._first.get(name, []), row[name]][:size]
                self._last[name] = [*self._last.get(name, []), row[name]][-size:]
        found = {kind: message for kind, condition in CONDITIONS.items() if (message := condition(self))}
        new = [Alarm(step, kind, message) for kind, message in found.items() if kind not in self._on]
        self._on = {str(kind) for kind in found}
        return new

    def now(self, name: str) -> float | None:
        """Mean of the last window of looks at a metric; None before there is a whole one."""
        return fmean(self._last[name]) if self._looks.get(name, 0) >= self.settings.window else None

    def change(self, name: str) -> tuple[float, float] | None:
        """Means of the first and of the last window; None while the two overlap."""
        apart = self._looks.get(name, 0) >= 2 * self.settings.window
        return (fmean(self._first[name]), fmean(self._last[name])) if apart else None

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps; JSON."""
        return {"first": self._first, "last": self._last, "looks": self._looks, "on": sorted(self._on)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        self._first, self._last, self._looks = dict(state["first"]), dict(state["last"]), dict(state["looks"])
        self._on = set(state["on"])


def saturated(guards: Guards) -> str | None:
    """The discriminator is always right: its reward no longer says which rollout is the better one."""
    accuracy, limit = guards.now("accuracy"), guards.settings.saturated_accuracy
    if accuracy is None or accuracy < limit:
        return None
    return f"discriminator accuracy must stay below {limit:g}: got {accuracy:.3f}"


def form_separates(guards: Guards) -> str | None:
    """Length, ending, tags and a last line break are enough to tell the discriminator's classes apart."""
    auroc, limit = guards.now("form_auroc"), guards.settings.form_auroc
    if auroc is None or auroc <= limit:
        return None
    return f"AUROC of a trace's form alone must be at most {limit:g}: got {auroc:.2f}"


def length_away(guards: Guards) -> str | None:
    """The reward rises while traces become much longer or much shorter."""
    length, limit = guards.change("completion_length"), guards.settings.length_ratio
    if not _rises(guards) or length is None or length[0] / limit <= length[1] <= length[0] * limit:
        return None
    return (
        f"length must stay within {limit:g} times that of the start while the reward rises: got {length[1]:.0f} tokens "
        f"from {length[0]:.0f}"
    )


def kl_away(guards: Guards) -> str | None:
    """The reward rises while the policy runs away from the start policy."""
    kl, limit = guards.now("kl"), guards.settings.kl
    if not _rises(guards) or kl is None or kl <= limit:
        return None
    return f"KL must stay below {limit:g} nats per token while the reward rises: got {kl:.2f}"


def _rises(guards: Guards) -> bool:
    reward = guards.change("reward")
    return reward is not None and reward[1] > reward[0]


def entropy_collapse(guards: Guards) -> str | None:
    """The policy has stopped exploring: all rollouts of a question are becoming the same."""
    entropy, share = guards.change("entropy"), guards.settings.entropy_share
    if entropy is None or entropy[1] >= share * entropy[0]:
        return None
    return f"entropy must stay above {share:g} of its start: got {entropy[1]:.3g} nats per token from {entropy[0]:.3g}"


def reward_follows_length(guards: Guards) -> str | None:
    """Inside a question, the rollouts that earn more are the longer ones, or the shorter ones."""
    tied, limit = guards.now("reward_length_correlation"), guards.settings.length_correlation
    if tied is None or abs(tied) <= limit:
        return None
    return f"correlation of reward and length inside a question must stay within ±{limit:g}: got {tied:+.2f}"


CONDITIONS: dict[AlarmKind, Callable[[Guards], str | None]] = {
    AlarmKind.SATURATED: saturated,
    AlarmKind.FORM: form_separates,
    AlarmKind.LENGTH: length_away,
    AlarmKind.KL: kl_away,
    AlarmKind.ENTROPY: entropy_collapse,
    AlarmKind.CORRELATION: reward_follows_length,
}


def correlation_inside(left: Sequence[float], right: Sequence[float], group: int) -> float:
    """Pearson's, of deviations from the mean of each row's group (`group` neighbours); 0 where a side never varies."""
    a, b = (np.asarray(side, dtype=np.float64).reshape(-1, group) for side in (left, right))
    a, b = (a - a.mean(1, keepdims=True)).ravel(), (b - b.mean(1, keepdims=True)).ravel()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 1e-9 else 0.0
