"""`sorting`: words put in order by their first letters, then subpart by subpart. Students share bad habits with ties.

Questions and steps are worded as BIG-Bench's word_sorting and the traces of BIG-Bench-Mistake word them (Srivastava et
al. 2022, Tyen et al. 2023, both Apache-2.0); the words are words.py's. Verdicts are sorting_check.py's.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from traceward.data.tasks.words import draw_words
from traceward.data.tasks.world import Written
from traceward.records import Trace

SIZES = (6, 20)  # words of a question, both ends included
FIRST_MOVES = 0.4  # of practice: the share of a list's first ones, which are the longest
NTH = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


@dataclass(frozen=True, slots=True)
class Part:
    """Words that are not told apart yet, or a single one.

    letter: the next one to look at, 0 = the first.   number: the place in the alphabet that is written before it.
    """

    words: tuple[str, ...]
    letter: int = 0
    number: int | None = None

    @property
    def open(self) -> bool:
        """Whether it still has to be sorted."""
        return len(self.words) > 1

    def text(self) -> str:
        """As a chain shows it."""
        shown = f'"{self.words[0]}"' if not self.open else bracket(self.words)
        return shown if self.number is None else f"({self.number}) {shown}"


def place(letter: str) -> int:
    """Where a letter stands in the alphabet, "a" = 1."""
    return string.ascii_lowercase.index(letter) + 1


def bracket(words: Sequence[str]) -> str:
    """Words whose order is not known."""
    return "[" + " ? ".join(f'"{word}"' for word in words) + "]"


def listing(words: Sequence[str], letters: Sequence[str]) -> str:
    """The letter of each word with its place in the alphabet."""
    shown = (f'"{word}": "{letter}" ({place(letter)}).' for word, letter in zip(words, letters, strict=True))
    return " ".join(shown)


def split(part: Part) -> list[Part]:
    """A part by its next letter, in order; words with the same letter stay together."""
    found: dict[int, list[str]] = {}
    for word in part.words:
        found.setdefault(place(word[part.letter]), []).append(word)
    return [Part(tuple(found[number]), part.letter + 1, number) for number in sorted(found)]


def chain(parts: Sequence[Part]) -> str:
    """Parts in order."""
    return " < ".join(part.text() for part in parts)


@dataclass(frozen=True, slots=True)
class Student:
    """How somebody errs: chances that a habit is held in a trace, and slips.

    drops_ties: words with the same letter count as sorted, in the order they stand in.
    moves_on: where a subpart stays open, the next one is sorted first.
    forgets: the whole list is written as it was before the subpart was sorted.
    stops: the words count as sorted while a subpart is open.
    lapses: how often a habit that is held shows, where it can.
    slip: per step, a wrong letter, or in a chain two neighbours the wrong way round or one left out.
    end: two neighbours of the answer the wrong way round.
    """

    drops_ties: float = 0.3
    moves_on: float = 0.3
    forgets: float = 0.12
    stops: float = 0.08
    lapses: float = 0.6
    slip: float = 0.025
    end: float = 0.03


HABITS = ("drops_ties", "moves_on", "forgets", "stops")
EXPERT = Student(0.0, 0.0, 0.0, 0.0, slip=0.0, end=0.0)
STUDENT = Student()


class Writer:
    """Sorts one list, with the habits it has and in the layout it likes."""

    def __init__(self, rng: random.Random, student: Student) -> None:
        self.rng = rng
        self.student = student
        self.held = {habit for habit in HABITS if rng.random() < getattr(student, habit)}
        self.keeps_numbers = rng.random() < 0.1  # of parts that are not sorted yet, in the whole list
        self.alphabetical = rng.random() < 0.5  # words in brackets, else as they were asked

    def _lapses(self, habit: str) -> bool:
        return habit in self.held and self.rng.random() < self.student.lapses

    def _slips(self) -> bool:
        return self.rng.random() < self.student.slip

    def write(self, words: Sequence[str]) -> Trace:
        """The whole trace."""
        whole = Part(tuple(words))
        steps = [
            f"I should start by looking at the first letter of the words in the list. The first letter: "
            f"{self._letters(whole)}"
        ]
        parts = self._split(whole)
        steps.append(f"We now have: {chain(parts)}.")
        parts = [self._unnumbered(part, kept=self.keeps_numbers) for part in parts]
        at = 0
        while any(part.open for part in parts):
            if len(steps) > 2 and self._lapses("stops"):
                break
            at = self._next(parts, at)
            nth = NTH[parts[at].letter]
            steps.append(
                f"Now let's sort this subpart {bracket(parts[at].words)} by looking at their {nth} letters. The {nth} "
                f"letter: {self._letters(parts[at])}"
            )
            new = self._split(parts[at])
            before = parts
            parts = [*parts[:at], *(self._unnumbered(part) for part in new), *parts[at + 1 :]]
            shown = before if self._lapses("forgets") else parts
            steps.append(f"We now have: {chain(new)} for the subpart. Hence, we have {chain(shown)}.")
        ordered = [word for part in parts for word in part.words]
        if self.rng.random() < self.student.end:
            self._turn(ordered)
        answer = " ".join(ordered)
        return Trace((*steps, f"I have now sorted all the words. The answer is {answer}"), answer)

    def _next(self, parts: Sequence[Part], last: int) -> int:
        """The first open part; who moves on leaves the one that was just looked at for later."""
        open_ones = [at for at, part in enumerate(parts) if part.open]
        later = [at for at in open_ones if at > last]
        tied = last in open_ones and parts[last].letter > 1
        return later[0] if tied and later and self._lapses("moves_on") else open_ones[0]

    def _letters(self, part: Part) -> str:
        letters = [word[part.letter] for word in part.words]
        if self._slips():
            at = self.rng.randrange(len(letters))
            letters[at] = self.rng.choice([letter for letter in part.words[at] + "ae" if letter.isalpha()])
        return listing(part.words, letters)

    def _split(self, part: Part) -> list[Part]:
        found = split(part)
        if self.alphabetical:
            found = [replace(one, words=tuple(sorted(one.words))) for one in found]
        if part.letter and any(one.open for one in found) and self._lapses("drops_ties"):
            found = [replace(one, words=(word,)) for one in found for word in one.words]
        if len(found) > 1 and self._slips():
            if self.rng.random() < 0.5:
                self._turn(found)
            else:
                found.pop(self.rng.randrange(len(found)))
        return found

    def _turn(self, row: list[Any]) -> None:
        at = self.rng.randrange(len(row) - 1)
        row[at : at + 2] = row[at : at + 2][::-1]

    @staticmethod
    def _unnumbered(part: Part, *, kept: bool = False) -> Part:
        return part if kept else replace(part, number=None)


def expert(rng: random.Random) -> Written:
    """A new question with its worked solution."""
    words = draw_words(rng, rng.randint(*SIZES))
    return " ".join(words), Writer(rng, EXPERT).write(words)


def student(rng: random.Random) -> Written:
    """A new question with a student's trace."""
    words = draw_words(rng, rng.randint(*SIZES))
    return " ".join(words), Writer(rng, STUDENT).write(words)


def practice(rng: random.Random) -> Written:
    """A single move without mistakes: the letters that are looked at, and what is then known. The question is what the
    move starts from. None sorts its list to the end, so that nothing is a solution.
    """
    while True:
        words = draw_words(rng, rng.randint(*SIZES))
        told = Writer(rng, EXPERT).write(words).steps[:-1]
        moves = list(zip(told[::2], told[1::2], strict=True))
        if len(moves) > 1:
            at = 0 if len(moves) == 2 or rng.random() < FIRST_MOVES else rng.randrange(1, len(moves) - 1)
            start = re.split("have:? ", moves[at - 1][-1])[-1] if at else " ".join(words)
            return start, Trace(moves[at])
