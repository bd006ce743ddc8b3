"""Stages of a run whose policy and reward are adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from traceward.adapters import CONFIG, is_adapted, share_weights
from traceward.config import Arm, resolve
from traceward.data.formats import EncodedTrace
from traceward.data.jsonl import write_jsonl
from traceward.data.tasks import stories
from traceward.errors import ConfigError
from traceward.loading import load_policy
from traceward.rewards.model import RewardModel
from traceward.training import adversarial
from traceward.training.adversarial import AdversarialTrainer
from traceward.training.run_directory import RunDirectory
from traceward.workflows import stages
from traceward.workflows.arms import arm
from traceward.workflows.inputs import base_policy, load_task, quiet, sft_policy
from traceward.workflows.judge import judge_run
from traceward.workflows.train import check


def tree_of(directory: Path, policy: Path, **reward: Any) -> dict[str, Any]:
    """A recipe of few steps on data that are written to `directory`."""
    for split, seed in (("train", 1), ("test", 2)):
        rows = [
            {"question": d.problem.question, "steps": list(d.trace.steps), "answer": d.trace.answer}
            for d in stories.demonstrations(6, seed=seed, relations=(2, 2))
        ]
        write_jsonl(directory / f"{split}.jsonl", rows)
    return {
        "run": {"start": "sft", "arms": ["adversarial"], "checkpoint_every": 1},
        "data": {"task": "jsonl", "path": str(directory), "test": 2, "validation": 0},
        "policy": {"path": str(policy), "adapter": {"rank": 2}, "gradient_checkpointing": True, "bf16": True},
        "sft": {"steps": 2, "batch": 4, "learning_rate": 0.1},
        "reward": {"adapter": {"rank": 2}, "gradient_checkpointing": True, **reward},
        "critic": {"held_out": 0, "warmup_updates": 1, "rollouts_per_question": 2, "positives": 2, "rollouts": 4},
        "adversarial": {"steps": 2, "questions_per_step": 2, "group": 2, "max_new_tokens": 4, "credit": "trace-mean"},
        "evaluation": {"policy_samples": 1, "samples": 2},
    }


@pytest.mark.parametrize("head", ["log-ratio", "scalar"])
def test_a_run_of_adapters(tmp_path: Path, policy: Path, head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    more = {"start": "sft"} if head == "log-ratio" else {"shares_backbone": True}
    tree = tree_of(tmp_path, policy, head=head, **more)
    run = RunDirectory.create(tmp_path / "run", resolve(tree, where="test"))
    quiet()
    for stage in (stages.sft, stages.rollouts, stages.samples, stages.reward):
        stage(run)
    tuned, _ = sft_policy(run)
    assert is_adapted(tuned)
    learned = RewardModel.load(run.path / "reward")
    assert is_adapted(learned.backbone)
    base = base_policy(run)[0].state_dict()
    plain = {name.replace(".base_layer", ""): value for name, value in learned.backbone.state_dict().items()}
    assert all(torch.equal(plain[name], value) for name, value in base.items() if name.startswith("model."))
    shared: list[bool] = []
    check = adversarial.check_shared_weights

    def look(trainer: AdversarialTrainer, model: Any, reward: Any) -> None:
        shared.append(share_weights(model, reward))
        check(trainer, model, reward)

    monkeypatch.setattr(adversarial, "check_shared_weights", look)
    arm(run, Arm.ADVERSARIAL)
    assert shared == [head == "scalar"]
    place = run.path / "policies/adversarial"
    assert {path.name for path in place.iterdir()} >= {CONFIG, "tokenizer.json"}
    assert not list(run.path.rglob("model.safetensors"))
    assert not (place / "ref").exists()
    trained, _ = load_policy(place, place)
    names = [name for name in trained.state_dict() if ".lora_B." in name]
    assert any(not torch.equal(trained.state_dict()[name], tuned.state_dict()[name]) for name in names)
    assert is_adapted(RewardModel.load(run.path / "reward-after").backbone)
    assert judge_run(run)["rerank"]["reward"] is not None


def test_a_run_of_adapters_on_weights_in_4_bit(tmp_path: Path, policy: Path) -> None:
    pytest.importorskip("bitsandbytes")
    tree = tree_of(tmp_path, policy, start="base", shares_backbone=True)
    tree["policy"]["load_in_4bit"] = True
    tree["run"]["start"] = "base"
    run = RunDirectory.create(tmp_path / "run", resolve(tree, where="test"))
    quiet()
    for stage in (stages.rollouts, stages.samples, stages.reward):
        stage(run)
    arm(run, Arm.ADVERSARIAL)
    learned, again = (RewardModel.load(run.path / place) for place in ("reward-after", "reward-after"))
    assert {type(module).__name__ for module in learned.backbone.modules()} >= {"Linear4bit"}
    traces = [EncodedTrace((5, 6, 7), tuple(range(10, 14 + at))) for at in range(4)]
    scores = [found.exported for found in learned.score_encoded(traces)]
    assert scores == [found.exported for found in again.score_encoded(traces)]
    assert scores != [found.exported for found in RewardModel.load(run.path / "reward").score_encoded(traces)]
    trained, _ = load_policy(run.path / "policies/adversarial", policy)
    assert any(weight.abs().any() for name, weight in trained.state_dict().items() if ".lora_B." in name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": {"shares_backbone": True}}, "must be set with reward.shares_backbone"),
        ({"policy": {"load_in_4bit": True}}, "policy.adapter.rank and reward.adapter.rank must be set"),
        (
            {"reward": {"start": "sft", "adapter": {"rank": 2}}, "critic": {"held_out": 0}},
            "must be 'base' with a reward",
        ),
        (
            {"reward": {"head": "scalar", "gradient_checkpointing": True}, "critic": {"objective": "wgan-gp"}},
            "reward.gradient_checkpointing must be false",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(changes, where="test")


@pytest.mark.parametrize("launcher", ["FSDP", "DEEPSPEED"])
@pytest.mark.parametrize("settings", [{"shares_backbone": True}, {"adapter": {"rank": 2}}])
def test_a_learning_adapter_of_a_reward_is_not_taken_apart(
    tmp_path: Path, policy: Path, monkeypatch: pytest.MonkeyPatch, launcher: str, settings: dict[str, Any]
) -> None:
    tree = tree_of(tmp_path, policy, **settings)
    tree["run"]["checkpoint_every"] = 0
    recipe = resolve(tree, where="test")
    check(recipe, load_task(recipe))
    monkeypatch.setenv(f"ACCELERATE_USE_{launcher}", "true")
    with pytest.raises(ConfigError, match=r"reward\.\S+ must be (false|left out) under FSDP and DeepSpeed"):
        check(recipe, load_task(recipe))
