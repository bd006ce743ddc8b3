"""The work of benchmarks/scoring.py and scoring_gpu.py: a model, traces for it, and the ways to score them.

A way is a list of pieces of work, in random order, that together score every trace. Each way is free to plan over all
traces (sorting by length, for instance), and any part of its pieces is a fair sample of its cost.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from traceward.data.formats import EncodedTrace
from traceward.records import Granularity, Head, UnitSpec
from traceward.rewards.batches import tokens_per_pass
from traceward.rewards.model import RewardModel

SIZES = {
    "3M": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 3, "num_attention_heads": 4},
    "30M": {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 9, "num_attention_heads": 8},
    "0.6B": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16}
    | {"head_dim": 128},
}
GROUP, STEPS = 8, 8  # traces of a prompt, steps of a trace
# Tokens of a prompt and of a completion, together 20 to 600, and whether the traces of a group share their prompt.
# Prompts are 10, 40 and 10 % of all tokens.
Shape = tuple[tuple[int, int], tuple[int, int], bool]
SHAPES: dict[str, Shape] = {
    "short prompts": ((10, 50), (10, 550), True),
    "long prompts": ((12, 240), (8, 360), True),
    "no groups": ((10, 50), (10, 550), False),
}
PADDED, MICRO = 1024, 6
PER_CALL = 5 * GROUP  # traces that ours are given at once
SPARSE, DENSE = UnitSpec(Granularity.SPARSE), UnitSpec(Granularity.DENSE)
EVERY = (SPARSE, UnitSpec(every=15), DENSE)


@dataclass(frozen=True)
class Piece:
    """A part of the work; `tokens` counts those of its traces as if nothing were shared or padded."""

    run: Callable[[], Any]
    tokens: float


def model_of(size: str, tokenizer: PreTrainedTokenizerBase, kind: str, dtype: torch.dtype) -> PreTrainedModel:
    """A random Qwen3 with one output; both kinds have the same weights."""
    shape = SIZES[size]
    config = transformers.Qwen3Config(
        **{"head_dim": 64, **shape},
        num_key_value_heads=shape["num_attention_heads"] // 2,
        vocab_size=len(tokenizer),
        max_position_embeddings=2048,
        num_labels=1,
        pad_token_id=tokenizer.pad_token_id,
        token_classification_bias=False,
    )
    torch.manual_seed(0)
    model: PreTrainedModel = getattr(transformers, f"AutoModelFor{kind}").from_config(config, dtype=dtype)
    return model.eval()


def traces_of(shape: Shape, prompts: int, tokenizer: PreTrainedTokenizerBase) -> list[EncodedTrace]:
    """Traces of words that are one token each, so that their text has the same ids again."""
    words = [at for at in range(len(tokenizer)) if re.fullmatch(r" [a-z]{2,}", tokenizer.decode([at]))]
    rng = random.Random(0)
    (low, high), completion, shared = shape
    found = []
    for _ in range(prompts):
        prompt = tuple(rng.choices(words, k=rng.randint(low, high)))
        for _ in range(GROUP):
            if not shared:
                prompt = tuple(rng.choices(words, k=rng.randint(low, high)))
            found.append(EncodedTrace(prompt, tuple(rng.choices(words, k=rng.randint(*completion)))))
    text = tokenizer.decode(found[0].completion_ids)
    assert tuple(tokenizer(text)["input_ids"]) == found[0].completion_ids
    return found


def ids_of(trace: EncodedTrace) -> list[int]:
    return [*trace.prompt_ids, *trace.completion_ids]


def ours(reward: RewardModel, traces: Sequence[EncodedTrace], specs: Sequence[UnitSpec]) -> list[Piece]:
    parts = [traces[start : start + PER_CALL] for start in range(0, len(traces), PER_CALL)]
    return [
        Piece(lambda part=part: reward.score_units(part, specs), sum(len(ids_of(t)) for t in part)) for part in parts
    ]


@torch.no_grad()
def padded(model: PreTrainedModel, rows: Sequence[list[int]], width: int | None = None) -> list[float]:
    """What a loop over a padded batch does: the logit of every row's last token."""
    lengths = torch.tensor([len(row) for row in rows])
    table = torch.zeros(len(rows), width or int(lengths.max()), dtype=torch.long)
    for at, row in enumerate(rows):
        table[at, : len(row)] = torch.tensor(row)
    mask = (torch.arange(table.shape[1]) < lengths[:, None]).long()
    table, mask = table.to(model.device), mask.to(model.device)
    logits = model(input_ids=table, attention_mask=mask, use_cache=False).logits[..., 0]
    found: list[float] = logits[torch.arange(len(rows)), lengths - 1].tolist()
    return found


