"""Shifted stories: other words for the same relations, judged as exactly as the ordinary ones."""

from __future__ import annotations

import random
import re
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import PreTrainedTokenizerBase

from traceward.config import DataSettings
from traceward.data.tasks import stories
from traceward.data.tasks.registry import world_task
from traceward.data.tasks.stories import (
    EXPERT,
    STUDENT,
    Relation,
    Student,
    check,
    demonstration,
    demonstrations,
    make_story,
    read_story,
    write_trace,
)
from traceward.data.tasks.story_words import NAMES, ORDINARY, OTHER, OTHER_ITEMS, OTHER_NAMES, Shift, Style, Wording
from traceward.records import Trace, Verdict

from .test_stories import slow_check, slow_solution

seeds = st.integers(0, 2**32)
SHIFTED = [shift for shift in Shift if shift is not Shift.NONE]
REWORDED = pytest.mark.parametrize("shift", [Shift.WORDING, Shift.ALL])
QUESTION = (
    "Mia starts with 7 kites. Compared to Mia, Noah is 5 kites ahead. Compared to Noah, Olga is 3 kites behind. "
    "Paul can show double the kites of Mia. What number of kites belongs to Olga and Paul as a pair?"
)


def in_ordinary_words(question: str) -> str:
    """The same question as ordinary stories put it, sentence by sentence, without the module's templates."""
    changes = [
        (r"(\w+) starts with (\d+) (\w+)\.", r"\1 has \2 \3."),
        (r"Compared to (\w+), (\w+) is (\d+) (\w+) ahead\.", r"\2 has \3 more \4 than \1."),
        (r"Compared to (\w+), (\w+) is (\d+) (\w+) behind\.", r"\2 has \3 fewer \4 than \1."),
        (r"(\w+) can show double the (\w+) of (\w+)\.", r"\1 has twice as many \2 as \3."),
        (r"What number of (\w+) belongs to (\w+) and (\w+) as a pair\?", r"How many \1 do \2 and \3 have together?"),
        (r"What number of (\w+) belongs to (\w+)\?", r"How many \1 does \2 have?"),
    ]
    for pattern, plain in changes:
        question = re.sub(pattern, plain, question)
    return question


def step_in_ordinary_words(step: str) -> str:
    """The same step in the plainest ordinary words; what is no step of the other wording stays as it is."""
    step = step[0].lower() + step[1:]
    openings = sorted(filter(None, {*OTHER.openings, *OTHER.first_openings}), key=len, reverse=True)
    opening = "|".join(word[0].lower() + word[1:] for word in openings)
    endings = "|".join(filter(None, OTHER.endings))
    singular, plural = "|".join(OTHER.verbs), "|".join(OTHER.plurals)
    match = re.fullmatch(
        rf"(?:(?:{opening}) )?(?:(both of them) (?:{plural})|(\w+) (?:{singular})) (\w+): (.+?)(?:{endings})?\.", step
    )
    if match:
        owner = "Together they have" if match[1] else f"{match[2][0].upper()}{match[2][1:]} has"
        return f"{owner} {match[4]} {match[3]}."
    match = re.fullmatch(rf"as (.+?) = (\d+), the number of (\w+) of (the pair|\w+) is (\d+)(?:{endings})?\.", step)
    if match:
        owner = "both" if match[4] == "the pair" else match[4]
        return f"Since {match[1]} = {match[2]}, the {match[3]} of {owner} are {match[5]}."
    return step[0].upper() + step[1:]


def slow_verdict(question: str, trace: Trace) -> Verdict:
    """By way of ordinary words and the slow checker of ordinary stories."""
    return slow_check(in_ordinary_words(question), Trace(tuple(map(step_in_ordinary_words, trace.steps)), trace.answer))


@pytest.mark.parametrize("shift", SHIFTED)
@given(seed=seeds)
def test_a_shifted_story_is_read_back_and_solved_as_by_hand(shift: Shift, seed: int) -> None:
    rng = random.Random(seed)
    story = make_story(rng, shift=shift)
    assert read_story(story.text()) == story
    amounts, item, answer = slow_solution(in_ordinary_words(story.text()))
    trace = write_trace(story, rng, EXPERT)
    assert (trace.answer, story.item, set(amounts)) == (str(answer), item, {fact.name for fact in story.facts})
    assert check(story.text(), trace) == slow_verdict(story.text(), trace) == Verdict(True, -1)


@pytest.mark.parametrize("shift", SHIFTED)
@pytest.mark.parametrize("style", list(Style))
@given(seed=seeds)
def test_the_checker_agrees_with_a_slow_one_on_what_students_write(shift: Shift, style: Style, seed: int) -> None:
    rng = random.Random(seed)
    story = make_story(rng, shift=shift)
    trace = write_trace(story, rng, Student(slip=0.4), style)
    assert check(story.text(), trace) == slow_verdict(story.text(), trace)


