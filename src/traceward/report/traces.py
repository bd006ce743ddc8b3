"""Traces as cards, each step and token on its colour; and a page of nothing but traces, for `localise --html`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from traceward.heatmap import scale_of, tint_of
from traceward.report.figures import PALETTE
from traceward.report.page import place_of, template, write_page
from traceward.report.tables import LOCALISE, Cell, Row, Section, Table, methods_in, ranked_table, refuse


def trace_cards(rows: Sequence[Section]) -> list[dict[str, Any]]:
    """The traces to show, their scores as tints (`traceward.heatmap`)."""
    scale = scale_of(score for row in rows for score in row.numbers("step_scores") or [] if score is not None)
    shown = []
    for row in rows:
        steps = row.listed("steps") or []
        values = row.numbers("step_scores") or [None] * len(steps)
        chances = row.numbers("step_probabilities", shares=True) or [None] * len(steps)
        for name, column in (("step_scores", values), ("step_probabilities", chances)):
            if len(column) != len(steps):
                refuse(f"{row.where}: {name}", f"hold {len(steps)} numbers", len(column), "delete that line")
        places = {name: row.number(name) for name in ("predicted", "first_error")}
        for name, place in places.items():
            if place is not None and place not in range(-1, len(steps)):
                refuse(f"{row.where}: {name}", f"be a step below {len(steps)} or -1", place, "delete that line")
        tokens = _tokens(row)
        bound = max((abs(score) for _, score in tokens if score is not None), default=0)
        shown.append(
            {
                "id": str(row.values.get("id") or ""),
                "question": str(row.values.get("question") or ""),
                "correct": row.values.get("correct"),
                "exported": row.number("exported"),
                **places,
                "steps": [(str(text), value, tint_of(value, scale)) for text, value in zip(steps, values, strict=True)],
                "probabilities": chances,
                "tokens": [(text, score, tint_of(score, bound)) for text, score in tokens],
            }
        )
    return shown


def _tokens(row: Section) -> list[tuple[str, float | None]]:
    pairs = row.listed("tokens") or []
    if any(not isinstance(pair, list | tuple) or len(pair) != 2 for pair in pairs):
        refuse(f"{row.where}: tokens", "be pairs [text, score]", pairs[:1], "delete that line")
    scores = Section(row.where, {"tokens": [score for _, score in pairs]}).numbers("tokens") or []
    return [(str(text), score) for (text, _), score in zip(pairs, scores, strict=True)]


def build_traces_page(
    name: str, examples: Sequence[Mapping[str, Any]], out: Path, *, of: int, numbers: Mapping[str, Any]
) -> Path:
    """Write a self-contained page of traces (and the same name with `.json`) and return its path.

    examples: rows as `examples.jsonl` has them.   of: how many traces the file holds.   numbers: of its tables.
    """
    page = place_of(out, out.parent)
    cards = trace_cards([Section(f"{name}: {row['id']}", row) for row in examples])
    tables = [(title, _table(found)) for title, found in numbers["tables"].items()]
    text = template("traces.html.j2").render(name=name, traces=cards, of=of, tables=tables, palette=PALETTE)
    write_page(page, text, {**numbers, "examples": list(examples)})
    return page


def _table(found: Mapping[str, Any]) -> Table:
    """A localisation table of `localise --json`."""
    measured = {name: row for name, row in found["rows"].items() if row is not None}
    rows = []
    for method in methods_in(LOCALISE, measured):
        row = measured.get(method.key)
        if row is not None:
            estimates = [row[measure] for measure in ("hit_at_1", "hit_within_1", "map")]
            rows.append(Row(method, tuple(Cell(e["value"], (e["low"], e["high"])) for e in estimates)))
    return ranked_table(("Hit@1", "Within ±1", "MAP"), rows)
