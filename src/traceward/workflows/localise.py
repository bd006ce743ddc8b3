"""`traceward localise`: name the first wrong step of each trace, and measure it where labels are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from traceward.data.demonstrations import question_key
from traceward.data.traces import TraceRecord, read_traces
from traceward.errors import ConfigError, DataError
from traceward.evaluation.localise import (
    NO_ERROR,
    LabelledTrace,
    LocaliseTable,
    ProcessBench,
    best_constant,
    localise_table,
    predict_first_error,
    processbench_f1,
    suspicion,
    suspicions,
    tune_threshold,
)
from traceward.records import Head
from traceward.workflows import TooLong
from traceward.workflows.score import (
    Progress,
    Readings,
    Scorer,
    open_scorers,
    read_scores,
    score_row,
    silent,
    skipped_row,
)

OVERALL = "overall"
REWARD = "reward"


@dataclass(frozen=True, slots=True)
class LocaliseResult:
    """rows: the file's rows with what was found.  tables and f1: for `overall` and each source that can be measured.

    thresholds: a step whose suspicion is above it is wrong.
    """

    rows: tuple[dict[str, Any], ...]
    tables: Mapping[str, LocaliseTable]
    f1: Mapping[str, Mapping[str, ProcessBench]]  # source -> method
    thresholds: Mapping[str, float]
    tuned_on: str | None
    labelled: int
    skipped: int

    def as_json(self) -> dict[str, Any]:
        """What --json writes."""
        return {
            "traces": len(self.rows),
            "labelled": self.labelled,
            "skipped": self.skipped,
            "thresholds": dict(self.thresholds),
            "tuned_on": self.tuned_on,
            "tables": {source: _table_json(table) for source, table in self.tables.items()},
            "processbench": {source: {name: asdict(f1) for name, f1 in row.items()} for source, row in self.f1.items()},
        }


def _table_json(table: LocaliseTable) -> dict[str, Any]:
    rows = {name: None if row is None else asdict(row) for name, row in table.rows.items()}
    return {"n": table.n, "constant": table.constant, "constant_from": str(table.constant_from), "rows": rows}


def localise_file(
    traces: Path,
    *,
    reward: Path,
    base: str | None = None,
    sft: str | None = None,
    threshold: float | None = None,
    tune: Path | None = None,
    too_long: TooLong = TooLong.ERROR,
    seed: int = 0,
    progress: Progress = silent,
) -> LocaliseResult:
    """Predict the first wrong step of every trace.

    Without a threshold one is always named: the most suspicious. `threshold` is the reward's; `tune` is another file
    with labels, on which every method gets its own. Raises ConfigError for both at once, DataError where `tune` shares
    a trace with `traces`.
    """
    if threshold is not None and tune is not None:
        raise ConfigError(f"threshold must be given or tuned: got {threshold} and a file to tune on; leave one out")
    records = read_traces(traces)
    tuning = read_traces(tune) if tune is not None else []
    _refuse_shared(traces, records, tune, tuning)
    scorers = open_scorers(reward, base=base, sft=sft)
    limits = {} if threshold is None else {REWARD: threshold}
    constant = None
    if tune is not None:
        readings = read_scores(scorers, tuning, tune, too_long=too_long, progress=progress)
        examples = [item for item, _ in _labelled(scorers, tuning, readings)]
        limits = _tune(tune, examples, scorers)
        constant = best_constant(examples)
    readings = read_scores(scorers, records, traces, too_long=too_long, progress=progress)
    labelled = _labelled(scorers, records, readings)
    sources = _by_source(labelled)
    return LocaliseResult(
        rows=tuple(_row(i, r, readings, scorers[REWARD].head, limits.get(REWARD)) for i, r in enumerate(records)),
        tables={
            name: localise_table(some, seed=seed, constant=constant)
            for name, some in sources.items()
            if any(item.first_error != NO_ERROR for item in some)
        },
        f1={name: row for name, some in sources.items() if (row := _f1(some, limits))},
        thresholds=limits,
        tuned_on=None if tune is None else str(tune),
        labelled=len(labelled),
        skipped=len(readings.skipped),
    )


def _refuse_shared(
    path: Path, records: Sequence[TraceRecord], tune: Path | None, tuning: Sequence[TraceRecord]
) -> None:
    """A threshold tuned on a trace that it is then measured on says nothing."""
    if tune is None:
        return
    lines = {_identity(record): record.line for record in tuning}
    shared = tuple(
        DataError.at(path, record.line, "steps", f"must not be in the file to tune on: got the trace of {tune}:{line}")
        for record in records
        if (line := lines.get(_identity(record))) is not None
    )
    if shared:
        raise DataError(
            f"tune must be a file of other traces: got {len(shared)} of {len(records)} in both; split the data first",
            problems=shared,
        )


def _identity(record: TraceRecord) -> tuple[str, tuple[str, ...], str | None]:
    return question_key(record.problem.question), record.trace.steps, record.trace.answer


def _labelled(
    scorers: Mapping[str, Scorer], records: Sequence[TraceRecord], readings: Readings
) -> list[tuple[LabelledTrace, str]]:
    """The traces that were read and whose first error is known, with their source."""
    found = []
    for index, record in enumerate(records):
        if record.first_error is None or index in readings.skipped:
            continue
        doubts: dict[str, tuple[float, ...]] = {}
        for name, scorer in scorers.items():
            doubts |= suspicions(name, scorer.head, readings.read(name, index))
        source = record.raw.get("source")
        item = LabelledTrace(record.problem.id, record.first_error, doubts)
        found.append((item, source if isinstance(source, str) else ""))
    return found


def _by_source(labelled: Sequence[tuple[LabelledTrace, str]]) -> dict[str, list[LabelledTrace]]:
    """All of them, then those of each source where there are several."""
    found = {OVERALL: [item for item, _ in labelled]} if labelled else {}
    sources = list(dict.fromkeys(source for _, source in labelled))
    if len(sources) > 1:
        found |= {name or "(no source)": [item for item, source in labelled if source == name] for name in sources}
    return found


def _tune(path: Path, examples: Sequence[LabelledTrace], scorers: Mapping[str, Scorer]) -> dict[str, float]:
    first = [item.first_error for item in examples]
    if not 0 < sum(index != NO_ERROR for index in first) < len(first):
        raise DataError(
            f"{path} must hold traces with a first_error and traces without one (-1): got {len(first)} labelled traces "
            "of one kind only; tune on a file with both"
        )
    return {name: tune_threshold([item.suspicion[name] for item in examples], first) for name in scorers}


def _f1(some: Sequence[LabelledTrace], limits: Mapping[str, float]) -> dict[str, ProcessBench]:
    """ProcessBench F1 of each method that has a threshold; nothing where only one kind of trace is there."""
    first = [item.first_error for item in some]
    if not limits or not 0 < sum(index != NO_ERROR for index in first) < len(first):
        return {}
    return {
        name: processbench_f1([predict_first_error(i.suspicion[name], threshold=limit) for i in some], first)
        for name, limit in limits.items()
    }


def _row(index: int, record: TraceRecord, readings: Readings, head: Head, limit: float | None) -> dict[str, Any]:
    if index in readings.skipped:
        return skipped_row(record, readings.skipped[index])
    found = readings.read(REWARD, index)
    doubts = suspicion(head, found)
    named = {"suspicion": doubts.tolist(), "predicted_first_error": predict_first_error(doubts, threshold=limit)}
    return {**score_row(record, head, found), **named}
