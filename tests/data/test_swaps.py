"""`swaps` against a slow reader of its own that looks at nothing but the words."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traceward.data.tasks.swaps import (
    EXPERT,
    LONG,
    PRACTISED,
    STUDENT,
    THEMES,
    Layout,
    Shuffle,
    Student,
    make_shuffle,
    practice,
    write_trace,
)
from traceward.data.tasks.swaps_check import check, read_shuffle
from traceward.records import Trace, Verdict

SEEDS = st.integers(0, 2**32)


def slow_states(question: str) -> tuple[list[dict[str, str]], list[str], str]:
    """What everybody has after each swap, the options, and the person asked for."""
    start, trades, _, *options = question.split("\n")
    people = re.split(r", (?:and )?", start.split(" are ")[0])
    things = [option[4:-1] for option in options]
    have = list(range(len(people)))
    states = [have.copy()]
    for sentence in trades.split(". "):
        if sentence.split(",")[0] in ("First", "Then", "Finally"):
            words = sentence.split(", ")[1].split(" ")
            one, two = people.index(words[0]), people.index(words[2])
            have[one], have[two] = have[two], have[one]
            states.append(have.copy())
    asked = trades.split("At the end of the ")[1].split(", ")[1].split(" ")[0]
    return [{name: things[at] for name, at in zip(people, state, strict=True)} for state in states], things, asked


def slow_first_error(question: str, trace: Trace) -> int:
    """Index of the first step with a claim that is false when it is made; -1 where all are true."""
    states, things, asked = slow_states(question)
    people = list(states[0])
    told_at_start = trace.steps[0].startswith("At the start") or " and " not in trace.steps[0]
    now = -1 if told_at_start else 0
    for index, step in enumerate(trace.steps):
        claims = re.findall(r"\b([A-Z]\w*): ([\w' -]+?)(?= So the|[,.]|$)", step)
        now += bool(claims)
        for who, what in claims:
            (name,) = [name for name in people if name == who or (len(who) == 1 and name[0] == who)]
            have = states[min(now, len(states) - 1)][name]
            # "Gatsby" is The Great Gatsby, "red" a red ball.
            if what.lower() not in have.lower():
                return index
        end = re.search(r"At the end [^,]*, \w+ (?:is|has)(?: the| playing| dancing with)? (.+?)\. So", step)
        said = re.search(r"answer is \((.)\)", step)
        named = [*([end[1]] if end else []), *([things["ABCDEFG".index(said[1])]] if said else [])]
        if any(thing != states[-1][asked] for thing in named):
            return index
    return -1


@given(seed=SEEDS)
def test_a_question_reads_back(seed: int) -> None:
    shuffle = make_shuffle(random.Random(seed))
    assert read_shuffle(shuffle.text()) == shuffle


@given(seed=SEEDS)
def test_the_solution_is_the_slow_one(seed: int) -> None:
    shuffle = make_shuffle(random.Random(seed))
    states, things, asked = slow_states(shuffle.text())
    assert shuffle.states() == states
    assert (list(shuffle.things), shuffle.asked) == (things, asked)


@given(seed=SEEDS, expert=st.booleans())
def test_the_first_error_is_the_slow_one(seed: int, expert: bool) -> None:
    rng = random.Random(seed)
    shuffle = make_shuffle(rng)
    trace = write_trace(shuffle, rng, EXPERT if expert else STUDENT)
    assert check(shuffle.text(), trace).first_error == slow_first_error(shuffle.text(), trace)
    if expert:
        assert slow_first_error(shuffle.text(), trace) == -1


def test_all_themes_sizes_and_layouts_occur() -> None:
    rng = random.Random(0)
    shuffles = [make_shuffle(rng) for _ in range(300)]
    assert {shuffle.theme for shuffle in shuffles} == {*THEMES}
    assert {len(shuffle.people) for shuffle in shuffles} == {3, 5, 7}
    texts = [write_trace(shuffle, rng, EXPERT).steps[0] for shuffle in shuffles]
    shapes = {
        Layout.ALL: r"At the start: \w\w+: ",
        Layout.PAIR: r"\w\w+ and \w\w+ [a-z ]+: \w+: [\w' -]+, \w+: [\w' -]+\.$",
        Layout.INITIALS: r"\w: [\w' -]+, \w: ",
    }
    for layout, shape in shapes.items():
        assert any(re.match(shape, text) for text in texts), layout


@pytest.mark.parametrize(
    ("held", "after"),
    [({"goes_by_start": 1.0}, {"Alice": "red", "Bob": "blue"}), ({"one_way": 1.0}, {"Alice": "red", "Bob": "red"})],
)
def test_a_misconception_does_what_it_says(held: dict[str, float], after: dict[str, str]) -> None:
    """After Bob and Claire, then Alice and Bob: Bob has what Claire had, and Alice asks Bob for it."""
    things = ("blue ball", "green ball", "red ball")
    names = ("Alice", "Bob", "Claire")
    shuffle = Shuffle(THEMES[0], names, things, (("Bob", "Claire"), ("Alice", "Bob"), ("Bob", "Claire")), "Alice")
    student = replace(EXPERT, lapses=1.0, **held)
    traces = (write_trace(shuffle, random.Random(seed), student) for seed in range(50))
    steps = next(trace.steps for trace in traces if trace.steps[0].startswith("At the start"))
    if "goes_by_start" in held:
        after = {"Alice": "green", "Bob": "blue"}
    assert f"Alice: {after['Alice']}, Bob: {after['Bob']}" in steps[2]
    assert check(shuffle.text(), Trace(steps, "(C)")).first_error == 2


def test_what_people_write_is_read() -> None:
    """Layouts of the traces that others wrote: one person only, no "and", capital letters, no full stops."""
    things = ("blue ball", "green ball", "red ball")
    shuffle = Shuffle(
        THEMES[0], ("Alice", "Bob", "Claire"), things, (("Bob", "Claire"), ("Alice", "Bob"), ("Bob", "Claire")), "Alice"
    )
    for steps in (
        ("Alice has blue ball.", "Bob and Claire swap balls, Bob has red ball.", "Alice and Bob swap balls, Alice has "
         "red ball.", "Bob and Claire swap balls, Bob has green ball.", "So the answer is (C)"),
        ("A: Blue, B: Green, C: Red", "B C: B Red, C Green", "A B: A Red, B Blue", "B C: B Green, C Blue",
         "So the answer is (C)"),
        ("A: blue, B: green, C: red", "B: red, C: green", "A: red, B: blue", "B: green, C: blue So the answer is (C)"),
    ):  # fmt: skip
        assert check(shuffle.text(), Trace(steps, "(C)")).first_error == -1
        wrong = (*steps[:2], re.sub("(?i)red", "green", steps[2]), *steps[3:])
        assert check(shuffle.text(), Trace(wrong, "(C)")).first_error == 2


def test_ending_early_or_skipping_a_swap_is_wrong() -> None:
    shuffle = make_shuffle(random.Random(1))
    trace = next(
        trace
        for seed in range(99)
        if (trace := write_trace(shuffle, random.Random(seed), EXPERT)).steps[0].startswith("At the start")
    )
    skipped = Trace((*trace.steps[:1], *trace.steps[2:]), trace.answer)
    assert check(shuffle.text(), skipped).first_error == 1
    early = Trace((*trace.steps[:2], "So the answer is " + str(trace.answer)), trace.answer)
    assert check(shuffle.text(), early).first_error == 2


def test_chances_of_a_student_are_used() -> None:
    """Each of them alone makes traces wrong, and with all at 0 none is."""
    shuffle = make_shuffle(random.Random(3), sizes=(5,))
    for name in ("goes_by_start", "one_way", "slip", "end"):
        student = replace(EXPERT, **{name: 1.0})
        wrong = [check(shuffle.text(), write_trace(shuffle, random.Random(s), student)).first_error for s in range(20)]
        assert any(index != -1 for index in wrong), name
    assert Student(0, 0, 0, 0, 0) == replace(EXPERT, lapses=0)


@pytest.mark.parametrize("seed", range(20))
def test_practice_is_long_and_right(seed: int) -> None:
    question, trace = practice(random.Random(seed))
    shuffle = make_shuffle(random.Random(seed), PRACTISED, told=LONG)
    assert question == shuffle.text().split("\n")[0]
    assert len(shuffle.swaps) * len(shuffle.people) > LONG - len(shuffle.people)
    assert check(shuffle.text(), trace) == Verdict(correct=True, first_error=-1)
