"""The reference runs over a rollout once, and everything is what it would be if it ran each time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from traceward.data.formats import as_sampled
from traceward.records import Demonstration, Granularity, Head, Rollout, UnitSpec
from traceward.rewards.batches import TraceBatch
from traceward.rewards.heads import token_logprobs
from traceward.rewards.model import RewardModel
from traceward.training.adversarial import AdversarialTrainer
from traceward.training.critic import Critic
from traceward.training.reference import SharedReference, same_weights
from traceward.training.settings import AdversarialConfig

# TRL still says it in the words that transformers is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing. is deprecated:FutureWarning")
MakePolicy = Callable[..., PreTrainedModel]
MakeReward = Callable[..., RewardModel]
MakeCritic = Callable[..., Critic]
SMALL = {
    "steps": 3,
    "questions_per_step": 2,
    "group": 2,
    "max_new_tokens": 8,
    "learning_rate": 1e-2,
    "kl": 0.5,
    "credit": "trace-mean",
}


class Counted:
    """Counts the traces that go through a reward's reference."""

    def __init__(self, reward: RewardModel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows = 0

        def counting(model: Any, batch: TraceBatch, **options: Any) -> torch.Tensor:
            self.rows += len(batch.input_ids) if model is reward.reference else 0
            return token_logprobs(model, batch, **options)

        monkeypatch.setattr("traceward.rewards.model.token_logprobs", counting)


def learned(make_reward: MakeReward) -> RewardModel:
    """A reward away from its start, which exports a share of its reference."""
    reward = make_reward()
    reward.reference_share = 0.5
    with torch.no_grad():
        for weight in reward.backbone.parameters():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)), alpha=0.05)
    return reward


def test_traces_that_bring_their_reference_are_read_the_same_without_it(
    make_reward: MakeReward, rollouts: list[Rollout], monkeypatch: pytest.MonkeyPatch
) -> None:
    reward = learned(make_reward)
    plain = [as_sampled(r) for r in rollouts]
    brought = [replace(t, ref_logprobs=v) for t, v in zip(plain, reward.ref_logprobs(plain), strict=True)]
    assert all(len(t.ref_logprobs or ()) == len(t.completion_ids) for t in brought)
    mixed = [own if at % 3 else bare for at, (own, bare) in enumerate(zip(brought, plain, strict=True))]
    expected = reward.score_encoded(plain)
    counted = Counted(reward, monkeypatch)
    for traces, rows in ((brought, 0), (mixed, len(mixed[::3])), (plain, len(plain))):
        counted.rows = 0
        for a, b in zip(reward.score_encoded(traces), expected, strict=True):
            assert a.exported == pytest.approx(b.exported, abs=1e-4)
            assert a.unit_logits == pytest.approx(b.unit_logits, abs=1e-4)
        assert counted.rows == rows


def test_a_rounds_rollouts_are_read_by_the_reference_once(
    make_reward: MakeReward,
    make_critic: MakeCritic,
    make_policy: MakePolicy,
    rollouts: list[Rollout],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reward = learned(make_reward)
    shared = SharedReference(reward, make_policy(), AdversarialConfig(), precision="no")
    known = shared.read(rollouts)
    counted = Counted(reward, monkeypatch)
    critic = make_critic(reward, positives=2, corruptions=0, rollouts=6)
    critic.update(known)
    critic.remember(known)
    critic.update(known)  # three fresh, three remembered
    assert counted.rows == 2 * 2  # the experts'
    state = critic.state_dict()
    critic.load_state_dict(state)
    assert critic.replay == known


@pytest.mark.parametrize(
    ("changed", "precision", "serves"),
    [
        ({}, "no", True),
        ({"kl": 0.0}, "no", False),
        ({"temperature": 0.7}, "no", False),
        ({}, "bf16", False),
    ],
)
def test_it_stands_for_trls_reference_only_where_that_is_the_same_reading(
    make_reward: MakeReward, make_policy: MakePolicy, changed: dict[str, float], precision: str, serves: bool
) -> None:
    config = AdversarialConfig.model_validate(changed)
    assert SharedReference(learned(make_reward), make_policy(), config, precision=precision).serves_kl is serves
    assert not SharedReference(learned(make_reward), make_policy(seed=5), config, precision=precision).serves_kl
    scalar = make_reward(Head.SCALAR, UnitSpec(Granularity.SPARSE))
    assert not SharedReference(scalar, make_policy(), config, precision=precision).serves_kl
    assert not SharedReference(learned(make_reward), make_policy(), config, precision=precision, crossed=True).serves_kl
    assert same_weights(make_policy(), make_policy())


@pytest.fixture
def trained(
    make_policy: MakePolicy,
    make_reward: MakeReward,
    make_critic: MakeCritic,
    demonstrations: list[Demonstration],
    tokenizer: PreTrainedTokenizerBase,
) -> Callable[[Path], AdversarialTrainer]:
    """A policy and a reward after a few rounds."""

    def train(directory: Path) -> AdversarialTrainer:
        critic = make_critic(learned(make_reward), positives=2, rollouts=2)
        trainer = AdversarialTrainer(
            policy=make_policy(),
            tokenizer=tokenizer,
            reward=critic.reward,
            critic=critic,
            demonstrations=demonstrations,
            config=AdversarialConfig.model_validate(SMALL),
            directory=directory,
        )
        trainer.train()
        return trainer

    return train


def test_training_is_the_same_with_trls_own_reference(
    trained: Callable[[Path], AdversarialTrainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = trained(tmp_path / "ours")
    assert ours._reference.serves_kl
    monkeypatch.setattr("traceward.training.reference.same_weights", lambda *_: False)
    theirs = trained(tmp_path / "theirs")
    assert not theirs._reference.serves_kl
    kls = [[row["kl"] for row in trainer.state.log_history if "kl" in row] for trainer in (ours, theirs)]
    assert kls[0][-1] > 1e-4
    assert kls[0] == pytest.approx(kls[1], abs=1e-5)
    for a, b in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-4)
