"""One HTML page, and the numbers on it as JSON, of one or more run directories, of a grid, or of a matrix.

Reads `results.json`, `metrics.jsonl`, `examples.jsonl`, `manifest.json` and `config.json`. What is absent or null is
"not measured" on the page; what is there and wrong is a RunError. Shares are fractions between 0 and 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from traceward.errors import RunError
from traceward.report.alarms import Told, alarms_of
from traceward.report.curves import Panels, health_curves, stage_curves
from traceward.report.figures import PALETTE, Bar, Kind, Series, bar_figure, line_figure
from traceward.report.grid import build_grid_report, is_grid_directory
from traceward.report.page import place_of, template, write_page
from traceward.report.tables import (
    POLICY,
    RERANK,
    Cell,
    Method,
    Row,
    Section,
    Table,
    claim_tables,
    methods_in,
    ranked_table,
    read_object,
    read_rows,
    refuse,
)
from traceward.report.times import StepTimes, step_times
from traceward.report.traces import trace_cards
from traceward.report.transfer import build_transfer_report, is_transfer_directory

SCHEMA = 1
TRACES_SHOWN = 10
_ALONE = (
    ("grid", is_grid_directory, build_grid_report),
    ("matrix", is_transfer_directory, build_transfer_report),
)
CLAIMS = (("rerank", "reward"), ("localise", "reward"), ("policy", "adversarial"))  # table, our row


@dataclass(frozen=True, slots=True)
class Run:
    """Everything a run directory says, read and checked; figures come last."""

    name: str
    results: Section
    traces: list[dict[str, Any]]
    manifest: Mapping[str, Any]
    config: Mapping[str, Any]
    tables: dict[str, Table]
    figures: dict[str, Markup]
    curves: list[tuple[str, list[tuple[str, Markup]]]]
    health: list[tuple[str, Markup]]
    alarms: list[Told] | None
    times: list[StepTimes]


def build_report(run_dirs: Sequence[Path], out: Path | None = None) -> Path:
    """Write the page (and the same name with `.json`) and return its path: `report.html` in the first run by default.

    Raises RunError for a directory that is no run and for files that are torn or break the format; an earlier
    report then stays as it was.
    """
    if not run_dirs:
        raise RunError("report must have a run: got none; name at least one run directory")
    for kind, is_one, build in _ALONE:
        if any(is_one(directory) for directory in run_dirs):
            if len(run_dirs) > 1:
                shown = [str(path) for path in run_dirs]
                refuse("report", f"be of runs or of one {kind}", shown, f"report each {kind} alone")
            return build(Path(run_dirs[0]), out)
    runs = [_read_run(Path(directory)) for directory in dict.fromkeys(run_dirs)]
    page = place_of(out, Path(run_dirs[0]))
    text = template("page.html.j2").render(runs=runs, palette=PALETTE, comparison=_comparison(runs))
    numbers = {"schema": SCHEMA, "runs": [_numbers(run) for run in runs]}
    write_page(page, text, numbers)
    return page


def _numbers(run: Run) -> dict[str, Any]:
    """What the page shows, as JSON."""
    tables = {name: asdict(table) for name, table in run.tables.items()}
    times = {one.label: one.parts for one in run.times}
    return {"run": run.name, "tables": tables, "traces": run.traces, "times": times, "results": run.results.values}


def _read_run(directory: Path) -> Run:
    results_file, metrics_file = directory / "results.json", directory / "metrics.jsonl"
    if not results_file.is_file() and not metrics_file.is_file():
        rule = "hold results.json or metrics.jsonl"
        refuse("run directory", rule, str(directory), "name a directory that traceward train, fit or demo wrote")
    results = Section(str(results_file), read_object(results_file))
    if results.values.get("schema") not in (None, SCHEMA):
        refuse(
            f"{results_file}: schema", f"be {SCHEMA}", results.values["schema"], "report with the version that ran it"
        )
    tables = claim_tables(results)
    rows = [row.values for row in read_rows(metrics_file)]
    config_file = directory / "config.json"
    config = read_object(config_file)
    return Run(
        name=str(results.values.get("run") or directory.resolve().name),
        results=results,
        traces=trace_cards(list(read_rows(directory / "examples.jsonl"))[:TRACES_SHOWN]),
        manifest=read_object(directory / "manifest.json"),
        config=config,
        tables=tables,
        figures={name: Markup(svg) for name, svg in _figures(results, tables)},
        curves=[(title, _marked(panels)) for title, panels in stage_curves(rows)],
        health=_marked(health_curves(rows, Section(str(config_file), config).section("adversarial"))),
        alarms=alarms_of(results),
        times=step_times(rows),
    )


def _marked(panels: Panels) -> list[tuple[str, Markup]]:
    return [(name, Markup(svg)) for name, svg in panels]


def _comparison(runs: Sequence[Run]) -> Table | None:
    """The measured number of each claim, one row a run, where there are several runs."""
    if len(runs) < 2:
        return None
    rows = []
    for run in runs:
        found = [run.tables[name].row(key) if name in run.tables else None for name, key in CLAIMS]
        cells = tuple(Cell(row.cells[0].value, row.cells[0].interval) if row else Cell(None) for row in found)
        rows.append(Row(Method(run.name, run.name), cells, (str(run.results.values.get("label_source") or ""),)))
    return ranked_table(("Best of N", "First wrong step", "Policy pass@1"), rows)


def _figures(results: Section, tables: Mapping[str, Table]) -> Iterator[tuple[str, str]]:
    """The figures of the three claims, as far as their numbers are there."""
    curve = results.section("rerank_curve")
    if counts := curve.numbers("n"):
        series = _lines(curve, counts, methods_in(RERANK, curve.values), results.section("rerank_intervals"))
        alt = "Share of problems with a right answer picked, against the number of answers to pick from"
        if series:
            yield "rerank", line_figure(series, alt=alt, x_label="answers to pick from", doubling=True)
    if "localise" in tables:
        rows = tables["localise"].ranked(Kind.OURS, Kind.OURS_TOO, Kind.RIVAL)
        bars = [Bar(row.method.label, row.cells[0].value or 0, row.method.kind, row.cells[0].interval) for row in rows]
        floor = tables["localise"].row("chance")
        chance = floor.cells[0].value if floor else None
        if bars:
            yield "localise", bar_figure(bars, alt="Hit@1 of the first wrong step", chance=chance)
    if said := _said(results):
        alt = "Share that is right, against the probability that the reward states"
        yield "reliability", line_figure(said, alt=alt, x_label="stated probability", label_width=136)
    curves = results.section("policy_curves")
    for name, title in (("pass_at_1", "pass@1, sampled"), ("greedy", "greedy accuracy")):
        lines: list[Series] = []
        for method in methods_in(POLICY, curves.values):
            steps = curves.section(method.key).numbers("step")
            if steps and curves.section(method.key).listed(name):
                lines += _lines(curves.section(method.key), steps, [Method(name, method.label, method.kind)], None)
        levels = []
        if "policy" in tables:
            column = 0 if name == "pass_at_1" else 1
            for row in tables["policy"].rows:
                value = row.cells[column].value
                if row.method.key in ("sft", "base") and value is not None:
                    levels.append((row.method.label, value))
        if lines:
            alt = f"{title} against steps"
            yield name, line_figure(lines, alt=alt, x_label="policy steps", levels=levels, label_width=136)


def _said(results: Section) -> list[Series]:
    """The reliability of the saved probabilities, beside what would be exact."""
    found = results.section("calibration").section("probabilities")
    lines = []
    for key, label, kind in (("trace", "answers", Kind.OURS), ("step", "steps", Kind.OURS_TOO)):
        parts = [Section(found.where, part) for part in found.section(key).listed("reliability") or []]
        points = [(part.share("probability"), part.share("share")) for part in parts]
        known = [(x, y) for x, y in points if x is not None and y is not None]
        if known:
            lines.append(Series(label, [x for x, _ in known], [y for _, y in known], kind))
    return [*lines, Series("exact", [0.0, 1.0], [0.0, 1.0], Kind.FLOOR)] if lines else []


def _lines(
    curve: Section, xs: Sequence[float | None], methods: Sequence[Method], spans: Section | None
) -> list[Series]:
    """The lines of one curve section; every list must be as long as `xs`."""
    known = [x for x in xs if x is not None]
    lines = []
    for method in methods:
        ys = curve.numbers(method.key, shares=True)
        if ys is None or not any(y is not None for y in ys):
            continue
        if len(ys) != len(known):
            refuse(f"{curve.where}: {method.key}", f"hold {len(known)} numbers", len(ys), "evaluate the run again")
        interval = spans.interval(method.key) if spans is not None and method.kind is Kind.OURS else None
        lines.append(Series(method.label, known, ys, method.kind, interval))
    return lines
