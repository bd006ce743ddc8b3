"""`stories`: the built-in world. Short word problems, students who share misconceptions, an exact step checker.

Experts solve every problem right. The *students*, whose traces pre-train the base model, hold systematic
misconceptions, so the crowd agrees on wrong answers and a majority vote cannot find them; on top come random slips.

The checker solves the question from its own words. It is used for evaluation only: no training code imports it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from traceward.data.tasks.world import World, Written
from traceward.errors import DataError
from traceward.records import Demonstration, Trace, Verdict

NAMES = ("Ann", "Ben", "Cara", "Dan", "Eva", "Finn", "Gina", "Hugo", "Iris", "Jack", "Kate", "Leo")
ITEMS = ("apples", "books", "coins", "cards", "shells", "stamps", "marbles", "pens", "stickers", "buttons")
LARGEST = 40  # no true value is larger, so a small model can know its tables


class Relation(StrEnum):
    """How one person's amount follows from another's."""

    MORE = "more"
    FEWER = "fewer"
    TWICE = "twice"


HARD = (Relation.FEWER, Relation.TWICE)


class Style(StrEnum):
    """How a step is worded. Students write RESULT_FIRST in a few percent of their traces."""

    USUAL = "usual"  # [So ]Ben has 7 + 5 = 12 apples[ now].
    RESULT_FIRST = "result-first"  # Since 7 + 5 = 12, the apples of Ben are 12[ now].


@dataclass(frozen=True, slots=True)
class Fact:
    """One sentence of a story: `name` has `amount`, or stands in `relation` to `other`."""

    name: str
    amount: int
    relation: Relation | None = None
    other: str = ""


@dataclass(frozen=True, slots=True)
class Story:
    """What a question says; facts only refer to people named before."""

    facts: tuple[Fact, ...]
    item: str
    together: tuple[str, str] | None = None  # the question asks for a sum of two, else for the last person

    def text(self) -> str:
        """The question in words; `read_story` reads it back."""
        sentences = []
        for fact in self.facts:
            if fact.relation is None:
                sentences.append(f"{fact.name} has {fact.amount} {self.item}.")
            elif fact.relation is Relation.TWICE:
                sentences.append(f"{fact.name} has twice as many {self.item} as {fact.other}.")
            else:
                sentences.append(f"{fact.name} has {fact.amount} {fact.relation} {self.item} than {fact.other}.")
        if self.together:
            first, second = self.together
            sentences.append(f"How many {self.item} do {first} and {second} have together?")
        else:
            sentences.append(f"How many {self.item} does {self.facts[-1].name} have?")
        return " ".join(sentences)


_OPERATION = {Relation.MORE: "+", Relation.FEWER: "-", Relation.TWICE: "*"}


def _apply(left: int, operator: str, right: int) -> int:
    return {"+": left + right, "-": left - right, "*": left * right}[operator]


@dataclass(frozen=True, slots=True)
class Student:
    """How somebody errs: chances that a misconception is held in a trace, and slips per step.

    fewer_adds: reads "3 fewer than" as + 3.   twice_adds: reads "twice as many as" as + 2.
    """

    fewer_adds: float = 0.65
    twice_adds: float = 0.65
    slip: float = 0.04
    result_first: float = 0.03


EXPERT = Student(fewer_adds=0.0, twice_adds=0.0, slip=0.0, result_first=0.0)
STUDENT = Student()


def make_story(rng: random.Random, relations: tuple[int, int] = (2, 4), *, chained: float = 1.0) -> Story:
    """A story with a number of relations in the inclusive range `relations`; every true value is 2..LARGEST.

    chained: chance that a relation refers to the person before, else to anybody named so far.
    """
    count = rng.randint(*relations)
    while True:
        names = rng.sample(NAMES, count + 1)
        # One relation that students misread, anywhere: a wrong trace then mostly has one cause.
        hard = rng.randrange(count)
        values = {names[0]: rng.randint(3, 15)}
        facts = [Fact(names[0], values[names[0]])]
        for name in names[1:]:
            known = facts[-1].name if chained == 1 or rng.random() < chained else rng.choice(facts).name
            relation = rng.choice(HARD) if len(facts) - 1 == hard else Relation.MORE
            amount = 2 if relation is Relation.TWICE else rng.randint(2, 9)
            values[name] = _apply(values[known], _OPERATION[relation], amount)
            facts.append(Fact(name, amount, relation, known))
        together = None
        if rng.random() < 0.2:
            together = (facts[-2].name, facts[-1].name)
        total = sum(values[name] for name in together) if together else 0
        if total <= LARGEST and all(2 <= value <= LARGEST for value in values.values()):
            return Story(tuple(facts), rng.choice(ITEMS), together)


TOGETHER = "Together they"
# Word choice follows Zipf's law, experts and students alike: most steps are worded the usual way, some in a rare one.
# A surprising word is then no sign of a wrong step, as in real text; log-probability alone cannot tell the two apart.
_FIRST_OPENINGS = ("", "First,", "Now", "Well,", "Here", "Clearly,", "Indeed,", "Surely", "Plainly")
_OPENINGS = (
    *("", "So", "Then", "Now", "Next,", "Thus", "Hence", "Therefore", "Well,", "Here", "Clearly,", "Indeed,"),
    *("Surely", "Plainly", "Again,", "Finally,"),
)
_VERBS = ("has", "owns", "holds", "keeps", "gets", "counts", "carries", "shows")
_PLURALS = ("have", "own", "hold", "keep", "get", "count", "carry", "show")
_ENDINGS = ("", " now", " here", " then", " today", " exactly", " already", " indeed", " overall", " again")
_ZIPF = 1.2  # exponent of the rank
_TURNED = 0.3  # share of sums written the other way round


def _choice(rng: random.Random, words: tuple[str, ...]) -> str:
    """The word of a rank with a chance that falls with the rank."""
    return rng.choices(words, weights=[1 / rank**_ZIPF for rank in range(1, len(words) + 1)])[0]


def _line(style: Style, rng: random.Random, *, name: str, equation: str, result: int, item: str, first: bool) -> str:
    ending = _choice(rng, _ENDINGS)
    if style is Style.RESULT_FIRST:
        owner = "both" if name == TOGETHER else name
        return f"Since {equation} = {result}, the {item} of {owner} are {result}{ending}."
    opening = _choice(rng, _FIRST_OPENINGS if first else _OPENINGS)
    owner = name.lower() if opening and name == TOGETHER else name
    verb = _choice(rng, _PLURALS if name == TOGETHER else _VERBS)
    return f"{opening} {owner} {verb} {equation} = {result} {item}{ending}.".lstrip()


def write_trace(story: Story, rng: random.Random, writer: Student, style: Style | None = None) -> Trace:
    """The trace `writer` gives: right for EXPERT, with the writer's misconceptions and slips otherwise."""
    wrong = {
        Relation.FEWER: rng.random() < writer.fewer_adds,
        Relation.TWICE: rng.random() < writer.twice_adds,
    }
    if style is None:
        style = Style.RESULT_FIRST if rng.random() < writer.result_first else Style.USUAL
    values = {story.facts[0].name: story.facts[0].amount}
    steps: list[str] = []

    def state(name: str, left: int, operator: str, right: int) -> None:
        result = _apply(left, operator, right)
        if rng.random() < writer.slip / 2:
            result = max(0, result + rng.choice((-2, -1, 1, 2)))
        values[name] = result
        if operator == "+" and rng.random() < _TURNED:
            left, right = right, left
        equation = f"{left} {operator} {right}"
        line = _line(style, rng, name=name, equation=equation, result=result, item=story.item, first=not steps)
        steps.append(line)

    for fact in story.facts[1:]:
        assert fact.relation is not None
        operator = "+" if wrong.get(fact.relation) else _OPERATION[fact.relation]
        known = rng.choice(list(values.values())) if rng.random() < writer.slip / 2 else values[fact.other]
        state(fact.name, known, operator, fact.amount)
    if story.together:
        first, second = story.together
        state(TOGETHER, values[first], "+", values[second])
    answer = values[TOGETHER if story.together else story.facts[-1].name]
    return Trace(tuple(steps), str(answer))


