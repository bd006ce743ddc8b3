from __future__ import annotations

import random
import re
from itertools import pairwise
from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traceward.data.tasks.stories import (
    EXPERT,
    LARGEST,
    STUDENT,
    Relation,
    Story,
    Student,
    check,
    demonstration,
    demonstrations,
    make_story,
    read_story,
    write_trace,
)
from traceward.data.tasks.story_words import ITEMS, NAMES, Style
from traceward.errors import DataError
from traceward.records import Trace, Verdict

seeds = st.integers(0, 2**32)
STYLES = pytest.mark.parametrize("style", list(Style))
QUESTION = (
    "Ann has 7 apples. Ben has 5 more apples than Ann. Cara has 3 fewer apples than Ben. "
    "Dan has twice as many apples as Ann. How many apples do Cara and Dan have together?"
)
RIGHT = (
    "Ben has 7 + 5 = 12 apples.",
    "Cara has 12 - 3 = 9 apples.",
    "Dan has 7 * 2 = 14 apples.",
    "Together they have 9 + 14 = 23 apples.",
)


def slow_solution(question: str) -> tuple[dict[str, int], str, int]:
    """Everybody's amount, the item, and the answer, from the words of the question, without the module's reader."""
    *sentences, asked = [part.split() for part in re.split(r"(?<=[.?]) ", question)]
    amounts: dict[str, int] = {}
    for words in sentences:
        words[-1] = words[-1].rstrip(".")
        if words[2] == "twice":
            amounts[words[0]] = 2 * amounts[words[-1]]
        elif words[-2] == "than":
            sign = {"more": 1, "fewer": -1}[words[3]]
            amounts[words[0]] = amounts[words[-1]] + sign * int(words[2])
        else:
            amounts[words[0]] = int(words[2])
    item = asked[2]
    answer = amounts[asked[4]] + amounts[asked[6]] if asked[-1] == "together?" else amounts[asked[4]]
    return amounts, item, answer


def right_steps(question: str) -> set[str]:
    """Every step text that is right for a question, in all wordings and orders of operands."""
    amounts, item, answer = slow_solution(question)
    equations: list[tuple[str, str, int]] = []
    for sentence in re.split(r"(?<=[.?]) ", question):
        name, words = sentence.split()[0], sentence.rstrip(".").split()
        other = amounts.get(words[-1], 0)
        if "twice" in words:
            forms = [f"{other} * 2", f"2 * {other}", f"{other} + {other}"]
        elif "more" in words:
            forms = [f"{other} + {words[2]}", f"{words[2]} + {other}"]
        elif "fewer" in words:
            forms = [f"{other} - {words[2]}"]
        else:
            forms = []
        equations.extend((name, form, amounts[name]) for form in forms)
    if question.endswith("together?"):
        one, two = (amounts[name] for name in re.findall(r"do (\w+) and (\w+)", question)[0])
        equations.extend(("Together they", form, answer) for form in (f"{one} + {two}", f"{two} + {one}"))
    texts = set()
    for name, form, result in equations:
        together = name == "Together they"
        texts.add(f"{name} {'have' if together else 'has'} {form} = {result} {item}.")
        texts.add(f"Since {form} = {result}, the {item} of {'both' if together else name} are {result}.")
    return texts


LATER = ["So", "Then", "Now", "Next,", "Thus", "Hence", "Therefore", "Well,", "Here", "Clearly,", "Indeed,", "Surely"]
LATER += ["Plainly", "Again,", "Finally,"]
OPENINGS = ["First,", *LATER]
MANY = {"have": "has", "own": "owns", "hold": "holds", "keep": "keeps", "get": "gets", "count": "counts"}
MANY |= {"carry": "carries", "show": "shows"}
ENDINGS = ["now", "here", "then", "today", "exactly", "already", "indeed", "overall", "again"]


def plain(step: str) -> str:
    """The same step in the most usual words of its style; what is no wording of this world stays as it is."""
    words = step.removesuffix(".").split(" ")
    if words[-1] in ENDINGS:
        words.pop()
    if words[0] in OPENINGS:
        words.pop(0)
        if words[0] == "together":
            words[0] = "Together"
    at = 2 if words[0] == "Together" else 1
    if len(words) > at and words[0] != "Since":
        known = {**dict.fromkeys(MANY.values(), "has"), **dict.fromkeys(MANY, "have")}
        words[at] = known.get(words[at], words[at])
    return " ".join(words) + "."


