"""Wrong edits of prose with numbers, names and equations."""

from __future__ import annotations

import calendar
import operator
import random
import re
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from itertools import combinations, pairwise

from traceward.data.corruptions.registry import Corrupted, Edit, corruption, edited, offset
from traceward.data.formats import Format, completion_text
from traceward.data.grading import DIGITS, Number, answers_equal, number_value, numbers_in
from traceward.data.options import option_letter, options_of
from traceward.data.segmentation import split_steps
from traceward.records import Problem, Trace

_BOUND = re.compile(r"\b(?:an?|steps?|option|equation)\s+$", re.IGNORECASE)
_COUNTED = re.compile(r"[ -][a-z]")


def editable(text: str) -> list[Number]:
    """Numbers that can change without a trace in grammar: not the 1 of "1 apple", not the 8 of "an 8-hour day"."""
    return [
        number
        for number in numbers_in(text)
        if not (number.value == 1 and _COUNTED.match(text, number.end)) and not _BOUND.search(text[: number.start])
    ]


def _styled(value: int, like: str) -> str | None:
    """`value`, counted in the last decimal place of `like`, written as `like` is; None where that would show."""
    decimals = len(like.partition(".")[2])
    whole, rest = divmod(value, 10**decimals)
    # "999" does not say how it would write a thousand; "2.5" would not be followed by "3.0".
    if "," not in like and whole >= 1000 and len(like.partition(".")[0]) < 4:
        return None
    if decimals and not like.endswith("0") and value % 10 == 0:
        return None
    return f"{whole:{',' if ',' in like else ''}}" + (f".{rest:0{decimals}}" if decimals else "")


