from __future__ import annotations

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traceward.data.grading import (
    Grade,
    answer_line,
    answers_equal,
    canonical_answer,
    extract_answer,
    grade,
    is_number,
    numbers_in,
)

EQUAL = [
    ("18", "18"), ("18", " 18 "), ("18", "18.00"), ("18", "18."), ("18", "$18"), ("$18.", "18 dollars"),
    ("18", "$18.00"), ("18", "\\$18"), ("18", "US$18"), ("18", "USD 18"), ("$18", "18 dollars per week"),
    ("1000", "1,000"), ("1,000,000", "1000000"), ("$5,000", "5000"), ("1000", "1{,}000"), ("1e3", "1000"),
    ("1.5e-2", "0.015"), ("2.5 \\times 10^{3}", "2500"), ("2.5 x 10^3", "2500"), ("2 million", "2,000,000"),
    ("3 hundred", "300"), ("3/4", "0.75"), ("3/4", "\\frac{3}{4}"), ("3/4", "\\dfrac34"), ("3 / 4", ".75"),
    ("1 1/2", "3/2"), ("1\\frac{1}{2}", "1.5"), ("3 1/2 hours", "3.5"), ("-3/4", "−0.75"),
    ("−2", "-2"), ("-$5", "$-5"), ("–5", "-5"), ("+7", "7"), ("0", "-0"), ("007", "7"),
    ("50%", "50 %"), ("50%", "50 percent"), ("50%", "50"), ("50\\%", "50"), ("12.5%", "12.50"),
    ("10 apples", "10"), ("10 apples", "10 apple"), ("5km", "5 kilometers"), ("5 m", "5 meters"), ("7 dozen", "7"),
    ("25 square feet", "25 ft^2"), ("9 m²", "9 meters"), ("30°", "30"), ("30^\\circ", "30 degrees"),
    ("\\boxed{\\frac{1}{2}}", "0.5"), ("\\boxed{3\\sqrt{2}}", "3\\sqrt{2}"), ("$\\text{B}$", "(B)"),
    ("2 hrs", "2 hours"), ("4 lbs", "4 pounds"),
    ("$\\boxed{18}$", "18"), ("\\boxed{\\text{18}}", "18"), ("\\(7\\)", "7"), ("**18**", "18"), ("x = 5", "5"),
    ("(B)", "B"), ("B.", "B"), ("b)", "(B)"), ("Option B", "B"), ("(Option B)", "B"), ("Choice_B", "b"),
    ("(B) a red one", "B"), ("B: BK virus", "B"), ("The answer is (F).", "F"), ("\\text{B}", "B"),
    ("Paris.", "paris"), ("New  York", "new york"), ('"yes"', "Yes"), ("Ｐaris", "Paris"), ("(1, 2)", "(1, 2)"),
    ("1/0", "1/0"), ("1e999999", "1e999999"), (")", ")"),
]  # fmt: skip
UNEQUAL = [
    ("18", "180"), ("18", "81"), ("18", "-18"), ("18", "18.01"), ("1/2", "12"), ("1/2", "1 2"), ("0.5", "50%"),
    ("10 apples", "10 dozen"), ("10 dozen apples", "10 apples"), ("18 cents", "18 dollars"), ("50%", "$50"),
    ("$5", "£5"), ("3 hours", "3 minutes"), ("1,2", "12"), ("1,2", "1.2"), ("(1,2)", "12"), ("3:4", "3/4"),
    ("1.000", "1000"),
    ("2x", "2"), ("2 x", "2"), ("5m", "5"), ("3 sqrt 2", "3"), ("3\\sqrt{2}", "3"), ("5\\pi", "5"), ("5i", "5"),
    ("2^3", "2"), ("x^2", "x"), ("2 million", "2"), ("3 hundred", "3"), ("1e3", "13"), ("1/0", "0"),
    ("A", "B"), ("(A)", "(B)"), ("E. coli", "E. faecalis"), ("E. coli", "E"), ("7 am", "7 pm"), ("yes", "no"),
    ("1e999999", "1"), ("(", ")"), (".", ","), ("Paris", "Par is"), ("3 apples and 4 pears", "3"),
]  # fmt: skip


@pytest.mark.parametrize(("left", "right"), EQUAL)
def test_equal_answers_and_their_canonical_strings(left: str, right: str) -> None:
    assert answers_equal(left, right)
    assert answers_equal(right, left)
    assert canonical_answer(left) == canonical_answer(right)


@pytest.mark.parametrize(("left", "right"), UNEQUAL)
def test_unequal_answers(left: str, right: str) -> None:
    assert not answers_equal(left, right)
    assert not answers_equal(right, left)


