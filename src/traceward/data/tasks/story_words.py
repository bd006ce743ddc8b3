"""What stories are told with: names, things, sentences and the words of a step; and the shifts of all that.

A sentence is a template, and the same template reads its text back: what is written by one is understood by the other.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from string import Formatter

ZIPF = 1.2  # exponent of the rank


class Shift(StrEnum):
    """How stories differ from those that a reward may have been learned on."""

    NONE = "none"
    LONGER = "longer"  # chains of more relations
    NAMES = "names"  # other people and things
    WORDING = "wording"  # other sentences, and other words in the steps
    ALL = "all"


class Style(StrEnum):
    """How a step is worded. Students write RESULT_FIRST in a few percent of their traces."""

    USUAL = "usual"  # [So ]Ben has 7 + 5 = 12 apples[ now].
    RESULT_FIRST = "result-first"  # Since 7 + 5 = 12, the apples of Ben are 12[ now].


@dataclass(frozen=True, slots=True)
class Wording:
    """Sentences of a question, and steps in two styles. The choices of a step are in the order of their frequency.

    pair, pair_late: who owns a sum of two, in the usual style and in the other.
    """

    start: str
    more: str
    fewer: str
    twice: str
    asked: str
    asked_together: str
    usual: str
    result_first: str
    pair: str
    pair_late: str
    first_openings: tuple[str, ...]
    openings: tuple[str, ...]
    verbs: tuple[str, ...]
    plurals: tuple[str, ...]
    endings: tuple[str, ...]

    def line(self, style: Style, rng: random.Random, *, owner: str | None, first: bool, **gaps: str | int) -> str:
        """A step with its words drawn; owner: None for a sum of two.   gaps: left, op, right, result, item."""
        ending = zipf(rng, self.endings)
        if style is Style.RESULT_FIRST:
            return self.result_first.format(owner=owner or self.pair_late, ending=ending, **gaps)
        opening = zipf(rng, self.first_openings if first else self.openings)
        verb = zipf(rng, self.plurals if owner is None else self.verbs)
        text = self.usual.format(
            opening=f"{opening} " if opening else "", owner=owner or self.pair, verb=verb, ending=ending, **gaps
        )
        return text[0].upper() + text[1:]

    def read_line(self, step: str) -> tuple[str | None, re.Match[str]] | None:
        """The owner of a step (None: both) and its parts left, op, right, result, item; None where it is no step."""
        for reader in _step_readers(self):
            if match := reader.fullmatch(step):
                owner = match["owner"]
                both = owner == self.pair_late or owner[:1].lower() + owner[1:] == self.pair
                return (None if both else owner), match
        return None


def zipf(rng: random.Random, words: tuple[str, ...]) -> str:
    """The word of a rank with a chance that falls with the rank."""
    return rng.choices(words, weights=[1 / rank**ZIPF for rank in range(1, len(words) + 1)])[0]


def reader(template: str, gaps: Mapping[str, str]) -> re.Pattern[str]:
    """What reads a template's text back: a group for each gap. A gap that comes again must hold the same."""
    pattern, seen = "", set()
    for text, gap, _, _ in Formatter().parse(template):
        pattern += re.escape(text)
        if gap is not None:
            pattern += f"(?P={gap})" if gap in seen else f"(?P<{gap}>{gaps[gap]})"
            seen.add(gap)
    return re.compile(pattern)


@cache
def sentence_reader(template: str) -> re.Pattern[str]:
    """The reader of a question's sentence."""
    words = dict.fromkeys(("name", "other", "second", "item"), r"\w+")
    return reader(template, {**words, "amount": r"\d+"})


@cache
def _step_readers(wording: Wording) -> tuple[re.Pattern[str], re.Pattern[str]]:
    openings = {*wording.openings, *wording.first_openings} - {""}
    first, rest = wording.pair[0], wording.pair[1:]
    gaps = {
        "opening": f"(?:(?:{_one_of(openings)}) )?",
        "owner": rf"[{first.upper()}{first}]{rest}|{wording.pair_late}|\w+",
        "verb": _one_of((*wording.verbs, *wording.plurals)),
        "left": r"\d+",
        "op": "[-+*]",
        "right": r"\d+",
        "result": r"\d+",
        "item": r"\w+",
        "ending": _one_of(wording.endings),
    }
    return reader(wording.usual, gaps), reader(wording.result_first, gaps)


def _one_of(words: Iterable[str]) -> str:
    return "|".join(sorted(map(re.escape, words), key=len, reverse=True))


