"""How fast a scalar reward scores: python benchmarks/scoring.py [--quick] [--seconds S] [--sizes 3M 30M]

Random Qwen3-shaped models on one thread; 200 prompts with 8 traces each, 20 to 600 tokens a trace, 8 steps in each, in
three shapes: short prompts, prompts that are 40 % of all tokens, and, for the worst case, no prompt shared. Ours is
against (a) padding every batch to 1,024 with 6 traces in it, (b) the transformers text-classification pipeline at batch
1 and 8, (c) scoring every prefix that ends with a step, and (d) batches of 8 sorted by length. Tokens a second count a
trace's tokens as if nothing were shared. The ways take turns, the one with the least time next, so that what else the
machine does meets all of them. Times are this process's CPU seconds.

The share of the matmul peak is the rate of the floating-point operations in our linear layers (a shared prompt's once)
over that of the same matrix products alone.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from _record import record
from _rivals_of_scoring import EVERY, PER_CALL, SHAPES, STEPS, Piece, ids_of, traces_of, ways_of

from traceward.builtin import TOKENIZER
from traceward.data.formats import EncodedTrace
from traceward.loading import load_tokenizer
from traceward.rewards.batches import by_length, tokens_per_pass
from traceward.workflows.inputs import quiet

SIZES = ("3M", "30M")
PLAIN = ("pipeline, batch 1", "pipeline, batch 8", "sorted, batch 8")


def agree(ways: Mapping[str, Sequence[Piece]], most: float = 1e-4) -> float:
    """The largest difference between the scores of ways that go through the same traces in the same order, over the
    largest score: what is compared must be the same numbers."""
    plain, others = ways["pipeline, batch 1"][0].run(), ("padded to 1,024", "ours", "ours, every granularity")
    found = {
        "padded to 1,024": [score for piece in ways["padded to 1,024"][:3] for score in piece.run()],
        "ours": [one[0].exported for one in ways["ours"][0].run()],
        "ours, every granularity": [one[-1].unit_logits[-1] for one in ways["ours, every granularity"][0].run()],
    }
    size = max(map(abs, plain))
    error = max(abs(a - b) for name in others for a, b in zip(plain, found[name], strict=False)) / size
    assert error < most, error
    return error


def race(
    ways: Mapping[str, Sequence[Piece]], seconds: float, clock: Callable[[], float] = time.process_time
) -> dict[str, dict[str, float]]:
    """Tokens a second of each way: `seconds` of its pieces in random order, or all of them.   clock: of `seconds`."""
    rng = random.Random(0)
    left = {name: rng.sample(pieces, len(pieces)) for name, pieces in ways.items()}
    used, tokens, wall = (dict.fromkeys(ways, 0.0) for _ in range(3))
    for pieces in left.values():
        pieces[0].run()  # warm
    while waiting := [name for name in ways if left[name] and used[name] < seconds]:
        name = min(waiting, key=lambda one: used[one])
        piece = left[name].pop()
        began, since = time.perf_counter(), clock()
        piece.run()
        used[name] += clock() - since
        wall[name] += time.perf_counter() - began
        tokens[name] += piece.tokens
    return {
        name: {"tokens_per_second": tokens[name] / used[name], "tokens": tokens[name], "seconds": used[name],
               "wall_seconds": wall[name]}
        for name in ways
    }  # fmt: skip


def passed(traces: Sequence[EncodedTrace]) -> int:
    """Tokens that go through the model: as ours are called, a prompt once in each pass."""
    total = 0
    for start in range(0, len(traces), PER_CALL):
        part = traces[start : start + PER_CALL]
        for rows in by_length(part):
            total += sum(map(len, {part[row].prompt_ids for row in rows}))
            total += sum(len(part[row].completion_ids) for row in rows)
    return total


def measure(size: str, shape: str, prompts: int, seconds: float) -> dict[str, Any]:
    """One size and shape: the rates and their ratios."""
    tokenizer = load_tokenizer(TOKENIZER)
    traces = traces_of(SHAPES[shape], prompts, tokenizer)
    ways = ways_of(size, traces, tokenizer)
    error = agree(ways)
    return compared(race(ways, seconds), traces) | {"largest_relative_difference": error}


def compared(found: Mapping[str, Mapping[str, float]], traces: Sequence[EncodedTrace]) -> dict[str, Any]:
    """What the rates say of each other."""
    rate = {name: row["tokens_per_second"] for name, row in found.items()}
    total = sum(len(ids_of(trace)) for trace in traces)
    best = max(PLAIN, key=lambda name: rate[name])
    ratios = {
        "ratio_padded": rate["ours"] / rate["padded to 1,024"],
        "ratio_prefix": rate["ours, every granularity"] / rate["growing prefixes"],
        "ratio_best_plain": rate["ours"] / rate[best],
        "dense_over_sparse": rate["ours"] / rate["ours, every granularity"],
        "peak_share": rate["ours"] * passed(traces) / total / rate["matrix products"],
    }
    if "ours, bfloat16" in rate:
        ratios["bfloat16_over_float32"] = rate["ours, bfloat16"] / rate["ours"]
    return {
        "traces": len(traces),
        "tokens": total,
        "prompt_share": sum(len(trace.prompt_ids) for trace in traces) / total,
        "steps_per_trace": STEPS,
        "tokens_per_pass": tokens_per_pass(),
        "ways": found,
        "best_plain": best,
        **ratios,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few seconds of each, to see that the script works")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--seconds", type=float, default=40, help="of each way, size and shape")
    chosen = parser.parse_args()
    quiet()
    torch.set_num_threads(1)
    prompts, seconds = (10, 2.0) if chosen.quick else (200, chosen.seconds)
    cells = {}
    for size in chosen.sizes:
        for shape in chosen.shapes:
            cells[f"{size}, {shape}"] = cell = measure(size, shape, prompts, seconds)
            shown = {key: round(value, 3) for key, value in cell.items() if key.startswith(("ratio", "dense", "peak"))}
            print(f"{size}, {shape}: {shown}; best plain: {cell['best_plain']}", flush=True)

    def worst(key: str, where: str = "") -> float | None:
        return min((cell[key] for name, cell in cells.items() if where in name), default=None)  # of sizes and shapes

    summary = {
        "ratio_padded": worst("ratio_padded", "prompts"),
        "ratio_prefix": worst("ratio_prefix", "prompts"),
        "ratio_best_plain_shared_prompt": worst("ratio_best_plain", "long prompts"),
        "ratio_best_plain_worst": worst("ratio_best_plain"),
        "dense_over_sparse": max(cell["dense_over_sparse"] for cell in cells.values()),
        "peak_share_30m": worst("peak_share", "30M"),
    }
    details = {"granularities": [str(spec) for spec in EVERY], "cells": cells}
    print(record("scoring", seeds=[0], summary=summary, details=details, quick=chosen.quick))


if __name__ == "__main__":
    main()
