"""Estimates with bootstrap intervals, and the measures of method, section "Evaluation protocol".

Every interval resamples *clusters* with replacement: the problems. Traces of one problem share its difficulty, so
measures over traces take `problems`, the problem of each value; without it every value is a problem of its own.
Equal seeds draw equal resamples, so that numbers over the same problems can be compared. Shares are between 0 and 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata, spearmanr
from sklearn.metrics import roc_auc_score

from traceward.errors import ConfigError, DataError

Array = NDArray[np.float64]

RESAMPLES = 2000
CONFIDENCE = 0.95
_CHUNK = 500_000  # numbers drawn at once: bounds memory, not results


@dataclass(frozen=True, slots=True)
class Estimate:
    """A measure, its percentile-bootstrap interval, and the number of values that it rests on."""

    value: float
    low: float
    high: float
    n: int


def finite(name: str, values: ArrayLike) -> Array:
    """`values` as a flat array. Raises DataError where there are none, or where one is NaN or infinite."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise DataError(f"{name} must be a flat list of at least one number: got shape {array.shape}; check the input")
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise DataError(f"{name} must be finite: got {array[bad[0]]} at index {bad[0]}; mend or drop what produced it")
    return array


def bootstrap_mean(
    values: ArrayLike, *, seed: int, resamples: int = RESAMPLES, confidence: float = CONFIDENCE
) -> Estimate:
    """The mean of one value per problem."""
    array = finite("values", values)
    return bootstrap_ratio(array, np.ones_like(array), seed=seed, resamples=resamples, confidence=confidence)


def paired_difference(a: ArrayLike, b: ArrayLike, *, seed: int) -> Estimate:
    """The mean of a - b over problems, where a[i] and b[i] belong to the same problem."""
    left, right = finite("a", a), finite("b", b)
    _same_length(a=left, b=right)
    return bootstrap_mean(left - right, seed=seed)


def bootstrap_ratio(
    numerators: ArrayLike,
    denominators: ArrayLike,
    *,
    seed: int,
    problems: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """Sum of numerators over sum of denominators; with denominators of 1, the mean over traces.

    Resamples whose denominators sum to 0 are left out. Raises DataError where all of them do.
    """
    counts = np.column_stack(_checked_run((numerators, denominators)))
    return bootstrap_measure(counts, _ratio, seed=seed, problems=problems, resamples=resamples, confidence=confidence)


def _ratio(sums: Array) -> Array:
    """First column over the second; NaN where that is not above 0."""
    found: Array = np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan), where=sums[:, 1] > 0)
    return found


def chance_normalised(
    values: ArrayLike, chances: ArrayLike, *, seed: int, problems: Sequence[str] | None = None
) -> Estimate | None:
    """How far above chance: (mean value - mean chance) / (1 - mean chance); 0 = chance, 1 = always right.

    chances: what a blind guess gets on the same trace. None where it is always right.
    """
    got, blind = finite("values", values), finite("chances", chances)
    _same_length(values=got, chances=blind)
    if blind.min() >= 1:
        return None
    return bootstrap_ratio(got - blind, 1 - blind, seed=seed, problems=problems)


