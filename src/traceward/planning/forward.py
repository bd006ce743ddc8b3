"""How the batches of this package and of TRL go through a model, without what depends on the tokens themselves."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.nn.attention import SDPBackend, sdpa_kernel

from traceward.rewards.packing import pack, packed_attention, repeats, run
from traceward.training.adapter import AdapterSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from traceward.planning.architecture import Architecture

TILE = 32768
"""TRL's head takes so many words of the vocabulary at once."""


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


def _ids(rows: int, width: int) -> Tensor:
    return torch.zeros(rows, width, dtype=torch.long)


# ---- the policy ------------------------------------------------------------------------------------------------------


def through_trl(model: PreTrainedModel, what: Pass) -> Tensor:
    """A policy's batch, as TRL's GRPO reads log-probabilities for its loss; SFT does no more."""
    from trl.trainer.utils import add_fused_lm_head

    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    (rows,) = what.rows
    ids, labels = _ids(rows, what.width), _ids(rows, what.width)
    if what.adapter.chosen:
        model.enable_input_require_grads()
    with _kernels(what.on_gpu), torch.autocast("cpu", torch.bfloat16, enabled=what.bf16):
        found = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels, fused_lm_head=True).log_probs
    loss: Tensor = found.sum()
    return loss


def backward(loss: Tensor, what: Pass) -> None:
    """The way back, with the kernels of the way there."""
    with _kernels(what.on_gpu):
        loss.backward()  # type: ignore[no-untyped-call]


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


def through_prompts(model: PreTrainedModel, what: Pass) -> None:
    """The first pass of `generate`."""
    (rows,) = what.rows
    ids = _ids(rows, what.prompt)
    _sampled(model.eval(), what, ids, attention_mask=torch.ones_like(ids))


def one_more_token(model: PreTrainedModel, what: Pass) -> None:
    """Its last pass, with keys and values of all tokens before."""
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


def through_reward(model: PreTrainedModel, what: Pass) -> Tensor:
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
    return torch.stack([one.sum() for one in found]).sum()


def through_scoring(model: PreTrainedModel, what: Pass) -> None:
    """A row of traces, without gradients."""
    model.eval()
    with torch.no_grad():
        _values(model, what, *what.rows)


def _values(model: PreTrainedModel, what: Pass, rows: int) -> Tensor:
    """`scalar_values` or `token_logprobs` of traceward.rewards.heads, without what depends on the ids."""
    found: Tensor
    targets = _ids(rows, what.completion).flatten()
    if what.padded or (model.training and repeats(model)):
        ids = _ids(rows, what.width)
        keep: dict[str, Any] = {} if what.scalar else {"logits_to_keep": what.completion + 1}
        keep |= {"use_cache": False} if repeats(model) else {}  # transformers turns it off there too, and says so
        own = slice(None) if what.scalar else slice(-1)
        found = model(input_ids=ids, attention_mask=torch.ones_like(ids), **keep).logits[:, own].float()
    else:
        with unset_fake_temporarily():
            weight = torch.empty(0, dtype=what.dtype)
            packed = pack([what.prompt] * rows, [what.width] * rows, range(rows), width=what.width, like=weight)
        with packed_attention(model):
            keep = {} if what.scalar else {"logits_to_keep": packed.before}
            found = run(model, _ids(rows, what.width), packed, **keep).logits.float()
    return (
        found[..., 0] if what.scalar else -nn.functional.cross_entropy(found.flatten(0, 1), targets, reduction="none")
    )


def _slopes(model: PreTrainedModel, what: Pass) -> Tensor:
    """wgan-gp: the gradient by the embeddings of the traces of one slice, itself to be differentiated."""
    rows = max(what.rows)
    with sdpa_kernel(SDPBackend.MATH):
        points = model.get_input_embeddings()(_ids(rows, what.width)).detach().requires_grad_()
        values = model(inputs_embeds=points, attention_mask=torch.ones(rows, what.width, dtype=torch.long)).logits
        (slopes,) = torch.autograd.grad(values.float().sum(), points, create_graph=True)
    norm: Tensor = slopes.norm()
    return norm
