from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from traceward.rewards.model import RewardModel


@pytest.fixture
def own(reward: Path, tmp_path: Path) -> Path:
    """A reward that may be written to."""
    return Path(shutil.copytree(reward, tmp_path / "reward"))


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_scores_stay_and_a_probability_stands_beside_them(
    verb: Any, traces: Path, own: Path, tmp_path: Path, method: str
) -> None:
    before = [json.loads(line) for line in verb("score", traces, "--reward", own).splitlines()]
    results = tmp_path / "c.json"
    text = verb("calibrate", traces, "--reward", own, "--method", method, "--json", results)
    after = [json.loads(line) for line in verb("score", traces, "--reward", own).splitlines()]
    for old, new in zip(before, after, strict=True):
        probability = new.pop("probability")
        assert 0 <= probability <= 1
        assert new == old
    found = json.loads(results.read_text())
    assert found["method"] == {"trace": method, "step": method}
    assert found["measured_on"] == "cross-validated"
    assert set(found["quality"]["trace"]) == {"temperature", "isotonic"}
    assert found["quality"]["trace"][method]["n"] == 12
    # Four questions with two wrong traces each: 4 + 8 first steps, and the later steps of the right ones.
    assert found["quality"]["step"][method]["n"] == 4 * 3 + 8
    assert found["quality"]["step"][method]["share"] == pytest.approx(12 / 20)
    assert math.isfinite(found["threshold"])
    assert "Reliability" in text
    assert method in next(line for line in text.splitlines() if line.startswith("P(the answer is right)"))


def test_it_is_measured_on_other_traces_where_they_are_given(
    verb: Any, traces: Path, own: Path, tmp_path: Path
) -> None:
    rows = verb.read(traces)
    fit, test = verb.write(tmp_path / "fit.jsonl", rows[:6]), verb.write(tmp_path / "test.jsonl", rows[6:])
    results = tmp_path / "c.json"
    verb("calibrate", fit, "--reward", own, "--test", test, "--json", results)
    found = json.loads(results.read_text())
    assert found["measured_on"] == str(test)
    ((method, one),) = found["quality"]["trace"].items()
    assert method == found["method"]["trace"]
    scored = [json.loads(line) for line in verb("score", test, "--reward", own).splitlines()]
    right = [row["model_answer"] == row["answer"] for row in scored]
    brier = sum((row["probability"] - label) ** 2 for row, label in zip(scored, right, strict=True)) / 6
    assert one["brier"] == pytest.approx(brier)
    assert sum(part["n"] for part in one["bins"]) == 6
    err = verb.fails("calibrate", fit, "--reward", own, "--test", fit)
    assert "those to calibrate on: got 6 of 6 in both" in err


def test_only_what_has_labels_is_fitted(verb: Any, traces: Path, own: Path, tmp_path: Path) -> None:
    rows = [{key: row[key] for key in ("id", "qid", "question", "steps", "first_error")} for row in verb.read(traces)]
    text = verb("calibrate", verb.write(tmp_path / "steps.jsonl", rows), "--reward", own)
    saved = RewardModel.load(own).calibration
    assert saved is not None
    assert (saved.trace, saved.step is None, saved.threshold is None) == (None, False, False)
    assert "no labels" in text
    assert "probability" not in json.loads(verb("score", traces, "--reward", own).splitlines()[0])
    before = (own / "card.json").read_bytes()
    bare = verb.write(tmp_path / "bare.jsonl", [{key: row[key] for key in ("id", "question", "steps")} for row in rows])
    assert "got no such labels in 12 rows" in verb.fails("calibrate", bare, "--reward", own)
    assert (own / "card.json").read_bytes() == before
