"""Credit assignment: rewards of a batch -> advantages. Rows are ordered by question, `group` rows each (B = P * G).

Answers never enter here as text: `answer_ids` are integers, equal for equal answers, -1 for none.
"""

from __future__ import annotations

import torch
from torch import Tensor


def group_centred(rewards_B: Tensor, group: int) -> Tensor:  # noqa: N803
    """Each reward minus the mean of its question's group: (B,) -> (B,)."""
    rewards_PG = rewards_B.view(-1, group)  # noqa: N806
    return (rewards_PG - rewards_PG.mean(1, keepdim=True)).flatten()


def leave_one_out(rewards_B: Tensor, group: int) -> Tensor:  # noqa: N803
    """Each reward minus the mean of the *other* rollouts of its question: (B,) -> (B,). An unbiased baseline; it is
    `group_centred` times G / (G - 1). Source: RLOO (Ahmadian et al. 2024, arXiv 2402.14740)."""
    return group_centred(rewards_B, group) * (group / (group - 1))


def batch_scaled(centred_B: Tensor) -> Tensor:  # noqa: N803
    """Divide by the standard deviation of the whole batch, one number for all questions.

    Dividing by each group's own deviation, as GRPO does, blows noise up to unit variance where all rollouts of a
    question are equally good; continuous rewards make such groups the rule.
    """
    return centred_B / (centred_B.std() + 1e-4)


def group_scaled(centred_BU: Tensor, mask_BU: Tensor, group: int) -> Tensor:  # noqa: N803
    """(B, U) divided by the standard deviation of all units of the question's group; 0 where the mask is.

    Source: GRPO (arXiv 2402.03300, section 4.1), for traces: U = 1. See `batch_scaled` for what it does to noise.
    """
    mask_PN = mask_BU.view(-1, group * mask_BU.shape[1])  # noqa: N806
    values_PN = centred_BU.reshape(mask_PN.shape).masked_fill(~mask_PN, 0.0)  # noqa: N806
    count_P = mask_PN.sum(1, keepdim=True)  # noqa: N806
    off_PN = (values_PN - values_PN.sum(1, keepdim=True) / count_P.clamp(min=1)).masked_fill(~mask_PN, 0.0)  # noqa: N806
    deviation_P = (off_PN.square().sum(1, keepdim=True) / (count_P - 1).clamp(min=1)).sqrt()  # noqa: N806
    return (values_PN / (deviation_P + 1e-4)).view_as(centred_BU)


def whitened(values_BU: Tensor, mask_BU: Tensor) -> Tensor:  # noqa: N803
    """(B, U) minus the mean over all units of the batch, over their standard deviation; 0 where the mask is.

    It gives unit rewards of any head and scale the same one, so that a clip at c means c deviations.
    """
    values = values_BU[mask_BU]
    deviation = values.std(correction=0) if values.numel() else values_BU.new_ones(())
    return (values_BU - values.mean()).masked_fill(~mask_BU, 0.0) / (deviation + 1e-4)


def trace_mean(unit_rewards_BU: Tensor, mask_BU: Tensor, *, clip: float) -> Tensor:  # noqa: N803
    """(B,) mean reward of each trace's units, each cut to +-clip first (arXiv 2510.01857, final runs)."""
    mask = mask_BU.to(unit_rewards_BU.dtype)
    return (unit_rewards_BU.clamp(-clip, clip) * mask).sum(1) / mask.sum(1).clamp(min=1)


def spread_inside(values_PG: Tensor, counted_PG: Tensor) -> Tensor:  # noqa: N803
    """() the standard deviation of the `counted` values (P, G) from the mean of those of their group; 0 where none has
    company."""
    count_P = counted_PG.sum(1, keepdim=True)  # noqa: N806
    values_PG = values_PG.masked_fill(~counted_PG, 0.0)  # noqa: N806
    off = (values_PG - values_PG.sum(1, keepdim=True) / count_P.clamp(min=1)).masked_fill(~counted_PG, 0.0)
    return (off.square().sum() / (count_P - 1).clamp(min=0).sum().clamp(min=1)).sqrt()


