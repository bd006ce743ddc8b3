from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from traceward.loading import load_causal_lm, load_tokenizer
from traceward.records import Problem, Trace
from traceward.rewards.rivals import LogProbScorer


def _scores(verb: Any, path: Path, reward: Path) -> dict[str, float]:
    return {row["id"]: row["score"] for row in map(json.loads, verb("score", path, "--reward", reward).splitlines())}


def test_each_question_gets_one_row_ranked_by_score(verb: Any, traces: Path, reward: Path) -> None:
    scores = _scores(verb, traces, reward)
    rows = [json.loads(line) for line in verb("rerank", traces, "--reward", reward).splitlines()]
    assert [row["id"] for row in rows] == ["q0", "q1", "q2", "q3"]
    for row in rows:
        number = row["id"][1]
        expected = sorted((name for name in scores if name.startswith(f"{number}-")), key=lambda name: -scores[name])
        assert row["ranked"] == expected
        assert row["scores"] == pytest.approx([scores[name] for name in expected], abs=1e-3)
        assert row["best"] == expected[0]
        assert f"{number}-{row['best_answer']}" == row["best"]
        assert row["vote"] == row["best_answer"]  # three answers, one trace each: the heaviest is the best


def test_the_table_counts_right_answers(verb: Any, traces: Path, reward: Path, policy: Path, tmp_path: Path) -> None:
    out, results = tmp_path / "out.jsonl", tmp_path / "results.json"
    text = verb("rerank", traces, "--reward", reward, "--base", policy, "--out", out, "--json", results, "--curve")
    found = json.loads(results.read_text())
    right = sum(row["best_answer"] == str(int(row["id"][1]) + 1) for row in verb.read(out))
    assert found["rows"]["reward"]["value"] == right / 4
    assert found["rows"]["expected_random"]["value"] == pytest.approx(1 / 3)
    assert (found["n"], found["questions"], found["labelled"]) == (3, 4, 4)
    assert found["rows"]["sft_logprob"] is None
    assert found["curve"]["n"] == [1, 2, 3]
    assert found["curve"]["rows"]["oracle"][1]["value"] == pytest.approx(2 / 3)  # 1 - C(2, 2) / C(3, 2)
    passed = {name: estimate["value"] for name, estimate in found["pass_at_k"].items()}
    assert passed == pytest.approx({"pass@1": 1 / 3, "pass@2": 2 / 3, "pass@3": 1})
    assert "66.7 [67, 67]" in text.split("against N")[1]
    table = text.split("against N")[0]
    lines = {line.split("  ")[0]: line for line in table.splitlines()}
    assert lines["SFT log-prob"].endswith("not given")
    assert "33.3 %" in lines["random (exact mean)"]
    base = LogProbScorer(load_causal_lm(policy), load_tokenizer(policy))
    picked = 0
    for number in range(4):
        texts = [(f"Ann has {number} + 1 = {answer} pens.", str(answer)) for answer in range(number, number + 3)]
        items = [
            (Problem("q", f"What is {number} + 1?"), Trace((text, "So we are done."), answer)) for text, answer in texts
        ]
        values = [item.exported for item in base.score(items)]
        picked += values.index(max(values)) == 1
    assert found["rows"]["base_logprob"]["value"] == picked / 4


def test_both_models_make_a_log_ratio(verb: Any, traces: Path, reward: Path, policy: Path, tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    verb("rerank", traces, "--reward", reward, "--base", policy, "--sft", policy, "--json", results)
    rows = json.loads(results.read_text())["rows"]
    assert rows["sft_log_ratio"] is not None
    assert rows["sft_logprob"]["value"] == rows["base_logprob"]["value"]


def test_n_draws_subsets(verb: Any, traces: Path, reward: Path, tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    verb("rerank", traces, "--reward", reward, "--n", "2", "--json", results)
    assert json.loads(results.read_text())["rows"]["oracle"]["value"] == pytest.approx(2 / 3)
    assert "n = 4" in verb.fails("rerank", traces, "--reward", reward, "--n", "4")


def test_rows_without_qid_are_grouped_by_the_question(verb: Any, reward: Path, tmp_path: Path) -> None:
    row = {"steps": ["Ann has two.", "Ben has 3."]}
    rows = [{**row, "id": str(number), "question": text} for number, text in enumerate(["One?", "Two?", "one ?"])]
    found = [json.loads(line) for line in verb("rerank", verb.write(tmp_path / "in.jsonl", rows), "--reward", reward)
             .splitlines()]  # fmt: skip
    assert [(sorted(row["ranked"]), sorted(row["lines"])) for row in found] == [(["0", "2"], [1, 3]), (["1"], [2])]


def test_without_verdicts_there_are_rows_and_no_table(verb: Any, traces: Path, reward: Path, tmp_path: Path) -> None:
    rows = [{key: value for key, value in row.items() if key != "answer"} for row in verb.read(traces)]
    bare = verb.write(tmp_path / "bare.jsonl", rows)
    assert len(verb("rerank", bare, "--reward", reward, "--json", tmp_path / "r.json").splitlines()) == 4
    assert verb.err == ""
    assert json.loads((tmp_path / "r.json").read_text())["rows"] is None
    # A verdict of the row's own takes the place of the reference answer.
    judged = verb.write(tmp_path / "judged.jsonl", [{**row, "final_correct": True} for row in rows])
    verb("rerank", judged, "--reward", reward, "--json", tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text())["rows"]["reward"]["value"] == 1


def test_a_question_with_a_skipped_trace_leaves_the_table(
    verb: Any, traces: Path, reward: Path, tmp_path: Path
) -> None:
    rows = verb.read(traces)
    rows[1]["steps"] = rows[1]["steps"] * 40
    path = verb.write(tmp_path / "in.jsonl", rows)
    assert "in.jsonl:2: steps" in verb.fails("rerank", path, "--reward", reward)
    out, results = tmp_path / "out.jsonl", tmp_path / "r.json"
    text = verb("rerank", path, "--reward", reward, "--too-long", "skip", "--out", out, "--json", results)
    assert json.loads(results.read_text())["labelled"] == 3
    assert "1 left out" in text
    first = verb.read(out)[0]
    assert (first["skipped"], sorted(first["ranked"])) == (["0-1"], ["0-0", "0-2"])
