from __future__ import annotations

from typing import Any

import pytest

from traceward.data.demonstrations import demonstrations_of
from traceward.data.jsonl import Faults
from traceward.data.shapes import KNOWN, Understood, understand
from traceward.errors import DataError

QUESTION = "Ann has 2 pens and gets 3. How many has she?"
STEPS = ("Ann has 2 pens.", "She has 2 + 3 = 5 pens.")
LINES = "\n".join(STEPS)


def read(*rows: dict[str, Any]) -> tuple[list[Understood], Faults]:
    faults = Faults("own.jsonl")
    return [found for _, found in understand(enumerate(rows, start=1), faults)], faults


def chat(*contents: str, roles: tuple[str, ...] = ("user", "assistant")) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in zip(roles, contents, strict=True)]


THOUGHT = f"<think>\n{LINES}\n</think>\n"
SHAPES: list[tuple[str, dict[str, Any]]] = [
    ("question/steps", {"question": QUESTION, "steps": list(STEPS), "answer": "5"}),
    ("question/steps", {"question": QUESTION, "solution": f"{LINES}\n#### 5"}),
    ("question/steps", {"question": QUESTION, "solution": LINES, "answer": 5}),
    ("prompt/completion", {"prompt": QUESTION, "completion": f"{LINES}\nAnswer: 5"}),
    ("prompt/completion", {"prompt": QUESTION, "completion": LINES, "answer": "5"}),
    ("prompt/completion", {"instruction": QUESTION, "input": "", "output": f"{LINES}\n#### 5"}),
    (
        "prompt/completion",
        {"prompt": chat(QUESTION, roles=("user",)), "completion": chat(f"{LINES}\n#### 5", roles=("assistant",))},
    ),
    ("prompt/completion", {"problem": QUESTION, "response": f"{LINES}\n#### 5"}),
    ("prompt/completion with <think>", {"prompt": QUESTION, "completion": f"{THOUGHT}<answer>5</answer>"}),
    (
        "prompt/completion with <think>",
        {"prompt": QUESTION, "response": f"{THOUGHT}She has \\boxed{{5}} pens, so\nall is well."},
    ),
    ("prompt/completion with <think>", {"prompt": QUESTION, "completion": f"{THOUGHT}5"}),
    ("prompt/completion with <think>", {"prompt": QUESTION, "completion": f"{THOUGHT}Long\ntalk", "label": "5"}),
    ("messages", {"messages": chat(QUESTION, f"{LINES}\n#### 5")}),
    ("messages with <think>", {"messages": chat(QUESTION, f"{THOUGHT}The answer is 5.")}),
    (
        "messages with <think>",
        {
            "messages": [
                chat(QUESTION, roles=("user",))[0],
                {"role": "assistant", "content": "5", "reasoning_content": LINES},
            ]
        },
    ),
    (
        "messages",
        {"conversations": [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": f"{LINES}\n#### 5"}]},
    ),
    ("question/rationale/answer", {"question": QUESTION, "rationale": LINES, "answer": 5}),
    ("question/rationale/answer", {"problem": QUESTION, "solution": LINES, "answer": "5"}),
    ("GSM8K", {"question": QUESTION, "answer": "Ann has 2 pens.\nShe has 2 + 3 = <<2+3=5>>5 pens.\n#### 5"}),
]


@pytest.mark.parametrize(("shape", "row"), SHAPES)
def test_every_shape_says_the_same(shape: str, row: dict[str, Any]) -> None:
    found, faults = read(row)
    (item,) = demonstrations_of([(1, one.row) for one in found], faults).demonstrations
    assert faults.found == []
    assert found[0].shape == shape
    assert item.problem.question == QUESTION
    kept = item.trace.steps
    assert kept == STEPS
    assert item.trace.answer == item.problem.answer == "5"
    assert set(found[0].taken) == {"question", "steps", "answer"}


def test_every_known_shape_is_tried() -> None:
    assert {shape.removesuffix(" with <think>") for shape, _ in SHAPES} == set(KNOWN)


def test_what_the_system_says_and_options_become_part_of_the_question() -> None:
    (told,), _ = read({"messages": chat("Be brief.", QUESTION, "So.\n#### 5", roles=("system", "user", "assistant"))})
    assert told.row["question"] == f"Be brief.\n\n{QUESTION}"
    (asked,), _ = read({"prompt": QUESTION, "completion": "So.\n#### B", "choices": ["4", "5"]})
    assert asked.row["question"] == f"{QUESTION}\nOptions:\nA. 4\nB. 5"
    (alpaca,), _ = read({"instruction": "Add.", "input": "2 and 3", "output": "So.\n#### 5"})
    assert alpaca.row["question"] == "Add.\n2 and 3"


def test_ids_and_sources_stay() -> None:
    (found,), _ = read({"id": 7, "source": "ward", "prompt": QUESTION, "completion": "So.\n#### 5", "seed": 3})
    assert (found.row["id"], found.row["source"]) == (7, "ward")
    assert "seed" not in found.row


@pytest.mark.parametrize(
    ("row", "field", "rule"),
    [
        (
            {"prompt": QUESTION, "completion": "<think>2 + 3 = 5"},
            "completion",
            "must open and close <think> once, first",
        ),
        ({"prompt": QUESTION, "completion": " "}, "completion", "must be a non-blank text"),
        ({"prompt": " ", "completion": "So.\n#### 5"}, "question", "must be a non-blank string"),
        ({"prompt": QUESTION, "completion": f"{LINES}\n#### 5", "answer": "6"}, "answer", "got '6' for '5'"),
        (
            {"messages": chat(QUESTION, "Which?", "Any.", "5", roles=("user", "assistant", "user", "assistant"))},
            "messages",
            "one question and one solution: got user, assistant, user, assistant",
        ),
        ({"messages": chat(QUESTION, roles=("user",))}, "messages", "one question and one solution: got user"),
        ({"messages": [{"role": "user"}]}, "messages", "must hold role and content, two texts"),
        ({"messages": "hello"}, "messages", "got 'hello'"),
        ({"prompt": QUESTION, "completion": "So.\n#### A", "options": ["one"]}, "options", "must be 2 to 26 texts"),
        (
            {"prompt": QUESTION, "completion": "So.\n#### A", "options": {"1": "4", "2": "5"}},
            "options",
            "a list or by letter from A on",
        ),
        (
            {"prompt": QUESTION, "completion": "So.", "answer": 1, "options": ["4", "5"]},
            "answer",
            "must be one of the options A, B: got 1",
        ),
        (
            {"prompt": QUESTION, "completion": "The answer is (B).", "answer": "4", "options": ["4", "5"]},
            "answer",
            "must be the one that completion states: got '4' for '(B)'",
        ),
        ({"question": QUESTION, "answer": "#### no\nline"}, "answer", "must be a solution that ends with a line"),
    ],
)
def test_broken_rows_are_named(row: dict[str, Any], field: str, rule: str) -> None:
    found, faults = read({"prompt": QUESTION, "completion": "So.\n#### 5"}, row) if "prompt" in row else read(row)
    assert len(found) == ("prompt" in row)
    (fault,) = faults.found
    assert fault.line == 1 + ("prompt" in row)
    assert fault.field == field
    assert rule in fault.rule


def test_a_text_without_an_answer_is_left_to_the_rules_of_demonstrations() -> None:
    (found,), faults = read({"prompt": QUESTION, "completion": LINES})
    demonstrations_of([(1, found.row)], faults)
    assert [fault.reason for fault in faults.found] == ["answer must be there"]


def test_a_file_of_several_shapes_is_refused_with_every_line() -> None:
    plain = {"prompt": QUESTION, "completion": f"{LINES}\n#### 5"}
    thinking = {"prompt": QUESTION, "completion": f"{THOUGHT}5"}
    other = {"question": QUESTION, "rationale": LINES, "answer": "5"}
    with pytest.raises(DataError) as caught:
        read(plain, thinking, plain, other, {"text": "?"})
    assert [problem.split(": must")[0] for problem in caught.value.problems] == [
        f"own.jsonl:{line}: row" for line in (2, 4, 5)
    ]
    first, second, third = caught.value.problems
    assert "must be of the shape of line 1, prompt/completion: got prompt/completion with <think>; split" in first
    assert "got question/rationale/answer" in second
    assert "got fields text" in third


def test_many_lines_of_another_shape_are_counted() -> None:
    plain = {"prompt": QUESTION, "completion": "So.\n#### 5"}
    with pytest.raises(DataError, match="… and 15 more") as caught:
        read(plain, *[{"messages": chat(QUESTION, "So.\n#### 5")}] * 25)
    assert len(caught.value.problems) == 25


def test_an_unknown_shape_says_which_are_known() -> None:
    with pytest.raises(DataError, match=r"own\.jsonl:1: row: must be of a known shape \(question/steps, .*\)"):
        read({"text": "no", "meta": 1})