def changed(number: Number, text: str, rng: random.Random) -> str | None:
    """Another number in the same style: mostly a small slip, one time in four a slip of an order or of two digits."""
    digits = number.text.replace(",", "").replace(".", "")
    value = int(digits)
    small = [value + step for step in (-2, -1, 1, 2)] + [value + step for step in (-10, 10) if value >= 20]
    large = [value * 10, *([value // 10] if value % 10 == 0 else []), int(digits[::-1])]
    singular = _COUNTED.match(text, number.end)
    for group in (large, small) if rng.random() < 0.25 else (small, large):
        styled = {_styled(new, number.text) for new in group if new > (1 if singular else 0) and new != value}
        if options := sorted(new for new in styled if new and new != number.text):
            return rng.choice(options)
    return None


def _values(text: str) -> set[Fraction]:
    return {number.value for number in numbers_in(text)}


def _handover(problem: Problem, trace: Trace, rng: random.Random) -> int | None:
    """A step whose result, not known before, the next step reckons with; None where there is none."""
    options = []
    known = _values(problem.question)
    for index, (first, second) in enumerate(pairwise(trace.steps)):
        given = _values(first.partition("=")[2] or first) - known
        known |= _values(first)
        if given & _values(second.partition("=")[0]):
            options.append(index)
    return rng.choice(options) if options else None


_OPERATOR = re.compile(r"(?<=[0-9])\s*(?P<sign>[-+*/−×÷]|\\times\b|\\div\b|\\cdot\b)\s*\$?(?=[0-9])")
_FLIPS = {"+": "-", "-": "+", "−": "+", "*": "+", "/": "*", "×": "+", "÷": "×"}
_FLIPS |= {"\\times": "+", "\\div": "\\times", "\\cdot": "+"}
_PLAIN_SIGN = {"−": "-", "×": "*", "÷": "/", "\\times": "*", "\\cdot": "*", "\\div": "/"}
_RESULTS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
_EQUATION = re.compile(
    rf"(?P<left>{DIGITS}){_OPERATOR.pattern}(?P<right>{DIGITS})\s*=\s*\$?(?P<result>{DIGITS})(?!\w|[.,]\d)"
)


def _reckon(left: Fraction, sign: str, right: Fraction) -> Fraction | None:
    sign = _PLAIN_SIGN.get(sign, sign)
    return None if sign == "/" and right == 0 else _RESULTS[sign](left, right)


def _holds(step: str) -> bool | None:
    """Whether every `a op b = c` of a step is true; None where it has none."""
    found = list(_EQUATION.finditer(step))
    for match in found:
        left, right, result = (number_value(match[side]) for side in ("left", "right", "result"))
        if _reckon(left, match["sign"], right) != result:
            return False
    return True if found else None


@corruption("operator-flip", packs=["arithmetic"])
def operator_flip(_problem: Problem, trace: Trace, rng: random.Random) -> Corrupted | None:
    """One sign of an equation turned ("7 + 5 = 12" -> "7 - 5 = 12"), where that changes what its neighbours give."""
    options: list[Edit] = []
    for index, step in enumerate(trace.steps):
        numbers = {edge: number.value for number in numbers_in(step) for edge in (number.start, number.end)}
        for match in _OPERATOR.finditer(step):
            new = _FLIPS[match["sign"]]
            left, right = numbers.get(match.start()), numbers.get(match.end())
            # "3/4 of 12 = 9" holds a fraction, not a division to be turned.
            if left is None or right is None or not re.search(r"^(?!\S+\s+of\b).*=", step[match.end() :]):
                continue
            if _reckon(left, match["sign"], right) != _reckon(left, new, right):
                options.append((index, match.span("sign"), new))
    return edited("operator-flip", trace, *rng.choice(options)) if options else None


def _places(trace: Trace) -> list[tuple[int, Number]]:
    return [(index, number) for index, step in enumerate(trace.steps) for number in editable(step)]


@corruption("number-change", packs=["arithmetic"])
def number_change(_problem: Problem, trace: Trace, rng: random.Random) -> Corrupted | None:
    """One number of one step replaced by another."""
    places = _places(trace)
    rng.shuffle(places)
    for index, number in places:
        if new := changed(number, trace.steps[index], rng):
            return edited("number-change", trace, index, (number.start, number.end), new)
    return None


@corruption("number-change-many", packs=["arithmetic"])
def number_change_many(_problem: Problem, trace: Trace, rng: random.Random) -> Corrupted | None:
    """About a quarter of all numbers in the steps, and at least two, replaced; the span runs from first to last."""
    places = _places(trace)
    count = max(2, round(len(places) / 4))
    chosen = sorted(rng.sample(range(len(places)), count)) if len(places) > count else []
    tried = [(*places[at], changed(places[at][1], trace.steps[places[at][0]], rng)) for at in chosen]
    changes = [(index, number, new) for index, number, new in tried if new]
    if len(changes) < 2:
        return None
    steps = list(trace.steps)
    for index, number, new in reversed(changes):  # from the end, so that earlier places stay where they are
        steps[index] = steps[index][: number.start] + new + steps[index][number.end :]
    first, last = changes[0], changes[-1]
    # "7 + 5" -> "5 + 7" would be no error.
    if _values(steps[first[0]]) == _values(trace.steps[first[0]]):
        return None
    wrong = replace(trace, steps=tuple(steps))
    after = len(trace.steps[last[0]]) - last[1].end  # characters after the last change
    span = (offset(wrong, first[0]) + first[1].start, offset(wrong, last[0]) + len(steps[last[0]]) - after)
    return Corrupted("number-change-many", wrong, first[0], span)


_WORD_PAIRS = {"yes": "no", "Yes": "No", "true": "false", "True": "False"}
_WORD_PAIRS |= {opposite: word for word, opposite in _WORD_PAIRS.items()}
_LETTER = re.compile(r"\(?([A-J])\)?[.)]?")


def _near_misses(problem: Problem, answer: str, rng: random.Random) -> list[tuple[int, int, str]]:
    """Edits (start, end, new) of an answer: another option, the opposite word, or another number."""
    options = options_of(problem.question)
    if match := _LETTER.fullmatch(answer):
        offered = set(options) - {match[1]} or set("ABCD") - {match[1]}
        return [(*match.span(1), letter) for letter in sorted(offered)]
    if (chosen := option_letter(answer, options)) is not None:
        return [(0, len(answer), text) for letter, text in options.items() if letter != chosen and text != answer]
    if opposite := _WORD_PAIRS.get(answer):
        return [(0, len(answer), opposite)]
    edits = []
    for number in editable(answer):
        new = changed(number, answer, rng)
        if new is not None and not answers_equal(answer[: number.start] + new + answer[number.end :], answer):
            edits.append((number.start, number.end, new))
    return edits


@corruption("answer-near-miss", packs=["general", "multiple-choice"])
def answer_near_miss(problem: Problem, trace: Trace, rng: random.Random) -> Corrupted | None:
    """The answer line names a value, option or word close to the right one."""
    if trace.answer is None or not (edits := _near_misses(problem, trace.answer, rng)):
        return None
    start, end, new = rng.choice(edits)
    wrong = replace(trace, answer=trace.answer[:start] + new + trace.answer[end:])
    begin = offset(wrong, len(wrong.steps)) + start
    return Corrupted("answer-near-miss", wrong, len(wrong.steps), (begin, begin + len(new)))


# Between two numbers, nothing but this: their order says nothing ("7 + 5", "7 and 5", "2 * 3 * 4").
_UNORDERED = re.compile(r"(?:[\s\d.,+*×()$&]|\\times\b|\\cdot\b|\band\b|\bor\b)*")


@corruption("number-swap", packs=["arithmetic"])
def number_swap(_problem: Problem, trace: Trace, rng: random.Random) -> Corrupted | None:
    """Two different numbers of one step change places, where their order matters and no true equation comes out."""
    options: list[Edit] = []
    for index, step in enumerate(trace.steps):
        for left, right in combinations(editable(step), 2):
            between = step[left.end : right.start]
            # "$2.50 … 3 pens" must not become "$3 … 2.50 pens", nor "4 pens" "1 pens".
            alike = len(left.text.partition(".")[2]) == len(right.text.partition(".")[2])
            same = left.value == right.value or _UNORDERED.fullmatch(between)
            if same or not alike or 1 in {left.value, right.value}:
                continue
            new = f"{right.text}{between}{left.text}"
            if not _holds(step[: left.start] + new + step[right.end :]):
                options.append((index, (left.start, right.end), new))
    return edited("number-swap", trace, *rng.choice(options)) if options else None


_NAME = re.compile(r"(?<![\w.-])[A-Z][a-z]+(?![\w-])")
_MIDDLE = re.compile(r"(?<=[a-z,;] )[A-Z][a-z]+(?![\w-])")
_NO_NAMES = {*calendar.day_name, *calendar.month_name, "Mr", "Mrs", "Ms", "Dr", "Step", "Answer", "Choice", "Option"}


def _names(problem: Problem, trace: Trace) -> set[str]:
    """Capitalised words, inside a sentence somewhere, nowhere written small, and not named in passing (once)."""
    text = f"{problem.question}\n{completion_text(trace, Format.PLAIN)}"
    small = set(re.findall(r"\b[a-z]+\b", text))
    counts = Counter(_NAME.findall(text))
    return {name for name in _MIDDLE.findall(text) if name.lower() not in small and counts[name] > 1} - _NO_NAMES


@corruption("entity-swap")
def entity_swap(problem: Problem, trace: Trace, rng: random.Random) -> Corrupted | None:
    """A name in a step replaced by another name of the problem or trace that the step does not hold."""
    names = _names(problem, trace)
    texts = [(set(_NAME.findall(text)), _values(text)) for text in (*split_steps(problem.question), *trace.steps)]
    options: list[Edit] = []
    for index, step in enumerate(trace.steps):
        result = {number.value for number in numbers_in(step)[-1:]}
        # Where the result is said of somebody elsewhere, it may be true of them here.
        shared = set().union(*(who for who, values in texts if result & values))
        others = sorted(names - shared - set(_NAME.findall(step)))
        places = [match.span() for match in _NAME.finditer(step) if match[0] in names]
        options += [(index, place, new) for place in places for new in others]
    return edited("entity-swap", trace, *rng.choice(options)) if options else None


@corruption("step-delete")
def step_delete(problem: Problem, trace: Trace, rng: random.Random) -> Corrupted | None:
    """A step left out whose result the next step reckons with; that next step is the first wrong one."""
    index = _handover(problem, trace, rng)
    if index is None:
        return None
    start = offset(trace, index)
    wrong = replace(trace, steps=trace.steps[:index] + trace.steps[index + 1 :])
    return Corrupted("step-delete", wrong, index, (start, start))


@corruption("steps-swap")
def steps_swap(problem: Problem, trace: Trace, rng: random.Random) -> Corrupted | None:
    """Two adjacent steps change places, the second of which reckons with the first one's result."""
    index = _handover(problem, trace, rng)
    if index is None:
        return None
    pair = trace.steps[index : index + 2]
    wrong = replace(trace, steps=(*trace.steps[:index], *pair[::-1], *trace.steps[index + 2 :]))
    start = offset(wrong, index)
    return Corrupted("steps-swap", wrong, index, (start, start + len("\n".join(pair))))


@corruption("contradiction")
def contradiction(_problem: Problem, trace: Trace, rng: random.Random) -> Corrupted | None:
    """A step said again later with another result; the repetition is the first wrong step."""
    options = []
    for index, step in enumerate(trace.steps):
        for result in editable(step)[-1:]:
            new = changed(result, step, rng)
            again = f"{step[: result.start]}{new}{step[result.end :]}"
            if new and again not in trace.steps:
                options.append((index, again))
    if not options:
        return None
    index, again = rng.choice(options)
    place = rng.randint(index + 1, len(trace.steps))
    wrong = replace(trace, steps=(*trace.steps[:place], again, *trace.steps[place:]))
    start = offset(wrong, place)
    return Corrupted("contradiction", wrong, place, (start, start + len(again)))
