"""`arithmetic`: nested sums and products, worked out bracket by bracket. Students share wrong rules about signs.

Questions and steps are worded as BIG-Bench's multistep_arithmetic and the traces of BIG-Bench-Mistake word them
(Srivastava et al. 2022, Tyen et al. 2023, both Apache-2.0). Verdicts are arithmetic_check.py's.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass

from traceward.data.tasks.expressions import Tree, apply, fill, parse, show, value
from traceward.data.tasks.world import Written
from traceward.records import Trace

LETTERS = "ABCDEFGH"
LARGEST = 99_999  # no true value of a question is larger, either way
# (brackets, numbers in each); the first ones are drawn more often.
SHAPES = ((2, 4), (2, 4), (2, 4), (2, 3), (4, 4), (4, 4), (4, 3), (4, 3), (4, 2), (8, 2))


@dataclass(frozen=True, slots=True)
class Flat:
    """Numbers with signs between them, without brackets: "-5 + -9 * 2"."""

    numbers: tuple[int, ...]
    signs: tuple[str, ...]

    def text(self) -> str:
        """In brackets, as everywhere in a trace."""
        rest = (f" {sign} {number}" for sign, number in zip(self.signs, self.numbers[1:], strict=True))
        return f"({self.numbers[0]}{''.join(rest)})"

    def joined(self, at: int, number: int) -> Flat:
        """The numbers at `at` and behind it become one."""
        numbers = (*self.numbers[:at], number, *self.numbers[at + 2 :])
        return Flat(numbers, (*self.signs[:at], *self.signs[at + 1 :]))


@dataclass(frozen=True, slots=True)
class Question:
    """plan: how the brackets are combined, by their letters.   brackets: what stands in each."""

    plan: Tree
    brackets: Mapping[str, Flat]

    def text(self) -> str:
        """As it is asked."""
        return f"({re.sub('[A-H]', lambda found: self.brackets[found[0]].text(), show(self.plan))}) ="

    def value(self) -> int:
        """The exact answer."""
        return value(self.plan, {letter: value(parse(flat.text())) for letter, flat in self.brackets.items()})


def make_question(rng: random.Random) -> Question:
    """A random one whose value is within LARGEST."""
    while True:
        count, length = rng.choice(SHAPES)
        trees: list[Tree] = list(LETTERS[:count])
        while len(trees) > 1:
            trees = [(one, rng.choice("+-*"), two) for one, two in zip(trees[::2], trees[1::2], strict=True)]
        brackets = {
            letter: Flat(
                tuple(rng.randint(-9, 9) for _ in range(length)), tuple(rng.choice("+-*") for _ in range(length - 1))
            )
            for letter in LETTERS[:count]
        }
        question = Question(trees[0], brackets)
        if abs(question.value()) <= LARGEST:
            return question


@dataclass(frozen=True, slots=True)
class Student:
    """How somebody errs: chances that a wrong rule is held in a trace, and slips.

    minus_minus: "a - -b" is a - b.   both_negative: a product of two negative numbers is negative.
    right_first: "a - b + c" is a - (b + c).   sums_first: "a + b * c" is (a + b) * c.
    lapses: how often a rule that is held shows, where it can.
    slip: per operation, a result off by a little or with the wrong sign.   copy: per bracket, one sign miscopied.
    flatten: per trace, "(A + B) - (C + D)" loses its brackets.
    """

    minus_minus: float = 0.35
    both_negative: float = 0.3
    right_first: float = 0.3
    sums_first: float = 0.12
    lapses: float = 0.6
    slip: float = 0.03
    copy: float = 0.03
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
        self.brackets_products = rng.random() < 0.5
        self.turns_signs = rng.random() < 0.6
        self.at_once = rng.random() < 0.35
        self.brackets_result = rng.random() < 0.25
        self.brackets_negative = rng.random() < 0.4

    def _lapses(self, rule: str) -> bool:
        return rule in self.held and self.rng.random() < self.student.lapses

    def apply(self, left: int, sign: str, right: int) -> int:
        """One operation, as this writer does it."""
        found = apply(left, sign, right)
        if sign == "-" and right < 0 and self._lapses("minus_minus"):
            found = left + right
        elif sign == "*" and left < 0 and right < 0 and self._lapses("both_negative"):
            found = -found
        if self.rng.random() < self.student.slip:
            found = self.rng.choice([*(found + step for step in (-10, -2, -1, 1, 2, 10)), -found or 1])
        return found

    def _join(self, flat: Flat, at: int) -> Flat:
        return flat.joined(at, self.apply(flat.numbers[at], flat.signs[at], flat.numbers[at + 1]))

    # ---- one bracket -------------------------------------------------------------------------------------------------

    def work_out(self, flat: Flat) -> tuple[list[str], int]:
        """The lines of a calculation, the bracket itself first, and its result."""
        lines = [flat.text()]
        if self.rng.random() < self.student.copy:
            at = self.rng.randrange(len(flat.numbers))
            flat = Flat((*flat.numbers[:at], -flat.numbers[at] or 1, *flat.numbers[at + 1 :]), flat.signs)
            lines.append(flat.text())
        if "*" in flat.signs and {*flat.signs} != {"*"} and self._lapses("sums_first"):
            flat = self._join(flat, next(at for at, sign in enumerate(flat.signs) if sign != "*"))
            lines.append(flat.text())
        flat = self._products(flat, lines)
        if self.turns_signs and min(flat.numbers[1:], default=0) < 0:
            flat = self._turned(flat)
            lines.append(flat.text())
        while flat.signs:
            late = flat.signs[0] == "-" and len(flat.signs) > 1 and self._lapses("right_first")
            flat = self._join(flat, int(late))
            if not self.at_once:
                lines.append(flat.text())
        result = flat.numbers[0]
        kept = [line for line in dict.fromkeys(lines) if line != f"({result})"]
        return [*kept, f"({result})" if self.brackets_result else str(result)], result

    def _products(self, flat: Flat, lines: list[str]) -> Flat:
        while "*" in flat.signs:
            at = flat.signs.index("*")
            if self.brackets_products and len(flat.signs) > 1:
                # "(4 + -6 * 0 * 5)" -> "(4 + (-6 * 0) * 5)"
                texts = flat.text()[1:-1].split(" ")
                product = " ".join(texts[2 * at : 2 * at + 3])
                lines.append(f"({' '.join([*texts[: 2 * at], f'({product})', *texts[2 * at + 3 :]])})")
            flat = self._join(flat, at)
            if "*" not in flat.signs or not self.at_once:
                lines.append(flat.text())
        return flat

    def _turned(self, flat: Flat) -> Flat:
        """ "+ -9" becomes "- 9", and "- -9" becomes "+ 9"."""
        signs = [
            sign if number >= 0 else "+" if sign == "-" and not self._lapses("minus_minus") else "-"
            for sign, number in zip(flat.signs, flat.numbers[1:], strict=True)
        ]
        return Flat((flat.numbers[0], *map(abs, flat.numbers[1:])), tuple(signs))

    # ---- the whole trace ---------------------------------------------------------------------------------------------

    def write(self, question: Question) -> Trace:
        """Letters for the brackets, a step for each, then the equation of letters."""
        defined = [f"{letter} = {flat.text()}" for letter, flat in question.brackets.items()]
        joined = " and ".join(defined)
        if len(defined) > 2 and self.rng.random() < 0.6:
            joined = f"{', '.join(defined[:-1])}, and {defined[-1]}"
        plan, form = question.plan, show(question.plan)
        if len(defined) > 2 and self.rng.random() < self.student.flatten:
            form = re.sub("[()]", "", form)
            plan = parse(form)
        elif len(defined) == 2 and self.rng.random() < 0.5:
            form = f"({form})"
        steps = [f'This equation can be written as "{form}", where {joined}.']
        results = {}
        for letter, flat in question.brackets.items():
            step, results[letter] = self.told(letter, flat)
            steps.append(step)
        lines, answer = self.finish(fill(plan, results))
        steps.append(f"Then, the final equation is {' = '.join([form, *lines])}. So the answer is {answer}")
        return Trace(tuple(steps), str(answer))

    def told(self, letter: str, flat: Flat) -> tuple[str, int]:
        """The step that works a bracket out, and its result."""
        lines, result = self.work_out(flat)
        return f"Let's calculate {letter} = {' = '.join(lines)}.", result

    def finish(self, now: Tree) -> tuple[list[str], int]:
        """The equation in numbers, its innermost pairs worked out line by line."""
        lines = [self._shown(now)]
        while isinstance(now, tuple):
            now = self._innermost(now)
            lines.append(self._shown(now))
        assert isinstance(now, int)
        return lines, now

    def _innermost(self, tree: Tree) -> Tree:
        if not isinstance(tree, tuple):
            return tree
        left, sign, right = tree
        if isinstance(left, int) and isinstance(right, int):
            return self.apply(left, sign, right)
        return (self._innermost(left), sign, self._innermost(right))

    def _shown(self, tree: Tree) -> str:
        return re.sub(r"(?<=[-+*] )-\d+", r"(\g<0>)", show(tree)) if self.brackets_negative else show(tree)


def expert(rng: random.Random) -> Written:
    """A new question with its worked solution."""
    question = make_question(rng)
    return question.text(), Writer(rng, EXPERT).write(question)


def student(rng: random.Random) -> Written:
    """A new question with a student's trace."""
    question = make_question(rng)
    return question.text(), Writer(rng, STUDENT).write(question)


def practice(rng: random.Random) -> Written:
    """Single calculations without mistakes, each of a question of its own: a bracket, or what its brackets come to. The
    question is what they start from, and none works anything out from its beginning to its end.
    """
    starts: list[str] = []
    steps: list[str] = []
    for letter in LETTERS:
        question, writer = make_question(rng), Writer(rng, EXPERT)
        if rng.random() < 0.5:
            flat = question.brackets[rng.choice(sorted(question.brackets))]
            starts.append(flat.text())
            steps.append(writer.told(letter, flat)[0])
        else:
            results = {name: value(parse(flat.text())) for name, flat in question.brackets.items()}
            lines, _ = writer.finish(fill(question.plan, results))
            starts.append(lines[0])
            steps.append(f"Then, the final equation is {' = '.join([show(question.plan), *lines])}.")
    return "\n".join(starts), Trace(tuple(steps))
