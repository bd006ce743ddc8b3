"""Whole runs, small: every stage of a recipe in worker processes, on the built-in world and on GSM8K's own format."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from traceward import cli
from traceward.builtin import ASSETS
from traceward.config import Arm, Recipe, load_recipe
from traceward.data.tasks import stories
from traceward.rewards.model import RewardModel
from traceward.workflows import train
from traceward.workflows.demo import QUICK
from traceward.workflows.pool import part_name
from traceward.workflows.results import LOCALISE, POLICIES, RERANK
from traceward.workflows.train import plan, run_recipe

RECIPES = Path(__file__).parents[2] / "recipes"


def test_every_stage_waits_for_what_it_reads() -> None:
    recipe = Recipe.model_validate({"run": {"arms": list(Arm), "variants": ["scalar:sparse"]}})
    stages = plan(recipe)
    order = list(stages)
    assert all(order.index(first) < order.index(stage) for stage, waits in stages.items() for first in waits)
    assert stages["adversarial"] == stages["reward_frozen"] == ("reward",)
    assert set(stages["judge"]) == {"samples", "reward", "sft"}
    assert part_name("measure:base") == "measure-base"


def test_a_policy_from_nothing_is_made_first() -> None:
    recipe = load_recipe(RECIPES / "gsm8k-tiny.toml", ["data.path='x'"])
    assert next(iter(plan(recipe).items())) == ("pretrain", ())
    assert plan(recipe)["rollouts"] == ("pretrain",)


def test_a_start_from_sft_waits_for_it() -> None:
    plain = load_recipe(ASSETS / "demo.toml", ["run.arms=['outcome']"])
    assert "sft" not in plan(plain)
    from_sft = load_recipe(ASSETS / "demo.toml", ["run.arms=['outcome']", "run.start=sft"])
    assert plan(from_sft)["outcome"] == ("sft",)
    learned = load_recipe(ASSETS / "demo.toml", ["run.arms=['adversarial']", "run.start=sft"])
    assert plan(learned)["adversarial"] == ("reward", "sft")
    few = ["run.arms=[]", "run.variants=['scalar:dense']", "reward.start=sft", "critic.held_out=0"]
    reward = load_recipe(ASSETS / "demo.toml", few)
    assert plan(reward)["reward"] == ("rollouts", "sft")
    assert plan(reward)["variant:scalar:dense"] == ("samples", "rollouts", "sft")
    assert plan(from_sft)["rollouts"] == plan(reward)["rollouts"] == ()


def test_a_small_demo_ends_with_results_and_a_report(tmp_path: Path) -> None:
    out = tmp_path / "run"
    few = ["run.arms=['sft', 'adversarial']", "run.variants=['scalar:sparse:no-corruptions']"]
    run_recipe(ASSETS / "demo.toml", out=out, seed=3, overrides=[*QUICK, *few])
    assert cli.run(["report", str(out)]) == 0
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert set(results["rerank"]) == {"n", *RERANK}
    assert set(results["localise_hit_at_1"]) == set(LOCALISE)
    assert set(results["policy_pass_at_1"]) == set(results["policy_greedy"]) == set(POLICIES)
    measured = {name for name, value in results["policy_pass_at_1"].items() if value is not None}
    assert measured == {"base", "sft", "adversarial"}
    for section in ("rerank", "localise_hit_at_1"):
        assert all(0 <= value <= 1 for name, value in results[section].items() if name != "n")
        assert all(low <= high for low, high in results[f"{section}_intervals"].values())
    assert results["rerank"]["oracle"] >= results["rerank"]["reward"]
    saved = RewardModel.load(out / "reward").calibration
    assert saved is not None
    for kind, found in results["calibration"]["probabilities"].items():  # fitted on validation, measured on test
        assert getattr(saved, kind) is not None
        assert sum(part["n"] for part in found["reliability"]) == found["n"]
        assert 0 <= found["ece"] <= 1
    assert results["calibration"]["probabilities"]
    assert [variant["name"] for variant in results["variants"]] == ["scalar:sparse:no-corruptions"]
    assert results["policy_curves"]["adversarial"]["step"] == [0, 2, 3]
    stages = {json.loads(line)["stage"] for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()}
    assert {"sft", "warm-up", "adversarial"} <= stages
    assert results["alarms"] == []
    assert results["uses_final_answers"] == {"reward": "no", "consensus": "yes", "outcome_reward": "no"}
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "http://" not in page.replace("http://www.w3.org", "")
    # The same recipe again finds every part and runs nothing.
    before = {path: path.stat().st_mtime_ns for path in (out / "parts").iterdir()}
    run_recipe(ASSETS / "demo.toml", out=out, seed=3, overrides=[*QUICK, *few])
    assert before == {path: path.stat().st_mtime_ns for path in (out / "parts").iterdir()}


def gsm8k_rows(count: int, seed: int) -> list[str]:
    """Worked solutions in GSM8K's official form, of our own making: calculator notes and a last line `#### 7`."""
    rows = []
    for item in stories.demonstrations(count, seed=seed):
        noted = [f"{step} <<1+1=2>>" for step in item.trace.steps]
        row = {"question": item.problem.question, "answer": "\n".join([*noted, f"#### {item.trace.answer}"])}
        rows.append(json.dumps(row))
    return rows


