"""`traceward train` in two launched processes: the run that one process makes, and one writer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from traceward import cli
from traceward.config import Recipe
from traceward.data.tasks import stories
from traceward.data.tasks.registry import world_task
from traceward.errors import ConfigError
from traceward.loading import load_policy
from traceward.rewards.model import RewardModel
from traceward.workflows.train import check, run_recipe

pytestmark = pytest.mark.timeout(900)
ROOT = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "traceward"]
DDP = ROOT / "recipes" / "accelerate" / "ddp.yaml"  # without a GPU its processes talk over gloo
ACCELERATE = ["accelerate.commands.launch", "--config_file", str(DDP), "--num_processes", "2"]
# Any free port; and the precision that weights in pieces are compared in.
ACCELERATE += ["--main_process_port", "0", "--mixed_precision", "no", "-m", "traceward"]
RECIPE = ROOT / "benchmarks" / "_together.toml"


def part(run: Path, stage: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "parts" / f"{stage}.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same recipe by one process, without policies, and by two, with policies."""
    room = tmp_path_factory.mktemp("together")
    run_recipe(RECIPE, out=room / "one", overrides=["run.arms=[]", "run.workers=1"])
    command = [sys.executable, "-m", *ACCELERATE, "train", str(RECIPE), "--out", str(room / "two")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=room)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.splitlines() == [  # one process speaks
        f"run: {room / 'two'}",
        f"report: {room / 'two' / 'report.html'}",
        f"results: {room / 'two' / 'results.json'}",
    ]
    return room / "one", room / "two"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rollouts", "samples", "pairs"])
def test_samples_are_those_of_one_process(runs: tuple[Path, Path], name: str) -> None:
    one, two = (run / "data" / f"{name}.jsonl" for run in runs)
    assert one.read_text(encoding="utf-8") == two.read_text(encoding="utf-8")
    assert one.stat().st_size > 0


@pytest.mark.slow
def test_the_reward_is_that_of_one_process(runs: tuple[Path, Path]) -> None:
    one, two = (load_file(run / "reward" / "model" / "model.safetensors") for run in runs)
    assert one.keys() == two.keys()
    assert all((weights - two[name]).abs().max() < 2e-5 for name, weights in one.items())
    assert part(runs[1], "reward")["held_out_auroc"] == pytest.approx(part(runs[0], "reward")["held_out_auroc"])
    assert part(runs[1], "judge")["rerank"]["reward"] == pytest.approx(part(runs[0], "judge")["rerank"]["reward"])


@pytest.mark.slow
def test_a_run_of_two_processes_is_whole(runs: tuple[Path, Path]) -> None:
    run = runs[1]
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    assert all(results["policy_pass_at_1"][arm] is not None for arm in ("base", "sft", "adversarial"))
    assert results["policy_curves"]["adversarial"]["step"] == [0, 2]
    assert json.loads((run / "manifest.json").read_text(encoding="utf-8"))["processes"] == 2
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [(row["stage"], row["step"]) for row in rows]
    assert len(steps) == len(set(steps))  # every row once, not once per process
    assert {("sft", 2), ("warm-up", 4), ("adversarial", 2)} <= set(steps)
    policy, _ = load_policy(run / "policies" / "adversarial", run / "policies" / "adversarial")
    assert sum(weights.numel() for weights in policy.parameters()) > 0
    before, after = (RewardModel.load(run / name).backbone.state_dict() for name in ("reward", "reward-after"))
    assert not all((weights == after[name]).all() for name, weights in before.items())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fsdp2", "zero2", "zero3"])
def test_models_in_pieces_learn_what_whole_ones_do(runs: tuple[Path, Path], tmp_path: Path, kind: str) -> None:
    if kind != "fsdp2":
        pytest.importorskip("deepspeed")
    run, options = tmp_path / "run", ["--set", f"run.checkpoint_every={int(kind == 'fsdp2')}"]
    command = [*TORCHRUN[:-2], ROOT / "benchmarks" / "_on_cpus.py", kind, "train", RECIPE, "--out", run, *options]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    for place in ("reward/model", "policies/sft", "policies/adversarial", "reward-after/model"):
        whole, pieces = (load_file(one / place / "model.safetensors") for one in (runs[1], run))
        assert whole.keys() == pieces.keys()
        assert all((weights - pieces[name]).abs().max() < 2e-5 for name, weights in whole.items()), place
    before, after = (load_file(run / "policies" / name / "model.safetensors") for name in ("sft", "adversarial"))
    assert max((weights - before[name]).abs().max() for name, weights in after.items()) > 1e-4


@pytest.mark.parametrize("arguments", [["score", "x.jsonl", "--reward", "r"], ["report", "r"]])
def test_verbs_that_cannot_divide_their_work_refuse_to_be_launched(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.run(arguments) == 2
    assert f"traceward {arguments[0]} must run in one process" in capsys.readouterr().err


def test_a_grid_refuses_to_be_launched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    recipe = ROOT / "recipes" / "ablation.toml"
    assert cli.run(["train", str(recipe), "--out", str(tmp_path / "grid")]) == 2
    assert "a grid must be run by one process" in capsys.readouterr().err


def test_checkpoints_under_deepspeed_are_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    task = world_task(stories.world(), demonstrations=4, questions=40, validation=0, test=1, seed=0)
    with pytest.raises(ConfigError, match="checkpoint_every must be 0 under DeepSpeed"):
        check(Recipe(), task)
    check(Recipe.model_validate({"run": {"checkpoint_every": 0}}), task)


@pytest.mark.parametrize(
    "launch",
    [
        {"ACCELERATE_USE_FSDP": "true"},
        {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"},
    ],
)
def test_objectives_that_need_whole_weights_are_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, launch: dict[str, str]
) -> None:
    for name, value in launch.items():
        monkeypatch.setenv(name, value)
    task = world_task(stories.world(), demonstrations=4, questions=40, validation=0, test=1, seed=0)
    run = {"checkpoint_every": 0}
    for objective, head in (("wgan-gp", "scalar"), ("airl", "scalar")):
        recipe = Recipe.model_validate({"run": run, "critic": {"objective": objective}, "reward": {"head": head}})
        with pytest.raises(
            ConfigError, match=r"critic\.objective must not be 'wgan-gp', nor 'airl' with a scalar head"
        ):
            check(recipe, task)
    check(Recipe.model_validate({"run": run, "critic": {"objective": "airl"}, "reward": {"head": "log-ratio"}}), task)


@pytest.mark.slow
def test_a_batch_that_cannot_be_divided_is_refused_by_every_process(tmp_path: Path) -> None:
    command = [*TORCHRUN, "train", "recipes/demo.toml", "--out", str(tmp_path / "run"), "--set", "sft.batch=7"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ})
    assert done.returncode != 0
    assert "sft.batch must be a multiple of the processes: got 7 for 2" in done.stderr
    assert not (tmp_path / "run").exists()
