"""`traceward localise`: name the first wrong step of each trace, and measure it where labels are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from traceward.data.benchmarks import Benchmark, Entry, recognise
from traceward.data.traces import TraceRecord, read_traces
from traceward.errors import ConfigError, DataError
from traceward.evaluation.localise import (
    NO_ERROR,
    LabelledTrace,
    LocaliseTable,
    best_constant,
    first_error_probabilities,
    localise_table,
    predict_first_error,
    suspicion,
    suspicions,
    tune_threshold,
)
from traceward.evaluation.official import F1, OVERALL, OfficialTable, official_table, scheme_of
from traceward.evaluation.scorer import REWARD
from traceward.records import ScoredTrace
from traceward.rewards.calibration import ProbabilityMap
from traceward.rewards.files import CALIBRATION
from traceward.rewards.model import RewardModel
from traceward.workflows import TooLong
from traceward.workflows.calibrate import Labelled, fit_calibration, refuse_shared
from traceward.workflows.heatmap import example, token_scores
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

LABELLED = "labelled traces"  # the name of those that are of no benchmark


@dataclass(frozen=True, slots=True)
class LocaliseResult:
    """rows: the file's rows with what was found.  tables: for `overall` and each source that can be measured.

    official: benchmark -> its own measure; `labelled traces` -> ProcessBench F1 of those of no benchmark.
    undecided: benchmarks whose measure lets a method say "no error", where no threshold says when.
    thresholds: a step whose suspicion is above it is wrong.  examples: the first rows as the report draws them.
    """

    rows: tuple[dict[str, Any], ...]
    examples: tuple[dict[str, Any], ...]
    tables: Mapping[str, LocaliseTable]
    official: Mapping[str, OfficialTable]
    undecided: tuple[str, ...]
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
            "official": {name: _official_json(table) for name, table in self.official.items()},
        }


def _table_json(table: LocaliseTable) -> dict[str, Any]:
    rows = {name: None if row is None else asdict(row) for name, row in table.rows.items()}
    return {"n": table.n, "constant": table.constant, "constant_from": str(table.constant_from), "rows": rows}


def _official_json(table: OfficialTable) -> dict[str, Any]:
    return {
        group: {
            "erroneous": table.counts[group][0],
            "error_free": table.counts[group][1],
            "rows": {name: asdict(row) for name, row in rows.items()},
        }
        for group, rows in table.rows.items()
    } | {"measure": next(iter(table.scheme.measures))}


@dataclass(frozen=True, slots=True)
class _Decision:
    """What other traces say: thresholds by method, the reward's step map, the constant index, and where from."""

    thresholds: Mapping[str, float]
    step: ProbabilityMap | None = None
    constant: int | None = None
    source: str | None = None


def localise_file(
    traces: Path,
    *,
    reward: Path,
    base: str | None = None,
    sft: str | None = None,
    threshold: float | None = None,
    tune: Path | None = None,
    tokens: bool = False,
    examples: int = 0,
    too_long: TooLong = TooLong.ERROR,
    seed: int = 0,
    progress: Progress = silent,
) -> LocaliseResult:
    """Predict the first wrong step of every trace.

    `threshold` is the reward's; `tune` is another file with labels, on which every method gets its own; with neither,
    the reward's calibration has one for the reward. Without any, one step is always named: the most suspicious.
    tokens: read every token too.   examples: how many rows are returned as the report draws them.
    Raises ConfigError for both at once, DataError where a threshold was tuned on traces that it would be measured on.
    """
    if threshold is not None and tune is not None:
        raise ConfigError(f"threshold must be given or tuned: got {threshold} and a file to tune on; leave one out")
    records = read_traces(traces)
    entries = recognise(records, traces)
    tuning = read_traces(tune) if tune is not None else []
    refuse_shared(traces, records, {r.key: f"{tune}:{r.line}" for r in tuning}, "tune on")
    scorers = open_scorers(reward, base=base, sft=sft)
    learned = scorers[REWARD]
    assert isinstance(learned, RewardModel)
    if tune is not None:
        decision = _tuned(tune, tuning, scorers, too_long, progress)
    else:
        decision = _saved(traces, records, learned, reward, threshold)
    readings = read_scores(scorers, records, traces, too_long=too_long, progress=progress)
    labelled = _labelled(scorers, records, entries, readings)
    sources = _by_source(records, labelled)
    official, undecided = _official(entries, records, labelled, decision, seed)
    wanted = [at for at in range(len(records)) if at not in readings.skipped]
    rows = {at: _row(records[at], readings.read(REWARD, at), learned, decision) for at in wanted}
    pieces = token_scores(learned, {at: records[at] for at in wanted}, progress) if tokens else {}
    rows = {at: {**row, "token_scores": pieces[at]} if at in pieces else row for at, row in rows.items()}
    return LocaliseResult(
        rows=tuple(rows.get(at) or skipped_row(r, readings.skipped[at]) for at, r in enumerate(records)),
        examples=tuple(
            example(records[at], rows[at], pieces.get(at), chances=decision.step is not None)
            for at in wanted[:examples]
        ),
        tables={
            name: localise_table(some, seed=seed, constant=decision.constant)
            for name, some in sources.items()
            if any(item.first_error != NO_ERROR for item in some)
        },
        official=official,
        undecided=undecided,
        thresholds=decision.thresholds,
        tuned_on=decision.source,
        labelled=len(labelled),
        skipped=len(readings.skipped),
    )


