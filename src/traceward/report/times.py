"""How the time of a policy step divides into its parts, as the metrics of a run say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from traceward.report.tables import POLICY

PREFIX = "seconds_"


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Mean seconds of each part of a step of one stage, in the order they were logged."""

    label: str
    parts: dict[str, float]

    @property
    def total(self) -> float:
        """Seconds of a whole step."""
        return sum(self.parts.values())


def step_times(rows: Sequence[Mapping[str, object]]) -> list[StepTimes]:
    """One for each stage whose rows have times; the first step, which warms caches up, is left out where it can be."""
    labels = {method.key: method.label for method in POLICY}
    found = []
    for stage in dict.fromkeys(str(row.get("stage")) for row in rows):
        timed: list[dict[str, float]] = []
        for row in rows:
            times = {k.removeprefix(PREFIX): v for k, v in row.items() if k.startswith(PREFIX)}
            if times and str(row.get("stage")) == stage:
                timed.append({name: float(v) for name, v in times.items() if isinstance(v, int | float)})
        if timed:
            means = {name: fmean(row.get(name, 0.0) for row in timed[1:] or timed) for name in timed[0]}
            found.append(StepTimes(labels.get(stage, stage.replace("_", " ")), means))
    return found
