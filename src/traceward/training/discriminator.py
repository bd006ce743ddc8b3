"""A reward as a classifier: logits, loss and accuracy by objective (method, "Discriminator objectives").

A loss is a function of tables, (B, U) each: the logits of all rows, what is known of every unit, and for wgan-gp the
slopes. The learner brings them together from any number of passes.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from traceward.data.formats import EncodedTrace
from traceward.errors import ConfigError
from traceward.objectives.discriminator import (
    airl_logits,
    gail_loss,
    pair_margins,
    pairwise_loss,
    shaped_reward,
    trace_means,
)
from traceward.objectives.wasserstein import between, gradient_norms, gradient_penalty, wasserstein_loss
from traceward.records import Head, Objective
from traceward.rewards.batches import TraceBatch, mean_by_unit
from traceward.rewards.heads import PolicyLogprobs, new_potential, scalar_values, values_and_potentials
from traceward.rewards.model import RewardModel
from traceward.rewards.packing import repeats
from traceward.training.learner import Tables
from traceward.training.settings import CriticSettings, check_objective

NO_SLOPE = -1.0
"""In place of a slope, in rows that have none."""


@dataclass(frozen=True, slots=True)
class Line:
    """An expert's trace and another of its question, the longer first, and where between them (1 = the longer)."""

    longer: EncodedTrace
    shorter: EncodedTrace
    share: float


