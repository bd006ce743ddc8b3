"""The scoring path: token ids in, the readouts of every granularity out, from one pass over each trace.

What decides how a trace goes through a model is its shape: traces are packed to passes of one size whatever their
lengths, a prompt that several of them share is in a pass once (traceward.rewards.packing), and where a model cannot be
run so, traces of similar length are padded. A score is the same either way, up to the rounding of its matrix products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from traceward.data.formats import EncodedTrace
from traceward.records import ScoredTrace, UnitSpec
from traceward.rewards.batches import TraceBatch, by_length, unpadded
from traceward.rewards.heads import PolicyLogprobs, Reading

if TYPE_CHECKING:
    from traceward.rewards.model import RewardModel

Found = TypeVar("Found")
Values = list[tuple[float, ...]]


def in_batches(
    traces: Sequence[EncodedTrace], read: Callable[[Sequence[EncodedTrace]], Sequence[Found]]
) -> list[Found]:
    """What `read` finds of each trace, in order; it is given the traces of one pass at a time."""
    found: dict[int, Found] = {}
    for rows in by_length(traces):
        found |= zip(rows, read([traces[row] for row in rows]), strict=True)
    return [found[row] for row in range(len(traces))]


@torch.no_grad()
def score_units(
    reward: RewardModel,
    traces: Sequence[EncodedTrace],
    specs: Sequence[UnitSpec | None],
    *,
    policy_logprobs: PolicyLogprobs | None = None,
) -> list[tuple[ScoredTrace, ...]]:
    """One reading of each trace for each of `specs`; `RewardModel.score_encoded` says what they hold."""

    def read(some: Sequence[EncodedTrace]) -> list[tuple[ScoredTrace, ...]]:
        trained = reward.batch(some)
        reading = reward.read(trained)
        exported = reading.exported(trained).tolist()
        rewards: Values = [()] * len(some)
        if policy_logprobs is not None:
            rewards = unpadded(reading.policy_reward(trained, policy_logprobs(trained)), trained)
        readouts = []
        for spec in specs:
            batch = trained if spec in (None, reward.spec) else reward.batch(some, spec)
            units = (([()] * len(some),) * 3) if spec is None else _unit_values(reading, batch)
            logits, lows, exported_lows = units
            columns = zip(exported, logits, lows, rewards, exported_lows, strict=True)
            readouts.append([ScoredTrace(*values) for values in columns])
        return list(zip(*readouts, strict=True))

    with evaluating(reward):
        return in_batches(traces, read)


def _unit_values(reading: Reading, batch: TraceBatch) -> tuple[Values, Values, Values]:
    """Logits of every unit of each trace, and the lows of both kinds."""

    def of_each(table: Tensor | None) -> Values:
        return [()] * len(batch.unit) if table is None else unpadded(table, batch)

    return of_each(reading.logit(batch)), of_each(reading.lows(batch)), of_each(reading.exported_lows(batch))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, the mode it was in before outside."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
