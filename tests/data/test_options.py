from __future__ import annotations

from string import ascii_uppercase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traceward.data.grading import Grade
from traceward.data.options import answer_key, as_option, grade_answer, options_of, with_options
from traceward.records import Problem

VIRUSES = (
    "How do they replicate?\nOptions:\nA. As negative strand RNA\nB. E. coli\nC. As positive strand RNA\nD. 4,500 m"
)
TEXTS = st.lists(
    st.text("abcdefg XYZ.,%$0123456789-", min_size=1, max_size=20).filter(lambda text: len(text.split()) > 0),
    min_size=2,
    max_size=10,
)


@given(question=st.text("abc ?\n", min_size=1, max_size=30), options=TEXTS)
def test_options_come_back_as_they_were_written(question: str, options: list[str]) -> None:
    found = options_of(with_options(question, options))
    assert list(found) == list(ascii_uppercase[: len(options)])
    assert list(found.values()) == [" ".join(option.split()) for option in options]


@pytest.mark.parametrize("mark", ["{}. ", "{}) ", "{}: ", "({}) ", "{})"])
def test_marks_of_options(mark: str) -> None:
    lines = [mark.format(letter) + text for letter, text in zip("ABC", ("red", "blue", "green"), strict=True)]
    assert options_of("\n".join(["Which?", *lines])) == {"A": "red", "B": "blue", "C": "green"}


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("What is 1 + 1?", {}),
        ("A. Smith says so. Why?", {}),  # one line is no choice
        ("Which?\nA. one\nC. three", {}),
        ("Which holds?\nA. Ann lies.\nB. Ben lies.\nOptions:\nA. both\nB. none", {"A": "both", "B": "none"}),
        ("Which?\nA. 3 $\nm$\n\nB. 4 $\nm$", {"A": "3 $ m$", "B": "4 $ m$"}),  # an option of several lines
    ],
)
def test_what_is_a_list_of_options(question: str, expected: dict[str, str]) -> None:
    assert options_of(question) == expected


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("C", "C"), ("(C)", "C"), ("c.", "C"), ("Option C", "C"), ("C. As positive strand RNA", "C"),
        ("(C) As positive strand RNA", "C"), ("as positive strand RNA.", "C"), ("**As positive strand RNA**", "C"),
        ("E. coli", "B"), ("B. E. coli", "B"), ("4500 m", "D"), ("4500", "D"), ("$4{,}500$ m", "D"),
        ("E", "E"), ("As double strand DNA", "As double strand DNA"), ("C. As negative strand RNA", None), ("", ""),
    ],
)  # fmt: skip
def test_an_answer_names_an_option_by_letter_or_text(answer: str, letter: str | None) -> None:
    assert as_option(answer, VIRUSES) == (answer if letter is None else letter)


def test_a_text_that_two_options_share_names_none() -> None:
    assert as_option("10", with_options("How many?", ["10 apples", "10 dozen", "3"])) == "10"
    assert as_option("red", with_options("Which?", ["red", "Red.", "blue"])) == "red"


@pytest.mark.parametrize(
    ("given_answer", "reference", "expected"),
    [
        ("as positive strand RNA", "C", Grade.CORRECT),
        ("C", "As positive strand RNA", Grade.CORRECT),
        ("(C)", "C", Grade.CORRECT),
        ("E. coli", "E", Grade.WRONG),  # option B, whatever it begins with
        ("D", "C", Grade.WRONG),
        ("something else", "C", Grade.WRONG),
        (None, "C", Grade.NO_VERDICT),
        ("C", None, Grade.NO_VERDICT),
        (" ", "C", Grade.NO_VERDICT),
    ],
)
def test_grades_by_letter_or_text(given_answer: str | None, reference: str | None, expected: Grade) -> None:
    assert grade_answer(given_answer, Problem("p", VIRUSES, reference)) is expected


@given(options=TEXTS, at=st.integers(0, 9))
def test_a_letter_always_counts_as_itself_and_as_its_own_text(options: list[str], at: int) -> None:
    letter = ascii_uppercase[at % len(options)]
    problem = Problem("p", with_options("Which?", options), letter)
    assert grade_answer(f"({letter})", problem) is Grade.CORRECT
    assert answer_key(f"({letter})", problem.question) == answer_key(letter, problem.question)
    text = options[at % len(options)]
    assert as_option(text, problem.question) in {letter, text} | set(ascii_uppercase)
    assert grade_answer(f"{letter}. {text}", problem) is Grade.CORRECT


def test_votes_for_a_letter_and_for_its_text_are_one_vote() -> None:
    assert {
        answer_key(answer, VIRUSES) for answer in ("C", "(c)", "as positive strand RNA", "C. As positive strand RNA")
    } == {"c"}
    assert answer_key("$18.00", "What is it?") == "18"
