"""Several processes that do the work of one.

Every process runs the same program, from the same seeds, on the whole round: token ids are small, so each holds the
rollouts of all. Only passes through a model are divided, and what they give comes back to every process. Class weights,
means, group centring, whitening and every credit rule are then computed from the whole batch by the code that one
process runs; no equation knows how many processes there are.

accelerate starts the processes and their communication (`join`). Alone, every function here does the plain thing.
"""

from __future__ import annotations

import atexit
import functools
import gc
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from traceward.errors import RunError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from traceward.data.formats import EncodedTrace
    from traceward.records import Rollout, ScoredTrace, UnitSpec
    from traceward.rewards.heads import PolicyLogprobs
    from traceward.rewards.model import TraceScorer

P = ParamSpec("P")
Item = TypeVar("Item")
Found = TypeVar("Found")
PER_CALL = 256  # sequences that one process samples with one seed
LET_GO = 0.5  # seconds; the threads of gloo need less than a millisecond of a core


def launched() -> bool:
    """Whether accelerate or torchrun started this process beside others. Reads the environment only, without torch."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def under_deepspeed() -> bool:
    """Whether accelerate was told to use DeepSpeed. Reads the environment only."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"


def under_fsdp() -> bool:
    """Whether accelerate was told to use FSDP. Reads the environment only."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def under_zero3() -> bool:
    """Whether accelerate was told to use DeepSpeed's ZeRO 3. Reads the environment only."""
    return under_deepspeed() and os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "3"


def in_pieces(model: nn.Module) -> bool:
    """Whether each process holds a part of every weight: FSDP2, or DeepSpeed's ZeRO 3."""
    from torch.distributed.fsdp import FSDPModule

    return isinstance(model, FSDPModule) or _by_zero3(model)


def _by_zero3(model: nn.Module) -> bool:
    return any(hasattr(weight, "ds_tensor") for weight in model.parameters())


def load_whole() -> None:
    """From here on models are loaded whole by every process, to be copied, read and sharded when they learn. Under
    ZeRO 3 transformers makes them in pieces, from the first trainer on."""
    if under_deepspeed():
        from transformers.integrations.deepspeed import unset_hf_deepspeed_config

        unset_hf_deepspeed_config()


def join() -> None:
    """Join the processes started beside this one, on its own GPU where there is one; a second call does nothing."""
    if not launched():
        return
    import torch
    from accelerate import PartialState

    if not torch.distributed.is_initialized():
        # Its functions name the group as a default: imported later, as DDP does, they would hold it to the very end.
        import torch.distributed.nn.functional

        PartialState(cpu=not torch.cuda.is_available())
        atexit.register(_leave)


def _leave() -> None:
    """Stop the threads of the process group while the interpreter is whole.

    A thread of gloo tells that a collective is done and only then lets go of its tensors, for which it needs the
    interpreter. One that gets there while the interpreter ends is unwound through a destructor that may not throw:
    the process aborts (pytorch issue 190489). `destroy_process_group` only forgets the group. Its threads are joined
    when nobody holds it any more, and DistributedDataParallel within the cycles of a trainer does.
    """
    from torch import distributed

    if not distributed.is_initialized():
        return
    group, alone = distributed.group.WORLD, object()
    distributed.destroy_process_group()
    # While we hold the group: were a reducer of DistributedDataParallel its last holder, it would join the threads
    # with the interpreter locked, and they may be waiting for it. Our reference, dropped after it, unlocks it first.
    gc.collect()
    held = sys.getrefcount(group) > sys.getrefcount(alone)
    del group
    if held:  # by a global of the program, say: nothing joins the threads, so they are given time to let go
        time.sleep(LET_GO)


def place() -> tuple[int, int]:
    """This process's number and how many there are; (0, 1) for one that is alone or has not joined."""
    torch = sys.modules.get("torch")  # who has not imported it has joined nobody
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def is_main() -> bool:
    """Whether this is the process that writes files and speaks."""
    return place()[0] == 0


def on_main(write: Callable[P, object]) -> Callable[P, None]:
    """`write` by the main process alone; the others go on when it is done, so what they read is there.

    Where it fails, all processes fail: none is left waiting. Raises the error itself, and RunError in the others.
    """

    @functools.wraps(write)
    def once(*arguments: P.args, **options: P.kwargs) -> None:
        failure: Exception | None = None
        if is_main():
            try:
                write(*arguments, **options)
            except Exception as error:
                failure = error
        told = everyone([None if failure is None else f"{type(failure).__name__}: {failure}"])[0]
        if failure is not None:
            raise failure
        if told is not None:
            raise RunError(f"main process must write its files: got '{told}' there; see its own message")

    return once


