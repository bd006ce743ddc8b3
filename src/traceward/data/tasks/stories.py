"""`stories`: the built-in world. Short word problems, students who share misconceptions, an exact step checker.

Experts solve every problem right. The *students*, whose traces pre-train the base model, hold systematic
misconceptions, so the crowd agrees on wrong answers and a majority vote cannot find them; on top come random slips.

The checker solves the question from its own words. It is used for evaluation only: no training code imports it.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from enum import StrEnum

from traceward.data.tasks.story_words import ORDINARY, TELLINGS, WORDINGS, Shift, Style, Wording, sentence_reader
from traceward.data.tasks.world import World, Written
from traceward.errors import DataError
from traceward.records import Demonstration, Trace, Verdict

LARGEST = 40  # no true value is larger, so a small model can know its tables


class Relation(StrEnum):
    """How one person's amount follows from another's."""

    MORE = "more"
    FEWER = "fewer"
    TWICE = "twice"


HARD = (Relation.FEWER, Relation.TWICE)


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
    wording: Wording = ORDINARY

    def text(self) -> str:
        """The question in words; `read_story` reads it back."""
        words = self.wording
        sentences = []
        for fact in self.facts:
            template = getattr(words, fact.relation or "start")
            sentences.append(template.format(name=fact.name, amount=fact.amount, item=self.item, other=fact.other))
        if self.together:
            first, second = self.together
            sentences.append(words.asked_together.format(item=self.item, name=first, second=second))
        else:
            sentences.append(words.asked.format(item=self.item, name=self.facts[-1].name))
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


def make_story(
    rng: random.Random,
    relations: tuple[int, int] | None = None,
    *,
    chained: float = 1.0,
    shift: Shift = Shift.NONE,
) -> Story:
    """A story with a number of relations in the inclusive range `relations`; every true value is 2..LARGEST.

    relations: left out, those of the shift.   chained: chance that a relation refers to the person before, else to
    anybody named so far.
    """
    telling = TELLINGS[shift]
    count = rng.randint(*(relations or telling.relations))
    while True:
        names = rng.sample(telling.names, count + 1)
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
            return Story(tuple(facts), rng.choice(telling.items), together, telling.wording)


TOGETHER = ""  # in the place of a name: the two that a question asks for
_TURNED = 0.3  # share of sums written the other way round


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
        parts: dict[str, str | int] = {
            "left": left,
            "op": operator,
            "right": right,
            "result": result,
            "item": story.item,
        }
        steps.append(story.wording.line(style, rng, owner=name or None, first=not steps, **parts))

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


def world(
    style: Style = Style.USUAL,
    *,
    relations: tuple[int, int] | None = None,
    chained: float = 1.0,
    shift: Shift = Shift.NONE,
) -> World:
    """Stories of one kind; experts write in `style`, students in their own."""

    def expert(rng: random.Random) -> Written:
        story = make_story(rng, relations, chained=chained, shift=shift)
        return story.text(), write_trace(story, rng, EXPERT, style)

    def student(rng: random.Random) -> Written:
        story = make_story(rng, relations, chained=chained, shift=shift)
        return story.text(), write_trace(story, rng, STUDENT)

    variant = str(style) if shift is Shift.NONE else f"{style}-{shift}"
    return World("stories", expert, student, check, variant=variant)


def demonstration(
    rng: random.Random,
    *,
    style: Style = Style.USUAL,
    relations: tuple[int, int] | None = None,
    chained: float = 1.0,
    shift: Shift = Shift.NONE,
) -> Demonstration:
    """A problem with the expert's worked solution."""
    return world(style, relations=relations, chained=chained, shift=shift).demonstration(rng)


def demonstrations(
    count: int,
    seed: int,
    *,
    style: Style = Style.USUAL,
    relations: tuple[int, int] | None = None,
    chained: float = 1.0,
    shift: Shift = Shift.NONE,
    exclude: frozenset[str] = frozenset(),
) -> list[Demonstration]:
    """`count` demonstrations with different questions, none of them in `exclude` (question texts)."""
    return world(style, relations=relations, chained=chained, shift=shift).demonstrations(count, seed, exclude=exclude)


def read_story(question: str) -> Story:
    """The story behind a question, from its own words."""
    sentences = [found.strip() for found in re.findall(r"[^.?]+[.?]", question)]
    for wording in WORDINGS:
        story = _read_in(wording, sentences)
        if story is not None:
            return story
    raise DataError(f"question must be a story of this world: got {question!r}; use another checker for other tasks")


def _read_in(wording: Wording, sentences: list[str]) -> Story | None:
    """The story in this wording; None where a sentence is no sentence of it."""

    def reads(template: str, sentence: str) -> re.Match[str] | None:
        return sentence_reader(template).fullmatch(sentence)

    facts: list[Fact] = []
    for sentence in sentences[:-1]:
        if match := reads(wording.start, sentence):
            facts.append(Fact(match["name"], int(match["amount"])))
        elif match := reads(wording.twice, sentence):
            facts.append(Fact(match["name"], 2, Relation.TWICE, match["other"]))
        elif match := reads(wording.more, sentence):
            facts.append(Fact(match["name"], int(match["amount"]), Relation.MORE, match["other"]))
        elif match := reads(wording.fewer, sentence):
            facts.append(Fact(match["name"], int(match["amount"]), Relation.FEWER, match["other"]))
        else:
            return None
    together = reads(wording.asked_together, sentences[-1]) if facts else None
    asked = together or (reads(wording.asked, sentences[-1]) if facts else None)
    if asked is None:
        return None
    return Story(tuple(facts), asked["item"], (together["name"], together["second"]) if together else None, wording)


def _allowed(story: Story) -> tuple[dict[str, set[tuple[int, str, int]]], dict[str, int]]:
    """For each person (and TOGETHER): the right equations, and the true value."""
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
        # A right step is right in whatever words it comes: a model may keep those that it knows.
        read = next(filter(None, (wording.read_line(step) for wording in WORDINGS)), None)
        if read is None:
            return Verdict(correct, index)
        name, match = read[0] or TOGETHER, read[1]
        stated = (int(match["left"]), match["op"], int(match["right"]))
        right_result = int(match["result"]) == values.get(name)
        if stated not in equations.get(name, set()) or not right_result or match["item"] != story.item:
            return Verdict(correct, index)
    return Verdict(correct, -1 if correct else len(trace.steps))
