"""Losses of the discriminator. Label 1 = expert, high logit = expert."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus


def trace_means(values_BU: Tensor, weight_BU: Tensor) -> tuple[Tensor, Tensor]:  # noqa: N803
    """Weighted mean over each trace's units, and which traces have any weight: (B,), (B,) bool."""
    total = weight_BU.sum(1)
    return (values_BU * weight_BU).sum(1) / total.clamp(min=1e-12), total > 0


def gail_loss(
    logits_expert_is_high_BU: Tensor,  # noqa: N803
    labels_expert_is_one_B: Tensor,  # noqa: N803
    weight_BU: Tensor,  # noqa: N803
    *,
    smoothing: float = 0.1,
) -> Tensor:
    """Binary cross-entropy of unit logits; experts weigh exactly 1/2 and everything else 1/2, whatever their counts.

    Inside a class every trace weighs the same, inside a trace every unit by `weight_BU` (0 leaves a unit out).
    Smoothing e moves the targets to 1 - e/2 and e/2.

    logits: (B, U).  labels: (B,) of 0 and 1.  weight: (B, U), 0 on padding.
    Source: GAIL (Ho & Ermon 2016, eq. 14); class weights and smoothing as in arXiv 2510.01857.
    Raises ValueError when a class has no weighted unit: such a batch would teach the class, not the difference.
    """
    targets = labels_expert_is_one_B.to(logits_expert_is_high_BU.dtype) * (1 - smoothing) + smoothing / 2
    loss_BU = binary_cross_entropy_with_logits(  # noqa: N806
        logits_expert_is_high_BU, targets[:, None].expand_as(logits_expert_is_high_BU), reduction="none"
    )
    loss_B, counted_B = trace_means(loss_BU, weight_BU.to(loss_BU.dtype))  # noqa: N806
    halves = []
    for expert in (1, 0):
        rows = counted_B & (labels_expert_is_one_B == expert)
        if not bool(rows.any()):
            raise ValueError(f"a discriminator batch must hold both classes: got no row with label {expert}")
        halves.append(loss_B[rows].mean())
    return torch.stack(halves).mean()


def shaped_reward(
    rewards_BU: Tensor,  # noqa: N803
    potentials_BU: Tensor,  # noqa: N803
    mask_BU: Tensor,  # noqa: N803
    *,
    gamma: float,
) -> Tensor:
    """f = g + gamma * h(next) - h(now), where a unit's next state is that in which the unit behind it begins.

    A trace ends in a terminal state, in which h is 0; so with gamma = 1 the f of a trace sum to the sum of its g less h
    before the first unit, a constant of the question.

    rewards: (B, U) g.  potentials: (B, U) h in the state before each unit.  mask: (B, U) bool, False on padding.
    Source: AIRL (Fu et al. 2018, eq. 4).
    """
    following = (potentials_BU * mask_BU)[:, 1:]
    return rewards_BU + gamma * torch.nn.functional.pad(following, (0, 1)) - potentials_BU


def airl_logits(shaped_BU: Tensor, policy_logprobs_BU: Tensor) -> Tensor:  # noqa: N803
    """f - log pi: the logit of AIRL's discriminator exp f / (exp f + pi). Its loss is `gail_loss`.

    log pi is that of the current policy on the same units, for experts and policy traces alike; no gradient reaches
    the policy.   Source: AIRL (Fu et al. 2018, section 4).
    """
    return shaped_BU - policy_logprobs_BU.detach()


def pairs(labels_expert_is_one_B: Tensor, question_B: Tensor) -> tuple[Tensor, Tensor]:  # noqa: N803
    """Row numbers of every pair of an expert's trace and another of the same question: (N,), (N,)."""
    expert = labels_expert_is_one_B == 1
    same = (question_B[:, None] == question_B[None, :]) & expert[:, None] & ~expert[None, :]
    above, below = same.nonzero(as_tuple=True)
    return above, below


def pair_margins(scores_B: Tensor, labels_expert_is_one_B: Tensor, question_B: Tensor) -> tuple[Tensor, Tensor]:  # noqa: N803
    """Expert minus non-expert for every such pair of one question, and the question of each pair: (N,), (N,)."""
    above, below = pairs(labels_expert_is_one_B, question_B)
    return scores_B[above] - scores_B[below], question_B[above]


def pairwise_loss(
    logits_expert_is_high_BU: Tensor,  # noqa: N803
    labels_expert_is_one_B: Tensor,  # noqa: N803
    weight_BU: Tensor,  # noqa: N803
    question_B: Tensor,  # noqa: N803
    *,
    smoothing: float = 0.1,
) -> Tensor:
    """Bradley-Terry: -log sigmoid(expert - other) of trace means, over the pairs that answer the same question.

    What a question adds to all its traces cancels. Every question weighs the same, whatever its number of pairs.
    Smoothing e makes the target 1 - e/2, as in `gail_loss`: without it the margins of separable data grow for ever.

    logits: (B, U).  labels: (B,) of 0 and 1.  weight: (B, U), 0 on padding.  question: (B,) integers.
    Source: Bradley and Terry 1952; method, "Discriminator objectives".
    Raises ValueError where no question has both an expert's trace and another.
    """
    means_B, counted_B = trace_means(logits_expert_is_high_BU, weight_BU.to(logits_expert_is_high_BU.dtype))  # noqa: N806
    kept = counted_B.nonzero(as_tuple=True)[0]
    margins, question = pair_margins(means_B[kept], labels_expert_is_one_B[kept], question_B[kept])
    if margins.numel() == 0:
        raise ValueError("a pairwise batch must hold an expert's trace and another of one question: got no such pair")
    losses = (1 - smoothing / 2) * softplus(-margins) + smoothing / 2 * softplus(margins)
    pairs = torch.bincount(question)
    return (losses / pairs[question]).sum() / (pairs > 0).sum()
