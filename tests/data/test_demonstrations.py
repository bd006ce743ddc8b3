from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traceward.data.demonstrations import (
    DemonstrationSet,
    fingerprint,
    hash_split,
    question_key,
    read_demonstrations,
    read_questions,
    refuse_overlap,
    split_record,
)
from traceward.data.tasks.stories import demonstrations
from traceward.errors import ConfigError, DataError
from traceward.records import Demonstration, Problem, Trace

FIXTURE = Path(__file__).parent.parent / "fixtures" / "demonstrations.jsonl"
ROW: dict[str, Any] = {"id": "a", "question": "What is 1 + 2?", "steps": ["1 + 2 = 3."], "answer": "3"}


def saved(tmp_path: Path, *rows: dict[str, Any], name: str = "demos.jsonl") -> Path:
    path = tmp_path / name
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return path


def faults(path: Path) -> tuple[str, ...]:
    with pytest.raises(DataError) as caught:
        read_demonstrations(path)
    assert caught.value.problems
    return caught.value.problems


def test_steps_solutions_and_answers() -> None:
    first, second, third = read_demonstrations(FIXTURE).demonstrations
    assert first == Demonstration(
        Problem("ward-1", "A ward has 12 beds and 7 are taken. How many are free?", "5"),
        Trace(("12 - 7 = 5 beds are free.",), "5"),
        "ward",
    )
    assert second.trace == Trace(("The letters run A, B, C. So C comes after B.",), "B")
    assert second.problem.answer == "B"
    assert third.trace == Trace(("3 * 3 = 9.", "A prime has no such factor."), "no")
    assert third.problem.id.startswith("q-")


@pytest.mark.parametrize(
    ("change", "field", "rule"),
    [
        ({"question": " "}, "question", "must be a non-blank string"),
        ({"question": 3}, "question", "must be a non-blank string"),
        ({"id": ["a"]}, "id", "must be a string or a number"),
        ({"answer": None}, "answer", "must be there: got none"),
        ({"answer": True}, "answer", "must be a string or a number: got bool"),
        ({"steps": []}, "steps", "must be a non-empty list"),
        ({"steps": "1 + 2 = 3."}, "steps", "must be a non-empty list"),
        ({"steps": ["ok", "  "]}, "steps", "got '  ' at index 1"),
        ({"steps": ["ok", 3]}, "steps", "got 3 at index 1"),
        ({"steps": ["one\ntwo"]}, "steps", "got a line break at index 0; split that step in two"),
        ({"steps": ["one\rtwo"]}, "steps", "got a line break at index 0"),
        ({"steps": None}, "steps", "must be given as either steps or solution: got none"),
        ({"solution": "x"}, "steps", "must be given as either steps or solution: got both"),
        ({"steps": None, "solution": " "}, "steps", "must be a non-blank text"),
        ({"steps": ["1 + 2 = 3.", "#### 4"]}, "answer", "must be the one the last step states: got '3' for '4'"),
        ({"steps": ["#### 3"]}, "steps", "must hold reasoning before the answer line"),
    ],
)
def test_each_rule_names_line_field_and_value(tmp_path: Path, change: dict[str, Any], field: str, rule: str) -> None:
    path = saved(tmp_path, {**ROW, "id": "b", "question": "What is 2 + 2?"}, {**ROW, **change})
    (found,) = faults(path)
    assert found.startswith(f"{path}:2: {field}: ")
    assert rule in found


def test_every_bad_line_is_named_in_one_error(tmp_path: Path) -> None:
    rows = [{**ROW, "id": str(n), "question": f"What is {n}?", "answer": None} for n in range(12)]
    path = saved(tmp_path, *rows)
    path.write_text(path.read_text() + "broken\n")
    with pytest.raises(DataError) as caught:
        read_demonstrations(path)
    assert [place.split(": ")[0] for place in caught.value.problems] == [f"{path}:{n}" for n in range(1, 14)]
    assert "13 places" in str(caught.value)
    assert str(caught.value).count(f"{path}:") == 10


def test_one_row_with_two_faults_names_both(tmp_path: Path) -> None:
    assert len(faults(saved(tmp_path, {**ROW, "question": "", "steps": []}))) == 2


def test_duplicates_name_both_lines(tmp_path: Path) -> None:
    other = {**ROW, "id": "b", "question": "What is 9 + 9?"}
    same_question = {**ROW, "id": "c", "question": "what IS  1 + 2"}
    same_id = {**ROW, "question": "What is 5 + 5?"}
    found = faults(saved(tmp_path, ROW, other, same_question, same_id))
    assert [(place.split(": ")[0][-2:], place.split(": ")[1]) for place in found] == [(":3", "question"), (":4", "id")]
    assert all("the one of line 1;" in place for place in found)


def test_an_answer_in_other_words_stays_a_step(tmp_path: Path) -> None:
    path = saved(tmp_path, {**ROW, "steps": ["1 + 2 = 3.", "Answer: 3"], "answer": "E"})
    (item,) = read_demonstrations(path).demonstrations
    assert item.trace == Trace(("1 + 2 = 3.", "Answer: 3"), "E")


@pytest.mark.parametrize(("answer", "expected"), [(18, "18"), (18.0, "18"), (0.5, "0.5"), ("$18", "$18"), (0, "0")])
def test_answers_become_strings(tmp_path: Path, answer: object, expected: str) -> None:
    (item,) = read_demonstrations(saved(tmp_path, {**ROW, "answer": answer})).demonstrations
    assert item.trace.answer == item.problem.answer == expected


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("What is 1 + 2?", "what is 1+2", True),
        ("Ann’s well-known “pens”.", "Anns well known pens", True),
        ("Café", "Cafe\u0301", True),
        ("sin(-60)", "sin 60", False),
        ("2n - 1", "2n + 1", False),
        ("n − 1", "n - 1", True),
        ("1.5 pens", "15 pens", False),
        ("x / y", "x * y", False),
        ("[ [ ( <", "[ ( [ <", False),
        ("?", "!", False),
    ],
)
def test_when_two_questions_are_the_same(left: str, right: str, same: bool) -> None:
    assert (question_key(left) == question_key(right)) is same


