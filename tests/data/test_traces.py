from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from traceward.data.traces import TraceRecord, read_traces
from traceward.errors import DataError
from traceward.records import Problem, Trace

FIXTURE = Path(__file__).parent.parent / "fixtures" / "traces.jsonl"
KNOWN = [Problem("p2", "Which letter?", "B")]
ROW: dict[str, Any] = {"id": "t", "question": "What is 1 + 2?", "steps": ["1 + 2 = 3.", "So 3."]}


def read(tmp_path: Path, *rows: dict[str, Any], problems: list[Problem] | None = None) -> list[TraceRecord]:
    path = tmp_path / "traces.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return read_traces(path, problems)


def test_all_forms_of_a_row() -> None:
    listed, free, prose, tagged, hashed = read_traces(FIXTURE, KNOWN)
    assert listed.trace == Trace(("3 * 4 = 12.", "2 + 12 = 15."), "15")
    assert listed.problem == Problem("p1", "What is 2 + 3 * 4?", "14")
    assert (listed.id, listed.first_error, listed.final_correct, listed.line) == ("t1", 1, False, 1)
    assert free.trace == Trace(("3 * 4 = 12.", "2 + 12 = 14."), "14")
    assert (free.first_error, free.final_correct) == (-1, True)
    assert prose.trace == Trace(("Two lines in one step.", "…", "The answer is (B)."))
    assert prose.problem == KNOWN[0]
    assert (prose.first_error, prose.final_correct) == (None, None)
    assert tagged.trace == Trace(("One.", "Two."), "B")
    assert (hashed.id, hashed.problem.id, hashed.trace, hashed.first_error) == (
        "p2",
        "p2",
        Trace(("It is B.",), "B"),
        1,
    )
    assert [record.stated_answer for record in (listed, free, prose, tagged, hashed)] == ["15", "14", "(B)", "B", "B"]
    assert listed.raw["model_answer"] == "15"


@pytest.mark.parametrize(
    ("row", "trace"),
    [
        ({"steps": ["a", "#### 3"]}, Trace(("a",), "3")),
        ({"steps": ["a", "A: 3"]}, Trace(("a",), "3")),
        ({"steps": ["a", "Answer: 3"], "model_answer": 3}, Trace(("a",), "3")),
        ({"steps": ["a", "Answer: 3"], "model_answer": "4"}, Trace(("a", "Answer: 3"), "4")),
        ({"steps": ["a\r\n b "]}, Trace(("a b",))),
        ({"steps": None, "text": "a\n\nb\n"}, Trace(("a", "b"))),
        ({"steps": None, "text": ""}, Trace(())),
        ({"steps": None, "output": "a", "solution": "the reference"}, Trace(("a",))),
        ({"steps": None, "solution": "One. Two. #### 5", "model_answer": "6"}, Trace(("One.", "Two. #### 5"), "6")),
    ],
)
def test_reasoning_fields(tmp_path: Path, row: dict[str, Any], trace: Trace) -> None:
    (record,) = read(tmp_path, {**ROW, **row})
    assert record.trace == trace


@pytest.mark.parametrize(
    ("row", "first_error"),
    [
        ({"first_error": 1}, 1),
        ({"first_error": -1}, -1),
        ({"first_error": 2, "model_answer": "3"}, 2),
        ({"steps": ["a", "#### 3"], "first_error": 1}, 1),
        ({"steps": ["a", "#### 3"], "first_error": 2, "model_answer": "3"}, 1),
        ({"steps": None, "text": "a\nb\nAnswer: 3", "first_error": 2}, 2),
    ],
)
def test_first_error_counts_steps_then_the_answer_line(tmp_path: Path, row: dict[str, Any], first_error: int) -> None:
    (record,) = read(tmp_path, {**ROW, **row})
    assert record.first_error == first_error
    assert record.first_error <= len(record.trace.steps) - (record.trace.answer is None)


@pytest.mark.parametrize(
    ("row", "field", "rule"),
    [
        ({"first_error": 2}, "first_error", "must be between -1 and 1: got 2"),
        ({"first_error": -2}, "first_error", "must be between -1 and 1: got -2"),
        ({"first_error": True}, "first_error", "must be a whole number"),
        ({"first_error": 1.0}, "first_error", "must be a whole number"),
        ({"steps": None, "text": "a\nb", "first_error": 2}, "first_error", "between -1 and 1"),
        ({"final_correct": 1}, "final_correct", "must be true, false or null"),
        ({"steps": None}, "steps", "must be there, or one of completion"),
        ({"steps": []}, "steps", "must hold at least one step"),
        ({"steps": ["a", 3]}, "steps", "must be a list of strings"),
        ({"steps": None, "response": ["a"]}, "response", "must be a string"),
        ({"question": None}, "question", "must be in the row or among the given problems: got id 't'"),
        ({"question": None, "qid": "px"}, "question", "got id 'px'"),
        ({"question": []}, "question", "must be a non-blank string"),
        ({"model_answer": ["3"]}, "model_answer", "must be a string or a number"),
    ],
)
def test_each_rule_names_line_and_field(tmp_path: Path, row: dict[str, Any], field: str, rule: str) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, ROW, {**ROW, **row}, {**ROW, "final_correct": "x"})
    first, second = caught.value.problems
    assert f"traces.jsonl:2: {field}: " in first
    assert rule in first
    assert "traces.jsonl:3: final_correct: " in second


def test_one_problem_has_one_question(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r":2: question: must be the same for one problem: got another for 't' at line 1"
    ):
        read(tmp_path, ROW, {**ROW, "question": "Why?"})


def test_samples_of_one_question_share_its_problem(tmp_path: Path) -> None:
    rows = [{"question": "Why?", "text": text} for text in ("a", "b")]
    first, second = read(tmp_path, *rows)
    assert first.problem == second.problem
    assert first.id != second.id


def test_a_rows_reference_answer_beats_the_known_one(tmp_path: Path) -> None:
    (record,) = read(tmp_path, {"id": "x", "qid": "p2", "answer": "C", "text": "a"}, problems=KNOWN)
    assert record.problem == Problem("p2", "Which letter?", "C")
