"""Wrong edits of clinical reasoning: directions, values and their units, who the patient is, drugs, guidelines."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Mapping

from traceward.data.corruptions.clinical_words import (
    DIRECTIONS,
    DRUGS,
    GUIDELINES,
    OF_ONE_AGE,
    OF_ONE_SEX,
    PARTS,
    PREFIXED,
    PRONOUNS,
    SEXES,
    SIDED,
    UNITS,
    VALUED,
)
from traceward.data.corruptions.prose import changed, editable
from traceward.data.corruptions.registry import Corrupted, Edit, chosen, corruption, reworded
from traceward.records import Problem, Trace

PACKS = ("clinical",)


def _any(words: Iterable[str]) -> str:
    """A pattern of one of several words, the longest first."""
    return "|".join(map(re.escape, sorted(words, key=len, reverse=True)))


def _words(words: Iterable[str]) -> str:
    return rf"(?i:(?<![A-Za-z])(?:{_any(words)})(?![A-Za-z]))"


def _holds(step: str, word: str) -> bool:
    return re.search(_words([word]), step) is not None


def _flips(step: str, pattern: str, opposite: Mapping[str, str]) -> Iterator[tuple[tuple[int, int], str]]:
    """Words turned into their opposites, where the step does not hold both: "neither increases nor decreases"."""
    for match in re.finditer(pattern, step):
        new = opposite[match[0].lower()]
        if not _holds(step, new):
            yield match.span(), new


def _edits(trace: Trace, found: Iterable[tuple[int, Iterable[tuple[tuple[int, int], str]]]]) -> list[Edit]:
    edits: list[Edit] = []
    for index, changes in found:
        for place, new in changes:
            if fitted := reworded(trace.steps[index], place, new):
                edits.append((index, *fitted))
    return edits


# ---- directions ------------------------------------------------------------------------------------------------------

_DIRECTED = _words(DIRECTIONS)
_PREFIX = rf"(?i:(?<![A-Za-z])(?:hyper|hypo)(?=(?:{_any(PREFIXED)})))"
_SIDE = rf"(?i:(?<![A-Za-z])(?:left|right)(?=[ -](?:{_any(SIDED)})))"
_PART = rf"(?i:(?<![A-Za-z])(?:lower|upper)(?= (?:{_any(PARTS)})))"
_TURNED = {"hyper": "hypo", "left": "right", "lower": "upper"}
_TURNED |= {other: one for one, other in _TURNED.items()}


@corruption("direction-flip", needs="|".join((_DIRECTED, _PREFIX, _SIDE, _PART)), packs=PACKS)
def direction_flip(_problem: Problem, trace: Trace, rng: random.Random) -> Corrupted | None:
    """A direction turned: increases and decreases, hyper- and hypo-, left and right."""
    return chosen(
        "direction-flip", trace, _edits(trace, ((at, _turns(step)) for at, step in enumerate(trace.steps))), rng
    )


def _turns(step: str) -> Iterator[tuple[tuple[int, int], str]]:
    parts = {match.start() for match in re.finditer(_PART, step)}
    for place, new in _flips(step, _DIRECTED, DIRECTIONS):
        if place[0] not in parts:
            yield place, new
    for pattern in (_PREFIX, _SIDE, _PART):
        for match in re.finditer(pattern, step):
            new = _TURNED[match[0].lower()]
            rest = re.match(r"[ -]?[A-Za-z]+", step[match.end() :])
            # "hypokalemia, not hyperkalemia" must not come out as the same word twice.
            if rest is None or f"{new}{rest[0]}".lower() not in step.lower():
                yield match.span(), new


# ---- values ----------------------------------------------------------------------------------------------------------

_UNIT = rf"[ -]?(?P<unit>{_any(VALUED)})(?![A-Za-z/])"


@corruption("clinical-value", needs=rf"\d{_UNIT}", packs=PACKS)
def clinical_value(_problem: Problem, trace: Trace, rng: random.Random) -> Corrupted | None:
    """A number that has a unit replaced by another one."""
    edits: list[Edit] = []
    for index, step in enumerate(trace.steps):
        for number in editable(step):
            new = changed(number, step, rng) if re.match(_UNIT, step[number.end :]) else None
            if new:
                edits.append((index, (number.start, number.end), new))
    return chosen("clinical-value", trace, edits, rng)


@corruption("unit-change", needs=rf"\d[ ]?(?:{_any(UNITS)})(?![A-Za-z/])", packs=PACKS)
def unit_change(_problem: Problem, trace: Trace, rng: random.Random) -> Corrupted | None:
    """The unit of a value replaced by a larger or smaller one."""
    edits: list[Edit] = []
    for index, step in enumerate(trace.steps):
        for match in re.finditer(rf"(?<=\d) ?(?P<unit>{_any(UNITS)})(?![A-Za-z/])", step):
            edits += [(index, match.span("unit"), new) for new in UNITS[match["unit"]]]
    return chosen("unit-change", trace, edits, rng)


# ---- the patient -----------------------------------------------------------------------------------------------------

_AGE = r"(?<![\d.,])(?P<age>[1-9]\d?)(?=[ -]years?[ -]old\b)"
_SEX = _words(SEXES)
_FIXED = re.compile(rf"(?i)\b(?:{_any(PRONOUNS)})\b|\b(?:{_any(OF_ONE_SEX)})")
_AGED = re.compile(rf"(?i)\b(?:{_any(OF_ONE_AGE)})")
_FAR = 15  # years


@corruption("demographic-change", needs=f"{_AGE}|{_SEX}", packs=PACKS)
def demographic_change(_problem: Problem, trace: Trace, rng: random.Random) -> Corrupted | None:
    """Another age or the other sex, where nothing else in the step tells it."""
    edits: list[Edit] = []
    for index, step in enumerate(trace.steps):
        for match in () if _AGED.search(step) else re.finditer(_AGE, step):
            age = int(match["age"])
            others = [age + years for years in (-3 * _FAR, -_FAR, _FAR, 3 * _FAR) if 1 < age + years < 100]
            edits += [(index, match.span(), str(new)) for new in others if _sounds(new) == _sounds(age)]
        if not _FIXED.search(step):
            edits += _edits(trace, [(index, _flips(step, _SEX, SEXES))])
    return chosen("demographic-change", trace, edits, rng)


def _sounds(age: int) -> bool:
    """Whether it takes "an": 8, 11, 18, eighty."""
    return age in (11, 18) or str(age).startswith("8")


# ---- drugs and guidelines --------------------------------------------------------------------------------------------


@corruption("drug-swap", needs=_words(DRUGS), packs=PACKS)
def drug_swap(_problem: Problem, trace: Trace, rng: random.Random) -> Corrupted | None:
    """A drug replaced by one of another class that the step does not name."""
    edits: list[Edit] = []
    for index, step in enumerate(trace.steps):
        for match in re.finditer(_words(DRUGS), step):
            group = DRUGS[match[0].lower()]
            others = [drug for drug, other in DRUGS.items() if other != group and not _holds(step, drug)]
            edits += _edits(trace, [(index, [(match.span(), rng.choice(others))])])
    return chosen("drug-swap", trace, edits, rng)


@corruption("guideline-flip", needs=_words(GUIDELINES), packs=PACKS)
def guideline_flip(_problem: Problem, trace: Trace, rng: random.Random) -> Corrupted | None:
    """A term of guidelines turned: first-line and second-line, indicated and contraindicated, oral and intravenous."""
    flips = ((at, _flips(step, _words(GUIDELINES), GUIDELINES)) for at, step in enumerate(trace.steps))
    return chosen("guideline-flip", trace, _edits(trace, flips), rng)
