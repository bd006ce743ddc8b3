from __future__ import annotations

import random
import re
from collections import Counter

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from traceward.data.corruptions import REGISTRY, Corrupted, corrupt, corruption
from traceward.data.formats import Format, completion_text
from traceward.data.grading import answers_equal
from traceward.data.tasks.stories import Style, check, demonstration
from traceward.errors import ConfigError
from traceward.records import Problem, Trace

KINDS = (
    "operator-flip",
    "number-change",
    "number-change-many",
    "answer-near-miss",
    "number-swap",
    "entity-swap",
    "step-delete",
    "steps-swap",
    "contradiction",
)
# The checker of stories reads each step alone: a missing or a late premise is no error to it.
BLIND = {"step-delete", "steps-swap"}
PROSE = [
    (
        Problem(
            "money", "Maria pays $1,250.50 for 3 desks while Otto pays $2,400 for chairs. What do Otto and Maria pay?"
        ),
        Trace(
            (
                "Step 1: Maria pays $1,250.50 for 3 desks.",
                "Otto pays $2,400.00, so together they pay $1,250.50 + $2,400.00 = $3,650.50!",
                "Half of $3,650.50 is $1,825.25, which is what each of Maria and Otto pays.",
            ),
            "$3,650.50",
        ),
    ),
    (
        Problem("ward", "Which drug helps?\nOptions:\nA: Aspirin \nB: Heparin \nC: Warfarin"),
        Trace(
            (
                "1. The 64-year-old patient takes Warfarin, and an 8 mg dose of Heparin raises the risk.",
                "2. Only Aspirin, given at 75 mg within 2.5 hours, helps; H2O does not.",
            ),
            "(A)",
        ),
    ),
    (
        Problem("tex", "Find the area of a triangle with base 12 and height 7, then add 3."),
        Trace(("The area is $12 \\times 7 / 2 = 42$.", "Adding 3 gives $42 + 3 = 45$."), "$45$"),
    ),
    (Problem("true", "Is 91 prime?"), Trace(("7 × 13 = 91, so 91 has the factors 7 and 13.",), "no")),
]


@st.composite
def cases(draw: st.DrawFn) -> tuple[Problem, Trace]:
    """A story with its worked solution, or one of the prose traces."""
    if draw(st.integers(0, 4)) == 0:
        return draw(st.sampled_from(PROSE))
    item = demonstration(random.Random(draw(st.integers(0, 10**6))), style=draw(st.sampled_from(list(Style))))
    return item.problem, item.trace


SEEDS = st.integers(0, 10**6)
EACH_KIND = pytest.mark.parametrize("kind", KINDS)


def made(kind: str, case: tuple[Problem, Trace], seed: int) -> Corrupted:
    found = REGISTRY[kind](*case, random.Random(seed))
    assume(found is not None)
    assert found is not None
    return found


def plain(trace: Trace) -> str:
    return completion_text(trace, Format.PLAIN)


def test_all_kinds_are_registered() -> None:
    assert tuple(REGISTRY)[: len(KINDS)] == KINDS  # the others: test_structure_corruptions.py


@EACH_KIND
@given(case=cases(), seed=SEEDS)
def test_the_text_changes_within_the_span_and_nowhere_else(kind: str, case: tuple[Problem, Trace], seed: int) -> None:
    wrong = made(kind, case, seed)
    old, new = plain(case[1]), plain(wrong.trace)
    start, end = wrong.span
    assert wrong.kind == kind
    assert old != new
    assert 0 <= start <= end <= len(new)
    assert old.startswith(new[:start])
    # The span of a step that was put in is the step; its line break is new too.
    rest = new[end:].removeprefix("\n") if kind == "contradiction" else new[end:]
    assert old.endswith(rest)
    assert start + len(rest) <= len(old)
    assert (start == end) == (kind == "step-delete")


