"""Readouts by head: what a policy is paid, and the second output of a scalar head."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForTokenClassification, PreTrainedModel

from traceward.data.formats import EncodedTrace
from traceward.records import Granularity, Head, UnitSpec
from traceward.rewards.batches import TraceBatch
from traceward.rewards.heads import logprobs_under, new_potential, token_logprobs, values_and_potentials
from traceward.rewards.model import RewardModel

SPARSE, STEPS, DENSE = (UnitSpec(granularity) for granularity in Granularity)
SPECS = [SPARSE, STEPS, UnitSpec(every=7), DENSE]
MakeReward = Callable[..., RewardModel]
MakePolicy = Callable[..., PreTrainedModel]


def by_unit(values: torch.Tensor, batch: TraceBatch, row: int) -> list[list[float]]:
    """The completion's token values of one trace, a list per unit."""
    unit = batch.unit[row].tolist()
    return [
        [v for v, u in zip(values[row].tolist(), unit, strict=True) if u == at]
        for at in range(int(batch.unit_mask[row].sum()))
    ]


@pytest.mark.parametrize("spec", SPECS)
def test_a_log_ratio_pays_a_policy_its_distance_to_the_expert(
    make_reward: MakeReward, make_policy: MakePolicy, traces: list[EncodedTrace], spec: UnitSpec
) -> None:
    reward, policy = make_reward(Head.LOG_RATIO, spec, beta=0.5), make_policy(seed=3)
    batch = reward.batch(traces)
    with torch.no_grad():
        ratio = 0.5 * (token_logprobs(reward.backbone, batch) - token_logprobs(policy, batch))
    scored = reward.score_encoded(traces, spec=None, policy_logprobs=logprobs_under(policy, temperature=1.0))
    for row, one in enumerate(scored):
        assert one.policy_rewards == pytest.approx([sum(unit) for unit in by_unit(ratio, batch, row)], abs=2e-5)
        assert one.unit_logits == ()


def test_against_its_reference_a_log_ratio_pays_its_logit(make_reward: MakeReward, traces: list[EncodedTrace]) -> None:
    reward = make_reward(Head.LOG_RATIO)
    assert reward.reference is not None
    against = logprobs_under(reward.reference, temperature=1.0)
    for one in reward.score_encoded(traces, policy_logprobs=against):
        assert one.policy_rewards == one.unit_logits


@pytest.mark.parametrize("spec", SPECS)
def test_a_scalar_pays_its_logit_and_with_airl_the_entropy(
    make_reward: MakeReward, make_policy: MakePolicy, traces: list[EncodedTrace], spec: UnitSpec
) -> None:
    reward, policy = make_reward(Head.SCALAR, spec), make_policy(seed=3)
    against = logprobs_under(policy, temperature=1.0)
    plain = reward.score_encoded(traces, spec=spec, policy_logprobs=against)
    assert [one.policy_rewards for one in plain] == [one.unit_logits for one in plain]
    reward.potential = new_potential(reward.backbone)
    batch = reward.batch(traces)
    logprobs = against(batch)
    for row, one in enumerate(reward.score_encoded(traces, spec=spec, policy_logprobs=against)):
        means = [sum(unit) / len(unit) for unit in by_unit(logprobs, batch, row)]
        wanted = [g - mean for g, mean in zip(plain[row].unit_logits, means, strict=True)]
        assert one.policy_rewards == pytest.approx(wanted, abs=1e-5)


def test_a_policys_log_probabilities_are_those_of_its_sampling(
    make_policy: MakePolicy, make_reward: MakeReward, traces: list[EncodedTrace]
) -> None:
    policy, batch = make_policy(dropout=0.5), make_reward().batch(traces)
    with torch.no_grad():
        logits = policy(input_ids=batch.input_ids[:1]).logits[0, :-1] / 0.7
    wanted = logits.log_softmax(-1).gather(-1, batch.input_ids[0, 1:, None])[:, 0]
    policy.train()
    found = logprobs_under(policy, temperature=0.7)(batch)
    inside = batch.unit[0, 1:] >= 0
    assert torch.allclose(found[0, 1:][inside], wanted[inside], atol=1e-5)
    assert torch.equal(found, logprobs_under(policy, temperature=0.7)(batch))  # no dropout
    assert not found.requires_grad
    assert policy.training


def test_the_policys_log_probabilities_follow_the_policy(
    make_policy: MakePolicy, make_reward: MakeReward, traces: list[EncodedTrace]
) -> None:
    policy, batch = make_policy(), make_reward().batch(traces)
    read = logprobs_under(policy, temperature=1.0)
    before = read(batch)
    with torch.no_grad():
        policy.lm_head.weight.mul_(1.1)
    assert not torch.allclose(read(batch), before)


@pytest.mark.parametrize("spec", SPECS)
def test_the_potential_is_read_in_the_state_before_each_unit(
    make_reward: MakeReward, traces: list[EncodedTrace], spec: UnitSpec
) -> None:
    reward = make_reward(Head.SCALAR, spec)
    potential = new_potential(reward.backbone)
    with torch.no_grad():
        potential.weight.copy_(reward.backbone.score.weight * 3)  # so that h = 3 g + 1, less the bias of g
        potential.bias.copy_(reward.backbone.score.bias * 3 + 1)
        batch = reward.batch(traces)
        values, potentials = values_and_potentials(reward.backbone, potential, batch)
        for row, trace in enumerate(traces):
            ids = [*trace.prompt_ids, *trace.completion_ids]
            ends = reward.segmenter.unit_ends(trace.completion_ids, spec)
            starts = [len(trace.prompt_ids), *(len(trace.prompt_ids) + end + 1 for end in ends[:-1])]
            for unit, start in enumerate(starts):
                alone = reward.backbone(input_ids=torch.tensor([ids[:start]])).logits[0, -1, 0].item()
                assert potentials[row, unit].item() == pytest.approx(3 * alone + 1, abs=1e-4)
                assert values[row, start - 1].item() == pytest.approx(alone, abs=1e-5)


def test_a_new_potential_is_zero_and_draws_no_numbers(make_reward: MakeReward) -> None:
    reward, before = make_reward(Head.SCALAR), torch.get_rng_state()
    potential = new_potential(reward.backbone)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(parameter.any() for parameter in potential.parameters())


def test_a_reward_of_airl_is_saved_as_g_with_its_potential_beside_it(
    make_reward: MakeReward, traces: list[EncodedTrace], tmp_path: Path
) -> None:
    reward = make_reward(Head.SCALAR)
    plain = reward.score_encoded(traces)
    reward.potential = new_potential(reward.backbone)
    with torch.no_grad():
        reward.potential.weight.fill_(0.5)
    reward.save(tmp_path / "reward")
    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "reward" / "model").eval()
    assert model.num_labels == 1
    assert set(model.state_dict()) == set(reward.backbone.state_dict())
    again = RewardModel.load(tmp_path / "reward")
    assert again.potential is not None
    assert torch.equal(again.potential.weight, reward.potential.weight)
    assert again.score_encoded(traces) == reward.score_encoded(traces) == plain
