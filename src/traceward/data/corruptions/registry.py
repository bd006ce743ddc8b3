"""How corruptions are made, registered and drawn."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Collection, Iterable
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
_NEEDS: dict[str, re.Pattern[str]] = {}


def corruption(kind: str, *, needs: str = "") -> Callable[[Corruption], Corruption]:
    """Register a kind. A task's own kinds register the same way.

    needs: a pattern without which it never applies. Where no step has it the kind is not drawn at all, so that what is
    drawn for other text does not depend on it.
    """

    def register(function: Corruption) -> Corruption:
        if kind in REGISTRY:
            raise ConfigError(f"corruption kinds must be unique: got {kind!r} twice; choose another name")
        REGISTRY[kind] = function
        if needs:
            _NEEDS[kind] = re.compile(needs)
        return function

    return register


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
