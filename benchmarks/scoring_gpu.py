"""How fast a scalar reward scores on a GPU: python benchmarks/scoring_gpu.py [--quick] [--seconds S]

As benchmarks/scoring.py, with random weights of Qwen3-0.6B's shape in bfloat16, traces of up to 1,024 tokens, and the
time on the wall with the GPU at rest before and after. Rates of other sizes of a pass stand beside.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from functools import partial
from typing import Any
from unittest import mock

import torch
from _record import record
from _rivals_of_scoring import EVERY, Shape, traces_of, ways_of
from scoring import agree, compared, race

from traceward.builtin import TOKENIZER
from traceward.loading import load_tokenizer
from traceward.rewards import batches
from traceward.workflows.inputs import quiet

SHAPES: dict[str, Shape] = {
    "8 x 1,024": ((256, 256), (768, 768), True),
    "long prompts": ((24, 400), (16, 624), True),
    "no groups": ((20, 100), (20, 924), False),
}
PASSES = (4096, 8192, 16384, 32768)


def now(device: str) -> float:
    """Seconds, everything that was asked of the GPU done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small model on what there is, to see that it works")
    parser.add_argument("--seconds", type=float, default=2.5, help="of each way and shape")
    chosen = parser.parse_args()
    quiet()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not chosen.quick:
        parser.error("there must be a GPU; see benchmarks/scoring.py for a CPU")
    size, prompts, seconds = ("3M", 6, 0.5) if chosen.quick else ("0.6B", 16, chosen.seconds)
    tokenizer, clock = load_tokenizer(TOKENIZER), partial(now, device)
    cells = {}
    for shape, lengths in SHAPES.items():
        traces = traces_of(lengths, prompts, tokenizer)
        ways = ways_of(size, traces, tokenizer, dtype=torch.bfloat16, device=device)
        error = agree(ways, most=0.1)  # bfloat16 keeps two to three digits
        cells[shape] = cell = compared(race(ways, seconds, clock), traces) | {"largest_relative_difference": error}
        cell["passes"] = {}
        for tokens in PASSES:
            with mock.patch.object(batches, "tokens_per_pass", return_value=tokens):
                row = race({"ours": ways["ours"]}, seconds / 2, clock)["ours"]
            cell["passes"][tokens] = row["tokens_per_second"]
        shown = {key: round(value, 3) for key, value in cell.items() if key.startswith(("ratio", "dense", "peak"))}
        print(f"{shape}: {shown}; best plain: {cell['best_plain']}; {cell['passes']}", flush=True)
        print({name: round(row["tokens_per_second"]) for name, row in cell["ways"].items()}, f"{error:.4f}", flush=True)

        details = {"model": f"Qwen3-{size}", "granularities": [str(spec) for spec in EVERY], "cells": cells}
        print(record("scoring_gpu", seeds=[0], summary=summarise(cells), details=details, quick=chosen.quick))


def summarise(cells: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
    """The worst of what is measured so far, and the rate at the first shape."""
    found = {f"{key}_worst": min(cell[key] for cell in cells.values()) for key in ("ratio_padded", "ratio_prefix")}
    found |= {f"ratio_best_plain.{shape}": cell["ratio_best_plain"] for shape, cell in cells.items()}
    return found | {
        "dense_over_sparse": max(cell["dense_over_sparse"] for cell in cells.values()),
        "peak_share": min(cell["peak_share"] for cell in cells.values()),
        "tokens_per_second_8x1024": cells["8 x 1,024"]["ways"]["ours"]["tokens_per_second"],
    }


if __name__ == "__main__":
    main()