def slow_check(question: str, trace: Trace) -> Verdict:
    right = right_steps(question)
    correct = trace.answer == str(slow_solution(question)[2])
    wrong = [index for index, step in enumerate(trace.steps) if plain(step) not in right]
    return Verdict(correct, wrong[0] if wrong else -1 if correct else len(trace.steps))


def single_edits(step: str, item: str) -> list[str]:
    """Every number one off or doubled, every sign another, every name another, and another item."""
    edits = []
    for match in re.finditer(r"\d+", step):
        number = int(match[0])
        for other in {number + 1, abs(number - 1), 2 * number + 1, 10 * number}:
            edits.append(step[: match.start()] + str(other) + step[match.end() :])
    for match in re.finditer(r" [-+*] ", step):
        edits.extend(step[: match.start()] + f" {sign} " + step[match.end() :] for sign in "+-*")
    owner = re.search("|".join([r"[Tt]ogether they \w+", "both are", *(rf"\b{name}\b" for name in NAMES)]), step)
    assert owner is not None
    verb = " has" if "they" in owner[0] else " are" if "both" in owner[0] else ""
    edits.extend(step[: owner.start()] + name + verb + step[owner.end() :] for name in NAMES)
    edits.append(step.replace(item, next(other for other in ITEMS if other != item)))
    return [edit for edit in edits if edit != step]


# Stories


@given(seed=seeds)
def test_a_story_is_read_back_from_its_question(seed: int) -> None:
    story = make_story(random.Random(seed))
    assert read_story(story.text()) == story


@given(seed=seeds, low=st.integers(1, 5), more=st.integers(0, 2))
def test_a_story_has_as_many_relations_as_asked_and_small_true_values(seed: int, low: int, more: int) -> None:
    story = make_story(random.Random(seed), (low, low + more))
    amounts, _, answer = slow_solution(story.text())
    assert low <= len(story.facts) - 1 <= low + more
    assert len({fact.name for fact in story.facts}) == len(story.facts)
    assert all(2 <= amount <= LARGEST for amount in [*amounts.values(), answer])


def test_every_kind_of_sentence_and_question_occurs() -> None:
    stories = [make_story(random.Random(seed)) for seed in range(60)]
    assert {fact.relation for story in stories for fact in story.facts} == {None, *Relation}
    assert {story.together is None for story in stories} == {True, False}


@pytest.mark.parametrize(
    "question",
    [
        "",
        "What is 2 + 2?",
        "Ann has 7 apples.",
        "How many apples does Ann have?",
        "Ann likes 7 apples. How does Ann have?",
    ],
)
def test_a_question_of_another_world_is_refused(question: str) -> None:
    with pytest.raises(DataError, match="must be a story of this world"):
        read_story(question)


# Checker


def test_a_trace_checked_by_hand() -> None:
    assert check(QUESTION, Trace(RIGHT, "23")) == Verdict(True, -1)
    assert check(QUESTION, Trace(RIGHT, "22")) == Verdict(False, 4)
    assert check(QUESTION, Trace(RIGHT)) == Verdict(False, 4)
    misread = (RIGHT[0], "Cara has 12 + 3 = 15 apples.", RIGHT[2], "Together they have 15 + 14 = 29 apples.")
    assert check(QUESTION, Trace(misread, "29")) == Verdict(False, 1)
    # A right answer does not hide a wrong step.
    assert check(QUESTION, Trace((*RIGHT[:2], "Dan has 7 + 2 = 9 apples.", RIGHT[3]), "23")) == Verdict(True, 2)
    assert check(QUESTION, Trace(("So it is 23.",), "23")) == Verdict(True, 0)
    assert check(QUESTION, Trace((RIGHT[0], RIGHT[1].replace("apples", "pens")), "23")) == Verdict(True, 1)


