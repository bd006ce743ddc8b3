"""The measure by which each benchmark of marked first errors ranks a method, overall and by subset.

Every measure is a function of sums over traces, so one bootstrap serves them all (`bootstrap_measure`). What a method
says of a trace is counted in expectation: ties and chance are exact, nothing is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from traceward.data.benchmarks import ORIGINAL, Benchmark
from traceward.errors import ConfigError
from traceward.evaluation.localise import (
    CHANCE,
    CONSTANT,
    NO_ERROR,
    LabelledTrace,
    best_constant,
    expected_hit,
    predict_first_error,
)
from traceward.evaluation.scorer import REWARD
from traceward.evaluation.statistics import Array, Estimate, bootstrap_measure

OVERALL = "overall"
Measure = Callable[[Array], Array]  # (b, 8) sums -> (b,), NaN where it is not defined

# What is counted of a trace. Steps are counted only where every wrong one is known.
_ERRONEOUS, _EXACT, _SUSPECTED, _FREE, _SPARED = range(5)  # traces: with an error, its step named, called wrong; …
_KEPT, _BLAMED, _MISSED, _CAUGHT = range(
    5, 9
)  # steps: right ones let pass and flagged, wrong ones let pass and flagged
_COLUMNS = 9


def _share(some: Array, of: Array) -> Array:
    found: Array = np.divide(some, of, out=np.full(some.shape, np.nan), where=of > 0)
    return found


def _harmonic(a: Array, b: Array) -> Array:
    """2ab / (a + b); 0 where both are 0."""
    return np.divide(2 * a * b, a + b, out=np.where(np.isnan(a + b), np.nan, 0.0), where=a + b > 0)


def step_accuracy(sums: Array) -> Array:
    """Share of erroneous traces whose first wrong step is named exactly."""
    return _share(sums[:, _EXACT], sums[:, _ERRONEOUS])


def error_free_accuracy(sums: Array) -> Array:
    """Share of error-free traces in which no step is called wrong."""
    return _share(sums[:, _SPARED], sums[:, _FREE])


def f1(sums: Array) -> Array:
    """ProcessBench: harmonic mean of the accuracies on erroneous and on error-free traces."""
    return _harmonic(step_accuracy(sums), error_free_accuracy(sums))


def accuracy(sums: Array) -> Array:
    """BIG-Bench-Mistake: share of all traces that are told exactly, "no mistake" included."""
    return _share(sums[:, _EXACT] + sums[:, _SPARED], sums[:, _ERRONEOUS] + sums[:, _FREE])


def mcc(sums: Array) -> Array:
    """Matthews correlation of "has an error" with "is called wrong"; 0 where one of them never varies."""
    tp, fp = sums[:, _SUSPECTED], sums[:, _FREE] - sums[:, _SPARED]
    fn, tn = sums[:, _ERRONEOUS] - tp, sums[:, _SPARED]
    scale = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return np.divide(tp * tn - fp * fn, scale, out=np.zeros(scale.shape), where=scale > 0)


def mr_score(sums: Array) -> Array:
    """Mr-Ben and MR-GSM8K: 0.2 max(0, MCC) + 0.3 step accuracy, at most 0.5. The third term, 0.5 for the explanation
    of the error, is out of reach for a reward: it writes none."""
    return 0.2 * np.maximum(0, mcc(sums)) + 0.3 * step_accuracy(sums)


def right_step_f1(sums: Array) -> Array:
    """F1 over steps, right ones as the positive class."""
    kept = sums[:, _KEPT]
    return _share(2 * kept, 2 * kept + sums[:, _BLAMED] + sums[:, _MISSED])


def wrong_step_f1(sums: Array) -> Array:
    """F1 over steps, wrong ones as the positive class."""
    caught = sums[:, _CAUGHT]
    return _share(2 * caught, 2 * caught + sums[:, _BLAMED] + sums[:, _MISSED])


def prm_score(sums: Array) -> Array:
    """PRMBench: mean of the two F1 over steps."""
    return (right_step_f1(sums) + wrong_step_f1(sums)) / 2


@dataclass(frozen=True, slots=True)
class Scheme:
    """measures: by name, the official one first.  mean_of_subsets: how subsets become one number, else all traces
    together.  decides: a method may say "no error", so it takes a threshold.  apart: a subset outside the overall."""

    measures: Mapping[str, Measure]
    mean_of_subsets: bool = False
    decides: bool = True
    apart: str | None = None


F1 = Scheme({"F1": f1, "erroneous": step_accuracy, "error-free": error_free_accuracy})
EXACT = Scheme({"step accuracy": step_accuracy}, decides=False)
SCHEMES: Mapping[Benchmark, Scheme] = {
    Benchmark.PROCESSBENCH: Scheme(F1.measures, mean_of_subsets=True),
    Benchmark.BIG_BENCH_MISTAKE: Scheme(
        {"accuracy": accuracy, "erroneous": step_accuracy, "error-free": error_free_accuracy, "F1": f1}
    ),
    Benchmark.MR_BEN: Scheme(
        {"MR-Score (of 50)": mr_score, "MCC": mcc, "step accuracy": step_accuracy}, mean_of_subsets=True
    ),
    Benchmark.MR_GSM8K: Scheme({"MR-Score (of 50)": mr_score, "MCC": mcc, "step accuracy": step_accuracy}),
    Benchmark.PRMBENCH: Scheme(
        {"PRMScore": prm_score, "F1, right steps": right_step_f1, "F1, wrong steps": wrong_step_f1}, apart=ORIGINAL
    ),
    Benchmark.VERIFY_THEN_GENERATE: EXACT,
}


def scheme_of(benchmark: Benchmark, items: Sequence[LabelledTrace]) -> Scheme:
    """The benchmark's scheme; `EXACT` where the traces lack the error-free ones that it takes."""
    one_kind = all(item.first_error != NO_ERROR for item in items)
    return EXACT if one_kind and benchmark is not Benchmark.PRMBENCH else SCHEMES[benchmark]


