"""Rows of public sets, written for these tests in the sets' own form, and what they become."""

from __future__ import annotations

import json
from typing import Any

import pytest

from traceward.data.demonstrations import converted, demonstrations_of
from traceward.data.jsonl import Faults
from traceward.data.tasks.sets import SETS
from traceward.records import Demonstration

MMLU_PRO: dict[str, Any] = {
    "question_id": 70, "question": "Which layer do roots drink from?", "category": "biology", "answer_index": 2,
    "options": ["the crown", "the bark", "the soil", "the air", "a leaf", "the sap", "a rock", "rain", "ice", "none"],
    "answer": "C", "src": "self-written",
    "cot_content": "A: Let's think step by step. Roots grow downwards. Water lies in the soil. The answer is (C).",
}  # fmt: skip
MEDREASON: dict[str, Any] = {
    "dataset_name": "ward", "id_in_dataset": 12, "question": "Which salt is high in this made-up case?",
    "options": "Answer Choices:\nA. Sodium\nB. Potassium\nC. Calcium\nD. Chloride",
    "answer": "Potassium. Explanation: it is the one that the made-up case is about.",
    "reasoning": "Finding reasoning paths:\n1. Weakness -> salts.\n\nReasoning process:\n1. The trace is peaked.\n\n"
    "Conclusion:\nPotassium is high.",
}  # fmt: skip
MATH: dict[str, Any] = {
    "problem": "What is $2 + 3$ less $1$?", "level": "Level 1", "type": "Prealgebra",
    "solution": "We add first: \\[\n2 + 3 = 5.\n\\]\n"
    "Then [asy]\ndraw((0,0)--(1,1));\n[/asy] shows that $5 - 1 = \\boxed{4}$.",
}  # fmt: skip


def read(name: str, *rows: dict[str, Any]) -> tuple[tuple[Demonstration, ...], Faults]:
    faults = Faults(f"{name}.jsonl")
    found = demonstrations_of(converted(enumerate(rows, start=1), SETS[name].convert, faults), faults)
    return found.demonstrations, faults


def test_mmlu_pro_gets_lettered_options_and_loses_its_opening() -> None:
    (item,), faults = read("mmlu-pro", MMLU_PRO)
    assert faults.found == []
    assert item.problem.question.split("\n")[:4] == [MMLU_PRO["question"], "Options:", "A. the crown", "B. the bark"]
    assert item.problem.question.endswith("\nJ. none")
    assert item.trace.steps == ("Roots grow downwards.", "Water lies in the soil.", "The answer is (C).")
    assert (item.problem.id, item.problem.answer, item.source) == ("mmlu-pro-70", "C", "MMLU-Pro/biology")


def test_medreason_answers_become_letters_and_its_lines_steps() -> None:
    (item,), faults = read("medreason", MEDREASON)
    assert faults.found == []
    assert item.problem.question.endswith("?\nOptions:\nA. Sodium\nB. Potassium\nC. Calcium\nD. Chloride")
    assert item.trace.answer == item.problem.answer == "B"
    assert item.trace.steps[1] == "1. Weakness -> salts."
    assert len(item.trace.steps) == 6
    assert (item.problem.id, item.source) == ("ward-12", "MedReason/ward")


@pytest.mark.parametrize(
    "options",
    [
        ["Sodium", "Potassium", "Calcium"],
        {"C": "Calcium", "A": "Sodium", "B": "Potassium"},
        json.dumps({"A": "Sodium", "B": "Potassium", "C": "Calcium"}),
        json.dumps(["Sodium", "Potassium", "Calcium"]),
        "A) Sodium\nB) Potassium\nC) Calcium",
        ["A)Sodium", "B)Potassium", "C)Calcium"],
        {"label": ["A", "B", "C"], "text": ["Sodium", "Potassium", "Calcium"]},
        {"A": "Sodium", "B": "Potassium", "C": "Calcium", "D": None},
    ],
)
def test_options_may_be_written_in_several_ways(options: object) -> None:
    (item,), faults = read("medreason", {**MEDREASON, "options": options})
    assert faults.found == []
    assert item.problem.question.endswith("Options:\nA. Sodium\nB. Potassium\nC. Calcium")


def test_math_keeps_a_formula_in_one_step_and_takes_its_answer_from_the_box() -> None:
    (item,), faults = read("math", MATH)
    assert faults.found == []
    assert item.trace.steps == (
        "We add first: \\[ 2 + 3 = 5. \\]",
        "Then [figure] shows that $5 - 1 = \\boxed{4}$.",
    )
    assert (item.trace.answer, item.source) == ("4", "MATH/Prealgebra")


@pytest.mark.parametrize("name", ["mmlu-pro", "medreason", "math"])
def test_rows_in_our_schema_pass(name: str) -> None:
    row = {
        "id": "x",
        "question": "Which?\nOptions:\nA. red\nB. blue",
        "steps": ["It is blue.\nClearly."],
        "answer": "B",
    }
    (item,), faults = read(name, {**row, "steps": ["It is blue."]})
    assert (faults.found, item.problem.id, item.trace.answer) == ([], "x", "B")
    (broken,), faults = read("math", row)
    assert broken.trace.steps == ("It is blue. Clearly.",)


@pytest.mark.parametrize(
    ("name", "row", "reason"),
    [
        ("mmlu-pro", {**MMLU_PRO, "answer": "K"}, "answer must be one of the options A, B, C, D, E, F, G, H, I, J"),
        ("mmlu-pro", {**MMLU_PRO, "answer": "A"}, "answer must be the option that the reasoning ends with"),
        (
            "mmlu-pro",
            {**MMLU_PRO, "cot_content": "Roots grow.\nThe answer is (A).\nFinal answer: C"},
            "answer must be the option that the reasoning ends with",
        ),
        ("mmlu-pro", {**MMLU_PRO, "options": []}, "options must be in the row or below the question"),
        ("mmlu-pro", {**MMLU_PRO, "options": ["one"]}, "options must be 2 to 26 texts, a list or by letter from A on"),
        ("mmlu-pro", {**MMLU_PRO, "question": " "}, "question must be a non-blank string"),
        ("medreason", {**MEDREASON, "answer": "Lithium"}, "answer must be one of the options A, B, C, D"),
        ("medreason", {**MEDREASON, "options": "None"}, "options must be 2 to 26 texts, a list or by letter from A on"),
        ("math", {**MATH, "solution": "It is four."}, "answer must be in a \\boxed{} of the solution"),
        (
            "gsm8k",
            {"question": "Why?", "answer": "So."},
            "answer must be a solution that ends with a line '#### number'",
        ),
    ],
)
def test_broken_rows_are_named(name: str, row: dict[str, Any], reason: str) -> None:
    found, faults = read(name, row)
    assert found == ()
    assert [fault.reason for fault in faults.found] == [reason]


def test_rows_without_reasoning_are_questions_of_sets_that_have_such() -> None:
    for name, row in (("mmlu-pro", {**MMLU_PRO, "cot_content": ""}), ("medreason", {**MEDREASON, "reasoning": None})):
        assert SETS[name].questions
        found = SETS[name].convert(row)
        assert not {"steps", "solution"} & set(found)
        assert found["answer"] in "BC"