@REWORDED
@pytest.mark.parametrize("style", list(Style))
def test_every_changed_number_sign_owner_and_thing_is_found_at_its_step(shift: Shift, style: Style) -> None:
    edits = 0
    for seed in range(6):
        found = demonstration(random.Random(seed), shift=shift, style=style)
        question, steps = found.problem.question, found.trace.steps
        for index, step in enumerate(steps):
            owner = re.search(
                "|".join([*NAMES, *OTHER_NAMES, OTHER.pair, OTHER.pair.capitalize(), OTHER.pair_late]), step
            )
            assert owner is not None
            others = [step.replace(owner[0], name) for name in (*NAMES, *OTHER_NAMES)]
            others += [step[: m.start()] + str(int(m[0]) + 1) + step[m.end() :] for m in re.finditer(r"\d+", step)]
            others += [
                step[: m.start()] + f" {s} " + step[m.end() :] for m in re.finditer(r" [-+*] ", step) for s in "+-*"
            ]
            others += [step.replace(read_story(question).item, "pens")]
            for edit in others:
                edited = Trace((*steps[:index], edit, *steps[index + 1 :]), found.trace.answer)
                verdict = check(question, edited)
                assert verdict == slow_verdict(question, edited), edit
                edits += verdict.first_error == index
    assert edits > 400


@pytest.mark.parametrize(
    ("step", "right"),
    [
        ("Noah collects kites: 7 + 5 = 12.", True),
        ("Of course, Noah brings kites: 5 + 7 = 12 once more.", True),
        ("Both of them gather kites: 9 + 14 = 23 in all.", True),
        ("Lastly, both of them gather kites: 14 + 9 = 23.", True),
        ("As 12 - 3 = 9, the number of kites of Olga is 9 altogether.", True),
        ("As 9 + 14 = 23, the number of kites of the pair is 23.", True),
        ("So Noah has 7 + 5 = 12 kites now.", True),  # the old words of a model that knows no others
        ("Then together they have 9 + 14 = 23 kites.", True),
        ("Noah collects kites: 7 - 5 = 2.", False),
        ("As 12 - 3 = 9, the number of kites of Olga is 8.", False),
        ("Noah collects pens: 7 + 5 = 12.", False),
        ("Of course Noah brings kites: 5 + 7 = 12.", False),
        ("The pair collects kites: 7 + 5 = 12.", False),
    ],
)
def test_steps_checked_by_hand(step: str, right: bool) -> None:
    assert check(QUESTION, Trace((step,), "23")) == Verdict(True, -1 if right else 0)


def test_a_misread_relation_is_the_first_error_in_any_words() -> None:
    steps = ("Noah collects kites: 7 + 5 = 12.", "Olga saves kites: 12 + 3 = 15.", "Paul saves kites: 7 + 2 = 9.")
    assert check(QUESTION, Trace(steps, "24")) == Verdict(False, 1)


@pytest.mark.parametrize("shift", SHIFTED)
def test_a_shift_changes_what_it_says_and_nothing_else(shift: Shift) -> None:
    rng = random.Random(1)
    told = [make_story(rng, shift=shift) for _ in range(80)]
    counts = {len(story.facts) - 1 for story in told}
    assert counts == ({5, 6, 7} if shift in (Shift.LONGER, Shift.ALL) else {2, 3, 4})
    names = {fact.name for story in told for fact in story.facts}
    assert names == set(OTHER_NAMES if shift in (Shift.NAMES, Shift.ALL) else NAMES)
    assert {story.wording is OTHER for story in told} == {shift in (Shift.WORDING, Shift.ALL)}
    assert {sum(f.relation in (Relation.FEWER, Relation.TWICE) for f in story.facts) for story in told} == {1}


def test_no_word_of_a_shift_is_one_of_ordinary_stories() -> None:
    def drawn(wording: Wording) -> set[str]:
        lists = (wording.first_openings, wording.openings, wording.verbs, wording.plurals, wording.endings)
        return {word for words in lists for word in words} - {""}

    assert not drawn(ORDINARY) & drawn(OTHER)
    assert not set(NAMES) & set(OTHER_NAMES)
    assert [len(getattr(ORDINARY, f)) == len(getattr(OTHER, f)) for f in ("openings", "verbs", "endings")] == [True] * 3
    ordinary = {d.problem.question for d in demonstrations(300, 0)}
    assert not any(re.search(rf"\b(?:{'|'.join(OTHER_ITEMS)}|ahead|behind|double)\b", text) for text in ordinary)


@pytest.mark.parametrize("shift", SHIFTED)
def test_the_tokenizer_gives_every_shifted_text_back(shift: Shift, tokenizer: PreTrainedTokenizerBase) -> None:
    for item in demonstrations(40, 0, shift=shift):
        text = "\n".join([item.problem.question, *item.trace.steps])
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text
        assert len(ids) < 470  # the context of the model that ships is 512


def test_streams_of_all_shifts_and_sets_are_disjoint() -> None:
    texts = []
    for shift in Shift:
        world = stories.world(shift=shift)
        task = world_task(world, demonstrations=60, questions=60, validation=60, test=60, seed=0)
        parts = (task.demonstrations, task.validation, task.test)
        texts += [{item.problem.question for item in part} for part in parts]
        texts.append({problem.question for problem in task.questions})
        assert {item.source for item in task.test} == {f"stories/usual{'' if shift is Shift.NONE else f'-{shift}'}"}
    assert {len(part) for part in texts} == {60}
    assert not any(a & b for a, b in combinations(texts, 2))


def test_students_misread_shifted_stories_as_often() -> None:
    rng = random.Random(2)
    told = [make_story(rng, shift=Shift.WORDING) for _ in range(1000)]
    right = sum(check(story.text(), write_trace(story, rng, STUDENT)).correct is True for story in told)
    assert 0.27 < right / len(told) < 0.38


def test_a_shift_of_another_task_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"data\.shift must be 'none' with task 'jsonl': got 'longer'"):
        DataSettings.model_validate({"task": "jsonl", "path": "x.jsonl", "shift": "longer"})