def in_batches_of(
    model: PreTrainedModel, rows: Sequence[list[int]], size: int, *, width: int | None = None, worth: float = 1.0
) -> list[Piece]:
    """worth: of a row's tokens."""
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    return [Piece(lambda part=part: padded(model, part, width), worth * sum(map(len, part))) for part in parts]


def growing(model: PreTrainedModel, traces: Sequence[EncodedTrace]) -> list[Piece]:
    """Every prefix that ends with a step, sorted by length, in batches of 8; together they score a trace once."""
    prefixes: list[tuple[list[int], float]] = []
    for trace in traces:
        ids, start = ids_of(trace), len(trace.prompt_ids)
        for step in range(1, STEPS + 1):
            end = start + len(trace.completion_ids) * step // STEPS
            prefixes.append((ids[:end], len(ids) / STEPS))
    prefixes.sort(key=lambda pair: -len(pair[0]))
    found = []
    for at in range(0, len(prefixes), 8):
        rows, tokens = zip(*prefixes[at : at + 8], strict=True)
        found.append(Piece(lambda rows=rows: padded(model, rows), sum(tokens)))
    return found


def piped(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, traces: Sequence[EncodedTrace], size: int
) -> list[Piece]:
    """The pipeline takes texts and makes their ids itself."""
    pipe = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer, device=model.device)
    parts = [traces[start : start + 16] for start in range(0, len(traces), 16)]
    found = []
    for part in parts:
        texts = [tokenizer.decode(ids_of(trace)) for trace in part]
        found.append(
            Piece(
                lambda texts=texts: [row["score"] for row in pipe(texts, batch_size=size, function_to_apply="none")],
                sum(len(ids_of(trace)) for trace in part),
            )
        )
    return found


def products(model: PreTrainedModel) -> list[Piece]:
    """The matrix products of the model's layers alone, at the shape of a pass; `tokens` are those of a pass."""
    rows = tokens_per_pass()
    layers = [one for name, one in model.named_modules() if isinstance(one, torch.nn.Linear) and name != "score"]
    like = {"device": model.device, "dtype": model.dtype}
    inputs = {size: torch.randn(rows, size, **like) for size in {one.in_features for one in layers}}

    @torch.no_grad()
    def run() -> None:
        for one in layers:
            torch.nn.functional.linear(inputs[one.in_features], one.weight)

    return [Piece(run, rows)] * 64


def ways_of(
    size: str,
    traces: Sequence[EncodedTrace],
    tokenizer: PreTrainedTokenizerBase,
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> dict[str, list[Piece]]:
    """Every way to score `traces`."""
    tokens = model_of(size, tokenizer, "TokenClassification", dtype).to(device)
    whole = model_of(size, tokenizer, "SequenceClassification", dtype).to(device)
    whole.load_state_dict(tokens.state_dict())
    reward = RewardModel(backbone=tokens, tokenizer=tokenizer, head=Head.SCALAR, spec=SPARSE)
    rows = [ids_of(trace) for trace in traces]
    by_length = sorted(rows, key=len, reverse=True)
    ways = {
        "ours": ours(reward, traces, (SPARSE,)),
        "ours, every granularity": ours(reward, traces, EVERY),
        "padded to 1,024": in_batches_of(tokens, rows, MICRO, width=PADDED),
        "pipeline, batch 1": piped(whole, tokenizer, traces, 1),
        "pipeline, batch 8": piped(whole, tokenizer, traces, 8),
        "growing prefixes": growing(tokens, traces),
        "sorted, batch 8": in_batches_of(tokens, by_length, 8),
        "matrix products": products(tokens),
    }
    if dtype is torch.float32:
        half = model_of(size, tokenizer, "TokenClassification", torch.bfloat16)
        half.load_state_dict(tokens.state_dict())
        coarse = RewardModel(backbone=half, tokenizer=tokenizer, head=Head.SCALAR, spec=SPARSE)
        ways["ours, bfloat16"] = ours(coarse, traces, (SPARSE,))
    return ways
