"""Read traces that somebody made: rollouts of an API, outcome sets, localisation sets.

Fields of a row
* `id`; `qid` or `problem_id`: the problem it answers (default: `id`); `question`, or else looked up in `problems`.
* The reasoning: `steps` (a list), or else the first present of `completion`, `response`, `output`, `text`, `solution`
  (free text: split into steps; <think>/<answer> tags, "#### x" and a last line "Answer: x" are understood).
* `model_answer`: the trace's own answer; `answer`: the reference answer of the problem.
* `first_error`: index of the first wrong step, -1 = none, null = unknown; the answer line counts as one step more.
  `final_correct`: true, false or null.

One step is one unit, and labels count steps, so unlike in demonstrations nothing here may change their number: line
breaks inside a step become spaces, and a blank step is kept as "…". A last step that is nothing but the answer becomes
the answer line, which has the same index. Every broken row is named, none is dropped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from traceward.data.demonstrations import lift_answer, question_field, question_key, text_field
from traceward.data.formats import Format, completion_text, parse_completion
from traceward.data.grading import extract_answer
from traceward.data.jsonl import Faults, Row, read_jsonl
from traceward.records import Problem, Trace

TEXT_FIELDS = ("completion", "response", "output", "text", "solution")
BLANK = "…"


@dataclass(frozen=True, slots=True)
class TraceRecord:
    """One row: a trace, its problem, and what is known about its errors.

    first_error: indexes trace.steps, len(steps) = the answer line, -1 = none, None = unknown.
    raw: the row as read, to write back with scores added.
    """

    id: str
    problem: Problem
    trace: Trace
    first_error: int | None
    final_correct: bool | None
    line: int
    raw: Row = field(repr=False)

    @property
    def key(self) -> str:
        """Names question and trace by what they say, whatever the row's id."""
        return trace_key(self.problem, self.trace)

    @property
    def stated_answer(self) -> str | None:
        """The answer to grade and to vote with: the answer line, or what the text states elsewhere."""
        return self.trace.answer or extract_answer(completion_text(self.trace, Format.PLAIN))


def trace_key(problem: Problem, trace: Trace) -> str:
    """A short hash of a question and a trace of it: what was tuned on one of them is not measured on it."""
    text = json.dumps([question_key(problem.question), trace.steps, trace.answer])
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def _listed(steps: object) -> list[str]:
    if not isinstance(steps, list) or not all(isinstance(step, str) for step in steps):
        raise ValueError(f"must be a list of strings: got {type(steps).__name__}; write one string per step")
    parts = ([part.strip() for part in step.replace("\r", "\n").split("\n")] for step in steps)
    return [" ".join(part for part in step if part) for step in parts]


def _parsed(text: object) -> Trace:
    if not isinstance(text, str):
        raise ValueError(f"must be a string: got {type(text).__name__}; write one row per trace")
    found = parse_completion(text, Format.THINK if "<answer>" in text else Format.PLAIN)
    if found.answer is not None:
        return found
    return Trace(*lift_answer(found.steps, None))


def _first_error(value: object, limit: int) -> int | None:
    """limit: the largest index, so the last step, or the answer line where there is one."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"must be a whole number or null: got {value!r}; count steps from 0, -1 = no error")
    if not -1 <= value <= limit:
        raise ValueError(f"must be between -1 and {limit}: got {value}; count steps from 0, -1 = no error")
    return value


class _Reader:
    """Reads rows one by one; remembers the problems it has met where it is to `compare` them."""

    def __init__(self, problems: Iterable[Problem] = (), *, compare: bool = True) -> None:
        self._known = {problem.id: problem for problem in problems}
        self._compare = compare
        self._met: dict[str, tuple[str, int]] = {}
        self.field = ""  # the field being read, for messages

    def _problem(self, row: Row, line: int, identity: str | None) -> Problem:
        self.field = "qid" if "qid" in row else "problem_id"
        key = text_field(row, self.field) or identity
        self.field = "answer"
        answer = text_field(row, "answer")
        self.field = "question"
        if row.get("question") is None:
            if key not in self._known:
                raise ValueError(f"must be in the row or among the given problems: got id {key!r}; add one of the two")
            known = self._known[key]
            return known if answer is None else Problem(known.id, known.question, answer)
        question, default_key = question_field(row)
        key = key or default_key
        if not self._compare:
            return Problem(key, question, answer)
        before, where = self._met.setdefault(key, (question, line))
        if before != question:
            raise ValueError(f"must be the same for one problem: got another for {key!r} at line {where}; mend the qid")
        return Problem(key, question, answer)

    def _trace(self, row: Row) -> tuple[Trace, int]:
        """The trace, and the largest index that `first_error` may have as the row counts."""
        self.field = "model_answer"
        stated = text_field(row, "model_answer")
        self.field = next((name for name in ("steps", *TEXT_FIELDS) if row.get(name) is not None), "steps")
        if row.get(self.field) is None:
            raise ValueError(f"must be there, or one of {', '.join(TEXT_FIELDS)}: got none; add the reasoning")
        if self.field != "steps":
            trace = _parsed(row[self.field])
            answer = trace.answer or stated
            return Trace(trace.steps, answer), len(trace.steps) - (answer is None)
        listed = [step or BLANK for step in _listed(row["steps"])]
        # An empty text is a policy that said nothing; an empty list is a file without traces.
        if not listed and stated is None:
            raise ValueError("must hold at least one step: got none; is this a file of questions?")
        return Trace(*lift_answer(listed, stated)), len(listed) - (stated is None)

    def read(self, row: Row, line: int) -> TraceRecord:
        self.field = "id"
        identity = text_field(row, "id")
        problem = self._problem(row, line, identity)
        trace, limit = self._trace(row)
        self.field = "first_error"
        first_error = _first_error(row.get("first_error"), limit)
        if first_error is not None:
            first_error = min(first_error, len(trace.steps))  # a lifted last step and model_answer are one line
        self.field = "final_correct"
        correct = row.get("final_correct")
        if correct is not None and not isinstance(correct, bool):
            raise ValueError(f"must be true, false or null: got {correct!r}; mend it")
        return TraceRecord(identity or f"trace-{line}", problem, trace, first_error, correct, line, row)


def _records(reader: _Reader, path: str | Path, faults: Faults) -> Iterator[TraceRecord]:
    for line, row in read_jsonl(path, faults):
        try:
            record = reader.read(row, line)
        except ValueError as error:
            faults.add(line, reader.field, str(error))
        else:
            yield record


def read_traces(path: str | Path, problems: Iterable[Problem] | None = None) -> list[TraceRecord]:
    """All traces of a .jsonl or .jsonl.gz file, in order; `problems` gives the questions that rows lack.

    Several traces may share an id or a problem. Raises DataError naming every broken line.
    """
    faults = Faults(path)
    found = list(_records(_Reader(problems or ()), path, faults))
    faults.raise_if_any()
    return found


def stream_traces(path: str | Path, faults: Faults) -> Iterator[TraceRecord]:
    """The traces of a file one after another, in memory that does not grow with it.

    So a row is held against no other one: two questions of one `qid` pass. Broken lines are added to `faults`.
    """
    return _records(_Reader(compare=False), path, faults)
