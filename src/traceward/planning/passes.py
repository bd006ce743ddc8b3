"""The passes of training as this package runs them, on fake tensors: what each holds beside weights and states.

A model of two layers and one of three tell what a layer adds; all layers of these architectures are alike.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from traceward.adapters import add_adapter, checkpoint_gradients
from traceward.planning.architecture import Architecture, layers_of
from traceward.planning.ledger import END, START, Ledger, Peak, watch_layers
from traceward.rewards.packing import pack, packed_attention, repeats, run
from traceward.training.adapter import AdapterSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TILE = 32768  # TRL's head takes so many words of the vocabulary at once


@dataclass(frozen=True, slots=True)
class Pass:
    """A model and the batch that goes through it.

    rows: of `prompt` + `completion` tokens each; a reward's are given slice by slice.   bf16: under autocast.
    accumulates: whether gradients are there already, from a part before.   double: whether attention's scores are
    kept and differentiated twice, for wgan-gp.
    """

    model: Architecture
    rows: tuple[int, ...]
    prompt: int
    completion: int
    dtype: torch.dtype
    adapter: AdapterSettings
    bf16: bool
    checkpointing: bool
    on_gpu: bool
    accumulates: bool = False
    scalar: bool = False
    padded: bool = False
    double: bool = False

    @property
    def width(self) -> int:
        """Tokens of a row."""
        return self.prompt + self.completion


class Peaks(NamedTuple):
    """Where a pass may hold most: about its turning point, and at its end, when all gradients are there."""

    turn: Peak
    end: Peak


Run = Callable[["PreTrainedModel", Pass], None]


def policy_update(what: Pass) -> Peaks:
    """Forward and backward of a part of a policy's batch, as TRL's GRPO and SFT do."""
    return _peaks(what, _through_trl)


def reward_update(what: Pass) -> Peaks:
    """Forward and backward of a part of a discriminator's batch."""
    return _peaks(what, _through_reward)


def sampling(what: Pass) -> Peaks:
    """Sampling: the pass over the prompts, or the last token's, with keys and values of all before it."""
    return max(_peaks(what, _through_prompts), _peaks(what, _one_more_token), key=lambda peaks: peaks.turn.total)


def scoring(what: Pass) -> Peaks:
    """A reward's pass over a row of traces, without gradients."""
    return _peaks(what, _through_scoring)


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
        ledger = Ledger({what.model.vocabulary, _TILE})
        watch_layers(layers_of(model, layers), ledger)
        if what.accumulates:
            for weight in model.parameters():
                weight.grad = torch.zeros_like(weight) if weight.requires_grad else None
        ledger.leave_out([*model.parameters(), *model.buffers()])
        ledger.leave_out([weight.grad for weight in model.parameters() if weight.grad is not None])
        with ledger:
            run_it(model, what)
    start = ledger.peaks[START]
    end = ledger.peaks.get(END, Peak())
    return Peaks(start, end)


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


def _ids(rows: int, width: int) -> Tensor:
    return torch.zeros(rows, width, dtype=torch.long)


# ---- the policy ------------------------------------------------------------------------------------------------------


def _through_trl(model: PreTrainedModel, what: Pass) -> None:
    from trl.trainer.utils import add_fused_lm_head

    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    (rows,) = what.rows
    ids, labels = _ids(rows, what.width), _ids(rows, what.width)
    if what.adapter.chosen:
        model.enable_input_require_grads()
    with _kernels(what.on_gpu), torch.autocast("cpu", torch.bfloat16, enabled=what.bf16):
        found = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels, fused_lm_head=True).log_probs
    with _kernels(what.on_gpu):
        found.sum().backward()


@contextmanager
def _kernels(on_gpu: bool) -> Iterator[None]:
    """On a GPU TRL's head folds a tile of logits in place, in a Triton kernel, and adds up its products there. Torch
    code stands for both elsewhere and holds copies of the tile."""
    if not on_gpu:
        yield
        return
    with ExitStack() as stack:
        for name in ("_forward_tile", "_backward_tile", "_addmm_fp32"):
            stack.enter_context(mock.patch(f"trl.kernels.chunked_logprob.{name}", new=_in_place))
        yield


def _in_place(*_: object, **__: object) -> None:
    """Holds nothing."""


