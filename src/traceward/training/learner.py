"""An optimiser step on a loss over a whole batch, in any number of passes and processes.

A discriminator's loss is a function of the unit logits of all rows. They are brought together first; the loss of the
whole batch then gives every row its gradient, and each part goes backward with that of its rows. So class weights,
pairs and means are those of the whole batch, whatever lies in a part, for any loss. With several parts a process,
each goes forward twice: memory for one part is paid with a second pass.
Source: gradient caching (Gao et al. 2021, arXiv 2101.06983).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator, DeepSpeedPlugin
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.fsdp import FSDPModule

from traceward.errors import ConfigError
from traceward.training.attention import without_cudnn
from traceward.training.distribution import everyone, is_main, load_whole, place, share, shared

Tables = tuple[Tensor, ...]
"""(B, U) each, 0 where a row has no unit: the logits first, then what else the loss wants of every unit."""
Forward = Callable[[list[int]], Tables]
"""Row numbers -> their tables; U may differ from call to call."""
Loss = Callable[[Tables], Tensor]
"""The tables of all rows -> a scalar."""


SLICES = 4


@dataclass(frozen=True, slots=True)
class Step:
    """What a step did, and the tables that it started from."""

    loss: float
    tables: Tables
    grad_norm: float


class Through(nn.Module):
    """Runs a function that calls `backbone`: DDP and DeepSpeed reduce gradients of what happens in a forward only.

    The policy's mixed precision does not reach in here: a discriminator scores as it learns.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, function: Callable[[], list[Tables]]) -> list[Tables]:
        """What `function` returns."""
        device = next(self.backbone.parameters()).device.type
        with torch.autocast(device, enabled=False):
            return function()


