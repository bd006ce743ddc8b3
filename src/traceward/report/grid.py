"""The page of a grid of runs: its table, the differences that were asked for, and what could not run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from traceward.report.figures import PALETTE, Kind
from traceward.report.page import place_of, template, write_page
from traceward.report.tables import POLICY, Cell, Method, Row, Section, Table, ranked_table, read_object, refuse

SCHEMA = 1
TITLES = {
    "pass_at_1": "pass@1",
    "greedy": "Greedy",
    "validation_pass_at_1": "pass@1, validation",
    "validation_greedy": "Greedy, validation",
    "rerank": "Best of N",
    "localise": "First wrong step",
    "held_out_auroc": "Held-out AUROC",
}
_ARMS = {method.key: method for method in POLICY}


@dataclass(frozen=True, slots=True)
class Difference:
    """a - b: shares, each with its interval; None where one side lacks the measure."""

    a: str
    b: str
    where: str
    cells: tuple[Cell, ...]


def is_grid_directory(path: Path) -> bool:
    """Whether a directory is one that `traceward train GRID.toml` wrote."""
    return (Path(path) / "grid.json").is_file()


def build_grid_report(directory: Path, out: Path | None = None) -> Path:
    """Write the page of a grid, and its numbers beside it; returns the page. Raises RunError for a torn grid.json."""
    file = directory / "grid.json"
    found = Section(str(file), read_object(file))
    if found.values.get("schema") != SCHEMA:
        refuse(f"{file}: schema", f"be {SCHEMA}", found.values.get("schema"), "report with the version that ran it")
    measures = [str(name) for name in found.listed("measures") or []]
    rows = _sections(found, "rows")
    axes = varied(rows)
    table = _table(rows, measures, axes)
    differences = [_difference(pair, measures) for pair in _sections(found, "differences")]
    chosen = next((row for row in table.rows if row.method.kind is Kind.OURS), None)
    text = template("grid.html.j2").render(
        name=str(found.values.get("grid")),
        axes=[axis.rpartition(".")[2].replace("_", " ") for axis in axes],
        table=table,
        chosen=chosen,
        differences=differences,
        reach=_reach([pair.cells[min(1, len(measures) - 1)] for pair in differences]),
        removed=[(" · ".join(_labels(one).values()), one.values.get("reason")) for one in _sections(found, "removed")],
        failed=[(one.values.get("part"), one.values.get("reason")) for one in _sections(found, "failed")],
        finished=found.number("finished"),
        cells=found.number("cells"),
        found=found.values,
        palette=PALETTE,
    )
    page = place_of(out, directory)
    write_page(page, text, {"schema": SCHEMA, "table": asdict(table), "grid": found.values})
    return page


def _sections(found: Section, key: str) -> list[Section]:
    rows = found.listed(key) or []
    whole = Section(f"{found.where}: {key}", {str(place): row for place, row in enumerate(rows, start=1)})
    return [whole.section(place) for place in whole.values]


def _labels(row: Section, key: str = "labels") -> Mapping[str, str]:
    return {axis: str(label) for axis, label in row.section(key).values.items()}


def varied(rows: Sequence[Section]) -> list[str]:
    """The axes on which rows differ, in the order of the file, the arm last."""
    axes = dict.fromkeys(axis for row in rows for axis in _labels(row))
    several = [axis for axis in axes if len({_labels(row).get(axis) for row in rows}) > 1]
    return sorted(several, key=lambda axis: axis == "arm")


def _table(rows: Sequence[Section], measures: Sequence[str], axes: Sequence[str]) -> Table:
    """The rows, highest on the first measure first; of those with a learned reward the first is ours."""
    ours = next((place for place, row in enumerate(rows) if row.values.get("judge") == "reward"), None)
    shown = []
    for place, row in enumerate(rows):
        labels = _labels(row)
        arm = _ARMS.get(labels.get("arm", ""), Method("", labels.get("arm", "")))
        learned = Kind.OURS if place == ours else Kind.OURS_TOO
        kind = learned if row.values.get("judge") == "reward" else arm.kind
        texts = (arm.label if axis == "arm" else labels.get(axis, "–") for axis in axes)
        about = (*texts, str(len(row.listed("seeds") or [])))
        cells = tuple(_cell(row.section("values").section(measure)) for measure in measures)
        shown.append(Row(Method(str(place), " · ".join(labels.values()), kind), cells, about))
    return ranked_table(tuple(TITLES.get(measure, measure) for measure in measures), shown)


def _cell(value: Section) -> Cell:
    low, high = value.number("low"), value.number("high")
    return Cell(value.number("value"), None if low is None or high is None else (low, high))


def _difference(pair: Section, measures: Sequence[str]) -> Difference:
    a, b = (dict(_labels(pair, side)) for side in ("a", "b"))
    same = {axis: label for axis, label in a.items() if b.get(axis) == label}
    left, right = (" ".join(label for axis, label in side.items() if axis not in same) for side in (a, b))
    cells = tuple(_cell(pair.section("values").section(measure)) for measure in measures)
    return Difference(left, right, " · ".join(same.values()), cells)


def _reach(cells: Sequence[Cell]) -> float:
    """Half the width of an axis of differences: a multiple of 5 points that holds every interval."""
    ends = [abs(end) for cell in cells for end in cell.interval or ()]
    return max(1, -(-round(100 * max(ends, default=0.05), 6) // 5)) * 5 / 100
