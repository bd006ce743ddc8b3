"""How a question of `arithmetic` is worked out on paper: line by line, in the layout that a writer likes.

Layouts are those of the traces of BIG-Bench-Mistake (Tyen et al. 2023, Apache-2.0): brackets around a product before it
is worked out, results that keep their brackets, signs turned first or last or never, several operations in one line.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass

from traceward.data.tasks.expressions import apply
from traceward.data.tasks.rows import Row, flattened, number
from traceward.records import Trace

LETTERS = "ABCDEFGH"


@dataclass(frozen=True, slots=True)
class Student:
    """How somebody errs: chances that a wrong rule is held in a trace, and slips.

    minus_minus: "a - -b" is a - b.   both_negative: a product of two negative numbers is negative.
    right_first: "a - b + c" is a - (b + c).   sums_first: "a + b * c" is (a + b) * c.
    lapses: how often a rule that is held shows, where it can.
    slip: per operation, a result off by a little, by a digit or with the wrong sign.   copy: per line, one number
    miscopied.   flatten: per trace, "(A + B) - (C + D)" loses its brackets.
    """

    minus_minus: float = 0.35
    both_negative: float = 0.3
    right_first: float = 0.3
    sums_first: float = 0.12
    lapses: float = 0.6
    slip: float = 0.03
    copy: float = 0.008
    flatten: float = 0.02


RULES = ("minus_minus", "both_negative", "right_first", "sums_first")
EXPERT = Student(0.0, 0.0, 0.0, 0.0, slip=0.0, copy=0.0, flatten=0.0)
STUDENT = Student()


class Writer:
    """Works one question out, with the rules it holds and in the layout it likes."""

    def __init__(self, rng: random.Random, student: Student) -> None:
        self.rng = rng
        self.student = student
        self.held = {rule for rule in RULES if rng.random() < getattr(student, rule)}
        self.coarse = rng.choice((0.0, 0.0, 0.0, 0.4, 1.0))  # one letter for two brackets
        self.groups = rng.choice((0.0, 0.0, 0.4, 1.0))  # brackets around a product before it is worked out
        self.groups_sums = rng.choice((0.0, 0.0, 0.0, 0.4))
        self.opens = rng.random() < 0.6  # brackets around a number go in the line in which it has been found
        self.turns = rng.choice(("first", "last", "last", "never"))  # "- -9" becomes "+ 9"
        self.more = rng.choice((0.0, 0.0, 0.2, 0.6))  # another operation in the same line
        self.together = rng.random() < 0.6  # all inner brackets at once
        self.at_once = rng.random() < 0.4  # a sum in one line, however long
        self.from_left = rng.random() < 0.8
        self.bare = rng.random() < 0.15  # later lines of a calculation that hold brackets have none around them
        self.brackets_result = rng.random() < 0.25
        self.brackets_negative = rng.random() < 0.4
        self.repeats = rng.random() < 0.08  # the first line twice

    def _lapses(self, rule: str) -> bool:
        return rule in self.held and self.rng.random() < self.student.lapses

    # ---- operations --------------------------------------------------------------------------------------------------

    def apply(self, left: int, sign: str, right: int) -> int:
        """One operation, as this writer does it."""
        found = apply(left, sign, right)
        if sign == "-" and right < 0 and self._lapses("minus_minus"):
            found = left + right
        elif sign == "*" and left < 0 and right < 0 and self._lapses("both_negative"):
            found = -found
        return self._slipped(found) if self.rng.random() < self.student.slip else found

    def _slipped(self, found: int) -> int:
        place = int(f"1{'0' * self.rng.randrange(len(str(abs(found))))}")
        off = self.rng.choice((-3, -2, -1, 1, 2, 3)) * place
        return self.rng.choice([*(found + step for step in (-10, -2, -1, 1, 2, 10)), -found or 1, found + off])

    def _join(self, row: Row, at: int) -> Row:
        left, right = number(row.items[at]), number(row.items[at + 1])
        assert left is not None
        assert right is not None
        return row.replaced(at, at + 2, self.apply(left, row.signs[at], right))

    def _choose(self, places: list[int]) -> int:
        return places[0] if self.from_left else self.rng.choice(places)

    # ---- one line to the next ----------------------------------------------------------------------------------------

    def step(self, row: Row) -> Row:
        """The row with one thing done to it: inside its brackets where these are not numbers yet."""
        inner = [at for at, item in enumerate(row.items) if isinstance(item, Row) and number(item) is None]
        if inner:
            now = inner if self.together else [self._choose(inner)]
            row = row.mapped(lambda at, item: self.step(item) if at in now and isinstance(item, Row) else item)
            return self._opened(row) if self.opens else row
        return self._calculated(row)

    def _calculated(self, row: Row) -> Row:
        if self.turns == "first" and (turned := self._turned(row)) != row:
            return turned
        runs = [*row.runs()]
        if "*" in row.signs and len({*row.signs}) > 1 and self._lapses("sums_first"):
            return self._join(row, next(at for at, sign in enumerate(row.signs) if sign != "*"))
        if runs:
            return self._product(row, *(runs[0] if self.from_left else self.rng.choice(runs)))
        opened, turned = self._opened(row), self._turned(row)
        if opened != row and self.rng.random() < 0.5:
            return opened
        return turned if self.turns != "never" and turned != row else self._sum(row)

    def _product(self, row: Row, start: int, end: int) -> Row:
        alone = end - start == len(row.items)
        if (not alone or end - start > 2) and self.rng.random() < self.groups:
            length = 2 if alone or self.rng.random() < 0.5 else end - start
            return row.replaced(start, start + length, Row(row.items[start : start + length], ("*",) * (length - 1)))
        return self._join(row, self._choose([*range(start, end - 1)]))

    def _sum(self, row: Row) -> Row:
        if len(row.signs) > 1 and self.rng.random() < self.groups_sums:
            at = self._choose(row.sums())
            return row.replaced(at, at + 2, Row(row.items[at : at + 2], row.signs[at : at + 1]))
        row = self._added(row)
        while self.at_once and row.signs:
            row = self._added(row)
        return row

    def _added(self, row: Row) -> Row:
        late = row.signs[0] == "-" and len(row.signs) > 1 and self._lapses("right_first")
        return self._join(row, 1 if late else self._choose(row.sums()))

    def _opened(self, row: Row) -> Row:
        """Numbers without brackets."""

        def bare(_: int, item: int | str | Row) -> int | str | Row:
            found = number(item)
            return item if found is None else found

        return row.mapped(bare)

    def _turned(self, row: Row) -> Row:
        """ "+ -9" becomes "- 9", and "- -9" becomes "+ 9"; a factor stays as it is."""
        signs, items = [*row.signs], [*row.items]
        for at, sign in enumerate(row.signs):
            found = number(items[at + 1])
            if sign != "*" and found is not None and found < 0 and row.signs[at + 1 : at + 2] != ("*",):
                signs[at] = "+" if sign == "-" and not self._lapses("minus_minus") else "-"
                items[at + 1] = -found
        return Row(tuple(items), tuple(signs))

    def _miscopied(self, row: Row) -> Row:
        at = self.rng.randrange(len(row.items))
        item = row.items[at]
        if isinstance(item, Row):
            return row.replaced(at, at + 1, self._miscopied(item))
        return row.replaced(at, at + 1, self.rng.choice([-item or 1, item + 1]) if isinstance(item, int) else item)

    # ---- the whole trace ---------------------------------------------------------------------------------------------

    def work_out(self, row: Row) -> tuple[list[Row], int]:
        """Line by line, the row itself first, and its result, which is no line."""
        lines = [row, row] if self.repeats else [row]
        while number(row) is None:
            row = self.step(row)
            while number(row) is None and self.rng.random() < self.more:
                row = self.step(row)
            if self.rng.random() < self.student.copy:
                row = self._miscopied(row)
            lines.append(row)
        result = number(row)
        assert result is not None
        return lines[:-1], result

    def told(self, letter: str, row: Row) -> tuple[str, int]:
        """The step that works a letter out, and its result."""
        lines, result = self.work_out(row)
        texts = [
            line.text() if at and self.bare and line.nested else f"({line.text()})" for at, line in enumerate(lines)
        ]
        texts.append(f"({result})" if self.brackets_result else str(result))
        return f"Let's calculate {letter} = {' = '.join(texts)}.", result

    def finish(self, form: Row, results: Mapping[str, int], *, brackets: bool = False) -> tuple[list[str], int]:
        """The equation of letters, the same in numbers, and that worked out line by line."""
        lines, result = self.work_out(self.filled(form, results))
        texts = [line.text() for line in [form, *lines]]
        return [*(f"({text})" if brackets else text for text in texts), str(result)], result

    def filled(self, form: Row, results: Mapping[str, int]) -> Row:
        """Numbers for the letters."""

        def at_place(at: int, item: int | str | Row) -> int | str | Row:
            if isinstance(item, Row):
                return self.filled(item, results)
            found = results[item] if isinstance(item, str) else item
            return Row((found,)) if found < 0 and at and self.brackets_negative else found

        return form.mapped(at_place)

    def lettered(self, row: Row) -> tuple[Row, dict[str, Row]]:
        """The row with letters for its brackets, and what they stand for: the innermost, or some that hold two."""
        named: dict[str, Row] = {}

        def name(inner: Row, *, whole: bool) -> str | Row:
            if not inner.nested or (not whole and self.rng.random() < self.coarse):
                letter = LETTERS[len(named)]
                named[letter] = inner
                return letter
            return inner.mapped(lambda _, item: name(item, whole=False) if isinstance(item, Row) else item)

        form = name(row, whole=True)
        assert isinstance(form, Row)
        return form, named

    def write(self, row: Row) -> Trace:
        """Letters for the brackets, a step for each, then the equation of letters."""
        form, named = self.lettered(row)
        defined = [f"{letter} = ({inner.text()})" for letter, inner in named.items()]
        joined = " and ".join(defined)
        if len(defined) > 2 and self.rng.random() < 0.6:
            joined = f"{', '.join(defined[:-1])}, and {defined[-1]}"
        brackets = len(defined) == 2 and self.rng.random() < 0.5
        if self.rng.random() < 0.25:
            form = flattened(form)
        if len(defined) > 2 and self.rng.random() < self.student.flatten:
            form = bare(form)
        shown = f"({form.text()})" if brackets else form.text()
        steps = [f'This equation can be written as "{shown}", where {joined}.']
        results = {}
        for letter, inner in named.items():
            step, results[letter] = self.told(letter, inner)
            steps.append(step)
        lines, answer = self.finish(form, results, brackets=brackets and self.rng.random() < 0.7)
        steps.append(f"Then, the final equation is {' = '.join(lines)}. So the answer is {answer}")
        return Trace(tuple(steps), str(answer))


def bare(form: Row) -> Row:
    """All its letters without any bracket, rightly or not."""
    letters, signs = re.findall("[A-H]", form.text()), re.findall(r"[-+*]", form.text())
    return Row(tuple(letters), tuple(signs))
