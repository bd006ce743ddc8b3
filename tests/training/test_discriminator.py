"""The four objectives on real batches."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from traceward.data.formats import EncodedTrace
from traceward.errors import ConfigError
from traceward.objectives.discriminator import airl_logits, shaped_reward
from traceward.records import Granularity, Head, Objective, Rollout, UnitSpec
from traceward.rewards.batches import TraceBatch, mean_by_unit
from traceward.rewards.heads import logprobs_under, token_logprobs, values_and_potentials
from traceward.rewards.model import RewardModel
from traceward.training import discriminator as module
from traceward.training.critic import Critic, Example
from traceward.training.discriminator import NO_SLOPE, Line

MakePolicy = Callable[..., PreTrainedModel]
MakeReward = Callable[..., RewardModel]
MakeCritic = Callable[..., Critic]
SPECS = [UnitSpec(granularity) for granularity in Granularity]
GOOD = [
    (objective, head, spec)
    for objective, head, spec in product(Objective, Head, SPECS)
    if (objective, head) != (Objective.WGAN_GP, Head.LOG_RATIO)
]


def policy_of(critic: Critic, policy: PreTrainedModel) -> Critic:
    critic.discriminator.policy_logprobs = logprobs_under(policy, temperature=1.0)
    return critic


def some(critic: Critic, rollouts: list[Rollout]) -> list[Example]:
    return [*critic.positives(critic.expert), *critic.rollouts(rollouts)]


def traces_of(examples: list[Example]) -> list[EncodedTrace]:
    return [example.trace for example in examples]


@pytest.mark.parametrize(
    ("objective", "head", "spec"), GOOD, ids=lambda value: str(getattr(value, "granularity", value))
)
def test_every_objective_learns_with_every_head_and_granularity(
    make_critic: MakeCritic,
    make_reward: MakeReward,
    make_policy: MakePolicy,
    rollouts: list[Rollout],
    *,
    objective: Objective,
    head: Head,
    spec: UnitSpec,
) -> None:
    settings: dict[str, object] = {"objective": objective, "learning_rate": 3e-3, "gradient_penalty": 1.0}
    if objective is Objective.AIRL:
        settings["head_learning_rate"] = 5e-2  # the random policy's log-probability is far from 0
    critic = policy_of(make_critic(make_reward(head, spec), **settings), make_policy())
    examples = some(critic, rollouts)
    before = critic.discrimination(examples)[0]
    for _ in range(25):
        row = critic.update(rollouts)
    loss, auroc = critic.discrimination(examples)
    assert loss < before
    assert auroc > 0.9
    assert ("slope" in row) is (objective is Objective.WGAN_GP)


# ---- airl ------------------------------------------------------------------------------------------------------------


def trained_airl(
    make_critic: MakeCritic, reward: RewardModel, policy: PreTrainedModel, rollouts: list[Rollout]
) -> Critic:
    critic = policy_of(make_critic(reward, objective="airl", learning_rate=3e-3, gamma=0.9), policy)
    for _ in range(4):
        critic.update(rollouts)
    return critic


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.granularity)
def test_the_logit_of_airl_is_the_shaped_reward_less_the_policys_mean_log_probability(
    make_critic: MakeCritic, make_reward: MakeReward, make_policy: MakePolicy, rollouts: list[Rollout], spec: UnitSpec
) -> None:
    policy = make_policy(seed=7)
    critic = trained_airl(make_critic, make_reward(Head.SCALAR, spec), policy, rollouts)
    batch = critic.reward.batch(traces_of(some(critic, rollouts)))
    assert critic.reward.potential is not None
    with torch.no_grad():
        g, h = values_and_potentials(critic.reward.backbone, critic.reward.potential, batch)
        f = shaped_reward(g.gather(1, batch.unit_end), h, batch.unit_mask, gamma=0.9)
        wanted = airl_logits(f, mean_by_unit(token_logprobs(policy, batch), batch))
        found = critic.discriminator.logits(batch)
    assert h[batch.unit_mask].abs().max() > 1e-3  # it has learned
    assert torch.allclose(found[batch.unit_mask], wanted[batch.unit_mask], atol=1e-5)
    assert found[~batch.unit_mask].abs().sum() == 0


def test_with_a_log_ratio_airls_f_is_log_p(
    make_critic: MakeCritic, make_reward: MakeReward, make_policy: MakePolicy, rollouts: list[Rollout]
) -> None:
    policy = make_policy(seed=7)
    critic = trained_airl(make_critic, make_reward(Head.LOG_RATIO, SPECS[0]), policy, rollouts)
    assert critic.reward.potential is None
    batch = critic.reward.batch(traces_of(some(critic, rollouts)))
    with torch.no_grad():
        ratio = token_logprobs(critic.reward.backbone, batch) - token_logprobs(policy, batch)
        found = critic.discriminator.logits(batch)[:, 0]
    assert torch.allclose(found, (ratio * (batch.unit >= 0)).sum(1), atol=1e-4)


def test_at_the_start_policy_airl_and_gail_are_one_for_a_log_ratio(
    make_critic: MakeCritic, make_reward: MakeReward, make_policy: MakePolicy, rollouts: list[Rollout]
) -> None:
    airl = policy_of(make_critic(make_reward(), objective="airl"), make_policy())
    gail = make_critic(make_reward())
    assert [airl.update(rollouts)["loss"] for _ in range(4)] == [gail.update(rollouts)["loss"] for _ in range(4)]


@pytest.mark.parametrize("head", list(Head))
def test_the_exported_reward_holds_no_log_pi(
    make_critic: MakeCritic,
    make_reward: MakeReward,
    make_policy: MakePolicy,
    rollouts: list[Rollout],
    *,
    tmp_path: Path,
    head: Head,
) -> None:
    # Another policy changes what the discriminator is trained on, and not one bit of any score, saved or not.
    policy = make_policy(seed=7)
    critic = trained_airl(make_critic, make_reward(head), policy, rollouts)
    traces = traces_of(some(critic, rollouts))
    batch = critic.reward.batch(traces)
    before, scores = critic.discriminator.logits(batch), critic.reward.score_encoded(traces)
    critic.reward.save(tmp_path / "before")
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.5)
    assert (critic.discriminator.logits(batch) - before)[batch.unit_mask].abs().min() > 0
    assert critic.reward.score_encoded(traces) == scores
    critic.reward.save(tmp_path / "after")
    assert RewardModel.load(tmp_path / "before").score_encoded(traces) == scores
    assert RewardModel.load(tmp_path / "after").score_encoded(traces) == scores


def test_an_expert_and_a_rollout_of_the_same_tokens_get_the_same_logit(
    make_critic: MakeCritic, make_reward: MakeReward, make_policy: MakePolicy, rollouts: list[Rollout]
) -> None:
    critic = trained_airl(make_critic, make_reward(Head.SCALAR), make_policy(seed=7), rollouts)
    expert = critic.positives(critic.expert[:1])[0]
    trace = expert.trace
    rollout = critic.rollouts([Rollout(trace.key, trace.prompt_ids, trace.completion_ids, "")])[0]
    one, other = critic.discriminator.logits(critic.reward.batch(traces_of([expert, rollout])))
    assert (expert.label, rollout.label) == (1, 0)
    assert torch.allclose(one, other, atol=1e-6)


def test_airl_without_a_policy_is_refused(make_critic: MakeCritic, rollouts: list[Rollout]) -> None:
    critic = make_critic(objective="airl")
    with pytest.raises(ConfigError, match="must know the policy's log-probabilities: got none; give policy_logprobs"):
        critic.update(rollouts)


def test_the_discount_reaches_the_logit(
    make_critic: MakeCritic, make_reward: MakeReward, make_policy: MakePolicy, rollouts: list[Rollout]
) -> None:
    critic = trained_airl(make_critic, make_reward(Head.SCALAR), make_policy(), rollouts)
    again = policy_of(make_critic(critic.reward, objective="airl", gamma=0.5), make_policy())
    batch = critic.reward.batch(traces_of(some(critic, rollouts)))
    one, other = critic.discriminator.logits(batch), again.discriminator.logits(batch)
    last = batch.unit_mask.sum(1, keepdim=True) - 1
    assert torch.equal(one.gather(1, last), other.gather(1, last))  # behind it is the terminal state
    assert not torch.allclose(one[:, 0], other[:, 0])


# ---- wgan-gp ---------------------------------------------------------------------------------------------------------


def wgan(make_critic: MakeCritic, reward: RewardModel, weight: float) -> Critic:
    return make_critic(reward, objective="wgan-gp", gradient_penalty=weight, corruptions=0.0, learning_rate=3e-3)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.granularity)
def test_the_penalty_holds_the_slope_near_one(
    make_critic: MakeCritic, make_reward: MakeReward, rollouts: list[Rollout], spec: UnitSpec
) -> None:
    slopes = {}
    for weight in (0.0, 10.0):
        critic = wgan(make_critic, make_reward(Head.SCALAR, spec), weight)
        slopes[weight] = [critic.update(rollouts)["slope"] for _ in range(40)]
    assert sum(slopes[10.0][-10:]) / 10 == pytest.approx(1.0, abs=0.3)
    assert max(slopes[0.0]) > 3


def lines_of(critic: Critic, examples: list[Example]) -> dict[int, Line]:
    return critic.discriminator.lines(traces_of(examples), [e.label for e in examples], random.Random(0))


def test_the_slope_of_a_known_score(
    make_critic: MakeCritic, make_reward: MakeReward, rollouts: list[Rollout], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A "backbone" whose value at a token is v . embedding: the mean over U units has the gradient v / U at each unit's
    # end, so its length is |v| / sqrt(U).
    reward = make_reward(Head.SCALAR, UnitSpec(every=4))
    critic = wgan(make_critic, reward, 10.0)
    v = torch.arange(32.0) / 32
    monkeypatch.setattr(module, "scalar_values", lambda _model, _batch, *, embeddings: embeddings @ v)
    lines = list(lines_of(critic, some(critic, rollouts)).values())
    units = [-(-len(line.longer.completion_ids) // 4) for line in lines]
    slopes = critic.discriminator.slopes([lines[0], None, *lines[1:]])[:, 0].tolist()
    assert slopes.pop(1) == NO_SLOPE
    assert slopes == pytest.approx([v.norm().item() / count**0.5 for count in units], rel=1e-5)


def test_lines_join_an_expert_with_another_trace_of_its_question(
    make_critic: MakeCritic, make_reward: MakeReward, rollouts: list[Rollout]
) -> None:
    critic = wgan(make_critic, make_reward(Head.SCALAR), 10.0)
    examples = some(critic, rollouts)
    lines = lines_of(critic, examples)
    assert list(lines) == list(range(len(critic.expert)))
    for row, line in lines.items():
        ends = [line.longer, line.shorter]
        assert examples[row].trace in ends
        ends.remove(examples[row].trace)
        assert ends[0] in [e.trace for e in examples if e.label == 0 and e.trace.key == examples[row].trace.key]
        assert len(line.longer.completion_ids) >= len(line.shorter.completion_ids)
    assert len({round(line.share, 3) for line in lines.values()}) > len(lines) / 2


def test_points_keep_the_prompt_and_the_longer_traces_end(
    make_critic: MakeCritic, make_reward: MakeReward, rollouts: list[Rollout], monkeypatch: pytest.MonkeyPatch
) -> None:
    reward = make_reward(Head.SCALAR)
    critic, seen = wgan(make_critic, reward, 10.0), list[torch.Tensor]()
    values = module.scalar_values

    def keep(model: PreTrainedModel, batch: TraceBatch, *, embeddings: torch.Tensor) -> torch.Tensor:
        seen.append(embeddings.detach())
        return values(model, batch, embeddings=embeddings)

    monkeypatch.setattr(module, "scalar_values", keep)
    lines = list(lines_of(critic, some(critic, rollouts)).values())
    critic.discriminator.slopes(lines)
    embed = reward.backbone.get_input_embeddings()
    for line, point in zip(lines, seen[0], strict=True):
        longer, shorter = (
            embed(torch.tensor([*trace.prompt_ids, *trace.completion_ids])) for trace in (line.longer, line.shorter)
        )
        start, stop = len(line.longer.prompt_ids), len(shorter)
        assert torch.equal(point[:start], longer[:start])
        assert torch.equal(point[stop : len(longer)], longer[stop:])
        mixed = line.share * longer[start:stop] + (1 - line.share) * shorter[start:stop]
        assert torch.allclose(point[start:stop], mixed, atol=1e-6)


def test_a_penalty_needs_a_pair(make_critic: MakeCritic, make_reward: MakeReward, rollouts: list[Rollout]) -> None:
    critic = wgan(make_critic, make_reward(Head.SCALAR), 10.0)
    own = {rollout.problem_id for rollout in rollouts[:3]}
    strangers = [d for d in critic.expert if d.problem.id not in own]
    with pytest.raises(ValueError, match="got no such pair"):
        lines_of(critic, [*critic.positives(strangers), *critic.rollouts(rollouts[:3])])


def test_rows_without_a_line_have_no_part_in_the_penalty(make_critic: MakeCritic, make_reward: MakeReward) -> None:
    critic = wgan(make_critic, make_reward(Head.SCALAR), 2.0)
    logits, there = torch.tensor([[4.0, 2.0], [1.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 1.0], [1, 0], [1, 0]])
    labels, question = torch.tensor([1, 0, 0]), torch.zeros(3)
    slopes = torch.tensor([[4.0, 0.0], [NO_SLOPE, 0.0], [NO_SLOPE, 0.0]])
    loss = critic.discriminator.loss((logits, slopes, there, there), labels, question, smoothing=0.1)
    assert loss.item() == 1 - 3 + 2 * (4 - 1) ** 2


def test_attention_that_has_no_second_derivative_is_refused(make_critic: MakeCritic, make_reward: MakeReward) -> None:
    reward = make_reward(Head.SCALAR)
    reward.backbone.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(ConfigError, match=r"must be 'sdpa' or 'eager'.*got 'flash_attention_2'"):
        wgan(make_critic, reward, 10.0)


# ---- what does not go together ---------------------------------------------------------------------------------------


def test_a_log_ratio_has_no_gradient_between_traces(make_critic: MakeCritic, make_reward: MakeReward) -> None:
    with pytest.raises(ConfigError, match=r"reward\.head must be 'scalar' with critic.objective 'wgan-gp'"):
        make_critic(make_reward(Head.LOG_RATIO), objective="wgan-gp")
