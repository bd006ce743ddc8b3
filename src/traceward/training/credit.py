"""What credit assignment takes from rollouts and questions: unit rewards, and answers as integers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from traceward.data.formats import Format, stated_answer
from traceward.data.grading import canonical_answer
from traceward.errors import ConfigError
from traceward.records import Problem, Rollout, ScoredTrace


def padded_units(scored: Sequence[ScoredTrace]) -> tuple[Tensor, Tensor]:
    """(B, U) what each unit pays the policy, and which of them are there.

    Raises ValueError for a reward that pays nothing: its policy would silently learn nothing.
    """
    if not all(s.policy_rewards for s in scored):
        raise ValueError("a reward must pay every trace: got a reading without policy_rewards; mend its score_encoded")
    units = torch.nn.utils.rnn.pad_sequence([torch.tensor(s.policy_rewards) for s in scored], batch_first=True)
    counts = torch.tensor([len(s.policy_rewards) for s in scored])
    return units, torch.arange(units.shape[1])[None] < counts[:, None]


def answer_ids(rollouts: Sequence[Rollout], style: Format, group: int) -> list[int]:
    """An integer per rollout, equal inside a group where the answers are equal; -1 where none is stated."""
    found: list[int] = []
    for start in range(0, len(rollouts), group):
        seen: dict[str, int] = {}
        for rollout in rollouts[start : start + group]:
            answer = stated_answer(rollout.text, style)
            key = None if answer is None else canonical_answer(answer)
            found.append(-1 if not key else seen.setdefault(key, len(seen)))
    return found


def known_answers(questions: Sequence[Problem]) -> dict[str, str]:
    """The reference answers that are known, by question. Raises ConfigError where none is: a share of the advantage
    would be nothing."""
    found = {problem.id: problem.answer for problem in questions if problem.answer is not None}
    if not found:
        raise ConfigError(
            f"adversarial.outcome_weight must be 0 where no question has a reference answer: got {len(questions)} "
            "questions without; set it to 0, or give them answers"
        )
    return found