@pytest.mark.parametrize(
    "step",
    [
        "Ben has 5 + 7 = 12 apples.",
        "Dan has 2 * 7 = 14 apples.",
        "Dan has 7 + 7 = 14 apples.",
        "First, Ben has 7 + 5 = 12 apples.",
        "Then together they have 14 + 9 = 23 apples.",
        "Plainly Ben holds 7 + 5 = 12 apples already.",
        "Finally, together they own 14 + 9 = 23 apples overall.",
        "Since 12 - 3 = 9, the apples of Cara are 9 now.",
        "Since 12 - 3 = 9, the apples of Cara are 9.",
        "Since 14 + 9 = 23, the apples of both are 23.",
    ],
)
def test_other_orders_and_wordings_are_right(step: str) -> None:
    assert check(QUESTION, Trace((step,), "23")) == Verdict(True, -1)


@STYLES
@given(seed=seeds)
def test_an_expert_is_right_in_every_style(style: Style, seed: int) -> None:
    item = demonstration(random.Random(seed), style=style)
    verdict = check(item.problem.question, item.trace)
    assert verdict == slow_check(item.problem.question, item.trace) == Verdict(True, -1)
    assert item.problem.answer == item.trace.answer == str(slow_solution(item.problem.question)[2])
    assert all(step.startswith("Since ") is (style is Style.RESULT_FIRST) for step in item.trace.steps)


@STYLES
@pytest.mark.parametrize("seed", range(12))
def test_every_single_edit_of_a_right_trace_is_found_at_its_step(style: Style, seed: int) -> None:
    found = demonstration(random.Random(seed), style=style)
    question, steps = found.problem.question, found.trace.steps
    right, item = right_steps(question), slow_solution(question)[1]
    for index, step in enumerate(steps):
        for edit in single_edits(step, item):
            expected = -1 if plain(edit) in right else index
            edited = Trace((*steps[:index], edit, *steps[index + 1 :]), found.trace.answer)
            assert check(question, edited) == Verdict(True, expected), edit


@given(seed=seeds)
def test_the_checker_agrees_with_a_slow_one_on_what_students_write(seed: int) -> None:
    rng = random.Random(seed)
    story = make_story(rng)
    trace = write_trace(story, rng, Student(slip=0.4, result_first=0.3))
    assert check(story.text(), trace) == slow_check(story.text(), trace)


# Writers


def _chance(hits: int, count: int, rate: float) -> bool:
    """Whether `hits` of `count` is within four standard errors of `rate`."""
    return abs(hits / count - rate) < 4 * sqrt(rate * (1 - rate) / count)


def _written(writer: Student, count: int) -> list[tuple[Story, Trace]]:
    rng = random.Random(5)
    stories = [make_story(rng) for _ in range(count)]
    return [(story, write_trace(story, rng, writer)) for story in stories]


@pytest.mark.parametrize(("relation", "sign"), [(Relation.FEWER, "+"), (Relation.TWICE, "+"), (Relation.MORE, "-")])
def test_students_hold_a_misconception_at_its_rate_and_for_a_whole_trace(relation: Relation, sign: str) -> None:
    held = []
    for story, trace in _written(Student(fewer_adds=0.7, twice_adds=0.4, slip=0.0, result_first=0.0), 2000):
        signs = [
            re.findall(r" ([-+*]) ", step) == [sign]
            for fact, step in zip(story.facts[1:], trace.steps[: len(story.facts) - 1], strict=True)
            if fact.relation is relation
        ]
        assert len(set(signs)) <= 1
        held.extend(signs[:1])
    rate = {Relation.FEWER: 0.7, Relation.TWICE: 0.4, Relation.MORE: 0.0}[relation]
    assert len(held) > 500
    assert _chance(sum(held), len(held), rate) if rate else not any(held)


def test_slips_come_at_their_rate() -> None:
    """Half of them change a result; of the others, which take any known amount, some take the right one."""
    written = _written(Student(fewer_adds=0.0, twice_adds=0.0, slip=0.2, result_first=0.0), 2000)
    equations = [
        re.findall(r"(-?\d+) ([-+*]) (-?\d+) = (-?\d+)", step)[0] for _, trace in written for step in trace.steps
    ]
    by_sign = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
    broken = sum(by_sign[sign](int(left), int(right)) != int(result) for left, sign, right, result in equations)
    assert _chance(broken, len(equations), 0.1)
    first_wrong = sum(check(story.text(), trace).first_error == 0 for story, trace in written) / len(written)
    assert 0.08 < first_wrong < 0.12  # the first step knows one amount, so only results slip there


