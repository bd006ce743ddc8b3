"""`swaps`: people who trade things in pairs; who has what at the end? Students lose track in shared ways.

Questions and steps are worded as BIG-Bench's tracking_shuffled_objects and the traces of BIG-Bench-Mistake word them
(Srivastava et al. 2022, Tyen et al. 2023, both Apache-2.0); people and things are lists of ours that hold theirs.
Verdicts are swaps_check.py's.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from traceward.data.tasks.world import Written
from traceward.records import Trace

PEOPLE = (
    *("Alice", "Bob", "Claire", "Dave", "Eve", "Fred", "Gertrude"),  # the cast of most questions, always in this order
    *("Amir", "Bella", "Carlos", "Dina", "Emil", "Fatima", "Grace", "Henry", "Irene", "Jonas", "Kira", "Luis", "Mona"),
    *("Noah", "Olga", "Paul", "Rosa", "Simon", "Tara", "Victor", "Wanda", "Yusuf", "Zoe"),
)
CAST = 7
USUAL_CAST = 0.8  # share of questions with the first people of PEOPLE
SIZES = (3, 3, 5, 5, 7)
LONG = 60  # belongings that a practice trace tells of
PRACTISED = (3, 5, 5, 7, 7)  # sizes; swaps among many are learned last
COLOURS = (
    *("black", "brown", "orange", "pink", "red", "blue", "green", "purple", "yellow", "white"),
    *("gray", "golden", "silver"),
)
PARTNERS = (
    *("Patrick", "Ophelia", "Izzi", "Jamie", "Melissa", "Lola", "Rodrigo", "Helga", "Karl", "Sam"),
    *("Bruno", "Celia", "Nadia", "Oscar", "Quentin", "Ruth", "Stella", "Umberto", "Vera", "Walter"),
)
POSITIONS = (
    *("benchwarmer", "goalkeeper", "right midfielder", "cheerleader", "fullback", "center midfielder", "right winger"),
    *("striker", "left winger", "left midfielder", "sweeper", "center back", "left back", "right back"),
)
# A book, and what it is called in passing.
BOOKS = {
    "The Odyssey": "Odyssey",
    "The Great Gatsby": "Gatsby",
    "Ulysses": "Ulysses",
    "The Pearl": "Pearl",
    "Frankenstein": "Frankenstein",
    "Hound of the Baskervilles": "Hound",
    "Moby Dick": "Moby Dick",
    "The Fellowship of the Ring": "Fellowship",
    "Lolita": "Lolita",
    "Catch-22": "Catch-22",
    "Emma": "Emma",
    "Dracula": "Dracula",
    "The Trial": "Trial",
    "Middlemarch": "Middlemarch",
    "The Time Machine": "Time Machine",
    "Treasure Island": "Treasure Island",
}


@dataclass(frozen=True, slots=True)
class Theme:
    """What is traded, and the words around it.

    opens: after the names.   has: between a name and a thing at the start.   goes_on, swaps: the trades.
    ends: before the name asked for.   asks: after it.   said: what a step calls a trade.
    """

    opens: str
    has: str
    goes_on: str
    swaps: str
    ends: str
    asks: str
    said: tuple[str, ...]
    things: tuple[str, ...]


THEMES = (
    Theme(
        "are playing a game. At the start of the game, they are each holding a ball:",
        "has a",
        "As the game progresses, pairs of players trade balls.",
        "swap balls",
        "At the end of the game,",
        "has the",
        ("swap balls", "swap balls", "swap"),
        tuple(f"{colour} ball" for colour in COLOURS),
    ),
    Theme(
        "are holding a white elephant gift exchange. At the start of the event, they are each holding a present of a "
        "different color:",
        "has a",
        "As the event progresses, pairs of people swap gifts.",
        "swap their gifts",
        "At the end of the event,",
        "has the",
        ("swap", "swap", "swap gifts", "swap their gifts"),
        (*(f"{colour} present" for colour in COLOURS), *(f"{colour} ball" for colour in COLOURS[:5])),
    ),
    Theme(
        "are dancers at a square dance. At the start of a song, they each have a partner:",
        "is dancing with",
        "Throughout the song, the dancers often trade partners.",
        "switch partners",
        "At the end of the dance,",
        "is dancing with",
        ("switch partners", "switch partners", "switch"),
        PARTNERS,
    ),
    Theme(
        "are on the same team in a soccer match. At the start of the match, they are each assigned to a position:",
        "is playing",
        "As the game progresses, pairs of players occasionally swap positions.",
        "trade positions",
        "At the end of the match,",
        "is playing",
        ("trade positions", "trade positions", "trade", "swap positions"),
        POSITIONS,
    ),
    Theme(
        "are friends and avid readers who occasionally trade books. At the start of the semester, they each buy one "
        "new book:",
        "gets",
        "As the semester proceeds, they start trading around the new books.",
        "swap books",
        "At the end of the semester,",
        "has",
        ("swap", "swap", "swap books"),
        tuple(BOOKS),
    ),
)
LETTERS = "ABCDEFG"


@dataclass(frozen=True, slots=True)
class Shuffle:
    """What a question says.   things: what each of `people` has at the start.   swaps: pairs of people, in order."""

    theme: Theme
    people: tuple[str, ...]
    things: tuple[str, ...]
    swaps: tuple[tuple[str, str], ...]
    asked: str

    def text(self) -> str:
        """The question in words; `swaps_check.read_shuffle` reads it back."""
        theme = self.theme
        held = [f"{name} {theme.has} {thing}" for name, thing in zip(self.people, self.things, strict=True)]
        when = ["First", *["Then"] * (len(self.swaps) - 2), "Finally"]
        traded = [f"{word}, {one} and {two} {theme.swaps}." for word, (one, two) in zip(when, self.swaps, strict=True)]
        options = [f"({letter}) {thing}." for letter, thing in zip(LETTERS, self.things, strict=False)]
        return (
            f"{_listed(self.people)} {theme.opens} {_listed(held)}.\n"
            f"{theme.goes_on} {' '.join(traded)} {theme.ends} {self.asked} {theme.asks}\nOptions:\n"
            + "\n".join(options)
        )

    def states(self) -> list[dict[str, str]]:
        """Who has what at the start and after each swap."""
        found = [dict(zip(self.people, self.things, strict=True))]
        for one, two in self.swaps:
            found.append({**found[-1], one: found[-1][two], two: found[-1][one]})
        return found

    def option(self, thing: str) -> str:
        """The option that names `thing`, as an answer names it."""
        return f"({LETTERS[self.things.index(thing)]})"


def plain(thing: str) -> str:
    """A colour without what it colours; everything else as it is."""
    return thing.removesuffix(" ball").removesuffix(" present")


def _listed(parts: Sequence[str]) -> str:
    return f"{', '.join(parts[:-1])}, and {parts[-1]}"


def make_shuffle(rng: random.Random, sizes: Sequence[int] = SIZES, *, told: int = 0) -> Shuffle:
    """As many swaps as people, or as tell `told` belongings; never the same two twice in a row, which would undo
    itself."""
    size = rng.choice(sizes)
    theme = rng.choice(THEMES)
    things = rng.sample(theme.things, size)
    while len({*map(plain, things)}) < size:  # "a red ball" and "a red present" would both be "red"
        things = rng.sample(theme.things, size)
    people = PEOPLE[:size] if rng.random() < USUAL_CAST else tuple(rng.sample(PEOPLE, size))
    swaps: list[tuple[str, str]] = []
    while len(swaps) < max(size, told // size):
        one, two = rng.sample(people, 2)
        if not swaps or {one, two} != {*swaps[-1]}:
            swaps.append((one, two))
    return Shuffle(theme, people, tuple(things), tuple(swaps), rng.choice(people))


class Layout(StrEnum):
    """How a trace shows who has what. The first is by far the most common one."""

    ALL = "all"  # Bob and Eve swap balls: Alice: red, Bob: blue, …
    PAIR = "pair"  # Bob and Eve swap balls: Bob: blue, Eve: red.
    INITIALS = "initials"  # B and E swap: A: red, B: blue, …
    LINES = "lines"  # B: blue, E: red, A: …


_LAYOUTS = (Layout.ALL, Layout.PAIR, Layout.INITIALS, Layout.LINES)
_SHARES = (70, 10, 10, 10)


@dataclass(frozen=True, slots=True)
class Student:
    """How somebody errs: chances that a misconception is held in a trace, and slips per swap.

    goes_by_start: who trades again hands over what they had at the start.
    one_way: in a pair of which somebody has traded before, only the first named gets something new.
    lapses: how often a misconception that is held shows, where it can.
    slip: nothing changes, or a third person gets into it.   end: names what somebody else has.
    """

    goes_by_start: float = 0.35
    one_way: float = 0.35
    lapses: float = 0.6
    slip: float = 0.06
    end: float = 0.04


EXPERT = Student(goes_by_start=0.0, one_way=0.0, slip=0.0, end=0.0)
STUDENT = Student()


def _states(shuffle: Shuffle, rng: random.Random, writer: Student) -> list[dict[str, str]]:
    """Who has what, as the writer sees it."""
    by_start, one_way = rng.random() < writer.goes_by_start, rng.random() < writer.one_way
    start = shuffle.states()[0]
    found = [start]
    traded: set[str] = set()
    for one, two in shuffle.swaps:
        now = found[-1]
        lapses = bool(traded & {one, two}) and rng.random() < writer.lapses
        if lapses and by_start:
            new = {one: start[two], two: start[one]}
        elif lapses and one_way:
            new = {one: now[two]}
        elif rng.random() < writer.slip:
            third = rng.choice([name for name in shuffle.people if name not in (one, two)])
            new = rng.choice(({}, {one: now[third], third: now[one]}, {one: now[two], two: now[third]}))
        else:
            new = {one: now[two], two: now[one]}
        traded |= {one, two}
        found.append({**now, **new})
    return found


def write_trace(shuffle: Shuffle, rng: random.Random, writer: Student) -> Trace:
    """The trace `writer` gives: right for EXPERT, with the writer's misconceptions and slips otherwise."""
    theme = shuffle.theme
    layout = rng.choices(_LAYOUTS, _SHARES)[0]
    states = _states(shuffle, rng, writer)
    short = layout in (Layout.INITIALS, Layout.LINES)
    called = _names_of_things(shuffle, rng, capital=short and rng.random() < 0.1)
    said = theme.said[rng.randrange(len(theme.said))]
    if short and len({name[0] for name in shuffle.people}) < len(shuffle.people):
        layout, short = Layout.ALL, False
    name_of = {name: name[0] if short else name for name in shuffle.people}
    stop = "" if short else "."

    def shown(state: dict[str, str], people: Sequence[str]) -> str:
        return ", ".join(f"{name_of[name]}: {called[state[name]]}" for name in people) + stop

    steps = []
    if layout is not Layout.PAIR and (short or rng.random() < 0.95):
        steps.append(("" if short else "At the start: ") + shown(states[0], shuffle.people))
    moved_first = rng.random() < 0.5  # lines only: who traded comes first
    for (one, two), state in zip(shuffle.swaps, states[1:], strict=True):
        rest = [name for name in shuffle.people if name not in (one, two)]
        people = [one, two, *rest] if layout is Layout.LINES and moved_first else shuffle.people
        header = f"{name_of[one]} and {name_of[two]} {'swap' if short else said}: "
        header = "" if layout is Layout.LINES else header
        steps.append(header + shown(state, (one, two) if layout is Layout.PAIR else people))
    end = states[-1][shuffle.asked]
    if rng.random() < writer.end:
        end = rng.choice([thing for thing in shuffle.things if thing != end])
    answer = shuffle.option(end)
    spoken = f"So the answer is {answer}"
    if not short and rng.random() < 0.8:
        steps.append(f"{theme.ends} {shuffle.asked} {theme.asks} {end}. {spoken}")
    elif rng.random() < 0.5:
        steps.append(spoken)
    else:
        steps[-1] += f" {spoken}"
    return Trace(tuple(steps), answer)


def _names_of_things(shuffle: Shuffle, rng: random.Random, *, capital: bool) -> dict[str, str]:
    """What a trace calls each thing: colours go without what they colour, books mostly by a short name."""
    by_title = rng.random() < 0.3
    found = {}
    for thing in shuffle.things:
        name = BOOKS[thing] if thing in BOOKS and not by_title else plain(thing)
        found[thing] = name[0].upper() + name[1:] if capital else name
    return found


def expert(rng: random.Random) -> Written:
    """A new question with its worked solution."""
    shuffle = make_shuffle(rng)
    return shuffle.text(), write_trace(shuffle, rng, EXPERT)


def student(rng: random.Random) -> Written:
    """A new question with a student's trace."""
    shuffle = make_shuffle(rng)
    return shuffle.text(), write_trace(shuffle, rng, STUDENT)


def practice(rng: random.Random) -> Written:
    """Who has what at the start, and a trace without mistakes of many more swaps than a question has. Nearly every
    token teaches what to look up in which line; students' traces tell little of that, a third of it wrong (the log).
    """
    shuffle = make_shuffle(rng, PRACTISED, told=LONG)
    start, _, _ = shuffle.text().partition("\n")
    return start, write_trace(shuffle, rng, EXPERT)
