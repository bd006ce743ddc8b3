"""`arithmetic` against Python's own arithmetic."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traceward.data.tasks.arithmetic import LARGEST, asked, copies, lines, make_row, practice, values
from traceward.data.tasks.arithmetic_check import check
from traceward.data.tasks.arithmetic_writing import EXPERT, RULES, STUDENT, Writer
from traceward.data.tasks.expressions import parse, parts, value
from traceward.data.tasks.rows import Row, flattened, number
from traceward.data.tasks.world import Written
from traceward.errors import DataError
from traceward.records import Trace, Verdict

SEEDS = st.integers(0, 2**32)


def python(expression: str, letters: dict[str, str] | None = None) -> int:
    for letter, text in (letters or {}).items():
        expression = expression.replace(letter, f"({text})")
    assert re.fullmatch(r"[-+*() 0-9]+", expression)
    found = eval(expression)
    assert isinstance(found, int)
    return found


def slow_first_error(question: str, trace: Trace) -> int:
    """The first step of which any part has another value than Python gives it, or copies a bracket wrongly."""
    truth = python(question.removesuffix(" ="))
    letters: dict[str, str] = {}
    for index, step in enumerate(trace.steps):
        if step.startswith("This equation"):
            plan, given = step.removesuffix(".").split('"')[1], step.removesuffix(".").split("where ")[1]
            letters = dict(part.split(" = ") for part in re.split(r", and | and |, ", given))
            wrong = python(plan, letters) != truth or any(text not in question for text in letters.values())
        elif step.startswith("Let's"):
            letter, *lines = step.removesuffix(".").removeprefix("Let's calculate ").split(" = ")
            wrong = any(python(line) != python(letters[letter]) for line in lines)
        else:
            lines = step.removeprefix("Then, the final equation is ").split(". So the answer is ")
            wrong = any(python(line, letters) != truth for line in [*lines[0].split(" = "), lines[1]])
        if wrong:
            return index
    return -1


@given(seed=SEEDS)
def test_a_question_has_the_value_that_python_gives_it(seed: int) -> None:
    row = make_row(random.Random(seed))
    assert row.value() == python(asked(row).removesuffix(" =")) == value(parse(asked(row)[:-2]))
    assert abs(row.value()) <= LARGEST


@given(seed=SEEDS, expert=st.booleans())
def test_the_first_error_is_the_slow_one(seed: int, expert: bool) -> None:
    rng = random.Random(seed)
    row = make_row(rng)
    trace = Writer(rng, EXPERT if expert else STUDENT).write(row)
    assert check(asked(row), trace).first_error == slow_first_error(asked(row), trace)
    if expert:
        assert check(asked(row), trace) == Verdict(True, -1)


@given(seed=SEEDS)
def test_every_line_of_an_expert_has_the_same_value(seed: int) -> None:
    rng = random.Random(seed)
    row = make_row(rng)
    lines, result = Writer(rng, EXPERT).work_out(row)
    assert {line.value() for line in lines} == {result} == {row.value()}
    assert len(lines) <= 40


@given(seed=SEEDS)
def test_brackets_that_letters_do_not_need_may_go(seed: int) -> None:
    rng = random.Random(seed)
    form, named = Writer(rng, EXPERT).lettered(make_row(rng))
    letters = {letter: row.value() for letter, row in named.items()}
    assert flattened(form).value(letters) == form.value(letters)
    assert flattened(flattened(form)) == flattened(form)


def test_rows_products_and_sums() -> None:
    row = Row((2, -3, Row((4,)), 5, 6), ("-", "*", "+", "+"))
    assert row.text() == "2 - -3 * (4) + 5 + 6"
    assert row.value() == 25
    assert [*row.runs()] == [(1, 3)]
    assert row.sums() == [3]
    assert row.replaced(1, 3, -12) == Row((2, -12, 5, 6), ("-", "+", "+"))
    assert [number(item) for item in (*row.items, "A", Row((1, 2), ("+",)))] == [2, -3, 4, 5, 6, None, None]
    assert flattened(Row((Row(("A", "B"), ("-",)), Row(("C", "D"), ("-",))), ("-",))).text() == "A - B - (C - D)"


@given(text=st.recursive(st.integers(-9, 99).map(str), lambda inner: st.tuples(
    inner, st.sampled_from("+-*"), inner).map(lambda x: f"({x[0]} {x[1]} {x[2]})"), max_leaves=8))  # fmt: skip
def test_expressions_are_read_as_python_reads_them(text: str) -> None:
    assert value(parse(text)) == python(text)


def test_brackets_without_end_are_a_wrong_step() -> None:
    trace = Trace((f"Let's calculate A = {'(' * 5000}.",), "2")
    assert check("(1 + 1) =", trace).first_error == 0
    with pytest.raises(DataError, match="question must be an expression"):
        check(f"{'(' * 5000}1{')' * 5000} =", trace)


def test_letters_signs_and_parts() -> None:
    tree = parse("A - -3 * (B + 1)")
    assert tree == ("A", "-", (-3, "*", ("B", "+", 1)))
    assert value(tree, {"A": 2, "B": 4}) == 17
    assert ("B", "+", 1) in parts(tree)
    with pytest.raises(ValueError, match="a letter must be known: got B"):
        value(tree, {"A": 2})


@pytest.mark.parametrize("text", ["", "3 +", "(3", "3)", "3 4", "2 / 1", "3 + x", "* 3", "1.5"])
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        parse(text)


@pytest.mark.parametrize(
    ("rule", "numbers", "signs", "wrong"),
    [
        ("minus_minus", (5, -3), "-", 2),
        ("both_negative", (-4, -6), "*", -24),
        ("right_first", (9, 4, 3), "-+", 2),
        ("sums_first", (2, 3, 4), "+*", 20),
    ],
)
def test_a_rule_does_what_it_says(rule: str, numbers: tuple[int, ...], signs: str, wrong: int) -> None:
    student = replace(EXPERT, **{rule: 1.0}, lapses=1.0)
    for seed in range(30):  # whatever the layout
        writer = Writer(random.Random(seed), student)
        writer.groups_sums = 0.0  # brackets around "9 - 4" say what comes first
        lines, found = writer.work_out(Row(numbers, tuple(signs)))
        assert found == wrong
        assert lines[0] == Row(numbers, tuple(signs))
    assert rule in RULES


def test_losing_the_brackets_is_an_error_of_the_first_step() -> None:
    rows = [Row((number, 1), ("+",)) for number in (1, 2, 3, 4)]
    row = Row((Row((rows[0], rows[1]), ("-",)), Row((rows[2], rows[3]), ("-",))), ("-",))
    for seed in range(5):
        writer = Writer(random.Random(seed), replace(EXPERT, flatten=1.0))
        writer.coarse = 0.0
        trace = writer.write(row)
        assert trace.steps[0].startswith('This equation can be written as "A - B - C - D"')
        assert check(asked(row), trace).first_error == 0


@given(seed=SEEDS)
def test_any_number_changed_after_an_equals_sign_is_found(seed: int) -> None:
    rng = random.Random(seed)
    row = make_row(rng)
    question, trace = asked(row), Writer(rng, EXPERT).write(row)
    index = rng.randrange(1, len(trace.steps))
    step = re.sub(r"= \(?(-?\d+)\)?(?=\.)", lambda found: f"= {int(found[1]) + 1}", trace.steps[index])
    steps = (*trace.steps[:index], step, *trace.steps[index + 1 :])
    assert check(question, Trace(steps, trace.answer)) == Verdict(True, index)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("exercise", [practice, lines])
def test_practice_is_single_right_calculations(exercise: Callable[[random.Random], Written], seed: int) -> None:
    question, trace = exercise(random.Random(seed))
    starts = question.split("\n")
    assert (len(starts), trace.answer) == (len(trace.steps), None)
    for start, step in zip(starts, trace.steps, strict=True):
        _, *told = step.removesuffix(".").split(" = ")
        assert told[0] == start
        assert {python(line) for line in told} == {python(start)}


@pytest.mark.parametrize("seed", range(40))
def test_copies_and_values_are_of_what_is_asked(seed: int) -> None:
    question, trace = copies(random.Random(seed))
    assert [step.removesuffix(".").split("= ")[1] for step in trace.steps] == question.split("\n")
    question, trace = values(random.Random(seed))
    for start, step in zip(question.split("\n"), trace.steps, strict=True):
        assert python(step.removesuffix(".").split("= ")[1]) == python(start)
