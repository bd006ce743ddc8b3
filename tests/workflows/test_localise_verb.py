from __future__ import annotations

import gzip
import json
import shutil
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
    assert found["official"] == {}  # a reward that always names a step has no F1
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
    table = found["official"]["labelled traces"]
    assert (table["measure"], table["overall"]["erroneous"], table["overall"]["error_free"]) == ("F1", 8, 4)
    values = table["overall"]["rows"]["reward"]["values"]
    assert values == pytest.approx({"F1": 2 * a * b / (a + b) if a + b else 0, "erroneous": a, "error-free": b})


def test_a_threshold_is_tuned_on_other_traces_only(
    verb: Any, traces: Path, reward: Path, policy: Path, tmp_path: Path
) -> None:
    every = verb.read(traces)
    test, tune = verb.write(tmp_path / "test.jsonl", every[:6]), verb.write(tmp_path / "tune.jsonl", every[6:])
    results = tmp_path / "r.json"
    verb("localise", test, "--reward", reward, "--base", policy, "--tune", tune, "--json", results)
    found = json.loads(results.read_text())
    methods = {"reward", "reward_exported", "base_logprob", "base_logprob_token"}
    assert set(found["thresholds"]) == methods
    rows = found["official"]["labelled traces"]["overall"]["rows"]
    assert set(rows) == {*methods, "constant", "chance"}
    assert rows["reward"]["behind"] is None
    assert rows["base_logprob"]["behind"]["n"] == 6
    assert found["tables"]["overall"]["constant_from"] == "validation"
    # What is tuned does not look at the file that is measured.
    verb(
        "localise", verb.write(test, every[:3]), "--reward", reward, "--base", policy, "--tune", tune, "--json", results
    )
    assert json.loads(results.read_text())["thresholds"] == found["thresholds"]
    err = verb.fails("localise", traces, "--reward", reward, "--tune", tune)
    assert "6 of 12 in both" in err
    assert f"{traces}:7: steps" in err
    assert "leave one out" in verb.fails("localise", test, "--reward", reward, "--tune", tune, "--threshold", "0")
    right = verb.write(tmp_path / "right.jsonl", [row for row in every[6:] if row["first_error"] < 0])
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


SOURCES = {
    "ProcessBench": (["gsm8k", "math"], "F1"),
    "Mr-Ben": (["medicine", "physics"], "MR-Score (of 50)"),
    "BIG-Bench-Mistake": (["word_sorting", "dyck_languages"], "accuracy"),
    "PRMBench": (["original", "circular"], "PRMScore"),
    "MR-GSM8K": (["original", "POT"], "MR-Score (of 50)"),
    "verify-then-generate": (["", ""], "step accuracy"),
}