class Discriminator:
    """`reward` under `settings.objective`.

    policy_logprobs: log pi of the current policy, for objective airl; the trainer of a policy sets its own.
    Raises ConfigError for an objective that the reward cannot learn by.
    """

    def __init__(
        self, reward: RewardModel, settings: CriticSettings, policy_logprobs: PolicyLogprobs | None = None
    ) -> None:
        check_objective(settings.objective, reward.head, reward.beta)
        attention = reward.backbone.config._attn_implementation
        if settings.objective is Objective.WGAN_GP and attention not in ("sdpa", "eager"):
            raise ConfigError(
                "attention must be 'sdpa' or 'eager' with objective 'wgan-gp', whose penalty is differentiated twice: "
                f"got '{attention}'; load the policy with one of them"
            )
        if settings.objective is Objective.WGAN_GP and repeats(reward.backbone):
            raise ConfigError(
                "gradient checkpointing must be off with objective 'wgan-gp', whose penalty is differentiated twice: "
                "got it on; set reward.gradient_checkpointing=false"
            )
        self.reward = reward
        self.settings = settings
        self.policy_logprobs = policy_logprobs
        if settings.objective is Objective.AIRL and reward.head is Head.SCALAR and reward.potential is None:
            reward.potential = new_potential(reward.backbone)

    def logits(self, batch: TraceBatch) -> Tensor:
        """(B, U) what tells experts from others; for airl f - log pi, for the others the reward's own logits."""
        if self.settings.objective is not Objective.AIRL:
            return self.reward.unit_logits(batch)
        if self.policy_logprobs is None:
            raise ConfigError(
                "objective 'airl' must know the policy's log-probabilities: got none; give policy_logprobs to the "
                "critic (rewards.heads.logprobs_under), or train by AdversarialTrainer, which does"
            )
        policy_BT = self.policy_logprobs(batch)  # noqa: N806
        if self.reward.potential is None:  # f = log p_phi, log-probabilities on both sides: sums over a unit
            return self.reward.read(batch).policy_reward(batch, policy_BT.detach())
        values, potentials = values_and_potentials(self.reward.backbone, self.reward.potential, batch)
        rewards = values.gather(1, batch.unit_end)
        shaped = shaped_reward(rewards, potentials, batch.unit_mask, gamma=self.settings.gamma)
        return airl_logits(shaped, mean_by_unit(policy_BT, batch)).masked_fill(~batch.unit_mask, 0.0)

    def loss(self, tables: Tables, labels_B: Tensor, question_B: Tensor, *, smoothing: float) -> Tensor:  # noqa: N803
        """A scalar.

        tables: logits, slopes in the first column where they were taken, 1 where a unit's label is known, 1 where a
        unit is.
        labels: (B,) 1 = expert.  question: (B,) integers, equal where the question is.
        """
        logits, *slopes, known, _ = tables
        if self.settings.objective is Objective.PAIRWISE:
            return pairwise_loss(logits, labels_B, known, question_B, smoothing=smoothing)
        if self.settings.objective is not Objective.WGAN_GP:
            return gail_loss(logits, labels_B, known, smoothing=smoothing)
        loss = wasserstein_loss(logits, labels_B, known)
        if not slopes:
            return loss
        return loss + self.settings.gradient_penalty * gradient_penalty(taken(slopes[0]))

    def accuracy(self, tables: Tables, labels_B: Tensor, question_B: Tensor) -> float:  # noqa: N803
        """Share told apart: of traces by the sign of their logit, mean over classes; where a logit only compares
        traces of one question, of pairs by their order."""
        logits = trace_logits(tables)
        if self.settings.objective.within_questions:
            margins, _ = pair_margins(logits, labels_B, question_B)
            return float((margins > 0).float().mean())
        right = (logits > 0) == (labels_B == 1)
        return (right[labels_B == 1].float().mean() + right[labels_B == 0].float().mean()).item() / 2

    def lines(self, traces: Sequence[EncodedTrace], labels: Sequence[int], rng: random.Random) -> dict[int, Line]:
        """For objective wgan-gp, by row number: a line from each expert's trace to a random other of its question.

        Raises ValueError where no question has both classes.
        """
        if self.settings.objective is not Objective.WGAN_GP:
            return {}
        found = {}
        for row, (trace, label) in enumerate(zip(traces, labels, strict=True)):
            others = [t for t, other in zip(traces, labels, strict=True) if t.key == trace.key and not other]
            if label and others:
                pair = sorted((trace, rng.choice(others)), key=lambda t: len(t.completion_ids), reverse=True)
                found[row] = Line(pair[0], pair[1], rng.random())
        if not found:
            raise ValueError(
                "a wgan-gp batch must hold an expert's trace and another of one question: got no such pair"
            )
        return found

    def slopes(self, lines: Sequence[Line | None]) -> Tensor:
        """(B, 1) length of the gradient of a trace's mean logit by its token embeddings, at a point of each line;
        NO_SLOPE for None.

        The prompt is the same at both ends and is no part of the gradient. Behind the end of the shorter trace the
        longer one's own tokens stand; units are those of the longer.
        """
        there = [line for line in lines if line is not None]
        found = torch.full((len(lines), 1), NO_SLOPE, device=self.reward.device)
        if not there:
            return found
        batch, shorter = (self.reward.batch([getattr(line, end) for line in there]) for end in ("longer", "shorter"))
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # no other kernel can be differentiated twice
            points = self._points(batch, shorter, torch.tensor([line.share for line in there]).to(found.device))
            values = scalar_values(self.reward.backbone, batch, embeddings=points)
            scores, _ = trace_means(values.gather(1, batch.unit_end), batch.unit_mask.to(values.dtype))
            norms = gradient_norms(scores, points, batch.unit >= 0)
        rows = torch.tensor([row for row, line in enumerate(lines) if line is not None], device=found.device)
        return found.index_copy(0, rows, norms[:, None])

    def _points(self, longer: TraceBatch, shorter: TraceBatch, share_N: Tensor) -> Tensor:  # noqa: N803
        embed = self.reward.backbone.get_input_embeddings()
        width = shorter.unit.shape[1]
        right = torch.nn.functional.pad(shorter.input_ids, (0, longer.unit.shape[1] - width))
        both = torch.nn.functional.pad(shorter.unit >= 0, (0, longer.unit.shape[1] - width)) & (longer.unit >= 0)
        return between(embed(longer.input_ids), embed(right), both, share_N).detach().requires_grad_()


def trace_logits(tables: Tables) -> Tensor:
    """(B,) the mean logit over all units of each trace."""
    return trace_means(tables[0], tables[-1])[0]


def taken(slopes_BU: Tensor) -> Tensor:  # noqa: N803
    """(N,) those of the rows that have one; the learner pads every table to the width of the logits."""
    return slopes_BU[:, 0][slopes_BU[:, 0] != NO_SLOPE]
