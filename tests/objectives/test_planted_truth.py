"""Where the reward is known: airl finds it, gail an echo of it that fades as the policy becomes the expert.

The worlds and the learning are those of `benchmarks/planted_truth.py`, shorter.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from traceward.records import Objective

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def planted() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import _planted

        yield _planted
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_the_expert_is_soft_optimal(planted: ModuleType) -> None:
    # Of the tree it is known in closed form: a text is written with probability ~ exp(return).
    world = planted.tree(0, prompts=2, depth=3)
    expert, there = world.expert(), world.traces >= 0
    before = torch.cat([world.starts[:, None, None].expand(2, there.shape[1], 1), world.traces[:, :, :-1]], 2)
    before, after = before.clamp(min=0), world.traces.clamp(min=0)
    action = (world.following[before] == after[..., None]).long().argmax(-1)
    likelihood = torch.where(there, expert[before, action], 0.0).sum(-1)
    returns = torch.where(there, world.reward[after], 0.0).sum(-1) / planted.TEMPERATURE
    assert torch.allclose(likelihood, returns.log_softmax(-1), atol=1e-9)
    # Of the grid by its equation: pi = exp(Q - V), V = log sum exp Q, Q = (r + gamma V)(next).
    world = planted.grid(0)
    expert = world.expert()
    value = torch.zeros_like(world.reward)
    for _ in range(400):
        value = (world.reward + world.gamma * value)[world.following].logsumexp(1)
    q = (world.reward + world.gamma * value)[world.following]
    assert torch.allclose(expert, q - value[:, None], atol=1e-3)


@pytest.mark.parametrize("seed", [0, 1])
def test_airl_recovers_the_rewards_of_states_that_merge(planted: ModuleType, seed: int) -> None:
    world = planted.grid(seed)
    found = planted.compare(world, planted.learn(world, Objective.AIRL, updates=250, seed=seed))
    assert found["pearson"] > 0.95
    assert found["spearman"] > 0.9
    assert found["slope"] > 0.75
    assert found["policy_kl"] < 0.005


@pytest.mark.parametrize("seed", [0, 1])
def test_airl_recovers_the_returns_of_a_prompts_texts(planted: ModuleType, seed: int) -> None:
    world = planted.tree(seed)
    found = planted.compare(world, planted.learn(world, Objective.AIRL, updates=250, seed=seed))
    assert found["pearson"] > 0.92
    assert found["spearman"] > 0.92
    assert found["slope"] > 0.75


def test_gail_stops_short_and_vanishes_where_the_policy_is_the_expert(planted: ModuleType) -> None:
    world = planted.grid(0)
    made = {
        (objective, expert): planted.compare(
            world, planted.learn(world, objective, updates=250, seed=0, against_expert=expert)
        )
        for objective in (Objective.AIRL, Objective.GAIL)
        for expert in (False, True)
    }
    # Its reward is the log-ratio of what expert and policy visit, so it keeps the policy away from the expert ...
    assert made[Objective.GAIL, False]["policy_kl"] > 10 * made[Objective.AIRL, False]["policy_kl"]
    assert made[Objective.GAIL, False]["slope"] < 0.6
    # ... and there is none left between equals, where airl's g is the reward all the same.
    assert abs(made[Objective.GAIL, True]["pearson"]) < 0.5
    assert abs(made[Objective.GAIL, True]["slope"]) < 0.05
    assert made[Objective.AIRL, True]["pearson"] > 0.9


def test_without_the_policys_log_probability_the_reward_is_not_found(
    planted: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What airl's logit takes off is what makes g a reward: the test above can fail.
    monkeypatch.setattr(planted, "airl_logits", lambda shaped, _logprobs: shaped)
    world = planted.grid(0)
    found = planted.compare(world, planted.learn(world, Objective.AIRL, updates=250, seed=0, against_expert=True))
    assert abs(found["slope"]) < 0.1
