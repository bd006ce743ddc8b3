from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traceward.data.demonstrations import FieldError
from traceward.data.jsonl import write_jsonl
from traceward.data.prepare import Prepared, convert_with, prepare, rows_of
from traceward.data.sources import Source
from traceward.data.tasks.registry import jsonl_task
from traceward.errors import DataError
from traceward.records import Demonstration, Problem


def solved(*numbers: int, **more: Any) -> list[dict[str, Any]]:
    return [
        {"question": f"What is {n} + 1?", "steps": [f"{n} + 1 = {n + 1}."], "answer": str(n + 1)} | more
        for n in numbers
    ]


def asked(*numbers: int, **more: Any) -> list[dict[str, Any]]:
    return [{"question": f"What is {n} + 1?", "answer": str(n + 1)} | more for n in numbers]


def made(take_questions: bool = True, **splits: list[dict[str, Any]]) -> Prepared:
    sources = [Source(f"{split}.jsonl", split.replace("file", ""), rows) for split, rows in splits.items()]
    return prepare(sources, convert_with(dict), questions=take_questions)


def numbers(items: Sequence[Demonstration | Problem]) -> list[int]:
    problems = [item.problem if isinstance(item, Demonstration) else item for item in items]
    return [int(problem.question.split()[2]) for problem in problems]


def test_an_id_of_two_questions_stays_with_the_first(tmp_path: Path) -> None:
    numbered = [
        [row | {"id": at} for at, row in enumerate(rows)] for rows in (solved(*range(20)), asked(*range(30, 40)))
    ]
    found = made(train=numbered[0], questions=[*numbered[1], *numbered[0][:1]], test=solved(50, id=3))
    ids = [item.problem.id for part in found.parts.values() for item in part]
    ids += [problem.id for problem in found.questions["questions"]]
    assert len(set(ids)) == len(ids) == 31
    assert [item.problem.id for item in found.parts["test"]] == ["3"]
    assert {"0", "1", "2", "4"} < set(ids)
    for stem, items in {**found.parts, **found.questions}.items():
        write_jsonl(tmp_path / f"{stem}.jsonl", rows_of(items))
    task = jsonl_task(tmp_path, demonstrations=None, questions=10, validation=5, test=5)
    assert numbers(task.questions) == [*range(30, 40)]
    write_jsonl(tmp_path / "questions.jsonl", asked(99, id=task.demonstrations[0].problem.id))
    with pytest.raises(DataError, match="no id of train, under questions"):
        jsonl_task(tmp_path, demonstrations=None, questions=10, validation=5, test=5)


def test_given_splits_stay_and_missing_ones_are_parts_of_train() -> None:
    whole = made(train=solved(*range(200)), validation=solved(900), test=solved(901, 902))
    assert {split: numbers(items) for split, items in whole.parts.items()} == {
        "train": list(range(200)),
        "validation": [900],
        "test": [901, 902],
    }
    assert whole.divided == {}
    some = made(train=solved(*range(200)), test=solved(901))
    assert numbers(some.parts["test"]) == [901]
    assert sorted(numbers((*some.parts["train"], *some.parts["validation"]))) == list(range(200))
    assert 8 <= len(some.parts["validation"]) <= 34
    one = made(file=solved(*range(200)))
    assert one.divided == pytest.approx({"train": 0.8, "validation": 0.1, "test": 0.1})
    assert sorted(number for items in one.parts.values() for number in numbers(items)) == list(range(200))


def test_a_part_depends_on_the_question_alone() -> None:
    few, many = made(file=solved(*range(100))), made(file=solved(*range(300)))
    for split, items in few.parts.items():
        assert set(numbers(items)) <= set(numbers(many.parts[split]))


def test_validation_stands_in_for_a_train_that_is_not_there() -> None:
    found = made(validation=solved(*range(100)), test=asked(*range(200, 205)))
    assert sum(map(len, found.parts.values())) == 100
    assert numbers(found.questions["test-questions"]) == list(range(200, 205))


