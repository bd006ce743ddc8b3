"""Training with adapters: what moves and what does not, checkpointed gradients, the KL reference, resuming."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

from traceward.adapters import adapted_policy, checkpoint_gradients
from traceward.data.formats import Format, encode
from traceward.errors import ConfigError
from traceward.loading import load_adapted_policy, load_causal_lm
from traceward.records import Demonstration, Head, Rollout, UnitSpec
from traceward.rewards.heads import logprobs_under, token_logprobs
from traceward.rewards.model import RewardModel, new_reward
from traceward.training.adapter import AdapterSettings
from traceward.training.adversarial import AdversarialTrainer
from traceward.training.baselines import supervised_fine_tune
from traceward.training.checkpoints import Checkpoints
from traceward.training.critic import Critic
from traceward.training.resume import train
from traceward.training.settings import AdversarialConfig, SFTSettings
from traceward.training.warmup import warm_up

# TRL and PEFT still say it in the words that transformers is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
ADAPTER = AdapterSettings(rank=2)
HEADS = pytest.mark.parametrize("head", list(Head))
MakePolicy = Callable[..., PreTrainedModel]
MakeCritic = Callable[..., Critic]
Weights = dict[str, torch.Tensor]


@pytest.fixture
def make_adapted(make_policy: MakePolicy, tokenizer: PreTrainedTokenizerBase) -> Callable[..., RewardModel]:
    """A reward with an adapter at its start."""

    def make(head: Head = Head.LOG_RATIO, *, whole: bool = False) -> RewardModel:
        base, own = make_policy(spread=0.2), None if whole else ADAPTER
        return new_reward(base, tokenizer, head=head, spec=UnitSpec(), style=Format.PLAIN, adapter=own, seed=1)

    return make


def copied(model: torch.nn.Module) -> Weights:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def moved(before: Weights, after: Weights) -> set[str]:
    return {name for name, value in after.items() if not torch.equal(value, before[name])}


@HEADS
@pytest.mark.parametrize("objective", ["gail", "airl", "pairwise"])
def test_updates_move_the_adapter_and_the_head_alone(
    make_adapted: Callable[..., RewardModel],
    make_critic: MakeCritic,
    rollouts: list[Rollout],
    head: Head,
    objective: str,
) -> None:
    critic = make_critic(make_adapted(head), objective=objective)
    critic.discriminator.policy_logprobs = logprobs_under(make_adapted().reference, temperature=1.0)
    before = copied(critic.reward)
    for _ in range(2):
        critic.update(rollouts)
    found = moved(before, copied(critic.reward))
    expected = {name for name in before if ".lora_" in name or name.startswith(("backbone.score.w", "potential.w"))}
    assert expected <= found
    assert found - expected <= {"backbone.score.bias", "potential.bias"}


@pytest.mark.parametrize(
    ("head", "objective", "whole"),
    [(Head.LOG_RATIO, "gail", False), (Head.SCALAR, "airl", False), (Head.LOG_RATIO, "gail", True)],
)
def test_checkpointed_gradients_give_the_same_update(
    request: pytest.FixtureRequest,
    make_adapted: Callable[..., RewardModel],
    head: Head,
    objective: str,
    whole: bool,
) -> None:
    make_critic, rollouts = request.getfixturevalue("make_critic"), request.getfixturevalue("rollouts")
    policy = make_adapted().reference
    found: list[Weights] = []
    passes: list[int] = []
    for checkpointed in (False, True):
        reward = make_adapted(head, whole=whole)
        if checkpointed:
            checkpoint_gradients(reward.backbone)
            reward.backbone.base_model.layers[0].mlp.register_forward_pre_hook(lambda *_: passes.append(1))
        critic = make_critic(reward, objective=objective, learning_rate=1e-2)
        critic.discriminator.policy_logprobs = logprobs_under(policy, temperature=1.0)
        for _ in range(2):
            critic.update(rollouts)
        found.append(copied(reward.learned))
    for name, value in found[0].items():
        assert torch.allclose(found[1][name], value, atol=2e-4), name
    assert len(passes) == 16  # two updates in four slices, each forward twice


def test_a_penalty_that_is_differentiated_twice_takes_no_checkpointed_gradients(
    make_adapted: Callable[..., RewardModel], make_critic: MakeCritic
) -> None:
    reward = make_adapted(Head.SCALAR)
    checkpoint_gradients(reward.backbone)
    with pytest.raises(ConfigError, match="gradient checkpointing must be off with objective 'wgan-gp'"):
        make_critic(reward, objective="wgan-gp")


def test_a_warm_up_keeps_what_learns_and_no_more(
    make_adapted: Callable[..., RewardModel], make_critic: MakeCritic, rollouts: list[Rollout]
) -> None:
    critic = make_critic(make_adapted(), warmup_updates=4, check_every=2, warmup_at_least=2)
    state = critic.state_dict()["learner"]["weights"]
    assert state
    assert all(".lora_" in name for name in state)
    before = copied(critic.reward)
    warm_up(critic, rollouts)
    found = moved(before, copied(critic.reward))
    assert found
    assert all(".lora_" in name for name in found)


def test_an_adapter_that_learns_needs_whole_weights(
    make_adapted: Callable[..., RewardModel], make_critic: MakeCritic
) -> None:
    critic = make_critic(make_adapted())
    for other in (
        SimpleNamespace(is_fsdp2=True, distributed_type=DistributedType.FSDP),
        SimpleNamespace(is_fsdp2=False, distributed_type=DistributedType.DEEPSPEED),
    ):
        with pytest.raises(ConfigError, match=r"must be started with recipes/accelerate/ddp\.yaml"):
            critic.learner.prepare(other)


# ---- policies --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("checkpointed", [False, True])
def test_the_kl_reference_of_a_new_adapter_is_the_policy_without_it(
    alternate: Callable[..., Any], make_policy: MakePolicy, make_adapted: Callable[..., RewardModel], checkpointed: bool
) -> None:
    base = make_policy()
    before = copied(base)
    policy = adapted_policy(base, ADAPTER, seed=0)
    trainer, rows = alternate(
        policy=policy, reward=make_adapted(), kl=0.1, learning_rate=3e-2, gradient_checkpointing=checkpointed
    )
    assert trainer.ref_model is None
    assert list(policy.peft_config) == ["default"]
    assert rows[0]["kl"] == 0
    assert max(row["kl"] for row in rows if "kl" in row) > 0
    after = {name.replace(".base_layer", ""): value for name, value in copied(policy.get_base_model()).items()}
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert any(".lora_B." in name and value.any() for name, value in after.items())


def test_the_kl_reference_of_a_tuned_adapter_is_that_adapter(
    request: pytest.FixtureRequest,
    make_policy: MakePolicy,
    make_adapted: Callable[..., RewardModel],
    demonstrations: list[Demonstration],
    tmp_path: Path,
) -> None:
    base, tokenizer = tmp_path / "base", request.getfixturevalue("tokenizer")
    make_policy().save_pretrained(base)
    policy = adapted_policy(load_causal_lm(base), ADAPTER, seed=0)
    traces = [encode(d.problem, d.trace, Format.PLAIN, tokenizer) for d in demonstrations]
    settings = SFTSettings(steps=4, batch=4, learning_rate=3e-2)
    losses = supervised_fine_tune(policy, tokenizer, traces, settings, tmp_path / "sft", seed=0)
    assert losses[-1]["loss"] < losses[0]["loss"]
    policy.save_pretrained(tmp_path / "tuned", selected_adapters=["default"])
    tuned = load_adapted_policy(tmp_path / "tuned")
    _, rows = request.getfixturevalue("alternate")(policy=tuned, reward=make_adapted(), kl=0.1, learning_rate=3e-2)
    assert [*tuned.peft_config] == ["default", "ref"]
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-6)
    kept = {name.replace(".ref.", ".default."): v for name, v in tuned.state_dict().items() if ".ref." in name}
    assert all(torch.equal(policy.state_dict()[name], value) for name, value in kept.items())
    assert moved(kept, {name: tuned.state_dict()[name] for name in kept})


@pytest.mark.parametrize("trainer", ["sft", "adversarial"])
def test_an_adapter_beside_4_bit_learns_in_float32(
    request: pytest.FixtureRequest, make_policy: MakePolicy, tmp_path: Path, trainer: str
) -> None:
    """TRL takes it to bfloat16 where the model says of itself that it is in 4 bit."""
    base = make_policy()
    policy = adapted_policy(base, ADAPTER, seed=0)
    base.is_loaded_in_4bit = True
    # It would ask bitsandbytes how many numbers there are.
    request.getfixturevalue("monkeypatch").setattr(Trainer, "floating_point_ops", lambda *_: 0)
    before = copied(policy)
    if trainer == "sft":
        tokenizer, items = request.getfixturevalue("tokenizer"), request.getfixturevalue("demonstrations")
        traces = [encode(d.problem, d.trace, Format.PLAIN, tokenizer) for d in items]
        supervised_fine_tune(policy, tokenizer, traces, SFTSettings(steps=1, batch=4), tmp_path / "sft", seed=0)
    else:
        reward = request.getfixturevalue("make_adapted")(Head.SCALAR)
        request.getfixturevalue("alternate")(policy=policy, reward=reward, steps=1)
    assert {weight.dtype for name, weight in policy.named_parameters() if ".lora_" in name} == {torch.float32}
    # What did not move is what it was: nothing went through a coarser type on the way.
    assert all(".lora_" in name for name in moved(before, copied(policy)))


def test_a_policys_logprobs_are_read_with_its_adapter(
    make_policy: MakePolicy, make_adapted: Callable[..., RewardModel], demonstrations: list[Demonstration]
) -> None:
    policy, reward = adapted_policy(make_policy(), ADAPTER, seed=0), make_adapted()
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            parameter.add_(0.05 * (".lora_" in name))
        batch = reward.batch([encode(d.problem, d.trace, Format.PLAIN, reward.tokenizer) for d in demonstrations])
        found = logprobs_under(policy, temperature=1.0)(batch)
        assert torch.equal(found, token_logprobs(policy.get_base_model(), batch))
        assert not torch.allclose(found, token_logprobs(make_policy(), batch))


def test_policy_and_reward_with_adapters_go_on_bit_for_bit(
    make_policy: MakePolicy,
    make_adapted: Callable[..., RewardModel],
    make_critic: MakeCritic,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    tokenizer, demonstrations = request.getfixturevalue("tokenizer"), request.getfixturevalue("demonstrations")
    config = AdversarialConfig(
        steps=3, questions_per_step=2, group=2, max_new_tokens=8, credit="trace-mean", learning_rate=1e-2, kl=0.05
    )

    def start(name: str) -> tuple[AdversarialTrainer, Checkpoints]:
        critic = make_critic(make_adapted(Head.SCALAR), held_out=0.0)
        trainer = AdversarialTrainer(
            policy=adapted_policy(make_policy(), AdapterSettings(rank=2, dropout=0.1), seed=0),
            tokenizer=tokenizer, reward=critic.reward, critic=critic, demonstrations=demonstrations, config=config,
            directory=tmp_path / name, seed=3,
        )  # fmt: skip
        return trainer, Checkpoints(tmp_path / name / "checkpoints", every=2, keep=5)

    def end(trainer: AdversarialTrainer) -> Weights:
        return copied(trainer.accelerator.unwrap_model(trainer.model)) | copied(trainer.critic.reward)

    whole, kept = start("whole")
    train(whole, kept, whole.parts)
    again, _ = start("again")
    train(again, kept, again.parts)  # from the checkpoint after step 2
    assert again.state.global_step == 3
    assert moved(end(whole), end(again)) == set()
    fresh, _ = start("fresh")
    assert moved(end(whole), end(fresh))
