"""The verdict on a trace of `sorting`: the one way of going on that sorts subpart by subpart, from the left."""

from __future__ import annotations

import re

from traceward.data.tasks.sorting import NTH, Part, place, split
from traceward.data.tasks.world import verdict
from traceward.errors import DataError
from traceward.records import Trace, Verdict

_WORD = re.compile(r'[^\sA-Z"]+')
_LISTING = re.compile(
    r"(?:I should start by looking at the first letter of the words in the list\."
    r"|Now let's sort this subpart (?P<words>\[.+\]) by looking at their (?P<nth>\w+) letters\.)"
    r" The \w+ letter: (?P<letters>.+)"
)
_LETTER = re.compile(r'"([^"]+)": "(.)" \((\d+)\)\.')
_CHAIN = re.compile(r"We now have: (?P<part>.+?)(?: for the subpart\.(?: Hence, we have (?P<whole>.+)\.)?|\.)")
_ITEM = re.compile(r'(?:\((?P<number>\d+)\) )?(?P<words>"[^"]+"|\["[^"]+"(?: \? "[^"]+")*\])')
_END = re.compile(r"I have now sorted all the words\. The answer is (.+)")
_QUOTED = re.compile(r'"([^"]+)"')
Items = list[tuple[int | None, frozenset[str]]]  # what a chain says: a number and words, in order


def read_words(question: str) -> list[str]:
    """The words of a question. Raises DataError where it is anything but a list of different words."""
    words = question.split()
    if len(words) < 2 or len(set(words)) < len(words) or not all(_WORD.fullmatch(word) for word in words):
        raise DataError(f"question must be a list of different lower-case words: got {question!r}; mend it")
    return words


def _read_chain(text: str) -> Items:
    """Raises ValueError for what is no chain."""
    found: Items = []
    for item in text.split(" < "):
        match = _ITEM.fullmatch(item)
        if match is None:
            raise ValueError(f"a chain must hold words and brackets: got {item!r}")
        number = match["number"]
        found.append((None if number is None else int(number), frozenset(_QUOTED.findall(match["words"]))))
    return found


def _items(parts: list[Part]) -> Items:
    return [(part.number, frozenset(part.words)) for part in parts]


class _Reader:
    """Judges the steps of one trace in order.   parts: the true state.   looked: the part whose letters were listed."""

    def __init__(self, words: list[str]) -> None:
        self.words = words
        self.parts = [Part(tuple(words))]
        self.looked: Part | None = None

    def right(self, step: str) -> bool:
        """Whether a step is the next one, and right. Raises ValueError for a chain that is none."""
        if match := _LISTING.fullmatch(step):
            return self._listing_right(match)
        if match := _CHAIN.fullmatch(step):
            return self._chain_right(match)
        if match := _END.fullmatch(step):
            return not self._open() and match[1].split() == sorted(self.words)
        return False

    def _open(self) -> list[Part]:
        return [part for part in self.parts if part.open]

    def _listing_right(self, match: re.Match[str]) -> bool:
        if self.looked is not None or not self._open():
            return False
        part = self.looked = self._open()[0]
        named = part.letter == 0 if match["words"] is None else {*_QUOTED.findall(match["words"])} == {*part.words}
        listed = _LETTER.findall(match["letters"])
        right = {(word, word[part.letter], str(place(word[part.letter]))) for word in part.words}
        return (
            named
            and (match["nth"] or NTH[0]) == NTH[part.letter]
            and len(listed) == len(right) == len({*listed} & right)
        )

    def _chain_right(self, match: re.Match[str]) -> bool:
        part, self.looked = self.looked, None
        if part is None:
            return False
        new, at = split(part), self.parts.index(part)
        self.parts = [*self.parts[:at], *new, *self.parts[at + 1 :]]
        if _read_chain(match["part"]) != _items(new):
            return False
        if match["whole"] is None:
            return True
        # A part that is not sorted yet may keep the number it was found by.
        whole, truth = _read_chain(match["whole"]), _items(self.parts)
        return [words for _, words in whole] == [words for _, words in truth] and all(
            number in (None, right) for (number, _), (right, _) in zip(whole, truth, strict=True)
        )


def check(question: str, trace: Trace) -> Verdict:
    """Exact verdict. A step is wrong where a letter, its place, a chain or the answer is wrong, and where it sorts
    another subpart than the first one that is open. Words in brackets may stand in any order. Raises DataError for a
    question that is not of this world."""
    words = read_words(question)
    reader = _Reader(words)
    wrong = None
    for index, step in enumerate(trace.steps):
        try:
            right = reader.right(step)
        except (ValueError, IndexError):  # no chain; a word without that letter
            right = False
        if not right:
            wrong = index
            break
    return verdict(trace, " ".join(sorted(words)), wrong)
