"""A trainer that goes on bit for bit from its newest checkpoint.

transformers saves the weights, the optimiser, the schedule, its own state and the random states of python, numpy and
torch, and skips the batches that were used. Three things it leaves out, and they are added here:

  the order of the data     a sampler shuffles each epoch from a generator that a new process has at its start
  rollouts not yet used up  TRL samples for several optimiser steps at once and would sample again
  what is ours              the critic, the rows of the metrics, curves, guards: whatever is Stateful

With adversarial.py the only file that knows internals of TRL: `_step` and `_buffered_inputs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import send_to_device
from transformers import Trainer, TrainerCallback

from traceward.training.attention import without_cudnn
from traceward.training.checkpoints import Checkpoints, Stateful, load_parts, save_parts
from traceward.training.distribution import load_whole

if TYPE_CHECKING:
    from torch.utils.data import DataLoader
    from trl import GRPOTrainer


@without_cudnn()
def train(trainer: Trainer, checkpoints: Checkpoints | None, parts: Mapping[str, Stateful] | None = None) -> None:
    """`trainer.train()` with checkpoints, from the newest whole one where there is one. Without them: just that.

    parts: what changes while `trainer` runs and is not its own; callbacks that are Stateful are found by themselves.
    """
    try:
        _train(trainer, checkpoints, parts or {})
    finally:
        load_whole()


def _train(trainer: Trainer, checkpoints: Checkpoints | None, parts: Mapping[str, Stateful]) -> None:
    if checkpoints is None:
        trainer.train()
        return
    callbacks = {type(c).__name__: c for c in trainer.callback_handler.callbacks if isinstance(c, Stateful)}
    keeper = CheckpointCallback(checkpoints, {**parts, **callbacks})
    trainer.add_callback(keeper)
    trainer.args.output_dir = str(checkpoints.unfinished)
    trainer.train(resume_from_checkpoint=keeper.restore())


class CheckpointCallback(TrainerCallback):  # type: ignore[misc]
    """Says when to save, and adds to what transformers has saved."""

    def __init__(self, checkpoints: Checkpoints, parts: Mapping[str, Stateful]) -> None:
        self.checkpoints = checkpoints
        self.order = DataOrder()
        self.parts = {"data-order": self.order, **parts}

    def restore(self) -> str | None:
        """Put all parts back to the newest whole checkpoint, and name it to the trainer."""
        found = self.checkpoints.newest()
        if found is not None:
            load_parts(found, self.parts)
        self.checkpoints.clear_room()
        return None if found is None else str(found)

    def on_epoch_begin(self, *_: Any, train_dataloader: DataLoader[Any], **__: Any) -> None:
        """Before the trainer asks for the epoch's first batch."""
        self.order.begin(train_dataloader)

    def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
        """No checkpoint at the very end: the stage saves its policy there."""
        if self.checkpoints.due(state.global_step) and state.global_step < state.max_steps:
            control.should_save = True

    def on_save(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """transformers has filled the room; ours comes beside it."""
        if float(state.epoch).is_integer():
            self.order.end()
        save_parts(self.checkpoints.room(state.global_step), self.parts)
        self.checkpoints.seal(state.global_step)


class DataOrder:
    """What the unfinished epoch's order is drawn from: torch's random state, and the sampler's own generator where
    it has one. Drawn again from the same, a new process skips the batches that were used."""

    def __init__(self) -> None:
        self._drawn_from: dict[str, Any] = {}
        self._restored = False
        self._own: torch.Generator | None = None

    def begin(self, loader: DataLoader[Any]) -> None:
        """Note the state that the epoch's order is about to be drawn from, or put back the one that was noted."""
        self._own = _generator(loader)
        if not self._restored:
            self._drawn_from = self._now()
            return
        self._restored = False
        torch.set_rng_state(self._drawn_from["torch"])
        if self._own is not None and self._drawn_from["sampler"] is not None:
            self._own.set_state(self._drawn_from["sampler"])

    def end(self) -> None:
        """The epoch is used up: the next order is drawn from here on."""
        self._drawn_from = self._now()

    def _now(self) -> dict[str, Any]:
        own = None if self._own is None else self._own.get_state()
        return {"torch": torch.get_rng_state(), "sampler": own}

    def state_dict(self) -> dict[str, Any]:
        """The state that the order is drawn from."""
        return self._drawn_from

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Draw the next epoch's order from `state`."""
        self._drawn_from, self._restored = state, True


def _generator(loader: DataLoader[Any]) -> torch.Generator | None:
    """The sampler's own, under what accelerate wraps around it."""
    sampler: Any = loader.batch_sampler
    while inner := getattr(sampler, "batch_sampler", None) or getattr(sampler, "sampler", None):
        sampler = inner
    return getattr(sampler, "generator", None)


class BufferedRollouts:
    """What TRL sampled for optimiser steps that are still to come, and its count of forward passes, which says when
    it samples again."""

    def __init__(self, trainer: GRPOTrainer) -> None:
        self.trainer = trainer

    def state_dict(self) -> dict[str, Any]:
        """The rollouts, where some are not yet used up."""
        trainer = self.trainer
        used_up = trainer._step % (trainer.args.steps_per_generation * trainer.num_iterations) == 0
        return {"step": trainer._step, "inputs": None if used_up else trainer._buffered_inputs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Give them back to the trainer, on its device."""
        self.trainer._step = state["step"]
        self.trainer._buffered_inputs = send_to_device(state["inputs"], self.trainer.accelerator.device)