def world(style: Style = Style.USUAL, *, relations: tuple[int, int] = (2, 4), chained: float = 1.0) -> World:
    """Stories of one kind; experts write in `style`, students in their own."""

    def expert(rng: random.Random) -> Written:
        story = make_story(rng, relations, chained=chained)
        return story.text(), write_trace(story, rng, EXPERT, style)

    def student(rng: random.Random) -> Written:
        story = make_story(rng, relations, chained=chained)
        return story.text(), write_trace(story, rng, STUDENT)

    return World("stories", expert, student, check, variant=str(style))


def demonstration(
    rng: random.Random, *, style: Style = Style.USUAL, relations: tuple[int, int] = (2, 4), chained: float = 1.0
) -> Demonstration:
    """A problem with the expert's worked solution."""
    return world(style, relations=relations, chained=chained).demonstration(rng)


def demonstrations(
    count: int,
    seed: int,
    *,
    style: Style = Style.USUAL,
    relations: tuple[int, int] = (2, 4),
    chained: float = 1.0,
    exclude: frozenset[str] = frozenset(),
) -> list[Demonstration]:
    """`count` demonstrations with different questions, none of them in `exclude` (question texts)."""
    return world(style, relations=relations, chained=chained).demonstrations(count, seed, exclude=exclude)


