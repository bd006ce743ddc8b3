"""Name the first wrong step: suspicion, prediction, threshold, the localise table, and `localise`.

Everything is computed on *suspicion*: one number per unit, high = wrong, on one grid (the steps, then the answer line
where there is one) for every method. `suspicion` alone knows the sign and meaning of a reward's logits;
`logprob_suspicion` and `entropy_suspicion` those of its rivals.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike

from traceward.errors import ConfigError, DataError
from traceward.evaluation.scorer import REWARD, Scorer, score_traces
from traceward.evaluation.statistics import Array, Estimate, bootstrap_ratio, chance_normalised, finite, harmonic_mean
from traceward.records import Head, Problem, ScoredTrace, Trace

SFT_LOG_RATIO = "sft_log_ratio"
METHODS = (REWARD, "sft_logprob", SFT_LOG_RATIO, "base_logprob", "entropy")  # rows that are always in the table
CONSTANT, CHANCE = "constant", "chance"
NO_ERROR = -1
_ROUNDING = 1e-3  # nats above 0 that a sum of 16-bit log-probs may show


def increments(head: Head, unit_logits: ArrayLike) -> Array:
    """What each unit adds to the reward; high = good (method, "Readouts are named").

    log-ratio: the logit itself.  scalar: the logit is a level, so its change; the first unit against 0.
    """
    logits = finite("unit logits", unit_logits)
    return logits if head is Head.LOG_RATIO else np.diff(logits, prepend=0.0)


def suspicion(head: Head, read: ScoredTrace) -> Array:
    """How wrong each unit of a reward's reading looks; high = wrong. The first wrong step is its maximum.

    log-ratio: by the lowest token of the unit. A step is wrong as soon as one of its tokens is; in their sum, what
    the others gained makes up for it.   scalar: by the drop of the logit, > 0 where it falls at all.
    """
    return 0.0 - (finite("unit lows", read.unit_lows) if read.unit_lows else increments(head, read.unit_logits))


def suspicions(name: str, head: Head, read: ScoredTrace) -> dict[str, tuple[float, ...]]:
    """The rows that one scorer gives a localisation table: a reward or log-ratio its own and, of a log-ratio head, the
    lowest token of what it exports (`NAME_exported`); a model's log-prob two, the drop over whole units and, as the
    reward is read, the least likely token (`NAME_token`)."""
    if name in (REWARD, SFT_LOG_RATIO):
        exported = {f"{name}_exported": read.exported_lows} if read.exported_lows else {}
        rows = {name: suspicion(head, read)} | {row: 0.0 - finite(row, lows) for row, lows in exported.items()}
        return {row: tuple(values.tolist()) for row, values in rows.items()}
    drops = {name: read.unit_logits, f"{name}_token": read.unit_lows}
    return {row: tuple(logprob_suspicion(values).tolist()) for row, values in drops.items() if values}


def logprob_suspicion(unit_logprobs: ArrayLike, unit_tokens: ArrayLike | None = None) -> Array:
    """The log-prob drop: minus the summed log-prob (nats) of each unit, per token where token counts are given."""
    logprobs = finite("unit log-probs", unit_logprobs)
    if logprobs.max() > _ROUNDING:
        raise DataError(f"unit log-probs must not be positive: got {logprobs.max()}; give log p, not -log p")
    tokens = np.ones_like(logprobs) if unit_tokens is None else finite("unit tokens", unit_tokens)
    if tokens.shape != logprobs.shape or tokens.min() < 1:
        raise DataError(f"unit tokens must count at least one token for each unit: got {tokens.tolist()}; count again")
    return 0.0 - logprobs / tokens


def entropy_suspicion(unit_entropies: ArrayLike) -> Array:
    """The entropy spike: the policy's entropy (nats, mean or maximum over a unit's tokens), as it is."""
    entropies = finite("unit entropies", unit_entropies)
    if entropies.min() < -_ROUNDING:
        raise DataError(f"unit entropies must not be negative: got {entropies.min()}; give H, not -H")
    return entropies


def predict_first_error(suspicion: ArrayLike, *, threshold: float | None = None) -> int:
    """Index of the first wrong unit.

    Without a threshold: the most suspicious unit, the first of equals. With one: the first unit strictly above it, -1
    where none is.
    """
    values = finite("suspicion", suspicion)
    if threshold is None:
        return int(values.argmax())
    above = np.flatnonzero(values > _not_nan(threshold))
    return int(above[0]) if above.size else NO_ERROR


def first_error_probabilities(step_probabilities: ArrayLike) -> tuple[Array, float]:
    """P(a unit is the first wrong one) of each, and P(none is); together 1.

    step_probabilities: P(the unit is right, where all before it are), of each.
    """
    right = finite("step probabilities", step_probabilities)
    if right.min() < 0 or right.max() > 1:
        raise DataError(f"step probabilities must lie between 0 and 1: got {right.min()} to {right.max()}; calibrate")
    so_far = np.cumprod(right)
    return np.concatenate([[1.0], so_far[:-1]]) * (1 - right), float(so_far[-1])


def tune_threshold(suspicions: Sequence[ArrayLike], first_errors: Sequence[int]) -> float:
    """The threshold with the highest ProcessBench F1 on validation traces; the lowest such where several are best.

    A trace's prediction changes only where the threshold passes a running maximum of its suspicion, so every gap
    between two such values is tried, and the middle of the best gap returned. Raises DataError unless there are both
    erroneous and error-free traces.
    """
    _both_kinds(first_errors)
    arrays = [finite("suspicion", values) for values in suspicions]
    records = [_records(values) for values in arrays]
    edges = np.unique(np.concatenate([values[index] for values, index in zip(arrays, records, strict=True)]))
    # Gap j holds the thresholds in [edges[j - 1], edges[j]); right[kind, j] changes by +1 and -1 where a trace
    # becomes and stops being predicted right.
    right = np.zeros((2, edges.size + 2))
    for values, index, first in zip(arrays, records, first_errors, strict=True):
        _check_index(first, values.size)
        gaps = np.searchsorted(edges, values[index]) + 1  # from gap g on, a record is not above the threshold
        if first == NO_ERROR:
            right[1, gaps[-1]] += 1
        elif first in index:
            place = int(np.flatnonzero(index == first)[0])
            right[0, gaps[place - 1] if place else 0] += 1
            right[0, gaps[place]] -= 1
    erroneous = sum(first != NO_ERROR for first in first_errors)
    shares = right.cumsum(axis=1)[:, :-1] / [[erroneous], [len(first_errors) - erroneous]]
    f1 = np.array([harmonic_mean(a, b) for a, b in shares.T])
    best = int(f1.argmax())
    low = edges[best - 1] if best else edges[0] - 1.0
    high = edges[best] if best < edges.size else edges[-1] + 1.0
    middle = float(low + (high - low) / 2)
    return middle if middle < high else float(low)


def _records(values: Array) -> np.ndarray[tuple[int, ...], np.dtype[np.intp]]:
    """Indices at which a running maximum rises."""
    before = np.concatenate([[-np.inf], np.maximum.accumulate(values)[:-1]])
    return np.flatnonzero(values > before)


@dataclass(frozen=True, slots=True)
class LabelledTrace:
    """A trace whose first wrong unit is known (-1: none), with the suspicion of each method on the same units.

    error_steps: every wrong unit, where that is known; else empty.
    """

    problem_id: str
    first_error: int
    suspicion: Mapping[str, tuple[float, ...]]
    error_steps: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.suspicion:
            raise DataError(
                f"suspicion must hold at least one method: got none in problem {self.problem_id!r}; add one"
            )
        if taken := {CONSTANT, CHANCE} & set(self.suspicion):
            raise DataError(f"suspicion must not take the name of a row: got {sorted(taken)}; rename it")
        sizes = {
            name: finite(f"suspicion {name!r} of {self.problem_id!r}", v).size for name, v in self.suspicion.items()
        }
        if len(set(sizes.values())) > 1:
            raise DataError(
                f"suspicion must have one value per unit for every method: got {sizes} in problem "
                f"{self.problem_id!r}; read all methods on the same steps"
            )
        _check_index(self.first_error, self.units)
        if self.error_steps and min(self.error_steps) != self.first_error:
            raise DataError(
                f"error steps must begin at the first error {self.first_error}: got {list(self.error_steps)}; mend one"
            )

    @property
    def units(self) -> int:
        """How many units the grid has."""
        return len(next(iter(self.suspicion.values())))


class ConstantFrom(StrEnum):
    """Which traces the best constant index was chosen on."""

    SAME_TRACES = "same-traces"  # in hindsight: the strongest constant there is
    VALIDATION = "validation"


@dataclass(frozen=True, slots=True)
class LocaliseRow:
    """One method on erroneous traces.

    map: mean reciprocal rank of the wrong unit.  normalised: (hit@1 - chance) / (1 - chance), None where every trace
    is one unit.
    """

    hit_at_1: Estimate
    hit_within_1: Estimate
    map: Estimate
    normalised: Estimate | None


@dataclass(frozen=True, slots=True)
class LocaliseTable:
    """rows: None where a method of METHODS was not measured.  n: erroneous traces.  constant: the index of that row.
    hits: for each measured method its expected Hit@1 in every erroneous trace, in order.
    """

    n: int
    rows: Mapping[str, LocaliseRow | None]
    constant: int
    constant_from: ConstantFrom
    hits: Mapping[str, tuple[float, ...]]


def localise_table(items: Sequence[LabelledTrace], *, seed: int, constant: int | None = None) -> LocaliseTable:
    """Every method beside chance and the best constant index, on the erroneous traces of `items`.

    Ties count in expectation. Intervals resample problems. `constant` is the index that `best_constant` chose on
    validation; without it, it is chosen here, on the same traces, which favours that row.
    """
    erroneous = _erroneous(items)
    index = best_constant(items) if constant is None else constant
    if index < 0:
        raise ConfigError(f"constant must be an index: got {index}; use best_constant on validation traces")
    names = list(dict.fromkeys((*METHODS, *erroneous[0].suspicion)))
    rows: dict[str, LocaliseRow | None] = {
        name: _row(erroneous, [item.suspicion[name] for item in erroneous], seed)
        if name in erroneous[0].suspicion
        else None
        for name in names
    }
    rows[CONSTANT] = _row(erroneous, [_closeness(index, item.units) for item in erroneous], seed)
    rows[CHANCE] = _row(erroneous, [np.zeros(item.units) for item in erroneous], seed)
    source = ConstantFrom.SAME_TRACES if constant is None else ConstantFrom.VALIDATION
    hits = {
        name: tuple(expected_hit(item.suspicion[name], item.first_error) for item in erroneous)
        for name in erroneous[0].suspicion
    }
    return LocaliseTable(len(erroneous), rows, index, source, hits)


def best_constant(items: Sequence[LabelledTrace]) -> int:
    """The index that is most often the first error; in a trace that is too short it means the last unit."""
    erroneous = _erroneous(items)

    def hits(index: int) -> int:
        return sum(min(index, item.units - 1) == item.first_error for item in erroneous)

    return max(range(max(item.units for item in erroneous)), key=hits)


def _closeness(index: int, units: int) -> Array:
    """A constant guess as a suspicion: units rank by how near they are."""
    near: Array = -np.abs(np.arange(units, dtype=np.float64) - index)
    return near


def _erroneous(items: Sequence[LabelledTrace]) -> list[LabelledTrace]:
    found = [item for item in items if item.first_error != NO_ERROR]
    if not found:
        raise DataError(
            f"items must hold at least one erroneous trace: got none of {len(items)}; label wrong traces too"
        )
    for item in items:
        if set(item.suspicion) != set(items[0].suspicion):
            raise DataError(
                f"suspicion must be of the same methods in every trace: got {sorted(item.suspicion)} in problem "
                f"{item.problem_id!r} and {sorted(items[0].suspicion)} in {items[0].problem_id!r}; read all of them"
            )
    return found


def _row(items: Sequence[LabelledTrace], suspicions: Iterable[ArrayLike], seed: int) -> LocaliseRow:
    measures = np.array([_measures(s, item.first_error) for s, item in zip(suspicions, items, strict=True)])
    chance = np.array([1 / item.units for item in items])
    problems = [item.problem_id for item in items]
    hit, within, rank = (
        bootstrap_ratio(column, np.ones_like(column), seed=seed, problems=problems) for column in measures.T
    )
    return LocaliseRow(hit, within, rank, chance_normalised(measures[:, 0], chance, seed=seed, problems=problems))


def expected_hit(suspicion: ArrayLike, first_error: int) -> float:
    """P(the most suspicious unit is `first_error`), ties in random order."""
    values = np.asarray(suspicion, dtype=np.float64)
    return float((np.flatnonzero(values == values.max()) == first_error).mean())


def _measures(suspicion: ArrayLike, first_error: int) -> tuple[float, float, float]:
    """Expected hit@1, hit within one unit, and reciprocal rank, with ties in random order."""
    values = np.asarray(suspicion, dtype=np.float64)
    top = np.flatnonzero(values == values.max())
    higher = int((values > values[first_error]).sum())
    tied = int((values == values[first_error]).sum())
    ranks = np.arange(higher + 1, higher + tied + 1)
    return expected_hit(values, first_error), float((np.abs(top - first_error) <= 1).mean()), float((1 / ranks).mean())


@dataclass(frozen=True, slots=True)
class Localisation:
    """step_scores: what each step adds (high = good).  suspicion: high = wrong.  first_error: an index, -1 = none."""

    step_scores: tuple[float, ...]
    suspicion: tuple[float, ...]
    first_error: int


def localise(reward: Scorer, problem: Problem, trace: Trace, *, threshold: float | None = None) -> Localisation:
    """The first wrong step of a trace, counting from 0; the answer line has the index len(trace.steps).

    Without a threshold one unit is always named: the most suspicious. `tune_threshold` gives one that
    allows "no error".
    """
    read = score_traces(reward, problem, [trace])[0]
    logits = read.unit_logits
    expected = len(trace.steps) + (trace.answer is not None)
    if len(logits) != expected:
        raise DataError(
            f"unit logits must be one per step and one for the answer line: got {len(logits)} for {expected} in "
            f"problem {problem.id!r}; split the steps at line breaks"
        )
    scores, doubts = increments(reward.head, logits), suspicion(reward.head, read)
    return Localisation(
        tuple(scores.tolist()), tuple(doubts.tolist()), predict_first_error(doubts, threshold=threshold)
    )


def _not_nan(threshold: float) -> float:
    if np.isnan(threshold):
        raise ConfigError("threshold must be a number: got nan; tune it on validation, or use 0")
    return threshold


def _check_index(first_error: int, units: int) -> None:
    if not NO_ERROR <= first_error < units:
        raise DataError(f"first error must lie between -1 and {units - 1}: got {first_error}; count units from 0")


def _both_kinds(first_errors: Sequence[int]) -> None:
    erroneous = sum(first != NO_ERROR for first in first_errors)
    if not 0 < erroneous < len(first_errors):
        raise DataError(
            f"first errors must hold erroneous and error-free traces: got {erroneous} erroneous of "
            f"{len(first_errors)}; add the other kind"
        )
