"""Whitening, and right answers mixed into the advantage, in the trainer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from traceward.errors import ConfigError
from traceward.objectives.advantages import batch_scaled, group_centred
from traceward.records import Demonstration, Problem, Rollout
from traceward.training.credit import advantages_of
from traceward.training.settings import AdversarialConfig

# TRL still says it in the words that transformers is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing. is deprecated:FutureWarning")
Alternate = Callable[..., tuple[Any, list[dict[str, Any]]]]
Known = Callable[..., Any]
FROZEN = {"critic_updates": 0, "steps": 1}


@pytest.mark.parametrize("white", [False, True])
def test_whitening_counts_the_cut_in_deviations(alternate: Alternate, known: Known, *, white: bool) -> None:
    # Rewards from 100 up: a cut at 5 leaves nothing to tell them apart, unless it is at five deviations.
    large = known(lambda trace: 100.0 + trace.completion_ids[0])
    trainer, rows = alternate(reward=large, whiten=white, clip=5.0, **FROZEN)
    if white:
        assert rows[0]["reward"] == pytest.approx(0, abs=1e-3)
        assert trainer._advantages.std() > 0.5
    else:
        assert rows[0]["reward"] == 5.0
        assert trainer._advantages.abs().max() == 0


def answered(texts: list[str], questions: list[Problem]) -> list[Rollout]:
    return [Rollout(questions[at // 4].id, (5,), (6, 7), text) for at, text in enumerate(texts)]


QUESTIONS = [Problem("a", "What is 2 + 2?", "4"), Problem("b", "Why?"), *(Problem(f"c{i}", "So?") for i in range(3))]
TEXTS = ["Answer: 4", "Answer: 4.0", "Answer: 5", "none", *["Answer: 4"] * 4]


@pytest.mark.parametrize("weight", [0.25, 1.0])
@pytest.mark.parametrize("credit", ["trace-mean", "consensus", "reward-to-go", "step-local"])
def test_the_outcomes_share_of_the_advantage(alternate: Alternate, known: Known, credit: str, weight: float) -> None:
    value = known(lambda trace: float(sum(trace.completion_ids)))
    found = []
    for share in (0.0, weight):
        trainer, _ = alternate(reward=value, questions=QUESTIONS, credit=credit, outcome_weight=share, **FROZEN)
        rollouts = answered(TEXTS, QUESTIONS)
        advantages, unit = trainer._credit(rollouts, trainer._score(rollouts))
        assert unit.shape == (8, 2)
        found.append(advantages)
    # Of question a two of four are right; of question b no answer is known, so its outcome says nothing.
    outcome = batch_scaled(group_centred(torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]), 4))
    assert torch.allclose(found[1], (1 - weight) * found[0] + weight * outcome[:, None], atol=1e-6)
    assert found[1].abs().max() > 0.1


def test_reference_answers_are_read_with_a_weight_only(
    alternate: Alternate, known: Known, demonstrations: list[Demonstration]
) -> None:
    flat = known(lambda _: 0.0)
    trainer, rows = alternate(reward=flat, **FROZEN)
    assert {problem.answer for problem in trainer._problems.values()} == {None}
    assert "outcome" not in rows[0]
    trainer, rows = alternate(reward=flat, outcome_weight=0.5, **FROZEN)
    assert trainer._problems == {d.problem.id: d.problem for d in demonstrations}
    assert rows[0]["outcome"] == 0.0  # a random policy states nothing


def test_a_weight_without_any_answer_is_refused(alternate: Alternate, known: Known) -> None:
    with pytest.raises(ConfigError, match="outcome_weight must be 0 where no question has a reference answer"):
        alternate(reward=known(lambda _: 0.0), questions=QUESTIONS[1:], outcome_weight=0.5, **FROZEN)


@pytest.mark.parametrize("credit", ["trace-mean", "reward-to-go"])
@pytest.mark.parametrize("scale", ["batch", "group", "none"])
def test_whose_deviation_divides(credit: str, scale: str) -> None:
    # Of two questions one is all noise: units of 0 and 0.01, and of 0 and 2.
    config = AdversarialConfig.model_validate({"group": 2, "credit": credit, "scale_rewards": scale})
    units = torch.tensor([[0.0], [0.01], [0.0], [2.0]]), torch.ones(4, 1, dtype=torch.bool)
    found = advantages_of(config, units[0][:, 0], units, None)[:, 0].abs()
    half = {"none": (0.005, 1.0), "group": (1 / 2**0.5, 1 / 2**0.5), "batch": (0.005 / 0.8165, 1 / 0.8165)}[scale]
    assert found.tolist() == pytest.approx([half[0], half[0], half[1], half[1]], rel=0.02)


def test_leave_one_out_is_seen_without_scaling() -> None:
    units = torch.zeros(0, 0), torch.zeros(0, 0, dtype=torch.bool)
    found = [
        advantages_of(
            AdversarialConfig.model_validate({"group": 3, "scale_rewards": "none", "baseline": baseline}),
            torch.tensor([1.0, 3.0, 8.0]), units, None,
        )[:, 0].tolist()
        for baseline in ("group-mean", "leave-one-out")
    ]  # fmt: skip
    assert found == [[-3.0, -1.0, 4.0], [-4.5, -1.5, 6.0]]