@EACH_KIND
@given(case=cases(), seed=SEEDS)
def test_everything_before_the_first_error_is_untouched(kind: str, case: tuple[Problem, Trace], seed: int) -> None:
    wrong = made(kind, case, seed)
    first = wrong.first_error
    assert 0 <= first <= len(wrong.trace.steps)
    assert wrong.trace.steps[:first] == case[1].steps[:first]
    lines = [*wrong.trace.steps, f"Answer: {wrong.trace.answer}"]
    before = [*case[1].steps, f"Answer: {case[1].answer}"]
    assert lines[first] != before[first : first + 1]
    begin = sum(len(line) + 1 for line in lines[:first])
    assert begin <= wrong.span[0] <= begin + len(lines[first])
    assert (wrong.trace.answer == case[1].answer) is (kind != "answer-near-miss")


@EACH_KIND
@given(case=cases(), seed=SEEDS)
def test_no_formatting_trace_is_left(kind: str, case: tuple[Problem, Trace], seed: int) -> None:
    wrong = made(kind, case, seed)
    old, new = case[1].steps, wrong.trace.steps
    assert len(new) - len(old) == {"step-delete": -1, "contradiction": 1}.get(kind, 0)
    if kind in BLIND:
        assert set(new) <= set(old)
        return
    place = wrong.first_error
    pairs = list(zip(old, (*new[:place], *new[place + 1 :]) if kind == "contradiction" else new, strict=True))
    if kind == "contradiction":
        assert any(skeleton(new[place]) == skeleton(step) for step in old[:place])
        assert all(one == two for one, two in pairs)
    for one, two in pairs:
        if kind == "entity-swap":
            assert len(one.split()) == len(two.split())
            assert re.sub(r"[A-Z][a-z]+", "N", one) == re.sub(r"[A-Z][a-z]+", "N", two)
        elif kind == "operator-flip":
            assert re.sub(SIGNS, "~", one) == re.sub(SIGNS, "~", two)
        else:
            assert skeleton(one) == skeleton(two)


SIGNS = r"\\times|\\div|[-+*/×÷−]"


def skeleton(text: str) -> str:
    """A text with every digit group gone but its style kept: decimals, and that a thousand is or is not separated."""

    def style(match: re.Match[str]) -> str:
        whole, _, decimals = match[0].partition(".")
        assert not whole.startswith("0") or whole == "0"
        separated = re.fullmatch(r"\d{1,3}(,\d{3})+", whole) is not None
        assert separated or "," not in whole
        return f"<{len(decimals)}>"

    return re.sub(r"\d+(?:,\d{3})*(?:\.\d+)?", style, text)


@EACH_KIND
@given(case=cases(), seed=SEEDS)
def test_the_same_seed_gives_the_same_edit(kind: str, case: tuple[Problem, Trace], seed: int) -> None:
    assert REGISTRY[kind](*case, random.Random(seed)) == REGISTRY[kind](*case, random.Random(seed))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in BLIND])
@given(story=SEEDS, seed=SEEDS, style=st.sampled_from(list(Style)))
def test_the_checker_of_stories_finds_the_same_first_error(kind: str, story: int, seed: int, style: Style) -> None:
    item = demonstration(random.Random(story), style=style)
    assert check(item.problem.question, item.trace).first_error == -1
    wrong = made(kind, (item.problem, item.trace), seed)
    assert check(item.problem.question, wrong.trace).first_error == wrong.first_error


@pytest.mark.parametrize("kind", sorted(BLIND))
@given(story=SEEDS, seed=SEEDS)
def test_a_step_moves_or_goes_only_where_the_next_one_needs_it(kind: str, story: int, seed: int) -> None:
    item = demonstration(random.Random(story))
    wrong = made(kind, (item.problem, item.trace), seed)
    index = wrong.first_error
    result = re.findall(r"= (\d+)", item.trace.steps[index])[0]
    assert wrong.trace.steps[index] == item.trace.steps[index + 1]
    assert result in re.findall(r"\d+", item.trace.steps[index + 1].split("=")[0])
    for text in (item.problem.question, *item.trace.steps[:index]):
        assert result not in re.findall(r"\d+", text)


def test_every_kind_applies_to_most_stories() -> None:
    counts: Counter[str] = Counter()
    for seed in range(100):
        item = demonstration(random.Random(seed))
        counts.update(kind for kind in KINDS if REGISTRY[kind](item.problem, item.trace, random.Random(seed)))
    assert min(counts[kind] for kind in KINDS) >= 80