def test_the_gsm8k_recipe_runs_to_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "gsm8k"
    data.mkdir()
    (data / "train.jsonl").write_text("\n".join(gsm8k_rows(40, 1)) + "\n", encoding="utf-8")
    (data / "test.jsonl").write_text("\n".join(gsm8k_rows(16, 2)) + "\n", encoding="utf-8")
    small = {
        "policy.scratch.steps": 30,
        "policy.scratch.hidden": 48,
        "policy.scratch.layers": 2,
        "policy.scratch.heads": 2,
        "policy.scratch.vocabulary": 400,
        "critic.warmup_updates": 4,
        "critic.demonstrations": 8,
        "adversarial.steps": 2,
        "adversarial.max_new_tokens": 48,
        "evaluation.pairs": 10,
    }
    settings = [part for key, value in small.items() for part in ("--set", f"{key}={value}")]
    out = tmp_path / "run"
    code = cli.run(["train", str(RECIPES / "gsm8k-tiny.toml"), "--data", str(data), "--out", str(out), *settings])
    assert code == 0, capsys.readouterr().err
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert results["policy_pass_at_1"]["adversarial"] is not None
    assert "pairs" in results["discriminator"]
    assert results["data"]["task"] == "gsm8k"
    assert (out / "reward" / "card.json").exists()
    first = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert set(first["data"]) == {"split", "train", "test"}


def test_fewer_questions_than_a_step_takes_are_refused_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert cli.run(["train", str(ASSETS / "demo.toml"), "--set", "data.questions=0", "--out", str(out)]) == 2
    assert "questions_per_step must be at most the number of questions: got 24 for 20" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("variant", ["foo", "scalar", "scalar:fine", "scalar:dense:no-corruption"])
def test_an_unknown_variant_is_refused(variant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["train", str(ASSETS / "demo.toml"), "--set", f"run.variants=['{variant}']"]) == 2
    assert f"got '{variant}'" in capsys.readouterr().err


def test_another_recipe_in_the_same_directory_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    assert cli.run(["train", str(ASSETS / "demo.toml"), "--out", str(tmp_path)]) == 2
    assert "must be new or empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_other_data_in_the_same_directory_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "work", lambda *_, **__: None)  # a run that was stopped at once
    monkeypatch.setattr(cli.learn, "page_of", lambda *_: None)
    data, out = tmp_path / "mine", tmp_path / "run"
    data.mkdir()
    recipe = tmp_path / "run.toml"
    recipe.write_text("[run]\narms = []\n[data]\ntask = 'gsm8k'\n", encoding="utf-8")
    (data / "test.jsonl").write_text("\n".join(gsm8k_rows(8, 2)) + "\n", encoding="utf-8")
    for seed, code in ((1, 0), (1, 0), (3, 2)):
        (data / "train.jsonl").write_text("\n".join(gsm8k_rows(20, seed)) + "\n", encoding="utf-8")
        manifest = out / "manifest.json"
        before = manifest.read_bytes() if manifest.exists() else None
        assert cli.run(["train", str(recipe), "--data", str(data), "--out", str(out)]) == code
        assert before in (None, manifest.read_bytes())
    message = capsys.readouterr().err
    assert "run must go on with the data it began with: got other split, train than " in message
    assert "bring those back, or choose a new --out" in message