def _saved(
    path: Path, records: Sequence[TraceRecord], learned: RewardModel, place: Path, threshold: float | None
) -> _Decision:
    """The threshold that was given, or the one that is saved with the reward."""
    saved = learned.calibration
    step = None if saved is None else saved.step
    if threshold is not None:
        return _Decision({REWARD: threshold}, step)
    if saved is None or saved.threshold is None:
        return _Decision({}, step)
    known = [record for record in records if record.first_error is not None]
    refuse_shared(path, known, dict.fromkeys(saved.traces, str(place)), "calibrate on")
    return _Decision({REWARD: saved.threshold}, step, source=str(place / CALIBRATION))


def _tuned(
    path: Path, tuning: Sequence[TraceRecord], scorers: Mapping[str, Scorer], too_long: TooLong, progress: Progress
) -> _Decision:
    readings = read_scores(scorers, tuning, path, too_long=too_long, progress=progress)
    examples = list(_labelled(scorers, tuning, [None] * len(tuning), readings).values())
    first = [item.first_error for item in examples]
    if not 0 < sum(index != NO_ERROR for index in first) < len(first):
        raise DataError(
            f"{path} must hold traces with a first_error and traces without one (-1): got {len(first)} labelled traces "
            "of one kind only; tune on a file with both"
        )
    names = examples[0].suspicion
    thresholds = {name: tune_threshold([item.suspicion[name] for item in examples], first) for name in names}
    known = [
        Labelled(r.problem.id, r.key, readings.read(REWARD, at), None, r.first_error)
        for at, r in enumerate(tuning)
        if at not in readings.skipped
    ]
    fitted = fit_calibration(known, scorers[REWARD].head)
    return _Decision(thresholds, None if fitted is None else fitted.step, best_constant(examples), str(path))


def _labelled(
    scorers: Mapping[str, Scorer], records: Sequence[TraceRecord], entries: Sequence[Entry | None], readings: Readings
) -> dict[int, LabelledTrace]:
    """The traces that were read and whose first error is known, by their index."""
    found = {}
    for index, (record, entry) in enumerate(zip(records, entries, strict=True)):
        if record.first_error is None or index in readings.skipped:
            continue
        doubts: dict[str, tuple[float, ...]] = {}
        for name, scorer in scorers.items():
            doubts |= suspicions(name, scorer.head, readings.read(name, index))
        wrong = entry.error_steps if entry is not None else ()
        found[index] = LabelledTrace(record.problem.id, record.first_error, doubts, wrong)
    return found


def _source(record: TraceRecord) -> str:
    source = record.raw.get("source")
    return source if isinstance(source, str) and source else "(no source)"


def _by_source(records: Sequence[TraceRecord], labelled: Mapping[int, LabelledTrace]) -> dict[str, list[LabelledTrace]]:
    """All of them, then those of each source where there are several."""
    found = {OVERALL: list(labelled.values())} if labelled else {}
    parts: dict[str, list[LabelledTrace]] = {}
    for index, item in labelled.items():
        parts.setdefault(_source(records[index]), []).append(item)
    return found | parts if len(parts) > 1 else found


def _official(
    entries: Sequence[Entry | None],
    records: Sequence[TraceRecord],
    labelled: Mapping[int, LabelledTrace],
    decision: _Decision,
    seed: int,
) -> tuple[dict[str, OfficialTable], tuple[str, ...]]:
    """The tables that can be made, and the benchmarks that lack a threshold."""
    groups: dict[Benchmark | None, dict[str, list[LabelledTrace]]] = {}
    for index, item in labelled.items():
        entry = entries[index]
        subset = _source(records[index]) if entry is None else entry.subset
        groups.setdefault(None if entry is None else entry.benchmark, {}).setdefault(subset, []).append(item)
    found, undecided = {}, []
    for benchmark, subsets in groups.items():
        items = [item for some in subsets.values() for item in some]
        kinds = {item.first_error != NO_ERROR for item in items}
        if True not in kinds or (benchmark is None and len(kinds) < 2):
            continue
        scheme = F1 if benchmark is None else scheme_of(benchmark, items)
        if scheme.decides and not decision.thresholds:
            undecided += [] if benchmark is None else [str(benchmark)]
            continue
        found[LABELLED if benchmark is None else str(benchmark)] = official_table(
            scheme, subsets, thresholds=decision.thresholds, constant=decision.constant, seed=seed
        )
    return found, tuple(undecided)


def _row(record: TraceRecord, found: ScoredTrace, reward: RewardModel, decision: _Decision) -> dict[str, Any]:
    doubts = suspicion(reward.head, found)
    first = predict_first_error(doubts, threshold=decision.thresholds.get(REWARD))
    row = {**score_row(record, reward, found), "suspicion": doubts.tolist(), "predicted_first_error": first}
    if decision.step is None:
        return row
    right = decision.step(0.0 - doubts)
    wrong, none = first_error_probabilities(right)
    return {
        **row,
        "step_probabilities": right.tolist(),
        "first_error_probabilities": wrong.tolist(),
        "error_free_probability": none,
    }