ADD = Trace(("Ann has 7 + 5 = 12 pens.",), "12")
TWO = Problem("p", "Ann has 7 pens and gets 5. How many does Ann have?")


def steps_made(kind: str, problem: Problem, trace: Trace) -> set[tuple[str, ...]]:
    found = (REGISTRY[kind](problem, trace, random.Random(seed)) for seed in range(60))
    return {wrong.trace.steps for wrong in found if wrong}


def test_operator_flip_by_hand() -> None:
    assert steps_made("operator-flip", TWO, ADD) == {("Ann has 7 - 5 = 12 pens.",)}
    wrong = REGISTRY["operator-flip"](TWO, ADD, random.Random(0))
    assert wrong is not None
    assert wrong.span == (10, 11)
    assert steps_made("operator-flip", TWO, Trace(("It costs $5*$3=$15.",))) == {("It costs $5+$3=$15.",)}


@pytest.mark.parametrize(
    "step", ["2 * 2 = 4.", "5 - 0 = 5.", "8 / 1 = 8.", "3/4 of 12 = 9.", "A 5-10 day trip.", "x + y = 3."]
)
def test_operator_flip_leaves_what_would_stay_true_or_is_no_sum(step: str) -> None:
    assert steps_made("operator-flip", TWO, Trace((step,))) == set()


def test_number_swap_leaves_sums_and_true_equations_alone() -> None:
    assert steps_made("number-swap", TWO, ADD) == {("Ann has 12 + 5 = 7 pens.",), ("Ann has 7 + 12 = 5 pens.",)}
    assert steps_made("number-swap", TWO, Trace(("12 - 5 = 7.",))) == {("5 - 12 = 7.",), ("7 - 5 = 12.",)}
    assert steps_made("number-swap", TWO, Trace(("She has 7 and 5 pens.",))) == set()
    assert steps_made("number-swap", TWO, Trace(("She pays $2.50 for 3 pens.",))) == set()


def test_number_change_keeps_grammar() -> None:
    assert steps_made("number-change", TWO, Trace(("She has 1 pen and an 8-inch ruler.",))) == set()
    assert not any(" 1 pens" in steps[0] for steps in steps_made("number-change", TWO, Trace(("She has 2 pens.",))))
    found = steps_made("number-change", TWO, Trace(("It is 2.5 m.",)))
    assert len(found) > 2
    assert all(re.fullmatch(r"It is \d\.[1-9] m\.", steps[0]) for steps in found)


def test_number_change_makes_small_slips_and_slips_of_order() -> None:
    values = {int(steps[0][6:-1]) for steps in steps_made("number-change", TWO, Trace(("It is 120.",)))}
    assert values == {118, 119, 121, 122, 110, 130, 12, 21}
    values = {int(steps[0][6:-1]) for steps in steps_made("number-change", TWO, Trace(("It is 999.",)))}
    assert values == {989, 997, 998}


@pytest.mark.parametrize("count", [3, 8, 12, 20])
def test_number_change_many_changes_about_a_quarter(count: int) -> None:
    numbers = [str(100 + n) for n in range(count)]
    trace = Trace(tuple(f"It is {number}." for number in numbers))
    wrong = REGISTRY["number-change-many"](TWO, trace, random.Random(1))
    assert wrong is not None
    changed = [
        index for index, pair in enumerate(zip(trace.steps, wrong.trace.steps, strict=True)) if pair[0] != pair[1]
    ]
    assert len(changed) == max(2, round(count / 4))
    assert wrong.first_error == changed[0]


def test_number_change_many_never_just_turns_a_sum_around() -> None:
    trace = Trace(("5 + 6 = 11.",))
    found = {
        wrong.trace.steps[0]
        for n in range(400)
        if (wrong := REGISTRY["number-change-many"](TWO, trace, random.Random(n)))
    }
    assert "6 + 7 = 11." in found
    assert "6 + 5 = 11." not in found


