from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest


def _localised(verb: Any, *arguments: object) -> list[dict[str, Any]]:
    return [json.loads(line) for line in verb("localise", *arguments).splitlines()]


@pytest.mark.parametrize("head", ["reward", "scalar_reward"])
def test_the_most_suspicious_step_is_named_or_the_first_above_the_threshold(
    verb: Any, traces: Path, head: str, request: pytest.FixtureRequest
) -> None:
    reward = request.getfixturevalue(head)
    rows = _localised(verb, traces, "--reward", reward)
    for row in rows:
        doubts = row["suspicion"]
        assert len(doubts) == len(row["step_scores"]) == 3
        assert row["predicted_first_error"] == doubts.index(max(doubts))
    limit = sorted(doubt for row in rows for doubt in row["suspicion"])[-len(rows)]
    for row in _localised(verb, traces, "--reward", reward, "--threshold", limit):
        above = [index for index, doubt in enumerate(row["suspicion"]) if doubt > limit]
        assert row["predicted_first_error"] == (above[0] if above else -1)


def test_the_table_overall_and_per_source(verb: Any, traces: Path, reward: Path, policy: Path, tmp_path: Path) -> None:
    out, results = tmp_path / "out.jsonl", tmp_path / "r.json"
    text = verb("localise", traces, "--reward", reward, "--base", policy, "--out", out, "--json", results)
    wrong = [row for row in verb.read(out) if row["first_error"] >= 0]
    found = json.loads(results.read_text())
    assert list(found["tables"]) == ["overall", "s0", "s1"]
    for name, some in {
        "overall": wrong,
        "s0": [row for row in wrong if row["source"] == "s0"],
        "s1": [row for row in wrong if row["source"] == "s1"],
    }.items():
        table = found["tables"][name]
        hits = [row["predicted_first_error"] == row["first_error"] for row in some]
        assert table["n"] == len(some) == (8 if name == "overall" else 4)
        assert table["rows"]["reward"]["hit_at_1"]["value"] == pytest.approx(sum(hits) / len(hits))
        assert table["rows"]["chance"]["hit_at_1"]["value"] == pytest.approx(1 / 3)
        assert table["rows"]["constant"]["hit_at_1"]["value"] == 1  # all first errors are in step 0
        assert table["rows"]["sft_logprob"] is None
        assert table["rows"]["base_logprob"] is not None
    assert found["processbench"] == {}  # a reward that always names a step has no F1
    assert "SFT log-prob" in text
    assert "not given" in text


def test_processbench_f1_by_hand(verb: Any, traces: Path, reward: Path, tmp_path: Path) -> None:
    rows = _localised(verb, traces, "--reward", reward)
    limit = sorted(max(row["suspicion"]) for row in rows)[len(rows) // 2]
    out, results = tmp_path / "out.jsonl", tmp_path / "r.json"
    verb("localise", traces, "--reward", reward, "--threshold", limit, "--out", out, "--json", results)
    right: dict[bool, list[bool]] = {True: [], False: []}
    for row in verb.read(out):
        right[row["first_error"] >= 0].append(row["predicted_first_error"] == row["first_error"])
    a, b = (sum(right[kind]) / len(right[kind]) for kind in (True, False))
    found = json.loads(results.read_text())
    assert found["thresholds"] == {"reward": limit}
    assert found["processbench"]["overall"]["reward"]["f1"] == pytest.approx(2 * a * b / (a + b) if a + b else 0)


def test_a_threshold_is_tuned_on_other_traces_only(
    verb: Any, traces: Path, reward: Path, policy: Path, tmp_path: Path
) -> None:
    rows = verb.read(traces)
    test, tune = verb.write(tmp_path / "test.jsonl", rows[:6]), verb.write(tmp_path / "tune.jsonl", rows[6:])
    results = tmp_path / "r.json"
    verb("localise", test, "--reward", reward, "--base", policy, "--tune", tune, "--json", results)
    found = json.loads(results.read_text())
    assert set(found["thresholds"]) == {"reward", "base_logprob"}
    assert set(found["processbench"]["overall"]) == {"reward", "base_logprob"}
    assert found["tables"]["overall"]["constant_from"] == "validation"
    # What is tuned does not look at the file that is measured.
    verb(
        "localise", verb.write(test, rows[:3]), "--reward", reward, "--base", policy, "--tune", tune, "--json", results
    )
    assert json.loads(results.read_text())["thresholds"] == found["thresholds"]
    err = verb.fails("localise", traces, "--reward", reward, "--tune", tune)
    assert "6 of 12 in both" in err
    assert f"{traces}:7: steps" in err
    assert "leave one out" in verb.fails("localise", test, "--reward", reward, "--tune", tune, "--threshold", "0")
    right = verb.write(tmp_path / "right.jsonl", [row for row in rows[6:] if row["first_error"] < 0])
    assert "right.jsonl must hold" in verb.fails("localise", test, "--reward", reward, "--tune", right)


def test_packed_files_and_skipped_traces(verb: Any, traces: Path, reward: Path, tmp_path: Path) -> None:
    rows = verb.read(traces)
    rows[2]["steps"] = rows[2]["steps"] * 40
    packed, out = tmp_path / "in.jsonl.gz", tmp_path / "out.jsonl.gz"
    packed.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    assert "in.jsonl.gz:3: steps: must fit" in verb.fails("localise", packed, "--reward", reward, "--out", out)
    assert not out.exists()
    text = verb("localise", packed, "--reward", reward, "--out", out, "--too-long", "skip")
    assert "1 of 12 traces skipped" in text
    assert "7 erroneous traces" in text
    found = [json.loads(line) for line in gzip.decompress(out.read_bytes()).splitlines()]
    assert ["predicted_first_error" in row for row in found] == [index != 2 for index in range(12)]
    assert "skipped" in found[2]


def test_unlabelled_traces_get_rows_and_no_table(verb: Any, traces: Path, reward: Path, tmp_path: Path) -> None:
    rows = [{key: value for key, value in row.items() if key != "first_error"} for row in verb.read(traces)]
    assert len(_localised(verb, verb.write(tmp_path / "in.jsonl", rows), "--reward", reward)) == 12
    assert verb.err == ""
