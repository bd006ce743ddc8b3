"""How corruptions are made, registered and drawn."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from traceward.data.formats import Format, completion_text
from traceward.errors import ConfigError
from traceward.records import Problem, Trace


@dataclass(frozen=True, slots=True)
class Corrupted:
    """A wrong trace. `first_error`: its first wrong step, len(steps) = the answer line. `span`: (start, end) of the
    edit in `completion_text(trace, Format.PLAIN)`; empty, where the following text begins, for `step-delete`.
    """

    kind: str
    trace: Trace
    first_error: int
    span: tuple[int, int]


Edit = tuple[int, tuple[int, int], str]  # step, characters of it, what replaces them
Corruption = Callable[[Problem, Trace, random.Random], Corrupted | None]
REGISTRY: dict[str, Corruption] = {}
PACKS: dict[str, list[str]] = {}  # pack -> its kinds; a kind may be in several
GENERAL = "general"
_NEEDS: dict[str, re.Pattern[str]] = {}


def corruption(
    kind: str, *, needs: str = "", packs: Collection[str] = (GENERAL,)
) -> Callable[[Corruption], Corruption]:
    """Register a kind, as one of `packs`. A task's own kinds register the same way, also in a pack of their own.

    needs: a pattern without which it never applies. Where no step has it the kind is not drawn at all, so that what is
    drawn for other text does not depend on it.
    """

    def register(function: Corruption) -> Corruption:
        if kind in REGISTRY:
            raise ConfigError(f"corruption kinds must be unique: got {kind!r} twice; choose another name")
        REGISTRY[kind] = function
        for pack in packs:
            PACKS.setdefault(pack, []).append(kind)
        if needs:
            _NEEDS[kind] = re.compile(needs)
        return function

    return register


def kinds_of(packs: Iterable[str], exclude: Collection[str] = ()) -> list[str]:
    """The kinds of packs, in the order in which they were registered. Raises ConfigError for an unknown pack."""
    wanted = set(packs)
    if unknown := sorted(wanted - PACKS.keys()):
        raise ConfigError(f"corruption packs must be among {', '.join(PACKS)}: got {', '.join(unknown)}; mend them")
    chosen = {kind for pack in wanted for kind in PACKS[pack]} - {*exclude}
    return [kind for kind in REGISTRY if kind in chosen]


def corrupt(
    problem: Problem,
    trace: Trace,
    rng: random.Random,
    *,
    kinds: Iterable[str] | None = None,
    exclude: Collection[str] = (),
) -> Corrupted | None:
    """One corruption, uniform over the kinds that apply; None where none does. kinds=None: every registered one."""
    wanted = [kind for kind in (REGISTRY if kinds is None else kinds) if kind not in exclude]
    if unknown := sorted({*wanted, *exclude} - REGISTRY.keys()):
        raise ConfigError(f"corruption kinds must be among {', '.join(REGISTRY)}: got {', '.join(unknown)}; mend them")
    wanted = [kind for kind in wanted if kind not in _NEEDS or any(map(_NEEDS[kind].search, trace.steps))]
    rng.shuffle(wanted)
    return next((found for kind in wanted if (found := REGISTRY[kind](problem, trace, rng))), None)


def offset(trace: Trace, index: int) -> int:
    """Where step `index` begins in the plain completion; index len(steps) is the answer itself."""
    if index < len(trace.steps):
        return sum(len(step) + 1 for step in trace.steps[:index])
    return len(completion_text(trace, Format.PLAIN)) - len(trace.answer or "")


def edited(kind: str, trace: Trace, index: int, place: tuple[int, int], new: str) -> Corrupted:
    """`trace` with characters `place` of one step replaced."""
    start, end = place
    step = trace.steps[index]
    wrong = replace(trace, steps=(*trace.steps[:index], step[:start] + new + step[end:], *trace.steps[index + 1 :]))
    begin = offset(wrong, index) + start
    return Corrupted(kind, wrong, index, (begin, begin + len(new)))


def chosen(kind: str, trace: Trace, edits: Sequence[Edit], rng: random.Random) -> Corrupted | None:
    """One of several edits; None where there is none."""
    return edited(kind, trace, *rng.choice(edits)) if edits else None


_ARTICLE = re.compile(r"\b(?P<article>an?)(?P<space> )$", re.IGNORECASE)
_UNSURE = re.compile(r"(?i:u|eu|ho|one)|[A-Z]{2}|\d")  # "a unit", "an hour", "an MRI", "an 8-hour"


def reworded(step: str, place: tuple[int, int], new: str) -> tuple[tuple[int, int], str] | None:
    """Where words of a step are replaced by what: with the case of the first letter, and with "a" or "an" before them
    as the new ones want it. None where that is unsure, and would show."""
    start, end = place
    old = step[start:end]
    if old[0].isupper() != new[0].isupper() and (old[0].isupper() or not new[1:2].isupper()):
        new = (new[0].upper() if old[0].isupper() else new[0].lower()) + new[1:]
    article = _ARTICLE.search(step[:start])
    vowel = new[0].lower() in "aeiou"
    if article is None or vowel is (old[0].lower() in "aeiou"):
        return place, new
    if _UNSURE.match(old) or _UNSURE.match(new):
        return None
    begun = article["article"][0] + ("n" if vowel else "")
    return (article.start(), end), f"{begun} {new}"
