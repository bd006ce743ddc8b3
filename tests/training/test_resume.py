"""Trainers go on bit for bit from any optimiser step: weights, optimisers, schedules, random states, memory, data."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from traceward.data.formats import Format, encode
from traceward.records import Credit, Demonstration, Head, Rollout
from traceward.rewards.model import RewardModel
from traceward.training.adversarial import AdversarialTrainer
from traceward.training.baselines import outcome_rl, supervised_fine_tune
from traceward.training.checkpoints import Checkpoints
from traceward.training.critic import Critic
from traceward.training.resume import BufferedRollouts, DataOrder, train
from traceward.training.settings import AdversarialConfig, SFTSettings
from traceward.training.warmup import warm_up

# TRL still says it in the words that transformers is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing. is deprecated:FutureWarning")
MakePolicy = Callable[..., PreTrainedModel]
MakeReward = Callable[..., RewardModel]
MakeCritic = Callable[..., Critic]
Weights = dict[str, torch.Tensor]
Start = Callable[[Checkpoints], Weights]
"""A run in a place with or without checkpoints, from a new start each time; the weights at its end."""
STEPS = 5
# Two batches of rollouts an epoch, each for two steps in two backward passes: five steps see checkpoints inside a batch
# of rollouts, between two of them, and at an epoch's end.
CONFIG = AdversarialConfig(
    steps=STEPS,
    iterations=2,
    questions_per_step=4,
    group=2,
    rollouts_per_backward=4,
    max_new_tokens=8,
    critic_updates=1,
    credit=Credit.TRACE_MEAN,
    learning_rate=1e-2,
    kl=0.05,
)
# Not ours: times, and what TRL's trainer for SFT has read since its process began.
LEFT_OUT = ("step_time", "seconds/", "num_tokens")


@pytest.fixture
def adversarial(
    tmp_path: Path,
    make_policy: MakePolicy,
    make_reward: MakeReward,
    make_critic: MakeCritic,
    request: pytest.FixtureRequest,
) -> Start:
    """Policy and critic with dropout, so that training itself draws random numbers; a memory that overflows; the
    objective with most to learn: a head, and a potential beside it."""
    tokenizer, demonstrations = request.getfixturevalue("tokenizer"), request.getfixturevalue("demonstrations")

    def start(checkpoints: Checkpoints) -> Weights:
        policy = make_policy()
        critic = make_critic(make_reward(Head.SCALAR), held_out=0.0, replay=10, objective="airl")
        assert critic.reward.potential is not None
        for model in (policy, critic.reward.backbone):
            for layer in model.model.layers:
                layer.self_attn.attention_dropout = 0.2
        trainer = AdversarialTrainer(
            policy=policy,
            tokenizer=tokenizer,
            reward=critic.reward,
            critic=critic,
            demonstrations=demonstrations,
            config=CONFIG,
            directory=tmp_path / "adversarial",
            seed=3,
        )
        train(trainer, checkpoints, trainer.parts)
        return {**policy.state_dict(), **{f"reward.{k}": v for k, v in critic.reward.state_dict().items()}}

    return start


@pytest.fixture
def outcome(
    tmp_path: Path,
    make_policy: MakePolicy,
    tokenizer: PreTrainedTokenizerBase,
    demonstrations: list[Demonstration],
) -> Start:
    """Outcome RL; a random policy earns nothing, and the KL penalty alone moves it once it has moved."""

    def start(checkpoints: Checkpoints) -> Weights:
        policy = make_policy()
        for layer in policy.model.layers:
            layer.self_attn.attention_dropout = 0.2  # the reference has none: there is a divergence at once
        questions = [d.problem for d in demonstrations]
        place = tmp_path / "outcome"
        outcome_rl(policy, tokenizer, questions, CONFIG, place, style=Format.PLAIN, seed=3, checkpoints=checkpoints)
        return policy.state_dict()

    return start


@pytest.fixture
def fine_tuning(
    tmp_path: Path,
    make_policy: MakePolicy,
    tokenizer: PreTrainedTokenizerBase,
    demonstrations: list[Demonstration],
) -> Start:
    """Three updates an epoch, sorted by length within random parts."""
    traces = [encode(d.problem, d.trace, Format.PLAIN, tokenizer) for d in demonstrations]

    def start(checkpoints: Checkpoints) -> Weights:
        policy = make_policy()
        for layer in policy.model.layers:
            layer.self_attn.attention_dropout = 0.2
        settings = SFTSettings(steps=STEPS, batch=4, learning_rate=1e-2)
        rows = supervised_fine_tune(
            policy, tokenizer, traces, settings, tmp_path / "sft", seed=3, checkpoints=checkpoints
        )
        losses = torch.tensor([row["loss"] for row in rows])
        assert len(losses) == STEPS  # those before the checkpoint too
        return {**policy.state_dict(), "losses": losses}

    return start


@pytest.fixture
def warming(make_critic: MakeCritic, rollouts: list[Rollout]) -> Start:
    """A warm-up whose best weights are not its last."""

    def start(checkpoints: Checkpoints) -> Weights:
        critic = make_critic(warmup_updates=STEPS, warmup_at_least=1, check_every=2, patience=9, learning_rate=2e-2)
        done = warm_up(critic, rollouts, checkpoints=checkpoints)
        assert [row["step"] for row in done.rows] == list(range(STEPS + 1))
        losses = torch.tensor([row["loss"] for row in done.rows[1:]])
        return {**critic.reward.state_dict(), "kept": torch.tensor(done.kept), "losses": losses}

    return start


def content(path: Path) -> Any:
    """What a checkpoint's file holds."""
    if path.suffix in (".pt", ".pth"):
        return torch.load(path, weights_only=False)
    if path.name == "trainer_state.json":
        found = json.loads(path.read_text(encoding="utf-8"))
        found["log_history"] = [
            {key: value for key, value in row.items() if not key.startswith(LEFT_OUT)} for row in found["log_history"]
        ]
        return found
    return path.read_bytes()