@dataclass(frozen=True, slots=True)
class OfficialRow:
    """values: every measure, None where it is not defined.  official: the first with its interval.
    behind: the reward's less this one, paired on the same resamples; None for the reward itself."""

    values: Mapping[str, float | None]
    official: Estimate | None
    behind: Estimate | None


@dataclass(frozen=True, slots=True)
class OfficialTable:
    """rows: group -> method.  counts: group -> (erroneous, error-free) traces.  The last group is `overall`."""

    scheme: Scheme
    rows: Mapping[str, Mapping[str, OfficialRow]]
    counts: Mapping[str, tuple[int, int]]


def official_table(
    scheme: Scheme,
    subsets: Mapping[str, Sequence[LabelledTrace]],
    *,
    thresholds: Mapping[str, float] | None = None,
    constant: int | None = None,
    seed: int,
) -> OfficialTable:
    """Every method that has what the scheme takes, then the constant index and chance; `overall` after the subsets.

    thresholds: of each method, tuned on other traces; a method without one has no row where the scheme decides.
    constant: as in `localise_table`. Chance names each step and "no error" equally often; of a step it says by a fair
    coin whether it is wrong.
    """
    if scheme.decides and not thresholds:
        raise ConfigError("thresholds must be given for this measure: got none; tune them on other traces")
    items = [item for some in subsets.values() for item in some]
    index = best_constant(items) if constant is None else constant
    limits: dict[str, float | None] = dict(thresholds or {}) if scheme.decides else dict.fromkeys(items[0].suspicion)
    counts = {name: [_counted(item, *_said(item, name, limit)) for item in items] for name, limit in limits.items()}
    counts[CONSTANT] = [_counted(item, *_constant(item, index)) for item in items]
    counts[CHANCE] = [_counted(item, *_chance(item, scheme.decides)) for item in items]
    columns = {name: np.array(rows) for name, rows in counts.items()}
    problems = np.array([item.problem_id for item in items])
    owner = np.array([name for name, some in subsets.items() for _ in some])
    inside = owner != scheme.apart
    groups = {name: owner == name for name in subsets} | {OVERALL: inside if inside.any() else ~inside}
    blocks = list(dict.fromkeys(owner[groups[OVERALL]].tolist())) if scheme.mean_of_subsets else []
    rows = {}
    for group, where in groups.items():
        split = blocks if group == OVERALL else []
        here = {name: _blocks(column[where], owner[where], split) for name, column in columns.items()}
        measures = {name: _mean(measure, len(split)) for name, measure in scheme.measures.items()}
        rows[group] = _rows(here, measures, problems[where].tolist(), seed)
    sums = {group: columns[CHANCE][where].sum(axis=0) for group, where in groups.items()}
    return OfficialTable(scheme, rows, {group: (int(s[_ERRONEOUS]), int(s[_FREE])) for group, s in sums.items()})


