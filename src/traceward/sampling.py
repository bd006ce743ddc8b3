"""Rollouts outside a trainer: for warm-up, `fit` and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from traceward.records import Rollout, StopReason
from traceward.training.distribution import in_pieces

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteriaList


def sample(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[tuple[str, tuple[int, ...]]],
    *,
    n: int,
    max_new_tokens: int,
    seed: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    batch: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[list[Rollout]]:
    """`n` completions of each prompt (id, token ids), in order; temperature 0 is greedy decoding.

    The generator is seeded here and the caller's random state is left as it was: the same call gives the same ids.

    batch: sequences at once; left out, `sequences_at_once` says how many.
    """
    if batch is None:
        longest = max((len(ids) for _, ids in prompts), default=0) + max_new_tokens
        batch = sequences_at_once(
            cache_per_token(policy.config) * policy.dtype.itemsize * longest, policy.device.type != "cpu"
        )
    per_call = max(1, batch // n)
    found: list[list[Rollout]] = []
    with seeded(policy, seed):
        for start in range(0, len(prompts), per_call):
            some = prompts[start : start + per_call]
            groups = generate(
                policy,
                tokenizer,
                [ids for _, ids in some],
                n=n,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                top_p=top_p,
            )
            for (key, ids), rows in zip(some, groups, strict=True):
                found.append([_rollout(key, ids, row, tokenizer) for row in rows])
            if progress is not None:
                progress(len(some))
    return found


AT_ONCE = 256
CACHE = 128 * 2**20
"""Bytes of keys and values that a CPU still moves fast; each new token has them copied."""


def sequences_at_once(bytes_each: float, on_gpu: bool) -> int:
    """How many sequences are sampled at once, of which each keeps `bytes_each` of keys and values at the end."""
    return AT_ONCE if on_gpu else max(1, min(AT_ONCE, int(CACHE / max(bytes_each, 1))))


def cache_per_token(config: PretrainedConfig) -> int:
    """Numbers that are kept of a token: keys and values of all layers."""
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * int(text.num_hidden_layers) * int(heads) * int(width)


@contextmanager
def seeded(policy: PreTrainedModel, seed: int) -> Iterator[None]:
    """Evaluation mode and a generator of our own; mode and random state are given back."""
    was_training = policy.training
    policy.eval()
    with torch.random.fork_rng(devices=[policy.device] if policy.device.type == "cuda" else []):
        torch.manual_seed(seed)
        try:
            yield
        finally:
            policy.train(was_training)


@torch.no_grad()
def generate(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    n: int,
    max_new_tokens: int,
    temperature: float,
    top_p: float = 1.0,
    stop: StoppingCriteriaList | None = None,
) -> list[list[list[int]]]:
    """The new token ids of `n` continuations of each prompt, in one batch; what stands behind an end means nothing.

    stop: sees the continuations of each prompt one after another, behind prompts padded on the left.
    """
    greedy = temperature == 0
    choice = (
        {"do_sample": False} if greedy else {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    )
    padded = tokenizer.pad({"input_ids": [list(ids) for ids in prompts]}, padding_side="left", return_tensors="pt").to(
        policy.device
    )
    out = policy.generate(
        input_ids=padded["input_ids"],
        attention_mask=padded["attention_mask"],
        max_new_tokens=max_new_tokens,
        num_return_sequences=n,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        repetition_penalty=1.0,  # instruct models ship another one, which a trainer's rollouts do not have
        stopping_criteria=stop,
        synced_gpus=in_pieces(policy),  # who is done goes on until all are: each pass is a meeting
        **choice,
    )
    rows = out[:, padded["input_ids"].shape[1] :].tolist()
    return [rows[start : start + n] for start in range(0, len(rows), n)]


def until_end(ids: Sequence[int], end: int | None) -> tuple[tuple[int, ...], bool]:
    """Token ids up to the first end-of-sequence, and whether there is one."""
    found = end in ids
    return tuple(ids[: ids.index(end) + 1] if found else ids), found


def _rollout(key: str, prompt_ids: tuple[int, ...], row: list[int], tokenizer: PreTrainedTokenizerBase) -> Rollout:
    ids, ended = until_end(row, tokenizer.eos_token_id)
    text = tokenizer.decode(ids, skip_special_tokens=True)
    return Rollout(key, prompt_ids, ids, text, StopReason.END if ended else StopReason.LENGTH)
