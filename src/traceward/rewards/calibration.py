"""From a reward's score to the probability of being right: maps fitted on validation traces and saved with the reward.

Scores stay what they are; a probability stands beside them. A map never falls, so it changes no order. Both kinds are
functions of one number:
* temperature: sigmoid(score / T + offset), T > 0 (Platt 1999; the offset, because a sum of log-probs is below 0 in
  right traces too);
* isotonic: the best non-falling step function, linear between its knots (Zadrozny & Elkan 2002).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression
from sklearn.model_selection import GroupKFold

from traceward.errors import DataError
from traceward.records import CalibrationMethod

Array = NDArray[np.float64]
FOLDS = 5


@dataclass(frozen=True, slots=True)
class ProbabilityMap:
    """numbers: of temperature (slope = 1 / T, offset); of isotonic the scores of its knots, then the probabilities."""

    method: CalibrationMethod
    numbers: tuple[float, ...]

    def __call__(self, scores: ArrayLike) -> Array:
        """Probabilities of scores; beyond the outermost knots those of the knots."""
        values = np.asarray(scores, dtype=np.float64)
        if self.method is CalibrationMethod.TEMPERATURE:
            slope, offset = self.numbers
            return np.asarray(expit(slope * values + offset), dtype=np.float64)
        knots, probabilities = np.split(np.array(self.numbers), 2)
        return np.asarray(np.interp(values, knots, probabilities), dtype=np.float64)


def fit_map(method: CalibrationMethod, scores: ArrayLike, labels: Sequence[bool]) -> ProbabilityMap:
    """The map that fits best. Where low scores are right more often than high ones, it is the base rate everywhere."""
    values, truth = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=bool)
    if method is CalibrationMethod.ISOTONIC:
        found = IsotonicRegression(out_of_bounds="clip").fit(values, truth.astype(np.float64))
        return ProbabilityMap(method, (*found.X_thresholds_.tolist(), *found.y_thresholds_.tolist()))
    # Platt's targets: short of 0 and 1, so that scores that separate the labels have a finite best slope too.
    right, wrong = int(truth.sum()), int((~truth).sum())
    targets = np.where(truth, (right + 1) / (right + 2), 1 / (wrong + 2))
    centre, spread = values.mean(), values.std() or 1.0
    scaled = (values - centre) / spread

    def loss(at: Array) -> tuple[float, Array]:
        z = at[0] * scaled + at[1]
        gap = expit(z) - targets
        return float(np.mean(np.logaddexp(0, z) - targets * z)), np.array([np.mean(gap * scaled), np.mean(gap)])

    slope, offset = minimize(loss, [1.0, 0.0], jac=True, method="L-BFGS-B", bounds=[(0, None), (None, None)]).x
    return ProbabilityMap(method, (float(slope / spread), float(offset - slope * centre / spread)))


def out_of_fold(method: CalibrationMethod, scores: ArrayLike, labels: Sequence[bool], problems: Sequence[str]) -> Array:
    """Each trace's probability by a map fitted on other problems. Raises DataError unless there are two problems."""
    values, truth = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=bool)
    folds = min(FOLDS, len(set(problems)))
    if folds < 2:
        raise DataError(f"problems must be at least 2 to calibrate: got {folds}; add traces of other questions")
    found = np.empty_like(values)
    for rest, held in GroupKFold(folds).split(values, groups=np.asarray(problems)):
        found[held] = fit_map(method, values[rest], truth[rest].tolist())(values[held])
    return found


def choose_method(scores: ArrayLike, labels: Sequence[bool], problems: Sequence[str]) -> CalibrationMethod:
    """The method with the lower squared error out of fold; temperature where they are equal."""
    truth = np.asarray(labels, dtype=np.float64)

    def brier(method: CalibrationMethod) -> float:
        return float(np.mean((out_of_fold(method, scores, labels, problems) - truth) ** 2))

    return min(CalibrationMethod, key=brier)


@dataclass(frozen=True, slots=True)
class Calibration:
    """trace: exported reward -> P(the answer is right).
    step: -suspicion -> P(a step is right, where all before it are).
    threshold: a step with a suspicion above it is wrong.   Each None where validation had no labels for it.

    traces: keys of the traces it was fitted on (`trace_key`): on them, nothing may be measured.
    """

    trace: ProbabilityMap | None
    step: ProbabilityMap | None
    threshold: float | None
    traces: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """What calibration.json holds; numbers read back bit for bit."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Calibration:
        """What `as_json` wrote. Raises KeyError, TypeError or ValueError where it is something else."""
        maps = {
            name: None
            if found[name] is None
            else ProbabilityMap(CalibrationMethod(found[name]["method"]), _floats(found[name]))
            for name in ("trace", "step")
        }
        threshold = found["threshold"]
        return cls(
            **maps, threshold=None if threshold is None else float(threshold), traces=tuple(map(str, found["traces"]))
        )


def _floats(found: Mapping[str, Any]) -> tuple[float, ...]:
    numbers = tuple(float(number) for number in found["numbers"])
    if len(numbers) < 2 or len(numbers) % 2:
        raise ValueError(f"numbers must be pairs: got {len(numbers)}")
    return numbers
