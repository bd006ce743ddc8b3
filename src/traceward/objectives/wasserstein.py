"""The Wasserstein discriminator: a difference of means, and a penalty that keeps its slope near 1."""

from __future__ import annotations

import torch
from torch import Tensor

from traceward.objectives.discriminator import trace_means


def wasserstein_loss(
    scores_expert_is_high_BU: Tensor,  # noqa: N803
    labels_expert_is_one_B: Tensor,  # noqa: N803
    weight_BU: Tensor,  # noqa: N803
) -> Tensor:
    """Mean of the others less mean of the experts, of trace means; each class counts as one, whatever its size.

    It has no lower bound: without `gradient_penalty` the scores grow for ever.

    scores: (B, U).  labels: (B,) of 0 and 1.  weight: (B, U), 0 leaves a unit out.
    Source: WGAN (Arjovsky et al. 2017, arXiv 1701.07875, eq. 2).
    Raises ValueError when a class has no weighted unit.
    """
    means_B, counted_B = trace_means(scores_expert_is_high_BU, weight_BU.to(scores_expert_is_high_BU.dtype))  # noqa: N806
    halves = []
    for expert in (0, 1):
        rows = counted_B & (labels_expert_is_one_B == expert)
        if not bool(rows.any()):
            raise ValueError(f"a discriminator batch must hold both classes: got no row with label {expert}")
        halves.append(means_B[rows].mean())
    return halves[0] - halves[1]


def between(left_NTE: Tensor, right_NTE: Tensor, both_NT: Tensor, share_N: Tensor) -> Tensor:  # noqa: N803
    """Points between two rows of vectors: share * left + (1 - share) * right where both have a vector, and elsewhere
    that of the left.

    The left is the longer of two traces, so what lies behind the end of the shorter is the longer's own, and a score
    is never read at a mixture of a token with padding.

    left, right: (N, T, E).  both: (N, T) bool.  share: (N,) in [0, 1].
    """
    share_NTE = share_N[:, None, None].to(left_NTE.dtype)  # noqa: N806
    return torch.where(both_NT[..., None], share_NTE * left_NTE + (1 - share_NTE) * right_NTE, left_NTE)


def gradient_norms(scores_N: Tensor, inputs_NTE: Tensor, mask_NT: Tensor) -> Tensor:  # noqa: N803
    """(N,) length of the gradient of each score by its own row of inputs, over the vectors where the mask is; can be
    differentiated again."""
    (gradient,) = torch.autograd.grad(scores_N.sum(), inputs_NTE, create_graph=True)
    squared_N = (gradient.float() * mask_NT[..., None]).square().flatten(1).sum(1)  # noqa: N806
    return (squared_N + 1e-12).sqrt()  # the root has no slope at 0


def gradient_penalty(norms_N: Tensor) -> Tensor:  # noqa: N803
    """mean (norm - 1)^2.   Source: WGAN-GP (Gulrajani et al. 2017, arXiv 1704.00028, eq. 3)."""
    return (norms_N - 1).square().mean()
