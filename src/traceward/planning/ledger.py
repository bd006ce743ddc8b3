"""What a pass through a model holds in memory, counted while it runs.

The pass runs on fake tensors: torch works out every shape, type and saved tensor of the real code, and allocates
nothing. So whatever a model, an adapter, autocast or checkpointing keeps is in the count, without a formula of ours.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

ACTIVATIONS, LOGITS = "activations", "logits"
FORWARD, TURN, BETWEEN, END = "forward", "turn", "between", "end"


@dataclass(frozen=True, slots=True)
class Peak:
    """Bytes at the moment when a stretch of a pass held most. Gradients of weights are among the activations."""

    activations: float = 0.0
    logits: float = 0.0

    @property
    def total(self) -> float:
        """Of both kinds."""
        return self.activations + self.logits

    def __add__(self, other: Peak) -> Peak:
        return Peak(self.activations + other.activations, self.logits + other.logits)

    def __mul__(self, times: float) -> Peak:
        return Peak(self.activations * times, self.logits * times)


class Ledger(TorchDispatchMode):
    """Counts the tensors that come to be inside it, from their first use until they are freed.

    widths: sizes of a last axis that belong to logits.
    A pass has stretches that its caller marks; each has a peak of its own.
    """

    def __init__(self, widths: Collection[int] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.widths = frozenset(widths)
        self.peaks: dict[str, Peak] = {}
        self._live: Counter[str] = Counter()
        self._known: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self._stretch = FORWARD

    def leave_out(self, tensors: Iterable[Tensor]) -> None:
        """What stands there already: a view of it is nothing new."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._known[id(storage)] = storage

    def mark(self, stretch: str) -> None:
        """From now on the pass is in this stretch. Nothing comes before its turn but the way there, whatever is
        differentiated on it, and nothing after its end, whatever else goes backward then."""
        if self._stretch != END and (self._stretch != FORWARD or stretch == TURN):
            self._stretch = stretch
            self._look()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._see, found)
        return found

    def _see(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if self._known.get(key) is not storage:
            self._known[key] = storage
            kind = LOGITS if tensor.dim() > 1 and tensor.shape[-1] in self.widths else ACTIVATIONS
            self._live[kind] += size
            weakref.finalize(storage, self._freed, kind, size)
            self._look()
        return tensor

    def _freed(self, kind: str, size: int) -> None:
        self._live[kind] -= size

    def _look(self) -> None:
        now = Peak(float(self._live[ACTIVATIONS]), float(self._live[LOGITS]))
        if now.total > self.peaks.get(self._stretch, Peak()).total:
            self.peaks[self._stretch] = now


def watch_layers(layers: nn.ModuleList, ledger: Ledger) -> None:
    """Mark where the way back has left the last layer, and where it comes to the first.

    Between the two, memory goes evenly from one end to the other: each layer frees what it kept and brings the
    gradients of its weights.
    """

    def after_last(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        _when_pulled(args[0] if args else kwargs["hidden_states"], ledger, BETWEEN)

    def first(_module: nn.Module, _args: tuple[Any, ...], out: Any) -> None:
        _when_pulled(out[0] if isinstance(out, tuple) else out, ledger, END)

    layers[-1].register_forward_pre_hook(after_last, with_kwargs=True)
    layers[0].register_forward_hook(first)


def _when_pulled(tensor: Tensor, ledger: Ledger, stretch: str) -> None:
    if tensor.requires_grad and torch.is_grad_enabled():
        tensor.register_hook(lambda _: ledger.mark(stretch))  # type: ignore[no-untyped-call]