def everyone(items: Sequence[Item]) -> list[Item]:
    """The items of all processes, in the order of the processes, on every process. Tensors must lie on the CPU."""
    count = place()[1]
    if count == 1:
        return list(items)
    from torch import distributed

    found: list[Any] = [None] * count
    distributed.all_gather_object(found, list(items))
    return [item for part in found for item in part]


def share(work: Sequence[Item]) -> list[tuple[Item, bool]]:
    """This process's part of `work`, and whether an item is its own or a stand-in whose result nobody uses.

    All processes get the same number of items: a pass through sharded weights waits for all of them.
    """
    index, count = place()
    return [
        (work[min(start + index, len(work) - 1)], start + index < len(work)) for start in range(0, len(work), count)
    ]


def shared(work: Sequence[Item], run: Callable[[Item], Found]) -> list[Found]:
    """`run` of every item, in order, on every process; each item is run by one of them."""
    index, count = place()
    found = [(result, own) for item, own in share(work) for result in [run(item)]]
    numbered = [(at * count + index, result) for at, (result, own) in enumerate(found) if own]
    return [result for _, result in sorted(everyone(numbered), key=lambda pair: pair[0])]


def shared_scores(
    scorer: TraceScorer,
    traces: Sequence[EncodedTrace],
    *,
    spec: UnitSpec | None,
    policy_logprobs: PolicyLogprobs | None = None,
) -> list[ScoredTrace]:
    """`scorer.score_encoded` with its batches divided."""
    return shared_by_length(traces, lambda some: scorer.score_encoded(some, spec=spec, policy_logprobs=policy_logprobs))


def shared_by_length(traces: Sequence[EncodedTrace], read: Callable[[list[EncodedTrace]], list[Found]]) -> list[Found]:
    """What `read`, which goes by batches of similar length, finds of each trace. The batches are divided and are those
    of one process, so what is found are its bits."""
    from traceward.rewards.batches import by_length

    if place()[1] == 1:
        return read(list(traces))
    batches = list(by_length(traces))
    found = shared(batches, lambda rows: read([traces[row] for row in rows]))
    by_row = {row: one for rows, some in zip(batches, found, strict=True) for row, one in zip(rows, some, strict=True)}
    return [by_row[row] for row in range(len(traces))]


def shared_samples(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[tuple[str, tuple[int, ...]]],
    *,
    n: int,
    max_new_tokens: int,
    seed: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> list[list[Rollout]]:
    """`sample` with the prompts divided. Every call has a seed of its own, so the rollouts are the same from any
    number of processes."""
    from traceward.sampling import sample

    per_call = max(1, PER_CALL // n)
    # Weights in pieces are met with all processes: each must make as many passes, so a call is one batch.
    batch = PER_CALL if in_pieces(policy) else None

    def call(start: int) -> list[list[Rollout]]:
        return sample(
            policy,
            tokenizer,
            prompts[start : start + per_call],
            n=n,
            max_new_tokens=max_new_tokens,
            seed=seed + start,
            temperature=temperature,
            top_p=top_p,
            batch=batch,
        )

    return [group for groups in shared(range(0, len(prompts), per_call), call) for group in groups]


def save_whole(model: nn.Module, save: Callable[[dict[str, Any] | None], object]) -> None:
    """`save` on the main process, with the whole weights of a `model` that is in pieces, or None for one that every
    process holds whole. All processes must call it: each brings its part."""
    on_main(save)(_whole_weights(model) if in_pieces(model) else None)


def _whole_weights(model: nn.Module) -> dict[str, Any]:
    if _by_zero3(model):
        return _gathered(model)
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    found = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    # The whole copies of tied weights no longer share memory, and would be saved twice.
    tied = getattr(model, "all_tied_weights_keys", {})
    return {name: weight for name, weight in found.items() if name not in tied}


def _gathered(model: nn.Module) -> dict[str, Any]:
    """The weights, one after another, on the main process; tied ones once."""
    import deepspeed

    buffers = dict(model.named_buffers())
    found = {name: value for name, value in model.state_dict().items() if name in buffers}
    for name, weight in model.named_parameters():
        with deepspeed.zero.GatheredParameters([weight]):
            if is_main():
                found[name] = weight.detach().cpu().clone()
    return found