def _through_prompts(model: PreTrainedModel, what: Pass) -> None:
    (rows,) = what.rows
    ids = _ids(rows, what.prompt)
    _sampled(model.eval(), what, ids, attention_mask=torch.ones_like(ids))


def _one_more_token(model: PreTrainedModel, what: Pass) -> None:
    from transformers import DynamicCache

    (rows,) = what.rows
    text = model.config.get_text_config()
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    kept = torch.bfloat16 if what.bf16 else what.dtype
    before, cache = (rows, text.num_key_value_heads, what.width - 1, width), DynamicCache()
    for layer in range(text.num_hidden_layers):
        cache.update(torch.zeros(before, dtype=kept), torch.zeros(before, dtype=kept), layer)
    _sampled(model.eval(), what, _ids(rows, 1), attention_mask=_ids(rows, what.width), **{_cache_name(model): cache})


def _cache_name(model: PreTrainedModel) -> str:
    """Newer releases of transformers have renamed it."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


@torch.no_grad()
def _sampled(model: PreTrainedModel, what: Pass, ids: Tensor, **options: Any) -> None:
    """A pass of `generate`, and what it makes of the logits."""
    with torch.autocast("cpu", torch.bfloat16, enabled=what.bf16):
        found = model(input_ids=ids, use_cache=True, logits_to_keep=1, **options)
    scores = found.logits[:, -1].to(torch.float32, copy=True)
    torch.softmax(scores, -1)


# ---- the reward ------------------------------------------------------------------------------------------------------


def _through_reward(model: PreTrainedModel, what: Pass) -> None:
    """All slices of a part go forward before one backward pass; a log-ratio's reference reads each behind p_phi."""
    found = []
    for rows in what.rows:
        found.append(_values(model, what, rows))
        if not what.scalar:
            with torch.no_grad():
                model.eval()
                _values(model, replace(what, padded=False), rows)
                model.train()
    if what.double:
        found.append(_slopes(model, what))
    torch.stack([one.sum() for one in found]).sum().backward()  # type: ignore[no-untyped-call]


def _through_scoring(model: PreTrainedModel, what: Pass) -> None:
    model.eval()
    with torch.no_grad():
        _values(model, what, *what.rows)


def _values(model: PreTrainedModel, what: Pass, rows: int) -> Tensor:
    """`scalar_values` or `token_logprobs` of traceward.rewards.heads, without what depends on the ids."""
    if what.padded or (model.training and repeats(model)):
        ids = _ids(rows, what.width)
        keep: dict[str, Any] = {} if what.scalar else {"logits_to_keep": what.completion + 1}
        keep |= {"use_cache": False} if repeats(model) else {}  # transformers turns it off there too, and says so
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **keep).logits
        targets = _ids(rows, what.completion).flatten()
        found = logits if what.scalar else logits[:, :-1]
    else:
        with _unfaked():
            weight = torch.empty(0, dtype=what.dtype)
            packed = pack([what.prompt] * rows, [what.width] * rows, range(rows), width=what.width, like=weight)
        with packed_attention(model):
            keep = {} if what.scalar else {"logits_to_keep": packed.before}
            found = run(model, _ids(rows, what.width), packed, **keep).logits
        targets = _ids(rows, what.completion).flatten()
    if what.scalar:
        values: Tensor = found[..., 0].float()
        return values
    return -nn.functional.cross_entropy((found.float() / 1.0).flatten(0, 1), targets, reduction="none")


@contextmanager
def _unfaked() -> Iterator[None]:
    from torch._subclasses.fake_tensor import unset_fake_temporarily

    with unset_fake_temporarily():
        yield


def _slopes(model: PreTrainedModel, what: Pass) -> Tensor:
    """wgan-gp: the gradient by the embeddings of the traces of one slice, itself to be differentiated."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    rows = max(what.rows)
    with sdpa_kernel(SDPBackend.MATH):
        points = model.get_input_embeddings()(_ids(rows, what.width)).detach().requires_grad_()
        values = model(inputs_embeds=points, attention_mask=torch.ones(rows, what.width, dtype=torch.long)).logits
        (slopes,) = torch.autograd.grad(values.float().sum(), points, create_graph=True)
    norm: Tensor = slopes.norm()
    return norm
