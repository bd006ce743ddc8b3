"""Training goes round cuDNN's attention, and leaves the choice as it was."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from traceward.training.attention import without_cudnn
from traceward.training.learner import Learner, Tables
from traceward.training.resume import train


@pytest.fixture(autouse=True, params=[True, False])
def chosen(request: pytest.FixtureRequest) -> Any:
    """What somebody has set before, and finds again."""
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(request.param)
    yield
    assert torch.backends.cuda.cudnn_sdp_enabled() is request.param
    torch.backends.cuda.enable_cudnn_sdp(before)


def test_a_trainer_runs_without_it() -> None:
    seen = []
    train(cast(Any, SimpleNamespace(train=lambda: seen.append(torch.backends.cuda.cudnn_sdp_enabled()))), None)
    assert seen == [False]


def test_the_discriminator_learns_without_it() -> None:
    model, seen = nn.Linear(1, 1), []

    def forward(rows: list[int]) -> Tables:
        seen.append(torch.backends.cuda.cudnn_sdp_enabled())
        return (model(torch.ones(len(rows), 1)),)

    def loss(tables: tuple[Tensor, ...]) -> Tensor:
        return tables[0].square().mean()

    learner = Learner(model, torch.optim.SGD(model.parameters(), lr=0.1), grad_norm=1.0, rows_per_pass=2)
    learner.step([1, 1, 1], forward, loss)
    assert set(seen) == {False}


def test_an_error_leaves_the_choice_as_it_was() -> None:
    with pytest.raises(ValueError, match="stopped"), without_cudnn():
        raise ValueError("stopped")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gradients_behind_padding_are_numbers() -> None:
    """64 tokens, the first of them padding that sees nothing: with cuDNN's kernel NaN on an H100."""
    q, k, v = (torch.randn(1, 2, 64, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    mask = torch.ones(64, 64, dtype=torch.bool, device="cuda").tril()[None, None]
    mask[..., :5, :] = mask[..., :5] = False
    with without_cudnn():
        nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).sum().backward()
    assert all(torch.isfinite(cast(Tensor, one.grad)).all() for one in (q, k, v))
