"""The discriminator's step: one loss over the whole batch, in any number of parts, at accelerate's side or without."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from transformers import PreTrainedModel

from traceward.errors import ConfigError
from traceward.records import Granularity, Head, Rollout, UnitSpec
from traceward.rewards.heads import logprobs_under
from traceward.rewards.model import RewardModel
from traceward.training.critic import Critic
from traceward.training.learner import SLICES, Learner, Tables

LENGTHS = [5, 3, 9, 4, 4, 8, 2]
MakeReward = Callable[..., RewardModel]
MakeCritic = Callable[..., Critic]


def coupled(tables: Tables) -> Tensor:
    """A loss in which every row meets every other one."""
    logits, known = tables
    return ((logits * known).sum(1)[:, None] - logits.sum(1)[None]).square().mean()


@pytest.mark.parametrize("rows_per_pass", [1, 2, 3, 7, 64])
def test_parts_give_the_gradient_of_the_whole_batch(rows_per_pass: int) -> None:
    inputs = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    units = [3, 1, 2, 3, 1, 1, 2]  # parts differ in width
    torch.manual_seed(1)
    model = nn.Linear(4, 3)
    model.to(torch.float64)
    largest = 0

    def forward(rows: list[int]) -> Tables:
        nonlocal largest
        largest = max(largest, len(rows))
        width = max(units[row] for row in rows)
        there = torch.tensor([[float(unit < units[row]) for unit in range(width)] for row in rows], dtype=torch.float64)
        return model(inputs[rows].double())[:, :width] * there, there

    expected = torch.autograd.grad(coupled(forward(list(range(7)))), list(model.parameters()))
    largest = 0
    optimiser = torch.optim.SGD(model.parameters(), lr=0.0)
    gradients: list[Tensor | None] = []
    optimiser.register_step_pre_hook(lambda *_: gradients.extend(parameter.grad for parameter in model.parameters()))
    learner = Learner(model, optimiser, grad_norm=1e9, rows_per_pass=rows_per_pass)
    done = learner.step(LENGTHS, forward, coupled)
    assert largest <= rows_per_pass
    assert done.loss == pytest.approx(coupled(forward(list(range(7)))).item(), abs=1e-12)
    for found, gradient in zip(gradients, expected, strict=True):
        assert found is not None
        assert torch.allclose(found, gradient, rtol=1e-12, atol=1e-12)
    assert done.grad_norm == pytest.approx(torch.cat([g.flatten() for g in expected]).norm().item(), rel=1e-12)
    looked = learner.look(LENGTHS, forward)
    assert torch.allclose(looked[0], done.tables[0])
    assert looked[1].sum(1).tolist() == units


@pytest.mark.parametrize(
    ("objective", "head"),
    [*((objective, head) for objective in ("gail", "pairwise", "airl") for head in Head), ("wgan-gp", Head.SCALAR)],
)
@pytest.mark.parametrize("spec", [UnitSpec(granularity) for granularity in Granularity], ids=str)
def test_an_update_in_parts_is_the_update_at_once(
    make_critic: MakeCritic,
    make_reward: MakeReward,
    make_policy: Callable[..., PreTrainedModel],
    rollouts: list[Rollout],
    *,
    head: Head,
    objective: str,
    spec: UnitSpec,
) -> None:
    # With the class weights of each part instead of the batch's, parts without experts would raise or weigh wrongly.
    found = []
    for traces_per_pass in (64, 3):
        reward = make_reward(head, spec)
        if hasattr(reward.backbone, "dropout"):
            reward.backbone.dropout.p = 0.0
        critic = make_critic(reward, objective=objective, traces_per_pass=traces_per_pass)
        critic.discriminator.policy_logprobs = logprobs_under(make_policy(seed=5), temperature=1.0)
        rows = [critic.update(rollouts) for _ in range(3)]
        check = [*critic.positives(critic.expert), *critic.rollouts(rollouts)]
        found.append((rows, critic.discrimination(check), list(reward.learned.parameters())))
    (rows, look, weights), (other_rows, other_look, other_weights) = found
    for row, other in zip(rows, other_rows, strict=True):
        assert other == pytest.approx(row, rel=1e-3, abs=1e-6)
    assert other_look == pytest.approx(look, rel=1e-4)
    # Three steps of Adam at 3e-3 move a weight by up to 9e-3.
    assert max((a - b).abs().max().item() for a, b in zip(weights, other_weights, strict=True)) < 2e-4


@pytest.mark.parametrize("head", Head)
def test_a_part_that_goes_forward_twice_drops_the_same_units(
    make_critic: MakeCritic,
    make_reward: MakeReward,
    rollouts: list[Rollout],
    monkeypatch: pytest.MonkeyPatch,
    head: Head,
) -> None:
    critic = make_critic(make_reward(head), traces_per_pass=5)
    if head is Head.SCALAR:
        assert critic.reward.backbone.dropout.p > 0
    else:
        for layer in critic.reward.backbone.model.layers:
            layer.self_attn.attention_dropout = 0.2
    passes: list[Tensor] = []
    tables = critic._tables
    monkeypatch.setattr(
        critic, "_tables", lambda examples: (passes.append((out := tables(examples))[0].detach().clone()), out)[1]
    )
    critic.update(rollouts)
    first, second = passes[: len(passes) // 2], passes[len(passes) // 2 :]
    assert len(first) == 3 * SLICES
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("traces_per_pass", [64, 3])
def test_a_prepared_learner_steps_between_the_policys_backward_passes(
    make_critic: MakeCritic, make_reward: MakeReward, rollouts: list[Rollout], traces_per_pass: int
) -> None:
    # There accelerate lets no optimiser step: the trap that this test is about.
    plain, prepared = (make_critic(make_reward(), traces_per_pass=traces_per_pass) for _ in range(2))
    accelerator = Accelerator(cpu=True)
    prepared.learner.prepare(accelerator)
    before = [weight.detach().clone() for weight in prepared.reward.backbone.parameters()]
    accelerator.gradient_state._set_sync_gradients(False)
    prepared.optimiser.step()
    assert all(torch.equal(a, b) for a, b in zip(before, prepared.reward.backbone.parameters(), strict=True))
    for _ in range(2):
        assert prepared.update(rollouts) == plain.update(rollouts)
    assert accelerator.gradient_state.sync_gradients is False
    accelerator.gradient_state._set_sync_gradients(True)
    after = list(prepared.reward.backbone.parameters())
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(plain.reward.backbone.parameters(), after, strict=True))


@pytest.mark.parametrize(
    ("objective", "head", "shardable"),
    [
        ("gail", Head.SCALAR, True),
        ("airl", Head.LOG_RATIO, True),
        ("airl", Head.SCALAR, False),
        ("wgan-gp", Head.SCALAR, False),
    ],
)
@pytest.mark.parametrize("kind", [DistributedType.FSDP, DistributedType.DEEPSPEED])
def test_what_cannot_be_in_pieces_is_refused(
    make_critic: MakeCritic,
    make_reward: MakeReward,
    monkeypatch: pytest.MonkeyPatch,
    *,
    kind: DistributedType,
    objective: str,
    head: Head,
    shardable: bool,
) -> None:
    learner = make_critic(make_reward(head), objective=objective).learner
    handed: list[object] = []
    plugin = SimpleNamespace(mixed_precision_policy="bf16")

    def prepare(*parts: object) -> tuple[object, ...]:
        # FSDP2 would cast what the discriminator gathers and returns.
        assert kind is DistributedType.DEEPSPEED or plugin.mixed_precision_policy is None
        handed.extend(parts)
        return parts

    accelerator = SimpleNamespace(
        distributed_type=kind,
        is_fsdp2=kind is DistributedType.FSDP,
        state=SimpleNamespace(
            deepspeed_plugin=SimpleNamespace(zero_stage=3),
            select_deepspeed_plugin=lambda _name: 0,
            fsdp_plugin=plugin,
        ),
        prepare=prepare,
    )
    # One beside the policy's, in either case.
    monkeypatch.setattr("traceward.training.learner.Accelerator", lambda: accelerator)
    monkeypatch.setattr("traceward.training.learner._beside_deepspeed", lambda *_: accelerator)
    if shardable:
        learner.prepare(accelerator)  # type: ignore[arg-type]
        handed_on = handed[0] if kind is DistributedType.FSDP else getattr(handed[0], "backbone", None)
        assert handed_on is learner.backbone
        assert plugin.mixed_precision_policy == "bf16"  # the policy's
    else:
        with pytest.raises(ConfigError, match="weights must stay whole"):
            learner.prepare(accelerator)  # type: ignore[arg-type]
        assert handed == []