def test_the_shipped_student_is_right_about_one_time_in_three_and_rarely_in_the_other_style() -> None:
    written = _written(STUDENT, 4000)
    right = sum(check(story.text(), trace).correct is True for story, trace in written)
    other = sum(trace.steps[0].startswith("Since ") for _, trace in written)
    assert 0.28 < right / len(written) < 0.37
    assert _chance(other, len(written), 0.03)


def test_the_crowd_of_students_agrees_on_wrong_answers() -> None:
    """What makes majority voting fail here: on most problems that a misconception touches, the mode is wrong."""
    rng = random.Random(3)
    wrong_modes, touched = 0, 0
    for _ in range(150):
        story = make_story(rng)
        if not {fact.relation for fact in story.facts} & {Relation.FEWER, Relation.TWICE}:
            continue
        answers = [write_trace(story, rng, STUDENT).answer for _ in range(15)]
        touched += 1
        wrong_modes += max(answers, key=answers.count) != str(slow_solution(story.text())[2])
    assert wrong_modes / touched > 0.5


# Sets


def test_the_same_seed_gives_the_same_demonstrations_and_another_seed_others() -> None:
    first, again, other = (demonstrations(20, seed) for seed in (1, 1, 2))
    assert first == again
    assert not {item.problem.question for item in first} & {item.problem.question for item in other}


def test_a_longer_set_starts_with_the_shorter_one() -> None:
    assert demonstrations(30, 4)[:10] == demonstrations(10, 4)


def test_a_story_has_one_misread_relation_and_refers_to_the_person_before() -> None:
    rng = random.Random(5)
    for story in (make_story(rng) for _ in range(300)):
        assert sum(fact.relation in (Relation.FEWER, Relation.TWICE) for fact in story.facts) == 1
        assert all(fact.other == before.name for before, fact in pairwise(story.facts))
    loose = [make_story(rng, chained=0.5) for _ in range(50)]
    assert any(fact.other != before.name for story in loose for before, fact in pairwise(story.facts))


def test_a_seed_means_the_same_in_every_release() -> None:
    (item,) = demonstrations(1, 0)
    assert item.problem.question == (
        "Ann has 5 pens. Finn has 5 more pens than Ann. Hugo has 6 more pens than Finn. Cara has 8 fewer pens than "
        "Hugo. Dan has 2 more pens than Cara. How many pens does Dan have?"
    )
    steps = (
        "Finn has 5 + 5 = 10 pens.",
        "Plainly Hugo has 10 + 6 = 16 pens here.",
        "Surely Cara has 16 - 8 = 8 pens here.",
        "Hence Dan counts 8 + 2 = 10 pens.",
    )
    assert item.trace == Trace(steps, "10")


def test_everybody_words_steps_alike_by_the_law_of_zipf() -> None:
    """Wording must vary in right and wrong traces alike, or a surprising word would give a wrong step away."""
    ranked = ["", *LATER]
    weights = [rank**-1.2 for rank in range(1, len(ranked) + 1)]
    for writer in (EXPERT, STUDENT):
        steps = [
            step for _, trace in _written(writer, 1500) for step in trace.steps[1:] if not step.startswith("Since ")
        ]
        openings = [first if (first := step.split(" ")[0]) in ranked else "" for step in steps]
        for opening, weight in zip(ranked, weights, strict=True):
            assert _chance(openings.count(opening), len(steps), weight / sum(weights)), opening
        assert {step.removesuffix(".").split(" ")[-1] for step in steps} >= set(ENDINGS)


def test_questions_and_ids_differ_and_what_is_excluded_stays_out() -> None:
    first = demonstrations(200, 1, relations=(1, 1))
    questions = {item.problem.question for item in first}
    assert len(questions) == len({item.problem.id for item in first}) == 200
    held_out = demonstrations(200, 1, relations=(1, 1), exclude=frozenset(questions))
    assert not questions & {item.problem.question for item in held_out}


def test_an_expert_draws_no_errors() -> None:
    assert (EXPERT.fewer_adds, EXPERT.twice_adds, EXPERT.slip) == (0.0, 0.0, 0.0)
    assert all(check(story.text(), trace) == Verdict(True, -1) for story, trace in _written(EXPERT, 300))
