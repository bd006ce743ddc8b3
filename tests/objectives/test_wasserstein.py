"""The Wasserstein discriminator's loss and its penalty, by hand."""

from __future__ import annotations

import pytest
import torch

from traceward.objectives.wasserstein import between, gradient_norms, gradient_penalty, wasserstein_loss


def test_loss_is_the_difference_of_the_means_of_trace_means() -> None:
    scores = torch.tensor([[1.0, 3.0], [8.0, 99.0], [4.0, 0.0], [-7.0, 7.0]])
    weight = torch.tensor([[1.0, 1.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    found = wasserstein_loss(scores, torch.tensor([1, 1, 0, 0]), weight)
    assert found.item() == 2.0 - (2.0 + 8.0) / 2


def test_descent_raises_experts_and_lowers_the_others_each_class_as_one() -> None:
    scores = torch.zeros(4, 1, requires_grad=True)
    wasserstein_loss(scores, torch.tensor([1, 0, 0, 0]), torch.ones(4, 1)).backward()
    assert scores.grad is not None
    assert (-scores.grad).flatten().tolist() == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3])


@pytest.mark.parametrize("missing", [0, 1])
def test_a_batch_of_one_class_is_refused(missing: int) -> None:
    with pytest.raises(ValueError, match=f"no row with label {missing}"):
        wasserstein_loss(torch.ones(2, 1), torch.full((2,), 1 - missing), torch.ones(2, 1))


def test_points_lie_on_the_line_where_both_have_a_vector_and_on_the_left_elsewhere() -> None:
    left, right = torch.tensor([[[4.0], [8.0], [5.0]]]), torch.tensor([[[0.0], [4.0], [77.0]]])
    both = torch.tensor([[True, True, False]])
    assert between(left, right, both, torch.tensor([0.25])).flatten().tolist() == [1.0, 5.0, 5.0]
    assert torch.equal(between(left, right, both, torch.tensor([1.0])), left)


def test_the_norm_of_a_linear_score_is_that_of_its_weights() -> None:
    # score = sum over two vectors of (3, 4) . x: the gradient is (3, 4, 3, 4); the masked third vector has no part.
    inputs = torch.randn(2, 3, 2, requires_grad=True)
    scores = (inputs @ torch.tensor([3.0, 4.0])).sum(1)
    norms = gradient_norms(scores, inputs, torch.tensor([[True, True, False], [True, False, False]]))
    assert norms.tolist() == pytest.approx([50**0.5, 5.0])
    assert gradient_penalty(norms).item() == pytest.approx(((50**0.5 - 1) ** 2 + 16) / 2)


def test_the_norm_of_a_quadratic_score_by_hand_and_its_slope() -> None:
    # score = a x^2 at x = 3: norm |2 a x| = 6 a, penalty (6 a - 1)^2, derivative by a 12 (6 a - 1).
    a = torch.tensor(0.5, requires_grad=True)
    inputs = torch.full((1, 1, 1), 3.0, requires_grad=True)
    norms = gradient_norms((a * inputs.square()).flatten(), inputs, torch.ones(1, 1, dtype=torch.bool))
    gradient_penalty(norms).backward()
    assert norms.item() == pytest.approx(3.0)
    assert a.grad is not None
    assert a.grad.item() == pytest.approx(24.0, rel=1e-5)


def test_a_flat_score_has_a_finite_gradient() -> None:
    a = torch.tensor(0.0, requires_grad=True)
    inputs = torch.zeros(1, 1, 2, requires_grad=True)
    gradient_penalty(gradient_norms(a * inputs.sum((1, 2)), inputs, torch.ones(1, 1))).backward()
    assert a.grad is not None
    assert a.grad.isfinite()
