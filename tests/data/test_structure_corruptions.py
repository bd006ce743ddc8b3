"""Corruptions of lists, chains, conclusions and signs, on the worlds that have them."""

from __future__ import annotations

import random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from traceward.data.corruptions import REGISTRY, Corrupted, corrupt
from traceward.data.formats import Format, completion_text
from traceward.data.tasks.stories import demonstration
from traceward.data.tasks.worlds import WORLDS
from traceward.records import Demonstration, Problem, Trace

KINDS = {
    "value-swap": "swaps",
    "value-repeat": "swaps",
    "value-stale": "swaps",
    "chain-swap": "sorting",
    "chain-drop": "sorting",
    "tie-broken": "sorting",
    "conclusion": "swaps",
    "result-sign": "arithmetic",
}
EACH_KIND = pytest.mark.parametrize("kind", KINDS)
SEEDS = st.integers(0, 10**6)
# The checker reads a first line without names of who trades as the first trade where it is true after it.
LINES = {"value-swap", "value-stale"}


def made(kind: str, seed: int) -> tuple[Demonstration, Corrupted]:
    world = WORLDS["sorting" if kind == "conclusion" and seed % 3 == 0 else KINDS[kind]]
    item = world.demonstration(random.Random(seed))
    wrong = REGISTRY[kind](item.problem, item.trace, random.Random(seed))
    assume(wrong is not None)
    assert wrong is not None
    return item, wrong


def plain(trace: Trace) -> str:
    return completion_text(trace, Format.PLAIN)


@EACH_KIND
@given(seed=SEEDS)
def test_one_step_changes_within_the_span_and_the_checker_agrees(kind: str, seed: int) -> None:
    item, wrong = made(kind, seed)
    old, new = plain(item.trace), plain(wrong.trace)
    start, end = wrong.span
    assert wrong.kind == kind
    assert old != new
    assert old.startswith(new[:start])
    assert old.endswith(new[end:])
    changed = [
        at for at, pair in enumerate(zip(item.trace.steps, wrong.trace.steps, strict=True)) if pair[0] != pair[1]
    ]
    assert changed == [wrong.first_error]
    assert (wrong.trace.answer == item.trace.answer) is (kind != "conclusion")
    world = WORLDS["sorting" if kind == "conclusion" and seed % 3 == 0 else KINDS[kind]]
    found = world.judge(item.problem, wrong.trace).first_error
    first_line = kind in LINES and wrong.first_error == 0 and " and " not in wrong.trace.steps[0]
    assert found == wrong.first_error or first_line


@EACH_KIND
def test_each_kind_applies_to_most_traces_of_its_world(kind: str) -> None:
    world = WORLDS[KINDS[kind]]
    items = world.demonstrations(30, 0)
    assert sum(REGISTRY[kind](d.problem, d.trace, random.Random(0)) is not None for d in items) >= 25


def test_what_is_drawn_for_stories_does_not_depend_on_them() -> None:
    others = [kind for kind in REGISTRY if kind not in KINDS]
    for seed in range(50):
        item = demonstration(random.Random(seed))
        assert corrupt(item.problem, item.trace, random.Random(seed)) == corrupt(
            item.problem, item.trace, random.Random(seed), kinds=others
        )


def steps_made(kind: str, problem: Problem, *steps: str, answer: str | None = None) -> set[str]:
    trace = Trace(steps, answer)
    found = [REGISTRY[kind](problem, trace, random.Random(seed)) for seed in range(60)]
    return {wrong.trace.steps[wrong.first_error] for wrong in found if wrong}


ASKED = Problem("p", "Who has what?\nOptions:\n(A) red ball.\n(B) blue ball.\n(C) green ball.")


def test_values_by_hand() -> None:
    before, after = "At the start: Ann: red, Bob: blue, Cy: green.", "Ann and Bob swap: Ann: blue, Bob: red, Cy: green."
    assert steps_made("value-stale", ASKED, before, after) == {"Ann and Bob swap: Ann: red, Bob: blue, Cy: green."}
    assert steps_made("value-swap", ASKED, after) == {
        "Ann and Bob swap: Ann: red, Bob: blue, Cy: green.",
        "Ann and Bob swap: Ann: green, Bob: red, Cy: blue.",
        "Ann and Bob swap: Ann: blue, Bob: green, Cy: red.",
    }
    assert "Ann and Bob swap: Ann: red, Bob: red, Cy: green." in steps_made("value-repeat", ASKED, after)
    assert steps_made("value-swap", ASKED, "Ann: red, Bob: red So the answer is (A)") == set()


def test_chains_by_hand() -> None:
    step = 'We now have: (1) "ash" < (2) ["bay" ? "beech"] < (6) "fir".'
    assert steps_made("chain-swap", ASKED, step) == {
        'We now have: (1) ["bay" ? "beech"] < (2) "ash" < (6) "fir".',
        'We now have: (1) "ash" < (2) "fir" < (6) ["bay" ? "beech"].',
    }
    assert steps_made("chain-drop", ASKED, step) == {
        'We now have: (2) ["bay" ? "beech"] < (6) "fir".',
        'We now have: (1) "ash" < (6) "fir".',
    }
    assert steps_made("tie-broken", ASKED, step) == {'We now have: (1) "ash" < (2) "bay" < (2) "beech" < (6) "fir".'}
    assert steps_made("tie-broken", ASKED, 'Now let\'s sort this subpart ["bay" ? "beech"] by …') == set()


def test_conclusions_and_signs_by_hand() -> None:
    ends = "At the end, Ann has the red ball. So the answer is (A)"
    assert steps_made("conclusion", ASKED, ends, answer="(A)") == {
        "At the end, Ann has the blue ball. So the answer is (B)",
        "At the end, Ann has the green ball. So the answer is (C)",
    }
    assert steps_made("conclusion", ASKED, "The answer is ash bay fir", answer="ash bay fir") == {
        "The answer is bay ash fir",
        "The answer is ash fir bay",
    }
    assert steps_made("conclusion", ASKED, ends, answer="(B)") == set()
    assert steps_made("result-sign", ASKED, "A = (3 - 9) = (-6).") == {"A = (3 - 9) = (6)."}
    assert steps_made("result-sign", ASKED, "A = (-3 + 9) = 6.") == {"A = (-3 + 9) = -6."}
    assert steps_made("result-sign", ASKED, "A = 9 - 3 = 6.") == set()


@pytest.mark.parametrize("kind", ["number-change", "number-change-many", "operator-flip", "contradiction"])
def test_kinds_for_prose_nearly_always_make_an_error_of_arithmetic(kind: str) -> None:
    """Not where 0 is a factor; "number-swap" turns sums around and is left out in its recipe."""
    right = []
    for item in WORLDS["arithmetic"].demonstrations(120, 4):
        wrong = REGISTRY[kind](item.problem, item.trace, random.Random(item.problem.id))
        if wrong is not None:
            right.append(WORLDS["arithmetic"].judge(item.problem, wrong.trace).first_error == wrong.first_error)
    assert sum(right) / len(right) > 0.94
