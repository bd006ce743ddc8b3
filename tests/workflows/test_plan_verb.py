"""`traceward plan`: what it prints, what it refuses, and what it says to change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from traceward import cli
from traceward.config import Recipe, load_recipe
from traceward.errors import ConfigError
from traceward.planning import advice
from traceward.planning.advice import changed_to_fit
from traceward.planning.memory import Memory
from traceward.planning.moments import Moment, Room
from traceward.workflows import plan as planning
from traceward.workflows.plan import make_plan

GIB = 2**30
RECIPE = """
[run]
arms = ["sft", "adversarial"]
[policy]
path = "{model}"
[sft]
steps = 10
batch = 4
[critic]
positives = 4
rollouts = 8
warmup_updates = 5
[adversarial]
steps = 20
questions_per_step = 4
group = 4
max_new_tokens = 24
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    config = AutoConfig.for_model(
        "qwen2",
        vocab_size=500,
        hidden_size=64,
        intermediate_size=176,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    config.save_pretrained(tmp_path / "model")
    file = tmp_path / "run.toml"
    file.write_text(RECIPE.format(model=tmp_path / "model"), encoding="utf-8")
    return file


def test_it_prints_models_memory_tokens_and_hours(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "plan.json"
    options = ["--prompt-tokens", "8", "--tokens-per-second", "100", "--gpu-memory", "4", "--json", str(out)]
    assert cli.run(["plan", str(recipe), *options]) == 0
    shown = capsys.readouterr().out
    found = json.loads(out.read_text(encoding="utf-8"))
    for text in ("KV cache", "reward: update", "adversarial: policy update", "yes, in 4 GiB", "peak + 5%"):
        assert text in shown
    assert f"{found['models'][0]['parameters']:,}" in shown
    assert [(s["stage"], s["steps"], s["tokens_per_step"]) for s in found["stages"]] == [
        ("sft", 10, 4 * 32),
        ("reward", 5, 16 * 32),
        ("adversarial", 20, (16 + 16) * 32),
    ]
    assert found["hours"] == pytest.approx((10 * 128 + 5 * 512 + 20 * 1024) / 100 / 3600)
    for row in found["memory"]:
        parts = ("weights", "gradients", "optimiser", "activations", "cache", "logits")
        assert row["total"] == pytest.approx(sum(row[part] for part in parts))
    assert max(found["memory"], key=lambda row: row["total"])["moment"] == found["peak"]
    assert not (tmp_path / "runs").exists()


def test_hours_need_a_throughput(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Memory, "moments", lambda _: [Moment("sft", "update", weights=GIB)])
    assert cli.run(["plan", str(recipe)]) == 0
    shown = capsys.readouterr().out
    assert "not known: --tokens-per-second" in shown
    assert "not asked: --gpu-memory GIB" in shown


def test_what_does_not_fit_is_refused_in_one_line(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def moments(memory: Memory) -> list[Moment]:
        small = memory.recipe.reward.adapter.chosen
        return [Moment("sft", "update", weights=GIB), Moment("reward", "update", weights=(5 if small else 50) * GIB)]

    monkeypatch.setattr(Memory, "moments", moments)
    assert cli.run(["plan", str(recipe), "--gpu-memory", "24"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line == (
        "traceward: error: recipe must fit 24 GiB on each of 1 GPUs: got 53.5 GiB at 'reward: update'; "
        "--set policy.adapter.rank=64 --set reward.adapter.rank=64"
    )
    assert cli.run(["plan", str(recipe), "--gpu-memory", "80"]) == 0


def fitting(monkeypatch: pytest.MonkeyPatch, gib: Any) -> Any:
    """Stands in for the peak of a recipe in a room, in GiB."""
    monkeypatch.setattr(advice, "_peak", lambda recipe, room: gib(recipe, room) * GIB)
    return lambda peak, _: peak <= 24 * GIB


def test_changes_add_up_until_it_fits(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gib(tried: Recipe, _room: Room) -> float:
        four = 20 * tried.policy.load_in_4bit
        return 90 - tried.policy.gradient_checkpointing - 45 * tried.policy.adapter.chosen - four

    found = changed_to_fit(load_recipe(recipe), Room(), fitting(monkeypatch, gib))
    assert found == (
        "--set policy.gradient_checkpointing=true --set policy.adapter.rank=64 --set reward.adapter.rank=64 "
        "--set policy.load_in_4bit=true"
    )


def test_more_gpus_where_no_setting_helps(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fits = fitting(monkeypatch, lambda _, room: 90 / (room.gpus if room.sharded else 1))
    assert changed_to_fit(load_recipe(recipe), Room(), fits) == "use --gpus 4 --sharded (FSDP2)"
    fits = fitting(monkeypatch, lambda *_: 90)
    assert changed_to_fit(load_recipe(recipe), Room(), fits).startswith("use a smaller model")


def test_settings_that_are_there_are_not_advised(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Recipe] = []

    def gib(tried: Recipe, _room: Room) -> float:
        seen.append(tried)
        return 90

    settings = ["policy.adapter.rank=4", "reward.adapter.rank=4", "critic.traces_per_pass=6"]
    changed_to_fit(load_recipe(recipe, settings), Room(), fitting(monkeypatch, gib))
    assert {tried.policy.adapter.rank for tried in seen} == {4}
    assert {tried.critic.traces_per_pass for tried in seen} == {6, 4}


def test_stages_side_by_side_share_a_gpu(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Memory, "moments", lambda _: [Moment("sft", "update", weights=10 * GIB)])
    one, two = (make_plan(recipe, overrides=(f"run.workers={n}",)).needed_gib for n in (1, 2))
    assert (one, two) == (pytest.approx(10 * 1.05 + 1), pytest.approx(20 * 1.05 + 1))


def test_sharding_is_refused_where_the_run_would(recipe: Path) -> None:
    with pytest.raises(ConfigError, match="gpus must be at least 2 with sharding: got 1"):
        make_plan(recipe, sharded=True)
    with pytest.raises(ConfigError, match=r"reward\.adapter\.rank must be left out with FSDP2"):
        make_plan(recipe, overrides=("reward.adapter.rank=4",), sharded=True, gpus=2)


def test_a_hub_model_that_is_nowhere_is_told(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["plan", str(recipe), "--set", "policy.path=no/such"]) == 2
    assert "model must be a model directory or a hub name: got 'no/such'" in capsys.readouterr().err


def test_the_built_in_base_and_a_model_from_scratch_have_plans() -> None:
    for name in ("demo", "gsm8k-tiny"):
        path = Path(planning.__file__).parents[3] / "recipes" / f"{name}.toml"
        changes = ("data.path=nowhere",) if name == "gsm8k-tiny" else ()
        sizes = Memory(load_recipe(path, changes), Room()).models.policy_model.size()
        assert 100_000 < sizes.parameters < 5_000_000


def test_a_grid_is_planned_row_by_row_and_shared_work_counts_once(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid, out = recipe.with_name("grid.toml"), tmp_path / "plan.json"
    grid.write_text(
        f'recipe = "{recipe.name}"\n[grid]\nlength.short = {{ adversarial.max_new_tokens = 24 }}\n'
        "length.long = { adversarial.max_new_tokens = 48 }\nrun.seed = [0, 1]\n",
        encoding="utf-8",
    )
    options = ["--prompt-tokens", "8", "--tokens-per-second", "100", "--json", str(out)]
    assert cli.run(["plan", str(grid), *options]) == 0
    shown = capsys.readouterr().out
    found = json.loads(out.read_text(encoding="utf-8"))
    assert [(row["labels"], row["seeds"]) for row in found["rows"]] == [
        ({"length": "short"}, 2),
        ({"length": "long"}, 2),
    ]
    assert found["needed_gib"] == max(row["needed_gib"] for row in found["rows"])
    short, long = (make_plan(recipe, overrides=(f"adversarial.max_new_tokens={n}",), prompt_tokens=8) for n in (24, 48))
    sft, *rest = long.stages  # of equal work the larger bound counts
    once = sft.tokens + sum(stage.tokens for stage in (*rest, *short.stages[1:]))
    assert sft.stage == "sft"
    assert (found["stages"], found["tokens"]) == (2 * 5, 2 * once)
    assert found["hours"] == pytest.approx(found["tokens"] / 100 / 3600)
    assert f"{found['tokens']:,}" in shown


def test_a_row_that_does_not_fit_is_named(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = recipe.with_name("grid.toml")
    grid.write_text(f'recipe = "{recipe.name}"\n[grid]\nadversarial.max_new_tokens = [24, 4000]\n', encoding="utf-8")
    needed = [make_plan(recipe, overrides=(f"adversarial.max_new_tokens={n}",)).needed_gib for n in (24, 4000)]
    between = f"{sum(needed) / 2:g}"
    assert cli.run(["plan", str(grid), "--gpu-memory", between]) == 2
    assert f"{grid}, 4000: recipe must fit {between} GiB on each of 1 GPUs" in capsys.readouterr().err


def test_a_matrix_is_not_a_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    matrix = tmp_path / "matrix.toml"
    matrix.write_text("[matrix]\n[learn.here]\n", encoding="utf-8")
    assert cli.run(["plan", str(matrix)]) == 2
    assert "recipe must be one recipe or a grid: got the matrix" in capsys.readouterr().err
