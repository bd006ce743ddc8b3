"""The numbers of a run, read and checked, and the tables that compare methods by them.

A value that is absent or null is None, "not measured" on the page; a value of the wrong kind is a RunError that names
its place. Shares are fractions between 0 and 1.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from traceward.errors import RunError
from traceward.report.figures import Kind


@dataclass(frozen=True, slots=True)
class Method:
    """How a method is named and drawn everywhere; `key` is its name in results.json."""

    key: str
    label: str
    kind: Kind = Kind.RIVAL
    note: str = ""


RERANK = (
    Method("reward", "Reward", Kind.OURS, "picks the trace it scores highest"),
    Method("weighted_vote", "Reward-weighted vote", Kind.OURS_TOO),
    Method("majority", "Majority vote"),
    Method("sft_log_ratio", "SFT log-ratio", note="SFT read as the reward is"),
    Method("sft_logprob", "SFT log-prob"),
    Method("base_logprob", "Base log-prob"),
    Method("shortest", "Shortest"),
    Method("expected_random", "Random pick", Kind.FLOOR, "exact mean"),
    Method("oracle", "Oracle", Kind.CEILING, "a right answer is among them"),
)
LOCALISE = (
    Method("reward", "Reward", Kind.OURS),
    Method("reward_exported", "Reward, as exported", Kind.OURS_TOO),
    Method("sft_log_ratio", "SFT log-ratio"),
    Method("sft_log_ratio_exported", "SFT log-ratio, as exported"),
    Method("sft_logprob", "SFT log-prob drop"),
    Method("sft_logprob_token", "SFT least likely token"),
    Method("base_logprob", "Base log-prob drop"),
    Method("base_logprob_token", "Base least likely token"),
    Method("constant", "Best constant step"),
    Method("chance", "Chance", Kind.FLOOR),
)
POLICY = (
    Method("adversarial", "Adversarial", Kind.OURS, "reward and policy in turn"),
    Method("reward_frozen", "Frozen reward", Kind.OURS_TOO, "reward first, then policy"),
    Method("majority_consensus", "Majority consensus"),
    Method("sft_logprob_consensus", "SFT log-prob consensus"),
    Method("sft", "SFT", Kind.RIVAL, "same demonstrations"),
    Method("base", "Base", Kind.FLOOR, "before training"),
    Method("outcome", "Outcome RL", Kind.TOLD, "told the right answers"),
)


def refuse(where: str, rule: str, value: object, remedy: str) -> NoReturn:
    """Raise a RunError in the one wording of the package."""
    raise RunError(f"{where} must {rule}: got {value!r}; {remedy}")


@dataclass(frozen=True, slots=True)
class Section:
    """An object of a JSON file that knows where it stands; absent and null are the same thing: None."""

    where: str
    values: Mapping[str, Any]

    def __bool__(self) -> bool:
        return any(value is not None for value in self.values.values())

    def section(self, key: str) -> Section:
        """The object under `key`."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, dict):
            refuse(f"{self.where}: {key}", "be an object", value, "evaluate the run again")
        return Section(f"{self.where}: {key}", value or {})

    def number(self, key: str) -> float | None:
        """The number under `key`."""
        return self._number(key, self.values.get(key))

    def _number(self, key: str, value: object) -> float | None:
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            refuse(f"{self.where}: {key}", "be a number or null", value, "evaluate the run again")
        return value

    def share(self, key: str) -> float | None:
        """The fraction under `key`; refuses percent."""
        return self._share(key, self.values.get(key))

    def _share(self, key: str, value: object) -> float | None:
        number = self._number(key, value)
        if number is not None and not 0 <= number <= 1:
            refuse(f"{self.where}: {key}", "lie between 0 and 1", number, "write a fraction, not percent")
        return number

    def listed(self, key: str) -> list[Any] | None:
        """The list under `key`."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, list):
            refuse(f"{self.where}: {key}", "be a list or null", value, "evaluate the run again")
        return value

    def numbers(self, key: str, *, shares: bool = False) -> list[float | None] | None:
        """The list of numbers, or of fractions, under `key`."""
        read = self._share if shares else self._number
        values = self.listed(key)
        return None if values is None else [read(key, value) for value in values]

    def interval(self, key: str) -> tuple[float, float] | None:
        """The [low, high] under `key`, as fractions."""
        ends = self.numbers(key, shares=True)
        if ends is None:
            return None
        if len(ends) != 2 or ends[0] is None or ends[1] is None or ends[0] > ends[1]:
            refuse(f"{self.where}: {key}", "be [low, high]", ends, "evaluate the run again")
        return ends[0], ends[1]


@dataclass(frozen=True, slots=True)
class Cell:
    """A number of a table; None is "not measured"."""

    value: float | None
    interval: tuple[float, float] | None = None
    best: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A method and its numbers, one per column of the table; `about` are words that stand before them."""

    method: Method
    cells: tuple[Cell, ...]
    about: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """Rows from the highest first number down, the ceiling on top, rows without a number last."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def spans(self) -> tuple[bool, ...]:
        """For each column, whether any interval was recorded."""
        return tuple(any(row.cells[place].interval for row in self.rows) for place in range(len(self.columns)))

    def row(self, key: str) -> Row | None:
        """The row of one method, if its first number was measured."""
        return next((row for row in self.rows if row.method.key == key and row.cells[0].value is not None), None)

    def ranked(self, *kinds: Kind) -> list[Row]:
        """Measured rows in order, of `kinds` or of all that can win."""
        return [
            row for row in self.rows if row.cells[0].value is not None and row.method.kind in (kinds or _CONTENDERS)
        ]


_CONTENDERS = tuple(kind for kind in Kind if kind is not Kind.CEILING)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no finite number")
    return value


def _parse(text: bytes, where: str, remedy: str) -> dict[str, Any]:
    """A JSON object without NaN and infinities, which no evaluation may produce."""
    try:
        value = json.loads(text, parse_constant=_finite, parse_float=_finite)
    except ValueError as error:
        raise RunError(f"{where} must hold whole JSON with finite numbers: got {error}; {remedy}") from error
    if not isinstance(value, dict):
        refuse(where, "hold a JSON object", value, remedy)
    return value


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is no file."""
    if not path.is_file():
        return {}
    return _parse(path.read_bytes(), str(path), "delete it and evaluate the run again")


