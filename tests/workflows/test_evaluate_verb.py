from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from traceward.records import Rollout, StopReason
from traceward.workflows import evaluate

ANSWERS = {"q0": ["1", "2", "1", "1"], "q1": ["2", "2", "3", None]}  # what the four samples state; right: "1" and "3"


@pytest.fixture
def questions(verb: Any, tmp_path: Path) -> Path:
    rows = [
        {"id": "q0", "question": "What is 0 + 1?", "answer": "1"},
        {"id": "q1", "question": "And 2 + 1?", "answer": "3.0"},
    ]
    return verb.write(tmp_path / "questions.jsonl", rows)


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sampling gives ANSWERS; greedy decoding the answer 1."""

    def sample(
        model: Any, tokenizer: Any, prompts: Any, *, n: int, temperature: float, **_: Any
    ) -> list[list[Rollout]]:
        groups = []
        for name, prompt in prompts:
            answers = ANSWERS[name][:n] if temperature else ["1"]
            texts = ["Hm." if answer is None else f"Let us see.\nAnswer: {answer}" for answer in answers]
            groups.append([
                Rollout(name, prompt, tuple(tokenizer(text, add_special_tokens=False)["input_ids"]), text,
                        StopReason.LENGTH if text == "Hm." else StopReason.END)
                for text in texts
            ])  # fmt: skip
        return groups

    monkeypatch.setattr(evaluate, "sample", sample)


@pytest.mark.usefixtures("planted")
def test_measures_by_hand(verb: Any, questions: Path, policy: Path, tmp_path: Path) -> None:
    results, out = tmp_path / "r.json", tmp_path / "traces.jsonl"
    text = verb(
        "evaluate", questions, "--policy", policy, "--n", "4", "--max-new-tokens", "50", "--json", results, "--out", out
    )
    found = json.loads(results.read_text())
    values = {name: row["value"] for name, row in found["rows"].items()}
    assert values["pass@1"] == pytest.approx((3 / 4 + 1 / 4) / 2)
    assert values["pass@2"] == pytest.approx((1 + 1 / 2) / 2)  # 1 - C(3, 2) / C(4, 2)
    assert values["pass@4"] == 1
    assert values["greedy"] == 0.5
    assert values["majority"] == 0.5
    assert not {"reward", "weighted_vote"} & set(values)
    assert found["cut_share"] == 1 / 8
    assert "50.0 %" in text
    rows = verb.read(out)
    assert [row["final_correct"] for row in rows] == [True, False, True, True, False, False, True, False]
    assert rows[7]["model_answer"] is None
    assert rows[7]["stop"] == "length"


@pytest.mark.usefixtures("planted")
def test_best_of_n_takes_the_sample_with_the_highest_reward(
    verb: Any, questions: Path, policy: Path, reward: Path, tmp_path: Path
) -> None:
    results, out = tmp_path / "r.json", tmp_path / "traces.jsonl"
    verb("evaluate", questions, "--policy", policy, "--reward", reward, "--n", "4", "--max-new-tokens", "50",
         "--json", results, "--out", out)  # fmt: skip
    expected = 0.0
    for group in (verb.read(out)[:4], verb.read(out)[4:]):
        top = max(row["score"] for row in group)
        best = [row["final_correct"] for row in group if row["score"] == pytest.approx(top, abs=1e-4)]
        expected += sum(best) / len(best) / 2
    assert json.loads(results.read_text())["rows"]["reward"]["value"] == pytest.approx(expected)


def test_real_samples_can_be_read_back(verb: Any, questions: Path, policy: Path, reward: Path, tmp_path: Path) -> None:
    out = tmp_path / "traces.jsonl.gz"
    again = tmp_path / "again.jsonl.gz"
    for path in (out, again):
        verb(
            "evaluate", questions, "--policy", policy, "--n", "2", "--max-new-tokens", "6", "--seed", "5", "--out", path
        )
    assert out.read_bytes() == again.read_bytes()
    assert len(verb("rerank", out, "--reward", reward).splitlines()) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--temperature", "0"), "temperature must be above 0"),
        (("--max-new-tokens", "155"), "questions.jsonl:1: question: must leave room for 155 new tokens"),
    ],
)
def test_wrong_settings(verb: Any, questions: Path, policy: Path, options: tuple[str, ...], message: str) -> None:
    assert message in verb.fails("evaluate", questions, "--policy", policy, *options)


def test_a_question_without_an_answer_names_its_line(verb: Any, policy: Path, tmp_path: Path) -> None:
    rows = [{"question": "What is 0 + 1?", "answer": 1}, {"question": "And 2 + 1?"}]
    path = verb.write(tmp_path / "questions.jsonl", rows)
    assert f"{path}:2: answer: must be there" in verb.fails(
        "evaluate", path, "--policy", policy, "--max-new-tokens", "5"
    )
