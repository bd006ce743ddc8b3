"""Rows of numbers, letters and brackets with signs between them, and what may be done to one at the same value.

An expression as people write it down, where `expressions.py` has what it means: brackets that need not be there stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from traceward.data.tasks.expressions import parse, value


@dataclass(frozen=True, slots=True)
class Row:
    """items: numbers, letters, and rows in brackets.   signs: what stands between them, each of + - *."""

    items: tuple[int | str | Row, ...]
    signs: tuple[str, ...] = ()

    @property
    def nested(self) -> bool:
        """Whether any item is in brackets."""
        return any(isinstance(item, Row) for item in self.items)

    def text(self) -> str:
        """ "-2 - (7 * 6)"; brackets around the whole are left to who shows it."""
        parts = [f"({item.text()})" if isinstance(item, Row) else str(item) for item in self.items]
        return "".join([parts[0], *(f" {sign} {part}" for sign, part in zip(self.signs, parts[1:], strict=True))])

    def value(self, letters: Mapping[str, int] | None = None) -> int:
        """The exact value; letters stand for numbers."""
        return value(parse(self.text()), letters or {})

    def replaced(self, start: int, end: int, item: int | str | Row) -> Row:
        """One item in the place of those from `start` up to, not with, `end`."""
        return Row((*self.items[:start], item, *self.items[end:]), (*self.signs[:start], *self.signs[end - 1 :]))

    def mapped(self, change: Callable[[int, int | str | Row], int | str | Row]) -> Row:
        """Every item as `change(index, item)` gives it."""
        return Row(tuple(change(at, item) for at, item in enumerate(self.items)), self.signs)

    def runs(self) -> Iterator[tuple[int, int]]:
        """Products: start and end of the items of each, longest ones."""
        start = 0
        for at, sign in enumerate([*self.signs, "+"]):
            if sign != "*":
                if at > start:
                    yield start, at + 1
                start = at + 1

    def sums(self) -> list[int]:
        """Signs + or - whose two neighbours may be joined as they stand: no product touches them, and no - comes
        before."""
        signs = self.signs
        return [
            at
            for at, sign in enumerate(signs)
            if sign != "*" and signs[at + 1 : at + 2] != ("*",) and (at == 0 or signs[at - 1] == "+")
        ]


def number(item: int | str | Row) -> int | None:
    """The number that an item is, alone or in brackets; None for anything else."""
    if isinstance(item, Row):
        return number(item.items[0]) if len(item.items) == 1 else None
    return item if isinstance(item, int) else None


def flattened(row: Row) -> Row:
    """Without the brackets that its letters do not need: "(A - B) + (C * D)" is "A - B + C * D"."""
    items: list[int | str | Row] = []
    signs: list[str] = []
    for at, item in enumerate(row.items):
        signs += row.signs[at - 1 : at] if at else ()
        if isinstance(item, Row):
            inner = flattened(item)  # what is inside may go whether its own bracket does or not
            before, after = row.signs[at - 1] if at else "+", row.signs[at] if at < len(row.signs) else "+"
            product = {*inner.signs} <= {"*"}
            if product or (before == "+" and after != "*"):
                items += inner.items
                signs += inner.signs
            else:
                items.append(inner)
        else:
            items.append(item)
    return Row(tuple(items), tuple(signs))
