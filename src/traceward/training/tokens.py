"""A reward that reads other tokens than the policy writes.

A policy's rollouts go to the discriminator and to scoring through their text, which is tokenised once for each rollout;
experts go the same way, so that both are cut, decoded and ended alike. Advantages come back by trace: what is said of
single tokens of one side has no place among those of the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from traceward.data.formats import EncodedTrace
from traceward.errors import ConfigError
from traceward.records import Credit, Head, Objective, Problem, Rollout, Trace
from traceward.training.settings import AdversarialConfig


class Crossing(Protocol):
    """From the policy's tokens into the reward's."""

    def rollouts(self, sampled: Sequence[Rollout]) -> list[Rollout]:
        """The same rollouts in the reward's tokens."""
        ...

    def expert(self, problem: Problem, trace: Trace, limit: int | None) -> EncodedTrace:
        """A worked solution in the reward's tokens, cut after `limit` of the policy's as a rollout would be."""
        ...


def check_crossing(head: Head, objective: Objective | None, config: AdversarialConfig | None) -> None:
    """Raises ConfigError for what needs the policy's log-probabilities of a reward's tokens, or the reward's units
    among the policy's tokens.   objective, config: None where nothing learns by them."""
    mend = "choose a reward.path with the policy's tokenizer, or change it"
    if objective is Objective.AIRL:
        raise ConfigError(
            "critic.objective must not be 'airl' where reward and policy have different tokenizers, as it takes the "
            f"policy's log-probabilities of the reward's tokens: got it; {mend}"
        )
    if config is None:
        return
    if config.credit.by_units:
        raise ConfigError(
            "adversarial.credit must be by trace ('consensus' or 'trace-mean') where reward and policy have different "
            f"tokenizers, whose units end at different tokens: got '{config.credit}'; {mend}"
        )
    if head is Head.LOG_RATIO and config.credit is not Credit.CONSENSUS:
        raise ConfigError(
            "adversarial.credit must be 'consensus' with head 'log-ratio' where reward and policy have different "
            f"tokenizers, as the reward of a unit takes the policy's log-probabilities: got '{config.credit}'; {mend}"
        )
