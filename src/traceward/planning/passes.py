"""The passes of training as this package runs them, on fake tensors: what each holds beside weights and states.

A model of two layers and one of three tell what a layer adds; all layers of these architectures are alike.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from traceward.adapters import add_adapter, checkpoint_gradients
from traceward.planning import forward
from traceward.planning.architecture import layers_of
from traceward.planning.forward import TILE, Pass
from traceward.planning.ledger import END, FORWARD, TURN, Ledger, Peak, watch_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Peaks(NamedTuple):
    """Where a pass may hold most: on its way forward, where it turns, and at its end, when all gradients are there."""

    forward: Peak
    turn: Peak = Peak()
    end: Peak = Peak()


Run = Callable[["PreTrainedModel", Pass], Tensor | None]
"""Forward; what it returns goes backward."""


def policy_update(what: Pass) -> Peaks:
    """Forward and backward of a part of a policy's batch, as TRL's GRPO and SFT do."""
    return _peaks(what, forward.through_trl)


def reward_update(what: Pass) -> Peaks:
    """Forward and backward of a part of a discriminator's batch."""
    return _peaks(what, forward.through_reward)


def sampling(what: Pass) -> Peaks:
    """Sampling: the pass over the prompts, or the last token's, with keys and values of all before it."""
    return max(
        _peaks(what, forward.through_prompts),
        _peaks(what, forward.one_more_token),
        key=lambda peaks: peaks.forward.total,
    )


def scoring(what: Pass) -> Peaks:
    """A reward's pass over a row of traces, without gradients."""
    return _peaks(what, forward.through_scoring)


@lru_cache(maxsize=256)
def _peaks(what: Pass, run_it: Run) -> Peaks:
    layers = what.model.layers
    if layers <= 3:
        return _counted(what, layers, run_it)
    two, three = (_counted(what, count, run_it) for count in (2, 3))
    return Peaks(*(a + (b + a * -1) * (layers - 2) for a, b in zip(two, three, strict=True)))


def _counted(what: Pass, layers: int, run_it: Run) -> Peaks:
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        model = _built(what, layers)
    with FakeTensorMode(allow_non_fake_inputs=True):
        _make_fake(model)
        ledger = Ledger({what.model.vocabulary, TILE})
        watch_layers(layers_of(model, layers), ledger)
        if what.accumulates:
            for weight in model.parameters():
                weight.grad = torch.zeros_like(weight) if weight.requires_grad else None
        ledger.leave_out([*model.parameters(), *model.buffers()])
        ledger.leave_out([weight.grad for weight in model.parameters() if weight.grad is not None])
        with ledger:
            loss = run_it(model, what)
            if loss is not None:
                ledger.mark(TURN)
                forward.backward(loss, what)
    return Peaks(*(ledger.peaks.get(stretch, Peak()) for stretch in (FORWARD, TURN, END)))


def _built(what: Pass, layers: int) -> PreTrainedModel:
    model = what.model.build(layers, what.dtype, scalar=what.scalar)
    if what.adapter.chosen:
        add_adapter(model, what.adapter, seed=0)
        for name, weight in model.named_parameters():
            if what.scalar and not name.startswith(model.base_model_prefix):
                weight.requires_grad_()
    if what.checkpointing:
        checkpoint_gradients(model)
    return model.train()


def _make_fake(model: nn.Module) -> None:
    """Tensors of a model on the meta device become fake ones on a CPU, in place: PEFT cannot move fake ones itself."""
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                new = nn.Parameter(torch.empty(weight.shape, dtype=weight.dtype), requires_grad=weight.requires_grad)
                module._parameters[name] = made.setdefault(id(weight), new)  # tied ones stay tied
        for name, table in module._buffers.items():
            if table is not None:
                module._buffers[name] = torch.empty(table.shape, dtype=table.dtype)