def bootstrap_measure(
    counts: ArrayLike,
    measure: Callable[[Array], Array],
    *,
    minus: ArrayLike | None = None,
    seed: int,
    problems: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """A measure that depends on the traces through the sums of their counts: an F1, a correlation, a share.

    counts: (traces, k).  measure: (b, k) sums -> (b,), NaN where it is not defined.  minus: (traces, k) of a rival on
    the same traces; the estimate is then the paired difference, both measured on each resample. Resamples without a
    defined value are left out. Raises DataError where the data themselves have none.
    """
    sides = [np.asarray(side, dtype=np.float64) for side in ([counts] if minus is None else [counts, minus])]
    shapes = {side.shape for side in sides}
    if sides[0].ndim != 2 or len(shapes) > 1:
        raise DataError(f"counts must be a row for each trace, alike on both sides: got {sorted(shapes)}; count again")
    clusters = _clusters(problems, len(sides[0]))
    totals = [np.zeros((int(clusters.max()) + 1, side.shape[1])) for side in sides]
    for total, side in zip(totals, sides, strict=True):
        np.add.at(total, clusters, side)

    def difference(drawn: Array) -> Array:
        values = [measure(drawn @ total) for total in totals]
        return values[0] if minus is None else values[0] - values[1]

    (point,) = difference(np.ones((1, len(totals[0]))))
    if not np.isfinite(point):
        raise DataError(f"counts must define the measure: got {point}; give traces of every kind it takes")
    found = np.concatenate([difference(drawn) for drawn in _resample_counts(len(totals[0]), resamples, seed)])
    return _estimate(float(point), found[np.isfinite(found)], len(sides[0]), confidence)


def over_seeds(
    runs: Sequence[tuple[ArrayLike, ArrayLike]],
    *,
    minus: Sequence[tuple[ArrayLike, ArrayLike]] | None = None,
    seed: int,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """The mean over runs (training seeds) of a measure over the same problems; with `minus`, of the paired difference.

    A run is (numerators, denominators), a value per problem; its measure is the ratio of their sums, with
    denominators of 1 the mean. Seeds and problems are both drawn with replacement, independently, and a run is
    re-measured on the drawn problems (the pigeonhole bootstrap, Owen 2007); a run and what is subtracted from it are
    drawn together. Of one run only the problems vary. Few seeds give an interval that is too short: three seeds show
    two thirds of the variance between seeds.   n: runs.
    """
    ratios = [_checked_run(run) for run in runs]
    others = [_checked_run(run) for run in minus] if minus is not None else []
    if not ratios or (minus is not None and len(others) != len(ratios)):
        raise DataError(f"runs must be at least one, and as many on both sides: got {len(ratios)} and {len(others)}")
    sizes = {top.size for top, _ in ratios + others}
    if len(sizes) > 1:
        raise DataError(f"runs must be measured on the same problems: got {sorted(sizes)} of them; measure them alike")

    def measure(counts: Array) -> Array:
        """(S, b) each run's measure, or difference, in each resample; NaN where it is not defined."""
        own = np.stack([_ratio(counts @ np.column_stack(run)) for run in ratios])
        return own - np.stack([_ratio(counts @ np.column_stack(run)) for run in others]) if others else own

    size, generator, found = sizes.pop(), np.random.default_rng([seed, 1]), []
    for counts in _resample_counts(size, resamples, seed):
        values = measure(counts)
        drawn = generator.integers(len(ratios), size=values.shape)
        means = np.take_along_axis(values, drawn, axis=0).mean(axis=0)
        found.append(means[np.isfinite(means)])
    point = measure(np.ones((1, size)))
    return _estimate(float(point.mean()), np.concatenate(found), len(ratios), confidence)


def _checked_run(run: tuple[ArrayLike, ArrayLike]) -> tuple[Array, Array]:
    top, bottom = finite("numerators", run[0]), finite("denominators", run[1])
    _same_length(numerators=top, denominators=bottom)
    if not bottom.sum() > 0:
        raise DataError(f"denominators must sum to more than 0: got {bottom.sum()}; the measure is not defined here")
    return top, bottom


def pass_at_k(n: int, c: int, k: int) -> float:
    """The unbiased estimate of P(some of k samples is right) from c right ones among n (Chen et al. 2021).

    Integers until the last division: exact, whatever the size.
    """
    if not 0 <= c <= n:
        raise ConfigError(f"c must lie between 0 and n = {n}: got {c}; count right samples among all samples")
    if not 1 <= k <= n:
        raise ConfigError(f"k must lie between 1 and n = {n}: got {k}; draw more samples or ask for fewer")
    every = math.comb(n, k)
    return (every - math.comb(n - c, k)) / every


def auroc(
    scores: ArrayLike,
    labels: Sequence[bool] | NDArray[np.bool_],
    *,
    seed: int,
    problems: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """P(a trace labelled True scores higher than one labelled False), ties counting one half.

    Resamples without both labels are left out. Raises DataError where the data themselves lack one.
    """
    array, truth = finite("scores", scores), _labels(labels)
    _same_length(scores=array, labels=truth)
    if truth.all() or not truth.any():
        raise DataError(
            f"labels must hold both True and False: got {bool(truth[0])} only; add traces of the other kind"
        )
    clusters = _clusters(problems, array.size)
    order = np.argsort(array, kind="stable")
    right, owner = truth[order], clusters[order]
    starts = np.flatnonzero(np.diff(array[order], prepend=-np.inf))  # where each distinct score begins
    found = []
    for counts in _resample_counts(int(clusters.max()) + 1, resamples, seed):
        weights = counts[:, owner]
        ups = np.add.reduceat(weights * right, starts, axis=1)
        downs = np.add.reduceat(weights * ~right, starts, axis=1)
        wins = (ups * (downs.cumsum(1) - 0.5 * downs)).sum(1)
        pairs = ups.sum(1) * downs.sum(1)
        found.append(wins[pairs > 0] / pairs[pairs > 0])
    return _estimate(float(roc_auc_score(truth, array)), np.concatenate(found), array.size, confidence)


def length_correlation(scores: ArrayLike, lengths: ArrayLike) -> float:
    """Spearman's rank correlation. Raises DataError where either side never varies: it is not defined there."""
    left, right = finite("scores", scores), finite("lengths", lengths)
    _same_length(scores=left, lengths=right)
    for name, array in (("scores", left), ("lengths", right)):
        if np.all(array == array[0]):
            raise DataError(f"{name} must vary: got {array[0]} everywhere; a correlation needs two values")
    return float(spearmanr(left, right).statistic)


def length_controlled_auroc(
    scores: ArrayLike,
    labels: Sequence[bool] | NDArray[np.bool_],
    lengths: ArrayLike,
    *,
    seed: int,
    problems: Sequence[str] | None = None,
) -> Estimate:
    """AUROC of what is left of the score after length is regressed out.

    Both are turned into ranks, and the residual of a least-squares line takes the place of the score: anything that
    rises or falls with length alone is 0.5 exactly. The line is fitted once, without labels, not in each resample.
    """
    ranks, length_ranks = rankdata(finite("scores", scores)), rankdata(finite("lengths", lengths))
    _same_length(scores=ranks, lengths=length_ranks)
    centred = length_ranks - length_ranks.mean()
    spread = float(centred @ centred)
    slope = float(centred @ ranks) / spread if spread > 0 else 0.0
    return auroc(ranks - slope * centred, labels, seed=seed, problems=problems)


@dataclass(frozen=True, slots=True)
class Bin:
    """The traces whose probability lies in (low, high], 0 in the first: how many, its mean, and the share of True."""

    low: float
    high: float
    n: int
    probability: float
    share: float


def reliability(
    probabilities: ArrayLike, labels: Sequence[bool] | NDArray[np.bool_], bins: int = 10
) -> tuple[Bin, ...]:
    """The non-empty ones of `bins` equal intervals: what a reliability plot shows."""
    if bins < 1:
        raise ConfigError(f"bins must be at least 1: got {bins}; use 10")
    array, truth = finite("probabilities", probabilities), _labels(labels)
    _same_length(probabilities=array, labels=truth)
    if array.min() < 0 or array.max() > 1:
        raise DataError(f"probabilities must lie between 0 and 1: got {array.min()} to {array.max()}; calibrate first")
    where = np.searchsorted(np.arange(1, bins) / bins, array, side="left")
    return tuple(
        Bin(at / bins, (at + 1) / bins, int(hit.sum()), float(array[hit].mean()), float(truth[hit].mean()))
        for at in range(bins)
        if (hit := where == at).any()
    )


def expected_calibration_error(
    probabilities: ArrayLike, labels: Sequence[bool] | NDArray[np.bool_], bins: int = 10
) -> float:
    """Mean gap between probability and share of True over the bins of `reliability`, weighed by their counts."""
    found = reliability(probabilities, labels, bins)
    return math.fsum(b.n * abs(b.probability - b.share) for b in found) / sum(b.n for b in found)


def harmonic_mean(a: float, b: float) -> float:
    """2ab / (a + b) of two shares; 0 where both are 0."""
    for name, value in (("a", a), ("b", b)):
        if not 0 <= value <= 1:
            raise DataError(f"{name} must lie between 0 and 1: got {value}; give shares, not percent")
    return 2 * a * b / (a + b) if a + b > 0 else 0.0


def _labels(labels: Sequence[bool] | NDArray[np.bool_]) -> NDArray[np.bool_]:
    # A missing verdict (None) would turn into False, NaN into True.
    array = np.asarray(labels)
    if array.dtype != np.bool_ or array.ndim != 1:
        raise DataError(f"labels must be booleans: got {array.dtype}; drop what has no verdict")
    return array


def _same_length(**arrays: Array | NDArray[np.bool_]) -> None:
    sizes = {name: array.size for name, array in arrays.items()}
    if len(set(sizes.values())) > 1:
        raise DataError(f"{' and '.join(sizes)} must be equally long: got {sizes}; give one value for each trace")


def _clusters(problems: Sequence[str] | None, size: int) -> NDArray[np.intp]:
    """A number 0..C-1 for each value: its problem."""
    if problems is None:
        return np.arange(size)
    if len(problems) != size:
        raise DataError(f"problems must name the problem of each value: got {len(problems)} for {size}; give one each")
    return np.unique(np.asarray(problems), return_inverse=True)[1]


def _resample_counts(size: int, resamples: int, seed: int) -> Iterator[Array]:
    """(b, size) how often each cluster is drawn, in chunks of b resamples."""
    if resamples < 1:
        raise ConfigError(f"resamples must be at least 1: got {resamples}; use {RESAMPLES}")
    generator = np.random.default_rng(seed)
    chunk = max(1, _CHUNK // size)
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        drawn = generator.integers(size, size=(rows, size)) + size * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * size).reshape(rows, size).astype(np.float64)


def _estimate(value: float, resampled: Array, n: int, confidence: float) -> Estimate:
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence must lie between 0 and 1: got {confidence}; use {CONFIDENCE}")
    # No resample is usable only where next to nothing was measured: the interval then says nothing.
    if resampled.size == 0:
        raise DataError("resamples must hold a defined one: got none; measure more problems")
    low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(value, float(low), float(high), n)
