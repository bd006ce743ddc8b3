"""What evaluation asks of a reward: a head and `score`. Handed in, so that nothing here imports a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from traceward.errors import DataError
from traceward.records import Head, Problem, ScoredTrace, Trace

REWARD = "reward"  # the name of the learned reward in every table


class Scorer(Protocol):
    """A reward, as far as evaluation knows it; `RewardModel` is one."""

    @property
    def head(self) -> Head:
        """Decides what a unit logit means (method, "Readouts are named")."""
        ...

    def score(self, items: Sequence[tuple[Problem, Trace]]) -> list[ScoredTrace]:
        """One reading for each trace, in order: a logit per step, then one for the answer line where there is one."""
        ...


def score_traces(reward: Scorer, problem: Problem, traces: Sequence[Trace]) -> list[ScoredTrace]:
    """The readings of several traces of one problem. Raises DataError where one is missing, NaN or infinite."""
    if not traces:
        raise DataError(f"traces must hold at least one: got none for problem {problem.id!r}; sample some first")
    found = reward.score([(problem, trace) for trace in traces])
    if len(found) != len(traces):
        raise DataError(
            f"score must return one reading per trace: got {len(found)} for {len(traces)} of problem {problem.id!r}; "
            "mend the scorer"
        )
    for index, item in enumerate(found):
        bad = [value for value in (item.exported, *item.unit_logits) if not math.isfinite(value)]
        if bad:
            raise DataError(
                f"scores must be finite: got {bad[0]} for trace {index} of problem {problem.id!r}; mend the reward"
            )
    return found