def _benchmark(rows: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Our rows in the layout of a set: a source, and what it holds besides."""
    subsets = SOURCES[name][0]
    found = []
    for row in rows:
        wrong = row["first_error"] >= 0
        if name == "verify-then-generate":
            more = {"source": name, "error_category": "wrong number"}
        else:
            more = {"source": f"{name}/{subsets[wrong if name == 'PRMBench' else int(row['qid'][1:]) % 2]}"}
        if name == "PRMBench":
            more["error_steps"] = [0, 1] if wrong else []
        if wrong or name != "verify-then-generate":
            found.append({**row, **more})
    return found


@pytest.mark.parametrize("name", SOURCES)
def test_each_benchmark_is_told_and_measured_its_own_way(
    verb: Any, traces: Path, reward: Path, policy: Path, name: str
) -> None:
    rows, tmp_path = verb.read(traces), traces.parent
    test = verb.write(tmp_path / "test.jsonl", _benchmark(rows[:6], name))
    tune, results = verb.write(tmp_path / "tune.jsonl", rows[6:]), tmp_path / "r.json"
    asked = ("localise", test, "--reward", reward, "--base", policy, "--sft", policy, "--out", tmp_path / "o.jsonl")
    text = verb(*asked, "--tune", tune, "--json", results)
    found = json.loads(results.read_text())["official"]
    measure = SOURCES[name][1]
    assert list(found) == [name]
    assert found[name]["measure"] == measure
    assert f"{name}: {measure}" in text
    overall = found[name]["overall"]
    assert overall["erroneous"] == 4
    assert {"reward", "base_logprob", "sft_logprob", "sft_log_ratio", "constant", "chance"} <= set(overall["rows"])
    value = overall["rows"]["reward"]["values"][measure]
    official = overall["rows"]["reward"]["official"]
    assert (value is None) == (official is None)
    if name == "verify-then-generate":  # nothing to decide: a threshold plays no part
        hits = [row["suspicion"].index(max(row["suspicion"])) == 0 for row in verb.read(tmp_path / "o.jsonl")]
        assert value == pytest.approx(sum(hits) / len(hits))
        assert official["value"] == value
        return
    # Without a threshold the set is told, and what its measure lacks.
    text = verb(*asked, "--json", results)
    assert json.loads(results.read_text())["official"] == {}
    assert "needs a threshold" in text
    assert name in text


def test_a_calibrated_reward_brings_threshold_and_probabilities(
    verb: Any, traces: Path, reward: Path, tmp_path: Path
) -> None:
    own = shutil.copytree(reward, tmp_path / "reward")
    rows = verb.read(traces)
    test, tune = verb.write(tmp_path / "test.jsonl", rows[:6]), verb.write(tmp_path / "tune.jsonl", rows[6:])
    assert "step_probabilities" not in _localised(verb, test, "--reward", own)[0]
    tuned = _localised(verb, test, "--reward", own, "--tune", tune)
    verb("calibrate", tune, "--reward", own)
    results = tmp_path / "r.json"
    scored = [json.loads(line) for line in verb("score", test, "--reward", own).splitlines()]
    saved = _localised(verb, test, "--reward", own, "--json", results)
    assert saved == [{**row, "probability": score["probability"]} for row, score in zip(tuned, scored, strict=True)]
    found = json.loads(results.read_text())
    assert found["tuned_on"] == str(own / "calibration.json")
    assert list(found["thresholds"]) == ["reward"]
    for row in tuned:
        assert sum(row["first_error_probabilities"]) + row["error_free_probability"] == pytest.approx(1)
    # Its own validation traces are refused, unless nothing is measured on them.
    assert "those to calibrate on: got 6 of 6" in verb.fails("localise", tune, "--reward", own)
    bare = [{key: value for key, value in row.items() if key != "first_error"} for row in rows[6:]]
    assert len(_localised(verb, verb.write(tune, bare), "--reward", own)) == 6


@pytest.mark.parametrize("head", ["reward", "scalar_reward"])
def test_tokens_and_pictures(
    verb: Any, traces: Path, head: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    reward, page = request.getfixturevalue(head), tmp_path / "page.html"
    out = tmp_path / "o.jsonl"
    traces = verb.write(traces, [{**row, "tokens": 9, "step_probabilities": [0.5]} for row in verb.read(traces)])
    verb("localise", traces, "--reward", reward, "--html", page, "--out", out)  # what a row had before is not drawn
    assert "token by token" not in page.read_text(encoding="utf-8")
    text = verb("localise", traces, "--reward", reward, "--tokens", "--show", 2, "--html", page, "--out", out)
    rows = verb.read(out)
    for row in rows:
        assert row["tokens"] == 9
        said = "".join(piece for piece, _ in row["token_scores"])
        assert said == "\n".join([*row["steps"], f"Answer: {row['model_answer']}"])
        total = sum(score for _, score in row["token_scores"])
        if head == "reward":  # a step's score is the sum of its tokens'; the end of the sequence has no text
            assert total == pytest.approx(sum(row["step_scores"]), abs=2.0)
    assert text.count("▸ predicted") == 2
    assert text.count("Ann has") == 2 * 2  # among the steps, and token by token
    html = page.read_text(encoding="utf-8")
    assert html.count('class="trace"') == 12
    assert html.count("token by token") == 12
    assert "http" not in html.replace("http-equiv", "")
    numbers = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    assert [example["predicted"] for example in numbers["examples"]] == [row["predicted_first_error"] for row in rows]
    assert "existing directory" in verb.fails(
        "localise", traces, "--reward", reward, "--html", tmp_path / "no" / "p.html"
    )
    assert "ends in .html" in verb.fails("localise", traces, "--reward", reward, "--html", tmp_path / "p.txt")
