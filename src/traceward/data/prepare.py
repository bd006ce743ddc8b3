"""Rows of a set, checked, parted and counted: what `traceward data` writes.

A row that breaks a rule is left out and named; for every source, rows = kept + known + refused. *Known* is a question
without reasoning whose worked solution another row holds. A question in two splits stays in the later of train,
validation, test: the test set of a benchmark stays whole. An id that another question has already, as numbered files
may give, gives way to the one that follows from the question: recipes tell questions by their ids.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from traceward.data.demonstrations import (
    FieldError,
    converted,
    demonstrations_of,
    hash_split,
    question_field,
    question_key,
    text_field,
)
from traceward.data.jsonl import Fault, Faults, Row
from traceward.data.sources import QUESTIONS, TEST, TEST_QUESTIONS, TRAIN, VALIDATION, Source
from traceward.data.tasks.registry import SALT, SPLITS
from traceward.errors import DataError
from traceward.records import Demonstration, Problem

AT_LEAST = {TRAIN: 4, TEST: 1}
_ORDER = (TEST, VALIDATION, TRAIN, "", TEST_QUESTIONS, QUESTIONS)  # what stands earlier keeps its questions
_Item = Demonstration | Problem
Reader = Callable[[Iterator[tuple[int, Row]], Faults, bool], Iterator[tuple[int, Row]]]
"""Numbered rows, where faults go, and whether rows may be questions only -> rows in our schema."""
Limit = Callable[[_Item], None]


@dataclass(frozen=True, slots=True)
class Count:
    """What became of the rows of one source. refused: reason -> rows."""

    path: str
    split: str
    rows: int
    kept: int
    known: int
    refused: Mapping[str, int]
    fingerprint: str | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """parts: demonstrations of train, validation and test.   questions: without worked solutions, of train and of test.

    refused: every broken place with its source.   divided: the parts that the hash of the questions made.
    """

    parts: Mapping[str, tuple[Demonstration, ...]]
    questions: Mapping[str, tuple[Problem, ...]]
    counts: tuple[Count, ...]
    refused: tuple[tuple[str, Fault], ...]
    divided: Mapping[str, float]


@dataclass(slots=True)
class _Read:
    """One source after it was read: kept items with their lines, by split."""

    source: Source
    faults: Faults
    rows: int = 0
    known: int = 0
    items: list[tuple[int, str, _Item]] = field(default_factory=list)

    def count(self) -> Count:
        first = {fault.line: fault.reason for fault in reversed(self.faults.found)}
        refused = dict(Counter(first.values()).most_common())
        split = self.source.split
        return Count(self.source.path, split, self.rows, len(self.items), self.known, refused, self.source.fingerprint)


def convert_with(convert: Callable[[Row], Row]) -> Reader:
    """A reader of rows that `convert` maps one by one."""
    return lambda rows, faults, _: converted(rows, convert, faults)


def prepare(sources: Sequence[Source], read: Reader, *, questions: bool, limit: Limit | None = None) -> Prepared:
    """Read, check and part every source.

    questions: rows without reasoning are questions; else they are broken, but in files of questions.   limit: raises
    FieldError for what is too long. Raises DataError where too little is left, naming why.
    """
    found = [_read(source, read, questions) for source in sorted(sources, key=lambda one: _ORDER.index(one.split))]
    if limit is not None:  # first: a row that is too long must not push out another one of its question
        _drop(found, lambda _, item: limit(item))
    _keep_apart(found)
    _tell_apart(found)
    kept: dict[str, list[_Item]] = {split: [] for split in (TRAIN, VALIDATION, TEST)}
    for one in found:
        for _, split, item in one.items:
            kept[split].append(item)
    experts = {split: [i for i in items if isinstance(i, Demonstration)] for split, items in kept.items()}
    asked = {split: tuple(i for i in items if isinstance(i, Problem)) for split, items in kept.items()}
    parts, divided = _part(experts)
    _enough(parts, found)
    counts = tuple(one.count() for one in found)
    refused = tuple((one.source.path, fault) for one in found for fault in sorted(one.faults.found, key=_line))
    without = {QUESTIONS: (*asked[TRAIN], *asked[VALIDATION]), TEST_QUESTIONS: asked[TEST]}
    return Prepared(parts, without, counts, refused, divided)


def _line(fault: Fault) -> int:
    return fault.line


# ---- one source ------------------------------------------------------------------------------------------------------


def _read(source: Source, read: Reader, questions: bool) -> _Read:
    found = _Read(source, Faults(source.path))
    questions |= source.split in (QUESTIONS, TEST_QUESTIONS)
    unsolved: list[tuple[int, Row]] = []

    def counted() -> Iterator[tuple[int, Row]]:
        for line, row in source.read(found.faults):
            found.rows += 1
            yield line, row

    def solved() -> Iterator[tuple[int, Row]]:
        for line, row in read(counted(), found.faults, questions):
            if questions and row.get("steps") is None and row.get("solution") is None:
                unsolved.append((line, row))
            else:
                splits[line] = _split_of(row, source)
                yield line, row

    splits: dict[int, str] = {}
    experts = demonstrations_of(solved(), found.faults)
    found.rows += sum(fault.field == "line" for fault in found.faults.found)  # no row came of these
    found.items += [
        (line, splits[line], item) for line, item in zip(experts.lines, experts.demonstrations, strict=True)
    ]
    for line, row in unsolved:
        try:
            question, default_id = question_field(row)
            problem = Problem(text_field(row, "id") or default_id, question, text_field(row, "answer"))
        except ValueError as error:
            found.faults.add(line, "question", str(error))
        else:
            found.items.append((line, _split_of(row, source), problem))
    return found


def _split_of(row: Row, source: Source) -> str:
    """The split of a row: its source's; of a file of questions the row may say so itself."""
    if source.split == QUESTIONS:
        return str(row.get("split")) if row.get("split") in (VALIDATION, TEST) else TRAIN
    return TEST if source.split == TEST_QUESTIONS else source.split or TRAIN


