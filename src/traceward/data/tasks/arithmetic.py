"""`arithmetic`: nested sums and products, worked out bracket by bracket. Students share wrong rules about signs.

Questions and steps are worded as BIG-Bench's multistep_arithmetic and the traces of BIG-Bench-Mistake word them
(Srivastava et al. 2022, Tyen et al. 2023, both Apache-2.0). Traces are arithmetic_writing.py's, verdicts
arithmetic_check.py's.
"""

from __future__ import annotations

import random

from traceward.data.tasks.arithmetic_writing import EXPERT, LETTERS, STUDENT, Writer
from traceward.data.tasks.rows import Row
from traceward.data.tasks.world import Written
from traceward.records import Trace

COPIES, PRACTICE = 0.05, 0.05  # among what comes after them
LARGEST = 99_999  # no true value of a question is larger, either way
# (brackets, numbers in each); the first ones are drawn more often.
SHAPES = ((2, 4), (2, 4), (2, 4), (2, 3), (4, 4), (4, 4), (4, 3), (4, 3), (4, 2), (8, 2))


def make_row(rng: random.Random) -> Row:
    """A random one, its brackets in pairs, whose value is within LARGEST."""
    while True:
        count, length = rng.choice(SHAPES)
        rows = [
            Row(tuple(rng.randint(-9, 9) for _ in range(length)), tuple(rng.choice("+-*") for _ in range(length - 1)))
            for _ in range(count)
        ]
        while len(rows) > 1:
            rows = [Row((one, two), (rng.choice("+-*"),)) for one, two in zip(rows[::2], rows[1::2], strict=True)]
        if abs(rows[0].value()) <= LARGEST:
            return rows[0]


def asked(row: Row) -> str:
    """The question."""
    return f"({row.text()}) ="


def expert(rng: random.Random) -> Written:
    """A new question with its worked solution."""
    row = make_row(rng)
    return asked(row), Writer(rng, EXPERT).write(row)


def student(rng: random.Random) -> Written:
    """A new question with a student's trace."""
    row = make_row(rng)
    return asked(row), Writer(rng, STUDENT).write(row)


def copies(rng: random.Random) -> Written:
    """One to four lines that are copied in their order, so that counting places does not help."""
    starts = [f"({_start(rng)[1].text()})" for _ in range(rng.randint(1, 4))]
    return "\n".join(starts), Trace(
        tuple(f"{rng.choice(LETTERS)} = {start}." if rng.random() < 0.5 else f"= {start}." for start in starts)
    )


def values(rng: random.Random) -> Written:
    """The last line of an expert's calculation, and its value; a few are copies."""
    if rng.random() < COPIES:
        return copies(rng)
    writer, start = _start(rng)
    row = writer.work_out(start)[0][-1]
    return f"({row.text()})", Trace((f"= {row.value()}.",))


def lines(rng: random.Random) -> Written:
    """One calculation told as in practice, mostly a short one: who can copy learns little but values here. A few are
    practice, not to lose it."""
    if rng.random() < PRACTICE:
        return practice(rng)
    writer, row = _start(rng)
    if rng.random() < 0.7:
        row = writer.work_out(row)[0][-1]
    return f"({row.text()})", Trace((writer.told(rng.choice(LETTERS), row)[0],))


def _start(rng: random.Random) -> tuple[Writer, Row]:
    """An expert, and what a calculation of his starts from."""
    writer, form, named, results = _begun(rng)
    return writer, rng.choice([*named.values()]) if rng.random() < 0.75 else writer.filled(form, results)


def practice(rng: random.Random) -> Written:
    """Single calculations without mistakes, each of a question of its own: a bracket, or what its brackets come to. The
    question is what they start from, and none works anything out from its beginning to its end.
    """
    starts: list[str] = []
    steps: list[str] = []
    for letter in LETTERS:
        writer, form, named, results = _begun(rng)
        if rng.random() < 0.6:
            row = rng.choice([*named.values()])
            starts.append(f"({row.text()})")
            steps.append(writer.told(letter, row)[0])
        else:
            lines, _ = writer.finish(form, results)
            starts.append(lines[1])
            steps.append(f"Then, the final equation is {' = '.join(lines)}.")
    return "\n".join(starts), Trace(tuple(steps))


def _begun(rng: random.Random) -> tuple[Writer, Row, dict[str, Row], dict[str, int]]:
    """An expert with a question of his, lettered, and what the letters come to."""
    writer = Writer(rng, EXPERT)
    form, named = writer.lettered(make_row(rng))
    return writer, form, named, {letter: row.value() for letter, row in named.items()}