# Word choice follows Zipf's law, experts and students alike: most steps are worded the usual way, some in a rare one.
# A surprising word is then no sign of a wrong step, as in real text; log-probability alone cannot tell the two apart.
ORDINARY = Wording(
    start="{name} has {amount} {item}.",
    more="{name} has {amount} more {item} than {other}.",
    fewer="{name} has {amount} fewer {item} than {other}.",
    twice="{name} has twice as many {item} as {other}.",
    asked="How many {item} does {name} have?",
    asked_together="How many {item} do {name} and {second} have together?",
    usual="{opening}{owner} {verb} {left} {op} {right} = {result} {item}{ending}.",
    result_first="Since {left} {op} {right} = {result}, the {item} of {owner} are {result}{ending}.",
    pair="together they",
    pair_late="both",
    first_openings=("", "First,", "Now", "Well,", "Here", "Clearly,", "Indeed,", "Surely", "Plainly"),
    openings=(
        *("", "So", "Then", "Now", "Next,", "Thus", "Hence", "Therefore", "Well,", "Here", "Clearly,", "Indeed,"),
        *("Surely", "Plainly", "Again,", "Finally,"),
    ),
    verbs=("has", "owns", "holds", "keeps", "gets", "counts", "carries", "shows"),
    plurals=("have", "own", "hold", "keep", "get", "count", "carry", "show"),
    endings=("", " now", " here", " then", " today", " exactly", " already", " indeed", " overall", " again"),
)
OTHER = Wording(
    start="{name} starts with {amount} {item}.",
    more="Compared to {other}, {name} is {amount} {item} ahead.",
    fewer="Compared to {other}, {name} is {amount} {item} behind.",
    twice="{name} can show double the {item} of {other}.",
    asked="What number of {item} belongs to {name}?",
    asked_together="What number of {item} belongs to {name} and {second} as a pair?",
    usual="{opening}{owner} {verb} {item}: {left} {op} {right} = {result}{ending}.",
    result_first="As {left} {op} {right} = {result}, the number of {item} of {owner} is {result}{ending}.",
    pair="both of them",
    pair_late="the pair",
    first_openings=(
        *("", "Initially,", "To begin,", "Obviously,", "Evidently,", "Of course,", "At first,", "Certainly,"),
        "Simply,",
    ),
    openings=(
        *("", "Afterwards,", "Consequently,", "From that,", "Accordingly,", "Following that,", "Obviously,"),
        *("Evidently,", "Of course,", "Next up,", "Moreover,", "Likewise,", "Certainly,", "Simply,", "In turn,"),
        "Lastly,",
    ),
    verbs=("collects", "gathers", "stacks", "tallies", "saves", "stores", "lists", "brings"),
    plurals=("collect", "gather", "stack", "tally", "save", "store", "list", "bring"),
    endings=(
        *("", " altogether", " in all", " by now", " this time", " in total", " at last", " for sure", " so far"),
        " once more",
    ),
)
WORDINGS = (ORDINARY, OTHER)


@dataclass(frozen=True, slots=True)
class Telling:
    """One kind of story. relations: least and most of them."""

    names: tuple[str, ...]
    items: tuple[str, ...]
    wording: Wording
    relations: tuple[int, int]


NAMES = ("Ann", "Ben", "Cara", "Dan", "Eva", "Finn", "Gina", "Hugo", "Iris", "Jack", "Kate", "Leo")
ITEMS = ("apples", "books", "coins", "cards", "shells", "stamps", "marbles", "pens", "stickers", "buttons")
OTHER_NAMES = ("Mia", "Noah", "Olga", "Paul", "Ruth", "Sam", "Tara", "Uma", "Vera", "Will", "Yara", "Zoe")
OTHER_ITEMS = ("beads", "bricks", "candles", "crayons", "kites", "lemons", "muffins", "ribbons", "spoons", "tickets")
SHORT, LONG = (2, 4), (5, 7)
TELLINGS: Mapping[Shift, Telling] = {
    Shift.NONE: Telling(NAMES, ITEMS, ORDINARY, SHORT),
    Shift.LONGER: Telling(NAMES, ITEMS, ORDINARY, LONG),
    Shift.NAMES: Telling(OTHER_NAMES, OTHER_ITEMS, ORDINARY, SHORT),
    Shift.WORDING: Telling(NAMES, ITEMS, OTHER, SHORT),
    Shift.ALL: Telling(OTHER_NAMES, OTHER_ITEMS, OTHER, LONG),
}
