"""Corruptions of reasoning about options, on rows in the form of MMLU-Pro and MedReason."""

from __future__ import annotations

import random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from traceward.data.corruptions import PACKS, REGISTRY, Corrupted, corrupt, kinds_of
from traceward.data.formats import Format, completion_text
from traceward.data.grading import Grade
from traceward.data.options import grade_answer, option_letter, options_of, with_options
from traceward.errors import ConfigError
from traceward.records import Problem, Trace

KINDS = ("option-conclusion", "option-mention", "option-text")
EACH_KIND = pytest.mark.parametrize("kind", KINDS)
SEEDS = st.integers(0, 10**6)
TEXTS = (
    "As positive strand RNA", "Binary fission", "$9,000", "10,800 J", "An increase of the price", "Potassium",
    "no change", "All of the above", "the lower bound", "HIV", "Female hormone levels", "oak trees",
)  # fmt: skip
ENDS = (
    "The answer is ({}).", "Final Answer: The answer is ({}).", "So the answer is {}.", "Option {} is the right one.",
    "Therefore \\boxed{{{}}}.", "The answer is ({}) {text}.",
)  # fmt: skip
MIDDLES = ("Option {} fits best.", "This rules out ({}).", "Let us look at choice {} first.", "We find {text} here.",
           "It begins with a {text}.", "Nothing else is said.")  # fmt: skip


@st.composite
def cases(draw: st.DrawFn) -> tuple[Problem, Trace]:
    """A question with options, and a solution that ends with the right one."""
    texts = draw(st.lists(st.sampled_from(TEXTS), min_size=3, max_size=10, unique=True))
    options = options_of(with_options("Which one?", texts))
    letters = st.sampled_from(list(options))
    steps = []
    for middle in draw(st.lists(st.sampled_from(MIDDLES), min_size=1, max_size=4)):
        letter = draw(letters)
        steps.append(middle.format(letter, text=options[letter]))
    right = draw(letters)
    steps.append(draw(st.sampled_from(ENDS)).format(right, text=options[right]))
    answer = draw(st.sampled_from(["{}", "({})", "{}.", "{text}"])).format(right, text=options[right])
    return Problem("p", with_options("Which one?", texts), answer), Trace(tuple(steps), answer)


def made(kind: str, case: tuple[Problem, Trace], seed: int) -> Corrupted:
    found = REGISTRY[kind](*case, random.Random(seed))
    assume(found is not None)
    assert found is not None
    return found


def plain(trace: Trace) -> str:
    return completion_text(trace, Format.PLAIN)


@EACH_KIND
@given(case=cases(), seed=SEEDS)
def test_one_step_changes_within_the_span_and_is_reported(kind: str, case: tuple[Problem, Trace], seed: int) -> None:
    wrong = made(kind, case, seed)
    old, new = plain(case[1]), plain(wrong.trace)
    start, end = wrong.span
    assert wrong.kind == kind
    assert old != new
    assert old[:start] == new[:start]
    assert old.endswith(new[end:])
    pairs = enumerate(zip(case[1].steps, wrong.trace.steps, strict=True))
    assert [at for at, (one, two) in pairs if one != two] == [wrong.first_error]
    assert wrong == REGISTRY[kind](*case, random.Random(seed))


@EACH_KIND
@given(case=cases(), seed=SEEDS)
def test_the_end_and_the_answer_line_say_the_same_wrong_option(
    kind: str, case: tuple[Problem, Trace], seed: int
) -> None:
    problem, trace = case
    wrong = made(kind, case, seed)
    if kind == "option-conclusion":
        assert wrong.first_error == len(trace.steps) - 1
        assert grade_answer(wrong.trace.answer, problem) is Grade.WRONG
        options = options_of(problem.question)
        letter = option_letter(wrong.trace.answer or "", options)
        assert letter is not None
        assert letter in wrong.trace.steps[-1]
        assert options[option_letter(trace.answer or "", options) or ""] not in wrong.trace.steps[-1]
    else:
        assert wrong.trace.answer == trace.answer
        assert kind != "option-mention" or wrong.first_error < len(trace.steps) - 1


QUESTION = with_options("Why?", ["An open door", "a closed window", "HIV", "no reason at all"])


def steps_made(kind: str, *steps: str, answer: str = "B") -> set[str]:
    problem, trace = Problem("p", QUESTION, answer), Trace(steps, answer)
    found = [REGISTRY[kind](problem, trace, random.Random(seed)) for seed in range(60)]
    return {wrong.trace.steps[wrong.first_error] for wrong in found if wrong}


def test_right_mentions_become_wrong_and_wrong_ones_right() -> None:
    assert steps_made("option-mention", "So (B) fits.", "The answer is (B).") == {f"So ({x}) fits." for x in "ACD"}
    assert steps_made("option-mention", "So (A) is out.", "The answer is (B).") == {"So (B) is out."}
    assert steps_made("option-mention", "Either (A) or (B).", "The answer is (B).") == {
        "Either (A) or (C).", "Either (A) or (D).",
    }  # fmt: skip
    assert steps_made("option-mention", "(A + T) is not an option, nor is a (Z).", "The answer is (B).") == set()
    assert steps_made("option-mention", "The answer is (B).") == set()


def test_texts_keep_case_and_article() -> None:
    assert steps_made("option-text", "It was a closed window.") == {
        "It was an open door.", "It was HIV.", "It was no reason at all.",
    }  # fmt: skip
    assert steps_made("option-text", "We see an open door there.", answer="A") == {
        "We see a closed window there.", "We see HIV there.", "We see no reason at all there.",
    }  # fmt: skip
    assert steps_made("option-text", "A. An open door", answer="A") == set()  # repeats the question
    assert steps_made("option-text", "An open doorway.", answer="A") == set()
    assert steps_made("option-text", "The answer is (B) a closed window.") == set()


def test_conclusions_by_hand() -> None:
    assert steps_made("option-conclusion", "So the answer is (B) a closed window.") == {
        "So the answer is (A) An open door.", "So the answer is (C) HIV.", "So the answer is (D) no reason at all.",
    }  # fmt: skip
    assert steps_made("option-conclusion", "Not (A): the answer is (B).") == set()
    assert steps_made("option-conclusion", "The answer is (C).") == set()  # another one than the answer line's


def test_a_near_miss_of_an_answer_in_words_is_another_option() -> None:
    problem = Problem("p", QUESTION, "HIV")
    found = {
        wrong.trace.answer
        for seed in range(40)
        if (wrong := REGISTRY["answer-near-miss"](problem, Trace(("a",), "HIV"), random.Random(seed)))
    }
    assert found == {"An open door", "a closed window", "no reason at all"}


# ---- packs -----------------------------------------------------------------------------------------------------------


def test_every_kind_is_in_a_pack_and_packs_keep_the_order_of_the_registry() -> None:
    assert {kind for kinds in PACKS.values() for kind in kinds} == set(REGISTRY)
    assert set(PACKS) == {"general", "arithmetic", "structure", "multiple-choice", "clinical"}
    assert kinds_of(PACKS) == list(REGISTRY)
    assert kinds_of(["multiple-choice"], exclude=["option-text"]) == [
        "answer-near-miss", "option-conclusion", "option-mention",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match=r"corruption packs must be among .*: got legal"):
        kinds_of(["legal"])


@given(case=cases(), seed=SEEDS)
def test_only_kinds_of_the_pack_are_drawn(case: tuple[Problem, Trace], seed: int) -> None:
    wrong = corrupt(*case, random.Random(seed), kinds=kinds_of(["multiple-choice"]))
    assert wrong is not None
    assert wrong.kind in PACKS["multiple-choice"]
