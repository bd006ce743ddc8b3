"""Wrong edits of structured text: lists of who has what, chains in order, chosen options, negative results."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, pairwise, permutations

from traceward.data.corruptions.registry import Corrupted, Edit, chosen, corruption, offset
from traceward.data.formats import Format, completion_text
from traceward.records import Problem, Trace

# ---- "Alice: red, Bob: blue" -----------------------------------------------------------------------------------------

_VALUE = r"\w[\w'-]*(?: [\w'-]+){0,5}"
_LISTED = rf"\b\w+: {_VALUE}(?:, \w+: {_VALUE})+"
_ENTRY = re.compile(rf"\b(?P<key>\w+): (?P<value>{_VALUE}?)(?=, \w+: |[.;]|$| So )")


def _entries(step: str) -> list[re.Match[str]]:
    return list(_ENTRY.finditer(step)) if re.search(_LISTED, step) else []


def _rewritten(index: int, step: str, changes: Sequence[tuple[re.Match[str], str]]) -> Edit:
    """New values for entries of a step, as one edit from the first of them to the last."""
    start, end = changes[0][0].start("value"), changes[-1][0].end("value")
    text, at = "", start
    for match, new in changes:
        text += step[at : match.start("value")] + new
        at = match.end("value")
    return index, (start, end), text


@corruption("value-swap", needs=_LISTED, packs=["structure"])
def value_swap(_problem: Problem, trace: Trace, rng: random.Random) -> Corrupted | None:
    """Two values of a list change places."""
    options: list[Edit] = []
    for index, step in enumerate(trace.steps):
        found = _entries(step)
        pairs = [(a, b) for a, b in combinations(found, 2) if a["value"] != b["value"]]
        options += [_rewritten(index, step, [(a, b["value"]), (b, a["value"])]) for a, b in pairs]
    return chosen("value-swap", trace, options, rng)


@corruption("value-repeat", needs=_LISTED, packs=["structure"])
def value_repeat(_problem: Problem, trace: Trace, rng: random.Random) -> Corrupted | None:
    """A value of a list replaced by another one of it: two have the same now, and one thing is gone."""
    options: list[Edit] = []
    for index, step in enumerate(trace.steps):
        found = _entries(step)
        pairs = [(a, b) for a, b in permutations(found, 2) if a["value"] != b["value"]]
        options += [(index, a.span("value"), b["value"]) for a, b in pairs]
    return chosen("value-repeat", trace, options, rng)


@corruption("value-stale", needs=_LISTED, packs=["structure"])
def value_stale(_problem: Problem, trace: Trace, rng: random.Random) -> Corrupted | None:
    """A list that stays as the last one was, where it should have changed."""
    options: list[Edit] = []
    known: dict[str, str] = {}
    for index, step in enumerate(trace.steps):
        found = _entries(step)
        before = [(entry, known.get(entry["key"], entry["value"])) for entry in found]
        changed = [(entry, value) for entry, value in before if value != entry["value"]]
        if changed:
            options.append(_rewritten(index, step, changed))
        known |= {entry["key"]: entry["value"] for entry in found}
    return chosen("value-stale", trace, options, rng)


# ---- "(1) "ash" < (2) ["bay" ? "beech"]" -----------------------------------------------------------------------------

_WORDS = r'"[^"]+"|\["[^"]+"(?: \? "[^"]+")+\]'
_ITEM = re.compile(rf"(?P<number>\(\d+\) )?(?P<words>{_WORDS})")
_CHAIN = re.compile(rf"(?:\(\d+\) )?(?:{_WORDS})(?: < (?:\(\d+\) )?(?:{_WORDS}))+")
_ORDERED = r'["\]] < [("\[]'


def _chains(trace: Trace) -> list[tuple[int, list[re.Match[str]]]]:
    """The items of every chain, with the step that it stands in."""
    return [
        (index, list(_ITEM.finditer(step, *chain.span())))
        for index, step in enumerate(trace.steps)
        for chain in _CHAIN.finditer(step)
    ]


@corruption("chain-swap", needs=_ORDERED, packs=["structure"])
def chain_swap(_problem: Problem, trace: Trace, rng: random.Random) -> Corrupted | None:
    """Neighbours in a chain change places; numbers before them stay."""
    options: list[Edit] = []
    for index, items in _chains(trace):
        for one, two in pairwise(items):
            between = trace.steps[index][one.end("words") : two.start("words")]
            options.append((index, (one.start("words"), two.end("words")), two["words"] + between + one["words"]))
    return chosen("chain-swap", trace, options, rng)


@corruption("chain-drop", needs=_ORDERED, packs=["structure"])
def chain_drop(_problem: Problem, trace: Trace, rng: random.Random) -> Corrupted | None:
    """An item of a chain left out."""
    options: list[Edit] = []
    for index, items in _chains(trace):
        options += [(index, (one.start(), two.start()), "") for one, two in pairwise(items)]
    return chosen("chain-drop", trace, options, rng)


@corruption("tie-broken", needs=r'" \? "', packs=["structure"])
def tie_broken(_problem: Problem, trace: Trace, rng: random.Random) -> Corrupted | None:
    """Words whose order is open, put in the order they stand in."""
    options: list[Edit] = []
    for index, step in enumerate(trace.steps):
        for item in _ITEM.finditer(step):
            named = step[: item.start()].endswith("subpart ")  # there it says what will be sorted
            if item["words"].startswith("[") and not named:
                words = re.findall('"[^"]+"', item["words"])
                options.append((index, item.span(), " < ".join((item["number"] or "") + word for word in words)))
    return chosen("tie-broken", trace, options, rng)


# ---- "So the answer is (B)" ------------------------------------------------------------------------------------------

_OPTION = re.compile(r"^\((?P<letter>[A-Z])\) (?P<text>.+?)\.?$", re.MULTILINE)
_CONCLUDES = r"answer is (?:\([A-Z]\)|(?:[a-z']+ ){2,}[a-z']+$)"


@corruption("conclusion", needs=_CONCLUDES, packs=["structure"])
def conclusion(problem: Problem, trace: Trace, rng: random.Random) -> Corrupted | None:
    """Another option, or two words of a list the wrong way round, in the last step and in the answer line."""
    last = trace.steps[-1] if trace.steps else ""
    answer = trace.answer
    if answer is None or f"answer is {answer}" not in last:
        return None
    options = dict(_OPTION.findall(problem.question))
    new, step = "", last
    if len(answer) == 3 and answer[1] in options:
        letter = rng.choice(sorted({*options} - {answer[1]}))
        new = f"({letter})"
        step = step.replace(options[answer[1]], options[letter])
    elif len(words := answer.split(" ")) > 2:
        at = rng.randrange(len(words) - 1)
        words[at : at + 2] = words[at : at + 2][::-1]
        new = " ".join(words)
    if not new or new == answer:
        return None
    step = step.replace(f"answer is {answer}", f"answer is {new}")
    wrong = replace(trace, steps=(*trace.steps[:-1], step), answer=new)
    same = next(at for at, (a, b) in enumerate(zip(last, step, strict=False)) if a != b)
    start = offset(wrong, len(wrong.steps) - 1) + same
    return Corrupted("conclusion", wrong, len(wrong.steps) - 1, (start, len(completion_text(wrong, Format.PLAIN))))


# ---- "(3 - 9) = -6" --------------------------------------------------------------------------------------------------

_NEGATIVE = r"(?<![\w)])-\d"
_RESULT = re.compile(r"= \(?(?P<sign>-?)[1-9]\d*(?=\)?(?:\.| = |$))")


@corruption("result-sign", needs=_NEGATIVE, packs=["arithmetic"])
def result_sign(_problem: Problem, trace: Trace, rng: random.Random) -> Corrupted | None:
    """The sign of a result turned, where there are negative numbers at all."""
    options: list[Edit] = [
        (index, match.span("sign"), "" if match["sign"] else "-")
        for index, step in enumerate(trace.steps)
        if re.search(_NEGATIVE, step)
        for match in _RESULT.finditer(step)
    ]
    return chosen("result-sign", trace, options, rng)