def consensus(
    answer_ids_PG: Tensor,  # noqa: N803
    exported_PG: Tensor,  # noqa: N803
    *,
    temperature: float = 1.0,
    own_reward: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Reward-weighted vote: a rollout earns 1 when it gives the answer that the group's votes name.

    A vote weighs softmax(exported / (temperature * s)) over the rollouts of its group that state an answer; equal
    exported rewards give the plain majority. s is the standard deviation of the exported rewards inside groups, over
    the whole batch: sums over long traces would otherwise leave the number of votes no say, and no temperature would
    fit two rewards. `own_reward` mixes in the rollout's own group-normalised reward.

    answer_ids: (P, G) long, -1 = no answer.  exported: (P, G).
    Returns rewards (P, G) and the pseudo-answers (P,), -1 where no rollout of a group states one; its rewards are 0.
    """
    stated = answer_ids_PG >= 0
    scaled = exported_PG / (temperature * spread_inside(exported_PG, stated)).clamp(min=1e-8)
    weights = scaled.masked_fill(~stated, -torch.inf).softmax(1)
    weights = torch.where(stated, weights, torch.zeros_like(weights))
    same = (answer_ids_PG[:, :, None] == answer_ids_PG[:, None, :]) & stated[:, :, None] & stated[:, None, :]
    votes_PG = (same * weights[:, None, :]).sum(2)  # noqa: N806
    winner = votes_PG.argmax(1, keepdim=True)
    pseudo = answer_ids_PG.gather(1, winner)
    agrees = ((answer_ids_PG == pseudo) & stated).to(exported_PG.dtype)
    if own_reward:
        spread = exported_PG.std(1, keepdim=True) + 1e-4
        normalised = (exported_PG - exported_PG.mean(1, keepdim=True)) / spread
        agrees = (1 - own_reward) * agrees + own_reward * normalised
    return agrees, pseudo.squeeze(1)


def reward_to_go(unit_rewards_BU: Tensor, mask_BU: Tensor, *, group: int, gamma: float) -> Tensor:  # noqa: N803
    """(B, U) for each unit the discounted mean of what comes from it on; 0 where the mask is.

    Unit rewards are first centred by the mean over all units of the question's group. The suffix sums are divided by
    the sum of their weights, so that early units of long traces weigh no more than others: without that, the method's
    first version was unstable (arXiv 2510.01857 v1, gamma 0.9).
    """
    mask = mask_BU.to(unit_rewards_BU.dtype)
    of_group = (unit_rewards_BU * mask).view(-1, group * mask.shape[1]).sum(1)
    mean_P = of_group / mask.view(-1, group * mask.shape[1]).sum(1).clamp(min=1)  # noqa: N806
    centred = (unit_rewards_BU - mean_P.repeat_interleave(group)[:, None]) * mask
    ahead, weight = torch.zeros_like(centred[:, 0]), torch.zeros_like(centred[:, 0])
    found = torch.zeros_like(centred)
    for unit in range(mask.shape[1] - 1, -1, -1):
        ahead = centred[:, unit] + gamma * ahead
        weight = mask[:, unit] + gamma * weight
        found[:, unit] = ahead / weight.clamp(min=1e-12)
    return found * mask


def step_local(advantages_B: Tensor, unit_rewards_BU: Tensor, mask_BU: Tensor, *, weight: float) -> Tensor:  # noqa: N803
    """(B, U) the trace's advantage plus `weight` times a local signal, 0 where the mask is.

    The local signal is a unit's reward minus the mean of its own trace, over the deviation of all units of the batch:
    it moves credit inside a trace and never between traces.
    """
    mask = mask_BU.to(unit_rewards_BU.dtype)
    mean_B = (unit_rewards_BU * mask).sum(1) / mask.sum(1).clamp(min=1)  # noqa: N806
    local = (unit_rewards_BU - mean_B[:, None]) * mask
    deviation = (local.square().sum() / mask.sum().clamp(min=1)).sqrt()
    return (advantages_B[:, None] + weight * local / (deviation + 1e-4)) * mask


def mixed(advantages_BU: Tensor, outcome_B: Tensor, *, weight: float) -> Tensor:  # noqa: N803
    """(B, U) the share `weight` of each unit's advantage comes from the trace's outcome, the rest stays.

    Both sides are advantages, centred and scaled alike, so a share means the same at every scale of the reward.
    """
    return (1 - weight) * advantages_BU + weight * outcome_B[:, None]


def on_tokens(advantages_BU: Tensor, unit_BT: Tensor) -> Tensor:  # noqa: N803
    """One advantage per unit -> (B, T): each token takes its unit's. unit: the unit of each token, -1 on padding, where
    the advantage is 0."""
    return advantages_BU.gather(1, unit_BT.clamp(min=0)) * (unit_BT >= 0)
