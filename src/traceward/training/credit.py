"""Credit assignment as a recipe asks for it: unit rewards and answers of rollouts in, advantages out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from traceward.data.formats import Format, stated_answer
from traceward.data.options import answer_key
from traceward.errors import ConfigError
from traceward.objectives.advantages import (
    batch_scaled,
    group_centred,
    group_scaled,
    leave_one_out,
    mixed,
    reward_to_go,
    step_local,
)
from traceward.records import Baseline, Credit, Problem, Rollout, Scale, ScoredTrace
from traceward.training.settings import AdversarialConfig


def padded_units(scored: Sequence[ScoredTrace]) -> tuple[Tensor, Tensor]:
    """(B, U) what each unit pays the policy, and which of them are there.

    Raises ValueError for a reward that pays nothing: its policy would silently learn nothing.
    """
    if not all(s.policy_rewards for s in scored):
        raise ValueError("a reward must pay every trace: got a reading without policy_rewards; mend its score_encoded")
    units = torch.nn.utils.rnn.pad_sequence([torch.tensor(s.policy_rewards) for s in scored], batch_first=True)
    counts = torch.tensor([len(s.policy_rewards) for s in scored])
    return units, torch.arange(units.shape[1])[None] < counts[:, None]


def answer_ids(rollouts: Sequence[Rollout], problems: Mapping[str, Problem], style: Format, group: int) -> list[int]:
    """An integer per rollout, equal inside a group where the answers are equal; -1 where none is stated.

    problems: id -> the question, whose options count by letter or by text.
    """
    found: list[int] = []
    for start in range(0, len(rollouts), group):
        seen: dict[str, int] = {}
        for rollout in rollouts[start : start + group]:
            key = answer_key(stated_answer(rollout.text, style), problems[rollout.problem_id].question)
            found.append(-1 if key is None else seen.setdefault(key, len(seen)))
    return found


def by_id(questions: Sequence[Problem], *, answers: bool) -> dict[str, Problem]:
    """Questions by id, without their reference answers where `answers` is not set.

    Raises ConfigError where it is set and none is known: a share of the advantage would be nothing.
    """
    if not answers:
        return {problem.id: replace(problem, answer=None) for problem in questions}
    if all(problem.answer is None for problem in questions):
        raise ConfigError(
            f"adversarial.outcome_weight must be 0 where no question has a reference answer: got {len(questions)} "
            "questions without; set it to 0, or give them answers"
        )
    return {problem.id: problem for problem in questions}


def advantages_of(
    config: AdversarialConfig,
    rewards_B: Tensor,  # noqa: N803
    units: tuple[Tensor, Tensor],
    right_B: Tensor | None,  # noqa: N803
) -> Tensor:
    """(B, U) advantages; U is 1 for credits that give a trace a single one.

    rewards: (B,) what each trace earned.   units: (B, U) unit rewards and which are there, for credits by unit.
    right: (B,) 1 for a right final answer, where these have a share.
    """
    baseline = leave_one_out if config.baseline is Baseline.LEAVE_ONE_OUT else group_centred
    by_trace = _of_traces(config, baseline(rewards_B, config.group))
    if config.credit.by_units:
        values, there = (part.to(rewards_B.device) for part in units)
        values = values.clamp(-config.clip, config.clip)
        if config.credit is Credit.STEP_LOCAL:
            found = step_local(by_trace, values, there, weight=config.local_weight)
        else:
            found = _scaled(config, reward_to_go(values, there, group=config.group, gamma=config.gamma), there)
    else:
        found = by_trace[:, None]
    if right_B is None:
        return found
    return mixed(found, _of_traces(config, baseline(right_B, config.group)), weight=config.outcome_weight)


def _of_traces(config: AdversarialConfig, centred_B: Tensor) -> Tensor:  # noqa: N803
    return _scaled(config, centred_B[:, None], torch.ones_like(centred_B, dtype=torch.bool)[:, None])[:, 0]


def _scaled(config: AdversarialConfig, centred_BU: Tensor, there_BU: Tensor) -> Tensor:  # noqa: N803
    if config.scale_rewards is Scale.NONE:
        return centred_BU
    if config.scale_rewards is Scale.GROUP:
        return group_scaled(centred_BU, there_BU, config.group)
    return torch.zeros_like(centred_BU).masked_scatter(there_BU, batch_scaled(centred_BU[there_BU]))
