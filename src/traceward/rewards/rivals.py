"""Scorers without a discriminator: a model's own log-probability, SFT as a log-ratio, the same score for all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from traceward.data.formats import EncodedTrace, Format, encode
from traceward.data.segmentation import Segmenter
from traceward.records import Head, Problem, ScoredTrace, Trace, UnitSpec
from traceward.rewards.batches import collate, lowest_by_unit, sum_by_unit, unpadded
from traceward.rewards.heads import PolicyLogprobs, token_logprobs
from traceward.rewards.model import STEPS, RewardModel
from traceward.rewards.scoring import in_batches
from traceward.training.settings import RewardSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class LogProbScorer:
    """exported = sum of log p over the completion; unit logits = the same inside each unit, unit lows = the least
    likely token of each unit (nats)."""

    head = Head.LOG_RATIO  # a unit's value is an increment, as with a log-ratio

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, style: Format = Format.PLAIN
    ) -> None:
        self.model = model
        self.spec = STEPS
        self.tokenizer = tokenizer
        self.style = style
        self.segmenter = Segmenter(tokenizer)

    @torch.no_grad()
    def score_encoded(
        self,
        traces: Sequence[EncodedTrace],
        *,
        spec: UnitSpec | None = STEPS,
        policy_logprobs: PolicyLogprobs | None = None,
    ) -> list[ScoredTrace]:
        """Log-probabilities of traces given as token ids, in order; a policy would earn log p - log pi in each step."""
        context = getattr(self.model.config, "max_position_embeddings", None)
        pad = self.tokenizer.pad_token_id or 0

        def read(some: Sequence[EncodedTrace]) -> list[ScoredTrace]:
            batch = collate(some, self.segmenter, spec or STEPS, pad_id=pad, context=context).to(self.model.device)
            logprobs = token_logprobs(self.model, batch)
            sums = unpadded(sum_by_unit(logprobs, batch), batch)
            lows = unpadded(lowest_by_unit(logprobs, batch), batch)
            rewards: list[tuple[float, ...]] = [()] * len(some)
            if policy_logprobs is not None:
                rewards = unpadded(sum_by_unit(logprobs - policy_logprobs(batch), batch), batch)
            read = zip(sums, lows, rewards, strict=True)
            return [ScoredTrace(sum(values), values, low, paid) for values, low, paid in read]

        self.model.eval()
        return in_batches(traces, read)

    def score(self, items: Sequence[tuple[Problem, Trace]]) -> list[ScoredTrace]:
        """Log-probabilities of traces given as text; one unit per step, then the answer line."""
        return self.score_encoded([encode(problem, trace, self.style, self.tokenizer) for problem, trace in items])


def sft_log_ratio(sft: LogProbScorer, base: LogProbScorer, *, like: RewardModel) -> RewardModel:
    """What fine-tuning learned of the demonstrations, read as a log-ratio reward is: SFT in the place of p_phi, the
    base model in that of p_ref, no discriminator (findings, "log-ratio is the first rival").

    like: the reward it stands beside; where that is a log-ratio, both export alike.
    """
    return RewardModel(
        backbone=sft.model,
        reference=base.model,
        tokenizer=sft.tokenizer,
        head=Head.LOG_RATIO,
        spec=STEPS,
        style=sft.style,
        reference_share=like.reference_share if like.head is Head.LOG_RATIO else RewardSettings().reference_share,
    )


class UniformScorer:
    """The same score for every trace: with it a reward-weighted vote is the plain majority."""

    def __init__(self, style: Format = Format.PLAIN) -> None:
        self.head = Head.LOG_RATIO
        self.spec = STEPS
        self.style = style

    def score_encoded(
        self,
        traces: Sequence[EncodedTrace],
        *,
        spec: UnitSpec | None = STEPS,  # noqa: ARG002
        policy_logprobs: PolicyLogprobs | None = None,  # noqa: ARG002
    ) -> list[ScoredTrace]:
        """Zeros, one per trace and one unit each, whatever is asked."""
        return [ScoredTrace(0.0, (0.0,), policy_rewards=(0.0,)) for _ in traces]
