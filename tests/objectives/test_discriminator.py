"""The discriminator's loss, by hand."""

from __future__ import annotations

from math import exp, log

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from traceward.objectives.discriminator import (
    airl_logits,
    gail_loss,
    pair_margins,
    pairwise_loss,
    shaped_reward,
    trace_means,
)


def bce(logit: float, target: float) -> float:
    """- target log s(x) - (1 - target) log(1 - s(x)), written out."""
    return target * log(1 + exp(-logit)) + (1 - target) * log(1 + exp(logit))


def loss_of(logits: list[list[float]], labels: list[int], weight: list[list[float]], smoothing: float = 0.0) -> float:
    return gail_loss(
        torch.tensor(logits, dtype=torch.float64),
        torch.tensor(labels),
        torch.tensor(weight, dtype=torch.float64),
        smoothing=smoothing,
    ).item()


def test_loss_without_smoothing_is_plain_cross_entropy() -> None:
    found = loss_of([[2.0, 9.0], [-1.0, 3.0]], [1, 0], [[1, 0], [1, 1]])
    expert, rollout = bce(2.0, 1), (bce(-1.0, 0) + bce(3.0, 0)) / 2
    assert found == pytest.approx((expert + rollout) / 2, abs=1e-12)


def test_smoothing_moves_targets_by_half_of_it() -> None:
    found = loss_of([[2.0], [-1.0]], [1, 0], [[1], [1]], smoothing=0.1)
    assert found == pytest.approx((bce(2.0, 0.95) + bce(-1.0, 0.05)) / 2, abs=1e-12)


def test_smoothed_loss_is_least_at_the_log_odds_of_the_target() -> None:
    logits = torch.tensor([[log(19)], [-log(19)]], dtype=torch.float64, requires_grad=True)
    gail_loss(logits, torch.tensor([1, 0]), torch.ones(2, 1), smoothing=0.1).backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-12


def test_default_smoothing_is_the_papers() -> None:
    logits, labels, weight = torch.tensor([[2.0], [-1.0]]), torch.tensor([1, 0]), torch.ones(2, 1)
    assert torch.equal(gail_loss(logits, labels, weight), gail_loss(logits, labels, weight, smoothing=0.1))


def test_classes_weigh_one_half_each_whatever_their_counts() -> None:
    found = loss_of([[1.0], [0.0], [2.0], [-2.0]], [1, 0, 0, 0], [[1]] * 4)
    assert found == pytest.approx(bce(1.0, 1) / 2 + (bce(0.0, 0) + bce(2.0, 0) + bce(-2.0, 0)) / 6, abs=1e-12)


def test_traces_weigh_the_same_whatever_their_unit_counts() -> None:
    logits = [[1.0, 5.0, 5.0, 5.0], [-3.0, 0.0, 1.0, 2.0], [0.0, 0.0, 0.0, 0.0]]
    found = loss_of(logits, [1, 1, 0], [[1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0]])
    long = sum(bce(x, 1) for x in logits[1]) / 4
    assert found == pytest.approx((bce(1.0, 1) + long) / 4 + log(2) / 2, abs=1e-12)


def test_units_weigh_by_their_weight() -> None:
    found = loss_of([[1.0, -1.0], [0.0, 0.0]], [1, 0], [[3.0, 1.0], [1, 1]])
    assert found == pytest.approx((3 * bce(1.0, 1) + bce(-1.0, 1)) / 8 + log(2) / 2, abs=1e-12)


def test_unweighted_units_and_rows_take_no_part() -> None:
    labels, weight = [1, 0, 0], [[1, 0], [1, 1], [0, 0]]
    assert loss_of([[1.0, 77.0], [2.0, 3.0], [55.0, -55.0]], labels, weight) == pytest.approx(
        loss_of([[1.0, 0.0], [2.0, 3.0], [0.0, 0.0]], labels, weight), abs=1e-12
    )
    logits = torch.ones(3, 2, requires_grad=True)
    gail_loss(logits, torch.tensor(labels), torch.tensor(weight)).backward()
    assert logits.grad is not None
    assert logits.grad.nonzero().tolist() == [[0, 0], [1, 0], [1, 1]]


@pytest.mark.parametrize("missing", [0, 1])
def test_a_batch_of_one_class_is_refused(missing: int) -> None:
    with pytest.raises(ValueError, match=f"no row with label {missing}"):
        loss_of([[1.0], [2.0]], [1 - missing, 1 - missing], [[1], [1]])


def test_a_class_without_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="no row with label 0"):
        loss_of([[1.0], [2.0]], [1, 0], [[1], [0]])


def test_descent_raises_expert_logits_and_lowers_the_others() -> None:
    logits = torch.zeros(2, 3, requires_grad=True)
    gail_loss(logits, torch.tensor([1, 0]), torch.ones(2, 3)).backward()
    assert logits.grad is not None
    step: Tensor = -logits.grad
    assert (step[0] > 0).all()
    assert (step[1] < 0).all()


values = st.floats(-8, 8)
rows = st.lists(st.lists(values, min_size=2, max_size=2), min_size=1, max_size=4)


@given(rows, rows, st.integers(1, 5), st.integers(1, 5))
def test_repeating_a_whole_class_changes_nothing(
    experts: list[list[float]], others: list[list[float]], times: int, more: int
) -> None:
    def loss(left: list[list[float]], right: list[list[float]]) -> float:
        every = left + right
        return loss_of(every, [1] * len(left) + [0] * len(right), [[1, 1]] * len(every), smoothing=0.1)

    assert loss(experts * times, others * more) == pytest.approx(loss(experts, others), abs=1e-9)