def read_rows(path: Path) -> Iterator[Section]:
    """The rows of a JSONL file, each knowing its line; none where there is no file."""
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        # The end of a run that was stopped, or is still writing: no line break and no closing brace.
        cut = number == len(lines) and not line.rstrip().endswith(b"}")
        if line.strip() and not cut:
            where = f"{path}:{number}"
            yield Section(where, _parse(line, where, "delete that line"))


def _table(methods: Sequence[Method], columns: Mapping[str, tuple[Section, Section]]) -> Table:
    """`columns`: title -> (values, intervals). A method that only the file knows is shown under its own key."""
    rows = []
    for method in methods_in(methods, {key: 0 for values, _ in columns.values() for key in values.values}):
        cells = tuple(Cell(values.share(method.key), spans.interval(method.key)) for values, spans in columns.values())
        rows.append(Row(method, cells))
    return ranked_table(tuple(columns), rows)


def methods_in(known: Sequence[Method], found: Mapping[str, object]) -> list[Method]:
    """The known methods, then those that only the file knows."""
    names = {method.key for method in known}
    return [*known, *(Method(key, key.replace("_", " ")) for key in found if key not in names and key != "n")]


def ranked_table(columns: tuple[str, ...], rows: Sequence[Row]) -> Table:
    """The rows in order, the highest number of each column marked whoever holds it."""
    tops = []
    for column in range(len(columns)):
        values = [row.cells[column].value for row in rows if row.method.kind is not Kind.CEILING]
        tops.append(max((round(value, 3) for value in values if value is not None), default=None))

    def marked(row: Row) -> Row:
        eligible = row.method.kind is not Kind.CEILING
        cells = [
            Cell(cell.value, cell.interval, eligible and cell.value is not None and round(cell.value, 3) == top)
            for cell, top in zip(row.cells, tops, strict=True)
        ]
        return Row(row.method, tuple(cells), row.about)

    def place(row: Row) -> tuple[bool, bool, float]:
        value = row.cells[0].value
        return value is None, row.method.kind is not Kind.CEILING, -(value or 0)

    return Table(columns, tuple(sorted((marked(row) for row in rows), key=place)))


def claim_tables(results: Section) -> dict[str, Table]:
    """The tables of the three claims, the variants and nothing that was not measured at all."""
    none = Section("", {})
    localise = results.section("localise")
    columns: dict[str, tuple[Sequence[Method], dict[str, tuple[Section, Section]]]] = {
        "rerank": (RERANK, {"Right answers": (results.section("rerank"), results.section("rerank_intervals"))}),
        "localise": (
            LOCALISE,
            {
                "Hit@1": (results.section("localise_hit_at_1"), results.section("localise_hit_at_1_intervals")),
                "Within ±1": (localise.section("hit_within_1"), none),
                "MAP": (localise.section("map"), none),
            },
        ),
        "policy": (
            POLICY,
            {
                "pass@1, sampled": (results.section("policy_pass_at_1"), results.section("policy_pass_at_1_intervals")),
                "Greedy": (results.section("policy_greedy"), results.section("policy_greedy_intervals")),
            },
        ),
    }
    tables = {
        name: _table(methods, parts) for name, (methods, parts) in columns.items() if any(v for v, _ in parts.values())
    }
    variants = results.listed("variants") or []
    if variants:
        parts = Section(
            f"{results.where}: variants", {str(place): item for place, item in enumerate(variants, start=1)}
        )
        tables["variants"] = _variants([parts.section(place) for place in parts.values], results)
    return tables


def _variants(variants: Sequence[Section], results: Section) -> Table:
    """One row a variant; the one this run's reward was trained as is ours."""
    reward = results.section("reward").values
    rows = []
    for item in variants:
        words = {key: str(item.values.get(key) or "") for key in ("name", "head", "granularity", "corruptions")}
        same = all(words[key] == reward.get(key) for key in ("head", "granularity"))
        kind = Kind.OURS if same and words["corruptions"] in ("", "all") else Kind.RIVAL
        updates = item.number("updates")
        about = (words["head"], words["granularity"], words["corruptions"], "" if updates is None else f"{updates:.0f}")
        cells = tuple(Cell(item.share(key)) for key in ("rerank", "localise_hit_at_1", "auroc"))
        rows.append(Row(Method(words["name"], words["name"], kind), cells, about))
    return ranked_table(("Right answers", "Hit@1", "AUROC"), rows)