@pytest.mark.parametrize(
    ("answer", "allowed"),
    [
        ("(A)", {"(B)", "(C)"}),
        ("B.", {"A.", "C."}),
        ("Yes", {"No"}),
        ("false", {"true"}),
        ("3/4", None),
        ("$1,000", None),
        ("12 pens", None),
    ],
)
def test_near_misses_keep_the_form_of_the_answer(answer: str, allowed: set[str] | None) -> None:
    for seed in range(40):
        wrong = REGISTRY["answer-near-miss"](PROSE[1][0], Trace(("a",), answer), random.Random(seed))
        assert wrong is not None
        assert wrong.trace.answer is not None
        assert not answers_equal(wrong.trace.answer, answer)
        assert wrong.first_error == 1
        if allowed is not None:
            assert wrong.trace.answer in allowed
        else:
            assert re.sub(r"\d+", "", wrong.trace.answer.replace(",", "")) == re.sub(
                r"\d+", "", answer.replace(",", "")
            )


def test_a_trace_without_an_answer_or_steps_is_left_alone() -> None:
    assert REGISTRY["answer-near-miss"](TWO, Trace(("a",)), random.Random(0)) is None
    assert all(function(TWO, Trace(()), random.Random(0)) is None for function in REGISTRY.values())
    assert corrupt(TWO, Trace(("Nothing to see.",)), random.Random(0)) is None


def test_entities_are_names_not_days_not_named_in_passing_and_not_yet_in_the_step() -> None:
    question = "On Monday Ann gives Ben 3 pens and Cara 4 pens, as Dan saw. {}What do Ben and Cara hold on Monday?"
    trace = Trace(("Together Ben and Cara hold 3 + 4 = 7 pens.",))
    assert steps_made("entity-swap", Problem("p", question.format("")), trace) == set()
    assert steps_made("entity-swap", Problem("p", question.format("Soon Ann is gone. ")), trace) == {
        ("Together Ann and Cara hold 3 + 4 = 7 pens.",),
        ("Together Ben and Ann hold 3 + 4 = 7 pens.",),
    }


def test_no_name_is_swapped_for_one_that_has_the_same_result() -> None:
    question = (
        "Dan has 5 pens. Ann has twice as many pens as Dan. Finn has 5 fewer pens than Ann. "
        "Cara has 5 more pens than Finn. How many pens does Cara have?"
    )
    steps = ("Ann has 5 * 2 = 10 pens.", "Finn has 10 - 5 = 5 pens.", "Cara has 5 + 5 = 10 pens.")
    found = steps_made("entity-swap", Problem("p", question), Trace(steps, "10"))
    assert (*steps[:2], "Dan has 5 + 5 = 10 pens.") in found
    assert (*steps[:2], "Ann has 5 + 5 = 10 pens.") not in found


def test_kinds_are_picked_uniformly_and_can_be_held_out() -> None:
    item = demonstration(random.Random(12))
    counts: Counter[str] = Counter()
    for seed in range(1800):
        wrong = corrupt(item.problem, item.trace, random.Random(seed), exclude=["operator-flip"])
        assert wrong is not None
        counts[wrong.kind] += 1
    applicable = [kind for kind in KINDS if REGISTRY[kind](item.problem, item.trace, random.Random(0))]
    assert sorted(counts) == sorted(set(applicable) - {"operator-flip"})
    share = 1800 / len(counts)
    assert all(abs(count - share) < 5 * share**0.5 for count in counts.values())


def test_one_kind_can_be_asked_for() -> None:
    item = demonstration(random.Random(12))
    wrong = corrupt(item.problem, item.trace, random.Random(0), kinds=["contradiction"])
    assert wrong is not None
    assert wrong.kind == "contradiction"


def test_unknown_and_doubled_kinds_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"must be among operator-flip, .*: got typo"):
        corrupt(TWO, ADD, random.Random(0), kinds=["typo"])
    with pytest.raises(ConfigError, match="got typo"):
        corrupt(TWO, ADD, random.Random(0), exclude=["typo"])
    with pytest.raises(ConfigError, match="must be unique: got 'number-swap' twice"):
        corruption("number-swap")(REGISTRY["number-swap"])
