"""Wrong edits of reasoning about options: another option's letter or text, at the end or on the way there.

The answer line alone is `answer-near-miss`. A mention of the right option becomes a wrong one, and a mention of a wrong
option the right one: "(C) is ruled out" of a wrong C is still true of most others.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import replace

from traceward.data.corruptions.registry import Corrupted, Edit, chosen, corruption, offset, reworded
from traceward.data.formats import Format, completion_text
from traceward.data.grading import numbers_in
from traceward.data.options import option_letter, options_of
from traceward.records import Problem, Trace

PACKS = ("multiple-choice",)
# "(F)", "option F", "\boxed{F}", "the answer is F."; the A of "the answer is A function" is none.
_MENTION = re.compile(
    r"(?<!\w)\((?P<round>[A-Z])\)(?!\w)|\\boxed\{(?P<boxed>[A-Z])\}"
    r"|\b(?:[Oo]ption|[Cc]hoice) (?P<named>[A-Z])(?![\w'’])|\b[Aa]nswer(?: is)?:? (?P<said>[A-Z])(?=[.,;]|$)"
)
_LISTS = re.compile(r"\s*\(?[A-Z][.):]\s")  # "A. Acetylcholine …" repeats the question
_SHORTEST = 4  # characters of an option's text, unless it holds a number of two digits: "no" may stand anywhere


def _mentions(step: str, options: Mapping[str, str]) -> list[tuple[tuple[int, int], str]]:
    """Where a step names an option by its letter."""
    found = []
    for match in _MENTION.finditer(step):
        assert match.lastgroup is not None  # the one that took part
        letter = match[match.lastgroup]
        if letter in options:
            found.append((match.span(match.lastgroup), letter))
    return found


def _others(letter: str, right: str, options: Mapping[str, str]) -> list[str]:
    """What a mention of `letter` may wrongly become."""
    return [other for other in options if other != right] if letter == right else [right]


def _texts(step: str, options: Mapping[str, str]) -> list[tuple[tuple[int, int], str]]:
    """Where a step holds the text of an option; a longer option's text wins over one inside it."""
    found: list[tuple[tuple[int, int], str]] = []
    bare = {letter: text.rstrip(". ") for letter, text in options.items()}
    for letter, text in sorted(bare.items(), key=lambda item: -len(item[1])):
        if len(text) < _SHORTEST and not any(len(number.text) > 1 for number in numbers_in(text)):
            continue
        for match in re.finditer(rf"(?<![\w$.,]){re.escape(text)}(?!\w|[.,]\d)", step, re.IGNORECASE):
            if all(match.end() <= start or end <= match.start() for (start, end), _ in found):
                found.append((match.span(), letter))
    return sorted(found)


@corruption("option-conclusion", needs=_MENTION.pattern, packs=PACKS)
def option_conclusion(problem: Problem, trace: Trace, rng: random.Random) -> Corrupted | None:
    """Another option in the last step and in the answer line."""
    options = options_of(problem.question)
    right = option_letter(trace.answer or "", options)
    if right is None or trace.answer is None or not trace.steps:
        return None
    last = trace.steps[-1]
    named = _mentions(last, options)
    if {letter for _, letter in named} != {right}:
        return None
    new = rng.choice([letter for letter in options if letter != right])
    edits = [(place, new) for place, _ in named]
    edits += [(place, options[new].rstrip(". ")) for place, letter in _texts(last, options) if letter == right]
    step = last
    for (start, end), text in sorted(edits, reverse=True):
        step = step[:start] + text + step[end:]
    if re.search(rf"(?<!\w){re.escape(options[right].rstrip('. '))}(?!\w)", step, re.IGNORECASE):
        return None  # "(F) no": too short a text to be told from other words
    answer = re.sub(rf"\b{right}\b", new, trace.answer, count=1) if right in _lettered(trace.answer) else options[new]
    wrong = replace(trace, steps=(*trace.steps[:-1], step), answer=answer)
    start = offset(wrong, len(wrong.steps) - 1) + min(place[0] for place, _ in edits)
    return Corrupted(
        "option-conclusion", wrong, len(wrong.steps) - 1, (start, len(completion_text(wrong, Format.PLAIN)))
    )


def _lettered(answer: str) -> list[str]:
    """The letter that an answer begins with, or nothing: "(F)", "F." and "F. As RNA viruses"."""
    return re.findall(r"\A\W*(?:[Oo]ption )?\(?([A-Z])\b", answer)


@corruption("option-mention", needs=_MENTION.pattern, packs=PACKS)
def option_mention(problem: Problem, trace: Trace, rng: random.Random) -> Corrupted | None:
    """The letter of an option before the last step replaced by another one."""
    options = options_of(problem.question)
    right = option_letter(trace.answer or "", options)
    edits: list[Edit] = []
    for index, step in enumerate(trace.steps[:-1] if right else ()):
        named = _mentions(step, options)
        there = {letter for _, letter in named}
        for place, letter in named:
            edits += [(index, place, other) for other in _others(letter, right or "", options) if other not in there]
    return chosen("option-mention", trace, edits, rng)


@corruption("option-text", packs=PACKS)
def option_text(problem: Problem, trace: Trace, rng: random.Random) -> Corrupted | None:
    """The text of an option in a step that names no letter, replaced by another option's."""
    options = options_of(problem.question)
    right = option_letter(trace.answer or "", options)
    edits: list[Edit] = []
    for index, step in enumerate(trace.steps if right else ()):
        if _mentions(step, options) or _LISTS.match(step):
            continue
        for place, letter in _texts(step, options):
            for other in _others(letter, right or "", options):
                new = reworded(step, place, options[other].rstrip(". "))
                if new and new[1].casefold() not in step.casefold():
                    edits.append((index, *new))
    return chosen("option-text", trace, edits, rng)
