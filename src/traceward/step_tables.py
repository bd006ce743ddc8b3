"""Tables about single steps: what `localise` and `calibrate` print."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from traceward.tables import NOT_GIVEN, facts_table, name_of, new_table, percent

if TYPE_CHECKING:
    from traceward.evaluation.localise import LocaliseRow, LocaliseTable
    from traceward.evaluation.official import OfficialTable
    from traceward.evaluation.statistics import Estimate
    from traceward.workflows.calibrate import CalibrateResult, Quality
    from traceward.workflows.localise import LocaliseResult

_RIVALS = ("base_logprob", "sft_logprob", "sft_log_ratio")
_KINDS = {"trace": "the answer is right", "step": "a step is right, where all before it are"}


def localise_tables(result: LocaliseResult) -> list[Table]:
    """First wrong step: every method, overall and per source; then each benchmark's own measure."""
    skipped = f"{result.skipped} of {len(result.rows)} traces skipped: longer than the model's context"
    tables: list[Table] = []
    for source, found in result.tables.items():
        where = "chosen on the same traces" if found.constant_from == "same-traces" else "chosen on the file to tune on"
        caption = f"{found.n} erroneous traces; best constant index {found.constant}, {where}"
        if result.skipped and not tables:
            caption += f"\n{skipped}"
        tables.append(_localise_table(f"First wrong step: {source}", found, caption))
    for name, official in result.official.items():
        tables += _official_tables(name, official, result.tuned_on)
    for name in result.undecided:
        tables.append(
            facts_table(
                name, {"recognised": "yes", "its measure": "needs a threshold: --tune FILE, or a calibrated reward"}
            )
        )
    if not tables and result.skipped:
        tables.append(
            facts_table("Traces", {"read": len(result.rows) - result.skipped, "skipped (too long)": result.skipped})
        )
    return tables


def _localise_table(title: str, found: LocaliseTable, caption: str) -> Table:
    table = new_table(title, ("method", "Hit@1", "within ±1", "MAP", "above chance"), caption)
    for name, row in found.rows.items():
        if row is not None:
            table.add_row(name_of(name), *_cells(row))
        elif name in _RIVALS:
            table.add_row(name_of(name), NOT_GIVEN, "", "", "")
    return table


def _cells(row: LocaliseRow) -> tuple[str, ...]:
    above = "–" if row.normalised is None else percent(row.normalised)
    return percent(row.hit_at_1), percent(row.hit_within_1), percent(row.map), above


def _official_tables(name: str, found: OfficialTable, tuned_on: str | None) -> list[Table]:
    """All traces with every measure; below it the subsets with the first, where there are several."""
    *subsets, overall = found.rows
    erroneous, free = found.counts[overall]
    how = "the most suspicious step is named"
    if found.scheme.decides:
        how = f"threshold from {tuned_on}" if tuned_on else "threshold given"
    together = f"; mean of {len(subsets)} subsets" if found.scheme.mean_of_subsets and len(subsets) > 1 else ""
    first, *others = found.scheme.measures
    main = new_table(
        f"{name}: {first}",
        ("method", first, *others, "reward ahead by"),
        f"{erroneous} erroneous and {free} error-free traces{together}; {how}",
    )
    for method, row in found.rows[overall].items():
        main.add_row(
            name_of(method), _estimate(row.official), *(_share(row.values[m]) for m in others), _points(row.behind)
        )
    if len(subsets) < 2:
        return [main]
    heads = [f"{subset.replace('_', ' ')} ({sum(found.counts[subset])})" for subset in subsets]
    table = new_table(f"{name}: {first} by subset (traces)", ("method", *heads))
    for column in table.columns[1:]:
        column.no_wrap = False
    for method in found.rows[overall]:
        table.add_row(name_of(method), *(_share(found.rows[subset][method].values[first]) for subset in subsets))
    return [main, table]


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _estimate(found: Estimate | None) -> str:
    return "–" if found is None else f"{100 * found.value:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def _points(found: Estimate | None) -> str:
    """A difference in points, with its sign."""
    return "" if found is None else f"{100 * found.value:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"


def calibrate_tables(result: CalibrateResult) -> list[Table]:
    """What was saved, how good the probabilities are, and the reliability of those that were saved."""
    saved = result.calibration
    facts: dict[str, object] = {"saved in": result.reward, "traces": result.traces - result.skipped}
    if result.skipped:
        facts["skipped (too long)"] = result.skipped
    facts |= {f"P({_KINDS[kind]})": result.method(kind) or "no labels" for kind in _KINDS}
    facts["threshold of suspicion"] = "no labels" if saved.threshold is None else f"{saved.threshold:.4g}"
    tables = [facts_table("Calibration", facts)]
    for kind, found in result.quality.items():
        table = new_table(
            f"P({_KINDS[kind]}), {result.measured_on}", ("method", "ECE", "Brier", "AUROC of the score", "right", "n")
        )
        for method, one in found.items():
            table.add_row(str(method), f"{one.ece:.3f}", f"{one.brier:.3f}", _auroc(one), _share(one.share), str(one.n))
        tables.append(table)
        chosen = next((one for method, one in found.items() if method == result.method(kind)), None)
        if chosen is not None:
            tables.append(_reliability_table(chosen))
    return tables


def _auroc(found: Quality) -> str:
    return f"{found.auroc.value:.3f} [{found.auroc.low:.3f}, {found.auroc.high:.3f}]"


def _reliability_table(found: Quality) -> Table:
    table = new_table("Reliability", ("probability", "mean", "share right", "n"))
    for part in found.bins:
        table.add_row(f"{part.low:.1f} to {part.high:.1f}", f"{part.probability:.3f}", f"{part.share:.3f}", str(part.n))
    return table