def test_a_question_stays_in_the_split_that_is_measured_on() -> None:
    found = made(train=solved(*range(10), 50), validation=solved(51, 50, 0), test=solved(50))
    assert numbers(found.parts["test"]) == [50]
    assert numbers(found.parts["validation"]) == [51, 0]
    assert numbers(found.parts["train"]) == list(range(1, 10))
    assert [(path, fault.line) for path, fault in found.refused] == [
        ("validation.jsonl", 2), ("train.jsonl", 1), ("train.jsonl", 11),
    ]  # fmt: skip
    assert "got the one of test.jsonl:1" in found.refused[0][1].rule


def test_questions_without_solutions_are_known_new_or_refused() -> None:
    rows = [*asked(1, 2, 100, 101), *asked(200, split="test"), *asked(101), {"question": " "}]
    found = made(train=solved(*range(40)), test=solved(50), questions=rows)
    assert numbers(found.questions["questions"]) == [100, 101]
    assert numbers(found.questions["test-questions"]) == [200]
    count = next(count for count in found.counts if count.split == "questions")
    assert (count.rows, count.kept, count.known) == (7, 3, 2)
    assert dict(count.refused) == {"question must be in one split, once": 1, "question must be a non-blank string": 1}


def test_sets_without_questions_refuse_rows_without_reasoning() -> None:
    found = made(take_questions=False, train=[*solved(*range(40)), *asked(100)], test=solved(50))
    assert [fault.reason for _, fault in found.refused] == ["steps must be given as either steps or solution"]


BROKEN: list[dict[str, Any]] = [{"question": ""}, {"question": "Why?", "steps": [], "answer": "x"}, *solved(3), {}]


@given(
    train=st.lists(st.sampled_from([*solved(*range(12)), *BROKEN, *asked(5, 30)]), max_size=12),
    more=st.lists(st.sampled_from([*asked(*range(20)), *BROKEN]), max_size=8),
)
def test_every_row_is_kept_known_or_refused(train: list[dict[str, Any]], more: list[dict[str, Any]]) -> None:
    more_rows = {"validation": solved(500), "test": solved(400), "questions": more}
    rows = {"train": [*train, *solved(*range(300, 304))], **more_rows}
    sources = [Source(split, split, part) for split, part in rows.items()]
    found = prepare(sources, convert_with(dict), questions=True)
    for count in found.counts:
        assert count.rows == len(rows[count.split])
        assert count.rows == count.kept + count.known + sum(count.refused.values())
        assert {fault.line for path, fault in found.refused if path == count.path} <= set(range(1, count.rows + 1))
    kept = [*found.parts.values(), *found.questions.values()]
    assert sum(count.kept for count in found.counts) == sum(map(len, kept))
    keys = [number for part in kept for number in numbers(part)]
    assert len(keys) == len(set(keys))


def test_a_limit_refuses_and_what_is_left_must_be_enough() -> None:
    def limit(item: Demonstration | Problem) -> None:
        if numbers([item])[0] >= 10:
            raise FieldError("question", "must be short: got more; shorten it")

    sources = [Source("train", "train", solved(*range(14))), Source("test", "test", solved(9))]
    found = prepare(sources, convert_with(dict), questions=True, limit=limit)
    assert numbers([*found.parts["train"], *found.parts["validation"]]) != []
    assert [fault.line for _, fault in found.refused] == [10, 11, 12, 13, 14]
    sources = [Source("train", "train", solved(*range(7, 14))), Source("test", "test", solved(1))]
    sources += [Source("dev", "validation", solved(2))]
    with pytest.raises(
        DataError, match="at least 4 demonstrations and 1 test problem: got 3 and 1; places refused: 4"
    ) as caught:
        prepare(sources, convert_with(dict), questions=True, limit=limit)
    assert caught.value.problems[0] == "train:4: question: must be short: got more; shorten it"


