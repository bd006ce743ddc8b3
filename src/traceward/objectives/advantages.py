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


def batch_scaled(centred_B: Tensor) -> Tensor:  # noqa: N803
    """Divide by the standard deviation of the whole batch, one number for all questions.

    Dividing by each group's own deviation, as GRPO does, blows noise up to unit variance where all rollouts of a
    question are equally good; continuous rewards make such groups the rule.
    """
    return centred_B / (centred_B.std() + 1e-4)


def trace_mean(unit_rewards_BU: Tensor, mask_BU: Tensor, *, clip: float) -> Tensor:  # noqa: N803
    """(B,) mean reward of each trace's units, each cut to +-clip first (arXiv 2510.01857, final runs)."""
    mask = mask_BU.to(unit_rewards_BU.dtype)
    return (unit_rewards_BU.clamp(-clip, clip) * mask).sum(1) / mask.sum(1).clamp(min=1)


def consensus(
    answer_ids_PG: Tensor,  # noqa: N803
    exported_PG: Tensor,  # noqa: N803
    *,
    temperature: float = 1.0,
    own_reward: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Reward-weighted vote: a rollout earns 1 when it gives the answer that the group's votes name.

    A vote weighs softmax(exported / temperature) over the rollouts of its group that state an answer; equal
    exported rewards give the plain majority. `own_reward` mixes in the rollout's own group-normalised reward.

    answer_ids: (P, G) long, -1 = no answer.  exported: (P, G).
    Returns rewards (P, G) and the pseudo-answers (P,), -1 where no rollout of a group states one; its rewards are 0.
    """
    stated = answer_ids_PG >= 0
    weights = (exported_PG / temperature).masked_fill(~stated, -torch.inf).softmax(1)
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


def on_tokens(advantages_B: Tensor, completion_mask_BT: Tensor) -> Tensor:  # noqa: N803
    """One advantage per trace -> (B, T), 0 on padding."""
    return advantages_B[:, None] * completion_mask_BT
