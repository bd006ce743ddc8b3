from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from traceward.records import Problem
from traceward.rewards.model import RewardModel
from traceward.workflows import search
from traceward.workflows.search import SearchOptions, search_file

Models = tuple[str, str, str, str]
SIZE = ("--n", "4", "--beams", "2", "--max-new-tokens", "12")


@pytest.fixture
def questions(verb: Any, tmp_path: Path) -> Path:
    rows = [{"id": f"q{at}", "question": f"What is {at} + 1?", "answer": at + 1} for at in range(5)]
    return verb.write(tmp_path / "questions.jsonl", rows)


@pytest.fixture
def models(policy: Path, reward: Path) -> Models:
    return "--policy", str(policy), "--reward", str(reward)


def test_rows_results_and_table(verb: Any, questions: Path, models: Models, tmp_path: Path) -> None:
    out, results = tmp_path / "out.jsonl", tmp_path / "results.json"
    text = verb(
        "search", questions, *models, *SIZE, "--groups", "2", "--guide", "lowest",
        "--out", out, "--json", results,
    )  # fmt: skip
    rows, found = verb.read(out), json.loads(results.read_text())
    assert [row["id"] for row in rows] == [f"q{at}" for at in range(5)]
    for row in rows:
        best = row["traces"][0]
        assert {name: row[name] for name in best} == best
        assert best["score"] == max(trace["score"] for trace in row["traces"])
        assert row["final_correct"] is False  # a random policy
        assert row["sampled_tokens"] >= sum(trace["tokens"] for trace in row["traces"][:1])
    assert (found["questions"], found["labelled"], found["groups"], found["guide"]) == (5, 5, 2, "lowest")
    assert set(found["rows"]) == {"reward", "weighted_vote", "oracle"}
    assert found["sampled_tokens"]["value"] == pytest.approx(sum(row["sampled_tokens"] for row in rows) / 5)
    assert text.startswith("Search, N = 4, 2 beams in 2 groups, by lowest")
    # Its rows are traces.
    scored = [json.loads(line) for line in verb("score", out, *models[2:]).splitlines()]
    assert [row["id"] for row in scored] == [row["id"] for row in rows]
    piped = verb("search", questions, *models, *SIZE, "--groups", "2",
                 "--guide", "lowest")  # fmt: skip
    assert [json.loads(line) for line in piped.splitlines()] == rows
    assert "tokens sampled, a question" in verb.err


def test_right_answers_are_counted(
    verb: Any, questions: Path, models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from traceward.decoding.beams import Beam
    from traceward.decoding.search import Found, FoundTrace

    def planted(_reward: Any, _generator: Any, problems: list[Problem], **_: Any) -> list[Found]:
        def found(problem: Problem, answers: list[str | None], vote: str | None) -> Found:
            return Found(problem, tuple(FoundTrace(Beam(problem, "", ()), a, -1.0) for a in answers), vote, 10)

        # Best, vote and any trace right: q0 yes yes yes, q1 no yes yes, q2 no no yes, q3 and q4 none.
        plans = [(["1"], "1.0"), (["9", "2"], "2"), (["9", "3"], "9"), (["9"], "9"), ([None], None)]
        return [found(problem, *plan) for problem, plan in zip(problems, plans, strict=True)]

    monkeypatch.setattr(search, "search", planted)
    results = tmp_path / "results.json"
    text = verb("search", questions, *models, "--out", tmp_path / "o.jsonl",
                "--json", results, "--max-new-tokens", "12")  # fmt: skip
    rows = json.loads(results.read_text())["rows"]
    assert {name: row["value"] for name, row in rows.items()} == {"reward": 0.2, "weighted_vote": 0.4, "oracle": 0.6}
    assert "20.0 %" in text


def test_a_killed_search_goes_on(
    questions: Path, models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "BLOCK", 2)
    options = SearchOptions(n=2, beams=2, max_new_tokens=8)

    def go(out: Path, seen: list[int]) -> None:
        def stop_at(_what: str, done: int, _total: int) -> None:
            if done in seen:
                raise KeyboardInterrupt

        search_file(questions, policy=models[1], reward=Path(models[3]), options=options, out=out, progress=stop_at)

    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    go(whole, [])
    with pytest.raises(KeyboardInterrupt):
        go(out, [4])
    assert not out.exists()
    searched: list[str] = []
    real = search.search

    def counted(reward: RewardModel, generator: Any, problems: list[Problem], **rest: Any) -> Any:
        searched.extend(problem.id for problem in problems)
        return real(reward, generator, problems, **rest)

    monkeypatch.setattr(search, "search", counted)
    go(out, [])
    assert searched == ["q4"]  # two blocks were written when it was killed
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "questions.jsonl", "whole.jsonl"]


def test_questions_without_answers_have_rows_and_tokens(verb: Any, models: Models, tmp_path: Path) -> None:
    path = verb.write(tmp_path / "in.jsonl", [{"question": "One?"}, {"question": "Two?", "answer": "2"}])
    out, results = tmp_path / "out.jsonl", tmp_path / "results.json"
    text = verb("search", path, *models, *SIZE, "--out", out, "--json", results)
    assert "1 questions; 1 without a reference answer" in text
    assert [("final_correct" in row, "answer" in row) for row in verb.read(out)] == [(False, False), (True, True)]
    bare = verb.write(tmp_path / "bare.jsonl", [{"question": "One?"}])
    verb("search", bare, *models, *SIZE, "--json", results)
    assert json.loads(results.read_text())["rows"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--temperature", "0"), "temperature must be above 0: got 0.0"),
        (("--n", "6"), "n must be a multiple of beams, and both at least 1: got n = 6, beams = 4"),
        (("--groups", "3"), "beams must be a multiple of groups"),
        (("--max-new-tokens", "155"), "questions.jsonl:1: question: must leave room for 155 new tokens"),
        (("--model", "x"), "model must go with the address of a server: got 'x'"),
        (("--policy", "vllm:x"), "vllm must be installed"),
    ],
)
def test_wrong_settings(verb: Any, questions: Path, models: Models, options: tuple[str, ...], message: str) -> None:
    out = questions.with_name("out.jsonl")
    command = ("search", questions, *models, "--max-new-tokens", "8", "--out", out)
    assert message in verb.fails(*command, *options)
    assert list(questions.parent.iterdir()) == [questions]