def test_trace_means_by_hand() -> None:
    means, counted = trace_means(torch.tensor([[1.0, 3.0], [5.0, 9.0]]), torch.tensor([[1.0, 3.0], [0.0, 0.0]]))
    assert means.tolist() == [2.5, 0.0]
    assert counted.tolist() == [True, False]


# ---- pairwise --------------------------------------------------------------------------------------------------------


def pairwise_of(scores: list[float], labels: list[int], questions: list[int], smoothing: float = 0.0) -> float:
    logits = torch.tensor(scores, dtype=torch.float64)[:, None]
    weight = torch.ones_like(logits)
    return pairwise_loss(logits, torch.tensor(labels), weight, torch.tensor(questions), smoothing=smoothing).item()


def test_pairs_are_of_one_question_and_of_two_classes() -> None:
    scores = torch.tensor([5.0, 1.0, 2.0, 40.0, 30.0])
    margins, question = pair_margins(scores, torch.tensor([1, 0, 0, 1, 0]), torch.tensor([0, 0, 1, 1, 1]))
    assert margins.tolist() == [4.0, 38.0, 10.0]
    assert question.tolist() == [0, 1, 1]


def test_pairwise_loss_by_hand_every_question_alike() -> None:
    found = pairwise_of([5.0, 1.0, 2.0, 40.0, 41.0], [1, 0, 0, 1, 0], [0, 0, 1, 1, 1])
    first, second = log(1 + exp(-4.0)), (log(1 + exp(-38.0)) + log(1 + exp(1.0))) / 2
    assert found == pytest.approx((first + second) / 2, abs=1e-12)


def test_pairwise_smoothing_is_that_of_the_target() -> None:
    assert pairwise_of([3.0, 1.0], [1, 0], [0, 0], smoothing=0.2) == pytest.approx(bce(2.0, 0.9), abs=1e-12)


def test_what_a_question_adds_to_all_its_traces_cancels() -> None:
    plain = pairwise_of([1.0, 0.5, 2.0, 3.0], [1, 0, 1, 0], [0, 0, 1, 1])
    assert pairwise_of([1.0, 0.5, 102.0, 103.0], [1, 0, 1, 0], [0, 0, 1, 1]) == pytest.approx(plain, abs=1e-9)


def test_pairwise_leaves_masked_units_and_empty_traces_out() -> None:
    logits = torch.tensor([[2.0, 99.0], [1.0, 3.0], [50.0, 50.0]], dtype=torch.float64)
    weight = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    found = pairwise_loss(logits, torch.tensor([1, 0, 0]), weight, torch.tensor([0, 0, 0]), smoothing=0.0)
    assert found.item() == pytest.approx(log(2), abs=1e-12)


@pytest.mark.parametrize("questions", [[0, 1], [1, 0]])
def test_a_batch_without_a_pair_is_refused(questions: list[int]) -> None:
    with pytest.raises(ValueError, match="got no such pair"):
        pairwise_of([1.0, 0.0], [1, 0], questions)


# ---- airl ------------------------------------------------------------------------------------------------------------


def test_shaped_reward_by_hand_the_potential_of_a_terminal_state_is_zero() -> None:
    rewards = torch.tensor([[1.0, 2.0, 4.0], [1.0, 2.0, 0.0]])
    potentials = torch.tensor([[10.0, 20.0, 40.0], [10.0, 20.0, 99.0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    found = shaped_reward(rewards, potentials, mask, gamma=0.5)
    assert found[0].tolist() == [1 + 10 - 10, 2 + 20 - 20, 4 - 40]
    assert found[1, :2].tolist() == [1 + 10 - 10, 2 - 20]


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=1, max_size=6), st.integers(0, 3))
def test_without_discount_shaping_telescopes_to_a_constant_of_the_question(
    units: list[tuple[float, float]], padding: int
) -> None:
    rewards, potentials = torch.tensor([*units, *[(0.0, 7.0)] * padding], dtype=torch.float64).T[:, None]
    mask = (torch.arange(rewards.shape[1]) < len(units))[None]
    found = shaped_reward(rewards, potentials, mask, gamma=1.0)
    assert found[mask].sum().item() == pytest.approx(rewards.sum().item() - units[0][1], abs=1e-9)


def test_airls_discriminator_is_exp_f_over_exp_f_plus_pi() -> None:
    shaped, policy = torch.tensor([[0.3, -2.0]]), torch.tensor([[0.25, 0.5]])
    discriminator = torch.sigmoid(airl_logits(shaped, policy.log()))
    assert torch.allclose(discriminator, shaped.exp() / (shaped.exp() + policy))


def test_airl_sends_no_gradient_to_the_policy() -> None:
    shaped, policy = (torch.ones(2, 1, requires_grad=True) for _ in range(2))
    gail_loss(airl_logits(shaped, policy), torch.tensor([1, 0]), torch.ones(2, 1)).backward()
    assert shaped.grad is not None
    assert policy.grad is None


def test_airl_at_its_fixed_point_is_the_experts_log_probability() -> None:
    # One state, three actions; the policy is another one. The best f is log of the expert's probability.
    expert, policy = torch.tensor([0.6, 0.3, 0.1]).double(), torch.tensor([0.2, 0.2, 0.6]).double()
    f = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([f], max_iter=200, line_search_fn="strong_wolfe")
    # A row per action and class, each as often as it is taken: units of one trace, weighted.
    labels, weight = torch.tensor([1, 0]), torch.stack([expert, policy])

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = gail_loss(airl_logits(f.expand(2, 3), policy.log()), labels, weight, smoothing=0.0)
        loss.backward()
        return loss

    optimiser.step(closure)
    assert torch.allclose(f.detach(), expert.log(), atol=1e-4)