def test_a_bare_number_agrees_with_two_units_that_disagree_and_votes_go_together() -> None:
    assert answers_equal("18", "18 cents")
    assert answers_equal("18", "18 dollars")
    assert canonical_answer("18 cents") == canonical_answer("18 dollars") == "18"


ANSWERS = st.sampled_from(sorted({answer for pair in (*EQUAL, *UNEQUAL) for answer in pair})) | st.text(max_size=12)


@given(left=ANSWERS, right=ANSWERS)
def test_equality_is_symmetric_reflexive_and_never_splits_a_vote(left: str, right: str) -> None:
    assert answers_equal(left, left)
    assert answers_equal(left, right) == answers_equal(right, left)
    if answers_equal(left, right):
        assert canonical_answer(left) == canonical_answer(right)


@given(
    top=st.integers(-(10**9), 10**9),
    bottom=st.integers(1, 10**4),
    other=st.integers(-(10**9), 10**9),
)
def test_numbers_are_exact(top: int, bottom: int, other: int) -> None:
    assert answers_equal(f"{top}/{bottom}", f"{other}/{bottom}") == (top == other)
    assert answers_equal(f"{top:,}", str(top))
    assert canonical_answer(f"{top}/{bottom}") == str(Fraction(top, bottom))


@given(st.sampled_from(sorted({answer for pair in EQUAL for answer in pair})))
def test_a_canonical_answer_stays_what_it_is(answer: str) -> None:
    assert canonical_answer(canonical_answer(answer)) == canonical_answer(answer)


@pytest.mark.parametrize(
    ("given_answer", "reference", "expected"),
    [
        ("$18", "18", Grade.CORRECT),
        ("19", "18", Grade.WRONG),
        (None, "18", Grade.NO_VERDICT),
        ("18", None, Grade.NO_VERDICT),
        ("", "18", Grade.NO_VERDICT),
        ("  ", "18", Grade.NO_VERDICT),
        (".", "18", Grade.WRONG),
    ],
)
def test_grades(given_answer: str | None, reference: str | None, expected: Grade) -> None:
    assert grade(given_answer, reference) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>Answer: 3</think><answer> 7 </answer>", "7"),
        ("#### 3\nAnswer: 4\n#### 5", "5"),
        ("so\n#### 72", "72"),
        ("Answer: 4\n\\boxed{5}", "4"),
        ("**Answer:** 5", "5"),
        ("Final Answer: $\\boxed{18}$", "$\\boxed{18}$"),
        ("Thus \\boxed{3} or \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("It is \\boxed{3", None),
        ("The answer is $18.", "$18"),
        ("The answer is 3.5. I am sure.", "3.5"),
        ("The answer is: 390", "390"),
        ("the answer is 3.\nNo, the answer is therefore **5**.", "5"),
        ("The final answer is (D)", "(D)"),
        ("There is no result.", None),
        ("<answer></answer>", None),
        ("", None),
    ],
)
def test_extraction(text: str, expected: str | None) -> None:
    assert extract_answer(text) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("#### 18", "18"),
        ("Answer: 18", "18"),
        ("A: 90,000", "90,000"),
        ("A: Adenovirus is an option.", None),
        ("The answer is 18.", None),
        ("18", None),
        ("Answer:", None),
        ("**Answer:** 18", "18"),
        ("**Final Answer: 18**", "18"),
        ("**Answer:**", None),
    ],
)
def test_answer_lines(line: str, expected: str | None) -> None:
    assert answer_line(line) == expected


def test_is_number() -> None:
    assert [is_number(text) for text in ("3 hours", "1/2", "E", "two", "3:4")] == [True, True, False, False, False]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7 + 5 = 12 apples.", ["7", "5", "12"]),
        ("48/2=24", ["48", "2", "24"]),
        ("$1,250.50 and 3.", ["1,250.50", "3"]),
        ("Step 2: add 4", ["4"]),
        ("3. add 4", ["4"]),
        ("H2O, x1, 3rd, 007, 1.2.3, 7:30, (3,4)", []),
    ],
)
def test_numbers_in_text(text: str, expected: list[str]) -> None:
    found = numbers_in(text)
    assert [number.text for number in found] == expected
    assert all(text[number.start : number.end] == number.text for number in found)


@pytest.mark.parametrize(
    "text", ["9" * 20_000, "(" * 20_000, "$" * 20_000, "a " * 10_000, "\\boxed{" * 3_000, "1,000" * 4_000]
)
def test_long_answers_are_read_in_no_time(text: str) -> None:
    start = time.perf_counter()
    canonical_answer(text)
    extract_answer(text)
    assert time.perf_counter() - start < 2