def same(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    return bool((left == right).all()) if hasattr(left, "all") else bool(left == right)


def differing(left: Path, right: Path) -> list[str]:
    """Files of two checkpoints that do not hold the same. The marker signs times; the arguments name the place."""
    names = {path.name for place in (left, right) for path in place.iterdir()} - {"whole.json", "training_args.bin"}
    return sorted(name for name in names if not same(content(left / name), content(right / name)))


@pytest.mark.parametrize("kind", ["adversarial", "outcome", "fine_tuning", "warming"])
def test_from_every_step_a_run_goes_on_as_if_it_had_never_stopped(
    tmp_path: Path, request: pytest.FixtureRequest, kind: str
) -> None:
    start: Start = request.getfixturevalue(kind)
    whole = Checkpoints(tmp_path / "whole", every=1, keep=99)
    expected = start(whole)
    assert {path.name for path in whole.directory.glob("checkpoint-*")} == {f"checkpoint-{n}" for n in range(1, STEPS)}
    for step in range(1, STEPS):
        again = Checkpoints(tmp_path / f"from-{step}", every=1, keep=99)
        shutil.copytree(whole.directory / f"checkpoint-{step}", again.directory / f"checkpoint-{step}")
        torch.manual_seed(step)  # whatever a new process has
        assert same(start(again), expected), step
        for later in range(step + 1, STEPS):
            place = f"checkpoint-{later}"
            assert differing(whole.directory / place, again.directory / place) == [], (step, later)


@pytest.mark.parametrize("every", [0, 2])
def test_checkpoints_change_nothing(tmp_path: Path, adversarial: Start, every: int) -> None:
    expected = adversarial(Checkpoints(tmp_path / "always", every=1))
    found = Checkpoints(tmp_path / "some", every=every)
    assert same(adversarial(found), expected)
    assert len(list(found.directory.glob("checkpoint-*"))) == (2 if every else 0)


@pytest.mark.parametrize(
    "case",
    [
        ("adversarial", Critic, 3),
        ("adversarial", BufferedRollouts, 3),
        ("adversarial", DataOrder, 4),
        ("fine_tuning", DataOrder, 4),
    ],
    ids=str,
)
def test_without_one_of_the_parts_it_would_not(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, case: tuple[str, type, int]
) -> None:
    # So the comparison above sees each of them.
    kind, part, step = case
    start: Start = request.getfixturevalue(kind)
    found = Checkpoints(tmp_path / "run", every=step, keep=1)
    expected = start(found)
    monkeypatch.setattr(part, "load_state_dict", lambda *_: None)
    assert not same(start(found), expected)


def test_a_batch_of_rollouts_serves_as_many_steps_as_were_asked(
    tmp_path: Path, adversarial: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampled: list[int] = []
    generate = AdversarialTrainer._generate

    def noted(trainer: AdversarialTrainer, prompts: list[Any]) -> Any:
        sampled.append(trainer.state.global_step)
        return generate(trainer, prompts)

    monkeypatch.setattr(AdversarialTrainer, "_generate", noted)
    adversarial(Checkpoints(tmp_path / "run", every=0))
    assert sampled == [0, 2, 4]