_START = re.compile(r"(\w+) has (\d+) (\w+)\.")
_MORE_FEWER = re.compile(r"(\w+) has (\d+) (more|fewer) \w+ than (\w+)\.")
_TWICE = re.compile(r"(\w+) has twice as many \w+ as (\w+)\.")
_TOGETHER = re.compile(r"do (\w+) and (\w+) have together\?")
_ASKED = re.compile(r"does (\w+) have\?")


def read_story(question: str) -> Story:
    """The story behind a question, from its own words."""
    facts: list[Fact] = []
    item = ""
    for sentence in (found.strip() for found in re.findall(r"[^.?]+[.?]", question)):
        if match := _MORE_FEWER.fullmatch(sentence):
            facts.append(Fact(match[1], int(match[2]), Relation(match[3]), match[4]))
        elif match := _TWICE.fullmatch(sentence):
            facts.append(Fact(match[1], 2, Relation.TWICE, match[2]))
        elif match := _START.fullmatch(sentence):
            facts.append(Fact(match[1], int(match[2])))
            item = match[3]
    together = _TOGETHER.search(question)
    if not facts or not item or not (together or _ASKED.search(question)):
        raise DataError(
            f"question must be a story of this world: got {question!r}; use another checker for other tasks"
        )
    return Story(tuple(facts), item, (together[1], together[2]) if together else None)


def _one_of(words: Iterable[str]) -> str:
    return "|".join(sorted(map(re.escape, words), key=len, reverse=True))


_STEP = re.compile(
    rf"(?:(?:(?:{_one_of({*_OPENINGS, *_FIRST_OPENINGS} - {''})}) )?(?P<usual>[Tt]ogether they|\w+) "
    rf"(?:{_one_of((*_VERBS, *_PLURALS))}) "
    r"(?P<left>\d+) (?P<op>[-+*]) (?P<right>\d+) = (?P<result>\d+) (?P<item>\w+)"
    r"|Since (?P<left2>\d+) (?P<op2>[-+*]) (?P<right2>\d+) = (?P<result2>\d+), "
    r"the (?P<item2>\w+) of (?P<late>\w+) are (?P<again>\d+))"
    rf"(?:{_one_of(_ENDINGS)})\."
)


def _allowed(story: Story) -> tuple[dict[str, set[tuple[int, str, int]]], dict[str, int]]:
    """For each person (and "Together they"): the right equations, and the true value."""
    values: dict[str, int] = {}
    equations: dict[str, set[tuple[int, str, int]]] = {}
    for fact in story.facts:
        if fact.relation is None:
            values[fact.name] = fact.amount
            continue
        left, operator = values[fact.other], _OPERATION[fact.relation]
        values[fact.name] = _apply(left, operator, fact.amount)
        forms = {(left, operator, fact.amount)}
        if operator != "-":
            forms.add((fact.amount, operator, left))
        if fact.relation is Relation.TWICE:
            forms.add((left, "+", left))
        equations[fact.name] = forms
    if story.together:
        one, two = (values[name] for name in story.together)
        values[TOGETHER] = one + two
        equations[TOGETHER] = {(one, "+", two), (two, "+", one)}
    return equations, values


def check(question: str, trace: Trace) -> Verdict:
    """Exact verdict. A step is wrong when its equation is not the one the story asks for, or does not hold; the
    answer line (index len(steps)) is wrong when it is missing or not the true answer.

    Raises DataError for a question that is not of this world.
    """
    story = read_story(question)
    equations, values = _allowed(story)
    truth = values[TOGETHER if story.together else story.facts[-1].name]
    correct = trace.answer == str(truth)
    for index, step in enumerate(trace.steps):
        match = _STEP.fullmatch(step)
        if match is None:
            return Verdict(correct, index)
        usual = match["usual"] is not None
        name = match["usual"] if usual else match["late"]
        name = TOGETHER if name in ("both", "together they") else name
        parts = ("left", "op", "right", "result", "item")
        left, operator, right, result, item = (match[key if usual else key + "2"] for key in parts)
        stated = (int(left), operator, int(right))
        right_result = int(result) == values.get(name) and (usual or match["again"] == result)
        if stated not in equations.get(name, set()) or not right_result or item != story.item:
            return Verdict(correct, index)
    return Verdict(correct, -1 if correct else len(trace.steps))
