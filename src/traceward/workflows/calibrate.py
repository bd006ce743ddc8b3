"""`traceward calibrate`: fit probabilities and a threshold to labelled traces, and save them with the reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import brier_score_loss

from traceward.data.traces import TraceRecord, read_traces
from traceward.errors import DataError
from traceward.evaluation.localise import NO_ERROR, suspicion, tune_threshold
from traceward.evaluation.statistics import Array, Bin, Estimate, auroc, expected_calibration_error, reliability
from traceward.records import CalibrationMethod, Head, ScoredTrace
from traceward.rewards.calibration import Calibration, ProbabilityMap, choose_method, fit_map, out_of_fold
from traceward.rewards.files import save_calibration
from traceward.workflows import TooLong
from traceward.workflows.rerank import correctness
from traceward.workflows.score import Progress, open_scorers, read_scores, silent

CROSS_VALIDATED = "cross-validated"


@dataclass(frozen=True, slots=True)
class Labelled:
    """A reading with what is known of its trace.   correct: its answer is right.   first_error: -1 = none."""

    problem_id: str
    key: str
    read: ScoredTrace
    correct: bool | None
    first_error: int | None


@dataclass(frozen=True, slots=True)
class _Points:
    """Scores (high = right) with their labels and problems: of whole traces, or of single steps."""

    scores: Array
    labels: tuple[bool, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Quality:
    """How good probabilities are.   n: traces or steps.   share: of them right.   bins: of the reliability plot.

    auroc: of the scores. ece, brier: of the probabilities; lower is better.
    """

    n: int
    share: float
    auroc: Estimate
    ece: float
    brier: float
    bins: tuple[Bin, ...]


def _traces(items: Sequence[Labelled]) -> _Points | None:
    some = [(item.read.exported, item.correct, item.problem_id) for item in items if item.correct is not None]
    return _points([(score, bool(right), problem) for score, right, problem in some])


def _steps(items: Sequence[Labelled], head: Head) -> _Points | None:
    """The steps up to the first wrong one; what comes after it follows from it, and has no label of its own."""
    found: list[tuple[float, bool, str]] = []
    for item in items:
        if item.first_error is None:
            continue
        doubts = suspicion(head, item.read)
        last = doubts.size if item.first_error == NO_ERROR else item.first_error + 1
        found += [(-doubt, at != item.first_error, item.problem_id) for at, doubt in enumerate(doubts[:last].tolist())]
    return _points(found)


def _points(found: Sequence[tuple[float, bool, str]]) -> _Points | None:
    """None where one of the labels is missing: nothing can be fitted then, nor measured."""
    if len({label for _, label, _ in found}) < 2:
        return None
    scores, labels, problems = zip(*found, strict=True)
    return _Points(np.array(scores), labels, problems)


def quality(points: _Points, probabilities: Array, *, seed: int) -> Quality:
    """Measure probabilities of `points`; they must come from other traces."""
    return Quality(
        len(points.labels),
        float(np.mean(points.labels)),
        auroc(points.scores, list(points.labels), seed=seed, problems=points.problems),
        expected_calibration_error(probabilities, list(points.labels)),
        float(brier_score_loss(points.labels, probabilities)),
        reliability(probabilities, list(points.labels)),
    )


def fit_calibration(
    items: Sequence[Labelled], head: Head, method: CalibrationMethod | None = None
) -> Calibration | None:
    """Maps and threshold, as far as the labels go; None where they allow none of them.

    method: of both maps; left out, for each the one that cross-validation over problems prefers.
    """

    def fitted(points: _Points | None) -> ProbabilityMap | None:
        if points is None or len(set(points.problems)) < 2:
            return None
        chosen = method or choose_method(points.scores, points.labels, points.problems)
        return fit_map(chosen, points.scores, points.labels)

    known = [(suspicion(head, item.read), item.first_error) for item in items if item.first_error is not None]
    both = 0 < sum(first != NO_ERROR for _, first in known) < len(known)
    threshold = tune_threshold([doubts for doubts, _ in known], [first for _, first in known]) if both else None
    trace, step = fitted(_traces(items)), fitted(_steps(items, head))
    if trace is None and step is None and threshold is None:
        return None
    return Calibration(trace, step, threshold, tuple(sorted({item.key for item in items})))


def measure_calibration(
    items: Sequence[Labelled], head: Head, calibration: Calibration, *, seed: int
) -> dict[str, Quality]:
    """`trace` and `step` on other traces than it was fitted on, where they have labels."""
    sides = {"trace": (calibration.trace, _traces(items)), "step": (calibration.step, _steps(items, head))}
    return {
        name: quality(points, found(points.scores), seed=seed)
        for name, (found, points) in sides.items()
        if found is not None and points is not None
    }


@dataclass(frozen=True, slots=True)
class CalibrateResult:
    """quality: kind of map ("trace", "step") -> method -> measures, `measured_on` other traces or cross-validated."""

    reward: Path
    calibration: Calibration
    quality: Mapping[str, Mapping[CalibrationMethod, Quality]]
    measured_on: str
    traces: int
    skipped: int

    def method(self, kind: str) -> CalibrationMethod | None:
        """The method that was saved."""
        found: ProbabilityMap | None = getattr(self.calibration, kind)
        return None if found is None else found.method

    def as_json(self) -> dict[str, Any]:
        """What --json writes."""
        rows = {kind: {str(m): asdict(q) for m, q in found.items()} for kind, found in self.quality.items()}
        return {
            "traces": self.traces,
            "skipped": self.skipped,
            "threshold": self.calibration.threshold,
            "method": {kind: self.method(kind) for kind in ("trace", "step")},
            "measured_on": self.measured_on,
            "quality": rows,
        }


def calibrate_file(
    traces: Path,
    *,
    reward: Path,
    method: CalibrationMethod | None = None,
    test: Path | None = None,
    too_long: TooLong = TooLong.ERROR,
    seed: int = 0,
    progress: Progress = silent,
) -> CalibrateResult:
    """Fit on `traces`, save with the reward, and measure on `test`, or on the same traces by cross-validation.

    Raises DataError where no label lets anything be fitted, or where `test` shares a trace with `traces`.
    """
    scorers = open_scorers(reward)
    head = scorers["reward"].head

    def labelled(path: Path) -> tuple[list[TraceRecord], list[Labelled], int]:
        records = read_traces(path)
        readings = read_scores(scorers, records, path, too_long=too_long, progress=progress)
        items = [
            Labelled(r.problem.id, r.key, readings.read("reward", at), correctness(r), r.first_error)
            for at, r in enumerate(records)
            if at not in readings.skipped
        ]
        return records, items, len(readings.skipped)

    records, items, skipped = labelled(traces)
    found = fit_calibration(items, head, method)
    if found is None:
        raise DataError(
            f"{traces} must hold right and wrong traces of at least two questions: got no such labels in "
            f"{len(records)} rows; add final_correct, a reference answer or first_error"
        )
    measured: dict[str, dict[CalibrationMethod, Quality]] = {}
    if test is None:
        for kind, points in (("trace", _traces(items)), ("step", _steps(items, head))):
            if points is not None and getattr(found, kind) is not None:
                measured[kind] = {
                    m: quality(points, out_of_fold(m, points.scores, points.labels, points.problems), seed=seed)
                    for m in CalibrationMethod
                }
    else:
        others, held, _ = labelled(test)
        refuse_shared(test, others, {r.key: f"{traces}:{r.line}" for r in records}, "calibrate on")
        for kind, one in measure_calibration(held, head, found, seed=seed).items():
            measured[kind] = {getattr(found, kind).method: one}
    save_calibration(reward, found)
    return CalibrateResult(reward, found, measured, str(test or CROSS_VALIDATED), len(records), skipped)


def refuse_shared(path: Path, records: Sequence[TraceRecord], tuned: Mapping[str, str], what: str) -> None:
    """What was tuned on a trace says nothing when it is measured on it.   tuned: trace key -> where it was."""
    shared = tuple(
        DataError.at(path, record.line, "steps", f"must not be among the traces to {what}: got that of {place}")
        for record in records
        if (place := tuned.get(record.key)) is not None
    )
    if shared:
        raise DataError(
            f"{path} must hold other traces than those to {what}: got {len(shared)} of {len(records)} in both; split "
            "the data first",
            problems=shared,
        )
