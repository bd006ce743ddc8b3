"""The verdict on a trace of `swaps`, from the words of its question: every stated belonging must be true.

Reads what a program writes and what people and models write in the same layouts: names or initials, all people or
some, with or without the pair that trades.
"""

from __future__ import annotations

import re

from traceward.data.tasks.swaps import BOOKS, THEMES, Shuffle, plain
from traceward.data.tasks.world import verdict
from traceward.errors import DataError
from traceward.records import Trace, Verdict

_OPTION = re.compile(r"^\(([A-G])\) (.+?)\.?$", re.MULTILINE)
_SWAP = re.compile(r"(?:First|Then|Finally), (\w+) and (\w+) ")
_ASKED = re.compile(r"At the end of the \w+, (\w+) [^.,]*\nOptions:")


def read_shuffle(question: str) -> Shuffle:
    """The puzzle behind a question, from its own words. Raises DataError for a question of another kind."""
    theme = next((theme for theme in THEMES if theme.opens in question), None)
    asked = _ASKED.search(question)
    things = [thing for _, thing in _OPTION.findall(question)]
    swaps = tuple(_SWAP.findall(question))
    if theme is None or asked is None or not things or not swaps:
        raise DataError(f"question must be a shuffle of this world: got {question!r}; use another checker for others")
    start = question.partition(theme.opens)[2].partition("\n")[0]
    held = dict(re.findall(rf"(\w+) {theme.has} ({'|'.join(map(re.escape, things))})(?=[,.])", start))
    if sorted(held.values()) != sorted(things):
        raise DataError(f"question must give everybody one of the options: got {held}; mend the question")
    people = {thing: name for name, thing in held.items()}
    return Shuffle(theme, tuple(people[thing] for thing in things), tuple(things), swaps, asked[1])


_SAID = re.compile(
    r"(?:At the end[^,]*, (?P<who>\w+) (?:has|is playing|is dancing with)(?: the)? (?P<what>.+?)\.\s+)?"
    r"So the answer is (?P<option>\([A-G]\))\.?$"
)
_HEADER = re.compile(r"(?P<one>\w+) (?:and )?(?P<two>\w+)(?: (?:swap|switch|trade)[a-z ]*)?[:,] ")
_HOLDING = re.compile(r"(?P<who>\w+)(?::| has)? (?P<what>.+)")


class _Reader:
    """Judges the steps of one trace in order."""

    def __init__(self, shuffle: Shuffle) -> None:
        self.shuffle = shuffle
        self.states = shuffle.states()
        self.done = 0  # swaps told so far
        self.people = {name[0]: name for name in reversed(shuffle.people)} | {name: name for name in shuffle.people}
        self.things: dict[str, str] = {}
        for thing in shuffle.things:
            for name in (thing, thing.removeprefix("The "), plain(thing), BOOKS.get(thing, thing)):
                self.things.setdefault(name.casefold(), thing)

    def right(self, index: int, step: str) -> bool:
        """Whether a step says nothing wrong and leaves no swap out."""
        said = _SAID.search(step)
        text = (step[: said.start()] if said else step).strip().rstrip(".")
        if text and not self._told(index, text):
            return False
        return self._ends_right(said) if said else bool(text)

    def _told(self, index: int, text: str) -> bool:
        """Whether a step tells the start or the next swap, and nothing but what is true then."""
        start, header = text.removeprefix("At the start: "), _HEADER.match(text)
        if start != text:
            text, in_turn = start, index == 0
        elif header is not None and header["one"] in self.people and header["two"] in self.people:
            text, in_turn = text[header.end() :], self._next({self.people[header["one"]], self.people[header["two"]]})
        else:
            in_turn = (index == 0 and self._true(text, self.states[0])) or self._next(None)
        return in_turn and self._true(text, self.states[self.done])

    def _next(self, pair: set[str] | None) -> bool:
        if self.done == len(self.shuffle.swaps) or pair not in (None, {*self.shuffle.swaps[self.done]}):
            return False
        self.done += 1
        return True

    def _true(self, text: str, state: dict[str, str]) -> bool:
        for part in text.split(", "):
            match = _HOLDING.fullmatch(part.strip())
            name = self.people.get(match["who"]) if match else None
            if match is None or name is None or self.things.get(match["what"].casefold()) != state[name]:
                return False
        return True

    def _ends_right(self, said: re.Match[str]) -> bool:
        end = self.states[-1][self.shuffle.asked]
        named = said["what"] is None or (
            self.people.get(said["who"]) == self.shuffle.asked and self.things.get(said["what"].casefold()) == end
        )
        return named and said["option"] == self.shuffle.option(end) and self.done == len(self.shuffle.swaps)


def check(question: str, trace: Trace) -> Verdict:
    """Exact verdict. A step is wrong where it gives somebody what they do not have, tells of another swap than the
    next one, or concludes wrongly or too early. Raises DataError for a question that is not of this world."""
    shuffle = read_shuffle(question)
    reader = _Reader(shuffle)
    wrong = next((index for index, step in enumerate(trace.steps) if not reader.right(index, step)), None)
    return verdict(trace, shuffle.option(shuffle.states()[-1][shuffle.asked]), wrong)