# ---- all of them -----------------------------------------------------------------------------------------------------


def _drop(found: Sequence[_Read], check: Callable[[_Read, _Item], None]) -> None:
    """Refuse every item that `check` raises FieldError for."""
    for one in found:
        kept = []
        for line, split, item in one.items:
            try:
                check(one, item)
            except FieldError as error:
                one.faults.add(line, error.field, str(error))
            else:
                kept.append((line, split, item))
        one.items[:] = kept


def _keep_apart(found: Sequence[_Read]) -> None:
    """Keep each question once: with its worked solution where one row has it, in the split that stands first."""
    places: dict[str, tuple[str, bool]] = {}
    for solved in (True, False):
        for one in found:
            kept = []
            for line, split, item in one.items:
                if isinstance(item, Demonstration) is not solved:
                    kept.append((line, split, item))
                    continue
                key = question_key((item.problem if isinstance(item, Demonstration) else item).question)
                place, has_solution = places.setdefault(key, (f"{one.source.path}:{line}", solved))
                if place == f"{one.source.path}:{line}":
                    kept.append((line, split, item))
                elif has_solution and not solved:
                    one.known += 1
                else:
                    rule = f"must be in one split, once: got the one of {place}; the other place keeps it"
                    one.faults.add(line, "question", rule)
            one.items[:] = kept


def _tell_apart(found: Sequence[_Read]) -> None:
    """Give each question an id of its own."""
    seen: set[str] = set()
    for one in found:
        for at, (line, split, item) in enumerate(one.items):
            problem = item if isinstance(item, Problem) else item.problem
            if problem.id in seen:
                problem = replace(problem, id=question_field({"question": problem.question})[1])
                item = problem if isinstance(item, Problem) else replace(item, problem=problem)  # noqa: PLW2901
                one.items[at] = (line, split, item)
            seen.add(problem.id)


def _part(experts: Mapping[str, list[Demonstration]]) -> tuple[dict[str, tuple[Demonstration, ...]], dict[str, float]]:
    """The splits that are there; those that are not are parts of train, or of validation where there is no train."""
    given = {split: tuple(items) for split, items in experts.items() if items}
    if TRAIN not in given and VALIDATION in given:
        given[TRAIN] = given.pop(VALIDATION)
    missing = {split: SPLITS[split] for split in (VALIDATION, TEST) if split not in given}
    if not missing or TRAIN not in given:
        return given, {}
    shares = {TRAIN: 1 - sum(missing.values()), **missing}
    return {**given, **hash_split(given[TRAIN], fractions=shares, salt=SALT)}, shares


def _enough(parts: Mapping[str, Sequence[Demonstration]], found: Sequence[_Read]) -> None:
    got = {split: len(parts.get(split, ())) for split in AT_LEAST}
    if all(got[split] >= least for split, least in AT_LEAST.items()):
        return
    places = tuple(place for one in found for place in one.faults.places)
    raise DataError(
        f"{', '.join(one.source.path for one in found)} must give at least 4 demonstrations and 1 test problem: got "
        f"{got[TRAIN]} and {got[TEST]}; places refused: {len(places)}; mend or add rows",
        problems=places,
    )


# ---- lengths ---------------------------------------------------------------------------------------------------------


def refuse_longer(lengths: Mapping[str, int], most: Mapping[str, int | None]) -> None:
    """Raises FieldError where a length in tokens is above its limit."""
    fields = {"prompt": "question", "completion": "steps"}
    for what, length in lengths.items():
        limit = most[what]
        if limit is not None and length > limit:
            rule = f"must make a {what} of at most {limit} tokens: got {length}; shorten it or raise --max-{what}"
            raise FieldError(fields[what], rule)


def rows_of(items: Sequence[_Item]) -> Iterator[dict[str, Any]]:
    """Items in our schema, as recipes read them."""
    for item in items:
        if isinstance(item, Problem):
            yield {"id": item.id, "question": item.question, "answer": item.answer}
        else:
            problem, trace = item.problem, item.trace
            row = {"id": problem.id, "question": problem.question, "steps": list(trace.steps), "answer": trace.answer}
            yield {**row, "source": item.source} if item.source else row