def _rows(
    columns: Mapping[str, Array], measures: Mapping[str, Measure], problems: Sequence[str], seed: int
) -> dict[str, OfficialRow]:
    def point(name: str, measure: Measure) -> float | None:
        value = float(measure(columns[name].sum(axis=0, keepdims=True))[0])
        return None if np.isnan(value) else value

    first = next(iter(measures.values()))
    found = {}
    for name in columns:
        official = behind = None
        if point(name, first) is not None:
            official = bootstrap_measure(columns[name], first, seed=seed, problems=problems)
            if name != REWARD and REWARD in columns:
                ours = columns[REWARD]
                behind = bootstrap_measure(ours, first, minus=columns[name], seed=seed, problems=problems)
        found[name] = OfficialRow({m: point(name, measure) for m, measure in measures.items()}, official, behind)
    return found


def _blocks(columns: Array, owner: np.ndarray[tuple[int, ...], np.dtype[np.str_]], blocks: Sequence[str]) -> Array:
    """(n, blocks x columns): the counts of a trace stand in the block of its subset; no blocks: as they are."""
    return np.hstack([columns * (owner == block)[:, None] for block in blocks]) if blocks else columns


def _mean(measure: Measure, blocks: int) -> Measure:
    """The measure's mean over the blocks of `_blocks`."""
    if not blocks:
        return measure

    def mean(sums: Array) -> Array:
        found: Array = measure(sums.reshape(-1, _COLUMNS)).reshape(-1, blocks).mean(axis=1)
        return found

    return mean


def _counted(item: LabelledTrace, exact: float, suspected: float, flags: Array) -> list[float]:
    """The counts of one trace.   exact: P(what is named is the label).  suspected: P(some step is called wrong).
    flags: P(a step is called wrong), of each."""
    erroneous = item.first_error != NO_ERROR
    found = [0.0] * _COLUMNS
    if erroneous:
        found[_ERRONEOUS], found[_EXACT], found[_SUSPECTED] = 1.0, exact, suspected
    else:
        found[_FREE], found[_SPARED] = 1.0, 1 - suspected
    if item.error_steps or not erroneous:
        wrong = np.zeros(item.units, dtype=bool)
        wrong[list(item.error_steps)] = True
        found[_KEPT], found[_BLAMED] = float((1 - flags[~wrong]).sum()), float(flags[~wrong].sum())
        found[_MISSED], found[_CAUGHT] = float((1 - flags[wrong]).sum()), float(flags[wrong].sum())
    return found


def _said(item: LabelledTrace, name: str, threshold: float | None) -> tuple[float, float, Array]:
    doubts = np.asarray(item.suspicion[name], dtype=np.float64)
    if threshold is None:
        top = doubts == doubts.max()
        return expected_hit(doubts, item.first_error), 1.0, top / top.sum()
    above = (doubts > threshold).astype(np.float64)
    return float(predict_first_error(doubts, threshold=threshold) == item.first_error), above.max(), above


def _constant(item: LabelledTrace, index: int) -> tuple[float, float, Array]:
    place = min(index, item.units - 1)
    return float(place == item.first_error), 1.0, np.eye(1, item.units, place)[0]


def _chance(item: LabelledTrace, decides: bool) -> tuple[float, float, Array]:
    choices = item.units + decides
    return 1 / choices, item.units / choices, np.full(item.units, 0.5)
