"""`sorting` against a slow solution of its own: groups by common beginnings."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from itertools import combinations, groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traceward.data.tasks.sorting import EXPERT, HABITS, NTH, STUDENT, Writer, practice
from traceward.data.tasks.sorting_check import check
from traceward.data.tasks.words import LONGEST, draw_words
from traceward.records import Trace, Verdict

SEEDS = st.integers(0, 2**32)
WORDS = ["mango", "apple", "melon", "apricot", "fig", "april"]


def slow_steps(words: list[str]) -> list[tuple[str, object]]:
    """The one right order of steps: what is listed, and which chains are told, as sets that forget all layout."""
    groups: list[tuple[int, list[str]]] = [(0, sorted(words))]
    found: list[tuple[str, object]] = []
    while any(len(group) > 1 for _, group in groups):
        at = next(at for at, (_, group) in enumerate(groups) if len(group) > 1)
        depth, group = groups[at]
        found.append(
            (
                "list",
                (depth, {(word, word[depth], "abcdefghijklmnopqrstuvwxyz".index(word[depth]) + 1) for word in group}),
            )
        )
        new = [(depth + 1, list(part)) for _, part in groupby(group, key=lambda word, depth=depth: word[: depth + 1])]
        groups[at : at + 1] = new
        found.append(("chain", ([{*part} for _, part in new], [{*part} for _, part in groups])))
    found.append(("end", sorted(words)))
    return found


def slow_first_error(question: str, trace: Trace) -> int:
    expected = slow_steps(question.split())
    for index, step in enumerate(trace.steps):
        kind, what = expected[index] if index < len(expected) else ("nothing", None)
        if "letter: " in step:
            listed = [
                (word, letter, int(number)) for word, letter, number in re.findall(r'"(\S+)": "(.)" \((\d+)\)', step)
            ]
            nth = step.split(" letter: ")[0].split(" ")[-1]
            named = set(re.findall(r'"(\S+)"', step.split(" by looking")[0])) or {word for word, _, _ in listed}
            said: object = (NTH.index(nth), {*listed})
            right = kind == "list" and said == what and named == {word for word, _, _ in listed}
        elif step.startswith("We now have"):
            part, _, whole = step.partition(" for the subpart. Hence, we have ")
            chains = [
                [set(re.findall(r'"(\S+?)"', item)) for item in text.split(" < ")] for text in (part, whole) if text
            ]
            said = (chains[0], chains[-1])
            right = kind == "chain" and said == what
            numbers = re.findall(r'\((\d+)\) \[?"', part)
            letters = [word[0] for word in re.findall(r'\) \[?"(\S+?)"', part)] if not whole else None
            if letters is not None:
                right = right and ["abcdefghijklmnopqrstuvwxyz"[int(number) - 1] for number in numbers] == letters
        else:
            right = kind == "end" and step.split(" answer is ")[1].split() == what
        if not right:
            return index
    return -1


@given(seed=SEEDS, expert=st.booleans())
def test_the_first_error_is_the_slow_one(seed: int, expert: bool) -> None:
    rng = random.Random(seed)
    words = draw_words(rng, rng.randint(6, 14))
    trace = Writer(rng, EXPERT if expert else STUDENT).write(words)
    assert check(" ".join(words), trace).first_error == slow_first_error(" ".join(words), trace)
    if expert:
        assert check(" ".join(words), trace) == Verdict(True, -1)
        assert trace.answer == " ".join(sorted(words))


@given(seed=SEEDS)
def test_words_are_told_apart_by_letters(seed: int) -> None:
    words = draw_words(random.Random(seed), 20)
    assert len({*words}) == 20
    for one, two in combinations(words, 2):
        at = next(at for at in range(LONGEST) if one[at] != two[at])
        assert one[at].isalpha()
        assert two[at].isalpha()


def test_a_trace_by_hand() -> None:
    writer = Writer(random.Random(0), EXPERT)
    writer.alphabetical, writer.keeps_numbers = True, False
    assert writer.write(WORDS).steps == (
        'I should start by looking at the first letter of the words in the list. The first letter: "mango": "m" (13). '
        '"apple": "a" (1). "melon": "m" (13). "apricot": "a" (1). "fig": "f" (6). "april": "a" (1).',
        'We now have: (1) ["apple" ? "apricot" ? "april"] < (6) "fig" < (13) ["mango" ? "melon"].',
        'Now let\'s sort this subpart ["apple" ? "apricot" ? "april"] by looking at their second letters. The second '
        'letter: "apple": "p" (16). "apricot": "p" (16). "april": "p" (16).',
        'We now have: (16) ["apple" ? "apricot" ? "april"] for the subpart. Hence, we have ["apple" ? "apricot" ? '
        '"april"] < "fig" < ["mango" ? "melon"].',
        'Now let\'s sort this subpart ["apple" ? "apricot" ? "april"] by looking at their third letters. The third '
        'letter: "apple": "p" (16). "apricot": "r" (18). "april": "r" (18).',
        'We now have: (16) "apple" < (18) ["apricot" ? "april"] for the subpart. Hence, we have "apple" < '
        '["apricot" ? "april"] < "fig" < ["mango" ? "melon"].',
        'Now let\'s sort this subpart ["apricot" ? "april"] by looking at their fourth letters. The fourth letter: '
        '"apricot": "i" (9). "april": "i" (9).',
        'We now have: (9) ["apricot" ? "april"] for the subpart. Hence, we have "apple" < ["apricot" ? "april"] < '
        '"fig" < ["mango" ? "melon"].',
        'Now let\'s sort this subpart ["apricot" ? "april"] by looking at their fifth letters. The fifth letter: '
        '"apricot": "c" (3). "april": "l" (12).',
        'We now have: (3) "apricot" < (12) "april" for the subpart. Hence, we have "apple" < "apricot" < "april" < '
        '"fig" < ["mango" ? "melon"].',
        'Now let\'s sort this subpart ["mango" ? "melon"] by looking at their second letters. The second letter: '
        '"mango": "a" (1). "melon": "e" (5).',
        'We now have: (1) "mango" < (5) "melon" for the subpart. Hence, we have "apple" < "apricot" < "april" < '
        '"fig" < "mango" < "melon".',
        "I have now sorted all the words. The answer is apple apricot april fig mango melon",
    )


@pytest.mark.parametrize(
    ("habit", "index", "says"),
    [
        ("drops_ties", 3, '(16) "apple" < (16) "apricot" < (16) "april" for the subpart'),
        ("moves_on", 4, 'Now let\'s sort this subpart ["mango" ? "melon"]'),
        ("forgets", 5, 'Hence, we have ["apple" ? "apricot" ? "april"] < "fig"'),
        ("stops", 4, "I have now sorted all the words. The answer is apple apricot april fig mango melon"),
    ],
)
def test_a_habit_does_what_it_says(habit: str, index: int, says: str) -> None:
    writer = Writer(random.Random(0), replace(EXPERT, **{habit: 1.0}, lapses=1.0))
    writer.alphabetical, writer.keeps_numbers = True, False
    trace = writer.write(WORDS)
    assert says in trace.steps[index]
    assert check(" ".join(WORDS), trace).first_error == index
    assert habit in HABITS


@pytest.mark.parametrize("name", ["slip", "end"])
def test_chances_of_a_student_are_used(name: str) -> None:
    student = replace(EXPERT, **{name: 1.0})
    marks = [check(" ".join(WORDS), Writer(random.Random(s), student).write(WORDS)).first_error for s in range(10)]
    assert any(mark != -1 for mark in marks)


def in_order(chain: str) -> list[set[str]]:
    """The words of each item of a chain."""
    return [{*re.findall('"([^"]+)"', item)} for item in chain.split(" < ")]


@pytest.mark.parametrize("seed", range(20))
def test_practice_is_a_single_right_move_that_sorts_no_list_to_its_end(seed: int) -> None:
    start, trace = practice(random.Random(seed))
    looks, says = trace.steps
    assert trace.answer is None
    now = in_order(start) if '"' in start else [{*start.split()}]
    at = next(at for at, words in enumerate(now) if len(words) > 1)
    nth = NTH.index(next(word for word in NTH if f" {word} letter" in looks))
    looked = re.findall(r'"([^"]+)": "(.)" \((\d+)\)\.', looks)
    assert {(word, word[nth], str(ord(word[nth]) - 96)) for word in now[at]} == {*looked}
    groups = [{*same} for _, same in groupby(sorted(now[at], key=lambda word: word[nth]), key=lambda word: word[nth])]
    after = in_order(re.split("have:? ", says)[-1])
    assert after == [*now[:at], *groups, *now[at + 1 :]]
    assert max(map(len, after)) > 1