class Learner:
    """A backbone with its optimiser. `prepare` hands both to accelerate; without it, one process learns alone.

    shardable: whether every pass is one forward of `backbone`, once differentiated; FSDP2 and ZeRO 3 take no other.
    adapted: whether `backbone` is an adapter on weights that others hold too; they must stay whole and where they are.
    """

    def __init__(
        self,
        backbone: nn.Module,
        optimiser: torch.optim.Optimizer,
        *,
        grad_norm: float,
        rows_per_pass: int,
        shardable: bool = True,
        adapted: bool = False,
    ) -> None:
        self.backbone = backbone
        self.optimiser = optimiser
        self.grad_norm = grad_norm
        self.rows_per_pass = rows_per_pass
        self.shardable = shardable
        self.adapted = adapted
        self.accelerator: Accelerator | None = None
        self._run: nn.Module = Through(backbone)
        self._reduced: nn.Module = self._run

    def prepare(self, accelerator: Accelerator | None = None) -> None:
        """Let accelerate distribute backbone and optimiser: DDP or DeepSpeed around it, or FSDP2 inside it.

        accelerator: a trainer's; left out, one of its own, and none for a process that is alone.
        """
        alone = accelerator is None
        if accelerator is None:
            if place()[1] == 1:
                return
            accelerator = Accelerator(cpu=not torch.cuda.is_available())
        if self.adapted and (accelerator.is_fsdp2 or accelerator.distributed_type is DistributedType.DEEPSPEED):
            raise ConfigError(
                "processes must be started with recipes/accelerate/ddp.yaml where a reward with an adapter learns: got "
                "FSDP2 or DeepSpeed; launch with that, or remove reward.adapter"
            )
        if not self.shardable and (accelerator.is_fsdp2 or _zero_stage(accelerator) == 3):
            raise ConfigError(
                "weights must stay whole with objective 'wgan-gp', and with 'airl' and a scalar head: got FSDP2 or "
                "ZeRO 3; launch with recipes/accelerate/ddp.yaml"
            )
        if accelerator.distributed_type is DistributedType.DEEPSPEED:
            accelerator = _beside_deepspeed(accelerator, self.grad_norm)
        if accelerator.is_fsdp2:
            # One of its own: accelerate clips by looking a model up among all that it has prepared, and fails where
            # that takes weights of several for the same. Sharded in place: scoring calls the backbone too.
            accelerator = Accelerator()
            with _whole_precision(accelerator):
                self._reduced, self.optimiser = accelerator.prepare(self.backbone, self.optimiser)
        else:
            self._run, self.optimiser = accelerator.prepare(self._run, self.optimiser)
            self._reduced = self._run
        if accelerator.distributed_type is DistributedType.DEEPSPEED:
            accelerator.state.select_deepspeed_plugin(_POLICY)
        if alone:
            load_whole()  # no trainer follows, but models to sample from and to compare with
        self.accelerator = accelerator

    # ---- checkpoints ---------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Trained weights and the optimiser, whole, on the main process; nothing on the others, which get theirs from
        it. All processes must call it. Raises ConfigError under DeepSpeed, whose optimiser is in pieces."""
        if self.accelerator is not None and self.accelerator.distributed_type is DistributedType.DEEPSPEED:
            raise ConfigError("checkpoints must be off under DeepSpeed: got one; set run.checkpoint_every=0")
        if isinstance(self.backbone, FSDPModule):
            found = get_state_dict(self.backbone, _bare(self.optimiser), options=_WHOLE)
        else:
            found = dict(what_learns(self.backbone)), self.optimiser.state_dict()
        return dict(zip(("weights", "optimiser"), found, strict=True)) if is_main() else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the main process's `state`. All processes must call it."""
        weights, optimiser = (everyone([state])[0][name] for name in ("weights", "optimiser"))
        if isinstance(self.backbone, FSDPModule):
            options = StateDictOptions(full_state_dict=True, strict=False)
            set_state_dict(
                self.backbone,
                _bare(self.optimiser),
                model_state_dict=weights,
                optim_state_dict=optimiser,
                options=options,
            )
        else:
            self.backbone.load_state_dict(weights, strict=False)
            self.optimiser.load_state_dict(optimiser)

    # ---- parts ---------------------------------------------------------------------------------------------------

    def _parts(self, count: int) -> list[list[int]]:
        """Rows in parts of at most `rows_per_pass`, as many for every process; neighbours go to different parts, since
        rows of one kind lie together and are of similar length."""
        processes = place()[1]
        passes = -(-count // (processes * self.rows_per_pass))
        return [list(range(count))[at :: passes * processes] for at in range(min(count, passes * processes))]

    def _slices(self, rows: Sequence[int], lengths: Sequence[int], smallest: int) -> list[list[int]]:
        """A part in SLICES of similar length, whose passes hold less padding. As many in each part: a pass through
        sharded weights waits for all processes."""
        ordered, count = sorted(rows, key=lambda row: lengths[row]), min(SLICES, smallest)
        return [ordered[len(rows) * at // count : len(rows) * (at + 1) // count] for at in range(count)]

    def _sliced(self, lengths: Sequence[int]) -> list[list[list[int]]]:
        """Parts, each of them in slices."""
        parts = self._parts(len(lengths))
        smallest = min(map(len, parts))
        return [self._slices(rows, lengths, smallest) for rows in parts]

    def look(self, lengths: Sequence[int], forward: Forward) -> Tables:
        """The tables of all rows, of which `lengths` are the tokens, on every process, without gradients."""
        with torch.no_grad():
            found = shared(self._sliced(lengths), lambda part: [(rows, _on_cpu(forward(rows))) for rows in part])
        return self._whole(len(lengths), [one for part in found for one in part])

    def _whole(self, count: int, parts: Sequence[tuple[list[int], Tables]]) -> Tables:
        width = max(tables[0].shape[1] for _, tables in parts)
        whole = tuple(torch.zeros(count, width, dtype=table.dtype) for table in parts[0][1])
        for rows, tables in parts:
            for into, table in zip(whole, tables, strict=True):
                into[rows, : table.shape[1]] = table
        device = next(self.backbone.parameters()).device
        return tuple(table.to(device) for table in whole)

    # ---- learning ------------------------------------------------------------------------------------------------

    @without_cudnn()
    def step(self, lengths: Sequence[int], forward: Forward, loss: Loss, *, learned: int = 1) -> Step:
        """One optimiser step on `loss` over all rows, of which `lengths` are the tokens; every process ends with the
        same weights.

        The first `learned` tables carry gradients: the logits, and what else the loss wants to move.
        """

        def pass_of(slices: list[list[int]]) -> list[Tables]:
            return [forward(rows) for rows in slices]

        mine = share(self._sliced(lengths))
        once = len(mine) == 1
        with torch.set_grad_enabled(once):
            run = self._run if once else Through(self.backbone)
            found = [run(partial(pass_of, part)) for part, _ in mine]
        own_tables = [
            (rows, _on_cpu(some))
            for (part, own), passed in zip(mine, found, strict=True)
            if own
            for rows, some in zip(part, passed, strict=True)
        ]
        tables = self._whole(len(lengths), everyone(own_tables))
        moved = [table.requires_grad_() for table in tables[:learned]]
        value = loss(tables)
        gradients = torch.autograd.grad(value, moved)
        with self._steps_now():
            for at, (part, own) in enumerate(mine):
                with self._reducing(at == len(mine) - 1):
                    again = found[at] if once else self._run(partial(pass_of, part))
                    # Processes average their gradients; the whole batch wants the sum.
                    scale = place()[1] if own else 0
                    pulled = [
                        (table * pull[rows, : table.shape[1]] * scale).sum()
                        for rows, some in zip(part, again, strict=True)
                        for table, pull in zip(some[:learned], gradients, strict=True)
                    ]
                    self._backward(torch.stack(pulled).sum())
            norm = self._clip()
            self.optimiser.step()
            self.optimiser.zero_grad()  # the policy's turn comes, and then a forward pass: gradients need not stand by
        return Step(value.item(), tuple(table.detach() for table in tables), norm)

    @contextmanager
    def _steps_now(self) -> Iterator[None]:
        """accelerate lets no optimiser step between the backward passes of a policy step, and the discriminator learns
        before the first of them: without this, its steps would silently do nothing."""
        if self.accelerator is None:
            yield
            return
        state = self.accelerator.gradient_state
        before = state.sync_gradients
        state._set_sync_gradients(True)
        try:
            yield
        finally:
            state._set_sync_gradients(before)

    def _reducing(self, now: bool) -> AbstractContextManager[None]:
        """Gradients are reduced over the processes once, with the last part."""
        if self.accelerator is None:
            return nullcontext()
        self.accelerator.gradient_state._set_sync_gradients(now)
        return nullcontext() if now else self.accelerator.no_sync(self._reduced)

    def _backward(self, loss: Tensor) -> None:
        """DeepSpeed's engine goes backward itself, and with the last part it steps. accelerate would divide any other
        loss by the policy's number of parts."""
        if self.accelerator is not None and self.accelerator.distributed_type is DistributedType.DEEPSPEED:
            self.accelerator.backward(loss)
        else:
            loss.backward()  # type: ignore[no-untyped-call]

    def _clip(self) -> float:
        clip: Any = torch.nn.utils.clip_grad_norm_ if self.accelerator is None else self.accelerator.clip_grad_norm_
        norm = clip(self.backbone.parameters(), self.grad_norm)
        return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)


def what_learns(module: nn.Module) -> dict[str, Tensor]:
    """The part of the state that training may change: weights that are not frozen, and buffers."""
    kept = {name for name, parameter in module.named_parameters(remove_duplicate=False) if parameter.requires_grad}
    kept |= {name for name, _ in module.named_buffers(remove_duplicate=False)}
    return {name: value for name, value in module.state_dict().items() if name in kept}


@contextmanager
def _whole_precision(accelerator: Accelerator) -> Iterator[None]:
    """FSDP2 casts what it gathers and returns, whatever autocast says: not for a discriminator."""
    plugin = accelerator.state.fsdp_plugin
    before, plugin.mixed_precision_policy = plugin.mixed_precision_policy, None
    try:
        yield
    finally:
        plugin.mixed_precision_policy = before


def _zero_stage(accelerator: Accelerator) -> int:
    """DeepSpeed's; 0 without it."""
    if accelerator.distributed_type is not DistributedType.DEEPSPEED:
        return 0
    return int(accelerator.state.deepspeed_plugin.zero_stage)


def _beside_deepspeed(accelerator: Accelerator, grad_norm: float) -> Accelerator:
    """An Accelerator and a plugin for the discriminator: DeepSpeed ties an Accelerator to one engine, which reads how
    it clips from the plugin. The plugin is active until another one is selected. What is sharded and where it lies is
    as for the policy. Scoring calls the backbone outside the engine; the hooks that ZeRO 3 leaves in it fetch the
    weights there too.
    """
    state = accelerator.state
    policy = state.deepspeed_plugin
    own = DeepSpeedPlugin(
        zero_stage=policy.zero_stage,
        gradient_accumulation_steps=1,
        zero3_init_flag=False,  # it is made already
    )
    own.deepspeed_config["gradient_clipping"] = grad_norm  # a file that the user names may hold the policy's
    own.deepspeed_config["zero_optimization"] = deepcopy(policy.deepspeed_config["zero_optimization"])
    own.deepspeed_config["train_micro_batch_size_per_gpu"] = 1  # nothing here has a batch size; it must be a number
    state.deepspeed_plugins = {_POLICY: policy, _CRITIC: own}
    state.select_deepspeed_plugin(_CRITIC)
    return Accelerator()


_POLICY, _CRITIC = "policy", "critic"
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)


def _bare(optimiser: Any) -> torch.optim.Optimizer:
    """The optimiser that accelerate has wrapped."""
    found: torch.optim.Optimizer = getattr(optimiser, "optimizer", optimiser)
    return found


def _on_cpu(tables: Tables) -> Tables:
    return tuple(table.detach().cpu() for table in tables)