def test_a_row_that_is_too_long_pushes_no_other_out() -> None:
    def limit(item: Demonstration | Problem) -> None:
        if isinstance(item, Demonstration) and len(item.trace.steps) > 1:
            raise FieldError("steps", "must be short: got more; shorten it")

    wordy = [{**row, "steps": ["Let us see.", *row["steps"]]} for row in solved(9)]
    sources = [Source("train", "train", solved(*range(14))), Source("test", "test", wordy + solved(20))]
    found = prepare(sources, convert_with(dict), questions=True, limit=limit)
    assert 9 in numbers([*found.parts["train"], *found.parts["validation"]])
    assert [(path, fault.line, fault.field) for path, fault in found.refused] == [("test", 1, "steps")]


# ---- what recipes make of it -----------------------------------------------------------------------------------------


def written(directory: Path, **splits: list[dict[str, Any]]) -> Path:
    for split, rows in splits.items():
        write_jsonl(directory / f"{split}.jsonl", rows)
    return directory


def task_of(path: Path, **changes: Any) -> Any:
    return jsonl_task(path, **{"demonstrations": None, "questions": 0, "validation": 100, "test": 100} | changes)


def test_a_recipe_takes_the_splits_that_are_there(tmp_path: Path) -> None:
    found = made(train=solved(*range(60)), validation=solved(70, 71), test=solved(80), questions=asked(90, 91))
    for split, items in {**found.parts, **found.questions}.items():
        if items:
            write_jsonl(tmp_path / f"{split}.jsonl", rows_of(items))
    task = task_of(tmp_path, demonstrations=58, questions=4)
    assert numbers(task.demonstrations) == list(range(58))
    assert numbers(task.validation) == [70, 71]
    assert numbers(task.test) == [80]
    assert numbers(task.questions) == [58, 59, 90, 91]  # those of train come first
    few = task_of(tmp_path, demonstrations=58, questions=1)
    assert numbers(few.questions) == [58]
    # A run says what it has read.
    assert set(task.record) - set(few.record) == {"questions"}
    assert {"train", "validation", "test"} <= set(few.record)


def test_a_directory_without_validation_is_divided_as_before(tmp_path: Path) -> None:
    task = task_of(written(tmp_path, train=solved(*range(60)), test=solved(80)))
    assert sorted(numbers([*task.demonstrations, *task.validation])) == list(range(60))
    assert task.record["split"]["fractions"] == {"train": 0.9, "validation": 0.1}


@pytest.mark.parametrize("other", ["validation", "questions"])
def test_a_question_in_two_splits_is_refused(tmp_path: Path, other: str) -> None:
    rows = solved(7) if other == "validation" else asked(7)
    path = written(tmp_path, train=solved(*range(30)), test=solved(80), **{other: rows})
    with pytest.raises(DataError, match=r"must (not be in both sets|hold no question of another split)"):
        task_of(path, demonstrations=10, questions=100)


def test_a_set_is_judged_by_letter_or_text(tmp_path: Path) -> None:
    rows = [
        {"id": f"m{n}", "question": f"Which number is {n}?", "options": ["none", f"number {n}", "all"], "answer": "B",
         "steps": [f"It is number {n}.", "The answer is (B)."]}
        for n in range(40)
    ]  # fmt: skip
    path = written(tmp_path, train=rows[:30], test=rows[30:])
    task = task_of(path, name="mmlu-pro")
    problem, trace = task.test[0].problem, task.test[0].trace
    assert problem.question.endswith("B. number 30\nC. all")
    verdicts = [
        task.judge(problem, type(trace)(trace.steps, answer)).correct
        for answer in ("B", "(b)", "Number 30.", "A", "all")
    ]
    assert verdicts == [True, True, True, False, False]
    assert task.judge(problem, type(trace)(("So it goes.", "The answer is (C)."))).correct is False
    assert task.judge(problem, type(trace)(("So it goes.", "The answer is number 30."))).correct is True