def test_directories_hold_splits(tmp_path: Path) -> None:
    saved(tmp_path, ROW, name="train.jsonl")
    assert read_demonstrations(tmp_path).path.endswith("train.jsonl")
    saved(tmp_path, {**ROW, "question": "Other?"}, name="test.jsonl.gz")
    assert read_demonstrations(tmp_path, split="test").demonstrations[0].problem.question == "Other?"
    with pytest.raises(DataError, match=r"got train\.jsonl, test\.jsonl\.gz; name a split"):
        read_demonstrations(tmp_path)
    with pytest.raises(DataError, match="got none of them"):
        read_demonstrations(tmp_path, split="dev")
    with pytest.raises(ConfigError, match="split must go with a directory"):
        read_demonstrations(tmp_path / "train.jsonl", split="train")
    saved(tmp_path, ROW, name="train.jsonl.gz")
    with pytest.raises(DataError, match=r"got train\.jsonl, train\.jsonl\.gz"):
        read_demonstrations(tmp_path, split="train")


def test_the_fingerprint_is_of_what_is_said(tmp_path: Path) -> None:
    plain = read_demonstrations(saved(tmp_path, ROW)).fingerprint
    packed = saved(tmp_path, {**ROW, "note": "ignored"}, name="packed.jsonl.gz")
    assert read_demonstrations(packed).fingerprint == plain
    for change in ({"id": "z"}, {"question": "Why?"}, {"steps": ["1 + 2 = 3"]}, {"answer": "4"}):
        assert read_demonstrations(saved(tmp_path, {**ROW, **change}, name="other.jsonl")).fingerprint != plain


def test_overlap_names_both_places(tmp_path: Path) -> None:
    train = read_demonstrations(saved(tmp_path, {**ROW, "question": "Why?", "id": "w"}, ROW, name="train.jsonl"))
    test = read_demonstrations(saved(tmp_path, {**ROW, "question": "WHAT is 1+2 ?"}, name="test.jsonl"))
    with pytest.raises(DataError) as caught:
        refuse_overlap(train, test)
    assert "test.jsonl:1: question: " in str(caught.value)
    assert "train.jsonl:2;" in str(caught.value)
    assert len(caught.value.problems) == 1
    refuse_overlap(train, DemonstrationSet((), "", "empty"))


STORIES = demonstrations(400, 3)
FRACTIONS = {"train": 0.8, "validation": 0.2}


def test_a_split_has_about_the_asked_shares_and_loses_nothing() -> None:
    parts = hash_split(STORIES, fractions=FRACTIONS, salt="s")
    assert sorted(item.problem.id for part in parts.values() for item in part) == sorted(d.problem.id for d in STORIES)
    # 400 draws of 0.2: mean 80, standard deviation 8.
    assert 48 <= len(parts["validation"]) <= 112
    other = hash_split(STORIES, fractions=FRACTIONS, salt="t")
    assert {d.problem.id for d in other["validation"]} != {d.problem.id for d in parts["validation"]}


@given(chosen=st.sets(st.integers(0, 29), min_size=1), salt=st.text(max_size=3))
def test_adding_a_row_moves_no_other(chosen: set[int], salt: str) -> None:
    few = hash_split([STORIES[index] for index in sorted(chosen)], fractions=FRACTIONS, salt=salt)
    everything = hash_split(STORIES[:30], fractions=FRACTIONS, salt=salt)
    for name, part in few.items():
        assert set(part) <= set(everything[name])


def test_a_split_depends_on_the_question_alone() -> None:
    item = STORIES[0]
    renamed = Demonstration(Problem("other", item.problem.question.upper()), item.trace)
    for salt in "abcdefgh":
        one, two = (hash_split([row], fractions=FRACTIONS, salt=salt) for row in (item, renamed))
        assert [len(part) for part in one.values()] == [len(part) for part in two.values()]


@pytest.mark.parametrize("fractions", [{"train": 0.8}, {"train": 1.5, "validation": -0.5}, {}])
def test_fractions_must_sum_to_one(fractions: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="must be positive and sum to 1"):
        hash_split(STORIES, fractions=fractions, salt="s")


def test_a_split_record_says_counts_salt_and_fingerprints() -> None:
    parts = hash_split(STORIES, fractions=FRACTIONS, salt="s")
    record = split_record(parts, fractions=FRACTIONS, salt="s")
    assert record["rows"] == {name: len(part) for name, part in parts.items()}
    assert record["salt"] == "s"
    assert record["fingerprints"]["train"] == fingerprint(parts["train"])
    assert json.loads(json.dumps(record)) == record


def test_questions_keep_an_answer_where_there_is_one(tmp_path: Path) -> None:
    path = saved(tmp_path, {"id": 7, "question": "Why?", "answer": 3}, {"question": "How?", "steps": []})
    first, second = read_questions(path)
    assert first == Problem("7", "Why?", "3")
    assert (second.question, second.answer) == ("How?", None)


def test_bad_questions_are_all_named(tmp_path: Path) -> None:
    path = saved(tmp_path, {"id": "a", "question": "Why?"}, {"id": "a", "question": "How?"}, {"id": "b"})
    with pytest.raises(DataError) as caught:
        read_questions(path)
    assert [place.split(": ")[1] for place in caught.value.problems] == ["id", "question"]
