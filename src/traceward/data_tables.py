"""What `traceward data` prints: how rows were understood, what became of them, what was refused and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from traceward.tables import facts_table, new_table
from traceward.workflows.data import REFUSED, DataResult, spread

if TYPE_CHECKING:
    from traceward.data.shapes import Understood

_SHOWN = 5  # reasons with an example
_LONGEST = 100  # characters of an example's lines


def data_tables(found: DataResult) -> list[Table]:
    """The tables of one run, in the order of what happened."""
    tables = [understood_table(found.understood)] if found.understood else []
    numbers = found.as_json()
    left = f"not read: {', '.join(found.left_alone)}" if found.left_alone else ""
    rows = new_table("Rows", ("source", "split", "rows", "kept", "known", "refused"), left)
    rows.columns[1].justify = "left"
    for count in found.prepared.counts:
        refused = sum(count.refused.values())
        rows.add_row(count.path, count.split or "–", *map(str, (count.rows, count.kept, count.known, refused)))
    tables.append(rows)
    if numbers["refused"]:
        first: dict[str, str] = {}  # a place for each reason
        for path, fault in found.prepared.refused:
            first.setdefault(fault.reason, f"{path}:{fault.line}: {fault.field}: {fault.rule}")
        places = [first[reason] for reason in numbers["reasons"]][:_SHOWN]
        caption = "\n".join(["such as", *places, f"all of them: {found.out / REFUSED}"])
        refused_table = new_table("Refused", ("because", "rows"), caption)
        for reason, count in numbers["reasons"].items():
            refused_table.add_row(reason, str(count))
        tables.append(refused_table)
    if found.tokens:
        lengths = new_table("Tokens of kept rows", ("", "median", "95 %", "largest"))
        for what, values in found.tokens.items():
            lengths.add_row(what, *(f"{value:.0f}" for value in spread(values).values()))
        tables.append(lengths)
    written = {f"{stem}.jsonl": count for stem, count in found.written.items()}
    tables.append(facts_table(f"Written to {found.out}", {**written, "seconds": f"{found.seconds:.1f}"}))
    return tables


def understood_table(found: Understood) -> Table:
    """How the first row was read: the field that each part was taken from, and the part."""
    row = found.row
    steps = row["steps"] if isinstance(row.get("steps"), list) else str(row.get("solution", "")).strip().split("\n")
    parts = {"question": row["question"], "steps": f"{steps[0]}" + (" …" if len(steps) > 1 else "")}
    parts["answer"] = row.get("answer") or "in the last line"
    table = new_table(f"Understood as {found.shape}", ("", "taken from", "the first row's"))
    for column in table.columns:
        column.justify = "left"
    for part, text in parts.items():
        line = " ".join(str(text).split())
        shown = line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"
        table.add_row(part, found.taken[part], shown)
    return table
