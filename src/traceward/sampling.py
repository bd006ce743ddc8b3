"""Rollouts outside a trainer: for warm-up, `fit` and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from traceward.records import Rollout, StopReason

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@torch.no_grad()
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
    batch: int = 256,
    progress: Callable[[int], None] | None = None,
) -> list[list[Rollout]]:
    """`n` completions of each prompt (id, token ids), in order; temperature 0 is greedy decoding.

    The generator is seeded here and the caller's random state is left as it was: the same call gives the same ids.
    """
    was_training = policy.training
    policy.eval()
    per_call = max(1, batch // n)
    greedy = temperature == 0
    choice = (
        {"do_sample": False} if greedy else {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    )
    found: list[list[Rollout]] = []
    devices = [policy.device] if policy.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        for start in range(0, len(prompts), per_call):
            some = prompts[start : start + per_call]
            padded = tokenizer.pad(
                {"input_ids": [list(ids) for _, ids in some]}, padding_side="left", return_tensors="pt"
            ).to(policy.device)
            out = policy.generate(
                input_ids=padded["input_ids"],
                attention_mask=padded["attention_mask"],
                max_new_tokens=max_new_tokens,
                num_return_sequences=n,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
                repetition_penalty=1.0,  # instruct models ship another one, which a trainer's rollouts do not have
                **choice,
            )[:, padded["input_ids"].shape[1] :]
            rows = iter(out.tolist())
            for key, ids in some:
                found.append([_rollout(key, ids, next(rows), tokenizer) for _ in range(n)])
            if progress is not None:
                progress(len(some))
    policy.train(was_training)
    return found


def _rollout(key: str, prompt_ids: tuple[int, ...], row: list[int], tokenizer: PreTrainedTokenizerBase) -> Rollout:
    end = tokenizer.eos_token_id
    stop = StopReason.LENGTH
    if end in row:
        row = row[: row.index(end) + 1]
        stop = StopReason.END
    return Rollout(key, prompt_ids, tuple(row), tokenizer.decode(row, skip_special_tokens=True), stop)
